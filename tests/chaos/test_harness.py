"""The soak's own logic: what it would miss, nobody would notice. No Ray, no MLflow."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.chaos import faults, harness
from tests.chaos.faults import Applied, Fault, Missed
from tests.chaos.harness import Event, GaveUp, Harness, OutOfTime
from tests.chaos.legs import POISON, write_rows
from tests.chaos.processes import MARK, children, kill_all, state, titled
from tests.chaos.progress import finished, steps_done, steps_of_runs
from tests.chaos.results import differences, gather
from tests.chaos.schedule import Planned, draw
from tests.chaos.soak import recoveries

KINDS = {"killed": (0.0, 0.0), "away": (4.0, 10.0), "full": (1.0, 2.0)}


def test_schedule_is_the_seeds_and_has_every_kind_in_steps_that_rise() -> None:
    plan = draw(3, KINDS, 10, 60)
    assert plan == draw(3, KINDS, 10, 60) and plan != draw(4, KINDS, 10, 60)
    steps = [planned.step for planned in plan]
    assert steps == sorted(set(steps)) and steps[0] >= 1 and steps[-1] < 48
    counts = [[planned.kind for planned in plan].count(kind) for kind in KINDS]
    assert sum(counts) == 10 and min(counts) >= 3
    assert all(KINDS[each.kind][0] <= each.seconds <= KINDS[each.kind][1] and 0 <= each.pick < 1 for each in plan)


@pytest.mark.parametrize("seed", range(20))
def test_schedule_that_just_fits_has_a_step_for_every_fault(seed: int) -> None:
    assert len({planned.step for planned in draw(seed, KINDS, 15, 20)}) == 15


def test_schedule_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="30 faults need 30 different steps, 20 steps leave 15"):
        draw(0, KINDS, 30, 20)


# --- results


def leave(output: Path, steps: int = 4) -> Path:
    """What a small job leaves; returns MLflow's database."""
    run = output / "compare-1" / "run-a"
    checkpoint = run / f"checkpoint-{steps:06d}"
    (checkpoint / "learner").mkdir(parents=True)
    (run / "settings.json").write_text("{}")
    (run / "finished.json").write_text("{}")
    weights = {"w": torch.arange(4.0), "half": torch.ones(2, 2, dtype=torch.bfloat16), "none": torch.zeros(0)}
    save_file(weights, checkpoint / "learner" / "weights.safetensors")
    torch.save({"state": {0: {"step": torch.tensor(4.0), "exp_avg": torch.ones(3)}}}, checkpoint / "engine.pt")
    boundary = {"metrics": {"drift/kl": 0.1, "time/probe_s": 3.0, "cost/drift/seconds": 1.0, "cost/drift/tokens": 7}}
    state = {"state": {"total": steps, "boundaries": [boundary], "audits": [{"step": 2, "brier": float("nan")}]}}
    (checkpoint / "state.json").write_text(json.dumps({**state, "tracker": {"run_id": "x1", "step": 4}}))
    (checkpoint / "manifest.json").write_text(json.dumps({"files": {"state.json": "abc"}}))
    report = output / "compare-1" / "report"
    report.mkdir()
    cells = [{"plan": "p", "runs": [{"seed": 0, "run_id": "x1"}], "measures": {"prior": {"mean": 0.25}}}]
    (report / "summary.json").write_text(json.dumps({"created": "now", "cells": cells}))
    database = output / "mlflow.db"
    with closing(sqlite3.connect(database)) as connection:
        connection.executescript(
            "create table runs (run_uuid, name, status, lifecycle_stage);"
            "create table tags (key, value, run_uuid);"
            "create table metrics (run_uuid, key, step, value, is_nan, timestamp);"
            "insert into runs values ('x1', 'run a', 'FINISHED', 'active');"
            "insert into tags values ('ductile.kind', 'run', 'x1');"
        )
        rows = [("x1", name, step, 0.5 * step, 0, step) for step in (1, 2) for name in ("loss", "time/step_s")]
        connection.executemany("insert into metrics values (?, ?, ?, ?, ?, ?)", rows)
        connection.commit()
    return database


def change(database: Path, statement: str) -> None:
    with closing(sqlite3.connect(database)) as connection:
        connection.execute(statement)
        connection.commit()


@pytest.fixture
def pair(tmp_path: Path) -> tuple[dict[str, str], Path]:
    quiet = gather(tmp_path / "quiet", leave(tmp_path / "quiet"))
    leave(tmp_path / "other")
    return quiet, tmp_path / "other"


def differing(pair: tuple[dict[str, str], Path]) -> list[str]:
    quiet, other = pair
    return differences(quiet, gather(other, other / "mlflow.db"))


def test_equal_results_do_not_differ_and_all_of_them_were_compared(pair: tuple[dict[str, str], Path]) -> None:
    assert differing(pair) == []
    quiet, _ = pair
    for part in ("weights.safetensors:w", "engine.pt:/state/0/exp_avg", "state.json:/state/audits/0/brier"):
        assert any(part in name for name in quiet), part
    assert quiet["mlflow/run a/loss@2"] == "1.0" and quiet["report//0/measures/prior/mean"] == "0.25"


def test_what_a_clock_decides_is_not_compared(pair: tuple[dict[str, str], Path]) -> None:
    path = pair[1] / "compare-1" / "run-a" / "checkpoint-000004" / "state.json"
    text = path.read_text()
    path.write_text(text.replace('"time/probe_s": 3.0', '"time/probe_s": 9.0').replace('"x1"', '"x2"'))
    assert path.read_text() != text
    change(pair[1] / "mlflow.db", "update metrics set value = 77 where key = 'time/step_s'")
    assert differing(pair) == []


def test_one_flipped_bit_of_a_weight_is_found(pair: tuple[dict[str, str], Path]) -> None:
    path = pair[1] / "compare-1" / "run-a" / "checkpoint-000004" / "learner" / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    (line,) = differing(pair)
    assert "weights.safetensors:" in line and "quiet" in line


@pytest.mark.parametrize(
    ("old", "new"), [('"drift/kl": 0.1', '"drift/kl": 0.10000000000000002'), ('"step": 2', '"step": 3')]
)
def test_another_measurement_or_audit_is_found(pair: tuple[dict[str, str], Path], old: str, new: str) -> None:
    path = pair[1] / "compare-1" / "run-a" / "checkpoint-000004" / "state.json"
    path.write_text(path.read_text().replace(old, new))
    assert len(differing(pair)) == 1


def test_metric_that_mlflow_has_twice_is_found(pair: tuple[dict[str, str], Path]) -> None:
    change(pair[1] / "mlflow.db", "insert into metrics values ('x1', 'loss', 2, 1.0, 0, 99)")
    assert differing(pair) == ["mlflow/run a/loss@2: quiet 1.0, under faults 2 times 1.0, 1.0"]


def test_time_that_mlflow_has_twice_is_found(pair: tuple[dict[str, str], Path]) -> None:
    change(pair[1] / "mlflow.db", "insert into metrics values ('x1', 'time/step_s', 2, 1.5, 0, 99)")
    assert differing(pair) == ["mlflow/run a/time/step_s@2: quiet timed, under faults 2 times timed"]


def test_what_tells_of_faults_may_differ_but_is_there_once(pair: tuple[dict[str, str], Path]) -> None:
    change(pair[1] / "mlflow.db", "insert into metrics values ('x1', 'rollout/retried_calls', 2, 1.0, 0, 99)")
    assert differing(pair) == []
    change(pair[1] / "mlflow.db", "insert into metrics values ('x1', 'rollout/retried_calls', 2, 1.0, 0, 100)")
    assert len(differing(pair)) == 1


def test_metric_that_mlflow_lacks_is_found(pair: tuple[dict[str, str], Path]) -> None:
    change(pair[1] / "mlflow.db", "delete from metrics where key = 'loss' and step = 1")
    assert differing(pair) == ["missing: mlflow/run a/loss@1 (quiet: 0.5)"]


def test_run_that_is_in_mlflow_twice_or_did_not_finish_is_found(pair: tuple[dict[str, str], Path]) -> None:
    change(pair[1] / "mlflow.db", "update runs set status = 'RUNNING'")
    assert differing(pair) == ["mlflow/run a/status: quiet FINISHED, under faults RUNNING"]
    change(pair[1] / "mlflow.db", "insert into runs values ('x2', 'run a', 'FINISHED', 'active')")
    change(pair[1] / "mlflow.db", "insert into tags values ('ductile.kind', 'run', 'x2')")
    assert "mlflow/run a/runs: quiet 1, under faults 2" in differing(pair)


def test_report_with_another_number_is_found(pair: tuple[dict[str, str], Path]) -> None:
    path = pair[1] / "compare-1" / "report" / "summary.json"
    path.write_text(path.read_text().replace("0.25", "0.26"))
    assert differing(pair) == ["report//0/measures/prior/mean: quiet 0.25, under faults 0.26"]


def test_missing_checkpoint_is_found(pair: tuple[dict[str, str], Path]) -> None:
    (pair[1] / "compare-1" / "run-a" / "finished.json").unlink()
    assert differing(pair) == ["finished/run-a: quiet True, under faults False"]


# --- the harness


class ScriptedJob:
    """A job that makes a step whenever it is looked at. crashes: step -> exit code, once each."""

    def __init__(self, run: Path, steps: int, crashes: dict[int, int]) -> None:
        self.run, self.steps, self.crashes = run, steps, crashes
        self.step = self.started = 0

    def start(self) -> None:
        self.run.mkdir(parents=True, exist_ok=True)
        (self.run / "settings.json").write_text("{}")
        self.started += 1

    def ended(self) -> int | None:
        if self.step in self.crashes:
            return self.crashes.pop(self.step)
        if self.step == self.steps:
            return 0
        self.step += 1
        folder = self.run / f"checkpoint-{self.step:06d}"
        folder.mkdir(exist_ok=True)
        (folder / "state.json").write_text(json.dumps({"state": {"total": self.step}}))
        return None

    def last_words(self) -> str:
        return "what it said"


@dataclasses.dataclass
class ScriptedScene:
    output: Path
    job: ScriptedJob


@pytest.fixture
def applied(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Faults that only note that they were applied or undone, and at which step."""
    noted: list[tuple[str, int]] = []

    def at_once(scene: Any, planned: Planned) -> Applied:
        noted.append(("at once", scene.job.step))
        return Applied("a process")

    def lasting(scene: Any, planned: Planned) -> Applied:
        noted.append(("begun", scene.job.step))

        def undo() -> str:
            noted.append(("undone", scene.job.step))
            return "back"

        return Applied("a server", undo)

    def nothing(scene: Any, planned: Planned) -> Applied:
        raise Missed("nothing there")

    table = {
        "at once": Fault("", at_once, "a"),
        "lasting": Fault("", lasting, "b", (0.1, 0.1)),
        "missed": Fault("", nothing, "c"),
        "fatal": Fault("", at_once, "d", ends_job=True),
    }
    monkeypatch.setattr(faults, "FAULTS", table)
    monkeypatch.setattr(harness, "FAULTS", table)
    monkeypatch.setattr(harness, "POLL_S", 0.001)
    return noted


def disturb(tmp_path: Path, plan: list[Planned], steps: int = 30, crashes: dict[int, int] | None = None) -> Harness:
    run = tmp_path / "output" / "run-a"
    scene: Any = ScriptedScene(tmp_path / "output", ScriptedJob(run, steps, crashes or {}))
    made = Harness(scene, bound_s=20.0)
    made.run(plan)
    return made


def test_faults_come_at_their_steps_and_the_next_step_ends_the_recovery(
    applied: list[tuple[str, int]], tmp_path: Path
) -> None:
    done = disturb(tmp_path, [Planned(5, "at once", 0, 0, 0), Planned(9, "at once", 0, 0, 0)])
    assert applied == [("at once", 5), ("at once", 9)]
    assert [event.step for event in done.events] == [5, 9] and done.unexpected == done.missed == []
    assert all(event.recovery_s is not None and event.recovery_s < 5 for event in done.events)
    assert recoveries([{"events": [event.as_plain() for event in done.events]}]).keys() == {"at once"}


def test_lasting_fault_is_undone_before_another_of_its_place(applied: list[tuple[str, int]], tmp_path: Path) -> None:
    plan = [Planned(2, "lasting", 0, 0.1, 0), Planned(3, "at once", 0, 0, 0), Planned(4, "lasting", 0, 0.1, 0)]
    done = disturb(tmp_path, plan, steps=400)
    assert [what for what, _ in applied] == ["begun", "at once", "undone", "begun", "undone"]
    assert "back after" in done.events[0].seen[0]


def test_lasting_fault_is_undone_when_the_job_ends_first(applied: list[tuple[str, int]], tmp_path: Path) -> None:
    disturb(tmp_path, [Planned(2, "lasting", 0, 0.1, 0)], steps=4)
    assert applied[-1] == ("undone", 4)


def test_job_that_ends_by_a_fault_is_started_again_and_told(applied: list[tuple[str, int]], tmp_path: Path) -> None:
    done = disturb(tmp_path, [Planned(3, "at once", 0, 0, 0)], crashes={3: 1})
    assert done.scene.job.started == 2 and len(done.unexpected) == 1 and "what it said" in done.unexpected[0]
    allowed = disturb(tmp_path / "b", [Planned(3, "fatal", 0, 0, 0)], crashes={3: 1})
    assert allowed.scene.job.started == 2 and allowed.unexpected == []


def test_job_that_ends_without_a_fault_is_given_up(applied: list[tuple[str, int]], tmp_path: Path) -> None:
    with pytest.raises(GaveUp, match="ended with 2: what it said"):
        disturb(tmp_path, [Planned(20, "at once", 0, 0, 0)], crashes={3: 2})


def test_fault_without_a_target_and_one_after_the_end_are_missed(
    applied: list[tuple[str, int]], tmp_path: Path
) -> None:
    done = disturb(tmp_path, [Planned(3, "missed", 0, 0, 0), Planned(50, "at once", 0, 0, 0)], steps=10)
    assert done.missed == ["missed at step 3: nothing there", "at once at step 50: the job had ended"]


def test_bound_ends_it(applied: list[tuple[str, int]], tmp_path: Path) -> None:
    scene: Any = ScriptedScene(tmp_path, ScriptedJob(tmp_path / "run-a", 10**9, {}))
    with pytest.raises(OutOfTime, match="had not ended after 0 s"):
        Harness(scene, bound_s=0.05).run([])


# --- processes, progress, and what is injected


def test_processes_are_found_and_killed_by_their_mark_alone() -> None:
    command = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]
    ours = subprocess.Popen(command, env=os.environ | {MARK: "mark-a"}, stdout=subprocess.PIPE, text=True)
    other = subprocess.Popen(command, env=os.environ | {MARK: "mark-b"}, stdout=subprocess.PIPE, text=True)
    try:
        for process in (ours, other):
            assert process.stdout is not None and process.stdout.readline() == "up\n"
        assert titled("mark-a", sys.executable) == [ours.pid] and titled("mark-a", "ray::") == []
        assert {ours.pid, other.pid} <= set(children(os.getpid(), "time.sleep(60)"))
        assert kill_all("mark-a") == 1 and ours.wait() == -9
        assert other.poll() is None and state(other.pid) in "SR" and titled("mark-a", "") == []
    finally:
        for process in (ours, other):
            process.kill()
            process.communicate()


def test_limited_process_cannot_write_until_the_limit_is_lifted(tmp_path: Path) -> None:
    code = """
import sys
for line in sys.stdin:
    try:
        open("file", "wb").write(bytes(9999))
    except OSError as error:
        print(error.errno, flush=True)
    else:
        print("written", flush=True)
"""
    child = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )

    def says() -> str:
        assert child.stdin is not None and child.stdout is not None
        child.stdin.write("go\n")
        return child.stdout.readline().strip()

    try:
        assert says() == "written"
        faults._limit(child.pid, 4096)
        assert says() == "27"  # EFBIG
        faults._limit(child.pid, faults.resource.RLIM_INFINITY)
        assert says() == "written"
    finally:
        child.kill()
        child.communicate()


def test_progress_is_of_the_newest_checkpoints_of_all_runs(tmp_path: Path) -> None:
    leave(tmp_path)
    assert steps_done(tmp_path) == 4 and finished(tmp_path) == 1
    run = tmp_path / "alone-2"
    run.mkdir()
    (run / "settings.json").write_text("{}")
    assert steps_done(tmp_path) == 4  # no checkpoint yet
    (run / "checkpoint-000001").mkdir()
    (run / "checkpoint-000001" / "state.json").write_text('{"state": {"total": 3}}')
    assert steps_done(tmp_path) == 7 and finished(tmp_path) == 1 and steps_of_runs(tmp_path) == {run: 3}


def test_fault_is_recovered_from_when_no_run_stands_still() -> None:
    event = Event(0.0, "", "", 9, of_runs={Path("a"): 4, Path("b"): 5})
    assert not event.recovered({Path("a"): 9, Path("b"): 5})
    assert event.recovered({Path("a"): 5, Path("b"): 6}) and event.recovered({Path("b"): 6})
    assert not event.recovered({Path("a"): 5, Path("b"): 6, Path("new"): 0})


@dataclasses.dataclass(frozen=True)
class Micro:
    advantages: torch.Tensor


def test_nan_is_injected_once_while_armed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(__file__).parent / "injected" / "sitecustomize.py"
    monkeypatch.delenv("DUCTILE_CHAOS_NAN", raising=False)
    spec = importlib.util.spec_from_file_location("injected_nan", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setenv("DUCTILE_CHAOS_NAN", str(tmp_path / "nan"))

    class Learner:
        def _backward(self, micro: Micro, last: bool) -> float:
            return float(micro.advantages.sum())

    module._patch(Learner)
    learner, micro = Learner(), Micro(torch.ones(2))
    assert learner._backward(micro, True) == 2.0
    (tmp_path / "nan").touch()
    assert learner._backward(micro, True) != learner._backward(micro, True) == 2.0
    assert [path.name for path in tmp_path.iterdir()] == [f"nan.taken-{os.getpid()}"]


def test_one_of_four_training_rows_is_poison(tmp_path: Path) -> None:
    from ductile.domains import make_domain

    write_rows(tmp_path / "rows.jsonl")
    domain = make_domain({"name": "jsonl", "path": str(tmp_path / "rows.jsonl")}, "domain")
    answers = [problem.answer for problem in domain.problems(1, "train", 99, 0)]
    assert len(answers) == 4 and answers.count(POISON) == 1
    assert POISON not in [problem.answer for problem in domain.problems(1, "eval", 99, 0)]
