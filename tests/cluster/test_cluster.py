"""A cluster of several nodes: a node is lost and one joins, `ray job stop`, and going on by the run's id."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from infra.local_cluster import LocalCluster
from tests.cluster.tiny import ROOT, TINY, finish, measured

pytestmark = pytest.mark.cluster
STEPS = ("phase.hard.steps=40", "probe.probes=[retention,drift]", "variant=parameter_only", "plan=guessable")
APART = ("cluster.placement.learner.nodes=role:learner", "cluster.placement.rollout.nodes=role:rollout")


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    folder = Path(tempfile.mkdtemp(prefix="dc", dir="/tmp"))
    with LocalCluster(folder) as started:
        yield started.start(3, cpus=2, labels=[{}, {"role": "rollout"}, {"role": "learner"}])


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """The folder of a run that nothing disturbed."""
    output = tmp_path_factory.mktemp("quiet")
    finish([sys.executable, "-m", "jobs.run", *TINY, *STEPS, f"output={output}", f"cache={cache}"])
    (run,) = (path.parent for path in output.glob("*/settings.json"))
    return run


def submit(cluster: LocalCluster, name: str, *job: str) -> subprocess.Popen[str]:
    binaries = Path(sys.executable).parent
    runtime = ROOT / "infra" / "runtime_env_image.yaml"
    return subprocess.Popen(
        [str(binaries / "ray"), "job", "submit", "--submission-id", name, "--runtime-env", str(runtime), "--", *job],
        cwd=ROOT,
        env=reach(cluster),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def reach(cluster: LocalCluster) -> dict[str, str]:
    binaries = Path(sys.executable).parent
    return {**os.environ, "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}", **cluster.environment()}


def wait_for_checkpoint(output: Path, number: int, job: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and job.poll() is None:
        found = sorted(output.glob("**/checkpoint-*"))
        if found and int(found[-1].name.split("-")[1]) >= number:
            return
        time.sleep(0.1)
    raise AssertionError(f"no checkpoint {number}: {job.communicate(timeout=60)[0][-6000:]}")


def ended(job: subprocess.Popen[str], code: int = 0) -> str:
    told, _ = job.communicate(timeout=240)
    assert job.returncode == code, told[-8000:]
    return told


def mlflow_run(output: Path) -> Run:
    client = MlflowClient(f"sqlite:///{output / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("ductile")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], "tags.`ductile.kind` = 'run'")
    return run


def test_run_goes_on_while_a_node_is_killed_and_another_joins(
    cluster: LocalCluster, quiet: Path, cache: Path, tmp_path: Path, command: Callable[..., list[str]]
) -> None:
    grid = ("variant=[parameter_only]", "plan=[guessable]", "seeds=1", "rollout.actors=2", *APART)
    job = submit(cluster, "lost-node", "python", *command("compare", tmp_path, *STEPS[:2], *grid)[1:])
    wait_for_checkpoint(tmp_path, 4, job)
    there = {node.name: " ".join(cluster.processes(node.name).values()) for node in cluster.nodes}
    assert "ray::RolloutActor" in there["n1"] and "ray::ImplicitFunc" not in there["n1"]
    assert "ray::ImplicitFunc" in there["n2"] and "ray::RolloutActor" not in there["head"] + there["n2"]
    cluster.add(labels={"role": "rollout"})
    cluster.remove("n1", kill=True)
    ended(job)
    (run,) = (path.parent for path in tmp_path.glob("*/*/settings.json"))
    assert measured(run) == measured(quiet)


def test_stopped_job_is_killed_in_mlflow_and_ends_the_same_when_resumed_by_its_id(
    cluster: LocalCluster, quiet: Path, tmp_path: Path, command: Callable[..., list[str]]
) -> None:
    job = submit(cluster, "stopped", "python", *command("run", tmp_path, *STEPS)[1:])
    wait_for_checkpoint(tmp_path, 4, job)
    finish([str(Path(sys.executable).parent / "ray"), "job", "stop", "stopped"], **reach(cluster))
    job.communicate(timeout=60)
    stopped = mlflow_run(tmp_path)
    assert stopped.info.status == "KILLED"
    (run,) = (path.parent for path in tmp_path.glob("*/settings.json"))
    assert not (run / "finished.json").exists()

    again = submit(
        cluster, "resumed", "python", "-m", "jobs.run", f"resume={stopped.info.run_id[:12]}", f"output={tmp_path}"
    )
    ended(again)
    assert mlflow_run(tmp_path).info.status == "FINISHED" and mlflow_run(tmp_path).info.run_id == stopped.info.run_id
    assert measured(run) == measured(quiet)


def test_place_that_the_cluster_lacks_is_refused_at_once(
    cluster: LocalCluster, tmp_path: Path, command: Callable[..., list[str]]
) -> None:
    wrong = "cluster.placement.rollout.nodes=role:sampler"
    done = finish(command("run", tmp_path, *STEPS, wrong), code=2, **reach(cluster))
    assert "cluster.placement.rollout.nodes: no node has the label 'role:sampler'; nodes: 127.0.0.1" in done.stderr
    assert not list(tmp_path.glob("*/settings.json"))
