"""Logits that are added, and gradients that reach one member alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from ductile.models.compose import ComposedPolicy, position_ids
from ductile.ports import Composition, Member

ALPHA = 0.6
IDS = torch.tensor([[5, 6, 7, 8, 9], [10, 11, 12, 0, 0], [20, 21, 22, 23, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0]])


def proxy(base: str, expert: str, anti_expert: str, alpha: float = ALPHA) -> ComposedPolicy:
    members = (
        Member("base", base, 1.0),
        Member("expert", expert, alpha),
        Member("anti_expert", anti_expert, -alpha),
    )
    return ComposedPolicy.load(Composition(members, "expert"), "float32")


def single(folder: str) -> ComposedPolicy:
    return ComposedPolicy.load(Composition((Member("policy", folder, 1.0),), "policy"), "float32")


def alone(folder: str, row: int) -> Tensor:
    """Logits of a model for a row without its padding, [position, vocabulary]."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        return model(input_ids=IDS[row : row + 1, : int(MASK[row].sum())]).logits[0]


def chosen_logp(logits: Tensor) -> Tensor:
    """Sum over the real next tokens of their log-probability."""
    logps = torch.log_softmax(logits[:, :-1], dim=-1).gather(-1, IDS[:, 1:, None]).squeeze(-1)
    return (logps * MASK[:, 1:]).sum()


def test_expert_equal_to_the_anti_expert_leaves_the_base(tiny_llama: Callable[[int], str]) -> None:
    logits = proxy(tiny_llama(0), tiny_llama(1), tiny_llama(1), alpha=3.0)(IDS, MASK)
    for row in range(3):
        assert torch.allclose(logits[row, : int(MASK[row].sum())], alone(tiny_llama(0), row), rtol=0, atol=1e-5)


def test_logits_are_base_plus_alpha_times_expert_minus_anti_expert(tiny_llama: Callable[[int], str]) -> None:
    base, expert, anti_expert = (tiny_llama(seed) for seed in (0, 1, 2))
    logits = proxy(base, expert, anti_expert)(IDS, MASK)
    assert logits.dtype == torch.float32
    for row in range(3):
        by_hand = alone(base, row) + ALPHA * (alone(expert, row) - alone(anti_expert, row))
        assert torch.allclose(logits[row, : len(by_hand)], by_hand, rtol=0, atol=1e-5)


def test_gradient_reaches_the_expert_alone_and_is_that_of_the_formula(tiny_llama: Callable[[int], str]) -> None:
    folders = [tiny_llama(seed) for seed in (0, 1, 2)]
    policy = proxy(folders[0], folders[1], folders[2])
    chosen_logp(policy(IDS, MASK)).backward()
    assert all(parameter.grad is None for parameter in policy.members["base"].parameters())
    assert all(parameter.grad is None for parameter in policy.members["anti_expert"].parameters())

    base, expert, anti_expert = (AutoModelForCausalLM.from_pretrained(folder) for folder in folders)
    with torch.no_grad():
        fixed = [model(input_ids=IDS, attention_mask=MASK).logits for model in (base, anti_expert)]
    learned = expert(input_ids=IDS, attention_mask=MASK).logits
    chosen_logp(fixed[0] + ALPHA * (learned - fixed[1])).backward()
    expected = {name: parameter.grad for name, parameter in expert.named_parameters()}
    actual = {name: parameter.grad for name, parameter in policy.trainable.named_parameters()}
    assert actual.keys() == expected.keys()
    for name, gradient in expected.items():
        reached = actual[name]
        assert gradient is not None and reached is not None and gradient.abs().sum() > 0
        assert torch.allclose(reached, gradient, rtol=1e-4, atol=1e-6), name


def test_no_gradient_is_kept_where_none_is_wanted(tiny_folder: str) -> None:
    with torch.no_grad():
        assert not single(tiny_folder)(IDS, MASK).requires_grad


def test_module_given_for_the_trainable_member_is_called_in_its_place(tiny_llama: Callable[[int], str]) -> None:
    other = AutoModelForCausalLM.from_pretrained(tiny_llama(1))
    logits = single(tiny_llama(0))(IDS, MASK, trained=other)
    for row in range(3):
        assert torch.allclose(logits[row, : int(MASK[row].sum())], alone(tiny_llama(1), row), rtol=0, atol=1e-5)


def test_logits_beyond_the_smallest_vocabulary_are_cut_off(tiny_llama: Callable[[int], str]) -> None:
    models = [AutoModelForCausalLM.from_pretrained(tiny_llama(seed)) for seed in (0, 1)]
    size = models[0].config.vocab_size
    models[1].resize_token_embeddings(size + 29, mean_resizing=False)
    composition = Composition((Member("big", "", 1.0), Member("small", "", 0.5)), "small")
    policy = ComposedPolicy(composition, models[::-1])
    assert policy.vocabulary == size
    assert policy(IDS, MASK).shape == (3, 5, size)


def test_loaded_state_is_the_trainable_members_alone(tiny_llama: Callable[[int], str]) -> None:
    policy = proxy(tiny_llama(0), tiny_llama(1), tiny_llama(1))
    policy.load_trainable(AutoModelForCausalLM.from_pretrained(tiny_llama(2)).state_dict())
    expected = proxy(tiny_llama(0), tiny_llama(2), tiny_llama(1))
    assert torch.equal(policy(IDS, MASK), expected(IDS, MASK))


def test_positions_count_from_the_first_real_token() -> None:
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [0, 0, 0, 0, 1]])
    assert position_ids(mask).tolist() == [[0, 0, 0, 1, 2], [0, 1, 2, 3, 4], [0, 0, 0, 0, 0]]
