"""Waiting for MLflow at a job's start, its end and before a report: what is told, and when it is given up."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from actors.tracking import Tracking, TrackingError
from ductile.config import TrackingSettings
from ductile.ports import Stopped
from jobs import display, reporting, tracked
from jobs.tracked import await_delivery, await_mlflow
from tests.actors.fakes import FakeStore

BEHIND = {"pending": 1234, "pending_s": 190.0, "last_error": "ConnectionError: refused"}


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that goes on by what is slept."""
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds
        time.sleep(min(seconds, 0.01))  # for what goes on in threads

    monkeypatch.setattr(tracked, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))
    return now


def test_start_waits_and_says_where_and_why_without_credentials(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "ductile")
    answers = ["ConnectionError: refused"] * 5 + [None]
    await_mlflow(lambda: answers.pop(0), "https://me:secret@host:5000", TrackingSettings(patience_s=60))
    assert [record.getMessage() for record in caplog.records] == [
        "MLflow at https://***@host:5000 does not answer (ConnectionError: refused); trying again for up to 1m00s",
        "MLflow at https://***@host:5000 answers, after 25s",  # pauses of 1, 2, 4, 8 and 10
    ]


@pytest.mark.parametrize(("uri", "most"), [("http://host", 60.0), ("sqlite:////out/mlflow.db", 30.0)])
def test_start_gives_up_with_one_error_that_says_what_to_do(clock: list[float], uri: str, most: float) -> None:
    with pytest.raises(TrackingError) as error:
        await_mlflow(lambda: "refused", uri, TrackingSettings(patience_s=60))
    assert most - 10 <= clock[0] <= most
    told = str(error.value)
    assert told.startswith(f"tracking.uri: {uri}: MLflow did not answer for")
    assert "MLFLOW_TRACKING_URI" in told and "tracking.patience_s" in told


def test_job_that_waits_for_mlflow_stops_when_it_is_asked_to(clock: list[float]) -> None:
    with pytest.raises(Stopped):
        await_mlflow(lambda: "refused", "http://host", TrackingSettings(patience_s=60), lambda: clock[0] >= 12.0)
    assert 12.0 <= clock[0] < 13.0


def test_mlflow_that_answers_at_once_is_not_talked_about(caplog: pytest.LogCaptureFixture) -> None:
    await_mlflow(lambda: None, "http://host", TrackingSettings(patience_s=0))
    assert await_delivery(lambda: True, dict, Path("journal"), 0.0)
    assert caplog.records == []


def test_end_says_what_is_left_where_and_who_delivers_it(caplog: pytest.LogCaptureFixture, clock: list[float]) -> None:
    caplog.set_level(logging.WARNING, "ductile")
    assert not await_delivery(lambda: False, lambda: BEHIND, Path("out/journal"), 120.0)
    assert clock[0] == pytest.approx(120.0, abs=1.5)
    waiting, left = (record.getMessage() for record in caplog.records)
    assert waiting == "waiting up to 2m00s for MLflow to take 1,234 values (ConnectionError: refused)"
    assert left == (
        "MLflow lacks 1,234 values (ConnectionError: refused): they are in out/journal, and the next job with this "
        "output folder delivers them, or python -m jobs.report"
    )


def test_display_says_briefly_that_mlflow_is_behind() -> None:
    assert display.behind(BEHIND) == "MLflow is 3m10s behind: 1,234 values wait on disk"
    assert display.behind({**BEHIND, "pending_s": 1.0}) == display.behind(None) == ""


def test_report_delivers_what_an_earlier_job_left(tmp_path: Path) -> None:
    store = FakeStore()
    journal = tmp_path / "journal"
    job = Tracking(store, journal, "http://host", linger_s=0.0)
    run_id = job.begin("run", "r", {}, "a")
    job.drain(5)
    store.away = True
    job.metrics(run_id, {"loss": 1.0}, 1)
    job.finish(run_id, "FINISHED")
    job.close()
    store.away = False
    reporting.deliver_rest(store, "http://host", TrackingSettings(patience_s=60), tmp_path)
    assert (store.logged, store.statuses) == ([("id-a", "loss", 1.0, 1)], {"id-a": "FINISHED"})
    assert list(journal.iterdir()) == []


def test_report_without_mlflow_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match=r"tracking\.uri: http://host: MLflow did not answer for"):
        reporting.deliver_rest(FakeStore([1] * 99), "http://host", TrackingSettings(patience_s=0), tmp_path)


def test_job_is_not_failed_by_a_report_that_cannot_be_made(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporting, "MlflowStore", lambda uri, experiment: FakeStore([1] * 99))
    settings = TrackingSettings(uri="http://host", patience_s=600.0)
    reporting.report_at_end(settings, tmp_path, "abc", tmp_path / "report")
    assert "no report yet: tracking.uri: http://host" in caplog.text
    assert "python -m jobs.report run=abc" in caplog.text
