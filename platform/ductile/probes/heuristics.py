"""Does a salient cue override the constraint that should decide? After arXiv 2603.29025.

Four cells {cue with or against B} x {constraint in force or not}, and minimal pairs on the cell where cue and
constraint conflict: the same item with its cue taken away, and with its constraint taken away (accounts of the paper
differ in which of the two they mean, so both are measured). Conservative bias = accuracy without the constraint minus
accuracy with it.

A sweep asks items at given cues for z in {0, 1} and fits logit P(B) = b0 + b1 c + b2 z, with c in [0, 1]. The heuristic
dominance ratio has two forms:

    logit      |b1| (c_max - c_min) / |b2|
    occlusion  |mean change of P(B) when the cue is taken away| / |the same for the constraint|

on the conflicting items. Completions are scored by their answers: P(B) is the share of B among those that answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ductile.probes.base import ProbeContext, ProbeResult
from ductile.probes.evaluation import honest, present
from ductile.probes.intervals import percentile_interval
from ductile.problem import SUCCESS, Problem, Split

STREAM = "probe/heuristics"

RIDGE = 0.1
"""Penalty RIDGE/2 * (b1^2 + b2^2): a policy that always follows one part separates the answers, and the likelihood
alone has no maximum."""

SMALLEST = 0.02
"""Smallest denominator of a dominance ratio, in logits or in probability; below it the ratio would be noise."""

NEWTON_STEPS = 50

BASE, NO_CUE, NO_CONSTRAINT = "base", "cue_removed", "constraint_removed"


@runtime_checkable
class PairedDomain(Protocol):
    """A domain of items with a cue in 0..99 and a constraint z, whose answers are A and B."""

    def items(self, level: int, split: Split, count: int, seed: int) -> Sequence[Any]:
        """Up to `count` items; `cue`, `z` and `suggested` (by the cue) say what each is, all combinations as often."""

    def at(self, item: Any, cue: int, z: int) -> Any:
        """The same item with another cue and constraint."""

    def problem(self, item: Any, cue: bool = True, constraint: bool = True) -> Problem:
        """The item as a problem, with its cue and its constraint or without one of them."""


class HeuristicsProbe:
    """`heuristic/*`; measures nothing while `probe.heuristics.domain` is empty."""

    name = "heuristics"
    version = 1

    def measure(self, context: ProbeContext) -> ProbeResult:
        settings = context.settings.heuristics
        if not settings.domain:
            return ProbeResult()
        domain = context.resolve(honest(settings.domain), "probe.heuristics.domain")
        assert isinstance(domain, PairedDomain)  # `checks.check` has refused the others
        metrics: dict[str, float | None] = {}
        tables: dict[str, list[dict[str, Any]]] = {"heuristic_cells": [], "heuristic_pairs": [], "heuristic_sweep": []}
        for level in settings.levels:
            generator = np.random.Generator(np.random.Philox(np.random.SeedSequence([context.seed, level])))
            cells, answers = _cells(context, domain, level)
            tables["heuristic_cells"] += cells
            pairs, row = _pairs(context, domain, level, generator)
            tables["heuristic_pairs"] += row
            sweep, rows = _sweep(context, domain, level, generator)
            tables["heuristic_sweep"] += rows
            metrics |= {f"heuristic/L{level}/{name}": value for name, value in (answers | pairs | sweep).items()}
        return ProbeResult(present(metrics), tables)


def fit_logistic(
    cue: NDArray[np.float64], z: NDArray[np.float64], b: NDArray[np.float64], n: NDArray[np.float64]
) -> NDArray[np.float64]:
    """b0, b1, b2 of logit P(B) = b0 + b1 cue + b2 z, by Newton's method (IRLS) with the ridge `RIDGE` on b1 and b2.

    cue, z: [point]; b, n: [..., point], answers B and all answers at each point; returns [..., 3].
    """
    design = np.stack([np.ones_like(cue), cue, z], axis=1)
    penalty = np.diag([1e-6, RIDGE, RIDGE])  # the intercept is free, but for all answers equal
    beta = np.zeros((*b.shape[:-1], 3))
    for _ in range(NEWTON_STEPS):
        p = 1 / (1 + np.exp(-(beta @ design.T)))
        gradient = (b - n * p) @ design - beta @ penalty
        curvature = np.einsum("pi,...p,pj->...ij", design, n * p * (1 - p), design) + penalty
        step = np.linalg.solve(curvature, gradient[..., None])[..., 0]
        # far from the optimum a full Newton step can overshoot where the curvature is nearly none
        beta = beta + step / np.maximum(1.0, np.abs(step).max(axis=-1, keepdims=True))
    return beta


def logit_dominance(beta: NDArray[np.float64], spread: float) -> NDArray[np.float64]:
    """|b1| * spread / |b2|, NaN where |b2| is below `SMALLEST`. beta: [..., 3]; returns [...]."""
    return _ratio(np.abs(beta[..., 1]) * spread, np.abs(beta[..., 2]))


def occlusion_dominance(
    base: NDArray[np.float64], no_cue: NDArray[np.float64], no_constraint: NDArray[np.float64]
) -> NDArray[np.float64]:
    """|mean P(B) change without the cue| / |the same without the constraint|, NaN where that is below `SMALLEST`.

    All: [..., item], P(B) of each item; returns [...].
    """
    cue = np.abs((no_cue - base).mean(axis=-1))
    return _ratio(cue, np.abs((no_constraint - base).mean(axis=-1)))


def _ratio(top: NDArray[np.float64], bottom: NDArray[np.float64]) -> NDArray[np.float64]:
    enough = bottom >= SMALLEST
    return np.where(enough, top / np.where(enough, bottom, 1.0), np.nan)


def _cells(
    context: ProbeContext, domain: PairedDomain, level: int
) -> tuple[list[dict[str, Any]], dict[str, float | None]]:
    """Accuracy in the four cells, and that of the cell where cue and constraint conflict."""
    settings = context.settings.heuristics
    items = domain.items(level, "eval", settings.items, context.seed)
    right, _ = _ask(context, [domain.problem(item) for item in items])
    rows, metrics = [], {}
    for side, suggested in (("with", "B"), ("against", "A")):
        for presence, z in (("present", 1), ("absent", 0)):
            chosen = [n for n, item in enumerate(items) if item.z == z and item.suggested == suggested]
            known = right[chosen][np.isfinite(right[chosen])]
            accuracy = float(known.mean()) if len(known) else None
            rows.append(
                {"level": level, "cue": side, "constraint": presence, "items": len(chosen), "accuracy": accuracy}
            )
            metrics[f"accuracy/cue_{side}/constraint_{presence}"] = accuracy
    return rows, metrics


def _pairs(
    context: ProbeContext, domain: PairedDomain, level: int, generator: np.random.Generator
) -> tuple[dict[str, float | None], list[dict[str, Any]]]:
    """The conflicting items as they are, without their cue and without their constraint."""
    settings = context.settings.heuristics
    items = [
        item
        for item in domain.items(level, "eval", 4 * settings.items, context.seed)
        if item.z == 1 and item.suggested == "A"
    ]
    if not items:
        return {}, []
    forms = {
        BASE: [domain.problem(item) for item in items],
        NO_CUE: [domain.problem(item, cue=False) for item in items],
        NO_CONSTRAINT: [domain.problem(item, constraint=False) for item in items],
    }
    all_right, all_b = _ask(context, [problem for problems in forms.values() for problem in problems])
    by_form = np.stack(np.split(all_right, len(forms)))  # [form, item, sample]
    # pairs with a completion that could not be judged are left out
    judged = np.asarray(np.isfinite(by_form).all(axis=(0, 2)))
    if not judged.any():
        return {}, []
    items = [item for item, known in zip(items, judged, strict=True) if known]
    right = dict(zip(forms, by_form[:, judged], strict=True))  # each: [item, sample]
    says_b = dict(zip(forms, np.stack(np.split(all_b, len(forms)))[:, judged], strict=True))
    accuracy = {form: values.mean(axis=1) for form, values in right.items()}
    strict = float(right[BASE].all(axis=1).mean())
    p_b = np.stack([_share(says_b[form]) for form in forms])  # [form, item]
    answered = np.isfinite(p_b).all(axis=0)
    p_b = p_b[:, answered]
    draws = generator.integers(0, len(items), (settings.bootstrap, len(items)))
    hdr, hdr_low, hdr_high = None, None, None
    if p_b.shape[1]:
        hdr = _finite(occlusion_dominance(*p_b))
        picks = generator.integers(0, p_b.shape[1], (settings.bootstrap, p_b.shape[1]))
        hdr_low, hdr_high = _interval(occlusion_dominance(*p_b[:, picks]))
    metrics = {
        "strict": strict,
        "conservative_bias": float((accuracy[NO_CONSTRAINT] - accuracy[BASE]).mean()),
        "cue_removed_gain": float((accuracy[NO_CUE] - accuracy[BASE]).mean()),
        "dominance_occlusion": hdr,
    }
    rows = []
    for form in forms:
        change = accuracy[form] - accuracy[BASE]
        low, high = percentile_interval(change[draws].mean(axis=1))
        rows.append(
            {
                "level": level,
                "form": form,
                "items": len(items),
                "samples": settings.samples,
                "accuracy": float(accuracy[form].mean()),
                "strict": float(right[form].all(axis=1).mean()),
                "change": float(change.mean()),
                "change_low": low,
                "change_high": high,
                "dominance_occlusion": hdr,
                "dominance_low": hdr_low,
                "dominance_high": hdr_high,
            }
        )
    return metrics, rows


def _sweep(
    context: ProbeContext, domain: PairedDomain, level: int, generator: np.random.Generator
) -> tuple[dict[str, float | None], list[dict[str, Any]]]:
    """P(B) at each cue with and without the constraint in force, the fit, and its dominance ratio."""
    settings = context.settings.heuristics
    items = domain.items(level, "eval", settings.sweep_items, context.seed)
    points = [(cue, z) for z in (0, 1) for cue in settings.cues]
    if not items:
        return {}, []
    _, says_b = _ask(context, [domain.problem(domain.at(item, cue, z)) for item in items for cue, z in points])
    shaped = says_b.reshape(len(items), len(points), -1)
    b, n = np.nansum(shaped, axis=2), np.isfinite(shaped).sum(axis=2).astype(np.float64)  # [item, point]
    if not n.sum():
        return {}, []
    cue, z = np.array([cue / 99 for cue, _ in points]), np.array([float(z) for _, z in points])
    spread = float(cue.max() - cue.min())
    beta = fit_logistic(cue, z, b.sum(axis=0), n.sum(axis=0))
    picks = generator.multinomial(len(items), np.full(len(items), 1 / len(items)), settings.bootstrap)
    drawn = fit_logistic(cue, z, picks @ b, picks @ n)
    hdr = _finite(logit_dominance(beta, spread))
    low, high = _interval(logit_dominance(drawn, spread))
    fit = {
        "intercept": float(beta[0]),
        "cue_slope": float(beta[1]),
        "constraint_effect": float(beta[2]),
        "dominance_logit": hdr,
        "dominance_low": low,
        "dominance_high": high,
    }
    rows = [
        {
            "level": level,
            "cue": cue_,
            "z": z_,
            "answers": int(n[:, column].sum()),
            "p_b": float(b[:, column].sum() / n[:, column].sum()) if n[:, column].sum() else None,
            **fit,
        }
        for column, (cue_, z_) in enumerate(points)
    ]
    return {"dominance_logit": hdr}, rows


def _ask(context: ProbeContext, problems: Sequence[Problem]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Whether each completion is right (NaN when not judged) and says B (NaN for neither). Both: [problem, sample]."""
    samples = context.settings.heuristics.samples
    if not problems:
        return np.zeros((2, 0, samples))[0], np.zeros((0, samples))
    sampling = replace(context.sampling(context.rollout.top_p, STREAM), samples=samples)
    judged = context.judged(problems, sampling)
    right = np.array(
        [[np.nan if v.reward is None else float(v.reward > SUCCESS) for v in group.verdicts] for group in judged],
        np.float64,
    )
    codes = {"A": 0.0, "B": 1.0}
    says_b = np.array([[codes.get(v.answer or "", np.nan) for v in group.verdicts] for group in judged], np.float64)
    return right, says_b


def _share(says_b: NDArray[np.float64]) -> NDArray[np.float64]:
    """[item]: the share of B among the answers of each item, NaN without any. says_b: [item, sample]."""
    count = np.isfinite(says_b).sum(axis=1)
    return np.where(count, np.nansum(says_b, axis=1) / np.maximum(count, 1), np.nan)


def _finite(value: NDArray[np.float64]) -> float | None:
    return float(value) if np.isfinite(value) else None


def _interval(values: NDArray[np.float64]) -> tuple[float | None, float | None]:
    """95% bootstrap interval; none unless nearly every draw had a ratio, else it would be that of the others."""
    known = values[np.isfinite(values)]
    return percentile_interval(known) if len(known) >= 0.95 * len(values) else (None, None)
