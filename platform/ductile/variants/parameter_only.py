"""Parameter-only RL: every weight of the base is trained, and nothing holds the policy (GRPO without KL)."""

from __future__ import annotations

from dataclasses import dataclass

from ductile.variants.base import PolicyGradient


@dataclass(frozen=True)
class ParameterOnly(PolicyGradient):
    """The policy is the base itself."""

    lr: float | None = None
