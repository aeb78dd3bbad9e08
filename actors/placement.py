"""Where a job's actors are: for each role, what is passed to Ray's `.options(**...)`.

Roles are kept to nodes by label selectors, not by placement groups: an actor that is restarted, or a node that joins,
finds its place by the same rule, and no group waits in silence for a node that will not come. What the cluster cannot
give is refused before any work. Labels: https://docs.ray.io/en/releases-2.60.0/ray-core/scheduling/labels.html
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.autoscaler.sdk import request_resources
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ductile.config import PlacementSettings, RoleSettings, RunSettings
from ductile.ports import Stopped

log = logging.getLogger("ductile")
NODE_ID = "ray.io/node-id"
"""The label that Ray gives every node itself."""
POLL_S = 2.0
Options = Mapping[str, Any]


class PlacementError(ValueError):
    """The cluster cannot place the job's actors as asked."""


@dataclass(frozen=True)
class Node:
    """A node that is alive."""

    id: str
    ip: str
    cpus: float
    gpus: float
    labels: Mapping[str, str]


@dataclass(frozen=True)
class Placement:
    """Options of each role's actors; empty: what they have anyway."""

    rollout: Options = field(default_factory=dict)
    learner: Options = field(default_factory=dict)
    difficulty: Options = field(default_factory=dict)


def on_this_node() -> NodeAffinitySchedulingStrategy:
    """For an actor that is nothing without this process's node."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def place(settings: RunSettings, runs: int, stopping: Callable[[], bool] = bool) -> Placement:
    """Options of each role on the cluster as it is, or within `cluster.placement.patience_s` will be.

    stopping: whether the job was asked to stop, by default never. Raises `Stopped` when it was, and `PlacementError`
    with what was asked, what there is, and what to do.
    """
    placement = settings.cluster.placement
    deadline, told = time.monotonic() + placement.patience_s, False
    while True:
        try:
            return plan(nodes(), settings, runs)
        except PlacementError as error:
            if time.monotonic() >= deadline:
                raise
            if not told:
                log.warning("waiting up to %.0f s for nodes: %s", placement.patience_s, error)
                _ask_autoscaler(settings, runs)
                told = True
            if stopping():
                raise Stopped(0, early=False) from error
            time.sleep(POLL_S)


def plan(alive: Sequence[Node], settings: RunSettings, runs: int) -> Placement:
    """Options of each role on these nodes; pure. Raises `PlacementError`."""
    wanted = settings.cluster.placement
    if wanted == PlacementSettings(patience_s=wanted.patience_s):
        return Placement()
    found = {role: _eligible(alive, role, getattr(wanted, role)) for role in ("rollout", "learner", "difficulty")}
    actors = runs * settings.rollout.actors
    learners = runs * max(1, settings.learner.workers)
    need = {"rollout": _need(wanted.rollout, actors, 0.0), "learner": _need(wanted.learner, learners, 1.0)}
    if wanted.strategy == "apart":
        home = _fewest(found["learner"], [need["learner"]], "learner", wanted, alive)
        rest = [node for node in found["rollout"] if node.id not in {each.id for each in home}]
        if not rest:
            raise PlacementError(_told(alive, wanted, "no node is left for rollout beside the learner's"))
        _fewest(rest, [need["rollout"]], "rollout", wanted, alive)
        others = "!in(" + ",".join(sorted(node.id for node in home)) + ")"
        rules = {"rollout": {NODE_ID: others}, "learner": {NODE_ID: _among(home)}, "difficulty": {}}
    elif wanted.strategy == "together":
        shared = [node for node in found["learner"] if node in found["rollout"] and node in found["difficulty"]]
        home = _fewest(shared, list(need.values()), "rollout, learner and difficulty", wanted, alive)
        rules = {role: {NODE_ID: _among(home)} for role in found}
    else:
        for role, cost in need.items():
            _fewest(found[role], [cost], role, wanted, alive)
        rules = {role: {} for role in found}
    return Placement(**{role: _options(getattr(wanted, role), rules[role]) for role in found})


def at_a_time(settings: RunSettings, count: int) -> int:
    """How many of so many runs go on at a time: `cluster.concurrent`, else as many as the learner's nodes have CPUs."""
    wanted = settings.cluster.placement
    learner = max(1, settings.learner.workers) * (1.0 if wanted.learner.cpus is None else wanted.learner.cpus)
    rollout = settings.rollout.actors * (wanted.rollout.cpus or 0.0)
    known = nodes()
    cpus = sum(node.cpus for node in known if _has(node, wanted.learner))
    apart = wanted.learner.nodes != wanted.rollout.nodes or wanted.strategy == "apart"
    fitting = int(cpus // max(learner if apart else learner + rollout, 1e-9)) if learner + rollout else count
    if apart and rollout:
        fitting = min(fitting, int(sum(node.cpus for node in known if _has(node, wanted.rollout)) // rollout))
    return max(1, min(settings.cluster.concurrent or fitting, count))


def nodes() -> list[Node]:
    """The nodes of the cluster that are alive."""
    return [
        Node(
            row["NodeID"],
            row["NodeManagerAddress"],
            row["Resources"].get("CPU", 0.0),
            row["Resources"].get("GPU", 0.0),
            row.get("Labels", {}),
        )
        for row in ray.nodes()
        if row["Alive"]
    ]


def _eligible(alive: Sequence[Node], role: str, wanted: RoleSettings) -> list[Node]:
    found = [node for node in alive if _has(node, wanted)]
    if not found:
        label = wanted.nodes.replace(":", "=", 1)
        raise PlacementError(
            f"cluster.placement.{role}.nodes: no node has the label {wanted.nodes!r}; {_listed(alive)}; start one with "
            f'`ray start --labels "{label}"`, name a label that is there, or wait for an autoscaler with '
            f"cluster.placement.patience_s"
        )
    return found


def _has(node: Node, role: RoleSettings) -> bool:
    return role.label.items() <= node.labels.items()


def _need(role: RoleSettings, count: int, cpus: float) -> tuple[int, float, float]:
    """How many actors, and the CPUs and GPUs of each."""
    return count, cpus if role.cpus is None else role.cpus, role.gpus or 0.0


def _fewest(
    among: Sequence[Node],
    needs: Sequence[tuple[int, float, float]],
    what: str,
    wanted: PlacementSettings,
    alive: Sequence[Node],
) -> list[Node]:
    """The fewest of the nodes that hold all of it, the largest first. An actor is on one node, whole."""
    home: list[Node] = []
    for node in sorted(among, key=lambda node: (-node.gpus, -node.cpus, node.id)):
        home.append(node)
        if _fits(home, needs):
            return home
    asked = " and ".join(f"{count} x ({cpus:g} CPUs, {gpus:g} GPUs)" for count, cpus, gpus in needs)
    raise PlacementError(_told(alive, wanted, f"{what} need {asked}, more than the nodes for them have"))


def _fits(home: Sequence[Node], needs: Sequence[tuple[int, float, float]]) -> bool:
    """First fit, the largest actors first."""
    free = [[node.cpus, node.gpus] for node in home]
    for count, cpus, gpus in sorted(needs, key=lambda need: (-need[2], -need[1])):
        for _ in range(count if cpus or gpus else 0):
            place = next((each for each in free if each[0] >= cpus and each[1] >= gpus), None)
            if place is None:
                return False
            place[0] -= cpus
            place[1] -= gpus
    return True


def _among(home: Sequence[Node]) -> str:
    return "in(" + ",".join(sorted(node.id for node in home)) + ")"


def _options(role: RoleSettings, rule: Mapping[str, str]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if role.cpus is not None:
        options["num_cpus"] = role.cpus
    if role.gpus is not None:
        options["num_gpus"] = role.gpus
    selector = {**rule, **role.label}
    return options | ({"label_selector": selector} if selector else {})


def _told(alive: Sequence[Node], wanted: PlacementSettings, why: str) -> str:
    return (
        f"cluster.placement.strategy: {wanted.strategy!r} cannot be done: {why}; {_listed(alive)}; add nodes, ask for "
        f"less (rollout.actors, cluster.concurrent, cluster.placement.*.cpus), or take "
        f"cluster.placement.strategy=anywhere"
    )


def _listed(alive: Sequence[Node]) -> str:
    def own(node: Node) -> str:
        labels = ",".join(f"{k}={v}" for k, v in node.labels.items() if not k.startswith("ray.io/"))
        return f"{node.ip} ({node.cpus:g} CPUs, {node.gpus:g} GPUs{', ' + labels if labels else ''})"

    return "nodes: " + "; ".join(own(node) for node in alive)


def _ask_autoscaler(settings: RunSettings, runs: int) -> None:
    """Tell an autoscaler, where there is one, what will be needed."""
    wanted, bundles, labels = settings.cluster.placement, [], []
    for role, count, cpus in (
        (wanted.rollout, runs * settings.rollout.actors, 0.0),
        (wanted.learner, runs * max(1, settings.learner.workers), 1.0),
    ):
        of = {"CPU": max(1.0, cpus if role.cpus is None else role.cpus), "GPU": role.gpus or 0.0}
        bundles += [{name: amount for name, amount in of.items() if amount}] * count
        labels += [role.label] * count
    request_resources(bundles=bundles, bundle_label_selectors=labels)
