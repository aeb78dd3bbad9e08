"""Ridge-regularised logistic regression on counts, by Newton's method."""

from __future__ import annotations

import numpy as np
from scipy.special import expit

from ductile.difficulty.base import Floats

ITERATIONS = 100
TOLERANCE = 1e-10
"""Newton's method ends where its next step promises a gain in nats of half this."""


def fit_logistic(
    inputs: Floats, successes: Floats, counts: Floats, penalty: Floats, centre: Floats
) -> tuple[Floats, Floats]:
    """The weights w at the minimum, and the Hessian [weight, weight] there.

    Minimised is

        sum_i [n_i log(1 + exp(x_i w)) - s_i x_i w] + 1/2 sum_j penalty_j (w_j - centre_j)^2        nats

    inputs: [observation, weight], x; successes, counts: [observation], s of n; penalty, centre: [weight].
    The Hessian must be positive definite: a weight without a penalty needs an observation with a success and a failure.
    """

    def loss(weights: Floats) -> float:
        scores = inputs @ weights
        fit = (counts * np.logaddexp(0, scores) - successes * scores).sum()
        return float(fit + 0.5 * (penalty * (weights - centre) ** 2).sum())

    def hessian(weights: Floats) -> Floats:
        rates = expit(inputs @ weights)
        return (inputs * (counts * rates * (1 - rates))[:, None]).T @ inputs + np.diag(penalty)

    weights = centre.astype(np.float64)
    for _ in range(ITERATIONS):
        gradient = inputs.T @ (counts * expit(inputs @ weights) - successes) + penalty * (weights - centre)
        step = np.linalg.solve(hessian(weights), gradient)
        gain = float(gradient @ step)
        if gain < TOLERANCE:
            break
        size, before = 1.0, loss(weights)
        while loss(weights - size * step) > before - 0.25 * size * gain and size > 1e-8:
            size /= 2
        weights = weights - size * step
    return weights, hessian(weights)
