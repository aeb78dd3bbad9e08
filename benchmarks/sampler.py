"""Tokens a second of Ductile's sampler against transformers' `generate` and its continuous batching.

    python -m benchmarks.sampler [rounds] [--threads 2]

All sides run in turn in one process, on the same weights, prompts and number of threads: 32 prompts, 8 completions of
each, of at most 64 tokens. The end token's logit has a bias with which an untrained model stops as a trained one does:
lengths are about geometric, 25 tokens on average. Tokens are counted to the end token. `generate` returns no
log-probabilities unless it is asked for scores, which RL needs and the other sides do without.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

import torch
from torch import nn
from transformers import ContinuousBatchingConfig, GenerationConfig, LlamaForCausalLM
from transformers.utils import logging

from benchmarks.alternate import alternate, print_speeds
from ductile.config import ArchitectureSettings
from ductile.domains import make_domain
from ductile.models.compose import ComposedPolicy
from ductile.models.load import encode_problem
from ductile.models.scratch import build_llama
from ductile.models.tokenizer import character_tokenizer
from ductile.ports import Composition, Member, Sampling
from ductile.sampling.sampler import sample

GROUPS, GROUP_SIZE, TOKENS, LENGTH = 32, 8, 64, 25
SIZES = {
    "default base": ArchitectureSettings(),
    "50M parameters": ArchitectureSettings(layers=12, width=576, heads=9, mlp=1536),
}


def main() -> None:
    """Print tokens a second of all sides, and the ratios, for a small and a larger model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rounds", type=int, nargs="?", default=7, help="of the default base")
    parser.add_argument("--threads", type=int, default=2)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    logging.set_verbosity_error()
    for name, architecture in SIZES.items():
        small = name == "default base"
        model = stopping(build_llama(architecture, character_tokenizer(), seed=0).eval())
        count = sum(parameter.numel() for parameter in model.parameters())
        print(f"\n{name}: {count:,} parameters, {GROUPS} x {GROUP_SIZE} rows, {chosen.threads} threads")
        sides = all_sides(model)
        if not small:  # what is slowest on the small one would take minutes here
            sides = {name: sides[name] for name in ("ductile", "generate, dynamic cache")}
        print_speeds(alternate(sides, chosen.rounds if small else max(3, chosen.rounds // 3)), "tokens/s")


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


def all_sides(model: LlamaForCausalLM) -> dict[str, Callable[[], float]]:
    """Each draws the completions of all prompts and returns how many tokens they have."""
    tokenizer = character_tokenizer()
    problems = make_domain({"name": "chain_sum"}, "domain").problems(12, "train", GROUPS, 0)
    policy = ComposedPolicy(Composition((Member("policy", "", 1.0),), "policy"), [model])
    prompts = [encode_problem(tokenizer, problem) for problem in problems for _ in range(GROUP_SIZE)]
    assert len({len(prompt) for prompt in prompts}) == 1  # so that `generate` needs no padding either
    ids = torch.tensor(prompts)
    common = {"do_sample": True, "top_k": 0, "max_new_tokens": TOKENS}
    common |= {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}

    def ours() -> int:
        groups = sample(policy, tokenizer, problems, Sampling(0, "bench", GROUP_SIZE, TOKENS), 0)
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
            continuous_batching_config=ContinuousBatchingConfig(max_batch_tokens=GROUPS * GROUP_SIZE),
            progress_bar=False,
        )
        return sum(len(output.generated_tokens) for output in made.values())

    return {
        "ductile": ours,
        "generate, dynamic cache": generate,
        "generate, dynamic cache, scores": lambda: generate(output_scores=True, return_dict_in_generate=True),
        "generate, static cache": lambda: generate(cache_implementation="static", disable_compile=True),
        "continuous batching": continuous,
    }


if __name__ == "__main__":
    main()
