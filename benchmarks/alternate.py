"""Two or more sides of a comparison, run in turn in one process, and the ratio of their speeds with an interval."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000

HEADLINE = "=> "
"""Begins the lines that `make bench` gathers at its end."""


@dataclass(frozen=True)
class Ratio:
    """A ratio of medians, and its 95% percentile interval over resampled rounds."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def alternate(sides: Mapping[str, Callable[[], float]], rounds: int, warm: int = 1) -> dict[str, NDArray[np.float64]]:
    """Speed of each side in each round: what a call returns (its amount of work), over the seconds that it took."""

    def speed(side: Callable[[], float]) -> float:
        started = time.perf_counter()
        return side() / (time.perf_counter() - started)

    return in_turn({name: lambda side=side: speed(side) for name, side in sides.items()}, rounds, warm)  # type: ignore[misc]


def in_turn(sides: Mapping[str, Callable[[], float]], rounds: int, warm: int = 1) -> dict[str, NDArray[np.float64]]:
    """What each side returns in each round.

    The sides take turns, in an order that is turned round each time, so that what slows the machine down slows all of
    them. warm: rounds before, which are not kept.
    """
    values: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(-warm, rounds):
        for name in list(sides)[:: 1 if number % 2 == 0 else -1]:
            value = sides[name]()
            if number >= 0:
                values[name].append(value)
    return {name: np.array(found) for name, found in values.items()}


def ratio(ours: NDArray[np.float64], theirs: NDArray[np.float64], average: Callable[..., Any] = np.median) -> Ratio:
    """How many times as fast, of rounds that belong together.

    average: of the rounds, as np.median. Where their work differs, the seconds of the two sides with np.mean, turned
    round, are how many times as long all of it takes.
    """
    drawn = np.random.default_rng(0).integers(len(ours), size=(RESAMPLES, len(ours)))
    of = average(ours[drawn], axis=1) / average(theirs[drawn], axis=1)
    low, high = np.quantile(of, (0.025, 0.975))
    return Ratio(float(average(ours) / average(theirs)), float(low), float(high))


def print_speeds(speeds: Mapping[str, NDArray[np.float64]], unit: str) -> None:
    """A line for each side, and from the second on the first side's ratio to it."""
    first, *others = speeds
    width = max(len(name) for name in speeds)
    for name, values in speeds.items():
        span = f"from {min(values):,.4g} to {max(values):,.4g}, {len(values)} rounds"
        print(f"{name:{width}}  {np.median(values):>12,.4g} {unit}   ({span})")
    for name in others:
        print(f"{first} is {ratio(speeds[first], speeds[name])} times as fast as {name}")


def headline(text: str) -> None:
    """A benchmark's result in one line, which `make bench` prints again at its end."""
    print(f"{HEADLINE}{text}", flush=True)
