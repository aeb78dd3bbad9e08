"""The protocols that the loop talks to. In-process ports implement them without Ray; `actors/` with it.

A `PolicyRef` names a policy completely: how its members are composed and which weights the trainable member
has. Calls carry it, so a rollout worker keeps no state that a retried call on a fresh one would miss.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from ductile.problem import Group, JudgedGroup, Problem

T = TypeVar("T")


@dataclass(frozen=True)
class Member:
    """One model of a composition: the checkpoint folder it starts from and its weight in logit space.

    prefix: rows of soft prefixes after its token embeddings (`models.soft_prefix`).
    """

    role: str
    path: str
    coefficient: float
    prefix: int = 0


@dataclass(frozen=True)
class Composition:
    """A policy as a sum of logits: softmax(sum of coefficient * logits of each member).

    `trainable` is the role whose weights are learned; the other members stay as their folders have them.
    """

    members: tuple[Member, ...]
    trainable: str

    @property
    def models(self) -> tuple[object, ...]:
        """What has to be loaded for it: everything but the coefficients."""
        return (self.trainable, *((member.role, member.path, member.prefix) for member in self.members))


@dataclass(frozen=True)
class PolicyRef:
    """A policy to sample from. `weights` is what `RolloutPool.publish` returned, None for the folders as they are."""

    composition: Composition
    weights: Any
    version: int


@dataclass(frozen=True)
class Sampling:
    """How to sample. The random numbers of a completion depend on (seed, stream, problem id, sample index) alone.

    `stream` separates uses at the same seed, as in "train/3/17" (phase 3, step 17) or "probe/retention/1".
    """

    seed: int
    stream: str
    samples: int
    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0


@dataclass(frozen=True)
class Divergence:
    """Exact full-vocabulary KL of two policies on the same completions, in nats.

    token_forward:  mean over completion tokens of KL(q || p) at each position
    token_reverse:  mean over completion tokens of KL(p || q)
    sequence_forward, sequence_reverse: the same summed over each completion, then averaged over completions
    tokens, completions: how many were averaged over
    """

    token_forward: float
    token_reverse: float
    sequence_forward: float
    sequence_reverse: float
    tokens: int
    completions: int


class Stopped(Exception):
    """The run was told to stop after `step`. early: by a search; else it can go on from its checkpoint."""

    def __init__(self, step: int, early: bool) -> None:
        super().__init__(step, early)
        self.step, self.early = step, early


class RolloutPool(Protocol):
    """Samples and scores sequences under policies."""

    def publish(self, weights: Mapping[str, Any]) -> Any:
        """Make a trainable member's weights reachable; the result goes into `PolicyRef.weights`.

        weights: a state dict on the CPU. Nobody may write to its tensors from then on: policies may lie on them.
        """

    def generate(self, policy: PolicyRef, problems: Sequence[Problem], sampling: Sampling) -> list[Group]:
        """`sampling.samples` completions of each problem, in the order of `problems`."""

    def divergence(self, p: PolicyRef, q: PolicyRef, groups: Sequence[Group], temperature: float) -> Divergence:
        """Exact KL between p and q on the given completions (see `Divergence`)."""

    def inspect(self, policy: PolicyRef, measure: Callable[[Any], T]) -> T:
        """What `measure` says of the loaded policy (`inspected.Inspected`), where the policy is.

        `measure` is sent there: a function of a module, or a `functools.partial` of one. It returns plain values or
        NumPy arrays, and may be called again when a call is lost.
        """

    def counts(self) -> Mapping[str, float]:
        """`rollout/...`: the run's actors that are alive, and what was done again since this was last asked."""


class RunPool(RolloutPool, Protocol):
    """The pool of a run, which re-estimates difficulty beside its training."""

    def begin(self, policy: PolicyRef, problems: Sequence[Problem], sampling: Sampling) -> int:
        """Begin what `generate` does; returns what `collect` takes. Where it can, it goes on beside the caller."""

    def collect(self, begun: int) -> list[Group]:
        """Wait for what was begun, and forget it."""

    def score(self, policy: PolicyRef, groups: Sequence[Group], temperature: float) -> list[NDArray[np.float64]]:
        """For each group [completion] float64, log-probability of the whole completion under the policy, in nats."""


OTHER_DOMAINS = ""
"""Stands in `Learner.experts` for every domain that it does not name."""


class Learner(Protocol):
    """Holds the trainable weights and the optimizer.

    composition:    of the policy of the moment; its coefficients and its models may change as the run goes on
    origin:         of the policy that the run began as; with untouched weights it is the base
    phase_start_composition: of the policy at the last `start_phase`
    models:         folder for models that the run makes, which every rollout worker can read
    """

    version: int
    composition: Composition
    origin: Composition
    phase_start_composition: Composition
    models: Path | None

    def recompose(self, composition: Composition, weights: Mapping[str, Any] | None = None) -> None:
        """Become another policy, with a fresh optimizer. weights: of its trainable member; None: its folder's."""

    def keep_expert(self, domain: str, composition: Composition) -> None:
        """From now on this answers the domain; every domain without an expert is answered by the base alone."""

    def freeze(self) -> str:
        """Folder of the trainable member as it is now, below `models`."""

    def spend(self, spent: Mapping[str, int]) -> None:
        """Owe the run's budget something that was spent between two steps: `budget/...` without the prefix."""

    def settle(self) -> Mapping[str, int]:
        """What is owed, to be added to the budget by the next step; nothing is owed afterwards."""

    def update(self, batch: Any) -> dict[str, float]:
        """One update on an `rl.batch.Batch`; raises `version` by one; returns metrics by name."""

    def weights(self) -> Mapping[str, Any]:
        """The trainable member's state dict, on the CPU."""

    def start_phase(self, domain: str) -> None:
        """Called at the start of each phase: what the weights are then is kept, and an anchor there is taken.

        domain: the key of the domain that the phase asks.
        """

    def penalties(self, judged: Sequence[JudgedGroup]) -> list[NDArray[np.float64]] | None:
        """For each group, [completion], what is taken off the rewards before advantages; None where nothing is."""

    def remember(self, groups: Sequence[Group]) -> None:
        """What the policy answered to prior tasks at the start of the phase, for the anchor prior_data."""

    def consolidate(self, groups: Sequence[Group]) -> None:
        """At the end of a phase, for EWC: Fisher information of these completions, sampled by the policy as it is."""

    def set_weights(self, weights: Mapping[str, Any]) -> None:
        """Go on from another state dict of the trainable member; the optimizer's state stays.

        A weight that is tied to another is taken under the first of its names.
        """

    def base_weights(self) -> Mapping[str, Any]:
        """The trainable member's state dict as its folder has it, on the CPU."""

    def reset_optimizer(self) -> None:
        """Forget the optimizer's state."""

    def clear_moments(self, masks: Mapping[str, Any]) -> None:
        """Set the optimizer's moments to 0 where a mask is True. masks: parameter name -> bool tensor of its shape."""

    def experts(self) -> Mapping[str, tuple[Composition, Mapping[str, Any] | None]]:
        """Domain key -> composition and trainable weights that answer it, where that is not the policy of the moment.

        Weights None: as the composition's folders have them. `OTHER_DOMAINS` is the key of all domains not named.
        """

    def prefixes(self) -> Mapping[str, tuple[int, ...]]:
        """Domain key -> token ids of the soft prefix that its problems are asked with."""

    def switch_adapters(self) -> None:
        """At a phase switch: merge the adapters into the weights or reset them, as `learner.lora.switch` says."""

    def channels(self) -> Mapping[str, Mapping[str, Mapping[str, Any]]]:
        """Domain key -> trainable weights of the policies that have only one of a slow and a fast part.

        slow: trained slow weights without the fast part; left out for a soft prefix, where it is `weights` asked
        without a prefix. fast: base weights with the domain's fast part. Empty where no fast part is made of weights.
        """

    def phase_start_weights(self) -> Mapping[str, Any]:
        """The trainable member's state dict at the last `start_phase`, on the CPU; before any, the first weights."""

    def capture(self) -> Callable[[Path], None]:
        """Weights, those at the start of the phase, optimizer and version as they are now: a snapshot.

        What is returned writes them below a folder. It may be called later and in another thread, meanwhile the
        learner goes on; of several ranks each writes its own files, without waiting for another.
        """

    def load(self, folder: Path) -> None:
        """Read back what `capture` wrote, by however many ranks and by whichever engine."""


@dataclass(frozen=True)
class BranchRequest:
    """A branch: training for the budget of `probe.branch` on a learner that is then thrown away.

    snapshot:   folder that `Learner.capture` wrote, where it starts from; None: the fresh base
    mode:       rl, or sft (worked solutions)
    optimizer:  reset, or carried: with the snapshot's optimizer state
    repetition: from 0; another one asks the same problems in another order and samples anew
    ended:      name of the phase that ended at the snapshot: the branch begins with the switch after it (`switch.py`);
                None where no phase did
    """

    snapshot: str | None
    mode: str
    optimizer: str
    repetition: int
    ended: str | None = None


class Brancher(Protocol):
    """Runs branches, at once or beside the run."""

    def submit(self, request: BranchRequest) -> Any:
        """Begin; returns what `collect` takes. The snapshot must stay until then."""

    def collect(self, handle: Any) -> Mapping[str, Any]:
        """Wait for the result, plain values (see `branch.branch_probe`); called once for each handle."""


class DifficultyService(Protocol):
    """Owns the per-problem table of difficulty estimates. Outcomes: problem id -> (successes, judged completions)."""

    def start_phase(
        self, ids: Sequence[str], static: Sequence[float] | None = None, watched: Sequence[str] = ()
    ) -> None:
        """The pool of problem ids of the phase that begins. Estimates of ids seen before are kept.

        static: static difficulty of each in [0, 1], 1 the hardest, NaN where it is not known; None: of none of them.
        watched: ids beside the pool that estimates are wanted of; they are never selected.
        """

    def select(
        self, count: int, step: int, seed: int, without: Collection[str] = (), progress: float = 0.0
    ) -> list[str]:
        """Problem ids for a step, without repeats while the pool has enough; the table and arguments decide them.

        without: ids of the pool that may not be selected. progress: share of the phase's steps that is over.
        """

    def allocate(self, ids: Sequence[str], total: int, step: int) -> list[int]:
        """How many completions each of the ids gets, together `total`."""

    def observe(self, outcomes: Mapping[str, tuple[int, int]], step: int) -> dict[str, float]:
        """Take in a step's outcomes. Returns metrics: calibration, age, uncertainty, band share, the rule's own.

        Raises `KeyError` for an id that no pool holds, and `ValueError` for numbers that no outcome can have.
        """

    def learn(self, outcomes: Mapping[str, tuple[int, int]], step: int) -> None:
        """Take in outcomes of the policy of the moment that belong to no step: re-estimation."""

    def measure_first(self, outcomes: Mapping[str, tuple[int, int]]) -> None:
        """Take in outcomes of the untouched base, measured before the run."""

    def refresh(self, gathered: Any, step: int) -> dict[str, float]:
        """Take in what the policy of the moment says of problems (`difficulty.service.Gathered`). Returns metrics."""

    def worth_estimating(self, count: int, step: int, seed: int, without: Collection[str] = ()) -> list[str]:
        """At most `count` ids of the pool whose estimates are least certain or oldest."""

    def predict(self, ids: Sequence[str], step: int) -> Mapping[str, Any]:
        """Estimator -> `difficulty.base.Estimates` of the ids, for every estimator that watches."""

    def estimates(self) -> list[dict[str, Any]]:
        """What is believed of the phase's problems now, or of a part: id, mean, uncertainty, age in steps, visits."""

    def snapshot(self) -> Mapping[str, NDArray[Any]]:
        """Everything, as arrays that `restore` takes."""

    def restore(self, snapshot: Mapping[str, NDArray[Any]]) -> None:
        """Become what `snapshot` returned."""


class Judge(Protocol):
    """Gives verdicts."""

    def judge(self, groups: Sequence[Group]) -> list[JudgedGroup]:
        """One verdict per completion, in order; raises for no completion."""


class Tracker(Protocol):
    """Takes metrics and artifacts; never slows a step and never fails one, but says so when it loses something."""

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log values by name at a step, counted over all phases."""

    def progress(self, **state: Any) -> None:
        """What the live display shows: phase, step, steps, pass_rate, drift, tokens_per_s."""

    def artifact(self, name: str, content: str) -> None:
        """A text file (JSON, CSV, Markdown) kept with the run."""

    def position(self) -> Mapping[str, Any]:
        """What the checkpoint keeps: the tracking run's id and the last step that was logged."""


class Store(Protocol):
    """Keeps the run's checkpoints and memoises measurements of the untouched base."""

    def latest(self) -> Path | None:
        """The newest complete checkpoint's folder, or None."""

    first: bool
    """Whether this is the one of several ranks that writes what they all would write alike."""

    def wait(self) -> None:
        """Until the checkpoint that was begun is on disk, or could not be written. `save` waits for it too."""

    def save(self, write: Callable[[Path], None], boundary: int | None = None) -> None:
        """Begin a checkpoint: `write(folder)` fills a new folder, at once or in a thread of its own.

        It becomes the latest one in one atomic step or not at all. boundary: how many phases ended at it, where it is
        one of those. A disk that is full does not raise here: see `flush`.
        """

    def flush(self) -> None:
        """Wait until the last checkpoint is on disk, trying again where it is not; raises what keeps it from it."""

    def close(self) -> None:
        """No thread writes below the run's folder any more. A checkpoint that waits for a lost rank is given up."""

    def metrics(self) -> dict[str, float]:
        """`checkpoint/...` since it was asked last."""

    def snapshot(self, name: str, write: Callable[[Path], None]) -> Path:
        """`write(folder)` fills a new folder that is there whole or not at all; one of the same name is replaced."""

    def find_snapshot(self, name: str) -> Path:
        """The folder of the snapshot of this name."""

    def drop_snapshots(self, keep: Sequence[str]) -> None:
        """Remove every snapshot but those of these names, once what was saved last is on disk."""

    def remember(self, key: str) -> Any | None:
        """A measurement kept under `key` by an earlier run, or None."""

    def keep(self, key: str, value: Any) -> None:
        """Keep a measurement (plain JSON values) for later runs."""
