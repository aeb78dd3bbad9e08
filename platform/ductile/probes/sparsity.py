"""Sparsity under shift: does the hidden state of a prompt's last token get sparser as the prompt gets harder?

arXiv 2603.03415 says so of the last layer; the effect is below 1% in models trained from scratch, and levels are few,
so what counts is the item: Spearman's correlation of each measure with the item's pass rate, over all items of a skill
and within its levels, and how well the measure tells items in the band of learnable ones from the others (AUC). All
with 95% bootstrap intervals over items. A level's z is the distance of its mean from the lowest level's, in standard
deviations of the lowest level's items.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ductile.config import SkillSettings
from ductile.inspected import Inspected, Rows
from ductile.metrics import segment
from ductile.probes.association import Values, auc, resamples, spearman, with_interval, within_spearman
from ductile.probes.base import ProbeContext, ProbeResult
from ductile.probes.evaluation import present
from ductile.probes.sparsity_measures import MEASURES
from ductile.problem import SUCCESS

STREAM = "probe/sparsity"
"""Stream of the completions that the pass rates are of."""

SHOWN = ("energy_top10_squared", "hoyer", "l1")
"""Measures whose numbers at the last layer are metrics; all of them are in the tables."""


@dataclass(frozen=True)
class Items:
    """Items of one skill, level by level.

    rates: [item] pass rate;  levels: level -> its items;  states: [item, layer, width] of the prompt's last token.
    """

    rates: Values
    levels: dict[int, slice]
    states: NDArray[np.float32]


class SparsityProbe:
    """`sparsity/*` on the skills of `probe.shift`; nothing without any."""

    name = "sparsity"
    version = 1

    def measure(self, context: ProbeContext) -> ProbeResult:
        metrics: dict[str, float | None] = {}
        relations: list[dict[str, Any]] = []
        shifts: list[dict[str, Any]] = []
        for name, skill in context.settings.shift.items():
            items = sample_items(context, name, skill)
            if not len(items.rates):
                continue
            last = items.states.shape[1] - 1
            for layer in range(last + 1):
                for measure, function in MEASURES.items():
                    values = function(items.states[:, layer].astype(np.float64))
                    if not np.isfinite(values).all():
                        continue
                    place = {"skill": segment(name), "layer": layer, "measure": measure}
                    relation = relate(values, items, context.settings.sparsity.band, context.seed)
                    relations.append({**place, "items": len(values), **relation})
                    shifts += [{**place, **row} for row in shift(values, items)]
                    if layer == last and measure in SHOWN:
                        for kind in ("spearman", "spearman_within", "auc"):
                            metrics[f"sparsity/{segment(name)}/{kind}/{measure}"] = relation[kind]
        if not relations:
            return ProbeResult()
        return ProbeResult(present(metrics), {"sparsity": relations, "sparsity_levels": shifts})


def sample_items(context: ProbeContext, name: str, skill: SkillSettings) -> Items:
    """Pass rates of the policy on the skill's evaluation problems, and what their prompts look like inside."""
    settings = context.settings.sparsity
    domain = context.resolve(skill.domain, f"probe.shift.{name}.domain")
    levels = sorted(skill.levels)
    problems = [p for level in levels for p in domain.problems(level, "eval", settings.problems, context.seed)]
    sampling = replace(context.sampling(context.rollout.top_p, STREAM), samples=settings.samples)
    judged = [group for group in context.judged(problems, sampling) if np.isfinite(group.rewards).any()]
    rates = [float((rewards > SUCCESS).sum() / np.isfinite(rewards).sum()) for rewards in (g.rewards for g in judged)]
    counts = [sum(group.group.problem.level == level for group in judged) for level in levels]
    slices = [slice(start, stop) for start, stop in pairwise(accumulate(counts, initial=0))]
    rows = [(group.group.prompt_tokens, np.zeros(0, np.int32)) for group in judged]
    if not rows:
        return Items(np.zeros(0), {}, np.zeros((0, 0, 0), np.float32))
    states = context.pool.inspect(context.policy, partial(prompt_states, rows=rows))
    return Items(
        np.array(rates), {level: s for level, s in zip(levels, slices, strict=True) if s.stop > s.start}, states
    )


def prompt_states(policy: Inspected, rows: Rows) -> NDArray[np.float32]:
    """[row, layer, width]: the hidden states of each row's last token."""
    parts = []
    for chunk in policy.hidden_states(rows):
        last = chunk.mask.sum(dim=1) - 1
        each = torch.arange(len(last), device=last.device)
        parts.append(chunk.states[:, each, last].transpose(0, 1).cpu().numpy())
    return np.concatenate(parts)


def relate(values: Values, items: Items, band: tuple[float, ...], seed: int) -> dict[str, float | None]:
    """How one number per item goes with the pass rate. values: [item]."""
    rates, strata, count = items.rates, list(items.levels.values()), len(values)
    inside = (rates >= band[0]) & (rates <= band[1])
    drawn, in_levels = (resamples(strata, seed, stratified) for stratified in (False, True))
    return {
        **with_interval("spearman", lambda i: spearman(values[i], rates[i]), count, drawn),
        **with_interval("spearman_within", lambda i: within_spearman(values[i], rates[i], strata), count, in_levels),
        **with_interval("auc", lambda i: auc(values[i], inside[i]), count, drawn),
    }


def shift(values: Values, items: Items) -> list[dict[str, Any]]:
    """A row for each level: mean, pass rate, and z against the items of the lowest level. values: [item]."""
    lowest = values[next(iter(items.levels.values()))]
    deviation = float(lowest.std(ddof=1)) if len(lowest) > 1 else 0.0
    return [
        {
            "level": level,
            "items": s.stop - s.start,
            "pass_rate": float(items.rates[s].mean()),
            "mean": float(values[s].mean()),
            "z": float(values[s].mean() - lowest.mean()) / deviation if deviation > 0 else None,
        }
        for level, s in items.levels.items()
    ]
