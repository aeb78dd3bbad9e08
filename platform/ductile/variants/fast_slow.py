"""Fast-slow training (FST, arXiv 2605.12484): contexts evolve fast, and weights learn slowly in several of them.

Every `evolve_every` RL steps a light round of GEPA evolves the domain's contexts. A step asks each problem in
`contexts` of them, and a completion's advantage is taken over all completions of its problem, whatever the context:

    A_i = (r_i - mean_g) / std_g,   g: the G completions of the problem, G/K in each of K contexts

The paper's loss is CISPO, which the preset sets (`objective.loss`). With `reflector: model` this is FST. With
`vocabulary` it is FST-style: nothing reads the rollouts as text, so contexts can only ask for formats that the base was
taught to follow and show answers that the policy gave itself. A base of a million weights writes no instructions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ductile.config import ObjectiveSettings, RunSettings
from ductile.contexts.evolution import least_calls
from ductile.ports import Composition, Member
from ductile.problem import JudgedGroup
from ductile.rl.batch import Batch
from ductile.rl.objective import Objective
from ductile.variants.base import NothingAtSwitch, Penalties, policy_gradient, policy_gradient_batch


@dataclass(frozen=True)
class FastSlow(NothingAtSwitch):
    """The policy is the base itself; what is fast is in `contexts.evolving`."""

    contexts: int
    evolve_every: int
    evolve_calls: int
    reflector: str
    reflector_url: str | None = None
    reflector_model: str | None = None
    lr: float | None = None

    needs_expert = False

    def check(self) -> Iterator[str]:
        """What the options cannot say together."""
        if self.evolve_calls < least_calls(self.contexts):
            yield (
                f"evolve_calls: {self.evolve_calls} cannot score {self.contexts} contexts; allowed: at least "
                f"{least_calls(self.contexts)}"
            )
        for name, value in (("reflector_url", self.reflector_url), ("reflector_model", self.reflector_model)):
            if self.reflector == "model" and not value:
                yield f"{name}: reflector model needs it; set it, or choose reflector vocabulary"
            if self.reflector != "model" and value is not None:
                yield f"{name}: {value!r} is set, but reflector {self.reflector} does not use it; used by: model"
        if self.reflector_url and not self.reflector_url.startswith(("http://", "https://")):
            yield f"reflector_url: {self.reflector_url!r} is no address; allowed: http://... or https://..."

    def composition(self, base: Path, expert: Path) -> Composition:
        """The base alone."""
        return Composition((Member("policy", str(base), 1.0),), "policy")

    def objective(self, settings: ObjectiveSettings) -> Objective:
        """The policy loss, without KL."""
        return policy_gradient(settings)

    def batch(self, judged: Sequence[JudgedGroup], settings: RunSettings, penalties: Penalties = None) -> Batch:
        """Rows of the problems that have a gradient; all contexts of a problem share one baseline."""
        return policy_gradient_batch(judged, settings, self.objective(settings.objective), penalties)
