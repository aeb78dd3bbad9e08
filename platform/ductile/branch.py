"""The branch operator: train a throw-away copy for a fixed budget on something new, and measure as it goes.

    snapshot -> learner -> steps of RL, or of supervised learning on worked solutions -> pass rates of the same problems

Needs no run: `Branches(settings.probe.branch, LocalBrancher(...), store, key).measured(folder, phase)` measures the
plasticity of any snapshot (a folder that `Learner.capture` wrote) beside that of the fresh base, for
`probes.branch.plasticity`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ductile.config import BranchSettings, RunSettings
from ductile.contexts import make_contexts
from ductile.contexts.context import SEED, in_context, with_prefixes
from ductile.course import Course, without_remedies
from ductile.difficulty.service import DifficultyTable
from ductile.domains import WorkedDomain
from ductile.domains.base import Domain
from ductile.domains.free_text import ANSWER
from ductile.memory import remember
from ductile.models.load import encode_answered, load_tokenizer
from ductile.plan import Phase, ResolveDomain, draw, make_phase, phase_of, require_problems
from ductile.ports import Brancher, BranchRequest, Judge, Learner, PolicyRef, RolloutPool, Sampling, Store
from ductile.probes.branch import Arms, arm_name
from ductile.probes.cost import MeteredPool
from ductile.probes.evaluation import honest
from ductile.problem import DIRECT, SUCCESS, JudgedGroup, Problem
from ductile.randomness import same_randomness
from ductile.reestimation import NoReestimation
from ductile.rl.batch import Batch, Row
from ductile.step import StepPorts, publish, train_step
from ductile.switch import switch, switch_stream
from ductile.variants.base import Variant

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

STREAM = "probe/branch"
"""Stream of the evaluations. It names neither boundary, step nor repetition: that is what pairs them."""


def branch_probe(
    request: BranchRequest,
    settings: RunSettings,
    variant: Variant,
    learner: Learner,
    pool: RolloutPool,
    judge: Judge,
    resolve: ResolveDomain,
) -> dict[str, Any]:
    """Train `learner`, made for the request and thrown away after it, for the budget of `probe.branch`.

    Its rollouts are never stale: how a run overlaps its work is no part of its policy's plasticity.

    Returns plain values. steps: of the `evals` evaluations, evenly spaced, the first before the first step and the last
    after the last; passed: [eval][problem], mean over the judged samples, None where none could be judged;
    silent_share: mean over RL steps, None for supervised ones; trained_tokens: completion tokens learned from;
    generated_tokens: sampled, to learn from or to evaluate, times the models of the policy; seconds.
    """
    started, pool = time.monotonic(), MeteredPool(pool)
    branch = settings.probe.branch
    phase = make_phase("branch", branch, settings.seed, resolve, "probe.branch")
    require_problems(phase, settings.rollout.groups, "probe.branch")
    plain = without_remedies(settings)
    table = DifficultyTable(plain.difficulty)
    course, contexts = Course(plain, table, resolve), make_contexts(settings, pool, judge)
    ports = StepPorts(pool, learner, table, judge, course, contexts, NoReestimation(), ahead=None)
    if request.ended is not None:
        ended = phase_of(settings, request.ended, resolve)
        switch(settings, variant, ended, switch_stream(ended.name), ports)
    learner.start_phase(phase.domain.key)
    policy = publish(pool, learner)
    remember(settings, _phases_until(request.ended, settings, resolve), phase.name, policy, pool, learner, resolve)
    learner.settle()  # what the switch and remembering cost is not the branch's
    table.start_phase(list(phase.pool))
    course.start_phase(phase, ())
    contexts.start_phase(phase)
    bare, prefix = _evaluation_problems(settings, resolve), learner.prefixes().get(phase.domain.key, ())

    def evaluated(policy: PolicyRef, step: int) -> list[float | None]:
        """In the context and with the prefix that the policy has for the domain at that step."""
        context = contexts.deployed().get(phase.domain.key, SEED)
        problems = [replace(in_context(problem, context), prefix=prefix) for problem in bare]
        return _evaluate(policy, problems, settings, pool, judge, step)

    keyed = replace(plain, seed=repetition_seed(settings.seed, request.repetition))
    due = {round(i * branch.steps / (branch.evals - 1)) for i in range(branch.evals)}
    budget, silent = {"trained_tokens": 0}, []
    steps, passed = [0], [evaluated(policy, 0)]
    for step in range(branch.steps):
        if request.mode == "rl":
            series = f"branch/{request.repetition}"
            policy, metrics = train_step(keyed, variant, phase, ports, policy, series, step, budget)
            silent.append(metrics.get("rollout/silent_share", 1.0))  # nothing judged is no gradient either
        else:
            policy = _supervised_step(keyed, phase, ports, step, budget)
        if step + 1 in due:
            steps.append(step + 1)
            passed.append(evaluated(policy, step + 1))
    return {
        "steps": steps,
        "passed": passed,
        "silent_share": sum(silent) / len(silent) if silent else None,
        "trained_tokens": budget["trained_tokens"],
        "generated_tokens": pool.generated,
        "seconds": time.monotonic() - started,
    }


@dataclass(frozen=True)
class LocalBrancher:
    """Runs each branch in this process, at once. Implements `ports.Brancher`.

    make_learner: `learner.branch_learner` of the run's settings, variant and composition.
    """

    settings: RunSettings
    variant: Variant
    make_learner: Callable[[BranchRequest], Learner]
    pool: RolloutPool
    judge: Judge
    resolve: ResolveDomain

    def submit(self, request: BranchRequest) -> dict[str, Any]:
        """The result itself; the process's random state is left as it was."""
        with same_randomness():
            learner = self.make_learner(request)
            return branch_probe(request, self.settings, self.variant, learner, self.pool, self.judge, self.resolve)

    def collect(self, handle: dict[str, Any]) -> Mapping[str, Any]:
        """What `submit` returned."""
        return handle


class Branches:
    """The branches of a snapshot and of the fresh base that it is compared with; those of the base run once.

    start: names what the base's results depend on (`Identity.start`); they are kept in the store under it.
    """

    def __init__(self, settings: BranchSettings, brancher: Brancher, store: Store, start: str) -> None:
        self._settings, self._brancher, self._store, self._start = settings, brancher, store, start
        self._handles: dict[BranchRequest, Any] = {}
        self._known: dict[BranchRequest, Mapping[str, Any]] = {}

    def submit(self, snapshot: Path | None, ended: str | None) -> None:
        """Begin every branch of the snapshot, and those of the base that are not known."""
        for _, request in self._requests(snapshot, ended):
            if request not in self._handles and self._recall(request) is None:
                self._handles[request] = self._brancher.submit(request)

    def measured(self, snapshot: Path | None, ended: str | None) -> Arms:
        """The results by arm: those of the snapshot (`now`) and of the base, one for each repetition."""
        self.submit(snapshot, ended)
        arms: dict[str, dict[str, list[Mapping[str, Any]]]] = {}
        for (arm, side), request in self._requests(snapshot, ended):
            arms.setdefault(arm, {}).setdefault(side, []).append(self._result(request))
        return arms

    def _requests(self, snapshot: Path | None, ended: str | None) -> Iterator[tuple[tuple[str, str], BranchRequest]]:
        """((arm, side), request). The base has no optimizer to carry: its branches are those of a fresh one."""
        folder = None if snapshot is None else str(snapshot)
        for mode in self._settings.modes:
            for optimizer in self._settings.optimizers:
                for repetition in range(self._settings.seeds):
                    base = BranchRequest(None, mode, "reset", repetition)
                    now = base if folder is None else BranchRequest(folder, mode, optimizer, repetition, ended)
                    yield (arm_name(mode, optimizer), "now"), now
                    yield (arm_name(mode, optimizer), "base"), base

    def _recall(self, request: BranchRequest) -> Mapping[str, Any] | None:
        if request.snapshot is None and request not in self._known:
            kept = self._store.remember(self._key(request))
            if kept is not None:
                self._known[request] = kept
        return self._known.get(request)

    def _result(self, request: BranchRequest) -> Mapping[str, Any]:
        known = self._recall(request)
        if known is None:
            known = self._brancher.collect(self._handles.pop(request))
            if request.snapshot is None:
                self._known[request] = known
                self._store.keep(self._key(request), dict(known))
        return known

    def _key(self, request: BranchRequest) -> str:
        return f"branch-{self._start}-{request.mode}-{request.repetition}"


def _phases_until(ended: str | None, settings: RunSettings, resolve: ResolveDomain) -> Iterator[Phase]:
    """The plan's phases up to the one that ended, made when they are asked for; none where none did."""
    names = list(settings.phase)
    for name in names[: names.index(ended) + 1] if ended is not None else []:
        yield phase_of(settings, name, resolve)


def repetition_seed(seed: int, repetition: int) -> int:
    """Decides the order of a repetition's problems and the random numbers of its samples."""
    return int(np.random.SeedSequence([seed, repetition]).generate_state(1)[0])


def worked_rows(
    domain: Domain, problems: Sequence[Problem], tokenizer: PreTrainedTokenizerBase, first: int
) -> list[tuple[NDArray[np.int32], NDArray[np.int32]]]:
    """(prompt, completion) token ids of a solution of each problem, the end-of-sequence token included.

    A `WorkedDomain` writes them in each of its worked formats in turn, beginning with number `first`. The direct format
    is left out: it would teach to answer without the work, which is what a damaged policy does already.
    """
    return [
        encode_answered(tokenizer, problem, _solution(domain, problem, number))
        for number, problem in enumerate(problems, start=first)
    ]


def _solution(domain: Domain, problem: Problem, number: int) -> str:
    """Worked, or else the bare answer; after `Answer:` where the domain takes it only so."""
    if isinstance(domain, WorkedDomain):
        worked = [name for name in domain.formats if name != DIRECT] or [DIRECT]
        return domain.solution(problem, worked[number % len(worked)])
    spellings = (problem.answer, f"{ANSWER} {problem.answer}")
    right = (text for text in spellings if (domain.judge(problem, text).reward or 0.0) > SUCCESS)
    return next(right, problem.answer)


def _supervised_step(
    settings: RunSettings, phase: Phase, ports: StepPorts, step: int, budget: dict[str, int]
) -> PolicyRef:
    """As many problems as an RL step, each with one solution; the weights make the loss a mean over tokens."""
    groups = settings.rollout.groups
    problems = [phase.pool[id] for id in ports.difficulty.select(groups, step, settings.seed)]
    problems = with_prefixes(problems, ports.learner.prefixes())
    tokenizer = load_tokenizer(ports.learner.composition.members[0].path)
    pairs = worked_rows(phase.domain, problems, tokenizer, step * groups)
    tokens = sum(len(completion) for _, completion in pairs)
    rows = [Row(prompt, text, np.zeros(len(text), np.float32), 1.0, 1 / tokens) for prompt, text in pairs]
    metrics = ports.learner.update(Batch(tuple(rows)))
    budget["trained_tokens"] += int(metrics["learner/tokens"])
    return publish(ports.pool, ports.learner)


def _evaluation_problems(settings: RunSettings, resolve: ResolveDomain) -> list[Problem]:
    """Of the branch's domain, each level as often, judged without noise or leniency; the same for all repetitions."""
    branch = settings.probe.branch
    domain = resolve(honest(branch.domain), "probe.branch.domain")
    return draw(domain, branch.levels, "eval", branch.problems, settings.seed)


def _evaluate(
    policy: PolicyRef, problems: Sequence[Problem], settings: RunSettings, pool: RolloutPool, judge: Judge, step: int
) -> list[float | None]:
    """Pass rate of each problem; raises `RuntimeError` when nothing at all could be judged."""
    rollout = settings.rollout
    sampling = Sampling(
        settings.seed, STREAM, settings.probe.samples, rollout.max_tokens, rollout.temperature, rollout.top_p
    )
    rates = [_pass_rate(group) for group in judge.judge(pool.generate(policy, problems, sampling))]
    if all(rate is None for rate in rates):
        raise RuntimeError(f"branch probe, step {step}: none of the completions could be judged")
    return rates


def _pass_rate(group: JudgedGroup) -> float | None:
    known = group.rewards[~np.isnan(group.rewards)]
    return float((known > SUCCESS).mean()) if len(known) else None
