"""Checkpoints and snapshots as folders that appear in one atomic step, and a memory of measurements of the base."""

from __future__ import annotations

import json
import logging
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from ductile.config import CheckpointSettings
from ductile.manifest import (
    MANIFEST,
    Damaged,
    Files,
    WrongCheckpoint,
    flush_files,
    manifest,
    manifest_of,
    recorded,
    surplus,
    verify,
)
from ductile.paths import inside
from ductile.trace import span

if TYPE_CHECKING:
    from ductile.remote import Remote

RETRY_S = 5.0
"""Between two tries of a run that ends to write its last checkpoint."""

GRACE_S = 5.0
"""How long a run that fails waits for the other ranks' parts of a checkpoint."""

log = logging.getLogger("ductile")

Write = Callable[[Path], None]


class CheckpointFailed(RuntimeError):
    """The last checkpoint of a run that ends, or a snapshot, could not be written in `checkpoint.patience_s`."""


@dataclass(frozen=True)
class _Job:
    write: Write
    boundary: int | None
    temporary: Path
    target: Path


class FolderStore:
    """Keeps a run's checkpoints below `folder` and shared measurements below `memory`.

    A checkpoint is written to a temporary folder, flushed to disk, given a manifest with the hash of each file, and
    renamed to `checkpoint-NNNNNN`; a process killed at any moment leaves either the old latest checkpoint or the new
    one, never a half of one. With `settings.background` one thread writes it while the run goes on; the next save waits
    for it. A disk that is full or gone costs that checkpoint: the last good one stays, it is logged and counted, the
    next save tries again, and `flush` does until `settings.patience_s` is over. Kept are the newest `settings.keep`,
    and with `settings.keep_boundaries` the newest of each phase boundary.

    Several ranks save together: each writes its own files into the same temporary folder and then says which they are;
    `rank` 0 renames it when all of the `world` have. The folder must be on a file system that all of them see.
    `share` is called on all ranks alike, and never in the writing thread.

    settings.store: rank 0 copies each checkpoint there once it is complete (see `remote.py`), and fetches the newest
    one from there where the folder has none as new, or copies the folder's, which a kill may have kept from it. Ranks
    that do not share a folder are not served by it.
    """

    def __init__(
        self,
        folder: Path,
        memory: Path,
        rank: int = 0,
        share: Callable[[Any], Any] = lambda value: value,
        world: int = 1,
        settings: CheckpointSettings | None = None,
        run: str = "",
    ) -> None:
        """settings: None writes in the foreground and keeps the newest two; run: `Identity.run`, for settings.store."""
        self.folder = folder
        self.memory = memory
        self.first = rank == 0
        self._rank, self._world = rank, world
        self._share = share  # returns rank 0's value on every rank, and so is a barrier too
        self._settings = settings or CheckpointSettings(background=False)
        self._remote: Remote | None = None
        if self._settings.store and self.first:
            from ductile.remote import Remote  # pyarrow's file systems take a while to import

            self._remote = Remote.of(self._settings.store, folder, run)
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()
        self._error: BaseException | None = None  # of the thread, to be raised by who waits for it
        self._job: _Job | None = None  # what is written, or has to be written again
        self._missed: OSError | None = None  # why the last try to write or to copy failed
        self._unsent: Path | None = None
        self._number = 0
        self._since: float | None = None
        self._damaged: set[Path] = set()
        self._unneeded: set[str] = set()  # snapshots that go when a checkpoint without them is on disk
        self._events = _Events()

    def latest(self) -> Path | None:
        """The newest sound checkpoint's folder, or None. A damaged one is told of, and the one before it taken.

        Raises `WrongCheckpoint` where one is of a later format, where there are some and all are damaged, or where the
        store cannot be asked and there is none here.
        """
        self._join()
        found: tuple[str | None, Exception | None] = (None, None)
        if self.first:
            try:
                path = self._pick()
                found = (str(path) if path else None, None)
                if self._remote and path:
                    self._unsent = path
                    self._try(self._send)
            except (WrongCheckpoint, OSError) as error:  # shared, so that the other ranks do not wait for ever
                found = (None, error)
        chosen, failure = self._share(found)
        if failure:
            raise failure
        return Path(chosen) if chosen else None

    def wait(self) -> None:
        """See `ports.Store.wait`. What a step waits for is counted from here to the end of `save`."""
        self._since = self._since or time.monotonic()
        self._join()
        if self._job and self._job.target.exists():
            self._job = None  # with the copies that it holds, before new ones are made

    def save(self, write: Write, boundary: int | None = None) -> None:
        """`write(folder)` fills a new folder, which then becomes the latest checkpoint. See `ports.Store.save`."""
        since, self._since = self._since or time.monotonic(), None
        self._join()
        self._begin(write, boundary)
        self._events.waited(time.monotonic() - since)

    def flush(self) -> None:
        """See `ports.Store.flush`. Raises `CheckpointFailed`, on all ranks."""
        self._join()
        deadline = time.monotonic() + self._settings.patience_s
        while reason := self._share(self._reason()):
            left = self._share(deadline - time.monotonic())
            if left <= 0:
                raise CheckpointFailed(reason)
            time.sleep(min(RETRY_S, left))
            if self._share(self._unsent is not None):
                self._try(self._send)
            elif self._job:
                self._begin(self._job.write, self._job.boundary)
            self._join()

    def hurry(self, seconds: float) -> None:
        """`flush` gives up after so long, where its patience is longer: the run was asked to stop."""
        self._settings = replace(self._settings, patience_s=min(self._settings.patience_s, seconds))

    def close(self) -> None:
        """See `ports.Store.close`."""
        self._closing.set()
        self._join()

    def metrics(self) -> dict[str, float]:
        """See `ports.Store.metrics`."""
        return self._events.taken()

    def snapshot(self, name: str, write: Write) -> Path:
        """`write(folder)` fills a new folder; it takes the place of an earlier snapshot of that name.

        Tries again while the disk is full. Raises `CheckpointFailed` after `settings.patience_s`, on all ranks.
        """
        self._unneeded.discard(name)
        deadline, told = time.monotonic() + self._settings.patience_s, False
        while reason := self._snapshot(self.find_snapshot(name), write):
            reason = f"snapshot {name} could not be written to {self.folder} ({reason}); free room there"
            left = self._share(deadline - time.monotonic())
            if left <= 0:
                raise CheckpointFailed(f"{reason}, and start the run again")
            if self.first and not told:
                log.warning("%s; the run waits for it, %.0f s at most", reason, left)
            told = True
            time.sleep(min(RETRY_S, left))
        return self.find_snapshot(name)

    def find_snapshot(self, name: str) -> Path:
        """The folder of the snapshot of this name."""
        return inside(self.folder / "snapshots", name)

    def drop_snapshots(self, keep: Sequence[str]) -> None:
        """Remove every snapshot but those of these names, once what was saved last is on disk.

        The checkpoint before it may still refer to them.
        """
        self._join()
        self._share(None)  # another rank may still read one
        if self.first:
            self._unneeded = {folder.name for folder in (self.folder / "snapshots").glob("*")} - set(keep)
            if self._job is None:
                self._drop_unneeded()

    def remember(self, key: str) -> Any | None:
        """A measurement kept under `key` by an earlier run, or None."""
        path = inside(self.memory, f"{key}.json")
        return self._share(json.loads(path.read_text()) if path.exists() else None)

    def keep(self, key: str, value: Any) -> None:
        """Keep a measurement (plain JSON values) for later runs, if the disk lets it: else they measure again."""
        if self.first:
            path = inside(self.memory, f"{key}.json")
            try:
                self.memory.mkdir(parents=True, exist_ok=True)
                write_text(path, json.dumps(value))
            except OSError as error:
                log.warning("a measurement is not kept in %s (%s); later runs measure it again", path, error)

    def _snapshot(self, target: Path, write: Write) -> str | None:
        """One try; why it failed on a rank's disk, on all ranks."""
        temporary = Path(self._share(str(self.folder / f".snapshot-{uuid.uuid4().hex}")))
        reason: str | None = None
        try:
            temporary.mkdir(parents=True, exist_ok=True)
            write(temporary)
            (temporary / f".rank-{self._rank}").touch()
        except (OSError, SafetensorError) as error:
            reason = str(_of_disk(error))
        self._share(None)
        if self.first:
            try:
                reason = reason or self._place_snapshot(temporary, target)
            except OSError as error:
                reason = str(error)
            for old in self.folder.glob(".snapshot-*"):
                shutil.rmtree(old, ignore_errors=True)
        told: str | None = self._share(reason)
        return told

    def _place_snapshot(self, temporary: Path, target: Path) -> str | None:
        """On rank 0: what all ranks wrote becomes the snapshot, or which rank did not write."""
        for rank in range(self._world):
            mark = temporary / f".rank-{rank}"
            if not mark.exists():
                return f"rank {rank} did not write its part of it"
            mark.unlink()
        flush_files(temporary)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)
        _flush_folders(target)
        return None

    def _drop_unneeded(self) -> None:
        while self._unneeded:
            shutil.rmtree(self.find_snapshot(self._unneeded.pop()), ignore_errors=True)

    def _begin(self, write: Write, boundary: int | None) -> None:
        """Write, in the thread or here. All ranks come here together: no other checkpoint is being written."""
        if self.first:
            self._number = 1 + max([self._number, *(_number(folder) for folder in self._complete())])
        number, name = self._share((self._number, uuid.uuid4().hex))
        job = _Job(write, boundary, self.folder / f".writing-{name}", self.folder / f"checkpoint-{number:06d}")
        self._job, self._unsent = job, None  # of two that are not in the store, the newer one will do
        if self._settings.background:
            self._thread = threading.Thread(target=self._work, args=(job,), name="checkpoint", daemon=True)
            self._thread.start()
        else:
            self._try(lambda: self._write(job))

    def _work(self, job: _Job) -> None:
        try:
            with span("checkpoint written"):
                self._try(lambda: self._write(job))
        except BaseException as error:
            self._error = error

    def _join(self) -> None:
        """Wait for the thread, and raise what is no fault of a disk."""
        if self._thread:
            self._thread.join()
            self._thread = None
        if self._error:
            error, self._error = self._error, None
            raise error

    def _try(self, action: Callable[[], None]) -> None:
        """Do it; an error of the disk or of the store is kept and told once, until it works again."""
        try:
            action()
        except (OSError, SafetensorError) as error:
            known, self._missed = self._missed, _of_disk(error)
            self._events.failed()
            if not known:
                log.error("%s; the run goes on, and the next checkpoint tries again", self._reason())
        else:
            if self._missed:
                log.warning("checkpoints of %s are written again", self.folder)
            self._missed = None

    def _reason(self) -> str | None:
        """Why there is something left to write, and what to do about it."""
        if self._missed is None:
            return None
        if self._unsent:
            return (
                f"{self._unsent} could not be copied to checkpoint.store ({self._missed}); it is complete here: "
                f"mend the store's access or room, and start the run again"
            )
        free = _free(self.folder)
        return (
            f"a checkpoint could not be written to {self.folder} ({self._missed}); {free}free room there or lower "
            f"checkpoint.keep; the checkpoint before it is as it was"
        )

    def _write(self, job: _Job) -> None:
        try:
            files = self._write_own(job)
            if self.first:
                self._complete_job(job, files)
        except (OSError, SafetensorError):
            shutil.rmtree(job.temporary if self.first else self._own(job), ignore_errors=True)
            if not self.first:
                self._give_up(job)
            raise

    def _own(self, job: _Job) -> Path:
        return job.temporary / f".rank-{self._rank}"

    def _write_own(self, job: _Job) -> Files:
        """This rank's files, flushed, and for rank 0 a note of what they are."""
        own = self._own(job)
        own.mkdir(parents=True, exist_ok=True)
        job.write(own)
        files = recorded(own)
        for name in files:
            (job.temporary / name).parent.mkdir(parents=True, exist_ok=True)
            (own / name).replace(job.temporary / name)
        shutil.rmtree(own)
        if not self.first:
            write_text(job.temporary / f".part-{self._rank}", json.dumps(files))
        return files

    def _give_up(self, job: _Job) -> None:
        """Tell rank 0, as well as a disk that is full lets a rank tell anything."""
        try:
            (job.temporary / f".failed-{self._rank}").touch()
        except OSError:
            log.warning("rank %d cannot even say that its part of a checkpoint is missing", self._rank)

    def _complete_job(self, job: _Job, files: Files) -> None:
        """On rank 0: wait for the other ranks' parts, write the manifest, rename, and let old ones go."""
        for rank in range(1, self._world):
            files = files | self._part(job, rank)
        write_text(job.temporary / MANIFEST, manifest(files, job.boundary))
        _flush_folders(job.temporary, deep=True)
        job.temporary.rename(job.target)
        _flush_folders(job.target)
        self._job, self._unsent = None, job.target if self._remote else None
        self._events.wrote(sum(file["bytes"] for file in files.values()))
        self._tidy()
        self._drop_unneeded()
        self._send()

    def _part(self, job: _Job, rank: int) -> Files:
        """What a rank says that it wrote. No collective: this may be a thread."""
        part, failed = job.temporary / f".part-{rank}", job.temporary / f".failed-{rank}"
        deadline = time.monotonic() + self._settings.patience_s
        while not part.exists():
            if self._closing.is_set():
                deadline = min(deadline, time.monotonic() + GRACE_S)
            if failed.exists() or time.monotonic() > deadline:
                raise OSError(f"rank {rank} did not write its part of it")
            time.sleep(0.02)
        files: Files = json.loads(part.read_text())
        part.unlink()
        return files

    def _send(self) -> None:
        """Copy the newest checkpoint to the store, where one is not there yet."""
        if self._unsent and self._remote:
            self._remote.send(self._unsent, self._settings.keep, self._settings.keep_boundaries)
            self._unsent = None

    def _pick(self) -> Path | None:
        complete = self._complete()
        sound = next((folder for folder in reversed(complete) if self._sound(folder)), None)
        newer = self._fetched(_number(sound) if sound else 0)
        if complete and not (newer or sound):
            raise WrongCheckpoint(
                f"none of the checkpoints in {self.folder} can be read ({', '.join(each.name for each in complete)}); "
                f"bring a sound one back, or move them away to begin anew"
            )
        return newer or sound

    def _sound(self, folder: Path) -> bool:
        try:
            verify(folder)
        except Damaged as damage:
            if folder not in self._damaged:
                self._damaged.add(folder)
                log.warning("%s is damaged: %s; going back to the checkpoint before it", folder, damage)
            return False
        return True

    def _fetched(self, number: int) -> Path | None:
        """The newest checkpoint of the store that is newer than this one, copied here."""
        if not self._remote:
            return None
        try:
            for name in reversed(self._remote.names()):
                if _number(Path(name)) <= number:
                    break
                try:
                    fetched = self._remote.fetch(name, self.folder)
                    self._damaged.discard(fetched)
                    return fetched
                except Damaged as damage:
                    log.warning("%s in checkpoint.store is damaged: %s; taking the one before it", name, damage)
        except OSError as error:
            if not number:
                raise WrongCheckpoint(
                    f"checkpoint.store cannot be read ({error}) and {self.folder} has no checkpoint; the run may have "
                    f"begun elsewhere: mend the store's access, or set checkpoint.store= to begin anew"
                ) from error
            log.warning("checkpoint.store cannot be read (%s); going on from the checkpoint in %s", error, self.folder)
        return None

    def _complete(self) -> list[Path]:
        return sorted(self.folder.glob("checkpoint-*"))

    def _tidy(self) -> None:
        """Let go what the policy does not keep, what is damaged, and what a killed process left half written."""
        boundaries: dict[str, int | None] = {}
        for folder in self._complete():
            try:
                if folder not in self._damaged:
                    boundaries[folder.name] = manifest_of(folder)["boundary"]
            except WrongCheckpoint:
                boundaries[folder.name] = None
            except Damaged:
                self._damaged.add(folder)
        gone = surplus(boundaries, self._settings.keep, self._settings.keep_boundaries)
        for old in [*(self.folder / name for name in gone), *self._damaged, *self.folder.glob(".writing-*")]:
            shutil.rmtree(old, ignore_errors=True)
        self._damaged.clear()


class _Events:
    """What there is to log of checkpoints, between a thread that adds and a loop that takes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: dict[str, float] = {}

    def waited(self, seconds: float) -> None:
        self._add("checkpoint/waited_s", seconds)

    def wrote(self, size: int) -> None:
        self._add("checkpoint/bytes", size)

    def failed(self) -> None:
        self._add("checkpoint/failures", 1)

    def taken(self) -> dict[str, float]:
        with self._lock:
            values, self._values = self._values, {}
        return {"checkpoint/failures": 0.0} | values if values else {}

    def _add(self, name: str, value: float) -> None:
        with self._lock:
            self._values[name] = self._values.get(name, 0.0) + value


def write_text(path: Path, text: str) -> None:
    """Write a file so that it is there whole or not at all."""
    temporary = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    try:
        temporary.write_text(text)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _of_disk(error: OSError | SafetensorError) -> OSError:
    """The error of a disk; raises what is none of a disk's."""
    if isinstance(error, OSError):
        return error
    if "os error" not in str(error):
        raise error
    return OSError(str(error))


def _number(folder: Path) -> int:
    return int(folder.name.split("-")[1])


def _free(folder: Path) -> str:
    try:
        return f"{shutil.disk_usage(folder).free / 2**20:.0f} MB are free: "
    except OSError:
        return ""


def _flush_folders(path: Path, deep: bool = False) -> None:
    """Make names in a folder's parent, or with `deep` in it and in all folders below it, outlast a power cut."""
    for folder in [path, *(each for each in path.rglob("*") if each.is_dir())] if deep else [path.parent]:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
