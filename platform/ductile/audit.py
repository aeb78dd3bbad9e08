"""The audit: one plain row of what the estimates say against fresh completions, and what a run's rows say together.

A row holds every measure of every estimator, and each problem's counts and estimates, so that all can be drawn and
computed anew. Rows of one phase audit the same problems. The first estimator of a row is the one that selection reads.

    {"phase": 1, "name": "hard", "step": 0, "total_step": 40, "version": 40, "band": [0.2, 0.8], "bins": 10,
     "pool": {"size": 2048, "ids": [...], "successes": [...], "counts": [...], "estimators": {
         "beta": {"mean": [...], "uncertainty": [...], "results": {"brier": 0.01, ...}, "reliability": {...}}}},
     "unseen": None}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby, pairwise
from typing import Any

import numpy as np

from ductile.difficulty.base import Estimates, Floats
from ductile.difficulty.calibration import Bins, Calibration, calibrate
from ductile.difficulty.staleness import Audited, Crossings, HalfLife, crossings, half_life, in_band

Row = Mapping[str, Any]

FEWEST = 2
"""Judged completions and problems without which the audit's own noise is not known."""

LOGGED = (
    *("brier", "brier_single", "reliability", "resolution", "ece", "ece_noise"),
    *("spearman", "coverage", "width", "bias", "age"),
)
"""Results that are metrics, `audit/<estimator>/<name>`."""


@dataclass(frozen=True)
class Asked:
    """Problems that were audited together. successes and counts: judged completions of each.

    size: how many problems they stand for; predicted: what each estimator said of them before, in their order.
    """

    ids: Sequence[str]
    successes: Sequence[int]
    counts: Sequence[int]
    predicted: Mapping[str, Estimates]
    size: int


@dataclass(frozen=True)
class PhaseDrift:
    """How the audited rates of a phase's pool moved. shares: of problems below, in, above the band, at each audit.

    whole: from the first audit to the last; None with a single one. neighbours: from each audit to the next.
    """

    phase: int
    name: str
    size: int
    half_life: HalfLife
    whole: Crossings | None
    neighbours: tuple[Crossings, ...]
    steps: tuple[int, ...]
    shares: tuple[tuple[float, float, float], ...]

    def traffic(self) -> dict[str, float] | None:
        """Problems of the whole pool that were seen to enter and leave the band; None with a single audit.

        entered, left: by audited rate, from the first audit to the last, and noise_entered, noise_left what two audits
            of rates that stand still would show. These say whether more was seen than noise, and no more: the
            difference neither counts nor bounds what truly crossed.
        neighbour_*: the same between neighbouring audits, mean over these pairs. Noise is as large there and the true
            change smaller; what goes back and forth within a phase is in these only. They depend on how often is
            audited, so that they are no rates.
        net: change of the number in the band from the first audit to the last, a step. rose_in and rose_out: net flow a
            step over the band's lower and upper edge, upwards; net is their difference. They depend on the phase's two
            ends and not on how often is audited between. They are no traffic: a problem that enters and one that leaves
            cancel. noise_net: what rates that stand still are expected to show, 0 where both audits have as many
            completions of each problem.

        All are of audited rates, k of n, and of true ones only as far as few lie within their error of an edge: of a
        pool that is concentrated near one, some lie on the other side by chance, more than the other way round.
        """
        if self.whole is None:
            return None
        whole, pairs = self._counts([self.whole]), self._counts(self.neighbours)
        first, last, steps = self.shares[0], self.shares[-1], self.whole.steps
        rose_in, rose_out = ((first[0] - last[0]) * self.size / steps, (last[2] - first[2]) * self.size / steps)
        return {
            **whole,
            **{f"neighbour_{name}": count for name, count in pairs.items()},
            "net": rose_in - rose_out,
            "noise_net": (whole["noise_entered"] - whole["noise_left"]) / steps,
            "rose_in": rose_in,
            "rose_out": rose_out,
        }

    def _counts(self, pairs: Sequence[Crossings]) -> dict[str, float]:
        """Problems of the whole pool, mean over the pairs of audits."""
        return {
            name: sum(getattr(each, name) * self.size / each.problems for each in pairs) / len(pairs)
            for name in ("entered", "left", "noise_entered", "noise_left")
        }


@dataclass(frozen=True)
class Entry:
    """The audits around the beginning of a phase: the last one before it, its first, the one after that, its last.

    before is None for the first phase; after and end are None where the phase has only one audit. With two, they are
    the same row.
    """

    phase: int
    name: str
    before: Row | None
    at: Row
    after: Row | None
    end: Row | None


def audit_row(
    phase: int,
    name: str,
    step: int,
    total_step: int,
    version: int,
    pool: Asked,
    unseen: Asked | None,
    band: Sequence[float],
    bins: int,
) -> dict[str, Any]:
    """One audit as plain JSON values.

    phase, name: the phase's index in the plan and its name.  step, total_step: steps done in the phase and in the run.
    version: of the policy that answered.  band: lowest and highest rate of a problem of medium difficulty.
    Problems with fewer than two judged completions are left out; a part with fewer than two problems has no results.
    """
    return {
        "phase": phase,
        "name": name,
        "step": step,
        "total_step": total_step,
        "version": version,
        "band": [float(band[0]), float(band[1])],
        "bins": bins,
        "pool": _part(pool, bins),
        "unseen": None if unseen is None else _part(unseen, bins),
    }


def audit_metrics(row: Row) -> dict[str, float]:
    """The row's results as metrics, with those of the audited problems themselves."""
    metrics: dict[str, float] = {}
    for prefix, part in (("audit/", row["pool"]), ("audit/unseen/", row["unseen"])):
        if part is None or not part["ids"]:
            continue
        audited = _audited(row, part)
        shares = _shares(audited.rate, row["band"])
        metrics[f"{prefix}pass_rate"] = float(audited.rate.mean())
        metrics |= dict(zip((f"{prefix}{side}_band_share" for side in ("below", "in", "above")), shares, strict=True))
        for estimator, said in part["estimators"].items():
            results = said["results"]
            metrics |= {f"{prefix}{estimator}/{key}": results[key] for key in LOGGED if results.get(key) is not None}
    return metrics


def phase_drifts(rows: Sequence[Row], low: float, high: float) -> list[PhaseDrift]:
    """Half-life of a frozen estimate and what was seen to cross [low, high] in each phase of one run. rows: by step."""
    found = []
    for (phase, name), group in groupby(rows, key=lambda row: (row["phase"], row["name"])):
        inside = list(group)
        audits = _aligned(inside)
        if audits and len(audits[0].counts) >= FEWEST:
            found.append(
                PhaseDrift(
                    phase=phase,
                    name=name,
                    size=inside[0]["pool"]["size"],
                    half_life=half_life(audits),
                    whole=crossings(audits[0], audits[-1], low, high) if len(audits) > 1 else None,
                    neighbours=tuple(crossings(a, b, low, high) for a, b in pairwise(audits)),
                    steps=tuple(audit.step for audit in audits),
                    shares=tuple(_shares(audit.rate, (low, high)) for audit in audits),
                )
            )
    return found


def entries(rows: Sequence[Row]) -> list[Entry]:
    """The audits around the beginning of each phase of one run, in the order of the phases. rows: by step."""
    found: list[Entry] = []
    before = None
    for (phase, name), group in groupby(rows, key=lambda row: (row["phase"], row["name"])):
        inside = list(group)
        after, end = (inside[1], inside[-1]) if len(inside) > 1 else (None, None)
        found.append(Entry(phase, name, before, inside[0], after, end))
        before = inside[-1]
    return found


def _part(asked: Asked, bins: int) -> dict[str, Any]:
    counts = np.asarray(asked.counts, np.float64)
    kept = counts >= FEWEST
    successes, counts = np.asarray(asked.successes, np.float64)[kept], counts[kept]
    return {
        "size": asked.size,
        "ids": [id for id, keep in zip(asked.ids, kept, strict=True) if keep],
        "successes": successes.astype(int).tolist(),
        "counts": counts.astype(int).tolist(),
        "estimators": {
            name: _said(Estimates(e.mean[kept], e.uncertainty[kept], e.age[kept]), successes, counts, bins)
            for name, e in asked.predicted.items()
        },
    }


def _said(estimates: Estimates, successes: Floats, counts: Floats, bins: int) -> dict[str, Any]:
    """One estimator's part: estimates to 4 digits, measures from the unrounded ones."""
    said: dict[str, Any] = {
        "mean": np.round(estimates.mean, 4).tolist(),
        "uncertainty": np.round(estimates.uncertainty, 4).tolist(),
        "results": {},
        "reliability": None,
    }
    if len(counts) >= FEWEST:
        found = calibrate(estimates, successes, counts, bins)
        said |= {"results": _results(found), "reliability": _bins(found.bins)}
    return said


def _results(found: Calibration) -> dict[str, Any]:
    names = ("brier", "ece", "ece_noise", "spearman", "coverage", "width", "bias", "age")
    values = {name: getattr(found, name) for name in names}
    values |= {"brier_single" if name == "brier" else name: part for name, part in asdict(found.parts).items()}
    for name, (low, high) in found.intervals.items():
        values |= {f"{name}_low": low, f"{name}_high": high}
    return {name: None if value is None else round(value, 6) for name, value in values.items()}


def _bins(found: Bins) -> dict[str, Any]:
    """Columns over the bins."""
    return {
        "problems": found.problems.tolist(),
        "completions": found.completions.astype(int).tolist(),
        "estimate": np.round(found.estimate, 4).tolist(),
        "rate": np.round(found.rate, 4).tolist(),
    }


def _aligned(rows: Sequence[Row]) -> list[Audited]:
    """The audits of one phase over the problems that all of them have."""
    common = set.intersection(*(set(row["pool"]["ids"]) for row in rows))
    audits = []
    for row in rows:
        part = row["pool"]
        by_id = {id: (s, n) for id, s, n in zip(part["ids"], part["successes"], part["counts"], strict=True)}
        pairs = np.array([by_id[id] for id in sorted(common)], np.float64).reshape(-1, 2)
        audits.append(Audited(row["step"], pairs[:, 0], pairs[:, 1]))
    return audits


def _audited(row: Row, part: Mapping[str, Any]) -> Audited:
    return Audited(row["step"], np.asarray(part["successes"], np.float64), np.asarray(part["counts"], np.float64))


def _shares(rate: Floats, band: Sequence[float]) -> tuple[float, float, float]:
    """Shares of problems below, in and above the band."""
    inside = in_band(rate, band[0], band[1])
    below = ~inside & (rate < band[0])
    return float(below.mean()), float(inside.mean()), float((~inside & ~below).mean())
