"""Each intervention on weights by hand: averages, noise, and units of gated MLPs that begin anew."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ductile.inspection import LoadedPolicy
from ductile.interventions.activity import Activity, unit_activity
from ductile.interventions.fusion import fuse
from ductile.interventions.gated import begin_anew, gated_layers
from ductile.interventions.noise import gaussian
from ductile.interventions.redo import dormant
from ductile.interventions.shrink_perturb import shrink_and_perturb
from ductile.interventions.utility import least_useful, utility
from ductile.models.compose import ComposedPolicy
from ductile.models.load import load_model, parameter_names
from ductile.ports import Composition, Member

LAYER = "mlp.down_proj"


def mlp(units: int = 4, width: int = 2, bias: bool = False) -> dict[str, Tensor]:
    """Ones and twos, so that what is new can be told from what was."""
    weights = {
        "mlp.gate_proj.weight": torch.ones(units, width),
        "mlp.up_proj.weight": 2 * torch.ones(units, width),
        "mlp.down_proj.weight": torch.arange(width * units, dtype=torch.float32).reshape(width, units) + 1,
        "norm.weight": torch.ones(width),
    }
    if bias:
        weights["mlp.gate_proj.bias"] = 3 * torch.ones(units)
        weights["mlp.down_proj.bias"] = 5 * torch.ones(width)
    return weights


def active(*sizes: float) -> dict[str, Activity]:
    return {LAYER: Activity(np.array(sizes), np.array(sizes))}


def chosen(*units: bool) -> dict[str, Tensor]:
    return {LAYER: torch.tensor(units)}


def test_fusion_is_the_weighted_average_of_every_tensor() -> None:
    trained, base = {"a": torch.tensor([1.0, -2.0]), "n": torch.tensor(7)}, {"a": torch.tensor([3.0, 2.0])}
    fused = fuse(trained, base, 0.25)
    assert fused["a"].tolist() == [2.5, 1.0] and fused["n"].item() == 7
    assert trained["a"].tolist() == [1.0, -2.0]


@pytest.mark.parametrize(("share", "expected"), [(0.0, 3.0), (1.0, 1.0)])
def test_fusion_reaches_the_base_and_the_trained_weights(share: float, expected: float) -> None:
    assert fuse({"a": torch.tensor([1.0])}, {"a": torch.tensor([3.0])}, share)["a"].item() == expected


def test_fusion_of_bfloat16_averages_in_float32_and_stays_bfloat16() -> None:
    fused = fuse({"a": torch.tensor([1.0]).bfloat16()}, {"a": torch.tensor([3.0]).bfloat16()}, 0.5)["a"]
    assert fused.dtype == torch.bfloat16 and fused.item() == 2.0


def test_shrink_without_noise_is_the_factor() -> None:
    assert shrink_and_perturb({"a": torch.tensor([4.0, -2.0])}, 0.25, 0.0, 0, "s")["a"].tolist() == [1.0, -0.5]


def test_noise_has_the_deviation_and_no_mean() -> None:
    noise = shrink_and_perturb({"a": torch.full((200, 200), 2.0)}, 0.5, 0.1, 0, "s")["a"] - 1
    assert float(noise.std()) == pytest.approx(0.1, rel=0.02) and abs(float(noise.mean())) < 0.002


@pytest.mark.parametrize("other", [(1, "s", "a"), (0, "t", "a"), (0, "s", "b")])
def test_noise_belongs_to_seed_stream_and_name(other: tuple[int, str, str]) -> None:
    like = torch.zeros(5)
    assert torch.equal(gaussian(like, 1.0, 0, "s", "a"), gaussian(like, 1.0, 0, "s", "a"))
    assert not torch.equal(gaussian(like, 1.0, 0, "s", "a"), gaussian(like, 1.0, *other))


def test_noise_leaves_the_random_state_alone() -> None:
    before = torch.random.get_rng_state()
    gaussian(torch.zeros(5), 1.0, 0, "s", "a")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_dormant_units_are_those_up_to_tau_of_the_layers_mean() -> None:
    found = dormant(active(0.0, 0.1, 0.11, 3.79), tau=0.1)  # the mean is 1
    assert found[LAYER].tolist() == [True, True, False, False]


def test_tau_of_zero_finds_units_that_never_act_alone() -> None:
    assert dormant(active(0.0, 1e-9, 1.0), tau=0.0)[LAYER].tolist() == [True, False, False]


def test_utility_is_activity_times_mean_outgoing_weight() -> None:
    outgoing = torch.tensor([[1.0, -4.0], [-3.0, 0.0]])  # mean sizes 2 and 2
    assert utility(active(0.5, 3.0)[LAYER], outgoing).tolist() == [1.0, 6.0]


def test_units_of_least_utility_are_chosen() -> None:
    weights = {f"{LAYER}.weight": torch.tensor([[8.0, 1.0, 1.0, 1.0]])}
    # utilities 0.8, 0.5, 0.7, 0.9: by activity alone the first would go
    assert least_useful(active(0.1, 0.5, 0.7, 0.9), weights, 0.5)[LAYER].tolist() == [False, True, True, False]


def test_a_share_below_one_unit_is_one_unit() -> None:
    weights = {f"{LAYER}.weight": torch.ones(1, 4)}
    assert least_useful(active(3.0, 1.0, 1.0, 2.0), weights, 0.01)[LAYER].tolist() == [False, True, False, False]


def test_unit_that_begins_anew_has_new_incoming_and_no_outgoing_weights() -> None:
    weights = mlp()
    changed, masks = begin_anew(weights, chosen(False, True, False, False), 0.5, 0, "s")
    for name, old in (("mlp.gate_proj.weight", 1.0), ("mlp.up_proj.weight", 2.0)):
        assert (changed[name][[0, 2, 3]] == old).all() and (changed[name][1] != old).all()
        assert masks[name].tolist() == [[False, False], [True, True], [False, False], [False, False]]
    assert changed["mlp.down_proj.weight"].tolist() == [[1.0, 0.0, 3.0, 4.0], [5.0, 0.0, 7.0, 8.0]]
    assert masks["mlp.down_proj.weight"].tolist() == [[False, True, False, False]] * 2
    assert masks.keys() == {"mlp.gate_proj.weight", "mlp.up_proj.weight", "mlp.down_proj.weight"}
    assert torch.equal(weights["mlp.gate_proj.weight"], torch.ones(4, 2))


def test_new_incoming_weights_have_the_initialisers_deviation() -> None:
    changed, _ = begin_anew(mlp(100, 100), chosen(*[True] * 100), 0.05, 0, "s")
    gate, up = changed["mlp.gate_proj.weight"], changed["mlp.up_proj.weight"]
    assert float(gate.std()) == pytest.approx(0.05, rel=0.03) and float(up.std()) == pytest.approx(0.05, rel=0.03)
    assert not torch.equal(gate, up)


def test_biases_of_new_units_are_zero_and_the_output_bias_takes_over_their_mean() -> None:
    changed, masks = begin_anew(
        mlp(bias=True), chosen(True, False, False, True), 0.5, 0, "s", {LAYER: torch.tensor([2.0, 9.0, 9.0, 0.5])}
    )
    assert changed["mlp.gate_proj.bias"].tolist() == [0.0, 3.0, 3.0, 0.0]
    # 5 + 1 * 2 + 4 * 0.5 and 5 + 5 * 2 + 8 * 0.5
    assert changed["mlp.down_proj.bias"].tolist() == [9.0, 19.0]
    assert "mlp.down_proj.bias" not in masks


def test_nothing_chosen_changes_nothing() -> None:
    weights = mlp()
    changed, masks = begin_anew(weights, chosen(False, False, False, False), 0.5, 0, "s")
    assert not masks and all(torch.equal(changed[name], weights[name]) for name in weights)


def test_layers_without_gate_are_not_taken_for_gated_ones() -> None:
    names = ["a.gate_proj.weight", "a.up_proj.weight", "a.down_proj.weight", "b.up_proj.weight", "b.down_proj.weight"]
    assert gated_layers(names) == ["a.down_proj"]
    assert gated_layers(["h.0.mlp.c_fc.weight", "h.0.mlp.c_proj.weight"]) == []


def test_parameter_names_are_those_of_the_loaded_model(tiny_folder: str) -> None:
    assert list(parameter_names(tiny_folder)) == [n for n, _ in load_model(tiny_folder, "float32").named_parameters()]


ROWS = [(np.array([5, 6], np.int32), np.array([7, 8, 9], np.int32)), (np.array([9], np.int32), np.array([4], np.int32))]


def test_activity_is_that_of_the_completion_positions(tiny_folder: str) -> None:
    policy = ComposedPolicy.load(Composition((Member("policy", tiny_folder, 1.0),), "policy"), "float32")
    found = unit_activity(LoadedPolicy(policy), ROWS)
    parts: list[Tensor] = []
    module = policy.trainable.get_submodule("model.layers.0.mlp.down_proj")
    handle = module.register_forward_pre_hook(lambda _, arguments: parts.append(arguments[0][0].detach()))
    with torch.no_grad():
        for prompt, completion in ROWS:
            policy.trainable(input_ids=torch.tensor([[*prompt.tolist(), *completion.tolist()]]))
            parts[-1] = parts[-1][len(prompt) - 1 : -1].double()
    handle.remove()
    h = torch.cat(parts)
    assert h.shape == (4, 32) and found.keys() == {"model.layers.0.mlp.down_proj"}
    of = found["model.layers.0.mlp.down_proj"]
    assert of.size == pytest.approx(h.abs().mean(dim=0).numpy(), rel=1e-5)
    assert of.mean == pytest.approx(h.mean(dim=0).numpy(), rel=1e-4, abs=1e-7)


def test_dead_unit_is_found_and_acts_again(tiny_folder: str, tmp_path: Path) -> None:
    policy = ComposedPolicy.load(Composition((Member("policy", tiny_folder, 1.0),), "policy"), "float32")
    layer, state = "model.layers.0.mlp", policy.trainable.state_dict()
    state[f"{layer}.up_proj.weight"][3] = 0.0  # in place: unit 3 is dead
    units = dormant(unit_activity(LoadedPolicy(policy), ROWS), tau=0.0)
    assert units[f"{layer}.down_proj"].nonzero().flatten().tolist() == [3]
    changed, _ = begin_anew(state, units, 0.05, 0, "s")
    policy.load_trainable(changed)
    after = unit_activity(LoadedPolicy(policy), ROWS)[f"{layer}.down_proj"].size
    assert after[3] > 0
    assert changed[f"{layer}.down_proj.weight"][:, 3].tolist() == [0.0] * 16
