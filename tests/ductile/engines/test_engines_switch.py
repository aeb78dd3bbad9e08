"""Weights that are set, moments that are cleared and optimizers that begin anew: the same on every engine and rank."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.ductile.engines.processes import written_by

pytestmark = pytest.mark.engines

STEPS, ROWS, LR, CLIP, DECAY = 3, 8, 0.05, 0.5, 0.1
PROCESSES = ("alone", "rank-0", "rank-1")
PRECISIONS = ("fp32", "bf16")
KINDS = ("torch", "zero0", "zero1", "zero2", "zero3")
EVERYWHERE = [(process, kind) for process in PROCESSES for kind in KINDS]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `switched.py` wrote, by file."""
    return written_by("switched.py", folder=tmp_path_factory.mktemp("switched"))


def weights_of(seed: int) -> NDArray[np.float64]:
    """Weight [5, 3] and bias [5], flattened."""
    random = np.random.default_rng(seed)
    return np.concatenate([random.normal(size=(5, 3)).ravel(), random.normal(size=5)]).astype(np.float32).astype(float)


def by_hand(change: str) -> NDArray[np.float64]:
    """Two steps of AdamW (arXiv 1711.05101) in float64, the change, and the third step."""
    random = np.random.default_rng(4)
    inputs, targets = random.normal(size=(STEPS, ROWS, 3)), random.normal(size=(STEPS, ROWS, 5))
    inputs, targets = inputs.astype(np.float32).astype(float), targets.astype(np.float32).astype(float)
    w, mean, square, count = weights_of(1), np.zeros(20), np.zeros(20), 0
    for step in range(STEPS):
        if step == 2:
            if change in ("set", "reset"):
                w = weights_of(2)
            if change == "reset":
                mean, square, count = np.zeros(20), np.zeros(20), 0
            if change == "clear":
                mean[:15:2], square[:15:2] = 0.0, 0.0
        count += 1
        error = inputs[step] @ w[:15].reshape(5, 3).T + w[15:] - targets[step]
        gradient = np.concatenate([(2 * error.T @ inputs[step] / ROWS).ravel(), 2 * error.sum(axis=0) / ROWS])
        gradient *= min(1.0, CLIP / np.linalg.norm(gradient))
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        direction = mean / (1 - 0.9**count) / (np.sqrt(square / (1 - 0.999**count)) + 1e-8)
        w = w * (1 - LR * DECAY) - LR * direction
    return w


@pytest.mark.parametrize(("process", "kind"), EVERYWHERE)
def test_weights_are_those_that_were_set(answers: dict[str, Any], process: str, kind: str) -> None:
    assert answers[process]["fp32"][kind]["set"]["changed"] == weights_of(2).tolist()


@pytest.mark.parametrize(("process", "kind"), EVERYWHERE)
@pytest.mark.parametrize("change", ["set", "reset", "clear"])
def test_step_after_it_is_the_one_by_hand(answers: dict[str, Any], change: str, process: str, kind: str) -> None:
    expected = by_hand(change)
    others = [by_hand(other) for other in ("set", "reset", "clear", "none") if other != change]
    assert min(np.abs(expected - other).max() for other in others) > 1e-3  # each change is told from the others
    assert np.array(answers[process]["fp32"][kind][change]["after"]) == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize(("process", "kind"), EVERYWHERE)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_step_after_a_reset_is_a_new_engines_first_bit_for_bit(
    answers: dict[str, Any], precision: str, process: str, kind: str
) -> None:
    found = answers[process][precision][kind]
    assert found["reset"]["after"] == found["fresh"]


@pytest.mark.parametrize(("process", "kind"), EVERYWHERE)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("change", ["set", "reset", "clear"])
def test_saved_after_it_and_loaded_goes_on_bit_for_bit(
    answers: dict[str, Any], change: str, precision: str, process: str, kind: str
) -> None:
    found = answers[process][precision][kind][change]
    assert found["loaded"] == found["changed"]
    assert found["resumed"] == found["after"] != found["changed"]


@pytest.mark.parametrize(("process", "kind"), EVERYWHERE)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_moments_that_were_loaded_are_those_that_are_cleared(
    answers: dict[str, Any], precision: str, process: str, kind: str
) -> None:
    found = answers[process][precision][kind]
    assert found["load_then_clear"] == found["clear"]["after"]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_both_ranks_hold_the_same(answers: dict[str, Any], precision: str) -> None:
    assert answers["rank-0"][precision] == answers["rank-1"][precision]


@pytest.mark.parametrize(("process", "kind"), [(p, k) for p, k in EVERYWHERE if k != "torch"])
def test_bf16_weights_step_from_the_float32_that_was_set(answers: dict[str, Any], process: str, kind: str) -> None:
    """1 + 2^-9 reads as 1, and a step of 1.25 * 2^-9 on it as 1 + 2^-7.

    A copy that had been rounded to 1 would read as 1 still.
    """
    assert answers[process]["bf16"][kind]["master"] == [1 + 2.0**-7] * 20
