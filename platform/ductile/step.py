"""One RL step, and the ports that a run talks to. Runs and branches take the same steps."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ductile.config import RunSettings
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
from ductile.problem import SUCCESS, JudgedGroup
from ductile.rl.statistics import group_statistics
from ductile.variants.base import Variant


@dataclass(frozen=True)
class StepPorts:
    """What a step talks to."""

    pool: RolloutPool
    learner: Learner
    difficulty: DifficultyService
    judge: Judge


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
    """Select, sample, judge, update, publish, observe: one RL step. Returns the new policy and the step's metrics."""
    rollout, started = settings.rollout, time.monotonic()
    ids = ports.difficulty.select(rollout.groups, step, settings.seed)
    problems = [phase.pool[id] for id in ids]
    sampling = Sampling(
        settings.seed, stream, rollout.group_size, rollout.max_tokens, rollout.temperature, rollout.top_p
    )
    groups = ports.pool.generate(policy, problems, sampling)
    sampled = time.monotonic()
    judged = ports.judge.judge(groups)
    metrics = group_statistics(judged, settings.objective.advantage)
    metrics |= ports.learner.update(variant.batch(judged, settings))
    policy = publish(ports.pool, ports.learner)
    metrics |= ports.difficulty.observe(_successes(judged), step)
    tokens = sum(len(completion.tokens) for group in groups for completion in group.completions)
    spent = {
        "completions": sum(len(group.completions) for group in groups),
        "sampled_tokens": tokens,
        "forward_tokens": tokens * len(policy.composition.members),
        "trained_tokens": int(metrics["learner/tokens"]),
    }
    for name, value in spent.items():
        budget[name] = budget.get(name, 0) + value
        metrics[f"budget/{name}"] = float(budget[name])
    metrics["rollout/seconds"] = sampled - started
    metrics["rollout/tokens_per_s"] = tokens / max(sampled - started, 1e-9)
    metrics["time/step_s"] = time.monotonic() - started
    return policy, metrics


def publish(pool: RolloutPool, learner: Learner) -> PolicyRef:
    """The learner's policy of the moment, ready to be sampled from."""
    return PolicyRef(learner.composition, pool.publish(learner.weights()), learner.version)


def _successes(judged: Sequence[JudgedGroup]) -> dict[str, tuple[int, int]]:
    """Problem id -> (successes, judged completions); a reward above one half is a success."""
    counts = {}
    for group in judged:
        rewards = group.rewards[~np.isnan(group.rewards)]
        counts[group.group.problem.id] = (int((rewards > SUCCESS).sum()), len(rewards))
    return counts
