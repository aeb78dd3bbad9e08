"""Rollout actors, and the pool that spreads calls over them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import ray
from numpy.typing import NDArray
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, RayActorError

from ductile.config import RolloutSettings
from ductile.ports import Divergence, PolicyRef, Sampling
from ductile.problem import Group, Problem
from ductile.sampling.worker import Published, RolloutWorker, new_token

log = logging.getLogger(__name__)

T = TypeVar("T")
Call = Callable[[ActorHandle], Any]


@ray.remote(max_restarts=-1)
class RolloutActor:
    """A rollout worker behind Ray. Policies come without weights; the weights come as arguments, which Ray fetches."""

    def __init__(self, dtype: str, threads: int) -> None:
        self._worker = RolloutWorker(dtype, threads)

    def generate(self, policy: PolicyRef, state: Any, problems: list[Problem], sampling: Sampling) -> list[Group]:
        return self._worker.generate(_with_state(policy, state), problems, sampling)

    def divergence(
        self, p: PolicyRef, p_state: Any, q: PolicyRef, q_state: Any, groups: list[Group], temperature: float
    ) -> Divergence:
        return self._worker.divergence(_with_state(p, p_state), _with_state(q, q_state), groups, temperature)

    def score(
        self, policy: PolicyRef, state: Any, groups: list[Group], temperature: float
    ) -> list[NDArray[np.float64]]:
        return self._worker.score(_with_state(policy, state), groups, temperature)

    def inspect(self, policy: PolicyRef, state: Any, measure: Callable[[Any], T]) -> T:
        return self._worker.inspect(_with_state(policy, state), measure)


class LostCall(RuntimeError):
    """A rollout call failed on every actor that it was tried on."""


@dataclass(frozen=True)
class ActorPool:
    """A rollout pool on Ray actors, small enough to be sent to the runs that share it; the driver owns the actors."""

    actors: tuple[ActorHandle, ...]
    settings: RolloutSettings
    home: int = 0
    _begun: list[tuple[Sequence[Call], Sequence[Any]]] = field(default_factory=list, init=False, repr=False)

    @classmethod
    def start(
        cls, runs: int, dtype: str, settings: RolloutSettings, gpus: float = 0, options: Mapping[str, Any] | None = None
    ) -> ActorPool:
        """Start `rollout.actors` actors for each of the runs that go on at a time.

        They hold no logical CPU: they work while their run's learner waits for them. options: more of Ray's, from
        `placement.place`.
        """
        actor = RolloutActor.options(**{"num_cpus": 0, "num_gpus": gpus, **(options or {})})
        return cls(tuple(actor.remote(dtype, settings.threads) for _ in range(runs * settings.actors)), settings)

    def at_home(self, slot: int) -> ActorPool:
        """The same pool for the run in this slot: its calls go to its own actors first, then to the others."""
        return replace(self, home=slot * self.settings.actors)

    def publish(self, weights: Mapping[str, Any]) -> Published:
        """Put the weights into the object store, once; every actor reads the same copy."""
        return Published(new_token(), ray.put(dict(weights)))

    def generate(self, policy: PolicyRef, problems: Sequence[Problem], sampling: Sampling) -> list[Group]:
        """Spread the problems over the actors; completions do not depend on how."""
        calls = self._generating(*_split(policy), problems, sampling)
        return [group for part in self._call(calls) for group in part]

    def begin(self, policy: PolicyRef, problems: Sequence[Problem], sampling: Sampling) -> int:
        """Begin it on the run's actors, which work on it as soon as they are free."""
        calls = self._generating(*_split(policy), problems, sampling)
        self._begun.append((calls, self._start(calls)))
        return len(self._begun) - 1

    def collect(self, begun: int) -> list[Group]:
        """Wait for it; calls that were lost are made again."""
        calls, pending = self._begun[begun]
        self._begun[begun] = ([], [])
        return [group for part in self._finish(calls, pending) for group in part]

    def score(self, policy: PolicyRef, groups: Sequence[Group], temperature: float) -> list[NDArray[np.float64]]:
        """Log-probabilities of whole completions, spread over the actors."""
        bare, state = _split(policy)
        calls = [
            lambda actor, part=part: actor.score.remote(bare, state, part, temperature)
            for part in _parts(list(groups), self.settings.actors)
        ]
        return [scores for part in self._call(calls) for scores in part]

    def divergence(self, p: PolicyRef, q: PolicyRef, groups: Sequence[Group], temperature: float) -> Divergence:
        """Exact KL on one actor: a probe's batch is small."""
        (bare_p, state_p), (bare_q, state_q) = _split(p), _split(q)
        call = lambda actor: actor.divergence.remote(bare_p, state_p, bare_q, state_q, list(groups), temperature)  # noqa: E731
        return self._call([call])[0]

    def inspect(self, policy: PolicyRef, measure: Callable[[Any], T]) -> T:
        """What `measure` says of the policy, on one actor."""
        bare, state = _split(policy)
        result: T = self._call([lambda actor: actor.inspect.remote(bare, state, measure)])[0]
        return result

    def _call(self, calls: Sequence[Call]) -> list[Any]:
        """Make each call on an actor of its own; one that is lost is made again, on the next actor."""
        return self._finish(calls, self._start(calls))

    def _start(self, calls: Sequence[Call]) -> list[Any]:
        return [call(self._actor(self.home + position)) for position, call in enumerate(calls)]

    def _finish(self, calls: Sequence[Call], pending: Sequence[Any]) -> list[Any]:
        return [self._result(pending[i], calls[i], self.home + i) for i in range(len(calls))]

    def _generating(self, bare: PolicyRef, state: Any, problems: Sequence[Problem], sampling: Sampling) -> list[Call]:
        return [
            lambda actor, part=part: actor.generate.remote(bare, state, part, sampling)
            for part in _parts(list(problems), self.settings.actors)
        ]

    def _result(self, pending: Any, call: Call, position: int) -> Any:
        for attempt in range(self.settings.retries + 1):
            try:
                return ray.get(pending, timeout=self.settings.timeout_s)
            except (
                RayActorError,
                GetTimeoutError,
            ) as error:  # an error inside the call is raised as it is: it would come again
                if isinstance(error, GetTimeoutError):  # it hangs: what it holds is not worth keeping
                    ray.kill(self._actor(position + attempt), no_restart=False)
                if attempt == self.settings.retries:
                    raise LostCall(
                        f"a rollout call was lost {attempt + 1} times (rollout.retries={self.settings.retries}, "
                        f"rollout.timeout_s={self.settings.timeout_s}): {error}"
                    ) from error
                log.warning("rollout call lost (%s); trying again on another actor", type(error).__name__)
                pending = call(self._actor(position + attempt + 1))
        raise AssertionError("unreachable")

    def _actor(self, position: int) -> ActorHandle:
        return self.actors[position % len(self.actors)]


def _split(policy: PolicyRef) -> tuple[PolicyRef, Any]:
    """The policy without its weights' object reference, and that: Ray fetches only what is an argument itself."""
    if policy.weights is None:
        return policy, None
    return replace(policy, weights=Published(policy.weights.token, None)), policy.weights.state


def _with_state(policy: PolicyRef, state: Any) -> PolicyRef:
    return policy if policy.weights is None else replace(policy, weights=Published(policy.weights.token, state))


def _parts(items: list[Any], count: int) -> list[list[Any]]:
    """At most `count` contiguous parts of near-equal length, none empty."""
    share, rest = divmod(len(items), count)
    parts, start = [], 0
    for position in range(count):
        end = start + share + (position < rest)
        if end > start:
            parts.append(items[start:end])
        start = end
    return parts
