"""The table of difficulty estimates: problem ids on the outside, rows of arrays on the inside."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.random import Generator, Philox, SeedSequence
from numpy.typing import NDArray

from ductile.config import DifficultySettings
from ductile.difficulty import ALLOCATIONS, SELECTORS, watching
from ductile.difficulty.base import Arrays, Candidates, Estimates, Evidence, Floats, Rows, Visits
from ductile.difficulty.columns import Column
from ductile.difficulty.index import IdIndex
from ductile.difficulty.rules import uncertain_or_old
from ductile.problem import Outcomes


@dataclass(frozen=True)
class Gathered:
    """`base.Evidence` with ids in place of rows, as it comes from those who ask the model."""

    feature_ids: Sequence[str] = ()
    features: NDArray[np.float32] | None = None
    ratio_ids: Sequence[str] = ()
    log_ratios: Sequence[float] = ()
    rewards: Sequence[float] = ()
    reference: Outcomes | None = None

    def with_features(self, other: Gathered) -> Gathered:
        """The same with the hidden states of other problems too."""
        states = [each.features for each in (self, other) if each.features is not None]
        ids = [*self.feature_ids, *other.feature_ids]
        return replace(self, feature_ids=ids, features=np.concatenate(states) if states else None)


class DifficultyTable:
    """Implements `ports.DifficultyService`.

    Steps are counted within a phase by those who call; the table keeps a clock that runs on over phases, so that
    the age of an estimate from an earlier phase is right. A call that raises has changed nothing.

    A problem takes some 100 bytes with the estimator beta, its id of 36 included (benchmarks/difficulty_table.py), and
    no call but `start_phase`, `measure_first`, `snapshot` and `restore` takes longer in a larger table: the others
    look at their own problems and at no more than `difficulty.considered` of the pool.
    """

    def __init__(self, settings: DifficultySettings) -> None:
        self._settings = settings
        self._estimators = watching(settings)
        self._estimator = self._estimators[settings.estimator]
        self._selector = SELECTORS[settings.selection](settings)
        self._index = IdIndex()
        self._visits = Column(np.int32)
        self._static = Column(np.float32)
        self._pool = np.zeros(0, np.int64)  # rows of the phase's pool, each once
        self._in_pool = np.zeros(0, np.bool_)  # [row], as `_pool` says
        self._start = 0  # clock at the phase's step 0
        self._next = 0  # clock of the first step not yet seen

    def start_phase(
        self, ids: Sequence[str], static: Sequence[float] | None = None, watched: Sequence[str] = ()
    ) -> None:
        """See `ports.DifficultyService.start_phase`."""
        if static is not None:
            self._check_static(ids, static)
        rows = self._enter([*ids, *watched], self._next)
        asked = rows[: len(ids)]
        self._start, self._pool = self._next, _distinct(asked, len(self._index))
        self._in_pool = self._membership()
        self._selector.start_phase()
        if static is not None:
            self._static.values[asked] = static

    def select(
        self, count: int, step: int, seed: int, without: Collection[str] = (), progress: float = 0.0
    ) -> list[str]:
        """See `ports.DifficultyService.select`."""
        now, rng = self._start + step, Generator(Philox(SeedSequence([seed, self._start + step])))
        barred = self._barred(without)
        allowed = len(self._pool) - len(barred)
        if not allowed:
            raise ValueError("the pool is empty: start_phase was given no problems, or all of them may not be selected")
        whole, rest = divmod(count, allowed)
        chosen = [rng.permutation(self._pool_without(barred)) for _ in range(whole)]
        if rest:
            rows = self._considered(rest, barred, rng)
            candidates = Candidates(
                rows=rows,
                estimates=self._estimator.predict(rows, now),
                static=self._static.values[rows].astype(np.float64),
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
        """See `ports.DifficultyService.measure_first`. Problems of later phases enter the table here."""
        ids, successes, counts = _judged(outcomes)
        visits = Visits(self._enter(ids, self._next), successes, counts)
        for estimator in self._estimators.values():
            estimator.measure_first(visits, self._start)

    def refresh(self, gathered: Gathered, step: int) -> dict[str, float]:
        """See `ports.DifficultyService.refresh`."""
        features = np.zeros((0, 0), np.float32) if gathered.features is None else gathered.features
        if len(features) != len(gathered.feature_ids):
            raise ValueError(f"{len(features)} hidden states of {len(gathered.feature_ids)} problems")
        if not len(gathered.ratio_ids) == len(gathered.log_ratios) == len(gathered.rewards):
            raise ValueError(
                f"{len(gathered.log_ratios)} log-ratios and {len(gathered.rewards)} rewards "
                f"of {len(gathered.ratio_ids)} completions"
            )
        feature_rows = self._index.rows(gathered.feature_ids)
        evidence = Evidence(
            feature_rows=feature_rows,
            features=features,
            asked=self._in_pool[feature_rows],
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
        rows = self._considered(count, self._barred(without), rng)
        estimates = self._estimator.predict(rows, now)
        chosen = uncertain_or_old(estimates, rng.permutation(len(rows)), min(count, len(rows)), rng)
        return self._index.ids(rows[chosen])

    def predict(self, ids: Sequence[str], step: int) -> dict[str, Estimates]:
        """See `ports.DifficultyService.predict`."""
        rows = self._index.rows(ids)
        return {name: each.predict(rows, self._start + step) for name, each in self._estimators.items()}

    def estimates(self) -> list[dict[str, Any]]:
        """What is believed of the problems of the phase's pool now: id, mean, uncertainty, age in steps, visits.

        Of a pool larger than `difficulty.considered` it is a random part of that size, in the pool's order and the
        same until the next step: a list of a row for each of ten million problems serves nobody. `predict` tells the
        estimate of any problem.
        """
        rows = self._sample(self._next)
        seen = self._estimator.predict(rows, self._next)
        columns = (seen.mean.tolist(), seen.uncertainty.tolist(), seen.age.tolist(), self._visits.values[rows].tolist())
        names = ("id", "mean", "uncertainty", "age", "visits")
        ids = self._index.ids(rows)
        return [dict(zip(names, row, strict=True)) for row in zip(ids, *columns, strict=True)]

    def snapshot(self) -> Arrays:
        """Everything, as arrays; `restore` on a table of the same settings goes on exactly from here.

        The arrays stay as they are whatever the table does next.
        """
        parts: dict[str, Arrays] = {"index/": self._index.snapshot(), "selection/": self._selector.snapshot()}
        parts |= {f"estimator/{name}/": estimator.snapshot() for name, estimator in self._estimators.items()}
        parts[""] = {
            "visits": self._visits.values,
            "static": self._static.values,
            "pool": self._pool,
            "clock": np.array([self._start, self._next], np.int64),
        }
        named = {prefix + key: array for prefix, arrays in parts.items() for key, array in arrays.items()}
        # Copies, of rows that lie one after another: safetensors writes other arrays scrambled, without a word.
        return {name: np.array(array, order="C") for name, array in named.items()}

    def restore(self, snapshot: Arrays) -> None:
        """Become what `snapshot` describes; raises `ValueError` when other estimators wrote it."""
        written = {key.split("/")[1] for key in snapshot if key.startswith("estimator/")}
        if written != self._estimators.keys():
            raise ValueError(
                f"the snapshot holds estimates by {sorted(written)}, "
                f"difficulty.estimator and difficulty.shadows are {sorted(self._estimators)}"
            )
        self._visits.become(snapshot["visits"])
        self._static.become(snapshot["static"])
        self._pool = snapshot["pool"].copy()
        self._start, self._next = (int(value) for value in snapshot["clock"])
        self._index.restore(_part(snapshot, "index/"))
        self._in_pool = self._membership()
        self._selector.restore(_part(snapshot, "selection/"))
        for name, estimator in self._estimators.items():
            estimator.restore(_part(snapshot, f"estimator/{name}/"))

    def _enter(self, ids: Sequence[str], step: int) -> Rows:
        """The row of each of the ids; those that are new enter every part of the table at `step` of its clock."""
        rows, new = self._index.add(ids)
        for estimator in self._estimators.values():
            estimator.grow(new, step)
        self._selector.grow(new)
        self._visits.grow(new, 0)
        self._static.grow(new, np.nan)
        self._in_pool = np.concatenate([self._in_pool, np.zeros(new, np.bool_)])
        return rows

    def _take(self, visits: Visits, now: int) -> None:
        for estimator in self._estimators.values():
            estimator.observe(visits, now)
        self._visits.values[visits.rows] += 1

    def _visits_of(self, outcomes: Outcomes) -> Visits:
        """The judged ones as arrays; raises `KeyError` or `ValueError` for what cannot be an outcome."""
        ids, successes, counts = _judged(outcomes)
        return Visits(self._index.rows(ids), successes, counts)

    def _check_static(self, ids: Sequence[str], static: Sequence[float]) -> None:
        """Raises `ValueError` for what cannot be static scores of the ids."""
        if len(static) != len(ids):
            raise ValueError(f"{len(static)} static scores for {len(ids)} problems")
        scores = np.asarray(static, np.float64)
        wrong = (scores < 0) | (scores > 1)  # NaN, a score that is not known, is neither
        if wrong.any():
            position = int(np.argmax(wrong))
            raise ValueError(
                f"{ids[position]}: static score {scores[position]}; allowed: 0 to 1, 1 the hardest, or NaN"
            )

    def _membership(self) -> NDArray[np.bool_]:
        """[row] bool, whether each is in the pool."""
        members = np.zeros(len(self._index), np.bool_)
        members[self._pool] = True
        return members

    def _barred(self, without: Collection[str]) -> Rows:
        """Rows of the pool that may not be selected, each once."""
        rows = np.unique(self._index.rows(list(without)))
        return rows[self._in_pool[rows]]

    def _pool_without(self, barred: Rows) -> Rows:
        """The pool but for these rows, in its order."""
        return self._pool if not len(barred) else self._pool[self._are_not(barred, self._pool)]

    def _considered(self, count: int, barred: Rows, rng: Generator) -> Rows:
        """The pool without these rows, or a random part of one that is larger than `difficulty.considered`.

        Its order is the pool's. From a large pool as many more are drawn as may not be selected, and these are then
        left out: no step looks at the whole of it.
        """
        most = max(self._settings.considered, count)
        if len(self._pool) - len(barred) <= most:
            return self._pool_without(barred)
        drawn = rng.choice(len(self._pool), most + len(barred), replace=False)
        kept = drawn[self._are_not(barred, self._pool[drawn])] if len(barred) else drawn
        return self._pool[np.sort(kept[:most])]

    def _sample(self, now: int) -> Rows:
        """The part of the pool that is told of at this step of the clock."""
        return self._considered(1, np.zeros(0, np.int64), Generator(Philox(SeedSequence([now, 2]))))

    def _are_not(self, barred: Rows, rows: Rows) -> NDArray[np.bool_]:
        """[problem] bool, whether each of the rows is none of `barred`."""
        among = np.zeros(len(self._index), np.bool_)  # comes zeroed from the system: what is not touched costs nothing
        among[barred] = True
        return ~among[rows]

    def _describe(self, now: int) -> dict[str, float]:
        if not len(self._pool):
            return {}
        rows = self._sample(now)
        seen = self._estimator.predict(rows, now)
        low, high = self._settings.band
        return {
            "difficulty/estimate_mean": float(seen.mean.mean()),
            "difficulty/uncertainty_mean": float(seen.uncertainty.mean()),
            "difficulty/age_mean": float(seen.age.mean()),
            "difficulty/age_max": float(seen.age.max()),
            "difficulty/in_band_share": float(((seen.mean >= low) & (seen.mean <= high)).mean()),
            "difficulty/visited_share": float((self._visits.values[rows] > 0).mean()),
        }


def brier(estimated: Floats, observed: Floats) -> float:
    """Mean squared difference of estimated and observed pass rates, both [problem] float64 in [0, 1]."""
    return float(((estimated - observed) ** 2).mean())


def _judged(outcomes: Outcomes) -> tuple[list[str], Floats, Floats]:
    """Ids, successes and counts of the problems of which some completion was judged; raises `ValueError`."""
    ids = list(outcomes)
    wins, counts = np.array(list(outcomes.values()), np.float64).reshape(-1, 2).T
    wrong = ~(np.isfinite(wins) & np.isfinite(counts) & (wins >= 0) & (wins <= counts))
    if wrong.any():
        id = ids[int(np.argmax(wrong))]
        raise ValueError(f"{id}: {outcomes[id][0]} successes of {outcomes[id][1]} judged completions")
    judged = counts > 0
    return [id for id, keep in zip(ids, judged.tolist(), strict=True) if keep], wins[judged], counts[judged]


def _distinct(rows: Rows, total: int) -> Rows:
    """The rows without repeats, each where it first stands; all are below `total`."""
    among = np.zeros(total, np.bool_)
    among[rows] = True
    if np.count_nonzero(among) == len(rows):
        return rows
    return rows[np.sort(np.unique(rows, return_index=True)[1])]


def _part(snapshot: Arrays, prefix: str) -> Arrays:
    return {key.removeprefix(prefix): array for key, array in snapshot.items() if key.startswith(prefix)}
