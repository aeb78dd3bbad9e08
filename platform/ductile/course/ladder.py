"""The ladder: easier levels of the phase's domain are asked first, one after another, then the phase's own.

The next rung is reached after a step in which the newly selected problems of the rung, all completions together, have a
pass rate of at least `data.ladder_rate`; there is no way back down.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ductile.course.outcomes import pass_rate
from ductile.plan import Phase
from ductile.problem import Outcomes, Problem


@dataclass
class Ladder:
    """Where a phase stands. rung: from 0; the phase's own levels are the last."""

    rate: float
    rung: int = 0

    def pool(self, phase: Phase) -> Mapping[str, Problem]:
        """The problems that are asked now."""
        return (*phase.rungs, phase.pool)[self.rung]

    def observe(self, outcomes: Outcomes, last: int) -> None:
        """Move up, to rung `last` at most, where the step's problems were solved often enough; nothing judged: stay."""
        reached = pass_rate(outcomes)
        if self.rung < last and reached is not None and reached >= self.rate:
            self.rung += 1
