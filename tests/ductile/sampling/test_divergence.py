"""The exact divergence against a brute-force sum over the vocabulary in float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from ductile.models.compose import ComposedPolicy
from ductile.ports import Composition, Member, PolicyRef, Sampling
from ductile.problem import Completion, Group, Problem
from ductile.sampling import divergence as module
from ductile.sampling.divergence import categorical_kl, divergence, score
from ductile.sampling.worker import LocalPool

TEMPERATURE = 0.7


def single(folder: str) -> ComposedPolicy:
    return ComposedPolicy.load(Composition((Member("policy", folder, 1.0),), "policy"), "float32")


def group_of(prompt: list[int], *completions: list[int]) -> Group:
    return Group(
        Problem(str(prompt), "none", 1, "", ""),
        np.array(prompt, np.int32),
        tuple(
            Completion(str(prompt), i, np.array(tokens, np.int32), np.zeros(len(tokens), np.float32), "", True, 0)
            for i, tokens in enumerate(completions)
        ),
    )


GROUPS = [group_of([5, 6, 7], [9, 8, 1], [1]), group_of([40], [3, 3, 3, 3, 3, 2]), group_of([7, 7, 9, 20, 30], [60, 1])]
LENGTHS = [3, 1, 6, 2]


def brute_force(p_folder: str, q_folder: str) -> tuple[list[float], list[float]]:
    """Of each completion, the sums over its tokens of KL(q || p) and of KL(p || q)."""
    models = [AutoModelForCausalLM.from_pretrained(folder).double() for folder in (p_folder, q_folder)]
    forward, reverse = [], []
    for group in GROUPS:
        for completion in group.completions:
            totals = [0.0, 0.0]
            for position in range(len(completion.tokens)):
                ids = [*group.prompt_tokens.tolist(), *completion.tokens[:position].tolist()]
                with torch.no_grad():
                    logits = [model(input_ids=torch.tensor([ids])).logits[0, -1] / TEMPERATURE for model in models]
                p, q = (torch.softmax(each, dim=-1).tolist() for each in logits)
                totals[0] += sum(b * math.log(b / a) for a, b in zip(p, q, strict=True))
                totals[1] += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
            forward.append(totals[0])
            reverse.append(totals[1])
    return forward, reverse


@pytest.mark.parametrize("rows", [1, 3, 64])
def test_divergence_is_the_sum_over_the_vocabulary_at_every_completion_token(
    tiny_llama: Callable[[int], str], rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROWS", rows)
    folders = tiny_llama(0), tiny_llama(1)
    forward, reverse = brute_force(*folders)
    assert abs(sum(forward) - sum(reverse)) > 0.1 * sum(forward)  # so that a swap would show
    measured = divergence(single(folders[0]), single(folders[1]), GROUPS, TEMPERATURE)
    assert measured.token_forward == pytest.approx(sum(forward) / sum(LENGTHS), rel=1e-5)
    assert measured.token_reverse == pytest.approx(sum(reverse) / sum(LENGTHS), rel=1e-5)
    assert measured.sequence_forward == pytest.approx(sum(forward) / 4, rel=1e-5)
    assert measured.sequence_reverse == pytest.approx(sum(reverse) / 4, rel=1e-5)
    assert (measured.tokens, measured.completions) == (12, 4)


def test_divergence_of_a_policy_from_itself_is_zero(tiny_folder: str) -> None:
    measured = divergence(single(tiny_folder), single(tiny_folder), GROUPS, TEMPERATURE)
    assert measured.token_forward == measured.token_reverse == 0.0
    assert measured.sequence_forward == measured.sequence_reverse == 0.0


def test_divergence_of_a_pool_is_that_of_the_policies_it_loads(tiny_llama: Callable[[int], str]) -> None:
    refs = [PolicyRef(Composition((Member("policy", tiny_llama(s), 1.0),), "policy"), None, 0) for s in (0, 1)]
    expected = divergence(single(tiny_llama(0)), single(tiny_llama(1)), GROUPS, TEMPERATURE)
    assert LocalPool("float32").divergence(refs[0], refs[1], GROUPS, TEMPERATURE) == expected


def test_divergence_of_no_completions_is_refused(tiny_folder: str) -> None:
    with pytest.raises(ValueError, match="no completions"):
        divergence(single(tiny_folder), single(tiny_folder), [group_of([5])], TEMPERATURE)


@pytest.mark.parametrize("rows", [1, 3, 64])
def test_score_is_the_log_probability_of_the_whole_completion(
    tiny_folder: str, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROWS", rows)
    policy = single(tiny_folder).double()
    expected = []
    for group in GROUPS:
        expected.append([0.0] * len(group.completions))
        for number, completion in enumerate(group.completions):
            for position, token in enumerate(completion.tokens.tolist()):
                ids = [*group.prompt_tokens.tolist(), *completion.tokens[:position].tolist()]
                with torch.no_grad():
                    logits = policy.trainable(input_ids=torch.tensor([ids])).logits[0, -1] / TEMPERATURE
                expected[-1][number] += torch.softmax(logits, dim=-1)[token].log().item()
    scored = score(policy, GROUPS, TEMPERATURE)
    assert [each.dtype for each in scored] == [np.float64] * 3
    for group, by_hand in zip(scored, expected, strict=True):
        assert group == pytest.approx(by_hand, abs=1e-6)


def test_pool_scores_its_own_samples_as_it_sampled_them(tiny_folder: str) -> None:
    pool, ref = LocalPool("float32"), PolicyRef(Composition((Member("policy", tiny_folder, 1.0),), "policy"), None, 0)
    problems = [Problem(prompt, "none", 1, prompt, "") for prompt in ("s12>1:", "abc")]
    sampling = Sampling(seed=0, stream="s", samples=4, max_tokens=8, temperature=TEMPERATURE, top_p=0.9)
    groups = pool.generate(ref, problems, sampling)
    sampled = [[completion.logps.astype(np.float64).sum() for completion in group.completions] for group in groups]
    for scored, group in zip(pool.score(ref, groups, TEMPERATURE), sampled, strict=True):
        assert scored == pytest.approx(group, abs=1e-5)
    assert pool.score(ref, [group_of([5])], TEMPERATURE)[0].shape == (0,)
    assert pool.score(ref, [], TEMPERATURE) == []


def test_kl_of_a_half_and_a_quarter_by_hand() -> None:
    p, q = torch.tensor([0.5, 0.25, 0.25]).double().log(), torch.tensor([0.25, 0.25, 0.5]).double().log()
    r = torch.tensor([0.8, 0.1, 0.1]).double().log()
    assert float(categorical_kl(p, q)) == pytest.approx(0.25 * math.log(2))  # 1/2 log 2 + 1/4 log 1/2
    assert float(categorical_kl(p, r)) == pytest.approx(0.5 * math.log(0.625) + 0.5 * math.log(2.5))  # 0.2231
    assert float(categorical_kl(r, p)) == pytest.approx(0.8 * math.log(1.6) + 0.2 * math.log(0.4))  # 0.1927


def test_token_that_p_never_gives_counts_nothing_and_one_that_q_never_gives_is_infinite() -> None:
    p, q = torch.tensor([0.0, 1.0]).double().log(), torch.tensor([0.5, 0.5]).double().log()
    assert float(categorical_kl(p, q)) == pytest.approx(math.log(2))
    assert float(categorical_kl(q, p)) == math.inf
