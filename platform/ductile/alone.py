"""Probes without a run: of a base, and of what a checkpoint or another folder holds, beside its base."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from ductile.branch import Branches
from ductile.config import RunSettings
from ductile.identity import Identity
from ductile.measure import Measure
from ductile.plan import Plan, make_plan
from ductile.ports import PolicyRef
from ductile.state import State
from ductile.step import Ports, publish
from ductile.variants.base import Variant


def measure_alone(
    settings: RunSettings,
    variant: Variant,
    ports: Ports,
    identity: Identity,
    after: str = "",
    checkpoint: Path | None = None,
) -> list[dict[str, Any]]:
    """The rows of `probe.probes` on the base and, with `after`, on what the learner holds: metrics and tables.

    after:      what `identity` does not say of the learner's weights (a fingerprint); empty: the base alone
    checkpoint: the folder that the loop saved and the weights are from, if they are from one: the boundaries between
                the base and it are read there, so that what is measured against the past has a past
    Both rows are kept in the store, the base's for all that is compared with it.
    """
    settings = _everywhere(settings)
    branches = Branches(settings.probe.branch, ports.brancher, ports.store, identity.start)
    # What no loop saved is at the end of no phase.
    plan = make_plan(settings, ports.resolve) if checkpoint else Plan(settings.plan, ())
    measure = Measure(settings, variant, plan, ports, branches)

    def kept(state: State, policy: PolicyRef, key: str) -> None:
        known = ports.store.remember(key)
        if known is None:
            measure.boundary(state, policy)
            ports.store.keep(key, state.boundaries[-1])
        else:
            state.boundaries.append(known)

    state = State()
    kept(state, PolicyRef(ports.learner.origin, None, 0), f"probes-{identity.run}")
    if not after:
        return state.boundaries
    if checkpoint is not None:
        document = json.loads((checkpoint / "state.json").read_text())
        stand = document["state"]
        ports.contexts.restore(document["contexts"])
        over = stand["phase"] + (stand["step"] > 0)  # a phase that goes on counts as the one that is looked at
        if not over:  # written before the first step: the base itself
            return state.boundaries
        state.boundaries += stand["boundaries"][1:over]
        state.total, state.phase_version = stand["total"], stand["phase_version"]
        after = f"{after}-{over}-{state.total}"  # silent steps leave the weights as they were
    kept(state, publish(ports.pool, ports.learner), f"probes-{identity.run}-{after}")
    return [state.boundaries[0], state.boundaries[-1]]


def _everywhere(settings: RunSettings) -> RunSettings:
    """The same settings with `probe.probes` at every boundary, and no branch beside: there is nothing to be beside."""
    probe = replace(settings.probe, start=None, branch=replace(settings.probe.branch, beside=False))
    phases = {name: replace(phase, probes=None) for name, phase in settings.phase.items()}
    return replace(settings, probe=probe, phase=phases)
