"""EL2N, the norm of the error early in training (Paul, Ganguli and Dziugaite 2021, arXiv 2107.07075).

    EL2N(x, y) = E_w || softmax(f_w(x)) - y ||_2

w: weights after a few steps of supervised training, over initialisations; y: one-hot. Where we differ: a worked
solution has many tokens, and the norm is averaged over them. It lies in [0, sqrt 2].

`early` counts steps, not epochs: of few problems each was shown many times by then (early x fit.batch / problems), of
many not even once, and the same score of the same problem at another data size is of another moment of learning.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from ductile.scores.base import WORKED, Asked, Floats, seed_of
from ductile.scores.training import fit, led


def error_norms(logits: Tensor, labels: Tensor) -> Tensor:
    """|| softmax(logits) - one-hot(label) ||_2 of each token. logits: [token, vocabulary]; labels: [token] int64."""
    error = logits.softmax(dim=-1)
    right = error.gather(-1, labels[:, None])
    return error.scatter(-1, labels[:, None], right - 1).norm(dim=-1)


class EL2N:
    """`inits` fresh models, each trained for `early` steps on all of the problems."""

    needs = frozenset({WORKED})
    hardness = True

    def __call__(self, asked: Asked) -> Floats:
        """See `Score`."""
        rows, settings, found = asked.rows(), asked.settings, []
        for number in range(settings.inits):
            seed = seed_of(asked.seed, number)
            model = asked.fresh(seed)
            fit(model, rows, settings.fit, seed, settings.early)
            found += led(model, rows, error_norms)
            asked.told(f"el2n: model {number + 1} of {settings.inits}")
        return np.asarray(np.mean(found, axis=0), np.float64)
