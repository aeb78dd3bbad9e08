import json
import re
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest

from ductile.metrics import describe
from ductile.report.records import ReportContext
from ductile.report.summary import MEASURES, find_cell, summarise

CONTEXT = ReportContext(
    "too hard", {"compare": {"seeds": 3}}, {"ductile": "1"}, ("none", "guessable"), ("parameter_only", "proxy")
)
PAGE = Path(__file__).parents[3] / "docs" / "summary.md"


def schema():
    return json.loads(re.search(r"```json\n(.*?)```", PAGE.read_text(), re.DOTALL).group(1))


def comparison(record):
    return [
        record(seed=0, before=0.9, after=0.2),
        record(seed=1, before=0.8, after=0.3),
        record(seed=2, status="FAILED", after=0.9),
        record("proxy", seed=0, before=0.9, after=0.8),
        record("proxy", seed=1, before=0.8, after=0.7),
    ]


def test_summary_follows_the_schema_in_the_docs(record):
    written = json.loads(json.dumps(summarise(comparison(record), CONTEXT), allow_nan=False))
    jsonschema.Draft202012Validator.check_schema(schema())
    jsonschema.validate(written, schema())


def test_schema_refuses_a_summary_without_its_failed_runs(record):
    written = summarise(comparison(record), CONTEXT)
    del written["cells"][0]["not_finished"]
    with pytest.raises(jsonschema.ValidationError, match="not_finished"):
        jsonschema.validate(written, schema())


def test_docs_name_every_measure():
    page = PAGE.read_text()
    for measure in MEASURES:
        assert f"`{measure.name}`" in page
        assert f"`{measure.metric}`" in page


def test_every_measure_reads_a_declared_metric():
    assert [m.metric for m in MEASURES if describe(m.metric) is None] == []


def test_failed_run_is_listed_and_not_averaged(record):
    cell = find_cell(summarise(comparison(record), CONTEXT), "guessable", "parameter_only")
    assert cell["seeds"] == [0, 1]
    assert cell["not_finished"] == 1
    assert {run["seed"]: run["status"] for run in cell["runs"]} == {0: "FINISHED", 1: "FINISHED", 2: "FAILED"}
    after = cell["measures"]["prior_after"]
    assert after["mean"] == pytest.approx(0.25)
    assert after["n"] == 2
    assert after["values"] == {"0": 0.2, "1": 0.3}


def test_cell_whose_runs_all_failed_stays_visible_without_numbers(record):
    summary = summarise([record(status="KILLED")], CONTEXT)
    cell = find_cell(summary, "guessable", "parameter_only")
    assert (cell["seeds"], cell["not_finished"]) == ([], 1)
    assert cell["measures"]["forgetting"] | {"values": None} == {
        "metric": "retention/forgetting", "unit": "rate", "when": "last boundary",
        "mean": None, "low": None, "high": None, "n": 0, "values": None,
    }  # fmt: skip
    assert summary["runs"] == {"finished": 0, "not_finished": 1}
    jsonschema.validate(json.loads(json.dumps(summary)), schema())


def test_difference_is_paired_by_seed(record):
    rows = {(row["variant"], row["measure"]): row for row in summarise(comparison(record), CONTEXT)["differences"]}
    forgetting = rows["proxy", "forgetting"]  # 0.1 - 0.7 and 0.1 - 0.5
    assert forgetting["mean"] == pytest.approx(-0.5)
    assert forgetting["reference"] == "parameter_only"
    assert forgetting["n"] == 2


def test_plan_without_phases_has_a_beginning_and_no_end(record, boundary):
    base = replace(record(plan="none"), boundaries=[boundary(0, 0, 0.9)], metrics={}, phases=())
    measures = find_cell(summarise([base], CONTEXT), "none", "parameter_only")["measures"]
    assert measures["prior_before"]["mean"] == 0.9
    assert measures["prior_after"]["mean"] is None
    assert measures["forgetting"]["n"] == 0
    assert measures["branch_end"]["mean"] == 0.6


def test_finished_run_without_a_measure_lowers_its_n_alone(record):
    lacking = record(seed=1)
    del lacking.boundaries[1]["metrics"]["plasticity/rl_reset/auc_ratio"]
    measures = find_cell(summarise([record(seed=0), lacking], CONTEXT), "guessable", "parameter_only")["measures"]
    assert (measures["branch_auc_ratio"]["n"], measures["prior_after"]["n"]) == (1, 2)


def test_non_finite_value_is_left_out_of_the_mean(record):
    broken = record(seed=1, after=float("nan"))
    summary = summarise([record(seed=0, after=0.2), broken], CONTEXT)
    assert find_cell(summary, "guessable", "parameter_only")["measures"]["prior_after"]["values"] == {"0": 0.2}
    json.dumps(summary, allow_nan=False)


def test_onset_counts_the_runs_in_which_the_sign_came_first(record):
    found = find_cell(summarise(comparison(record), CONTEXT), "guessable", "parameter_only")["onset"]
    assert found["length_step_median"] == 4
    assert found["fall_step_median"] == 5
    assert found["length_order"]["unresolved"] == 2  # measured at steps 0 and 5: the length halved in between
    assert [run["seed"] for run in found["runs"]] == [0, 1]


def test_two_finished_runs_of_one_seed_are_refused(record):
    with pytest.raises(ValueError, match="guessable, parameter_only has more than one finished run of seed 0"):
        summarise([record(), record()], CONTEXT)


def test_order_of_the_context_comes_first_and_other_names_follow(record):
    summary = summarise([record(plan="extra"), record(plan="guessable")], CONTEXT)
    assert summary["plans"] == ["guessable", "extra"]


def test_verdicts_of_the_last_boundary_are_counted_over_finished_runs(record):
    other = record(seed=1)
    other.boundaries[-1]["tables"]["plasticity_verdict"] = [{"verdict": "exploration failure"}]
    runs = [record(seed=0), other, record(seed=2), record(seed=3, status="FAILED")]
    cell = find_cell(summarise(runs, CONTEXT), "guessable", "parameter_only")
    assert cell["verdicts"] == {"learns": 2, "exploration failure": 1}


def test_forward_transfer_has_a_row_for_each_later_phase_and_their_mean(sequence, alone):
    summary = summarise([sequence(seed=0), sequence(seed=1), alone(seed=0), alone(seed=1)], CONTEXT)
    later, mean = summary["transfer"]
    assert (later["plan"], later["phase"], later["reference"], later["source"]) == (
        "sequence", "sum", ["alone"], "evaluation",
    )  # fmt: skip
    assert later["values"] == pytest.approx({"0": 0.25, "1": 0.25})  # (0.55 - 0.4) / 0.6
    assert (mean["phase"], mean["n"]) == (None, 2)
    assert mean["bootstrap"] == pytest.approx({"low": 0.25, "high": 0.25})
    jsonschema.validate(json.loads(json.dumps(summary, allow_nan=False)), schema())


def test_phase_without_a_reference_is_a_row_without_a_value(sequence):
    later, mean = summarise([sequence()], CONTEXT)["transfer"]
    assert (later["mean"], later["n"], later["bootstrap"], later["reference"]) == (None, 0, None, [])
    assert (later["domain"], later["levels"], later["steps"]) == ("sum", [2], 10)
    assert mean["n"] == 0


def test_matched_kl_is_in_the_summary_for_two_variants_and_follows_the_schema(sequence):
    summary = summarise([sequence(), sequence(seed=1), sequence("proxy", gain=0.4)], CONTEXT)
    first = summary["matched_kl"][0]  # sort: proxy reaches 0.5, which parameter_only reaches at step 5
    assert (first["phase"], first["variant"], first["points"]) == ("sort", "parameter_only", 3)
    assert first["target"] == pytest.approx(0.5)
    assert first["reverse"]["values"] == pytest.approx({"0": 0.05, "1": 0.05})
    assert first["forward"]["mean"] == pytest.approx(0.1)
    jsonschema.validate(json.loads(json.dumps(summary, allow_nan=False)), schema())


def test_failed_runs_are_neither_compared_nor_references(sequence, alone):
    failed = [replace(alone(), status="FAILED"), replace(sequence("proxy"), status="FAILED")]
    summary = summarise([sequence(), *failed], CONTEXT)
    assert [row["n"] for row in summary["transfer"]] == [0, 0]
    assert summary["matched_kl"] == []


def test_plans_of_one_phase_have_no_sequences(record):
    summary = summarise(comparison(record), CONTEXT)
    assert (summary["transfer"], summary["matched_kl"]) == ([], [])
