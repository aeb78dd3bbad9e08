"""A run that is interrupted at any call of any port, or anywhere in the writing of a checkpoint, ends as if it was not.

Each case stops a run at one point and resumes it. Two runs are equal when their last checkpoints have the same files by
hash (weights, optimizer, difficulty table, re-estimation, all but state.json), and the same boundaries and metrics.
"""

from __future__ import annotations

import json
import pathlib
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ductile import checkpoint, learner, manifest, state
from ductile.config import RunSettings
from ductile.engines import shards
from ductile.identity import identify
from ductile.learner import make_learner
from ductile.local import local_ports
from ductile.loop import run
from ductile.settings import build
from ductile.variants import make_variant
from tests.ductile.test_resume import Interrupted, MemoryTracker, without_times

pytestmark = pytest.mark.runs

PORTS = ("pool", "learner", "difficulty", "judge", "course", "reestimation", "tracker", "store")
WRITING = (
    (shards, "save_file"), (learner, "save_file"), (learner, "write_text"), (state, "save_file"),
    (state, "write_text"), (manifest, "_hash"), (checkpoint, "write_text"), (checkpoint, "_flush_folders"),
    (pathlib.Path, "rename"), (pathlib.Path, "replace"), (checkpoint.FolderStore, "_tidy"),
)  # fmt: skip
PLAN = {
    "variant": {"name": "low_drift", "kl": 0.5, "kl_estimator": "k3", "anchor": "ema", "ema_decay": 0.8},
    "phase": {
        "easy": {"domain": {"name": "chain_sum"}, "levels": [2], "steps": 2, "pool": 16},
        "hard": {"domain": {"name": "sort_digits"}, "levels": [3], "steps": 1, "pool": 16},
    },
    "learner": {"engine": "torch", "lr": 1e-3},
    "objective": {"entropy": 0.1},  # every step has a gradient, whatever an untrained model solves
    "rollout": {"groups": 2, "group_size": 2, "max_tokens": 4},
    "difficulty": {"reestimate": 0.5},
    "probe": {"probes": []},
}  # fmt: skip

Point = tuple[str, int]
"""The name of a call, and which of the calls of that name."""


class Calls:
    """Counts calls by name; raises `Interrupted` in place of the one at `stop`."""

    def __init__(self, stop: Point | None = None) -> None:
        self.made: Counter[str] = Counter()
        self._stop = stop

    def watched(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any, **keywords: Any) -> Any:
            self.made[name] += 1
            if (name, self.made[name]) == self._stop:
                raise Interrupted
            return call(*arguments, **keywords)

        return watched


class Port:
    def __init__(self, name: str, target: Any, calls: Calls) -> None:
        self._name, self._target, self._calls = name, target, calls

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._target, name)
        # What ends a run is no place to end it: `close` is called when it already has.
        watch = callable(value) and name != "close"
        return self._calls.watched(f"{self._name}.{name}", value) if watch else value


@contextmanager
def watched_writing(calls: Calls) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for place, name in WRITING:
            patch.setattr(
                place, name, calls.watched(f"{place.__name__.removeprefix('ductile.')}:{name}", getattr(place, name))
            )
        yield


def settings(background: bool) -> RunSettings:
    return build(RunSettings, {**PLAN, "checkpoint": {"every": 1, "background": background}})


def start(wanted: RunSettings, model: Path, folder: Path, tracker: MemoryTracker, calls: Calls) -> None:
    variant = make_variant(wanted.variant)
    trained = make_learner(wanted, variant, model, model, folder / "run" / "models")
    ports = local_ports(wanted, variant, trained, tracker, folder / "run", folder / "memory")
    watched = replace(ports, **{name: Port(name, getattr(ports, name), calls) for name in PORTS})
    with watched_writing(calls):
        run(wanted, variant, watched, identify(wanted, [model]))


def ended(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Files of the last checkpoint by hash, and the run's boundaries."""
    latest = max((folder / "run").glob("checkpoint-*"))
    manifest.verify(latest)
    files = manifest.manifest_of(latest)["files"]
    boundaries = json.loads((latest / "state.json").read_text())["state"]["boundaries"]
    return {name: file for name, file in files.items() if name != "state.json"}, without_times(boundaries)


def points(made: Counter[str]) -> list[Point]:
    """One call of each name, now an early one and now a late one: a case is two runs, and all calls are hundreds."""
    return [(name, 1 + zlib.crc32(name.encode()) % count) for name, count in sorted(made.items())]


@pytest.mark.parametrize("background", [False, True], ids=["foreground", "background"])
def test_interrupted_at_any_point_and_resumed_is_the_uninterrupted_run(
    background: bool, tiny_folder: str, tmp_path: Path
) -> None:
    wanted, model, whole, calls = settings(background), Path(tiny_folder), MemoryTracker(), Calls()
    start(wanted, model, tmp_path / "whole", whole, calls)
    expected = ended(tmp_path / "whole")
    assert {"learner/engine-0-of-1.safetensors", "difficulty.safetensors", "learner/ema.safetensors"} <= set(
        expected[0]
    )
    places = points(calls.made)
    assert {"pool.generate", "learner.update", "Path:rename", "FolderStore:_tidy"} <= {name for name, _ in places}
    if background:  # where the two differ
        places = [(name, which) for name, which in places if name.startswith("store.") or ":" in name]
    for number, place in enumerate(places):
        first, second, folder = MemoryTracker(), MemoryTracker(), tmp_path / str(number)
        with pytest.raises(Interrupted):
            start(wanted, model, folder, first, Calls(place))
        start(wanted, model, folder, second, Calls())
        assert ended(folder) == expected, place
        assert first.logged | second.logged == whole.logged, place
        assert not list((folder / "run").glob(".writing-*")), place
