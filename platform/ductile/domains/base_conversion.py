"""Writing a decimal number in binary. The level is how many bits the number has.

    b13>*:    halving: 13.1;6.0;3.1;1.1#1101    powers: 8+4+1#1101    direct: #1101

Blind guessing of the whole result succeeds one time in 2^(level - 1), since the first bit is always 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ductile.domains.symbolic import Knobs, Symbolic, digits_text, guess_space_mistakes
from ductile.domains.work import Work
from ductile.settings import build

MOST_BITS = 16
"""Highest level."""


@dataclass(frozen=True)
class BaseConversionOptions(Knobs):
    """Options of `base_conversion`."""

    def check(self) -> Iterator[str]:
        """See `settings.build`."""
        yield from guess_space_mistakes(self.guess_space, 2, MOST_BITS)


def _bits(arguments: str) -> str:
    return f"{int(arguments):b}"


def _halving(arguments: str) -> list[str]:
    quotients = [int(arguments) >> shift for shift in range(len(_bits(arguments)))]
    return [f"{quotient}.{quotient % 2}" for quotient in quotients]


def _powers(arguments: str) -> list[str]:
    bits = _bits(arguments)
    return [str(1 << place) for place in range(len(bits) - 1, -1, -1) if int(arguments) >> place & 1]


_A_POWER = "|".join(str(1 << place) for place in range(MOST_BITS))

WORKS = {
    "halving": Work(_halving, lambda arguments: [r"[0-9]+\.[01]"] * len(_bits(arguments))),
    "powers": Work(_powers, lambda arguments: [_A_POWER] * _bits(arguments).count("1"), separator="+"),
}
"""Each halved number with its remainder, the last remainder being the first bit; or the powers of two in the sum."""


@dataclass(frozen=True)
class BaseConversion:
    """The task. Arguments: the number in decimal."""

    symbols: int = 2
    verb: str = "b"
    levels: range = range(2, MOST_BITS + 1)
    works: Mapping[str, Work] = field(default_factory=lambda: WORKS)

    def length(self, level: int) -> int:
        """As many bits as the level says."""
        return level

    def radices(self, level: int) -> tuple[int, ...]:
        """The bits after the first, which is 1."""
        return (2,) * (level - 1)

    def arguments(self, rows: NDArray[np.int64]) -> list[str]:
        """The number."""
        return [str(int(f"1{bits}", 2)) for bits in digits_text(rows)]

    def result(self, arguments: str) -> str:
        """The bits: 13 -> 1101."""
        return _bits(arguments)


def make(values: Mapping[str, Any], path: str) -> Symbolic:
    """The domain of these options; raises `SettingsError`."""
    return Symbolic("base_conversion", BaseConversion(), build(BaseConversionOptions, values, path))
