"""Re-estimation: what the difficulty table is given beside the outcomes of training.

    before a phase: the base's outcomes (`difficulty.offline`), static difficulty, the problems that audits watch
    every `difficulty.refresh_every` steps, and when a phase ends: what estimators need that ask the model
    beside each update: rollouts of the problems whose estimates are oldest or least certain (`difficulty.reestimate`)

The rollouts beside an update are of the policy that the step sampled from. They are begun when the update begins and
collected when it ends, so that a run of the same seed learns the same at the same step; what the update did not hide
is told as `reestimate/waited_s`.
"""

from __future__ import annotations

import hashlib
import time
from collections import ChainMap, Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ductile.audit import Asked
from ductile.config import RunSettings
from ductile.course import Course
from ductile.course.outcomes import successes
from ductile.difficulty import needs
from ductile.difficulty.base import FEATURES, RATIOS, REFERENCE, Arrays, Estimates
from ductile.difficulty.buffer import RolloutBuffer
from ductile.difficulty.service import Gathered
from ductile.difficulty.static import ScoreFile
from ductile.evidence import gather
from ductile.offline import base_outcomes, rollout_cost, static_difficulty
from ductile.plan import Phase, draw
from ductile.ports import DifficultyService, PolicyRef, RunPool, Store
from ductile.problem import JudgedGroup, Problem
from ductile.rollouts import Rollouts

Spent = dict[str, int]
"""`budget/...` without the prefix -> what was spent."""


@dataclass(frozen=True)
class _Begun:
    """Rollouts that go on beside an update."""

    handle: int
    policy: PolicyRef
    problems: tuple[Problem, ...]
    before: Estimates


class Reestimation:
    """Every rank has its own; they stay alike, since what they ask goes through ports."""

    def __init__(
        self, settings: RunSettings, difficulty: DifficultyService, rollouts: Rollouts, pool: RunPool, store: Store
    ) -> None:
        """store: where measurements of the base are kept for later runs."""
        self._settings, self._difficulty, self._rollouts = settings, difficulty, rollouts
        self._pool, self._store = pool, store
        self._needs = needs(settings.difficulty)
        self._buffer = RolloutBuffer(settings.difficulty.importance.buffer)
        self._scores = ScoreFile.read(settings.difficulty) if settings.difficulty.scores else None
        self._owed = 0.0  # rollouts that the budget allows and that were not yet spent
        self._measured: set[str] = set()  # pools that the base was measured on and that were paid for
        self._watched: tuple[Phase, list[Problem]] | None = None
        self._begun: _Begun | None = None

    def start_phase(self, phase: Phase, base: PolicyRef, start: str) -> Spent:
        """Begin the phase in the difficulty table; returns what that cost.

        base: the untouched policy that the run began as; start: names it (`Identity.start`).
        """
        pool = _problems(phase)
        ids = list(pool)
        offline: dict[str, tuple[int, int]] = {}
        spent: Spent = {}
        if samples := self._settings.difficulty.offline:
            key, offline, spent = base_outcomes(
                self._rollouts.bare(), self._store, list(pool.values()), base, start, samples
            )
            if key in self._measured:  # by an earlier phase of the same problems
                spent = {}
            self._measured.add(key)
        static = static_difficulty(pool, self._scores, offline)
        self._difficulty.start_phase(ids, static, [problem.id for problem in self._unseen(phase)])
        if offline:
            self._difficulty.measure_first(offline)
        return spent

    def refresh(self, policy: PolicyRef, phase: Phase, step: int, stream: str) -> tuple[dict[str, float], Spent]:
        """Gather what estimators need of the policy at a step of the phase, where it is due; metrics and cost."""
        settings = self._settings.difficulty
        if not self._needs or (step % settings.refresh_every and step != phase.steps):
            return {}, {}
        started, reference, spent = time.monotonic(), None, Counter[str]()
        if REFERENCE in self._needs and step < phase.steps:  # at the end no selection would read it
            asked = phase.some(settings.attention.reference, self._settings.seed, f"{stream}/reference")
            judged = self._rollouts.roll_out(policy, asked, f"{stream}/reference", self._settings.rollout.group_size)
            reference, spent = successes(judged), rollout_cost(judged, policy, "reference")
        pool = _problems(phase)
        problems = [pool[id] for id in self._considered(list(pool), stream)]
        gathered, forwarded = self._gather(policy, problems, stream, self._needs, reference)
        spent["forward_tokens"] += forwarded
        unseen = self._unseen(phase)
        if FEATURES in self._needs and unseen:  # apart, so that they move nothing of the pool's, and at no cost
            others, _ = self._gather(policy, unseen, stream, frozenset([FEATURES]), None)
            gathered = gathered.with_features(others)
        metrics = self._difficulty.refresh(gathered, step)
        return {**metrics, "difficulty/refresh_s": time.monotonic() - started}, dict(spent)

    def begin(
        self, policy: PolicyRef, phase: Phase, step: int, stream: str, judged: Sequence[JudgedGroup], course: Course
    ) -> None:
        """Begin the rollouts that `difficulty.reestimate` allows beside the update on what the step rolled out.

        Problems are asked as the course asks them; those that the step may not ask are not. What it allows and the
        pool has no problems for is not spent later.
        """
        size = self._settings.rollout.group_size
        self._owed += self._settings.difficulty.reestimate * sum(len(group.group.completions) for group in judged)
        if self._owed < size:
            return
        own = _problems(phase)
        asked = {group.group.problem.id for group in judged if group.group.problem.id in own}
        count = int(self._owed // size)
        self._owed -= size * count
        ids = self._difficulty.worth_estimating(count, step, self._settings.seed, course.left_out | asked)
        if not ids:
            return
        problems = tuple(course.posed(phase, ids))
        before = self._difficulty.predict(ids, step)[self._settings.difficulty.estimator]
        asking = self._rollouts.asked(problems, f"{stream}/reestimate")
        handle = self._pool.begin(policy, asking, self._rollouts.sampling(f"{stream}/reestimate", size))
        self._begun = _Begun(handle, policy, problems, before)

    def finish(self, step: int) -> tuple[dict[str, float], Spent]:
        """Collect what was begun and take it into the table; metrics of what it bought, and its cost."""
        if self._begun is None:
            return {}, {}
        begun, self._begun = self._begun, None
        started = time.monotonic()
        judged = self._rollouts.judge.judge(self._pool.collect(begun.handle))
        waited = time.monotonic() - started
        self._difficulty.learn(successes(judged), step)
        self.observe(judged)
        ids = [problem.id for problem in begun.problems]
        after = self._difficulty.predict(ids, step)[self._settings.difficulty.estimator]
        spent = rollout_cost(judged, begun.policy, "reestimation")
        metrics = {
            "reestimate/problems": float(len(ids)),
            "reestimate/completions": float(spent["completions"]),
            "reestimate/waited_s": waited,
            "reestimate/age_before": float(begun.before.age.mean()),
            "reestimate/uncertainty_before": float(begun.before.uncertainty.mean()),
            "reestimate/uncertainty_after": float(after.uncertainty.mean()),
            "reestimate/moved": float(np.abs(after.mean - begun.before.mean).mean()),
        }
        return metrics, dict(spent)

    def observe(self, judged: Sequence[JudgedGroup]) -> None:
        """Keep the phase's own completions, for estimators that ask how likely they have become."""
        if RATIOS in self._needs:
            self._buffer.add(judged)

    def audit(self, policy: PolicyRef, phase: Phase, step: int) -> tuple[Asked, Asked | None]:
        """Many completions of the audited problems, and what every estimator says of them. Nothing learns from it.

        Returns problems of the pool, and those beside it where there are any: the same at every audit of a phase.
        """
        audit, unseen = self._settings.difficulty.audit, self._unseen(phase)
        pool = phase.some(audit.problems, self._settings.seed, f"audit/{phase.name}")
        asked = self._audited(policy, phase, step, pool, len(phase.pool))
        return asked, self._audited(policy, phase, step, unseen, len(unseen)) if unseen else None

    def _audited(self, policy: PolicyRef, phase: Phase, step: int, problems: Sequence[Problem], size: int) -> Asked:
        ids = [problem.id for problem in problems]
        stream, samples = f"audit/{phase.name}/{step}", self._settings.difficulty.audit.samples
        outcomes = successes(self._rollouts.roll_out(policy, problems, stream, samples))
        wins, counts = zip(*(outcomes[id] for id in ids), strict=True)
        return Asked(ids, wins, counts, self._difficulty.predict(ids, step), size)

    def snapshot(self) -> Arrays:
        """Everything but the difficulty table, as arrays that `restore` takes."""
        buffer = {f"buffer/{key}": array for key, array in self._buffer.snapshot().items()}
        measured = np.frombuffer("\n".join(sorted(self._measured)).encode(), np.uint8)
        return {"owed": np.array([self._owed]), "measured": measured, **buffer}

    def restore(self, snapshot: Arrays) -> None:
        """Become what `snapshot` returned."""
        self._owed = float(snapshot["owed"][0])
        self._measured = set(snapshot["measured"].tobytes().decode().split())
        self._buffer.restore({k.removeprefix("buffer/"): v for k, v in snapshot.items() if k.startswith("buffer/")})

    def _unseen(self, phase: Phase) -> list[Problem]:
        """The audited problems that are no part of the pool: of the evaluation split, judged as the phase's own."""
        audit = self._settings.difficulty.audit
        if not (audit.every and audit.unseen):
            return []
        if self._watched is None or self._watched[0] is not phase:
            self._watched = phase, draw(phase.domain, phase.levels, "eval", audit.unseen, self._settings.seed)
        return self._watched[1]

    def _considered(self, ids: list[str], stream: str) -> list[str]:
        """The ids, or a random part of more than `difficulty.considered`, in their order."""
        most = self._settings.difficulty.considered
        if len(ids) <= most:
            return ids
        key = hashlib.blake2b(f"{self._settings.seed}/{stream}/considered".encode(), digest_size=16).digest()
        rng = np.random.Generator(np.random.Philox(key=np.frombuffer(key, np.uint64)))
        return [ids[place] for place in np.sort(rng.choice(len(ids), most, replace=False))]

    def _gather(
        self,
        policy: PolicyRef,
        problems: Sequence[Problem],
        stream: str,
        needs: frozenset[str],
        reference: Mapping[str, tuple[int, int]] | None,
    ) -> tuple[Gathered, int]:
        asked, temperature = self._rollouts.bare().asked(problems, stream), self._settings.rollout.temperature
        return gather(self._pool, policy, needs, asked, self._buffer, temperature, reference)


class NoReestimation:
    """Nothing beside the step's own outcomes: what a branch has."""

    def begin(
        self, policy: PolicyRef, phase: Phase, step: int, stream: str, judged: Sequence[JudgedGroup], course: Course
    ) -> None:
        """Nothing."""

    def finish(self, step: int) -> tuple[dict[str, float], Spent]:
        """Nothing."""
        return {}, {}

    def observe(self, judged: Sequence[JudgedGroup]) -> None:
        """Nothing."""


def _problems(phase: Phase) -> Mapping[str, Problem]:
    """Those of the phase and of its ladder, by id. The phase's own are not walked: there may be millions."""
    return ChainMap(*reversed(phase.rungs), phase.pool) if phase.rungs else phase.pool  # type: ignore[arg-type]
