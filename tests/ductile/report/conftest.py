"""Records with known numbers for the report's tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

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


@pytest.fixture(scope="session")
def record() -> Callable[..., RunRecord]:
    return make_record


@pytest.fixture(scope="session")
def boundary() -> Callable[..., dict[str, Any]]:
    return make_boundary
