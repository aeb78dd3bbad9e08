"""What is done to the policy between two phases, in one order; branches begin with it too.

    what EWC keeps of the phase -> the variant's own part -> adapters merged or reset -> base fusion
    -> shrink and perturb -> ReDo or utility reset -> optimizer reset

The boundary after a phase is measured before the switch, so that it tells what the phase did. A branch begins with the
switch, as the next phase would: it tells what the policy can still learn under this way of going on.

Interventions act on the trainable member: in a proxy that is the expert, and its base is the expert's folder. What its
units do is measured once, before any weight changes. In bfloat16 they act on the weights as they are sampled from, so
that what only the optimizer's float32 copy still knew of a weight is lost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ductile.config import RunSettings, SwitchSettings
from ductile.contexts.context import with_prefixes
from ductile.interventions.activity import Activity, unit_activity
from ductile.interventions.fusion import fuse
from ductile.interventions.gated import begin_anew, gated_layers
from ductile.interventions.redo import dormant
from ductile.interventions.shrink_perturb import shrink_and_perturb
from ductile.interventions.utility import least_useful
from ductile.learner import rms_distance
from ductile.models.load import initializer_range, parameter_names
from ductile.plan import Phase
from ductile.ports import Sampling
from ductile.probes.cost import MeteredPool
from ductile.problem import Group
from ductile.step import StepPorts, publish
from ductile.variants.base import Variant


def switch(settings: RunSettings, variant: Variant, ended: Phase, stream: str, ports: StepPorts) -> dict[str, float]:
    """Do it, before the next phase starts. stream: keys everything random. Returns metrics."""
    pool = MeteredPool(ports.pool)
    sampled: list[Group] = []
    if settings.variant.ewc is not None:
        sampled = _sampled(settings, ended, f"{stream}/fisher", ports, pool)
        ports.learner.consolidate(sampled)
    variant.switch(settings, ended, stream, ports)
    ports.learner.switch_adapters()
    metrics: dict[str, float] = {}
    if acts_on_weights(settings.switch):
        metrics, groups = _intervene(settings, ended, stream, ports, pool)
        sampled = [*sampled, *groups]
    if sampled:
        spent = _cost(sampled, pool)
        ports.learner.spend(spent)
        metrics |= {f"switch/{name}": float(value) for name, value in spent.items()}
    if settings.switch.optimizer == "reset":
        ports.learner.reset_optimizer()
    return metrics


def switch_stream(ended: str) -> str:
    """The stream of the switch after a phase: the run's and its branches' are the same."""
    return f"switch/{ended}"


def acts_on_weights(settings: SwitchSettings) -> bool:
    """Whether any intervention changes weights."""
    values = (settings.fusion, settings.shrink, settings.perturb, settings.redo, settings.utility_reset)
    return any(value is not None for value in values)


def _intervene(
    settings: RunSettings, ended: Phase, stream: str, ports: StepPorts, pool: MeteredPool
) -> tuple[dict[str, float], list[Group]]:
    """Change the weights; returns metrics and what was sampled to see what the units do."""
    chosen, learner = settings.switch, ports.learner
    folder = next(m.path for m in learner.composition.members if m.role == learner.composition.trainable)
    before = learner.weights()
    weights: dict[str, Tensor] = dict(before)
    metrics: dict[str, float] = {}
    masks: dict[str, Tensor] = {}
    activity: dict[str, Activity] = {}
    groups: list[Group] = []
    if chosen.redo is not None or chosen.utility_reset is not None:
        groups = _sampled(settings, ended, stream, ports, pool)
        activity = _activity(groups, ended, ports, pool)
    if chosen.fusion is not None:
        weights = fuse(weights, learner.base_weights(), chosen.fusion)
    if chosen.shrink is not None or chosen.perturb is not None:
        factor = 1.0 if chosen.shrink is None else chosen.shrink
        weights = shrink_and_perturb(weights, factor, chosen.perturb or 0.0, settings.seed, stream)
    if activity:
        if chosen.redo is not None:
            units, means = dormant(activity, chosen.redo), None
        else:
            units = least_useful(activity, weights, chosen.utility_reset or 0.0)
            means = {layer: torch.from_numpy(of.mean) for layer, of in activity.items()}
        weights, masks = begin_anew(weights, units, initializer_range(folder), settings.seed, f"{stream}/units", means)
        metrics["switch/reset_units"] = float(sum(int(mask.sum()) for mask in units.values()))
    names = parameter_names(folder)  # a weight that is tied to another counts once
    metrics["switch/weight_change_rms"] = rms_distance(
        {name: weights[name] for name in names}, {name: before[name] for name in names}
    )
    if metrics["switch/weight_change_rms"]:
        learner.set_weights(weights)
        learner.clear_moments(masks)
    return metrics, groups


def _sampled(settings: RunSettings, ended: Phase, stream: str, ports: StepPorts, pool: MeteredPool) -> list[Group]:
    """One completion each of `switch.problems` problems of the phase that ended, by the policy as it is."""
    rollout = settings.rollout
    problems = with_prefixes(ended.some(settings.switch.problems, settings.seed, stream), ports.learner.prefixes())
    sampling = Sampling(settings.seed, stream, 1, rollout.max_tokens, rollout.temperature, rollout.top_p)
    return pool.generate(publish(ports.pool, ports.learner), problems, sampling)


def _activity(groups: Sequence[Group], ended: Phase, ports: StepPorts, pool: MeteredPool) -> dict[str, Activity]:
    """What the gated units do on these completions."""
    rows = [(group.prompt_tokens, completion.tokens) for group in groups for completion in group.completions]
    measured: Mapping[str, Any] = pool.inspect(publish(ports.pool, ports.learner), partial(unit_activity, rows=rows))
    known = gated_layers(ports.learner.weights())
    activity = {layer: of for layer, of in measured.items() if layer in known}
    if not activity:
        raise RuntimeError(f"switch after {ended.name}: the trained model has no gated MLP whose units could be reset")
    return activity


def _cost(groups: Sequence[Group], pool: MeteredPool) -> dict[str, int]:
    completions = [completion for group in groups for completion in group.completions]
    return {
        "completions": len(completions),
        "sampled_tokens": sum(len(completion.tokens) for completion in completions),
        "forward_tokens": pool.generated + pool.forward,
    }
