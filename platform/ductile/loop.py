"""The run: RL through the phases of a plan, with probes at every phase boundary. Reads top to bottom.

The loop knows no framework. It talks to the protocols in `ports.py`; in-process ports run it in a unit test or a
debugger, and `actors/` runs the same function inside Ray Train workers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ductile.branch import Branches
from ductile.config import RunSettings
from ductile.identity import Identity
from ductile.manifest import WrongCheckpoint
from ductile.measure import Measure
from ductile.memory import remember
from ductile.metrics import check_declared, segment
from ductile.plan import Phase, Plan, make_plan
from ductile.ports import PolicyRef, Stopped, Tracker
from ductile.schedule import due_steps
from ductile.state import State, resume, save
from ductile.step import Ports, publish, train_step
from ductile.switch import switch, switch_stream
from ductile.trace import listening, span
from ductile.variants.base import Variant

__all__ = ["Ports", "State", "Stopped", "WrongCheckpoint", "run", "train_step"]


def run(settings: RunSettings, variant: Variant, ports: Ports, identity: Identity) -> list[dict[str, Any]]:
    """Run all phases; return what the probes measured at each boundary.

    A run that was interrupted goes on from its latest checkpoint, and one that is finished returns at once.
    A checkpoint of another identity is refused with `WrongCheckpoint`. A run that is asked to stop ends its step,
    writes a checkpoint and raises `Stopped`. However it ends, nothing is being written when it does.
    """
    try:
        return _run(settings, variant, ports, identity)
    finally:
        ports.store.close()


def _run(settings: RunSettings, variant: Variant, ports: Ports, identity: Identity) -> list[dict[str, Any]]:
    plan = make_plan(settings, ports.resolve)
    ports.tracker.artifact("plan.json", json.dumps([_describe(phase) for phase in plan.phases], indent=1))
    state = resume(ports, identity)
    if state.boundaries and state.phase == len(plan.phases) and not state.pending:
        ports.store.flush()  # its last checkpoint may be complete here and not yet in `checkpoint.store`
        return state.boundaries
    branches = Branches(settings.probe.branch, ports.brancher, ports.store, identity.start)
    measure = Measure(settings, variant, plan, ports, branches)
    measure.begin_pending(state)
    policy = publish(ports.pool, ports.learner)
    if not state.boundaries:
        with span("probes"):
            measure.boundary(state, policy)
        save(ports, state, identity)
    for phase in plan.phases[state.phase :]:
        if state.step == 0:
            with span("start of phase"):
                policy = _start_phase(settings, variant, plan, phase, ports, policy, state, identity)
        else:
            ports.course.resume_phase(phase, plan.phases[: state.phase])
        probe = settings.probe
        due = due_steps(phase.steps, probe.every, probe.log_spaced, len(phase.pool), settings.rollout.groups)
        between = 0.0
        while state.step < phase.steps:
            with listening(state.step < settings.trace.steps), span("step", step=state.total + 1):
                with span("estimates"):
                    measure.estimates(state, policy, phase)
                series = f"train/{state.phase}"
                policy, metrics = train_step(settings, variant, phase, ports, policy, series, state.step, state.budget)
                state.step += 1
                state.total += 1
                metrics |= {"phase/index": state.phase, **ports.store.metrics(), **_wasted(metrics, between)}
                with span("tracking") as tracking:
                    _report(ports.tracker, metrics, plan, phase, state)
                if state.step in due:
                    with span("probes"):
                        measure.inside(state, policy)
                with span("checkpoint") as checkpoint:
                    stop = ports.stop()
                    if (stop or state.step % settings.checkpoint.every == 0) and state.step < phase.steps:
                        save(ports, state, identity)
                        _leave(stop, ports, state)
                between = tracking.seconds + checkpoint.seconds
        measure.estimates(state, policy, phase)
        ports.tracker.artifact(f"difficulty/{segment(phase.name)}.json", json.dumps(ports.difficulty.estimates()))
        state.phase, state.step = state.phase + 1, 0
        with span("probes"):
            measure.boundary(state, policy)
        with span("checkpoint"):
            save(ports, state, identity)
        _leave(ports.stop(), ports, state)

    def keep() -> None:
        save(ports, state, identity)
        _leave(bool(state.pending) and ports.stop(), ports, state)

    try:
        measure.complete(state, keep)
    except Stopped:  # while branches beside the run were waited for
        _leave(True, ports, state)
    ports.store.flush()
    return state.boundaries


def _start_phase(
    settings: RunSettings,
    variant: Variant,
    plan: Plan,
    phase: Phase,
    ports: Ports,
    policy: PolicyRef,
    state: State,
    identity: Identity,
) -> PolicyRef:
    """Switch from the phase before, if any, and begin this one everywhere; returns the policy that it begins with."""
    earlier = plan.phases[: state.phase]
    if earlier:
        ended = earlier[-1]
        if done := switch(settings, variant, ended, switch_stream(ended.name), ports):
            check_declared(done)
            ports.tracker.metrics(done, state.total)
    ports.learner.start_phase(phase.domain.key)
    if earlier:
        policy = publish(ports.pool, ports.learner)
    remember(settings, earlier, phase.name, policy, ports.pool, ports.learner, ports.resolve)
    base = PolicyRef(ports.learner.origin, None, 0)
    state.spend(ports.reestimation.start_phase(phase, base, identity.start))
    ports.course.start_phase(phase, earlier)
    ports.contexts.start_phase(phase)
    state.phase_version = ports.learner.version
    return policy


def _leave(stop: bool, ports: Ports, state: State) -> None:
    """Stop where the run was asked to, once what was saved is on disk."""
    if stop:
        ports.store.flush()
        raise Stopped(state.total, early=False)


def _wasted(metrics: Mapping[str, float], between: float) -> dict[str, float]:
    """The share of a step that is no work, with what tracking and checkpoint took between the one before and it."""
    share = (metrics["time/other_s"] + between) / max(metrics["time/step_s"] + between, 1e-9)
    return {"time/between_s": between, "time/other_share": share}


def _report(tracker: Tracker, metrics: dict[str, float], plan: Plan, phase: Phase, state: State) -> None:
    check_declared(metrics)
    tracker.metrics(metrics, state.total)
    tracker.progress(
        phase=phase.name,
        step=state.total,
        steps=plan.steps,
        pass_rate=metrics.get("rollout/pass_rate"),
        drift=metrics.get("learner/weight_drift_rms"),
        tokens_per_s=metrics["rollout/tokens_per_s"],
    )


def _describe(phase: Phase) -> dict[str, Any]:
    return {"name": phase.name, "domain": phase.domain.key, "levels": list(phase.levels), "steps": phase.steps}
