"""Many short texts in one block of bytes: packed, hashed and compared eight bytes at a time, without a loop over texts.

Python's `str` and a dict take some 200 bytes a problem id; here an id takes its own bytes and 8 for where it begins.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

WORD = 8
CODEC = ("utf-8", "surrogatepass")
"""Whatever a `str` can hold, half a surrogate pair included, is kept exactly."""

_ONES = np.uint64(2**64 - 1)
_MIX = (np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53))  # the multipliers of MurmurHash3's fmix64
_HALF = np.uint64(32)


@dataclass(frozen=True)
class Texts:
    """Texts in UTF-8.

    data:    [byte] uint8
    starts:  [text] int64, where each begins in `data`
    lengths: [text] int64, in bytes
    """

    data: NDArray[np.uint8]
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts)

    def take(self, positions: NDArray[np.int64] | slice) -> Texts:
        """Some of them; the bytes are shared."""
        return Texts(self.data, self.starts[positions], self.lengths[positions])

    def parts(self, size: int) -> Iterator[Texts]:
        """All of them, `size` at a time, so that what is computed of each takes little memory."""
        for first in range(0, len(self), size):
            yield self.take(slice(first, first + size))

    def joined(self) -> NDArray[np.uint8]:
        """[byte] uint8, the texts one after the other and nothing else."""
        if (self.starts[1:] == self.starts[:-1] + self.lengths[:-1]).all():  # so they stand already
            return self.data[self.starts[0] : self.starts[-1] + self.lengths[-1]] if len(self) else self.data[:0]
        begins = np.cumsum(self.lengths) - self.lengths
        places = np.arange(int(self.lengths.sum())) + np.repeat(self.starts - begins, self.lengths)
        return self.data[places]


def pack(texts: Sequence[str]) -> Texts:
    """The texts as bytes; raises `TypeError` for what is no text."""
    data = np.frombuffer("".join(texts).encode(*CODEC), np.uint8)
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    if lengths.sum() != len(data):  # some characters take several bytes
        lengths = np.fromiter((len(text.encode(*CODEC)) for text in texts), np.int64, len(texts))
    return Texts(data, np.cumsum(lengths) - lengths, lengths)


def unpack(texts: Texts) -> list[str]:
    """The texts again."""
    data = texts.data.data
    ends = texts.starts + texts.lengths
    return [str(data[start:end], *CODEC) for start, end in zip(texts.starts.tolist(), ends.tolist(), strict=True)]


def hashed(texts: Texts) -> NDArray[np.uint64]:
    """[text] uint64, a hash that depends on the bytes alone and is the same in every process.

    Word by word h <- xorshift((h ^ word) * m), then MurmurHash3's finaliser. Not one to keep an adversary out: who
    looks a text up by it compares the texts as well.
    """
    hashes: NDArray[np.uint64] = (texts.lengths + 1).astype(np.uint64) * _MIX[1]
    for which, word in _words(texts):
        product = (hashes[which] ^ word) * _MIX[0]
        hashes[which] = product ^ (product >> _HALF)
    for factor in _MIX:
        hashes = (hashes ^ (hashes >> np.uint64(33))) * factor
    return hashes ^ (hashes >> np.uint64(33))


def same(a: Texts, b: Texts) -> NDArray[np.bool_]:
    """[text] bool, whether each text of `a` is the text at its position in `b`."""
    alike = a.lengths == b.lengths
    which = np.flatnonzero(alike)
    for (left, ours), (_, theirs) in zip(_words(a.take(which)), _words(b.take(which)), strict=True):
        alike[which[left]] &= ours == theirs
    return alike


def _words(texts: Texts) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint64]]]:
    """For each eight bytes in turn: the positions of the texts that reach them, and these bytes, 0 after the end."""
    data = texts.data if len(texts.data) >= WORD else np.concatenate([texts.data, np.zeros(WORD, np.uint8)])
    anywhere: NDArray[np.uint64] = np.ndarray((len(data) - WORD + 1,), "<u8", np.ascontiguousarray(data), strides=(1,))
    left: NDArray[np.int64] = np.flatnonzero(texts.lengths > 0)
    first = 0
    while len(left):
        wanted = texts.starts[left] + first
        read = np.minimum(wanted, len(anywhere) - 1)  # the last word of the data, where less than a word is left
        beyond = np.maximum(first + WORD - texts.lengths[left], 0)
        word: NDArray[np.uint64] = anywhere[read] >> (8 * (wanted - read)).astype(np.uint64)
        word &= _ONES >> (8 * beyond).astype(np.uint64)
        yield left, word
        first += WORD
        left = left[texts.lengths[left] > first]
