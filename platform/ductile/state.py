"""Where a run stands, and its checkpoint: a learner's folder, the difficulty table, and `state.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file, save_file

from ductile.checkpoint import write_text
from ductile.identity import Identity
from ductile.manifest import WrongCheckpoint
from ductile.step import Ports

VERSION = 1
"""Of `state.json`."""


@dataclass
class State:
    """With the learner's folder it is the whole checkpoint.

    phase_version: the learner's version at the start of the phase that goes on, or that the last boundary ended.
    audits: rows of `audit.audit_row`, in order.
    pending: boundaries whose branches go on beside the run; their snapshots are named by `snapshot_name`.
    """

    phase: int = 0
    step: int = 0  # within the phase
    total: int = 0  # over all phases
    phase_version: int = 0
    boundaries: list[dict[str, Any]] = field(default_factory=list)
    audits: list[dict[str, Any]] = field(default_factory=list)
    budget: dict[str, int] = field(default_factory=dict)
    pending: list[int] = field(default_factory=list)

    def spend(self, spent: Mapping[str, int]) -> None:
        """Add to the budget what no step spends: `budget/...` without the prefix -> how much."""
        for name, value in spent.items():
            self.budget[name] = self.budget.get(name, 0) + value


def snapshot_name(boundary: int) -> str:
    """The name under which the store keeps the learner of a boundary for its branches."""
    return f"boundary-{boundary}"


def drop_done(ports: Ports, pending: Sequence[int]) -> None:
    """Remove the snapshots of boundaries whose branches are done."""
    ports.store.drop_snapshots([snapshot_name(boundary) for boundary in pending])


def save(ports: Ports, state: State, identity: Identity) -> None:
    """Begin the checkpoint of this moment: what later steps change is copied before this returns."""
    ports.store.wait()
    learner = ports.learner.capture()
    arrays = {
        "difficulty.safetensors": dict(ports.difficulty.snapshot()),
        "reestimation.safetensors": dict(ports.reestimation.snapshot()),
    }
    if ports.ahead:
        arrays["ahead.safetensors"] = ports.ahead.snapshot()
    document = json.dumps(
        {
            "version": VERSION,
            "fingerprint": identity.run,
            "state": asdict(state),
            "course": ports.course.snapshot(),
            "contexts": ports.contexts.snapshot(),
            "tracker": ports.tracker.position(),
        }
    )
    first = ports.store.first

    def write(folder: Path) -> None:
        learner(folder / "learner")
        if first:
            for name, tensors in arrays.items():
                save_file(tensors, folder / name)
            write_text(folder / "state.json", document)

    ports.store.save(write, None if state.step else state.phase)


def resume(ports: Ports, identity: Identity) -> State:
    """The state of the latest checkpoint, learner and difficulty table restored; a new one where there is none."""
    folder = ports.store.latest()
    if folder is None:
        return State()
    document = json.loads((folder / "state.json").read_text())
    if document["version"] > VERSION:
        raise WrongCheckpoint(
            f"{folder}/state.json has version {document['version']}, and this Ductile reads up to {VERSION}; install "
            f"the one that wrote it, or change `output` to begin anew"
        )
    if document["fingerprint"] != identity.run:
        raise WrongCheckpoint(
            f"{folder} was written by a run with another model, plan, variant, seed or setting "
            f"(fingerprint {document['fingerprint']}, this run's is {identity.run}); move it away or change `output`"
        )
    ports.learner.load(folder / "learner")
    ports.difficulty.restore(load_file(folder / "difficulty.safetensors"))
    ports.reestimation.restore(load_file(folder / "reestimation.safetensors"))
    if ports.ahead:
        ports.ahead.restore(load_file(folder / "ahead.safetensors"))
    ports.course.restore(document["course"])
    ports.contexts.restore(document["contexts"])
    return State(**document["state"])
