"""Contexts that problems are asked in: the fast channel of fast-slow training (arXiv 2605.12484)."""

from __future__ import annotations

from ductile.config import RunSettings
from ductile.contexts.evolving import EvolvingContexts
from ductile.contexts.pool import ContextPool, NoContexts
from ductile.ports import Judge, RolloutPool


def make_contexts(settings: RunSettings, pool: RolloutPool, judge: Judge) -> ContextPool:
    """The contexts of the run's variant. pool, judge: what a round of evolution rolls out and judges with."""
    return EvolvingContexts(settings, pool, judge) if settings.variant.contexts else NoContexts()


__all__ = ["ContextPool", "NoContexts", "make_contexts"]
