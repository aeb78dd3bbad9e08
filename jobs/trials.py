"""The trials of a search under Ray Tune. A module of its own, so that Tune's processes can import it by name."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.exceptions import RayActorError
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

from actors.desk import DeskActor, ReportingTracker
from actors.placement import on_this_node
from actors.tracker import RunTracker
from actors.tries import RESTARTS
from ductile.checkpoint import FolderStore, write_text
from ductile.config import RunSettings, SweepSettings
from ductile.ports import Stopped
from ductile.sweep import (
    Thresholds,
    mean_values,
    measured_objectives,
    searched_objectives,
    thresholds_at,
    total_steps,
    values_of,
    with_thresholds,
)
from jobs.cell import Cell, execute, identity_of
from jobs.driver import Shared
from jobs.grid import Slots, resources, slot_of
from jobs.search import ThresholdSearch, trial_folder

log = logging.getLogger("ductile")
POLL_S = 5.0
"""A trial looks so often whether the thread of its runs still lives."""


@dataclass(frozen=True)
class Search:
    """What every trial of a search has in common. `runs`: how many go on at a time."""

    sweep: SweepSettings
    settings: RunSettings
    shared: Shared
    folder: Path
    name: str
    parent: str
    runs: int


def run_trials(search: Search, stopping: Callable[[], bool]) -> dict[int, str]:
    """Run the trials that are not over, then end the rollout actors; number -> reason of the trials that failed.

    stopping: whether the job was asked to stop. Raises `Stopped` when it was, and its runs have.
    """
    sweep, settings = search.sweep, search.settings
    desk = DeskActor.options(scheduling_strategy=on_this_node()).remote()  # with the driver's node goes the search
    slots = Slots.remote()
    trainable = tune.with_parameters(Trial, search=search, desk=desk, slots=slots)
    objectives = list(searched_objectives(sweep, settings))
    tuner = tune.Tuner(
        tune.with_resources(trainable, resources(settings.learner.workers, search.shared.placement)),
        tune_config=tune.TuneConfig(
            search_alg=ThresholdSearch(sweep, objectives, settings.seed, search.folder, search.shared.stop.asked),
            scheduler=_scheduler(sweep, settings, objectives),
            num_samples=sweep.trials,
            max_concurrent_trials=search.runs,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="ray-tune",
            storage_path=str(search.folder),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # runs have checkpoints of their own
            failure_config=tune.FailureConfig(max_failures=RESTARTS),
            callbacks=[Dismiss(desk)],
            verbose=0,
        ),
    )
    results = [(result.config, result.error, result.metrics) for result in tuner.fit()]
    if stopping():  # the runs' flag may have been started again, and be down
        raise Stopped(0, early=False)
    failed = _failures(search, results)
    # Handles were put into Ray's store with the trials, so that Ray no longer counts them. After an error the job ends,
    # and they with it.
    for actor in (desk, slots, *search.shared.pool.actors):
        ray.kill(actor)
    return failed


class Dismiss(tune.Callback):
    """Tells the run of a trial that Tune is done with to stop, at once: Tune keeps the trial's process for the next."""

    def __init__(self, desk: Any) -> None:
        self._desk = desk

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        with contextlib.suppress(RayActorError):  # without the desk every trial fails, and says so
            ray.get(self._desk.close.remote(trial.config["number"], early=True))


class Trial(tune.Trainable):
    """One point of the search: its runs, seed after seed, on a thread beside what Tune asks.

    The first seed's run is what ASHA compares, at equal RL steps; a trial that survives it has its other seeds.
    """

    def setup(self, config: dict[str, Any], search: Search, desk: Any, slots: Any) -> None:
        self._search, self._desk, self._slots = search, desk, slots
        self._thread: threading.Thread | None = None
        self._begin(config)

    def step(self) -> dict[str, Any]:
        """What Tune is told of: the next report, or how the trial ended.

        An error is an end: for one that is raised Tune would try the trial again, and the error would come again.
        """
        try:
            return self._step()
        except Exception as error:
            with contextlib.suppress(RayActorError):  # its run was not worth less than others: it does not end early
                ray.get(self._desk.close.remote(self._number, early=False))
            return self._failed(error)

    def _step(self) -> dict[str, Any]:
        if self._events:
            return self._events.pop(0)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=f"trial-{self._number}", daemon=True)
            self._thread.start()
        elif self._thread.is_alive():
            ray.get(self._desk.go_on.remote(self._number))
        while True:
            came, event = ray.get(self._desk.next.remote(self._number, POLL_S))
            if came and event is not None:
                append_report(self._folder, event)
                return self._result(event["values"], steps=event["step"])
            if came or not self._thread.is_alive():
                self._thread.join()
                return self._end

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take on the next trial in this process, once the last one's run has unwound."""
        self.cleanup()
        self._begin(new_config)
        return True

    def cleanup(self) -> None:
        """Wait until the run has unwound: its actors and its MLflow run are ended, and its folder is free."""
        with contextlib.suppress(RayActorError):
            ray.get(self._desk.close.remote(self._number, early=False))
        if self._thread is not None:
            self._thread.join()

    def _begin(self, config: Mapping[str, Any]) -> None:
        self._number, self._folder = config["number"], trial_folder(self._search.folder, config["number"])
        self._objectives = measured_objectives(self._search.settings)
        try:
            self._open(config)
        except Exception as error:
            self._events = [self._failed(error)]

    def _open(self, config: Mapping[str, Any]) -> None:
        search = self._search
        self._at = thresholds_at(search.sweep, config["drawn"], search.settings)
        self._settings = with_thresholds(search.settings, self._at, search.sweep.phases)
        self._objectives = measured_objectives(self._settings)
        self._thread, self._end = None, self._result({}, error="its thread died", done=True)
        outcome = outcome_of(self._folder)
        if outcome is None:
            mend_reports(self._folder)
        self._events = [] if outcome is None else self._replayed(outcome)
        ray.get(self._desk.open.remote(self._number))

    def _replayed(self, outcome: Mapping[str, Any]) -> list[dict[str, Any]]:
        """What a trial that is over told Tune."""
        told = [self._result(row["values"], steps=row["step"]) for row in reports_of(self._folder)]
        last = mean_values([seed["values"] for seed in outcome["seeds"]])
        return [*told, self._result(last, done=True)]

    def _run(self) -> None:
        """On the thread: every seed, then the outcome. A failure is told, not kept: the same command tries again."""
        try:
            seeds = [self._run_seed(number) for number in range(self._search.sweep.seeds)]
            self._keep("finished", total_steps(self._settings), seeds)
            self._end = self._result(mean_values([seed["values"] for seed in seeds]), done=True)
        except Stopped as stop:
            reported = reports_of(self._folder)
            last = reported[-1]["values"] if reported else {}
            if stop.early:
                self._keep("stopped", stop.step, [{"seed": self._settings.seed, "values": last}])
            self._end = self._result(last, done=True)
        except Exception as error:
            self._end = self._failed(error)
        finally:
            ray.get(self._desk.over.remote(self._number))

    def _run_seed(self, number: int) -> dict[str, Any]:
        """One run to its end; its values at the last boundary, and the error of measuring them."""
        search = self._search
        settings = replace(self._settings, seed=self._settings.seed + number)
        identity = identity_of(settings, search.shared)
        cell = Cell(
            settings,
            identity,
            self._folder / f"seed{settings.seed}",
            f"{search.name}-{self._number}-{identity.run}",
            search.parent,
            f"trial {self._number} {described(self._at)} seed {settings.seed}",
            {"trial": str(self._number), **{n: str(v) for n, v in asdict(self._at).items() if v is not None}},
        )
        if not cell.finished or ended(cell.folder, len(settings.phase)) is None:
            first = number == 0 and search.sweep.search == "asha"
            execute(cell, search.shared, slot_of(self._slots) % search.runs, self._watched if first else _as_it_is)
        return {"seed": settings.seed, **last_boundary(cell.folder, self._objectives, len(settings.phase))}

    def _watched(self, tracker: RunTracker) -> RunTracker:
        wanted = searched_objectives(self._search.sweep, self._settings)
        told = {name: metric for name, metric in self._objectives.items() if name != "plasticity" or name in wanted}
        return ReportingTracker(
            tracker.actor,
            tracker.run_id,
            self._desk,
            self._number,
            told,
            total_steps(self._settings),
            labels=tracker.labels,
        )

    def _keep(self, status: str, steps: int, seeds: list[dict[str, Any]]) -> None:
        document = {"status": status, "steps": steps, "seeds": seeds}
        write_text(self._folder / "outcome.json", json.dumps(document, indent=1))

    def _failed(self, error: Exception) -> dict[str, Any]:
        """How a trial ends that failed."""
        log.error("trial %d failed", self._number, exc_info=error)
        return self._result({}, error=f"{type(error).__name__}: {error}", done=True)

    def _result(self, values: Mapping[str, float], error: str = "", **more: Any) -> dict[str, Any]:
        """For Tune: every objective, NaN where it was not measured."""
        nothing = dict.fromkeys(self._objectives, float("nan"))
        return {**nothing, **values, "error": error, **more}


def described(at: Thresholds) -> str:
    """The point in a few words."""
    steps = "" if at.steps is None else f" {at.steps} steps"
    return f"{at.low:g}-{at.high:g} G{at.group_size} {at.estimator}{steps}"


def append_report(folder: Path, event: Mapping[str, Any]) -> None:
    """Keep what Tune is about to be told."""
    with (folder / "reports.jsonl").open("a") as file:
        file.write(json.dumps(event) + "\n")


def reports_of(folder: Path) -> list[dict[str, Any]]:
    """What the trial reported, by step; a step that was done again after a crash counts once."""
    path = folder / "reports.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    rows = [json.loads(line) for line in lines if line.endswith("\n")]  # the last one may be cut
    return [row for _, row in sorted({row["step"]: row for row in rows}.items())]


def mend_reports(folder: Path) -> None:
    """Take off the line that a crash cut: the next one would be written onto it."""
    rows = reports_of(folder)
    if rows:
        write_text(folder / "reports.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def outcome_of(folder: Path) -> dict[str, Any] | None:
    """How a trial that is over ended: status (finished, stopped), steps, and each seed's values.

    A file that is broken counts for none: the trial is done again, from what its runs kept.
    """
    path = folder / "outcome.json"
    try:
        outcome: dict[str, Any] | None = json.loads(path.read_text()) if path.exists() else None
    except ValueError as error:
        log.error("%s is broken, and the trial is done again: %s", path, error)
        return None
    return outcome


def ended(folder: Path, phases: int) -> list[dict[str, Any]] | None:
    """The boundaries of a run that has done so many phases; None where its newest sound checkpoint is of before."""
    checkpoint = FolderStore(folder, folder).latest()
    if checkpoint is None:
        return None
    state = json.loads((checkpoint / "state.json").read_text())["state"]
    return state["boundaries"] if state["phase"] == phases and not state["pending"] else None


def last_boundary(folder: Path, objectives: Mapping[str, str], phases: int) -> dict[str, Any]:
    """values: the run's objectives after its last phase.  errors: the standard error of those that are pass rates."""
    boundaries = ended(folder, phases)
    if boundaries is None:
        raise FileNotFoundError(f"{folder} has no sound checkpoint of its end; the same command makes it again")
    boundary = boundaries[-1]
    kinds = {"retention": "prior", "new_skill": "new"}
    rows = boundary["tables"].get("retention", [])
    errors = {}
    for name in kinds.keys() & objectives.keys():
        cells = [
            row["standard_error"] for row in rows if row["kind"] == kinds[name] and row["standard_error"] is not None
        ]
        if cells:
            errors[name] = sum(error**2 for error in cells) ** 0.5 / len(cells)
    return {"values": values_of(boundary["metrics"], objectives), "errors": errors}


def _as_it_is(tracker: RunTracker) -> RunTracker:
    return tracker


def _scheduler(sweep: SweepSettings, settings: RunSettings, objectives: list[str]) -> Any:
    if sweep.search != "asha":
        return FIFOScheduler()
    lengths = [
        total_steps(with_thresholds(settings, Thresholds(0.0, 1.0, 2, "", steps), sweep.phases))
        for steps in sweep.steps or (None,)
    ]
    return ASHAScheduler(
        time_attr="steps",
        metric=objectives[0],
        mode="max",
        max_t=max(lengths),
        grace_period=sweep.grace,
        reduction_factor=sweep.reduction,
        stop_last_trials=False,
    )


def _failures(search: Search, results: list[tuple[Any, Any, Any]]) -> dict[int, str]:
    """Number -> reason of the trials that are not over."""
    reasons = {}
    for config, error, metrics in results:
        lines = str(error or (metrics or {}).get("error", "")).strip().splitlines()
        if config and lines:
            reasons[config["number"]] = lines[-1]
    return {
        number: reasons.get(number, "its process died before it reported anything")
        for number in range(search.sweep.trials)
        if outcome_of(trial_folder(search.folder, number)) is None
    }
