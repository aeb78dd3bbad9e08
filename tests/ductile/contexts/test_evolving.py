"""Evolution on a policy that passes when it is asked for the right format: what is found, what it costs and keeps."""

from __future__ import annotations

import builtins
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ductile.config import RunSettings
from ductile.contexts import NoContexts, evolving, make_contexts
from ductile.contexts.context import Context
from ductile.contexts.evolving import EvolvingContexts
from ductile.contexts.pool import ContextPool
from ductile.domains import make_domain
from ductile.metrics import check_declared
from ductile.plan import Phase, make_phase
from ductile.ports import PolicyRef, Sampling
from ductile.problem import Problem
from ductile.settings import build
from tests.ductile.contexts.test_reflectors import reply, server
from tests.ductile.probes.fakes import COMPOSITION, FakeJudge, FakePool

POLICY = PolicyRef(COMPOSITION, "w", 3)
VARIANT = {"name": "fast_slow", "contexts": 2, "evolve_every": 3, "evolve_calls": 120, "reflector": "vocabulary"}
VALUES = {
    "phase": {"hard": {"domain": {"name": "chain_sum"}, "levels": [4], "steps": 9, "pool": 60}},
    "rollout": {"groups": 4, "group_size": 4, "max_tokens": 9},
    "seed": 6,
}


def settings(**variant: Any) -> RunSettings:
    return build(RunSettings, {**VALUES, "variant": {**VARIANT, **variant}})


def phase() -> Phase:
    run = settings()
    return make_phase("hard", run.phase["hard"], run.seed, make_domain, "phase.hard")


def obedient(problem: Problem, sample: int) -> str:
    """Right when asked for a trace, or shown one; else wrong."""
    shown = any("trace" in answered for _, answered in problem.history)
    return "1 trace" if problem.instruction == "[trace]" or shown else "0 direct"


@pytest.fixture(autouse=True)
def _room(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fakes have no model whose positions could be counted."""
    monkeypatch.setattr(
        evolving, "room", lambda policy, problems, max_tokens: lambda context: len(context.examples) < 3
    )


def started(pool: FakePool, run: RunSettings | None = None) -> ContextPool:
    contexts = make_contexts(run or settings(), pool, FakeJudge())
    contexts.start_phase(phase())
    return contexts


def train(contexts: ContextPool, pool: FakePool, steps: range) -> list[dict[str, float]]:
    """Steps as `train_step` takes them, without learning."""
    measured = []
    for step in steps:
        metrics, spent = contexts.evolve(POLICY, phase(), step, f"train/0/{step}")
        measured.append(metrics | {f"spent/{name}": float(value) for name, value in spent.items()})
        asked = contexts.ask(list(phase().pool.values())[:4], f"train/0/{step}")
        contexts.observe(FakeJudge().judge(pool.generate(POLICY, asked, Sampling(6, f"train/0/{step}", 2, 9))))
    return measured


def test_evolution_finds_the_instruction_that_helps_and_deploys_it() -> None:
    pool = FakePool(obedient)
    contexts = started(pool)
    assert contexts.deployed() == {phase().domain.key: Context()}
    metrics = train(contexts, pool, range(4))
    deployed = contexts.deployed()[phase().domain.key]
    assert deployed.instruction == "[trace]" or any("trace" in answered for _, answered in deployed.examples)
    assert metrics[0]["fast/seed_score"] == 0.0 and metrics[0]["fast/best_score"] == 1.0
    check_declared(name for name in metrics[0] if name.startswith("fast/"))


def test_round_is_due_at_the_first_step_and_every_t_steps_and_stays_within_its_calls() -> None:
    pool = FakePool(obedient)
    metrics = train(started(pool), pool, range(7))
    assert [step for step, row in enumerate(metrics) if row] == [0, 3, 6]
    for row in (metrics[step] for step in (0, 3, 6)):
        assert 60 < row["fast/completions"] <= 120
        assert row["spent/completions"] == row["fast/completions"]
        assert row["spent/sampled_tokens"] == row["spent/forward_tokens"] == 3 * row["fast/completions"]
    rolled = sum(len(ids) for _, ids, sampling in pool.generated if "/evolve/" in sampling.stream)
    assert rolled == sum(row.get("fast/completions", 0) for row in metrics)


def test_each_problem_is_asked_in_k_contexts_and_keeps_its_id() -> None:
    pool = FakePool(lambda problem, sample: "1 trace")  # every context is as good: the seed alone is kept
    contexts = started(pool)
    contexts.evolve(POLICY, phase(), 0, "train/0/0")
    problems = list(phase().pool.values())[:3]
    asked = contexts.ask(problems, "train/0/0")
    assert Counter(problem.id for problem in asked) == {problem.id: 2 for problem in problems}
    assert len({(problem.id, problem.context) for problem in asked}) == 6  # so that no two are the same completions


def test_present_population_is_scored_again_by_the_policy_of_the_moment() -> None:
    """A context that helped the policy before, and no longer does, leaves."""
    helps = {"on": True}
    pool = FakePool(lambda problem, sample: "1 trace" if (problem.context != "") == helps["on"] else "0 direct")
    contexts = started(pool)
    contexts.evolve(POLICY, phase(), 0, "train/0/0")
    assert contexts.deployed()[phase().domain.key] != Context()
    helps["on"] = False
    metrics, _ = contexts.evolve(POLICY, phase(), 3, "train/0/3")
    assert contexts.deployed()[phase().domain.key] == Context()
    assert metrics["fast/seed_score"] == 1.0


def sometimes(problem: Problem, sample: int) -> str:
    """Right on other problems in every context: a front of several."""
    return "1 trace" if sum(map(ord, problem.prompt + problem.context)) % 3 else "0 direct"


def test_same_seed_and_streams_give_the_same_contexts_and_another_seed_others() -> None:
    def evolved(seed: int) -> Any:
        pool = FakePool(sometimes)
        run = build(RunSettings, {**VALUES, "variant": VARIANT, "seed": seed})
        contexts = started(pool, run)
        train(contexts, pool, range(7))
        return contexts.snapshot()

    assert evolved(6) == evolved(6)
    assert evolved(6) != evolved(7)


def test_population_read_back_from_json_evolves_on_to_the_same() -> None:
    pool = FakePool(sometimes)
    whole = started(pool)
    train(whole, pool, range(5))
    kept = json.loads(json.dumps(whole.snapshot()))
    other = make_contexts(settings(), pool, FakeJudge())
    other.restore(kept)
    assert len(kept["populations"][phase().domain.key]) > 1
    assert train(whole, pool, range(5, 8)) == train(other, pool, range(5, 8))
    assert whole.snapshot() == other.snapshot() and whole.deployed() == other.deployed()


def test_evolution_writes_no_file_and_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import pickle

    monkeypatch.chdir(tmp_path)

    def refuse(*arguments: Any, **keywords: Any) -> Any:
        raise AssertionError("a pickle")

    monkeypatch.setattr(pickle, "dump", refuse)
    monkeypatch.setattr(pickle, "dumps", refuse)
    opened: list[Any] = []
    real = builtins.open
    monkeypatch.setattr(builtins, "open", lambda *a, **k: (opened.append(a), real(*a, **k))[1])
    pool = FakePool(obedient)
    contexts = started(pool)
    train(contexts, pool, range(4))
    assert list(tmp_path.iterdir()) == [] and capsys.readouterr() == ("", "")
    assert [arguments for arguments in opened if len(arguments) > 1 and set(arguments[1]) & set("wax")] == []


def test_domain_met_again_begins_with_its_own_contexts() -> None:
    pool = FakePool(obedient)
    contexts = started(pool)
    train(contexts, pool, range(1))
    found = contexts.deployed()[phase().domain.key]
    other = build(RunSettings, {**VALUES, "phase": {"s": {"domain": {"name": "sort_digits"}, "levels": [4]}}})
    second = make_phase("s", other.phase["s"], 6, make_domain, "phase.s")
    contexts.start_phase(second)
    assert contexts.deployed() == {phase().domain.key: found, second.domain.key: Context()}
    contexts.start_phase(phase())
    assert contexts.deployed()[phase().domain.key] == found


def test_variants_without_contexts_have_none() -> None:
    contexts = make_contexts(build(RunSettings, VALUES), FakePool(obedient), FakeJudge())
    assert isinstance(contexts, NoContexts)
    problems = list(phase().pool.values())[:2]
    assert contexts.ask(problems, "s") == problems and contexts.deployed() == {}


def test_reflector_model_reads_rollouts_and_its_context_is_taken() -> None:
    answer = 'Ask for a trace:\n```json\n{"instruction": "[trace]", "examples": []}\n```'
    pool = FakePool(obedient)
    with server(reply(answer)) as (url, seen):
        contexts = started(pool, settings(reflector="model", reflector_url=url, reflector_model="wise"))
        metrics, _ = contexts.evolve(POLICY, phase(), 0, "train/0/0")
    assert contexts.deployed()[phase().domain.key].instruction == "[trace]"
    prompt = seen[0][2]["messages"][0]["content"]
    assert "wrong; the expected answer is" in prompt and '"instruction": ""' in prompt
    assert metrics["fast/reflector_calls"] == len(seen) and metrics["fast/reflector_tokens"] == 11 * len(seen)
    check_declared(metrics)


def test_reflector_model_that_answers_garbage_changes_nothing() -> None:
    pool = FakePool(obedient)
    with server(reply("I would rather talk about the weather.")) as (url, _):
        contexts = started(pool, settings(reflector="model", reflector_url=url, reflector_model="wise"))
        metrics, _ = contexts.evolve(POLICY, phase(), 0, "train/0/0")
    assert contexts.deployed() == {phase().domain.key: Context()}
    assert metrics["fast/unusable"] > 0 and metrics["fast/reflector_failures"] == 0
    assert {problem for _, _, s in pool.generated for problem in [s.stream.rsplit("/", 1)[0]]} == {"train/0/0/evolve"}


def test_reflector_model_that_never_answers_ends_the_run_with_its_address() -> None:
    pool = FakePool(obedient)
    with server({"error": "no such model"}, status=404) as (url, _):
        contexts = started(pool, settings(reflector="model", reflector_url=url, reflector_model="wise"))
        with pytest.raises(RuntimeError, match=r"variant.reflector_url: none of \d+ calls to http://127.* 404"):
            contexts.evolve(POLICY, phase(), 0, "train/0/0")


def test_context_pool_is_what_the_loop_asks_for() -> None:
    contexts: ContextPool = EvolvingContexts(settings(), FakePool(obedient), FakeJudge())
    assert contexts.deployed() == {}
