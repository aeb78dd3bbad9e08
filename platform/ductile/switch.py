"""What is done to the policy between two phases, in one order; branches begin with it too.

The boundary after a phase is measured before the switch, so that it tells what the phase did. A branch begins with the
switch, as the next phase would: it tells what the policy can still learn under this way of going on.

First what EWC keeps of the phase, and the variant's own part, then adapters merged or reset, fusion, shrink and
perturb, units that begin anew, and at last the optimizer. With a composed policy all of it acts on the trainable
member, whose base is the folder that it began as.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor

from ductile.config import RunSettings, SwitchSettings
from ductile.contexts.context import with_prefixes
from ductile.interventions.fusion import fuse
from ductile.interventions.perturb import shrink_and_perturb
from ductile.interventions.units import Activity, activity, dormant, least_useful, restart
from ductile.plan import Phase
from ductile.ports import Sampling
from ductile.problem import Group
from ductile.step import StepPorts, publish
from ductile.variants.base import Variant


def switch(settings: RunSettings, variant: Variant, ended: Phase, stream: str, ports: StepPorts) -> dict[str, float]:
    """Do it, before the next phase starts. stream: keys everything random. Returns metrics of what was done."""
    if settings.variant.ewc is not None:  # before anything moves the weights: they are what the phase has learned
        ports.learner.consolidate(ended_groups(settings, ended, f"{stream}/fisher", ports))
    variant.switch(settings, ended, stream, ports)
    wanted, learner = settings.switch, ports.learner
    learner.switch_adapters()
    before = learner.weights()
    weights: Mapping[str, Tensor] = before
    masks: dict[str, Tensor] = {}
    metrics: dict[str, float] = {}
    # What the units do is measured on the policy as the phase left it.
    acts = _activity(settings, ended, stream, ports) if _restarts(wanted) else {}
    if wanted.fusion is not None:
        weights = fuse(weights, learner.base_weights(), wanted.fusion)
    if wanted.shrink is not None or wanted.perturb is not None:
        factor = 1.0 if wanted.shrink is None else wanted.shrink
        weights = shrink_and_perturb(weights, factor, wanted.perturb or 0.0, f"{settings.seed}/{stream}/perturb")
    if acts:
        weights, masks, metrics = _restarted(settings, weights, acts, stream, learner.initial_deviation())
    if weights is not before:
        learner.set_weights(weights)
        learner.clear_moments(masks)
        metrics["switch/weight_change_rms"] = _rms_change(before, weights)
    if wanted.optimizer == "reset":
        learner.reset_optimizer()
    return metrics


def switch_stream(ended: str) -> str:
    """The stream of the switch after a phase: the run's and its branches' are the same."""
    return f"switch/{ended}"


def ended_groups(settings: RunSettings, ended: Phase, stream: str, ports: StepPorts) -> list[Group]:
    """One completion of each of `switch.problems` problems of the phase's pool, by the policy as the phase left it."""
    rollout = settings.rollout
    problems = with_prefixes(list(ended.pool.values())[: settings.switch.problems], ports.learner.prefixes())
    sampling = Sampling(settings.seed, stream, 1, rollout.max_tokens, rollout.temperature, rollout.top_p)
    return ports.pool.generate(publish(ports.pool, ports.learner), problems, sampling)


def _restarts(wanted: SwitchSettings) -> bool:
    return wanted.redo is not None or wanted.utility_reset is not None


def _activity(settings: RunSettings, ended: Phase, stream: str, ports: StepPorts) -> dict[str, Activity]:
    """Of every MLP's units; raises `RuntimeError` for an architecture whose MLPs are not known."""
    groups = ended_groups(settings, ended, f"{stream}/units", ports)
    rows: Any = [(group.prompt_tokens, completion.tokens) for group in groups for completion in group.completions]
    found = ports.pool.inspect(publish(ports.pool, ports.learner), partial(activity, rows=rows))
    if not found:
        raise RuntimeError("switch: the MLPs of this architecture are not known; leave redo and utility_reset unset")
    return found


def _restarted(
    settings: RunSettings, weights: Mapping[str, Tensor], acts: Mapping[str, Activity], stream: str, deviation: float
) -> tuple[Mapping[str, Tensor], dict[str, Tensor], dict[str, float]]:
    """Weights, masks of what changed, and how many units began anew, together and as a share."""
    wanted, units, reset = settings.switch, 0, 0
    masks: dict[str, Tensor] = {}
    for layer, acting in acts.items():
        chosen = acting.size < 0  # none
        if wanted.redo is not None:
            chosen = chosen | dormant(acting.size, wanted.redo)
        if wanted.utility_reset is not None:
            chosen = chosen | least_useful(acting.size, weights[f"{layer}.weight"], wanted.utility_reset)
        units, reset = units + len(chosen), reset + int(chosen.sum())
        if chosen.any():
            key = f"{settings.seed}/{stream}/units"
            weights, changed = restart(weights, layer, chosen, acting.mean, deviation, key)
            masks |= changed
    return weights, masks, {"switch/reset_units": float(reset), "switch/reset_share": reset / units}


def _rms_change(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> float:
    """Root mean square change over all numbers of the state dict."""
    squares = sum(float(((after[name].double() - tensor.double()) ** 2).sum()) for name, tensor in before.items())
    return (squares / sum(tensor.numel() for tensor in before.values())) ** 0.5
