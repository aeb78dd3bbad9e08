"""Forgetting events (Toneva et al. 2019, arXiv 1812.05159): how often a problem goes from right to wrong.

Between two consecutive evaluations of a problem, right and then wrong is one event. A problem that was never right gets
the maximum, the number of evaluations, which no problem that was learned can reach (as in their
order_examples_by_forgetting.py). Several trainings are added up. They count between presentations; we count between
evaluations of all problems at the same moments, and right means that every token of the worked solution is the most
likely one.

The same count from an RL run is `forgetting_rl`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedModel

from ductile.packed import Pair
from ductile.scores.base import WORKED, Asked, Floats, seed_of
from ductile.scores.training import fit, hits, led


def forgetting_events(history: Floats) -> Floats:
    """[problem] float64: transitions from right to wrong, skipping what is not known; never right: the maximum.

    history: [evaluation, problem] float64 in time's order, 1 right, 0 wrong, NaN not evaluated. The maximum is the
    number of evaluations, of all problems alike. NaN for a problem that was never evaluated.
    """
    evaluations, problems = history.shape
    events, last = np.zeros(problems), np.full(problems, np.nan)
    for now in history:
        events += (last == 1) & (now == 0)
        last = np.where(np.isnan(now), last, now)
    learned, known = (history == 1).any(axis=0), ~np.isnan(history).all(axis=0)
    return np.where(known, np.where(learned, events, float(evaluations)), np.nan)


class Forgetting:
    """`inits` trainings from scratch on all of the problems, looked at `evals` times each; the sum of their counts."""

    needs = frozenset({WORKED})
    hardness = True

    def __call__(self, asked: Asked) -> Floats:
        """See `Score`."""
        rows, settings = asked.rows(), asked.settings
        total, due = np.zeros(asked.count), evaluation_steps(settings.fit.steps, settings.evals)
        for number in range(settings.inits):
            seed = seed_of(asked.seed, number)
            model = asked.fresh(seed)
            history: list[NDArray[np.bool_]] = []
            fit(model, rows, settings.fit, seed, watch=partial(_look, model, rows, due, history))
            total += forgetting_events(np.array(history, np.float64))
            asked.told(f"forgetting: model {number + 1} of {settings.inits}")
        return total


def evaluation_steps(steps: int, evals: int) -> set[int]:
    """Evenly spaced, the last after the last step."""
    return {round((place + 1) * steps / evals) for place in range(evals)}


def _look(
    model: PreTrainedModel, rows: Sequence[Pair], due: set[int], history: list[NDArray[np.bool_]], step: int
) -> None:
    """Append what the model answers right, where an evaluation is due."""
    if step in due:
        history.append(led(model, rows, hits)[0] == 1)
