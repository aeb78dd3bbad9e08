"""Static scores of problems: one file a score, and the dict that names them. `hardness` says whether high is hard.

A score is computed once, before a run, and never again: what the estimators of `ductile.difficulty` are held against.
"""

from __future__ import annotations

from ductile.scores.base import Score
from ductile.scores.el2n import EL2N
from ductile.scores.el2n_rl import EL2NOfRewards
from ductile.scores.el2n_rl_later import LaterEL2NOfRewards
from ductile.scores.failure_rate import FailureRate
from ductile.scores.forgetting import Forgetting
from ductile.scores.forgetting_rl import ForgettingInRl
from ductile.scores.memorization import Memorization
from ductile.scores.prototypes import Prototypes
from ductile.scores.random import Random

SCORES: dict[str, Score] = {
    "el2n": EL2N(),
    "el2n_rl": EL2NOfRewards(),
    "el2n_rl_later": LaterEL2NOfRewards(),
    "failure_rate": FailureRate(),
    "forgetting": Forgetting(),
    "forgetting_rl": ForgettingInRl(),
    "memorization": Memorization(),
    "prototypes": Prototypes(),
    "random": Random(),
}

__all__ = ["SCORES", "Score"]
