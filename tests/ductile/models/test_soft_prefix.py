"""A soft prefix: read as embeddings of its own, learned, never sampled, and not there for who does not know it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from ductile.models.compose import ComposedPolicy, without_prefixes
from ductile.models.linear import OneDnnLinear
from ductile.models.load import load_model, load_tokenizer
from ductile.models.soft_prefix import slot_ids
from ductile.ports import Composition, Member, Sampling
from ductile.problem import Problem
from ductile.rl.batch import pad_rows
from ductile.sampling.sampler import sample

ROWS = 4


@pytest.fixture
def policy(tiny_llama: Callable[[int], str]) -> ComposedPolicy:
    made = ComposedPolicy.load(Composition((Member("policy", tiny_llama(0), 1.0, ROWS),), "policy"), "float32")
    with torch.no_grad():
        made.trainable.get_input_embeddings().prefix.normal_(generator=torch.Generator().manual_seed(1))
    return made


def whole(ids: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.int64)


def test_a_prefixed_prompt_gives_the_logits_of_its_embeddings(policy: ComposedPolicy) -> None:
    size = policy.vocabulary
    model, prompt = policy.trainable, [7, 30, 41]
    table = model.get_input_embeddings()
    embedded = torch.cat([table.prefix[[2, 3]], table.weight[prompt]]).unsqueeze(0)
    expected = model(inputs_embeds=embedded).logits
    found = policy(*whole([size + 2, size + 3, *prompt]))
    assert torch.allclose(found, expected, atol=1e-5)
    assert found.shape[-1] == size == model.config.vocab_size
    assert (found[:, 2:] - policy(*whole([*prompt]))).abs().max() > 0.1


def test_prompts_without_a_prefix_are_read_as_before(policy: ComposedPolicy, tiny_llama: Callable[[int], str]) -> None:
    plain = load_model(tiny_llama(0), "float32")
    with OneDnnLinear():
        expected = plain(torch.tensor([[7, 30, 41]])).logits
    assert torch.equal(policy(*whole([7, 30, 41])), expected)


def test_only_the_rows_that_were_read_get_a_gradient(policy: ComposedPolicy) -> None:
    size, table = policy.vocabulary, policy.trainable.get_input_embeddings()
    policy(*whole([size + 1, 7, 30])).square().sum().backward()
    assert table.prefix.grad[1].abs().sum() > 0
    assert table.prefix.grad[[0, 2, 3]].abs().sum() == 0
    assert policy.trainable.get_output_embeddings().weight is table.weight  # still tied


def test_a_prefix_is_never_sampled_and_its_sampled_likelihoods_are_those_of_the_forward_pass(
    policy: ComposedPolicy, tiny_llama: Callable[[int], str]
) -> None:
    size = policy.vocabulary
    bare = Problem("p", "none", 1, "s1>1:", "")
    prefixed = replace(bare, prefix=slot_ids(size, 1, 2))
    tokenizer, sampling = load_tokenizer(tiny_llama(0)), Sampling(0, "s", 8, 12)
    with_prefix, without = sample(policy, tokenizer, [prefixed, bare], sampling, 0)
    assert with_prefix.prompt_tokens.tolist() == [size + 2, size + 3, *without.prompt_tokens.tolist()]
    assert max(int(c.tokens.max()) for c in with_prefix.completions) < size
    padded = pad_rows([(with_prefix.prompt_tokens, c.tokens) for c in with_prefix.completions])
    with torch.no_grad():
        logps = torch.log_softmax(policy(padded.ids, padded.mask)[:, :-1], -1)
    found = logps[padded.completion].gather(-1, padded.ids[:, 1:][padded.completion][:, None])[:, 0].numpy()
    assert found == pytest.approx(np.concatenate([c.logps for c in with_prefix.completions]), abs=1e-4)


def test_a_policy_without_a_prefix_reads_and_answers_the_bare_prompt(
    policy: ComposedPolicy, tiny_llama: Callable[[int], str]
) -> None:
    size, plain = policy.vocabulary, ComposedPolicy.load(without_prefixes(policy.composition), "float32")
    with torch.no_grad():
        assert torch.allclose(plain(*whole([size, size + 3, 7, 30]))[:, 2:], plain(*whole([7, 30])), atol=1e-5)
    bare = Problem("p", "none", 1, "s1>1:", "")
    prefixed, tokenizer = replace(bare, prefix=(size, size + 1)), load_tokenizer(tiny_llama(0))
    one, other = (sample(plain, tokenizer, [p], Sampling(0, "s", 4, 6), 0)[0] for p in (bare, prefixed))
    assert one.prompt_tokens.tolist() == other.prompt_tokens.tolist()
    assert [c.tokens.tolist() for c in one.completions] == [c.tokens.tolist() for c in other.completions]


def test_rows_begin_as_tokens_that_depend_on_their_number_alone(tiny_llama: Callable[[int], str]) -> None:
    few, many = (load_model(tiny_llama(0), "float32", rows).get_input_embeddings() for rows in (2, 9))
    assert torch.equal(few.prefix, many.prefix[:2])
    for row in many.prefix:
        assert (many.weight == row).all(dim=-1).any()
    assert len(set(map(tuple, many.prefix.tolist()))) > 5
