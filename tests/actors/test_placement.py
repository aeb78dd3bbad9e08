"""Which nodes roles are kept to, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from actors.placement import NODE_ID, Node, Placement, PlacementError, plan
from ductile.config import (
    ClusterSettings,
    LearnerSettings,
    PlacementSettings,
    RoleSettings,
    RolloutSettings,
    RunSettings,
)

HEAD = Node("a", "10.0.0.1", 2, 0, {})
SAMPLES = Node("b", "10.0.0.2", 4, 1, {"role": "rollout"})
LEARNS = Node("c", "10.0.0.3", 8, 0, {"role": "learner"})
ALL = (HEAD, SAMPLES, LEARNS)


def settings(actors: int = 2, workers: int = 0, **placement: object) -> RunSettings:
    return RunSettings(
        rollout=RolloutSettings(actors=actors),
        learner=LearnerSettings(workers=workers),
        cluster=ClusterSettings(placement=PlacementSettings(**placement)),  # type: ignore[arg-type]
    )


def test_anywhere_asks_for_nothing_even_of_no_nodes() -> None:
    assert plan([], settings(), 1) == Placement()


def test_labels_become_selectors() -> None:
    placement = plan(ALL, settings(rollout=RoleSettings(nodes="role:rollout", cpus=1.0)), 1)
    assert placement.rollout == {"num_cpus": 1.0, "label_selector": {"role": "rollout"}}
    assert placement.learner == placement.difficulty == {}


def test_apart_keeps_rollouts_off_the_learners_nodes() -> None:
    placement = plan(ALL, settings(strategy="apart", rollout=RoleSettings(cpus=1.0)), 2)
    assert placement.learner["label_selector"] == {NODE_ID: "in(b)"}  # the one with a GPU holds two learners
    assert placement.rollout["label_selector"] == {NODE_ID: "!in(b)"}


def test_apart_takes_as_many_nodes_as_the_learners_need() -> None:
    placement = plan(ALL, settings(strategy="apart", workers=10), 1)
    assert placement.learner["label_selector"] == {NODE_ID: "in(b,c)"}


def test_apart_needs_a_second_node() -> None:
    with pytest.raises(PlacementError, match=r"no node is left for rollout beside the learner's; nodes: 10\.0\.0\.1 "):
        plan([HEAD], settings(strategy="apart"), 1)


def test_together_is_on_the_fewest_nodes_that_hold_all() -> None:
    few = plan(ALL, settings(strategy="together", rollout=RoleSettings(cpus=1.0)), 1)
    assert few.rollout["label_selector"] == few.learner["label_selector"] == {NODE_ID: "in(b)"}
    more = plan(ALL, settings(actors=8, strategy="together", rollout=RoleSettings(cpus=1.0)), 1)
    assert more.rollout["label_selector"] == more.difficulty["label_selector"] == {NODE_ID: "in(b,c)"}


def test_an_actor_is_on_one_node_whole() -> None:
    wanted = settings(actors=1, rollout=RoleSettings(cpus=5.0))
    assert plan(ALL, wanted, 1).rollout == {"num_cpus": 5.0}
    with pytest.raises(PlacementError, match=r"rollout need 1 x \(5 CPUs, 0 GPUs\)"):
        plan([HEAD, SAMPLES], wanted, 1)


def test_label_that_no_node_has_is_refused_with_the_nodes_and_what_to_do() -> None:
    with pytest.raises(PlacementError) as refused:
        plan(ALL, settings(learner=RoleSettings(nodes="role:trainer")), 1)
    told = str(refused.value)
    assert told.startswith("cluster.placement.learner.nodes: no node has the label 'role:trainer'; nodes: 10.0.0.1 (2 ")
    assert "10.0.0.3 (8 CPUs, 0 GPUs, role=learner)" in told and 'ray start --labels "role=trainer"' in told


def test_patience_alone_places_nothing() -> None:
    assert plan([], replace(settings(), cluster=ClusterSettings(placement=PlacementSettings(patience_s=9))), 1) == (
        Placement()
    )
