"""Running sums over several turns (arXiv 2509.09677): a dictionary of words, a few keys a turn, the sum after each.

Knowledge and plan are given; what is left is to look up, to add and to keep the state. The level is the number of
turns; the last one is asked, the ones before it are the problem's history, with true answers. Compact style, with
work and without:

    ka3b7|ab:    0+a3=3;3+b7=0#0    then    /bb:    0+b7=7;7+b7=4#4
    ka3b7|ab=    #0                 then    /bb=    #4

A prompt says by its last character whether work is asked for; `/` keeps turns apart when they are joined. Prose gives
real models English instructions. A problem's split is decided by its dictionary alone, so all turns of an instance, and
all variants of it, are in one split.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, pairwise
from typing import Any

import numpy as np

from ductile.domains.base import content_hash, domain_key, domain_label, require_level, split_of
from ductile.domains.tagged import tag, tagged_answer, tagged_shortcut, text_before
from ductile.domains.work import MARK, Work, classify, final_answer, shortcut, strict
from ductile.problem import DIRECT, OTHER, REPEATED, Problem, Split, Verdict
from ductile.settings import build, one_of, setting

LONGEST = 40
"""Most turns."""

WORK = "work"
"""The format with each addition written out."""

# fmt: off
WORDS = (
    "apple", "bread", "chair", "dance", "eagle", "flame", "grape", "house", "input", "jelly", "knife", "lemon",
    "money", "night", "ocean", "piano", "queen", "river", "snake", "table", "uncle", "voice", "water", "youth",
    "zebra", "angle", "beach", "cloud", "drink", "earth", "field", "ghost", "heart", "image", "juice", "label",
    "mouse", "nurse", "onion", "paper", "quilt", "radio", "sheep", "tiger", "union", "video", "wheel", "anger",
    "brick", "coast", "dream", "entry", "fruit", "glass", "hotel", "index", "judge", "lunch", "metal", "novel",
    "order", "plant", "quiet", "robot", "storm", "train", "urban", "visit", "world", "arrow", "block", "crown",
    "depth", "error", "frost", "grain", "horse", "ivory", "joint", "koala", "limit", "maple", "noise", "olive",
    "pearl", "round", "sugar", "tower", "upper", "vapor", "wagon", "actor", "bench", "candy", "diary", "elbow",
    "fence", "giant", "honey", "coral",
)
# fmt: on
"""The words of the prose dictionaries, five letters each as in the paper."""

LETTERS = tuple(string.ascii_lowercase)
"""The keys of the compact dictionaries, from the first on."""

_PATIENCE = 2000  # a split is given up as exhausted after so many draws in a row without a new problem
_NUMBER = r"-?\d+"


@dataclass(frozen=True)
class RunningSumOptions:
    """Options of `running_sum`."""

    keys: int = setting(1, "keys a turn (W)", low=1)
    entries: int = setting(4, "words in the dictionary", low=2)
    modulus: int = setting(10, "sums are taken modulo m; 0: exact integers", low=0)
    low: int = setting(0, "smallest value of a word")
    high: int = setting(9, "largest value of a word")
    scratch: bool = setting(True, "ask for each addition to be written out before the answer")
    style: str = setting(
        "compact", "compact text for character models, or prose for real ones", choices=("compact", "prose")
    )

    def check(self) -> Iterator[str]:
        """See `settings.build`."""
        if self.low >= self.high:
            yield f"low: {self.low} must be below high ({self.high}) (did you swap them?)"
        if self.entries > len(self.vocabulary):
            yield f"entries: {self.entries} is out of range; allowed: at most {len(self.vocabulary)} in this style"
        if self.modulus == 1:
            yield "modulus: 1 leaves one sum only; allowed: 0 for exact integers, or at least 2"

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """The words that a dictionary is drawn from."""
        return LETTERS if self.style == "compact" else WORDS


@dataclass(frozen=True)
class Instance:
    """A dictionary and the keys of each turn; turns count from 0."""

    id: str
    level: int
    values: Mapping[str, int]
    turns: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class RunningSum:
    """The domain. Besides problems it serves multi-turn measurements: a turn can be asked after any history."""

    options: RunningSumOptions
    formats: tuple[str, ...] = (WORK, DIRECT)
    levels: range = range(1, LONGEST + 1)

    @cached_property
    def key(self) -> str:
        """See `Domain.key`."""
        return domain_key("running_sum", self.options)

    def problems(self, level: int, split: Split, count: int, seed: int) -> list[Problem]:
        """See `Domain.problems`: the last turn of instances whose earlier turns were answered rightly."""
        return [self._last_turn(instance) for instance in self.instances(level, split, count, seed)]

    def instances(self, turns: int, split: Split, count: int, seed: int) -> list[Instance]:
        """Up to `count` different instances of so many turns; they know neither `scratch` nor who answers."""
        require_level(self, turns)
        key = np.random.SeedSequence([seed, turns, ord("k"), split == "eval"])
        generator, misses = np.random.Generator(np.random.Philox(key)), 0
        found: dict[str, Instance] = {}
        while len(found) < count and misses < _PATIENCE:
            instance = self._draw(turns, split, generator)
            known = instance is None or instance.id in found
            misses = misses + 1 if known else 0
            if instance is not None and not known:
                found[instance.id] = instance
        return list(found.values())

    def turn(self, instance: Instance, turn: int, answered: Sequence[str], window: int | None = None) -> Problem:
        """The problem of one turn after these earlier answers, right or wrong, as text.

        answered: the text of each turn before it. window: only so many of the last turns are shown, the first of them
        together with the dictionary. Sampling does not depend on the history: the id names instance and turn alone.
        """
        if len(answered) != turn:
            raise ValueError(f"{instance.id}: {len(answered)} answers for the {turn} turns before turn {turn}")
        first = 0 if window is None else max(0, turn - window)
        asked = [self._ask(instance, number, opening=number == first) for number in range(first, turn + 1)]
        return Problem(
            id=f"{instance.id}/turn{turn}",
            domain=self.key,
            level=instance.level,
            prompt=asked[-1],
            answer=str(self.truth(instance, turn)),
            data={"values": dict(instance.values), "keys": list(instance.turns[turn])},
            history=tuple(zip(asked[:-1], answered[first:], strict=True)),
        )

    def increment(self, instance: Instance, turn: int) -> int:
        """What the turn's keys add."""
        return sum(instance.values[key] for key in instance.turns[turn])

    def after(self, instance: Instance, turn: int, previous: int) -> int:
        """The sum that the turn leads to from `previous`."""
        return self._reduced(previous + self.increment(instance, turn))

    def truth(self, instance: Instance, turn: int) -> int:
        """The running sum after the turn; 0 before the first, which is turn -1."""
        return self._reduced(sum(self.increment(instance, number) for number in range(turn + 1)))

    def wrong(self, instance: Instance, turn: int, seed: int) -> int:
        """A stated sum that is never the truth, within 10 of it as in the paper; fixed by the arguments."""
        choice = content_hash(f"wrong {seed} {instance.id} {turn}")
        if self.options.modulus:
            return (self.truth(instance, turn) + 1 + choice % (self.options.modulus - 1)) % self.options.modulus
        offset = 1 + choice % 10
        return self.truth(instance, turn) + (offset if choice >> 32 & 1 else -offset)

    def write(self, instance: Instance, turn: int, previous: int, stated: int) -> str:
        """An answer of the turn as history holds it, with work when it is asked for.

        The work starts at `previous`, and its last step arrives at what is stated, right or wrong.
        """
        pairs = [(key, instance.values[key]) for key in instance.turns[turn]]
        return self._written(self._steps(previous, pairs, stated) if self.options.scratch else [], str(stated))

    def parse(self, text: str) -> int | None:
        """The sum that a completion states, None when it states none that can be read."""
        answer = final_answer(text, bare=False) if self._compact else tagged_answer(text)
        return int(answer) if answer and re.fullmatch(_NUMBER, answer, re.ASCII) and len(answer) < 20 else None

    def solution(self, problem: Problem, format: str) -> str:
        """See `WorkedDomain.solution`."""
        if format not in self.formats:
            raise ValueError(one_of("running_sum solution", format, self.formats, "format"))
        return self._written([] if format == DIRECT else self._true_steps(problem), problem.answer)

    def judge(self, problem: Problem, text: str) -> Verdict:
        """See `Domain.judge`. An answer without work is a shortcut only where work is asked for."""
        if not self._compact:
            answer = tagged_answer(text)
            format = OTHER if answer is None else WORK if text_before(text) else DIRECT
            right = self.parse(text) == int(problem.answer)
            return Verdict(float(right), format, tagged_shortcut(text, self.options.scratch), answer)
        shapes = [rf"{_NUMBER}\+{key}{_NUMBER}={_NUMBER}" for key in problem.data["keys"]]
        works = {WORK: Work(lambda _: self._true_steps(problem), lambda _: shapes)}
        shape = "[0-9]" if 0 < self.options.modulus <= 10 else rf"{_NUMBER}(?!\d)"  # 11 is one answer, not 1 twice
        answer = final_answer(text, bare=False)
        kind = REPEATED if answer and text.count(MARK) > 1 else shortcut(text, "", works, shape, bare=False)
        return Verdict(
            reward=float(strict(text, problem.answer)),
            format=classify(text, "", works, shape),
            shortcut_kind=kind if self.options.scratch or kind == REPEATED else "",
            answer=answer,
        )

    @property
    def _compact(self) -> bool:
        return self.options.style == "compact"

    @cached_property
    def _label(self) -> str:
        return domain_label("running_sum", self.options)

    def _reduced(self, total: int) -> int:
        return total % self.options.modulus if self.options.modulus else total

    def _draw(self, turns: int, split: Split, generator: np.random.Generator) -> Instance | None:
        """A random instance; None when its dictionary belongs to the other split."""
        options = self.options
        order = list(range(options.entries))  # compact keys are the first letters: a small model learns few keys sooner
        if not self._compact:
            order = generator.permutation(len(WORDS))[: options.entries].tolist()
        words = [options.vocabulary[place] for place in order]
        numbers = generator.integers(options.low, options.high + 1, options.entries).tolist()
        picks = generator.integers(0, options.entries, (turns, options.keys)).tolist()
        content = " ".join(f"{word}{number}" for word, number in zip(words, numbers, strict=True))
        if split_of(f"k{content}") != split:
            return None
        keys = tuple(tuple(words[pick] for pick in row) for row in picks)
        digest = content_hash(f"{content}|{' '.join(chain.from_iterable(keys))}")
        name = f"{self._label}/L{turns}/{split}/{digest:016x}"
        return Instance(name, turns, dict(zip(words, numbers, strict=True)), keys)

    def _last_turn(self, instance: Instance) -> Problem:
        sums = [self.truth(instance, turn) for turn in range(-1, instance.level - 1)]
        answered = [self.write(instance, turn, *pair) for turn, pair in enumerate(pairwise(sums))]
        return self.turn(instance, instance.level - 1, answered)

    def _true_steps(self, problem: Problem) -> list[str]:
        pairs = [(key, problem.data["values"][key]) for key in problem.data["keys"]]
        return self._steps(self._reduced(int(problem.answer) - sum(value for _, value in pairs)), pairs)

    def _steps(self, previous: int, pairs: Sequence[tuple[str, int]], stated: int | None = None) -> list[str]:
        """Each addition; the last one arrives at `stated`, whatever it should be, unless that is None."""
        steps, total = [], previous
        for place, (key, value) in enumerate(pairs):
            before, total = total, self._reduced(total + value)
            if stated is not None and place == len(pairs) - 1:
                total = stated
            steps.append(f"{before}+{key}{value}={total}" if self._compact else f"{before} + {value} ({key}) = {total}")
        return steps

    def _written(self, steps: Sequence[str], answer: str) -> str:
        if self._compact:
            return ";".join(steps) + MARK + answer
        return "\n".join([*steps, tag(answer)])

    def _ask(self, instance: Instance, turn: int, opening: bool) -> str:
        """What a turn asks; the opening one carries the dictionary and the rules."""
        keys = instance.turns[turn]
        if self._compact:
            entries = "".join(f"{word}{value}" for word, value in instance.values.items())
            return f"{f'k{entries}|' if opening else '/'}{''.join(keys)}{':' if self.options.scratch else '='}"
        words = f"Words: {', '.join(keys)}\n"
        return f"{self._rules(instance, turn)}\n{words}" if opening else f"\n\n{words}"

    def _rules(self, instance: Instance, turn: int) -> str:
        options = self.options
        entries = "\n".join(f"{word} = {value}" for word, value in instance.values.items())
        taken = f" modulo {options.modulus}" if options.modulus else ""
        work = "Write out each addition first, then give" if options.scratch else "Write no work. Give only"
        start = " Earlier turns are left out." if turn else ""
        return (
            f"You keep a running sum{taken}, which starts at 0. Each word has a value:\n\n{entries}\n\n"
            f"Each turn gives you words. Add their values to the running sum of the turn before. "
            f"{work} the new running sum as {tag('number')}.{start}\n"
        )


def make(values: Mapping[str, Any], path: str) -> RunningSum:
    """The domain of these options; raises `SettingsError`."""
    return RunningSum(build(RunningSumOptions, values, path))
