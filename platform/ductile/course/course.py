"""The course: which problems a step asks and how, and what is learned of them.

    replayed + reviewed + selected = rollout.groups, no problem twice; selected: by the difficulty service, among the
    problems of the ladder's rung that are neither reviewed nor deferred; reviewed and selected ones with a hint

Replayed problems are trained on as the others are. They are no part of the phase: the difficulty table, the ladder, the
review queue and the rollout statistics do not see them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ductile.config import DataSettings, DifficultySettings, RunSettings
from ductile.course.deferral import Deferral
from ductile.course.hints import hint_share, hinted
from ductile.course.ladder import Ladder
from ductile.course.outcomes import pass_rate, successes
from ductile.course.replay import Replay, make_replay
from ductile.course.review import Review
from ductile.plan import Phase, ResolveDomain
from ductile.ports import DifficultyService
from ductile.problem import JudgedGroup, Outcomes, Problem


@dataclass(frozen=True)
class Asked:
    """What a step asked. It is in a checkpoint only where steps are asked ahead (`ahead.py`).

    replayed, reviewed: ids; left_out: those that the difficulty service may not select; eligible: how many it may;
    deferred: share of the rung's problems that were deferred; hint: share of the work that was given; rung: of the
    ladder, from 0.
    """

    replayed: frozenset[str] = frozenset()
    reviewed: tuple[str, ...] = ()
    left_out: frozenset[str] = frozenset()
    eligible: int = 0
    deferred: float = 0.0
    hint: float = 0.0
    rung: int = 0
    last_rung: int = 0


class Course:
    """Composes the remedies of `data.*`; with none of them it asks what the difficulty service selects.

    Every rank has its own; they stay alike. A branch has one without remedies (`without_remedies`): it measures the
    plasticity of a policy under the run's way of updating, and remedies in the data belong to the plan.
    """

    def __init__(self, settings: RunSettings, difficulty: DifficultyService, resolve: ResolveDomain) -> None:
        self._settings, self._difficulty, self._resolve = settings, difficulty, resolve
        self._replay = Replay()
        self._begin()

    def start_phase(self, phase: Phase, earlier: Sequence[Phase]) -> None:
        """The phase that begins, and those of the plan that are over. Every remedy begins anew."""
        self._begin()
        self.resume_phase(phase, earlier)

    def resume_phase(self, phase: Phase, earlier: Sequence[Phase]) -> None:
        """Go on within a phase, after `restore`."""
        self._replay = make_replay(self._settings, phase, earlier, self._resolve)

    def ask(self, phase: Phase, step: int, seed: int) -> list[Problem]:
        """`rollout.groups` different problems for a step of the phase: selected, reviewed, replayed ones."""
        groups, pool = self._settings.rollout.groups, self._ladder.pool(phase)
        replayed = self._replay.ask(step, seed)
        left = groups - len(replayed)
        reviewed = self._review.ask(groups, step)[:left]
        others = left - len(reviewed)
        own = self._deferral.left_out(pool, reviewed, step, others)
        climbed = (id for rung in (*phase.rungs, phase.pool) if rung is not pool for id in rung)
        self._asked = Asked(
            replayed=frozenset(problem.id for problem in replayed),
            reviewed=tuple(reviewed),
            left_out=frozenset((*own, *(id for id in climbed if id not in pool))),
            eligible=len(pool) - len(own),
            deferred=len(self._deferral.deferred(pool, step)) / len(pool),
            hint=hint_share(self._settings.data, step, phase.steps),
            rung=self._ladder.rung,
            last_rung=len(phase.rungs),
        )
        ids = self._select(phase, others, step, seed, self._asked.left_out)
        return [*self.posed(phase, [*ids, *reviewed]), *replayed]

    def more(self, phase: Phase, step: int, seed: int, asked: Collection[str], count: int) -> list[Problem]:
        """Up to `count` problems for the same step that are not among the ids `asked`; fewer when there are no more.

        They are what the difficulty service's rule chooses among the others.
        """
        left_out = self._asked.left_out.union(asked).difference(self._asked.replayed)
        eligible = self._asked.eligible - len(left_out.difference(self._asked.left_out))
        return self.posed(phase, self._select(phase, min(count, eligible), step, seed, left_out))

    @property
    def asked(self) -> Asked:
        """What was asked last; `recall` takes it."""
        return self._asked

    def recall(self, asked: Asked) -> None:
        """Turn back to an earlier step: until the next `ask`, all other methods speak of what it asked."""
        self._asked = asked

    @property
    def left_out(self) -> frozenset[str]:
        """Ids of the difficulty service's pool that the step may not ask: reviewed, deferred, of other rungs."""
        return self._asked.left_out

    def selected(self, problems: Sequence[Problem]) -> list[Problem]:
        """Those of the asked problems that the difficulty service chose: neither replayed nor reviewed."""
        others = self._asked.replayed.union(self._asked.reviewed)
        return [problem for problem in problems if problem.id not in others]

    def allocate(self, problems: Sequence[Problem], step: int) -> list[int]:
        """Completions of each of the problems that were asked; replayed ones are no part of the difficulty table."""
        size = self._settings.rollout.group_size
        if self._settings.difficulty.allocation == "uniform":
            return [size] * len(problems)
        own = [problem.id for problem in problems if problem.id not in self._asked.replayed]
        if not own:
            return [size] * len(problems)
        counts = dict(zip(own, self._difficulty.allocate(own, size * len(own), step), strict=True))
        return [counts.get(problem.id, size) for problem in problems]

    def own(self, judged: Sequence[JudgedGroup]) -> list[JudgedGroup]:
        """Those of the step's groups that are the phase's own: all but the replayed ones."""
        return [group for group in judged if group.group.problem.id not in self._asked.replayed]

    def observe(self, judged: Sequence[JudgedGroup], step: int, pilots: Sequence[JudgedGroup] = ()) -> dict[str, float]:
        """What came of the problems that were asked last; returns metrics.

        pilots: of screening: evidence as good as any, of problems that were then learned from or not.
        """
        asked, outcomes = self._asked, successes([*judged, *pilots])
        own = {id: outcome for id, outcome in outcomes.items() if id not in asked.replayed}
        metrics = self._difficulty.observe(own, step) | self._describe(successes(judged) if pilots else outcomes)
        self._review.observe(own)
        self._deferral.observe(own, step)
        if asked.rung == self._ladder.rung:  # a step asked ahead may still be of the rung below: it was climbed since
            selected = {id: outcome for id, outcome in own.items() if id not in asked.reviewed}
            self._ladder.observe(selected, asked.last_rung)
        return metrics

    def snapshot(self) -> Mapping[str, Any]:
        """Everything but the difficulty service's table, as plain values that `restore` takes."""
        return {
            "review": list(self._review.queue),
            "rung": self._ladder.rung,
            "failed": dict(self._deferral.failed),
            "until": dict(self._deferral.until),
        }

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Become what `snapshot` returned; within a phase, `resume_phase` follows."""
        data = self._settings.data
        self._review = Review(data, list(snapshot["review"]))
        self._ladder = Ladder(data.ladder_rate, snapshot["rung"])
        self._deferral = Deferral(data, dict(snapshot["failed"]), dict(snapshot["until"]))

    def _begin(self) -> None:
        data = self._settings.data
        self._review, self._ladder, self._deferral = Review(data), Ladder(data.ladder_rate), Deferral(data)
        self._asked = Asked()

    def _select(self, phase: Phase, count: int, step: int, seed: int, left_out: Collection[str]) -> list[str]:
        if not count:  # replay and review may leave the phase nothing, and then have the whole pool left out
            return []
        return self._difficulty.select(count, step, seed, left_out, step / phase.steps)

    def posed(self, phase: Phase, ids: Sequence[str]) -> list[Problem]:
        """The phase's problems of these ids as they are asked in the step."""
        pools = (phase.pool, *phase.rungs)
        problems = [next(pool[id] for pool in pools if id in pool) for id in ids]
        if not self._settings.data.hint:
            return problems
        return [hinted(problem, phase.domain, self._asked.hint) for problem in problems]

    def _describe(self, outcomes: Outcomes) -> dict[str, float]:
        """The metrics of the remedies that are on."""
        data, asked, metrics = self._settings.data, self._asked, {}
        if data.replay:
            metrics["data/replay_share"] = len(asked.replayed) / len(outcomes)
            rate = pass_rate({id: outcome for id, outcome in outcomes.items() if id in asked.replayed})
            metrics |= {} if rate is None else {"data/replay_pass_rate": rate}
        if data.review:
            metrics["data/review_share"] = len(asked.reviewed) / len(outcomes)
            regressed = self._review.regressed(asked.reviewed, outcomes)
            metrics |= {} if regressed is None else {"data/review_regressed": regressed}
        if data.hint:
            metrics["data/hint"] = asked.hint
        if data.ladder:
            metrics["data/rung"] = float(self._ladder.rung)
        if data.defer_after:
            metrics["data/deferred_share"] = asked.deferred
        return metrics


def without_remedies(settings: RunSettings) -> RunSettings:
    """The same settings with nothing of `data.*` and `difficulty.*`: every problem as likely, none left out."""
    return replace(settings, data=DataSettings(), difficulty=DifficultySettings())
