"""Proxy-tuned RL: the base is never touched; a small expert beside it is trained, and the policy is their sum.

    policy = softmax(base + alpha * (expert - anti_expert))        (proxy-tuning, arXiv 2401.08565, section 2)

The anti-expert is the small model as it was before RL, so at the start the policy is exactly the base. RL samples from
the composed policy, the behaviour log-probabilities are those of the composed softmax, and the gradient of the composed
log-probability goes through the expert alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ductile.config import ObjectiveSettings, RunSettings
from ductile.ports import Composition, Member
from ductile.problem import JudgedGroup
from ductile.rl.batch import Batch
from ductile.rl.objective import Objective
from ductile.variants.base import NothingAtSwitch, Penalties, policy_gradient, policy_gradient_batch


@dataclass(frozen=True)
class Proxy(NothingAtSwitch):
    """Base, expert and anti-expert; three forward passes a token, counted in `budget/forward_tokens`."""

    alpha: float
    lr: float | None = None

    needs_expert = True

    def composition(self, base: Path, expert: Path) -> Composition:
        """base + alpha * (expert - anti_expert)."""
        return Composition(
            (
                Member("base", str(base), 1.0),
                Member("expert", str(expert), self.alpha),
                Member("anti_expert", str(expert), -self.alpha),
            ),
            "expert",
        )

    def objective(self, settings: ObjectiveSettings) -> Objective:
        """The policy loss."""
        return policy_gradient(settings)

    def batch(self, judged: Sequence[JudgedGroup], settings: RunSettings, penalties: Penalties = None) -> Batch:
        """Rows of the groups that have a gradient."""
        return policy_gradient_batch(judged, settings, self.objective(settings.objective), penalties)
