from dataclasses import replace

import pytest

from ductile.report.continual import (
    continual_curve,
    continual_curves,
    forward_transfer,
    kl_at_reward,
    matched_kls,
    mean_success,
    sequence_transfer,
    task_curve,
    transfers,
)
from ductile.report.records import PhaseBand

SORT = PhaseBand("sort", 0, 10, "sort", (1,))
SUM_AFTER = PhaseBand("sum up", 10, 20, "sum", (2, 3))
SUM_FIRST = PhaseBand("sum alone", 0, 10, "sum", (2, 3))
REVERSE, FORWARD = "drift/kl_reverse_base/new", "drift/kl_forward_base/new"


@pytest.fixture
def run(record):
    def make(plan, phases, seed=0, variant="grpo", **series):
        names = {"reverse": REVERSE, "forward": FORWARD, "rollouts": "rollout/pass_rate"}
        metrics = {names.get(name, f"retention_new/{name.replace('__', '/')}"): s for name, s in series.items()}
        return replace(record(variant, plan, seed), phases=phases, metrics=metrics)

    return make


def after(run, seed=0, rates=(0.1, 0.5, 0.9), **more):
    """Sort, then sum: by hand AUC = (0.1 + 2 x 0.5 + 0.9) / 4 = 0.5 with the default rates at steps 10, 15, 20."""
    series = [(0, 0.1), *zip((10, 15, 20), rates, strict=True)]
    return run("both", (SORT, SUM_AFTER), seed, sum_up__L2=series, sum_up__L3=series, **more)


def alone(run, seed=0, plan="sum", **more):
    """By trapezoids of unequal width AUC = (4 x 0.2 + 6 x 0.4) / 10 = 0.32."""
    series = [(0, 0.1), (4, 0.3), (10, 0.5)]
    return run(plan, (SUM_FIRST,), seed, sum_alone__L2=series, sum_alone__L3=series, **more)


def test_mean_success_weighs_each_span_by_its_length():
    assert mean_success([(10, 0.0), (11, 1.0), (20, 1.0)]) == pytest.approx((0.5 + 9) / 10)


def test_forward_transfer_is_the_share_of_what_was_left_to_gain():
    assert forward_transfer(0.7, 0.4) == pytest.approx(0.5)
    assert forward_transfer(0.4, 0.7) == pytest.approx(-1.0)
    assert forward_transfer(0.9, 1.0) is None


def test_transfer_compares_the_later_phase_with_the_run_that_learned_it_first(run):
    records = [after(run, 0), after(run, 1, (0.3, 0.7, 0.9)), alone(run, 0), alone(run, 1)]
    [row] = transfers(records, "both", "grpo")
    assert (row.phase.name, row.reference, row.source) == ("sum up", ("sum",), "evaluation")
    assert row.values == pytest.approx({0: (0.5 - 0.32) / 0.68, 1: (0.65 - 0.32) / 0.68})


def test_reference_is_of_the_same_variant_and_seed_and_asks_the_same(run):
    others = [
        alone(run, seed=1),
        replace(alone(run), variant="proxy"),
        replace(alone(run), phases=(replace(SUM_FIRST, levels=(2,)),)),
        replace(alone(run), phases=(replace(SUM_FIRST, end=9),)),
    ]
    [row] = transfers([after(run), *others], "both", "grpo")
    assert (row.reference, row.values) == ((), {})


def test_longer_plan_that_begins_with_the_phase_is_a_reference_too_but_the_shortest_is_taken(run):
    longer = replace(alone(run, plan="long"), phases=(SUM_FIRST, replace(SORT, start=10, end=20)))
    assert transfers([after(run), longer], "both", "grpo")[0].reference == ("long",)
    assert transfers([after(run), longer, alone(run)], "both", "grpo")[0].reference == ("sum",)


def test_rollouts_stand_in_on_both_sides_where_one_phase_has_few_evaluations(run):
    rollouts = [(step, 0.9 if step <= 10 else 0.6) for step in range(1, 21)]  # those of the phase are 0.6
    few = run("both", (SORT, SUM_AFTER), 0, sum_up__L2=[(0, 0.1), (10, 0.1), (20, 0.9)], rollouts=rollouts)
    fresh = alone(run, rollouts=[(step, 0.2) for step in range(1, 11)])
    [row] = transfers([few, fresh], "both", "grpo")
    assert (row.source, row.values) == ("rollouts", {0: pytest.approx((0.6 - 0.2) / 0.8)})


def test_evaluations_that_do_not_span_the_phase_are_not_its_area(run):
    late = after(run, rates=(0.1, 0.5, 0.9), rollouts=[(15, 0.6)])
    late.metrics["retention_new/sum_up/L2"].pop(1)
    late.metrics["retention_new/sum_up/L3"] = [(12, 0.1), (15, 0.5), (20, 0.9)]
    [row] = transfers([late, alone(run, rollouts=[(5, 0.2)])], "both", "grpo")
    assert row.source == "rollouts"


def test_sequence_mean_is_over_seeds_that_have_every_later_phase(run):
    [row] = transfers([after(run, 0), after(run, 1), alone(run, 0), alone(run, 1)], "both", "grpo")
    other = replace(row, values={1: 1.0})
    assert sequence_transfer([row, other]) == pytest.approx({1: (row.values[1] + 1.0) / 2})
    assert sequence_transfer([]) == {}


def test_task_curve_is_the_mean_over_levels_where_all_were_measured(run):
    record = run("both", (SORT, SUM_AFTER), sum_up__L2=[(0, 0.2), (5, 0.4)], sum_up__L3=[(0, 0.4)], sum__L1=[(0, 1.0)])
    assert task_curve(record, SUM_AFTER) == [(0, pytest.approx(0.3))]


def test_continual_curve_is_per_cent_of_the_way_to_the_best():
    assert continual_curve([(0, 0.2), (5, 0.5), (9, 0.1)], 0.2, 0.8) == [
        (0, 0.0),
        (5, pytest.approx(50.0)),
        (9, pytest.approx(-100 / 6)),
    ]
    assert continual_curve([(0, 0.2)], 0.2, 0.2199) is None


def test_best_is_any_variants_during_the_tasks_own_stage(run):
    # sort's own stage is steps 1 to 10: best 0.6, by the other variant; 0.9 at step 20 is not in it.
    first = [(0, 0.2), (10, 0.4), (20, 0.9)]
    phases = (SORT, SUM_AFTER)
    records = [
        run("both", phases, 0, sort__L1=first),
        run("both", phases, 1, sort__L1=[(0, 0.2), (10, 0.5), (20, 0.1)]),  # the mean at 20 is 0.5
        run("both", phases, 0, "proxy", sort__L1=[(0, 0.2), (10, 0.6), (20, 0.3)]),
    ]
    found = continual_curves(records, "both", ("grpo", "proxy"))
    assert found["grpo"] == [(0, [(0, 0.0), (10, pytest.approx(62.5)), (20, pytest.approx(75.0))])]
    assert found["proxy"] == [(0, [(0, 0.0), (10, pytest.approx(100.0)), (20, pytest.approx(25.0))])]


def test_kl_is_interpolated_at_the_first_crossing():
    assert kl_at_reward([0.1, 0.3, 0.2, 0.6], [0.0, 0.4, 0.5, 0.9], 0.2) == pytest.approx(0.2)
    assert kl_at_reward([0.1, 0.3, 0.2, 0.6], [0.0, 0.4, 0.5, 0.9], 0.5) == pytest.approx(0.5 + 0.4 * 0.75)
    assert kl_at_reward([0.4, 0.3], [0.07, 0.4], 0.4) == 0.07
    assert kl_at_reward([0.1, 0.3], [0.0, 0.4], 0.31) is None
    assert kl_at_reward([], [], 0.1) is None


def learned(run, variant, rates, kls, seed=0):
    steps = (0, 5, 10)
    curve = list(zip(steps, rates, strict=True))
    kl = list(zip(steps, kls, strict=True))
    return run("sort", (SORT,), seed, variant, sort__L1=curve, reverse=kl, forward=[(s, 2 * v) for s, v in kl])


def test_kl_is_matched_at_the_pass_rate_that_every_variant_reached(run):
    records = [
        learned(run, "grpo", (0.1, 0.5, 0.9), (0.0, 0.2, 0.6)),
        learned(run, "proxy", (0.1, 0.7, 0.6), (0.0, 0.06, 0.1)),
    ]
    grpo, proxy = matched_kls(records, "sort", ("grpo", "proxy"))
    assert (grpo.target, proxy.target, grpo.start, grpo.points) == (0.7, 0.7, 0.1, 3)
    assert grpo.reverse == pytest.approx({0: 0.4})
    assert grpo.forward == pytest.approx({0: 0.8})
    assert proxy.reverse == pytest.approx({0: 0.06})


def test_target_is_of_the_mean_curve_and_a_run_below_it_is_left_out(run):
    records = [
        learned(run, "grpo", (0.1, 0.3, 0.4), (0.0, 0.1, 0.2), seed=0),
        learned(run, "grpo", (0.1, 0.3, 0.8), (0.0, 0.1, 0.2), seed=1),  # the mean reaches 0.6
        learned(run, "proxy", (0.1, 0.9, 0.9), (0.0, 0.1, 0.2)),
    ]
    grpo, _ = matched_kls(records, "sort", ("grpo", "proxy"))
    assert grpo.target == pytest.approx(0.6)
    assert grpo.reverse == pytest.approx({1: 0.1 + 0.1 * 0.3 / 0.5})


def test_nothing_is_matched_with_one_variant_or_without_kl(run):
    one = learned(run, "grpo", (0.1, 0.5, 0.9), (0.0, 0.2, 0.6))
    without = run("sort", (SORT,), 0, "proxy", sort__L1=[(0, 0.1), (10, 0.9)])
    assert matched_kls([one], "sort", ("grpo",)) == []
    assert matched_kls([one, without], "sort", ("grpo", "proxy")) == []
