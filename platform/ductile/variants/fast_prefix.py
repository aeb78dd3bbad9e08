"""FST-style training with a soft prefix: all weights learn slowly, and a prefix of each domain beside them fast.

After fast-slow training (arXiv 2605.12484), whose fast channel is a population of prompts; here it is trainable
embeddings before each prompt of a domain (prompt tuning, arXiv 2104.08691). Both channels learn from the same batch.
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
class FastPrefix(NothingAtSwitch):
    """The policy is the base itself. fast_lr: of the prefixes; lr: of everything else (`trainable.SoftPrefix`)."""

    prefix_tokens: int
    fast_lr: float
    lr: float | None = None

    needs_expert = False

    def composition(self, base: Path, expert: Path) -> Composition:
        """The base alone; `learner.run_composition` adds room for the prefixes."""
        return Composition((Member("policy", str(base), 1.0),), "policy")

    def objective(self, settings: ObjectiveSettings) -> Objective:
        """The policy loss."""
        return policy_gradient(settings)

    def batch(self, judged: Sequence[JudgedGroup], settings: RunSettings, penalties: Penalties = None) -> Batch:
        """Rows of the groups that have a gradient."""
        return policy_gradient_batch(judged, settings, self.objective(settings.objective), penalties)
