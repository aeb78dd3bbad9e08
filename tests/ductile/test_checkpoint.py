"""Checkpoints appear whole or not at all; damage, kills and full disks cost one of them and never the run."""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from ductile import checkpoint
from ductile.checkpoint import CheckpointFailed, FolderStore, write_text
from ductile.config import CheckpointSettings
from ductile.manifest import MANIFEST, WrongCheckpoint, surplus

FRONT, BACK = CheckpointSettings(background=False, patience_s=0.2), CheckpointSettings(patience_s=0.2)
BOTH = pytest.mark.parametrize("settings", [FRONT, BACK], ids=["foreground", "background"])


def store(tmp_path: Path, settings: CheckpointSettings = FRONT) -> FolderStore:
    return FolderStore(tmp_path / "run", tmp_path / "memory", settings=settings)


def writing(text: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "learner").mkdir()
        (folder / "learner" / "n").write_text(text)

    return write


def full(folder: Path) -> None:
    (folder / "n").write_text("half")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def content(kept: FolderStore) -> str:
    latest = kept.latest()
    assert latest is not None
    return (latest / "learner" / "n").read_text()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "RETRY_S", 0.02)


def test_nothing_saved_is_no_checkpoint(tmp_path: Path) -> None:
    assert store(tmp_path).latest() is None


@BOTH
def test_latest_is_the_last_one_saved_and_the_newest_are_kept(settings: CheckpointSettings, tmp_path: Path) -> None:
    kept = store(tmp_path, settings)
    for number in range(4):
        kept.save(writing(str(number)))
    assert content(kept) == "3"
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["checkpoint-000003", "checkpoint-000004"]


def test_save_returns_before_it_has_written_and_the_next_waits_for_it(tmp_path: Path) -> None:
    kept, go, order = store(tmp_path, BACK), threading.Event(), []

    def slow(folder: Path) -> None:
        go.wait(10)
        order.append("first")

    kept.save(slow)
    assert order == [] and not list((tmp_path / "run").glob("checkpoint-*"))
    threading.Timer(0.1, go.set).start()
    kept.save(lambda folder: order.append("second"))
    kept.flush()
    assert order == ["first", "second"]
    assert kept.metrics()["checkpoint/waited_s"] > 0.05


@pytest.mark.parametrize(
    ("keep", "boundaries", "gone"),
    [(2, False, "abc"), (1, False, "abcd"), (9, False, ""), (1, True, "b"), (2, True, "b")],
)
def test_policy_keeps_the_newest_and_if_asked_the_newest_of_each_boundary(
    keep: int, boundaries: bool, gone: str
) -> None:
    assert surplus({"a": 0, "b": None, "c": 1, "d": 2, "e": 2}, keep, boundaries) == list(
        gone + ("d" if boundaries and keep == 1 else "")
    )


def test_checkpoints_of_boundaries_stay_over_a_restart(tmp_path: Path) -> None:
    settings = CheckpointSettings(background=False, keep=1, keep_boundaries=True)
    for boundary in (0, None, None, 1, None):
        store(tmp_path, settings).save(writing("x"), boundary)
    assert [path.name[-1] for path in sorted((tmp_path / "run").iterdir())] == ["1", "4", "5"]


@BOTH
def test_full_disk_leaves_the_old_checkpoint_is_told_once_and_the_next_save_works(
    settings: CheckpointSettings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = store(tmp_path, settings)
    kept.save(writing("good"))
    for _ in range(3):
        kept.save(full)
    assert content(kept) == "good"
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "No space left" in caplog.text and "checkpoint.keep" in caplog.text
    assert not list((tmp_path / "run").glob(".writing-*"))
    assert kept.metrics()["checkpoint/failures"] == 3
    kept.save(writing("better"))
    kept.flush()
    assert content(kept) == "better"
    assert kept.metrics() | {"checkpoint/waited_s": 0} == {
        "checkpoint/failures": 0,
        "checkpoint/bytes": 6,
        "checkpoint/waited_s": 0,
    }
    assert kept.metrics() == {}


@BOTH
def test_run_that_ends_tries_again_until_there_is_room(settings: CheckpointSettings, tmp_path: Path) -> None:
    kept, tries = store(tmp_path, settings), []

    def third_time(folder: Path) -> None:
        tries.append(folder)
        if len(tries) < 3:
            full(folder)
        writing("late")(folder)

    kept.save(third_time)
    kept.flush()
    assert content(kept) == "late" and len(tries) == 3


@BOTH
def test_run_that_ends_on_a_full_disk_says_what_to_free(settings: CheckpointSettings, tmp_path: Path) -> None:
    kept = store(tmp_path, settings)
    kept.save(writing("good"))
    kept.save(full)
    with pytest.raises(CheckpointFailed, match=rf"(?s){tmp_path / 'run'}.*No space left.*MB are free: free room there"):
        kept.flush()
    assert content(store(tmp_path)) == "good"


def test_error_that_is_not_the_disks_is_raised_by_who_waits(tmp_path: Path) -> None:
    def wrong(folder: Path) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store(tmp_path).save(wrong)
    kept = store(tmp_path, BACK)
    kept.save(wrong)
    with pytest.raises(ZeroDivisionError):
        kept.flush()


@contextmanager
def tiny_disk(path: Path, size: str) -> Iterator[None]:
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)]
    try:
        done = subprocess.run(mount, check=False, capture_output=True).returncode == 0
    except FileNotFoundError:
        done = False
    if not done:
        pytest.skip("this user may not mount a file system")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


@BOTH
def test_real_disk_of_one_megabyte_that_gets_full_and_room_again(settings: CheckpointSettings, tmp_path: Path) -> None:
    with tiny_disk(tmp_path / "run", "1m"):
        kept = store(tmp_path, settings)
        kept.save(writing("good"))
        kept.save(lambda folder: save_file({"x": np.zeros(1 << 18)}, folder / "x.safetensors"))  # 2 MB
        kept.wait()
        assert kept.metrics()["checkpoint/failures"] == 1 and content(kept) == "good"
        with pytest.raises(CheckpointFailed, match="No space left"):
            kept.flush()
        kept.save(lambda folder: save_file({"x": np.zeros(1 << 14)}, folder / "x.safetensors"))
        kept.flush()
        latest = kept.latest()
        assert latest is not None and (latest / "x.safetensors").stat().st_size > 1 << 17


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "a flipped bit": lambda folder: flip(folder / "learner" / "n"),
    "a file cut short": lambda folder: (folder / "learner" / "n").write_text(""),
    "a file lost": lambda folder: (folder / "learner" / "n").unlink(),
    "a manifest lost": lambda folder: (folder / MANIFEST).unlink(),
    "a manifest cut short": lambda folder: (folder / MANIFEST).write_text('{"format"'),
    "another manifest": lambda folder: (folder / MANIFEST).write_text("[]"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_checkpoint_is_told_once_and_the_one_before_it_is_taken(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = store(tmp_path)
    kept.save(writing("old"))
    kept.save(writing("new"))
    DAMAGES[damage](tmp_path / "run" / "checkpoint-000002")
    assert content(kept) == "old" == content(kept)
    assert len(caplog.records) == 1 and "checkpoint-000002 is damaged" in caplog.text
    kept.save(writing("newer"))  # and the bad one is not written over, nor taken for newer
    assert content(kept) == "newer"


def test_run_does_not_begin_anew_where_every_checkpoint_is_damaged(tmp_path: Path) -> None:
    kept = store(tmp_path)
    kept.save(writing("only"))
    flip(tmp_path / "run" / "checkpoint-000001" / "learner" / "n")
    with pytest.raises(WrongCheckpoint, match="move them away to begin anew"):
        kept.latest()


def test_checkpoint_of_a_later_format_is_refused(tmp_path: Path) -> None:
    kept = store(tmp_path)
    kept.save(writing("new"))
    path = tmp_path / "run" / "checkpoint-000001" / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": "ductile.checkpoint/2", "ductile": "9.9"}))
    with pytest.raises(WrongCheckpoint, match=r"ductile.checkpoint/2 of Ductile 9.9"):
        kept.latest()


@pytest.mark.parametrize("settings", ["FRONT", "BACK"])
def test_kill_while_writing_leaves_the_old_checkpoint_and_the_next_save_works(settings: str, tmp_path: Path) -> None:
    program = """
import os, signal, sys
from pathlib import Path
from ductile.checkpoint import FolderStore
from ductile.config import CheckpointSettings
FRONT, BACK = CheckpointSettings(background=False), CheckpointSettings()
run = Path(sys.argv[1])
kept = FolderStore(run / "run", run / "memory", settings=eval(sys.argv[2]))
def good(folder):
    (folder / "learner").mkdir()
    (folder / "learner" / "n").write_text("good")
def die(folder):
    (folder / "n").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
kept.save(good)
kept.save(die)
kept.flush()
"""
    path = os.pathsep.join(sys.path)
    arguments = [sys.executable, "-c", program, str(tmp_path), settings]
    done = subprocess.run(arguments, env={"PYTHONPATH": path}, check=False)
    assert done.returncode == -signal.SIGKILL
    kept = store(tmp_path)
    assert content(kept) == "good"
    kept.save(writing("next"))
    assert content(kept) == "next"
    assert not list((tmp_path / "run").glob(".writing-*"))


class Ranks:
    """Several ranks as threads: `share` is a barrier that returns rank 0's value."""

    def __init__(self, world: int) -> None:
        self.world, self._barrier, self._value = world, threading.Barrier(world, timeout=10), None

    def share(self, rank: int, value: object) -> object:
        if rank == 0:
            self._value = value
        self._barrier.wait()
        shared = self._value
        self._barrier.wait()
        return shared

    def run(self, tmp_path: Path, settings: CheckpointSettings, act: Callable[[int, FolderStore], None]) -> list[str]:
        """The errors that ranks raised, by rank."""
        errors = [""] * self.world

        def one(rank: int) -> None:
            kept = FolderStore(
                tmp_path / "run", tmp_path, rank, lambda value: self.share(rank, value), self.world, settings
            )
            try:
                act(rank, kept)
            except RuntimeError as error:
                errors[rank] = f"{type(error).__name__}: {error}"

        threads = [threading.Thread(target=one, args=(rank,)) for rank in range(self.world)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        return errors


@BOTH
def test_ranks_write_one_checkpoint_together(settings: CheckpointSettings, tmp_path: Path) -> None:
    found: list[Path | None] = [None] * 3

    def act(rank: int, kept: FolderStore) -> None:
        for number in range(3):
            kept.save(lambda folder, number=number: (folder / f"of-{rank}").write_text(f"{number}"))
        kept.flush()
        found[rank] = kept.latest()

    assert Ranks(3).run(tmp_path, settings, act) == ["", "", ""]
    assert found[0] and found == [found[0]] * 3
    names = {path.name: path.read_text() for path in found[0].iterdir() if path.name != MANIFEST}
    assert names == {"of-0": "2", "of-1": "2", "of-2": "2"}
    assert set(json.loads((found[0] / MANIFEST).read_text())["files"]) == set(names)
    assert [path.name for path in sorted((tmp_path / "run").iterdir())] == ["checkpoint-000002", "checkpoint-000003"]


@pytest.mark.parametrize("broken", [0, 1])
@BOTH
def test_rank_with_a_full_disk_costs_one_checkpoint_and_all_try_again(
    settings: CheckpointSettings, broken: int, tmp_path: Path
) -> None:
    tries = [0, 0]

    def act(rank: int, kept: FolderStore) -> None:
        kept.save(lambda folder: (folder / f"of-{rank}").write_text("old"))
        kept.wait()

        def write(folder: Path) -> None:
            tries[rank] += 1
            if rank == broken and tries[rank] < 3:
                full(folder)
            (folder / f"of-{rank}").write_text("new")

        kept.save(write)
        kept.flush()
        latest = kept.latest()
        assert latest is not None and (latest / "of-0").read_text() == (latest / "of-1").read_text() == "new"

    patient = CheckpointSettings(background=settings.background, patience_s=10)
    assert Ranks(2).run(tmp_path, patient, act) == ["", ""]
    assert tries == [3, 3]


def test_all_ranks_raise_when_the_disk_stays_full_and_when_the_format_is_new(tmp_path: Path) -> None:
    def act(rank: int, kept: FolderStore) -> None:
        kept.save(full if rank else writing("x"))
        kept.flush()

    errors = Ranks(2).run(tmp_path, BACK, act)
    assert errors[0] == errors[1] and errors[0].startswith("CheckpointFailed") and "rank 1" in errors[0]
    store(tmp_path).save(writing("x"))
    for path in (tmp_path / "run").glob(f"*/{MANIFEST}"):
        path.write_text(path.read_text().replace("checkpoint/1", "checkpoint/7"))
    errors = Ranks(2).run(tmp_path, BACK, lambda rank, kept: kept.latest() and None)
    assert errors[0] == errors[1] and "ductile.checkpoint/7" in errors[0]


def test_rank_that_is_gone_is_not_waited_for_by_a_run_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "GRACE_S", 0.1)
    settings = CheckpointSettings(patience_s=600)
    alone = FolderStore(tmp_path / "run", tmp_path, 0, lambda value: value, 2, settings)
    alone.save(writing("half"))
    alone.close()
    assert store(tmp_path).latest() is None


@BOTH
def test_snapshot_goes_only_when_a_checkpoint_without_it_is_on_disk(
    settings: CheckpointSettings, tmp_path: Path
) -> None:
    """A checkpoint that waits for the branches of a snapshot cannot be gone on from without it."""
    kept, disk = store(tmp_path, settings), threading.Event()

    def later(folder: Path) -> None:
        if not disk.is_set():
            full(folder)
        writing("without")(folder)

    kept.snapshot("boundary-1", writing("of 1"))
    kept.save(writing("refers to 1"))
    kept.save(later)
    kept.drop_snapshots([])
    kept.wait()
    assert content(kept) == "refers to 1" and kept.find_snapshot("boundary-1").exists()
    kept.snapshot("boundary-2", writing("of 2"))
    disk.set()
    kept.flush()
    assert content(kept) == "without" and not kept.find_snapshot("boundary-1").exists()
    assert kept.find_snapshot("boundary-2").exists()


def test_snapshot_waits_for_room_with_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kept, tries = store(tmp_path), []

    def third_time(folder: Path) -> None:
        tries.append(folder)
        if len(tries) < 3:
            full(folder)
        writing("late")(folder)

    path = kept.snapshot("boundary-1", third_time)
    assert (path / "learner" / "n").read_text() == "late" and len(tries) == 3
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    with pytest.raises(CheckpointFailed, match=r"snapshot boundary-1 could not.*No space left.*free room"):
        kept.snapshot("boundary-1", full)
    assert (path / "learner" / "n").read_text() == "late"
    assert [each.name for each in (tmp_path / "run").iterdir()] == ["snapshots"]


@pytest.mark.parametrize("broken", [0, 1])
def test_snapshot_of_ranks_waits_for_the_one_whose_disk_is_full(broken: int, tmp_path: Path) -> None:
    tries = [0, 0]

    def act(rank: int, kept: FolderStore) -> None:
        def write(folder: Path) -> None:
            tries[rank] += 1
            if rank == broken and tries[rank] == 1:
                full(folder)
            (folder / f"of-{rank}").write_text("x")

        kept.snapshot("boundary-1", write)

    assert Ranks(2).run(tmp_path, CheckpointSettings(patience_s=5), act) == ["", ""]
    assert tries == [2, 2]
    assert sorted(path.name for path in (tmp_path / "run" / "snapshots" / "boundary-1").iterdir()) == ["of-0", "of-1"]


def test_measurement_that_a_full_disk_does_not_take_is_told_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_room(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    kept = store(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", no_room)
        kept.keep("a", 1)
    assert kept.remember("a") is None and "No space left" in caplog.text
    assert list((tmp_path / "memory").iterdir()) == []


def test_damaged_checkpoint_does_not_push_out_the_sound_one(tmp_path: Path) -> None:
    first = store(tmp_path)
    for text in ("sound", "damaged"):
        first.save(writing(text))
    flip(tmp_path / "run" / "checkpoint-000002" / "learner" / "n")
    kept = store(tmp_path)
    assert content(kept) == "sound"
    kept.save(writing("newest"))
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["checkpoint-000001", "checkpoint-000003"]
    flip(tmp_path / "run" / "checkpoint-000003" / "learner" / "n")
    assert content(store(tmp_path)) == "sound"


def test_measurements_are_remembered_by_key(tmp_path: Path) -> None:
    kept = store(tmp_path)
    assert kept.remember("a") is None
    kept.keep("a", {"x": [1, 2.5]})
    assert store(tmp_path).remember("a") == {"x": [1, 2.5]}
    assert kept.remember("b") is None


def test_text_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    write_text(path, "one")
    write_text(path, "two")
    assert path.read_text() == "two"
    assert list(tmp_path.iterdir()) == [path]
