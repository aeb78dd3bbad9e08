"""The jobs end to end: a comparison, a kill -9 in the middle of one, several workers, and a cluster's job queue."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient

from tests.cluster.tiny import ROOT, TINY, finish, measured, runs_in

pytestmark = pytest.mark.cluster
WATCHED = (  # none of it changes what the run learns, since problems are chosen evenly
    "difficulty.shadows=[all]",
    "difficulty.reestimate=0.3",
    "difficulty.refresh_every=1",
    "difficulty.audit={every: 2, problems: 4, unseen: 2, samples: 4}",
)
ONE = ("variant=[parameter_only]", "plan=[guessable]", "seeds=1")
RUN = "parameter_only-guessable-seed0"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of this file's own: its comparison builds both models, whatever other tests built before."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """The output folder of a comparison of all variants that nothing disturbed."""
    output = tmp_path_factory.mktemp("uninterrupted")
    plain = [sys.executable, "-m", "jobs.compare", *TINY, f"output={output}", f"cache={cache}"]
    finish([*plain, "plan=[none,guessable]", "seeds=1"])
    return output


def test_comparison_leaves_a_report_and_mlflow_runs(uninterrupted: Path) -> None:
    (report,) = uninterrupted.glob("*/report")
    summary = json.loads((report / "summary.json").read_text())
    cells = {(cell["plan"], cell["variant"]) for cell in summary["cells"]}
    assert cells == {(p, v) for p in ("none", "guessable") for v in ("parameter_only", "low_drift", "proxy")}
    assert "<html" in (report / "report.html").read_text() and list(report.glob("*.png"))

    client = MlflowClient(f"sqlite:///{uninterrupted / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("ductile")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    kinds = [run.data.tags["ductile.kind"] for run in runs]
    assert (kinds.count("compare"), kinds.count("run"), kinds.count("pretrain")) == (1, 6, 2)
    assert {run.info.status for run in runs} == {"FINISHED"}
    parent = next(run for run in runs if run.data.tags["ductile.kind"] == "compare")
    trained = [run for run in runs if run.data.tags.get("ductile.plan") == "guessable"]
    assert {run.data.tags["mlflow.parentRunId"] for run in trained} == {parent.info.run_id}
    for run in trained:
        history = client.get_metric_history(run.info.run_id, "rollout/pass_rate")
        assert [metric.step for metric in history] == [1, 2, 3, 4]
        assert run.data.params["phase.hard.steps"] == "4"


def test_report_is_rebuilt_from_mlflow_alone(uninterrupted: Path, tmp_path: Path) -> None:
    (first,) = uninterrupted.glob("*/report/summary.json")
    done = finish([sys.executable, "-m", "jobs.report", f"output={uninterrupted}", f"folder={tmp_path / 'again'}"])
    again = json.loads((tmp_path / "again" / "summary.json").read_text())
    assert again["cells"] == json.loads(first.read_text())["cells"]
    assert "guessable" in done.stdout


def test_same_command_again_does_nothing_twice(uninterrupted: Path, command: Callable[..., list[str]]) -> None:
    folder = runs_in(uninterrupted)[RUN]
    before = sorted(path.name for path in folder.glob("checkpoint-*"))
    finish(command("compare", uninterrupted, "plan=[none,guessable]", "seeds=1"))
    assert sorted(path.name for path in folder.glob("checkpoint-*")) == before


def test_kill_of_the_driver_and_the_same_command_again_gives_the_same_run(
    uninterrupted: Path, command: Callable[..., list[str]], tmp_path: Path
) -> None:
    arguments = command("compare", tmp_path, *ONE)
    driver = subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and driver.poll() is None:
        checkpoints = sorted(tmp_path.glob(f"*/{RUN}/checkpoint-*"))
        if checkpoints and int(checkpoints[-1].name.split("-")[1]) >= 3:  # boundary 0 and two steps
            break
        time.sleep(0.02)
    os.kill(driver.pid, signal.SIGKILL)
    assert driver.wait() == -signal.SIGKILL
    run = runs_in(tmp_path)[RUN]
    assert not (run / "finished.json").exists(), "the run ended before it could be killed"

    finish(arguments)
    assert measured(run) == measured(runs_in(uninterrupted)[RUN])
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("ductile")
    assert experiment is not None
    (mlflow_run,) = client.search_runs([experiment.experiment_id], "tags.`ductile.kind` = 'run'")
    assert mlflow_run.info.status == "FINISHED"
    steps = [metric.step for metric in client.get_metric_history(mlflow_run.info.run_id, "rollout/pass_rate")]
    assert steps == [1, 2, 3, 4]


def test_two_workers_with_deepspeed_learn_what_one_process_does(
    uninterrupted: Path, command: Callable[..., list[str]], tmp_path: Path
) -> None:
    settings = ("variant=parameter_only", "plan=guessable", "learner.workers=2", "cluster.cpus=4", *WATCHED)
    finish(command("run", tmp_path, *settings, "learner.engine=deepspeed", "learner.zero=1", "rollout.actors=2"))
    (run,) = (path.parent for path in tmp_path.glob("*/settings.json"))
    ours, theirs = measured(run), measured(runs_in(uninterrupted)[RUN])
    drifts = [
        [value for name, value in row["metrics"].items() if name.startswith("drift/")] for row in (ours[1], theirs[1])
    ]
    np.testing.assert_allclose(drifts[0], drifts[1], rtol=1e-2)
    assert ours[1]["metrics"]["retention/prior"] == pytest.approx(theirs[1]["metrics"]["retention/prior"], abs=0.07)
    assert [(row["step"], len(row["pool"]["estimators"])) for row in audits(run)] == [(0, 9), (2, 9), (4, 9)]


def test_two_workers_stopped_by_ctrl_c_are_gone_on_with_by_one_process(
    uninterrupted: Path, command: Callable[..., list[str]], tmp_path: Path
) -> None:
    settings = ("variant=parameter_only", "plan=guessable", "learner.engine=deepspeed", "learner.zero=2")
    two = command("run", tmp_path, *settings, "learner.workers=2", "cluster.cpus=4")
    job = subprocess.Popen(two, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and job.poll() is None and not list(tmp_path.glob("*/checkpoint-*")):
        time.sleep(0.02)
    os.kill(job.pid, signal.SIGINT)
    _, told = job.communicate(timeout=240)
    assert job.returncode == 130 and "stopped; the same command goes on" in told, told
    (run,) = (path.parent for path in tmp_path.glob("*/settings.json"))
    assert not (run / "finished.json").exists(), "the run ended before it could be stopped"

    finish(command("run", tmp_path, *settings))
    ours, theirs = measured(run), measured(runs_in(uninterrupted)[RUN])
    drifts = [
        [value for name, value in row["metrics"].items() if name.startswith("drift/")] for row in (ours[1], theirs[1])
    ]
    np.testing.assert_allclose(drifts[0], drifts[1], rtol=1e-2)


def test_run_whose_difficulty_table_is_killed_ends_as_if_nothing_had_been(
    uninterrupted: Path, command: Callable[..., list[str]], tmp_path: Path
) -> None:
    arguments = command("run", tmp_path, "variant=parameter_only", "plan=guessable", *WATCHED)
    job = subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    killed, deadline = set[int](), time.monotonic() + 240
    while time.monotonic() < deadline and job.poll() is None and len(killed) < 2:
        checkpoints = sorted(tmp_path.glob("*/checkpoint-*"))
        if checkpoints and int(checkpoints[-1].name.split("-")[1]) >= 2 + len(killed):
            for process in tables_of(job.pid) - killed:
                os.kill(process, signal.SIGKILL)
                killed.add(process)
        time.sleep(0.02)
    _, told = job.communicate(timeout=240)
    assert job.returncode == 0, told
    assert killed, "the run ended before its table could be killed"
    (run,) = (path.parent for path in tmp_path.glob("*/settings.json"))
    assert measured(run) == measured(runs_in(uninterrupted)[RUN])
    assert [row["step"] for row in audits(run)] == [0, 2, 4]


def tables_of(job: int) -> set[int]:
    """Processes of difficulty actors whose Ray the job started."""
    found = set[int]()
    for status in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if status.read_bytes().startswith(b"ray::DifficultyActor") and job in ancestors(int(status.parent.name)):
                found.add(int(status.parent.name))
    return found


def ancestors(process: int) -> set[int]:
    """The process itself and those that started it."""
    line = {process}
    while process > 1:
        process = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
        line.add(process)
    return line


def audits(run: Path) -> list[dict[str, Any]]:
    """The rows of a run's audits, as its latest checkpoint has them."""
    latest = sorted(run.glob("checkpoint-*"))[-1]
    rows: list[dict[str, Any]] = json.loads((latest / "state.json").read_text())["state"]["audits"]
    return rows


def test_branches_beside_the_run_measure_what_they_do_in_turn(
    uninterrupted: Path, command: Callable[..., list[str]], tmp_path: Path
) -> None:
    finish(command("run", tmp_path, "variant=parameter_only", "plan=guessable", "probe.branch.beside=true"))
    (run,) = (path.parent for path in tmp_path.glob("*/settings.json"))
    assert measured(run) == measured(runs_in(uninterrupted)[RUN])
    assert "plasticity/sft_reset/auc" in measured(run)[1]["metrics"]
    assert not list(run.glob("snapshots/*"))
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("ductile")
    assert experiment is not None
    (found,) = client.search_runs([experiment.experiment_id], "tags.`ductile.kind` = 'run'")
    ends = client.get_metric_history(found.info.run_id, "plasticity/rl_reset/end")
    assert [metric.step for metric in ends] == [0, 4]


def test_failed_run_is_told_and_the_others_go_on(command: Callable[..., list[str]], tmp_path: Path) -> None:
    settings = ("variant=[parameter_only]", "plan=[none,guessable]", "seeds=1", "probe.probes=[retention]")
    done = finish(command("compare", tmp_path, *settings, "learner.lr=1e10"), code=1)
    assert "parameter_only guessable seed 0: Diverged: update" in done.stderr
    assert "lower learner.lr (10000000000.0)" in done.stderr
    summary = json.loads(next(tmp_path.glob("*/report/summary.json")).read_text())
    seeds = {cell["plan"]: (cell["seeds"], [run["status"] for run in cell["runs"]]) for cell in summary["cells"]}
    assert seeds == {"none": ([0], ["FINISHED"]), "guessable": ([], ["FAILED"])}


def test_wrong_setting_stops_before_any_work(command: Callable[..., list[str]], tmp_path: Path) -> None:
    started = time.monotonic()
    done = finish(command("compare", tmp_path / "out", "rolout.groups=3"), code=2)
    assert done.stderr.strip().startswith("rolout: unknown setting") and "did you mean rollout?" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and not (tmp_path / "out").exists()
    assert time.monotonic() - started < 60
