import io
import json
import re
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
from rich.console import Console

from ductile.report import write_report
from ductile.report.audited import age_over_steps, band_shares, brier_over_steps
from ductile.report.canvas import Grid
from ductile.report.difficulty import difficulty, difficulty_tables
from ductile.report.records import ReportContext
from ductile.report.reliability import reliability
from ductile.report.summary import summarise
from ductile.report.tables import print_tables

CONTEXT = ReportContext("difficulty")
PAGE = Path(__file__).parents[3] / "docs" / "summary.md"
NOISE = (0.25 * 0.75 + 0.5 * 0.5) / 15 / 4  # of rates 0, 0, 1/4 and 1/2 by 16 completions


def found(records):
    return difficulty(records, ["switch", "alone"], ["uniform", "band"])


def row(rows, **wanted):
    [one] = [row for row in rows if all(row[name] == value for name, value in wanted.items())]
    return one


def tables(records):
    return {table.title: table for table in difficulty_tables(summarise(records, CONTEXT))}


def test_summary_with_audits_follows_the_schema_in_the_docs(audited):
    schema = json.loads(re.search(r"```json\n(.*?)```", PAGE.read_text(), re.DOTALL).group(1))
    records = [audited(seed=0, unseen=True), audited(seed=1), audited("band", phases=1)]
    written = json.loads(json.dumps(summarise(records, CONTEXT), allow_nan=False))
    jsonschema.validate(written, schema)
    assert {r["problems"] for r in written["difficulty"]["calibration"]} == {"pool", "unseen"}
    del written["difficulty"]["calibration"][0]["measures"]["ece_noise"]
    with pytest.raises(jsonschema.ValidationError, match="ece_noise"):
        jsonschema.validate(written, schema)


def test_audits_around_the_switch_are_means_over_seeds(audited):
    rows = found([audited(seed=0, bias=0.1), audited(seed=1, bias=0.3)])["calibration"]
    about = {"problems": "pool", "estimator": "beta", "phase": "hard"}
    at = row(rows, when="at", **about)
    assert (at["from"], at["index"], at["step"]) == ("easy", 1, 10)
    noise = 0.5 * 0.5 / 15 / 4  # of rates 0, 0, 0, 1/2
    assert at["measures"]["brier"]["values"] == pytest.approx({"0": 0.01 - noise, "1": 0.09 - noise}, abs=1e-6)
    assert at["measures"]["bias"]["mean"] == pytest.approx(0.2)
    after, before = row(rows, when="after", **about), row(rows, when="before", **about)
    assert after["measures"]["brier"]["mean"] == pytest.approx(-NOISE, abs=1e-6)
    assert (before["step"], after["step"], row(rows, when="end", **about)["step"]) == (10, 15, 20)
    assert before["measures"]["age"]["mean"] == 10  # the old phase's last audit, of its own problems
    frozen = row(rows, **{**about, "estimator": "frozen"}, when="at")
    assert frozen["measures"]["spearman"] == {"mean": None, "low": None, "high": None, "n": 0, "values": {}}


def test_first_phase_has_nothing_before_it(audited):
    rows = [r for r in found([audited()])["calibration"] if r["index"] == 0 and r["estimator"] == "beta"]
    assert [(r["when"], r["from"]) for r in rows] == [("at", None), ("after", None), ("end", None)]


def test_drift_counts_what_entered_and_left_the_band(audited):
    drift = row(found([audited()])["drift"], phase="easy")
    assert drift["band"] == [0.25, 0.75]
    # of 4 for 40 problems and ten steps: one enters and one leaves by step 5, one leaves by step 10
    assert drift["entered"]["mean"] == pytest.approx(1.0)
    assert drift["left"]["mean"] == pytest.approx(2.0)
    assert (drift["rose_in"]["mean"], drift["rose_out"]["mean"]) == pytest.approx((1.0, 2.0))
    assert (drift["in_band_start"]["mean"], drift["in_band_end"]["mean"]) == (0.75, 0.5)
    noise = drift["noise_entered"]["mean"] + drift["noise_left"]["mean"]
    assert drift["excess"]["mean"] == pytest.approx(3 - noise)
    assert (drift["half_life"]["n"], drift["longer"], drift["no_spread"]) == (1, 0, 0)
    # mean squared differences 1/16 and 3/64 after 5 steps, 13/64 after 10; variances 5/48 and 11/192 of the later
    # rates; noise 1/96, 1/96 and 7/960 of the three audits
    early = 1 - (1 / 16 + 3 / 64 - 3 / 96 - 7 / 960) / (5 / 48 + 11 / 192 - 1 / 96 - 7 / 960)
    late = 1 - (13 / 64 - 1 / 96 - 7 / 960) / (11 / 192 - 7 / 960)
    assert drift["half_life"]["mean"] == pytest.approx(5 + 5 * (early - 0.5) / (early - late))
    assert drift["skill"]["mean"] == pytest.approx(late)
    assert drift["longest"] == 10


def test_without_audits_there_is_no_section(record, audited, tmp_path):
    assert found([record(), record("proxy")]) == {"calibration": [], "drift": []}
    assert [table.rows for table in difficulty_tables(summarise([record()], CONTEXT))] == [()] * 4
    files = write_report([record()], tmp_path / "without", CONTEXT)
    assert "reliability.png" not in [file.name for file in files]
    assert "Calibration of" not in files[1].read_text()
    unfinished = replace(audited(), status="FAILED")
    assert summarise([unfinished], CONTEXT)["difficulty"] == {"calibration": [], "drift": []}


def test_page_has_the_tables_and_figures(audited, tmp_path):
    files = write_report([audited(seed=seed, unseen=True) for seed in range(3)], tmp_path, CONTEXT)
    names = {file.name for file in files}
    assert {"reliability.png", "brier.png", "age.png", "band.png"} <= names
    page = files[1].read_text()
    for title in (
        *("Calibration of the difficulty estimates", "Calibration on problems that were never asked"),
        *("How fast difficulty moves", "What selection wasted", "Problems by difficulty"),
    ):
        assert f"<h2>{title}</h2>" in page


def test_table_shows_each_estimator_before_at_and_after_the_switch(audited):
    table = tables([audited(seed=0, bias=0.1), audited(seed=1, bias=0.3)])["Calibration of the difficulty estimates"]
    assert [each[2:4] for each in table.rows] == [
        *(("beta", "before"), ("beta", "at"), ("beta", "after")),
        *(("frozen", "before"), ("frozen", "at"), ("frozen", "after")),
    ]
    at = dict(zip(table.columns, table.rows[1], strict=True))
    assert at["Brier"] == "0.046 ±0.508"  # 0.05 - 1/240; t(0.975, 1) x 0.08 / 2 = 12.706 x 0.04
    assert at["Bias"] == "0.20"
    assert table.rows[4][table.columns.index("Spearman")] == "-"


def test_plan_of_one_phase_shows_its_ends(audited):
    table = tables([audited(phases=1)])["Calibration of the difficulty estimates"]
    assert [each[3] for each in table.rows] == ["start", "end"] * 2


def test_more_than_one_switch_is_named(audited):
    run = audited()
    third = [{**row, "phase": 2, "name": "again", "total_step": 20 + row["step"]} for row in run.audits[:3]]
    table = tables([replace(run, audits=[*run.audits, *third])])["Calibration of the difficulty estimates"]
    audits = [each[3] for each in table.rows if each[2] == "beta"]
    assert audits == [f"{when} {phase}" for phase in ("hard", "again") for when in ("before", "at", "after")]


def test_waste_is_read_from_the_steps_metrics(audited):
    table = tables([audited(seed=seed) for seed in range(2)])["What selection wasted"]
    assert table.rows == (("switch", "uniform", "0.30 ±0.00", "-", "640 ±0", "100 ±0", "-", "-"),)


def test_half_life_says_how_many_runs_have_one(audited):
    still = audited(seed=1)
    rows = [{**still.audits[0], "step": step, "total_step": step} for step in (0, 5, 10)]
    flat = replace(audited(seed=2), audits=[{**r, "pool": {**r["pool"], "successes": [8] * 4}} for r in rows])
    table = tables([audited(seed=0), replace(still, audits=rows), flat])["How fast difficulty moves"]
    text = dict(zip(table.columns, table.rows[0], strict=True))["Half-life\nsteps"]
    assert re.fullmatch(r"\d\.\d \(1\), > 1, no spread 1", text)


def test_tables_fit_into_120_columns(audited):
    stream = io.StringIO()
    records = [audited("parameter_only", seed, 0.1 * seed) for seed in range(3)]
    print_tables(summarise(records, CONTEXT), Console(file=stream, width=120, force_terminal=False))
    lines = stream.getvalue().splitlines()
    assert max(len(line.rstrip()) for line in lines) <= 120
    assert sum("parameter_only" in line and "before" in line for line in lines) == 2


@pytest.fixture
def grid(audited):
    records = tuple(audited(variant, seed) for variant in ("uniform", "band") for seed in range(3))
    return Grid((*records, audited("uniform", phases=1)), ("switch", "alone"), ("uniform", "band"))


def test_reliability_pools_the_bins_of_all_seeds(grid):
    figure = reliability(grid)
    titles = [panel.get_title() for panel in figure.axes]
    assert titles == ["beta", "frozen"] * 3  # two variants of the switch, and the plan of one phase
    diagonal, before, at, after = figure.axes[0].lines
    assert list(diagonal.get_xdata()) == [0, 1]
    assert list(before.get_xdata()) == pytest.approx([0.5, 0.75, 1.0])  # right estimates: on the diagonal
    assert list(before.get_ydata()) == pytest.approx([0.5, 0.75, 1.0])
    assert list(at.get_xdata()) == pytest.approx([0.2, 0.7])
    assert list(at.get_ydata()) == pytest.approx([0.0, 0.5])
    assert list(after.get_xdata()) == pytest.approx([0.0, 0.25, 0.5])
    assert len(figure.axes[1].lines[2].get_xdata()) == 1  # frozen says the same of all
    assert len(figure.axes[4].lines) == 3  # the diagonal, start and end


def test_brier_breaks_at_the_switch(grid):
    figure = brier_over_steps(grid)
    assert [panel.get_title() for panel in figure.axes[:2]] == ["switch", "alone"]
    lines = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 3]
    assert [list(line.get_xdata()) for line in lines] == [[0, 5, 10], [10, 15, 20]] * 2
    assert lines[1].get_ydata()[0] == pytest.approx(0.04 - 1 / 240, abs=1e-6)
    [switch] = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 2]
    assert list(switch.get_xdata()) == [10, 10]
    assert [text.get_text() for text in figure.axes[0].texts] == ["easy", "hard"]
    assert [text.get_text() for text in figure.axes[3].texts] == ["no audit"]


def test_age_is_drawn_by_estimator(grid):
    lines = [line for line in age_over_steps(grid).axes[0].lines if len(line.get_xdata()) == 3]
    assert [list(line.get_ydata()) for line in lines] == [[0, 5, 10]] * 2 + [[5, 10, 15]] * 2


def test_shares_by_difficulty_fill_the_panel(grid):
    figure = band_shares(grid)
    areas = figure.axes[0].collections
    assert len(areas) == 6  # three sides in each of two phases
    top = areas[5].get_paths()[0].vertices
    assert (top[:, 0].min(), top[:, 0].max(), top[:, 1].max()) == (10, 20, 1)
    below = areas[0].get_paths()[0].vertices
    assert below[:, 1].max() == pytest.approx(0.25)  # one of four lies below 1/4 at first


def test_what_the_reliability_figure_has_no_room_for_is_counted(audited):
    variants = tuple(f"v{i}" for i in range(14))
    figure = reliability(Grid(tuple(audited(variant) for variant in variants), ("switch",), variants))
    assert len(figure.axes) == 12 * 2
    assert figure.get_supxlabel() == "2 more are not drawn"
