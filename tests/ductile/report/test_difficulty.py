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


def test_drift_counts_what_was_seen_to_cross_the_band(audited):
    drift = row(found([audited()])["drift"], phase="easy")
    assert drift["band"] == [0.25, 0.75]
    # of 4 for 40 problems: from step 0 to 10 one enters, two leave; one enters and one leaves by step 5, one by step 10
    assert (drift["entered"]["mean"], drift["left"]["mean"]) == (10, 20)
    assert (drift["neighbour_entered"]["mean"], drift["neighbour_left"]["mean"]) == (5, 10)
    assert drift["net"]["mean"] == pytest.approx(-1)
    assert (drift["rose_in"]["mean"], drift["rose_out"]["mean"]) == pytest.approx((1.0, 2.0))
    assert drift["noise_net"]["mean"] == pytest.approx(0, abs=1e-9)
    assert (drift["in_band_start"]["mean"], drift["in_band_end"]["mean"]) == (0.75, 0.5)


def test_without_audits_there_is_no_section(record, audited, tmp_path):
    assert found([record(), record("proxy")]) == {"calibration": [], "drift": []}
    assert [table.rows for table in difficulty_tables(summarise([record()], CONTEXT))] == [()] * 5
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
        *("How fast difficulty moves", "What selection wasted, and what it came to", "Problems by difficulty"),
    ):
        assert f"<h2>{title}</h2>" in page


def test_table_shows_each_estimator_before_at_and_after_the_switch(audited):
    table = tables([audited(seed=0, bias=0.1), audited(seed=1, bias=0.3)])["Calibration of the difficulty estimates"]
    assert [each[2:4] for each in table.rows] == [
        *(("beta*", "before"), ("beta*", "at"), ("beta*", "after")),
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
    audits = [each[3] for each in table.rows if each[2] == "beta*"]
    assert audits == [f"{when} {phase}" for phase in ("hard", "again") for when in ("before", "at", "after")]


def spending(record, variant, seed, new, **metrics):
    """A run without audits, of so many completions, whose last boundary has the pass rate `new`."""
    run = record(variant, seed=seed)
    ends = [run.boundaries[0], {**run.boundaries[1], "metrics": {**run.boundaries[1]["metrics"], "retention/new": new}}]
    series = {name.replace("__", "/"): [(1, value / 2), (2, value)] for name, value in metrics.items()}
    return replace(run, metrics={**run.metrics, **series}, boundaries=ends)


WASTE, SPENT = "What selection wasted, and what it came to", "Where completions went"


def test_waste_needs_no_audits_and_stands_beside_the_pass_rate(record):
    both = {"rollout__wasted_share": 0.4, "budget__completions": 800.0, "budget__learned_completions": 600.0}
    runs = [spending(record, "parameter_only", seed, 0.5 + 0.1 * seed, **both) for seed in (0, 1)]
    runs += [
        spending(record, "speed", seed, 0.6 + 0.1 * seed, budget__completions=800.0, budget__pilot_completions=100.0)
        for seed in (0, 1)
    ]
    table = tables(runs)[WASTE]
    assert table.columns[-1] == "minus parameter_only\npoints"
    silent = "0.30 ±0.00"
    assert table.rows == (
        ("guessable", "parameter_only", silent, "-", "0.30 ±0.00", "0.25 ±0.00", "0.55 ±0.64", "-"),
        ("guessable", "speed", silent, "-", "-", "-", "0.65 ±0.64", "10.0 ±0.0"),
    )
    table = tables(runs)[SPENT]
    assert table.columns[2:] == ("Completions\nin all", "of them\nlearned", "of them\npilots")
    assert table.rows == (
        ("guessable", "parameter_only", "800 ±0", "600 ±0", "-"),
        ("guessable", "speed", "800 ±0", "-", "100 ±0"),
    )


def test_what_was_asked_before_the_run_and_for_a_reference_is_told(record):
    spent = {"budget__completions": 900.0, "budget__reference_completions": 64.0, "budget__offline_completions": 96.0}
    table = tables([spending(record, "dots", 0, 0.5, **spent)])[SPENT]
    assert table.columns[2:] == ("Completions\nin all", "of them\nreference", "of them\nbefore the run")
    assert table.rows == (("guessable", "dots", "900", "64", "96"),)


def test_waste_is_shown_of_audited_runs_and_where_variants_can_be_compared(record, audited):
    def shown(*records):
        return len(tables(records)[WASTE].rows)

    uniform, band = (spending(record, name, 0, 0.5, rollout__wasted_share=0.4) for name in ("uniform", "band"))
    assert (shown(uniform), shown(uniform, band), shown(audited())) == (0, 2, 1)
    assert tables([uniform, band])[SPENT].rows == ()  # neither spent any beside training


def test_half_life_is_a_median_in_which_longer_runs_are_infinite(audited):
    def of(seed, *successes):
        run = audited(seed=seed)
        steps = enumerate(successes)
        rows = [{**run.audits[0], "step": 5 * i, "total_step": 5 * i, "pool": many(s)} for i, s in steps]
        return replace(run, audits=rows)

    def many(successes):
        """64 problems with 64 completions each, in four kinds."""
        ids = [f"p{i}" for i in range(64)]
        return {"size": 64, "ids": ids, "successes": successes * 16, "counts": [64] * 64, "estimators": {}}

    spread, turned, alike = [0, 16, 48, 64], [64, 48, 16, 0], [32, 32, 32, 32]
    moving, still, flat = (spread, turned), (spread, spread), (alike, alike)

    def half_life(*runs):
        records = [of(seed, *audits) for seed, audits in enumerate(runs)]
        table = tables(records)["How fast difficulty moves"]
        text = dict(zip(table.columns, table.rows[0], strict=True))["Half-life\nsteps"]
        [drift] = found(records)["drift"]
        told = len(runs) - drift["half_life"]["no_spread"]
        assert (drift["longest"], drift["skill"]["n"]) == (5, told)
        return drift["half_life"], text

    one, text = half_life(moving, moving, still)
    assert 0 < one["median"] < 5 and one["median"] == one["values"]["0"]
    assert (one["longer"], one["no_spread"]) == (1, 0) and re.fullmatch(r"\d\.\d \(3\)", text)
    most, text = half_life(moving, still, still, flat)
    assert (most["median"], most["longer"], most["no_spread"], list(most["values"])) == (None, 2, 1, ["0"])
    assert text == "> 5 (3), no spread 1"
    none, text = half_life(flat)
    assert (none["median"], text) == (None, "no spread 1")


def test_tables_fit_into_120_columns(audited):
    stream = io.StringIO()
    records = [audited("parameter_only", seed, 0.1 * seed) for seed in range(3)]
    print_tables(summarise(records, CONTEXT), Console(file=stream, width=120, force_terminal=False))
    lines = stream.getvalue().splitlines()
    assert max(len(line.rstrip()) for line in lines) <= 120
    assert sum("parameter_only" in line and "before" in line for line in lines) == 2


def test_widest_cells_fit_too(audited):
    """Three seeds that differ, one of them without a half-life, and completions of every kind."""
    names = ("pilot", "refill", "reestimation", "reference", "offline", "learned")
    records = []
    for seed, successes in enumerate(([0, 4, 12, 16] * 16, [0, 0, 8, 16] * 16, [8] * 64)):
        run = audited("parameter_only", seed)
        many = {"ids": [f"p{i}" for i in range(64)], "counts": [16] * 64, "size": 2048}
        ends = (successes, successes[::-1]) if seed else (successes, [16 - s for s in successes])
        rows = [{**r, "pool": {**r["pool"], **many, "successes": s}} for r, s in zip(run.audits, ends, strict=False)]
        spent = {f"budget/{name}_completions": [(20, 1000.0 + 400 * seed)] for name in names}
        metrics = {**run.metrics, **spent, "budget/completions": [(20, 20_000.0 + 1000 * seed)]}
        records.append(replace(run, plan="drifting", audits=rows, metrics=metrics))
    stream = io.StringIO()
    print_tables(summarise(records, CONTEXT), Console(file=stream, width=120, force_terminal=False))
    lines = stream.getvalue().splitlines()
    assert any("no spread 1" in line and "…" not in line for line in lines)
    assert max(len(line.rstrip()) for line in lines) <= 120
    assert sum("parameter_only" in line for line in lines) >= 6  # no name was folded


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


def test_age_is_one_line_a_variant_of_the_estimator_that_selection_reads(grid):
    figure = age_over_steps(grid)
    assert [panel.get_title() for panel in figure.axes] == ["switch", "alone"]
    lines = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 3]
    assert [list(line.get_ydata()) for line in lines] == [
        [0, 5, 10]
    ] * 4  # two phases of two variants; frozen's is 5 more
    assert len({line.get_color() for line in lines}) == 2
    assert len([line for line in figure.axes[1].lines if len(line.get_xdata()) == 3]) == 1


def test_long_names_of_plans_are_cut(audited):
    plan = "a_plan_whose_name_is_longer_than_its_panel"
    for drawing in (band_shares, brier_over_steps, age_over_steps):
        figure = drawing(Grid((replace(audited(), plan=plan),), (plan,), ("uniform",)))
        assert figure.axes[0].get_title() == "a_plan_whose_name_is_longer…"


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
