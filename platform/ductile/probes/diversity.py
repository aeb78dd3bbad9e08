"""How many ways the policy has: pass@k, maj@k, distinct right solutions, token entropy.

n completions of a problem, c of them right. pass@k is the chance that one of k drawn without replacement is right, in
its unbiased form 1 - C(n - c, k) / C(n, k) (Chen et al. 2021, arXiv 2107.03374, eq. 1). maj@k is the chance that the
answer which most of k completions state is right (Wang et al. 2023, arXiv 2203.11171), a tie shared out among its
answers; completions that state no answer vote for nothing, and no vote at all is wrong. pass@k - pass@1 is what the
policy can still find but does not prefer; RL that sharpens closes it from above.

Completions are sampled as the rollouts are, `probe.diversity.samples` of each problem, on a stream of their own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.special import comb

from ductile.probes.base import ProbeContext, ProbeResult
from ductile.probes.entropy import token_entropy
from ductile.probes.evaluation import Cell, cells, macro_mean, present
from ductile.problem import SUCCESS, JudgedGroup

STREAM = "probe/diversity"

DRAWS = 200
"""Subsets that maj@k is averaged over."""


class DiversityProbe:
    """`diversity/*`, on the prior skills and on the plan's phases."""

    name = "diversity"
    version = 1

    def measure(self, context: ProbeContext) -> ProbeResult:
        wanted = context.settings.diversity
        sampling = replace(context.sampling(context.rollout.top_p, STREAM), samples=wanted.samples)
        measured = [*cells(context, "prior"), *cells(context, "new")]
        asked = {id(cell): list(cell.problems[: wanted.problems]) for cell in measured}
        judged = iter(context.judged([p for cell in measured for p in asked[id(cell)]], sampling))
        groups = {id(cell): [next(judged) for _ in asked[id(cell)]] for cell in measured}
        ks = powers(wanted.samples)
        rows = [_row(cell, groups[id(cell)], ks, context.seed) for cell in measured]
        metrics: dict[str, float | None] = {}
        for kind in ("prior", "new"):
            of_kind = [row for row in rows if row["kind"] == kind]
            for k in ks:
                metrics[f"diversity/{kind}/pass_at_{k}"] = macro_mean([row[f"pass_at_{k}"] for row in of_kind])
                metrics[f"diversity/{kind}/maj_at_{k}"] = macro_mean([row[f"maj_at_{k}"] for row in of_kind])
            for name in ("distinct_right", "distinct_share"):
                metrics[f"diversity/{kind}/{name}"] = macro_mean([row[name] for row in of_kind])
            sampled = [group.group for cell in measured if cell.kind == kind for group in groups[id(cell)]]
            metrics[f"diversity/{kind}/token_entropy"] = token_entropy(context, sampled) if sampled else None
        return ProbeResult(present(metrics), {"diversity": rows})


def powers(samples: int) -> list[int]:
    """1, 2, 4, ... and the number of samples itself.

    >>> powers(12)
    [1, 2, 4, 8, 12]
    """
    return sorted({*(2**i for i in range(samples.bit_length()) if 2**i <= samples), samples})


def pass_at_k(completions: int, right: int, k: int) -> float:
    """1 - C(n - c, k) / C(n, k). Raises ValueError when k is more than the completions."""
    if k > completions:
        raise ValueError(f"pass@{k} of {completions} completions is not defined")
    return float(1 - comb(completions - right, k, exact=True) / comb(completions, k, exact=True))


def majority_at_k(answers: Sequence[str | None], right: Sequence[bool], k: int, seed: int) -> float:
    """maj@k of one problem, averaged over `DRAWS` subsets, or over the only one there is.

    answers: [completion], None where none is stated; right: [completion]. Two completions with the same answer may be
    judged differently (the format counts too): an answer is as right as the share of its completions in the subset.
    """
    if k > len(answers):
        raise ValueError(f"maj@{k} of {len(answers)} completions is not defined")
    rng = np.random.Generator(np.random.Philox(seed))
    draws = 1 if k == len(answers) else DRAWS
    return float(np.mean([_vote(answers, right, rng.permutation(len(answers))[:k]) for _ in range(draws)]))


def _vote(answers: Sequence[str | None], right: Sequence[bool], chosen: Sequence[int] | np.ndarray[Any, Any]) -> float:
    votes = Counter(answer for i in chosen if (answer := answers[i]) is not None)
    if not votes:
        return 0.0
    most = max(votes.values())
    return float(np.mean([right[i] for i in chosen if votes.get(answers[i] or "") == most and answers[i] is not None]))


def _row(cell: Cell, groups: Sequence[JudgedGroup], ks: Sequence[int], seed: int) -> dict[str, Any]:
    """A cell's means over problems of which at least `k` completions could be judged."""
    known = [_judged(group) for group in groups]
    row: dict[str, Any] = {"kind": cell.kind, "skill": cell.skill, "level": cell.level, "problems": len(groups)}
    for k in ks:
        enough = [(answers, right) for _, answers, right in known if len(right) >= k]
        row[f"pass_at_{k}"] = _mean([pass_at_k(len(right), sum(right), k) for _, right in enough])
        row[f"maj_at_{k}"] = _mean([majority_at_k(answers, right, k, seed) for answers, right in enough])
    solutions = [[text for text, ok in zip(texts, right, strict=True) if ok] for texts, _, right in known]
    solved = [texts for texts in solutions if texts]
    row["distinct_right"] = _mean([float(len(set(texts))) for texts in solutions])
    row["distinct_share"] = _mean([len(set(texts)) / len(texts) for texts in solved])
    return row


def _judged(group: JudgedGroup) -> tuple[list[str], list[str | None], list[bool]]:
    """Text, answer and whether it is right, of each completion that could be judged."""
    pairs = zip(group.group.completions, group.verdicts, strict=True)
    known = [(c.text, v.answer, v.reward > SUCCESS) for c, v in pairs if v.reward is not None]
    return [text for text, _, _ in known], [answer for _, answer, _ in known], [right for *_, right in known]


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
