"""Replay: a share of each step's problems are of skills that the policy had before the phase.

The sources are the skills of `data.prior` (train split) and the pools of earlier phases, each as often. Which problems
are asked depends on (seed, phase, step) alone, so there is nothing to remember. Whatever the phase itself asks is in
none of the sources.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ductile.config import RunSettings
from ductile.course.quota import asked_before, quota
from ductile.plan import Phase, ResolveDomain, draw
from ductile.problem import Problem


@dataclass(frozen=True)
class Replay:
    """The replay of one phase. phase: its position in the plan, from 0."""

    share: float = 0.0
    groups: int = 1
    phase: int = 0
    sources: tuple[Sequence[Problem], ...] = ()

    def ask(self, step: int, seed: int) -> list[Problem]:
        """The step's share of problems, from the sources in turn; fewer only when all of them have run out."""
        wanted, turn = quota(self.share, self.groups, step), asked_before(self.share, self.groups, step)
        queues = [self._shuffled(number, step, seed) for number in range(len(self.sources))]  # may be of millions
        asked: dict[str, Problem] = {}
        left = set(range(len(queues)))
        while len(asked) < wanted and left:
            number = turn % len(queues)
            turn += 1
            problem = next((each for each in queues[number] if each.id not in asked), None)
            if problem is None:
                left.discard(number)
            else:
                asked[problem.id] = problem
        return list(asked.values())

    def _shuffled(self, number: int, step: int, seed: int) -> Iterator[Problem]:
        key = np.random.SeedSequence([seed, self.phase, step, number, ord("r")])
        source = self.sources[number]
        order = np.random.Generator(np.random.Philox(key)).permutation(len(source))
        return (source[place] for place in order[::-1])


def make_replay(settings: RunSettings, phase: Phase, earlier: Sequence[Phase], resolve: ResolveDomain) -> Replay:
    """The replay of a phase after these; without `data.replay`, or with nothing to replay, it asks nothing."""
    if not settings.data.replay:
        return Replay()
    pools = [*_prior_pools(settings, len(phase.pool), resolve), *(each.pool for each in earlier)]
    own = set(phase.pool).union(*phase.rungs)
    sources = [[problem for id, problem in pool.items() if id not in own] for pool in pools]
    return Replay(settings.data.replay, settings.rollout.groups, len(earlier), tuple(filter(None, sources)))


def _prior_pools(settings: RunSettings, count: int, resolve: ResolveDomain) -> list[Mapping[str, Problem]]:
    """As many problems of each prior skill as the phase has of its own."""
    pools: list[Mapping[str, Problem]] = []
    for name, skill in settings.data.prior.items():
        domain = resolve(skill.domain, f"data.prior.{name}.domain")
        problems = draw(domain, skill.levels, "train", count, settings.seed)
        pools.append({problem.id: problem for problem in problems})
    return pools
