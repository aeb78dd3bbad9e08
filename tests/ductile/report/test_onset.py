from dataclasses import replace

import pytest

from ductile.report.onset import onset, order
from ductile.report.records import PhaseBand, phase_bands

HARD = (PhaseBand("hard", 0, 10),)


def with_series(record, phases=HARD, **series):
    names = {
        "length": "rollout/length_mean",
        "shortcut": "shortcut/prior",
        "no_work": "shortcut/prior/no_work",
        "skipped": "shortcut/prior/skipped",
        "prior": "retention/prior",
    }
    return replace(record(), phases=phases, metrics={names[name]: values for name, values in series.items()})


def test_first_step_of_each_sign(record):
    found = onset(record())
    assert (found.shortcut, found.length, found.fall, found.fall_after) == (5, 4, 5, 0)


def test_length_must_reach_half_of_the_first_step(record):
    assert onset(with_series(record, length=[(1, 40.0), (2, 20.1)])).length is None
    assert onset(with_series(record, length=[(1, 40.0), (2, 20.1), (3, 20.0)])).length == 3


def test_shortcut_share_of_exactly_a_quarter_more_counts(record):
    assert onset(with_series(record, shortcut=[(0, 0.05), (2, 0.29)])).shortcut is None
    assert onset(with_series(record, shortcut=[(0, 0.05), (2, 0.30)])).shortcut == 2


def test_fall_of_exactly_ten_points_counts_and_knows_the_measurement_before(record):
    found = onset(with_series(record, prior=[(0, 0.9), (5, 0.85), (10, 0.8)]))
    assert (found.fall, found.fall_after) == (10, 5)


def test_each_phase_is_measured_against_its_own_beginning(record):
    # The second phase's problems are shorter from its first step on: that is the domain, not a collapse.
    two = (PhaseBand("long", 0, 2), PhaseBand("short", 2, 4))
    assert onset(with_series(record, two, length=[(1, 40.0), (2, 39.0), (3, 10.0), (4, 9.0)])).length is None
    assert onset(with_series(record, two, length=[(1, 40.0), (2, 39.0), (3, 10.0), (4, 5.0)])).length == 4


def test_fall_in_the_second_phase_is_against_the_boundary_between_them(record):
    two = (PhaseBand("a", 0, 2), PhaseBand("b", 2, 4))
    found = onset(with_series(record, two, prior=[(0, 0.9), (2, 0.85), (3, 0.8), (4, 0.7)]))
    assert (found.fall, found.fall_after) == (4, 3)


@pytest.mark.parametrize(
    ("updates", "fall", "fall_after", "expected"),
    [
        (5, 10, 5, "before"),
        (6, 10, 5, "unresolved"),
        (10, 10, 5, "unresolved"),
        (11, 10, 5, "after"),
        (3, None, None, "only_sign"),
        (None, 10, 5, "only_fall"),
        (None, None, None, "neither"),
    ],
)
def test_order_of_a_sign_and_the_fall(updates, fall, fall_after, expected):
    assert order(updates, fall, fall_after) == expected


def test_rollouts_of_a_step_show_the_policy_before_its_update(record):
    prior = [(0, 0.9), (5, 0.9), (10, 0.5)]
    assert onset(with_series(record, length=[(1, 40.0), (6, 9.0)], prior=prior)).length_order == "before"
    assert onset(with_series(record, length=[(1, 40.0), (7, 9.0)], prior=prior)).length_order == "unresolved"


def test_phase_bands_follow_each_other():
    assert phase_bands([{"name": "a", "steps": 3}, {"name": "b", "steps": 2}]) == (
        PhaseBand("a", 0, 3),
        PhaseBand("b", 3, 5),
    )


def test_phases_are_alike_by_domain_levels_and_steps_whatever_their_names():
    plan = [
        {"name": "a", "domain": "sum", "levels": [1, 2], "steps": 3},
        {"name": "b", "domain": "sum", "levels": [1, 2], "steps": 3},
        {"name": "c", "domain": "sum", "levels": [1, 2], "steps": 4},
        {"name": "d", "domain": "sum", "levels": [1], "steps": 3},
        {"name": "e", "domain": "sort", "levels": [1, 2], "steps": 3},
    ]
    first, *others = phase_bands(plan)
    assert [first.alike(other) for other in others] == [True, False, False, False]
    assert not PhaseBand("a", 0, 3).alike(PhaseBand("a", 0, 3))  # nothing is known of what they ask


def test_each_kind_of_shortcut_has_its_own_step_and_order(record):
    found = onset(
        with_series(
            record,
            no_work=[(0, 0.1), (2, 0.5), (5, 0.6)],
            skipped=[(0, 0.0), (2, 0.1), (5, 0.1), (8, 0.3)],
            prior=[(0, 0.9), (2, 0.85), (5, 0.7), (8, 0.6)],
        )
    )
    assert found.kinds == {"no_work": 2, "repeated": None, "skipped": 8}
    assert [found.kind_order(kind) for kind in found.kinds] == ["before", "only_fall", "after"]
