"""What a run's result depends on, as two short hashes: nothing kept by another run is ever taken for its own."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ductile import __version__
from ductile.config import RunSettings
from ductile.probes import PROBES
from ductile.settings import as_plain

ELSEWHERE = ("name", "output", "cache", "tracking", "trace", "cluster", "checkpoint")
"""Settings that say where and how often results are kept, not what they are."""

MACHINERY = {
    "rollout": ("actors", "actors_max", "hedge", "threads", "timeout_s", "retries", "patience_s"),
    "learner": ("workers", "threads", "max_failures"),
}
"""Settings that say who does the work: a run may go on with more actors or workers than it began with."""


@dataclass(frozen=True)
class Identity:
    """`run` names everything the result depends on; `start` the same without the plan and how it chooses problems.

    That is the untouched beginning, and what a branch from it depends on.
    """

    run: str
    start: str


def identify(settings: RunSettings, model_folders: Sequence[Path]) -> Identity:
    """The identity of a run on these model folders, the data files that its domains name and its static scores.

    The files count by name and content. Raises `OSError` when one cannot be read.
    """
    values = {name: _with_data(value) for name, value in as_plain(settings).items() if name not in ELSEWHERE}
    for section, names in MACHINERY.items():
        values[section] = {name: value for name, value in values[section].items() if name not in names}
    values["variant"].pop("label")  # what it is called
    values["probe"]["branch"].pop("beside")  # who runs the branches, not what they measure
    if settings.difficulty.scores:
        values["difficulty"]["content"] = _digest([Path(settings.difficulty.scores)])
    values["model"] = {
        "files": [_digest(_model_files(folder)) for folder in model_folders],
        "dtype": settings.model.dtype,
    }
    values["version"] = __version__
    values["probes"] = {name: probe.version for name, probe in PROBES.items()}  # what was measured before meant another
    start = {name: value for name, value in values.items() if name not in ("plan", "phase", "difficulty")}
    return Identity(_hash(values), _hash(start))


def fingerprint(files: Sequence[Path]) -> str:
    """A short hash of files by name and content. Raises `OSError` when one cannot be read."""
    return _digest(files)[:16]


def _hash(values: Mapping[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(values, sort_keys=True).encode(), digest_size=8).hexdigest()


def _with_data(value: Any) -> Any:
    """Plain settings in which every `jsonl` domain also has its file's digest: the same path may hold other rows."""
    if not isinstance(value, dict):
        return value
    inner = {key: _with_data(item) for key, item in value.items()}
    if inner.get("name") == "jsonl" and inner.get("path"):
        inner["content"] = _digest([Path(inner["path"])])
    return inner


def _model_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".json", ".py"))


def _digest(files: Sequence[Path]) -> str:
    return _read(tuple((file, file.stat().st_mtime_ns, file.stat().st_size) for file in files))


@functools.lru_cache(maxsize=32)
def _read(files: tuple[tuple[Path, int, int], ...]) -> str:
    """The digest of files, read once while time and size stay: every run of a comparison asks for it."""
    digest = hashlib.blake2b(digest_size=16)
    for file, _, _ in files:
        digest.update(file.name.encode())
        with file.open("rb") as handle:
            while block := handle.read(1 << 24):
                digest.update(block)
    return digest.hexdigest()
