"""Rollout actors that come and go with the cluster's nodes, and where runs hear of it.

A run starts with `rollout.actors` actors, which Ray starts again wherever there is room. On nodes that join later the
driver adds up to `rollout.actors_max`, pinned there, one logical CPU each, so that they never take the room of runs; it
also asks for such nodes, which is for an autoscaler to hear. When the node of an added actor is gone, so is the actor.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import ray
from ray.actor import ActorHandle
from ray.autoscaler.sdk import request_resources
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

log = logging.getLogger("ductile")

Seats = tuple[Sequence[int], Sequence[ActorHandle]]
"""The slots of the actors that joined, and the actors."""

LOOK_S = 2.0
"""How often the driver looks at the cluster's nodes."""

HEARD_S = 600.0
"""A question for news is answered after so long even if there are none: whoever asked may be gone."""


class Node(NamedTuple):
    """A node of the cluster. room: rollout actors that it has resources for."""

    id: str
    room: int


class Seat(NamedTuple):
    """An actor that joined: the run's slot that it works for, and where it is."""

    slot: int
    node: str


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class Roster:
    """Tells who has joined. Asking for news is a call that ends when there are any.

    One that was started again knows nothing until the driver tells it, which it does at every look.
    """

    def __init__(self) -> None:
        self._version, self._seats = 0, ((), ())
        self._changed = asyncio.Condition()

    async def tell(self, version: int, seats: Seats) -> None:
        """These have joined, and no others. A version that is known already is no news."""
        async with self._changed:
            if version > self._version:
                self._version, self._seats = version, seats
                self._changed.notify_all()

    async def newer(self, version: int) -> tuple[int, Seats | None]:
        """The version and the seats, once there are newer ones than those that are known; None: there are none yet."""
        async with self._changed:
            try:
                await asyncio.wait_for(self._changed.wait_for(lambda: self._version > version), HEARD_S)
            except TimeoutError:
                return version, None
            return self._version, self._seats


def keep_roster(
    make: Callable[[Mapping[str, Any]], ActorHandle], options: Mapping[str, Any], runs: int, extra: int
) -> Any:
    """Keep adding and removing actors in a thread of this process, as long as Ray is connected; returns the roster.

    make: starts an actor with options of Ray; extra: most that join for each of the runs.
    """
    roster = Roster.options(max_concurrency=1000).remote()
    first = frozenset(node["NodeID"] for node in ray.nodes() if node["Alive"])
    need = {"CPU": options.get("num_cpus") or 1, **({"GPU": options["num_gpus"]} if options.get("num_gpus") else {})}
    _ask_for_nodes(need, runs * extra)
    keeper = _Keeper(make, options, need, runs, extra, first, roster)
    threading.Thread(target=keeper.work, daemon=True, name="rollout-roster").start()
    return roster


def release_nodes() -> None:
    """Take back what was asked of an autoscaler: it would keep the nodes for ever."""
    request_resources(bundles=[])


def changes(nodes: Sequence[Node], seats: Sequence[Seat], runs: int, extra: int) -> tuple[list[Seat], list[Seat]]:
    """Who joins and who leaves. nodes: those that joined and are alive; seats: of the actors that joined before.

    Each run gets as many as the others, up to one, and at most `extra`.
    """
    alive = {node.id for node in nodes}
    leaving = [seat for seat in seats if seat.node not in alive]
    staying = [seat for seat in seats if seat.node in alive]
    taken, held = Counter(seat.node for seat in staying), Counter(dict.fromkeys(range(runs), 0))
    held.update(seat.slot for seat in staying)
    joining: list[Seat] = []
    for node in nodes:
        for _ in range(node.room - taken[node.id]):
            slot = min(held, key=lambda each: (held[each], each))
            if held[slot] >= extra:
                return joining, leaving
            held[slot] += 1
            joining.append(Seat(slot, node.id))
    return joining, leaving


class _Keeper:
    """The driver's side: it owns the actors that joined."""

    def __init__(
        self,
        make: Callable[[Mapping[str, Any]], ActorHandle],
        options: Mapping[str, Any],
        need: Mapping[str, float],
        runs: int,
        extra: int,
        first: frozenset[str],
        roster: Any,
    ) -> None:
        placed = ("label_selector", "scheduling_strategy", "placement_group")
        self._labels = options.get("label_selector") or {}
        self._options = {name: value for name, value in options.items() if name not in placed}
        self._options |= {"num_cpus": need["CPU"]}
        self._make, self._need, self._runs, self._extra = make, need, runs, extra
        self._first, self._roster = first, roster
        self._seats: list[tuple[Seat, ActorHandle]] = []
        self._version = 0  # of the seats

    def work(self) -> None:
        """Until Ray is gone."""
        pause = threading.Event()
        while ray.is_initialized():
            try:
                self._look()
            except Exception as error:  # Ray shutting down under it has many faces, and a failed look is taken again
                if not ray.is_initialized():
                    return
                log.warning("could not look at the cluster's nodes for rollout actors: %s", error)
            pause.wait(LOOK_S)

    def _look(self) -> None:
        nodes = [Node(node["NodeID"], self._room(node)) for node in ray.nodes() if self._usable(node)]
        joining, leaving = changes(nodes, [seat for seat, _ in self._seats], self._runs, self._extra)
        self._seats = [(seat, actor) for seat, actor in self._seats if seat not in leaving]
        for seat in joining:
            there = NodeAffinitySchedulingStrategy(seat.node, soft=False)
            self._seats.append((seat, self._make({**self._options, "scheduling_strategy": there})))
        if joining or leaving:
            self._version += 1
            log.info("rollout actors: %d joined, %d left with their nodes", len(joining), len(leaving))
        if self._version:
            seats = ([seat.slot for seat, _ in self._seats], [actor for _, actor in self._seats])
            self._roster.tell.remote(self._version, seats)

    def _usable(self, node: Mapping[str, Any]) -> bool:
        labels = node.get("Labels") or {}
        alike = all(labels.get(name) == value for name, value in self._labels.items())
        return node["Alive"] and node["NodeID"] not in self._first and alike

    def _room(self, node: Mapping[str, Any]) -> int:
        return int(min(node["Resources"].get(name, 0) // amount for name, amount in self._need.items()))


def _ask_for_nodes(need: Mapping[str, float], count: int) -> None:
    """Ask an autoscaler for room beyond what the cluster has. It takes a total, as if no node had work yet."""
    has = ray.cluster_resources()
    today = [{name: 1.0} for name in ("CPU", "GPU") if name in need for _ in range(int(has.get(name, 0)))]
    request_resources(bundles=[*today, *[dict(need)] * count])
