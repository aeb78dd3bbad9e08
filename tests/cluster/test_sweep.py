"""A search over thresholds: both searches, early stops that leave nothing behind, dead processes, and a kill -9."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from mlflow import MlflowClient
from mlflow.entities import Run
from ray._private.state import actors
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.util import placement_group_table

from ductile.settings import as_plain
from jobs import trials
from jobs.configure import parse, sweep_settings
from jobs.driver import absolute, start
from jobs.sweep import search_on
from tests.cluster.tiny import ROOT, TINY, finish

pytestmark = pytest.mark.cluster
SEARCH = (
    *TINY,
    "plan=guessable",
    "difficulty.selection=band",
    "probe.probes=[retention]",
    "probe.inside=[retention]",
    "probe.every=1",
    "sweep.grace=1",
)
GUESSING = (  # a base that answers at once and is right one time in ten, so that small updates show
    "model.pretrain.steps=200",
    "model.pretrain.warmup=10",
    "model.pretrain.lr=1e-2",
    "model.mixture={sum: {domain: {name: chain_sum}, levels: [2], formats: {direct: 1.0}}}",
    "probe.prior={sum: {domain: {name: chain_sum}, levels: [2]}}",
    "probe.problems=256",
    "sweep.objective=new_skill",
    "rollout.max_tokens=6",
    "learner.lr=3e-3",
    "objective.entropy=0",
)
RAYS_OWN = "_AutoscalingCoordinatorActor"
"""Ray Train starts it with the first training on a cluster, one for all, and it stays as long as the cluster does."""


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("searches")


@pytest.fixture(scope="module")
def begun(output: Path, cache: Path) -> Iterator[Any]:
    """One Ray for the searches of this module."""
    where = (f"output={output}", f"cache={cache}", "cluster.cpus=4")
    with start(absolute(sweep_settings(parse([*SEARCH, *where]))[1])) as started:
        started.stopping.flag.asked()  # its actor's process is there, and is counted before each search as after it
        yield started


@pytest.fixture
def search(begun: Any, output: Path, cache: Path, request: pytest.FixtureRequest) -> Callable[..., dict[int, str]]:
    """Run a search named for the test; what it returns are the trials that failed."""

    def run(*more: str) -> dict[int, str]:
        where = (f"output={output}", f"cache={cache}", f"name={request.node.originalname}", "cluster.concurrent=1")
        sweep, settings = sweep_settings(parse([*SEARCH, *where, *more]))
        failed = search_on(sweep, absolute(settings), begun)
        deadline = time.monotonic() + 30  # MLflow has everything when the job ends, and this one goes on
        while ray.get(begun.tracker.health.remote())["pending"] and time.monotonic() < deadline:
            time.sleep(0.1)
        return failed

    return run


@pytest.fixture
def folder(output: Path, request: pytest.FixtureRequest) -> Callable[[], Path]:
    """The folder of the newest search of this test."""
    return lambda: max(output.glob(f"{request.node.originalname}-*"), key=lambda path: path.stat().st_mtime)


class StopsAtFirstReport(FIFOScheduler):
    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        return TrialScheduler.STOP if "steps" in result else TrialScheduler.CONTINUE


def outcomes(folder: Path) -> dict[str, Any]:
    return {path.parent.name: json.loads(path.read_text()) for path in folder.glob("trial-*/outcome.json")}


def children(folder: Path) -> list[Run]:
    """MLflow's runs of the search, its parent first."""
    client = MlflowClient(f"sqlite:///{folder.parent / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("ductile")
    assert experiment is not None
    (parent,) = client.search_runs([experiment.experiment_id], f"tags.`ductile.key` = '{folder.name}'")
    condition = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    return [parent, *client.search_runs([experiment.experiment_id], condition, order_by=["start_time ASC"])]


def alive() -> tuple[list[str], int, list[str]]:
    """Ray's living actors by class, its placement groups, and the processes that say they are an actor's."""
    living = sorted(row["ActorClassName"] for row in actors().values() if row["State"] != "DEAD")
    assert living.count(RAYS_OWN) <= 1
    groups = sum(row["state"] != "REMOVED" for row in placement_group_table().values())
    return [name for name in living if name != RAYS_OWN], groups, actor_processes()


def actor_processes() -> list[str]:
    """Names of the processes of this Ray that belong to an actor; workers that wait for work are called IDLE.

    A local Ray's raylet is a child of the process that started it, and the workers are children of the raylet.
    """
    names = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            name = (process.cmdline() or [""])[0]
            if name.startswith("ray::") and "IDLE" not in name and RAYS_OWN not in name:
                names.append(name.split(".")[0])
    return sorted(names)


@pytest.mark.parametrize("workers", [0, 2])
def test_trial_that_is_stopped_leaves_no_actor_process_or_placement_group(
    workers: int,
    search: Callable[..., dict[int, str]],
    folder: Callable[[], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trials, "_scheduler", lambda *_: StopsAtFirstReport())
    before = alive()
    assert search("sweep.trials=2", f"learner.workers={workers}") == {}
    deadline = time.monotonic() + 20
    while alive() != before and time.monotonic() < deadline:
        time.sleep(0.2)
    assert alive() == before
    ended = outcomes(folder())
    assert {name: (row["status"], row["steps"]) for name, row in ended.items()} == {
        "trial-000": ("stopped", 1),
        "trial-001": ("stopped", 1),
    }
    parent, *runs = children(folder())
    assert (parent.info.status, parent.data.tags["ductile.kind"]) == ("FINISHED", "sweep")
    assert [(run.info.status, run.data.tags["ductile.stopped_early"]) for run in runs] == [("KILLED", "1")] * 2
    assert float(runs[0].data.params["difficulty.band"].strip("[]").split(",")[0]) == float(
        runs[0].data.tags["ductile.low"]
    )


def test_asha_stops_the_worse_trials_and_goes_on_with_more_of_them(
    search: Callable[..., dict[int, str]], folder: Callable[[], Path]
) -> None:
    assert search(*GUESSING, "sweep.trials=4", "sweep.group_sizes=[2,4,8]") == {}
    first = outcomes(folder())
    written = {path: path.stat().st_mtime_ns for path in folder().glob("trial-*/outcome.json")}
    assert len(first) == 4 and {"finished", "stopped"} == {row["status"] for row in first.values()}
    assert all(row["steps"] == (4 if row["status"] == "finished" else row["steps"]) for row in first.values())
    report = folder() / "report"
    summary = json.loads((report / "summary.json").read_text())
    assert summary["counts"] == {
        "finished": sum(row["status"] == "finished" for row in first.values()),
        "stopped": sum(row["status"] == "stopped" for row in first.values()),
        "failed": 0,
    }
    assert (report / "thresholds.png").stat().st_size > 10_000 and (report / "thresholds.svg").exists()

    assert search(*GUESSING, "sweep.trials=5", "sweep.group_sizes=[2,4,8]") == {}
    again = outcomes(folder())
    assert len(again) == 5 and {name: again[name] for name in first} == first
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert len(children(folder())) == 6


def test_trial_whose_process_dies_is_tried_again_from_its_checkpoint(
    search: Callable[..., dict[int, str]], folder: Callable[[], Path], output: Path
) -> None:
    killed: list[int] = []

    def kill_once() -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            if list(output.glob("test_trial_whose*/trial-000/seed0/checkpoint-*2")):
                (process,) = [row for row in actors().values() if row["State"] == "ALIVE" and _is_trial(row)]
                killed.append(process["Pid"])
                os.kill(process["Pid"], signal.SIGKILL)
                return
            time.sleep(0.01)

    thread = threading.Thread(target=kill_once)
    thread.start()
    assert search("sweep.trials=1", "phase.hard.steps=8", "sweep.search=model") == {}
    thread.join()
    assert killed and outcomes(folder())["trial-000"]["status"] == "finished"
    _, run = children(folder())
    client = MlflowClient(f"sqlite:///{output / 'mlflow.db'}")
    steps = [metric.step for metric in client.get_metric_history(run.info.run_id, "rollout/pass_rate")]
    assert run.info.status == "FINISHED" and steps == list(range(1, 9))


def _is_trial(row: dict[str, Any]) -> bool:
    return "Trial" in row["ActorClassName"] or "Trainable" in row["ActorClassName"]


def test_failed_trial_is_told_and_does_not_end_the_search(
    search: Callable[..., dict[int, str]], folder: Callable[[], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    failed = search("sweep.trials=2", "sweep.search=model", "learner.lr=1e10")
    assert sorted(failed) == [0, 1] and all("Diverged: update" in reason for reason in failed.values())
    assert "Trials that failed" in capsys.readouterr().out
    assert {run.info.status for run in children(folder())} == {"FAILED"}


def test_search_that_was_killed_goes_on_where_it_was(command: Callable[..., list[str]], tmp_path: Path) -> None:
    more = (*SEARCH[len(TINY) :], "sweep.search=model", "sweep.objective=pareto", "sweep.seeds=2", "sweep.trials=2")
    arguments = command("sweep", tmp_path, *more, "cluster.concurrent=1")
    driver = subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and driver.poll() is None:
        if list(tmp_path.glob("*/trial-001/seed0/checkpoint-*")):
            break
        time.sleep(0.02)
    os.kill(driver.pid, signal.SIGKILL)
    assert driver.wait() == -signal.SIGKILL
    (folder,) = (path.parent for path in tmp_path.glob("*/trial-000"))
    first = outcomes(folder)
    given = {path: path.read_text() for path in folder.glob("trial-*/trial.json")}
    assert list(first) == ["trial-000"] and len(given) == 2, "the search ended before it could be killed"

    done = finish(arguments)
    assert outcomes(folder)["trial-000"] == first["trial-000"]
    assert {path: path.read_text() for path in given} == given
    assert [len(row["seeds"]) for row in outcomes(folder).values()] == [2, 2]
    assert "Trials, best first" in done.stdout
    parent, *runs = children(folder)
    assert {run.info.status for run in (parent, *runs)} == {"FINISHED"} and len(runs) == 4
    artifacts = {
        item.path for item in MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}").list_artifacts(parent.info.run_id)
    }
    assert {"thresholds.png", "thresholds.svg", "summary.json"} <= artifacts


def test_wrong_search_stops_before_any_work(command: Callable[..., list[str]], tmp_path: Path) -> None:
    done = finish(command("sweep", tmp_path / "out", *SEARCH[len(TINY) :], "sweep.low=[0.5,0.2]"), code=2)
    assert done.stderr.strip() == (
        "sweep.low: [0.5, 0.2]: the range is empty; its first end must not be above its second"
    )
    assert not (tmp_path / "out").exists()


def test_a_search_is_no_setting_of_a_run() -> None:
    assert "sweep" not in as_plain(sweep_settings(parse(SEARCH))[1])
