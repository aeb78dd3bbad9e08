"""Runs of two tiny phases at every ZeRO stage, outside of the test process, as JSON.

    python stages.py BASE EXPERT FOLDER OPTIONS

BASE and EXPERT are Hugging Face folders; OPTIONS is JSON: variant -> options. Writes FOLDER/resumed.json, for each
variant and stage the final weights of a whole run and of one that was killed after its first phase and resumed, and
FOLDER/switched.json, the final weights of a run whose switch fuses and resets, on every engine.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ductile.config import RunSettings
from ductile.identity import identify
from ductile.learner import make_learner
from ductile.local import local_ports
from ductile.loop import run
from ductile.settings import build
from ductile.variants import make_variant
from tests.ductile.test_resume import Interrupted, MemoryTracker

KINDS = ("torch", "zero0", "zero1", "zero2", "zero3")
PLAN = {
    "phase": {
        "easy": {"domain": {"name": "chain_sum"}, "levels": [2], "steps": 1, "pool": 16},
        "hard": {"domain": {"name": "sort_digits"}, "levels": [3], "steps": 1, "pool": 16},
    },
    "objective": {"entropy": 0.1},  # every step has a gradient, whatever an untrained model solves
    "rollout": {"groups": 2, "group_size": 2, "max_tokens": 5},
    "probe": {"probes": []},
}
CALLS_OF_THE_FIRST_PHASE = 3
"""Of `Tracker.metrics`: boundary, step, boundary. The one after it finds the phase's checkpoint written."""


def run_of(
    kind: str,
    variant: Mapping[str, Any],
    switch: Mapping[str, Any],
    models: list[Path],
    folder: Path,
    tracker: MemoryTracker,
) -> list[float]:
    """The trainable member's weights at the end, and those of experts. kind: torch, or zero0 to zero3."""
    engine = {"engine": "torch"} if kind == "torch" else {"engine": "deepspeed", "zero": int(kind[-1])}
    values = {**PLAN, "variant": variant, "switch": switch, "learner": engine | {"lr": 1e-2}}
    settings = build(RunSettings, values)
    made = make_variant(settings.variant)
    learner = make_learner(settings, made, models[0], models[1])
    run(
        settings,
        made,
        local_ports(settings, made, learner, tracker, folder, folder / "memory"),
        identify(settings, models),
    )
    states = [learner.weights(), *(weights for _, weights in learner.experts().values() if weights)]
    return torch.cat([tensor.flatten().float() for state in states for tensor in state.values()]).tolist()


def resumed(kind: str, variant: Mapping[str, Any], models: list[Path], folder: Path) -> dict[str, list[float] | bool]:
    """With an optimizer that is carried over the switch: a resume that lost it would end elsewhere."""
    whole = run_of(kind, variant, {}, models, folder / "whole", MemoryTracker())
    try:
        run_of(kind, variant, {}, models, folder / "cut", MemoryTracker(CALLS_OF_THE_FIRST_PHASE))
    except Interrupted:
        return {"whole": whole, "resumed": run_of(kind, variant, {}, models, folder / "cut", MemoryTracker())}
    raise RuntimeError(f"{kind}, {variant['name']}: the run was not killed")


def main(base: str, expert: str, folder: Path, options: Mapping[str, Mapping[str, Any]]) -> None:
    torch.set_num_threads(1)
    models = [Path(base), Path(expert)]
    after_kill = {
        name: {kind: resumed(kind, {"name": name, **values}, models, folder / name / kind) for kind in KINDS[1:]}
        for name, values in options.items()
    }
    (folder / "resumed.json").write_text(json.dumps(after_kill))
    switch = {"fusion": 0.5, "optimizer": "reset"}
    alike = {
        kind: run_of(kind, {"name": "parameter_only"}, switch, models, folder / "switched" / kind, MemoryTracker())
        for kind in KINDS
    }
    carried = run_of("torch", {"name": "parameter_only"}, {}, models, folder / "carried", MemoryTracker())
    (folder / "switched.json").write_text(json.dumps({**alike, "carried": carried}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), json.loads(sys.argv[4]))
