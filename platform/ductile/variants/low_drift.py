"""Low-drift RL: every weight of the base is trained, and something holds the policy or its weights near what they were.

- a KL to an anchor policy (`anchors.py`), in the loss (GRPO, arXiv 2402.03300 eq. 3) or taken off the reward (Ziegler
  2019, arXiv 1909.08593), with a fixed coefficient or one adapted to a target KL
- a pull of all weights to the base (L2 init), or to those at the end of earlier phases (EWC): `consolidation.py`
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ductile.config import ObjectiveSettings
from ductile.rl.objective import Objective
from ductile.variants.base import PolicyGradient, policy_gradient

IN_LOSS, IN_REWARD = ("k2", "k3", "k3+"), ("k1", "k3")


@dataclass(frozen=True)
class LowDrift(PolicyGradient):
    """The policy is the base itself. A KL in the loss acts on silent groups too: they pull it back to the anchor."""

    kl: float | None = None
    kl_estimator: str | None = None
    kl_place: str | None = None
    kl_target: float | None = None
    kl_horizon: float | None = None
    anchor: str | None = None
    ema_decay: float | None = None
    l2_init: float | None = None
    ewc: float | None = None
    lr: float | None = None

    def check(self) -> Iterator[str]:
        """A line for each option that is missing, would never be read, or does not fit the others."""
        if self.kl is None and self.l2_init is None and self.ewc is None:
            yield "kl: nothing holds the policy; set at least one of kl, l2_init, ewc, or choose parameter_only"
        elif self.kl is None:
            for name in ("kl_estimator", "kl_place", "kl_target", "anchor"):
                if (value := getattr(self, name)) is not None:
                    yield f"{name}: {value!r} is set, but there is no KL without kl; set kl, or leave {name} unset"
        else:
            yield from self._check_kl()
        if self.ema_decay is not None and self.anchor != "ema":
            yield f"ema_decay: {self.ema_decay} is read by the anchor ema alone; anchor is {self.anchor!r}"
        if self.ema_decay == 1:
            yield "ema_decay: 1.0 is an average that never moves; allowed: below 1, or anchor base"
        if self.kl_horizon is not None and self.kl_target is None:
            yield f"kl_horizon: {self.kl_horizon} is set, but the coefficient is fixed without kl_target; set kl_target"

    def _check_kl(self) -> Iterator[str]:
        place, estimator = self.kl_place or "loss", self.kl_estimator
        if self.anchor is None:
            yield "anchor: a KL needs it; allowed: base, phase_start, ema, prior_data"
        if self.anchor == "prior_data":
            if place == "reward":
                yield "kl_place: 'reward' does not fit anchor prior_data: prior answers have no reward; allowed: loss"
            if estimator is not None:
                yield f"kl_estimator: {estimator!r} would not be read: the KL of prior_data is exact; leave it unset"
            return
        allowed = IN_LOSS if place == "loss" else IN_REWARD
        if estimator is None:
            yield f"kl_estimator: a KL in the {place} needs it; allowed: {', '.join(allowed)}"
        elif estimator not in allowed:
            why = (
                "its gradient is zero in expectation, so in the loss it holds nothing"
                if place == "loss"
                else "in the reward only its value is used, and that of k2 is biased, that of k3+ is k3's"
            )
            yield f"kl_estimator: {estimator!r}: {why}; allowed: {', '.join(allowed)}"

    def objective(self, settings: ObjectiveSettings) -> Objective:
        """The policy loss and what holds the policy."""
        return replace(
            policy_gradient(settings),
            kl=self.kl or 0.0,
            kl_estimator=self.kl_estimator or "k3",
            anchor=self.anchor,
            kl_place=self.kl_place or "loss",
            kl_target=self.kl_target,
            kl_horizon=self.kl_horizon or 10_000.0,
            ema_decay=0.99 if self.ema_decay is None else self.ema_decay,
            l2_init=self.l2_init or 0.0,
            ewc=self.ewc or 0.0,
        )
