"""Actors that die or hang: the call is made again elsewhere and gives the same answer, or the run fails by name."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.exceptions import RayActorError

from actors.difficulty import DifficultyActor, DifficultyClient, leave_actor, take_actor
from actors.rollout import ActorPool, LostCall, _split
from ductile.config import ArchitectureSettings, DifficultySettings, RolloutSettings
from ductile.difficulty.service import DifficultyTable
from ductile.domains import make_domain
from ductile.models.scratch import build_llama
from ductile.models.tokenizer import character_tokenizer
from ductile.ports import Composition, Member, PolicyRef, Sampling
from ductile.problem import Group
from ductile.sampling.worker import LocalPool
from tests.cluster.tiny import ROOT

pytestmark = pytest.mark.cluster
SAMPLING = Sampling(seed=3, stream="test", samples=3, max_tokens=12)


@pytest.fixture(scope="module", autouse=True)
def local_ray() -> Iterator[None]:
    paths = os.pathsep.join([str(ROOT / "platform"), str(ROOT)])
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": paths}},
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> PolicyRef:
    folder, tokenizer = tmp_path_factory.mktemp("model"), character_tokenizer()
    model = build_llama(ArchitectureSettings(layers=1, width=16, heads=2, mlp=32), tokenizer, seed=0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return PolicyRef(Composition((Member("policy", str(folder), 1.0),), "policy"), None, 0)


@pytest.fixture(scope="module")
def problems() -> list:
    return make_domain({"name": "chain_sum"}, "domain").problems(4, "train", 6, 0)


def texts(groups: list[Group]) -> list[list[str]]:
    return [[completion.text for completion in group.completions] for group in groups]


def pid(actor: ray.actor.ActorHandle) -> int:
    number: int = ray.get(actor.__ray_call__.remote(lambda _: os.getpid()))
    return number


def test_pool_of_two_gives_what_one_process_gives(policy: PolicyRef, problems: list) -> None:
    pool = ActorPool.start(1, "float32", RolloutSettings(actors=2))
    expected = texts(LocalPool("float32").generate(policy, problems, SAMPLING))
    assert texts(pool.generate(policy, problems, SAMPLING)) == expected


def test_published_weights_are_the_ones_sampled_from(policy: PolicyRef, problems: list) -> None:
    from ductile.models.load import load_model

    state = {
        name: tensor * 1.5
        for name, tensor in load_model(policy.composition.members[0].path, "float32").state_dict().items()
    }
    here, there = LocalPool("float32"), ActorPool.start(1, "float32", RolloutSettings())
    trained = [PolicyRef(policy.composition, pool.publish(state), 1) for pool in (here, there)]
    expected = texts(here.generate(trained[0], problems, SAMPLING))
    assert texts(there.generate(trained[1], problems, SAMPLING)) == expected
    assert expected != texts(here.generate(policy, problems, SAMPLING))


def places(loaded: Any) -> list[tuple[int, int, str]]:
    """Of the actor's weights: process, address, and the file that is mapped there."""
    addresses = [weight.data_ptr() for weight in loaded.weights().values()]
    mapped = [line.split(maxsplit=5) for line in Path("/proc/self/maps").read_text().splitlines()]
    areas = [(*(int(end, 16) for end in parts[0].split("-")), parts[5] if len(parts) > 5 else "") for parts in mapped]
    found = [next(file for first, end, file in areas if first <= address < end) for address in addresses]
    return [(os.getpid(), address, file) for address, file in zip(addresses, found, strict=True)]


def test_published_weights_lie_in_shared_memory_in_every_actor(tmp_path: Path) -> None:
    tokenizer = character_tokenizer()
    model = build_llama(ArchitectureSettings(layers=1, width=128, heads=2, mlp=256), tokenizer, seed=0)
    model.save_pretrained(tmp_path)
    pool = ActorPool.start(1, "float32", RolloutSettings(actors=2))
    published = pool.publish(model.state_dict())
    policy = PolicyRef(Composition((Member("policy", str(tmp_path), 1.0),), "policy"), published, 1)
    bare, state = _split(policy)
    seen = [place for each in ray.get([a.inspect.remote(bare, state, places) for a in pool.actors]) for place in each]
    assert len({process for process, _, _ in seen}) == 2
    assert {"plasma" in file for _, _, file in seen} == {True}, seen
    assert {address % 64 for _, address, _ in seen} == {0}  # as memory of torch's own, so that sums are the same bits


def test_call_on_a_killed_actor_is_made_again_with_the_same_answer(policy: PolicyRef, problems: list) -> None:
    pool = ActorPool.start(1, "float32", RolloutSettings(actors=2))
    expected = texts(pool.generate(policy, problems, SAMPLING))
    for actor in pool.actors:
        os.kill(pid(actor), signal.SIGKILL)
    assert texts(pool.generate(policy, problems, SAMPLING)) == expected


def test_what_was_begun_is_collected_though_every_actor_died_meanwhile(policy: PolicyRef, problems: list) -> None:
    # One loss may count: of an actor that has just begun again Ray sometimes says that it is unavailable.
    pool = ActorPool.start(1, "float32", RolloutSettings(actors=2, retries=1))
    expected = texts(pool.generate(policy, problems, SAMPLING))
    killed = [pid(actor) for actor in pool.actors]
    for number in killed:
        os.kill(number, signal.SIGKILL)
    begun = pool.begin(policy, problems, SAMPLING)
    assert texts(pool.collect(begun)) == expected
    assert pool.counts()["rollout/retried_calls"] >= 1


def test_hanging_actor_is_replaced_after_the_time_limit(policy: PolicyRef, problems: list) -> None:
    pool = ActorPool.start(1, "float32", RolloutSettings(actors=2, timeout_s=15.0))
    expected = texts(pool.generate(policy, problems, SAMPLING))
    stopped = pid(pool.actors[0])
    os.kill(stopped, signal.SIGSTOP)
    try:
        assert texts(pool.generate(policy, problems, SAMPLING)) == expected
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(stopped, signal.SIGKILL)


def test_actors_that_are_gone_for_good_fail_the_call_by_name(policy: PolicyRef, problems: list) -> None:
    pool = ActorPool.start(1, "float32", RolloutSettings(actors=1, patience_s=3.0))
    ray.get(pool.actors[0].__ray_ready__.remote())
    ray.kill(pool.actors[0])
    with pytest.raises(LostCall, match=r"none of 1 rollout actors was alive for rollout.patience_s=3 s"):
        pool.generate(policy, problems, SAMPLING)


def test_error_inside_a_call_is_raised_and_not_tried_again(policy: PolicyRef, problems: list, tmp_path: Path) -> None:
    pool = ActorPool.start(1, "float32", RolloutSettings())
    nowhere = PolicyRef(Composition((Member("policy", str(tmp_path / "nowhere"), 1.0),), "policy"), None, 0)
    with pytest.raises(Exception, match="nowhere"):
        pool.generate(nowhere, problems, SAMPLING)


def test_difficulty_actor_answers_as_the_table_does() -> None:
    client = DifficultyClient(DifficultyActor.remote(DifficultySettings()))
    table = DifficultyTable(DifficultySettings())
    ids = [f"p{number}" for number in range(10)]
    answers = []
    for service in (client, table):
        service.start_phase(ids)
        chosen = service.select(4, 0, 7, without=ids[:3])
        seen = service.observe(dict.fromkeys(chosen, (1, 4)), step=0)
        arrays = {name: array.tobytes() for name, array in service.snapshot().items()}
        answers.append((chosen, seen, service.estimates(), arrays))
    assert answers[0] == answers[1]


def test_actor_that_a_run_left_has_a_fresh_table_for_the_next_and_a_dead_one_is_not_taken() -> None:
    settings, ids = DifficultySettings(), [f"p{number}" for number in range(10)]
    first = take_actor(settings, {})
    DifficultyClient(first).start_phase(ids)
    DifficultyClient(first).observe(dict.fromkeys(ids, (1, 4)), 0)
    leave_actor(first)
    second = take_actor(settings, {})
    assert second == first
    assert DifficultyClient(second).estimates() == DifficultyTable(settings).estimates()
    leave_actor(second)
    ray.kill(second)
    third = take_actor(settings, {})
    assert third != first
    assert DifficultyClient(third).estimates() == DifficultyTable(settings).estimates()


def test_table_that_died_in_an_update_goes_on_from_its_snapshot() -> None:
    ids = [f"p{number}" for number in range(50_000)]
    actor = DifficultyActor.remote(DifficultySettings())
    client, table = DifficultyClient(actor), DifficultyTable(DifficultySettings())
    client.start_phase(ids)
    client.observe(dict.fromkeys(ids, (1, 4)), 0)
    kept = client.snapshot()
    actor.call.remote("observe", (dict.fromkeys(ids, (4, 4)), 1), {})
    ray.kill(actor)  # whatever of the update was done goes with it
    with pytest.raises(RayActorError):
        client.estimates()
    again = DifficultyClient(DifficultyActor.remote(DifficultySettings()))
    again.restore(kept)
    table.start_phase(ids)
    for service in (again, table):
        if service is table:
            service.observe(dict.fromkeys(ids, (1, 4)), 0)
        service.observe(dict.fromkeys(ids, (4, 4)), 1)
    assert again.estimates() == table.estimates()
