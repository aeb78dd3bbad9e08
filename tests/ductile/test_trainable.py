"""Learners whose trainable part is an adapter, or has a fast part: what is published, kept, merged and resumed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ductile.config import RunSettings
from ductile.contexts.context import with_prefixes
from ductile.learner import PolicyLearner, branch_learner, make_learner
from ductile.models.lora import is_adapter
from ductile.models.soft_prefix import is_prefix
from ductile.ports import OTHER_DOMAINS, BranchRequest, PolicyRef, Sampling
from ductile.problem import JudgedGroup, Problem, Verdict
from ductile.rl.batch import Batch
from ductile.sampling.worker import LocalPool
from ductile.settings import build
from ductile.variants import make_variant

LORA: dict[str, Any] = {"learner": {"lora": {"rank": 2}}}
FAST_LORA: dict[str, Any] = {"variant": {"name": "fast_lora", "fast_rank": 2, "fast_lr": 3e-2}}
FAST_PREFIX: dict[str, Any] = {"variant": {"name": "fast_prefix", "prefix_tokens": 3, "fast_lr": 3e-2}}
KINDS = {"lora": LORA, "fast_lora": FAST_LORA, "fast_prefix": FAST_PREFIX}
PHASE = {"domain": {"name": "chain_sum"}}
Make = Callable[..., PolicyLearner]


def settings_of(kind: Mapping[str, Any], **lora: Any) -> RunSettings:
    learner = {"engine": "torch", "lr": 1e-2, **kind.get("learner", {})}
    if lora:
        learner["lora"] = learner["lora"] | lora
    tree = {"variant": {"name": "parameter_only"}, "rollout": {"max_tokens": 6}, "phase": {"a": PHASE, "b": PHASE}}
    return build(RunSettings, tree | dict(kind) | {"learner": learner})


@pytest.fixture
def make(tiny_llama: Callable[[int], str]) -> Make:
    def learner(kind: Mapping[str, Any], **lora: Any) -> PolicyLearner:
        settings = settings_of(kind, **lora)
        return make_learner(settings, make_variant(settings.variant), Path(tiny_llama(0)), Path(tiny_llama(0)))

    return learner


def batch_of(learner: PolicyLearner, domain: str, stream: str) -> Batch:
    """Four problems of a domain as its phase asks them, answered by the learner's own policy."""
    pool = LocalPool("float32")
    problems = [Problem(prompt, domain, 1, prompt, "") for prompt in ("s1>1:", "s23>1:", "s4567>1:", "?")]
    policy = PolicyRef(learner.composition, pool.publish(learner.weights()), learner.version)
    asked = with_prefixes(problems, learner.prefixes())
    groups = pool.generate(policy, asked, Sampling(0, stream, 4, 6))
    judged = [JudgedGroup(g, tuple(Verdict(float(c.sample % 2), "direct") for c in g.completions)) for g in groups]
    return make_variant(learner._settings.variant).batch(judged, learner._settings)


def trained(learner: PolicyLearner, domain: str, updates: int = 1) -> PolicyLearner:
    learner.start_phase(domain)
    for number in range(updates):
        learner.update(batch_of(learner, domain, f"{domain}/{learner.version}/{number}"))
    return learner


def branch_of(learner: PolicyLearner, folder: Path, optimizer: str = "reset") -> PolicyLearner:
    request = BranchRequest(str(folder), "rl", optimizer, 0)
    return branch_learner(learner._settings, make_variant(learner._settings.variant), learner.composition, request)


def copied(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in weights.items()}


def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def untimed(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name != "learner/seconds"}


def moved(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> set[str]:
    return {name for name in a if not torch.equal(a[name], b[name])}


@pytest.mark.parametrize("kind", KINDS)
def test_learner_gives_sampled_tokens_the_probabilities_that_the_published_weights_gave(make: Make, kind: str) -> None:
    learner = make(KINDS[kind])
    for _ in range(2):
        trained(learner, "a")
        metrics = learner.update(batch_of(learner, "a", "again"))
        assert metrics["learner/behaviour_gap"] < 1e-5 and metrics["learner/update_norm"] > 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_learner_publishes_the_base(make: Make, kind: str) -> None:
    plain = make({}).weights()
    learner = make(KINDS[kind])
    assert {name for name in learner.weights() if not is_prefix(name)} == set(plain)
    assert all(torch.equal(learner.weights()[name], tensor) for name, tensor in plain.items())
    learner.start_phase("a")
    assert all(torch.equal(learner.weights()[name], tensor) for name, tensor in plain.items())


def test_lora_moves_linear_layers_alone_by_changes_of_its_rank(make: Make) -> None:
    learner = make(LORA)
    base = copied(learner.weights())
    trained(learner, "a", 2)
    changed = moved(learner.weights(), base)
    assert len(changed) == 7 and all("_proj.weight" in name for name in changed)
    for name in changed:
        assert torch.linalg.matrix_rank(learner.weights()[name] - base[name], atol=1e-4) <= 2


def test_lora_at_a_switch_is_carried_merged_or_reset(make: Make) -> None:
    learners = {name: trained(make(LORA, switch=name), "a", 2) for name in ("carry", "merge", "reset")}
    base, before = make(LORA).weights(), copied(learners["carry"].weights())
    for learner in learners.values():
        assert same(learner.weights(), before)
        learner.switch_adapters()
    assert same(learners["carry"].weights(), before) and same(learners["merge"].weights(), before)
    assert same(learners["reset"].weights(), base)
    zero = {name: [t for n, t in learner._state.items() if n.endswith("lora_B.default.weight")]
            for name, learner in learners.items()}  # fmt: skip
    assert all(not tensor.any() for name in ("merge", "reset") for tensor in zero[name])
    assert all(tensor.any() for tensor in zero["carry"])
    batch = batch_of(learners["carry"], "a", "next")
    for learner in (learners["carry"], learners["merge"]):
        learner.update(batch)
    # Merged, the change of both phases together may have twice the rank.
    name = "model.layers.0.mlp.up_proj.weight"
    ranks = {k: int(torch.linalg.matrix_rank(learners[k].weights()[name] - base[name], atol=1e-4)) for k in learners}
    assert ranks == {"carry": 2, "merge": 4, "reset": 0}


def test_the_adapter_after_a_merge_begins_with_a_fresh_optimizer(make: Make) -> None:
    learner = trained(make(LORA, switch="merge"), "a", 3)
    learner.switch_adapters()
    before = copied(learner._state)
    learner.update(batch_of(learner, "a", "next"))
    name = "model.layers.0.mlp.up_proj.lora_B.default.weight"
    # Adam's first step moves what has a gradient by the learning rate.
    assert (learner._state[name] - before[name]).abs().median() == pytest.approx(1e-2, rel=1e-3)


def test_weights_that_are_set_are_published_whatever_is_trained(make: Make) -> None:
    for kind in KINDS.values():
        learner = trained(make(kind), "a")
        asked = {name: 0.5 * tensor for name, tensor in learner.weights().items()}
        prefix = {name: tensor for name, tensor in learner.weights().items() if is_prefix(name)}
        learner.set_weights(asked)
        for name, tensor in {**asked, **prefix}.items():
            assert torch.allclose(learner.weights()[name], tensor, atol=1e-6), name


def test_both_channels_learn_each_at_its_own_rate(make: Make) -> None:
    for kind, fast in ((FAST_LORA, "lora_B"), (FAST_PREFIX, "prefix")):
        learner = make(kind)
        learner.start_phase("a")
        before = copied(learner._state)
        learner.update(batch_of(learner, "a", "s"))
        steps = {name: (learner._state[name] - before[name]).abs() for name in before}
        rate = {True: 3e-2, False: 1e-2}
        for name in (next(n for n in before if fast in n), "model.norm.weight"):
            values = steps[name][steps[name] > 0]
            assert values.median() == pytest.approx(rate[fast in name], rel=1e-2), name
        assert any("up_proj" in name and not is_adapter(name) and steps[name].any() for name in steps)


def test_each_domain_takes_its_own_adapter_up_again(make: Make) -> None:
    learner = trained(make(FAST_LORA), "a", 2)
    of_a = {name: tensor.clone() for name, tensor in learner._state.items() if is_adapter(name)}
    trained(learner, "b")
    of_b = {name: tensor.clone() for name, tensor in learner._state.items() if is_adapter(name)}
    assert learner.experts().keys() == {"b", "a", OTHER_DOMAINS} and len(moved(of_a, of_b)) == 14
    assert same(learner.experts()[OTHER_DOMAINS][1] or {}, learner.channels()["a"]["slow"])  # met by no adapter
    before, slow = copied(learner.weights()), learner.channels()["a"]["slow"]
    learner.start_phase("a")
    assert same({name: learner._state[name] for name in of_a}, of_a)
    assert same(learner.experts()["b"][1] or {}, before) and same(learner.channels()["a"]["slow"], slow)


def test_channels_are_the_slow_weights_alone_and_the_fast_part_on_the_base(make: Make) -> None:
    base, name = make({}).weights(), "model.layers.0.mlp.up_proj.weight"
    learner = trained(make(FAST_LORA), "a", 2)
    slow, fast = (learner.channels()["a"][which][name] - base[name] for which in ("slow", "fast"))
    assert torch.allclose(slow + fast, learner.weights()[name] - base[name], atol=1e-5)
    assert torch.linalg.matrix_rank(fast, atol=1e-4) == 2 and slow.any()
    learner = trained(make(FAST_PREFIX), "a", 2)
    fast_state = learner.channels()["a"]["fast"]
    assert same({n: t for n, t in fast_state.items() if not is_prefix(n)}, base)
    assert moved(fast_state, make(FAST_PREFIX).weights()) == {"model.embed_tokens.prefix"}
    assert make(LORA).channels() == {} and make({}).channels() == {}


def test_prefixes_are_those_of_the_domains_met_and_only_the_phases_own_learns(make: Make) -> None:
    learner, name = make(FAST_PREFIX), "model.embed_tokens.prefix"
    vocabulary = learner._policy.vocabulary
    assert learner.prefixes() == {} and learner.weights()[name].shape == (9, 16)  # of two phases and a branch
    first = learner.weights()[name].clone()
    trained(learner, "a", 2)
    second = learner.weights()[name].clone()
    assert learner.prefixes() == {"a": (vocabulary, vocabulary + 1, vocabulary + 2)}
    assert (second[:3] != first[:3]).all() and torch.equal(second[3:], first[3:])
    trained(learner, "b", 2)
    third = learner.weights()[name]
    assert learner.prefixes()["b"] == tuple(vocabulary + row for row in (3, 4, 5))
    assert torch.equal(third[:3], second[:3]) and torch.equal(third[6:], first[6:])  # no momentum of the last phase
    assert (third[3:6] != second[3:6]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_resumed_learner_goes_on_over_phases_as_if_it_never_stopped(make: Make, tmp_path: Path, kind: str) -> None:
    options = {"switch": "merge"} if kind == "lora" else {}
    run = trained(make(KINDS[kind], **options), "a")
    run.switch_adapters()
    trained(run, "b")
    run.capture()(tmp_path)
    resumed = make(KINDS[kind], **options)
    resumed.load(tmp_path)
    for domain in ("b", "a"):
        assert same(resumed.weights(), run.weights()) and same(resumed._state, run._state)
        assert resumed.prefixes() == run.prefixes() and resumed.experts().keys() == run.experts().keys()
        batch = batch_of(run, domain, domain)
        assert untimed(resumed.update(batch)) == untimed(run.update(batch))
        for learner in (run, resumed):
            learner.switch_adapters()
            learner.start_phase("a")
    assert same(resumed._state, run._state)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("optimizer", ["reset", "carried"])
def test_branch_begins_at_the_snapshot_and_meets_its_own_domain(
    make: Make, tmp_path: Path, kind: str, optimizer: str
) -> None:
    run = trained(trained(make(KINDS[kind]), "a"), "b")
    run.capture()(tmp_path)
    before = copied(run.weights())
    branch = branch_of(run, tmp_path, optimizer)
    assert same(branch.weights(), before) and same(branch._state, run._state)
    branch.start_phase("c")
    if kind == "fast_lora":
        assert same(branch.weights(), run.channels()["a"]["slow"])  # nothing fast is known of the new domain yet
    else:
        assert same(branch.weights(), before)
    batch = batch_of(branch, "c", "s")
    branch.update(batch)
    assert not same(branch.weights(), before) and same(run.weights(), before)


def test_branch_of_a_run_that_resets_its_adapters_can_begin_with_the_frozen_base(make: Make, tmp_path: Path) -> None:
    run = trained(make(LORA, switch="reset"), "a")
    run.capture()(tmp_path)
    branch = branch_of(run, tmp_path)
    branch.switch_adapters()
    assert same(branch.weights(), make(LORA).weights()) and not same(branch.weights(), run.weights())


def test_a_domain_that_goes_on_keeps_what_the_optimizer_knows(make: Make) -> None:
    for kind in (FAST_LORA, FAST_PREFIX):
        one, other = trained(make(kind), "a"), trained(make(kind), "a")
        one.start_phase("a")
        batch = batch_of(one, "a", "s")
        one.update(batch)
        other.update(batch)
        assert same(one._state, other._state)


def test_a_prefix_that_does_not_reach_another_domains_problems(make: Make) -> None:
    learner = trained(make(FAST_PREFIX), "a")
    problem = Problem("p", "b", 1, "s1>1:", "")
    assert with_prefixes([problem, replace(problem, domain="a")], learner.prefixes())[0] == problem
