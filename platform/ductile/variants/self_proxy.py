"""Self-proxy: the base and its own RL copy, mixed in logit space: a dial from no drift to plain RL.

    policy = softmax((1 - alpha) * base + alpha * copy),   so that   p is proportional to base^(1 - alpha) * copy^alpha

It is proxy-tuning (arXiv 2401.08565, section 2) with the base as its own anti-expert, as in decoding-time realignment
(arXiv 2402.02992): alpha 1 is parameter-only RL, and towards 0 the policy is the base whatever the copy learns. RL
samples from the mixture, whose log-probabilities are the behaviour's, and the gradient goes through the copy alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ductile.ports import Composition, Member
from ductile.variants.base import PolicyGradient


@dataclass(frozen=True)
class SelfProxy(PolicyGradient):
    """The base and a trained copy of it; two forward passes a token."""

    alpha: float
    alpha_end: float | None = None
    lr: float | None = None

    def check(self) -> Iterator[str]:
        """Above 1 the base would count negatively: an amplified policy, which is no mixture and no dial."""
        for name, value in (("alpha", self.alpha), ("alpha_end", self.alpha_end)):
            if value is not None and value > 1:
                yield f"{name}: {value} would subtract the base; 1 is plain RL; allowed: above 0, at most 1"

    def composition(self, base: Path, expert: Path) -> Composition:
        """(1 - alpha) * base + alpha * policy."""
        members = (Member("base", str(base), 1.0), Member("policy", str(base), 0.0))
        return self.at_alpha(Composition(members, "policy"), self.alpha)

    def at_alpha(self, composition: Composition, alpha: float) -> Composition:
        """The same two models with another alpha."""
        coefficients = {"base": 1 - alpha, "policy": alpha}
        members = tuple(replace(member, coefficient=coefficients[member.role]) for member in composition.members)
        return replace(composition, members=members)
