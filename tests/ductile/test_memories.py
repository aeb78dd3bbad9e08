"""What becomes of a proxy's expert between two phases, and alpha over a run: interrupted or not, it is the same run."""

# ruff: noqa: F811  the fixture `model` is another module's
from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ductile.plan import make_plan
from ductile.ports import OTHER_DOMAINS, PolicyRef, Sampling
from ductile.sampling.worker import LocalPool
from ductile.step import publish
from ductile.switch import switch
from ductile.variants import make_variant
from tests.ductile.test_resume import (
    TWO_PHASES,
    Interrupted,
    MemoryTracker,
    model,  # noqa: F401  a fixture
    settings,
    start,
    without_times,
)

pytestmark = pytest.mark.runs

VARIANTS: dict[str, dict[str, Any]] = {
    "fresh": {"name": "proxy", "alpha": 0.7, "memory": "fresh"},
    "sum": {"name": "proxy", "alpha": 0.7, "memory": "sum"},
    "distil": {"name": "proxy", "alpha": 0.7, "memory": "distil", "distil_steps": 2},
    "scheduled": {"name": "proxy", "alpha": 0.2, "alpha_end": 1.0},
    "self_proxy": {"name": "self_proxy", "alpha": 0.6, "alpha_end": 0.2},
}
PHASES = {
    "a": {**TWO_PHASES["phase"]["easy"], "steps": 1},
    "b": {**TWO_PHASES["phase"]["hard"], "steps": 1},
    "c": {**TWO_PHASES["phase"]["easy"], "steps": 2},  # the domain of the first one again
}
PROBE = {
    **TWO_PHASES["probe"], "probes": ["retention", "drift", "alphas"], "alphas": [0.0, 1.0], "problems": 1,
    "samples": 2, "drift_problems": 1,
}  # fmt: skip


def of(name: str, **changed: Any) -> Any:
    return settings(variant=VARIANTS[name], phase=PHASES, probe=PROBE, **changed)


# Calls of `tracker.metrics` are 0 boundary, 1 step, 2 boundary, 3 step, 4 boundary, 5 and 6 steps, 7 boundary.
@pytest.fixture(scope="module")
def whole(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Any, Any, MemoryTracker]]:
    """Name of a variant -> boundaries, ports and tracker of its uninterrupted run."""

    @cache
    def run(name: str) -> tuple[Any, Any, MemoryTracker]:
        tracker = MemoryTracker()
        return *start(of(name), model, tmp_path_factory.mktemp(name), tracker), tracker

    return run


# The switches lie before calls 3 and 5: an interruption at 3 repeats the first, one at 6 recalls the second.
@pytest.mark.parametrize(
    ("name", "stop_at"),
    [
        ("fresh", 3),
        ("fresh", 6),
        ("sum", 3),
        ("sum", 6),
        ("distil", 3),
        ("distil", 6),
        ("scheduled", 4),
        ("self_proxy", 6),
    ],
)
def test_run_that_is_interrupted_around_a_switch_is_the_uninterrupted_one(
    name: str, stop_at: int, whole: Any, model: Path, tmp_path: Path
) -> None:
    first, second = MemoryTracker(stop_at), MemoryTracker()
    expected, whole_ports, whole_tracker = whole(name)
    with pytest.raises(Interrupted):
        start(of(name), model, tmp_path / "cut", first)
    cut, ports = start(of(name), model, tmp_path / "cut", second)
    assert without_times(cut) == without_times(expected)
    assert first.logged | second.logged == whole_tracker.logged
    for key, tensor in whole_ports.learner.weights().items():
        assert torch.equal(ports.learner.weights()[key], tensor), key
    coefficients = [[m.coefficient for m in each.learner.composition.members] for each in (ports, whole_ports)]
    assert coefficients[0] == coefficients[1]


def test_repeated_switch_finds_what_an_earlier_one_wrote(model: Path, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        start(of("sum"), model, tmp_path, MemoryTracker(3))  # the switch is made, its first step is not logged
    folders = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "run" / "models").iterdir()}
    _, ports = start(of("sum"), model, tmp_path, MemoryTracker())
    again = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "run" / "models").iterdir()}
    assert len(folders) == 1 and folders.items() <= again.items() and len(again) == 2
    roles = [(m.role, m.coefficient) for m in ports.learner.composition.members]
    assert roles == [
        ("base", 1.0), ("expert_1", 0.7), ("expert_2", 0.7), ("expert", 0.7), ("anti_expert", pytest.approx(-2.1))
    ]  # fmt: skip


def logits(pool: LocalPool, policy: PolicyRef) -> torch.Tensor:
    ids = torch.tensor([[5, 9, 14, 3, 22, 7]])
    with torch.no_grad():
        return pool._policy(policy)(ids, torch.ones_like(ids))


def switched(
    name: str, model: Path, tmp_path: Path, **options: Any
) -> tuple[Any, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A run's ports, and the logits of its policy before a switch, after it, and of the base."""
    wanted = settings(
        variant={**VARIANTS[name], **options}, phase={"a": PHASES["a"]}, probe={"probes": []},
        learner={"engine": "torch", "lr": 0.1},
    )  # fmt: skip
    _, ports = start(wanted, model, tmp_path, MemoryTracker())
    before = logits(ports.pool, publish(ports.pool, ports.learner))
    phase = make_plan(wanted, ports.resolve).phases[0]
    switch(wanted, make_variant(wanted.variant), phase, "switch/a", ports)
    after = logits(ports.pool, publish(ports.pool, ports.learner))
    return ports, before, after, logits(ports.pool, PolicyRef(ports.learner.origin, None, 0))


def test_sum_goes_on_from_the_policy_and_fresh_from_the_base(model: Path, tmp_path: Path) -> None:
    _, before, after, base = switched("sum", model, tmp_path / "sum")
    assert (before - base).abs().max() > 0.05
    assert torch.allclose(after, before, atol=1e-5)
    ports, before, after, base = switched("fresh", model, tmp_path / "fresh")
    assert (before - base).abs().max() > 0.05
    assert torch.allclose(after, base, atol=1e-5)
    experts, ended = ports.learner.experts(), ports.resolve(PHASES["a"]["domain"], "a").key
    composition, weights = experts[ended]
    assert weights is None and torch.allclose(logits(ports.pool, PolicyRef(composition, None, 0)), before, atol=1e-5)
    assert [m.role for m in experts[OTHER_DOMAINS][0].members] == ["base"]


def test_kept_expert_goes_on_where_its_domain_is_asked_again(model: Path, tmp_path: Path) -> None:
    ports, before, _, _ = switched("fresh", model, tmp_path)
    domain = ports.resolve(PHASES["a"]["domain"], "a").key
    ports.learner.start_phase(domain)
    assert torch.allclose(logits(ports.pool, publish(ports.pool, ports.learner)), before, atol=1e-5)
    assert ports.learner.experts()[domain][1] is ports.learner.weights()


def test_distilled_base_is_nearer_to_the_policy_and_its_cost_is_owed(model: Path, tmp_path: Path) -> None:
    ports, before, after, base = switched("distil", model, tmp_path, distil_steps=60)
    p, q, r = (torch.log_softmax(x, -1) for x in (before, after, base))
    kl = [float((p.exp() * (p - other)).sum(-1).mean()) for other in (q, r)]
    assert kl[0] < 0.6 * kl[1], kl
    owed = ports.learner.settle()
    assert ports.learner.settle() == {}
    assert owed["forward_tokens"] == 3 * owed["sampled_tokens"] > 0
    assert owed["completions"] >= 60 * 3
    assert owed["learner_forward_tokens"] > 4 * owed["trained_tokens"] > 0
    assert torch.equal(base, logits(LocalPool("float32"), PolicyRef(ports.learner.origin, None, 0)))


def test_alpha_runs_in_equal_parts_from_the_first_step_to_the_last(
    model: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    asked: list[float] = []
    generate = LocalPool.generate

    def watch(self: LocalPool, policy: PolicyRef, problems: Any, sampling: Sampling) -> Any:
        if sampling.stream.startswith("train/"):
            asked.append(policy.composition.members[1].coefficient)
        return generate(self, policy, problems, sampling)

    monkeypatch.setattr(LocalPool, "generate", watch)
    wanted = settings(variant=VARIANTS["scheduled"], phase=PHASES, probe={"probes": []})
    _, ports = start(wanted, model, tmp_path, MemoryTracker())
    assert asked == pytest.approx([0.2, 0.2 + 0.8 / 3, 0.2 + 1.6 / 3, 1.0])
    assert ports.learner.composition.members[1].coefficient == pytest.approx(1.0)


def test_behaviour_is_that_of_the_composed_softmax_under_a_schedule(
    model: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    groups: list[tuple[PolicyRef, Any]] = []
    generate = LocalPool.generate

    def watch(self: LocalPool, policy: PolicyRef, problems: Any, sampling: Sampling) -> Any:
        made = generate(self, policy, problems, sampling)
        groups.append((policy, made))
        return made

    monkeypatch.setattr(LocalPool, "generate", watch)
    wanted = settings(
        variant=VARIANTS["self_proxy"], phase={"a": {**PHASES["a"], "steps": 3}}, probe={"probes": []},
        learner={"engine": "torch", "lr": 0.1},
    )  # fmt: skip
    tracker = MemoryTracker()
    start(wanted, model, tmp_path, tracker)
    gaps = [value for (_, name), value in tracker.logged.items() if name == "learner/behaviour_gap"]
    assert len(gaps) == 3 and max(gaps) < 1e-5  # the learner weighs as the worker did
    for (policy, made), alpha in zip(groups, (0.6, 0.4, 0.2), strict=True):
        fresh = LocalPool("float32")
        copy, base = (
            fresh._policy(PolicyRef(policy.composition, weights, 0)).members["policy"]
            for weights in (policy.weights, None)
        )
        completion = made[0].completions[0]
        ids = torch.tensor([[*made[0].prompt_tokens.tolist(), *completion.tokens.tolist()]])
        with torch.no_grad():
            both = [torch.log_softmax(m(input_ids=ids).logits.double(), -1) for m in (base, copy)]
        mixed = torch.log_softmax((1 - alpha) * both[0] + alpha * both[1], -1)[0, :-1]
        expected = mixed.gather(-1, ids[0, 1:, None])[-len(completion.tokens) :, 0]
        assert np.allclose(completion.logps, expected.numpy(), atol=1e-4)


def test_sweep_of_alpha_is_the_base_at_zero(whole: Any, model: Path, tmp_path: Path) -> None:
    boundaries, _, _ = whole("self_proxy")
    row = boundaries[-1]["metrics"]
    bare, _ = start(settings(phase={}, probe=PROBE), model, tmp_path / "base", MemoryTracker())
    assert row["alphas/prior/0"] == bare[0]["metrics"]["retention/prior"]
    assert abs(row["alphas/kl_reverse_prior/0"]) < 1e-12 and row["alphas/kl_reverse_prior/1"] > 1e-6
    assert "alphas/prior/0" not in bare[0]["metrics"]
    json.dumps(boundaries[-1]["tables"]["alphas"])


@pytest.mark.parametrize("name", ["fresh", "sum", "distil", "scheduled", "self_proxy"])
def test_drift_is_from_the_untouched_base_whatever_the_policy_became(name: str, whole: Any) -> None:
    boundaries, _, _ = whole(name)
    drift = [v for key, v in boundaries[0]["metrics"].items() if key.startswith("drift/")]
    assert drift and max(map(abs, drift)) < 1e-10
    moved = [row["metrics"]["drift/kl_reverse_base/new"] for row in boundaries[1:]]
    assert min(moved) > 0.0
