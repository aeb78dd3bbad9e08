"""A step's completions as rows of a batch, and rows as padded tensors of bounded size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Row:
    """One completion to learn from.

    prompt, completion: [length] int32 token ids; behaviour_logps: [completion length] float32, nats;
    advantage: the completion's; weight: of each of its tokens in the step's average (`rl.losses.token_weights`);
    successes: how many completions of its group succeeded (k), -1 where that is not known.
    """

    prompt: NDArray[np.int32]
    completion: NDArray[np.int32]
    behaviour_logps: NDArray[np.float32]
    advantage: float
    weight: float
    successes: int = -1

    @property
    def tokens(self) -> int:
        """Tokens of prompt and completion."""
        return len(self.prompt) + len(self.completion)


@dataclass(frozen=True)
class Batch:
    """What one update learns from. Rows that carry no gradient may be left out: the weights count them already."""

    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Padded:
    """Sequences padded on the right.

    ids, mask:  [row, position] int64, mask 0 where padded
    completion: [row, position - 1] bool, True where position + 1 holds a completion token: shifted as logits are
    """

    ids: Tensor
    mask: Tensor
    completion: Tensor


@dataclass(frozen=True)
class MicroBatch:
    """Rows as tensors. behaviour_logps: [row, position - 1] float32, 0 outside; advantages, weights: [row, 1].

    proximal_logps: as behaviour_logps, of the policy that the update began with (`rl.losses.importance`); None where
    the behaviour policy is taken for it.
    """

    padded: Padded
    behaviour_logps: Tensor
    advantages: Tensor
    weights: Tensor
    proximal_logps: Tensor | None = None


def pad_rows(
    rows: Sequence[tuple[NDArray[np.int32], NDArray[np.int32]]], device: torch.device | str = "cpu", width: int = 0
) -> Padded:
    """(prompt, completion) pairs as one padded batch, at least `width` wide."""
    width = max(width, *(len(prompt) + len(completion) for prompt, completion in rows))
    ids = np.zeros((len(rows), width), np.int64)
    mask = np.zeros((len(rows), width), np.int64)
    inside = np.zeros((len(rows), width), np.bool_)
    for row, (prompt, completion) in enumerate(rows):
        end = len(prompt) + len(completion)
        ids[row, : len(prompt)], ids[row, len(prompt) : end] = prompt, completion
        mask[row, :end] = 1
        inside[row, len(prompt) : end] = True
    return Padded(*(torch.from_numpy(array).to(device) for array in (ids, mask, inside[:, 1:])))


def micro_batches(
    batch: Batch, max_tokens: int, device: torch.device | str = "cpu", rank: int = 0, world: int = 1
) -> list[MicroBatch]:
    """Cut a batch by tokens: each micro-batch holds at most `max_tokens` of them, padding included, or a single row.

    Rows of similar length go together. With `world` ranks each gets every world-th row; all ranks get the same number
    of micro-batches, filled up with repeats of weight 0, because a collective update needs them to march in step.
    """
    order = sorted(range(len(batch.rows)), key=lambda i: (batch.rows[i].tokens, i))
    shares = [[batch.rows[i] for i in order[r::world]] for r in range(world)]
    parts = [cut(share, max_tokens) for share in shares]
    steps = max((len(part) for part in parts), default=0)
    mine = [tensors(rows, device) for rows in parts[rank]]
    filler = next((part[0] for part in parts if part), None)
    while len(mine) < steps and filler:
        empty = tensors(filler[:1], device)
        mine.append(MicroBatch(empty.padded, empty.behaviour_logps, empty.advantages * 0, empty.weights * 0))
    return mine


def cut(rows: Sequence[Row], max_tokens: int) -> list[list[Row]]:
    """Rows in ascending length as parts of at most `max_tokens` tokens, padding included, or of a single row."""
    parts: list[list[Row]] = []
    for row in rows:  # ascending, so the newest row is the widest
        if parts and row.tokens * (len(parts[-1]) + 1) <= max_tokens:
            parts[-1].append(row)
        else:
            parts.append([row])
    return parts


def tensors(rows: Sequence[Row], device: torch.device | str) -> MicroBatch:
    """Rows as one micro-batch."""
    padded = pad_rows([(row.prompt, row.completion) for row in rows], device)
    logps = np.zeros(padded.completion.shape, np.float32)
    for position, row in enumerate(rows):
        start = len(row.prompt) - 1
        logps[position, start : start + len(row.completion)] = row.behaviour_logps
    columns = np.array([[row.advantage, row.weight] for row in rows], np.float32)
    advantages, weights = torch.from_numpy(columns).to(device).split(1, dim=1)
    return MicroBatch(padded, torch.from_numpy(logps).to(device), advantages, weights)
