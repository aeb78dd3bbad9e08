"""The difficulty actor: a run has one, which owns its per-problem table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError

from ductile.config import DifficultySettings
from ductile.difficulty.service import DifficultyTable


@ray.remote(max_restarts=0, num_cpus=0)
class DifficultyActor:
    """A difficulty table behind Ray. It is never restarted empty: if it dies the run goes back to its checkpoint."""

    def __init__(self, settings: DifficultySettings) -> None:
        self.begin(settings)

    def begin(self, settings: DifficultySettings) -> None:
        """Own a table for another run; of the one before, all calls were made."""
        self._table = DifficultyTable(settings)

    def call(self, method: str, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        """What the table's method of this name returns."""
        return getattr(self._table, method)(*arguments, **keywords)


class DifficultyClient:
    """The difficulty port of a run whose table lives in an actor: every method of the table."""

    def __init__(self, actor: ActorHandle) -> None:
        self._actor = actor

    def __getattr__(self, method: str) -> Callable[..., Any]:
        if method.startswith("_"):  # pickle asks for such names before there is an actor
            raise AttributeError(method)
        return lambda *arguments, **keywords: ray.get(self._actor.call.remote(method, arguments, keywords))


_left: list[ActorHandle] = []


def take_actor(settings: DifficultySettings, options: Mapping[str, Any]) -> ActorHandle:
    """An actor with a table of its own: the one that this process's last run left, or a new one.

    To start its process takes most of the time between two small runs. options: of Ray, the same for all runs of a job.
    """
    while _left:
        actor = _left.pop()
        try:
            ray.get(actor.begin.remote(settings))
        except RayActorError:  # it died since
            continue
        return actor
    return DifficultyActor.options(**options).remote(settings)


def leave_actor(actor: ActorHandle) -> None:
    """The run that took it has ended well."""
    _left.append(actor)
