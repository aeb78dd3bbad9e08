"""The difficulty actor: one per run, it owns the per-problem table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ray
from ray.actor import ActorHandle

from ductile.config import DifficultySettings
from ductile.difficulty.service import DifficultyTable


@ray.remote(max_restarts=0, num_cpus=0)
class DifficultyActor:
    """A difficulty table behind Ray. It is never restarted empty: if it dies the run goes back to its checkpoint."""

    def __init__(self, settings: DifficultySettings) -> None:
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
