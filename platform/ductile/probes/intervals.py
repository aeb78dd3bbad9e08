"""95% percentile intervals of bootstrap values."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def percentile_interval(values: Sequence[float] | NDArray[np.float64]) -> tuple[float, float]:
    """The 2.5 and 97.5 percentiles. values: [resample], finite."""
    low, high = np.percentile(np.asarray(values, np.float64), [2.5, 97.5])
    return float(low), float(high)
