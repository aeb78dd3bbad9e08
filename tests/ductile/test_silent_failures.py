"""What has gone wrong elsewhere without a word: each gets a test here that names it. See also test_resume.py."""

from __future__ import annotations

import ast
import dataclasses
import json
import threading
from pathlib import Path

import numpy as np
import pytest

import ductile.config
from ductile.config import ArchitectureSettings, ObjectiveSettings, RunSettings, VariantSettings
from ductile.domains import make_domain
from ductile.judge import LocalJudge
from ductile.learner import make_learner
from ductile.models.scratch import build_llama
from ductile.models.tokenizer import character_tokenizer
from ductile.ports import PolicyRef, Sampling
from ductile.problem import Completion, Group, JudgedGroup, Problem, Verdict
from ductile.rl.statistics import group_statistics
from ductile.sampling.worker import LocalPool
from ductile.settings import build
from ductile.variants import make_variant

ROOT = Path(__file__).resolve().parents[2]


def test_rewards_are_not_all_zero_outside_the_main_thread(tmp_path) -> None:
    rows = [{"question": f"What is {n} + {n}?", "answer": f"#### {2 * n}"} for n in range(30)]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    domain = make_domain({"name": "jsonl", "path": str(path), "separator": "####"}, "domain")
    problems = domain.problems(1, "train", 5, 0)
    rewards: list[float | None] = []
    thread = threading.Thread(
        target=lambda: rewards.extend(domain.judge(p, f"It is {p.answer}.\n#### {p.answer}").reward for p in problems)
    )
    thread.start()
    thread.join()
    assert rewards == [1.0] * len(problems)


def test_answer_that_takes_too_long_to_judge_is_not_a_wrong_answer(tmp_path) -> None:
    rows = [{"question": f"What is {n} + {n}?", "answer": str(2 * n)} for n in range(30)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    judge, settings = LocalJudge(), RunSettings()
    domain = judge.domain({"name": "jsonl", "path": str(tmp_path / "rows.jsonl"), "timeout_s": 1e-9})
    [problem] = domain.problems(1, "train", 1, 0)
    texts = ["Answer: 1/3 + 1/3", "no answer", "Answer: 7", "none either"]
    completions = tuple(
        Completion(problem.id, i, np.array([5, 1], np.int32), np.array([-1.0, -1.0], np.float32), text, True, 0)
        for i, text in enumerate(texts)
    )
    found: list[JudgedGroup] = []
    group = Group(problem, np.array([3], np.int32), completions)
    thread = threading.Thread(target=lambda: found.extend(judge.judge([group])))
    thread.start()
    thread.join()
    assert [verdict.reward for verdict in found[0].verdicts] == [None, 0.0, None, 0.0]
    metrics = group_statistics(found, ObjectiveSettings(advantage="std"))
    assert (metrics["rollout/unjudged_share"], metrics["rollout/format/other"]) == (0.5, 1.0)
    held = make_variant(VariantSettings("low_drift", kl=0.1, kl_estimator="k3", anchor="base"))
    kept = held.batch(found, settings).rows  # the KL acts on all rows: those that were judged, and no others
    assert len(kept) == 2 and sum(row.weight * len(row.completion) for row in kept) == pytest.approx(1.0)


def judged(*rewards: float | None) -> JudgedGroup:
    problem = Problem("p", "d", 1, "q", "a")
    completions = tuple(
        Completion("p", i, np.array([5, 1], np.int32), np.array([-1.0, -1.0], np.float32), "x", True, 0)
        for i in range(len(rewards))
    )
    verdicts = tuple(Verdict(reward, "direct") for reward in rewards)
    return JudgedGroup(Group(problem, np.array([3], np.int32), completions), verdicts)


def test_what_could_not_be_judged_is_in_no_mean_and_no_gradient() -> None:
    metrics = group_statistics([judged(1.0, 0.0, None, None)], ObjectiveSettings(advantage="no_std"))
    assert metrics["rollout/pass_rate"] == 0.5 and metrics["rollout/unjudged_share"] == 0.5
    settings = RunSettings()
    rows = make_variant(settings.variant).batch([judged(1.0, 0.0, None, None)], settings).rows
    assert [row.advantage > 0 for row in rows] == [True, False]
    assert sum(row.weight * len(row.completion) for row in rows) == pytest.approx(1.0)


def test_step_in_which_nothing_could_be_judged_is_not_a_step_of_failures() -> None:
    metrics = group_statistics([judged(None, None)], ObjectiveSettings(advantage="std"))
    assert "rollout/pass_rate" not in metrics and metrics["rollout/unjudged_share"] == 1.0
    settings = RunSettings()
    assert make_variant(settings.variant).batch([judged(None, None)], settings).rows == ()


def test_no_setting_is_read_and_never_used() -> None:
    read: set[str] = set()
    for folder in ("platform/ductile", "actors", "jobs"):
        for file in (ROOT / folder).rglob("*.py"):
            if file.name != "config.py":
                read |= {node.attr for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Attribute)}
    classes = [c for c in vars(ductile.config).values() if isinstance(c, type) and dataclasses.is_dataclass(c)]
    unused = [f"{c.__name__}.{f.name}" for c in classes for f in dataclasses.fields(c) if f.name not in read]
    # Variants are made from their options by name, see `make_variant`; each is a field of a variant.
    assert unused == []


def test_kl_term_pulls_towards_the_base_and_not_away(tmp_path) -> None:
    tokenizer = character_tokenizer()
    build_llama(ArchitectureSettings(layers=1, width=16, heads=2, mlp=32), tokenizer, seed=1).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    problems = make_domain({"name": "chain_sum"}, "domain").problems(3, "train", 4, 0)
    moved = {}
    for name, variant in {
        "free": {"name": "parameter_only"},
        "held": {"name": "low_drift", "kl": 10.0, "kl_estimator": "k3", "anchor": "base"},
    }.items():
        values = {"variant": variant, "learner": {"engine": "torch", "lr": 3e-3}, "objective": {"advantage": "no_std"}}
        settings = build(RunSettings, values)
        made, pool = make_variant(settings.variant), LocalPool("float32")
        learner = make_learner(settings, made, tmp_path, tmp_path)
        base = PolicyRef(learner.composition, None, 0)
        for step in range(8):
            policy = PolicyRef(learner.composition, pool.publish(learner.weights()), learner.version)
            groups = pool.generate(policy, problems, Sampling(0, f"t/{step}", 4, 8))
            rewarded = [  # an arbitrary reward: both arms see the same pull away from the base
                JudgedGroup(
                    g, tuple(Verdict(float("7" in c.text or len(c.tokens) % 2), "direct") for c in g.completions)
                )
                for g in groups
            ]
            learner.update(made.batch(rewarded, settings))
        policy = PolicyRef(learner.composition, pool.publish(learner.weights()), learner.version)
        groups = pool.generate(base, problems, Sampling(0, "eval", 8, 8))
        moved[name] = pool.divergence(policy, base, groups, 1.0).token_forward
    assert 0 < moved["held"] < 0.5 * moved["free"]
