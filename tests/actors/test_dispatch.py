"""Calls on actors that die, hang, dawdle and join, in virtual time: every one is answered, once, in order, in time."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from math import inf
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.dispatch import Dispatcher, Ended, Handle, LostCall
from actors.ray_transport import RayTransport
from benchmarks.simulated import Simulated, Work
from ductile.config import RolloutSettings
from ductile.trace import tracing

SETTINGS = RolloutSettings(hedge=5.0, timeout_s=100.0, patience_s=50.0, retries=3)


def call(answer: Any, seconds: float = 1.0) -> Work:
    return lambda actor: (seconds, answer)


def run(transport: Simulated, calls: list[Work], **values: Any) -> tuple[list[Any], Dispatcher[str]]:
    dispatcher = Dispatcher(transport, RolloutSettings(**{**vars(SETTINGS), **values}))
    return dispatcher.run(calls), dispatcher


def test_more_parts_than_actors_are_pulled_by_whoever_is_free() -> None:
    transport = Simulated(["a", "b"])
    transport.actors["b"].slow = 3.0
    answers, dispatcher = run(transport, [call(number) for number in range(8)])
    assert answers == list(range(8))
    assert [actor for _, actor in transport.begun].count("a") == 6  # 6 s of one second each, and 2 of three
    assert transport.clock == pytest.approx(6.0, abs=0.1)
    assert dispatcher.counts == {}


def test_trace_shows_each_actors_calls_on_a_lane_of_its_own(tmp_path: Path) -> None:
    transport = Simulated(["a", "b"])
    transport.at(1.5, lambda: transport.die("b"))
    with tracing(tmp_path / "trace.json"):
        run(transport, [call(1), call(2), call(3, seconds=2.0), call(4, seconds=2.0)])
    events = json.loads((tmp_path / "trace.json").read_text())
    lanes = {event["tid"]: event["args"]["name"] for event in events if event["name"] == "thread_name"}
    made = [(lanes[event["tid"]], event["name"], round(event["dur"] / 1e6)) for event in events if event["ph"] == "X"]
    assert sorted(made)[:2] == [("rollout actor 0", "call", 1), ("rollout actor 0", "call", 2)]
    assert ("rollout actor 1", "call lost", 0) in made or ("rollout actor 1", "call lost", 1) in made
    assert [name for _, name, _ in made].count("call") == 4


def test_own_actors_are_asked_and_others_left_alone() -> None:
    transport = Simulated(["a"], ["x", "y"])
    run(transport, [call(number) for number in range(3)])
    assert {actor for _, actor in transport.begun} == {"a"}


def test_call_on_an_actor_that_dies_is_made_again_on_another_runs_actor() -> None:
    transport = Simulated(["a"], ["x"])
    transport.at(0.5, lambda: transport.die("a"))
    answers, dispatcher = run(transport, [call("answer")])
    assert answers == ["answer"] and [actor for _, actor in transport.begun] == ["a", "x"]
    assert dispatcher.counts == {"retried": 1}


def test_waiting_for_actors_that_start_again_uses_up_no_try() -> None:
    transport = Simulated(["a", "b"])
    for actor in transport.actors.values():
        actor.restart_s = 40.0
    dispatcher = Dispatcher(transport, RolloutSettings(**{**vars(SETTINGS), "retries": 0}))
    assert dispatcher.run([call(1), call(2)]) == [1, 2]
    transport.die("a"), transport.die("b")
    assert dispatcher.run([call(3), call(4)]) == [3, 4]
    assert 40 < transport.clock < 52
    assert transport.waits < 80  # probes come ever more rarely


def test_without_any_actor_it_ends_by_name_after_the_patience() -> None:
    transport = Simulated(["a"])
    transport.actors["a"].restart_s = inf
    transport.die("a")
    with pytest.raises(LostCall, match=r"none of 1 rollout actors was alive for rollout.patience_s=50 s"):
        run(transport, [call(1)])
    assert transport.clock == pytest.approx(50.0)


def test_call_that_kills_every_actor_ends_by_name() -> None:
    transport = Simulated(["a", "b", "c"])

    def poison(actor: str) -> tuple[float, Any]:
        transport.at(transport.clock + 1, lambda: transport.die(actor))
        return inf, None

    with pytest.raises(LostCall, match=r"lost 4 times \(rollout.retries=3"):
        run(transport, [poison])
    assert len(transport.begun) == 4


def test_call_that_hangs_costs_its_actor_its_life_and_is_made_again() -> None:
    transport, hung = Simulated(["a", "b"]), []

    def once(actor: str) -> tuple[float, Any]:
        hung.append(actor)
        return (inf if len(hung) == 1 else 1.0), "late"

    answers, dispatcher = run(transport, [once], hedge=0.0)
    assert answers == ["late"] and transport.killed == hung[:1] and hung[1] != hung[0]
    assert transport.clock == pytest.approx(101.0, abs=0.1) and dispatcher.counts == {"retried": 1}


def test_straggler_is_begun_on_a_free_actor_and_the_first_answer_wins() -> None:
    transport = Simulated(["a", "b", "c"])
    transport.actors["b"].slow = 60.0
    answers, dispatcher = run(transport, [call(number) for number in range(3)])
    assert answers == [0, 1, 2] and dispatcher.counts == {"hedged": 1}
    assert transport.clock == pytest.approx(6.0, abs=0.1)  # 5 times the median of 1 s, and the call itself
    before = len(transport.begun)
    dispatcher.run([call(number) for number in range(2)])  # b still works on what nobody wants
    assert {actor for _, actor in transport.begun[before:]} == {"a", "c"}


def test_actor_that_never_ends_what_another_answered_is_killed() -> None:
    transport = Simulated(["a", "b"])
    transport.actors["b"].slow = inf
    _, dispatcher = run(transport, [call(number) for number in range(2)])
    transport.actors["b"].slow = 1.0
    while transport.clock < 110:
        dispatcher.run([call(0)])
    assert transport.killed == ["b"]
    dispatcher.run([call(0), call(1)])
    assert transport.begun[-1][1] == "b"


def test_short_calls_are_not_begun_twice_for_a_hiccup() -> None:
    transport = Simulated(["a", "b", "c"])
    transport.actors["b"].slow = 20.0
    _, dispatcher = run(transport, [call(number, 0.01) for number in range(3)])
    assert dispatcher.counts == {}


@pytest.mark.parametrize(("hedge", "allowed"), [(0.0, True), (0.5, False), (1.0, True)])
def test_hedging_calls_that_are_quicker_than_most_is_refused(hedge: float, allowed: bool) -> None:
    said = list(RolloutSettings(hedge=hedge).check())
    assert said == [] if allowed else "hedge: 0.5" in said[0] and "allowed: 0, or 1 and more" in said[0]


def test_actor_that_starts_late_blocks_no_call_and_takes_part_later() -> None:
    transport = Simulated(["a"])
    transport.join("late", pending_s=30.0)
    answers, dispatcher = run(transport, [call(number) for number in range(3)])
    assert answers == [0, 1, 2] and {actor for _, actor in transport.begun} == {"a"} and transport.clock < 4
    assert dispatcher.alive() == 1
    dispatcher.run([call(number) for number in range(60)])
    assert "late" in {actor for _, actor in transport.begun} and dispatcher.alive() == 2


def test_actor_that_leaves_is_asked_no_more() -> None:
    transport = Simulated(["a", "b"])
    transport.at(0.5, lambda: transport.leave("b"))
    answers, _ = run(transport, [call(number) for number in range(4)])
    assert answers == [0, 1, 2, 3] and [actor for when, actor in transport.begun if when > 0.5] == ["a"] * 3


def test_error_inside_a_call_is_raised_as_it_is_and_not_tried_again() -> None:
    transport, error = Simulated(["a", "b"]), ValueError("wrong")
    with pytest.raises(ValueError, match="wrong") as caught:
        run(transport, [call(error), call(1, 9.0)])
    assert caught.value is error and len(transport.begun) == 2


class Together(Simulated):
    """For batches that threads make: one thread works at a time, and time goes on when all of them wait."""

    def __init__(self, own: Sequence[str], others: Sequence[str] = ()) -> None:
        super().__init__(own, others)
        self._working = threading.Condition()
        self._threads, self._next_thread = 0, 0
        self._ends: dict[int, float] = {}  # of the waits, by thread

    def wait(self, handles: Sequence[Handle], timeout_s: float) -> list[tuple[Handle, Ended]]:
        me, end = threading.get_ident(), self.clock + timeout_s
        while self.clock < end and not any(handle in self._ended for handle in handles):
            self._ends[me] = end
            if len(self._ends) < self._threads:
                self._working.wait(20)
                continue
            super().wait([], min([*self._ends.values(), *(when for when, *_ in self._events[:1])]) - self.clock)
            self._ends.clear()  # all look again
            self._working.notify_all()
        self._ends.pop(me, None)
        return [(handle, self._ended[handle]) for handle in handles if handle in self._ended]  # all hear of a probe

    def run(self, works: Sequence[Callable[[], Any]]) -> list[tuple[float, Any]]:
        """When each of the works ended and what it returned; they begin in order."""
        results: dict[int, tuple[float, Any]] = {}

        def work(place: int) -> None:
            with self._working:
                self._working.wait_for(lambda: self._next_thread == place)
                self._next_thread += 1
                self._working.notify_all()
                try:
                    value = works[place]()
                    results[place] = self.clock, value
                finally:
                    self._threads -= 1
                    self._working.notify_all()

        self._threads, self._next_thread = len(works), 0
        threads = [threading.Thread(target=work, args=(place,), daemon=True) for place in range(len(works))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        return [results[place] for place in range(len(works))]


def batches(transport: Together, calls: Sequence[Sequence[Work]], **values: Any) -> tuple[list[Any], Dispatcher[str]]:
    dispatcher = Dispatcher(transport, RolloutSettings(**{**vars(SETTINGS), **values}))
    return transport.run([lambda each=each: dispatcher.run(each) for each in calls]), dispatcher


def test_batches_that_wait_for_one_another_seem_neither_to_hang_nor_to_dawdle() -> None:
    transport = Together(["a"])
    ended, dispatcher = batches(transport, [[call(number, 0.5)] for number in range(9)], timeout_s=1.2)
    assert [answer for _, answer in ended] == [[number] for number in range(9)]
    assert transport.killed == [] and dispatcher.counts == {}
    assert [when for when, _ in ended] == sorted(when for when, _ in ended)  # the oldest first
    assert transport.clock < 9 * 0.55


def test_actors_of_batches_at_a_time_have_one_call_each_and_none_is_idle() -> None:
    transport = Together(["a", "b"])
    transport.actors["b"].slow = 3.0
    ended, dispatcher = batches(transport, [[call((part, each)) for each in range(2)] for part in range(4)])
    assert [answer for _, answer in ended] == [[(part, 0), (part, 1)] for part in range(4)]
    assert transport.killed == [] and dispatcher.counts == {} and transport.clock < 6.3
    assert max(len(actor.queue) for actor in transport.actors.values()) == 0


def test_straggler_is_begun_again_before_a_later_batch_is_given_the_actor() -> None:
    transport = Together(["a", "b"])
    transport.actors["b"].slow = inf
    first, later = [call(number) for number in range(3)], [call(number) for number in range(30)]
    ((when, answer), _), dispatcher = batches(transport, [first, later])
    assert answer == [0, 1, 2] and when < 9 and dispatcher.counts["hedged"] >= 1


def test_batches_at_a_time_live_through_an_actors_death() -> None:
    transport = Together(["a", "b"])
    transport.at(2.5, lambda: transport.die("a"))
    ended, dispatcher = batches(transport, [[call((part, each)) for each in range(3)] for part in range(5)], retries=1)
    assert [answer for _, answer in ended] == [[(part, each) for each in range(3)] for part in range(5)]
    assert dispatcher.counts == {"retried": 1}  # one call was on it, and none in its queue


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_every_call_is_answered_once_in_order_and_in_bounded_time(data: st.DataObject) -> None:
    names = [f"a{number}" for number in range(data.draw(st.integers(1, 5), label="actors"))]
    transport = Simulated(names, [f"x{number}" for number in range(data.draw(st.integers(0, 2), label="others"))])
    for actor in transport.actors.values():
        actor.restart_s = data.draw(st.floats(0.5, 20.0), label="restart")
        actor.slow = data.draw(st.sampled_from([1.0, 1.0, 1.0, 2.0, 15.0]), label="slow")
    deaths = data.draw(st.lists(st.tuples(st.floats(0, 60), st.sampled_from([*transport.actors])), max_size=8))
    for when, name in deaths:
        transport.at(when, lambda name=name: transport.die(name))
    joins = data.draw(st.lists(st.tuples(st.floats(0, 60), st.floats(0, 100)), max_size=3), label="joins")
    for number, (when, pending) in enumerate(joins):
        transport.at(when, lambda n=number, p=pending: transport.join(f"j{n}", p))
    dispatcher = Dispatcher(transport, RolloutSettings(**{**vars(SETTINGS), "retries": 20, "patience_s": 300.0}))
    for count in data.draw(st.lists(st.integers(1, 12), min_size=1, max_size=4), label="batches"):
        before, waits = transport.clock, transport.waits
        seconds = [data.draw(st.floats(0.01, 5.0)) for _ in range(count)]
        answers = dispatcher.run([call(number, each) for number, each in enumerate(seconds)])
        assert answers == list(range(count))
        # Alone on the slowest actor that there is, with every death striking the longest call.
        assert transport.clock - before <= 100 * count + 8 * (100 + 30) + 100
        turns = count + sum(dispatcher.counts.values()) + len(deaths) + 2 * len(joins) + len(transport.actors)
        idle = (transport.clock - before) / 2  # probes of those that are away
        assert transport.waits - waits <= 20 + 6 * turns + 2 * idle * len(transport.actors)


def test_batch_that_waits_for_an_actor_hears_at_once_that_one_is_free() -> None:
    transport = RayTransport(["a"], each=1, slot=0, roster=None)  # type: ignore[list-item]
    waiting = threading.Thread(target=transport.wait, args=([], 60.0))
    waiting.start()
    transport.freed()
    waiting.join(10.0)
    assert not waiting.is_alive()
