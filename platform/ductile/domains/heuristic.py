"""A salient cue against a constraint that overrides it (after arXiv 2603.29025): answer A or B.

An item has a cue c in 0..99 and a constraint z. The answer is B where the constraint holds (z = 1), else what the cue
suggests: B for c of 50 or more, A below. In the drawn problems the answer agrees with the cue with probability `rho`:
following the cue alone is right that often, a shortcut of known strength. The level is how implicit z is:

    hqwe,c23,z1:      1, explicit: z itself
    hqwe,c23,p7:      2, hint: z is whether the digit is odd
    hqwe,c23,w481:    3, implicit: z is whether the digits' sum is odd
    weigh: 4+8=2;2+1=3;z1;cA#B    cue: cA#B    direct: #B          (the sums at level 3 alone, modulo 10)

Some problems have no cue (then z = 1), some no constraint (then the cue decides), so that taking either away, as
minimal pairs do, asks nothing new. `qwe` is the item's name: it decides the split, so every form of an item is in one
split.
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import numpy as np

from ductile.domains.base import content_hash, domain_key, domain_label, require_level, split_of
from ductile.domains.tagged import tag, tagged_answer, tagged_shortcut, text_before
from ductile.domains.work import MARK, Work, classify, final_answer, shortcut, strict
from ductile.problem import DIRECT, OTHER, Problem, Split, Verdict
from ductile.settings import build, one_of, setting

CUES = 100
"""Cues are whole numbers below this; the upper half suggests B."""

EXPLICIT, HINT, IMPLICIT = 1, 2, 3

WEIGH, CUE = "weigh", "cue"
"""Formats: the constraint and then the cue, or the cue alone."""

_PATIENCE = 2000  # a split is given up as exhausted after so many draws in a row without a new problem


class Errand(NamedTuple):
    """A place to go to, and what says that the car is needed there or is not: explicitly, by a hint, implicitly."""

    place: str
    needed: tuple[str, str, str]
    not_needed: tuple[str, str, str]


ERRANDS = (
    Errand(
        "car wash",
        ("The car itself must be at the place.", "I want my car to be clean.", "My car is covered in mud."),
        ("The car is not needed there.", "I only want to buy a voucher there.", "I left my umbrella there."),
    ),
    Errand(
        "tyre shop",
        ("The car itself must be at the place.", "I want my car on winter tyres.", "My tyres are worn to the cords."),
        ("The car is not needed there.", "I only want to ask for prices there.", "My sister has lunch there with me."),
    ),
    Errand(
        "petrol station",
        ("The car itself must be at the place.", "I want my car to have fuel.", "My tank is nearly empty."),
        ("The car is not needed there.", "I only want to buy a newspaper there.", "I feel like having ice cream."),
    ),
    Errand(
        "inspection centre",
        ("The car itself must be at the place.", "I want my car to be inspected.", "My car's inspection ends today."),
        ("The car is not needed there.", "I only want to pay a bill there.", "I have a job interview there."),
    ),
)
"""What the prose items are about, after the paper's car wash."""

# fmt: off
PEOPLE = (
    "Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gina", "Hugo", "Iris", "Jon", "Kira", "Leo", "Mia", "Ned", "Olga",
    "Paul", "Rosa", "Sam", "Tina", "Uri",
)
# fmt: on
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


@dataclass(frozen=True)
class HeuristicOptions:
    """Options of `heuristic`."""

    rho: float = setting(0.9, "how often the answer is what the cue suggests, where there are both", low=0, high=1)
    absent: float = setting(0.2, "share of problems that lack the cue or, as often, the constraint", low=0, high=1)
    style: str = setting(
        "compact", "compact text for character models, or prose for real ones", choices=("compact", "prose")
    )


@dataclass(frozen=True)
class Item:
    """One item with both its parts. `name` and `variant` are all that the wording depends on besides them."""

    name: str
    level: int
    split: Split
    cue: int
    z: int
    variant: int

    @property
    def suggested(self) -> str:
        """What the cue suggests."""
        return "B" if self.cue >= CUES // 2 else "A"


@dataclass(frozen=True)
class Heuristic:
    """The domain. Besides problems it serves minimal pairs and cue sweeps: an item asked in several forms."""

    options: HeuristicOptions
    formats: tuple[str, ...] = (WEIGH, CUE, DIRECT)
    levels: range = range(EXPLICIT, IMPLICIT + 1)

    @cached_property
    def key(self) -> str:
        """See `Domain.key`."""
        return domain_key("heuristic", self.options)

    def problems(self, level: int, split: Split, count: int, seed: int) -> list[Problem]:
        """See `Domain.problems`."""
        require_level(self, level)
        generator, misses = _generator(seed, level, split, 0), 0
        found: dict[str, Problem] = {}
        while len(found) < count and misses < _PATIENCE:
            name, variant = self._name(generator)
            z, cue, has_cue, has_constraint = self._situation(generator)
            if split_of(f"h{name}") != split:
                continue
            problem = self.problem(Item(name, level, split, cue, z, variant), has_cue, has_constraint)
            misses = misses + 1 if problem.id in found else 0
            found.setdefault(problem.id, problem)
        return list(found.values())

    def items(self, level: int, split: Split, count: int, seed: int) -> list[Item]:
        """`count` items of different names, fewer when the split has no more; z and the cue's side alternate evenly."""
        require_level(self, level)
        generator, misses = _generator(seed, level, split, 1), 0
        found: dict[str, Item] = {}
        while len(found) < count and misses < _PATIENCE:
            name, variant = self._name(generator)
            offset, number = int(generator.integers(CUES // 2)), len(found)
            if name in found or split_of(f"h{name}") != split:
                misses += 1
                continue
            misses, cue = 0, offset + CUES // 2 * (number // 2 % 2)
            found[name] = Item(name, level, split, cue, number % 2, variant)
        return list(found.values())

    def at(self, item: Item, cue: int, z: int) -> Item:
        """The same item with another cue and constraint."""
        return replace(item, cue=cue, z=z)

    def problem(self, item: Item, cue: bool = True, constraint: bool = True) -> Problem:
        """The item as a problem, with its cue and its constraint or without one of them.

        Without the constraint the cue decides. Raises ValueError without both, and without the cue where the
        constraint does not hold: nothing would decide the answer.
        """
        if not cue and not (constraint and item.z):
            raise ValueError(f"{item.name}: without the cue, only a constraint that holds decides the answer")
        z = item.z if constraint else None
        prompt = self._ask(item, cue, constraint)
        return Problem(
            id=f"{self._label}/L{item.level}/{item.split}/{content_hash(prompt):016x}",
            domain=self.key,
            level=item.level,
            prompt=prompt,
            answer="B" if z else item.suggested,
            data={
                "name": item.name,
                "cue": item.cue if cue else None,
                "z": z,
                "suggested": item.suggested if cue else "-",
                "digits": _digits(item) if constraint else "",
            },
        )

    def solution(self, problem: Problem, format: str) -> str:
        """See `WorkedDomain.solution`; in the format `cue` the work ignores the constraint, the answer does not."""
        if format not in self.formats:
            raise ValueError(one_of("heuristic solution", format, self.formats, "format"))
        if self._compact:
            return (";".join(_steps(problem, format)) if format != DIRECT else "") + MARK + problem.answer
        return "\n".join([*_sentences(problem, format), tag(problem.answer)])

    def judge(self, problem: Problem, text: str) -> Verdict:
        """See `Domain.judge`. Work on the cue alone skips the constraint."""
        if not self._compact:
            answer = tagged_answer(text)
            work = text_before(text)
            named = WEIGH if "Constraint:" in work else CUE if "Cue:" in work else OTHER
            format = OTHER if answer is None else named if work else DIRECT
            return Verdict(float(answer == problem.answer), format, tagged_shortcut(text, work_required=True), answer)
        works = {
            WEIGH: Work(lambda _: _steps(problem, WEIGH), lambda _: _shapes(problem)),
            CUE: Work(lambda _: _steps(problem, CUE), lambda _: ["c[-AB]"]),
        }
        return Verdict(
            reward=float(strict(text, problem.answer)),
            format=classify(text, "", works, "[AB]"),
            shortcut_kind=shortcut(text, "", {WEIGH: works[WEIGH]}, "[AB]", bare=False),
            answer=final_answer(text, bare=False),
        )

    @property
    def _compact(self) -> bool:
        return self.options.style == "compact"

    @cached_property
    def _label(self) -> str:
        return domain_label("heuristic", self.options)

    def _name(self, generator: np.random.Generator) -> tuple[str, int]:
        """A random name, and the number that its implicit constraint is worded by."""
        variant = int(generator.integers(1000))
        if self._compact:
            return "".join(string.ascii_lowercase[letter] for letter in generator.integers(0, 26, 3)), variant
        return f"{generator.choice(PEOPLE)}/{generator.choice(DAYS)}/{generator.integers(len(ERRANDS))}", 0

    def _situation(self, generator: np.random.Generator) -> tuple[int, int, bool, bool]:
        """z, the cue, and whether the problem has a cue and a constraint."""
        lacking, agreeing = generator.random(2)
        low, high = (int(cue) for cue in generator.integers((0, CUES // 2), (CUES // 2, CUES)))
        either = (low, high)[int(generator.integers(2))]
        if lacking < self.options.absent / 2:
            return 1, either, False, True
        if lacking < self.options.absent:
            return 0, either, True, False
        if agreeing >= self.options.rho:
            return 1, low, True, True
        z = int(generator.integers(2))
        return z, high if z else either, True, True

    def _ask(self, item: Item, cue: bool, constraint: bool) -> str:
        if self._compact:
            mark = {EXPLICIT: "z", HINT: "p", IMPLICIT: "w"}[item.level]
            parts = [f"h{item.name}", *([f"c{item.cue:02d}"] if cue else []), *([mark + _digits(item)] * constraint)]
            return ",".join(parts) + ":"
        person, day, number = item.name.split("/")
        errand = ERRANDS[int(number)]
        says = (errand.needed if item.z else errand.not_needed)[item.level - 1]
        sentences = [
            f"{person} says on {day}: I have to go to the {errand.place}.",
            *([f"It is {_metres(item.cue)} metres away."] if cue else []),
            *([says] if constraint else []),
            "I walk when it is less than one kilometre and drive when it is more, unless I need the car there.",
            f"Should I walk (A) or drive (B)?\nFirst name the constraint and the cue, each on a line that begins with "
            f"`Constraint:` or `Cue:`. Then state A or B as {tag('letter')}.\n",
        ]
        return " ".join(sentences)


def make(values: Mapping[str, Any], path: str) -> Heuristic:
    """The domain of these options; raises `SettingsError`."""
    return Heuristic(build(HeuristicOptions, values, path))


def _generator(seed: int, level: int, split: Split, use: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, level, ord("h"), split == "eval", use])))


def _digits(item: Item) -> str:
    """What stands for z in compact text: z, a digit of its parity, or three digits whose sum has its parity."""
    if item.level == EXPLICIT:
        return str(item.z)
    first, second = divmod(item.variant // 10, 10)
    if item.level == HINT:
        return str(2 * (item.variant % 5) + item.z)
    return f"{first}{second}{2 * (item.variant % 5) + (item.z + first + second) % 2}"


def _metres(cue: int) -> int:
    """Distances from 10 m to 100 km, evenly spaced in their logarithm as in the paper; 50 is the first above 1 km."""
    return round(10.0 ** (1 + 4 * cue / (CUES - 1)))


def _steps(problem: Problem, format: str) -> list[str]:
    cue = f"c{problem.data['suggested']}"
    if format == CUE:
        return [cue]
    digits = [int(digit) for digit in problem.data["digits"]] if problem.level == IMPLICIT else []
    sums = accumulate(digits, lambda total, digit: (total + digit) % 10)
    additions = [f"{a}+{digit}={b}" for (a, b), digit in zip(pairwise(sums), digits[1:], strict=False)]
    z = problem.data["z"]
    return [*additions, f"z{'-' if z is None else z}", cue]


def _shapes(problem: Problem) -> list[str]:
    additions = 2 if problem.level == IMPLICIT and problem.data["digits"] else 0
    return [r"[0-9]\+[0-9]=[0-9]"] * additions + ["z[-01]", "c[-AB]"]


def _sentences(problem: Problem, format: str) -> list[str]:
    means = {None: "nothing is said.", 0: "the car is not needed there.", 1: "the car is needed there."}
    suggests = {"A": "it is near, which suggests walking.", "B": "it is far, which suggests driving."}
    cue = f"Cue: {suggests.get(problem.data['suggested'], 'no distance is given.')}"
    return {WEIGH: [f"Constraint: {means[problem.data['z']]}", cue], CUE: [cue], DIRECT: []}[format]
