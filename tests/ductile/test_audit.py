import json

import numpy as np
import pytest

from ductile.audit import Asked, audit_metrics, audit_row, entries, phase_drifts
from ductile.difficulty.base import Estimates
from ductile.metrics import check_declared


def said(mean, uncertainty=0.1, age=3):
    mean = np.asarray(mean, np.float64)
    return Estimates(mean, np.full(len(mean), uncertainty), np.full(len(mean), age))


def asked(successes, means, counts=None, size=100, prefix="p"):
    predicted = {f"e{i}": said(mean) for i, mean in enumerate(means)}
    ids = [f"{prefix}{i}" for i in range(len(successes))]
    return Asked(ids, successes, counts or [4] * len(successes), predicted, size)


def row(successes=(0, 2, 4), phase=0, step=0, total=None, counts=None, unseen=None, means=None, name=None):
    means = means or [[0.1, 0.5, 0.8], [0.5, 0.5, 0.5]]
    pool = asked(list(successes), means, counts)
    total = step if total is None else total
    return audit_row(phase, name or f"phase {phase}", step, total, 7, pool, unseen, (0.2, 0.8), 10)


def test_row_is_plain_json_with_all_that_is_needed_to_draw_it_anew():
    written = row(unseen=asked([1, 3], [[0.2, 0.9], [0.4, 0.4]], prefix="u"))
    assert json.loads(json.dumps(written, allow_nan=False)) == written
    pool = written["pool"]
    assert (pool["ids"], pool["successes"], pool["counts"]) == (["p0", "p1", "p2"], [0, 2, 4], [4, 4, 4])
    assert list(pool["estimators"]) == ["e0", "e1"]
    assert pool["estimators"]["e0"]["mean"] == [0.1, 0.5, 0.8]
    assert pool["estimators"]["e0"]["reliability"]["problems"] == [0, 1, 0, 0, 0, 1, 0, 0, 1, 0]
    assert written["unseen"]["ids"] == ["u0", "u1"]


def test_measures_of_a_row_by_hand():
    results = row()["pool"]["estimators"]["e0"]["results"]
    # rates 0, 1/2, 1 with noise 0, 1/12, 0
    assert results["brier"] == pytest.approx((0.01 - 1 / 12 + 0.04) / 3, abs=1e-6)
    assert results["bias"] == pytest.approx(1.4 / 3 - 0.5, abs=1e-6)
    assert results["spearman"] == 1
    assert results["ece"] == pytest.approx(0.1, abs=1e-6)
    assert results["age"] == 3
    assert row()["pool"]["estimators"]["e1"]["results"]["spearman"] is None


def test_problems_that_could_not_be_judged_are_left_out():
    pool = row(successes=(0, 1, 4), counts=[0, 1, 4])["pool"]
    assert (pool["ids"], pool["counts"]) == (["p2"], [4])
    assert pool["estimators"]["e0"]["mean"] == [0.8]
    assert pool["estimators"]["e0"]["results"] == {}  # one problem says nothing
    assert row(successes=(0, 0, 0), counts=[0, 0, 0])["pool"]["ids"] == []


def test_metrics_are_declared_and_leave_out_what_is_not_known():
    metrics = audit_metrics(row(unseen=asked([1, 3], [[0.2, 0.9], [0.4, 0.4]], prefix="u")))
    check_declared(metrics)
    assert metrics["audit/e0/brier"] == pytest.approx((0.05 - 1 / 12) / 3, abs=1e-6)
    assert metrics["audit/pass_rate"] == 0.5
    shares = [metrics[f"audit/{side}_band_share"] for side in ("below", "in", "above")]
    assert shares == pytest.approx([1 / 3, 1 / 3, 1 / 3])
    assert "audit/e1/spearman" not in metrics
    assert "audit/unseen/e1/coverage" in metrics
    assert not any(name.startswith("audit/unseen") for name in audit_metrics(row()))
    assert audit_metrics(row(successes=(0, 0, 0), counts=[0, 0, 0])) == {}


def test_twenty_audits_of_64_problems_and_9_estimators_stay_under_a_megabyte_even_indented():
    rng = np.random.default_rng(0)
    predicted = {f"estimator_{i}": Estimates(rng.random(64), rng.random(64) / 4, np.arange(64)) for i in range(9)}
    ids = [f"base_conversion-{i:016x}" for i in range(64)]
    pool = Asked(ids, rng.integers(0, 33, 64).tolist(), [32] * 64, predicted, 2048)
    one = audit_row(1, "hard", 5, 45, 45, pool, None, (0.2, 0.8), 10)
    assert 20 * len(json.dumps(one, indent=1)) < 1_000_000


def test_entries_are_the_audits_around_the_beginning_of_a_phase():
    rows = [row(phase=0, step=0), row(phase=0, step=10)]
    rows += [row(phase=1, step=step, total=10 + step) for step in (0, 5, 20)]
    rows += [row(phase=2, step=0, total=30)]
    first, second, third = entries(rows)
    assert (first.before, first.at, first.after, first.end) == (None, rows[0], rows[1], rows[1])
    assert (second.before, second.at, second.after, second.end) == (rows[1], rows[2], rows[3], rows[4])
    assert (third.before, third.at, third.after, third.end) == (rows[4], rows[5], None, None)
    assert entries([]) == []


def test_drift_of_a_phase_is_scaled_to_its_pool():
    # three of a pool of 100: the first enters from below, the second stays, the third leaves upwards
    rows = [row((0, 2, 3), step=0), row((2, 2, 4), step=10), row(phase=1, step=0, total=10)]
    first, second = phase_drifts(rows, 0.2, 0.8)
    seen = first.traffic()
    assert (seen["entered"], seen["left"]) == pytest.approx((100 / 3, 100 / 3))
    # given 2 of 8, (0, 2) of all 28 splits C(4,0) C(4,2) = 6 enter; given 7 of 8, (4, 3) half of them enter
    assert seen["noise_entered"] == pytest.approx((6 / 28 + 0.5) * 100 / 3)
    assert (seen["net"], seen["noise_net"]) == pytest.approx((0, 0))  # as many completions in both: no chance in it
    assert (seen["rose_in"], seen["rose_out"]) == pytest.approx((100 / 3 / 10, 100 / 3 / 10))
    assert first.shares == (pytest.approx((1 / 3, 2 / 3, 0)), pytest.approx((0, 2 / 3, 1 / 3)))
    assert (second.name, second.traffic(), second.half_life.steps) == ("phase 1", None, None)


def test_audits_between_change_only_what_is_between_neighbours():
    # the first problem goes in and out; the second enters for good
    ends = [row((0, 0, 2), step=0), row((0, 2, 2), step=10)]
    (few,), (many,) = (
        phase_drifts(rows, 0.2, 0.8)
        for rows in (ends, [ends[0], row((2, 2, 2), step=4), row((2, 2, 2), step=6), ends[1]])
    )
    one, other = few.traffic(), many.traffic()
    assert {name: one[name] for name in one if "neighbour" not in name} == {
        name: other[name] for name in other if "neighbour" not in name
    }
    assert (one["entered"], one["left"], one["net"]) == pytest.approx((100 / 3, 0, 100 / 3 / 10))
    assert (one["neighbour_entered"], one["neighbour_left"]) == pytest.approx((100 / 3, 0))
    assert (other["neighbour_entered"], other["neighbour_left"]) == pytest.approx((200 / 9, 100 / 9))


def test_drift_is_of_the_problems_that_every_audit_has():
    rows = [row((4, 4, 1), step=0), row((4, 0, 1), step=10, counts=[4, 0, 4])]
    (found,) = phase_drifts(rows, 0.2, 0.8)
    assert [each.problems for each in found.neighbours] == [2]
    assert found.steps == (0, 10)


def test_no_audits_no_drift():
    assert phase_drifts([], 0.2, 0.8) == []
