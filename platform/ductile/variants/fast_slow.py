"""Fast-slow training (FST, arXiv 2605.12484): contexts evolve fast, and weights learn slowly in several of them.

Every `evolve_every` RL steps a light round of GEPA evolves the domain's contexts. A step asks each problem in
`contexts` of them, and a completion's advantage is taken over all completions of its problem, whatever the context:

    A_i = (r_i - mean_g) / std_g,   g: the G completions of the problem, G/K in each of K contexts

The paper's loss is CISPO, which the preset sets (`objective.loss`). With `reflector: model` this is FST. With
`vocabulary` it is FST-style: nothing reads the rollouts as text, so contexts can only ask for formats that the base was
taught to follow and show answers that the policy gave itself. A base of a million weights writes no instructions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ductile.contexts.evolution import least_calls
from ductile.variants.base import PolicyGradient


@dataclass(frozen=True)
class FastSlow(PolicyGradient):
    """The policy is the base itself; `contexts.evolving` is fast. A problem's contexts share one baseline."""

    contexts: int
    evolve_every: int
    evolve_calls: int
    reflector: str
    reflector_url: str | None = None
    reflector_model: str | None = None
    lr: float | None = None

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
