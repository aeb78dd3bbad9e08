"""Tokens a second of Ductile's sampler against transformers' `generate`, on the same model, prompts and lengths.

    python -m benchmarks.sampler [rounds]

Both sides run in turn in one process on one thread, and the ratio is that of their medians. `generate` returns no
log-probabilities unless asked for scores, which RL needs; it is asked, and they are gathered.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable

import torch

from ductile.config import ArchitectureSettings
from ductile.domains import make_domain
from ductile.models.load import encode_prompt, load_model, load_tokenizer
from ductile.models.scratch import build_llama
from ductile.models.tokenizer import character_tokenizer
from ductile.ports import Composition, Member, PolicyRef, Sampling
from ductile.sampling.worker import LocalPool

GROUPS, GROUP_SIZE, TOKENS = 16, 8, 64


def main(rounds: int) -> None:
    """Print tokens a second of both, and the ratio."""
    torch.set_num_threads(1)
    folder = tempfile.mkdtemp()
    tokenizer = character_tokenizer()
    build_llama(ArchitectureSettings(), tokenizer, seed=0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    problems = make_domain({"name": "chain_sum"}, "domain").problems(12, "train", GROUPS, 0)
    pool = LocalPool("float32")
    policy = PolicyRef(Composition((Member("policy", folder, 1.0),), "policy"), None, 0)

    def ours() -> int:
        groups = pool.generate(policy, problems, Sampling(0, "bench", GROUP_SIZE, TOKENS))
        return sum(len(completion.tokens) for group in groups for completion in group.completions)

    model, loaded = load_model(folder, "float32"), load_tokenizer(folder)
    ids = torch.tensor([encode_prompt(loaded, problem.prompt) for problem in problems for _ in range(GROUP_SIZE)])

    @torch.inference_mode()
    def theirs() -> int:
        torch.manual_seed(0)
        made = model.generate(
            ids, do_sample=True, max_new_tokens=TOKENS, output_scores=True, return_dict_in_generate=True, top_k=0
        )
        model.compute_transition_scores(made.sequences, made.scores, normalize_logits=True)
        new = made.sequences[:, ids.shape[1] :]
        ends = (new == loaded.eos_token_id).float()
        return int(torch.where(ends.any(1), ends.argmax(1) + 1, new.shape[1]).sum())

    speeds: dict[str, list[float]] = {"ductile": [], "transformers": []}
    sides: dict[str, Callable[[], int]] = {"ductile": ours, "transformers": theirs}
    for warm in [True] + [False] * rounds:
        for name, side in sides.items():
            started = time.perf_counter()
            tokens = side()
            if not warm:
                speeds[name].append(tokens / (time.perf_counter() - started))
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    for name, values in speeds.items():
        span = f"from {min(values):,.0f} to {max(values):,.0f}, {rounds} rounds"
        print(f"{name:13}{medians[name]:9,.0f} tokens/s   ({span})")
    print(f"ratio        {medians['ductile'] / medians['transformers']:9.2f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 7)
