"""Low-drift RL: every weight of the base is trained, and a KL term in the loss holds the policy near an anchor.

GRPO's objective with its KL term (arXiv 2402.03300 eq. 3). The anchor is the untouched base, or the policy as it was
at the start of the phase (reference reset, as in ProRL, arXiv 2505.24864).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ductile.config import ObjectiveSettings, RunSettings
from ductile.ports import Composition, Member
from ductile.problem import JudgedGroup
from ductile.rl.batch import Batch
from ductile.rl.objective import Objective
from ductile.variants.base import Penalties, policy_gradient_batch

if TYPE_CHECKING:
    from ductile.plan import Phase
    from ductile.step import StepPorts


@dataclass(frozen=True)
class LowDrift:
    """The policy is the base itself. The KL term acts on silent groups too: they pull it back to the anchor."""

    kl: float
    kl_estimator: str
    anchor: str
    lr: float | None = None

    needs_expert = False

    def composition(self, base: Path, expert: Path) -> Composition:
        """The base alone."""
        return Composition((Member("policy", str(base), 1.0),), "policy")

    def objective(self, settings: ObjectiveSettings) -> Objective:
        """The clipped policy loss and the KL to the anchor."""
        return Objective(
            settings.clip_low, settings.clip_high, self.kl, self.kl_estimator, self.anchor, settings.entropy
        )

    def batch(self, judged: Sequence[JudgedGroup], settings: RunSettings, penalties: Penalties = None) -> Batch:
        """Rows of all judged completions."""
        return policy_gradient_batch(judged, settings, self.objective(settings.objective), penalties)

    def switch(self, settings: RunSettings, ended: Phase, stream: str, ports: StepPorts) -> None:
        """Nothing of its own."""
