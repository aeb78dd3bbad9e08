"""Screening (SPEED-RL, arXiv 2506.09016): a few pilots of each problem, and a whole group only where they are mixed.

A problem is kept when its pilots have some but not all successes. SPEED then trains on pilots and continuation
together. We train on a whole new group alone, because the pilots are no fair sample once they have decided: of the
problems that are kept, the pilots' success rate is

    E[k | 0 < k < n] / n = (p - p^n) / (1 - p^n - (1 - p)^n),

which is p only for p = 1/2. A hard problem is kept just when its pilots were lucky, an easy one when they were not:
at p = 0.05 and n = 4 the kept pilots' rate is 0.27. Pooled with the rest of the group they pull its baseline to one
half, and their own gradient is that of the luck that chose them: E[grad log pi(y) (r - b) | kept] is not the gradient
of p. New completions, drawn after the choice and independent of it, have E[r | kept] = p and no such term; which
problems are trained on depends on the pilots, as it does on any estimate, but what is learned of each does not.

The pilots are not lost: all of them, kept or not, are outcomes for the difficulty table, which wants every
observation and not those of the kept alone, and all are in the budget.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from ductile.course.outcomes import successes
from ductile.problem import JudgedGroup, Problem

More = Callable[[Collection[str], int], Sequence[Problem]]
"""(ids asked so far, how many more) -> so many other problems, fewer or none where there are no more."""

Pilot = Callable[[Sequence[Problem], str], Sequence[JudgedGroup]]
"""(problems, suffix) -> their judged pilots. The suffix goes on the stream of their random numbers: completions of a
problem under one stream and sample number are the same, and the whole group must not repeat the pilots."""


@dataclass(frozen=True)
class Screened:
    """What came of it. problems: to be trained on, as asked; pilots: of all problems, in the order asked."""

    problems: list[Problem]
    pilots: list[JudgedGroup]


def screen(first: Sequence[Problem], more: More, pilot: Pilot, groups: int, rounds: int) -> Screened:
    """Ask the `first` problems, then as many others as are missing, until `groups` are kept or the rounds are over.

    Fewer than `groups` may be kept; a step trains on those. When none is, it trains on the first `groups` that were
    asked, as it would have without screening.
    """
    kept: list[Problem] = []
    asked: list[Problem] = []
    pilots: list[JudgedGroup] = []
    problems = list(first)
    for number in range(rounds):
        if not problems:
            break
        judged = list(pilot(problems, f"pilot-{number}"))
        asked, pilots = [*asked, *problems], [*pilots, *judged]
        outcomes = successes(judged)
        kept += [problem for problem in problems if mixed(*outcomes[problem.id])]
        missing = groups - len(kept)
        if missing <= 0 or number + 1 == rounds:
            break
        problems = list(more({problem.id for problem in asked}, missing))
    return Screened(kept[:groups] or asked[:groups], pilots)


def mixed(wins: int, judged: int) -> bool:
    """Whether some but not all of the judged completions are successes."""
    return 0 < wins < judged
