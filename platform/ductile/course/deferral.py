"""Deferral: a problem that had no success in its last visits is left alone for some steps, then tried again.

Never deleted: no success among few completions means that the pass rate is unknown, not that it is 0. One more visit
without a success defers it again; one success clears it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from ductile.config import DataSettings
from ductile.course.outcomes import Outcomes


@dataclass
class Deferral:
    """The deferred problems of one phase; steps count within it.

    failed: id -> visits without a success since the last one that had any
    until:  id -> the first step in which it may be asked again
    """

    settings: DataSettings
    failed: dict[str, int] = field(default_factory=dict)
    until: dict[str, int] = field(default_factory=dict)

    def deferred(self, ids: Iterable[str], step: int) -> list[str]:
        """Those of the ids that are not asked in the step, those that may come back first in front."""
        return sorted((id for id in ids if self.until.get(id, 0) > step), key=self.until.__getitem__)

    def eligible(self, ids: Iterable[str], step: int, count: int) -> list[str]:
        """The ids that may be asked, in their order; the earliest deferred too where `count` would not be left."""
        known = list(ids)
        deferred = self.deferred(known, step)
        back = max(0, count - (len(known) - len(deferred)))
        left_out = set(deferred[back:])
        return [id for id in known if id not in left_out]

    def observe(self, outcomes: Outcomes, step: int) -> None:
        """Count the visits; a problem none of whose completions could be judged was not visited."""
        if not self.settings.defer_after:
            return
        for id, (wins, judged) in outcomes.items():
            if wins:
                self.failed.pop(id, None)
                self.until.pop(id, None)
            elif judged:
                self.failed[id] = self.failed.get(id, 0) + 1
                if self.failed[id] >= self.settings.defer_after:
                    self.until[id] = step + 1 + self.settings.defer_steps
