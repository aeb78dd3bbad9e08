"""One RL step, and the ports that a run talks to. Runs and branches take the same steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from ductile.ahead import Ahead
from ductile.config import RunSettings
from ductile.contexts import ContextPool
from ductile.course import Course
from ductile.plan import Phase, ResolveDomain
from ductile.ports import (
    Brancher,
    DifficultyService,
    Judge,
    Learner,
    PolicyRef,
    RolloutPool,
    Store,
    Tracker,
)
from ductile.problem import JudgedGroup, Problem
from ductile.reestimation import NoReestimation, Reestimation
from ductile.rl.statistics import group_statistics, learned_completions, learned_groups
from ductile.rollouts import Rollouts
from ductile.screening import More, Screened, screen
from ductile.trace import span
from ductile.variants.base import Variant


def never() -> bool:
    """No: what a run answers that nobody can ask to stop."""
    return False


RollOut = Callable[[Sequence[Problem], str, int], list[JudgedGroup]]
"""(problems, stream, completions of each) -> their judged groups, under the step's policy."""

REFILL_ROUNDS = 10
"""Most rounds of sampling in a step where none is set, as DAPO's `max_num_gen_batches`."""


@dataclass(frozen=True)
class StepPorts:
    """What a step talks to. ahead: where rollouts are begun before the step that learns from them, else None."""

    pool: RolloutPool
    learner: Learner
    difficulty: DifficultyService
    judge: Judge
    course: Course
    contexts: ContextPool
    reestimation: Reestimation | NoReestimation
    ahead: Ahead | None


@dataclass(frozen=True)
class Ports(StepPorts):
    """Everything that the loop talks to. stop: whether the run is asked to stop; the same answer on every rank."""

    reestimation: Reestimation
    tracker: Tracker
    store: Store
    resolve: ResolveDomain
    brancher: Brancher
    stop: Callable[[], bool] = never


def train_step(
    settings: RunSettings,
    variant: Variant,
    phase: Phase,
    ports: StepPorts,
    policy: PolicyRef,
    series: str,
    step: int,
    budget: dict[str, int],
) -> tuple[PolicyRef, dict[str, float]]:
    """Ask, sample, judge, update, publish, observe: one RL step. Returns the new policy and the step's metrics.

    series: of the streams of a phase's steps; this one's is `series/step`.
    """
    started, stream = time.monotonic(), f"{series}/{step}"
    with span("evolution of contexts"):
        evolved, spent = ports.contexts.evolve(policy, phase, step, stream)
    rollouts = Rollouts(settings, ports.pool, ports.judge, ports.contexts, ports.learner)
    if ports.ahead:
        judged, asynchronous = ports.ahead.roll_out(rollouts, ports.course, policy, phase, series, step, settings.seed)
        pilots, refilled = list[JudgedGroup](), 0
    else:
        judged, pilots, refilled = _rolled_out(settings, phase, ports, rollouts, policy, stream, step)
        asynchronous = {}
    members = len(policy.composition.members)  # of the policy that sampled: the update may compose another
    all_judged = [*judged, *pilots]
    metrics = evolved | group_statistics(ports.course.own(judged), settings.objective)
    with span("re-estimation begun"):
        ports.reestimation.begin(policy, phase, step, stream, all_judged, ports.course)
    with span("update") as update:
        metrics |= ports.learner.update(variant.batch(judged, settings, ports.learner.penalties(judged)))
    with span("publication") as publication:
        policy = publish(ports.pool, ports.learner)
    with span("difficulty observed"):
        metrics |= ports.course.observe(judged, step, pilots)
        ports.reestimation.observe(ports.course.own(all_judged))
        ports.contexts.observe(all_judged)
    with span("re-estimation"):
        reestimated, beside = ports.reestimation.finish(step)
    groups = [group.group for group in all_judged]
    tokens = sum(len(completion.tokens) for group in groups for completion in group.completions)
    rolled_out = _completions(all_judged)
    metrics |= reestimated | asynchronous
    learned = learned_completions(judged, settings.objective)
    metrics["rollout/wasted_share"] = 1 - learned / (rolled_out + beside.get("completions", 0))
    of_step = {
        "completions": rolled_out,
        "learned_completions": learned,
        "sampled_tokens": tokens,
        "forward_tokens": tokens * members,
        "learner_forward_tokens": int(metrics["learner/forward_tokens"]),
        "trained_tokens": int(metrics["learner/tokens"]),
    }
    of_step |= {
        name: count
        for name, count in (
            ("pilot_completions", _completions(pilots)),
            ("refill_completions", refilled),
            ("reestimation_completions", 0),  # in `beside`
        )
        if count or name in budget or name in beside
    }
    owed = ports.learner.settle()
    for name in of_step:
        budget[name] = budget.get(name, 0) + sum(cost.get(name, 0) for cost in (of_step, spent, owed, beside))
        metrics[f"budget/{name}"] = float(budget[name])
    if budget["sampled_tokens"]:
        passed = budget["forward_tokens"] + budget["learner_forward_tokens"]
        metrics["budget/forward_per_token"] = passed / budget["sampled_tokens"]
    metrics["rollout/tokens"] = float(tokens)  # replayed ones too, which are in no other of these statistics
    metrics |= ports.pool.counts()
    metrics["rollout/seconds"] = rollouts.seconds
    metrics["time/step_s"] = time.monotonic() - started
    metrics["time/verification_s"] = rollouts.judging_s
    metrics["time/publication_s"] = publication.seconds
    work = rollouts.seconds + rollouts.judging_s + update.seconds + publication.seconds
    metrics["time/other_s"] = metrics["time/step_s"] - work
    sampling = metrics["time/step_s"] if ports.ahead else rollouts.seconds  # ahead it goes on all the time
    metrics["rollout/tokens_per_s"] = tokens / max(sampling, 1e-9)
    return policy, metrics


def _rolled_out(
    settings: RunSettings,
    phase: Phase,
    ports: StepPorts,
    rollouts: Rollouts,
    policy: PolicyRef,
    stream: str,
    step: int,
) -> tuple[list[JudgedGroup], list[JudgedGroup], int]:
    """The groups that the step learns from; pilots that only chose among problems (`screening`); completions of refill.

    The groups of refill are among the first, those that it did not keep too.
    """
    course, pilots = ports.course, list[JudgedGroup]()
    more, roll_out = partial(course.more, phase, step, settings.seed), partial(rollouts.roll_out, policy)
    with span("ask"):
        problems = course.ask(phase, step, settings.seed)
    if settings.difficulty.screen.pilots:
        selected = course.selected(problems)
        others = [problem for problem in problems if problem not in selected]
        screened = _screened(settings, selected, more, roll_out, stream)
        problems, pilots = [*screened.problems, *others], screened.pilots
    judged = roll_out(problems, stream, course.allocate(problems, step))
    first = _completions(judged)
    if settings.objective.dynamic_sampling == "refill":
        judged = _refilled(settings, judged, more, roll_out, stream)
    return judged, pilots, _completions(judged) - first


def _screened(settings: RunSettings, selected: list[Problem], more: More, roll_out: RollOut, stream: str) -> Screened:
    """As many problems as were selected whose pilots were mixed, and all pilots."""
    limits = settings.difficulty.screen

    def pilot(problems: Sequence[Problem], suffix: str) -> list[JudgedGroup]:
        return roll_out(problems, f"{stream}/{suffix}", limits.pilots)

    return screen(selected, more, pilot, len(selected), limits.rounds)


def _refilled(
    settings: RunSettings, judged: list[JudgedGroup], more: More, roll_out: RollOut, stream: str
) -> list[JudgedGroup]:
    """The same with groups of other problems, until `rollout.groups` have a gradient (DAPO, arXiv 2503.14476).

    Each round asks as many as are missing; it ends after `objective.refill_rounds`, the first sampling included, or
    when every problem of the phase was asked. DAPO samples whole batches, and throws away what is too much.
    """
    for number in range(1, settings.objective.refill_rounds or REFILL_ROUNDS):
        missing = settings.rollout.groups - learned_groups(judged, settings.objective)
        asked = {group.group.problem.id for group in judged}
        problems = more(asked, missing) if missing > 0 else []
        if not problems:
            break
        judged = [*judged, *roll_out(problems, f"{stream}/refill-{number}", settings.rollout.group_size)]
    return judged


def _completions(judged: Sequence[JudgedGroup]) -> int:
    return sum(len(group.group.completions) for group in judged)


def publish(pool: RolloutPool, learner: Learner) -> PolicyRef:
    """The learner's policy of the moment, ready to be sampled from."""
    return PolicyRef(learner.composition, pool.publish(learner.weights()), learner.version)
