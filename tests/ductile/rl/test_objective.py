"""The objective's loss, gradient and sums against plain loops over completions and tokens in float64.

The model is a table: the logits after a token are its row. So the loops need no tensors, and the gradient of the
loops' loss is taken by central differences.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from ductile.rl.batch import Batch, MicroBatch, Row, micro_batches
from ductile.rl.objective import Objective, micro_loss

VOCABULARY = 5
TEMPERATURE = 0.7
PLAIN = Objective(clip_low=0.2, clip_high=0.3, kl=0.0, kl_estimator="k3", anchor=None, entropy=0.0)
OBJECTIVES = {
    "plain": PLAIN,
    "entropy": Objective(0.2, 0.3, 0.0, "k3", None, 0.4),
    "kl k2": Objective(0.2, 0.3, 0.5, "k2", "base", 0.0),
    "kl k3": Objective(0.2, 0.3, 0.5, "k3", "base", 0.0),
    "kl k3 and entropy": Objective(0.2, 0.3, 0.5, "k3", "phase_start", 0.4),
}

Table = NDArray[np.float64]


def log_softmax(logits: Table) -> Table:
    return logits - math.log(math.fsum(math.exp(x) for x in logits))


def table(seed: int) -> Table:
    return np.random.default_rng(seed).normal(size=(VOCABULARY, VOCABULARY))


def random_batch() -> Batch:
    """Completions of different lengths, whose behaviour is far enough from the table's for the clip to act."""
    random = np.random.default_rng(7)
    rows = []
    for prompt, completion in [(2, 4), (3, 1), (1, 6), (4, 3), (2, 2)]:
        ids = random.integers(0, VOCABULARY, prompt + completion).astype(np.int32)
        pairs = zip(ids[prompt - 1 :], ids[prompt:], strict=False)
        exact = np.array([log_softmax(table(1)[before] / TEMPERATURE)[token] for before, token in pairs])
        logps = (exact + random.normal(0, 0.4, completion)).astype(np.float32)
        rows.append(Row(ids[:prompt], ids[prompt:], logps, float(random.normal()), 0.05 + 0.1 * float(random.random())))
    return Batch(tuple(rows))


def loops(weights: Table, anchor: Table, batch: Batch, objective: Objective) -> dict[str, float]:
    """Loss and sums of a whole step, token by token."""
    sums = dict.fromkeys(["loss", "policy_loss", "kl", "entropy", "clipped", "gap", "tokens", "ratio_max"], 0.0)
    for row in batch.rows:
        weight, advantage = float(np.float32(row.weight)), float(np.float32(row.advantage))
        before = row.prompt[-1]
        for token, behaviour in zip(row.completion, row.behaviour_logps.astype(np.float64), strict=True):
            logps = log_softmax(weights[before] / TEMPERATURE)
            ratio = math.exp(logps[token] - behaviour)
            bounded = min(max(ratio, 1 - objective.clip_low), 1 + objective.clip_high)
            policy = -min(ratio * advantage, bounded * advantage)
            entropy = -math.fsum(math.exp(x) * x for x in logps)
            kl = 0.0
            if objective.kl:
                d = log_softmax(anchor[before] / TEMPERATURE)[token] - logps[token]
                kl = d * d / 2 if objective.kl_estimator == "k2" else math.exp(d) - d - 1
            sums["loss"] += weight * (policy + objective.kl * kl - objective.entropy * entropy)
            sums["policy_loss"] += weight * policy
            sums["kl"] += kl
            sums["entropy"] += entropy
            sums["clipped"] += bounded * advantage < ratio * advantage
            sums["gap"] += abs(logps[token] - behaviour)
            sums["tokens"] += 1
            sums["ratio_max"] = max(sums["ratio_max"], ratio)
            before = token
    return sums


def predicting(weights: Tensor, micro: MicroBatch) -> Tensor:
    """The table's logits that predict the micro-batch's completion tokens."""
    return weights[micro.packed.ids[micro.packed.kept]]


def anchored_logps(weights: Table, micro: MicroBatch) -> Tensor:
    logps = np.array([log_softmax(row / TEMPERATURE) for row in weights])
    return torch.tensor(logps[micro.packed.ids[micro.packed.kept], micro.packed.targets])


def step(
    weights: Table, anchor: Table, batch: Batch, objective: Objective, max_tokens: int, world: int = 1
) -> tuple[dict[str, float], Tensor]:
    """Sums and gradient of a whole step, by the code under test."""
    parameter = torch.tensor(weights, requires_grad=True)
    sums: dict[str, float] = {}
    for rank in range(world):
        for micro in micro_batches(batch, max_tokens, rank=rank, world=world):
            anchored = anchored_logps(anchor, micro) if objective.anchor else None
            loss, parts = micro_loss(predicting(parameter, micro), anchored, micro, objective, TEMPERATURE)
            loss.backward()
            for name, value in parts.items():
                known = sums.get(name, 0.0)
                sums[name] = max(known, value.item()) if name == "ratio_max" else known + value.item()
    assert parameter.grad is not None
    return sums, parameter.grad


def by_central_differences(batch: Batch, objective: Objective) -> Table:
    gradient, h = np.zeros((VOCABULARY, VOCABULARY)), 1e-5
    for at in np.ndindex(gradient.shape):
        up, down = table(1), table(1)
        up[at] += h
        down[at] -= h
        losses = [loops(moved, table(2), batch, objective)["loss"] for moved in (up, down)]
        gradient[at] = (losses[0] - losses[1]) / (2 * h)
    return gradient


@pytest.mark.parametrize("name", OBJECTIVES)
def test_loss_and_sums_are_those_of_loops_over_tokens(name: str) -> None:
    batch = random_batch()
    expected = loops(table(1), table(2), batch, OBJECTIVES[name])
    assert 0 < expected["clipped"] < expected["tokens"] == 16
    sums, _ = step(table(1), table(2), batch, OBJECTIVES[name], max_tokens=1000)
    assert sums == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradient_is_that_of_loops_over_tokens(name: str) -> None:
    batch = random_batch()
    _, gradient = step(table(1), table(2), batch, OBJECTIVES[name], max_tokens=1000)
    assert gradient.numpy() == pytest.approx(by_central_differences(batch, OBJECTIVES[name]), abs=1e-8)


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize(("max_tokens", "world"), [(1, 1), (14, 1), (14, 2), (1, 3), (1000, 7)])
def test_many_micro_batches_on_many_ranks_are_one_big_one(name: str, max_tokens: int, world: int) -> None:
    batch = random_batch()
    sums, gradient = step(table(1), table(2), batch, OBJECTIVES[name], max_tokens, world)
    whole, expected = step(table(1), table(2), batch, OBJECTIVES[name], max_tokens=1000)
    assert sums == pytest.approx(whole, rel=1e-6)
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-9)


def test_completion_without_advantage_moves_nothing_until_a_term_acts_on_it() -> None:
    silent = Batch(tuple(Row(r.prompt, r.completion, r.behaviour_logps, 0.0, r.weight) for r in random_batch().rows))
    for name, objective in OBJECTIVES.items():
        _, gradient = step(table(1), table(2), silent, objective, max_tokens=1000)
        assert bool(gradient.abs().max() > 1e-3) is objective.acts_without_advantage is (name != "plain")


def test_every_token_of_a_completion_gets_a_gradient_and_a_filler_s_none() -> None:
    (micro,) = micro_batches(random_batch(), 1000)
    logits = torch.randn(16, VOCABULARY, requires_grad=True)
    objective, anchored = OBJECTIVES["kl k3 and entropy"], torch.randn(16)
    loss, _ = micro_loss(logits, anchored, micro, objective, TEMPERATURE)
    (found,) = torch.autograd.grad(loss, logits)
    assert (found.abs().sum(dim=-1) > 0).all()
    filler = replace(micro, weights=micro.weights * 0, advantages=micro.advantages * 0)
    loss, sums = micro_loss(logits, anchored, filler, objective, TEMPERATURE)
    (found,) = torch.autograd.grad(loss, logits)
    assert (found == 0).all() and all(float(value) == 0 for value in sums.values())
