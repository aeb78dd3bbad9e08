"""Phases and plans: the domains and difficulties of one run in order, and the check of all names before it starts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ductile.config import BranchSettings, PhaseSettings, RunSettings
from ductile.difficulty import ESTIMATORS, SELECTORS
from ductile.domains import check_levels, make_domain
from ductile.domains.base import Domain
from ductile.probes import PROBES
from ductile.probes.evaluation import honest
from ductile.problem import Problem
from ductile.settings import SettingsError, one_of

ResolveDomain = Callable[[Mapping[str, Any], str], Domain]


@dataclass(frozen=True)
class Phase:
    """One phase, ready to run: its pool of training problems by id."""

    name: str
    domain: Domain
    levels: tuple[int, ...]
    steps: int
    pool: Mapping[str, Problem]


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
    share, rest = divmod(settings.pool, len(settings.levels))
    counts = [share + (position < rest) for position in range(len(settings.levels))]
    problems = [
        problem
        for level, count in zip(settings.levels, counts, strict=True)
        if count
        for problem in domain.problems(level, "train", count, seed)
    ]
    return Phase(name, domain, settings.levels, settings.steps, {problem.id: problem for problem in problems})


def make_plan(settings: RunSettings, resolve: ResolveDomain) -> Plan:
    """The run's plan. Each phase has a pool of its own, keyed by the run's seed."""
    phases = [
        make_phase(name, phase, settings.seed, resolve, f"phase.{name}") for name, phase in settings.phase.items()
    ]
    return Plan(settings.plan, tuple(phases))


def check(settings: RunSettings) -> list[str]:
    """Every name and level that the typed settings cannot check on their own; one line for each mistake."""
    return [*_domain_mistakes(settings), *_name_mistakes(settings)]


def _name_mistakes(settings: RunSettings) -> Iterator[str]:
    difficulty = settings.difficulty
    if difficulty.estimator not in ESTIMATORS:
        yield one_of("difficulty.estimator", difficulty.estimator, ESTIMATORS, "estimator")
    if difficulty.selection not in SELECTORS:
        yield one_of("difficulty.selection", difficulty.selection, SELECTORS, "selection rule")
    for position, name in enumerate(settings.probe.probes):
        if name not in PROBES:
            yield one_of(f"probe.probes[{position}]", name, PROBES, "probe")


def _domain_mistakes(settings: RunSettings) -> Iterator[str]:
    keys = {}
    for path, values, levels in _asked(settings):
        if not levels:
            yield f"{path}.levels: the list is empty; name at least one level"
        try:
            domain = make_domain(values, f"{path}.domain")
            check_levels(domain, levels, f"{path}.levels")
        except SettingsError as error:
            yield from error.problems
        else:
            keys[path] = make_domain(honest(values), f"{path}.domain").key
    for path, key in keys.items():
        if path.startswith("phase.") and key == keys.get("probe.branch"):
            yield f"probe.branch.domain: {key} is also asked in {path}; the branch needs one that no phase asks"


def _asked(settings: RunSettings) -> Iterator[tuple[str, Mapping[str, Any], tuple[int, ...]]]:
    for name, phase in settings.phase.items():
        yield f"phase.{name}", phase.domain, phase.levels
    for group in ("prior", "neutral"):
        for name, skill in getattr(settings.probe, group).items():
            yield f"probe.{group}.{name}", skill.domain, skill.levels
    if settings.probe.branch.domain:
        yield "probe.branch", settings.probe.branch.domain, settings.probe.branch.levels
    if not settings.model.path:
        for name, part in settings.model.mixture.items():
            yield f"model.mixture.{name}", part.domain, part.levels
