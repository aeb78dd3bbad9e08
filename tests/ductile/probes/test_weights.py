"""Distances of weights against NumPy in float64."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from ductile.config import ProbeSettings, SkillSettings
from ductile.inspection import LoadedPolicy
from ductile.metrics import check_declared
from ductile.ports import PolicyRef
from ductile.probes.base import ProbeResult
from ductile.probes.frozen import frozen_rows
from ductile.probes.weights import WeightsProbe
from tests.ductile.probes.fakes import BASE, COMPOSITION, POLICY, FakePool, context
from tests.ductile.probes.tiny import gpt2, llama, proxy, single

START = PolicyRef(COMPOSITION, "start", 3)
SETTINGS = ProbeSettings(prior={"sums": SkillSettings({"name": "s"}, (2,))}, problems=4, drift_problems=4)


def moved(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """A copy with a part of the first layer's weights changed, and the tied embedding a little."""
    other = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        other.model.layers[0].mlp.down_proj.weight[:3] += torch.randn((3, 12), generator=generator)
        other.model.embed_tokens.weight[2] += 0.01 * seed
    return other


BASE_MODEL = llama()
MODELS = {BASE.version: BASE_MODEL, START.version: moved(BASE_MODEL, 1), POLICY.version: moved(BASE_MODEL, 2)}


def measure(start: PolicyRef | None = START, settings: ProbeSettings = SETTINGS) -> ProbeResult:
    pool = FakePool(lambda problem, sample: "1 steps", loaded=lambda ref: single(MODELS[ref.version]))
    result = WeightsProbe().measure(replace(context(pool, settings), start=start))
    check_declared(result.metrics)
    return result


def flat(version: int) -> np.ndarray:
    return np.concatenate([p.detach().double().numpy().ravel() for p in MODELS[version].parameters()])


def test_size_and_drift_are_those_of_all_weights_tied_ones_once() -> None:
    now, base, start = (flat(ref.version) for ref in (POLICY, BASE, START))
    metrics = measure().metrics
    assert metrics["weights/mean_abs"] == pytest.approx(np.abs(now).mean())
    assert metrics["weights/rms"] == pytest.approx(np.sqrt((now**2).mean()))
    assert metrics["weights/drift_rms_base"] == pytest.approx(np.sqrt(((now - base) ** 2).mean()))
    assert metrics["weights/drift_rms_start"] == pytest.approx(np.sqrt(((now - start) ** 2).mean()))
    assert metrics["weights/drift_rms_start"] != pytest.approx(metrics["weights/drift_rms_base"], rel=0.01)
    assert metrics["weights/changed_share_base"] == (3 * 12 + 8) / len(now)


def test_farthest_movers_come_first() -> None:
    first, second, *others = measure().tables["weights"]
    assert first["name"] == "model.layers.0.mlp.down_proj.weight"
    assert second["name"] == "model.embed_tokens.weight"
    assert second["drift_rms_base"] == pytest.approx(np.sqrt(8 * 0.02**2 / 88), rel=1e-4)
    assert second["drift_rms_start"] == pytest.approx(np.sqrt(8 * 0.01**2 / 88), rel=1e-4)
    assert {row["drift_rms_base"] for row in others} == {0.0}


def test_before_any_phase_there_is_no_start() -> None:
    result = measure(start=None)
    assert not any(name.endswith("start") for name in result.metrics)
    assert {row["drift_rms_start"] for row in result.tables["weights"]} == {None}


def test_gradient_norm_is_that_of_the_policy_on_the_bases_completions() -> None:
    pool = FakePool(lambda problem, sample: "1 steps")
    rows = frozen_rows(context(pool, SETTINGS))
    model = copy.deepcopy(MODELS[POLICY.version]).double()
    ids = torch.zeros((1, 4), dtype=torch.int64)  # all rows alike: one 0, then three
    assert [(len(p), len(c)) for p, c in rows] == [(1, 3)] * 4
    torch.nn.functional.cross_entropy(model(input_ids=ids).logits[0, :3], ids[0, 1:]).backward()
    expected = sum(float((p.grad**2).sum()) for p in model.parameters()) ** 0.5
    assert measure().metrics["weights/gradient_norm"] == pytest.approx(expected, rel=1e-4)
    assert "weights/gradient_norm" not in measure(settings=ProbeSettings()).metrics


def test_weights_are_the_trainable_members() -> None:
    def loaded(ref: PolicyRef) -> LoadedPolicy:
        return proxy(gpt2(), MODELS[ref.version])  # type: ignore[arg-type]

    pool = FakePool(lambda problem, sample: "1 steps", loaded=loaded)
    result = WeightsProbe().measure(context(pool, SETTINGS))
    alone = measure(start=None).metrics
    assert result.metrics["weights/rms"] == alone["weights/rms"]
    assert result.metrics["weights/drift_rms_base"] == alone["weights/drift_rms_base"]
