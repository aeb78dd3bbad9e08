"""Truncated importance weights: against loops in float64, central differences, and enumeration of a tiny policy."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from ductile.rl.batch import Batch, MicroBatch, Row, micro_batches, tensors
from ductile.rl.losses import importance
from ductile.rl.objective import Objective, micro_loss, with_proximal
from tests.ductile.rl.test_objective import (
    TEMPERATURE,
    Table,
    anchored_logps,
    log_softmax,
    predicting,
    random_batch,
    table,
)

CAP = 1.2
STALE = Objective(0.2, 0.3, 0.0, "k3", None, 0.0, importance_cap=CAP)
OBJECTIVES = {
    "clip": STALE,
    "cispo": replace(STALE, loss="cispo"),
    "gspo": replace(STALE, loss="gspo"),
    "clip, kl, entropy": replace(STALE, kl=0.5, anchor="base", entropy=0.3),
    "clip, dual": replace(STALE, dual_clip=1.1),
}


def loops(weights: Table, proximal: Table, batch: Batch, objective: Objective) -> dict[str, float]:
    """The decoupled objective token by token; cispo's and gspo's stopped gradients are those at table 1."""
    names = ["loss", "policy_loss", "kl", "importance", "importance_squares", "importance_cut", "clipped"]
    sums = dict.fromkeys(names, 0.0)
    for row in batch.rows:
        before, now, start, old = row.prompt[-1], [], [], row.behaviour_logps.astype(np.float64)
        stopped, kls, entropies = [], [], []
        for token in row.completion:
            logps = log_softmax(weights[before] / TEMPERATURE)
            now.append(logps[token])
            start.append(log_softmax(proximal[before] / TEMPERATURE)[token])
            stopped.append(log_softmax(table(1)[before] / TEMPERATURE)[token])
            d = log_softmax(table(2)[before] / TEMPERATURE)[token] - logps[token]
            kls.append(math.exp(d) - d - 1 if objective.anchor else 0.0)
            entropies.append(-math.fsum(math.exp(x) * x for x in logps))
            before = token
        size, advantage = len(now), float(np.float32(row.advantage))
        for i in range(size):
            free = math.exp(start[i] - old[i])
            ratio, score = math.exp(now[i] - start[i]), 1.0
            if objective.loss == "gspo":
                free = math.exp(sum(start[j] - old[j] for j in range(size)) / size)
                ratio = math.exp(sum(stopped[j] - start[j] for j in range(size)) / size) * math.exp(now[i] - stopped[i])
            if objective.loss == "cispo":
                ratio, score = math.exp(stopped[i] - start[i]), now[i]
            bounded = min(max(ratio, 1 - objective.clip_low), 1 + objective.clip_high)
            policy = -bounded * advantage * score if objective.loss == "cispo" else -min(ratio, bounded) * advantage
            if objective.loss != "cispo":
                policy = max(-ratio * advantage, -bounded * advantage)
                if objective.dual_clip and advantage < 0:
                    policy = min(policy, -objective.dual_clip * advantage)
            w = min(free, objective.importance_cap or math.inf)
            weight = float(np.float32(row.weight))
            sums["policy_loss"] += weight * w * policy
            sums["loss"] += weight * (w * policy + objective.kl * w * kls[i] - objective.entropy * entropies[i])
            sums["kl"] += w * kls[i]
            sums["importance"] += w
            sums["importance_squares"] += w * w
            sums["importance_cut"] += free > w
    return sums


def stepped(weights: Table, proximal: Table, batch: Batch, objective: Objective, size: int) -> tuple[dict, Tensor]:
    parameter, sums = torch.tensor(weights, requires_grad=True), dict[str, float]()
    for micro in micro_batches(batch, size):
        micro = with_proximal(micro, predicting(torch.tensor(proximal), micro), TEMPERATURE)
        anchored = anchored_logps(table(2), micro) if objective.anchor else None
        loss, parts = micro_loss(predicting(parameter, micro), anchored, micro, objective, TEMPERATURE)
        loss.backward()
        for name, value in parts.items():
            sums[name] = sums.get(name, 0.0) + value.item()
    assert parameter.grad is not None
    return sums, parameter.grad


def nearby() -> Table:
    """What the update began with, some steps before `table(1)`."""
    return table(1) + np.random.default_rng(9).normal(0, 0.25, table(1).shape)


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("size", [12, 1000])
def test_loss_and_sums_are_those_of_loops_over_tokens(name: str, size: int) -> None:
    batch, objective = random_batch(), OBJECTIVES[name]
    expected = loops(table(1), nearby(), batch, objective)
    sums, _ = stepped(table(1), nearby(), batch, objective, size)
    assert 0 < expected["importance_cut"] < 16
    for key in ("loss", "policy_loss", "kl", "importance", "importance_squares", "importance_cut"):
        assert sums[key] == pytest.approx(expected[key], rel=1e-6, abs=1e-12), key


@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradient_is_that_of_central_differences_and_none_goes_through_the_weights(name: str) -> None:
    batch, objective, h = random_batch(), OBJECTIVES[name], 1e-5
    _, gradient = stepped(table(1), nearby(), batch, objective, 1000)
    expected = np.zeros_like(table(1))
    for at in np.ndindex(expected.shape):
        up, down = table(1), table(1)
        up[at] += h
        down[at] -= h
        losses = [loops(moved, nearby(), batch, objective)["loss"] for moved in (up, down)]
        expected[at] = (losses[0] - losses[1]) / (2 * h)
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(gradient.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["clip", "cispo"])
def test_first_pass_has_the_gradient_of_truncated_reinforce(kind: str) -> None:
    """Second formula: - sum of weight * min(p / mu, cap) * A * grad log p, as in IMPALA, without ratio and clip."""
    batch, parameter = random_batch(), torch.tensor(table(1), requires_grad=True)
    loss = torch.zeros((), dtype=torch.float64)
    for row in batch.rows:
        ids = np.concatenate([row.prompt[-1:], row.completion])
        rows = torch.log_softmax(parameter[ids[:-1].astype(int)] / TEMPERATURE, dim=-1)
        logps = rows[torch.arange(len(row.completion)), torch.tensor(row.completion.astype(int))]
        w = torch.exp(logps - torch.tensor(row.behaviour_logps, dtype=torch.float64)).clamp(max=CAP).detach()
        loss = loss - (np.float32(row.weight) * np.float32(row.advantage) * w * logps).sum()
    loss.backward()
    _, gradient = stepped(table(1), table(1), batch, replace(STALE, loss=kind), 1000)
    torch.testing.assert_close(gradient, parameter.grad, atol=1e-6, rtol=1e-5)


def expected_gradient(behaviour: Table, policy: Table, cap: float, kind: str = "clip") -> tuple[Tensor, Tensor]:
    """Over all answers of one token: the mean gradient under the behaviour policy, and the exact one of the reward."""
    mu, reward = np.exp(log_softmax(behaviour)), np.array([1.0, -0.5, 2.0, 0.0, 0.3])
    parameter = torch.tensor(policy, requires_grad=True)
    objective = replace(STALE, importance_cap=cap, loss=kind)
    for token in range(5):
        logp = np.array([np.log(mu[token])], np.float32)
        row = Row(np.array([0], np.int32), np.array([token], np.int32), logp, float(reward[token]), float(mu[token]))
        micro = tensors([row], "cpu")
        logits = parameter.expand(1, 5)
        loss, _ = micro_loss(logits, None, with_proximal(micro, logits, 1.0), objective, 1.0)
        loss.backward()
    exact = torch.tensor(policy, requires_grad=True)
    (-(torch.softmax(exact, dim=0) * torch.tensor(reward)).sum()).backward()
    assert parameter.grad is not None and exact.grad is not None
    return parameter.grad, exact.grad


@pytest.mark.parametrize("kind", ["clip", "cispo", "gspo"])
def test_uncut_weights_make_the_older_policys_gradient_the_newer_ones(kind: str) -> None:
    behaviour, policy = table(3)[0], table(4)[0]
    found, exact = expected_gradient(behaviour, policy, math.inf, kind)
    torch.testing.assert_close(found, exact, atol=1e-6, rtol=1e-5)
    cut, _ = expected_gradient(behaviour, policy, 0.5, kind)
    assert (cut - exact).abs().max() > 1e-2  # what truncation costs


def test_weights_by_hand() -> None:
    """Two tokens of one completion, then one of another."""
    proximal, behaviour = torch.tensor([0.0, -1.0, -50.0]).double(), torch.tensor([-1.0, 0.0, -49.0]).double()
    rows = torch.tensor([0, 0, 1])
    w = importance(proximal, behaviour, rows, "clip", 2.0)
    assert w.tolist() == pytest.approx([2.0, math.exp(-1), math.exp(-1)])
    w = importance(proximal, behaviour, rows, "gspo", 2.0)
    assert w.tolist() == pytest.approx([1.0, 1.0, math.exp(-1)])  # (1 - 1) / 2, and -1 alone
    far = importance(torch.zeros(1), torch.full((1,), -1e4), torch.zeros(1, dtype=torch.int64), "clip", math.inf)
    assert torch.isfinite(far).all()


def test_without_a_proximal_policy_nothing_is_guessed() -> None:
    micro: MicroBatch = tensors(random_batch().rows[:1], "cpu")
    with pytest.raises(ValueError, match="with_proximal"):
        micro_loss(predicting(torch.tensor(table(1)), micro), None, micro, STALE, TEMPERATURE)
