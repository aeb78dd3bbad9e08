"""What is gathered from a policy: against plain forward passes, and against what sampling itself said."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from ductile import evidence
from ductile.difficulty.base import FEATURES, RATIOS
from ductile.difficulty.buffer import RolloutBuffer
from ductile.evidence import gather
from ductile.models.load import encode_problem, load_tokenizer
from ductile.ports import Composition, Member, PolicyRef, Sampling
from ductile.problem import Group, JudgedGroup, Problem, Verdict
from ductile.sampling.worker import LocalPool

TEMPERATURE = 0.8
PROBLEMS = [Problem(prompt, "none", 1, prompt, "") for prompt in ("s12>1:", "abc", "0", "s12>1: and a longer one")]
SAMPLING = Sampling(seed=0, stream="s", samples=3, max_tokens=6, temperature=TEMPERATURE)


def ref(folder: str, version: int = 0) -> PolicyRef:
    return PolicyRef(Composition((Member("policy", folder, 1.0),), "policy"), None, version)


def judged(groups: Sequence[Group]) -> list[JudgedGroup]:
    """Completions of an even number of tokens succeed."""
    return [
        JudgedGroup(group, tuple(Verdict(float(len(c.tokens) % 2 == 0), "direct") for c in group.completions))
        for group in groups
    ]


def filled(pool: LocalPool, policy: PolicyRef, limit: int = 8) -> tuple[RolloutBuffer, list[Group]]:
    buffer, groups = RolloutBuffer(limit), pool.generate(policy, PROBLEMS, SAMPLING)
    buffer.add(judged(groups))
    return buffer, groups


def plain_log_probability(folder: str, group: Group, tokens: np.ndarray) -> float:
    """Token by token in float64, each prefix passed by itself."""
    model, total = AutoModelForCausalLM.from_pretrained(folder).double(), 0.0
    for position, token in enumerate(tokens.tolist()):
        ids = torch.tensor([[*group.prompt_tokens.tolist(), *tokens[:position].tolist()]])
        with torch.no_grad():
            total += float(torch.log_softmax(model(input_ids=ids).logits[0, -1] / TEMPERATURE, dim=-1)[token])
    return total


def test_ratios_are_the_new_policys_likelihood_over_the_samplers(tiny_llama: Callable[[int], str]) -> None:
    pool, old, new = LocalPool("float32"), ref(tiny_llama(0)), ref(tiny_llama(1), 1)
    buffer, groups = filled(pool, old)
    gathered, _ = gather(pool, new, {RATIOS}, PROBLEMS, buffer, TEMPERATURE)
    expected = [
        plain_log_probability(tiny_llama(1), group, c.tokens) - plain_log_probability(tiny_llama(0), group, c.tokens)
        for group in groups
        for c in group.completions
    ]
    assert gathered.log_ratios == pytest.approx(expected, abs=1e-4)
    assert np.abs(expected).min() > 0.01
    assert list(gathered.ratio_ids) == [problem.id for problem in PROBLEMS for _ in range(3)]
    assert list(gathered.rewards) == [float(len(c.tokens) % 2 == 0) for group in groups for c in group.completions]
    assert gathered.features is None
    assert not gathered.feature_ids


def test_ratios_of_the_sampling_policy_itself_are_one(tiny_folder: str) -> None:
    pool = LocalPool("float32")
    buffer, _ = filled(pool, ref(tiny_folder))
    gathered, _ = gather(pool, ref(tiny_folder), {RATIOS}, PROBLEMS, buffer, TEMPERATURE)
    assert len(gathered.log_ratios) == 12
    assert gathered.log_ratios == pytest.approx([0.0] * 12, abs=1e-5)


def test_ratios_are_of_the_problems_that_are_asked_for_and_the_newest_completions(tiny_folder: str) -> None:
    pool = LocalPool("float32")
    buffer, groups = filled(pool, ref(tiny_folder), limit=2)
    gathered, cost = gather(pool, ref(tiny_folder), {RATIOS}, [PROBLEMS[2], PROBLEMS[0]], buffer, TEMPERATURE)
    assert list(gathered.ratio_ids) == ["0", "0", "s12>1:", "s12>1:"]
    kept = [groups[2], groups[0]]
    assert cost == sum(len(group.prompt_tokens) + len(c.tokens) for group in kept for c in group.completions[1:])


def test_features_are_the_final_norms_output_at_the_prompts_last_token(tiny_folder: str) -> None:
    gathered, cost = gather(
        LocalPool("float32"), ref(tiny_folder), {FEATURES, RATIOS}, PROBLEMS, RolloutBuffer(4), TEMPERATURE
    )
    tokenizer, model = load_tokenizer(tiny_folder), AutoModelForCausalLM.from_pretrained(tiny_folder)
    prompts = [encode_problem(tokenizer, problem) for problem in PROBLEMS]
    with torch.no_grad():
        expected = [model.model(input_ids=torch.tensor([ids])).last_hidden_state[0, -1].numpy() for ids in prompts]
    assert gathered.features is not None
    assert gathered.features.dtype == np.float32
    np.testing.assert_allclose(gathered.features, np.stack(expected), atol=1e-5)
    assert list(gathered.feature_ids) == [problem.id for problem in PROBLEMS]
    assert cost == sum(map(len, prompts))


def test_prompts_are_those_that_sampling_gives(tiny_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an instruction, a history and a hint; and a soft prefix that no member has is passed over."""
    pool, shown = LocalPool("float32"), []
    asked = [
        Problem("a", "none", 1, "12", "", instruction="do", history=(("1", "2"),), hint="3"),
        Problem("b", "none", 1, "12", "", prefix=(4096, 4097)),
    ]
    groups = pool.generate(ref(tiny_folder), asked, SAMPLING)

    def inspect(policy: PolicyRef, measure: Any) -> Any:
        states, tokens = LocalPool.inspect(pool, policy, measure)
        shown.append(tokens)
        return states, tokens

    monkeypatch.setattr(pool, "inspect", inspect)
    gathered, _ = gather(pool, ref(tiny_folder), {FEATURES}, asked, RolloutBuffer(4), TEMPERATURE)
    model = AutoModelForCausalLM.from_pretrained(tiny_folder)
    for group, state in zip(groups, gathered.features if gathered.features is not None else [], strict=True):
        with torch.no_grad():
            output = model.model(input_ids=torch.tensor(group.prompt_tokens[None].astype(np.int64)))
        np.testing.assert_allclose(state, output.last_hidden_state[0, -1].numpy(), atol=1e-5)
    assert shown == [sum(len(group.prompt_tokens) for group in groups)]


def test_large_requests_are_cut_and_say_the_same(tiny_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = LocalPool("float32")
    buffer, _ = filled(pool, ref(tiny_folder))
    whole, cost = gather(pool, ref(tiny_folder), {FEATURES, RATIOS}, PROBLEMS, buffer, TEMPERATURE)
    calls: list[str] = []
    for name in ("inspect", "score"):
        method = getattr(pool, name)
        monkeypatch.setattr(pool, name, lambda *args, m=method, n=name: (calls.append(n), m(*args))[1])
    monkeypatch.setattr(evidence, "PROMPTS", 3)
    monkeypatch.setattr(evidence, "COMPLETIONS", 4)
    parts, same = gather(pool, ref(tiny_folder), {FEATURES, RATIOS}, PROBLEMS, buffer, TEMPERATURE)
    assert calls == ["inspect", "inspect", "score", "score"]
    assert same == cost
    assert parts.features is not None
    assert whole.features is not None
    np.testing.assert_allclose(parts.features, whole.features, atol=1e-5)
    assert parts.log_ratios == pytest.approx(whole.log_ratios, abs=1e-5)
    assert parts.ratio_ids == whole.ratio_ids


def test_a_composed_policy_scores_as_a_whole_and_shows_its_trainable_members_states(
    tiny_llama: Callable[[int], str],
) -> None:
    folders = [tiny_llama(seed) for seed in (0, 1, 2)]
    members = tuple(
        Member(role, folder, coefficient)
        for role, folder, coefficient in zip(("base", "expert", "anti_expert"), folders, (1.0, 0.5, -0.5), strict=True)
    )
    pool, policy = LocalPool("float32"), PolicyRef(Composition(members, "expert"), None, 0)
    buffer, groups = filled(pool, policy)
    gathered, cost = gather(pool, policy, {FEATURES, RATIOS}, PROBLEMS, buffer, TEMPERATURE)
    assert gathered.log_ratios == pytest.approx([0.0] * 12, abs=1e-5)
    alone, _ = gather(pool, ref(folders[1]), {FEATURES}, PROBLEMS, buffer, TEMPERATURE)
    np.testing.assert_allclose(gathered.features, alone.features, atol=1e-5)
    prompts = sum(len(group.prompt_tokens) for group in groups)
    scored = sum(len(group.prompt_tokens) + len(c.tokens) for group in groups for c in group.completions)
    assert cost == prompts + 3 * scored


def test_nothing_is_passed_through_a_model_where_nothing_is_needed() -> None:
    reference = {"abc": (1, 4)}
    gathered, cost = gather(None, None, set(), PROBLEMS, RolloutBuffer(1), 1.0, reference)  # type: ignore[arg-type]
    assert cost == 0
    assert gathered.reference == reference
    assert gather(None, None, {FEATURES, RATIOS}, [], RolloutBuffer(1), 1.0)[1] == 0  # type: ignore[arg-type]
