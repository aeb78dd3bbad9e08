"""Calls with a time limit: in any thread, after a hang, after a crash, and with nothing left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ductile.domains.scorer import answer
from ductile.domains.timed import LibraryError, NotAnswered, Scorer, _Child, environment

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


def test_a_call_whose_child_is_killed_is_made_again(scorer: Scorer) -> None:
    equal(scorer, "7", "7")
    child = scorer.pid
    assert child is not None
    threading.Timer(0.3, os.kill, (child, signal.SIGKILL)).start()
    begun = time.monotonic()
    with pytest.raises(NotAnswered, match="no result within 1 s"):
        equal(scorer, "8", HANGS, limit_s=1.0)
    assert time.monotonic() - begun > 1.2
    assert equal(scorer, "7", "7")
    assert scorer.pid not in (None, child)


def test_a_call_whose_child_stands_still_is_made_again(scorer: Scorer) -> None:
    equal(scorer, "7", "7")
    child = scorer.pid
    assert child is not None
    os.kill(child, signal.SIGSTOP)
    assert equal(scorer, "9", "9", limit_s=5.0)
    assert scorer.pid not in (None, child) and gone(child)


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


POISON = {
    "tower": "9**9**9**9",
    "latex tower": r"\boxed{9^{9^{9^{9}}}}",
    "factorials": "(((((9!)!)!)!)!)",
    "nested": "(" * 20_000 + "1" + ")" * 20_000,
    "nested latex": r"\frac{1}{" * 4_000 + "1" + "}" * 4_000,
    "digits": "7" * 900_000,
    "equation": "x^2+" * 5_000 + "1",
    "spaces": " " * 900_000 + "x",
    "braces": "{" * 50_000,
    "zeros": "\x00" * 100_000,
    "surrogates": "\ud800" * 100_000,
    "right to left": "\u202e\u0000\u2028" * 1_000,
}


@pytest.mark.parametrize("name", POISON)
def test_poisonous_answer_costs_at_most_its_limit_and_the_next_is_judged(scorer: Scorer, name: str) -> None:
    equal(scorer, "7", "7")
    begun = time.monotonic()
    with contextlib.suppress(NotAnswered):
        assert not equal(scorer, "5", POISON[name], limit_s=0.5)
    assert time.monotonic() - begun < 20
    assert equal(scorer, "7", "7") and not equal(scorer, "7", "8")


def test_ten_megabytes_are_refused_before_anything_reads_them(scorer: Scorer) -> None:
    equal(scorer, "7", "7")
    child = scorer.pid
    with pytest.raises(NotAnswered, match="allowed: at most"):
        equal(scorer, "7", "7" * 10_000_000)
    assert scorer.pid == child


def test_arguments_that_failed_twice_are_not_tried_again() -> None:
    scorer = Scorer()
    try:
        equal(scorer, "7", "7")
        for _ in range(2):
            with pytest.raises(NotAnswered, match="no result within"):
                equal(scorer, "7", HANGS, limit_s=0.3)
        begun = time.monotonic()
        for _ in range(100):
            with pytest.raises(NotAnswered, match="when it was tried 2 times before"):
                equal(scorer, "7", HANGS, limit_s=0.3)
        assert time.monotonic() - begun < 0.3
        assert equal(scorer, "7", "7")
    finally:
        scorer.close()


LIBRARY = """
import os, resource, socket, sys

def fill(): return len(bytearray(8 << 30))
def hoard(): return [bytearray(1 << 20) for _ in range(1 << 16)] and 0
def shout(): print('x' * 3_000_000); sys.stderr.write('y' * 3_000_000); os.write(1, b'{"result": 1}\\n'); return 5
def long(): return 'x' * 3_000_000
def odd(): return {1, 2}
def nan(): return float('nan')
def leave(): os._exit(3)
def crash(): resource.setrlimit(resource.RLIMIT_CPU, (1, 1)); os.kill(os.getpid(), 11)
def environment(): return sorted(os.environ)
def files(): return [int(fd) for fd in os.listdir('/proc/self/fd') if os.path.exists('/proc/self/fd/' + fd)]
def core(): return resource.getrlimit(resource.RLIMIT_CORE)[1]
def write(path):
    with open(path, 'w') as file: file.write('x' * 10)
def connect(port): socket.create_connection(('127.0.0.1', port), timeout=2)
def forge(): [os.write(fd, b'x' * 100_000) for fd in range(3, 20) for _ in range(100)]
def exhaust(): raise RecursionError('z' * 100_000)
"""


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scorer]:
    """A scorer whose library `hostile` does what no library should."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "hostile_library.py").write_text(LIBRARY)
    (folder / "sitecustomize.py").write_text(
        "import sys, hostile_library\nsys.modules['ductile.domains.maths_library'] = hostile_library\n"
    )
    scorer = Scorer()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(folder), *sys.path])
        patch.setenv("AWS_SECRET_ACCESS_KEY", "planted-secret")
        scorer._child = _Child()
        yield scorer
        scorer.close()


def said(scorer: Scorer, function: str, **arguments: object) -> object:
    # It stands in for a library that there is: their table is closed.
    return scorer.call("maths", function, arguments, 20.0)


def test_library_that_prints_does_not_disturb_the_replies(hostile: Scorer) -> None:
    assert said(hostile, "shout") == 5
    assert said(hostile, "shout") == 5


@pytest.mark.parametrize("function", ["fill", "hoard"])
def test_library_that_takes_all_memory_is_ended(hostile: Scorer, function: str) -> None:
    with pytest.raises(NotAnswered, match="ended"):
        said(hostile, function)
    assert said(hostile, "shout") == 5


@pytest.mark.parametrize("function", ["long", "odd", "exhaust"])
def test_result_that_is_no_short_plain_value_is_an_error_and_the_child_goes_on(hostile: Scorer, function: str) -> None:
    said(hostile, "shout")
    child = hostile.pid
    with pytest.raises(LibraryError) as caught:
        said(hostile, function)
    assert len(str(caught.value)) <= 500 and hostile.pid == child


@pytest.mark.parametrize("function", ["leave", "crash", "forge"])
def test_library_that_ends_its_process_or_floods_it_loses_its_call_alone(hostile: Scorer, function: str) -> None:
    with pytest.raises(NotAnswered, match=r"ended|no reply that can be read"):
        said(hostile, function)
    assert said(hostile, "shout") == 5


def test_child_has_no_secret_no_open_file_no_core_dump_and_writes_nothing(hostile: Scorer, tmp_path: Path) -> None:
    open_here = (tmp_path / "open").open("w")
    os.set_inheritable(open_here.fileno(), True)
    names = said(hostile, "environment")
    assert isinstance(names, list) and "PATH" in names
    assert set(names) <= set(environment())
    assert "AWS_SECRET_ACCESS_KEY" not in names
    files = said(hostile, "files")
    assert isinstance(files, list) and len(files) <= 6  # three that it began with, its replies, nowhere, its listing
    assert said(hostile, "core") == 0
    with pytest.raises(LibraryError, match=r"File too large"):
        said(hostile, "write", path=str(tmp_path / "written"))
    open_here.close()
    assert (tmp_path / "written").read_text() == ""


@pytest.mark.skipif(
    sys.platform != "linux" or subprocess.run(["unshare", "-rn", "true"], capture_output=True).returncode != 0,
    reason="this system lets no process give up its network",
)
def test_child_reaches_no_network_where_the_system_allows_to_give_it_up(hostile: Scorer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(LibraryError, match=r"OSError|unreachable"):
        said(hostile, "connect", port=server.getsockname()[1])
