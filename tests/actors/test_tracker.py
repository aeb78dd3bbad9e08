import json
import os
import pickle
import re
import signal
import threading
import time
from pathlib import Path

import pytest
import ray
from hypothesis import given
from hypothesis import strategies as st
from ray.exceptions import RayTaskError

from actors import tracker as tracker_module
from actors import tracking as tracking_module
from actors.delivery import Refused
from actors.journal import Journal, journals
from actors.tracker import RunTracker, Sent, TrackerActor, TrackingError, tracking_uri
from actors.tracking import Tracking
from ductile.config import TrackingSettings
from tests.actors.fakes import FakeStore


@pytest.fixture
def tracking(tmp_path):
    """Makes a tracking on a store, with pauses too short to see; closed at the end."""
    made = []

    def make(store, folder=tmp_path / "journal", linger_s=0.0, patience_s=0.2, pauses_s=(0.001, 0.01), **more):
        made.append(Tracking(store, folder, patience_s=patience_s, pauses_s=pauses_s, linger_s=linger_s, **more))
        return made[-1]

    yield make
    for one in made:
        one.close()


def begin(tracking, key="a", name="run a"):
    return tracking.begin("run", name, {}, key)


def wait_for(condition, seconds=5.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_position_waits_for_the_disk_and_not_for_mlflow(tracking, tmp_path):
    store = FakeStore()
    t = tracking(store)
    run_id = begin(t)
    store.away = True
    for step in range(1, 4):
        t.metrics(run_id, {"loss": 1.0 / step, "rate": 0.5}, step)
    assert t.position(run_id) == {"run_id": "id-a", "step": 3, "taken": 0}
    assert store.logged == []
    text = (tmp_path / "journal" / run_id / "000001.jsonl").read_text()
    assert [json.loads(line).get("values", {}).get("loss") for line in text.splitlines()[2:]] == [1.0, 0.5, 1.0 / 3]


def test_position_before_the_first_metric(tracking):
    t = tracking(FakeStore())
    assert t.position(begin(t))["step"] == -1


def test_what_was_logged_while_mlflow_was_away_arrives_whole_once_it_answers(tracking, tmp_path):
    store = FakeStore()
    t = tracking(store)
    run_id = begin(t)
    t.drain(5)
    store.away = True
    for step in range(500):
        t.metrics(run_id, {"loss": float(step)}, step)
    t.artifact(run_id, "boundaries.json", "[1]")
    t.finish(run_id, "FINISHED")
    wait_for(lambda: store.attempts > 5)  # it does not give up
    health = t.health()
    assert (health["pending"], health["written"], health["aside"]) == (502, 0, 0)
    assert health["away_s"] > 0
    assert health["last_error"] == "ConnectionError: server away at http://***@host:5000"
    store.away = False
    assert t.drain(5)
    assert store.logged == [("id-a", "loss", float(step), step) for step in range(500)]
    assert store.artifacts == {("id-a", "boundaries.json"): "[1]"}
    assert store.statuses == {"id-a": "FINISHED"}
    assert len(store.batches) < 20
    wait_for(lambda: journals(tmp_path / "journal") == [])
    assert (t.health()["pending"], t.health()["written"], t.health()["away_s"]) == (0, 500, 0.0)


def test_write_without_an_answer_is_not_made_twice(tracking):
    store = FakeStore()
    t = tracking(store)
    run_id = begin(t)
    t.drain(5)
    store.failures = [-1, 1, -1]
    t.metrics(run_id, {"loss": 1.0}, 1)
    assert t.drain(5)
    assert store.logged == [("id-a", "loss", 1.0, 1)]
    assert store.failures == []


def test_memory_does_not_grow_while_mlflow_is_away(tracking):
    import tracemalloc

    store = FakeStore()
    t = tracking(store, pauses_s=(0.5, 30.0))
    run_id = begin(t)
    store.away = True
    values = {f"m{i}": float(i) for i in range(50)}
    t.metrics(run_id, values, 0)
    tracemalloc.start()
    try:
        for step in range(1, 2001):
            t.metrics(run_id, values, step)
        current, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert t.health()["pending"] >= 100_000
    assert current < 3_000_000  # the values alone would be twice as much; a batch of them may be in the writer's hands


def test_runs_are_kept_apart(tracking):
    store = FakeStore()
    t = tracking(store)
    a, b = begin(t, "a"), begin(t, "b")
    t.metrics(a, {"x": 1.0}, 1)
    t.metrics(b, {"x": 2.0}, 5)
    assert (t.position(a)["step"], t.position(b)["step"]) == (1, 5)
    assert t.drain(5)
    assert sorted(store.logged) == [("id-a", "x", 1.0, 1), ("id-b", "x", 2.0, 5)]


def test_position_of_a_run_that_was_not_begun_here_raises(tracking):
    with pytest.raises(TrackingError, match="run id-x was not begun with this tracker"):
        tracking(FakeStore()).position("id-x")


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("loss", float("nan"), "nan is not finite"),
        ("loss", float("inf"), "inf is not finite"),
        ("loss", None, "None is not a number"),
        ("pass rate?", 1.0, "MLflow forbids this name; see ductile.metrics.legal"),
        ("../up", 1.0, "MLflow forbids this name; see ductile.metrics.legal"),
    ],
)
def test_refused_value_is_counted_logged_and_kept_and_the_others_are_written(
    tracking, tmp_path, caplog, name, value, reason
):
    store = FakeStore()
    t = tracking(store)
    run_id = begin(t)
    t.metrics(run_id, {name: value, "rate": 0.5}, 3)
    t.finish(run_id, "FINISHED")
    assert t.drain(5)
    assert store.logged == [("id-a", "rate", 0.5, 3)]
    assert t.health()["refused"] == 1
    (row,) = (tmp_path / "journal" / "aside" / "id-a.jsonl").read_text().splitlines()
    assert json.loads(row) == {
        "what": "refused", "reason": reason, "do": "metrics", "values": {name: repr(value)}, "step": 3
    }  # fmt: skip
    assert store.tags == {"id-a": {"ductile.metrics_refused": "1"}}
    assert reason in caplog.text


def test_what_mlflow_refuses_is_told_once_and_keeps_neither_the_rest_nor_the_end_of_its_run(tracking, tmp_path, caplog):
    store = FakeStore()
    store.refuses = {"bad", "ductile.stopped_early"}
    t = tracking(store)
    run_id = begin(t)
    for step in range(1, 4):
        t.metrics(run_id, {"bad": 1.0, "rate": 0.5}, step)
        assert t.drain(5)
    t.finish(run_id, "KILLED", {"ductile.stopped_early": "3"})
    assert t.drain(5)
    assert store.logged == [("id-a", "rate", 0.5, step) for step in range(1, 4)]
    assert store.statuses == {"id-a": "KILLED"}
    rows = [json.loads(row) for row in (tmp_path / "journal" / "aside" / "id-a.jsonl").read_text().splitlines()]
    assert [row["do"] for row in rows] == ["metrics"] * 3 + ["tag"]
    assert (t.health()["aside"], t.health()["written"], t.health()["pending"]) == (4, 3, 0)
    assert caplog.text.count("MLflow refused some of what run a logged") == 1


def test_artifacts_are_written_in_order_and_a_file_may_go_at_once(tracking, tmp_path):
    store = FakeStore()
    t = tracking(store)
    run_id = begin(t)
    t.drain(5)
    store.away = True
    t.artifact(run_id, "boundaries.json", "[]")
    t.artifact(run_id, "boundaries.json", "[1]")
    (tmp_path / "plot.txt").write_text("drawn")
    t.artifact_file(run_id, str(tmp_path / "plot.txt"))
    (tmp_path / "plot.txt").unlink()
    store.away = False
    assert t.drain(5)
    assert store.artifacts == {("id-a", "boundaries.json"): "[1]", ("id-a", "plot.txt"): "drawn"}


def test_begin_waits_for_mlflow_and_gives_up_with_the_reason(tracking):
    store = FakeStore()
    t = tracking(store, patience_s=5.0)
    store.away = True
    threading.Timer(0.05, lambda: setattr(store, "away", False)).start()
    assert begin(t) == "id-a"
    impatient = tracking(FakeStore([1] * 1000), Path("unused"), patience_s=0.05)
    with pytest.raises(TrackingError, match=r"run a could not be begun in MLflow: ConnectionError: server away"):
        begin(impatient)


def test_begin_says_at_once_what_waiting_does_not_mend(tracking):
    store = FakeStore()
    t = tracking(store, patience_s=600.0)
    for error in (Refused("INVALID_PARAMETER_VALUE: name"), ValueError("unknown kind 'rum'")):
        store.begin = lambda *a, error=error: (_ for _ in ()).throw(error)
        with pytest.raises(TrackingError, match=str(error)):
            begin(t)


def test_live_has_the_latest_progress_of_each_run_in_order(tracking):
    t = tracking(FakeStore())
    a, b = begin(t, "a", "first"), begin(t, "b", "second")
    t.progress(b, step=1, drift=None)
    t.progress(a, step=1, phase="hard")
    t.progress(a, step=2, phase="hard")
    assert t.live() == [
        {"run_id": "id-a", "name": "first", "kind": "run", "status": "RUNNING", "step": 2, "phase": "hard"},
        {"run_id": "id-b", "name": "second", "kind": "run", "status": "RUNNING", "step": 1, "drift": None},
    ]


def test_job_that_ends_while_mlflow_is_away_leaves_its_journal_to_the_next_one(tracking, tmp_path):
    store = FakeStore()
    first = tracking(store, where="http://u:p@host", job="1")
    run_id = begin(first)
    first.drain(5)
    store.away = True
    first.metrics(run_id, {"loss": 1.0}, 1)
    first.finish(run_id, "KILLED")
    assert not first.drain(0.02)
    assert first.close()["pending"] == 2
    store.away = False
    elsewhere = tracking(FakeStore(), where="http://other", job="2")
    assert elsewhere.health()["pending"] == 0  # its runs are not known there
    second = tracking(store, where="http://u:q@host", job="3")
    assert second.drain(5)
    assert (store.logged, store.statuses) == ([("id-a", "loss", 1.0, 1)], {"id-a": "KILLED"})
    assert second.live() == []
    wait_for(second.settled)
    assert [path.name for path in (tmp_path / "journal").iterdir()] == []


def test_journal_is_delivered_by_one_of_two_jobs_and_the_other_waits_for_the_ends(tracking):
    store = FakeStore()
    first = tracking(store, job="1")
    a, b = begin(first, "a"), begin(first, "b")
    first.drain(5)
    store.away = True
    for run_id in (a, b):
        first.metrics(run_id, {"loss": 1.0}, 1)
    first.finish(a, "FINISHED")
    second = tracking(FakeStore(), job="2")
    assert second.health()["pending"] == 0
    assert not second.settled()  # run a is over, and MLflow lacks it
    store.away = False
    wait_for(second.settled)  # b goes on, and nobody waits for it
    with pytest.raises(TrackingError, match="another job is logging run id-b"):
        begin(second, "b")
    first.close()
    assert begin(second, "b") == "id-b"


def test_tracker_that_is_started_again_knows_the_runs_of_its_job(tracking):
    store = FakeStore()
    first = tracking(store, job="j")
    run_id = begin(first, name="proxy")
    store.away = True
    first.take(run_id, [{"do": "metrics", "values": {"x": 1.0}, "step": 4, "time": 1}], "s", 1)
    first.close()
    store.away = False
    again = tracking(store, job="j")
    assert again.live() == [{"run_id": "id-a", "name": "proxy", "kind": "run", "status": "RUNNING"}]
    assert again.position(run_id, "s") == {"run_id": "id-a", "step": 4, "taken": 1}


def test_records_are_taken_once_and_in_order(tracking):
    store = FakeStore()
    t = tracking(store)
    run_id = begin(t)

    def record(step):
        return {"do": "metrics", "values": {"x": float(step)}, "step": step, "time": step}

    t.take(run_id, [record(1)], "s", 1)
    t.take(run_id, [record(3)], "s", 3)  # the second is lost on its way
    assert t.position(run_id, "s")["taken"] == 1
    t.take(run_id, [record(1), record(2), record(3)], "s", 1)
    t.take(run_id, [record(2)], "s", 2)
    t.take(run_id, [record(9)], "other", 8, 7)  # its journal was delivered and removed since it confirmed 7
    assert (t.position(run_id, "s")["taken"], t.position(run_id, "other")["taken"]) == (3, 8)
    assert t.drain(5)
    assert [step for *_, step in store.logged] == [1, 2, 3, 9]


class Answer:
    """An actor's method, called in this process when the call arrives."""

    def __init__(self, call):
        self.remote = call


class Wire:
    """Stands for the actor's handle: calls may be lost, as those on their way to a tracker that dies."""

    def __init__(self, tracking):
        self.tracking, self.lose, self.error = tracking, False, None
        self.take = Answer(self._take)
        self.position = Answer(self._position)

    def _take(self, *arguments):
        return None if self.lose else self.tracking.take(*arguments)

    def _position(self, *arguments):
        self.lose = False
        if self.error:
            error, self.error = self.error, None
            raise error
        return self.tracking.position(*arguments)


@pytest.fixture
def wired(tracking, monkeypatch):
    monkeypatch.setattr(tracker_module.ray, "get", lambda value: value)
    monkeypatch.setattr(tracker_module.time, "sleep", lambda seconds: None)
    store = FakeStore()
    t = tracking(store)
    wire = Wire(t)
    return store, t, wire, RunTracker(wire, begin(t))


def test_calls_that_were_lost_with_a_tracker_are_handed_over_again(wired):
    store, t, wire, run = wired
    for step in range(1, 11):
        wire.lose = step in (3, 4, 7)
        run.metrics({"loss": float(step)}, step)
    run.artifact("a.txt", "text")
    assert run.position() == {"run_id": "id-a", "step": 10}
    assert run._sent.unconfirmed == []
    assert t.drain(5)
    assert store.logged == [("id-a", "loss", float(step), step) for step in range(1, 11)]
    assert store.artifacts == {("id-a", "a.txt"): "text"}


@given(st.lists(st.sampled_from(["log", "log", "lose", "position", "kill", "away", "back", "unanswered"]), max_size=40))
def test_any_row_of_lost_calls_dead_trackers_and_failures_loses_nothing_and_writes_nothing_twice(
    tmp_path_factory, events
):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracker_module.ray, "get", lambda value: value)
        folder, store = tmp_path_factory.mktemp("journal"), FakeStore()
        options = {"job": "j", "pauses_s": (0.001, 0.002), "linger_s": 0.0}
        wire = Wire(Tracking(store, folder, **options))
        run, steps = RunTracker(wire, begin(wire.tracking)), 0
        for event in [*events, "back", "position"]:
            if event in ("log", "lose"):
                steps, wire.lose = steps + 1, event == "lose"
                run.metrics({"loss": float(steps)}, steps)
            elif event == "position":
                assert run.position()["step"] == (steps or -1)
            elif event == "kill":
                kill(wire.tracking)
                wire.tracking = Tracking(store, folder, **options)
            elif event == "unanswered":
                store.failures.append(-1)
            else:
                store.away = event == "away"
        assert wire.tracking.drain(5)
        assert store.logged == [("id-a", "loss", float(step), step) for step in range(1, steps + 1)]
        wire.tracking.close()


def kill(tracking):
    """End it as its process would end: nothing is flushed or written, and the system takes its locks back."""
    tracking._stop.set()
    tracking._wake.set()
    tracking._writer.join()
    for run in tracking._runs.values():
        if run.journal is not None:
            os.close(run.journal._lock)


def test_run_keeps_a_bounded_number_of_calls(wired):
    _, t, _, run = wired
    for step in range(1, 1001):
        run.metrics({"loss": float(step)}, step)
        assert len(run._sent.unconfirmed) <= tracker_module.UNCONFIRMED
    assert t.position("id-a")["step"] == 1000


def test_position_waits_for_a_full_disk_and_then_says_so(wired, monkeypatch):
    _, _, wire, run = wired
    run.metrics({"loss": 1.0}, 1)
    wire.error = RayTaskError("position", "Traceback ...", OSError(28, "No space left on device")).as_instanceof_cause()
    assert run.position()["step"] == 1
    monkeypatch.setattr(tracker_module, "PATIENCE_S", 0.0)
    wire.error = RayTaskError("position", "Traceback ...", OSError(28, "No space left on device")).as_instanceof_cause()
    with pytest.raises(
        TrackingError, match=r"journal cannot be written \(\[Errno 28\] No space left on device\); make room"
    ):
        run.position()


def test_tracker_sent_to_another_process_is_another_sender():
    run = RunTracker(None, "id-a")
    run._sent.add({"do": "metrics"})
    other = pickle.loads(pickle.dumps(run))
    assert other == run
    assert (other._sent.last, other._sent.unconfirmed) == (0, [])
    assert re.fullmatch("[0-9a-f]{32}", other._sent.sender)
    assert other._sent.sender != run._sent.sender
    assert isinstance(other._sent, Sent)


def test_tracking_address_is_the_setting_then_the_environment_then_sqlite(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://env:5000")
    assert tracking_uri(TrackingSettings(uri="http://set:5000"), Path("/out")) == "http://set:5000"
    assert tracking_uri(TrackingSettings(), Path("/out")) == "http://env:5000"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert tracking_uri(TrackingSettings(), Path("/out")) == "sqlite:////out/mlflow.db"


@pytest.fixture(scope="module")
def ray_here():
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, configure_logging=False)
    yield
    ray.shutdown()


@pytest.mark.cluster
def test_actor_that_is_killed_and_started_again_loses_nothing_and_writes_nothing_twice(ray_here, tmp_path):
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    actor = TrackerActor.remote(uri, "test", str(tmp_path / "journal"), "job", 60.0)
    assert ray.get(actor.reach.remote()) is None
    run_id = ray.get(actor.begin.remote(kind="run", name="r", settings={"seed": 1}, key="k"))
    tracker = pickle.loads(ray.cloudpickle.dumps(RunTracker(actor, run_id)))
    killed = set()
    for step in range(1, 301):
        tracker.metrics({"loss": 1.0 / step}, step)
        if step in (50, 150):  # the calls after it are sent to a process that is gone
            (process,) = processes("ray::TrackerActor") - killed
            os.kill(process, signal.SIGKILL)
            killed.add(process)
        if step == 100:
            assert tracker.position() == {"run_id": run_id, "step": 100}
            wait_for(lambda: processes("ray::TrackerActor") - killed, 60)
    tracker.progress(phase="hard", step=300)
    tracker.artifact("boundaries.json", "[]")
    assert tracker.position() == {"run_id": run_id, "step": 300}
    assert [row["name"] for row in ray.get(actor.live.remote())] == ["r"]
    ray.get(actor.finish.remote(run_id, "FINISHED"))
    wait_for(lambda: ray.get(actor.health.remote())["pending"] == 0, 60)
    client = MlflowClient(tracking_uri=uri)
    wait_for(lambda: client.get_run(run_id).info.status == "FINISHED")
    assert [m.step for m in client.get_metric_history(run_id, "loss")] == list(range(1, 301))
    assert len(killed) == 2
    ray.kill(actor)
    tracker.metrics({"loss": 0.0}, 301)
    with pytest.raises(TrackingError, match=f"the tracker actor is gone for good, and metrics of run {run_id}"):
        tracker.position()


def processes(name):
    """Those below this process that are called so: workers of this Ray."""
    import psutil

    found = set()
    for process in psutil.Process().children(recursive=True):
        try:
            if process.cmdline()[:1] and process.cmdline()[0].startswith(name):
                found.add(process.pid)
        except psutil.Error:
            continue
    return found


def test_journal_of_a_dead_process_is_taken_over(tracking, tmp_path):
    child = os.fork()
    if not child:
        journal = Journal(tmp_path / "journal", "id-a")
        journal.append({"do": "metrics", "values": {"loss": 1.0}, "step": 1, "time": 1})
        os._exit(9)
    os.waitpid(child, 0)
    store = FakeStore()
    assert tracking(store).drain(5)
    assert store.logged == [("id-a", "loss", 1.0, 1)]


def test_journal_that_was_held_when_a_job_began_is_delivered_once_it_is_left(tracking, tmp_path, monkeypatch):
    monkeypatch.setattr(tracking_module, "LEFT_S", 0.05)
    held = Journal(tmp_path / "journal", "id-a")
    held.append({"do": "metrics", "values": {"loss": 1.0}, "step": 1, "time": 1})
    store = FakeStore()
    t = tracking(store)
    assert t.health()["pending"] == 0
    held.close()
    wait_for(lambda: store.logged == [("id-a", "loss", 1.0, 1)])
