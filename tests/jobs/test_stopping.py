"""What signals do to a job."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

import jobs.driver as driver
from actors import branch, placement
from actors.tracking import TrackingError
from ductile.config import CheckpointSettings, ClusterSettings, PlacementSettings, RoleSettings, RunSettings
from ductile.ports import Stopped
from jobs.driver import JobStopped, absolute, how_to_go_on
from jobs.stopping import Stopping, Terminated


def test_first_signal_asks_and_second_ends(capfd: pytest.CaptureFixture[str]) -> None:
    stopping = Stopping(flag=None)  # type: ignore[arg-type]
    assert not stopping.asked()
    stopping.received(signal.SIGTERM, None)
    assert stopping.asked() and stopping.number == signal.SIGTERM
    assert "once more to end at once" in capfd.readouterr().err
    with pytest.raises(KeyboardInterrupt):
        stopping.received(signal.SIGINT, None)
    with pytest.raises(Terminated):
        stopping.received(signal.SIGTERM, None)


def exit_code(error: BaseException) -> object:
    """Of a job that ends with this error."""

    def job() -> int:
        raise error

    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as ended:
            driver.main(job)
    finally:
        signal.signal(signal.SIGTERM, before)
    return ended.value.code


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (JobStopped(signal.SIGINT), 130),
        (JobStopped(signal.SIGTERM), 143),
        (KeyboardInterrupt(), 130),
        (Terminated(), 143),
    ],
)
def test_exit_code_names_the_signal(error: BaseException, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(error) == code
    said = capsys.readouterr().err
    assert said == "" if isinstance(error, JobStopped) else "the same command goes on" in said


def test_mlflow_that_does_not_answer_is_one_line_and_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(TrackingError("tracking.uri: http://h: MLflow did not answer for 10s")) == 1
    assert capsys.readouterr().err == "tracking.uri: http://h: MLflow did not answer for 10s\n"


def rows(*given: tuple[str, str]) -> list[dict[str, str]]:
    return [{"kind": kind, "status": status, "run_id": f"id{number}"} for number, (kind, status) in enumerate(given)]


def test_stopped_job_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    told = how_to_go_on(RunSettings(), rows(("run", "KILLED"), ("run", "FINISHED")), "sqlite:////out/mlflow.db")
    assert told.splitlines() == [
        "stopped; the same command goes on, or",
        "python -m jobs.run resume=id0 tracking.uri=sqlite:////out/mlflow.db",
    ]
    told = how_to_go_on(RunSettings(), rows(("compare", "RUNNING"), ("run", "KILLED")), "sqlite:////out/mlflow.db")
    assert "jobs.compare resume=id0 " in told and "jobs.run" not in told


def test_stopped_search_goes_on_by_its_own_command_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    given = rows(("sweep", "RUNNING"), ("run", "KILLED"))  # which may be one that the search cut
    assert how_to_go_on(RunSettings(), given, "sqlite:////x") == "stopped; the same command goes on"


def test_address_of_the_environment_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    address = "https://me:planted@host"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    told = how_to_go_on(RunSettings(), rows(("run", "KILLED")), address)
    assert told.splitlines()[1] == "python -m jobs.run resume=id0"


def test_waiting_for_nodes_ends_when_the_job_is_asked_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    role = RoleSettings(nodes="role:rollout")
    patient = RunSettings(cluster=ClusterSettings(placement=PlacementSettings(patience_s=600, rollout=role)))
    monkeypatch.setattr(placement, "nodes", list)
    monkeypatch.setattr(placement, "_ask_autoscaler", lambda *_: None)
    with pytest.raises(Stopped):
        placement.place(patient, 1, lambda: True)


def test_waiting_for_a_branch_ends_when_the_run_is_asked_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    cancelled: list[str] = []
    monkeypatch.setattr(branch.ray, "wait", lambda tasks, timeout: ([], tasks))
    monkeypatch.setattr(branch.ray, "cancel", cancelled.append)
    brancher = branch.RayBrancher(RunSettings(), None, None, None, lambda: True)  # type: ignore[arg-type]
    monkeypatch.setattr(brancher, "_start", lambda request, cpus: request)
    handle = brancher.submit("task")  # type: ignore[arg-type]
    with pytest.raises(Stopped):
        brancher.collect(handle)
    assert "task" in cancelled


def test_store_that_is_a_folder_means_the_same_from_every_working_directory() -> None:
    assert absolute(_storing("kept")).checkpoint.store == str(Path("kept").absolute())
    assert absolute(_storing("s3://bucket/kept")).checkpoint.store == "s3://bucket/kept"


def _storing(store: str) -> RunSettings:
    return RunSettings(checkpoint=CheckpointSettings(store=store))
