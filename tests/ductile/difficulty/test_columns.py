"""A column that grows: the rows of one list, and no more copying than rows."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ductile.difficulty.columns import Column


@given(st.lists(st.one_of(st.tuples(st.integers(0, 9), st.integers(-5, 5)), st.lists(st.integers(-5, 5), max_size=9))))
def test_it_holds_what_was_appended(appended: list[tuple[int, int] | list[int]]) -> None:
    made, expected = Column(np.int32), []  # type: ignore[var-annotated]
    for more in appended:
        if isinstance(more, tuple):
            made.grow(*more)
            expected += [more[1]] * more[0]
        else:
            made.extend(np.array(more, np.int32))
            expected += more
    assert made.values.tolist() == expected and len(made) == len(expected)
    assert made.values.dtype == np.int32


def test_rows_of_several_numbers() -> None:
    made = Column(np.float64, 2)
    made.grow(2, (1.0, 2.0))
    made.values[1] = 5.0
    assert made.values.tolist() == [[1, 2], [5, 5]]


def test_what_it_becomes_is_a_copy() -> None:
    made, given = Column(np.float64), np.array([1.0, 2.0])
    made.become(given)
    made.values[0] = 7
    made.grow(1, 3.0)
    assert given.tolist() == [1, 2] and made.values.tolist() == [7, 2, 3]


def test_growth_by_one_row_at_a_time_moves_the_rows_seldom() -> None:
    made, places = Column(np.int64), set()
    for row in range(10_000):
        made.grow(1, row)
        places.add(made.values.__array_interface__["data"][0])
    assert len(places) < 30  # log(10,000) / log(1.5) = 23, and the first few rows
