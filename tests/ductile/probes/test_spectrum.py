"""Ranks of matrices whose singular values are known, and features that are too few to have one."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.stats import entropy, ortho_group
from torch import Tensor
from transformers import PreTrainedModel

from ductile.config import ProbeSettings, SkillSettings
from ductile.metrics import check_declared
from ductile.probes.spectrum import (
    SpectrumProbe,
    approximate_rank_99,
    effective_rank,
    feature_spectrum,
    srank_99,
    stable_rank,
)
from tests.ductile.probes.fakes import FakePool, context
from tests.ductile.probes.tiny import gpt2, llama, proxy, single

SETTINGS = ProbeSettings(prior={"sums": SkillSettings({"name": "s"}, (2,))}, problems=4, drift_problems=4)


def matrix(singular: list[float], rows: int = 7) -> Tensor:
    """A rotated [rows, width] matrix with these singular values."""
    width = len(singular)
    left, right = ortho_group.rvs(rows, random_state=0)[:, :width], ortho_group.rvs(width, random_state=1)
    return torch.from_numpy(left @ np.diag(singular) @ right)


def test_ranks_of_known_singular_values_by_hand() -> None:
    singular = feature_spectrum(matrix([10.0, 5.0, 0.2, 0.1]))
    assert np.allclose(singular, [10, 5, 0.2, 0.1])
    p = np.array([10, 5, 0.2, 0.1]) / 15.3
    assert effective_rank(singular) == pytest.approx(math.exp(entropy(p)))
    assert srank_99(singular) == 3  # 15 / 15.3 = .980, 15.2 / 15.3 = .993
    assert approximate_rank_99(singular) == 2  # 100 / 125.05 = .80, 125 / 125.05 = .9996
    assert stable_rank(singular) == pytest.approx(125.05 / 100)


def test_the_three_stable_ranks_are_three_numbers_for_equal_directions_too() -> None:
    singular = feature_spectrum(matrix([3.0] * 5))
    assert effective_rank(singular) == pytest.approx(5)
    assert stable_rank(singular) == pytest.approx(5)
    assert srank_99(singular) == approximate_rank_99(singular) == 5


def test_exactly_99_percent_is_enough() -> None:
    assert srank_99(np.array([99.0, 1.0])) == 1
    assert srank_99(np.array([98.9, 1.1])) == 2


def test_direction_of_no_size_counts_nothing() -> None:
    assert effective_rank(np.array([2.0, 2.0, 0.0])) == pytest.approx(2)


def test_features_are_not_centred() -> None:
    assert np.allclose(feature_spectrum(torch.ones(4, 2)), [math.sqrt(8), 0], atol=1e-12)


def test_small_singular_values_survive_in_float64() -> None:
    assert feature_spectrum(matrix([1.0, 1e-12]))[1] == pytest.approx(1e-12, rel=1e-3)


def test_fewer_samples_than_the_width_have_no_spectrum() -> None:
    feature_spectrum(torch.eye(4))
    with pytest.raises(ValueError, match="3 positions are fewer than the width 4"):
        feature_spectrum(torch.eye(4)[:3])
    with pytest.raises(ValueError, match="every feature is 0"):
        feature_spectrum(torch.zeros(4, 2))


@pytest.mark.parametrize("make", [llama, gpt2])
def test_probe_reads_the_normed_last_layer_at_completion_positions(make: Callable[[], PreTrainedModel]) -> None:
    model = make()
    pool = FakePool(lambda problem, sample: "1 steps", loaded=lambda ref: single(model))
    result = SpectrumProbe().measure(context(pool, SETTINGS))
    check_declared(result.metrics)
    ids = torch.zeros((1, 4), dtype=torch.int64)  # every row: a prompt of one 0, a completion of three
    states = model(input_ids=ids, output_hidden_states=True).hidden_states
    assert [row["positions"] for row in result.tables["spectrum_features"]] == [12] * 3
    for row, layer in zip(result.tables["spectrum_features"], states, strict=True):
        expected = np.linalg.svd(layer[0, :3].detach().double().numpy().repeat(4, axis=0), compute_uv=False)
        assert row["stable_rank"] == pytest.approx((expected**2).sum() / expected[0] ** 2, rel=1e-4)
        assert row["effective_rank"] == pytest.approx(math.exp(entropy(expected)), rel=1e-3)
    assert result.metrics["spectrum/features/stable_rank"] == row["stable_rank"]


def test_probe_says_why_features_have_no_rank() -> None:
    pool = FakePool(lambda problem, sample: "1 steps", lengths={"1 steps": 1}, loaded=lambda ref: single(llama()))
    result = SpectrumProbe().measure(context(pool, SETTINGS))
    assert not any(name.startswith("spectrum/features") for name in result.metrics)
    row = result.tables["spectrum_features"][-1]
    assert (row["positions"], row["width"]) == (4, 8) and "fewer than the width" in row["left_out"]


def test_matrices_are_the_trainable_members() -> None:
    expert = llama(2)
    pool = FakePool(lambda problem, sample: "1 steps", loaded=lambda ref: proxy(gpt2(), expert))
    result = SpectrumProbe().measure(context(pool, ProbeSettings()))
    expected = {
        name: np.linalg.norm(weight.detach().double().numpy(), 2)
        for name, weight in expert.named_parameters()
        if weight.ndim == 2
    }
    rows = {row["matrix"]: row["spectral_norm"] for row in result.tables["spectrum_weights"]}
    assert rows == pytest.approx(expected)
    assert result.metrics["spectrum/weights/spectral_norm"] == pytest.approx(np.mean(list(expected.values())))
    assert set(result.metrics) == {f"spectrum/weights/{n}" for n in ("effective_rank", "stable_rank", "spectral_norm")}
