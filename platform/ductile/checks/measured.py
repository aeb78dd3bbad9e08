"""What is measured: probes, the domains of those that need more of one, and branches."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from ductile.config import (
    HeuristicsSettings,
    RunSettings,
    SelfConditioningSettings,
)
from ductile.domains import WorkedDomain, check_levels, make_domain
from ductile.domains.base import describe_levels
from ductile.probes import ALL, PROBES, expand
from ductile.probes.heuristics import PairedDomain
from ductile.probes.self_conditioning import TurnDomain
from ductile.settings import SettingsError, one_of


def probe_mistakes(settings: RunSettings) -> Iterator[str]:
    """Names of probes, wherever they stand."""
    probe = settings.probe
    named = {"probe.probes": probe.probes, "probe.start": probe.start, "probe.inside": probe.inside}
    named |= {f"phase.{name}.probes": phase.probes for name, phase in settings.phase.items()}
    for path, names in named.items():
        for position, name in enumerate(names or ()):
            if name not in PROBES and name != ALL:
                yield one_of(f"{path}[{position}]", name, [*PROBES, ALL], "probe")
            elif path == "probe.inside" and "branch" in expand([name]):
                allowed = ", ".join(sorted(PROBES.keys() - {"branch"}))
                yield f"{path}[{position}]: {name!r}: the branch probe runs at boundaries only; allowed: {allowed}"


def probe_domain_mistakes(settings: RunSettings) -> Iterator[str]:
    """The domains of the probes that need more of a domain than its problems."""
    probe = settings.probe
    for domain, check in (
        (probe.self_conditioning.domain, partial(_turn_mistakes, probe.self_conditioning)),
        (probe.heuristics.domain, partial(_pair_mistakes, probe.heuristics)),
    ):
        if domain:
            try:
                yield from check()
            except SettingsError as error:
                yield from error.problems


def _turn_mistakes(settings: SelfConditioningSettings) -> Iterator[str]:
    path = "probe.self_conditioning"
    domain = make_domain(settings.domain, f"{path}.domain")
    if not isinstance(domain, TurnDomain):
        yield f"{path}.domain: {domain.key} has no turns to ask one after another; allowed: running_sum"
        return
    for name, turns in (("turns", settings.turns), ("injected_turn", settings.injected_turn)):
        if turns not in domain.levels:
            yield f"{path}.{name}: {turns} turns are too many; allowed: {describe_levels(domain.levels)}"


def _pair_mistakes(settings: HeuristicsSettings) -> Iterator[str]:
    path = "probe.heuristics"
    domain = make_domain(settings.domain, f"{path}.domain")
    if not isinstance(domain, PairedDomain):
        yield f"{path}.domain: {domain.key} has no cue and constraint to take away; allowed: heuristic"
        return
    if not settings.levels:
        yield f"{path}.levels: the list is empty; name at least one level"
    check_levels(domain, settings.levels, f"{path}.levels")


def branch_mistakes(settings: RunSettings) -> Iterator[str]:
    """Branches that could not be trained as they are asked to."""
    branch = settings.probe.branch
    if settings.variant.reflector == "model" and settings.learner.workers > 1 and branch.domain and not branch.beside:
        yield (
            f"variant.reflector: model with learner.workers={settings.learner.workers} and branches in turn would ask "
            f"the reflector once for each worker; allowed: probe.branch.beside=true, or learner.workers at most 1"
        )
    if "sft" not in branch.modes or not branch.domain or not branch.levels:
        return
    try:
        domain = make_domain(branch.domain, "probe.branch.domain")
        first = domain.problems(branch.levels[0], "train", 1, settings.seed)
    except (SettingsError, ValueError):
        return  # told with the other domains
    if not isinstance(domain, WorkedDomain) and any(not problem.answer.strip() for problem in first):
        yield (
            f"probe.branch.modes: sft needs something to imitate, but {domain.key} has neither worked solutions nor "
            f"expected answers; leave sft out or choose another probe.branch.domain"
        )


def runs_a_branch(settings: RunSettings) -> bool:
    """Whether any boundary has the branch probe."""
    chosen = [settings.probe.start, *(phase.probes for phase in settings.phase.values())]
    return any("branch" in expand(settings.probe.probes if names is None else names) for names in chosen)
