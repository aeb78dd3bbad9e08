"""One RL step, and the ports that a run talks to. Runs and branches take the same steps."""

from __future__ import annotations

import time
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
    Sampling,
    Store,
    Tracker,
)
from ductile.rl.statistics import group_statistics
from ductile.variants.base import Variant


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
    rollout, started = settings.rollout, time.monotonic()
    evolved, spent = ports.contexts.evolve(policy, phase, step, stream)
    problems = ports.course.ask(phase, step, settings.seed)
    asked = with_prefixes(ports.contexts.ask(problems, stream), ports.learner.prefixes())
    samples = rollout.group_size // (settings.variant.contexts or 1)
    sampling = Sampling(settings.seed, stream, samples, rollout.max_tokens, rollout.temperature, rollout.top_p)
    groups = ports.pool.generate(policy, asked, sampling)
    sampled = time.monotonic()
    judged = ports.judge.judge(groups)
    metrics = evolved | group_statistics(ports.course.own(judged), settings.objective.advantage)
    metrics |= ports.learner.update(variant.batch(judged, settings, ports.learner.penalties(judged)))
    policy = publish(ports.pool, ports.learner)
    metrics |= ports.course.observe(judged, step)
    ports.contexts.observe(judged)
    tokens = sum(len(completion.tokens) for group in groups for completion in group.completions)
    of_step = {
        "completions": sum(len(group.completions) for group in groups),
        "sampled_tokens": tokens,
        "forward_tokens": tokens * len(policy.composition.members),
        "trained_tokens": int(metrics["learner/tokens"]),
    }
    for name, value in ((name, value + spent.get(name, 0)) for name, value in of_step.items()):
        budget[name] = budget.get(name, 0) + value
        metrics[f"budget/{name}"] = float(budget[name])
    metrics["rollout/tokens"] = float(tokens)  # replayed ones too, which are in no other of these statistics
    metrics["rollout/seconds"] = sampled - started
    metrics["rollout/tokens_per_s"] = tokens / max(sampled - started, 1e-9)
    metrics["time/step_s"] = time.monotonic() - started
    return policy, metrics


def publish(pool: RolloutPool, learner: Learner) -> PolicyRef:
    """The learner's policy of the moment, ready to be sampled from."""
    return PolicyRef(learner.composition, pool.publish(learner.weights()), learner.version)
