"""The branch operator without a run: what it trains on, what it evaluates, and what it asks for only once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ductile.branch import Branches, LocalBrancher, branch_probe, repetition_seed, worked_rows
from ductile.checkpoint import FolderStore
from ductile.config import BranchSettings, DataSettings, RunSettings, SkillSettings
from ductile.domains import make_domain
from ductile.judge import LocalJudge
from ductile.learner import PolicyLearner, branch_learner
from ductile.models.load import load_tokenizer
from ductile.ports import BranchRequest, PolicyRef, Sampling
from ductile.probes.branch import plasticity
from ductile.problem import Group, JudgedGroup, Problem, Verdict
from ductile.rl.batch import Batch, Row
from ductile.sampling.worker import LocalPool
from ductile.settings import build
from ductile.variants import make_variant

DOMAIN = {"name": "base_conversion"}
VALUES = {
    "phase": {"p": {"domain": {"name": "chain_sum"}}},
    "learner": {"engine": "torch", "lr": 1e-2},
    "rollout": {"groups": 3, "group_size": 2, "max_tokens": 5},
    "objective": {"entropy": 0.1},
    "probe": {
        "samples": 2,
        "branch": {"domain": DOMAIN, "levels": [5, 6], "steps": 4, "pool": 12, "problems": 5, "evals": 3},
    },
}


class Recording(LocalPool):
    """A pool that remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__("float32")
        self.asked: list[tuple[int, list[str], Sampling]] = []

    def generate(self, policy: PolicyRef, problems: Any, sampling: Sampling) -> list[Group]:
        self.asked.append((policy.version, [problem.id for problem in problems], sampling))
        return super().generate(policy, problems, sampling)


class Bench:
    """An operator on a tiny model."""

    def __init__(self, folder: str, **branch: Any) -> None:
        probe = {**VALUES["probe"], "branch": {**VALUES["probe"]["branch"], **branch}}  # type: ignore[dict-item]
        self.settings = build(RunSettings, {**VALUES, "probe": probe})
        self.variant = make_variant(self.settings.variant)
        self.composition = self.variant.composition(Path(folder), Path(folder))
        self.make = partial(branch_learner, self.settings, self.variant, self.composition)
        self.pool, self.judge = Recording(), LocalJudge()

    def probe(self, mode: str = "rl", repetition: int = 0, snapshot: str | None = None) -> dict[str, Any]:
        request = BranchRequest(snapshot, mode, "reset", repetition)
        learner = self.make(request)
        return branch_probe(request, self.settings, self.variant, learner, self.pool, self.judge, self.judge.domain)

    def local(self) -> LocalBrancher:
        return LocalBrancher(self.settings, self.variant, self.make, self.pool, self.judge, self.judge.domain)


@pytest.fixture
def bench(tiny_folder: str) -> Callable[..., Bench]:
    return partial(Bench, tiny_folder)


def test_rl_branch_evaluates_the_same_problems_between_its_steps(bench: Callable[..., Bench]) -> None:
    made = bench()
    result = made.probe()
    assert result["steps"] == [0, 2, 4]
    assert [len(each) for each in result["passed"]] == [5, 5, 5]
    evaluations = [asked for asked in made.pool.asked if asked[2].stream == "probe/branch"]
    assert [version for version, _, _ in evaluations] == [0, 2, 4]
    assert len({tuple(ids) for _, ids, _ in evaluations}) == 1 and evaluations[0][2].samples == 2
    trained = [asked for asked in made.pool.asked if asked[2].stream != "probe/branch"]
    assert [(version, len(ids)) for version, ids, _ in trained] == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert set(evaluations[0][1]).isdisjoint(id for _, ids, _ in trained for id in ids)
    assert result["generated_tokens"] > result["trained_tokens"] > 0
    assert 0 <= result["silent_share"] <= 1


def test_repetition_varies_training_and_never_the_evaluation(bench: Callable[..., Bench]) -> None:
    first, again, other = bench(), bench(), bench()
    results = [made.probe(repetition=n) for made, n in ((first, 0), (again, 0), (other, 1))]
    times = [made.pop("seconds") for made in results]
    assert results[0] == results[1] and min(times) > 0

    def split(made: Bench) -> tuple[list[Any], list[Any]]:
        evaluated = [(ids, sampling) for _, ids, sampling in made.pool.asked if sampling.stream == "probe/branch"]
        trained = [(ids, sampling) for _, ids, sampling in made.pool.asked if sampling.stream != "probe/branch"]
        return evaluated, trained

    assert split(first)[0] == split(other)[0]
    for mine, theirs in zip(split(first)[1], split(other)[1], strict=True):
        assert mine[0] != theirs[0] and mine[1] != theirs[1]
    assert repetition_seed(0, 1) != repetition_seed(1, 0)


def test_branch_is_without_the_plans_remedies_in_the_data(bench: Callable[..., Bench]) -> None:
    plain, remedied = bench(), bench()
    skills = {"sum": SkillSettings({"name": "chain_sum"}, (2,))}
    data = DataSettings(prior=skills, replay=0.4, hint=0.5, ladder=(4,), review=0.4, review_every=1, defer_after=1)
    remedied.settings = replace(remedied.settings, data=data)
    results = [made.probe() for made in (plain, remedied)]
    assert [result.pop("seconds") > 0 for result in results] == [True, True]
    assert results[0] == results[1] and plain.pool.asked == remedied.pool.asked


def test_supervised_branch_imitates_as_many_solutions_as_rl_asks_problems(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[Batch] = []
    update = PolicyLearner.update
    monkeypatch.setattr(PolicyLearner, "update", lambda self, batch: (batches.append(batch), update(self, batch))[1])
    made = bench()
    result = made.probe("sft")
    assert [len(batch.rows) for batch in batches] == [3, 3, 3, 3]
    for batch in batches:
        assert sum(row.weight * len(row.completion) for row in batch.rows) == pytest.approx(1.0)
    tokens = sum(len(row.completion) for batch in batches for row in batch.rows)
    assert (result["trained_tokens"], result["silent_share"]) == (tokens, None)
    assert all(sampling.stream == "probe/branch" for _, _, sampling in made.pool.asked)


def test_supervised_branch_learns_what_it_is_shown(bench: Callable[..., Bench], tiny_folder: str) -> None:
    domain, tokenizer = make_domain(DOMAIN, "domain"), load_tokenizer(tiny_folder)
    learner = bench().make(BranchRequest(None, "sft", "reset", 0))
    pairs = worked_rows(domain, domain.problems(2, "train", 2, 0), tokenizer, 0)
    tokens = sum(len(text) for _, text in pairs)
    rows = [Row(prompt, text, np.zeros(len(text), np.float32), 1.0, 1 / tokens) for prompt, text in pairs]
    losses = [learner.update(Batch(tuple(rows)))["learner/loss"] for _ in range(40)]
    assert losses[-1] < 0.3 * losses[0]


def test_worked_domain_shows_each_of_its_formats_in_turn_but_the_direct_one(tiny_folder: str) -> None:
    domain, tokenizer = make_domain(DOMAIN, "domain"), load_tokenizer(tiny_folder)
    problems = domain.problems(5, "train", 4, 0)
    texts = [tokenizer.decode(text) for _, text in worked_rows(domain, problems, tokenizer, first=1)]
    assert all(text.endswith("<eos>") for text in texts)
    verdicts = [domain.judge(p, text.removesuffix("<eos>")) for p, text in zip(problems, texts, strict=True)]
    assert [verdict.reward for verdict in verdicts] == [1.0] * 4
    assert domain.formats == ("halving", "powers", "direct")
    assert [verdict.format for verdict in verdicts] == ["powers", "halving", "powers", "halving"]


def test_domain_without_solutions_shows_the_answer_as_its_judge_takes_it(tiny_folder: str, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("".join(f'{{"question": "{n}?", "answer": "{n}"}}\n' for n in range(40)))
    domain = make_domain({"name": "jsonl", "path": str(tmp_path / "rows.jsonl")}, "domain")
    [problem] = domain.problems(1, "train", 1, 0)
    [(prompt, text)] = worked_rows(domain, [problem], load_tokenizer(tiny_folder), 0)
    tokenizer = load_tokenizer(tiny_folder)
    assert tokenizer.decode(prompt) == problem.prompt
    assert tokenizer.decode(text) == f"Answer: {problem.answer}<eos>"


def test_bare_answer_where_the_judge_takes_it_or_takes_nothing(tiny_folder: str) -> None:
    class Bare:
        key, formats, levels = "bare", ("direct",), (1,)

        def problems(self, *arguments: Any) -> list[Problem]:
            raise AssertionError

        def judge(self, problem: Problem, text: str) -> Any:
            return Verdict(float(text == "7"), "direct")

    tokenizer = load_tokenizer(tiny_folder)
    for answer in ("7", "8"):
        [(_, text)] = worked_rows(Bare(), [Problem("p", "bare", 1, "?", answer)], tokenizer, 0)  # type: ignore[arg-type]
        assert tokenizer.decode(text) == f"{answer}<eos>"


class Counting:
    """A brancher that answers at once and remembers what was asked of it."""

    def __init__(self) -> None:
        self.asked: list[BranchRequest] = []

    def submit(self, request: BranchRequest) -> BranchRequest:
        self.asked.append(request)
        return request

    def collect(self, handle: BranchRequest) -> Mapping[str, Any]:
        return {"steps": [0, 1], "passed": [[0.5], [1.0]], "silent_share": None, "of": str(handle)}


SETTINGS = BranchSettings(DOMAIN, modes=("rl", "sft"), optimizers=("reset", "carried"), seeds=2)


def test_base_runs_once_for_each_mode_and_repetition_and_is_kept_for_later_runs(tmp_path: Path) -> None:
    store, brancher = FolderStore(tmp_path / "run", tmp_path / "memory"), Counting()
    branches = Branches(SETTINGS, brancher, store, "start")
    arms = branches.measured(None, None)
    assert brancher.asked == [BranchRequest(None, m, "reset", n) for m in ("rl", "sft") for n in (0, 1)]
    assert arms["rl_carried"]["now"] == arms["rl_reset"]["base"] and len(arms["rl_reset"]["now"]) == 2
    branches.measured(None, None)
    Branches(SETTINGS, brancher, store, "start").measured(None, None)
    assert len(brancher.asked) == 4
    Branches(SETTINGS, brancher, store, "other").measured(None, None)
    assert len(brancher.asked) == 8


def test_snapshot_is_compared_with_the_base_of_its_mode_and_repetition(tmp_path: Path) -> None:
    store, brancher = FolderStore(tmp_path / "run", tmp_path / "memory"), Counting()
    branches = Branches(SETTINGS, brancher, store, "start")
    branches.submit(tmp_path, None)
    branches.submit(tmp_path, None)  # a second time, as after a resume in the same process
    assert len(brancher.asked) == 8 + 4
    arms = branches.measured(tmp_path, None)
    assert len(brancher.asked) == 8 + 4
    assert list(arms) == ["rl_reset", "rl_carried", "sft_reset", "sft_carried"]
    for arm, sides in arms.items():
        mode, optimizer = arm.split("_")
        for n in (0, 1):
            assert sides["now"][n]["of"] == str(BranchRequest(str(tmp_path), mode, optimizer, n))
            assert sides["base"][n]["of"] == str(BranchRequest(None, mode, "reset", n))


def test_plasticity_of_a_snapshot_needs_no_run(bench: Callable[..., Bench], tmp_path: Path) -> None:
    made = bench(seeds=2)
    learner = made.make(BranchRequest(None, "sft", "reset", 0))
    learner.capture()(tmp_path / "snapshot")  # the base itself
    store = FolderStore(tmp_path / "run", tmp_path / "memory")
    arms = Branches(made.settings.probe.branch, made.local(), store, "key").measured(tmp_path / "snapshot", None)
    for sides in arms.values():
        now, base = ([{**each, "seconds": 0} for each in sides[side]] for side in ("now", "base"))
        assert now == base
    assert plasticity(arms, 0.5, 2, 0).metrics["plasticity/rl_reset/end_difference"] == 0.0


def test_nothing_judged_is_an_error_that_names_the_step(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = bench()
    monkeypatch.setattr(
        made.judge,
        "judge",
        lambda groups: [JudgedGroup(g, tuple(Verdict(None, "other") for _ in g.completions)) for g in groups],
    )
    with pytest.raises(RuntimeError, match="branch probe, step 0: none of the completions could be judged"):
        made.probe()


def test_evaluation_is_honest(bench: Callable[..., Bench]) -> None:
    asked: list[Mapping[str, Any]] = []
    made = bench(domain={**DOMAIN, "lenient": True})
    resolve = made.judge.domain

    def remember(values: Mapping[str, Any], path: str) -> Any:
        asked.append(values)
        return resolve(values, path)

    request = BranchRequest(None, "rl", "reset", 0)
    branch_probe(request, made.settings, made.variant, made.make(request), made.pool, made.judge, remember)
    assert asked == [{**DOMAIN, "lenient": True}, DOMAIN]
