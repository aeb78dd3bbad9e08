"""What the pool sends to an actor when a policy is looked into."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import pytest
import torch

from actors import rollout
from actors.dispatch import Ended
from actors.rollout import ActorPool, RolloutActor
from ductile.config import RolloutSettings
from ductile.ports import Composition, Member, PolicyRef
from ductile.sampling.arrays import as_arrays
from ductile.sampling.published import Published

COMPOSITION = Composition((Member("policy", "folder", 1.0),), "policy")


class Actor:
    """Remembers the arguments that its method was called with; dies at the first `deaths` calls."""

    def __init__(self, deaths: int) -> None:
        self.inspect, self.deaths, self.calls = self, deaths, []

    def remote(self, *arguments: object) -> Ended:
        self.calls.append(arguments)
        return Ended(lost="died") if len(self.calls) <= self.deaths else Ended(arguments[-1](arguments[:-1]))  # type: ignore[operator]


class Direct:
    """Calls actors at once; all of them are alive."""

    def __init__(self, actors: tuple[Actor, ...], each: int, slot: int, roster: None) -> None:
        self._actors, self._ended = actors, {}

    def own(self) -> tuple[Actor, ...]:
        return self._actors[:1]

    def others(self) -> tuple[Actor, ...]:
        return self._actors[1:]

    def start(self, actor: Actor, call: Callable[[Actor], Ended]) -> int:
        self._ended[len(self._ended)] = call(actor)
        return len(self._ended) - 1

    def probe(self, actor: Actor) -> int:
        return self.start(actor, lambda _: Ended())

    def wait(self, handles: list[int], timeout_s: float) -> list[tuple[int, Ended]]:
        return [(handle, self._ended[handle]) for handle in handles]

    def freed(self) -> None:
        """Nobody waits for an actor."""

    def now(self) -> float:
        return 0.0


def seen(arguments: tuple[object, ...]) -> tuple[object, ...]:
    return arguments


@pytest.mark.parametrize("deaths", [0, 1])
def test_weights_are_an_argument_of_their_own_and_a_lost_call_is_made_again(
    monkeypatch: pytest.MonkeyPatch, deaths: int
) -> None:
    monkeypatch.setattr(rollout, "RayTransport", Direct)
    actors = [Actor(deaths), Actor(0), Actor(0)]
    pool = ActorPool(tuple(actors), RolloutSettings(actors=1))  # type: ignore[arg-type]
    ref, state = pool.inspect(PolicyRef(COMPOSITION, Published("name", "where it is"), 3), seen)
    assert (ref, state) == (PolicyRef(COMPOSITION, Published("name", None), 3), "where it is")
    assert [len(actor.calls) for actor in actors] == [1, deaths, 0]
    assert pool.inspect(PolicyRef(COMPOSITION, None, 0), seen) == (PolicyRef(COMPOSITION, None, 0), None)


def test_actor_puts_the_weights_back() -> None:
    class Worker:
        def inspect(self, policy: PolicyRef, measure: object) -> object:
            return policy, measure

    actor = object.__new__(RolloutActor.__ray_metadata__.modified_class)
    actor._worker = Worker()
    weights = {"weight": torch.arange(6.0).reshape(2, 3)}
    policy, measure = actor.inspect(PolicyRef(COMPOSITION, Published("name", None), 3), as_arrays(weights), "measure")
    assert (policy.version, policy.weights.token, measure) == (3, "name", "measure")
    assert torch.equal(policy.weights.state["weight"], weights["weight"])


def test_pool_that_is_sent_leaves_behind_what_belongs_to_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollout, "RayTransport", Direct)
    pool = ActorPool((Actor(0), Actor(0)), RolloutSettings(actors=1))  # type: ignore[arg-type]
    assert pool.counts() == {"rollout/actors": 0.0, "rollout/retried_calls": 0.0, "rollout/hedged_calls": 0.0}
    pool.inspect(PolicyRef(COMPOSITION, None, 0), seen)
    sent = pickle.loads(pickle.dumps(pool.at_home(1)))
    assert sent.slot == 1 and "_dispatcher" in vars(pool) and "_dispatcher" not in vars(sent)
    assert pool.counts()["rollout/actors"] == 1.0


def test_parts_are_of_the_size_that_is_asked_for_whatever_the_number_of_actors() -> None:
    for actors in (1, 2, 4):
        pool = ActorPool(tuple(Actor(0) for _ in range(actors)), RolloutSettings(actors=actors, part=3))  # type: ignore[arg-type]
        assert pool._parts(range(8)) == [[0, 1, 2], [3, 4, 5], [6, 7]]
