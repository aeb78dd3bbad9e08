"""When probes run: at which boundaries, and at which steps inside a phase."""

from __future__ import annotations

import math

import numpy as np

from ductile.config import RunSettings
from ductile.probes import expand


def boundary_probes(settings: RunSettings, boundary: int) -> tuple[str, ...]:
    """The probes of a boundary: 0 lies before the first phase, k after the k-th, later ones after no phase at all."""
    choices = [settings.probe.start, *(phase.probes for phase in settings.phase.values())]
    chosen = choices[boundary] if boundary < len(choices) else None
    return expand(settings.probe.probes if chosen is None else chosen)


def due_steps(steps: int, every: int, log_spaced: int, pool: int, groups: int) -> tuple[int, ...]:
    """Steps of a phase after which the probes inside it run, rising; the last step is the boundary's and never due.

    every:      each multiple of it; 0: none
    log_spaced: so many steps spaced evenly in log(step) over the first pass over the pool, which takes pool / groups
                steps, or over the phase where that is shorter; the Echo Chamber study (arXiv 2504.07912) takes 15.
                Steps are whole, so that at the beginning several fall together and there are fewer of them.

    >>> due_steps(100, every=0, log_spaced=5, pool=256, groups=16)
    (1, 2, 4, 8, 16)
    """
    due = set(range(every, steps, every)) if every else set()
    if log_spaced:
        last = min(math.ceil(pool / groups), steps)
        due |= {int(step) for step in np.rint(np.geomspace(1, last, log_spaced))}
    return tuple(sorted(step for step in due if step < steps))
