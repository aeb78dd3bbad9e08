"""Throw-away models: trained from scratch on given worked solutions, and what they say of such solutions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from ductile.config import FitSettings
from ductile.packed import Pair
from ductile.pretrain import learning_rate, optimizer_of, take_step
from ductile.rl.batch import pad_rows

ROWS = 256
"""Solutions that are looked at in one forward pass."""

Measure = Callable[[Tensor, Tensor], Tensor]
"""(logits [token, vocabulary], labels [token]) -> [token]."""


def fit(
    model: PreTrainedModel,
    rows: Sequence[Pair],
    settings: FitSettings,
    seed: int,
    stop: int | None = None,
    watch: Callable[[int], None] | None = None,
) -> None:
    """Train the model in place on the mean cross-entropy of the completions' tokens; leaves it in evaluation mode.

    rows: (prompt, completion) token ids. Every row is seen once before any is seen again; their order depends on the
    seed alone. stop: steps after which it ends, the schedule of the rate as if it went on; watch(steps done) is called
    after each, with the model in evaluation mode.
    """
    optimizer = optimizer_of(model, settings.lr, settings.weight_decay)
    batches = _batches(len(rows), settings.batch, np.random.Generator(np.random.Philox(seed)))
    for step in range(settings.steps if stop is None else min(stop, settings.steps)):
        model.train()
        optimizer.zero_grad()
        logits, labels, _ = _completions(model, [rows[place] for place in next(batches)])
        torch.nn.functional.cross_entropy(logits, labels).backward()  # type: ignore[no-untyped-call]
        take_step(model, optimizer, learning_rate(step, settings.steps, settings.lr, settings.warmup), settings.clip)
        model.eval()
        if watch is not None:
            watch(step + 1)
    model.eval()


@torch.inference_mode()
def led(model: PreTrainedModel, rows: Sequence[Pair], *measures: Measure) -> list[NDArray[np.float64]]:
    """The mean of each measure over the tokens of each row's completion, the model led along it (teacher forcing).

    Returns [row] float64 for each measure, in the rows' order.
    """
    order = sorted(range(len(rows)), key=lambda place: sum(map(len, rows[place])))  # those of one length together
    found = [np.zeros(len(rows)) for _ in measures]
    for start in range(0, len(order), ROWS):
        part = order[start : start + ROWS]
        logits, labels, owners = _completions(model, [rows[place] for place in part])
        tokens = torch.bincount(owners, minlength=len(part)).double()
        for values, measure in zip(found, measures, strict=True):
            sums = torch.zeros(len(part), dtype=torch.float64).index_add(0, owners, measure(logits, labels).double())
            values[part] = (sums / tokens).numpy()
    return found


def nats(logits: Tensor, labels: Tensor) -> Tensor:
    """A `Measure`: the negative log-likelihood of each token."""
    return torch.nn.functional.cross_entropy(logits, labels, reduction="none")


def hits(logits: Tensor, labels: Tensor) -> Tensor:
    """A `Measure`: 1 where the most likely token is the right one. A mean of 1 is greedy decoding of that solution."""
    return (logits.argmax(dim=-1) == labels).float()


def _completions(model: PreTrainedModel, rows: Sequence[Pair]) -> tuple[Tensor, Tensor, Tensor]:
    """Logits [token, vocabulary] float32 and labels [token] of the completions, and the row that each token is of."""
    padded = pad_rows(rows)
    logits = model(input_ids=padded.ids, attention_mask=padded.mask, use_cache=False).logits[:, :-1]
    inside = padded.completion
    return logits[inside].float(), padded.ids[:, 1:][inside], inside.nonzero()[:, 0]


def _batches(total: int, size: int, rng: np.random.Generator) -> Iterator[list[int]]:
    """Positions of each step: permutation after permutation, cut into batches."""
    waiting: list[int] = []
    while True:
        while len(waiting) < size:
            waiting += rng.permutation(total).tolist()
        yield waiting[:size]
        waiting = waiting[size:]
