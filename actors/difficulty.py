"""The difficulty actor: one per run, it owns the per-problem table."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
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

    def start_phase(self, ids: list[str]) -> None:
        self._table.start_phase(ids)

    def select(self, count: int, step: int, seed: int, among: Collection[str] | None = None) -> list[str]:
        return self._table.select(count, step, seed, among)

    def observe(self, successes: Mapping[str, tuple[int, int]], step: int) -> dict[str, float]:
        return self._table.observe(successes, step)

    def estimates(self) -> list[dict[str, Any]]:
        return self._table.estimates()

    def snapshot(self) -> Mapping[str, Any]:
        return self._table.snapshot()

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        self._table.restore(snapshot)


class DifficultyClient:
    """The difficulty port of a run whose table lives in an actor."""

    def __init__(self, actor: ActorHandle) -> None:
        self._actor = actor

    def start_phase(self, ids: Sequence[str]) -> None:
        ray.get(self._actor.start_phase.remote(list(ids)))

    def select(self, count: int, step: int, seed: int, among: Collection[str] | None = None) -> list[str]:
        return ray.get(self._actor.select.remote(count, step, seed, among))

    def observe(self, successes: Mapping[str, tuple[int, int]], step: int) -> dict[str, float]:
        return ray.get(self._actor.observe.remote(dict(successes), step))

    def estimates(self) -> list[dict[str, Any]]:
        return ray.get(self._actor.estimates.remote())

    def snapshot(self) -> Mapping[str, Any]:
        return ray.get(self._actor.snapshot.remote())

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        ray.get(self._actor.restore.remote(snapshot))
