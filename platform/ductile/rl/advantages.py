"""Advantages of a step: how much better each completion did than its baseline, and how strongly that counts.

With the G judged completions of a problem, rewards r_i, mean r, sample standard deviation s (unbiased, as in verl and
OpenRLHF), lengths l_i in tokens:

    std              (r_i - r) / (s + 1e-6)               GRPO, arXiv 2402.03300 eq. 4 (outcome supervision)
    no_std            r_i - r                             Dr.GRPO, arXiv 2503.20783
    leave_one_out     G / (G - 1) * (r_i - r)             RLOO, arXiv 2402.14740: baseline is the mean of the others
    batch_std        (r_i - r) / (s_batch + 1e-6)         Lite-PPO, arXiv 2508.08221: s of all rewards
    batch_whitened   (r_i - r - m) / sqrt(v + 1e-8)       REINFORCE++ baseline, arXiv 2501.03262; m, v: mean, variance
                                                          of r_i - r over the step's tokens, as in verl and OpenRLHF
    length_weighted   r_i - sum(l r) / sum(l)             OPO, arXiv 2505.23585
    best_of_group     r_max - r_second for the best, 0    GRPO for pass@k, arXiv 2503.19595, as in verl without its std
    psr, nsr          r_i;  r_i - 1                       arXiv 2506.01347: from successes alone; from failures alone
    w_reinforce       0.1 r_i for a success, else -1      arXiv 2506.01347, as in its code

And what tames a lone success: a floor under s or a prior on it, less weight for a group whose pass rate is near 0 or 1,
no weight for the successes of a group that has too few, a cap.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ductile.config import ObjectiveSettings
from ductile.problem import SUCCESS

Array = NDArray[np.float64]

EPSILON, VARIANCE_EPSILON = 1e-6, 1e-8
"""Added to a standard deviation and to a variance, as in verl."""

PRIOR_STD = 0.5
"""Standard deviation that `std_prior` pulls to: the largest of a binary reward."""

POSITIVE_WEIGHT = 0.1
"""Weight of the successes in W-REINFORCE where none is set (arXiv 2506.01347)."""


def step_advantages(
    rewards: Sequence[Array],
    lengths: Sequence[NDArray[np.int64]],
    settings: ObjectiveSettings,
    penalties: Sequence[Array] | None = None,
) -> list[Array]:
    """Advantages of all groups of a step, a group being all completions of one problem.

    rewards: for each group [completion] float64, NaN where a completion could not be judged; those count in no mean
    and get NaN back. lengths: [completion] int64, tokens. penalties: [completion], taken off the rewards; what counts
    as a success is said by the rewards themselves. A group that dynamic sampling leaves out gets zeros and counts in no
    statistic of the step. Raises `ValueError` for an unknown kind.
    """
    judged = [~np.isnan(group) for group in rewards]
    taken = penalties if penalties is not None else [np.zeros(len(group)) for group in rewards]
    counted = [not out for out in left_out(rewards, lengths, settings)]
    known = [group[mask] for group, mask in zip(rewards, judged, strict=True)]
    shaped = [(group - off)[mask] for group, off, mask in zip(rewards, taken, judged, strict=True)]
    tokens = [length[mask] for length, mask in zip(lengths, judged, strict=True)]
    scores = [_scores(*group, settings) for group in zip(known, shaped, tokens, strict=True)]
    scaled = _scaled(scores, shaped, tokens, counted, settings.advantage)
    advantages = []
    for group, mask, raw, values, counts in zip(rewards, judged, known, scaled, counted, strict=True):
        values = values * _trust(raw, settings) if counts else np.zeros(len(raw))
        if settings.advantage_cap is not None:
            values = np.clip(values, -settings.advantage_cap, settings.advantage_cap)
        whole = np.full(group.shape, np.nan)
        whole[mask] = values
        advantages.append(whole)
    return advantages


def silent(rewards: Sequence[Array], lengths: Sequence[NDArray[np.int64]], settings: ObjectiveSettings) -> list[bool]:
    """For each group, whether its rewards give no gradient. For a kind with a baseline: whether all are equal."""
    result = []
    for group, length in zip(rewards, lengths, strict=True):
        judged = ~np.isnan(group)
        known = group[judged]
        result.append(not np.any(_scores(known, known, length[judged], settings) * _trust(known, settings)))
    return result


def left_out(rewards: Sequence[Array], lengths: Sequence[NDArray[np.int64]], settings: ObjectiveSettings) -> list[bool]:
    """For each group, whether dynamic sampling (DAPO, arXiv 2503.14476) leaves it out of the step."""
    if settings.dynamic_sampling == "off":
        return [False] * len(rewards)
    return silent(rewards, lengths, settings)


def _scores(known: Array, shaped: Array, lengths: NDArray[np.int64], settings: ObjectiveSettings) -> Array:
    """Advantages of the judged completions of one group, before what depends on the other groups.

    known: their rewards; shaped: less the penalties.
    """
    kind, count = settings.advantage, len(shaped)
    if kind == "psr":
        return shaped
    if kind == "nsr":
        return shaped - 1
    if kind == "w_reinforce":
        weight = POSITIVE_WEIGHT if settings.positive_weight is None else settings.positive_weight
        return np.where(known > SUCCESS, weight * known, -1.0) - (known - shaped)
    # Exact zeros: there is no baseline for one, and the mean of equal floats can be off by one rounding.
    if count < 2 or shaped.min() == shaped.max():
        return np.zeros(count)
    centred: Array = shaped - shaped.mean()
    if kind == "std":
        return centred / (_group_std(shaped, settings) + EPSILON)
    if kind == "leave_one_out":
        return centred * count / (count - 1)
    if kind == "length_weighted":
        return shaped - np.average(shaped, weights=lengths)
    if kind == "best_of_group":
        best, second = np.sort(shaped)[::-1][:2]
        return np.where(np.arange(count) == shaped.argmax(), best - second, 0.0)
    if kind in ("no_std", "batch_std", "batch_whitened"):
        return centred
    raise ValueError(f"advantage: unknown kind {kind!r}")


def _group_std(rewards: Array, settings: ObjectiveSettings) -> float:
    """The group's standard deviation, its variance averaged with the prior's (empirical Bayes), not below the floor."""
    std, count, prior = float(rewards.std(ddof=1)), len(rewards), settings.std_prior
    if prior:
        std = float(np.sqrt((count * std**2 + prior * PRIOR_STD**2) / (count + prior)))
    return max(std, settings.std_floor)


def _scaled(
    scores: Sequence[Array],
    rewards: Sequence[Array],
    lengths: Sequence[NDArray[np.int64]],
    counted: Sequence[bool],
    kind: str,
) -> list[Array]:
    """The scores by the deviation of the step, for the kinds that have one. Only counted groups are in it."""
    if kind not in ("batch_std", "batch_whitened") or not any(counted):
        return list(scores)
    if kind == "batch_std":
        known = np.concatenate([group for group, counts in zip(rewards, counted, strict=True) if counts])
        std = known.std(ddof=1) if len(known) > 1 else 0.0
        return [group / (std + EPSILON) for group in scores]
    centred = np.concatenate([group for group, counts in zip(scores, counted, strict=True) if counts])
    tokens = np.concatenate([length for length, counts in zip(lengths, counted, strict=True) if counts])
    total = tokens.sum()
    if total < 2:
        return [np.zeros(len(group)) for group in scores]
    mean = (tokens * centred).sum() / total
    variance = (tokens * (centred - mean) ** 2).sum() / (total - 1)
    return [(group - mean) / np.sqrt(variance + VARIANCE_EPSILON) for group in scores]


def _trust(known: Array, settings: ObjectiveSettings) -> Array:
    """[completion] factors on a group's advantages: how far its successes are to be trusted.

    Confidence shrink: 4 p (1 - p), with p = (k + 1) / (G + 2) the posterior mean of the pass rate under Beta(1, 1).
    """
    succeeded = known > SUCCESS
    k = int(succeeded.sum())
    factors = np.where(succeeded & (k < settings.min_successes), 0.0, 1.0)
    if settings.confidence_shrink:
        p = (k + 1) / (len(known) + 2)
        factors = factors * 4 * p * (1 - p)
    return factors
