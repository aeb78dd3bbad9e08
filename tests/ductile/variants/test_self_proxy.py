"""The dial between base and RL copy: its algebra, its gradient, and what it refuses; the proxies' alpha beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ductile.checks import check
from ductile.config import RunSettings, VariantSettings
from ductile.models.compose import ComposedPolicy
from ductile.models.load import load_model
from ductile.ports import Composition, Member
from ductile.settings import SettingsError, build
from ductile.variants import make_variant
from ductile.variants.base import scheduled_alpha

Folder = Callable[[int], str]
IDS = torch.tensor([[5, 9, 14, 3, 22, 7]])


def variant_of(**options: Any) -> Any:
    return make_variant(build(VariantSettings, options))


def composed(folder: Folder, **options: Any) -> ComposedPolicy:
    """Base 0 and a copy that has become model 1, or expert 1 beside it."""
    composition = variant_of(**options).composition(Path(folder(0)), Path(folder(0)))
    policy = ComposedPolicy.load(composition, "float32")
    policy.load_trainable(load_model(folder(1), "float32").state_dict())
    return policy


def logits(policy: ComposedPolicy) -> torch.Tensor:
    return policy(IDS, torch.ones_like(IDS))


def test_alpha_1_is_parameter_only_and_towards_0_it_is_the_base(tiny_llama: Folder) -> None:
    with torch.no_grad():
        direct, whole = (
            logits(composed(tiny_llama, **o)) for o in ({"name": "parameter_only"}, {"name": "self_proxy", "alpha": 1})
        )
        base = load_model(tiny_llama(0), "float32")(input_ids=IDS).logits
        nearly = logits(composed(tiny_llama, name="self_proxy", alpha=1e-6))
    assert torch.equal(direct, whole)
    assert (direct - base).abs().max() > 0.5
    assert torch.allclose(nearly, base, atol=1e-4)


def test_probabilities_are_the_geometric_mixture(tiny_llama: Folder) -> None:
    with torch.no_grad():
        found = torch.softmax(logits(composed(tiny_llama, name="self_proxy", alpha=0.3)).double(), -1)
        p, q = (torch.softmax(load_model(tiny_llama(s), "float32")(input_ids=IDS).logits.double(), -1) for s in (0, 1))
    mixed = p**0.7 * q**0.3
    assert torch.allclose(found, mixed / mixed.sum(-1, keepdim=True), atol=1e-6)


@pytest.mark.parametrize(("name", "learned"), [("self_proxy", "policy"), ("proxy", "expert")])
def test_gradient_goes_through_the_trained_member_alone(name: str, learned: str, tiny_llama: Folder) -> None:
    policy = composed(tiny_llama, name=name, alpha=0.5)
    torch.log_softmax(logits(policy), -1)[0, :, 3].sum().backward()
    for role, model in policy.members.items():
        gradients = [parameter.grad for parameter in model.parameters()]
        assert (
            all(g is None for g in gradients) if role != learned else any(g is not None and g.any() for g in gradients)
        )


def test_alpha_above_1_is_refused_and_a_proxy_may_have_it() -> None:
    with pytest.raises(SettingsError) as caught:
        variant_of(name="self_proxy", alpha=1.5, alpha_end=2.0)
    assert [line.split(":")[0] for line in caught.value.problems] == ["variant.alpha", "variant.alpha_end"]
    assert "would subtract the base" in caught.value.problems[0]
    assert variant_of(name="proxy", alpha=1.5).alpha == 1.5


def test_steps_of_a_distillation_without_one_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"variant\.distil_steps: 5 is set, but memory is sum"):
        variant_of(name="proxy", alpha=1, memory="sum", distil_steps=5)


def test_change_of_an_expert_that_begins_anew_is_refused() -> None:
    values = {"variant": {"name": "proxy", "alpha": 1, "memory": "sum"}, "switch": {"shrink": 0.5}}
    assert any(
        line.startswith("switch.shrink: 0.5 would change the untouched expert")
        for line in check(build(RunSettings, values))
    )
    values["variant"]["memory"] = "sequential"  # type: ignore[index]
    assert not any(line.startswith("switch.") for line in check(build(RunSettings, values)))


@pytest.mark.parametrize(
    ("done", "steps", "alpha"), [(0, 5, 0.2), (1, 5, 0.4), (4, 5, 1.0), (5, 5, 1.0), (0, 1, 0.2), (0, 0, 0.2)]
)
def test_alpha_reaches_its_end_at_the_last_step(done: int, steps: int, alpha: float) -> None:
    assert scheduled_alpha(variant_of(name="proxy", alpha=0.2, alpha_end=1.0), done, steps) == pytest.approx(alpha)
    assert scheduled_alpha(variant_of(name="proxy", alpha=0.2), done, steps) == 0.2


def test_coefficients_are_set_without_other_models(tiny_llama: Folder) -> None:
    variant = variant_of(name="self_proxy", alpha=0.5)
    policy = composed(tiny_llama, name="self_proxy", alpha=0.5)
    policy.set_coefficients(variant.at_alpha(policy.composition, 1.0))
    with torch.no_grad():
        assert torch.equal(logits(policy), logits(composed(tiny_llama, name="self_proxy", alpha=1)))
    with pytest.raises(ValueError, match="other models"):
        policy.set_coefficients(Composition((Member("policy", tiny_llama(2), 1.0),), "policy"))
