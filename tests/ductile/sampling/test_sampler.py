"""A completion belongs to (seed, stream, problem, sample) alone, and has the probability that its policy says."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import chisquare, kstest
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from ductile.models.compose import ComposedPolicy
from ductile.models.decoder import PolicyDecoder
from ductile.models.load import load_tokenizer
from ductile.models.tokenizer import character_tokenizer
from ductile.ports import Composition, Member, Sampling
from ductile.problem import Completion, Group, Problem
from ductile.sampling import sampler
from ductile.sampling.sampler import choose, sample, uniforms

SAMPLING = Sampling(seed=3, stream="train/0/1", samples=4, max_tokens=40, temperature=0.8)
PROMPTS = ("s34>1:", "t5:", "what is seven and eight?", "q" * 16, "a longer one than seventeen", "x", "s35>1:")
ALPHA = 1.7
SMALL = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "initializer_range": 0.4,
}


def problems_of(prompts: tuple[str, ...] = PROMPTS) -> list[Problem]:
    return [Problem(f"id of {prompt}", "none", 1, prompt, "") for prompt in prompts]


def single(folder: str) -> ComposedPolicy:
    return ComposedPolicy.load(Composition((Member("policy", folder, 1.0),), "policy"), "float32")


@pytest.fixture(scope="module")
def policy(tiny_folder: str) -> ComposedPolicy:
    """In float64: products of matrices of another height round another way, which in float32 would show at 1e-6."""
    return single(tiny_folder).double()


def draw(policy: ComposedPolicy, problems: list[Problem], sampling: Sampling = SAMPLING) -> list[Group]:
    return sample(policy, character_tokenizer(), problems, sampling, version=0)


@pytest.fixture(scope="module")
def together(policy: ComposedPolicy) -> dict[str, Group]:
    """All problems in one call, by id."""
    return {group.problem.id: group for group in draw(policy, problems_of())}


def assert_same(actual: Completion, expected: Completion, rounding: float = 1e-6) -> None:
    assert actual.tokens.tolist() == expected.tokens.tolist()
    assert actual.logps == pytest.approx(expected.logps, abs=rounding)
    assert (actual.problem_id, actual.sample) == (expected.problem_id, expected.sample)
    assert (actual.text, actual.finished) == (expected.text, expected.finished)


def assert_same_groups(groups: list[Group], expected: dict[str, Group]) -> None:
    for group in groups:
        assert len(group.completions) == len(expected[group.problem.id].completions)
        for one, other in zip(group.completions, expected[group.problem.id].completions, strict=True):
            assert_same(one, other)


def full_logps(folder: str, group: Group, completion: Completion) -> NDArray[np.float64]:
    """[completion, vocabulary] logits of a plain forward pass over the sequence alone, without padding or a cache."""
    model = AutoModelForCausalLM.from_pretrained(folder).double()
    ids = torch.tensor([[*group.prompt_tokens.tolist(), *completion.tokens.tolist()]])
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits[0, len(group.prompt_tokens) - 1 : -1]
    return logits.numpy()


def log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def test_completion_is_the_same_when_its_problem_is_asked_alone(
    policy: ComposedPolicy, together: dict[str, Group]
) -> None:
    for problem in problems_of():
        assert_same_groups(draw(policy, [problem]), together)


def test_completion_is_the_same_in_float32_but_for_rounding(tiny_folder: str, together: dict[str, Group]) -> None:
    policy = single(tiny_folder)
    for problem in problems_of():
        for one, other in zip(draw(policy, [problem])[0].completions, together[problem.id].completions, strict=True):
            assert_same(one, other, rounding=1e-5)


def test_completion_is_the_same_in_any_order_of_problems(policy: ComposedPolicy, together: dict[str, Group]) -> None:
    groups = draw(policy, problems_of()[::-1])
    assert [group.problem.prompt for group in groups] == list(PROMPTS[::-1])
    assert_same_groups(groups, together)


def test_completion_is_the_same_when_more_samples_are_asked(policy: ComposedPolicy, together: dict[str, Group]) -> None:
    for group in draw(policy, problems_of(), dataclasses.replace(SAMPLING, samples=7)):
        assert [completion.sample for completion in group.completions] == list(range(7))
        for one, other in zip(group.completions, together[group.problem.id].completions, strict=False):
            assert_same(one, other)


@pytest.mark.parametrize("length", [1, 6, 15, 16, 17, 33])
def test_completion_is_the_same_whatever_its_neighbours_prompt_length(
    policy: ComposedPolicy, together: dict[str, Group], length: int
) -> None:
    first = problems_of()[0]
    neighbours = problems_of(("z" * length, "y" * length))
    assert_same_groups([draw(policy, [neighbours[0], first, neighbours[1]])[1]], together)


@pytest.mark.parametrize("rows", [1, 3, 10])
def test_completion_is_the_same_however_many_rows_are_decoded_at_a_time(
    policy: ComposedPolicy, together: dict[str, Group], rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler, "ROWS", rows)
    assert_same_groups(draw(policy, problems_of()), together)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_completion_is_the_same_whenever_finished_rows_leave_the_batch(
    policy: ComposedPolicy, together: dict[str, Group], share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = {len(completion.tokens) for group in together.values() for completion in group.completions}
    assert len(ended) > 5  # rows do end at different steps
    monkeypatch.setattr(sampler, "COMPACT", share)
    assert_same_groups(draw(policy, problems_of()), together)


def test_logps_are_those_of_a_plain_forward_pass_at_the_temperature(
    tiny_folder: str, together: dict[str, Group]
) -> None:
    for group in together.values():
        for completion in group.completions:
            logps = log_softmax(full_logps(tiny_folder, group, completion) / SAMPLING.temperature)
            expected = logps[np.arange(len(completion.tokens)), completion.tokens]
            assert completion.logps == pytest.approx(expected, abs=2e-5)
            assert completion.logps.dtype == np.float32 and completion.tokens.dtype == np.int32


def test_positions_count_from_the_prompts_first_token_where_a_model_learned_each_position(tmp_path: Path) -> None:
    """A Llama knows only how far tokens are apart; a GPT-2 would see that its prompt begins after the padding."""
    config = GPT2Config(vocab_size=99, n_positions=96, n_embd=16, n_layer=1, n_head=2, initializer_range=0.5)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        GPT2LMHeadModel(config).save_pretrained(tmp_path)
    for group in draw(single(str(tmp_path)), problems_of()[:3]):
        for completion in group.completions:
            logps = log_softmax(full_logps(str(tmp_path), group, completion) / SAMPLING.temperature)
            expected = logps[np.arange(len(completion.tokens)), completion.tokens]
            assert completion.logps == pytest.approx(expected, abs=2e-5)


def test_logps_cover_the_whole_vocabulary_although_a_nucleus_is_sampled(
    tiny_folder: str, policy: ComposedPolicy
) -> None:
    sampling = dataclasses.replace(SAMPLING, top_p=0.3, samples=2)
    for group in draw(policy, problems_of()[:3], sampling):
        for completion in group.completions:
            logps = log_softmax(full_logps(tiny_folder, group, completion) / SAMPLING.temperature)
            expected = logps[np.arange(len(completion.tokens)), completion.tokens]
            assert completion.logps == pytest.approx(expected, abs=2e-5)
            better = np.where(logps > expected[:, None] + 1e-4, np.exp(logps), 0).sum(axis=-1)
            assert (better < 0.3).all()  # what is more likely than the token does not fill the nucleus


def test_completion_ends_with_its_first_end_token_or_is_cut_at_the_limit(together: dict[str, Group]) -> None:
    tokenizer = character_tokenizer()
    completions = [completion for group in together.values() for completion in group.completions]
    assert {completion.finished for completion in completions} == {True, False}
    for completion in completions:
        ends = np.flatnonzero(completion.tokens == tokenizer.eos_token_id)
        if completion.finished:
            assert ends.tolist() == [len(completion.tokens) - 1]
        else:
            assert len(ends) == 0 and len(completion.tokens) == SAMPLING.max_tokens
        assert len(completion.logps) == len(completion.tokens)
        shown = [t for t in completion.tokens.tolist() if t not in tokenizer.all_special_ids]
        assert completion.text == "".join(tokenizer.convert_ids_to_tokens(shown))


def test_shorter_limit_cuts_the_same_completions(policy: ComposedPolicy, together: dict[str, Group]) -> None:
    for group in draw(policy, problems_of(), dataclasses.replace(SAMPLING, max_tokens=9)):
        for one, other in zip(group.completions, together[group.problem.id].completions, strict=True):
            assert one.tokens.tolist() == other.tokens.tolist()[:9]
            assert one.finished == (other.finished and len(other.tokens) <= 9)


def test_end_token_as_the_last_allowed_token_counts_as_finished(
    policy: ComposedPolicy, together: dict[str, Group]
) -> None:
    group = next(group for group in together.values() if group.completions[0].finished)
    whole = group.completions[0]
    sampling = dataclasses.replace(SAMPLING, max_tokens=len(whole.tokens), samples=1)
    assert_same(draw(policy, [group.problem], sampling)[0].completions[0], whole)


def test_groups_carry_problem_prompt_tokens_and_policy_version(policy: ComposedPolicy) -> None:
    tokenizer = character_tokenizer()
    groups = sample(policy, tokenizer, problems_of(), dataclasses.replace(SAMPLING, max_tokens=2), version=11)
    for group, problem in zip(groups, problems_of(), strict=True):
        assert group.problem == problem
        assert tokenizer.convert_ids_to_tokens(group.prompt_tokens.tolist()) == list(problem.prompt)
        assert {completion.policy_version for completion in group.completions} == {11}


def test_composition_samples_from_base_plus_alpha_times_expert_minus_anti_expert(
    tiny_llama: Callable[[int], str],
) -> None:
    base, expert, anti = (tiny_llama(seed) for seed in (0, 1, 2))
    members = (Member("base", base, 1.0), Member("expert", expert, ALPHA), Member("anti_expert", anti, -ALPHA))
    composed = ComposedPolicy.load(Composition(members, "expert"), "float32")
    sampling = dataclasses.replace(SAMPLING, samples=3, max_tokens=12)
    for group in draw(composed, problems_of()[:4], sampling):
        for completion in group.completions:
            logits = [full_logps(folder, group, completion) for folder in (base, expert, anti)]
            logps = log_softmax((logits[0] + ALPHA * (logits[1] - logits[2])) / sampling.temperature)
            steps = np.arange(len(completion.tokens))
            assert completion.logps == pytest.approx(logps[steps, completion.tokens], abs=1e-4)
            cumulative = np.exp(logps).cumsum(axis=-1)
            u = uniforms(sampling, group.problem.id, completion.sample)[: len(steps)]
            assert (u < cumulative[steps, completion.tokens] + 1e-4).all()
            assert (u > cumulative[steps, completion.tokens] - np.exp(logps[steps, completion.tokens]) - 1e-4).all()


def test_prompt_is_the_users_turn_where_the_tokenizer_has_a_chat_template(policy: ComposedPolicy) -> None:
    tokenizer = character_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<model>{% endif %}"
    )
    short = dataclasses.replace(SAMPLING, samples=1, max_tokens=3)
    group = sample(policy, tokenizer, problems_of(("s34>1:",)), short, version=0)[0]
    plain = draw(policy, [Problem("id of s34>1:", "none", 1, "<user>s34>1:<model>", "")], short)[0]
    assert "".join(tokenizer.convert_ids_to_tokens(group.prompt_tokens.tolist())) == "<user>s34>1:<model>"
    assert_same(group.completions[0], plain.completions[0])


def test_uniforms_differ_by_seed_stream_problem_and_sample_and_by_nothing_else() -> None:
    first = uniforms(SAMPLING, "a", 0)
    others = [
        uniforms(dataclasses.replace(SAMPLING, seed=4), "a", 0),
        uniforms(dataclasses.replace(SAMPLING, stream="train/0/2"), "a", 0),
        uniforms(SAMPLING, "b", 0),
        uniforms(SAMPLING, "a", 1),
    ]
    for other in others:
        assert len(set(first) & set(other)) == 0
    same = dataclasses.replace(SAMPLING, samples=99, temperature=0.1, top_p=0.2)
    assert (uniforms(same, "a", 0) == first).all()
    longer = uniforms(dataclasses.replace(SAMPLING, max_tokens=100), "a", 0)
    assert (longer[: SAMPLING.max_tokens] == first).all() and longer.shape == (100,)


def test_uniforms_are_uniform_over_samples_of_a_problem_and_over_problems() -> None:
    by_sample = np.concatenate([uniforms(SAMPLING, "a", number) for number in range(100)])
    by_problem = np.array([uniforms(SAMPLING, f"problem {number}", 0)[0] for number in range(2000)])
    for values in (by_sample, by_problem):
        assert kstest(values, "uniform").pvalue > 1e-3


def slow_choice(logps: NDArray[np.float64], u: float, top_p: float) -> int:
    """Walk through the tokens: keep the most likely until they hold `top_p`, then invert their cumulative sum at u."""
    probabilities = np.exp(logps)
    nucleus, held = set(), 0.0
    for token in sorted(range(len(logps)), key=lambda t: (-probabilities[t], t)):
        if held >= top_p:
            break
        nucleus.add(token)
        held += probabilities[token]
    passed = 0.0
    for token in sorted(nucleus):
        passed += probabilities[token]
        if u * held < passed:
            return token
    return max(nucleus)


@pytest.mark.parametrize("block", [512, 3, 1])
@pytest.mark.parametrize("top_p", [1.0, 0.95, 0.5, 0.1, 1e-6])
def test_choice_is_that_of_a_slow_walk_through_the_tokens(
    top_p: float, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler, "BLOCK", block)
    random = np.random.default_rng(0)
    logps = log_softmax(random.normal(scale=2.0, size=(300, 11)))
    u = random.random(300)
    expected = [slow_choice(row, value, top_p) for row, value in zip(logps, u, strict=True)]
    assert len(set(expected)) > 1
    assert choose(torch.from_numpy(logps), torch.from_numpy(u), top_p).tolist() == expected


@given(
    logits=st.lists(st.one_of(st.floats(-30, 30), st.just(-np.inf)), min_size=1, max_size=8),
    u=st.one_of(st.floats(0, 1, exclude_max=True), st.sampled_from([0.0, 1 - 2.0**-53])),
    top_p=st.one_of(st.just(1.0), st.floats(1e-9, 1)),
    block=st.sampled_from([512, 3]),
)
def test_choice_is_never_outside_the_nucleus_and_never_impossible(
    logits: list[float], u: float, top_p: float, block: int
) -> None:
    if max(logits) == -np.inf:
        logits[0] = 0.0
    logps = torch.log_softmax(torch.tensor([logits], dtype=torch.float64), dim=-1)
    with patch.object(sampler, "BLOCK", block):
        chosen = int(choose(logps, torch.tensor([u], dtype=torch.float64), top_p))
    probabilities = logps[0].exp().numpy()
    assert probabilities[chosen] > 0
    assert probabilities[probabilities > probabilities[chosen]].sum() < top_p + 1e-12


@pytest.mark.parametrize("vocabulary", [9, 3000])
def test_what_is_no_number_is_left_for_the_update_to_tell_of(vocabulary: int) -> None:
    chosen = choose(torch.full((4, vocabulary), torch.nan), torch.rand(4, dtype=torch.float64), 1.0)
    assert int(chosen.min()) >= 0 and int(chosen.max()) < vocabulary


def test_rare_tokens_after_the_nucleus_are_not_drawn_by_the_largest_uniform() -> None:
    random = np.random.default_rng(1)
    likely = random.random((2000, 5))
    logps = np.log(
        np.concatenate([0.99 * likely / likely.sum(axis=1, keepdims=True), np.full((2000, 1), 0.01)], axis=1)
    )
    chosen = choose(torch.from_numpy(logps), torch.full((2000,), 1 - 2.0**-53, dtype=torch.float64), 0.9)
    assert (chosen < 5).all()


@pytest.mark.parametrize("top_p", [1.0, 0.8])
def test_frequencies_are_the_softmax(top_p: float) -> None:
    logits = np.array([0.5, -1.0, 2.0, 0.0, -3.0, 1.0])
    probabilities = np.exp(log_softmax(logits))
    if top_p < 1:  # 2.0, 1.0 and 0.5 are likeliest; the first two hold 0.76
        probabilities = np.where(np.isin(np.arange(6), [2, 5, 0]), probabilities, 0)
        probabilities /= probabilities.sum()
    u = np.concatenate([uniforms(SAMPLING, f"problem {i}", number) for i in range(40) for number in range(5)])
    logps = torch.from_numpy(np.tile(log_softmax(logits), (len(u), 1)))
    counts = np.bincount(choose(logps, torch.from_numpy(u), top_p).numpy(), minlength=6)
    assert counts[probabilities == 0].sum() == 0
    possible = probabilities > 0
    assert chisquare(counts[possible], probabilities[possible] * len(u)).pvalue > 1e-3


def test_first_tokens_of_many_samples_have_the_models_frequencies(policy: ComposedPolicy, tiny_folder: str) -> None:
    sampling = dataclasses.replace(SAMPLING, samples=1500, max_tokens=1)
    group = draw(policy, problems_of(("s34>1:",)), sampling)[0]
    probabilities = np.exp(log_softmax(full_logps(tiny_folder, group, group.completions[0]) / 0.8))[0]
    counts = np.bincount([int(c.tokens[0]) for c in group.completions], minlength=len(probabilities))
    common = probabilities * 1500 >= 5
    observed = [*counts[common], counts[~common].sum()]
    expected = [*probabilities[common], probabilities[~common].sum()]
    assert chisquare(observed, np.array(expected) * 1500).pvalue > 1e-3


def test_samplings_hand_on_their_memory_and_draw_the_same(policy: ComposedPolicy, together: dict[str, Group]) -> None:
    spare: list[torch.Tensor] = []
    for _ in range(3):
        assert_same_groups(sample(policy, character_tokenizer(), problems_of(), SAMPLING, 0, spare), together)
        [left] = spare
        with torch.inference_mode():
            left.fill_(torch.nan)


def test_first_two_tokens_of_many_samples_have_the_models_frequencies() -> None:
    """Of a vocabulary of seven, at a temperature: 49 pairs, by a plain forward pass over each."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig(vocab_size=7, **SMALL)).eval()
    policy, prompt, count = (
        ComposedPolicy(Composition((Member("policy", "", 1.0),), "policy"), [model]),
        [3, 1, 4],
        4000,
    )
    sampling = dataclasses.replace(SAMPLING, samples=count, max_tokens=2)
    u = torch.from_numpy(np.stack([uniforms(sampling, "a", number) for number in range(count)]))
    decoder = PolicyDecoder(policy, 5, [])
    with torch.inference_mode():
        ids = torch.tensor([prompt])
        logits = decoder.prefill(ids, torch.ones_like(ids), torch.zeros(count, dtype=torch.int64))
        first = choose(torch.log_softmax(logits / 3, dim=-1), u[:, 0], 1.0)
        second = choose(torch.log_softmax(decoder.step(first) / 3, dim=-1), u[:, 1], 1.0)
        pairs = torch.tensor([[*prompt, token] for token in range(7)])
        probabilities = torch.softmax(model(pairs).logits[:, -2:].double() / 3, dim=-1)
    expected = (probabilities[0, 0][:, None] * probabilities[:, 1]).flatten() * count
    assert expected.min() > 5 and expected.max() > 4 * expected.min()
    assert chisquare(np.bincount((7 * first + second).numpy(), minlength=49), expected.numpy()).pvalue > 1e-3


def test_prompt_of_no_tokens_is_refused_with_its_problem(policy: ComposedPolicy) -> None:
    with pytest.raises(ValueError, match="id of : its prompt has no tokens"):
        draw(policy, problems_of(("x", "")))


def test_tokenizer_of_the_folder_gives_the_same_prompt_tokens(tiny_folder: str, policy: ComposedPolicy) -> None:
    short = dataclasses.replace(SAMPLING, samples=1, max_tokens=2)
    from_disk = sample(policy, load_tokenizer(tiny_folder), problems_of(), short, version=0)
    for one, other in zip(from_disk, draw(policy, problems_of(), short), strict=True):
        assert one.prompt_tokens.tolist() == other.prompt_tokens.tolist()
        assert_same(one.completions[0], other.completions[0])
