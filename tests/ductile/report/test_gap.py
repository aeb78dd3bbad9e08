"""The share of the gap to direct tuning: by hand, paired by seed, and left out where there is no gap."""

from __future__ import annotations

from math import sqrt
from typing import Any

import pytest

from ductile.report.gap import Rate, closed_share, gap_closed, gap_table
from ductile.report.records import PhaseBand, RunRecord


def run(variant: str, seed: int, before: float, after: float, error: float = 0.02) -> RunRecord:
    def row(rate: float) -> dict[str, Any]:
        cells = [
            {"kind": "new", "skill": "hard", "level": level, "pass_rate": rate + d, "standard_error": error}
            for level, d in ((1, 0.05), (2, -0.05))
        ]
        other = {"kind": "prior", "skill": "hard", "level": 1, "pass_rate": 0.99, "standard_error": 0.0}
        return {"step": 0, "metrics": {}, "tables": {"retention": [*cells, other]}}

    return RunRecord(
        f"{variant}{seed}", variant, "p", seed, "FINISHED", {}, [row(before), row(after)], (PhaseBand("hard", 0, 3),)
    )


def test_share_is_that_of_the_paper_s_table() -> None:
    """AlpacaFarm at 70B (arXiv 2401.08565): base 3.7, proxy 87.95, directly tuned 90.4."""
    assert closed_share(Rate(3.7, 0.0), 87.95, Rate(90.4, 0.0)) == pytest.approx(0.972, abs=5e-4)
    assert closed_share(Rate(53.9, 0.0), 85.1, Rate(79.6, 0.0)) == pytest.approx(1.214, abs=5e-4)


def test_gap_within_two_standard_errors_is_none() -> None:
    noise = sqrt(0.03**2 + 0.04**2)
    assert closed_share(Rate(0.2, 0.03), 0.5, Rate(0.2 + 1.99 * noise, 0.04)) is None
    assert closed_share(Rate(0.2, 0.03), 0.5, Rate(0.2 + 2.01 * noise, 0.04)) is not None
    assert closed_share(Rate(0.2, 0.0), 0.2, Rate(0.2, 0.0)) is None


def test_shares_are_paired_by_seed_and_seeds_without_a_gap_are_counted() -> None:
    records = [
        run("parameter_only", 0, 0.2, 0.6), run("proxy", 0, 0.2, 0.4),
        run("parameter_only", 1, 0.1, 0.9), run("proxy", 1, 0.1, 0.9),
        run("parameter_only", 2, 0.3, 0.31), run("proxy", 2, 0.3, 0.9),
        run("proxy", 3, 0.3, 0.9),
    ]  # fmt: skip
    (row,) = gap_closed(records, "p", ["parameter_only", "proxy"])
    assert row["values"] == {"0": pytest.approx(0.5), "1": pytest.approx(1.0)}
    assert (row["variant"], row["phase"], row["n"], row["no_gap"]) == ("proxy", "hard", 2, 1)
    assert row["mean"] == pytest.approx(0.75)
    assert row["bootstrap"] == {"low": pytest.approx(0.5), "high": pytest.approx(1.0)}
    (text,) = gap_table({"gap_closed": [row]}).rows
    assert text == ("p", "proxy", "hard", "0.75 [0.50, 1.00]", "2", "1")


def test_only_seeds_without_a_gap_leave_a_row_without_a_number() -> None:
    records = [run("parameter_only", 0, 0.3, 0.3), run("proxy", 0, 0.3, 0.9)]
    (row,) = gap_closed(records, "p", ["parameter_only", "proxy"])
    assert (row["mean"], row["n"], row["no_gap"]) == (None, 0, 1)
    assert gap_table({"gap_closed": [row]}).rows[0][3] == "-"


def test_without_direct_tuning_there_is_no_gap() -> None:
    assert gap_closed([run("proxy", 0, 0.2, 0.4)], "p", ["proxy"]) == []
