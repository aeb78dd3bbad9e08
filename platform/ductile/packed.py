"""Rows as one sequence without padding, in which a prompt that several rows share stands once.

Everything in a transformer but attention works on single tokens, and so on the packed sequence; attention lays the rows
out side by side (`models.packing`). The last token of a completion is predicted but predicts nothing: it is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Pair = tuple[NDArray[np.int32], NDArray[np.int32]]
"""Token ids of a prompt and of its completion."""


@dataclass(frozen=True)
class Packed:
    """A packed sequence; all int64. "Token" is one of its own, "target" a completion's token, in the rows' order.

    ids, positions: [token] token id, and position in its row
    spread:  [row, place] the token that stands there in the row, 0 beyond the row's end
    back:    [token] where it stands in `spread`, flattened; of several places the first
    kept:    [target] the token whose logits predict it
    targets: [target] token id
    rows:    [target] number of its row
    lengths: [row] tokens of the row in the sequence
    """

    ids: Tensor
    positions: Tensor
    spread: Tensor
    back: Tensor
    kept: Tensor
    targets: Tensor
    rows: Tensor
    lengths: Tensor


def pack(rows: Sequence[Pair], device: torch.device | str = "cpu") -> Packed:
    """(prompt, completion) pairs as one sequence. No prompt may be empty; of equal prompts one is kept."""
    lengths = np.array([len(prompt) + max(len(completion) - 1, 0) for prompt, completion in rows])
    spread = np.zeros((len(rows), int(lengths.max())), np.int64)
    ids, positions, back, kept = [], [], [], []
    begun: dict[bytes, NDArray[np.int64]] = {}
    end = 0
    for row, (prompt, completion) in enumerate(rows):
        key, first = prompt.tobytes(), row * spread.shape[1]
        if key not in begun:
            begun[key] = np.arange(end, end + len(prompt))
            ids.append(prompt)
            positions.append(np.arange(len(prompt)))
            back.append(first + positions[-1])
            end += len(prompt)
        own = np.arange(end, end + len(completion[:-1]))
        ids.append(completion[:-1])
        positions.append(np.arange(len(prompt), len(prompt) + len(own)))
        back.append(first + positions[-1])
        end += len(own)
        placed = np.concatenate([begun[key], own])
        spread[row, : len(placed)] = placed
        kept.append(placed[len(prompt) - 1 :][: len(completion)])
    targets = [completion for _, completion in rows]
    owners = np.repeat(np.arange(len(rows)), [len(completion) for completion in targets])
    arrays = (
        *(np.concatenate(parts) for parts in (ids, positions)),
        spread,
        *(np.concatenate(p) for p in (back, kept)),
    )
    tensors = (
        torch.from_numpy(a.astype(np.int64)).to(device) for a in (*arrays, np.concatenate(targets), owners, lengths)
    )
    return Packed(*tensors)
