"""Phases and plans: the domains and difficulties of one run in order, and the check of all names before it starts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

from ductile.config import (
    BranchSettings,
    HeuristicsSettings,
    ObjectiveSettings,
    PhaseSettings,
    RunSettings,
    SelfConditioningSettings,
    SwitchSettings,
)
from ductile.difficulty import ESTIMATORS, SELECTORS
from ductile.domains import WorkedDomain, check_levels, make_domain
from ductile.domains.base import Domain, describe_levels
from ductile.interventions.gated import gated_layers
from ductile.metrics import segment
from ductile.models.load import parameter_names
from ductile.probes import ALL, PROBES, expand
from ductile.probes.evaluation import honest
from ductile.probes.heuristics import PairedDomain
from ductile.probes.self_conditioning import TurnDomain
from ductile.problem import DIRECT, Problem, Split
from ductile.settings import SettingsError, one_of
from ductile.variants import VARIANTS

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

    Raises `SettingsError` when a phase or a rung has too few problems for a step (see `require_problems`).
    """
    phases = []
    for name, values in settings.phase.items():
        path = f"phase.{name}"
        phase = make_phase(name, values, settings.seed, resolve, path)
        require_problems(phase, settings.rollout.groups, path)
        rungs = []
        for level in ladder_levels(settings.data.ladder, phase.domain, phase.levels):
            rung = make_phase(name, replace(values, levels=(level,)), settings.seed, resolve, path)
            require_problems(rung, settings.rollout.groups, path)
            rungs.append(rung.pool)
        phases.append(replace(phase, rungs=tuple(rungs)))
    return Plan(settings.plan, tuple(phases))


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


def check(settings: RunSettings) -> list[str]:
    """Every name and level that the typed settings cannot check on their own; one line for each mistake."""
    checks = (
        _domain_mistakes,
        _probe_domain_mistakes,
        _memory_mistakes,
        _family_mistakes,
        _probe_mistakes,
        _branch_mistakes,
        _name_mistakes,
        _pool_mistakes,
        _objective_mistakes,
        _hold_mistakes,
        _context_mistakes,
        _data_mistakes,
        _switch_mistakes,
        _adapter_mistakes,
    )
    return [mistake for mistakes in checks for mistake in mistakes(settings)]


def _domain_mistakes(settings: RunSettings) -> Iterator[str]:
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
        if path.startswith("phase.") and key == keys.get("probe.branch") and _runs_a_branch(settings):
            yield f"probe.branch.domain: {key} is also asked in {path}; the branch needs one that no phase asks"
        replayed = path.startswith("data.prior.") and settings.data.replay > 0
        if replayed and key == keys.get("probe.branch") and _runs_a_branch(settings):
            yield f"{path}.domain: {key} is also the domain of probe.branch; the branch needs one that is not replayed"
    for name, part in settings.model.mixture.items():
        path = f"model.mixture.{name}"
        if path in domains:
            yield from _mixture_mistakes(path, domains[path], part.formats)


def _probe_domain_mistakes(settings: RunSettings) -> Iterator[str]:
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


def _runs_a_branch(settings: RunSettings) -> bool:
    """Whether any boundary has the branch probe."""
    chosen = [settings.probe.start, *(phase.probes for phase in settings.phase.values())]
    return any("branch" in expand(settings.probe.probes if names is None else names) for names in chosen)


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


def _memory_mistakes(settings: RunSettings) -> Iterator[str]:
    """What would be done to an expert that begins anew at every switch."""
    memory, unset = settings.variant.memory, SwitchSettings()
    if settings.variant.name != "proxy" or memory in (None, "sequential"):
        return
    for name in ("optimizer", "fusion", "shrink", "perturb", "redo", "utility_reset"):
        value = getattr(settings.switch, name)
        if value != getattr(unset, name):
            yield (
                f"switch.{name}: {value!r} would change the untouched expert that begins with variant.memory={memory}; "
                f"allowed: with memory=sequential"
            )


def _family_mistakes(settings: RunSettings) -> Iterator[str]:
    difficulty = settings.difficulty
    if difficulty.estimator not in ESTIMATORS:
        yield one_of("difficulty.estimator", difficulty.estimator, ESTIMATORS, "estimator")
    if difficulty.selection not in SELECTORS:
        yield one_of("difficulty.selection", difficulty.selection, SELECTORS, "selection rule")


def _probe_mistakes(settings: RunSettings) -> Iterator[str]:
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


def _branch_mistakes(settings: RunSettings) -> Iterator[str]:
    branch = settings.probe.branch
    if "carried" in branch.optimizers and branch.beside and settings.learner.workers > 1:
        yield (
            f"probe.branch.optimizers: carried needs learner.workers at most 1 with probe.branch.beside=true "
            f"(learner.workers is {settings.learner.workers}): a branch beside the run is one process, and cannot read "
            f"an optimizer that was saved in shards by several"
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


def _name_mistakes(settings: RunSettings) -> Iterator[str]:
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


def _pool_mistakes(settings: RunSettings) -> Iterator[str]:
    pools = {f"phase.{name}": phase.pool for name, phase in settings.phase.items()}
    if settings.probe.branch.domain:
        pools["probe.branch"] = settings.probe.branch.pool
    for path, pool in pools.items():
        if pool < settings.rollout.groups:
            yield (
                f"{path}.pool: {pool} is less than rollout.groups ({settings.rollout.groups}), so a step would ask "
                f"a problem twice; allowed: at least {settings.rollout.groups}"
            )


def _context_mistakes(settings: RunSettings) -> Iterator[str]:
    model, variant, size = settings.model, settings.variant, settings.rollout.group_size
    if variant.contexts and size % variant.contexts:
        allowed = ", ".join(str(count) for count in range(1, size + 1) if size % count == 0)
        yield (
            f"variant.contexts: {variant.contexts}: rollout.group_size ({size}) is no multiple of it, and each context "
            f"gets as many completions; allowed: {allowed}"
        )
    if variant.reflector == "vocabulary" and not (model.path or model.instructed or model.examples):
        yield (
            "variant.reflector: vocabulary: the base is not taught to follow instructions and examples, so that no "
            "context would do anything; set model.instructed or model.examples, as model=instructed does"
        )


def _objective_mistakes(settings: RunSettings) -> Iterator[str]:
    objective, size = settings.objective, settings.rollout.group_size
    if objective.min_successes > size:
        yield (
            f"objective.min_successes: {objective.min_successes}: a group has {size} completions "
            f"(rollout.group_size), so no success would ever be learned from; allowed: at most {size}"
        )
    if settings.variant.name == "expert_iteration":
        yield from _imitation_mistakes(objective)
    elif objective.dynamic_sampling == "refill":
        pools = {f"phase.{name}": phase.pool for name, phase in settings.phase.items()}
        if settings.probe.branch.domain:
            pools["probe.branch"] = settings.probe.branch.pool
        for path, pool in pools.items():
            if pool == settings.rollout.groups:
                yield (
                    f"{path}.pool: {pool} problems are asked in every step (rollout.groups), so "
                    f"objective.dynamic_sampling refill has no others to ask; allowed: more than {pool}"
                )


def _imitation_mistakes(objective: ObjectiveSettings) -> Iterator[str]:
    """Expert iteration has neither advantages nor ratios: of the objective it reads how tokens are averaged."""
    if objective.advantage != "psr":
        yield (
            f"objective.advantage: {objective.advantage}: expert_iteration learns from the successes alone, and its "
            f"statistics must say so; allowed: psr, as the preset variant=expert_iteration sets it"
        )
    for field in fields(objective):
        value = getattr(objective, field.name)
        if field.name not in ("advantage", "length_norm") and value != field.default:
            yield (
                f"objective.{field.name}: {value!r} is set, but expert_iteration imitates completions and does not "
                f"use it; allowed: {field.default!r}"
            )


def _hold_mistakes(settings: RunSettings) -> Iterator[str]:
    """What holds a low-drift policy, where it needs more of the run than the variant itself knows."""
    variant, completions = settings.variant, settings.rollout.groups * settings.rollout.group_size
    if variant.anchor == "prior_data" and not settings.data.prior and len(settings.phase) == 1:
        yield (
            "variant.anchor: 'prior_data' has no prior data in a plan of one phase without data.prior; name the base's "
            "skills in data.prior, or choose another anchor; allowed: base, phase_start, ema"
        )
    objective = settings.objective
    if variant.kl_place == "reward" and objective.advantage == "std" and not objective.std_floor + objective.std_prior:
        yield (
            "variant.kl_place: 'reward' does not fit objective.advantage=std: where all rewards of a group are equal, "
            "the KL's noise would be divided by its own deviation; allowed: objective.std_floor above 0 (0.35 changes "
            "no group of 8 with a success), objective.std_prior above 0, another objective.advantage"
        )
    branches = _runs_a_branch(settings) and settings.probe.branch.domain  # they begin with the switch after the phase
    if variant.ewc is not None and len(settings.phase) == 1 and not branches:
        yield (
            f"variant.ewc: {variant.ewc} would never be read in a plan of one phase: it holds what earlier phases "
            f"learned; add a phase, or use l2_init or a KL to the base"
        )
    if variant.kl_horizon is not None and variant.kl_horizon <= completions / 5:
        yield (
            f"variant.kl_horizon: {variant.kl_horizon} would let a step of {completions} completions turn the "
            f"coefficient's sign; allowed: above {completions / 5:g}"
        )
    if settings.learner.engine == "deepspeed" and settings.learner.precision == "bf16":
        for name in ("l2_init", "ewc"):
            if (value := getattr(variant, name)) is not None:
                yield (
                    f"variant.{name}: {value} does not fit learner.precision=bf16 with learner.engine=deepspeed: it "
                    f"pulls on gathered weights, which are rounded; allowed: learner.precision=fp32, engine=torch"
                )


def _data_mistakes(settings: RunSettings) -> Iterator[str]:
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


def _switch_mistakes(settings: RunSettings) -> Iterator[str]:
    """Interventions that would do nothing, get in each other's way, or find nothing to act on."""
    switch = settings.switch
    if switch.fusion == 1:
        yield "switch.fusion: 1.0: nothing of the base is mixed in; allowed: below 1, or leave it unset"
    if switch.shrink == 1 and switch.perturb is None:
        yield "switch.shrink: 1.0: no weight changes without switch.perturb; set that too, or choose a factor below 1"
    if switch.redo is not None and switch.utility_reset is not None:
        yield f"switch.redo: {switch.redo}: set beside switch.utility_reset, and both begin units anew; leave one unset"
    for name in ("fusion", "shrink", "perturb", "redo", "utility_reset"):
        value, rank = getattr(switch, name), settings.learner.lora.rank
        if value is not None and rank:
            yield (
                f"switch.{name}: {value}: with learner.lora.rank {rank} only adapters are trained; leave it unset and "
                f"use learner.lora.switch"
            )
    if switch.redo is not None:
        yield from _unit_mistakes(settings, f"switch.redo: {switch.redo}")
    elif switch.utility_reset is not None:
        yield from _unit_mistakes(settings, f"switch.utility_reset: {switch.utility_reset}")


def _unit_mistakes(settings: RunSettings, setting: str) -> Iterator[str]:
    """A model given as a folder whose units are not known; those that are built from scratch are Llamas."""
    kind = VARIANTS.get(settings.variant.name)
    trained = "expert_path" if kind and kind.needs_expert else "path"
    path = getattr(settings.model, trained)
    try:
        names = parameter_names(path) if path else None
    except (OSError, ValueError):
        return  # told with the folders
    if names is not None and not gated_layers(names):
        yield (
            f"{setting}: the model in model.{trained} ({path}) has no gated MLP whose units could begin anew; allowed: "
            f"models with gate_proj, up_proj and down_proj, such as Llama, Mistral, Qwen and Gemma"
        )


def _adapter_mistakes(settings: RunSettings) -> Iterator[str]:
    lora, variant = settings.learner.lora, settings.variant
    if not lora.rank:
        if lora.switch != "carry":
            yield f"learner.lora.switch: {lora.switch}: learner.lora.rank is 0: there are no adapters; allowed: carry"
        return
    if variant.fast_rank is not None or variant.prefix_tokens is not None:
        yield (
            f"learner.lora.rank: {lora.rank}: {variant.name} trains all weights slowly beside its fast part, which "
            f"frozen ones cannot be; allowed: 0, or another variant"
        )
    for name in ("l2_init", "ewc"):
        if (strength := getattr(variant, name)) is not None:
            yield (
                f"variant.{name}: {strength}: it pulls at each weight, and with learner.lora.rank={lora.rank} none of "
                f"them is trained; allowed: unset, or learner.lora.rank=0"
            )


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
