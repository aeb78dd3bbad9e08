"""Phases and plans: the domains and difficulties of one run in order, and the problems of each."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, isnan, nan
from typing import Any

import numpy as np

from ductile.config import (
    BranchSettings,
    PhaseSettings,
    RunSettings,
)
from ductile.difficulty import STATIC
from ductile.difficulty.pruning import UNREAD, keep
from ductile.difficulty.static import ScoreFile
from ductile.domains.base import Domain, LazyDomain
from ductile.problem import Problem, Split
from ductile.settings import SettingsError

ResolveDomain = Callable[[Mapping[str, Any], str], Domain]


@dataclass(frozen=True)
class Phase:
    """One phase, ready to run: its pool of training problems by id.

    rungs: pools of the easier levels that are asked before it (`data.ladder`), rising.
    """

    name: str
    domain: Domain
    levels: tuple[int, ...]
    steps: int
    pool: Mapping[str, Problem]
    rungs: tuple[Mapping[str, Problem], ...] = ()

    def some(self, count: int, seed: int, stream: str) -> list[Problem]:
        """At most `count` problems of the pool, in a random order that depends on (seed, stream, ids) alone."""

        def place(id: str) -> bytes:
            return hashlib.blake2b(f"{seed}/{stream}/{id}".encode(), digest_size=16).digest()

        return [self.pool[id] for id in sorted(self.pool, key=place)[:count]]


@dataclass(frozen=True)
class Plan:
    """The phases of a run, in order."""

    name: str
    phases: tuple[Phase, ...]

    @property
    def steps(self) -> int:
        """RL steps of all phases together."""
        return sum(phase.steps for phase in self.phases)


def make_phase(
    name: str, settings: PhaseSettings | BranchSettings, seed: int, resolve: ResolveDomain, path: str
) -> Phase:
    """Draw the phase's pool from the train split, each level as often; it depends on the settings and seed alone."""
    domain = resolve(settings.domain, f"{path}.domain")
    if isinstance(domain, LazyDomain):
        pool = domain.pool(settings.levels, settings.pool, seed)
        return Phase(name, domain, settings.levels, settings.steps, pool)
    problems = draw(domain, settings.levels, "train", settings.pool, seed)
    return Phase(name, domain, settings.levels, settings.steps, {problem.id: problem for problem in problems})


def draw(domain: Domain, levels: Sequence[int], split: Split, count: int, seed: int) -> list[Problem]:
    """`count` problems, each level as often up to one; fewer when the split has no more."""
    share, rest = divmod(count, len(levels))
    return [
        problem
        for position, level in enumerate(levels)
        if share + (position < rest)
        for problem in domain.problems(level, split, share + (position < rest), seed)
    ]


def make_plan(settings: RunSettings, resolve: ResolveDomain) -> Plan:
    """The run's plan. Each phase has a pool of its own, keyed by the run's seed, and so has each rung of its ladder.

    Raises `SettingsError` when a phase or a rung has too few problems for a step (see `require_problems`), or when
    static scores of its problems are missing that pruning or selection goes by (see `prune`).
    """
    phases = []
    for name, values in settings.phase.items():
        path = f"phase.{name}"
        phase = phase_of(settings, name, resolve)
        require_problems(phase, settings.rollout.groups, path)
        rungs = []
        for level in ladder_levels(settings.data.ladder, phase.domain, phase.levels):
            rung = make_phase(name, replace(values, levels=(level,)), settings.seed, resolve, path)
            require_problems(rung, settings.rollout.groups, path)
            rungs.append(rung.pool)
        phases.append(replace(phase, rungs=tuple(rungs)))
    return Plan(settings.plan, tuple(phases))


def phase_of(settings: RunSettings, name: str, resolve: ResolveDomain) -> Phase:
    """The phase of this name with the pool that the run asks: as drawn, and then pruned by `difficulty.prune`."""
    path = f"phase.{name}"
    return prune(make_phase(name, settings.phase[name], settings.seed, resolve, path), settings, path)


def prune(phase: Phase, settings: RunSettings, path: str) -> Phase:
    """The phase with the part of its pool that `difficulty.prune` keeps; the rungs of a ladder stay whole.

    Which problems of equal score stay depends on the run's seed and the phase's name. Raises `SettingsError` when the
    scores, which a selection by static difficulty reads too, cannot be read or lack some of the pool's problems, or
    when less stays than a step asks.
    """
    wanted = settings.difficulty.prune
    scored = wanted.keep not in UNREAD or (settings.difficulty.selection in STATIC and settings.difficulty.scores)
    if wanted.keep == "all" and not scored:
        return phase
    ids = list(phase.pool)
    scores = np.zeros(len(ids))
    if scored:
        scores = np.array(_scores_of(ids, settings, path))
    if wanted.keep == "all":
        return phase
    key = hashlib.blake2b(f"prune/{settings.seed}/{phase.name}".encode(), digest_size=16).digest()
    rng = np.random.Generator(np.random.Philox(key=np.frombuffer(key, np.uint64)))
    kept = [ids[place] for place in keep(scores, wanted.keep, wanted.fraction, wanted.offset, rng)]
    groups = settings.rollout.groups
    if len(kept) < groups:
        least = ceil(1e4 * groups / max(len(ids), 1)) / 1e4
        allowed = f"at least {least:g}" if least < 1 else "none with so small a pool"
        raise SettingsError(
            [
                f"difficulty.prune.fraction: {wanted.fraction} keeps {len(kept)} of the {len(ids)} problems of {path}, "
                f"too few to fill a step of rollout.groups={groups}; allowed: {allowed}; or raise {path}.pool, or "
                f"lower rollout.groups"
            ]
        )
    return replace(phase, pool={id: phase.pool[id] for id in kept})


def _scores_of(ids: Sequence[str], settings: RunSettings, path: str) -> list[float]:
    """The static score of each problem; raises `SettingsError` when some have none."""
    difficulty = settings.difficulty
    file = ScoreFile.read(difficulty)
    score = file.score
    missing = [id for id in ids if id not in score]
    if missing:
        raise SettingsError(
            [
                f"difficulty.scores: {difficulty.scores!r} lacks {len(missing)} of the {len(ids)} problems of {path} "
                f"at seed {settings.seed}, as {missing[0]}; pools depend on plan and seed: let jobs.scores score those "
                f"of this plan and of as many seeds as there are runs (seeds=...)"
            ]
        )
    unknown = [id for id in ids if isnan(score[id])]
    if unknown:
        known = [name for name, values in file.scores.items() if not any(isnan(values.get(id, nan)) for id in ids)]
        others = f"known for all of them: {', '.join(known)}" if known else "no score in the file is known for all"
        raise SettingsError(
            [
                f"difficulty.score: {file.name} is not known for {len(unknown)} of the {len(ids)} problems of {path}, "
                f"as {unknown[0]}, though they were scored; {others}"
            ]
        )
    return [score[id] for id in ids]


def ladder_levels(ladder: Sequence[int], domain: Domain, levels: Sequence[int]) -> list[int]:
    """The ladder's levels that a phase climbs: those that its domain has, below all of its own."""
    return [level for level in ladder if level in domain.levels and level < min(levels)]


def require_problems(phase: Phase, groups: int, path: str) -> None:
    """Raise `SettingsError` when a step of so many groups would ask a problem of the phase twice.

    Sampling is keyed by the problem's id, so the two groups would be the same completions and count double.
    """
    if len(phase.pool) >= groups:
        return
    drawn = Counter(problem.level for problem in phase.pool.values())
    by_level = ", ".join(f"{drawn[level]} at level {level}" for level in phase.levels)
    raise SettingsError(
        [
            f"{path}: the train split of {phase.domain.key} gives {len(phase.pool)} different problems ({by_level}), "
            f"but rollout.groups is {groups}; add levels, raise {path}.pool or lower rollout.groups"
        ]
    )
