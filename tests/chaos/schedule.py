"""When which fault happens, drawn from a seed: by steps done, so that a slow machine meets the same faults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Planned:
    """One fault. It is applied `delay_s` after the run has `step` steps in its checkpoints; it lasts `seconds`.

    pick: in [0, 1), decides which of the processes that it may hit it does hit.
    """

    step: int
    kind: str
    delay_s: float
    seconds: float
    pick: float


def draw(seed: int, kinds: Mapping[str, tuple[float, float]], count: int, steps: int) -> list[Planned]:
    """`count` faults over the first four fifths of `steps`, each kind at least once if they are enough.

    kinds: name -> shortest and longest time in seconds that it lasts; (0, 0) for what is done at once.
    Raises ValueError when two faults would have to share a step: a run must come further between two of them.
    """
    if not kinds:
        raise ValueError("schedule: no kind of fault to draw from")
    room = int(steps * 0.8) - 1  # the end is for what the last of them cost
    if count > room:
        raise ValueError(f"schedule: {count} faults need {count} different steps, {steps} steps leave {room}")
    random = np.random.Generator(np.random.Philox(seed))
    names = sorted(kinds)
    rounds = -(-count // len(names))
    drawn = np.concatenate([random.permutation(names) for _ in range(rounds)])[:count]
    edges = [1 + position * room // count for position in range(count + 1)] if count else [1]
    planned = []
    for low, high, name in zip(edges[:-1], edges[1:], drawn, strict=True):
        shortest, longest = kinds[str(name)]
        planned.append(
            Planned(
                step=low + int(random.random() * (high - low)),
                kind=str(name),
                delay_s=round(float(random.random() * 0.4), 3),
                seconds=round(float(random.uniform(shortest, longest)), 1),
                pick=float(random.random()),
            )
        )
    return planned
