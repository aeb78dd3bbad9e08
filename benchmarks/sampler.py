"""Tokens a second of Ductile's sampler against transformers' `generate` and its continuous batching.

    python -m benchmarks.sampler [rounds] [--threads 1 2]

All sides run in turn in one process, on the same weights, prompts and number of threads: 8 completions of each prompt,
of at most 64 tokens. The end token has a bias with which an untrained model stops as a trained one does: lengths are
about geometric, of 25 tokens before the limit cuts them. Tokens are counted to the end token. `generate` returns no
log-probabilities unless it is asked for scores, which RL needs and the other sides do without; no side but ours and
continuous batching lets a finished row go.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import ContinuousBatchingConfig, GenerationConfig, LlamaForCausalLM
from transformers.utils import logging

from benchmarks.alternate import alternate, headline, print_speeds, ratio
from ductile.config import ArchitectureSettings
from ductile.domains import make_domain
from ductile.models.compose import ComposedPolicy
from ductile.models.load import encode_problem
from ductile.models.scratch import build_llama
from ductile.models.tokenizer import character_tokenizer
from ductile.ports import Composition, Member, Sampling
from ductile.sampling.sampler import sample

GROUP_SIZE, TOKENS, LENGTH = 8, 64, 25
BASE, LARGER = ArchitectureSettings(), ArchitectureSettings(layers=12, width=576, heads=9, mlp=1536)
GENERATE = "generate, dynamic cache"
STATIC = "generate, static cache"
SLOW = "continuous batching"


def main() -> None:
    """Print tokens a second of all sides, and the ratios, for the default base and for 50M parameters."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rounds", type=int, nargs="?", default=7, help="of the default base; 3 of what is slow")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="each in turn for the default base")
    chosen = parser.parse_args()
    logging.set_verbosity_error()
    for threads in chosen.threads:
        torch.set_num_threads(threads)
        sides = all_sides(named("default base", BASE, 32), 32)
        slow = {"ductile": sides["ductile"], SLOW: sides.pop(SLOW)}
        speeds = alternate(sides, chosen.rounds)
        print_speeds(speeds, "tokens/s")
        for name in (GENERATE, STATIC):
            told(f"default base, {threads} threads", speeds, name)
    print_speeds(speeds := alternate(slow, 3, warm=0), "tokens/s")
    told(f"default base, {threads} threads", speeds, SLOW)
    sides = all_sides(named("larger", LARGER, 8), 8)
    print_speeds(speeds := alternate({name: sides[name] for name in ("ductile", GENERATE)}, 3), "tokens/s")
    told(f"48M parameters, {threads} threads", speeds, GENERATE)


def told(what: str, speeds: Mapping[str, NDArray[np.float64]], name: str) -> None:
    """The headline of one side."""
    headline(f"sampler, {what}: {ratio(speeds['ductile'], speeds[name])} times the tokens/s of {name}")


def named(name: str, architecture: ArchitectureSettings, groups: int) -> LlamaForCausalLM:
    """A model to sample from; says what is measured."""
    model = stopping(build_llama(architecture, character_tokenizer(), seed=0).eval())
    count = sum(parameter.numel() for parameter in model.parameters())
    print(f"\n{name}: {count:,} parameters, {groups} x {GROUP_SIZE} rows, {torch.get_num_threads()} threads")
    return model


def stopping(model: LlamaForCausalLM) -> LlamaForCausalLM:
    """The model with an end token that it draws about once in `LENGTH` tokens, whatever went before."""
    end = model.config.eos_token_id
    with torch.no_grad():
        model.lm_head.weight[end] = 0.0
        texts = torch.randint(model.config.vocab_size, (16, TOKENS), generator=torch.Generator().manual_seed(0))
        others = model(texts).logits.index_fill(-1, torch.tensor(end), -torch.inf).logsumexp(dim=-1).mean()
        model.lm_head.bias = nn.Parameter(torch.zeros(model.config.vocab_size))
        model.lm_head.bias[end] = others - math.log(LENGTH - 1)
    return model


def all_sides(model: LlamaForCausalLM, groups: int) -> dict[str, Callable[[], float]]:
    """Each draws the completions of all prompts and returns how many tokens they have."""
    tokenizer = character_tokenizer()
    problems = make_domain({"name": "chain_sum"}, "domain").problems(12, "train", groups, 0)
    policy = ComposedPolicy(Composition((Member("policy", "", 1.0),), "policy"), [model])
    prompts = [encode_problem(tokenizer, problem) for problem in problems for _ in range(GROUP_SIZE)]
    assert len({len(prompt) for prompt in prompts}) == 1  # so that `generate` needs no padding either
    ids = torch.tensor(prompts)
    common = {"do_sample": True, "top_k": 0, "max_new_tokens": TOKENS}
    common |= {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}

    spare: list[torch.Tensor] = []

    def ours(spare: list[torch.Tensor] | None) -> int:
        groups = sample(policy, tokenizer, problems, Sampling(0, "bench", GROUP_SIZE, TOKENS), 0, spare)
        return sum(len(completion.tokens) for group in groups for completion in group.completions)

    @torch.inference_mode()
    def generate(**options: object) -> int:
        made = model.generate(ids, **common, **options)
        if not isinstance(made, torch.Tensor):
            model.compute_transition_scores(made.sequences, made.scores, normalize_logits=True)
            made = made.sequences
        ends = made[:, ids.shape[1] :] == tokenizer.eos_token_id
        return int(torch.where(ends.any(1), ends.int().argmax(1) + 1, ends.shape[1]).sum())

    def continuous() -> int:
        made = model.generate_batch(
            prompts,
            generation_config=GenerationConfig(**common),
            continuous_batching_config=ContinuousBatchingConfig(max_batch_tokens=len(prompts)),
            progress_bar=False,
        )
        return sum(len(output.generated_tokens) for output in made.values())

    return {
        "ductile": lambda: ours(spare),
        "ductile, new memory": lambda: ours(None),
        GENERATE: generate,
        "generate, dynamic cache, scores": lambda: generate(output_scores=True, return_dict_in_generate=True),
        STATIC: lambda: generate(cache_implementation="static", disable_compile=True),
        SLOW: continuous,
    }


if __name__ == "__main__":
    main()
