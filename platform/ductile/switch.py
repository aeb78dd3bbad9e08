"""What is done to the policy between two phases, in one order; branches begin with it too."""

from __future__ import annotations

from ductile.config import RunSettings
from ductile.plan import Phase
from ductile.step import StepPorts
from ductile.variants.base import Variant


def switch(settings: RunSettings, variant: Variant, ended: Phase, stream: str, ports: StepPorts) -> dict[str, float]:
    """Do it, before the next phase starts. stream: keys everything random. Returns metrics."""
    variant.switch(settings, ended, stream, ports)
    return {}


def switch_stream(ended: str) -> str:
    """The stream of the switch after a phase: the run's and its branches' are the same."""
    return f"switch/{ended}"
