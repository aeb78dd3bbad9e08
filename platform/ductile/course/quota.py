"""A share of each step's problems in whole problems: never more than one off over any number of steps."""

from __future__ import annotations

import math


def quota(share: float, groups: int, step: int) -> int:
    """How many of the step's `groups` problems the share comes to; steps count from 0.

    >>> [quota(0.25, 6, step) for step in range(4)]
    [1, 2, 1, 2]
    """
    return asked_before(share, groups, step + 1) - asked_before(share, groups, step)


def asked_before(share: float, groups: int, step: int) -> int:
    """The sum of the quotas of all steps before `step`."""
    return math.floor(share * groups * step + 1e-9)  # 0.1 * 30 is 3, whatever its binary fraction
