"""Review: every so many steps, a share of the step are problems that were mastered, the longest unseen first.

After ReMind (arXiv 2606.03087, known to us from another write-up only): a queue of mastered problems, from which every
5 steps 10% of a batch are taken. Ours is asked beside the phase's selection, which may also meet a mastered problem.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ductile.config import DataSettings
from ductile.course.quota import quota
from ductile.problem import Outcomes


@dataclass
class Review:
    """The queue of one phase. queue: ids of the mastered problems, the longest unseen first."""

    settings: DataSettings
    queue: list[str] = field(default_factory=list)

    def ask(self, groups: int, step: int) -> list[str]:
        """Ids to review in a step of so many groups, steps counted from 0: none but in every `review_every`-th one."""
        rounds, rest = divmod(step + 1, self.settings.review_every)
        return [] if rest else self.queue[: quota(self.settings.review, groups, rounds - 1)]

    def observe(self, outcomes: Outcomes) -> None:
        """Whoever reached `data.mastered` at this visit goes to the end of the queue, the others leave it.

        A problem none of whose completions could be judged was not visited.
        """
        if not self.settings.review:
            return
        visited = {id for id, (_, judged) in outcomes.items() if judged}
        self.queue = [id for id in self.queue if id not in visited]
        self.queue += [id for id in outcomes if id in visited and self._mastered(outcomes[id])]

    def regressed(self, reviewed: Sequence[str], outcomes: Outcomes) -> float | None:
        """Share of the reviewed problems that are no longer mastered; None when none could be judged."""
        judged = [outcomes[id] for id in reviewed if id in outcomes and outcomes[id][1]]
        return sum(not self._mastered(outcome) for outcome in judged) / len(judged) if judged else None

    def _mastered(self, outcome: tuple[int, int]) -> bool:
        return outcome[0] / outcome[1] >= self.settings.mastered
