"""Weights from the learner to two rollout actors of the same node, against copies of them and one memory copy.

Ours is what a run does: `ActorPool.publish`, and both actors have loaded the policy. "copies" is what it did before:
tensors are pickled into the object store, unpickled by each actor and copied into its model. "memory" copies the same
bytes once into memory that is there, in one thread, as `learner.threads` is. Afterwards each actor passes a token
through the model, which reads all of it.

    python -m benchmarks.weights [rounds=8] [sizes=50M,0.5B]
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import ray
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from actors.rollout import ActorPool, _split
from benchmarks.alternate import alternate, print_speeds
from ductile.config import RolloutSettings
from ductile.models.compose import ComposedPolicy
from ductile.ports import Composition, Member, PolicyRef

ROOT = Path(__file__).resolve().parent.parent
ACTORS = 2
SIZES = {  # width, layers, heads, vocabulary and type
    "50M": (512, 12, 8, 16_000, "float32"),
    "0.5B": (1024, 32, 16, 48_000, "bfloat16"),
}


@ray.remote(num_cpus=0)
class CopyingActor:
    """An actor as it was: what it gets are tensors of its own, which are copied into the model."""

    def __init__(self, composition: Composition, dtype: str) -> None:
        torch.set_num_threads(1)
        self._policy = ComposedPolicy.load(composition, dtype)

    def load(self, state: dict[str, torch.Tensor]) -> None:
        self._policy.load_trainable(state)

    def forward(self) -> float:
        return forward(self._policy)


class Seen:
    """Measures of a loaded policy, as `inspect` takes them."""

    @staticmethod
    def loaded(_: Any) -> None:
        return None

    @staticmethod
    def forward(loaded: Any) -> float:
        return forward(loaded._policy)


@torch.no_grad()
def forward(policy: ComposedPolicy) -> float:
    """Seconds of a forward pass of one token."""
    one, began = torch.ones(1, 1, dtype=torch.int64), time.perf_counter()
    policy(one, one)
    return time.perf_counter() - began


def main() -> None:
    torch.set_num_threads(1)
    options = dict(argument.split("=", 1) for argument in sys.argv[1:])
    rounds, sizes = int(options.get("rounds", "8")), options.get("sizes", ",".join(SIZES)).split(",")
    paths = os.pathsep.join([str(ROOT / "platform"), str(ROOT)])
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": paths}})
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            compare(size, Path(folder), rounds)


def compare(size: str, folder: Path, rounds: int) -> None:
    width, layers, heads, vocabulary, dtype = SIZES[size]
    config = LlamaConfig(
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        vocab_size=vocabulary,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config).to(getattr(torch, dtype))
    model.save_pretrained(folder)
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    unique = {tensor.data_ptr(): tensor for tensor in state.values()}
    weights, into = list(unique.values()), [torch.empty_like(tensor).fill_(0) for tensor in unique.values()]
    gigabytes = sum(tensor.numel() * tensor.element_size() for tensor in weights) / 1e9
    composition = Composition((Member("policy", str(folder), 1.0),), "policy")
    pool = ActorPool.start(1, dtype, RolloutSettings(actors=ACTORS, threads=1))
    copying = [CopyingActor.remote(composition, dtype) for _ in range(ACTORS)]
    kept: list[Any] = [None]  # as a run keeps the policy that it samples from

    def ours() -> float:
        kept[0] = policy = PolicyRef(composition, pool.publish(state), 0)
        ray.get([actor.inspect.remote(*_split(policy), Seen.loaded) for actor in pool.actors])
        return gigabytes

    def publication() -> float:
        kept[0] = pool.publish(state)
        return gigabytes

    def copies() -> float:
        stored = ray.put(state)
        ray.get([actor.load.remote(stored) for actor in copying])
        return gigabytes

    def memory() -> float:
        for source, target in zip(weights, into, strict=True):
            target.copy_(source)
        return gigabytes

    print(f"\n{size}: {sum(tensor.numel() for tensor in weights) / 1e6:,.0f}M parameters, {gigabytes:.2f} GB, {dtype}")
    sides = {"publish and load": ours, "publish alone": publication, "copies": copies, "memory": memory}
    print_speeds(alternate(sides, rounds, warm=2), "GB/s")
    policy = PolicyRef(composition, pool.publish(state), 0)
    first, again = [_passed(pool, policy) for _ in range(2)]
    copied = max(ray.get([actor.forward.remote() for actor in copying]))
    print(f"a token through the model: {first:.3f} s the first time, {again:.3f} s again, {copied:.3f} s on copies")
    for actor in (*pool.actors, *copying):
        ray.kill(actor)


def _passed(pool: ActorPool, policy: PolicyRef) -> float:
    return max(ray.get([actor.inspect.remote(*_split(policy), Seen.forward) for actor in pool.actors]))


if __name__ == "__main__":
    main()
