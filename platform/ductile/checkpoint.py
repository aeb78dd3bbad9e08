"""Checkpoints and snapshots as folders that appear in one atomic step, and a memory of measurements of the base."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ductile.paths import inside

KEPT = 2
"""Complete checkpoints that are kept: the latest, and one more should its disk blocks be lost."""


class FolderStore:
    """Keeps a run's checkpoints below `folder` and shared measurements below `memory`.

    A checkpoint is written to a temporary folder, flushed to disk, and renamed to `checkpoint-NNNNNN`; a process
    killed at any moment leaves either the old latest checkpoint or the new one, never a half of one.

    Several ranks may save together: each writes its own files into the same temporary folder, `rank` 0 renames
    it after `barrier`, which all of them pass. The folder must then be on a file system that all of them see.
    """

    def __init__(
        self, folder: Path, memory: Path, rank: int = 0, share: Callable[[Any], Any] = lambda value: value
    ) -> None:
        self.folder = folder
        self.memory = memory
        self._rank = rank
        self._share = share  # returns rank 0's value on every rank, and so is a barrier too

    def latest(self) -> Path | None:
        """The newest complete checkpoint's folder, or None."""
        complete = self._complete()
        return complete[-1] if complete else None

    def save(self, write: Callable[[Path], None]) -> None:
        """`write(folder)` fills a new folder, which then becomes the latest checkpoint."""
        complete = self._complete()
        number = int(complete[-1].name.split("-")[1]) + 1 if complete else 1
        self._write(write, self.folder / f"checkpoint-{number:06d}")
        if self._rank == 0:
            self._tidy()
        self._share(None)

    def flush(self) -> None:
        """Nothing is left to wait for: `save` has written it."""

    def snapshot(self, name: str, write: Callable[[Path], None]) -> Path:
        """`write(folder)` fills a new folder; it takes the place of an earlier snapshot of that name."""
        self._write(write, self.find_snapshot(name))
        return self.find_snapshot(name)

    def find_snapshot(self, name: str) -> Path:
        """The folder of the snapshot of this name."""
        return inside(self.folder / "snapshots", name)

    def drop_snapshots(self, keep: Sequence[str]) -> None:
        """Remove every snapshot but those of these names."""
        self._share(None)  # another rank may still read one
        if self._rank == 0:
            for folder in (self.folder / "snapshots").glob("*"):
                if folder.name not in keep:
                    shutil.rmtree(folder, ignore_errors=True)

    def remember(self, key: str) -> Any | None:
        """A measurement kept under `key` by an earlier run, or None."""
        path = inside(self.memory, f"{key}.json")
        return self._share(json.loads(path.read_text()) if path.exists() else None)

    def keep(self, key: str, value: Any) -> None:
        """Keep a measurement (plain JSON values) for later runs."""
        if self._rank == 0:
            self.memory.mkdir(parents=True, exist_ok=True)
            write_text(inside(self.memory, f"{key}.json"), json.dumps(value))

    def _write(self, write: Callable[[Path], None], target: Path) -> None:
        temporary = Path(self._share(str(self.folder / f".writing-{uuid.uuid4().hex}")))
        temporary.mkdir(parents=True, exist_ok=True)
        write(temporary)
        self._share(None)
        if self._rank == 0:
            _flush(temporary)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(target, ignore_errors=True)
            temporary.rename(target)
            _flush_folder(target.parent)
        self._share(None)

    def _complete(self) -> list[Path]:
        return sorted(self.folder.glob("checkpoint-*"))

    def _tidy(self) -> None:
        for old in [*self._complete()[:-KEPT], *self.folder.glob(".writing-*")]:
            shutil.rmtree(old, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a file so that it is there whole or not at all."""
    temporary = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    temporary.write_text(text)
    _flush(temporary)
    temporary.replace(path)


def _flush(path: Path) -> None:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    for file in files:
        with file.open("rb") as handle:
            os.fsync(handle.fileno())


def _flush_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
