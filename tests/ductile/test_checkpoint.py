"""Checkpoints appear whole or not at all, and a process killed while it writes loses nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ductile.checkpoint import KEPT, FolderStore, write_text


def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "run", tmp_path / "memory")


def test_nothing_saved_is_no_checkpoint(tmp_path: Path) -> None:
    assert store(tmp_path).latest() is None


def test_latest_is_the_last_one_saved(tmp_path: Path) -> None:
    kept = store(tmp_path)
    for number in range(4):
        kept.save(lambda folder, number=number: (folder / "n").write_text(str(number)))
    latest = kept.latest()
    assert latest is not None and (latest / "n").read_text() == "3"
    assert len(list((tmp_path / "run").iterdir())) == KEPT


def test_error_while_writing_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    kept = store(tmp_path)
    kept.save(lambda folder: (folder / "n").write_text("good"))

    def broken(folder: Path) -> None:
        (folder / "n").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        kept.save(broken)
    latest = store(tmp_path).latest()
    assert latest is not None and (latest / "n").read_text() == "good"


def test_kill_while_writing_leaves_the_old_checkpoint_and_the_next_save_works(tmp_path: Path) -> None:
    program = """
import os, signal, sys
from pathlib import Path
from ductile.checkpoint import FolderStore
kept = FolderStore(Path(sys.argv[1]) / "run", Path(sys.argv[1]) / "memory")
kept.save(lambda folder: (folder / "n").write_text("good"))
def die(folder):
    (folder / "n").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
kept.save(die)
"""
    path = os.pathsep.join(sys.path)
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], env={"PYTHONPATH": path}, check=False)
    assert done.returncode == -signal.SIGKILL
    kept = store(tmp_path)
    latest = kept.latest()
    assert latest is not None and (latest / "n").read_text() == "good"
    kept.save(lambda folder: (folder / "n").write_text("next"))
    latest = kept.latest()
    assert latest is not None and (latest / "n").read_text() == "next"
    assert not list((tmp_path / "run").glob(".writing-*"))


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
