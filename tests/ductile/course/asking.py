"""Phases of named problems, and verdicts that the test writes down."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ductile.domains import make_domain
from ductile.plan import Phase
from ductile.problem import Completion, Group, JudgedGroup, Problem, Verdict

SUMS = make_domain({"name": "chain_sum"}, "domain")


def problems(*ids: str, level: int = 1) -> dict[str, Problem]:
    return {id: Problem(id, SUMS.key, level, "?", "!") for id in ids}


def numbered(name: str, count: int) -> dict[str, Problem]:
    return problems(*(f"{name}{i}" for i in range(count)))


def phase(pool: dict[str, Problem], *rungs: dict[str, Problem], name: str = "p", steps: int = 10) -> Phase:
    return Phase(name, SUMS, (1,), steps, pool, rungs)


def judged(problem: Problem, rewards: Sequence[float | None]) -> JudgedGroup:
    nothing = np.zeros(0, np.int32)
    completions = [
        Completion(problem.id, i, nothing, np.zeros(0, np.float32), "", True, 0) for i, _ in enumerate(rewards)
    ]
    verdicts = tuple(Verdict(reward, "direct") for reward in rewards)
    return JudgedGroup(Group(problem, nothing, tuple(completions)), verdicts)
