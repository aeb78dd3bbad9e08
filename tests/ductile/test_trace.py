"""Spans: that they nest and add up, what the file is to Perfetto, what a kill leaves of it, and that off is off."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ductile import trace
from ductile.trace import listening, record, span, spans, tracing


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A second goes by at each look."""
    ticks = itertools.count(100.0)
    monkeypatch.setattr(trace, "_clock", lambda: next(ticks))
    return


def events(path: Path) -> list[dict[str, Any]]:
    """The complete events, in the order of the file, after a look at what every event must have."""
    found: list[dict[str, Any]] = json.loads(path.read_text())
    for event in found:
        assert {"name", "ph", "pid", "tid"} <= event.keys() and event["ph"] in "XM"
        assert ("ts" in event and event["dur"] >= 0) if event["ph"] == "X" else event["args"]["name"]
    return [event for event in found if event["ph"] == "X"]


def lanes(path: Path) -> dict[int, str]:
    named = [event for event in json.loads(path.read_text()) if event["name"] == "thread_name"]
    return {event["tid"]: event["args"]["name"] for event in named}


def test_spans_nest_and_add_up(tmp_path: Path, clock: None) -> None:
    with tracing(tmp_path / "trace.json"), span("step", step=3) as step, span("update") as update:
        done = [number * 2 for number in spans("pass", range(2))]
    assert done == [0, 2] and (step.seconds, update.seconds) == (7.0, 5.0)
    first, second, inner, outer = events(tmp_path / "trace.json")
    assert [each["name"] for each in (first, second, inner, outer)] == ["pass", "pass", "update", "step"]
    assert [each["dur"] / 1e6 for each in (first, second, inner, outer)] == [1, 1, 5, 7]
    assert outer["args"] == {"step": 3}
    for within, around in ((first, inner), (second, inner), (inner, outer)):
        assert around["ts"] < within["ts"] and within["ts"] + within["dur"] < around["ts"] + around["dur"]
    assert first["ts"] + first["dur"] < second["ts"]
    assert {each["tid"] for each in (first, second, inner, outer)} == {0}
    assert lanes(tmp_path / "trace.json") == {0: "run"}


def test_threads_and_actors_have_lanes_of_their_own(tmp_path: Path) -> None:
    def work() -> None:
        with span("checkpoint written"):
            pass

    with tracing(tmp_path / "trace.json"), span("step"):
        record("call", 1.0, 3.5, "rollout actor 0")
        thread = threading.Thread(target=work, name="checkpoint")
        thread.start()
        thread.join()
    call, written, step = events(tmp_path / "trace.json")
    named = lanes(tmp_path / "trace.json")
    assert [named[each["tid"]] for each in (call, written, step)] == ["rollout actor 0", "checkpoint", "run"]
    assert call["dur"] == 2.5e6


def test_what_is_not_listened_to_is_measured_and_not_written(tmp_path: Path, clock: None) -> None:
    with tracing(tmp_path / "trace.json"):
        for step in range(3):
            with listening(step < 1), span("step", step=step) as each:
                pass
            assert each.seconds == 1.0
        with span("probes"):
            pass
    assert [each["name"] for each in events(tmp_path / "trace.json")] == ["step", "probes"]


def test_off_writes_nothing_and_an_error_goes_through(tmp_path: Path) -> None:
    with pytest.raises(KeyError), span("step"):
        raise KeyError
    with listening(True):
        record("call", 0.0, 1.0, "rollout actor 0")
    assert list(tmp_path.iterdir()) == []


def test_killed_process_leaves_what_it_did_and_the_next_one_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    made = trace.Trace(path)
    made.write("step", 1.0, 2.0, "run", {})
    left = path.read_text()  # every line is flushed; the array is not closed
    assert [each["name"] for each in json.loads(left + "]")] == ["process_name", "thread_name", "step"]
    for cut in (left, left + ',\n{"name": "st', left + "\n]\n"):  # killed between lines, within one, or not at all
        path.write_text(cut)
        with tracing(path), span("later"):
            pass
        assert [each["name"] for each in events(path)] == ["step", "later"]
