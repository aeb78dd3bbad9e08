import json
import pickle
import threading
import time
from pathlib import Path

import pytest
import ray

from actors.tracker import RunTracker, TrackerActor, TrackingError, tracking_uri
from actors.tracking import Tracking
from ductile.config import TrackingSettings


class MemoryStore:
    """A store that keeps everything in lists and fails as often as it is told."""

    def __init__(self, failures=0):
        self.failures, self.attempts = failures, 0
        self.logged, self.batches, self.artifacts, self.files, self.tags, self.statuses = [], [], {}, [], {}, {}
        self.gate = threading.Event()
        self.gate.set()

    def begin(self, kind, name, settings, key, parent, tags):
        return f"id-{key}"

    def log(self, run_id, points):
        self._fail()
        self.batches.append(len(points))
        self.logged += [(run_id, point.name, point.value, point.step) for point in points]

    def artifact_text(self, run_id, name, content):
        self._fail()
        self.artifacts[run_id, name] = content

    def artifact_file(self, run_id, path):
        self._fail()
        self.files.append((run_id, path))

    def tag(self, run_id, tags):
        self.tags[run_id] = dict(tags)

    def finish(self, run_id, status):
        self.statuses[run_id] = status

    def _fail(self):
        self.gate.wait()
        self.attempts += 1
        if self.failures:
            self.failures -= 1
            raise ConnectionError("server away")


@pytest.fixture
def tracking(tmp_path):
    """Makes a tracking on a store, without pauses; closed at the end."""
    made = []

    def make(store, spill=tmp_path / "lost-metrics", waits_s=(0, 0), linger_s=0.0):
        made.append(Tracking(store, spill, waits_s, linger_s))
        return made[-1]

    yield make
    for one in made:
        one.close()


def begin(tracking, key="a", name="run a"):
    return tracking.begin("run", name, {}, key)


def spilled(folder, run_id):
    return [json.loads(line) for line in (folder / f"{run_id}.jsonl").read_text().splitlines()]


def test_position_waits_until_everything_is_written(tracking):
    store = MemoryStore()
    t = tracking(store)
    run_id = begin(t)
    for step in range(1, 4):
        t.metrics(run_id, {"loss": 1.0 / step, "rate": 0.5}, step)
    assert t.position(run_id) == {"run_id": "id-a", "step": 3}
    assert len(store.logged) == 6
    assert t.health() == {"written": 6, "artifacts": 0, "spilled": 0, "lost": 0, "refused": 0, "last_error": None}


def test_position_before_the_first_metric(tracking):
    t = tracking(MemoryStore())
    assert t.position(begin(t))["step"] == -1


def test_metrics_return_while_the_store_hangs_and_are_batched_after(tracking):
    store = MemoryStore()
    store.gate.clear()
    t = tracking(store)
    run_id = begin(t)
    started = time.monotonic()
    for step in range(200):
        t.metrics(run_id, {"loss": 1.0}, step)
    assert time.monotonic() - started < 1.0
    store.gate.set()
    assert t.position(run_id)["step"] == 199
    assert sum(store.batches) == 200
    assert len(store.batches) < 20


def test_runs_are_kept_apart(tracking):
    store = MemoryStore()
    t = tracking(store)
    a, b = begin(t, "a"), begin(t, "b")
    t.metrics(a, {"x": 1.0}, 1)
    t.metrics(b, {"x": 2.0}, 5)
    assert (t.position(a)["step"], t.position(b)["step"]) == (1, 5)
    assert sorted(store.logged) == [("id-a", "x", 1.0, 1), ("id-b", "x", 2.0, 5)]


def test_failed_write_is_tried_again(tracking):
    store = MemoryStore(failures=2)
    t = tracking(store)
    run_id = begin(t)
    t.metrics(run_id, {"loss": 1.0}, 1)
    t.position(run_id)
    assert store.attempts == 3
    health = t.health()
    assert (health["written"], health["spilled"]) == (1, 0)
    assert health["last_error"] == "ConnectionError: server away"


def test_store_that_stays_away_spills_to_json_lines(tracking, tmp_path, caplog):
    t = tracking(MemoryStore(failures=10**9))
    run_id = begin(t)
    t.metrics(run_id, {"loss": 1.5, "rate": 0.5}, 7)
    assert t.position(run_id)["step"] == 7  # kept, so the run may go on
    rows = spilled(tmp_path / "lost-metrics", run_id)
    assert [(row["name"], row["value"], row["step"]) for row in rows] == [("loss", 1.5, 7), ("rate", 0.5, 7)]
    assert rows[0]["reason"] == "ConnectionError: server away"
    assert t.health()["spilled"] == 2
    assert "spilled 2 metrics" in caplog.text


def test_after_a_spill_one_attempt_is_made_until_one_succeeds(tracking):
    store = MemoryStore(failures=4)
    t = tracking(store)
    run_id = begin(t)
    attempts = []
    for step in range(3):
        t.metrics(run_id, {"loss": 1.0}, step)
        t.position(run_id)
        attempts.append(store.attempts)
    assert attempts == [3, 4, 5]
    assert (t.health()["spilled"], t.health()["written"]) == (2, 1)


def test_position_raises_when_neither_store_nor_folder_takes_it(tracking, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    t = tracking(MemoryStore(failures=10**9), spill=blocked / "lost-metrics")
    run_id = begin(t)
    t.metrics(run_id, {"loss": 1.0, "rate": 1.0}, 1)
    with pytest.raises(TrackingError, match="tracker: 2 metrics or artifacts of run a were lost"):
        t.position(run_id)
    assert t.health()["lost"] == 2


def test_position_of_a_run_that_was_not_begun_here_raises(tracking):
    with pytest.raises(TrackingError, match="run id-x was not begun with this tracker"):
        tracking(MemoryStore()).position("id-x")


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
    store = MemoryStore()
    t = tracking(store)
    run_id = begin(t)
    t.metrics(run_id, {name: value, "rate": 0.5}, 3)
    t.position(run_id)
    assert store.logged == [("id-a", "rate", 0.5, 3)]
    assert t.health()["refused"] == 1
    assert spilled(tmp_path / "lost-metrics", run_id) == [
        {"run_id": "id-a", "name": name, "value": repr(value), "step": 3, "reason": reason}
    ]
    assert reason in caplog.text


def test_artifacts_are_written_in_order_and_files_too(tracking):
    store = MemoryStore()
    t = tracking(store)
    run_id = begin(t)
    t.artifact(run_id, "boundaries.json", "[]")
    t.artifact(run_id, "boundaries.json", "[1]")
    t.artifact_file(run_id, "plot.png")
    t.position(run_id)
    assert store.artifacts == {("id-a", "boundaries.json"): "[1]"}
    assert store.files == [("id-a", "plot.png")]
    assert t.health()["artifacts"] == 3


def test_artifact_that_cannot_be_written_is_spilled_whole(tracking, tmp_path):
    t = tracking(MemoryStore(failures=10**9))
    run_id = begin(t)
    t.artifact(run_id, "boundaries.json", "[1]")
    t.artifact_file(run_id, "plot.png")
    t.position(run_id)
    folder = tmp_path / "lost-metrics"
    assert (folder / run_id / "boundaries.json").read_text() == "[1]"
    assert spilled(folder, run_id)[0]["artifact_file"] == "plot.png"
    assert t.health()["spilled"] == 2


def test_finish_writes_what_is_queued_and_tags_what_is_missing(tracking):
    store = MemoryStore()
    t = tracking(store)
    run_id = begin(t)
    t.metrics(run_id, {"loss": float("nan"), "rate": 0.5}, 1)
    t.finish(run_id, "FINISHED")
    assert len(store.logged) == 1
    assert store.statuses == {"id-a": "FINISHED"}
    assert store.tags == {"id-a": {"ductile.metrics_refused": "1"}}
    assert t.live()[0]["status"] == "FINISHED"


def test_finish_without_losses_sets_no_tags(tracking):
    store = MemoryStore()
    t = tracking(store)
    t.finish(begin(t), "FAILED")
    assert (store.statuses, store.tags) == ({"id-a": "FAILED"}, {})


def test_finish_raises_when_the_store_never_takes_the_status(tracking):
    store = MemoryStore()
    store.finish = lambda run_id, status: (_ for _ in ()).throw(ConnectionError("server away"))
    t = tracking(store)
    with pytest.raises(TrackingError, match="run a could not be marked FINISHED: ConnectionError"):
        t.finish(begin(t), "FINISHED")


def test_live_has_the_latest_progress_of_each_run_in_order(tracking):
    t = tracking(MemoryStore())
    a, b = begin(t, "a", "first"), begin(t, "b", "second")
    t.progress(b, step=1, drift=None)
    t.progress(a, step=1, phase="hard")
    t.progress(a, step=2, phase="hard")
    assert t.live() == [
        {"run_id": "id-a", "name": "first", "kind": "run", "status": "RUNNING", "step": 2, "phase": "hard"},
        {"run_id": "id-b", "name": "second", "kind": "run", "status": "RUNNING", "step": 1, "drift": None},
    ]


def test_close_writes_everything_and_what_comes_later_is_spilled(tracking, tmp_path):
    store = MemoryStore()
    t = tracking(store, linger_s=30.0)  # nobody waits out the linger
    run_id = begin(t)
    t.metrics(run_id, {"loss": 1.0}, 1)
    assert t.close()["written"] == 1
    t.metrics(run_id, {"loss": 1.0}, 2)
    assert spilled(tmp_path / "lost-metrics", run_id)[0]["reason"] == "the tracker is closed"
    assert t.close()["spilled"] == 1


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
def test_actor_writes_to_mlflow_and_its_death_is_noticed(ray_here, tmp_path):
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    actor = TrackerActor.remote(uri, "test", str(tmp_path / "lost-metrics"))
    assert ray.get(actor.ready.remote())
    run_id = ray.get(actor.begin.remote(kind="run", name="r", settings={"seed": 1}, key="k"))
    tracker = pickle.loads(ray.cloudpickle.dumps(RunTracker(actor, run_id)))
    for step in range(1, 51):
        tracker.metrics({"loss": 1.0 / step}, step)
    tracker.progress(phase="hard", step=50)
    tracker.artifact("boundaries.json", "[]")
    assert tracker.position() == {"run_id": run_id, "step": 50}
    assert ray.get(actor.live.remote())[0]["phase"] == "hard"
    ray.get(actor.finish.remote(run_id, "FINISHED"))
    assert ray.get(actor.health.remote())["written"] == 50
    client = MlflowClient(tracking_uri=uri)
    assert client.get_run(run_id).info.status == "FINISHED"
    assert [m.step for m in client.get_metric_history(run_id, "loss")] == list(range(1, 51))
    ray.kill(actor)
    tracker.metrics({"loss": 0.0}, 51)
    with pytest.raises(TrackingError, match=f"the tracker actor died, and metrics of run {run_id}"):
        tracker.position()
