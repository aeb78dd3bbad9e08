"""Shares of the gradient by successes, against gradients made by autograd of single rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from ductile.config import ObjectiveSettings, PhaseSettings, ProbeSettings, RolloutSettings, RunSettings
from ductile.metrics import check_declared
from ductile.ports import PolicyRef, Sampling
from ductile.probes.base import ProbeContext, ProbeResult
from ductile.probes.gradients import GradientsProbe
from ductile.problem import Group, JudgedGroup, Problem, Split
from ductile.variants.parameter_only import ParameterOnly
from tests.ductile.probes.fakes import POLICY, FakePool, context
from tests.ductile.probes.tiny import VOCABULARY, llama, single

PHASE = ("hard", PhaseSettings({"name": "h", "lenient": True}, (3, 9)))
ROLLOUT = RolloutSettings(temperature=1.0, group_size=4, max_tokens=9)
RUN = RunSettings(rollout=ROLLOUT, objective=ObjectiveSettings(advantage="no_std"))
VARIANT = ParameterOnly(None)


@dataclass(frozen=True)
class Training:
    key: str
    formats: tuple[str, ...] = ("steps",)

    def problems(self, level: int, split: Split, count: int, seed: int) -> list[Problem]:
        assert (split, seed) == ("train", 5)
        return [Problem(f"{self.key}/{level}/{i}", self.key, level, "?", "!") for i in range(count)]


class RandomPool(FakePool):
    """Completions of random tokens with the log-probabilities that the model gives them."""

    def generate(self, policy: PolicyRef, problems: Sequence[Problem], sampling: Sampling) -> list[Group]:
        groups = super().generate(policy, problems, sampling)
        return [
            replace(group, completions=tuple(self._random(group, c) for c in group.completions)) for group in groups
        ]

    def _random(self, group: Group, completion: Any) -> Any:
        rng = np.random.default_rng([ord(letter) for letter in f"{group.problem.id}/{completion.sample}"])
        tokens = rng.integers(0, VOCABULARY, 3).astype(np.int32)
        with torch.no_grad():
            logps = logps_of(tokens)
        return replace(completion, tokens=tokens, logps=logps.numpy())


MODEL = llama()


def logps_of(tokens: np.ndarray) -> torch.Tensor:
    ids = torch.tensor([[0, *tokens.tolist()]])
    return torch.log_softmax(MODEL(input_ids=ids).logits[0, :-1], -1).gather(1, ids[0, 1:, None])[:, 0]


def by_item(problem: Problem, sample: int) -> str:
    """Item i of a level has i successes of 4."""
    return "1 steps" if sample < int(problem.id.rsplit("/", 1)[1]) else "0 steps"


def measure(answers: Any = by_item, groups: int = 8, **changes: Any) -> tuple[ProbeResult, RandomPool, list[Any]]:
    pool = RandomPool(answers, loaded=lambda ref: {POLICY: single(MODEL)}[ref])
    resolved: list[Any] = []

    def resolve(values: Mapping[str, Any], path: str) -> Training:
        resolved.append((dict(values), path))
        return Training("h")

    def batch(judged: Sequence[JudgedGroup]) -> Any:
        return VARIANT.batch(judged, RUN)

    asked: ProbeContext = replace(
        context(pool, ProbeSettings(gradient_groups=groups)),
        **{
            "resolve": resolve,
            "rollout": ROLLOUT,
            "phase": PHASE,
            "batch": batch,
            "objective": VARIANT.objective(RUN.objective),
            **changes,
        },
    )
    result = GradientsProbe().measure(asked)
    check_declared(result.metrics)
    return result, pool, resolved


def test_groups_are_those_that_the_phase_trains_on() -> None:
    _, pool, resolved = measure(groups=3)
    assert resolved == [({"name": "h", "lenient": True}, "phase.hard.domain")]
    [(policy, ids, sampling)] = pool.generated
    assert (policy, ids) == (POLICY, ["h/3/0", "h/9/0", "h/3/1"])
    assert (sampling.samples, sampling.stream) == (4, "probe/gradient")


def test_parts_are_autograds_with_advantages_by_hand() -> None:
    """On fresh samples the ratio is 1, so g_k is the mean over all tokens of -A grad log p, A = r - k / 4."""
    result, pool, _ = measure()
    parts = {}
    for level in (3, 9):
        for k in (1, 2, 3):
            [group] = pool.generate(POLICY, [Problem(f"h/{level}/{k}", "h", level, "?", "!")], pool.generated[0][2])
            loss = sum(
                -((sample < k) - k / 4) * logps_of(completion.tokens).sum() / (8 * 4 * 3)
                for sample, completion in enumerate(group.completions)
            )
            gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(MODEL.parameters()))])
            parts[k] = parts.get(k, 0) + gradient.double()
    whole = sum(parts.values())
    norms = {k: float(part.norm()) for k, part in parts.items()}
    assert result.metrics["gradient/norm"] == pytest.approx(float(whole.norm()), rel=1e-4)
    for k, part in parts.items():
        assert result.metrics[f"gradient/norm_share/k_{k}"] == pytest.approx(norms[k] / sum(norms.values()), rel=1e-4)
        projection = float(part @ whole / whole.norm() ** 2)
        assert result.metrics[f"gradient/projection/k_{k}"] == pytest.approx(projection, rel=1e-3)
    assert len(result.metrics) == 1 + 2 * 3
    assert [row["rows"] for row in result.tables["gradients"]] == [8, 8, 8]


def test_shares_and_projections_sum_to_one() -> None:
    metrics = measure()[0].metrics
    for kind in ("norm_share", "projection"):
        assert sum(v for name, v in metrics.items() if name.startswith(f"gradient/{kind}/")) == pytest.approx(1)


@pytest.mark.parametrize("changes", [{"phase": None}, {"batch": None}, {"objective": None}])
def test_without_a_phase_nothing_is_sampled(changes: dict[str, Any]) -> None:
    result, pool, _ = measure(**changes)
    assert (result.metrics, pool.generated) == ({}, [])


@pytest.mark.parametrize("entropy", [0.0, 0.1])
def test_silent_groups_have_no_share(entropy: float) -> None:
    """With an entropy bonus they do have a gradient, and it is theirs: k = 0 and k = 4."""
    objective = replace(VARIANT.objective(RUN.objective), entropy=entropy)

    def batch(judged: Sequence[JudgedGroup]) -> Any:
        settings = replace(RUN, objective=replace(RUN.objective, entropy=entropy))
        return VARIANT.batch(judged, settings)

    def silent(problem: Problem, sample: int) -> str:
        return "1 steps" if problem.level == 9 else "0 steps"

    metrics = measure(silent, objective=objective, batch=batch)[0].metrics
    ks = {name.rsplit("/", 1)[1] for name in metrics if "share" in name}
    assert ks == ({"k_0", "k_4"} if entropy else set())


def test_policy_that_fits_no_judge_is_not_measured() -> None:
    assert measure(lambda problem, sample: "? other")[0].metrics == {}
