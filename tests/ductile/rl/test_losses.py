"""The clipped loss by hand on both sides of the clip, and token weights as explicit means of means."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ductile.rl.losses import clipped_policy_loss, token_weights

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


@pytest.mark.parametrize(("ratio", "advantage", "loss", "gradient", "clipped"), CASES)
def test_clipped_loss_by_hand(ratio: float, advantage: float, loss: float, gradient: float, clipped: bool) -> None:
    behaviour = torch.tensor([[-1.5]])
    logps = (behaviour + math.log(ratio)).requires_grad_()
    losses, ratios, flags = clipped_policy_loss(logps, behaviour, torch.tensor([[advantage]]), 0.2, 0.28)
    losses.sum().backward()
    assert losses.item() == pytest.approx(loss, rel=1e-5)
    assert ratios.item() == pytest.approx(ratio, rel=1e-5)
    assert flags.item() is clipped
    assert logps.grad is not None
    assert logps.grad.item() == pytest.approx(gradient, rel=1e-5, abs=0)


def test_one_advantage_a_row_counts_for_each_of_its_tokens() -> None:
    logps = torch.zeros(2, 3)
    losses, _, _ = clipped_policy_loss(logps, logps, torch.tensor([[1.0], [-3.0]]), 0.2, 0.2)
    assert losses.tolist() == [[-1.0] * 3, [3.0] * 3]


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
