"""Counting the tries of a run where its disk is full."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors import tries
from actors.tries import NoProgress, begin_try, end_tries, first_divergence, note_error


def full(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_tries_are_counted_in_memory_while_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tries, "write_text", full)
    for _ in range(3):
        begin_try(tmp_path, "job", 2)
        note_error(tmp_path, "job", RuntimeError("an actor was lost"))
    with pytest.raises(NoProgress, match=r"failed 3 times .* an actor was lost"):
        begin_try(tmp_path, "job", 2)
    assert first_divergence(tmp_path, "job", "update 3") and not first_divergence(tmp_path, "job", "update 3")
    assert "No space left" in caplog.text
    end_tries(tmp_path)
    begin_try(tmp_path, "job", 0)


def test_count_goes_back_to_the_file_once_the_disk_takes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(tries, "write_text", full)
        begin_try(tmp_path, "job", 1)
    begin_try(tmp_path, "job", 1)
    tries._unwritten.clear()  # as another process sees it
    with pytest.raises(NoProgress):
        begin_try(tmp_path, "job", 1)


def test_broken_file_is_counted_anew(tmp_path: Path) -> None:
    (tmp_path / tries.FILE).write_text('{"job": "jo')
    begin_try(tmp_path, "job", 0)
