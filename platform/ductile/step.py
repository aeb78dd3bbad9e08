"""One RL step, and the ports that a run talks to. Runs and branches take the same steps."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from ductile.config import RunSettings
from ductile.contexts import ContextPool
from ductile.contexts.context import with_prefixes
from ductile.course import Course
from ductile.plan import Phase, ResolveDomain
from ductile.ports import (
    Brancher,
    DifficultyService,
    Judge,
    Learner,
    PolicyRef,
    RolloutPool,
    RunPool,
    Sampling,
    Store,
    Tracker,
)
from ductile.problem import JudgedGroup, Problem
from ductile.rl.statistics import group_statistics, learned_groups
from ductile.variants.base import Variant

REFILL_ROUNDS = 10
"""Most rounds of sampling in a step where none is set, as DAPO's `max_num_gen_batches`."""


@dataclass(frozen=True)
class StepPorts:
    """What a step talks to."""

    pool: RolloutPool
    learner: Learner
    difficulty: DifficultyService
    judge: Judge
    course: Course
    contexts: ContextPool


@dataclass(frozen=True)
class Ports(StepPorts):
    """Everything that the loop talks to."""

    pool: RunPool
    tracker: Tracker
    store: Store
    resolve: ResolveDomain
    brancher: Brancher


def train_step(
    settings: RunSettings,
    variant: Variant,
    phase: Phase,
    ports: StepPorts,
    policy: PolicyRef,
    stream: str,
    step: int,
    budget: dict[str, int],
) -> tuple[PolicyRef, dict[str, float]]:
    """Ask, sample, judge, update, publish, observe: one RL step. Returns the new policy and the step's metrics."""
    started = time.monotonic()
    evolved, spent = ports.contexts.evolve(policy, phase, step, stream)
    judged, seconds = _rollouts(settings, ports, policy, ports.course.ask(phase, step, settings.seed), stream)
    if settings.objective.dynamic_sampling == "refill":
        judged, seconds = _refilled(settings, phase, ports, policy, stream, step, judged, seconds)
    members = len(policy.composition.members)  # of the policy that sampled: the update may compose another
    groups = [group.group for group in judged]
    metrics = evolved | group_statistics(ports.course.own(judged), settings.objective)
    metrics |= ports.learner.update(variant.batch(judged, settings, ports.learner.penalties(judged)))
    policy = publish(ports.pool, ports.learner)
    metrics |= ports.course.observe(judged, step)
    ports.contexts.observe(judged)
    tokens = sum(len(completion.tokens) for group in groups for completion in group.completions)
    of_step = {
        "completions": sum(len(group.completions) for group in groups),
        "sampled_tokens": tokens,
        "forward_tokens": tokens * members,
        "learner_forward_tokens": int(metrics["learner/forward_tokens"]),
        "trained_tokens": int(metrics["learner/tokens"]),
    }
    owed = ports.learner.settle()
    for name, value in ((name, value + spent.get(name, 0) + owed.get(name, 0)) for name, value in of_step.items()):
        budget[name] = budget.get(name, 0) + value
        metrics[f"budget/{name}"] = float(budget[name])
    if budget["sampled_tokens"]:
        passed = budget["forward_tokens"] + budget["learner_forward_tokens"]
        metrics["budget/forward_per_token"] = passed / budget["sampled_tokens"]
    metrics["rollout/tokens"] = float(tokens)  # replayed ones too, which are in no other of these statistics
    metrics["rollout/seconds"] = seconds
    metrics["rollout/tokens_per_s"] = tokens / max(seconds, 1e-9)
    metrics["time/step_s"] = time.monotonic() - started
    return policy, metrics


def _rollouts(
    settings: RunSettings, ports: StepPorts, policy: PolicyRef, problems: Sequence[Problem], stream: str
) -> tuple[list[JudgedGroup], float]:
    """The problems' completions with their verdicts, and the seconds that sampling took."""
    rollout, started = settings.rollout, time.monotonic()
    asked = with_prefixes(ports.contexts.ask(problems, stream), ports.learner.prefixes())
    samples = rollout.group_size // (settings.variant.contexts or 1)
    sampling = Sampling(settings.seed, stream, samples, rollout.max_tokens, rollout.temperature, rollout.top_p)
    groups = ports.pool.generate(policy, asked, sampling)
    seconds = time.monotonic() - started
    return ports.judge.judge(groups), seconds


def _refilled(
    settings: RunSettings,
    phase: Phase,
    ports: StepPorts,
    policy: PolicyRef,
    stream: str,
    step: int,
    judged: list[JudgedGroup],
    seconds: float,
) -> tuple[list[JudgedGroup], float]:
    """The same with groups of other problems, until `rollout.groups` have a gradient (DAPO, arXiv 2503.14476).

    Each round asks as many as are missing; it ends after `objective.refill_rounds`, the first sampling included, or
    when every problem of the phase was asked. DAPO samples whole batches, and throws away what is too much.
    """
    for number in range(1, settings.objective.refill_rounds or REFILL_ROUNDS):
        missing = settings.rollout.groups - learned_groups(judged, settings.objective)
        asked = {group.group.problem.id for group in judged}
        problems = ports.course.more(phase, step, settings.seed, asked, missing) if missing > 0 else []
        if not problems:
            break
        others, more = _rollouts(settings, ports, policy, problems, f"{stream}/refill-{number}")
        judged, seconds = [*judged, *others], seconds + more
    return judged, seconds


def publish(pool: RolloutPool, learner: Learner) -> PolicyRef:
    """The learner's policy of the moment, ready to be sampled from."""
    return PolicyRef(learner.composition, pool.publish(learner.weights()), learner.version)
