"""What the pool sends to an actor when a policy is looked into."""

from __future__ import annotations

import pytest
import ray
from ray.exceptions import RayActorError

from actors.rollout import ActorPool, RolloutActor
from ductile.config import RolloutSettings
from ductile.ports import Composition, Member, PolicyRef
from ductile.sampling.worker import Published

COMPOSITION = Composition((Member("policy", "folder", 1.0),), "policy")


class Method:
    """A remote method of an actor that dies `deaths` times; remembers its arguments."""

    def __init__(self, deaths: int) -> None:
        self.deaths, self.calls = deaths, []

    def remote(self, *arguments: object) -> object:
        self.calls.append(arguments)
        return RayActorError() if len(self.calls) <= self.deaths else arguments[-1](arguments[:-1])  # type: ignore[operator]


class Actor:
    def __init__(self, deaths: int) -> None:
        self.inspect = Method(deaths)


def fetch(pending: object, timeout: float) -> object:
    if isinstance(pending, RayActorError):
        raise pending
    return pending


def seen(arguments: tuple[object, ...]) -> tuple[object, ...]:
    return arguments


@pytest.mark.parametrize("deaths", [0, 1])
def test_weights_are_an_argument_of_their_own_and_a_lost_call_is_made_again(
    monkeypatch: pytest.MonkeyPatch, deaths: int
) -> None:
    monkeypatch.setattr(ray, "get", fetch)
    actors = [Actor(deaths), Actor(0), Actor(0)]
    pool = ActorPool(tuple(actors), RolloutSettings(actors=1))  # type: ignore[arg-type]
    ref, state = pool.inspect(PolicyRef(COMPOSITION, Published("name", "where it is"), 3), seen)
    assert (ref, state) == (PolicyRef(COMPOSITION, Published("name", None), 3), "where it is")
    assert [len(actor.inspect.calls) for actor in actors] == [1, deaths, 0]
    assert pool.inspect(PolicyRef(COMPOSITION, None, 0), seen) == (PolicyRef(COMPOSITION, None, 0), None)


def test_actor_puts_the_weights_back() -> None:
    class Worker:
        def inspect(self, policy: PolicyRef, measure: object) -> object:
            return policy, measure

    actor = object.__new__(RolloutActor.__ray_metadata__.modified_class)
    actor._worker = Worker()
    bare, whole = (PolicyRef(COMPOSITION, Published("name", state), 3) for state in (None, "weights"))
    assert actor.inspect(bare, "weights", "measure") == (whole, "measure")
