"""Base models from scratch: a small Llama trained on worked solutions of a mixture of domains, levels and formats.

The result is a Hugging Face folder in the cache, named by a hash of everything that it depends on.
"""

from __future__ import annotations

import fcntl
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from ductile.checkpoint import FolderStore, write_text
from ductile.config import ArchitectureSettings, MixtureSettings, ModelSettings, PretrainSettings
from ductile.contexts.teaching import Teaching
from ductile.domains import WorkedDomain, make_domain
from ductile.engines.shards import Saved, captured, whole_shards, writer
from ductile.models.cached import model_folder
from ductile.models.scratch import build_llama
from ductile.models.tokenizer import character_tokenizer
from ductile.packed import Pair
from ductile.rl.batch import pad_rows

CHUNK = 250
"""Steps after which the problems are drawn anew."""

POOL = 1024
"""Problems of each part and level in a chunk."""

PARTS = 4
"""Micro-batches of a step, cut by length: half of one padded batch would be padding."""

TAUGHT = 1
"""Names the random numbers of contexts: rows without one are the same, whatever share of the others has one."""

Log = Callable[[int, dict[str, float]], None]


@dataclass(frozen=True)
class _Source:
    """One part of the mixture at one level."""

    domain: WorkedDomain
    level: int
    formats: tuple[str, ...]
    shares: NDArray[np.float64]
    weight: float

    def near(self, other: _Source) -> bool:
        """Whether the other is this part at this level or at the next one: what worked examples are taken from."""
        return self.domain == other.domain and abs(self.level - other.level) <= 1


def ensure_model(settings: ModelSettings, which: str, cache: Path, log: Log) -> Path:
    """The folder of the model: `path` (or `expert_path`) as set, else from the cache, else trained now.

    which: "base" or "expert". `log(step, metrics)` is called as training goes on. A process that was killed goes on
    from its last checkpoint; two that want the same model wait for each other and train it once.
    """
    folder = model_folder(settings, which, cache)
    given, architecture = (settings.path, settings.base) if which == "base" else (settings.expert_path, settings.expert)
    if given:
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.with_suffix(".lock")):
        if not folder.exists():
            _train(folder, architecture, settings, log)
    return folder


def learning_rate(step: int, steps: int, lr: float, warmup: int) -> float:
    """Linear warm-up, then a cosine from `lr` to a tenth of it at the last step."""
    if step < warmup:
        return lr * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return lr * (0.1 + 0.45 * (1 + math.cos(math.pi * done)))


def optimizer_of(model: PreTrainedModel, lr: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW over all of the model; the weights of norms, which are vectors, do not decay."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98), fused=True)


def take_step(model: PreTrainedModel, optimizer: torch.optim.Optimizer, rate: float, clip: float) -> float:
    """Step along the gradient that the model holds, cut to the norm `clip`; returns the norm that it had."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimizer.step()
    return float(norm)


def _train(folder: Path, architecture: ArchitectureSettings, model_settings: ModelSettings, log: Log) -> None:
    settings = model_settings.pretrain
    tokenizer = character_tokenizer()
    model = build_llama(architecture, tokenizer, settings.seed).train()
    optimizer = optimizer_of(model, settings.lr, settings.weight_decay)
    store = FolderStore(folder.with_suffix(".partial"), folder.parent)
    start = _load(store, model, optimizer)
    teaching = Teaching(model_settings.instructed, model_settings.examples, architecture.positions)
    batches = _batches(_sources(model_settings.mixture), settings, tokenizer, start, teaching)
    began, seen = time.monotonic(), 0
    for step, rows in zip(range(start, settings.steps), batches, strict=False):
        rate = learning_rate(step, settings.steps, settings.lr, settings.warmup)
        optimizer.zero_grad()
        loss = _backward(model, rows)
        norm = take_step(model, optimizer, rate, settings.clip)
        seen += sum(len(prompt) + len(completion) for prompt, completion in rows)
        if step % 25 == 0 or step == settings.steps - 1:
            log(
                step,
                {
                    "pretrain/loss": loss,
                    "pretrain/grad_norm": norm,
                    "pretrain/lr": rate,
                    "pretrain/tokens_per_s": seen / (time.monotonic() - began),
                },
            )
        if (step + 1) % settings.save_every == 0 and step + 1 < settings.steps:
            _save(store, model, optimizer, step + 1)
    _publish(model, tokenizer, folder)
    shutil.rmtree(store.folder, ignore_errors=True)


def _backward(model: LlamaForCausalLM, rows: list[Pair]) -> float:
    """Add the gradient of the mean cross-entropy in nats over the completions' tokens; returns that mean."""
    ordered = sorted(rows, key=lambda row: len(row[0]) + len(row[1]))
    size, tokens, total = -(-len(rows) // PARTS), sum(len(completion) for _, completion in rows), 0.0
    for start in range(0, len(rows), size):
        padded = pad_rows(ordered[start : start + size])
        logits = model(input_ids=padded.ids, attention_mask=padded.mask, use_cache=False).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(
            logits[padded.completion].float(), padded.ids[:, 1:][padded.completion], reduction="sum"
        )
        (loss / tokens).backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach())
    return total / tokens


def _sources(mixture: Mapping[str, MixtureSettings]) -> list[_Source]:
    sources = []
    for name, part in mixture.items():
        domain = make_domain(part.domain, f"model.mixture.{name}.domain")
        assert isinstance(domain, WorkedDomain)  # `checks.check` has refused the others
        shares = np.array(list(part.formats.values()), np.float64)
        sources += [
            _Source(domain, level, tuple(part.formats), shares / shares.sum(), part.weight / len(part.levels))
            for level in part.levels
        ]
    return sources


def _batches(
    sources: list[_Source],
    settings: PretrainSettings,
    tokenizer: PreTrainedTokenizerBase,
    start: int,
    teaching: Teaching | None = None,
) -> Iterator[list[Pair]]:
    """(prompt, completion) rows of each step from `start` on; a step's rows depend on the seed and the step alone."""
    near = [[n for n, other in enumerate(sources) if source.near(other)] for source in sources]
    weights = np.array([source.weight for source in sources])
    encode = tokenizer.get_vocab()
    step, chunk, pools = start, -1, []
    while True:
        if step // CHUNK != chunk:
            chunk = step // CHUNK
            keys = [np.random.SeedSequence([settings.seed, chunk, number]) for number in range(len(sources))]
            seeds = [int(key.generate_state(1)[0]) for key in keys]
            pools = [s.domain.problems(s.level, "train", POOL, seed) for s, seed in zip(sources, seeds, strict=True)]
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([settings.seed, step])))
        taught = np.random.Generator(np.random.Philox(np.random.SeedSequence([settings.seed, step, TAUGHT])))
        rows = []
        for number in rng.choice(len(sources), size=settings.batch, p=weights / weights.sum()):
            source, pool = sources[number], pools[number]
            problem = pool[rng.integers(len(pool))]
            format = source.formats[rng.choice(len(source.formats), p=source.shares)]
            if teaching is not None:
                formats = [name for name, share in zip(source.formats, source.shares, strict=True) if share]
                others = [pools[other] for other in near[number]]
                problem, format = teaching.row(problem, format, source.domain, formats, others, taught)
            text = source.domain.solution(problem, format)
            prompt = np.array([encode[character] for character in problem.transcript], np.int32)
            completion = np.array([*(encode[character] for character in text), tokenizer.eos_token_id], np.int32)
            rows.append((prompt, completion))
        yield rows
        step += 1


def _publish(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    temporary = folder.with_suffix(".writing")
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_pretrained(temporary, safe_serialization=True)
    tokenizer.save_pretrained(temporary)
    temporary.rename(folder)


def _save(store: FolderStore, model: LlamaForCausalLM, optimizer: torch.optim.Optimizer, step: int) -> None:
    write = writer(captured(whole_shards(model), optimizer.state, {}), 0, 1)

    def write_all(folder: Path) -> None:
        write(folder)
        write_text(folder / "pretrain.json", json.dumps({"step": step}))

    store.save(write_all)


def _load(store: FolderStore, model: LlamaForCausalLM, optimizer: torch.optim.Optimizer) -> int:
    """Step to go on from: 0 without a checkpoint."""
    latest = store.latest()
    if latest is None:
        return 0
    with Saved(latest) as saved:
        saved.restore(whole_shards(model), optimizer.state)
    return int(json.loads((latest / "pretrain.json").read_text())["step"])


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
