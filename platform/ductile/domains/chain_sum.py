"""Chain sums: the running sums of a row of terms, modulo m. The level is the number of terms.

    s3458>1:    running: 720#0    trace: 3+4=7;7+5=2;2+8=0#0    direct: #0

The running sums of random terms are uniform and independent, so the guess space M means what it says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ductile.domains.symbolic import LONGEST, Knobs, Symbolic, digits_text, guess_space_mistakes
from ductile.domains.work import Work
from ductile.settings import build, setting


@dataclass(frozen=True)
class ChainSumOptions(Knobs):
    """Options of `chain_sum`."""

    guess_space: int = setting(10, "how many answers there are (M), a power of the modulus; 0: all running sums", low=0)
    modulus: int = setting(10, "terms below m, sums modulo m; named in the prompt when not 10", low=2, high=10)

    def check(self) -> Iterator[str]:
        """See `settings.build`."""
        yield from guess_space_mistakes(self.guess_space, self.modulus, LONGEST - 1)


@dataclass(frozen=True)
class ChainSum:
    """The task. Arguments: the terms' digits, and `%m` unless m is 10."""

    symbols: int
    verb: str = "s"
    levels: range = range(2, LONGEST + 1)

    @cached_property
    def works(self) -> dict[str, Work]:
        """The running sums alone, or each addition in full."""
        digit = f"[0-{self.symbols - 1}]"
        return {
            "running": Work(self.result, lambda arguments: [digit] * _additions(arguments), separator=""),
            "trace": Work(self._trace, lambda arguments: [rf"{digit}\+{digit}={digit}"] * _additions(arguments)),
        }

    def length(self, level: int) -> int:
        """One sum for each term after the first."""
        return level - 1

    def radices(self, level: int) -> tuple[int, ...]:
        """A term below the modulus for each of the `level` places."""
        return (self.symbols,) * level

    def arguments(self, rows: NDArray[np.int64]) -> list[str]:
        """The terms as digits."""
        suffix = "" if self.symbols == 10 else f"%{self.symbols}"
        return [terms + suffix for terms in digits_text(rows)]

    def result(self, arguments: str) -> str:
        """The running sums from the second term on: 3458 -> 720."""
        return "".join(map(str, self._sums(arguments)[1:]))

    def _sums(self, arguments: str) -> list[int]:
        return list(accumulate(map(int, _terms(arguments)), lambda total, term: (total + term) % self.symbols))

    def _trace(self, arguments: str) -> list[str]:
        sums = self._sums(arguments)
        return [f"{a}+{b}={c}" for a, b, c in zip(sums, _terms(arguments)[1:], sums[1:], strict=False)]


def make(values: Mapping[str, Any], path: str) -> Symbolic:
    """The domain of these options; raises `SettingsError`."""
    options = build(ChainSumOptions, values, path)
    return Symbolic("chain_sum", ChainSum(options.modulus), options)


def _terms(arguments: str) -> str:
    return arguments.partition("%")[0]


def _additions(arguments: str) -> int:
    return len(_terms(arguments)) - 1
