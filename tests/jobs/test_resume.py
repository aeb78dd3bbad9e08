"""Going on with a run by what MLflow has of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient

from actors.mlflow_store import MlflowStore, NoSuchRun
from actors.tracker import TrackingError
from ductile.settings import SettingsError, as_plain
from jobs.configure import parse, run_settings
from jobs.driver import absolute
from jobs.resume import CELLS, asked_to_resume, kept_comparison, kept_run

RUN = ("model=small", "variant=parameter_only", "plan=guessable", "seed=3")


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("output")


@pytest.fixture(scope="module")
def begun(output: Path) -> str:
    """A run that was stopped, in MLflow and with a checkpoint."""
    store = MlflowStore(f"sqlite:///{output / 'mlflow.db'}", "ductile")
    plain = as_plain(absolute(run_settings(parse([*RUN, f"output={output}"]))))
    (output / "grid" / "cell" / "checkpoint-000002").mkdir(parents=True)
    folder = {"folder": str(output / "grid" / "cell")}
    run_id = store.begin("run", "one", plain, "key-1", parent="p", tags=folder)
    store.finish(run_id, "KILLED")
    for number in (2, 3):
        store.begin("run", "twins", plain, f"key-{number}", tags=folder)
    grid = store.begin("compare", "grid", {"compare": {"seeds": 2}, "base": plain}, "grid-1")
    store.artifact_text(grid, CELLS, json.dumps([plain, {**plain, "seed": 4}]))
    return run_id


def request(output: Path, *more: str):  # type: ignore[no-untyped-def]
    return parse([*more, f"output={output}"])


@pytest.mark.parametrize("named", ["id", "prefix", "name"])
def test_run_is_found_by_id_prefix_and_name_with_its_settings_and_folder(output: Path, begun: str, named: str) -> None:
    text = {"id": begun, "prefix": begun[:10], "name": "one"}[named]
    kept = kept_run(request(output, f"resume={text}", "rollout.actors=4"))
    assert (kept.settings.seed, kept.settings.plan, kept.settings.rollout.actors) == (3, "guessable", 4)
    assert (kept.key, kept.parent, kept.name) == ("key-1", "p", "one")
    assert kept.folder == output / "grid" / "cell"


@pytest.mark.parametrize("value", ["learner.lr=0.1", "seed=1", "rollout.group_size=4", "name=other", "plan=none"])
def test_setting_that_the_result_depends_on_is_refused(output: Path, begun: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"^{value.split('=')[0]}: "):
        kept_run(request(output, f"resume={begun}", value))


def test_name_of_several_runs_is_refused_with_their_ids(output: Path, begun: str) -> None:
    with pytest.raises(SettingsError, match="'twins' names 2 runs; name one by its id: "):
        kept_run(request(output, "resume=twins"))


def test_unknown_run_and_other_kind_say_what_to_do(output: Path, begun: str) -> None:
    with pytest.raises(SettingsError, match=r"no run 'nobody' in sqlite.*tracking.uri="):
        kept_run(request(output, "resume=nobody"))
    with pytest.raises(SettingsError, match=r"'grid' is a comparison; go on with it by jobs\.compare"):
        kept_run(request(output, "resume=grid"))


def test_comparison_goes_on_with_every_run_that_it_was_of(output: Path, begun: str) -> None:
    grid, settings = kept_comparison(request(output, "resume=grid"))
    assert grid.seeds == 2 and [each.seed for each in settings] == [3, 4]


def test_store_refuses_an_empty_name(output: Path, begun: str) -> None:
    with pytest.raises(NoSuchRun):
        MlflowStore(f"sqlite:///{output / 'mlflow.db'}", "ductile").find("", "run")


def test_nothing_is_resumed_unless_asked() -> None:
    assert asked_to_resume(parse(["seed=1"])) is None
    assert asked_to_resume(parse(["resume=612e0726"])) == "612e0726"


def test_nothing_named_is_one_clear_line() -> None:
    with pytest.raises(SettingsError, match=r"^resume: it names nothing; give a run's MLflow id"):
        asked_to_resume(parse(["resume="]))


@pytest.mark.parametrize("kind", ["sweep", "pretrain"])
def test_what_goes_on_by_its_own_command_is_told_so(output: Path, begun: str, kind: str) -> None:
    store = MlflowStore(f"sqlite:///{output / 'mlflow.db'}", "ductile")
    store.begin(kind, f"a {kind}", {}, f"{kind}-1")
    with pytest.raises(SettingsError, match="give the same command again"):
        kept_run(request(output, f"resume=a {kind}"))


def test_wrong_name_makes_neither_folder_nor_database_nor_experiment(output: Path, begun: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no experiment 'ductile' in sqlite"):
        kept_run(request(tmp_path / "nowhere", "resume=abc"))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(SettingsError, match="no experiment 'another' in sqlite"):
        kept_run(request(output, "resume=abc", "tracking.experiment=another"))
    client = MlflowClient(f"sqlite:///{output / 'mlflow.db'}")
    assert client.get_experiment_by_name("another") is None


def test_mlflow_that_is_away_or_no_address_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(TrackingError) as away:
        kept_run(request(tmp_path, "resume=abc", "tracking.uri=http://127.0.0.1:9"))
    assert str(away.value).startswith("tracking.uri: http://127.0.0.1:9: MLflow could not be read: ")
    assert len(str(away.value).splitlines()) == 1
    with pytest.raises(SettingsError, match=r"^tracking.uri: 'ftp://x' is no address of MLflow"):
        kept_run(request(tmp_path, "resume=abc", "tracking.uri=ftp://x"))
