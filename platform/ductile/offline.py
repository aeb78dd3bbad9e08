"""What is known of a phase's problems before it begins: the untouched base's outcomes, and a static difficulty."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from ductile.course.outcomes import successes
from ductile.difficulty.static import ScoreFile
from ductile.ports import PolicyRef, Store
from ductile.problem import JudgedGroup, Problem
from ductile.rollouts import Rollouts


def base_outcomes(
    rollouts: Rollouts, store: Store, problems: Sequence[Problem], base: PolicyRef, start: str, samples: int
) -> tuple[str, dict[str, tuple[int, int]], dict[str, int]]:
    """The base's (successes, judged completions) by problem id, measured once and kept for later runs.

    start: names the base and how it is sampled (`Identity.start`). Returns the key that it is kept under, the outcomes,
    and what they cost, which counts in every run that uses them, whichever measured.
    """
    ids = "\n".join(sorted(problem.id for problem in problems))
    key = f"offline-{start}-{hashlib.blake2b(ids.encode(), digest_size=8).hexdigest()}-{samples}"
    known = store.remember(key)
    if known is None:
        judged = rollouts.roll_out(base, problems, "offline", samples)
        known = {"outcomes": successes(judged), "spent": dict(rollout_cost(judged, base, "offline"))}
        store.keep(key, known)
    return key, {id: (wins, judged) for id, (wins, judged) in known["outcomes"].items()}, dict(known["spent"])


def static_difficulty(
    problems: Mapping[str, Problem], scores: ScoreFile | None, offline: Mapping[str, tuple[int, int]]
) -> list[float]:
    """Of each problem, from 0 to 1, the hardest: of the scores' file, else the base's failure rate, else the level.

    offline: the base's outcomes; empty where it was not measured. NaN where nothing could be judged.
    """
    if scores is not None:
        return scores.static_difficulty(list(problems))
    if offline:
        rates = (offline.get(id, (0, 0)) for id in problems)
        return [1 - wins / judged if judged else float("nan") for wins, judged in rates]
    own = np.fromiter((problem.level for problem in problems.values()), np.int64, len(problems))
    levels, places = np.unique(own, return_inverse=True)
    shares: list[float] = (places / max(len(levels) - 1, 1)).tolist()
    return shares


def rollout_cost(judged: Sequence[JudgedGroup], policy: PolicyRef, purpose: str) -> Counter[str]:
    """What rolling them out cost the budget, and apart how many completions had this purpose."""
    completions = [completion for group in judged for completion in group.group.completions]
    tokens = sum(len(completion.tokens) for completion in completions)
    return Counter(
        {
            "completions": len(completions),
            f"{purpose}_completions": len(completions),
            "sampled_tokens": tokens,
            "forward_tokens": tokens * len(policy.composition.members),
        }
    )
