import json
import math
import time

import pytest
import yaml
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    BAD_REQUEST,
    ENDPOINT_NOT_FOUND,
    INTERNAL_ERROR,
    TEMPORARILY_UNAVAILABLE,
    UNAUTHENTICATED,
)

from actors.delivery import Point, Refused
from actors.mlflow_store import TOO_LONG, MlflowStore, NoSuchRun, flatten, read_sqlite_history
from ductile.config import RunSettings
from ductile.report.records import PhaseBand
from ductile.settings import as_plain, build

SETTINGS = {
    "name": "t",
    "seed": 3,
    "plan": "hard",
    "variant": {"name": "proxy", "alpha": 1.5},
    "levels": [1, 2],
    "empty": {},
}


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """One database for the module: MLflow takes seconds to create it."""
    return tmp_path_factory.mktemp("mlflow") / "runs" / "mlflow.db"


@pytest.fixture(scope="module")
def client(database):
    MlflowStore(f"sqlite:///{database}", "created-first").connect()
    return MlflowClient(tracking_uri=f"sqlite:///{database}")


@pytest.fixture
def open_store(database, client, request):
    """Opens a store as a new process would, with nothing remembered."""
    return lambda experiment=request.node.name: MlflowStore(f"sqlite:///{database}", experiment)


def points(*rows):
    return [Point(name, value, step, 1_700_000_000_000 + step) for name, value, step in rows]


def test_settings_become_dotted_parameters_and_a_whole_artifact(open_store, client):
    store = open_store()
    run_id = store.begin("run", "hard proxy 3", SETTINGS, "k")
    assert client.get_run(run_id).data.params == {
        "name": "t", "seed": "3", "plan": "hard", "variant.name": "proxy", "variant.alpha": "1.5", "levels": "[1, 2]",
        "empty": "{}",
    }  # fmt: skip
    assert store.read_settings(run_id) == SETTINGS
    assert "mlflow" in store.read_versions(run_id)


def test_settings_artifact_repeats_the_run(open_store):
    store = open_store()
    settings = build(RunSettings, {"seed": 2, "phase": {"hard": {"domain": {"name": "sort"}, "steps": 5}}})
    run_id = store.begin("run", "r", as_plain(settings), "k")
    assert build(RunSettings, store.read_settings(run_id)) == settings


def test_long_parameter_is_kept_whole_in_the_artifact(open_store, client):
    store = open_store()
    long = "x" * 6001
    run_id = store.begin("run", "r", {"longest": "y" * 6000, "long": long}, "k")
    params = client.get_run(run_id).data.params
    assert params == {"longest": "y" * 6000, "long": TOO_LONG}
    assert yaml.safe_load(store.read_text(run_id, "settings.yaml"))["long"] == long


def test_more_parameters_than_one_request_takes(open_store, client):
    run_id = open_store().begin("run", "r", {f"p{i}": i for i in range(250)}, "k")
    assert len(client.get_run(run_id).data.params) == 250


def test_names_that_mlflow_forbids_become_legal_parameters():
    assert dict(flatten({"phase": {"very hard!": {"steps": 1}}})) == {"phase.very_hard_.steps": "1"}


def test_run_is_found_by_the_label_of_its_variant_where_it_has_one(open_store, client):
    store = open_store()
    called = {**SETTINGS, "variant": {"name": "parameter_only", "label": "rloo"}}
    named = [client.get_run(store.begin("run", key, values, key)) for key, values in (("a", called), ("b", SETTINGS))]
    assert [found.data.tags["ductile.variant"] for found in named] == ["rloo", "proxy"]


def test_tags_name_kind_variant_plan_and_seed(open_store, client):
    store = open_store()
    parent = store.begin("compare", "too hard", {}, "parent")
    run_id = store.begin("run", "child", SETTINGS, "child", parent=parent, tags={"variant": "proxy-strong", "note": 1})
    tags = client.get_run(run_id).data.tags
    wanted = {
        "ductile.kind": "run", "ductile.key": "child", "ductile.variant": "proxy-strong", "ductile.plan": "hard",
        "ductile.seed": "3", "ductile.note": "1", "mlflow.parentRunId": parent, "mlflow.runName": "child",
    }  # fmt: skip
    assert {name: tags.get(name) for name in wanted} == wanted


def test_artifacts_lie_beside_the_database(open_store, database):
    store = open_store()
    run_id = store.begin("run", "r", {}, "k")
    store.artifact_text(run_id, "note.md", "hello")
    assert (database.parent / "mlflow-artifacts" / run_id / "artifacts" / "note.md").read_text() == "hello"


def test_artifact_is_replaced_and_a_missing_one_is_none(open_store, tmp_path):
    store = open_store()
    run_id = store.begin("run", "r", {}, "k")
    store.artifact_text(run_id, "note.md", "first")
    store.artifact_text(run_id, "note.md", "second")
    (tmp_path / "plot.txt").write_text("file")
    store.artifact_file(run_id, str(tmp_path / "plot.txt"))
    assert store.read_text(run_id, "note.md") == "second"
    assert store.read_text(run_id, "plot.txt") == "file"
    assert store.read_text(run_id, "other.md") is None


def test_reopened_run_is_the_same_one_and_running_again(open_store, client):
    first = open_store()
    run_id = first.begin("run", "r", SETTINGS, "k")
    first.finish(run_id, "FAILED")
    assert client.get_run(run_id).info.status == "FAILED"
    assert open_store().begin("run", "r", SETTINGS, "k") == run_id
    assert client.get_run(run_id).info.status == "RUNNING"
    assert open_store().begin("run", "r", SETTINGS, "another") != run_id


def test_same_key_in_another_experiment_is_another_run(open_store):
    assert open_store("first").begin("run", "r", {}, "k") != open_store("second").begin("run", "r", {}, "k")


def test_reopened_run_does_not_log_a_step_twice(open_store, client):
    first = open_store()
    run_id = first.begin("run", "r", {}, "k")
    first.log(run_id, points(("loss", 3.0, 1), ("loss", 2.0, 2), ("rate", 0.5, 2)))
    second = open_store()
    second.begin("run", "r", {}, "k")
    later = [
        Point(p.name, p.value, p.step, p.timestamp + 5000)
        for p in points(("loss", 2.0, 2), ("rate", 0.5, 2), ("new", 1.0, 2), ("loss", 1.0, 3))
    ]
    second.log(run_id, later)
    history = client.get_metric_history(run_id, "loss")
    assert [(m.step, m.value) for m in history] == [(1, 3.0), (2, 2.0), (3, 1.0)]
    assert len(client.get_metric_history(run_id, "rate")) == 1
    assert len(client.get_metric_history(run_id, "new")) == 1


def test_reopened_run_fills_a_gap_that_it_left(open_store, client):
    first = open_store()
    run_id = first.begin("run", "r", {}, "k")
    first.log(run_id, points(("loss", 3.0, 1), ("loss", 1.0, 3)))
    second = open_store()
    second.begin("run", "r", {}, "k")
    second.log(run_id, points(("loss", 2.0, 2), ("loss", 1.0, 3)))
    assert sorted(m.step for m in client.get_metric_history(run_id, "loss")) == [1, 2, 3]


def test_step_repeated_in_the_same_process_is_logged_once(open_store, client):
    store = open_store()
    run_id = store.begin("run", "r", {}, "k")
    store.log(run_id, points(("loss", 3.0, 1)))
    store.log(run_id, [Point("loss", 3.0, 1, 1_700_000_009_999), Point("loss", 3.0, 1, 1_700_000_009_999)])
    assert len(client.get_metric_history(run_id, "loss")) == 1


def test_write_after_a_crash_asks_mlflow_what_it_holds_though_nobody_began_the_run(open_store, client):
    first = open_store()
    run_id = first.begin("run", "r", {}, "k")
    first.log(run_id, points(("loss", 3.0, 1), ("loss", 2.0, 2)))
    later = [Point(p.name, p.value, p.step, p.timestamp + 5000) for p in points(("loss", 2.0, 2), ("loss", 1.0, 3))]
    open_store().log(run_id, later)
    assert [(m.step, m.value) for m in client.get_metric_history(run_id, "loss")] == [(1, 3.0), (2, 2.0), (3, 1.0)]


def test_write_whose_answer_was_lost_is_not_made_twice(open_store, client, monkeypatch):
    store = open_store()
    run_id = store.begin("run", "r", {}, "k")

    def answer_is_lost(*arguments, **named):
        MlflowClient.log_batch(store._client, *arguments, **named)
        raise ConnectionError("reset by peer")

    with monkeypatch.context() as patch:
        patch.setattr(store._client, "log_batch", answer_is_lost)
        with pytest.raises(ConnectionError):
            store.log(run_id, points(("loss", 3.0, 1)))
    later = [Point("loss", 3.0, 1, 1_700_000_009_999), *points(("loss", 2.0, 2))]
    store.log(run_id, later)
    assert [(m.step, m.value) for m in client.get_metric_history(run_id, "loss")] == [(1, 3.0), (2, 2.0)]


def test_what_mlflow_would_refuse_again_is_told_from_what_is_worth_trying(open_store, client, monkeypatch):
    store = open_store()
    run_id = store.begin("run", "r", {}, "k")
    with pytest.raises(Refused, match="INVALID_PARAMETER_VALUE") as refusal:
        store.log(run_id, points(("illegal?", 1.0, 1)))
    assert not refusal.value.whole
    with pytest.raises(Refused, match="RESOURCE_DOES_NOT_EXIST") as refusal:
        store.log("0" * 32, points(("loss", 1.0, 1)))
    assert refusal.value.whole
    client.delete_run(run_id)
    with pytest.raises(Refused, match="must be in the 'active' state") as refusal:
        store.log(run_id, points(("loss", 1.0, 1)))
    assert refusal.value.whole
    client.restore_run(run_id)
    for code in (TEMPORARILY_UNAVAILABLE, BAD_REQUEST, UNAUTHENTICATED, ENDPOINT_NOT_FOUND, INTERNAL_ERROR):
        monkeypatch.setattr(store._client, "log_batch", raising(MlflowException("no", code)))
        with pytest.raises(MlflowException, match="no"):
            store.log(run_id, points(("loss", 1.0, 1)))


def raising(error):
    def call(*arguments, **named):
        raise error

    return call


def test_finished_run_is_reopened(open_store, client):
    store = open_store()
    run_id = store.begin("run", "r", {}, "k")
    store.finish(run_id, "KILLED")
    store.reopen(run_id)
    assert client.get_run(run_id).info.status == "RUNNING"


def test_reopening_with_other_settings_keeps_the_first_and_says_what_changed(open_store, client):
    run_id = open_store().begin("run", "r", {"rollout": {"actors": 1}, "seed": 0}, "k")
    open_store().begin("run", "r", {"rollout": {"actors": 4}, "seed": 0, "extra": True}, "k")
    data = client.get_run(run_id).data
    assert data.params == {"rollout.actors": "1", "seed": "0", "extra": "true"}
    assert data.tags["ductile.changed_settings"] == "rollout.actors: 1 -> 4"


def test_more_metrics_than_one_request_takes(open_store, client):
    store = open_store()
    run_id = store.begin("run", "r", {}, "k")
    store.log(run_id, points(*((f"m{i}", float(i), 0) for i in range(1500))))
    assert len(client.get_run(run_id).data.metrics) == 1500


def test_fast_history_is_the_same_as_through_mlflow(open_store, database):
    store = open_store()
    run_id = store.begin("run", "r", {}, "k")
    store.log(run_id, points(*((name, 0.1 * step, step) for name in ("a/b", "c") for step in (10, 2, 1, 30))))
    fast = read_sqlite_history(database, run_id)
    assert fast == store.read_client_history(run_id)
    assert fast["a/b"] == ((1, 0.1), (2, 0.2), (10, 1.0), (30, 3.0))
    store.log(run_id, [Point("nan", math.nan, 1, 0)])
    assert math.isnan(read_sqlite_history(database, run_id)["nan"][0][1])


def test_comparison_is_read_back_whole(open_store):
    store = open_store()
    parent = store.begin("compare", "too hard", {"name": "too hard"}, "parent")
    base = store.begin("pretrain", "base", {}, "base", parent=parent)
    store.finish(base, "FINISHED")
    row = {"boundary": 0, "step": 0, "phase": "base", "metrics": {"retention/prior": 0.9}, "tables": {}}
    run_id = store.begin("run", "child", SETTINGS, "child", parent=parent)
    store.log(run_id, points(("retention/prior", 0.9, 0), ("retention/prior", 0.5, 10)))
    store.artifact_text(run_id, "boundaries.json", json.dumps([row]))
    store.artifact_text(run_id, "plan.json", json.dumps([{"name": "hard", "domain": "d", "levels": [1], "steps": 10}]))
    store.artifact_text(run_id, "audits.json", json.dumps([{"phase": 0, "step": 0}]))
    store.finish(run_id, "FINISHED")
    time.sleep(0.002)  # MLflow orders by start time in milliseconds
    failed = store.begin("run", "other", {**SETTINGS, "seed": 12}, "other", parent=parent)
    store.finish(failed, "FAILED")
    store.begin("run", "of nobody", SETTINGS, "alone")

    records = open_store().read_comparison()
    assert [(r.run_id, r.status, r.seed) for r in records] == [(run_id, "FINISHED", 3), (failed, "FAILED", 12)]
    record = records[0]
    assert (record.variant, record.plan) == ("proxy", "hard")
    assert record.series("retention/prior") == ((0, 0.9), (10, 0.5))
    assert record.boundaries == (row,)
    assert record.phases == (PhaseBand("hard", 0, 10, "d", (1,)),)
    assert record.audits == ({"phase": 0, "step": 0},)
    assert (records[1].boundaries, records[1].audits) == ((), ())
    assert open_store().read_comparison(parent) == records
    assert open_store().read_comparison(run_id) == [record]


def test_more_runs_than_one_page_of_the_search(open_store, monkeypatch):
    store = open_store()
    parent = store.begin("compare", "c", {}, "parent")
    children = [store.begin("run", f"r{i}", {"seed": i}, f"child{i}", parent=parent) for i in range(5)]
    monkeypatch.setattr(
        store._client, "search_runs", lambda *a, **k: MlflowClient.search_runs(store._client, *a, max_results=2, **k)
    )
    assert sorted(r.run_id for r in store.read_comparison(parent)) == sorted(children)


def test_newest_comparison_wins(open_store):
    store = open_store()
    store.begin("compare", "old", {}, "old")
    time.sleep(0.002)
    newest = store.begin("compare", "new", {}, "new")
    assert store.newest_comparison() == newest


def test_missing_comparison_or_run_is_named(open_store):
    with pytest.raises(NoSuchRun, match="has no comparison in this experiment"):
        open_store().read_comparison()
    with pytest.raises(NoSuchRun, match="no run abc"):
        open_store().read_comparison("abc")


def test_unknown_kind_status_and_key_are_refused(open_store):
    store = open_store()
    with pytest.raises(ValueError, match=r"unknown kind 'rum'.*did you mean run"):
        store.begin("rum", "r", {}, "k")
    run_id = store.begin("run", "r", {}, "k")
    with pytest.raises(ValueError, match="unknown status 'DONE'; allowed: FAILED, FINISHED, KILLED"):
        store.finish(run_id, "DONE")
    with pytest.raises(ValueError, match="must not hold a quote"):
        store.begin("run", "r", {}, "it's")


def test_deleted_experiment_is_named(open_store, client):
    open_store("gone").connect()
    client.delete_experiment(client.get_experiment_by_name("gone").experiment_id)
    with pytest.raises(Refused, match=r"tracking\.experiment: 'gone' is deleted in MLflow"):
        open_store("gone").connect()
