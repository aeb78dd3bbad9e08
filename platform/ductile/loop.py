"""The run: RL through the phases of a plan, with probes at every phase boundary. Reads top to bottom.

The loop knows no framework. It talks to the protocols in `ports.py`; in-process ports run it in a unit test or a
debugger, and `actors/` runs the same function inside Ray Train workers.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ductile.checkpoint import write_text
from ductile.config import BranchSettings, RunSettings
from ductile.difficulty.service import DifficultyTable
from ductile.identity import Identity
from ductile.metrics import check_declared, segment
from ductile.plan import Phase, Plan, ResolveDomain, make_phase, make_plan, require_problems
from ductile.ports import (
    DifficultyService,
    Judge,
    Learner,
    PolicyRef,
    RolloutPool,
    Sampling,
    Store,
    Tracker,
)
from ductile.probes import INSIDE_A_PHASE, ProbeContext, ProbeResult, run_probes
from ductile.problem import SUCCESS, JudgedGroup
from ductile.rl.statistics import group_statistics
from ductile.variants.base import Variant


@dataclass(frozen=True)
class Ports:
    """Everything that the loop talks to."""

    pool: RolloutPool
    learner: Learner
    difficulty: DifficultyService
    judge: Judge
    tracker: Tracker
    store: Store
    resolve: ResolveDomain


@dataclass
class State:
    """Where the run stands; with the learner's folder it is the whole checkpoint."""

    phase: int = 0
    step: int = 0  # within the phase
    total: int = 0  # over all phases
    boundaries: list[dict[str, Any]] = field(default_factory=list)
    budget: dict[str, int] = field(default_factory=dict)


class WrongCheckpoint(RuntimeError):
    """The checkpoint belongs to another model, plan, variant or seed."""


def run(settings: RunSettings, variant: Variant, ports: Ports, identity: Identity) -> list[dict[str, Any]]:
    """Run all phases; return what the probes measured at each boundary.

    A run that was interrupted goes on from its latest checkpoint, and one that is finished returns at once.
    A checkpoint of another identity is refused with `WrongCheckpoint`.
    """
    plan = make_plan(settings, ports.resolve)
    ports.tracker.artifact("plan.json", json.dumps([_describe(phase) for phase in plan.phases], indent=1))
    state = _resume(ports, identity)
    if state.boundaries and state.phase == len(plan.phases):
        return state.boundaries
    policy = _publish(ports.pool, ports.learner)

    def save() -> None:
        ports.store.save(lambda folder: _write(folder, ports, state, identity))

    if not state.boundaries:
        _probe(settings, variant, plan, ports, state, policy, identity)
        save()
    for phase in plan.phases[state.phase :]:
        if state.step == 0:
            ports.learner.start_phase()
            ports.difficulty.start_phase(list(phase.pool))
        while state.step < phase.steps:
            stream = f"train/{state.phase}/{state.step}"
            policy, metrics = train_step(settings, variant, phase, ports, policy, stream, state.step, state.budget)
            state.step += 1
            state.total += 1
            metrics["phase/index"] = state.phase
            _report(ports.tracker, metrics, plan, phase, state)
            if settings.probe.every and state.step % settings.probe.every == 0 and state.step < phase.steps:
                _probe_inside(settings, ports, state, policy)
            if state.step % settings.checkpoint_every == 0 and state.step < phase.steps:
                save()
        ports.tracker.artifact(f"difficulty/{segment(phase.name)}.json", json.dumps(ports.difficulty.estimates()))
        state.phase, state.step = state.phase + 1, 0
        _probe(settings, variant, plan, ports, state, policy, identity)
        save()
    return state.boundaries


def train_step(
    settings: RunSettings,
    variant: Variant,
    phase: Phase,
    ports: Ports,
    policy: PolicyRef,
    stream: str,
    step: int,
    budget: dict[str, int],
) -> tuple[PolicyRef, dict[str, float]]:
    """Select, sample, judge, update, publish, observe: one RL step. Returns the new policy and the step's metrics."""
    rollout, started = settings.rollout, time.monotonic()
    ids = ports.difficulty.select(rollout.groups, step, settings.seed)
    problems = [phase.pool[id] for id in ids]
    sampling = Sampling(
        settings.seed, stream, rollout.group_size, rollout.max_tokens, rollout.temperature, rollout.top_p
    )
    groups = ports.pool.generate(policy, problems, sampling)
    sampled = time.monotonic()
    judged = ports.judge.judge(groups)
    metrics = group_statistics(judged, settings.objective.advantage)
    metrics |= ports.learner.update(variant.batch(judged, settings))
    policy = _publish(ports.pool, ports.learner)
    metrics |= ports.difficulty.observe(_successes(judged), step)
    tokens = sum(len(completion.tokens) for group in groups for completion in group.completions)
    spent = {
        "completions": sum(len(group.completions) for group in groups),
        "sampled_tokens": tokens,
        "forward_tokens": tokens * len(policy.composition.members),
        "trained_tokens": int(metrics["learner/tokens"]),
    }
    for name, value in spent.items():
        budget[name] = budget.get(name, 0) + value
        metrics[f"budget/{name}"] = float(budget[name])
    metrics["rollout/seconds"] = sampled - started
    metrics["rollout/tokens_per_s"] = tokens / max(sampled - started, 1e-9)
    metrics["time/step_s"] = time.monotonic() - started
    return policy, metrics


def run_branch(
    settings: RunSettings,
    variant: Variant,
    branch: BranchSettings,
    ports: Ports,
    stream: str,
    evaluate: Callable[[PolicyRef, int], float],
) -> dict[str, Any]:
    """RL for a fixed budget from the learner's weights, on a learner and a difficulty table that are thrown away.

    `evaluate(policy, step)` measures a pass rate; it is called `branch.evals` times, evenly spaced, first before
    the first step and last after the last. Returns plain values: steps, pass_rates, silent_share.
    """
    phase = make_phase("branch", branch, settings.seed, ports.resolve, "probe.branch")
    require_problems(phase, settings.rollout.groups, "probe.branch")
    table = DifficultyTable(settings.difficulty)
    table.start_phase(list(phase.pool))
    learner = ports.learner.branch()
    learner.start_phase()
    throwaway = replace(ports, learner=learner, difficulty=table)
    due = {round(i * branch.steps / (branch.evals - 1)) for i in range(branch.evals)}
    policy = _publish(ports.pool, learner)
    steps, rates, silent = [0], [evaluate(policy, 0)], []
    for step in range(branch.steps):
        policy, metrics = train_step(settings, variant, phase, throwaway, policy, f"{stream}/{step}", step, {})
        silent.append(metrics.get("rollout/silent_share", 1.0))  # nothing judged is no gradient either
        if step + 1 in due:
            steps.append(step + 1)
            rates.append(evaluate(policy, step + 1))
    return {"steps": steps, "pass_rates": rates, "silent_share": sum(silent) / len(silent)}


def _probe(
    settings: RunSettings,
    variant: Variant,
    plan: Plan,
    ports: Ports,
    state: State,
    policy: PolicyRef,
    identity: Identity,
) -> None:
    """Measure everything at a phase boundary and keep it with the run."""
    started, boundary = time.monotonic(), len(state.boundaries)
    ports.tracker.progress(phase="probes", step=state.total, steps=plan.steps)

    def branch(evaluate: Callable[[PolicyRef, int], float]) -> dict[str, Any]:
        # Before any step the branch starts from the untouched base, whatever the plan: measured once, then remembered.
        key = f"branch-{identity.start}"
        known = ports.store.remember(key) if state.total == 0 else None
        result = known or run_branch(settings, variant, settings.probe.branch, ports, "branch", evaluate)
        if state.total == 0 and known is None:
            ports.store.keep(key, result)
        return result

    result = run_probes(_context(settings, ports, state, policy, branch), settings.probe.probes)
    metrics = {**result.metrics, "time/probe_s": time.monotonic() - started}
    check_declared(metrics)
    phase = plan.phases[boundary - 1].name if boundary else "base"
    row = {"boundary": boundary, "step": state.total, "phase": phase, "metrics": metrics, "tables": result.tables}
    state.boundaries.append(row)
    ports.tracker.metrics(metrics, state.total)
    ports.tracker.artifact("boundaries.json", json.dumps(state.boundaries, indent=1))


def _probe_inside(settings: RunSettings, ports: Ports, state: State, policy: PolicyRef) -> None:
    """Measure the cheap probes between boundaries, for the curves."""
    cheap = [name for name in settings.probe.probes if name in INSIDE_A_PHASE]
    result = run_probes(_context(settings, ports, state, policy, None), cheap)
    check_declared(result.metrics)
    ports.tracker.metrics(result.metrics, state.total)


def _context(settings: RunSettings, ports: Ports, state: State, policy: PolicyRef, branch: Any) -> ProbeContext:
    return ProbeContext(
        pool=ports.pool,
        judge=ports.judge,
        resolve=ports.resolve,
        policy=policy,
        base=PolicyRef(policy.composition, None, 0),
        phases=tuple(settings.phase.items()),
        boundary=len(state.boundaries),
        history=tuple(ProbeResult(row["metrics"], row["tables"]) for row in state.boundaries),
        settings=settings.probe,
        rollout=settings.rollout,
        seed=settings.seed,
        run_branch=branch,
    )


def _publish(pool: RolloutPool, learner: Learner) -> PolicyRef:
    return PolicyRef(learner.composition, pool.publish(learner.weights()), learner.version)


def _successes(judged: Sequence[JudgedGroup]) -> dict[str, tuple[int, int]]:
    """Problem id -> (successes, judged completions); a reward above one half is a success."""
    counts = {}
    for group in judged:
        rewards = group.rewards[~np.isnan(group.rewards)]
        counts[group.group.problem.id] = (int((rewards > SUCCESS).sum()), len(rewards))
    return counts


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


def _write(folder: Path, ports: Ports, state: State, identity: Identity) -> None:
    ports.learner.save(folder / "learner")
    document = {
        "fingerprint": identity.run,
        "state": asdict(state),
        "difficulty": ports.difficulty.snapshot(),
        "tracker": ports.tracker.position(),
    }
    write_text(folder / "state.json", json.dumps(document))


def _resume(ports: Ports, identity: Identity) -> State:
    folder = ports.store.latest()
    if folder is None:
        return State()
    document = json.loads((folder / "state.json").read_text())
    if document["fingerprint"] != identity.run:
        raise WrongCheckpoint(
            f"{folder} was written by a run with another model, plan, variant, seed or setting "
            f"(fingerprint {document['fingerprint']}, this run's is {identity.run}); move it away or change `output`"
        )
    ports.learner.load(folder / "learner")
    ports.difficulty.restore(document["difficulty"])
    return State(**document["state"])


def _describe(phase: Phase) -> dict[str, Any]:
    return {"name": phase.name, "domain": phase.domain.key, "levels": list(phase.levels), "steps": phase.steps}
