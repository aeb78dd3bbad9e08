"""What a run measures at its boundaries and inside its phases. Nothing here changes the run."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from ductile.audit import audit_metrics, audit_row
from ductile.branch import Branches
from ductile.channels import context_arms, weight_arms
from ductile.config import RunSettings
from ductile.deployed import DeployedPool
from ductile.metrics import check_declared
from ductile.plan import Phase, Plan
from ductile.ports import PolicyRef, RolloutPool
from ductile.probes import ProbeContext, ProbeResult, expand, run_probes
from ductile.probes.base import Arm
from ductile.probes.branch import Arms, plasticity
from ductile.probes.evaluation import honest
from ductile.randomness import same_randomness
from ductile.schedule import boundary_probes
from ductile.state import State, drop_done, snapshot_name
from ductile.step import Ports
from ductile.variants.base import Dialled, Variant

T = TypeVar("T")
Channels = dict[str, dict[str, Arm]]
"""Phase -> name of a cell -> the cell (`probes.channels`)."""


@dataclass
class Measure:
    """The probes of a run. Branches run in turn, or beside the run: then `complete` adds what they measured."""

    settings: RunSettings
    variant: Variant
    plan: Plan
    ports: Ports
    branches: Branches
    _start: tuple[int, PolicyRef] | None = field(default=None, init=False)  # of the phase of this number

    def boundary(self, state: State, policy: PolicyRef) -> None:
        """Measure everything that is due at a phase boundary and keep it with the run."""
        started, boundary = time.monotonic(), len(state.boundaries)
        names = boundary_probes(self.settings, boundary)
        channels = self._channels(policy)
        if channels and "channels" not in names:
            names = (*names, "channels")  # always: nothing else tells what was learned fast from what slowly

        def begin(name: str) -> None:
            self.ports.tracker.progress(phase=f"probe {name}", step=state.total, steps=self.plan.steps)

        phase = boundary - 1 if 0 < boundary <= len(self.plan.phases) else None
        with same_randomness():
            context = self._context(state, policy, phase, lambda: self._branch(state), channels)
            result = run_probes(context, names, begin)
        metrics = {**result.metrics, "time/probe_s": time.monotonic() - started}
        check_declared(metrics)
        name = self.plan.phases[phase].name if phase is not None else "after" if boundary else "base"
        row = {"boundary": boundary, "step": state.total, "phase": name, "metrics": metrics, "tables": result.tables}
        state.boundaries.append(row)
        self.ports.tracker.metrics(metrics, state.total)
        self._keep(state)

    def inside(self, state: State, policy: PolicyRef) -> None:
        """Measure `probe.inside` between boundaries, for the curves."""
        with same_randomness():
            context = self._context(state, policy, state.phase, None)
            result = run_probes(context, expand(self.settings.probe.inside))
        check_declared(result.metrics)
        self.ports.tracker.metrics(result.metrics, state.total)

    def estimates(self, state: State, policy: PolicyRef, phase: Phase) -> None:
        """Before a step and after the last: give estimators what they need of the policy, and audit them when due."""
        reestimation, tracker, audit = self.ports.reestimation, self.ports.tracker, self.settings.difficulty.audit
        stream = f"train/{state.phase}/{state.step}"
        metrics, spent = reestimation.refresh(policy, phase, state.step, stream)
        state.spend(spent)
        metrics |= {f"budget/{name}": float(state.budget[name]) for name in spent}
        if audit.every and (state.step % audit.every == 0 or state.step == phase.steps):
            with same_randomness():
                pool, unseen = reestimation.audit(policy, phase, state.step)
            row = audit_row(
                phase=state.phase,
                name=phase.name,
                step=state.step,
                total_step=state.total,
                version=policy.version,
                pool=pool,
                unseen=unseen,
                band=self.settings.difficulty.band,
                bins=audit.bins,
            )
            state.audits.append(row)
            metrics |= audit_metrics(row)
            tracker.artifact("audits.json", json.dumps(state.audits))
        if metrics:
            check_declared(metrics)
            tracker.metrics(metrics, state.total)

    def begin_pending(self, state: State) -> None:
        """Submit again what an earlier process submitted and did not collect."""
        drop_done(self.ports, state.pending)
        for boundary in state.pending:
            self.branches.submit(*self._begin(boundary))

    def complete(self, state: State, save: Callable[[], None]) -> None:
        """Wait for the branches beside the run, boundary by boundary, and add what they measured to its row."""
        while state.pending:
            boundary = state.pending[0]
            arms = self.branches.measured(*self._begin(boundary))
            settings = self.settings
            result = plasticity(arms, settings.probe.branch.threshold, settings.rollout.group_size, settings.seed)
            check_declared(result.metrics)
            row = state.boundaries[boundary]
            row["metrics"] = {**row["metrics"], **result.metrics}
            row["tables"] = {**row["tables"], **result.tables}
            self.ports.tracker.metrics(result.metrics, row["step"])
            del state.pending[0]
            self._keep(state)
            save()
            drop_done(self.ports, state.pending)

    def _branch(self, state: State) -> Arms | None:
        """The branches of the boundary that is being measured; None when they go on beside the run."""
        boundary = len(state.boundaries)
        if boundary:
            self.ports.store.snapshot(snapshot_name(boundary), self.ports.learner.capture())
        if self.settings.probe.branch.beside:
            self.branches.submit(*self._begin(boundary))
            state.pending.append(boundary)
            return None
        arms = self.branches.measured(*self._begin(boundary))
        drop_done(self.ports, state.pending)
        return arms

    def _begin(self, boundary: int) -> tuple[Path | None, str | None]:
        """Where the branches of a boundary begin: snapshot and name of the phase that ended, where one did.

        At boundary 0 there is none: it is the untouched base, whatever the plan.
        """
        if not boundary:
            return None, None
        phases = self.plan.phases
        ended = phases[boundary - 1].name if boundary <= len(phases) else None
        return self.ports.store.find_snapshot(snapshot_name(boundary)), ended

    def _context(
        self, state: State, policy: PolicyRef, phase: int | None, branch: Any, channels: Channels | None = None
    ) -> ProbeContext:
        settings, variant, ports = self.settings, self.variant, self.ports
        phases = tuple(settings.phase.items())
        return ProbeContext(
            pool=self._deployed(policy),
            judge=ports.judge,
            resolve=ports.resolve,
            policy=policy,
            base=PolicyRef(ports.learner.origin, None, 0),
            phases=phases,
            boundary=len(state.boundaries),
            history=tuple(ProbeResult(row["metrics"], row["tables"]) for row in state.boundaries),
            settings=settings.probe,
            rollout=settings.rollout,
            seed=settings.seed,
            run_branch=branch,
            phase=None if phase is None else phases[phase],
            start=None if phase is None else self._phase_start(state, phase),
            batch=lambda judged: variant.batch(judged, settings),
            objective=variant.objective(settings.objective),
            channels=channels or {},
            bare_pool=ports.pool,
            at_alpha=partial(variant.at_alpha, policy.composition) if isinstance(variant, Dialled) else None,
        )

    def _channels(self, policy: PolicyRef) -> Channels:
        """The cells of each phase whose domain has a fast channel; the untouched base has none."""
        if policy.weights is None:
            return {}
        base = PolicyRef(policy.composition, None, 0)
        learner, contexts = self.ports.learner, self.ports.contexts.deployed()
        channels, prefixes, experts = learner.channels(), learner.prefixes(), learner.experts()
        arms: Channels = {}
        for phase in self.plan.phases:
            key = phase.domain.key
            if key in contexts:
                arms[phase.name] = context_arms(policy, base, contexts[key])
            elif key in channels:
                own = experts.get(key, (policy.composition, None))[1]
                answering = policy if own is None else replace(policy, weights=self.ports.pool.publish(own))
                prefix = prefixes.get(key, ())
                arms[phase.name] = weight_arms(answering, base, channels[key], prefix, self.ports.pool)
        return arms

    def _deployed(self, policy: PolicyRef) -> RolloutPool:
        """The pool in which the policy answers each domain with the expert, context and prefix that it has for it.

        The untouched base has none of them, whatever the learner holds.
        """
        learner, pool = self.ports.learner, self.ports.pool
        if policy.weights is None:
            return pool
        measured = {phase.domain.key: self._measured_key(phase.name) for phase in self.plan.phases}

        def of_measured(values: Mapping[str, T]) -> dict[str, T]:
            return {**values, **{measured[key]: value for key, value in values.items() if key in measured}}

        experts = {
            key: policy
            if weights is learner.weights()  # the policy of the moment itself, published already
            else PolicyRef(composition, None if weights is None else pool.publish(weights), policy.version)
            for key, (composition, weights) in learner.experts().items()
        }
        contexts, prefixes = self.ports.contexts.deployed(), learner.prefixes()
        if not (experts or contexts or prefixes):
            return pool
        return DeployedPool(pool, policy, of_measured(experts), of_measured(contexts), of_measured(prefixes))

    def _measured_key(self, phase: str) -> str:
        """The key of the domain that a phase's skill is measured on: without label noise and leniency."""
        return self.ports.resolve(honest(self.settings.phase[phase].domain), f"phase.{phase}.domain").key

    def _phase_start(self, state: State, phase: int) -> PolicyRef:
        """The policy at the start of a phase, published once."""
        if self._start is None or self._start[0] != phase:
            learner = self.ports.learner
            weights = self.ports.pool.publish(learner.phase_start_weights())
            self._start = phase, PolicyRef(learner.phase_start_composition, weights, state.phase_version)
        return self._start[1]

    def _keep(self, state: State) -> None:
        self.ports.tracker.artifact("boundaries.json", json.dumps(state.boundaries, indent=1))
