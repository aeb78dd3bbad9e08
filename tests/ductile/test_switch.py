"""A phase switch in a run: what it changes, in which order, what it reports, and that a resumed run makes it alike."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from ductile.branch import branch_probe
from ductile.checks import check
from ductile.config import ModelSettings, RunSettings, SwitchSettings, VariantSettings
from ductile.engines.torch_engine import TorchEngine
from ductile.identity import identify
from ductile.learner import PolicyLearner, branch_learner, make_learner
from ductile.local import local_ports
from ductile.loop import run
from ductile.metrics import check_declared
from ductile.models.load import load_model
from ductile.plan import make_plan
from ductile.ports import BranchRequest
from ductile.settings import build
from ductile.step import Ports, StepPorts
from ductile.switch import switch
from ductile.variants import make_variant
from ductile.variants.parameter_only import ParameterOnly
from tests.ductile.test_resume import Interrupted, MemoryTracker

VALUES = {
    "variant": {"name": "parameter_only"},
    "phase": {
        "easy": {"domain": {"name": "chain_sum"}, "levels": [2], "steps": 2, "pool": 32},
        "hard": {"domain": {"name": "sort_digits"}, "levels": [3], "steps": 2, "pool": 32},
    },
    "learner": {"engine": "torch", "lr": 1e-2},
    "objective": {"entropy": 0.1},  # every step has a gradient, whatever an untrained model solves
    "rollout": {"groups": 3, "group_size": 2, "max_tokens": 6},
    "checkpoint": {"every": 1},
    "probe": {"probes": []},
}
EVERYTHING = {"optimizer": "reset", "fusion": 0.5, "shrink": 0.9, "perturb": 0.01, "utility_reset": 0.2, "problems": 3}


def settings(**chosen: Any) -> RunSettings:
    return build(RunSettings, {**VALUES, "switch": chosen})


def start(wanted: RunSettings, model: str, folder: Path, tracker: MemoryTracker) -> Ports:
    variant = make_variant(wanted.variant)
    learner = make_learner(wanted, variant, Path(model), Path(model))
    ports = local_ports(wanted, variant, learner, tracker, folder / "run", folder / "memory")
    run(wanted, variant, ports, identify(wanted, [Path(model)]))
    return ports


def trained(wanted: RunSettings, model: str, folder: Path) -> tuple[Ports, Any]:
    """Ports of a run that stands at the end of its first phase, and that phase."""
    variant = make_variant(wanted.variant)
    learner = make_learner(wanted, variant, Path(model), Path(model))
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        learner.set_weights(
            {n: t + 0.1 * torch.randn(t.shape, generator=generator) for n, t in learner.weights().items()}
        )
    ports = local_ports(wanted, variant, learner, MemoryTracker(), folder / "run", folder / "memory")
    return ports, make_plan(wanted, ports.resolve).phases[0]


def switched(wanted: RunSettings, model: str, folder: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, float]]:
    """Weights before and after, and metrics."""
    ports, ended = trained(wanted, model, folder)
    before = dict(ports.learner.weights())
    metrics = switch(wanted, make_variant(wanted.variant), ended, "switch/easy", ports)
    check_declared(metrics)
    return before, dict(ports.learner.weights()), metrics


def test_without_settings_nothing_happens(tiny_folder: str, tmp_path: Path) -> None:
    before, after, metrics = switched(settings(), tiny_folder, tmp_path)
    assert metrics == {} and all(torch.equal(before[name], after[name]) for name in before)


def test_fusion_goes_towards_the_folder_the_run_began_from(tiny_folder: str, tmp_path: Path) -> None:
    before, after, metrics = switched(settings(fusion=0.25), tiny_folder, tmp_path)
    base = load_model(tiny_folder, "float32").state_dict()
    for name in before:
        assert torch.allclose(after[name], 0.25 * before[name] + 0.75 * base[name], atol=1e-6), name
    names = [name for name, _ in load_model(tiny_folder, "float32").named_parameters()]
    squares = sum(float(((after[n] - before[n]).double() ** 2).sum()) for n in names)
    expected = (squares / sum(after[n].numel() for n in names)) ** 0.5
    assert metrics == {"switch/weight_change_rms": pytest.approx(expected)}


def test_interventions_follow_each_other_in_one_order(tiny_folder: str, tmp_path: Path) -> None:
    before, after, metrics = switched(settings(fusion=0.5, shrink=0.5, redo=0.7), tiny_folder, tmp_path)
    base = load_model(tiny_folder, "float32").state_dict()
    expected = {name: 0.5 * (0.5 * before[name] + 0.5 * base[name]) for name in before}
    down = "model.layers.0.mlp.down_proj.weight"
    reset = (after[down] == 0).all(dim=0)
    assert 0 < int(reset.sum()) == metrics["switch/reset_units"] < 32
    assert torch.allclose(after[down][:, ~reset], expected[down][:, ~reset], atol=1e-6)
    up = "model.layers.0.mlp.up_proj.weight"  # new rows are drawn at 0.05, unshrunk, whatever the others are
    assert torch.allclose(after[up][~reset], expected[up][~reset], atol=1e-6)
    assert float(after[up][reset].std()) == pytest.approx(0.05, rel=0.3)


def test_tied_weights_stay_tied_under_noise(tiny_folder: str, tmp_path: Path) -> None:
    before, after, _ = switched(settings(perturb=0.1), tiny_folder, tmp_path)
    assert torch.equal(after["model.embed_tokens.weight"], after["lm_head.weight"])
    noise = after["model.embed_tokens.weight"] - before["model.embed_tokens.weight"]
    assert float(noise.std()) == pytest.approx(0.1, rel=0.05)


def test_share_of_least_useful_units_begins_anew_in_weights_and_moments(tiny_folder: str, tmp_path: Path) -> None:
    wanted = settings(utility_reset=0.25, problems=5)
    ports, ended = trained(wanted, tiny_folder, tmp_path)
    learner = ports.learner
    assert isinstance(learner, PolicyLearner) and isinstance(learner._engine, TorchEngine)
    optimizer, module = learner._engine._optimizer, learner._engine.module
    for parameter in module.parameters():
        shape = torch.ones_like(parameter)
        optimizer.state[parameter] = {"step": torch.tensor(3.0), "exp_avg": shape, "exp_avg_sq": shape.clone()}
    metrics = switch(wanted, ParameterOnly(), ended, "s", ports)
    assert metrics["switch/reset_units"] == 8  # of 32
    reset = (learner.weights()["model.layers.0.mlp.down_proj.weight"] == 0).all(dim=0)
    for name, parameter in module.named_parameters():
        for moment in ("exp_avg", "exp_avg_sq"):
            held = optimizer.state[parameter][moment]
            if name.endswith("down_proj.weight"):
                assert torch.equal(held, (~reset).float().expand(held.shape)), name
            elif "mlp" in name:
                assert torch.equal(held, (~reset).float()[:, None].expand(held.shape)), name
            else:
                assert (held == 1).all(), name
        assert optimizer.state[parameter]["step"] == 3
    assert metrics["switch/completions"] == 5
    assert 5 <= metrics["switch/sampled_tokens"] <= 30 < metrics["switch/forward_tokens"]


def test_sampled_problems_are_the_ended_phases_and_the_streams_own(tiny_folder: str, tmp_path: Path) -> None:
    wanted, asked = settings(redo=0.1, problems=4), []

    class Watching:
        def __init__(self, pool: Any) -> None:
            self._pool = pool

        def __getattr__(self, name: str) -> Any:
            return getattr(self._pool, name)

        def generate(self, policy: Any, problems: Any, sampling: Any) -> Any:
            asked.append(([problem.id for problem in problems], sampling))
            return self._pool.generate(policy, problems, sampling)

    ports, ended = trained(wanted, tiny_folder, tmp_path)
    for stream in ("switch/a", "switch/a", "switch/b"):
        switch(wanted, ParameterOnly(), ended, stream, replace(ports, pool=Watching(ports.pool)))
    assert asked[0][0] == asked[1][0] != asked[2][0]
    assert all(len(ids) == 4 and set(ids) <= set(ended.pool) for ids, _ in asked)
    assert (asked[0][1].stream, asked[0][1].max_tokens) == ("switch/a", 6)


def test_variants_own_part_comes_first(tiny_folder: str, tmp_path: Path) -> None:
    wanted = settings(shrink=0.5)

    class Ones(ParameterOnly):
        def switch(self, settings: RunSettings, ended: Any, stream: str, ports: StepPorts) -> None:
            assert (ended.name, stream) == ("easy", "s")
            ports.learner.set_weights({n: torch.ones_like(t) for n, t in ports.learner.weights().items()})

    ports, ended = trained(wanted, tiny_folder, tmp_path)
    switch(wanted, Ones(), ended, "s", ports)
    assert all((tensor == 0.5).all() for tensor in ports.learner.weights().values())


# Calls of `tracker.metrics`: 0 boundary, 1-2 steps, 3 boundary, 4 switch, 5-6 steps, 7 boundary.
@pytest.mark.parametrize("stop_at", [3, 4, 5, 6])
def test_run_that_is_resumed_around_a_switch_is_the_uninterrupted_one(
    tiny_folder: str, tmp_path: Path, stop_at: int
) -> None:
    wanted, whole, first, second = settings(**EVERYTHING), MemoryTracker(), MemoryTracker(stop_at), MemoryTracker()
    expected = start(wanted, tiny_folder, tmp_path / "whole", whole)
    with pytest.raises(Interrupted):
        start(wanted, tiny_folder, tmp_path / "cut", first)
    resumed = start(wanted, tiny_folder, tmp_path / "cut", second)
    for name, tensor in expected.learner.weights().items():
        assert torch.equal(resumed.learner.weights()[name], tensor), name
    found = first.logged | second.logged
    for prefix in ("switch/", "budget/", "learner/update_norm"):
        kept = {key: value for key, value in whole.logged.items() if key[1].startswith(prefix)}
        assert kept and {key: found[key] for key in kept} == kept


def test_what_a_switch_samples_is_in_the_budget(tiny_folder: str, tmp_path: Path) -> None:
    tracker = MemoryTracker()
    start(settings(redo=0.0, problems=3), tiny_folder, tmp_path, tracker)
    logged = tracker.logged
    assert [step for step, name in logged if name == "switch/reset_units"] == [2]
    for name, own in (("completions", 6), ("sampled_tokens", logged[3, "rollout/tokens"])):
        before, after = logged[2, f"budget/{name}"], logged[3, f"budget/{name}"]
        assert after - before == own + logged[2, f"switch/{name}"]


def mistakes(switch: SwitchSettings, **changed: Any) -> list[str]:
    return check(replace(RunSettings(), switch=switch, **changed))


@pytest.mark.parametrize(
    ("chosen", "start_of_line"),
    [
        (SwitchSettings(fusion=1.0), "switch.fusion: 1.0: "),
        (SwitchSettings(shrink=1.0), "switch.shrink: 1.0: "),
        (SwitchSettings(redo=0.1, utility_reset=0.1), "switch.redo: 0.1: "),
    ],
)
def test_switch_that_would_do_nothing_or_everything_twice_is_refused(
    chosen: SwitchSettings, start_of_line: str
) -> None:
    (line,) = mistakes(chosen)
    assert line.startswith(start_of_line)


@pytest.mark.parametrize(
    "chosen", [SwitchSettings(shrink=0.5), SwitchSettings(perturb=0.1), SwitchSettings(shrink=1.0, perturb=0.1)]
)
def test_shrink_and_perturb_may_be_had_alone(chosen: SwitchSettings) -> None:
    assert mistakes(chosen) == []


def test_interventions_on_weights_are_refused_beside_adapters() -> None:
    learner = build(RunSettings, {"learner": {"lora": {"rank": 4}}}).learner
    (line,) = mistakes(SwitchSettings(fusion=0.5), learner=learner)
    assert line.startswith("switch.fusion: 0.5: ") and "learner.lora.switch" in line
    assert mistakes(SwitchSettings(optimizer="reset"), learner=learner) == []


def test_unit_resets_are_refused_for_a_model_without_gated_mlps(tiny_folder: str, tmp_path: Path) -> None:
    other = str(tmp_path)
    GPT2LMHeadModel(GPT2Config(vocab_size=9, n_positions=8, n_embd=8, n_layer=1, n_head=1)).save_pretrained(other)
    for chosen in (SwitchSettings(redo=0.1), SwitchSettings(utility_reset=0.1)):
        (line,) = mistakes(chosen, model=ModelSettings(path=other))
        assert line.startswith("switch.") and other in line and "model.path" in line
        assert mistakes(chosen, model=ModelSettings(path=tiny_folder)) == []
    proxy = VariantSettings(name="proxy", alpha=1.0)  # what is trained is the expert
    chosen = SwitchSettings(redo=0.1)
    assert mistakes(chosen, variant=proxy, model=ModelSettings(path=other, expert_path=tiny_folder)) == []
    (line,) = mistakes(chosen, variant=proxy, model=ModelSettings(path=tiny_folder, expert_path=other))
    assert "model.expert_path" in line
    assert mistakes(SwitchSettings(fusion=0.5), model=ModelSettings(path=other)) == []


def test_branch_after_a_phase_begins_with_the_switch(tiny_folder: str, tmp_path: Path) -> None:
    """Fused with the base alone and with a new optimizer, a branch of a trained snapshot is the base's own."""
    branch = {"domain": {"name": "base_conversion"}, "levels": [6], "steps": 2, "pool": 16, "problems": 4, "evals": 2}
    wanted = build(
        RunSettings, {**VALUES, "switch": {"fusion": 0.0, "optimizer": "reset"}, "probe": {"branch": branch}}
    )
    ports, _ = trained(wanted, tiny_folder, tmp_path)
    ports.learner.capture()(tmp_path / "snapshot")
    variant = make_variant(wanted.variant)

    def end_of(request: BranchRequest) -> dict[str, Any]:
        learner = branch_learner(wanted, variant, ports.learner.composition, request)
        branch_probe(request, wanted, variant, learner, ports.pool, ports.judge, ports.resolve)
        return dict(learner.weights())

    base = end_of(BranchRequest(None, "rl", "reset", 0))
    switched_first = end_of(BranchRequest(str(tmp_path / "snapshot"), "rl", "carried", 0, ended="easy"))
    as_it_was = end_of(BranchRequest(str(tmp_path / "snapshot"), "rl", "carried", 0))
    assert all(torch.equal(base[name], switched_first[name]) for name in base)
    assert not any(torch.allclose(base[name], as_it_was[name], atol=1e-2) for name in base)
