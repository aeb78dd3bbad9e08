"""Pass rate from problems like it in a reference set (DOTS, arXiv 2506.05316): attention over hidden states.

With hidden states f of the prompts' last tokens and reference problems r of observed pass rates s_r,

    w_qr = softmax_r(cos(f_q, f_r) / temperature),   s_q = sum_r w_qr s_r,   estimate = sigmoid(logit(s_q) / T + b).

Where we differ:
- DOTS has an adapter trained offline before the cosine, and an MLP trained offline that gives T and b from the mean and
  spread of the reference. Here nothing is trained beforehand. The two numbers are fitted to the reference itself: the
  binomial likelihood of each reference problem's outcome given its s_r from the others (leave one out), with the
  penalty 1/2 ((1/T - 1)^2 + b^2) nats that holds a small reference to T = 1, b = 0. 1/T is not below 0: leaving one out
  makes the others' mean smaller the larger its own rate is, so useless features would ask for a negative slope. At
  1/T = 0 every problem is given the reference's pass rate.
- Hidden states share a large common part that makes all cosines near 1; the reference's mean is taken off first.
- DOTS rolls out a random reference anew. With `attention.reference` = 0 the newest visits, one a problem, serve: they
  cost nothing, but selection chose them and they are as old as `attention.window` visits.

The uncertainty is the spread of pass rates among those attended to. By weight, p has the mean s_q and the square
u_q = sum_r w_qr s (s - 1) / (n (n - 1)), which has no binomial noise in it; so v_q = u_q - s_q^2 is the variance of p
around q. Few neighbours show little of it: with the effective number m = 1 / sum_r w_qr^2 and the variance V over all
of the reference, (m v_q + V) / (m + 1) is taken, and 1 + 1/m times that for the error of s_q itself.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.special import expit, logit, softmax

from ductile.config import AttentionSettings, DifficultySettings
from ductile.difficulty.base import FEATURES, REFERENCE, Arrays, Estimates, Evidence, Floats, Rows, Visits
from ductile.difficulty.hidden import HiddenStateTable
from ductile.difficulty.logistic import fit_logistic
from ductile.difficulty.newest import NewestVisits, chosen, last_of_each_row
from ductile.difficulty.population import population, rates_and_squares


class AttentionEstimator:
    """Hidden states and a reference. Without a reference it says the prior, without a state the reference's mean."""

    def __init__(self, prior: tuple[float, float], settings: AttentionSettings) -> None:
        self._prior = prior
        self._temperature = settings.temperature
        self._own = settings.reference == 0
        self.needs = frozenset({FEATURES} if self._own else {FEATURES, REFERENCE})
        self._states = HiddenStateTable()
        self._newest = NewestVisits(settings.window)
        self._seen = np.zeros(0, np.int64)  # step of the last visit, or of entering the table
        self._prepare()

    @classmethod
    def make(cls, settings: DifficultySettings) -> AttentionEstimator:
        """The estimator that the settings describe."""
        return cls((settings.prior[0], settings.prior[1]), settings.attention)

    def grow(self, count: int, step: int) -> None:
        """Append `count` rows without a hidden state."""
        self._states.grow(count)
        self._seen = np.concatenate([self._seen, np.full(count, step, np.int64)])

    def predict(self, rows: Rows, step: int) -> Estimates:
        """Calibrated attention where there is a hidden state; mean and spread of the reference where there is none."""
        mean, deviation = (np.full(len(rows), value) for value in self._population)
        known = self._states.known(rows)
        if known.any() and len(self._reference.rows):
            rate, variance = self._states.compute(rows[known], self._attend).T
            mean[known] = expit(self._slope * logit(rate) + self._bias)
            deviation[known] = np.sqrt(variance)
        return Estimates(mean, np.minimum(deviation, np.sqrt(mean * (1 - mean))), step - self._seen[rows])

    def observe(self, visits: Visits, step: int) -> None:
        """With no reference of its own to ask for, the newest visits become the reference."""
        self._seen[visits.rows] = step
        if self._own:
            self._newest.add(visits)
            self._prepare()

    def measure_first(self, visits: Visits, step: int) -> None:
        """Outcomes of the untouched base are no reference for the policy of the moment."""

    def refresh(self, evidence: Evidence, step: int) -> None:
        """Take in hidden states, and the reference where it is asked for."""
        self._states.put(evidence.feature_rows, evidence.features)
        if not self._own and evidence.reference is not None:
            self._newest.visits = evidence.reference
        self._prepare()

    def diagnostics(self) -> Mapping[str, float]:
        """The reference and the calibration."""
        size = float(len(self._reference.rows))
        if not size:
            return {"reference": size}
        return {
            "reference": size,
            "attended": float(self._attended),
            "slope": self._slope,
            "bias": self._bias,
        }

    def snapshot(self) -> Arrays:
        """Hidden states, visits, and steps of the last visits: all else follows from them."""
        parts = {"states/": self._states.snapshot(), "newest/": self._newest.snapshot(), "": {"seen": self._seen}}
        return {prefix + name: array for prefix, part in parts.items() for name, array in part.items()}

    def restore(self, snapshot: Arrays) -> None:
        """Become what `snapshot` describes."""
        self._seen = snapshot["seen"].copy()
        self._states.restore({name: snapshot[f"states/{name}"] for name in self._states.snapshot()})
        self._newest.restore({name: snapshot[f"newest/{name}"] for name in self._newest.snapshot()})
        self._prepare()

    def _prepare(self) -> None:
        """What follows from the hidden states and the visits: the reference's directions, and the calibration."""
        self._population = population(self._newest.visits, self._prior)
        visits = last_of_each_row(self._newest.visits)
        visits = chosen(visits, self._states.known(visits.rows))
        self._reference, self._slope, self._bias, self._attended = visits, 1.0, 0.0, 0.0
        if not len(visits.rows):
            return
        states = self._states.of(visits.rows)
        self._centre = states.mean(axis=0)
        self._keys = directions(states - self._centre)
        self._moments = np.stack(rates_and_squares(visits), axis=1)
        self._edge = 0.5 / (1 + visits.counts.sum())  # of half a success: an odds of 0 could not be calibrated
        if len(visits.rows) > 1:
            weights = attention(self._keys @ self._keys.T, self._temperature, without_own=True)
            self._slope, self._bias = fit_calibration(self._clipped(weights @ self._moments[:, 0]), visits)
            self._attended = (1 / (weights**2).sum(axis=1)).mean()

    def _attend(self, states: Floats) -> Floats:
        """[query, 2]: attended pass rate before calibration, and the variance around it."""
        weights = attention(directions(states - self._centre) @ self._keys.T, self._temperature)
        rate, square = (weights @ self._moments).T
        effective = 1 / (weights**2).sum(axis=1)
        variance = (effective * np.maximum(square - rate**2, 0) + self._population[1] ** 2) / (effective + 1)
        return np.stack([self._clipped(rate), variance * (1 + 1 / effective)], axis=1)

    def _clipped(self, rate: Floats) -> Floats:
        return np.clip(rate, self._edge, 1 - self._edge)


def directions(states: Floats) -> Floats:
    """[state, width], each of length 1; one of length 0 stays and is like nothing."""
    lengths = np.linalg.norm(states, axis=1, keepdims=True)
    return states / np.where(lengths > 0, lengths, 1.0)


def attention(cosines: Floats, temperature: float, without_own: bool = False) -> Floats:
    """Softmax over the last axis, [query, reference]; `without_own`: the diagonal has no weight."""
    scores = cosines / temperature
    if without_own:
        np.fill_diagonal(scores, -np.inf)
    return softmax(scores, axis=1)


def fit_calibration(rates: Floats, visits: Visits) -> tuple[float, float]:
    """The slope 1/T, at least 0, and the bias b.

    They minimise

        -sum_r log Binomial(successes_r; counts_r, sigmoid(slope logit(rates_r) + b)) + 1/2 ((slope - 1)^2 + b^2).

    rates: [visit] float64 in (0, 1), of each visited problem from the others.
    """
    ones = np.ones_like(rates)
    both, _ = fit_logistic(
        np.stack([logit(rates), ones], axis=1), visits.successes, visits.counts, np.ones(2), np.array([1.0, 0.0])
    )
    if both[0] >= 0:
        return float(both[0]), float(both[1])
    # the objective is convex: where the slope would be negative, the best slope allowed is 0
    bias, _ = fit_logistic(ones[:, None], visits.successes, visits.counts, np.ones(1), np.zeros(1))
    return 0.0, float(bias[0])
