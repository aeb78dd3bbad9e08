"""The live display: what it says of runs, in a terminal and in plain lines."""

from __future__ import annotations

import threading

import pytest
from rich.console import Console

from jobs import display
from jobs.display import Watch, duration, line, table

GOING = {
    "run_id": "a",
    "name": "proxy guessable seed 0",
    "kind": "run",
    "status": "RUNNING",
    "phase": "hard",
    "step": 10,
    "steps": 40,
    "pass_rate": 0.125,
    "drift": 0.00123,
    "tokens_per_s": 12345.6,
}


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0s"), (59.6, "1m00s"), (190, "3m10s"), (3600, "1h00m"), (7500, "2h05m")]
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_time_left_goes_by_the_steps_since_it_was_first_seen() -> None:
    watch = Watch()
    assert watch.rows([GOING], now=100.0)[0]["left_s"] is None
    (row,) = watch.rows([{**GOING, "step": 20}], now=130.0)  # ten steps in thirty seconds, twenty to go
    assert row["left_s"] == pytest.approx(60.0)


def test_runs_that_ended_or_have_not_begun_and_the_comparison_itself_are_no_rows() -> None:
    others = [
        {**GOING, "status": "FINISHED"},
        {**GOING, "kind": "compare"},
        {"run_id": "b", "name": "b", "kind": "run", "status": "RUNNING"},
    ]
    assert Watch().rows(others, now=0.0) == []


def test_summary_counts_the_runs() -> None:
    live = [{**GOING, "status": status} for status in ("FINISHED", "FINISHED", "FAILED", "RUNNING")]
    assert Watch(total=9).summary(live) == "2 of 9 runs done, 1 failed, 1 going on"


def test_plain_line_has_everything_that_is_known() -> None:
    assert line({**GOING, "left_s": 95.0}) == (
        "proxy guessable seed 0: hard  step 10/40  pass rate 0.12  drift 0.0012  tokens/s 12,346  left 1m35s"
    )
    assert line({**GOING, "status": "FAILED"}) == "proxy guessable seed 0: failed"


@pytest.mark.parametrize("width", [60, 80, 200])
def test_table_fits_the_terminal(width: int) -> None:
    console = Console(width=width, record=True, file=None, force_terminal=False)
    with console.capture() as captured:
        console.print(table([GOING], now=0.0))
    assert all(len(text) <= width for text in captured.get().splitlines())
    assert "10/40" in captured.get()


def test_plain_lines_tell_how_a_run_ended_even_when_the_job_ends_with_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = [{**GOING, "status": "FINISHED"}, {**GOING, "run_id": "p", "name": "all", "kind": "compare"}]
    fine = {"pending": 0, "pending_s": 0.0}
    looks = [(None, None), (ended, fine)]  # the tracker does not answer the first look
    monkeypatch.setattr(display, "_ask", lambda tracker: looks.pop(0))
    monkeypatch.setattr(display, "REFRESH_S", 0.01)
    done = threading.Event()
    monkeypatch.setattr(done, "wait", lambda seconds: len(looks) == 1)
    display._plain(None, done)
    assert capsys.readouterr().err == "proxy guessable seed 0: finished\n"
