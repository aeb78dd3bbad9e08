"""What jobs.probe takes from its arguments, and the table that it prints."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ductile.settings import SettingsError, as_plain
from jobs.configure import parse, run_settings
from jobs.probe import _asked
from jobs.probe_table import intervals, metric_rows, print_probes


def row(phase: str, **metrics: float) -> dict[str, Any]:
    return {
        "phase": phase,
        "metrics": {name.replace("__", "/"): value for name, value in metrics.items()},
        "tables": {},
    }


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    settings = run_settings(parse(["model=small", "plan=guessable", "probe=small", "seed=7", "rollout.groups=4"]))
    (tmp_path / "settings.json").write_text(json.dumps(as_plain(settings)))
    return tmp_path


@pytest.mark.parametrize(("given", "expected"), [("all", ("all",)), ("[drift,formats]", ("drift", "formats"))])
def test_probes_are_names_or_all(given: str, expected: tuple[str, ...]) -> None:
    settings, checkpoint = _asked(parse([f"probes={given}"]))
    assert settings.probe.probes == expected
    assert checkpoint is None
    assert set(settings.probe.prior) == {"sum", "sort", "reverse"}  # of the small base, unless told otherwise


def test_misspelt_probe_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(SettingsError, match=r"probe\.probes\[0\]: unknown probe 'drfit'.*did you mean drift\?"):
        _asked(parse(["probes=drfit"]))


def test_folder_of_a_run_brings_its_own_settings(run_folder: Path) -> None:
    settings, checkpoint = _asked(parse([f"checkpoint={run_folder}", "probes=[drift]", "probe.problems=9"]))
    assert checkpoint == run_folder
    assert (settings.seed, settings.plan, settings.rollout.groups) == (7, "guessable", 4)
    assert (settings.probe.probes, settings.probe.problems) == (("drift",), 9)


def test_folder_of_a_run_refuses_another_model(run_folder: Path) -> None:
    with pytest.raises(SettingsError, match=r"^model: the run in .* has its own; leave model= out$"):
        _asked(parse([f"checkpoint={run_folder}", "model=small"]))


def test_checkpoint_that_is_neither_a_run_nor_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"^checkpoint: .*holds no config\.json"):
        _asked(parse([f"checkpoint={tmp_path}"]))


def test_metrics_come_in_their_declared_order_and_numbers_in_theirs() -> None:
    before = row("base", diversity__prior__pass_at_16=1.0, retention__prior=0.9, diversity__prior__pass_at_2=0.5)
    after = row("hard", retention__prior=0.4, cost__drift__seconds=1.0, time__probe_s=2.0)
    assert metric_rows([before, after]) == [
        ("retention/prior", "rate", [0.9, 0.4]),
        ("diversity/prior/pass_at_2", "rate", [0.5, None]),
        ("diversity/prior/pass_at_16", "rate", [1.0, None]),
    ]


def test_table_shows_both_sides_the_cost_and_the_verdict() -> None:
    before = row("base", retention__prior=0.8512345, cost__drift__generated_tokens=20973.0)
    after = row("hard", retention__prior=0.25)
    after["tables"]["plasticity_verdict"] = [{"verdict": "exploration failure", "rl_highest": 0.01}]
    console = Console(width=120, record=True, file=StringIO())
    print_probes([before, after], console)
    text = console.export_text()
    assert "0.8512" in text and "0.25" in text and "20,973" in text
    assert "plasticity of hard: exploration failure (rl_highest 0.01)" in text


def test_intervals_stand_beside_their_metrics() -> None:
    measured = row("base", plasticity__rl_reset__auc_ratio=0.9, heuristic__L1__dominance_occlusion=0.5)
    measured["metrics"] |= {"plasticity/rl_reset/auc_ratio_low": 0.8, "plasticity/rl_reset/auc_ratio_high": 1.1}
    measured["tables"]["heuristic_pairs"] = [{"level": 1, "dominance_low": 0.25, "dominance_high": 0.75}]
    measured["tables"]["injection"] = [{"mode": "direct", "slope_low": None, "slope_high": None}]
    assert intervals(measured) == {
        "plasticity/rl_reset/auc_ratio": (0.8, 1.1),
        "heuristic/L1/dominance_occlusion": (0.25, 0.75),
    }
    console = Console(width=120, record=True, file=StringIO())
    print_probes([measured], console)
    text = console.export_text()
    assert "0.9 [0.80, 1.10]" in text and "0.5 [0.25, 0.75]" in text and "ratio_low" not in text
