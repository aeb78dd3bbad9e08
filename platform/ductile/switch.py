"""What is done to the policy between two phases, in one order; branches begin with it too."""

from __future__ import annotations

from ductile.config import RunSettings
from ductile.consolidation import consolidate
from ductile.plan import Phase
from ductile.step import StepPorts, publish
from ductile.variants.base import Variant


def switch(settings: RunSettings, variant: Variant, ended: Phase, stream: str, ports: StepPorts) -> dict[str, float]:
    """Do it, before the next phase starts. stream: keys everything random. Returns metrics."""
    if settings.variant.ewc:  # before anything moves the weights: they are what the phase has learned
        policy = publish(ports.pool, ports.learner)
        consolidate(settings, ended, stream, policy, ports.pool, ports.learner)
    return {}


def switch_stream(ended: str) -> str:
    """The stream of the switch after a phase: the run's and its branches' are the same."""
    return f"switch/{ended}"
