"""A pool, a judge and a domain whose every answer is written down by the test.

A completion's text is its verdict: `1 steps` is right in the format steps, `0 direct !` wrong and a shortcut, and
`!skipped` one of that kind, `? other` could not be judged; `=7` is the answer that it states. Its tokens are as many as
`lengths` says, else 3.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from ductile.config import PhaseSettings, ProbeSettings, RolloutSettings
from ductile.ports import Composition, Divergence, Member, PolicyRef, Sampling
from ductile.probes import ProbeContext, ProbeResult
from ductile.problem import NO_WORK, Completion, Group, JudgedGroup, Problem, Split, Verdict

COMPOSITION = Composition((Member("policy", "folder", 1.0),), "policy")
BASE = PolicyRef(COMPOSITION, None, 0)
POLICY = PolicyRef(COMPOSITION, "trained", 7)

T = TypeVar("T")

Answers = Callable[[Problem, int], str]
"""(problem, sample) -> the text of a completion."""


@dataclass(frozen=True)
class FakeDomain:
    """Problems named `key/level/number`."""

    key: str
    formats: tuple[str, ...] = ("steps", "direct")

    def problems(self, level: int, split: Split, count: int, seed: int) -> list[Problem]:
        assert split == "eval"
        return [Problem(f"{self.key}/{level}/{i}", self.key, level, "?", "!") for i in range(count)]


@dataclass
class FakePool:
    """Answers as the test says, and remembers what it was asked."""

    answers: Answers
    lengths: Mapping[str, int] = field(default_factory=dict)
    divergences: Sequence[Divergence] = ()
    loaded: Callable[[PolicyRef], Any] | None = None  # policy -> what a measure is given of it
    generated: list[tuple[PolicyRef, list[str], Sampling]] = field(default_factory=list)
    compared: list[tuple[PolicyRef, PolicyRef, list[Group], float]] = field(default_factory=list)

    def counts(self) -> Mapping[str, float]:
        return {}

    def publish(self, weights: Mapping[str, Any]) -> Any:
        raise AssertionError("probes publish nothing")

    def generate(self, policy: PolicyRef, problems: Sequence[Problem], sampling: Sampling) -> list[Group]:
        self.generated.append((policy, [problem.id for problem in problems], sampling))
        return [self._group(policy, problem, sampling) for problem in problems]

    def divergence(self, p: PolicyRef, q: PolicyRef, groups: Sequence[Group], temperature: float) -> Divergence:
        self.compared.append((p, q, list(groups), temperature))
        return self.divergences[len(self.compared) - 1]

    def inspect(self, policy: PolicyRef, measure: Callable[[Any], T]) -> T:
        assert self.loaded is not None, "this test looks into no policy"
        sent: Callable[[Any], T] = pickle.loads(pickle.dumps(measure))  # as it would be to an actor
        return sent(self.loaded(policy))

    def _group(self, policy: PolicyRef, problem: Problem, sampling: Sampling) -> Group:
        texts = [self.answers(problem, sample) for sample in range(sampling.samples)]
        completions = tuple(
            Completion(
                problem.id,
                sample,
                np.zeros(self.lengths.get(text, 3), np.int32),
                np.zeros(self.lengths.get(text, 3), np.float32),
                text,
                "cut" not in text,
                policy.version,
            )
            for sample, text in enumerate(texts)
        )
        return Group(problem, np.zeros(1, np.int32), completions)


@dataclass
class FakeJudge:
    """Reads the verdict off the text; counts how often each problem was judged."""

    judged: list[str] = field(default_factory=list)

    def judge(self, groups: Sequence[Group]) -> list[JudgedGroup]:
        self.judged += [group.problem.id for group in groups]
        return [JudgedGroup(group, tuple(verdict(c.text) for c in group.completions)) for group in groups]


def verdict(text: str) -> Verdict:
    """The verdict that a text stands for."""
    reward, format, *rest = text.split()
    return Verdict(
        None if reward == "?" else float(reward),
        format,
        _shortcut(rest),
        next((w[1:] for w in rest if w[0] == "="), None),
    )


def _shortcut(words: Sequence[str]) -> str:
    kinds = [word[1:] or NO_WORK for word in words if word[0] == "!"]
    return kinds[0] if kinds else ""


def resolve(values: Mapping[str, Any], path: str) -> FakeDomain:
    """The domain of `{name: key}`; its key shows the options that a probe must not pass on."""
    options = [f"{name}={value}" for name, value in values.items() if name != "name"]
    return FakeDomain("".join([str(values["name"]), *options]))


def context(
    pool: FakePool,
    settings: ProbeSettings,
    phases: Mapping[str, PhaseSettings] | None = None,
    history: Sequence[ProbeResult] = (),
    top_p: float = 1.0,
    run_branch: Callable[[], Any] | None = None,
) -> ProbeContext:
    """A context on the fakes, at the boundary that the history leads to."""
    return ProbeContext(
        pool=pool,
        judge=FakeJudge(),
        resolve=resolve,
        policy=POLICY,
        base=BASE,
        phases=tuple((phases or {}).items()),
        boundary=len(history),
        history=tuple(history),
        settings=settings,
        rollout=RolloutSettings(temperature=0.7, top_p=top_p, max_tokens=9),
        seed=5,
        run_branch=run_branch,
    )
