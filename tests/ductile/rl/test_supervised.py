"""The supervised loss is the mean negative log-likelihood per token, and its gradient softmax minus one-hot."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ductile.rl.batch import Batch, Row, micro_batches
from ductile.rl.supervised import likelihood_loss

PAIRS = (((3, 4), (5, 6, 1)), ((7,), (2, 1)))


def row(prompt: tuple[int, ...], completion: tuple[int, ...], tokens: int) -> Row:
    behaviour = np.full(len(completion), -9.0, np.float32)  # neither these nor the advantage are read
    return Row(np.array(prompt, np.int32), np.array(completion, np.int32), behaviour, -2.0, 1 / tokens)


@pytest.mark.parametrize("max_tokens", [1, 100])
def test_loss_and_gradient_over_micro_batches_by_float64(max_tokens: int) -> None:
    rng = np.random.default_rng(0)
    table = rng.normal(size=(8, 8))  # next-token logits by token
    micros = micro_batches(Batch(tuple(row(*pair, tokens=5) for pair in PAIRS)), max_tokens)
    parameter = torch.tensor(table, dtype=torch.float32, requires_grad=True)
    total = 0.0
    for micro in micros:
        loss, sums = likelihood_loss(parameter[micro.packed.ids[micro.packed.kept]], micro)
        loss.backward()
        total += float(sums["loss"])
        assert float(sums["ratio_max"]) == 1.0
    logs = table - np.log(np.exp(table).sum(axis=1, keepdims=True))
    expected, gradient = 0.0, np.zeros((8, 8))
    for prompt, completion in PAIRS:
        for before, token in zip((prompt[-1], *completion), completion, strict=False):
            expected -= logs[before, token] / 5
            gradient[before] += (np.exp(logs[before]) - np.eye(8)[token]) / 5
    assert total == pytest.approx(expected, rel=1e-6)
    assert parameter.grad is not None
    assert parameter.grad.numpy() == pytest.approx(gradient, abs=1e-6)
