"""Batched sampling with random numbers that belong to the completion, not to the batch.

Token t of a completion is drawn by inverting the policy's cumulative distribution at a uniform number u_t. The u_t come
from a Philox generator keyed by (run seed, stream, problem id, sample index), so the same completion comes out whatever
else is in the batch, however many workers there are, and whichever of them is asked. For the same reason a prompt's
left padding depends on its own length alone (it is filled up to a multiple of `BUCKET`), never on its neighbours', and
no fewer than `LEAST_ROWS` rows ever go through a model. A prompt is read once for all its completions.

What is left is the rounding of matrix products of other sizes. In float32 on one thread of a CPU there is none, where
MLPs are a multiple of 32 wide (SiLU rounds its last elements otherwise than the others): log-probabilities are the same
bits (tests/ductile/sampling/test_same_bits.py). Elsewhere they agree to rounding, and tokens but for draws that fall
that close to a boundary; `rollout.part` then makes calls of the same problems whatever the number of actors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerBase

from ductile.models.compose import ComposedPolicy
from ductile.models.decoder import PolicyDecoder
from ductile.models.load import encode_problem
from ductile.ports import Sampling
from ductile.problem import Completion, Group, Problem

T = TypeVar("T")

BUCKET = 16
"""Prompts are padded to a multiple of this many tokens; those of one padded length are sampled together."""

ROWS = 256
"""Most completions that are decoded at a time; bounds the memory of the key-value cache."""

LEAST_ROWS = 4
"""Fewest rows that go through a model at a time. Below it matrix products take kernels that add up in another order."""

COMPACT = 0.75
"""Finished rows leave the batch once at most this share of it is still running."""

KEPT = 16
"""Then the batch is left with a multiple of so many rows."""

BLOCK = 512
"""A vocabulary larger than this is summed up in blocks of so many tokens, to find the block before the token."""


@dataclass(frozen=True)
class _Request:
    """One completion that is wanted."""

    group: int
    sample: int
    prompt: tuple[int, ...]
    uniforms: NDArray[np.float64]


@torch.inference_mode()
def sample(
    policy: ComposedPolicy,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    sampling: Sampling,
    version: int,
    spare: list[Tensor] | None = None,
) -> list[Group]:
    """`sampling.samples` completions of each problem, in order, with the log-probabilities of the same forward pass.

    spare: memory that samplings hand on to each other; see `decoder.decoder_of`.
    Raises `ValueError` for a prompt of no tokens: there is nothing that the first token could follow.
    """
    if not policy.prefixed:  # it has none to stand before them
        problems = [replace(problem, prefix=()) if problem.prefix else problem for problem in problems]
    prompts = [tuple(encode_problem(tokenizer, problem)) for problem in problems]
    for problem, prompt in zip(problems, prompts, strict=True):
        if not prompt:
            raise ValueError(f"{problem.id}: its prompt has no tokens")
    requests = [
        _Request(group, number, prompt, uniforms(sampling, _key(problem), number))
        for group, (problem, prompt) in enumerate(zip(problems, prompts, strict=True))
        for number in range(sampling.samples)
    ]
    end = tokenizer.eos_token_id
    drawn: dict[tuple[int, int], tuple[NDArray[np.int32], NDArray[np.float32]]] = {}
    spare = [] if spare is None else spare
    for part in _parts(requests):
        for request, result in zip(part, _decode(policy, tokenizer, part, sampling, spare), strict=True):
            drawn[request.group, request.sample] = result
    texts = iter(
        tokenizer.batch_decode(
            [_without_end(drawn[r.group, r.sample][0], end) for r in requests],  # type: ignore[arg-type]
            skip_special_tokens=True,
            clean_up_tokenization_spaces=False,
        )
    )

    def completion(group: int, number: int) -> Completion:
        tokens, logps = drawn[group, number]
        finished = bool(len(tokens)) and int(tokens[-1]) == end
        return Completion(problems[group].id, number, tokens, logps, next(texts), finished, version)

    return [
        Group(
            problem,
            np.array(prompts[group], np.int32),
            tuple(completion(group, number) for number in range(sampling.samples)),
        )
        for group, problem in enumerate(problems)
    ]


def uniforms(sampling: Sampling, key: str, number: int) -> NDArray[np.float64]:
    """[max_tokens] float64 in [0, 1): the random numbers of one completion."""
    text = f"{sampling.seed}/{sampling.stream}/{key}/{number}"
    words = np.frombuffer(hashlib.blake2b(text.encode(), digest_size=16).digest(), np.uint64)
    return np.random.Generator(np.random.Philox(key=words)).random(sampling.max_tokens)


def choose(logps: Tensor, u: Tensor, top_p: float) -> Tensor:
    """Draw one token a row by inverting the cumulative distribution at `u`.

    logps: [row, vocabulary] log-probabilities; u: [row] float64 in [0, 1); returns [row] int64.
    With `top_p` below 1 the smallest set of most likely tokens that holds that share is drawn from (nucleus
    sampling, arXiv 1904.09751).
    """
    probabilities, u = logps.exp(), u.unsqueeze(-1)
    if top_p < 1:
        ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
        before = ordered.cumsum(dim=-1, dtype=torch.float64) - ordered
        inside = torch.zeros_like(probabilities, dtype=torch.bool).scatter(-1, order, before < top_p)
        probabilities = probabilities * inside
    vocabulary = probabilities.shape[-1]
    if vocabulary <= BLOCK:
        return _inverted(probabilities, u)[0].squeeze(-1)
    blocks = functional.pad(probabilities, (0, -vocabulary % BLOCK)).unflatten(-1, (-1, BLOCK))
    sums = blocks.sum(dim=-1)
    block, before = _inverted(sums, u)
    rest = (u * sums.sum(dim=-1, keepdim=True, dtype=torch.float64) - before) / sums.gather(-1, block)
    tokens = blocks.take_along_dim(block.unsqueeze(-1), dim=1).squeeze(1)
    return (block * BLOCK + _inverted(tokens, rest.clamp(min=0))[0]).squeeze(-1).clamp(max=vocabulary - 1)


def _inverted(weights: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """The first entry up to and with which the sum of weights passes `u` of the whole, and the sum before it.

    weights: [row, entry]; u: [row, 1] float64. Returns [row, 1] int64, never of weight 0, and [row, 1] float64.
    """
    cumulative = weights.cumsum(dim=-1, dtype=torch.float64)
    whole = cumulative[:, -1:]
    below = torch.minimum(u * whole, whole.nextafter(torch.zeros_like(whole)))
    # Of weights that are not numbers any entry is drawn: the update that learns from it says that the run diverged.
    chosen = torch.searchsorted(cumulative, below, right=True).clamp(max=weights.shape[-1] - 1)
    return chosen, torch.where(chosen > 0, cumulative.gather(-1, (chosen - 1).clamp(min=0)), 0.0)


def _key(problem: Problem) -> str:
    """Names a problem in its context: copies in several contexts get numbers of their own."""
    return f"{problem.id}@{problem.context}" if problem.context else problem.id


def _parts(requests: Sequence[_Request]) -> list[list[_Request]]:
    buckets: dict[int, list[_Request]] = {}
    for request in requests:
        buckets.setdefault(_padded(len(request.prompt)), []).append(request)
    return [bucket[i : i + ROWS] for bucket in buckets.values() for i in range(0, len(bucket), ROWS)]


def _padded(length: int) -> int:
    return max(1, -(-length // BUCKET)) * BUCKET


def _decode(
    policy: ComposedPolicy,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[_Request],
    sampling: Sampling,
    spare: list[Tensor],
) -> list[tuple[NDArray[np.int32], NDArray[np.float32]]]:
    """Tokens and log-probabilities of each request. All prompts have one padded length."""
    wanted, requests = len(requests), filled(requests)
    device, width, limit = policy.device, _padded(len(requests[0].prompt)), sampling.max_tokens
    end = tokenizer.eos_token_id
    ids, mask, prompts = (each.to(device) for each in _prompts(requests, width, tokenizer.pad_token_id))
    draws = torch.from_numpy(np.stack([request.uniforms for request in requests], axis=1)).to(device)
    tokens = torch.zeros((limit, len(requests)), dtype=torch.int64, device=device)
    logps = torch.zeros((limit, len(requests)), dtype=torch.float32, device=device)

    decoder = PolicyDecoder(policy, width + limit, spare)
    logits = decoder.prefill(ids, mask, prompts)
    rows = torch.arange(len(requests), device=device)  # request of each row of the batch
    running = torch.ones(len(requests), dtype=torch.bool, device=device)  # of each row of the batch
    drawn: list[tuple[Tensor, Tensor]] = []  # since rows last left the batch
    for step in range(limit):
        drawn.append(_draw(logits, draws[step], sampling))
        chosen = drawn[-1][0]
        running &= chosen != end
        alive = int(running.sum())
        stay = _stay(running, alive)
        last = not alive or step + 1 == limit
        if last or stay is not None:
            for whole, parts in zip((tokens, logps), zip(*drawn, strict=True), strict=True):
                whole[step + 1 - len(drawn) : step + 1, rows] = torch.stack(parts)
            drawn = []
        if last:
            break
        if stay is not None:
            decoder.keep(stay)
            rows, running, chosen, draws = rows[stay], running[stay], chosen[stay], draws[:, stay]
        logits = decoder.step(chosen)
    decoder.close()
    return _until_end(tokens, logps, end)[:wanted]


def _prompts(requests: Sequence[_Request], width: int, pad: int) -> tuple[Tensor, Tensor, Tensor]:
    """Each prompt once, and which of them each request has: ids and mask [prompt, width], prompts [request], int64."""
    numbers: dict[tuple[int, ...], int] = {}
    prompts = torch.tensor([numbers.setdefault(request.prompt, len(numbers)) for request in requests])
    distinct = filled(list(numbers))
    ids = torch.tensor([[pad] * (width - len(prompt)) + list(prompt) for prompt in distinct])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in distinct])
    return ids, mask, prompts


def _draw(logits: Tensor, u: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """A token of each row, int64, and its log-probability, float32."""
    logps = torch.log_softmax(logits / sampling.temperature, dim=-1)
    chosen = choose(logps, u, sampling.top_p)
    return chosen, logps.gather(-1, chosen.unsqueeze(-1)).squeeze(-1).float()


def _stay(running: Tensor, alive: int) -> Tensor | None:
    """The rows to go on with, [kept] int64, where it is time that others leave.

    Those behind move into the places of finished ones. What is kept is a multiple of `KEPT` rows, so that matrix
    products have few different sizes, for each of which a kernel is made.
    """
    size = -(-alive // KEPT) * KEPT
    if alive > COMPACT * len(running) or size >= len(running):
        return None
    stay = torch.arange(size, device=running.device)
    behind = running[size:].nonzero().squeeze(-1) + size
    stay[(~running[:size]).nonzero().squeeze(-1)[: len(behind)]] = behind
    return stay


def _until_end(tokens: Tensor, logps: Tensor, end: int) -> list[tuple[NDArray[np.int32], NDArray[np.float32]]]:
    """Tokens and log-probabilities [step, request] of each request, to its first end token or to the last step."""
    ended = tokens == end
    lengths = torch.where(ended.any(dim=0), ended.int().argmax(dim=0) + 1, len(tokens)).tolist()
    every_token, every_logp = tokens.T.to(torch.int32).cpu().numpy(), logps.T.cpu().numpy()
    return [(every_token[row, :size].copy(), every_logp[row, :size].copy()) for row, size in enumerate(lengths)]


def filled(rows: Sequence[T]) -> Sequence[T]:
    """The rows, the first of them repeated behind where they are fewer than `LEAST_ROWS`."""
    return [*rows, *[rows[0]] * (LEAST_ROWS - len(rows))]


def _without_end(tokens: NDArray[np.int32], end: int) -> NDArray[np.int32]:
    return tokens[:-1] if len(tokens) and tokens[-1] == end else tokens
