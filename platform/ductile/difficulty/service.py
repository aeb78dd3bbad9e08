"""The table of difficulty estimates: problem ids on the outside, rows of arrays on the inside."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random import Generator, Philox, SeedSequence
from numpy.typing import NDArray

from ductile.config import DifficultySettings
from ductile.difficulty import ALLOCATIONS, SELECTORS, watching
from ductile.difficulty.base import Arrays, Candidates, Estimates, Evidence, Floats, Rows, Visits
from ductile.difficulty.index import IdIndex
from ductile.difficulty.rules import uncertain_or_old

Outcomes = Mapping[str, tuple[int, int]]
"""Problem id -> (successes, judged completions)."""

NO_OUTCOMES: Outcomes = {}


@dataclass(frozen=True)
class Gathered:
    """`base.Evidence` with ids in place of rows, as it comes from those who ask the model."""

    feature_ids: Sequence[str] = ()
    features: NDArray[np.float32] | None = None
    ratio_ids: Sequence[str] = ()
    log_ratios: Sequence[float] = ()
    rewards: Sequence[float] = ()
    reference: Outcomes | None = None


class DifficultyTable:
    """Implements `ports.DifficultyService`.

    Steps are counted within a phase by those who call; the table keeps a clock that runs on over phases, so that
    the age of an estimate from an earlier phase is right. A call that raises has changed nothing.
    """

    def __init__(self, settings: DifficultySettings) -> None:
        self._settings = settings
        self._estimators = watching(settings)
        self._estimator = self._estimators[settings.estimator]
        self._selector = SELECTORS[settings.selection](settings)
        self._index = IdIndex()
        self._visits = np.zeros(0, np.int32)
        self._static = np.zeros(0, np.float32)
        self._pool = np.zeros(0, np.int64)  # rows of the phase's pool
        self._start = 0  # clock at the phase's step 0
        self._next = 0  # clock of the first step not yet seen

    def start_phase(
        self, ids: Sequence[str], static: Sequence[float] | None = None, watched: Sequence[str] = ()
    ) -> None:
        """See `ports.DifficultyService.start_phase`."""
        ids, before = list(dict.fromkeys(ids)), len(self._index)
        if static is not None and len(static) != len(ids):
            raise ValueError(f"{len(static)} static scores for {len(ids)} problems")
        self._start = self._next
        self._pool, _ = self._index.add(ids)
        self._index.add(watched)
        new = len(self._index) - before
        for estimator in self._estimators.values():
            estimator.grow(new, self._start)
        self._selector.grow(new)
        self._selector.start_phase()
        self._visits = np.concatenate([self._visits, np.zeros(new, np.int32)])
        self._static = np.concatenate([self._static, np.full(new, np.nan, np.float32)])
        if static is not None:
            self._static[self._pool] = static

    def select(
        self, count: int, step: int, seed: int, without: Collection[str] = (), progress: float = 0.0
    ) -> list[str]:
        """See `ports.DifficultyService.select`."""
        now, rng = self._start + step, Generator(Philox(SeedSequence([seed, self._start + step])))
        pool = self._allowed(without)
        if not len(pool):
            raise ValueError("the pool is empty: start_phase was given no problems")
        whole, rest = divmod(count, len(pool))
        chosen = [rng.permutation(pool) for _ in range(whole)]
        if rest:
            rows = self._considered(pool, rest, rng)
            candidates = Candidates(
                rows=rows,
                estimates=self._estimator.predict(rows, now),
                static=self._static[rows].astype(np.float64),
                visits=self._visits[rows].astype(np.int64),
                progress=progress,
            )
            chosen.append(rows[self._selector.select(candidates, rest, rng)])
        return self._index.ids(np.concatenate(chosen)) if chosen else []

    def allocate(self, ids: Sequence[str], total: int, step: int) -> list[int]:
        """See `ports.DifficultyService.allocate`."""
        allocation, limits = ALLOCATIONS[self._settings.allocation], self._settings.knapsack
        if allocation is None:
            share, rest = divmod(total, len(ids))
            return [share + (position < rest) for position in range(len(ids))]
        estimates = self._estimator.predict(self._index.rows(ids), self._start + step)
        return [int(count) for count in allocation(estimates, total, limits.low, limits.high)]

    def observe(self, outcomes: Outcomes, step: int) -> dict[str, float]:
        """See `ports.DifficultyService.observe`.

        `difficulty/brier` is the mean over the step's problems of (estimate before this update - observed group
        pass rate)^2. An observed rate of n completions is itself noisy, so a perfect estimate still scores
        p(1-p)/n. A problem none of whose completions could be judged is no evidence and counts as not visited.
        """
        visits, now = self._visits_of(outcomes), self._start + step
        self._next = max(self._next, now + 1)
        metrics: dict[str, float] = {}
        if len(visits.rows):
            predicted = self._estimator.predict(visits.rows, now).mean
            metrics["difficulty/brier"] = brier(predicted, visits.successes / visits.counts)
            self._take(visits, now)
            metrics |= self._selector.observe(visits)
        return metrics | self._describe(now)

    def learn(self, outcomes: Outcomes, step: int) -> None:
        """See `ports.DifficultyService.learn`."""
        visits = self._visits_of(outcomes)
        if len(visits.rows):
            self._take(visits, self._start + step)

    def measure_first(self, outcomes: Outcomes) -> None:
        """See `ports.DifficultyService.measure_first`."""
        visits = self._visits_of(outcomes)
        for estimator in self._estimators.values():
            estimator.measure_first(visits, self._start)

    def refresh(self, gathered: Gathered, step: int) -> dict[str, float]:
        """See `ports.DifficultyService.refresh`."""
        width = 0 if gathered.features is None else gathered.features.shape[1]
        evidence = Evidence(
            feature_rows=self._index.rows(gathered.feature_ids),
            features=np.zeros((0, width), np.float32) if gathered.features is None else gathered.features,
            ratio_rows=self._index.rows(gathered.ratio_ids),
            log_ratios=np.asarray(gathered.log_ratios, np.float64),
            rewards=np.asarray(gathered.rewards, np.float64),
            reference=None if gathered.reference is None else self._visits_of(gathered.reference),
        )
        metrics: dict[str, float] = {}
        for name, estimator in self._estimators.items():
            if estimator.needs:
                estimator.refresh(evidence, self._start + step)
                metrics |= {f"difficulty/{name}/{key}": value for key, value in estimator.diagnostics().items()}
        return metrics

    def worth_estimating(self, count: int, step: int, seed: int, without: Collection[str] = ()) -> list[str]:
        """See `ports.DifficultyService.worth_estimating`."""
        now = self._start + step
        rng = Generator(Philox(SeedSequence([seed, now, 1])))
        rows = self._considered(self._allowed(without), count, rng)
        estimates = self._estimator.predict(rows, now)
        chosen = uncertain_or_old(estimates, rng.permutation(len(rows)), min(count, len(rows)), rng)
        return self._index.ids(rows[chosen])

    def predict(self, ids: Sequence[str], step: int) -> dict[str, Estimates]:
        """See `ports.DifficultyService.predict`."""
        rows = self._index.rows(ids)
        return {name: each.predict(rows, self._start + step) for name, each in self._estimators.items()}

    def estimates(self) -> list[dict[str, Any]]:
        """What is believed of each problem of the phase's pool now: id, mean, uncertainty, age in steps, visits."""
        pool = self._estimator.predict(self._pool, self._next)
        columns = (pool.mean.tolist(), pool.uncertainty.tolist(), pool.age.tolist(), self._visits[self._pool].tolist())
        names = ("id", "mean", "uncertainty", "age", "visits")
        ids = self._index.ids(self._pool)
        return [dict(zip(names, row, strict=True)) for row in zip(ids, *columns, strict=True)]

    def snapshot(self) -> Arrays:
        """Everything, as arrays; `restore` on a table of the same settings goes on exactly from here."""
        parts: dict[str, Arrays] = {"index/": self._index.snapshot(), "selection/": self._selector.snapshot()}
        parts |= {f"estimator/{name}/": estimator.snapshot() for name, estimator in self._estimators.items()}
        parts[""] = {
            "visits": self._visits,
            "static": self._static,
            "pool": self._pool,
            "clock": np.array([self._start, self._next], np.int64),
        }
        return {prefix + key: array for prefix, arrays in parts.items() for key, array in arrays.items()}

    def restore(self, snapshot: Arrays) -> None:
        """Become what `snapshot` describes; raises `ValueError` when other estimators wrote it."""
        written = {key.split("/")[1] for key in snapshot if key.startswith("estimator/")}
        if written != self._estimators.keys():
            raise ValueError(
                f"the snapshot holds estimates by {sorted(written)}, "
                f"difficulty.estimator and difficulty.shadows are {sorted(self._estimators)}"
            )
        self._visits, self._static = snapshot["visits"].copy(), snapshot["static"].copy()
        self._pool = snapshot["pool"].copy()
        self._start, self._next = (int(value) for value in snapshot["clock"])
        self._index.restore(_part(snapshot, "index/"))
        self._selector.restore(_part(snapshot, "selection/"))
        for name, estimator in self._estimators.items():
            estimator.restore(_part(snapshot, f"estimator/{name}/"))

    def _take(self, visits: Visits, now: int) -> None:
        for estimator in self._estimators.values():
            estimator.observe(visits, now)
        self._visits[visits.rows] += 1

    def _visits_of(self, outcomes: Outcomes) -> Visits:
        """The judged ones as arrays; raises `KeyError` or `ValueError` for what cannot be an outcome."""
        judged = {id: outcome for id, outcome in outcomes.items() if outcome[1] != 0}
        rows = self._index.rows(list(judged))
        wins, counts = np.array(list(judged.values()), np.float64).reshape(-1, 2).T
        wrong = ~(np.isfinite(wins) & np.isfinite(counts) & (wins >= 0) & (counts > 0) & (wins <= counts))
        if wrong.any():
            id = list(judged)[int(np.argmax(wrong))]
            raise ValueError(f"{id}: {judged[id][0]} successes of {judged[id][1]} judged completions")
        return Visits(rows, wins.copy(), counts.copy())

    def _allowed(self, without: Collection[str]) -> Rows:
        if not without:
            return self._pool
        return self._pool[~np.isin(self._pool, self._index.rows(list(without)))]

    def _considered(self, pool: Rows, count: int, rng: Generator) -> Rows:
        """The pool, or a random part of one that is larger than `difficulty.considered`; its order is the pool's."""
        most = max(self._settings.considered, count)
        if len(pool) <= most:
            return pool
        return pool[np.sort(rng.choice(len(pool), most, replace=False, shuffle=False))]

    def _describe(self, now: int) -> dict[str, float]:
        if not len(self._pool):
            return {}
        rows = self._considered(self._pool, 1, Generator(Philox(SeedSequence([now, 2]))))
        seen = self._estimator.predict(rows, now)
        low, high = self._settings.band
        return {
            "difficulty/estimate_mean": float(seen.mean.mean()),
            "difficulty/uncertainty_mean": float(seen.uncertainty.mean()),
            "difficulty/age_mean": float(seen.age.mean()),
            "difficulty/age_max": float(seen.age.max()),
            "difficulty/in_band_share": float(((seen.mean >= low) & (seen.mean <= high)).mean()),
            "difficulty/visited_share": float((self._visits[rows] > 0).mean()),
        }


def brier(estimated: Floats, observed: Floats) -> float:
    """Mean squared difference of estimated and observed pass rates, both [problem] float64 in [0, 1]."""
    return float(((estimated - observed) ** 2).mean())


def _part(snapshot: Arrays, prefix: str) -> Arrays:
    return {key.removeprefix(prefix): array for key, array in snapshot.items() if key.startswith(prefix)}
