"""Checkpoints in a second place: copied when complete, taken up where this machine has none as new."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import fs

from ductile import checkpoint
from ductile.checkpoint import CheckpointFailed, FolderStore
from ductile.checks.stored import store_mistakes
from ductile.checks.written import secret_mistakes
from ductile.config import CheckpointSettings, RunSettings
from ductile.manifest import MANIFEST, Damaged, WrongCheckpoint
from ductile.remote import Remote, opened
from ductile.settings import build

RUN = Path("ladder-1a2b") / "low_drift-hard-seed0"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "RETRY_S", 0.02)


def of(tmp_path: Path, machine: str, store: str | None = None, **changed: Any) -> FolderStore:
    values = {
        "store": str(tmp_path / "store") if store is None else store,
        "patience_s": 0.2,
        "background": False,
        **changed,
    }
    return FolderStore(tmp_path / machine / RUN, tmp_path / "memory", settings=CheckpointSettings(**values))


def writing(text: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "learner").mkdir()
        (folder / "learner" / "n").write_text(text)

    return write


def content(kept: FolderStore) -> str:
    latest = kept.latest()
    assert latest is not None
    return (latest / "learner" / "n").read_text()


def there(tmp_path: Path) -> list[str]:
    return sorted(path.parent.name for path in (tmp_path / "store" / RUN).glob(f"*/{MANIFEST}"))


@pytest.mark.parametrize("uri", [False, True])
@pytest.mark.parametrize("background", [False, True])
def test_run_on_a_new_machine_goes_on_from_the_store(uri: bool, background: bool, tmp_path: Path) -> None:
    store = f"{'file://' if uri else ''}{tmp_path / 'store'}"
    first = of(tmp_path, "one", store, background=background)
    for text in "abc":
        first.save(writing(text))
    first.flush()
    assert there(tmp_path) == ["checkpoint-000002", "checkpoint-000003"]
    second = of(tmp_path, "two", store)
    assert content(second) == "c"
    second.save(writing("d"))  # numbered after it, and kept by the same policy
    assert there(tmp_path) == ["checkpoint-000003", "checkpoint-000004"]
    assert content(first) == "d"  # the machine before is now behind
    assert not list((tmp_path / "two" / RUN).glob(".writing-*"))


def test_checkpoint_here_is_taken_when_it_is_as_new(tmp_path: Path) -> None:
    kept = of(tmp_path, "one")
    kept.save(writing("good"))
    (tmp_path / "store" / RUN / "checkpoint-000001" / "learner" / "n").write_text("elsewhere")
    assert content(kept) == "good"


def test_damaged_one_here_is_made_up_from_the_store(tmp_path: Path) -> None:
    kept = of(tmp_path, "one")
    kept.save(writing("good"))
    (tmp_path / "one" / RUN / "checkpoint-000001" / "learner" / "n").write_text("bad")
    assert content(kept) == "good"


@pytest.mark.parametrize("damage", ["no manifest", "another hash"])
def test_incomplete_or_damaged_one_in_the_store_is_not_taken(damage: str, tmp_path: Path) -> None:
    first = of(tmp_path, "one")
    first.save(writing("old"))
    first.save(writing("new"))
    newest = tmp_path / "store" / RUN / "checkpoint-000002"
    if damage == "no manifest":
        (newest / MANIFEST).unlink()
    else:
        (newest / "learner" / "n").write_text("wen")
    assert content(of(tmp_path, "two")) == "old"


def test_models_and_snapshots_that_checkpoints_refer_to_come_along(tmp_path: Path) -> None:
    first, run = of(tmp_path, "one"), tmp_path / "one" / RUN
    (run / "models" / "expert-1").mkdir(parents=True)
    (run / "models" / "expert-1" / "w").write_text("weights")
    first.snapshot("boundary-1", writing("of 1"))
    first.save(writing("a"))
    first.drop_snapshots([])
    first.snapshot("boundary-2", writing("of 2"))
    first.save(writing("b"))
    second = of(tmp_path, "two")
    assert content(second) == "b"
    found = tmp_path / "two" / RUN
    assert (found / "models" / "expert-1" / "w").read_text() == "weights"
    assert (second.find_snapshot("boundary-2") / "learner" / "n").read_text() == "of 2"
    assert sorted(path.name for path in (found / "snapshots").iterdir()) == ["boundary-2"]


class Away(fs.FileSystemHandler):  # type: ignore[misc]
    """A folder behind pyarrow, whose writes or reads fail while `down` says so."""

    down: str = ""

    def __init__(self, folder: Path) -> None:
        self._fs = fs.LocalFileSystem()
        folder.mkdir()

    def _answer(self, what: str) -> None:
        if self.down == what:
            raise OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH))

    def get_type_name(self) -> str:
        return "away"

    def normalize_path(self, path: str) -> str:
        return path

    def get_file_info(self, paths: list[str]) -> Any:
        self._answer("reads")
        return self._fs.get_file_info(paths)

    def get_file_info_selector(self, selector: Any) -> Any:
        self._answer("reads")
        return self._fs.get_file_info(selector)

    def create_dir(self, path: str, recursive: bool) -> None:
        self._answer("writes")
        self._fs.create_dir(path, recursive=recursive)

    def delete_dir(self, path: str) -> None:
        self._fs.delete_dir(path)

    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> None:
        self._fs.delete_dir_contents(path, missing_dir_ok=missing_dir_ok)

    def delete_root_dir_contents(self) -> None:
        raise NotImplementedError

    def delete_file(self, path: str) -> None:
        self._fs.delete_file(path)

    def move(self, source: str, target: str) -> None:
        self._fs.move(source, target)

    def copy_file(self, source: str, target: str) -> None:
        self._fs.copy_file(source, target)

    def open_input_stream(self, path: str) -> Any:
        self._answer("reads")
        return self._fs.open_input_stream(path)

    def open_input_file(self, path: str) -> Any:
        self._answer("reads")
        return self._fs.open_input_file(path)

    def open_output_stream(self, path: str, metadata: Any) -> Any:
        self._answer("writes")
        return self._fs.open_output_stream(path, metadata=metadata)

    def open_append_stream(self, path: str, metadata: Any) -> Any:
        raise NotImplementedError


@pytest.fixture
def away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Away:
    handler = Away(tmp_path / "store")
    monkeypatch.setattr("ductile.remote.opened", lambda store: (fs.PyFileSystem(handler), str(tmp_path / "store")))
    return handler


def test_store_that_is_away_costs_nothing_here_and_the_next_save_copies_the_newest(
    away: Away, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = of(tmp_path, "one")
    away.down = "writes"
    for text in "ab":
        kept.save(writing(text))
    assert content(kept) == "b" and there(tmp_path) == []
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "checkpoint-000001 could not be copied to checkpoint.store" in caplog.text
    assert kept.metrics()["checkpoint/failures"] == 3  # with the look for the latest one, which is not there either
    away.down = ""
    kept.save(writing("c"))
    assert there(tmp_path) == ["checkpoint-000003"]


def test_run_that_ends_copies_what_the_store_lacks_or_says_that_it_could_not(away: Away, tmp_path: Path) -> None:
    kept = of(tmp_path, "one")
    away.down = "writes"
    kept.save(writing("a"))
    with pytest.raises(CheckpointFailed, match=r"it is complete here: mend the store"):
        kept.flush()
    away.down = ""
    kept.flush()
    assert there(tmp_path) == ["checkpoint-000001"]


def test_run_does_not_begin_anew_when_it_cannot_ask_the_store(away: Away, tmp_path: Path) -> None:
    of(tmp_path, "one").save(writing("a"))
    away.down = "reads"
    with pytest.raises(WrongCheckpoint, match="mend the store's access"):
        of(tmp_path, "two").latest()
    assert content(of(tmp_path, "one")) == "a"


@pytest.mark.parametrize("damage", [b'{"format": "ductile.che', b"\xff\xfe", b""])
def test_unreadable_manifest_in_the_store_is_an_incomplete_checkpoint(damage: bytes, tmp_path: Path) -> None:
    kept = of(tmp_path, "one")
    for text in "ab":
        kept.save(writing(text))
    (tmp_path / "store" / RUN / "checkpoint-000001" / MANIFEST).write_bytes(damage)
    kept.save(writing("c"))
    kept.flush()
    assert there(tmp_path) == ["checkpoint-000002", "checkpoint-000003"]


@pytest.mark.parametrize("error", [pa.ArrowInvalid("what"), UnicodeDecodeError("utf-8", b"x", 0, 1, "what")])
def test_whatever_the_store_raises_is_its_failure_and_not_the_runs(
    error: Exception, away: Away, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = of(tmp_path, "one", background=True)

    def raising(what: str) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(away, "_answer", raising)
        kept.save(writing("a"))
        kept.wait()
        assert kept.metrics()["checkpoint/failures"] == 1
    kept.flush()
    assert there(tmp_path) == ["checkpoint-000001"]


def test_snapshot_stays_in_the_store_until_the_checkpoint_without_it_is_there(away: Away, tmp_path: Path) -> None:
    kept = of(tmp_path, "one")
    kept.snapshot("boundary-1", writing("of 1"))
    kept.save(writing("refers to 1"))
    kept.drop_snapshots([])
    away.down = "writes"
    kept.save(writing("without"))
    away.down = ""
    second = of(tmp_path, "two")
    assert content(second) == "refers to 1"
    assert (second.find_snapshot("boundary-1") / "learner" / "n").read_text() == "of 1"
    kept.flush()
    assert there(tmp_path) == ["checkpoint-000001", "checkpoint-000002"]
    assert not list((tmp_path / "store" / RUN / "snapshots").glob("*"))


def test_runs_of_one_name_do_not_share_a_place(tmp_path: Path) -> None:
    settings = CheckpointSettings(store=str(tmp_path / "store"), background=False)

    def trial(sweep: str, run: str) -> FolderStore:
        return FolderStore(tmp_path / sweep / "trial-003" / "seed0", tmp_path / "memory", settings=settings, run=run)

    trial("first", "1a2b").save(writing("of the first"))
    assert trial("second", "3c4d").latest() is None
    assert content(trial("elsewhere", "1a2b")) == "of the first"
    assert (tmp_path / "store" / "trial-003" / "seed0-1a2b").is_dir()


def test_half_copied_model_is_not_taken_for_a_whole_one(tmp_path: Path) -> None:
    first, run = of(tmp_path, "one"), tmp_path / "one" / RUN
    first.save(writing("a"))
    (run / "models" / "expert-x").mkdir(parents=True)
    for name in ("config.json", "w"):
        (run / "models" / "expert-x" / name).write_text(name)
    half = tmp_path / "store" / RUN / "models" / "expert-x"
    half.mkdir(parents=True)
    shutil.copy(run / "models" / "expert-x" / "config.json", half)  # a kill came before the rest
    assert content(of(tmp_path, "two")) == "a"
    assert not (tmp_path / "two" / RUN / "models" / "expert-x").exists()
    first.save(writing("b"))
    assert content(of(tmp_path, "two")) == "b"
    assert sorted(path.name for path in (tmp_path / "two" / RUN / "models" / "expert-x").iterdir()) == [
        "config.json",
        "w",
    ]


def test_damaged_model_beside_is_not_taken(tmp_path: Path) -> None:
    first, run = of(tmp_path, "one"), tmp_path / "one" / RUN
    (run / "models" / "expert-x").mkdir(parents=True)
    (run / "models" / "expert-x" / "w").write_text("weights")
    first.save(writing("a"))
    (tmp_path / "store" / RUN / "models" / "expert-x" / "w").write_text("thgiews")
    assert of(tmp_path, "two").latest() is None
    assert not list((tmp_path / "two" / RUN / "models").iterdir())


def test_snapshot_of_the_same_name_and_size_is_copied_anew(tmp_path: Path) -> None:
    first = of(tmp_path, "one")
    first.snapshot("boundary-1", writing("old"))
    first.save(writing("a"))
    second = of(tmp_path, "two")
    assert content(second) == "a"
    first.snapshot("boundary-1", writing("new"))
    first.save(writing("b"))
    assert content(second) == "b"
    assert (second.find_snapshot("boundary-1") / "learner" / "n").read_text() == "new"


def test_start_copies_what_a_kill_kept_from_the_store(away: Away, tmp_path: Path) -> None:
    away.down = "writes"
    of(tmp_path, "one").save(writing("a"))  # and its process is killed
    away.down = ""
    kept = of(tmp_path, "one")
    assert content(kept) == "a" and there(tmp_path) == ["checkpoint-000001"]
    before = (tmp_path / "store" / RUN / "checkpoint-000001" / MANIFEST).stat().st_ino
    assert content(of(tmp_path, "one")) == "a"
    assert (tmp_path / "store" / RUN / "checkpoint-000001" / MANIFEST).stat().st_ino == before  # not copied again


def test_finished_run_says_that_the_store_lacks_its_last_checkpoint(away: Away, tmp_path: Path) -> None:
    away.down = "writes"
    of(tmp_path, "one").save(writing("a"))
    kept = of(tmp_path, "one")
    assert content(kept) == "a"
    with pytest.raises(CheckpointFailed, match="mend the store"):
        kept.flush()


def test_store_that_cannot_be_opened_does_not_keep_a_run_from_going_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    of(tmp_path, "one", store="").save(writing("a"))

    def no_region(store: str) -> Any:
        raise OSError("When resolving region for bucket 'bucket': " + "no network. " * 1000)

    with monkeypatch.context() as patch:
        patch.setattr("ductile.remote.opened", no_region)
        kept = of(tmp_path, "one", "s3://bucket/runs")
        assert content(kept) == "a"
        kept.save(writing("b"))
        assert mistakes("s3://bucket/runs") == []
    assert caplog.records and max(len(record.getMessage()) for record in caplog.records) < 1000


def test_place_of_a_store_in_the_home_folder_is_found_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert opened("~/copies")[1] == str(tmp_path / "home" / "copies")
    monkeypatch.chdir(tmp_path)
    kept = of(tmp_path, "one", "copies")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    kept.save(writing("a"))
    assert (tmp_path / "copies" / RUN / "checkpoint-000001").is_dir()


def test_every_call_works_on_a_file_system_that_is_no_disk(tmp_path: Path) -> None:
    """pyarrow's own file system in memory, below a folder of it."""
    memory = fs._MockFileSystem()
    memory.create_dir("bucket")
    kept = FolderStore(tmp_path / RUN, tmp_path, settings=CheckpointSettings(background=False))
    kept.save(writing("a"))
    kept.snapshot("boundary-1", writing("snapshot"))
    remote = Remote(lambda: (fs.SubTreeFileSystem("bucket", memory), "runs/x"))
    for _ in range(2):
        latest = kept.latest()
        assert latest is not None
        remote.send(latest, 1, keep_boundaries=False)
        kept.save(writing("b"))
    assert remote.names() == ["checkpoint-000002"]
    fetched = remote.fetch("checkpoint-000002", tmp_path / "other")
    assert (fetched / "learner" / "n").read_text() == "b"
    assert json.loads((fetched / MANIFEST).read_text())["format"] == "ductile.checkpoint/1"
    with pytest.raises(Damaged):
        remote.fetch("checkpoint-000009", tmp_path / "other")
    shutil.rmtree(tmp_path / "other")


def mistakes(store: str) -> list[str]:
    return list(store_mistakes(build(RunSettings, {"checkpoint": {"store": store}})))


def test_store_that_is_none_is_refused_before_any_work() -> None:
    assert mistakes("") == mistakes("/somewhere/else") == mistakes("runs/copies") == []
    (mistake,) = mistakes("nowhere://bucket/runs")
    assert mistake.startswith("checkpoint.store: nowhere://...: ") and "allowed: a folder's path" in mistake


@pytest.mark.parametrize(
    "store",
    ["s3://AKIA123:hunter2@bucket/runs", "s3://bucket/runs?secret_key=hunter2", "abfs://bucket/x?sas_token=hunter2"],
)
def test_credentials_in_a_store_are_refused_and_not_repeated(store: str) -> None:
    with pytest.raises(ValueError, match="in the environment") as refused:
        opened(store)
    (mistake,) = [*mistakes(store), *secret_mistakes(build(RunSettings, {"checkpoint": {"store": store}}))]
    assert "hunter2" not in mistake + str(refused.value) and "AKIA123" not in mistake
