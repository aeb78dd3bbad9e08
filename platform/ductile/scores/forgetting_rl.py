"""Forgetting events of an RL run: how often a problem goes from mostly right to mostly wrong between its audits.

The count of Toneva et al. 2019 (arXiv 1812.05159, see `forgetting`) with the majority of an audit's completions for
the correctness: the turnover of the set of solved problems. A problem that was never mostly right gets the maximum, the
number of audits of the run.
"""

from __future__ import annotations

import numpy as np

from ductile.scores.base import HISTORY, Asked, Floats
from ductile.scores.forgetting import forgetting_events
from ductile.scores.history import History


def majority(history: History) -> Floats:
    """[audit, problem] float64: 1 where more than half of the completions are right; a tie is 0, not audited NaN."""
    return np.where(history.counts > 0, (2 * history.successes > history.counts).astype(np.float64), np.nan)


class ForgettingInRl:
    """Of the audits of a finished run."""

    needs = frozenset({HISTORY})
    hardness = True

    def __call__(self, asked: Asked) -> Floats:
        """See `Score`."""
        return forgetting_events(majority(asked.history()))
