"""The cells that are evaluated at every boundary, each a skill at a level with its fixed evaluation problems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ductile.config import SkillSettings
from ductile.metrics import segment
from ductile.probes.base import AskingDomain, ProbeContext
from ductile.problem import SUCCESS, JudgedGroup, Problem

TRAINING_ONLY = ("label_noise", "lenient")
"""Domain options that make a phase's rewards wrong on purpose; what was learned is measured without them."""


@dataclass(frozen=True)
class Cell:
    """A skill at a level. `kind` is prior, new (the plan's phases) or neutral; `skill` is legal in metric names."""

    kind: str
    skill: str
    level: int
    domain: AskingDomain
    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class Outcomes:
    """A cell's completions as arrays over those that could be judged.

    passed, finished: [judged] bool;  length: [judged] int64, tokens, the end-of-sequence token included
    formats, shortcuts: the format of each, and its kind of shortcut, empty for none
    unjudged: how many completions were left out
    """

    passed: NDArray[np.bool_]
    finished: NDArray[np.bool_]
    length: NDArray[np.int64]
    formats: tuple[str, ...]
    shortcuts: tuple[str, ...]
    unjudged: int


def honest(domain: Mapping[str, Any]) -> dict[str, Any]:
    """The domain's options without label noise and without the lenient verifier."""
    return {name: value for name, value in domain.items() if name not in TRAINING_ONLY}


def cells(context: ProbeContext, kind: str) -> list[Cell]:
    """The cells of one kind, on the evaluation split."""
    if kind == "new":
        skills = {name: SkillSettings(honest(phase.domain), phase.levels) for name, phase in context.phases}
    else:
        skills = dict(context.settings.prior if kind == "prior" else context.settings.neutral)
    path = "phase" if kind == "new" else f"probe.{kind}"
    return [
        Cell(kind, segment(name), level, domain, _problems(domain, level, context.settings.problems, context.seed))
        for name, skill in skills.items()
        for domain in [context.resolve(skill.domain, f"{path}.{name}.domain")]
        for level in skill.levels
    ]


def evaluate(context: ProbeContext) -> list[tuple[Cell, Outcomes]]:
    """The outcomes of all prior and new cells; one call of the pool samples them all, the first time."""
    measured = [*cells(context, "prior"), *cells(context, "new")]
    problems = list(chain.from_iterable(cell.problems for cell in measured))
    judged = iter(context.judged(problems, context.sampling(context.rollout.top_p)))
    return [(cell, outcomes([next(judged) for _ in cell.problems])) for cell in measured]


def outcomes(judged: Sequence[JudgedGroup]) -> Outcomes:
    """Arrays over all completions of the groups; a reward above one half is a pass."""
    pairs = [
        (completion, verdict)
        for group in judged
        for completion, verdict in zip(group.group.completions, group.verdicts, strict=True)
    ]
    known = [(completion, verdict, verdict.reward) for completion, verdict in pairs if verdict.reward is not None]
    return Outcomes(
        passed=np.array([reward > SUCCESS for _, _, reward in known], np.bool_),
        finished=np.array([completion.finished for completion, _, _ in known], np.bool_),
        length=np.array([len(completion.tokens) for completion, _, _ in known], np.int64),
        formats=tuple(verdict.format for _, verdict, _ in known),
        shortcuts=tuple(verdict.shortcut_kind for _, verdict, _ in known),
        unjudged=len(pairs) - len(known),
    )


def interleaved(cells: Sequence[Cell], count: int) -> list[Problem]:
    """`count` problems, one of each cell in turn, each problem once: every cell has the same share."""
    turns = zip_longest(*(cell.problems for cell in cells))
    unique = {problem.id: problem for turn in turns for problem in turn if problem is not None}
    return list(unique.values())[:count]


def macro_mean(values: Sequence[float | None]) -> float | None:
    """Mean over cells, each as heavy; cells without a value are left out, None when there is none."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def present(metrics: Mapping[str, float | None]) -> dict[str, float]:
    """The metrics that have a value: what could not be measured is left out, never logged as zero."""
    return {name: value for name, value in metrics.items() if value is not None}


def _problems(domain: AskingDomain, level: int, count: int, seed: int) -> tuple[Problem, ...]:
    return tuple(domain.problems(level, "eval", count, seed))
