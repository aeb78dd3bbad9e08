"""The clipped loss by hand on both sides of the clip, and token weights as explicit means of means."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ductile.rl.losses import policy_loss, token_weights

CASES = [
    # ratio, advantage, loss, gradient of the loss by log-probability, clipped
    (1.0, 2.0, -2.0, -2.0, False),
    (1.1, 2.0, -2.2, -2.2, False),
    (1.5, 2.0, -2.56, 0.0, True),  # pushed up enough: 1 + 0.28
    (1.5, -2.0, 3.0, 3.0, False),  # above the clip, but the advantage says down: not clipped
    (0.5, 2.0, -1.0, -1.0, False),  # below the clip, but the advantage says up: not clipped
    (0.5, -2.0, 1.6, 0.0, True),  # pushed down enough: 1 - 0.2
    (0.9, -2.0, 1.8, 1.8, False),
]


Losses = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def clip(
    logps: torch.Tensor, behaviour: torch.Tensor, advantages: torch.Tensor, low: float, high: float, dual: Any = None
) -> Losses:
    rows = torch.arange(len(logps))
    return policy_loss(logps, behaviour, advantages, rows, "clip", low, high, dual)


@pytest.mark.parametrize(("ratio", "advantage", "loss", "gradient", "clipped"), CASES)
def test_clipped_loss_by_hand(ratio: float, advantage: float, loss: float, gradient: float, clipped: bool) -> None:
    behaviour = torch.tensor([-1.5])
    logps = (behaviour + math.log(ratio)).requires_grad_()
    losses, ratios, flags = clip(logps, behaviour, torch.tensor([advantage]), 0.2, 0.28)
    losses.sum().backward()
    assert losses.item() == pytest.approx(loss, rel=1e-5)
    assert ratios.item() == pytest.approx(ratio, rel=1e-5)
    assert flags.item() is clipped
    assert logps.grad is not None
    assert logps.grad.item() == pytest.approx(gradient, rel=1e-5, abs=0)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient", "clipped"),
    [
        *[case for case in CASES if case[0] != 1.0],
        (2.9, -2.0, 5.8, 5.8, False),  # up to the dual clip it pushes down
        (5.0, -2.0, 6.0, 0.0, True),  # and beyond it no more: 3 * 2
        (5.0, 2.0, -2.56, 0.0, True),  # a positive advantage knows no dual clip
    ],
)
def test_dual_clip_bounds_what_a_negative_advantage_can_do(
    ratio: float, advantage: float, loss: float, gradient: float, clipped: bool
) -> None:
    behaviour = torch.tensor([-3.5])
    logps = (behaviour + math.log(ratio)).requires_grad_()
    losses, _, flags = clip(logps, behaviour, torch.tensor([advantage]), 0.2, 0.28, 3.0)
    (found,) = torch.autograd.grad(losses.sum(), logps)
    assert losses.item() == pytest.approx(loss, rel=1e-5)
    assert found.item() == pytest.approx(gradient, rel=1e-5, abs=0)
    assert flags.item() is clipped


@pytest.mark.parametrize(
    ("ratio", "low", "weight"),
    [(1.1, 0.2, 1.1), (1.5, 0.2, 1.28), (0.5, 0.2, 0.8), (0.5, 1.0, 0.5)],  # clip_low 1: no lower clip
)
@pytest.mark.parametrize("advantage", [2.0, -2.0])
def test_cispo_clips_the_weight_and_keeps_every_gradient(
    ratio: float, low: float, weight: float, advantage: float
) -> None:
    behaviour = torch.tensor([-1.5])
    logps = (behaviour + math.log(ratio)).requires_grad_()
    row = torch.zeros(1, dtype=torch.int64)
    losses, ratios, flags = policy_loss(logps, behaviour, torch.tensor([advantage]), row, "cispo", low, 0.28)
    (found,) = torch.autograd.grad(losses.sum(), logps)
    assert losses.item() == pytest.approx(-weight * advantage * (-1.5 + math.log(ratio)), rel=1e-5)
    assert found.item() == pytest.approx(-weight * advantage, rel=1e-5)
    assert ratios.item() == pytest.approx(ratio, rel=1e-5)
    assert flags.item() is (weight != ratio)


def gspo_by_hand(gaps: list[float], advantage: float, low: float, high: float) -> tuple[float, float, bool]:
    """The sequence's ratio, the gradient of one token's loss by its own log-probability, and whether it is clipped."""
    ratio = math.exp(math.fsum(gaps) / len(gaps))
    clipped = ratio > 1 + high if advantage > 0 else ratio < 1 - low
    return ratio, 0.0 if clipped else -ratio * advantage, clipped


@pytest.mark.parametrize("advantage", [2.0, -2.0])
@pytest.mark.parametrize("gaps", [[0.1, -0.05], [0.9, -0.1], [-0.9, 0.1], [0.6, 0.0, -0.3]])
def test_gspo_clips_a_completion_by_its_mean_log_ratio(gaps: list[float], advantage: float) -> None:
    """Tokens of two other completions stand around it."""
    own = slice(1, 1 + len(gaps))
    behaviour = torch.zeros(len(gaps) + 2, dtype=torch.float64)
    logps = torch.tensor([-7.0, *gaps, -7.0], dtype=torch.float64, requires_grad=True)
    rows = torch.tensor([0, *[1] * len(gaps), 2])
    advantages = torch.full((len(gaps) + 2,), advantage, dtype=torch.float64)
    losses, ratios, flags = policy_loss(logps, behaviour, advantages, rows, "gspo", 0.2, 0.28)
    (found,) = torch.autograd.grad(losses[own].sum(), logps)
    ratio, gradient, clipped = gspo_by_hand(gaps, advantage, 0.2, 0.28)
    bound = min(max(ratio, 0.8), 1.28)
    assert ratios[own].tolist() == pytest.approx([ratio] * len(gaps))
    assert losses[own].tolist() == pytest.approx([-min(ratio * advantage, bound * advantage)] * len(gaps))
    assert found[own].tolist() == pytest.approx([gradient] * len(gaps))
    assert flags[own].tolist() == [clipped] * len(gaps)
    assert found[0] == found[-1] == 0


def test_gspo_gradient_is_that_of_the_ratio_of_the_whole_completion() -> None:
    """Mean over tokens of the token form = -A * s, differentiated as a sequence (arXiv 2507.18071 eq. 10)."""
    behaviour = torch.tensor([-1.0, -2.0, -0.5], dtype=torch.float64)
    logps = torch.tensor([-1.1, -1.7, -0.6], dtype=torch.float64, requires_grad=True)
    rows, advantages = torch.zeros(3, dtype=torch.int64), torch.full((3,), 1.5)
    losses, _, _ = policy_loss(logps, behaviour, advantages, rows, "gspo", 0.2, 0.28)
    (found,) = torch.autograd.grad(losses.mean(), logps)
    (expected,) = torch.autograd.grad(-1.5 * torch.exp((logps - behaviour).mean()), logps)
    assert found.tolist() == pytest.approx(expected.tolist())


@pytest.mark.parametrize("kind", ["clip", "cispo", "gspo"])
def test_every_loss_is_the_plain_policy_gradient_where_the_policy_sampled_itself(kind: str) -> None:
    behaviour, rows = torch.tensor([-1.0, -2.0]), torch.zeros(2, dtype=torch.int64)
    logps = behaviour.clone().requires_grad_()
    losses, ratios, flags = policy_loss(logps, behaviour, torch.full((2,), -0.7), rows, kind, 0.0003, 0.0004)
    (found,) = torch.autograd.grad(losses.sum(), logps)
    assert found.tolist() == pytest.approx([0.7, 0.7])
    assert ratios.tolist() == [1.0, 1.0] and not flags.any()


@pytest.mark.parametrize("kind", ["cispo", "gspo"])
def test_very_unlikely_token_does_not_overflow(kind: str) -> None:
    row = torch.zeros(1, dtype=torch.int64)
    losses, ratios, _ = policy_loss(torch.tensor([-1.0]), torch.tensor([-500.0]), -torch.ones(1), row, kind, 0.2, 0.2)
    assert losses.isfinite().all() and ratios.isfinite().all()


def test_unknown_loss_is_refused_by_name() -> None:
    nothing = torch.zeros(1)
    with pytest.raises(ValueError, match="loss: unknown kind 'median'"):
        policy_loss(nothing, nothing, nothing, nothing.long(), "median", 0.2, 0.2)


lengths_and_losses = st.lists(st.lists(st.floats(-3, 3), min_size=1, max_size=6), min_size=1, max_size=6)


def weighted(rows: list[list[float]], kind: str, max_tokens: int = 6) -> float:
    weights = token_weights(torch.tensor([len(row) for row in rows]), kind, max_tokens).tolist()
    return math.fsum(weight * value for row, weight in zip(rows, weights, strict=True) for value in row)


@given(rows=lengths_and_losses)
def test_token_norm_is_the_mean_over_all_tokens(rows: list[list[float]]) -> None:
    tokens = [value for row in rows for value in row]
    assert weighted(rows, "token") == pytest.approx(sum(tokens) / len(tokens), abs=1e-5)


@given(rows=lengths_and_losses)
def test_completion_norm_is_the_mean_over_completions_of_their_means(rows: list[list[float]]) -> None:
    means = [sum(row) / len(row) for row in rows]
    assert weighted(rows, "completion") == pytest.approx(sum(means) / len(means), abs=1e-5)


@given(rows=lengths_and_losses)
def test_constant_norm_is_the_mean_over_completions_of_sums_by_the_limit(rows: list[list[float]]) -> None:
    parts = [sum(row) / 6 for row in rows]
    assert weighted(rows, "constant") == pytest.approx(sum(parts) / len(parts), abs=1e-5)


def test_norms_differ_where_lengths_do() -> None:
    lengths = torch.tensor([1, 3])
    assert token_weights(lengths, "token", 8).tolist() == pytest.approx([1 / 4, 1 / 4])
    assert token_weights(lengths, "completion", 8).tolist() == pytest.approx([1 / 2, 1 / 6])
    assert token_weights(lengths, "constant", 8).tolist() == pytest.approx([1 / 16, 1 / 16])


@pytest.mark.parametrize("kind", ["token", "completion", "constant"])
def test_no_completions_have_no_weights_and_an_empty_one_a_finite_one(kind: str) -> None:
    assert token_weights(torch.tensor([], dtype=torch.int64), kind, 8).tolist() == []
    assert token_weights(torch.tensor([0, 2]), kind, 8).isfinite().all()


def test_unknown_norm_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="length_norm: unknown kind 'median'"):
        token_weights(torch.tensor([1]), "median", 8)
