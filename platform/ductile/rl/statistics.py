"""What one step's completions looked like: the `rollout/*` metrics, from verdicts alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from ductile.metrics import segment
from ductile.problem import SHORTCUTS, SUCCESS, JudgedGroup
from ductile.rl.advantages import group_advantages


def group_statistics(judged: Sequence[JudgedGroup], advantage: str) -> dict[str, float]:
    """Metrics by name. Completions that could not be judged count in lengths and tokens only.

    advantage: the kind of advantage, for `rollout/advantage_mass/k_<k>`. Groups with no judged completion are in no
    share of groups; a step in which nothing could be judged has neither pass rate nor shares.
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
    return metrics | _by_successes(judged, advantage)


def _by_successes(judged: Sequence[JudgedGroup], advantage: str) -> dict[str, float]:
    groups = [rewards for group in judged if not np.isnan(rewards := group.rewards).all()]
    successes = [int((rewards > SUCCESS).sum()) for rewards in groups]
    mass = [float(np.nansum(np.abs(group_advantages(rewards, advantage)))) for rewards in groups]
    metrics = {"rollout/silent_share": float(np.mean([value == 0 for value in mass]))}
    for k, count in Counter(successes).items():
        metrics[f"rollout/successes/k_{k}"] = count / len(groups)
    total = sum(mass)
    if total:
        for k in sorted(set(successes)):
            share = sum(m for m, s in zip(mass, successes, strict=True) if s == k) / total
            metrics[f"rollout/advantage_mass/k_{k}"] = share
    return metrics
