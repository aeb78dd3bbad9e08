"""Going on with a run by what MLflow has of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from actors.mlflow_store import MlflowStore, NoSuchRun
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
    with pytest.raises(SettingsError, match=r"'grid' is a compare; go on with it by jobs\.compare"):
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
