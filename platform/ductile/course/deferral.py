"""Deferral: a problem that had no success in its last visits is left alone for some steps, then tried again.

Never deleted: no success among few completions means that the pass rate is unknown, not that it is 0. One more visit
without a success defers it again; one success clears it.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping
from dataclasses import dataclass, field

from ductile.config import DataSettings
from ductile.problem import Outcomes


@dataclass
class Deferral:
    """The deferred problems of one phase; steps count within it.

    failed: id -> visits without a success since the last one that had any
    until:  id -> the first step in which it may be asked again
    """

    settings: DataSettings
    failed: dict[str, int] = field(default_factory=dict)
    until: dict[str, int] = field(default_factory=dict)

    def deferred(self, pool: Container[str], step: int) -> list[str]:
        """Those of the pool that are not asked in the step, those that may come back first in front."""
        waiting = (id for id, until in self.until.items() if until > step and id in pool)
        return sorted(waiting, key=self.until.__getitem__)

    def left_out(self, pool: Mapping[str, object], reviewed: Collection[str], step: int, count: int) -> list[str]:
        """The ids of the pool that may not be selected: reviewed and deferred ones.

        The earliest deferred may be where `count` would not be left.
        """
        asked = [id for id in reviewed if id in pool]
        deferred = [id for id in self.deferred(pool, step) if id not in reviewed]
        back = max(0, count - (len(pool) - len(asked) - len(deferred)))
        return [*asked, *deferred[back:]]

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
