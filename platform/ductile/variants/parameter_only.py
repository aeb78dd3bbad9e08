"""Parameter-only RL: every weight of the base is trained, and nothing holds the policy (GRPO without KL)."""

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
class ParameterOnly(NothingAtSwitch):
    """The policy is the base itself."""

    lr: float | None = None

    needs_expert = False

    def composition(self, base: Path, expert: Path) -> Composition:
        """The base alone."""
        return Composition((Member("policy", str(base), 1.0),), "policy")

    def objective(self, settings: ObjectiveSettings) -> Objective:
        """The policy loss."""
        return policy_gradient(settings)

    def batch(self, judged: Sequence[JudgedGroup], settings: RunSettings, penalties: Penalties = None) -> Batch:
        """Rows of the groups that have a gradient."""
        return policy_gradient_batch(judged, settings, self.objective(settings.objective), penalties)
