"""The table of difficulty estimates: problem ids on the outside, rows of arrays on the inside."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ductile.config import DifficultySettings
from ductile.difficulty import ESTIMATORS, SELECTORS
from ductile.difficulty.base import Estimates
from ductile.difficulty.selection import select


class DifficultyTable:
    """Implements `ports.DifficultyService`.

    Steps are counted within a phase by those who call; the table keeps a clock that runs on over phases, so that
    the age of an estimate from an earlier phase is right.
    """

    def __init__(self, settings: DifficultySettings) -> None:
        self._settings = settings
        self._estimator = ESTIMATORS[settings.estimator](settings)
        self._rule = SELECTORS[settings.selection]
        self._rows: dict[str, int] = {}
        self._visits = np.zeros(0, np.int64)
        self._ids: list[str] = []  # of the phase's pool
        self._pool = np.zeros(0, np.int64)  # their rows
        self._start = 0  # clock at the phase's step 0
        self._next = 0  # clock of the first step not yet seen

    def start_phase(self, ids: Sequence[str]) -> None:
        """The pool of the phase that begins; problems met in an earlier phase keep their estimates."""
        self._start = self._next
        self._ids = list(dict.fromkeys(ids))
        new = [id for id in self._ids if id not in self._rows]
        self._rows.update({id: row for row, id in enumerate(new, start=len(self._rows))})
        self._estimator.grow(len(new), self._start)
        self._visits = np.concatenate([self._visits, np.zeros(len(new), np.int64)])
        self._pool = np.array([self._rows[id] for id in self._ids], np.int64)

    def select(self, count: int, step: int, seed: int, among: Collection[str] | None = None) -> list[str]:
        """`count` problem ids for a step, without repeats while the pool has enough.

        among: the ids of the pool that may be selected; None: all of them.
        """
        now = self._start + step
        ids, rows = self._ids, self._pool
        if among is not None:
            allowed = set(among)
            ids = [id for id in ids if id in allowed]
            rows = np.array([self._rows[id] for id in ids], np.int64)
        estimates = self._estimator.predict(rows, now)
        chosen = select(self._rule, estimates, count, self._settings, seed, now)
        return [ids[position] for position in chosen]

    def observe(self, successes: Mapping[str, tuple[int, int]], step: int) -> dict[str, float]:
        """Take in problem id -> (successes, judged completions) and return the table's metrics after it.

        `difficulty/brier` is the mean over the step's problems of (estimate before this update - observed group
        pass rate)^2. An observed rate of n completions is itself noisy, so a perfect estimate still scores
        p(1-p)/n. A problem none of whose completions could be judged is no evidence and counts as not visited.
        """
        judged = {id: outcome for id, outcome in successes.items() if outcome[1] > 0}
        unknown = [id for id in judged if id not in self._rows]
        if unknown:
            raise KeyError(f"problems that no phase's pool holds: {', '.join(unknown[:5])}")
        now = self._start + step
        self._next = max(self._next, now + 1)
        metrics = {}
        if judged:
            rows = np.array([self._rows[id] for id in judged], np.int64)
            wins, counts = np.array(list(judged.values()), np.float64).T
            metrics["difficulty/brier"] = brier(self._estimator.predict(rows, now).mean, wins / counts)
            self._estimator.observe(rows, wins, counts, now)
            self._visits[rows] += 1
        return metrics | self._describe(self._estimator.predict(self._pool, now))

    def estimates(self) -> list[dict[str, Any]]:
        """What is believed of each problem of the phase's pool now: id, mean, uncertainty, age in steps, visits."""
        pool = self._estimator.predict(self._pool, self._next)
        columns = (pool.mean.tolist(), pool.uncertainty.tolist(), pool.age.tolist(), self._visits[self._pool].tolist())
        names = ("id", "mean", "uncertainty", "age", "visits")
        return [dict(zip(names, row, strict=True)) for row in zip(self._ids, *columns, strict=True)]

    def snapshot(self) -> Mapping[str, Any]:
        """Everything, as plain values; `restore` on a table of the same settings goes on exactly from here."""
        return {
            "estimator": self._settings.estimator,
            "ids": list(self._rows),
            "visits": self._visits.tolist(),
            "pool": self._pool.tolist(),
            "start": self._start,
            "next": self._next,
            "estimates": self._estimator.snapshot(),
        }

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Become what `snapshot` describes; raises `ValueError` when another estimator wrote it."""
        if snapshot["estimator"] != self._settings.estimator:
            raise ValueError(
                f"the snapshot holds estimates by {snapshot['estimator']!r}, "
                f"difficulty.estimator is {self._settings.estimator!r}"
            )
        ids = list(snapshot["ids"])
        self._rows = {id: row for row, id in enumerate(ids)}
        self._visits = np.array(snapshot["visits"], np.int64)
        self._pool = np.array(snapshot["pool"], np.int64)
        self._ids = [ids[row] for row in self._pool]
        self._start, self._next = snapshot["start"], snapshot["next"]
        self._estimator.restore(snapshot["estimates"])

    def _describe(self, pool: Estimates) -> dict[str, float]:
        if not len(self._pool):
            return {}
        low, high = self._settings.band
        return {
            "difficulty/estimate_mean": float(pool.mean.mean()),
            "difficulty/uncertainty_mean": float(pool.uncertainty.mean()),
            "difficulty/age_mean": float(pool.age.mean()),
            "difficulty/age_max": float(pool.age.max()),
            "difficulty/in_band_share": float(((pool.mean >= low) & (pool.mean <= high)).mean()),
            "difficulty/visited_share": float((self._visits[self._pool] > 0).mean()),
        }


def brier(estimated: NDArray[np.float64], observed: NDArray[np.float64]) -> float:
    """Mean squared difference of estimated and observed pass rates, both [problem] float64 in [0, 1]."""
    return float(((estimated - observed) ** 2).mean())
