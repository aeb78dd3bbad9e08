"""Calls with a time limit: in any thread, after a hang, after a crash, and with nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ductile.domains.scorer import answer
from ductile.domains.timed import LibraryError, NotAnswered, Scorer

HANGS = "9**9**9**9"
"""A number that sympy would compute for longer than anyone waits."""


@pytest.fixture(scope="module")
def scorer() -> Iterator[Scorer]:
    scorer = Scorer()
    yield scorer
    scorer.close()


def equal(scorer: Scorer, expected: str, answer: str, limit_s: float = 30.0) -> bool:
    result = scorer.call("maths", "equal", {"expected": expected, "answer": answer}, limit_s)
    assert isinstance(result, bool)
    return result


def gone(pid: int, within_s: float = 10.0) -> bool:
    """Whether the process ends, all its threads; one that waits for its parent to collect it has ended."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            if state == "Z" and len(list(Path(f"/proc/{pid}/task").iterdir())) == 1:
                return True
        except OSError:
            return True
        time.sleep(0.02)
    return False


def test_a_call_that_hangs_ends_at_its_limit_in_any_thread_and_the_next_one_works(scorer: Scorer) -> None:
    def in_thread() -> tuple[str, float]:
        assert threading.current_thread() is not threading.main_thread()
        equal(scorer, "7", "7")  # start and load outside the measured time
        start = time.monotonic()
        with pytest.raises(NotAnswered) as caught:
            equal(scorer, "7", HANGS, limit_s=0.3)
        return str(caught.value), time.monotonic() - start

    with ThreadPoolExecutor(1) as pool:
        reason, seconds = pool.submit(in_thread).result()
    assert reason == "no result within 0.3 s"
    assert seconds < 5
    assert scorer.pid is None
    assert equal(scorer, "7", "7")


def test_a_child_killed_while_idle_is_replaced_without_losing_a_call(scorer: Scorer) -> None:
    equal(scorer, "7", "7")
    first = scorer.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    assert gone(first)
    assert equal(scorer, "7", "7")
    assert scorer.pid not in (None, first)


def test_a_child_killed_in_a_call_loses_that_call_alone(scorer: Scorer) -> None:
    equal(scorer, "7", "7")
    child = scorer.pid
    assert child is not None
    threading.Timer(0.2, os.kill, (child, signal.SIGKILL)).start()
    with pytest.raises(NotAnswered, match="the scoring process ended"):
        equal(scorer, "7", HANGS)
    assert equal(scorer, "7", "7")


def test_an_error_of_the_library_is_told_and_the_child_goes_on(scorer: Scorer) -> None:
    equal(scorer, "7", "7")
    child = scorer.pid
    with pytest.raises(LibraryError, match="ValueError: the expected answer '' cannot be read as mathematics"):
        equal(scorer, "", "7")
    assert scorer.pid == child
    assert equal(scorer, "7", "7")


def test_threads_each_get_their_own_result(scorer: Scorer) -> None:
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda n: equal(scorer, str(n % 3), str(n % 2)), range(60)))
    assert results == [n % 3 == n % 2 for n in range(60)]


@pytest.mark.parametrize("text", ["\ud800", "\x00", "a\nb\r\n", "\u2028", "π≈3", "7" * 300_000])
def test_any_text_travels_to_the_child_and_back(scorer: Scorer, text: str) -> None:
    with pytest.raises(LibraryError) as caught:
        scorer.call("maths", text[:20], {}, 30.0)  # named back in the error
    assert text[:5].splitlines()[0] in str(caught.value) or "has no attribute" in str(caught.value)
    assert scorer.call("maths", "equal", {"expected": "5", "answer": f"5 is not {text}"}, 30.0) in (True, False)


@pytest.mark.parametrize("busy", [False, True])
def test_the_child_ends_with_a_parent_that_is_killed(busy: bool) -> None:
    program = (
        "import os, signal, sys, threading\n"
        "from ductile.domains.timed import SCORER\n"
        "SCORER.call('maths', 'equal', {'expected': '7', 'answer': '7'}, 60)\n"
        "print(SCORER.pid, flush=True)\n"
        "threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGKILL)).start()\n"
        f"SCORER.call('maths', 'equal', {{'expected': '7', 'answer': {HANGS if busy else '7'!r}}}, 0.5)\n"
        "threading.Event().wait()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert gone(int(done.stdout), within_s=15.0)


def test_the_child_ends_when_its_process_ends() -> None:
    program = (
        "from ductile.domains.timed import SCORER\n"
        "SCORER.call('maths', 'equal', {'expected': '7', 'answer': '7'}, 60)\n"
        "print(SCORER.pid)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert gone(int(done.stdout))
    assert done.stderr == ""


def test_a_forked_process_starts_a_child_of_its_own() -> None:
    program = (
        "import os\n"
        "from ductile.domains.timed import SCORER\n"
        "equal = lambda: SCORER.call('maths', 'equal', {'expected': '7', 'answer': '7'}, 60)\n"
        "equal()\n"
        "parents = SCORER.pid\n"
        "forked = os.fork()\n"
        "right = equal() and (SCORER.pid == parents) == bool(forked)\n"
        "if forked == 0:\n"
        "    SCORER.close()\n"
        "    os._exit(0 if right else 1)\n"
        "print(right and os.waitstatus_to_exitcode(os.waitpid(forked, 0)[1]) == 0 and equal())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "True\n"


def test_replies_carry_results_and_errors() -> None:
    same = {"expected": "1/2", "answer": "0.5"}
    assert answer({"library": "maths"}) == {"result": None}
    assert answer({"library": "maths", "function": "equal", "arguments": same}) == {"result": True}
    assert answer({"library": "maths", "function": "equal", "arguments": {}})["error"].startswith("TypeError: ")
    assert answer({"library": "chemistry"}) == {"error": "KeyError: 'chemistry'"}
