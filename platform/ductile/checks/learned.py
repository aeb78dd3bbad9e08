"""How the policy is updated: the objective, what holds it, contexts, memories of experts, switches and adapters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

from ductile.checks.measured import runs_a_branch
from ductile.config import (
    ObjectiveSettings,
    RunSettings,
    SwitchSettings,
)
from ductile.interventions.gated import gated_layers
from ductile.models.load import parameter_names
from ductile.variants import VARIANTS


def objective_mistakes(settings: RunSettings) -> Iterator[str]:
    """What the objective reads against the group size, the pool and the variant."""
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


def hold_mistakes(settings: RunSettings) -> Iterator[str]:
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
    branches = runs_a_branch(settings) and settings.probe.branch.domain  # they begin with the switch after the phase
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
    rounded = settings.learner.engine == "deepspeed" and settings.learner.precision == "bf16"
    if rounded or settings.model.dtype == "bfloat16":
        for name in ("l2_init", "ewc"):
            if (value := getattr(variant, name)) is not None:
                yield (
                    f"variant.{name}: {value} does not fit weights that are rounded to bf16, which lose small pulls; "
                    f"allowed: model.dtype=float32, and with learner.engine=deepspeed learner.precision=fp32"
                )


def context_mistakes(settings: RunSettings) -> Iterator[str]:
    """Contexts that do not divide a group, and bases that would not follow them."""
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


def memory_mistakes(settings: RunSettings) -> Iterator[str]:
    """What would be done to an expert that begins anew at every switch."""
    memory, unset = settings.variant.memory, SwitchSettings()
    if settings.variant.name != "proxy" or memory in (None, "sequential"):
        return
    if settings.learner.lora.switch != "carry":
        yield (
            f"learner.lora.switch: {settings.learner.lora.switch}: with variant.memory={memory} another expert begins "
            f"at the switch; allowed: carry"
        )
    for name in ("optimizer", "fusion", "shrink", "perturb", "redo", "utility_reset"):
        value = getattr(settings.switch, name)
        if value != getattr(unset, name):
            yield (
                f"switch.{name}: {value!r} would change the untouched expert that begins with variant.memory={memory}; "
                f"allowed: with memory=sequential"
            )


def switch_mistakes(settings: RunSettings) -> Iterator[str]:
    """Interventions that would do nothing, get in each other's way, or find nothing to act on."""
    switch = settings.switch
    if switch.fusion == 1:
        yield "switch.fusion: 1.0: nothing of the base is mixed in; allowed: below 1, or leave it unset"
    if switch.shrink == 1 and switch.perturb is None:
        yield "switch.shrink: 1.0: no weight changes without switch.perturb; set that too, or choose a factor below 1"
    if switch.redo is not None and switch.utility_reset is not None:
        yield f"switch.redo: {switch.redo}: set beside switch.utility_reset, and both begin units anew; leave one unset"
    for name in ("fusion", "shrink", "perturb", "redo", "utility_reset"):
        value, lora, fast = getattr(switch, name), settings.learner.lora.rank, settings.variant.fast_rank
        if value is None:
            continue
        if lora:
            yield (
                f"switch.{name}: {value}: with learner.lora.rank={lora} the weights that it would change are frozen; "
                f"leave it unset and use learner.lora.switch"
            )
        elif fast:
            yield (
                f"switch.{name}: {value}: with variant.fast_rank={fast} it would change the slow weights by what the "
                f"ended domain's adapter adds to them; allowed: unset"
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


def adapter_mistakes(settings: RunSettings) -> Iterator[str]:
    """Adapters beside what trains or pulls all weights."""
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
