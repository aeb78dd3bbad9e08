"""Records with known numbers for the report's tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ductile.audit import Asked, audit_row
from ductile.difficulty.base import Estimates
from ductile.report.records import PhaseBand, RunRecord

BAND = PhaseBand("hard", 0, 10)


def make_boundary(
    index: int, step: int, prior: float, new: float = 0.1, forgetting: float | None = None
) -> dict[str, Any]:
    """A row as the loop writes it, with one prior skill of two formats and a branch curve."""
    metrics = {
        "retention/prior": prior,
        "retention/new": new,
        "format/length_prior": 20.0,
        "shortcut/prior": 0.1,
        "format/effective_prior": 2.0,
        "drift/kl_forward_base/prior": 0.2 * index,
        "drift/kl_reverse_base/prior": 0.1 * index,
        "plasticity/rl_reset/auc": 0.4,
        "plasticity/rl_reset/end": 0.6,
        "plasticity/rl_reset/auc_ratio": 1.0,
        "plasticity/rl_reset/silent_share": 0.25,
        "plasticity/sft_reset/auc_ratio": 0.95,
    }
    if forgetting is not None:
        metrics["retention/forgetting"] = forgetting
    tables = {
        "retention": [{"kind": "prior", "skill": "sort", "level": 3, "pass_rate": prior}],
        "formats": [
            {"kind": "prior", "skill": "sort", "format": "steps", "share": 0.75},
            {"kind": "prior", "skill": "sort", "format": "direct", "share": 0.25},
        ],
        "branch": [
            {"arm": "rl_reset", "seed": 0, "step": 0, "pass_rate": 0.0},
            {"arm": "rl_reset", "seed": 0, "step": 4, "pass_rate": 0.5},
            {"arm": "rl_reset", "seed": 1, "step": 0, "pass_rate": 0.2},
            {"arm": "rl_reset", "seed": 1, "step": 4, "pass_rate": 0.7},
            {"arm": "sft_reset", "seed": 0, "step": 0, "pass_rate": 0.1},
        ],
        "plasticity_verdict": [{"verdict": "learns" if index else "undecided"}],
    }
    return {"boundary": index, "step": step, "phase": "hard" if index else "base", "metrics": metrics, "tables": tables}


def make_record(
    variant: str = "parameter_only",
    plan: str = "guessable",
    seed: int = 0,
    before: float = 0.9,
    after: float = 0.2,
    status: str = "FINISHED",
) -> RunRecord:
    """One phase of ten steps: length halves at step 4, shortcuts and the fall are seen at step 5."""
    metrics = {
        "rollout/pass_rate": [(step, 0.1 * step) for step in range(1, 11)],
        "rollout/length_mean": [(step, 40.0 if step < 4 else 19.0) for step in range(1, 11)],
        "shortcut/prior": [(0, 0.1), (5, 0.4), (10, 0.6)],
        "rollout/silent_share": [(1, 0.2), (2, 0.4)],
        "retention/prior": [(0, before), (5, before - 0.3), (10, after)],
    }
    boundaries = [make_boundary(0, 0, before), make_boundary(1, 10, after, 0.5, before - after)]
    return RunRecord(f"{plan}-{variant}-{seed}-{status}", variant, plan, seed, status, metrics, boundaries, (BAND,))


def make_sequence(variant: str = "parameter_only", seed: int = 0, gain: float = 0.8) -> RunRecord:
    """Sort for ten steps, then sum for ten; sort is learned to 0.1 + gain and then loses 0.2."""
    bands = (PhaseBand("sort", 0, 10, "sort", (1,)), PhaseBand("sum", 10, 20, "sum", (2,)))
    steps = (0, 5, 10, 15, 20)
    metrics = {
        "retention_new/sort/L1": list(zip(steps, (0.1, 0.1 + gain / 2, 0.1 + gain, gain, gain - 0.1), strict=True)),
        "retention_new/sum/L2": list(zip(steps, (0.2, 0.2, 0.2, 0.6, 0.8), strict=True)),
        "drift/kl_reverse_base/new": [(step, 0.01 * step) for step in steps],
        "drift/kl_forward_base/new": [(step, 0.02 * step) for step in steps],
    }
    boundaries = [make_boundary(i, 10 * i, 0.9) for i in range(3)]
    boundaries[-1]["metrics"] |= {
        "retention/average": 0.75,
        "retention/learning": 0.85,
        "retention/backward_transfer": -0.2,
        "retention/forgetting_phases": 0.2,
    }
    return RunRecord(f"sequence-{variant}-{seed}", variant, "sequence", seed, "FINISHED", metrics, boundaries, bands)


def make_alone(variant: str = "parameter_only", seed: int = 0) -> RunRecord:
    """The sequence's second phase alone: AUC (0.2 + 2 x 0.4 + 0.6) / 4 = 0.4, where the sequence's is 0.55."""
    series = {"retention_new/sum/L2": [(0, 0.2), (5, 0.4), (10, 0.6)]}
    band = (PhaseBand("sum", 0, 10, "sum", (2,)),)
    boundaries = [make_boundary(0, 0, 0.9), make_boundary(1, 10, 0.9)]
    return RunRecord(f"alone-{variant}-{seed}", variant, "alone", seed, "FINISHED", series, boundaries, band)


def make_audit(
    index: int, name: str, step: int, total: int, successes: list[int], bias: float = 0.0, unseen: bool = False
) -> dict[str, Any]:
    """A row of 16 completions of each problem; beta says the rate plus `bias`, frozen 0.4 of every problem."""
    rates = np.array(successes) / 16
    flat, age = np.full(len(rates), 0.4), np.full(len(rates), step)
    predicted = {
        "beta": Estimates(np.clip(rates + bias, 0, 1), np.full(len(rates), 0.1), age),
        "frozen": Estimates(flat, np.full(len(rates), 0.2), age + 5),
    }
    ids, counts = [f"{name}{i}" for i in range(len(rates))], [16] * len(rates)
    pool = Asked(ids, successes, counts, predicted, 40)
    return audit_row(index, name, step, total, total, pool, pool if unseen else None, (0.25, 0.75), 10)


def make_audited(
    variant: str = "uniform", seed: int = 0, bias: float = 0.2, phases: int = 2, unseen: bool = False
) -> RunRecord:
    """Two phases of ten steps, audited every five; only the first audit of the second is off by `bias`."""
    rows = [
        make_audit(0, "easy", 0, 0, [0, 4, 8, 12], unseen=unseen),
        make_audit(0, "easy", 5, 5, [4, 8, 12, 16], unseen=unseen),
        make_audit(0, "easy", 10, 10, [8, 12, 16, 16], unseen=unseen),
        make_audit(1, "hard", 0, 10, [0, 0, 0, 8], bias, unseen=unseen),
        make_audit(1, "hard", 5, 15, [0, 0, 4, 8], unseen=unseen),
        make_audit(1, "hard", 10, 20, [0, 0, 8, 16], unseen=unseen),
    ][: 3 * phases]
    bands = (PhaseBand("easy", 0, 10), PhaseBand("hard", 10, 20))[:phases]
    metrics = {
        "rollout/silent_share": [(1, 0.2), (2, 0.4)],
        "budget/completions": [(20, 640.0)],
        "budget/pilot_completions": [(20, 100.0)],
    }
    plan = "switch" if phases > 1 else "alone"
    return RunRecord(f"{plan}-{variant}-{seed}", variant, plan, seed, "FINISHED", metrics, (), bands, rows)


@pytest.fixture(scope="session")
def audited() -> Callable[..., RunRecord]:
    return make_audited


@pytest.fixture(scope="session")
def sequence() -> Callable[..., RunRecord]:
    return make_sequence


@pytest.fixture(scope="session")
def alone() -> Callable[..., RunRecord]:
    return make_alone


@pytest.fixture(scope="session")
def record() -> Callable[..., RunRecord]:
    return make_record


@pytest.fixture(scope="session")
def boundary() -> Callable[..., dict[str, Any]]:
    return make_boundary
