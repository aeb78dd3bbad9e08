"""jobs.prune and jobs.scores on tiny models: what they write, and that the same command goes on."""

from __future__ import annotations

import json
import math
import pickle
import sys
from concurrent.futures import Future
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ductile.checkpoint import FolderStore
from ductile.config import ArchitectureSettings, ScoresSettings
from ductile.difficulty.static import ScoreFile, read_scores
from ductile.models.scratch import build_llama
from ductile.models.tokenizer import character_tokenizer
from ductile.scores.pools import score_mistakes
from ductile.scores.pruned import Study, cells
from ductile.settings import SettingsError
from jobs import prune, scores
from jobs.configure import parse
from jobs.prune_table import crossing_line, print_pruning

TINY = [
    "levels=[2,3]", "sizes=[8,16]", "fractions=[0.5]", "rules=[easy,hard]", "problems=10", "fit.steps=3", "early=2",
    "fit.warmup=1", "evals=2", "inits=1", "model.width=16", "model.layers=1", "model.heads=2", "model.mlp=32",
]  # fmt: skip


def run_prune(monkeypatch: pytest.MonkeyPatch, folder: Path, *more: str) -> dict[str, Any]:
    monkeypatch.setattr(sys, "argv", ["jobs.prune", *TINY, f"output={folder}", *more])
    assert prune.job() == 0
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return found


def test_prune_keeps_each_training_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = run_prune(monkeypatch, tmp_path, "seeds=1")
    assert len(first["rows"]) == 6 and first["versions"]["torch"]
    assert first["presentations"] == {"8": 2 * 32 / 8, "16": 2 * 32 / 16}  # early x fit.batch / size
    assert "Pass rate on held-out problems" in capsys.readouterr().out
    assert (tmp_path / "pruning.png").is_file()

    ran = []
    train = Study.run
    monkeypatch.setattr(Study, "run", lambda self, cell, told: ran.append(cell) or train(self, cell, told))
    again = run_prune(monkeypatch, tmp_path, "seeds=1")
    assert ran == [] and again["rows"] == first["rows"]
    more = run_prune(monkeypatch, tmp_path, "seeds=2")
    assert {cell.seed for cell in ran} == {1} and len(ran) == 6
    assert [row for row in more["rows"] if row["seed"] == 0] == first["rows"]
    assert {found["metric"] for found in more["crossings"]} == {"passed", "loss"}


def test_trainings_of_other_settings_are_not_taken_for_these() -> None:
    keys = [prune.training_key(prune.asked([*TINY, *more])) for more in ([], ["seeds=9"], ["fit.steps=4"])]
    assert keys[0] == keys[1] != keys[2]


@pytest.mark.parametrize(
    ("score", "unread", "read"), [("el2n", "evals=3", "early=3"), ("forgetting", "early=3", "evals=3")]
)
def test_setting_that_the_score_does_not_read_makes_no_other_training(score: str, unread: str, read: str) -> None:
    same, other, plain = (
        prune.training_key(prune.asked([*TINY, f"score={score}", *more])) for more in ([unread], [read], [])
    )
    assert same == plain != other


def test_worker_that_is_killed_has_kept_what_it_finished(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = prune.asked([*TINY, "seeds=1", "sizes=[8]"])
    part = list(cells(settings))

    def run(self: Study, cell: Any, told: Any) -> dict[str, Any]:
        if cell == part[2]:
            raise KeyboardInterrupt
        return {"passed": 0.5}

    monkeypatch.setattr(Study, "run", run)
    with pytest.raises(KeyboardInterrupt):
        prune._all_trained(settings, part, tmp_path, tmp_path / "cells")
    store = FolderStore(tmp_path, tmp_path / "cells")
    assert [store.remember(cell.key) for cell in part] == [{"passed": 0.5}, {"passed": 0.5}, None]


class Pickling:
    """A pool of processes as far as its work goes: what it is given crosses over as bytes."""

    def __init__(self, *_: Any) -> None:
        pass

    def __enter__(self) -> Pickling:
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def submit(self, *work: Any) -> Future[Any]:
        function, *given = pickle.loads(pickle.dumps(work))
        future: Future[Any] = Future()
        future.set_result(function(*given))
        return future


def test_processes_keep_the_same_as_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    one = run_prune(monkeypatch, tmp_path / "one", "seeds=1")
    monkeypatch.setattr(prune, "ProcessPoolExecutor", Pickling)
    two = run_prune(monkeypatch, tmp_path / "two", "seeds=1", "processes=2")
    assert two["rows"] == one["rows"]
    assert len(list((tmp_path / "two").glob("cells-*/*.json"))) == 6


def test_prune_tells_every_mistake_before_any_work() -> None:
    with pytest.raises(SettingsError) as caught:
        prune.asked(["domain={name: sort_digits}", "rulse=[easy]", "score=el3n"])
    lines = caught.value.problems
    assert any("rulse" in line and "did you mean rules?" in line for line in lines)
    assert any(line.startswith("score: unknown value 'el3n'; allowed: el2n, forgetting") for line in lines)


def crossed(kind: str, **more: Any) -> dict[str, Any]:
    own = [("hard", None), ("crosses", 283.0), ("hard", None)]
    differences = [(100, -0.1, -0.2, 0.0), (200, 0.0, -0.2, 0.2), (400, 0.3, 0.1, 0.5)]
    return {
        "fraction": 0.25, "metric": "passed", "seeds": [0, 1, 2], "kind": kind, "size": None, "low": None, "high": None,
        "by_seed": [{"seed": s, "kind": k, "size": n} for s, (k, n) in enumerate(own)],
        "hard_minus_easy": [{"size": n, "mean": d, "low": low, "high": high} for n, d, low, high in differences],
        **more,
    }  # fmt: skip


def test_crossing_in_words() -> None:
    where, own = "25% kept, passed: ", "; seeds: 283, below all sizes (2)"
    assert crossing_line(crossed("crosses", size=250.0)) == f"{where}hard overtakes easy at 250 examples{own}"
    line = crossing_line(crossed("crosses", size=250.0, low=200.0, high=312.5))
    assert line == f"{where}hard overtakes easy at 250 examples, 95% t interval 200 to 312{own}"
    assert crossing_line(crossed("hard")) == f"{where}hard is better at every size that tells (400){own}"
    assert crossing_line(crossed("mixed")) == f"{where}easy and hard take turns: no single crossing{own}"
    assert crossing_line(crossed("nothing")) == f"{where}nothing differs by more than noise{own}"


def test_crossing_of_one_seed_in_words() -> None:
    without = [{"size": n, "mean": d, "low": None, "high": None} for n, d in ((100, 0.0), (200, -0.1), (400, -0.2))]
    one = {"seeds": [0], "by_seed": [{"seed": 0, "kind": "easy", "size": None}], "hard_minus_easy": without}
    line = crossing_line(crossed("easy", **one))
    assert line == "25% kept, passed: easy is better at every size that tells (200, 400)"
    one["hard_minus_easy"] = without[1:]
    assert crossing_line(crossed("easy", **one)).endswith("easy is better at every size")
    assert crossing_line(crossed("nothing", **one)).endswith("nothing differs")


def test_means_over_seeds_have_their_intervals() -> None:
    rows = [
        {"size": 100, "fraction": 0.25, "rule": "easy", "seed": seed, "passed": 0.4 + 0.2 * seed, "loss": 1.0}
        for seed in (0, 1)
    ]
    console = Console(width=100, record=True, file=StringIO())
    print_pruning({"rows": rows, "crossings": [crossed("hard")]}, console)
    assert "0.500 ±1.271" in console.export_text()  # t(0.975, 1) 12.706 times 0.1


class Never:
    """A score that must not be computed."""

    needs, hardness = frozenset({"worked"}), True

    def __call__(self, asked: Any) -> Any:
        raise AssertionError("computed again")


SCORED = [
    "plan=medium", "phase.medium.levels=[4,6]", "phase.medium.pool=10", "rollout.groups=2", "rollout.max_tokens=4",
    "fit.steps=3", "fit.warmup=1", "early=2", "evals=2", "inits=1", "subsets=2", "samples=2", "clusters=2",
]  # fmt: skip


@pytest.fixture
def tiny_folder(tmp_path: Path) -> str:
    tokenizer, folder = character_tokenizer(), tmp_path / "model"
    build_llama(ArchitectureSettings(1, 16, 2, 32, 128), tokenizer, 0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_scores_of_a_plan_are_written_and_prune_a_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "scores.json"
    common = [*SCORED, f"model={tiny_folder}", f"file={file}", "seeds=2"]

    def run(*more: str) -> None:
        monkeypatch.setattr(sys, "argv", ["jobs.scores", *common, *more])
        assert scores.job() == 0

    run("scores=[el2n,failure_rate]")
    first = read_scores(str(file))
    assert list(first.scores) == ["el2n", "failure_rate"]
    assert "2 steps, 3.2 presentations of each problem" in capsys.readouterr().out  # of 32 among 20 problems
    run("scores=[el2n,failure_rate]")  # only told again
    assert len(first.scores["el2n"]) == 20 and first.provenance["seeds"] == [0, 1]
    assert first.provenance["model"]["fingerprint"] and first.provenance["versions"]["torch"]
    assert "medium" in capsys.readouterr().out

    monkeypatch.setitem(scores.SCORES, "el2n", Never())  # it is there already
    run("scores=[prototypes,el2n]")
    second = read_scores(str(file))
    assert list(second.scores) == ["prototypes", "el2n", "failure_rate"]
    assert second.scores["el2n"] == first.scores["el2n"]

    with pytest.raises(SettingsError, match="holds scores of another settings; name another file"):
        run("scores=[random]", "samples=3")


def test_scores_of_a_runs_history_stand_beside_those_of_the_base(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file, audits = tmp_path / "scores.json", tmp_path / "audits.json"
    common = [*SCORED, f"model={tiny_folder}", f"file={file}"]

    def run(*more: str) -> ScoreFile:
        monkeypatch.setattr(sys, "argv", ["jobs.scores", *common, *more])
        assert scores.job() == 0
        return read_scores(str(file))

    ids = list(run("scores=[random]").scores["random"])
    rows = [{"pool": {"ids": ids[:2], "successes": wins, "counts": [4, 4]}} for wins in ([3, 0], [1, 0], [4, 2])]
    audits.write_text(json.dumps(rows))
    found = run("scores=[forgetting_rl,el2n_rl_later,el2n_rl]", f"history={audits}")
    assert list(found.scores["forgetting_rl"].values()) == pytest.approx([1, 3, *[math.nan] * 8], nan_ok=True)
    later = [(5 * 0.25 + 3 * 0.75) / 8, 2 / 8]
    assert list(found.scores["el2n_rl_later"].values()) == pytest.approx([*later, *[math.nan] * 8], nan_ok=True)
    assert found.hardness == {"forgetting_rl": True, "el2n_rl_later": False, "el2n_rl": False, "random": True}
    assert "high is hard but for el2n_rl_later, el2n_rl" in " ".join(capsys.readouterr().out.split())
    assert run("scores=[random,failure_rate]").provenance["history"] == found.provenance["history"] != ""

    audits.write_text(json.dumps(rows[:2]))
    with pytest.raises(SettingsError, match="holds scores of another history"):
        run("scores=[forgetting_rl]", f"history={audits}")
    audits.write_text(json.dumps([{"pool": {"ids": ["x"], "successes": [1], "counts": [4]}}]))
    with pytest.raises(SettingsError, match="audits none of the pools' problems"):
        run("scores=[forgetting_rl]", f"history={audits}")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["plan=none"], "plan: it has no phase"),
        (["plan=medium", "scores=[el2m]"], "scores[0]: unknown score 'el2m'"),
        (["plan=medium", "format=traces"], "format: unknown format of phase.medium 'traces'"),
        (["plan=medium", "early=999"], "early: 999 is after the training's end"),
        (["plan=medium", "scores=[forgetting]", "evals=999"], "evals: 999 is more than the training has steps"),
        (["plan=medium", "subset=1.0"], "subset: 1.0 leaves no problem out"),
        (
            ["plan=medium", "scores=[forgetting_rl]"],
            "scores[0]: forgetting_rl is read from a finished run; set history",
        ),
        (["plan=medium", "history=audits.json"], "history: 'audits.json' would be read by nothing"),
        (["plan=medium", "scores=[forgetting_rl]", "history=none.json"], "history: 'none.json' cannot be read"),
    ],
)
def test_scores_tell_mistakes_before_any_work(arguments: list[str], line: str) -> None:
    with pytest.raises(SettingsError) as caught:
        scores.asked(parse(arguments))
    assert [problem for problem in caught.value.problems if problem.startswith(line)]


class Asking:
    """A domain without worked solutions, as far as the check looks."""

    key, formats = "gsm8k()", ("direct",)


def test_score_that_trains_on_solutions_refuses_a_domain_without() -> None:
    domain: Any = Asking()
    [line] = score_mistakes(ScoresSettings(scores=("el2n", "failure_rate")), {"maths": domain})
    assert line.startswith("scores[0]: el2n trains on worked solutions, and gsm8k() of phase.maths has none; allowed: ")
    assert line.endswith("el2n_rl, el2n_rl_later, failure_rate, forgetting_rl, prototypes, random")
