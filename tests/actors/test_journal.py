"""The journal on its own: torn lines, segments, locks, full disks, and every moment at which its process may die."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors import journal as module
from actors.delivery import Aside, deliver
from actors.journal import Journal, JournalBusy, glance, journals
from tests.actors.fakes import FakeStore, Killed

RUN = "run1"


def metrics(step: int, sender: str = "", **values: float) -> dict[str, Any]:
    record = {"do": "metrics", "values": values or {"loss": 1.0 / step}, "step": step, "time": 1000 + step}
    return {**record, "sender": sender, "number": step} if sender else record


def steps(journal: Journal) -> list[int]:
    return [line.record["step"] for line in journal.read(10_000)]


def written(journal: Journal) -> Path:
    return max(journal.folder.glob("*.jsonl"))


def test_records_come_back_in_order_until_they_are_acknowledged(tmp_path: Path) -> None:
    journal = Journal(tmp_path, RUN)
    for step in range(1, 6):
        journal.append(metrics(step))
    lines = journal.read(2)
    assert [line.record for line in lines] == [metrics(1), metrics(2)]
    assert steps(journal) == [1, 2, 3, 4, 5]  # reading takes nothing away
    journal.acknowledge(lines)
    assert (steps(journal), journal.values, journal.oldest) == ([3, 4, 5], 3, 1002)


def test_line_that_a_crash_cut_is_passed_over_and_nothing_is_written_behind_it(tmp_path: Path) -> None:
    journal = Journal(tmp_path, RUN)
    journal.append(metrics(1))
    journal.close()
    with written(journal).open("a") as file:
        file.write('{"do":"metrics","val')
    again = Journal(tmp_path, RUN)
    assert again.values == 1
    again.append(metrics(2))
    assert steps(again) == [1, 2]


def test_segments_that_were_delivered_are_deleted_and_what_they_said_is_remembered(tmp_path: Path) -> None:
    journal = Journal(tmp_path, RUN, "http://host", segment=200)
    journal.append({"do": "begin", "name": "proxy", "kind": "run", "job": "j", "time": 1})
    for step in range(1, 101):
        journal.append(metrics(step, "s"))
        journal.acknowledge(journal.read(10))
        assert len(list(journal.folder.glob("*.jsonl"))) <= 3
    journal.close()
    told = Journal(tmp_path, RUN).told
    assert (told.name, told.where, told.job, told.step, told.taken) == ("proxy", "http://host", "j", 100, {"s": 100})


def test_only_one_process_has_a_journal(tmp_path: Path) -> None:
    journal = Journal(tmp_path, RUN)
    with pytest.raises(JournalBusy, match="another job is logging run run1"):
        Journal(tmp_path, RUN)
    journal.append(metrics(1))
    journal.close()
    Journal(tmp_path, RUN).remove()
    assert list(tmp_path.iterdir()) == []


def test_lock_is_given_back_when_its_process_is_killed(tmp_path: Path) -> None:
    child = os.fork()
    if not child:
        Journal(tmp_path, RUN).append(metrics(7))
        os._exit(9)  # as kill -9 does: nothing is closed or flushed
    os.waitpid(child, 0)
    assert steps(Journal(tmp_path, RUN)) == [7]


def test_full_disk_is_an_error_and_leaves_no_part_of_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path, RUN)
    journal.append(metrics(1))
    write = os.write

    def full(handle: int, data: bytes) -> int:
        if len(data) < 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(handle, bytes(data)[: len(data) // 2])

    with monkeypatch.context() as patch:
        patch.setattr(module.os, "write", full)
        with pytest.raises(OSError, match="No space left"):
            journal.append(metrics(2))
        assert (steps(journal), journal.values, journal.told.step) == ([1], 1, 1)
    journal.append(metrics(2))
    journal.close()
    assert steps(Journal(tmp_path, RUN)) == [1, 2]


def test_run_id_that_is_a_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"run id '\.\./up'"):
        Journal(tmp_path / "journal", "../up")


def test_glance_sees_the_end_of_a_run_that_another_process_logs(tmp_path: Path) -> None:
    journal = Journal(tmp_path, RUN, "http://host")
    journal.append(metrics(1))
    assert (journals(tmp_path), glance(tmp_path, RUN).status) == ([RUN], "RUNNING")
    journal.append({"do": "finish", "status": "FINISHED", "tags": {}, "time": 2})
    told = glance(tmp_path, RUN)
    assert (told.status, told.where) == ("FINISHED", "http://host")


def test_kept_file_is_a_copy_that_goes_when_it_is_acknowledged(tmp_path: Path) -> None:
    plot = tmp_path / "plot.txt"
    plot.write_text("first")
    journal = Journal(tmp_path / "journal", RUN)
    journal.append({"do": "file", "path": journal.keep_file(plot), "time": 1})
    plot.write_text("second")
    lines = journal.read(1)
    kept = journal.folder / lines[0].record["path"]
    assert (kept.name, kept.read_text()) == ("plot.txt", "first")
    journal.acknowledge(lines)
    assert not kept.exists()


# One run's life: two processes log it, the second goes on from a checkpoint at step 2 and repeats step 3.
LIFE: list[dict[str, Any]] = [
    {"do": "begin", "name": "r", "kind": "run", "job": "1", "time": 1},
    metrics(1, a=1.0, b=2.0),
    {"do": "text", "name": "plan.json", "content": "[1]", "time": 2},
    metrics(2, a=2.0),
    metrics(3, a=3.0),
    {"do": "finish", "status": "KILLED", "tags": {}, "time": 3},
    {"do": "begin", "name": "r", "kind": "run", "job": "2", "time": 4},
    metrics(3, a=3.0),
    {"do": "text", "name": "plan.json", "content": "[1, 2]", "time": 5},
    metrics(4, a=4.0),
    {"do": "tag", "tags": {"x": "1"}, "time": 6},
    {"do": "finish", "status": "FINISHED", "tags": {"y": "2"}, "time": 7},
]


class Clock:
    """Counts the operations and kills the process at one of them."""

    def __init__(self, at: int) -> None:
        self.at, self.count = at, 0

    def tick(self, _: Any = None) -> None:
        self.count += 1
        if self.count == self.at:
            raise Killed


def live_once(root: Path, store: FakeStore, done: list[int], records: list[dict[str, Any]]) -> None:
    """Go on logging after the records that are done, delivering in between; the journal is removed at the end."""
    journal = Journal(root, RUN, segment=300)
    try:
        told = journal.told.taken.get("s", 0)
        for number, record in enumerate(records, 1):
            if number > told and number > done[0]:
                journal.append({**record, "sender": "s", "number": number})
                done[0] = number
            if number % 3 == 0:
                list(deliver(journal, store, Aside(root / "aside")))
        while journal.values:
            list(deliver(journal, store, Aside(root / "aside")))
        journal.remove()
    except (Killed, ConnectionError, TimeoutError):
        os.close(journal._lock)  # what the system does
        raise


def check(store: FakeStore) -> None:
    assert sorted(store.logged) == [
        (RUN, "a", 1.0, 1), (RUN, "a", 2.0, 2), (RUN, "a", 3.0, 3), (RUN, "a", 4.0, 4), (RUN, "b", 2.0, 1)
    ]  # fmt: skip
    assert store.artifacts == {(RUN, "plan.json"): "[1, 2]"}
    assert (store.statuses, store.tags) == ({RUN: "FINISHED"}, {RUN: {"x": "1", "y": "2"}})


def kill_at(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every system call of the journal, before and after it, one of the clock's operations."""
    write = os.write

    def torn(handle: int, data: bytes) -> int:
        clock.tick()
        try:
            clock.tick()
        except Killed:
            write(handle, bytes(data)[: len(data) // 2])
            raise
        count = write(handle, data)
        clock.tick()
        return count

    def around(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            clock.tick()
            result = real(*arguments, **options)
            clock.tick()
            return result

        return call

    monkeypatch.setattr(module.os, "write", torn)
    monkeypatch.setattr(module.os, "fsync", around(os.fsync))
    monkeypatch.setattr(module.os, "open", around(os.open))
    monkeypatch.setattr(Path, "unlink", around(Path.unlink))
    monkeypatch.setattr(module.shutil, "rmtree", around(module.shutil.rmtree))


def test_killed_between_any_two_operations_nothing_is_lost_and_nothing_is_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = 0
    for moment in range(1, 10_000):
        clock, root, done = Clock(moment), tmp_path / str(moment), [0]
        store = FakeStore(at=clock.tick)
        with monkeypatch.context() as patch:
            kill_at(clock, patch)
            try:
                live_once(root, store, done, LIFE)
            except Killed:
                killed += 1
            else:
                break
        store.at = lambda _: None
        live_once(root, store, done, LIFE)
        check(store)
    assert killed > 100
    check(store)


@given(st.lists(st.integers(1, 60), max_size=6), st.lists(st.sampled_from([-1, 0, 1]), max_size=60))
def test_any_row_of_deaths_and_failures_loses_nothing_and_writes_nothing_twice(
    tmp_path_factory: pytest.TempPathFactory, deaths: list[int], failures: list[int]
) -> None:
    root, store, done = tmp_path_factory.mktemp("any"), FakeStore(failures), [0]
    for moment in [*deaths, 0]:
        clock = Clock(moment)
        store.at = clock.tick
        for _ in range(len(failures) + 1):
            with pytest.MonkeyPatch.context() as patch:
                kill_at(clock, patch)
                try:
                    live_once(root, store, done, LIFE)
                except (Killed, ConnectionError, TimeoutError):
                    continue
                break
    while store.failures:
        store.failures.pop()
    store.at = lambda _: None
    live_once(root, store, done, LIFE) if journals(root) else None
    check(store)


def test_what_the_store_refuses_goes_aside_alone(tmp_path: Path) -> None:
    store, aside = FakeStore(), Aside(tmp_path / "aside")
    store.refuses = {"bad", "huge.json"}
    journal = Journal(tmp_path, RUN)
    journal.append(metrics(1, good=1.0, bad=2.0, fine=3.0))
    journal.append({"do": "text", "name": "huge.json", "content": "x", "time": 1})
    journal.append({"do": "finish", "status": "FINISHED", "tags": {}, "time": 2})
    list(deliver(journal, store, aside))
    assert sorted(store.logged) == [(RUN, "fine", 3.0, 1), (RUN, "good", 1.0, 1)]
    rows = [json.loads(line) for line in (tmp_path / "aside" / f"{RUN}.jsonl").read_text().splitlines()]
    assert [row.get("values") or row["name"] for row in rows] == [{"bad": 2.0}, "huge.json"]
    assert store.tags == {RUN: {"ductile.metrics_aside": "2"}}
    assert Aside(tmp_path / "aside").counts(RUN) == {"refused": 0, "aside": 2}


def test_run_that_mlflow_no_longer_has_goes_aside_in_one_try(tmp_path: Path) -> None:
    store, aside = FakeStore(), Aside(tmp_path / "aside")
    store.gone = {RUN}
    journal = Journal(tmp_path, RUN)
    for step in range(1, 101):
        journal.append(metrics(step))
    list(deliver(journal, store, aside))
    assert (store.attempts, journal.values, aside.counts(RUN)["aside"]) == (1, 0, 100)


def test_value_that_goes_aside_while_another_thread_looks_up_its_run_is_counted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    aside, looks, added = Aside(tmp_path), threading.Event(), threading.Event()
    exists = Path.exists

    def slow(path: Path) -> bool:
        found = exists(path)
        if threading.current_thread() is reader:  # nothing is there yet, says what it looked at
            looks.set()
            added.wait(0.2)
        return found

    monkeypatch.setattr(Path, "exists", slow)
    reader = threading.Thread(target=aside.counts, args=(RUN,))
    reader.start()
    looks.wait(5.0)
    aside.add(RUN, "refused", "nan", metrics(1))
    added.set()
    reader.join(5.0)
    assert aside.counts(RUN) == Aside(tmp_path).counts(RUN) == {"refused": 1, "aside": 0}


def test_refused_tag_goes_aside_once_however_often_the_end_of_its_run_is_tried(tmp_path: Path) -> None:
    store, aside, fails = FakeStore(), Aside(tmp_path / "aside"), [True, True, False]
    store.refuses, finish = {"bad"}, store.finish

    def failing(run_id: str, status: str) -> None:
        if fails.pop(0):
            raise ConnectionError("server away")
        finish(run_id, status)

    store.finish = failing  # type: ignore[method-assign]
    journal = Journal(tmp_path, RUN)
    journal.append({"do": "finish", "status": "FINISHED", "tags": {"bad": "1"}, "time": 1})
    for _ in range(2):
        with pytest.raises(ConnectionError):
            list(deliver(journal, store, aside))
    list(deliver(journal, store, aside))
    assert (store.statuses, aside.counts(RUN)["aside"], journal.values) == ({RUN: "FINISHED"}, 1, 0)
