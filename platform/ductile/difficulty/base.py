"""What an estimator, a selection rule and an allocation are: arrays in, arrays out, one row for each problem."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Rows = NDArray[np.int64]
"""[problem] int64, row numbers in the table."""

Floats = NDArray[np.float64]

Arrays = Mapping[str, NDArray]  # type: ignore[type-arg]
"""A snapshot: arrays by name, which safetensors keeps exactly."""

FEATURES, RATIOS, REFERENCE = "features", "ratios", "reference"
"""What an estimator may need beside outcomes (`Estimator.needs`); see `Evidence`."""


@dataclass(frozen=True)
class Estimates:
    """What is believed of some problems at a step.

    mean:        [problem] float64, expected pass rate under the current policy, in [0, 1]
    uncertainty: [problem] float64, standard deviation of that belief, at most sqrt(mean (1 - mean))
    age:         [problem] int64, steps since the last visit, or since the problem entered the table
    """

    mean: Floats
    uncertainty: Floats
    age: NDArray[np.int64]


@dataclass(frozen=True)
class Visits:
    """What came of problems that were rolled out: each row at most once.

    rows:      [problem] int64
    successes: [problem] float64, successes among the judged completions
    counts:    [problem] float64, judged completions, above 0
    """

    rows: Rows
    successes: Floats
    counts: Floats


@dataclass(frozen=True)
class Evidence:
    """What the policy of the moment says of problems without being asked to answer them; each part where it is needed.

    feature_rows: [problem] int64 and features [problem, width] float32: the hidden state of the prompt's last token
    asked:        [problem] bool, which of these belong to the phase's pool; the others are watched, and nothing that is
                  said of the pool may depend on them
    ratio_rows:   [completion] int64 with log_ratios [completion] float64, log pi(y) - log mu(y) of kept completions y
                  under the policy of the moment and the one that sampled them, and rewards [completion] float64, 0 or 1
    reference:    outcomes of problems that were rolled out anew under the policy of the moment
    """

    feature_rows: Rows
    features: NDArray[np.float32]
    asked: NDArray[np.bool_]
    ratio_rows: Rows
    log_ratios: Floats
    rewards: Floats
    reference: Visits | None


class Estimator(Protocol):
    """Estimates pass rates. `step` never decreases from one call to the next; nothing but these calls changes it."""

    needs: frozenset[str]

    def grow(self, count: int, step: int) -> None:
        """Append `count` rows of problems never visited, entered at `step`."""

    def predict(self, rows: Rows, step: int) -> Estimates:
        """The estimates of `rows` as of `step`; changes nothing."""

    def observe(self, visits: Visits, step: int) -> None:
        """Take in outcomes under the policy of `step`."""

    def measure_first(self, visits: Visits, step: int) -> None:
        """Take in outcomes of the untouched base from before the run (`difficulty.offline`)."""

    def refresh(self, evidence: Evidence, step: int) -> None:
        """Take in what it `needs`, as of the policy of `step`."""

    def diagnostics(self) -> Mapping[str, float]:
        """Metrics of the last refresh by name, without `difficulty/<estimator>/`."""

    def snapshot(self) -> Arrays:
        """Everything that `restore` needs to go on exactly; the arrays may be those that it goes on to change."""

    def restore(self, snapshot: Arrays) -> None:
        """Become what `snapshot` describes."""


class FromOutcomes:
    """What an estimator does that needs outcomes alone and knows nothing of the base: nothing."""

    needs: frozenset[str] = frozenset()

    def measure_first(self, visits: Visits, step: int) -> None:
        """Outcomes of the untouched base say nothing of the policy of the moment to it."""

    def refresh(self, evidence: Evidence, step: int) -> None:
        """It asks for nothing."""

    def diagnostics(self) -> Mapping[str, float]:
        """None."""
        return {}


@dataclass(frozen=True)
class Candidates:
    """The problems that a rule may choose from, one entry each.

    rows:      [candidate] int64
    estimates: of the estimator that the run selects by
    static:    [candidate] float64, static difficulty in [0, 1], 1 the hardest; NaN where it is not known
    progress:  share of the phase's steps that is over, in [0, 1)
    """

    rows: Rows
    estimates: Estimates
    static: Floats
    progress: float = 0.0


class Selector(Protocol):
    """A selection rule, with what it remembers of the problems."""

    def start_phase(self) -> None:
        """A phase begins: what belongs to one phase alone begins anew."""

    def grow(self, count: int) -> None:
        """Append `count` rows of problems never visited."""

    def select(self, candidates: Candidates, count: int, rng: Generator) -> NDArray[np.int64]:
        """`count` positions among the candidates, without repeats; `count` is at most how many there are."""

    def observe(self, visits: Visits) -> Mapping[str, float]:
        """Take in a step's outcomes; returns metrics by name, `difficulty/...`."""

    def snapshot(self) -> Arrays:
        """Everything that `restore` needs to go on exactly."""

    def restore(self, snapshot: Arrays) -> None:
        """Become what `snapshot` describes."""


class Allocation(Protocol):
    """How a step's completions are shared out among its problems: a pure function."""

    def __call__(self, estimates: Estimates, total: int, low: int, high: int) -> NDArray[np.int64]:
        """[problem] int64, completions of each, together `total`."""
