"""Scores of units by hand, and of units that were made dormant."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from ductile.config import ProbeSettings, SkillSettings
from ductile.metrics import check_declared
from ductile.probes.frozen import frozen_rows
from ductile.probes.units import UnitsProbe, relative, summary, unit_means
from tests.ductile.probes.fakes import BASE, FakePool, context
from tests.ductile.probes.tiny import gpt2, llama, neox, opt, proxy, random_rows, single

SETTINGS = ProbeSettings(
    prior={"sums": SkillSettings({"name": "s"}, (2, 3)), "again": SkillSettings({"name": "s"}, (2,))},
    neutral={"names": SkillSettings({"name": "n"}, (1,))},
    problems=4,
    drift_problems=3,
)


def right(problem: object, sample: int) -> str:
    return "1 steps"


def test_scores_are_over_the_layers_mean() -> None:
    assert relative(np.array([1.0, 2.0, 6.0])).tolist() == [1 / 3, 2 / 3, 2.0]
    assert relative(np.zeros(3)).tolist() == [0, 0, 0]  # a layer that does nothing is dormant as a whole


def test_shares_and_quantiles_by_hand() -> None:
    scores = np.array([0.0, 0.02, 0.025, 0.1, 3.0])
    values = summary(scores, np.array([0.0, 0.009, 0.01, 1, 1]), np.array([0.01, 1, 1, 1, 1]))
    assert values["dormant_share/0.01"] == 1 / 5
    assert values["dormant_share/0.025"] == 3 / 5  # at most tau
    assert values["dormant_share/0.1"] == 4 / 5
    assert values["gradient_dormant_share/0.01"] == 1 / 5
    assert values["dead_share"] == 2 / 5  # below 1%
    assert (values["score_min"], values["score_median"], values["gradient_score_median"]) == (0, 0.025, 1)
    assert values["score_q05"] == pytest.approx(0.004)  # a fifth of the way from 0 to 0.02
    assert values["score_q01"] == pytest.approx(0.0008)


@pytest.mark.parametrize("make", [llama, gpt2, opt, neox])
def test_means_go_over_all_completion_positions(make: Callable[[], PreTrainedModel]) -> None:
    """The chunks' rows have different lengths: a mean of means would be another number."""
    loaded, rows = single(make()), random_rows(70)
    chunks = list(loaded.unit_activations(rows))
    gradients = list(loaded.unit_gradients(rows))
    assert len(chunks) == 3
    for name, means in unit_means(loaded, rows).items():
        h = torch.cat([chunk[name] for chunk in chunks]).double().numpy()
        assert len(h) == sum(len(completion) for _, completion in rows)
        assert np.allclose(means["activation"], np.abs(h).mean(axis=0))
        assert np.allclose(means["active"], (h != 0).mean(axis=0))
        assert np.allclose(
            means["gradient"], torch.cat([chunk[name] for chunk in gradients]).double().numpy().mean(axis=0)
        )


def test_unit_cut_off_before_the_non_linearity_is_dead_and_one_cut_off_after_it_has_no_gradient() -> None:
    model = opt()
    with torch.no_grad():
        model.model.decoder.layers[0].fc1.bias[5] = -1e4  # ReLU never lets it through
        model.model.decoder.layers[1].fc2.weight[:, 7] = 0  # what it says is not heard
    means = list(unit_means(single(model), random_rows(20)).values())
    assert means[0]["activation"][5] == means[0]["active"][5] == 0
    assert means[1]["gradient"][7] == 0 and means[1]["activation"][7] > 0
    assert sum(int((layer["active"] == 0).sum()) for layer in means) < 12


def test_probe_pools_the_units_of_all_layers() -> None:
    pool = FakePool(right, loaded=lambda ref: single(opt()))
    result = UnitsProbe().measure(context(pool, SETTINGS))
    check_declared(result.metrics)
    table = result.tables["units"]
    assert [row["units"] for row in table] == [12, 12]
    assert result.metrics["units/score_min"] == min(row["score_min"] for row in table)
    assert result.metrics["units/dead_share"] == pytest.approx(np.mean([row["dead_share"] for row in table]))
    assert len(result.metrics) == 1 + 2 * (4 + 3)


def test_units_are_the_trainable_members() -> None:
    pool = FakePool(right, loaded=lambda ref: proxy(gpt2(), llama()))
    names = [row["layer"] for row in UnitsProbe().measure(context(pool, SETTINGS)).tables["units"]]
    assert names == ["model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj"]


def test_probe_set_is_the_bases_and_holds_no_problem_twice() -> None:
    pool = FakePool(right)
    asked = context(pool, SETTINGS)
    rows = frozen_rows(asked)
    assert [(policy, ids) for policy, ids, _ in pool.generated] == [
        (BASE, ["s/2/0", "s/3/0", "s/2/1", "n/1/0", "n/1/1", "n/1/2"])
    ]
    assert len(rows) == 6 and {sampling.top_p for *_, sampling in pool.generated} == {1.0}


def test_nothing_is_measured_without_prompts_or_known_units() -> None:
    assert UnitsProbe().measure(context(FakePool(right), ProbeSettings())).metrics == {}

    class Unknown:
        def unit_activations(self, rows: object) -> list[dict[str, torch.Tensor]]:
            return [{}]

    pool = FakePool(right, loaded=lambda ref: Unknown())
    assert UnitsProbe().measure(context(pool, SETTINGS)).metrics == {}
