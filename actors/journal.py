"""What a run logs, on disk until MLflow has it: JSON lines, in segments, in a folder of the run's own.

`<output>/journal/<run id>/NNNNNN.jsonl`: a line is appended with one write and never changed. A full segment is
followed by a new one, and a segment that was delivered whole is deleted, so that the folder holds what MLflow lacks and
little more. Each segment begins with a head that repeats what earlier ones said of the run. Who opens a journal again
begins a new segment: nothing is ever written behind a line that a crash cut.

One process at a time has a journal: it holds a lock on `<run id>.lock`, which the system takes back when it dies.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

SEGMENT = 1 << 20
"""Bytes after which a new segment begins; about as much is delivered again after a crash."""

SENDERS = 16
"""How many of a run's senders (processes that logged for it, one after another) are remembered."""

Record = Mapping[str, Any]
"""What was logged: `do` (begin, metrics, text, file, tag, finish), `time` in milliseconds, and what `do` needs."""


class JournalBusy(OSError):
    """Another process has this run's journal."""


class Line(NamedTuple):
    """A record and where the line after it begins: (segment, byte)."""

    record: dict[str, Any]
    end: tuple[int, int]


@dataclass
class Told:
    """What the records so far say of the run.

    where: address of the MLflow that has it.  name, kind, job, status: of its last `begin` and `finish`.
    step: the last one logged, -1 before the first.  taken: sender -> number of its last record here.
    """

    where: str = ""
    name: str = ""
    kind: str = "run"
    job: str = ""
    status: str = "RUNNING"
    step: int = -1
    taken: dict[str, int] = field(default_factory=dict)

    def head(self) -> Record:
        """What a new segment begins with. Of senders that are long gone nothing comes twice."""
        return {"head": {**self.__dict__, "taken": dict(list(self.taken.items())[-SENDERS:])}}

    def hear(self, record: Record) -> None:
        """Take in one more record, or a segment's head."""
        if "head" in record:
            self.__dict__.update(record["head"])
            return
        if "sender" in record:
            self.taken.pop(record["sender"], None)  # the latest sender stands last
            self.taken[record["sender"]] = record["number"]
        if record["do"] == "begin":
            self.name, self.kind, self.job = record["name"], record["kind"], record["job"]
            self.status = "RUNNING"
        elif record["do"] == "metrics":
            self.step = max(self.step, record["step"])
        elif record["do"] == "finish":
            self.status = record["status"]


class Journal:
    """The journal of one run: appended by one thread at a time, read and acknowledged by another."""

    def __init__(self, root: Path, run_id: str, where: str = "", segment: int = SEGMENT) -> None:
        """Open or create it. where: MLflow's address for a new one.

        Raises `JournalBusy` when another process has it, `OSError` when the disk does not take it.
        """
        if not re.fullmatch(r"[\w-]+", run_id):
            raise ValueError(f"run id {run_id!r}: not one of MLflow's; allowed: letters, digits, - and _")
        self.run_id, self.folder, self.told = run_id, root / run_id, Told(where=where)
        self.values = 0  # metrics and other records that are not acknowledged
        self.oldest: int | None = None  # milliseconds since 1970 of about the first of them
        self._segment, self._mutex, self._unsynced_names = segment, threading.Lock(), True
        root.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(root / f"{run_id}.lock")
        self._handle, self._size = -1, 0  # the first record begins a segment: a full disk can still be read
        try:
            self.folder.mkdir(exist_ok=True)
            numbers = _segments(self.folder)
            for number in numbers:
                self._recover(number)
            self._number = numbers[-1] if numbers else 0  # of the segment that is written, or was the last to be
            self._at = (numbers[0], 0) if numbers else (1, 0)
        except BaseException:
            os.close(self._lock)
            raise

    def append(self, record: Record) -> None:
        """Add a record. Raises `OSError`, and then it is as if it had not been tried."""
        data = (json.dumps(record, separators=(",", ":")) + "\n").encode()
        with self._mutex:
            if self._handle < 0 or self._size >= self._segment:
                self._begin_segment()
            self._write(data)
            self.told.hear(record)
            self._count(record)

    def keep_file(self, path: Path) -> str:
        """Copy a file into the journal, for a record to name. Returns where it is below the journal's folder."""
        kept = Path("files") / uuid.uuid4().hex[:12] / path.name
        target = self.folder / kept
        target.parent.mkdir(parents=True)
        shutil.copyfile(path, target)
        for written in (target, target.parent, target.parent.parent):
            _sync(written)
        return str(kept)

    def sync(self) -> None:
        """Wait until everything that was appended is on the disk."""
        with self._mutex:
            if self._handle >= 0:
                os.fsync(self._handle)
            if self._unsynced_names:
                _sync(self.folder)
                _sync(self.folder.parent)
                self._unsynced_names = False

    def read(self, most: int) -> list[Line]:
        """At most so many of the oldest records that are not acknowledged."""
        lines: list[Line] = []
        number, at = self._at
        while self.values and len(lines) < most:
            with self._mutex:
                writing = self._number  # before it is read: an earlier segment gets no more lines
            for record, end in _lines(self.folder / f"{number:06d}.jsonl", at):
                if "head" not in record:
                    lines.append(Line(record, (number, end)))
                    if len(lines) == most:
                        return lines
            if number == writing:
                break
            if not lines:  # nothing of that segment was left
                (self.folder / f"{number:06d}.jsonl").unlink()
            number, at = min(n for n in _segments(self.folder) if n > number), 0
            if not lines:
                self._at = (number, at)
        return lines

    def acknowledge(self, lines: list[Line]) -> None:
        """MLflow has these, which were read last: forget them, and the files that they name."""
        for line in lines:
            if line.record["do"] == "file":
                shutil.rmtree((self.folder / line.record["path"]).parent, ignore_errors=True)
        if lines[-1].end[0] > self._at[0]:
            for number in _segments(self.folder):
                if number < lines[-1].end[0]:
                    (self.folder / f"{number:06d}.jsonl").unlink()
        with self._mutex:
            self.values -= sum(weight(line.record) for line in lines)
            self._at = lines[-1].end
            self.oldest = lines[-1].record.get("time") if self.values else None

    def remove(self) -> None:
        """Delete it: MLflow has everything, and nothing more is to come."""
        self._close()
        for number in _segments(self.folder):  # oldest first, so that what a crash leaves still ends with the run's end
            (self.folder / f"{number:06d}.jsonl").unlink()
        shutil.rmtree(self.folder, ignore_errors=True)
        _lock_path(self.folder).unlink(missing_ok=True)
        os.close(self._lock)

    def close(self) -> None:
        """Leave it for the next one who opens it."""
        self.sync()
        self._close()
        os.close(self._lock)

    def _close(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def _recover(self, number: int) -> None:
        path = self.folder / f"{number:06d}.jsonl"
        _sync(path)  # who wrote it may have died before
        for record, _ in _lines(path, 0):
            self.told.hear(record)
            if "head" not in record:
                self._count(record)

    def _count(self, record: Record) -> None:
        self.values += weight(record)
        self.oldest = self.oldest or record.get("time")

    def _begin_segment(self) -> None:
        number = self._number + 1
        path = self.folder / f"{number:06d}.jsonl"
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o644)
        before, self._handle, self._size = (self._handle, self._size), handle, 0
        try:
            self._write((json.dumps(self.told.head()) + "\n").encode())
            if before[0] >= 0:
                os.fsync(before[0])
        except OSError:
            self._handle, self._size = before
            path.unlink()
            os.close(handle)
            raise
        if before[0] >= 0:
            os.close(before[0])
        self._number, self._unsynced_names = number, True

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._handle, rest) :]
        except OSError:
            try:
                os.ftruncate(self._handle, self._size)  # a line cut short would spoil the next one
            except OSError:
                self._size = self._segment  # then the next one goes elsewhere
            raise
        self._size += len(data)


def weight(record: Record) -> int:
    """How much a record counts: a metric as one, and everything else."""
    return len(record["values"]) if record["do"] == "metrics" else 1


def now() -> int:
    """Milliseconds since 1970, as MLflow counts time."""
    return time.time_ns() // 1_000_000


def journals(root: Path) -> list[str]:
    """The runs that have a journal, oldest first."""
    if not root.is_dir():
        return []
    found = [path for path in root.iterdir() if path.is_dir() and _segments(path)]
    return [path.name for path in sorted(found, key=lambda path: (path.stat().st_mtime, path.name))]


def untouched_s(root: Path, run_id: str) -> float:
    """Seconds since a journal was last written; 0 when it is gone."""
    times = [path.stat().st_mtime for path in (root / run_id).glob("[0-9]*.jsonl") if path.exists()]
    return max(0.0, time.time() - max(times)) if times else 0.0


def glance(root: Path, run_id: str) -> Told:
    """What the newest segment says of a run. Needs no lock: another process may be writing there."""
    told = Told()
    with contextlib.suppress(OSError):  # it was delivered and removed meanwhile
        for number in _segments(root / run_id)[-1:]:
            for record, _ in _lines(root / run_id / f"{number:06d}.jsonl", 0):
                told.hear(record)
    return told


def _segments(folder: Path) -> list[int]:
    return sorted(int(path.stem) for path in folder.glob("[0-9]*.jsonl"))


def _lines(path: Path, offset: int) -> Iterator[tuple[dict[str, Any], int]]:
    """Each complete line from `offset` on, and where the next one begins. A damaged line is passed over."""
    with path.open("rb") as file:
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n"):
                return
            offset += len(line)
            with contextlib.suppress(ValueError):  # blocks that the disk lost before they were flushed
                yield json.loads(line), offset


def _lock_path(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")


def _lock(path: Path) -> int:
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Who removed the journal removed its lock too: a lock on a name that is gone keeps nobody out.
            if path.exists() and os.fstat(handle).st_ino == path.stat().st_ino:
                return handle
        except BlockingIOError:
            os.close(handle)
            raise JournalBusy(f"another job is logging run {path.stem}") from None
        os.close(handle)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
