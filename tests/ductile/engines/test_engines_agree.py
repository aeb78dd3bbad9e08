"""PyTorch and DeepSpeed at every ZeRO stage make the same update: alone, resumed, and on two ranks over gloo."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.ductile.engines.processes import written_by

pytestmark = pytest.mark.engines

STEPS, ROWS, LR, CLIP, DECAY = 3, 8, 0.05, 0.5, 0.1
KINDS = ("torch", "zero0", "zero1", "zero2", "zero3")


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `updates.py` wrote, by file."""
    return written_by("updates.py", folder=tmp_path_factory.mktemp("engines"))


@pytest.fixture(scope="module")
def by_hand() -> dict[str, Any]:
    """The same steps in float64 NumPy: gradient of the whole batch, clip by norm, AdamW (arXiv 1711.05101)."""
    random = np.random.default_rng(3)
    shapes = ((STEPS, ROWS, 3), (STEPS, ROWS, 2), (2, 3), (2,))
    inputs, targets, weight, bias = (random.normal(size=shape).astype(np.float32).astype(float) for shape in shapes)
    targets[0] *= 3
    parameters = [weight, bias]
    moments = [[np.zeros_like(p), np.zeros_like(p)] for p in parameters]
    norms, weights = [], []
    for step in range(STEPS):
        error = inputs[step] @ parameters[0].T + parameters[1] - targets[step]
        gradients = [2 * error.T @ inputs[step] / ROWS, 2 * error.sum(axis=0) / ROWS]
        norms.append(math.sqrt(sum(float((g**2).sum()) for g in gradients)))
        scale = min(1.0, CLIP / norms[-1])
        parameters = [adamw(*each, scale, step + 1) for each in zip(parameters, gradients, moments, strict=True)]
        weights.append(np.concatenate([p.ravel() for p in parameters]))
    return {"norms": norms, "weights": weights}


def adamw(
    parameter: NDArray[np.float64],
    gradient: NDArray[np.float64],
    moments: list[NDArray[np.float64]],
    scale: float,
    step: int,
) -> NDArray[np.float64]:
    gradient = gradient * scale
    moments[0] = 0.9 * moments[0] + 0.1 * gradient
    moments[1] = 0.999 * moments[1] + 0.001 * gradient**2
    mean, square = moments[0] / (1 - 0.9**step), moments[1] / (1 - 0.999**step)
    return parameter * (1 - LR * DECAY) - LR * mean / (np.sqrt(square) + 1e-8)


def flat(state: dict[str, list[float]]) -> NDArray[np.float64]:
    return np.array(state["weight"] + state["bias"])


@pytest.mark.parametrize("kind", KINDS)
def test_three_clipped_and_accumulated_steps_are_those_by_hand(
    answers: dict[str, Any], by_hand: dict[str, Any], kind: str
) -> None:
    found = [flat(state) for state in answers["alone"]["updates"][kind]["weights"]]
    assert found == [pytest.approx(expected, abs=1e-6) for expected in by_hand["weights"]]


@pytest.mark.parametrize("kind", KINDS)
def test_norm_is_that_of_the_whole_gradient_before_the_clip(
    answers: dict[str, Any], by_hand: dict[str, Any], kind: str
) -> None:
    assert min(by_hand["norms"]) > 2 * CLIP  # so that a norm after the clip would be told apart
    assert answers["alone"]["updates"][kind]["norms"] == pytest.approx(by_hand["norms"], rel=1e-6)


@pytest.mark.parametrize("kind", KINDS[1:])
def test_deepspeed_is_plain_pytorch(answers: dict[str, Any], kind: str) -> None:
    updates = answers["alone"]["updates"]
    for state, reference in zip(updates[kind]["weights"], updates["torch"]["weights"], strict=True):
        assert flat(state) == pytest.approx(flat(reference), abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_saved_engine_goes_on_bit_for_bit(answers: dict[str, Any], kind: str) -> None:
    resumed = answers["alone"]["resumed"][kind]
    assert resumed["loaded"] == resumed["saved"]
    assert resumed["continued"] == resumed["went_on"]
    assert resumed["went_on"] == answers["alone"]["updates"][kind]["weights"][-1]


@pytest.mark.parametrize("kind", KINDS)
def test_two_ranks_make_the_update_of_one_on_the_whole_batch(
    answers: dict[str, Any], by_hand: dict[str, Any], kind: str
) -> None:
    for rank in ("rank-0", "rank-1"):
        found = answers[rank][kind]
        assert found["norms"] == pytest.approx(by_hand["norms"], rel=1e-5)
        for state, alone in zip(found["weights"], answers["alone"]["updates"][kind]["weights"], strict=True):
            assert flat(state) == pytest.approx(flat(alone), abs=1e-5)
    assert answers["rank-0"][kind] == answers["rank-1"][kind]


@pytest.mark.parametrize("rank", ["rank-0", "rank-1"])
def test_weights_that_zero_3_cut_up_are_gathered_whole(answers: dict[str, Any], rank: str) -> None:
    sharded = answers[rank]["sharded"]
    assert sharded["held"] == 0  # between steps the layer itself is empty: so there was something to gather
    assert sharded["shape"] == [260, 400]
    assert sharded["difference"] < 1e-5


def places(answers: dict[str, Any]) -> list[dict[str, Any]]:
    return [answers[name]["surgery"] for name in ("alone", "rank-0", "rank-1")]


@pytest.mark.parametrize("kind", KINDS)
def test_weights_that_are_set_are_the_engines_own_and_trained_on_with_the_old_moments(
    answers: dict[str, Any], kind: str
) -> None:
    first, second = gradients_of(answers)
    other = flat(answers["alone"]["surgery"][kind]["other"])
    moments = [np.zeros(8), np.zeros(8)]
    adamw(np.zeros(8), first, moments, 1.0, 1)
    expected = adamw(other, second, moments, 1.0, 2)
    for found in places(answers):
        assert flat(found[kind]["set_at_once"]) == pytest.approx(other, abs=0)
        assert flat(found[kind]["set"]) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_forgotten_optimizer_steps_as_a_new_one(answers: dict[str, Any], kind: str) -> None:
    for found in places(answers):
        assert found[kind]["reset"] == found[kind]["fresh"] != found[kind]["set"]


@pytest.mark.parametrize("kind", KINDS)
def test_moments_are_cleared_where_the_mask_says_and_nowhere_else(answers: dict[str, Any], kind: str) -> None:
    first, second = gradients_of(answers)
    other = flat(answers["alone"]["surgery"][kind]["other"])
    moments = [np.zeros(8), np.zeros(8)]
    adamw(np.zeros(8), first, moments, 1.0, 1)
    cleared = np.concatenate([other[:6] < 0, np.zeros(2, bool)])
    assert cleared.any() and not cleared[:6].all()
    moments = [np.where(cleared, 0.0, moment) for moment in moments]
    expected = adamw(other, second, moments, 1.0, 2)
    for found in places(answers):
        assert flat(found[kind]["cleared"]) == pytest.approx(expected, abs=1e-5)


def gradients_of(answers: dict[str, Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The clipped gradients of step 1 at the first weights, and of step 2 at the weights that are set."""
    random = np.random.default_rng(3)
    shapes = ((STEPS, ROWS, 3), (STEPS, ROWS, 2), (2, 3), (2,))
    inputs, targets, weight, bias = (random.normal(size=shape).astype(np.float32).astype(float) for shape in shapes)
    targets[0] *= 3
    other = flat(answers["alone"]["surgery"]["torch"]["other"])
    found = []
    for step, (w, b) in enumerate(((weight, bias), (other[:6].reshape(2, 3), other[6:]))):
        error = inputs[step] @ w.T + b - targets[step]
        gradient = np.concatenate([(2 * error.T @ inputs[step] / ROWS).ravel(), 2 * error.sum(axis=0) / ROWS])
        found.append(gradient * min(1.0, CLIP / float(np.linalg.norm(gradient))))
    return found[0], found[1]
