"""What needs no Ray of the cluster on one machine."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest

import infra.local_cluster as local
from infra.local_cluster import MARK, ClusterError, LocalCluster, Node


def test_labels_are_read_and_wrong_ones_told() -> None:
    assert local._labels("role=rollout,zone=a") == {"role": "rollout", "zone": "a"}
    with pytest.raises(argparse.ArgumentTypeError, match="key=value"):
        local._labels("rollout")


def test_folder_too_long_for_sockets_is_refused() -> None:
    with pytest.raises(ClusterError, match="allowed: 40 characters"):
        LocalCluster(Path("/tmp") / ("x" * 60))


def test_nothing_to_add_to_or_remove_from_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "LONGEST", 1000)
    cluster = LocalCluster(tmp_path)
    with pytest.raises(ClusterError, match="no cluster runs"):
        cluster.add()
    with pytest.raises(ClusterError, match="no cluster runs"):
        cluster.remove("n1")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(local, "LONGEST", 1000)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    return tmp_path / "cluster"


@pytest.mark.parametrize("command", [["stop"], ["add"], ["remove", "n1"]])
def test_command_without_a_cluster_is_one_line_and_touches_nothing(
    folder: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    assert local.main(["--folder", str(folder), *command]) == 1
    assert capsys.readouterr().err.startswith(f"no cluster runs in {folder}")
    assert (folder / "thesis.txt").exists()


@pytest.mark.parametrize(
    ("nodes", "labels", "line"), [("0", [], "nodes: 0 is too few"), ("1", ["a=1", "b=2"], "labels: there are 2, for 1")]
)
def test_wrong_start_is_one_line(
    folder: Path, nodes: str, labels: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert local.main(["--folder", str(folder), "start", "--nodes", nodes, "--labels", *labels]) == 1
    assert capsys.readouterr().err.startswith(line) and not folder.exists()


def test_folder_with_other_things_in_it_is_refused(folder: Path) -> None:
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    with pytest.raises(ClusterError, match="holds other things"):
        LocalCluster(folder).start()
    with pytest.raises(ClusterError, match="holds other things"):
        LocalCluster(folder / "thesis.txt").start()
    assert (folder / "thesis.txt").exists()


def test_start_that_fails_keeps_the_logs_and_stop_removes_only_what_was_made(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "_ray", lambda loopback: [sys.executable, "-c", "raise SystemExit('no room')"])
    monkeypatch.setattr(LocalCluster, "alive", lambda self: [])
    with pytest.raises(ClusterError, match="no room"):
        LocalCluster(folder).start()
    assert "no room" in (folder / "head.log").read_text()
    (folder / "thesis.txt").write_text("years of work")
    LocalCluster(folder).stop()
    assert [path.name for path in folder.iterdir()] == ["thesis.txt"]
    (folder / "thesis.txt").unlink()
    with pytest.raises(ClusterError, match="no room"):
        LocalCluster(folder).start()
    LocalCluster(folder).stop()
    assert list(folder.iterdir()) == []  # the folder itself was there before


def test_only_processes_that_carry_the_mark_and_their_children_are_a_nodes() -> None:
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    parent = "import subprocess, sys, time; subprocess.Popen(sys.argv[1:], env={}); time.sleep(60)"
    mine = subprocess.Popen([sys.executable, "-c", parent, *sleep], env={**os.environ, MARK: "/x/n1/abc"})
    other = subprocess.Popen(sleep, env={**os.environ, MARK: "/x/n1/abcd"})
    node = Node("n1", mine.pid, "/x/n1/abc", "127.0.0.1", 1, {})
    try:
        for _ in range(200):
            if len(found := local._processes(node)) == 2:
                break
        assert mine.pid in found and other.pid not in found and len(found) == 2
        LocalCluster._kill(LocalCluster(Path("/tmp/none")), node)
        assert mine.wait(10) == -9 and other.poll() is None
    finally:
        mine.kill()
        other.kill()
        other.wait()


def test_token_is_made_once_for_its_user_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "deep" / "token"))
    path = local._token()
    first = path.read_text()
    assert len(first) == 64 and path.stat().st_mode & 0o777 == 0o600
    assert local._token().read_text() == first
