"""A rollout actor joins with a node and leaves with it, while calls go on."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import pytest
import ray
from ray.actor import ActorHandle
from ray.cluster_utils import Cluster

from actors.rollout import ActorPool
from ductile.config import RolloutSettings
from tests.cluster.tiny import ROOT

pytestmark = pytest.mark.cluster


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    paths = os.pathsep.join([str(ROOT / "platform"), str(ROOT)])
    ray.init(address=made.address, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": paths}})
    yield made
    ray.shutdown()
    made.shutdown()


def node_id(actor: ActorHandle) -> Any:
    """A call that takes long enough for another actor to take the next one."""
    return actor.__ray_call__.remote(lambda _: (time.sleep(0.2), ray.get_runtime_context().get_node_id())[1])


def test_actor_joins_with_a_node_and_leaves_with_it(cluster: Cluster) -> None:
    pool = ActorPool.start(1, "float32", RolloutSettings(actors=1, actors_max=2))
    (head,) = set(pool._dispatcher.run([node_id] * 2))
    node, ends = cluster.add_node(num_cpus=1), time.monotonic() + 90
    while len(set(pool._dispatcher.run([node_id] * 6))) < 2:
        assert time.monotonic() < ends
    assert pool.counts()["rollout/actors"] == 2
    cluster.remove_node(node)
    ends = time.monotonic() + 90
    while len(pool._dispatcher.transport.own()) > 1:
        assert set(pool._dispatcher.run([node_id] * 2)) >= {head}
        assert time.monotonic() < ends
    assert set(pool._dispatcher.run([node_id] * 4)) == {head}
