"""Who joins and leaves as nodes come and go."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from actors.roster import Node, Seat, changes


def test_room_on_a_new_node_is_shared_by_the_runs() -> None:
    joining, leaving = changes([Node("n", 3)], [], runs=2, extra=4)
    assert joining == [Seat(0, "n"), Seat(1, "n"), Seat(0, "n")] and leaving == []


def test_no_run_gets_more_than_it_may_have() -> None:
    joining, _ = changes([Node("n", 8)], [Seat(0, "n")], runs=2, extra=1)
    assert joining == [Seat(1, "n")]


def test_actors_leave_with_their_node_and_others_take_their_place_elsewhere() -> None:
    joining, leaving = changes([Node("new", 1)], [Seat(0, "gone"), Seat(1, "gone")], runs=2, extra=1)
    assert leaving == [Seat(0, "gone"), Seat(1, "gone")] and joining == [Seat(0, "new")]


def test_node_that_is_full_takes_no_more() -> None:
    assert changes([Node("n", 1)], [Seat(0, "n")], runs=1, extra=5) == ([], [])


@given(
    rooms=st.lists(st.integers(0, 4), max_size=4),
    gone=st.lists(st.integers(0, 2), max_size=3),
    runs=st.integers(1, 3),
    extra=st.integers(1, 5),
)
def test_looking_again_changes_nothing_and_all_room_that_may_be_is_taken(
    rooms: list[int], gone: list[int], runs: int, extra: int
) -> None:
    nodes = [Node(f"n{number}", room) for number, room in enumerate(rooms)]
    joining, leaving = changes(nodes, [Seat(slot % runs, "gone") for slot in gone], runs, extra)
    assert len(leaving) == len(gone) and len(joining) == min(sum(rooms), runs * extra)
    assert changes(nodes, joining, runs, extra) == ([], [])
    held = Counter(seat.slot for seat in joining)
    assert max(held.values(), default=0) - min((held[slot] for slot in range(runs)), default=0) <= 1
