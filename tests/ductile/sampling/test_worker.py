"""What a worker keeps loaded saves time and decides nothing."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from transformers import AutoModelForCausalLM

from ductile.config import LearnerSettings
from ductile.engines.torch_engine import TorchEngine
from ductile.inspection import LoadedPolicy
from ductile.models.compose import ComposedPolicy
from ductile.models.load import load_tokenizer
from ductile.ports import Composition, Member, PolicyRef, Sampling
from ductile.problem import Problem
from ductile.sampling import worker
from ductile.sampling.worker import LocalPool

SAMPLING = Sampling(seed=0, stream="s", samples=2, max_tokens=6)
PROBLEMS = [Problem(prompt, "none", 1, prompt, "") for prompt in ("s12>1:", "abc")]


def composition_of(folder: str) -> Composition:
    return Composition((Member("policy", folder, 1.0),), "policy")


def answers(pool: LocalPool, ref: PolicyRef) -> list[list[int]]:
    return [c.tokens.tolist() for group in pool.generate(ref, PROBLEMS, SAMPLING) for c in group.completions]


@pytest.mark.parametrize("kept", [1, 4])
def test_policy_answers_alike_whatever_the_worker_answered_before(
    tiny_llama: Callable[[int], str], kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "KEPT_POLICIES", kept)
    composition, pool = composition_of(tiny_llama(0)), LocalPool("float32")
    states = [AutoModelForCausalLM.from_pretrained(tiny_llama(seed)).state_dict() for seed in (1, 2)]
    refs = [PolicyRef(composition, weights, 0) for weights in (None, *(pool.publish(state) for state in states))]
    refs.append(PolicyRef(composition_of(tiny_llama(3)), None, 0))
    fresh = [answers(LocalPool("float32"), ref) for ref in refs]
    assert len({str(each) for each in fresh}) == 4
    for number in (0, 1, 2, 3, 1, 0, 2, 1, 3, 0):
        assert answers(pool, refs[number]) == fresh[number]


def test_published_weights_answer_as_a_folder_that_holds_them(tiny_llama: Callable[[int], str]) -> None:
    pool = LocalPool("float32")
    published = pool.publish(AutoModelForCausalLM.from_pretrained(tiny_llama(1)).state_dict())
    from_folder = answers(pool, PolicyRef(composition_of(tiny_llama(1)), None, 0))
    assert answers(pool, PolicyRef(composition_of(tiny_llama(0)), published, 3)) == from_folder


def test_step_of_the_engine_does_not_reach_what_was_published_before(tiny_llama: Callable[[int], str]) -> None:
    pool, model = LocalPool("float32"), AutoModelForCausalLM.from_pretrained(tiny_llama(1))
    engine = TorchEngine(model, LearnerSettings(), lr=1.0)
    ref = PolicyRef(composition_of(tiny_llama(0)), pool.publish(engine.weights()), 0)
    before = answers(pool, ref)  # the worker now lies on the published weights
    engine.backward(model(torch.tensor([[1, 2, 3]])).logits.logsumexp(-1).sum(), last=True)
    engine.step()
    assert before == answers(pool, ref) == answers(pool, PolicyRef(composition_of(tiny_llama(1)), None, 0))
    assert before != answers(pool, PolicyRef(composition_of(tiny_llama(0)), pool.publish(engine.weights()), 1))


def test_policies_are_loaded_onto_the_gpu_that_the_worker_sees(
    tiny_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    places: list[str] = []

    def to(policy: ComposedPolicy, device: str) -> ComposedPolicy:
        places.append(device)
        return policy

    monkeypatch.setattr(ComposedPolicy, "to", to)
    for seen in (True, False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda seen=seen: seen)
        LocalPool("float32").generate(PolicyRef(composition_of(tiny_folder), None, 0), PROBLEMS, SAMPLING)
    assert places == ["cuda", "cpu"]


def test_completions_carry_the_policys_version(tiny_folder: str) -> None:
    groups = LocalPool("float32").generate(PolicyRef(composition_of(tiny_folder), None, 17), PROBLEMS, SAMPLING)
    assert {c.policy_version for group in groups for c in group.completions} == {17}
    assert groups[0].prompt_tokens.tolist() == load_tokenizer(tiny_folder)("s12>1:")["input_ids"]


@pytest.mark.parametrize("kept", [1, 4])
def test_two_trained_versions_of_one_composition_are_compared_as_two_folders_are(
    tiny_llama: Callable[[int], str], kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "KEPT_POLICIES", kept)
    pool, composition = LocalPool("float32"), composition_of(tiny_llama(0))
    now, start = (
        PolicyRef(composition, pool.publish(AutoModelForCausalLM.from_pretrained(tiny_llama(seed)).state_dict()), seed)
        for seed in (1, 2)
    )
    groups = pool.generate(now, PROBLEMS, SAMPLING)
    folders = [PolicyRef(composition_of(tiny_llama(seed)), None, 0) for seed in (1, 2)]
    expected = LocalPool("float32").divergence(folders[0], folders[1], groups, 1.0)
    assert expected.token_forward > 0.01
    for _ in range(2):
        assert pool.divergence(now, start, groups, 1.0) == expected
        assert pool.divergence(start, now, groups, 1.0).token_forward == pytest.approx(expected.token_reverse)


def weight_sum(loaded: LoadedPolicy, scale: float) -> float:
    return scale * sum(float(weight.double().sum()) for weight in loaded.weights().values())


def test_measure_is_given_the_policy_that_is_named(tiny_llama: Callable[[int], str]) -> None:
    pool, composition = LocalPool("float32"), composition_of(tiny_llama(0))
    models = [AutoModelForCausalLM.from_pretrained(tiny_llama(seed)) for seed in (0, 1)]
    trained = PolicyRef(composition, pool.publish(models[1].state_dict()), 1)
    sums = [sum(float(weight.detach().double().sum()) for weight in model.parameters()) for model in models]
    for _ in range(2):
        assert pool.inspect(PolicyRef(composition, None, 0), partial(weight_sum, scale=2.0)) == 2 * sums[0]
        assert pool.inspect(trained, partial(weight_sum, scale=2.0)) == 2 * sums[1]


def test_other_coefficients_load_nothing_and_answer_as_their_own(
    tiny_llama: Callable[[int], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def mixed(alpha: float) -> Composition:
        return Composition(
            (Member("base", tiny_llama(0), 1 - alpha), Member("policy", tiny_llama(0), alpha)), trainable="policy"
        )

    pool, loads = LocalPool("float32"), []
    weights = pool.publish(AutoModelForCausalLM.from_pretrained(tiny_llama(1)).state_dict())
    fresh = {a: answers(LocalPool("float32"), PolicyRef(mixed(a), weights, 0)) for a in (0.0, 0.5, 1.0)}
    assert len({str(each) for each in fresh.values()}) == 3
    load = ComposedPolicy.load
    monkeypatch.setattr(ComposedPolicy, "load", lambda *arguments: loads.append(1) or load(*arguments))
    for alpha in (0.5, 1.0, 0.0, 0.5):
        assert answers(pool, PolicyRef(mixed(alpha), weights, 0)) == fresh[alpha]
    assert len(loads) == 1
