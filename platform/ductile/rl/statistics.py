"""What one step's completions looked like: the `rollout/*` metrics, from verdicts alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from ductile.config import ObjectiveSettings
from ductile.metrics import segment
from ductile.problem import SHORTCUTS, SUCCESS, JudgedGroup, by_problem, pooled_lengths, pooled_rewards
from ductile.rl.advantages import left_out, silent, step_advantages


def group_statistics(judged: Sequence[JudgedGroup], objective: ObjectiveSettings) -> dict[str, float]:
    """Metrics by name. Completions that could not be judged count in lengths and tokens only.

    objective: makes the advantages for `rollout/advantage_mass/k_<k>`. A group is all completions of a problem. Groups
    with no judged completion are in no share of groups; a step in which nothing could be judged has neither pass rate
    nor shares.
    """
    completions = [completion for group in judged for completion in group.group.completions]
    verdicts = [verdict for group in judged for verdict in group.verdicts]
    known = [verdict for verdict in verdicts if verdict.reward is not None]
    lengths = np.array([len(completion.tokens) for completion in completions])
    metrics = {
        "rollout/length_mean": float(lengths.mean()),
        "rollout/length_min": float(lengths.min()),
        "rollout/length_max": float(lengths.max()),
        "rollout/tokens": float(lengths.sum()),
        "rollout/truncated_share": float(np.mean([not completion.finished for completion in completions])),
        "rollout/unjudged_share": 1 - len(known) / len(verdicts),
    }
    if not known:
        return metrics
    metrics["rollout/pass_rate"] = float(np.mean([v.reward > SUCCESS for v in known if v.reward is not None]))
    metrics["rollout/shortcut_share"] = float(np.mean([verdict.shortcut for verdict in known]))
    for kind in SHORTCUTS:
        metrics[f"rollout/shortcut/{kind}"] = float(np.mean([verdict.shortcut_kind == kind for verdict in known]))
    for name, count in Counter(segment(verdict.format) for verdict in known).items():
        metrics[f"rollout/format/{name}"] = count / len(known)
    return metrics | _by_successes(judged, objective)


def learned_groups(judged: Sequence[JudgedGroup], objective: ObjectiveSettings) -> int:
    """How many groups dynamic sampling keeps, a group being all completions of a problem."""
    pools = by_problem(judged)
    groups, lengths = [pooled_rewards(pool) for pool in pools], [pooled_lengths(pool) for pool in pools]
    return left_out(groups, lengths, objective).count(False)


def learned_completions(judged: Sequence[JudgedGroup], objective: ObjectiveSettings) -> int:
    """How many completions belong to problems whose group has a gradient."""
    pools = by_problem(judged)
    groups, lengths = [pooled_rewards(pool) for pool in pools], [pooled_lengths(pool) for pool in pools]
    return sum(
        len(rewards) for rewards, mute in zip(groups, silent(groups, lengths, objective), strict=True) if not mute
    )


def _by_successes(judged: Sequence[JudgedGroup], objective: ObjectiveSettings) -> dict[str, float]:
    pools = [pool for pool in by_problem(judged) if not np.isnan(pooled_rewards(pool)).all()]
    groups, lengths = [pooled_rewards(pool) for pool in pools], [pooled_lengths(pool) for pool in pools]
    successes = [int((rewards > SUCCESS).sum()) for rewards in groups]
    mass = [float(np.nansum(np.abs(advantages))) for advantages in step_advantages(groups, lengths, objective)]
    metrics = {"rollout/silent_share": float(np.mean(silent(groups, lengths, objective)))}
    if objective.dynamic_sampling != "off" and (learned := learned_groups(judged, objective)):
        metrics["rollout/refill_factor"] = len(by_problem(judged)) / learned
    for k, count in Counter(successes).items():
        metrics[f"rollout/successes/k_{k}"] = count / len(groups)
    total = sum(mass)
    if total:
        for k in sorted(set(successes)):
            share = sum(m for m, s in zip(mass, successes, strict=True) if s == k) / total
            metrics[f"rollout/advantage_mass/k_{k}"] = share
    return metrics
