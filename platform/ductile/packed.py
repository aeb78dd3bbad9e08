"""Rows as one sequence without padding, in which a prompt that several rows share stands once.

Everything in a transformer but attention works on single tokens, and so on the packed sequence; attention lays the rows
out side by side, those of about one length together (`models.packing`). The last token of a completion is predicted but
predicts nothing: it is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Ints = NDArray[np.int64]
Pair = tuple[NDArray[np.int32], NDArray[np.int32]]
"""Token ids of a prompt and of its completion."""


STEPS = 4
"""Lengths in an octave that rows laid out side by side are padded to: at most a quarter of a place is padding."""


@dataclass(frozen=True)
class Packed:
    """A packed sequence; all int64. "Token" is one of its own, "target" a completion's token, in the rows' order.

    ids, positions: [token] token id, and position in its row
    spreads: rows of about one length side by side, each [row, place]: the token that stands there, 0 beyond its end
    lengths: [row] tokens of each row, in the order of `spreads`
    back:    [token] where it stands in all `spreads`, flattened; of several places the first
    kept:    [target] the token whose logits predict it
    targets: [target] token id
    rows:    [target] number of its row, in the rows' own order
    """

    ids: Tensor
    positions: Tensor
    spreads: tuple[Tensor, ...]
    lengths: Tensor
    back: Tensor
    kept: Tensor
    targets: Tensor
    rows: Tensor


def pack(rows: Sequence[Pair], device: torch.device | str = "cpu") -> Packed:
    """(prompt, completion) pairs as one sequence. No prompt may be empty; of equal prompts one is kept."""
    parts, begun, end = [], dict[bytes, Ints](), 0
    tokens_of: list[Ints] = []
    for prompt, completion in rows:
        key, inner = prompt.tobytes(), completion[:-1]
        if key not in begun:
            begun[key] = np.arange(end, end + len(prompt))
            parts.append((prompt, np.arange(len(prompt))))
            end += len(prompt)
        tokens_of.append(np.concatenate([begun[key], np.arange(end, end + len(inner))]))
        parts.append((inner, np.arange(len(prompt), len(prompt) + len(inner))))
        end += len(inner)
    spreads, lengths, back = _side_by_side(tokens_of, end)
    kept = [own[len(own) - len(completion) :] for own, (_, completion) in zip(tokens_of, rows, strict=True)]
    completions = [completion for _, completion in rows]
    owners = np.repeat(np.arange(len(rows)), [len(completion) for completion in completions])

    def tensor(*arrays: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.concatenate(arrays).astype(np.int64)).to(device)

    return Packed(
        ids=tensor(*(ids for ids, _ in parts)),
        positions=tensor(*(positions for _, positions in parts)),
        spreads=tuple(tensor(spread) for spread in spreads),
        lengths=tensor(lengths),
        back=tensor(back),
        kept=tensor(*kept),
        targets=tensor(*completions),
        rows=tensor(owners),
    )


def _side_by_side(tokens_of: Sequence[Ints], count: int) -> tuple[list[Ints], Ints, Ints]:
    """`spreads`, `lengths` and `back` of rows of so many different tokens."""
    by_width: dict[int, list[Ints]] = {}
    for own in tokens_of:
        by_width.setdefault(_width(len(own)), []).append(own)
    spreads, lengths, back, first = [], [], np.full(count, -1), 0
    for width in sorted(by_width):
        spread = np.zeros((len(by_width[width]), max(map(len, by_width[width]))), np.int64)
        for row, own in enumerate(by_width[width]):
            spread[row, : len(own)] = own
            new = back[own] < 0
            back[own[new]] = (first + np.arange(len(own)))[new]
            first += spread.shape[1]
        spreads.append(spread)
        lengths += [len(own) for own in by_width[width]]
    return spreads, np.array(lengths), back


def _width(length: int) -> int:
    """The least of `STEPS` lengths an octave that is no shorter."""
    step = max(1, (1 << max(length - 1, 0).bit_length()) // (2 * STEPS))
    return -(-length // step) * step
