"""Low drift's options: every combination that holds nothing, or would not be read, is refused with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ductile.config import ObjectiveSettings, VariantSettings
from ductile.rl.objective import Objective
from ductile.settings import SettingsError, build
from ductile.variants import make_variant

CONFIGS = Path(__file__).parents[3] / "configs" / "variant"
PRESETS = ("low_drift", "low_drift_phase_start", "low_drift_ema", "low_drift_prior_data", "low_drift_reward",
           "low_drift_adaptive", "l2_init", "ewc")  # fmt: skip
KL = {"kl": 0.3, "kl_estimator": "k3", "anchor": "base"}
PRIOR = {"kl": 0.3, "anchor": "prior_data"}


def objective(**options: Any) -> Objective:
    variant: Any = make_variant(build(VariantSettings, {"name": "low_drift"} | options))
    return variant.objective(ObjectiveSettings())  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("options", "refusal"),
    [
        ({}, "variant.kl: nothing holds the policy; set at least one of kl, l2_init, ewc"),
        ({"anchor": "base"}, "variant.kl: nothing holds the policy"),
        ({"ewc": 1.0, "kl_estimator": "k3"}, "variant.kl_estimator: 'k3' is set, but there is no KL without kl"),
        ({"ewc": 1.0, "anchor": "base"}, "variant.anchor: 'base' is set, but there is no KL without kl"),
        ({"ewc": 1.0, "kl_place": "loss"}, "variant.kl_place: 'loss' is set, but there is no KL without kl"),
        ({"l2_init": 1.0, "kl_target": 0.1}, "variant.kl_target: 0.1 is set, but there is no KL without kl"),
        (KL | {"anchor": None}, "variant.anchor: a KL needs it; allowed: base, phase_start, ema, prior_data"),
        (KL | {"kl_estimator": None}, "variant.kl_estimator: a KL in the loss needs it; allowed: k2, k3, k3+"),
        (KL | {"kl_estimator": "k1"}, "variant.kl_estimator: 'k1': its gradient is zero in expectation"),
        (KL | {"kl_place": "reward", "kl_estimator": "k2"}, "variant.kl_estimator: 'k2': in the reward only its value"),
        (KL | {"kl_place": "reward", "kl_estimator": "k3+"}, "allowed: k1, k3"),
        (KL | {"ema_decay": 0.9}, "variant.ema_decay: 0.9 is read by the anchor ema alone; anchor is 'base'"),
        (KL | {"anchor": "ema", "ema_decay": 1.0}, "variant.ema_decay: 1.0 is an average that never moves"),
        (
            KL | {"kl_horizon": 500.0},
            "variant.kl_horizon: 500.0 is set, but the coefficient is fixed without kl_target",
        ),
        (PRIOR | {"kl_place": "reward"}, "variant.kl_place: 'reward' does not fit anchor prior_data"),
        (PRIOR | {"kl_estimator": "k3"}, "variant.kl_estimator: 'k3' would not be read: the KL of prior_data is exact"),
    ],
)
def test_combination_that_makes_no_sense_is_refused_with_the_reason(options: dict[str, Any], refusal: str) -> None:
    with pytest.raises(SettingsError) as caught:
        objective(**options)
    assert refusal in caught.value.problems[0]


def test_all_contradictions_are_told_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        objective(ewc=1.0, anchor="base", kl_place="loss", ema_decay=0.9)
    assert len(caught.value.problems) == 3


def test_kl_alone_is_a_fixed_one_in_the_loss() -> None:
    found = objective(**KL)
    assert (found.kl, found.kl_place, found.kl_target, found.l2_init, found.ewc) == (0.3, "loss", None, 0.0, 0.0)
    assert found.kl_in_loss and found.acts_without_advantage


def test_kl_in_the_reward_is_no_term_of_the_loss() -> None:
    found = objective(**KL | {"kl_place": "reward"})
    assert not found.kl_in_loss and not found.acts_without_advantage


def test_unset_options_are_what_the_settings_say_of_them() -> None:
    found = objective(**KL | {"anchor": "ema", "kl_target": 0.1})
    assert (found.ema_decay, found.kl_horizon) == (0.99, 10_000.0)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_a_variant_with_its_own_hold(preset: str) -> None:
    options = yaml.safe_load((CONFIGS / f"{preset}.yaml").read_text())
    found = objective(**options.get("variant", options))
    assert found.kl or found.l2_init or found.ewc


def test_preset_low_drift_is_the_kl_to_the_base_that_it_always_was() -> None:
    options = yaml.safe_load((CONFIGS / "low_drift.yaml").read_text())
    assert objective(**options) == Objective(0.2, 0.2, 0.3, "k3", "base", 0.0)
