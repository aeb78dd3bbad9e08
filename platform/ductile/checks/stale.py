"""Bounded staleness beside what asks in rounds, and its weights without it."""

from __future__ import annotations

from collections.abc import Iterator

from ductile.config import RunSettings


def staleness_mistakes(settings: RunSettings) -> Iterator[str]:
    """What cannot be begun before the update that learns from it, and what nothing would read."""
    staleness, cap = settings.rollout.staleness, settings.objective.importance_cap
    if not staleness:
        if cap is not None:
            yield (
                f"objective.importance_cap: {cap} is never read: rollout.staleness is 0, and nothing is stale; set "
                f"rollout.staleness, or leave objective.importance_cap unset"
            )
        return
    path = f"rollout.staleness: {staleness}"
    if pilots := settings.difficulty.screen.pilots:
        yield (
            f"{path}: difficulty.screen.pilots ({pilots}) decides by its own rollouts which problems a step asks, so "
            f"that none could be begun ahead; allowed: 0, or without difficulty.screen.pilots"
        )
    if settings.objective.dynamic_sampling == "refill":
        yield (
            f"{path}: objective.dynamic_sampling=refill asks other problems once it has seen the step's rollouts, "
            f"which no step ahead has; allowed: 0, or dynamic_sampling off or drop"
        )
    if settings.variant.contexts:
        yield (
            f"{path}: {settings.variant.name} evolves the contexts that a step is asked in right before the step; "
            f"allowed: 0, or another variant"
        )
