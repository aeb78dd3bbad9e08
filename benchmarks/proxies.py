"""What a composed policy costs, against its models sampled alone: a proxy of three, and a self-proxy of two.

    python -m benchmarks.proxies [rounds] [--threads 2]

All sides run in turn in one process. No completion ends before its limit, so that every side draws the same number of
tokens; the cost is in seconds a token.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch import nn
from transformers import LlamaForCausalLM

from benchmarks.alternate import alternate, headline, print_speeds, ratio
from ductile.config import ArchitectureSettings, ModelSettings
from ductile.domains import make_domain
from ductile.models.compose import ComposedPolicy
from ductile.models.scratch import build_llama
from ductile.models.tokenizer import character_tokenizer
from ductile.ports import Composition, Member, Sampling
from ductile.sampling.sampler import sample

GROUPS, GROUP_SIZE, TOKENS = 32, 8, 32
ALPHA = 1.0
BASE, EXPERT = ArchitectureSettings(), ModelSettings().expert


def main() -> None:
    """Print tokens a second of each side, and how many times the cost of its models a composition has."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rounds", type=int, nargs="?", default=15)
    parser.add_argument("--threads", type=int, default=2)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    base, copy, expert, anti = endless(BASE, 0), endless(BASE, 1), endless(EXPERT, 2), endless(EXPERT, 3)
    speeds = alternate(
        {
            "base": drawing((base, 1.0)),
            "expert": drawing((expert, 1.0)),
            "proxy": drawing((base, 1.0), (expert, ALPHA), (anti, -ALPHA)),
            "self-proxy": drawing((base, 0.5), (copy, 0.5)),
        },
        chosen.rounds,
    )
    print(f"{GROUPS} x {GROUP_SIZE} completions of {TOKENS} tokens, {chosen.threads} threads")
    print_speeds(speeds, "tokens/s")
    three = 1 / (1 / speeds["base"] + 2 / speeds["expert"])
    headline(f"proxies: a proxy costs {ratio(three, speeds['proxy'])} times the sum of its three models")
    headline(f"proxies: a self-proxy costs {ratio(speeds['base'], speeds['self-proxy'])} times the base")


def endless(architecture: ArchitectureSettings, seed: int) -> LlamaForCausalLM:
    """A model that never draws the end token."""
    model = build_llama(architecture, character_tokenizer(), seed).eval()
    bias = torch.zeros(model.config.vocab_size)
    bias[model.config.eos_token_id] = -100.0
    model.lm_head.bias = nn.Parameter(bias)
    return model


def drawing(*members: tuple[LlamaForCausalLM, float]) -> Callable[[], float]:
    """Draws the completions of all problems from the models' weighted sum and returns how many tokens they have."""
    tokenizer = character_tokenizer()
    problems = make_domain({"name": "chain_sum"}, "domain").problems(12, "train", GROUPS, 0)
    composition = Composition(tuple(Member(f"{n}", "", weight) for n, (_, weight) in enumerate(members)), "0")
    policy = ComposedPolicy(composition, [model for model, _ in members])
    spare: list[torch.Tensor] = []

    def draw() -> float:
        groups = sample(policy, tokenizer, problems, Sampling(0, "bench", GROUP_SIZE, TOKENS), 0, spare)
        return sum(len(completion.tokens) for group in groups for completion in group.completions)

    return draw


if __name__ == "__main__":
    main()
