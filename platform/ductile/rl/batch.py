"""A step's completions as rows of a batch, and rows as packed or padded tensors of bounded size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ductile.packed import Packed, Pair, pack

AREA = 2
"""Most tokens of a micro-batch's rows with their own prompts, in its bound: so attention lays them out side by side."""


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
    """Rows as tensors; a completion's tokens are flat, those of the rows one after the other (`Packed.rows`).

    behaviour_logps, advantages, weights: [token] float32, of each completion token.
    proximal_logps: as behaviour_logps, of the policy that the update began with (`rl.losses.importance`); None where
    the behaviour policy is taken for it.
    """

    packed: Packed
    behaviour_logps: Tensor
    advantages: Tensor
    weights: Tensor
    proximal_logps: Tensor | None = None


def pad_rows(rows: Sequence[Pair], device: torch.device | str = "cpu", width: int = 0) -> Padded:
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
    """Cut a batch by tokens: each micro-batch holds at most `max_tokens` of them, or a single row.

    Rows with equal prompts go together, and then those of similar length. With `world` ranks each gets its share
    (`deal`); all ranks get the same number of micro-batches, filled up with repeats of weight 0, because a collective
    update needs them to march in step.
    """
    parts = [cut([batch.rows[i] for i in share], max_tokens) for share in deal(batch.rows, world)]
    steps = max(len(part) for part in parts)
    mine = [tensors(rows, device) for rows in parts[rank]]
    filler = next((part[0] for part in parts if part), None)
    while len(mine) < steps and filler:
        empty = tensors(filler[:1], device)
        mine.append(MicroBatch(empty.packed, empty.behaviour_logps, empty.advantages * 0, empty.weights * 0))
    return mine


def deal(rows: Sequence[Row], world: int) -> list[list[int]]:
    """Numbers of the rows of each rank: equally many tokens, as far as whole rows allow.

    Rows with equal prompts stand together, the prompt with the shortest longest row first, and each one's by length.
    """
    longest: dict[bytes, int] = {}
    keys = [row.prompt.tobytes() for row in rows]
    for key, row in zip(keys, rows, strict=True):
        longest[key] = max(row.tokens, longest.get(key, 0))
    order = sorted(range(len(rows)), key=lambda i: (longest[keys[i]], keys[i], rows[i].tokens, i))
    shares: list[list[int]] = [[] for _ in range(world)]
    total, before = sum(row.tokens for row in rows), 0
    for i in order:
        shares[(2 * before + rows[i].tokens) * world // (2 * total)].append(i)
        before += rows[i].tokens
    return shares


def cut(rows: Sequence[Row], max_tokens: int) -> list[list[Row]]:
    """Rows as parts of at most `max_tokens` packed tokens, and `AREA` times as many side by side, or of one row."""
    parts: list[list[Row]] = []
    packed = apart = 0
    prompts = set[bytes]()
    for row in rows:
        key = row.prompt.tobytes()
        packed += len(row.completion) + (0 if key in prompts else len(row.prompt))
        apart += row.tokens
        if not parts or packed > max_tokens or apart > AREA * max_tokens:
            parts.append([])
            packed = apart = row.tokens
            prompts.clear()
        parts[-1].append(row)
        prompts.add(key)
    return parts


def tensors(rows: Sequence[Row], device: torch.device | str) -> MicroBatch:
    """Rows as one micro-batch."""
    packed = pack([(row.prompt, row.completion) for row in rows], device)
    logps = torch.from_numpy(np.concatenate([row.behaviour_logps for row in rows]).astype(np.float32)).to(device)
    columns = torch.from_numpy(np.array([[row.advantage, row.weight] for row in rows], np.float32)).to(device)
    advantages, weights = columns[packed.rows].unbind(dim=1)
    return MicroBatch(packed, logps, advantages, weights)
