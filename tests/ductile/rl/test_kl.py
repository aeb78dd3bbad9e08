"""KL estimators by hand and, over a vocabulary of 5, by exact enumeration: value, expected gradient and its sign."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ductile.rl.kl import adapted_coefficient, kl_estimate, token_entropy

KINDS = ("k1", "k2", "k3", "k3+")


def distributions(seed: int) -> tuple[Tensor, Tensor]:
    """Logits of a policy and of a reference over 5 tokens, float64."""
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(5, generator=generator, dtype=torch.float64),
        torch.randn(5, generator=generator, dtype=torch.float64),
    )


def exact_kl(policy: Tensor, reference: Tensor) -> Tensor:
    logp, logq = policy.log_softmax(-1), reference.log_softmax(-1)
    return (logp.exp() * (logp - logq)).sum()


def expected_estimate(policy: Tensor, reference: Tensor, kind: str) -> Tensor:
    """E over tokens sampled from the policy; the sampling itself has no gradient, as in training."""
    logp, logq = policy.log_softmax(-1), reference.log_softmax(-1)
    return (logp.detach().exp() * kl_estimate(logp, logq, kind)).sum()


def gradient(value: Tensor, of: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(value, of)
    return found


@pytest.mark.parametrize(
    ("kind", "surer", "less_sure"),
    [
        ("k1", 0.5, -0.5),
        ("k2", 0.125, 0.125),
        ("k3", math.exp(-0.5) - 0.5, math.exp(0.5) - 1.5),
        ("k3+", math.exp(-0.5) - 0.5, math.exp(0.5) - 1.5),
    ],
)
def test_estimates_by_hand(kind: str, surer: float, less_sure: float) -> None:
    """The policy gives the first token e^0.5 times the reference's probability, and the second e^-0.5 times."""
    estimates = kl_estimate(torch.tensor([-1.0, -2.0]), torch.tensor([-1.5, -1.5]), kind)
    assert estimates.tolist() == pytest.approx([surer, less_sure], rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_estimates_of_equal_policies_are_zero(kind: str) -> None:
    logps = torch.tensor([-0.1, -3.0, -12.0])
    assert (kl_estimate(logps, logps.clone(), kind) == 0).all()


@pytest.mark.parametrize("kind", ["k1", "k3", "k3+"])
@pytest.mark.parametrize("seed", range(5))
def test_k1_and_both_k3_are_unbiased(kind: str, seed: int) -> None:
    policy, reference = distributions(seed)
    expected = exact_kl(policy, reference).item()
    assert expected_estimate(policy, reference, kind).item() == pytest.approx(expected, rel=1e-12)


def test_k2_is_biased() -> None:
    policy, reference = distributions(0)
    assert expected_estimate(policy, reference, "k2").item() != pytest.approx(
        exact_kl(policy, reference).item(), rel=0.01
    )


@pytest.mark.parametrize("kind", ["k2", "k3+"])
@pytest.mark.parametrize("seed", range(5))
def test_expected_gradient_of_k2_and_k3_plus_is_that_of_the_kl(kind: str, seed: int) -> None:
    policy, reference = distributions(seed)
    policy.requires_grad_()
    expected = gradient(exact_kl(policy, reference), policy)
    assert expected.abs().max() > 0.01
    torch.testing.assert_close(gradient(expected_estimate(policy, reference, kind), policy), expected)


@pytest.mark.parametrize("seed", range(5))
def test_expected_gradient_of_k3_is_that_of_the_kl_the_other_way_round(seed: int) -> None:
    policy, reference = distributions(seed)
    policy.requires_grad_()
    other_way = gradient(exact_kl(reference, policy), policy)
    torch.testing.assert_close(gradient(expected_estimate(policy, reference, "k3"), policy), other_way)
    assert (other_way - gradient(exact_kl(policy, reference), policy)).abs().max() > 0.01


@pytest.mark.parametrize("seed", range(5))
def test_expected_gradient_of_k1_is_zero(seed: int) -> None:
    policy, reference = distributions(seed)
    policy.requires_grad_()
    found = gradient(expected_estimate(policy, reference, "k1"), policy)
    torch.testing.assert_close(found, torch.zeros(5, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["k2", "k3", "k3+"])
@pytest.mark.parametrize("seed", range(5))
def test_descent_on_what_belongs_into_a_loss_moves_the_policy_to_the_reference(kind: str, seed: int) -> None:
    policy, reference = distributions(seed)
    start = exact_kl(policy, reference).item()
    last = start
    for _ in range(200):
        policy.requires_grad_()
        step = gradient(expected_estimate(policy, reference, kind), policy)
        policy = (policy - 0.1 * step).detach()
        assert exact_kl(policy, reference).item() < last
        last = exact_kl(policy, reference).item()
    assert last < start / 4


@pytest.mark.parametrize("kind", KINDS)
def test_reference_gets_no_gradient(kind: str) -> None:
    logps, reference = torch.tensor([-1.0], requires_grad=True), torch.tensor([-2.0], requires_grad=True)
    kl_estimate(logps, reference, kind).sum().backward()
    assert reference.grad is None
    assert logps.grad is not None


def test_k3_of_a_token_that_the_policy_all_but_excludes_is_finite() -> None:
    assert kl_estimate(torch.tensor([-500.0]), torch.tensor([-1.0]), "k3").isfinite().all()


def test_unknown_estimator_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="kl estimator: unknown kind 'k4'"):
        kl_estimate(torch.zeros(1), torch.zeros(1), "k4")


@pytest.mark.parametrize(
    ("kl", "expected"),
    [
        (0.05, 0.4),  # at the target
        (0.055, 0.4 * (1 + 0.1 * 128 / 1000)),  # a tenth above it
        (0.5, 0.4 * (1 + 0.2 * 128 / 1000)),  # far above it: the error is cut at a fifth
        (0.0, 0.4 * (1 - 0.2 * 128 / 1000)),
        (-0.01, 0.4 * (1 - 0.2 * 128 / 1000)),  # k1 can be negative
    ],
)
def test_coefficient_follows_the_kl_in_proportion(kl: float, expected: float) -> None:
    assert adapted_coefficient(0.4, kl, 0.05, 128, 1000.0) == pytest.approx(expected, rel=1e-12)


def test_entropy_by_hand() -> None:
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [math.log(3.0), 0.0, -1e4, -1e4]])
    three_to_one = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert token_entropy(logits).tolist() == pytest.approx([math.log(4), three_to_one], rel=1e-6)


def test_entropy_bonus_flattens() -> None:
    logits = torch.tensor([2.0, 0.0], requires_grad=True)
    up = gradient(token_entropy(logits), logits)
    assert up[0] < 0 < up[1]
