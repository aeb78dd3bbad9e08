"""The command line of a search: one line for every mistake before Ray starts, and what a trial's run is."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.exceptions import RayActorError

from ductile.checkpoint import FolderStore, write_text
from ductile.config import RunSettings, SweepSettings
from ductile.settings import SettingsError
from ductile.sweep import thresholds_at
from jobs.configure import compare_settings, parse, run_settings, sweep_settings
from jobs.search import ThresholdSearch, distributions, trial_folder
from jobs.trials import Trial, append_report, ended, last_boundary, mend_reports, outcome_of, reports_of
from jobs.usage import help_text

BASE = ("experiment=thresholds",)


def search(*arguments: str) -> tuple[SweepSettings, RunSettings]:
    return sweep_settings(parse([*BASE, *arguments]))


def mistakes(*arguments: str) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        search(*arguments)
    return caught.value.problems


def test_experiment_is_a_search_of_twelve_trials() -> None:
    sweep, settings = search()
    assert (sweep.trials, sweep.group_sizes, settings.difficulty.selection) == (12, (4, 8, 16), "band")
    assert list(settings.phase) == ["graded"]
    assert search("sweep.trials=3", "plan=medium")[0].trials == 3
    assert list(search("plan=medium")[1].phase) == ["medium"]


def test_run_and_comparison_do_not_see_the_search_of_their_experiment() -> None:
    assert run_settings(parse(BASE)) == search()[1]
    _, cells = compare_settings(parse([*BASE, "variant=parameter_only", "plan=graded", "seeds=1"]))
    assert cells[0].phase == search()[1].phase
    with pytest.raises(SettingsError, match="sweep: unknown setting"):
        run_settings(parse([*BASE, "sweep.trials=3"]))


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["sweep.low=[0.5,0.2]"], "sweep.low: [0.5, 0.2]: the range is empty"),
        (["sweep.low=[0.5]"], "sweep.low: [0.5] must be two numbers"),
        (["sweep.low=[0.2,0.95]"], "sweep.high: [0.6, 1.0]: no band above low 0.95 is 0.1 wide (width)"),
        (["sweep.low=[0,1.5]"], "sweep.low[1]: 1.5 is out of range; allowed: at least 0 and at most 1"),
        (["sweep.search=grid"], "sweep.search: unknown value 'grid'; allowed: asha, model"),
        (["sweep.objective=retension"], "sweep.objective: unknown value 'retension'; allowed: "),
        (["sweep.estimators=[bata]"], "sweep.estimators[0]: unknown estimator 'bata'; allowed: "),
        (["sweep.group_sizes=[4,4]"], "sweep.group_sizes: 4 is listed twice"),
        (["sweep.group_sizes=[1]"], "sweep.group_sizes[0]: 1 is out of range; allowed: at least 2"),
        (["sweep.steps=[5]", "sweep.phases=[hard]"], "sweep.phases[0]: unknown phase 'hard'; allowed: graded"),
        (["sweep.phases=[graded]"], "sweep.phases: ['graded'] is never read: sweep.steps is empty"),
        (["plan=none"], "plan: none has no phase"),
        (["difficulty.selection=uniform"], "difficulty.selection: uniform does not read difficulty.band"),
        (["sweep.objective=plasticity", "sweep.search=model"], "sweep.objective: plasticity needs a branch probe"),
        (
            ["sweep.objective=plasticity", "probe.probes=[retention,branch]"],
            "sweep.objective: plasticity: asha stops on what is measured inside phases, branches are not",
        ),
        (["sweep.objective=pareto"], "sweep.objective: pareto: asha compares trials by one number"),
        (["probe.probes=[drift]"], "sweep.objective: retention needs prior skills and the retention probe"),
        (["probe=none", "learner.lr=1e-4"], "sweep.objective: retention needs prior skills"),
        (
            ["probe.every=0"],
            "sweep.objective: retention: asha stops on what is measured inside phases; set probe.every",
        ),
        (["sweep.grace=24"], "sweep.grace: 24: no trial (24 steps at most) is measured from that step on"),
        (
            ["variant=fast_slow", "model=instructed", "variant.contexts=4", "sweep.group_sizes=[4,6]"],
            "variant.contexts: 4: rollout.group_size (6) is no multiple of it",
        ),
        (["variant=[proxy,lora]"], "variant: ['proxy', 'lora'] is a list"),
        (["sweep.trails=3"], "sweep.trails: unknown setting 'trails'"),
        (["sweep.low.deep=3"], "sweep.low"),
    ],
)
def test_wrong_search_is_one_line(arguments: list[str], line: str) -> None:
    (problem,) = mistakes(*arguments)
    assert problem.startswith(line)


def test_mistakes_of_the_search_and_of_its_run_are_told_at_once() -> None:
    lines = mistakes("sweep.trials=0", "learner.lr=-1", "rolout.groups=3")
    assert [line.split(":")[0] for line in lines] == ["sweep.trials", "rolout", "learner.lr"]


def test_pareto_takes_the_branch_where_it_runs() -> None:
    from ductile.sweep import searched_objectives

    pareto = ("sweep.objective=pareto", "sweep.search=model")
    assert list(searched_objectives(*search(*pareto))) == ["retention", "new_skill"]
    with_branch = searched_objectives(*search(*pareto, "probe.probes=[retention,branch]"))
    assert with_branch == {
        "retention": "retention/prior",
        "new_skill": "retention/new",
        "plasticity": "plasticity/rl_reset/auc_ratio",
    }


def test_help_tells_every_setting_of_the_search() -> None:
    text = help_text("sweep", "Meaning.")
    assert "  sweep.objective=retention (retention|plasticity|new_skill|pareto): " in text
    assert "  sweep.low=[0.05, 0.45]: " in text and "sweep.low" not in help_text("run", "Meaning.")


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0.01, 0.5))
def test_band_is_never_crossed_nor_too_narrow(first: float, share: float, width: float) -> None:
    sweep = SweepSettings(low=(0.0, 0.5), high=(0.3, 1.0), width=width)
    at = thresholds_at(sweep, {"low": 0.5 * first, "share": share}, RunSettings())
    assert 0 <= at.low <= 0.5 and 0.3 <= at.high <= 1.0
    assert at.high - at.low >= width - 1e-3  # both are rounded to three decimals
    assert (at.group_size, at.estimator, at.steps) == (8, "beta", None)


def suggestions(searcher: ThresholdSearch, count: int, told: bool) -> list[dict]:
    made = []
    for number in range(count):
        made.append(searcher.suggest(f"t{number}"))
        if told:
            searcher.on_trial_complete(f"t{number}", {"retention": made[-1]["drawn"]["low"], "new_skill": 0.5})
    return made


def test_random_search_gives_a_trial_what_its_number_says(tmp_path: Path) -> None:
    sweep = SweepSettings(group_sizes=(4, 8))
    one = suggestions(ThresholdSearch(sweep, ["retention"], 3, tmp_path / "a"), 6, told=True)
    other = suggestions(ThresholdSearch(sweep, ["retention"], 3, tmp_path / "b"), 6, told=False)
    assert one == other and [row["number"] for row in one] == list(range(6))
    assert len({row["drawn"]["low"] for row in one}) == 6


def test_search_that_begins_again_gives_what_it_gave_and_then_something_new(tmp_path: Path) -> None:
    sweep = SweepSettings(search="model", startup=3, estimators=("beta",), steps=(5, 10))
    objectives = ["retention", "new_skill"]
    first = suggestions(ThresholdSearch(sweep, objectives, 0, tmp_path), 5, told=True)
    again = suggestions(ThresholdSearch(sweep, objectives, 0, tmp_path), 7, told=True)
    assert again[:5] == first
    assert len({json.dumps(row["drawn"]) for row in again}) == 7
    assert {row["drawn"]["steps"] for row in again} <= {5, 10}


def test_model_goes_where_earlier_trials_were_good(tmp_path: Path) -> None:
    sweep = SweepSettings(search="model", startup=5, low=(0.0, 0.4))
    searcher = ThresholdSearch(sweep, ["retention"], 1, tmp_path)
    lows = [row["drawn"]["low"] for row in suggestions(searcher, 40, told=True)]
    assert sum(lows[20:]) / 20 > 0.26  # at random 0.2 with a standard error of 0.026


def test_trial_that_measured_nothing_is_told_as_failed(tmp_path: Path) -> None:
    searcher = ThresholdSearch(SweepSettings(), ["retention"], 0, tmp_path)
    for number, (result, error) in enumerate([({"retention": float("nan")}, False), (None, True), ({}, False)]):
        searcher.suggest(f"t{number}")
        searcher.on_trial_complete(f"t{number}", result, error)
    states = [trial.state for trial in searcher._study.trials]
    assert states == [optuna.trial.TrialState.FAIL] * 3


def test_low_and_share_have_fixed_ranges() -> None:
    made = distributions(SweepSettings(low=(0.1, 0.3), group_sizes=(2, 4)))
    assert (made["low"].low, made["low"].high) == (0.1, 0.3)
    assert (made["share"].low, made["share"].high) == (0.0, 1.0)
    assert made["group_size"].choices == (2, 4) and "steps" not in made


def test_reports_of_a_step_that_was_done_again_count_once_and_a_cut_line_is_mended(tmp_path: Path) -> None:
    for step, value in ((2, 0.5), (4, 0.4), (2, 0.6)):
        append_report(tmp_path, {"step": step, "values": {"retention": value}})
    with (tmp_path / "reports.jsonl").open("a") as file:
        file.write('{"step": 6, "val')
    mend_reports(tmp_path)
    append_report(tmp_path, {"step": 6, "values": {"retention": 0.3}})
    assert [(row["step"], row["values"]["retention"]) for row in reports_of(tmp_path)] == [(2, 0.6), (4, 0.4), (6, 0.3)]


def test_outcome_is_read_from_the_last_boundary(tmp_path: Path) -> None:
    rows = [{"kind": "prior", "standard_error": 0.3}, {"kind": "prior", "standard_error": 0.4}]
    rows += [{"kind": "new", "standard_error": None}]
    last = {"metrics": {"retention/prior": 0.25, "retention/new": float("nan")}, "tables": {"retention": rows}}
    boundaries = [{"metrics": {"retention/prior": 1.0}, "tables": {}}, last]
    store, objectives = FolderStore(tmp_path, tmp_path), {"retention": "retention/prior", "new_skill": "retention/new"}
    for phase in (0, 1):
        state = json.dumps({"state": {"phase": phase, "pending": [], "boundaries": boundaries[: phase + 1]}})
        store.save(lambda folder, state=state: write_text(folder / "state.json", state))
    store.flush()
    found = last_boundary(tmp_path, objectives, phases=1)
    assert found == {"values": {"retention": 0.25}, "errors": {"retention": 0.25}}  # sqrt(0.09 + 0.16) / 2

    newest = max(tmp_path.glob("checkpoint-*"))
    (newest / "state.json").write_text("damaged")
    assert ended(tmp_path, phases=1) is None  # and the one before it, which is sound, is not taken for the end
    with pytest.raises(FileNotFoundError, match="no sound checkpoint of its end"):
        last_boundary(tmp_path, objectives, phases=1)


def test_broken_outcome_counts_for_none(tmp_path: Path) -> None:
    (tmp_path / "outcome.json").write_text('{"status": "fin')
    assert outcome_of(tmp_path) is None


class Desk:
    """The desk of a search, which is dead."""

    def __getattr__(self, name: str) -> SimpleNamespace:
        def remote(*_: object, **__: object) -> None:
            raise RayActorError

        return SimpleNamespace(remote=remote)


def test_trial_that_fails_as_it_begins_tells_why_and_is_over(tmp_path: Path) -> None:
    sweep, settings = search()
    trial = object.__new__(Trial)  # without Tune around it
    trial.setup(
        {"number": 0, "drawn": {"low": 0.1}},
        SimpleNamespace(sweep=sweep, settings=settings, folder=tmp_path),
        Desk(),
        None,
    )
    told = trial.step()
    assert told["done"] and told["error"].startswith(("KeyError", "RayActorError", "ActorDiedError"))
    trial.cleanup()


def test_trial_whose_report_cannot_be_kept_is_over_with_that_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep, settings = search()
    trial = object.__new__(Trial)
    trial.setup(
        {"number": 0, "drawn": {}}, SimpleNamespace(sweep=sweep, settings=settings, folder=tmp_path), Desk(), None
    )

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(trial, "_step", full)
    told = trial.step()
    assert told["done"] and told["error"] == "OSError: [Errno 28] No space left on device"


def test_trials_are_in_folders_that_sort() -> None:
    assert trial_folder(Path("x"), 7).name == "trial-007"
