"""Reversing or rotating a string of digits. The level is its length.

    r4827>*:      peel: 7;72;728;7284#7284    indexed: 4.7;3.2;2.8;1.4#7284    direct: #7284
    t4827,2>*:    turns: 8274;2748#2748       split: 27|48#2748                direct: #2748

`r` reverses; `t` rotates to the left by the number of places after the comma.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ductile.domains.symbolic import LONGEST, Knobs, Symbolic, Task, digits_text, guess_space_mistakes
from ductile.domains.work import Work
from ductile.settings import build, setting


@dataclass(frozen=True)
class StringsOptions(Knobs):
    """Options of `strings`."""

    operation: str = setting("reverse", "what is done to the string", choices=("reverse", "rotate"))

    def check(self) -> Iterator[str]:
        """See `settings.build`."""
        yield from guess_space_mistakes(self.guess_space, 10, LONGEST)


def _peel(arguments: str) -> list[str]:
    return [arguments[::-1][:end] for end in range(1, len(arguments) + 1)]


def _indexed(arguments: str) -> list[str]:
    return [f"{place}.{arguments[place - 1]}" for place in range(len(arguments), 0, -1)]


REVERSE_WORKS = {
    "peel": Work(_peel, lambda arguments: [f"[0-9]{{{length}}}" for length in range(1, len(arguments) + 1)]),
    "indexed": Work(_indexed, lambda arguments: [rf"{place}\.[0-9]" for place in range(len(arguments), 0, -1)]),
}
"""The reversed string as it grows, or each place from the last with its digit."""


@dataclass(frozen=True)
class Reverse:
    """The task of reversing. Arguments: the string."""

    symbols: int = 10
    verb: str = "r"
    levels: range = range(2, LONGEST + 1)
    works: Mapping[str, Work] = field(default_factory=lambda: REVERSE_WORKS)

    def length(self, level: int) -> int:
        """As long as the string."""
        return level

    def radices(self, level: int) -> tuple[int, ...]:
        """Any digit at each of the `level` places."""
        return (10,) * level

    def arguments(self, rows: NDArray[np.int64]) -> list[str]:
        """The string."""
        return digits_text(rows)

    def result(self, arguments: str) -> str:
        """The string from its end: 4827 -> 7284."""
        return arguments[::-1]


def _turned(arguments: str) -> tuple[str, int]:
    string, _, turns = arguments.partition(",")
    return string, int(turns)


def _turns(arguments: str) -> list[str]:
    string, turns = _turned(arguments)
    return [string[turn:] + string[:turn] for turn in range(1, turns + 1)]


def _turn_shapes(arguments: str) -> list[str]:
    string, turns = _turned(arguments)
    return [f"[0-9]{{{len(string)}}}"] * turns


def _halves(arguments: str) -> list[str]:
    string, turns = _turned(arguments)
    return [string[turns:], string[:turns]]


def _half_shapes(arguments: str) -> list[str]:
    return [f"[0-9]{{{len(half)}}}" for half in _halves(arguments)]


ROTATE_WORKS = {
    "turns": Work(_turns, _turn_shapes),
    "split": Work(_halves, _half_shapes, separator="|"),
}
"""The string after every turn by one place, or its two parts in their new order."""


@dataclass(frozen=True)
class Rotate:
    """The task of rotating to the left. Arguments: the string, `,`, by how many places, from 1 to one less than all."""

    symbols: int = 10
    verb: str = "t"
    levels: range = range(2, LONGEST + 1)
    works: Mapping[str, Work] = field(default_factory=lambda: ROTATE_WORKS)

    def length(self, level: int) -> int:
        """As long as the string."""
        return level

    def radices(self, level: int) -> tuple[int, ...]:
        """Any digit at each of the `level` places, and the number of places less one."""
        return (10,) * level + (level - 1,)

    def arguments(self, rows: NDArray[np.int64]) -> list[str]:
        """The string and the number of places."""
        return [f"{text},{places + 1}" for text, places in zip(digits_text(rows[:, :-1]), rows[:, -1], strict=True)]

    def result(self, arguments: str) -> str:
        """The string with its first places moved to its end: 4827,2 -> 2748."""
        return "".join(_halves(arguments))


def make(values: Mapping[str, Any], path: str) -> Symbolic:
    """The domain of these options; raises `SettingsError`."""
    options = build(StringsOptions, values, path)
    task: Task = Reverse() if options.operation == "reverse" else Rotate()
    return Symbolic("strings", task, options)
