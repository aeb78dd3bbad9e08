"""What is asked: domains, levels, mixtures, pools, remedies in the data, and names that would collide."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ductile.checks.measured import runs_a_branch
from ductile.config import (
    PhaseSettings,
    RunSettings,
)
from ductile.domains import WorkedDomain, check_levels, make_domain
from ductile.domains.base import Domain, describe_levels
from ductile.metrics import segment
from ductile.plan import ladder_levels
from ductile.probes.evaluation import honest
from ductile.problem import DIRECT
from ductile.settings import SettingsError, one_of


def domain_mistakes(settings: RunSettings) -> Iterator[str]:
    """Domains, their levels, and what the mixture is trained on."""
    domains, keys = {}, {}
    for path, values, levels in _asked(settings):
        if not levels:
            yield f"{path}.levels: the list is empty; name at least one level"
        for level in _twice(levels):
            yield f"{path}.levels: {level} is listed twice; each level is asked as often as the others"
        try:
            domain = make_domain(values, f"{path}.domain")
            check_levels(domain, levels, f"{path}.levels")
        except SettingsError as error:
            yield from error.problems
        else:
            domains[path] = domain
            keys[path] = make_domain(honest(values), f"{path}.domain").key
    for path, key in keys.items():
        if path.startswith("phase.") and key == keys.get("probe.branch") and runs_a_branch(settings):
            yield f"probe.branch.domain: {key} is also asked in {path}; the branch needs one that no phase asks"
        replayed = path.startswith("data.prior.") and settings.data.replay > 0
        if replayed and key == keys.get("probe.branch") and runs_a_branch(settings):
            yield f"{path}.domain: {key} is also the domain of probe.branch; the branch needs one that is not replayed"
    for name, part in settings.model.mixture.items():
        path = f"model.mixture.{name}"
        if path in domains:
            yield from _mixture_mistakes(path, domains[path], part.formats)


def _mixture_mistakes(path: str, domain: Domain, formats: Mapping[str, float]) -> Iterator[str]:
    if not isinstance(domain, WorkedDomain):
        yield f"{path}.domain: {domain.key} has no worked solutions to train a base on; a domain such as chain_sum has"
        return
    for name in formats:
        if name not in domain.formats:
            yield one_of(f"{path}.formats.{name}", name, domain.formats, "format")
    if not sum(formats.values()):
        allowed = ", ".join(domain.formats)
        yield f"{path}.formats: {dict(formats)} gives no format a share; give at least one of: {allowed}"


def name_mistakes(settings: RunSettings) -> Iterator[str]:
    """Names that would write to the same metrics."""
    groups = {
        "phase": settings.phase,
        "probe.prior": settings.probe.prior,
        "probe.neutral": settings.probe.neutral,
        "probe.shift": settings.probe.shift,
        "data.prior": settings.data.prior,
    }
    for path, named in groups.items():
        names: dict[str, str] = {}
        for name in named:
            first = names.setdefault(segment(name), name)
            if first != name:
                yield f"{path}.{name}: it and {path}.{first} are both {segment(name)!r} in metric names; rename one"


def pool_mistakes(settings: RunSettings) -> Iterator[str]:
    """Pools that hold too few problems for a step."""
    pools = {f"phase.{name}": phase.pool for name, phase in settings.phase.items()}
    if settings.probe.branch.domain:
        pools["probe.branch"] = settings.probe.branch.pool
    for path, pool in pools.items():
        if pool < settings.rollout.groups:
            yield (
                f"{path}.pool: {pool} is less than rollout.groups ({settings.rollout.groups}), so a step would ask "
                f"a problem twice; allowed: at least {settings.rollout.groups}"
            )


def data_mistakes(settings: RunSettings) -> Iterator[str]:
    """Remedies that would find nothing to do in the plan. Without phases there is nothing to remedy, and no mistake."""
    data, groups = settings.data, settings.rollout.groups
    if not settings.phase:
        return
    if data.replay and not data.prior and len(settings.phase) == 1:
        yield (
            f"data.replay: {data.replay}: there is nothing to replay in any phase; name skills in data.prior, or "
            f"choose a plan of several phases"
        )
    if data.replay and math.ceil(data.replay * groups - 1e-9) >= groups:
        yield (
            f"data.replay: {data.replay} of rollout.groups={groups} can leave none of a step's problems to the phase; "
            f"allowed: at most {(groups - 1) / groups:g}"
        )
    try:
        domains = {name: make_domain(phase.domain, f"phase.{name}.domain") for name, phase in settings.phase.items()}
    except SettingsError:
        return  # told with the other domains
    if data.hint:
        for name, domain in domains.items():
            if not isinstance(domain, WorkedDomain):
                yield f"data.hint: {domain.key} of phase.{name} has no worked solutions to give hints from; allowed: 0"
            elif all(format == DIRECT for format in domain.formats):
                yield f"data.hint: {domain.key} of phase.{name} has no work before its answers; allowed: 0"
    climbed = {
        level
        for name, phase in settings.phase.items()
        if phase.levels
        for level in ladder_levels(data.ladder, domains[name], phase.levels)
    }
    if idle := [level for level in data.ladder if level not in climbed]:
        easier = (_easier_levels(name, domains[name], phase) for name, phase in settings.phase.items())
        yield f"data.ladder: {idle}: no phase's domain has them below the phase's own; allowed: {'; '.join(easier)}"


def _easier_levels(name: str, domain: Domain, phase: PhaseSettings) -> str:
    easier = ladder_levels(domain.levels, domain, phase.levels) if phase.levels else []
    return f"{describe_levels(easier) if easier else 'none'} in phase.{name}"


def _twice(values: Iterable[int]) -> list[int]:
    return [value for value, count in Counter(values).items() if count > 1]


def _asked(settings: RunSettings) -> Iterator[tuple[str, Mapping[str, Any], tuple[int, ...]]]:
    for name, phase in settings.phase.items():
        yield f"phase.{name}", phase.domain, phase.levels
    for group in ("prior", "neutral", "shift"):
        for name, skill in getattr(settings.probe, group).items():
            yield f"probe.{group}.{name}", skill.domain, skill.levels
    for name, skill in settings.data.prior.items():
        yield f"data.prior.{name}", skill.domain, skill.levels
    if settings.probe.branch.domain:
        yield "probe.branch", settings.probe.branch.domain, settings.probe.branch.levels
    if not settings.model.path:
        for name, part in settings.model.mixture.items():
            yield f"model.mixture.{name}", part.domain, part.levels
