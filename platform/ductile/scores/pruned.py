"""Supervised training on a pruned data set: what is left of it, and how good a model it makes.

Every model is trained for the same number of steps on batches of the same size, so that arms cost the same; what is
pruned is how many different solutions it sees, not how long it is trained.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ductile.config import CrossingSettings, ScoresSettings
from ductile.difficulty.pruning import keep
from ductile.domains import WorkedDomain, check_levels, make_domain
from ductile.models.scratch import build_llama
from ductile.models.tokenizer import character_tokenizer
from ductile.packed import Pair
from ductile.plan import draw
from ductile.problem import Problem, Split
from ductile.scores.base import Asked, Floats, Score, seed_of
from ductile.scores.solutions import solutions
from ductile.scores.training import fit, hits, led, nats
from ductile.settings import SettingsError, one_of

KEEP, FIT, EVAL = 1, 2, 3
"""Name the random numbers of pruning, of weights and order, and of the held-out problems."""


@dataclass(frozen=True)
class Cell:
    """One training: a data size, a share of it that is kept by a rule, and a seed. `all` has the share 1."""

    size: int
    fraction: float
    rule: str
    seed: int

    @property
    def key(self) -> str:
        """Its name in the results' folder."""
        return f"{self.size}-{self.fraction!r}-{self.rule}-{self.seed}"


def cells(settings: CrossingSettings) -> Iterator[Cell]:
    """All trainings; those that share their data and its scores stand together."""
    for seed in range(settings.seeds):
        for size in settings.sizes:
            yield Cell(size, 1.0, "all", seed)
            for fraction in settings.fractions:
                for rule in settings.rules:
                    yield Cell(size, fraction, rule, seed)


def crossing_mistakes(settings: CrossingSettings) -> Iterator[str]:
    """Domains, levels, formats and data sizes that do not fit each other; one line each."""
    try:
        domain = make_domain(settings.domain, "domain")
        check_levels(domain, settings.levels, "levels")
    except SettingsError as error:
        yield from error.problems
        return
    if not isinstance(domain, WorkedDomain):
        yield f"domain: {domain.key} has no worked solutions to train on; a domain such as sort_digits has"
        return
    if settings.format not in domain.formats:
        yield one_of("format", settings.format, domain.formats, "format")
        return
    asked: list[tuple[str, Split, int]] = [
        ("sizes", "train", max(settings.sizes)),
        ("problems", "eval", settings.problems),
    ]
    for name, split, wanted in asked:
        there = draw(domain, settings.levels, split, wanted, 0)
        if len(there) < wanted:
            yield f"{name}: {wanted}: {domain.key} has {len(there)} different problems of these levels; add levels"
        tokens = max((len(each.prompt) + len(domain.solution(each, settings.format)) + 1 for each in there), default=0)
        if tokens > settings.model.positions:
            yield f"model.positions: {settings.model.positions} is too short; allowed: at least {tokens}"


class Study:
    """The data sets of one seed and their scores. A larger one begins each level with the problems of a smaller."""

    def __init__(self, settings: CrossingSettings, score: Score, seed: int) -> None:
        self._settings, self._score, self._seed = settings, score, seed
        domain = make_domain(settings.domain, "domain")
        assert isinstance(domain, WorkedDomain)  # `crossing_mistakes` has refused the others
        self._domain, self._tokenizer = domain, character_tokenizer()
        self._held = draw(domain, settings.levels, "eval", settings.problems, seed_of(seed, EVAL))
        self._held_rows = self._rows(self._held)
        self._scored: dict[int, tuple[list[Problem], Floats]] = {}

    def data(self, size: int, told: Callable[[str], None]) -> tuple[list[Problem], Floats]:
        """The problems of a data size and their scores, [problem] float64, by models trained on these alone."""
        if size not in self._scored:
            problems = draw(self._domain, self._settings.levels, "train", size, self._seed)
            rows = self._rows(problems)
            asked = Asked(
                rows=lambda: rows,
                prompts=lambda: [prompt for prompt, _ in rows],
                fresh=lambda seed: build_llama(self._settings.model, self._tokenizer, seed),
                base=_nothing,
                rewards=_nothing,
                history=_nothing,
                count=size,
                settings=ScoresSettings(
                    inits=self._settings.inits,
                    early=self._settings.early,
                    evals=self._settings.evals,
                    fit=self._settings.fit,
                ),
                seed=seed_of(self._seed, size),
                told=told,
            )
            self._scored[size] = problems, self._score(asked)
        return self._scored[size]

    def run(self, cell: Cell, told: Callable[[str], None]) -> dict[str, Any]:
        """Prune, train, and measure on held-out problems.

        passed: share whose every token is the most likely one, which is what greedy decoding answers; loss: nats a
        token; passed_by_level, kept_by_level: by level; score_by_level: mean score of all the data.
        """
        (problems, scores), settings = self.data(cell.size, told), self._settings
        rng = np.random.Generator(np.random.Philox(seed_of(self._seed, cell.size, KEEP)))
        kept = keep(scores, cell.rule, cell.fraction, settings.offset, rng)
        seed = seed_of(self._seed, FIT)  # the same weights for every arm of a seed
        model = build_llama(settings.model, self._tokenizer, seed)
        fit(model, self._rows([problems[place] for place in kept]), settings.fit, seed)
        losses, right = led(model, self._held_rows, nats, hits)
        whole = right == 1
        lengths = np.array([len(completion) for _, completion in self._held_rows])
        levels = np.array([problem.level for problem in self._held])
        data = np.array([problem.level for problem in problems])
        return {
            "passed": float(whole.mean()),
            "loss": float((losses * lengths).sum() / lengths.sum()),
            "kept": len(kept),
            "passed_by_level": {
                str(level): float(whole[levels == level].mean()) for level in sorted(set(levels.tolist()))
            },
            "kept_by_level": {str(level): count for level, count in sorted(Counter(data[kept].tolist()).items())},
            "score_by_level": {str(level): float(scores[data == level].mean()) for level in sorted(set(data.tolist()))},
        }

    def _rows(self, problems: Sequence[Problem]) -> list[Pair]:
        return solutions(self._domain, problems, self._settings.format, self._tokenizer)


def _nothing() -> Any:
    raise ValueError("there is no base: this score does not fit training from scratch")
