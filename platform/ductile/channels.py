"""The four cells of a fast channel, for `probes.channels`: weights of the base or of the run, with it and without."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ductile.contexts.context import SEED, Context
from ductile.ports import PolicyRef, RolloutPool
from ductile.probes.base import Arm


def context_arms(policy: PolicyRef, base: PolicyRef, context: Context) -> dict[str, Arm]:
    """A context of the problems' domain. The seed context may be the best one found; the cells are then alike."""
    return {
        f"{weights}_{asked}": Arm(of, given)
        for weights, of in (("base", base), ("trained", policy))
        for asked, given in (("seed", SEED), ("evolved", context))
    }


def weight_arms(
    policy: PolicyRef,
    base: PolicyRef,
    channels: Mapping[str, Mapping[str, Any]],
    prefix: tuple[int, ...],
    pool: RolloutPool,
) -> dict[str, Arm]:
    """A fast channel made of weights: an adapter, or a soft prefix. channels: as in `ports.Learner.channels`."""
    slow = replace(policy, weights=pool.publish(channels["slow"])) if "slow" in channels else policy
    return {
        "base_seed": Arm(base),
        "base_evolved": Arm(replace(base, weights=pool.publish(channels["fast"])), prefix=prefix),
        "trained_seed": Arm(slow),
        "trained_evolved": Arm(policy, prefix=prefix),
    }
