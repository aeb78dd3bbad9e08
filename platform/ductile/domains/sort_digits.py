"""Sorting digits. The level is how many digits.

    o4827>*:    insertion: 4;48;248;2478#2478    counts: 2,1;4,1;7,1;8,1#2478    direct: #2478

The guess space is nominal here: the last digits of a sorted row are not uniform (the very last is a 9 in a third of
the rows of 4), so blind guessing does better than one in M.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ductile.domains.symbolic import LONGEST, Knobs, Symbolic, digits_text, guess_space_mistakes
from ductile.domains.work import Work
from ductile.settings import build


@dataclass(frozen=True)
class SortDigitsOptions(Knobs):
    """Options of `sort_digits`."""

    def check(self) -> Iterator[str]:
        """See `settings.build`."""
        yield from guess_space_mistakes(self.guess_space, 10, LONGEST)


def _prefixes(arguments: str) -> list[str]:
    return ["".join(sorted(arguments[:end])) for end in range(1, len(arguments) + 1)]


def _counts(arguments: str) -> list[str]:
    return [f"{digit},{count}" for digit, count in sorted(Counter(arguments).items())]


WORKS = {
    "insertion": Work(_prefixes, lambda arguments: [f"[0-9]{{{length}}}" for length in range(1, len(arguments) + 1)]),
    "counts": Work(_counts, lambda arguments: ["[0-9],[0-9]+"] * len(set(arguments))),
}
"""Each digit put in its place among those before it, or how often each digit occurs."""


@dataclass(frozen=True)
class SortDigits:
    """The task. Arguments: the digits."""

    symbols: int = 10
    verb: str = "o"
    levels: range = range(2, LONGEST + 1)
    works: Mapping[str, Work] = field(default_factory=lambda: WORKS)

    def length(self, level: int) -> int:
        """As many digits as there are."""
        return level

    def radices(self, level: int) -> tuple[int, ...]:
        """Any digit at each of the `level` places."""
        return (10,) * level

    def arguments(self, rows: NDArray[np.int64]) -> list[str]:
        """The digits."""
        return digits_text(rows)

    def result(self, arguments: str) -> str:
        """The digits from the smallest to the largest: 4827 -> 2478."""
        return "".join(sorted(arguments))


def make(values: Mapping[str, Any], path: str) -> Symbolic:
    """The domain of these options; raises `SettingsError`."""
    return Symbolic("sort_digits", SortDigits(), build(SortDigitsOptions, values, path))
