"""Each check of the doctor, with what it looks at made up."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from ductile.config import ClusterSettings, RunSettings
from jobs import doctor
from jobs.doctor import (
    Row,
    Seen,
    cluster_rows,
    gpu_row,
    guarded,
    left_in,
    machine_rows,
    pinned,
    python_row,
    shared_row,
    show,
    skew_row,
    versions_row,
    write_folder,
    write_mlflow,
    write_store,
)

PINS = {"ray": "2.60.0", "torch": "2.13.0", "tqdm": "4.0"}


def test_pins_are_read_without_comments_and_by_pips_names() -> None:
    assert pinned("# all\nFlask==3.1.3\nast_serialize==0.13.1  # why\n\n") == {
        "flask": "3.1.3",
        "ast-serialize": "0.13.1",
    }


def test_other_version_and_missing_central_package_fail_and_build_tags_do_not() -> None:
    row = versions_row("here", {"torch": "2.13.0+cpu", "tqdm": "4.1"}, PINS)
    assert not row.ok and row.found == "tqdm 4.1 (pinned 4.0); ray is missing"
    assert "pip install -c constraints.txt" in row.todo
    assert versions_row("here", {"ray": "2.60.0", "torch": "2.13.0+cu130"}, PINS).ok


@pytest.mark.parametrize(("version", "ok"), [("3.11.7", True), ("3.12.1", False), ("3.1.1", False)])
def test_python_is_the_one_of_the_pins(version: str, ok: bool) -> None:
    assert python_row(version).ok is ok


def test_machine_that_lacks_shared_memory_is_told_how_to_enlarge_it() -> None:
    rows = {row.check: row for row in machine_rows(1, 8.0, 10.0, 0.06)}
    assert [name for name, row in rows.items() if not row.ok] == ["CPUs", "/dev/shm"]
    assert rows["/dev/shm"].todo.startswith("0.5 GB are needed: enlarge it (docker run --shm-size")


def test_gpu_that_torch_cannot_use_fails_and_none_does_not() -> None:
    assert gpu_row(0, lambda: False).ok
    assert gpu_row(2, lambda: True).ok
    assert not gpu_row(2, lambda: False).ok


def test_check_that_raises_is_a_row_with_the_first_line_of_its_error() -> None:
    def broken() -> str:
        raise OSError("disk is full\nmore")

    row = guarded("output", broken, "free some")
    assert (row.ok, row.found, row.todo) == (False, "OSError: disk is full", "free some")


def test_node_without_the_shared_folder_is_named() -> None:
    seen = [Seen("10.0.0.1", {}, 0.0, ["output", "cache"]), Seen("10.0.0.2", {}, 0.0, ["cache"])]
    row = shared_row(seen, ["output", "cache"])
    assert not row.ok and row.found == "10.0.0.2 lacks output"
    assert shared_row(seen[:1], ["output", "cache"]).ok


@pytest.mark.parametrize(("skews", "ok"), [((0.0, 1.9), True), ((-1.5, 1.5), False), ((50.0, 50.1), True)])
def test_clocks_are_compared_with_each_other(skews: tuple[float, ...], ok: bool) -> None:
    assert skew_row([Seen("n", {}, skew, []) for skew in skews]).ok is ok


def test_writing_leaves_nothing_behind(tmp_path: Path) -> None:
    assert write_folder(tmp_path / "a") == str(tmp_path / "a")
    assert write_store(str(tmp_path / "b")) == str(tmp_path / "b")
    with left_in([tmp_path / "c"]) as mark:
        assert (tmp_path / "c" / mark).exists()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_folder_that_is_a_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert not guarded("output", lambda: write_folder(tmp_path / "file"), "").ok


def test_mlflow_that_does_not_answer_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert not guarded("MLflow", lambda: write_mlflow("http://127.0.0.1:9", "e"), "start it").ok


def test_rows_hold_no_secret(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted-aws-key-0005")

    def broken() -> str:
        raise OSError("https://me:planted-uri-0008@host refused planted-aws-key-0005")

    rows = [
        guarded("MLflow", broken, "start it"),
        Row("a", False, "postgresql://me:planted-0009@db", "planted-aws-key-0005"),
    ]
    show(rows)
    assert "planted" not in json.dumps([asdict(row) for row in rows]) + capsys.readouterr().out


def test_folder_that_cannot_be_left_a_file_in_is_a_failing_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    settings = RunSettings(output=str(tmp_path / "file"), cache=str(tmp_path))
    monkeypatch.setattr(doctor, "_connect", lambda *_: "1 node")
    reached, row = cluster_rows(settings, {})
    assert reached.ok and not row.ok and row.check == "folders seen by all nodes" and "output=FOLDER" in row.todo


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9", "[::1]:9"])
def test_cluster_that_is_not_there_is_a_failing_row_at_once(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "connect", lambda _: pytest.fail("Ray tries for minutes"))
    (row,) = cluster_rows(RunSettings(cluster=ClusterSettings(address=address)), {})
    assert not row.ok and row.check == "Ray answers" and f"is {address} right, does the head answer" in row.todo


def test_store_with_credentials_in_it_is_refused_without_them() -> None:
    row = guarded("store", lambda: write_store("s3://bucket/x?access_key=planted-0010"), "")
    assert not row.ok and "planted" not in row.found
