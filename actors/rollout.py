"""Rollout actors, and the pool that spreads calls over them."""

from __future__ import annotations

import functools
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import ray
from numpy.typing import NDArray
from ray.actor import ActorHandle

from actors.dispatch import Dispatcher, LostCall
from actors.ray_transport import Call, RayTransport
from actors.roster import keep_roster
from ductile.config import RolloutSettings
from ductile.ports import Divergence, PolicyRef, Sampling
from ductile.problem import Group, Problem
from ductile.sampling.arrays import as_arrays, as_tensors
from ductile.sampling.published import Published, new_token

__all__ = ["ActorPool", "LostCall", "RolloutActor"]

T = TypeVar("T")


@ray.remote(max_restarts=-1)
class RolloutActor:
    """A rollout worker behind Ray. Policies come without weights; the weights come as arguments, which Ray fetches."""

    def __init__(self, dtype: str, threads: int) -> None:
        from ductile.sampling.worker import RolloutWorker  # here alone: its models take seconds to import

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


@dataclass(frozen=True)
class ActorPool:
    """A rollout pool on Ray actors, small enough to be sent to the runs that share it; the driver owns the actors.

    actors: those that are there from the start, `rollout.actors` for each slot; roster: where all of the moment are
    told (`roster.Roster`), None where none come and go.
    """

    actors: tuple[ActorHandle, ...]
    settings: RolloutSettings
    slot: int = 0
    roster: Any = None
    _begun: list[Beside | None] = field(default_factory=list, init=False, repr=False)
    _told: Counter[str] = field(default_factory=Counter, init=False, repr=False)

    @classmethod
    def start(
        cls,
        runs: int,
        dtype: str,
        settings: RolloutSettings,
        gpus: float = 0,
        options: Mapping[str, Any] | None = None,
    ) -> ActorPool:
        """Start `rollout.actors` actors for each of the runs that go on at a time.

        They hold no logical CPU: they work while their run's learner waits for them. options: of Ray, for all actors
        (`placement`). With `rollout.actors_max` this process adds actors on nodes that join, as long as it lives.
        """
        options = {"num_cpus": 0, "num_gpus": gpus, **(options or {})}
        make = functools.partial(_start_actor, dtype, settings.threads)
        actors = tuple(make(options) for _ in range(runs * settings.actors))
        extra = (settings.actors_max or settings.actors) - settings.actors
        return cls(actors, settings, roster=keep_roster(make, options, runs, extra) if extra else None)

    def at_home(self, slot: int) -> ActorPool:
        """The same pool for the run in this slot: its calls go to its own actors, to others where none is alive."""
        return replace(self, slot=slot)

    def __getstate__(self) -> dict[str, Any]:
        """Without what belongs to the process."""
        kept = {name: getattr(self, name) for name in ("actors", "settings", "slot", "roster")}
        return {**kept, "_begun": [], "_told": Counter()}

    @functools.cached_property
    def _dispatcher(self) -> Dispatcher[ActorHandle]:
        return Dispatcher(RayTransport(self.actors, self.settings.actors, self.slot, self.roster), self.settings)

    def counts(self) -> dict[str, float]:
        """See `ports.RunPool.counts`."""
        now = Counter(self._dispatcher.counts)
        since = {f"rollout/{name}_calls": float(now[name] - self._told[name]) for name in ("retried", "hedged")}
        self._told.update(now - self._told)
        return {"rollout/actors": float(self._dispatcher.alive()), **since}

    def publish(self, weights: Mapping[str, Any]) -> Published:
        """Copy the weights into the object store, once; every actor of a node reads them where they lie there."""
        return Published(new_token(), ray.put(as_arrays(weights)))

    def generate(self, policy: PolicyRef, problems: Sequence[Problem], sampling: Sampling) -> list[Group]:
        """Spread the problems over the actors; completions do not depend on how."""
        calls = self._generating(*_split(policy), problems, sampling)
        return [group for part in self._dispatcher.run(calls) for group in part]

    def begin(self, policy: PolicyRef, problems: Sequence[Problem], sampling: Sampling) -> int:
        """Begin it on the run's actors, which work on it as soon as they are free; a thread sees to it."""
        calls = self._generating(*_split(policy), problems, sampling)
        self._begun.append(Beside(functools.partial(self._dispatcher.run, calls)))
        return len(self._begun) - 1

    def collect(self, begun: int) -> list[Group]:
        """Wait for it, and forget it."""
        beside, self._begun[begun] = self._begun[begun], None
        assert beside is not None, "collected twice"
        return [group for part in beside.result() for group in part]

    def score(self, policy: PolicyRef, groups: Sequence[Group], temperature: float) -> list[NDArray[np.float64]]:
        """Log-probabilities of whole completions, spread over the actors."""
        bare, state = _split(policy)
        calls = [
            lambda actor, part=part: actor.score.remote(bare, state, part, temperature) for part in self._parts(groups)
        ]
        return [scores for part in self._dispatcher.run(calls) for scores in part]

    def divergence(self, p: PolicyRef, q: PolicyRef, groups: Sequence[Group], temperature: float) -> Divergence:
        """Exact KL on one actor: a probe's batch is small."""
        (bare_p, state_p), (bare_q, state_q) = _split(p), _split(q)
        call = lambda actor: actor.divergence.remote(bare_p, state_p, bare_q, state_q, list(groups), temperature)  # noqa: E731
        result: Divergence = self._dispatcher.run([call])[0]
        return result

    def inspect(self, policy: PolicyRef, measure: Callable[[Any], T]) -> T:
        """What `measure` says of the policy, on one actor."""
        bare, state = _split(policy)
        call = lambda actor: actor.inspect.remote(bare, state, measure)  # noqa: E731
        result: T = self._dispatcher.run([call])[0]
        return result

    def _generating(self, bare: PolicyRef, state: Any, problems: Sequence[Problem], sampling: Sampling) -> list[Call]:
        return [
            lambda actor, part=part: actor.generate.remote(bare, state, part, sampling)
            for part in self._parts(problems)
        ]

    def _parts(self, items: Sequence[T]) -> list[list[T]]:
        """What one call takes: `rollout.part` items, or as many as the actors of the moment divide them into."""
        if size := self.settings.part:
            return [list(items[start : start + size]) for start in range(0, len(items), size)]
        return _parts(list(items), max(self.settings.actors, self._dispatcher.alive()))


class Beside:
    """Work that a thread does beside the caller. A daemon: a job that ends does not wait for it."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._future: Future[Any] = Future()
        threading.Thread(target=self._do, args=(work,), daemon=True, name="rollouts-beside").start()

    def _do(self, work: Callable[[], Any]) -> None:
        try:
            self._future.set_result(work())
        except BaseException as error:  # raised where it is waited for
            self._future.set_exception(error)

    def result(self) -> Any:
        """What the work returned, once it has; or what it raised."""
        return self._future.result()


def _split(policy: PolicyRef) -> tuple[PolicyRef, Any]:
    """The policy without its weights' object reference, and that: Ray fetches only what is an argument itself."""
    if policy.weights is None:
        return policy, None
    return replace(policy, weights=Published(policy.weights.token, None)), policy.weights.state


def _with_state(policy: PolicyRef, state: Any) -> PolicyRef:
    """The policy with its weights, which Ray fetched: on the object store's memory, for as long as they are used."""
    if policy.weights is None:
        return policy
    return replace(policy, weights=Published(policy.weights.token, as_tensors(state)))


def _parts(items: list[T], count: int) -> list[list[T]]:
    """At most `count` contiguous parts of near-equal length, none empty."""
    share, rest = divmod(len(items), count)
    parts, start = [], 0
    for position in range(count):
        end = start + share + (position < rest)
        if end > start:
            parts.append(items[start:end])
        start = end
    return parts


def _start_actor(dtype: str, threads: int, options: Mapping[str, Any]) -> ActorHandle:
    return RolloutActor.options(**options).remote(dtype, threads)
