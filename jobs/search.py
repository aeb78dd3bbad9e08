"""Which thresholds the next trial gets: Optuna behind Tune's protocol of a searcher, with its memory in plain files.

Tune could restore a search itself (`Tuner.restore`), from pickles that are some seconds old and hold handles to actors
that are gone. Here every trial's folder says in JSON what it was given, before it begins, and what came out: a search
that goes on asks for the same trials again, in the same order; those that are over say what they had reported, so
that searcher and scheduler learn of them in the ways that they know, and only the others run.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

import optuna
from numpy.random import SeedSequence
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import TrialState
from ray.tune.search import Searcher

from ductile.checkpoint import write_text
from ductile.config import SweepSettings
from ductile.sweep import choices

optuna.logging.set_verbosity(optuna.logging.WARNING)
log = logging.getLogger("ductile")


class ThresholdSearch(Searcher):
    """Suggests {number, drawn}: the trial's number, from 0, and its coordinates (see `sweep.thresholds_at`).

    A suggestion depends on the search's seed, the trial's number and what was told before it: at random (search asha)
    on the first two alone.
    """

    def __init__(
        self,
        sweep: SweepSettings,
        objectives: Sequence[str],
        seed: int,
        folder: Path,
        stopping: Callable[[], bool] = bool,  # no
    ) -> None:
        super().__init__(metric=list(objectives), mode=["max"] * len(objectives))
        self._sweep, self._objectives, self._seed, self._folder = sweep, tuple(objectives), seed, folder
        self._study = optuna.create_study(directions=["maximize"] * len(objectives))
        self._told: dict[str, optuna.Trial] = {}
        self._number, self._stopping = 0, stopping

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        """The next trial's; what it was given in an earlier process of this search is what it gets again.

        A search that is asked to stop suggests no more.
        """
        if self._stopping():
            return Searcher.FINISHED
        number, self._number = self._number, self._number + 1
        kept = trial_folder(self._folder, number) / "trial.json"
        if kept.exists():
            self._study.enqueue_trial(json.loads(kept.read_text())["drawn"])
        self._study.sampler = self._sampler(number)
        trial = self._told[trial_id] = self._study.ask(distributions(self._sweep))
        suggestion = {"number": number, "drawn": dict(trial.params)}
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_text(kept, json.dumps(suggestion))
        return suggestion

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """Nothing: the model learns of trials that are over."""

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        """Tell the study what the trial was worth; a trial that measured nothing failed."""
        values = [(result or {}).get(name, float("nan")) for name in self._objectives]
        trial = self._told.pop(trial_id)
        if error or not all(isfinite(value) for value in values):
            self._study.tell(trial, state=TrialState.FAIL)
        else:
            self._study.tell(trial, values)

    def save(self, checkpoint_path: str) -> None:
        """For Tune's own snapshot, which nothing is restored from."""
        Path(checkpoint_path).write_text("{}")

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: what is known is in the trials' folders."""

    def _sampler(self, number: int) -> BaseSampler:
        seed = int(SeedSequence([self._seed, number]).generate_state(1)[0])
        if self._sweep.search == "asha":
            return RandomSampler(seed=seed)
        return TPESampler(seed=seed, n_startup_trials=self._sweep.startup, constant_liar=True)


def distributions(sweep: SweepSettings) -> dict[str, BaseDistribution]:
    """The coordinates and their ranges; a range of one point is no coordinate that a model should spend trials on."""
    named: dict[str, BaseDistribution] = {
        "low": FloatDistribution(*sweep.low),
        "share": FloatDistribution(0.0, 1.0),
    }
    return named | {name: CategoricalDistribution(values) for name, values in choices(sweep).items()}


def trial_folder(folder: Path, number: int) -> Path:
    """Where a trial is kept."""
    return folder / f"trial-{number:03}"
