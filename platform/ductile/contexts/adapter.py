"""What gepa evaluates contexts with: the policy rolls out in them, and the domain's judge scores (a `GEPAAdapter`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gepa.core.adapter import EvaluationBatch

from ductile.contexts.candidate import COMPONENT, context_of
from ductile.contexts.context import Context, in_context
from ductile.contexts.evidence import Evidence
from ductile.contexts.room import Fits
from ductile.ports import Judge, PolicyRef, RolloutPool, Sampling
from ductile.problem import SUCCESS, Problem, Verdict

Proposer = Callable[[dict[str, str], Mapping[str, Sequence[Mapping[str, Any]]], list[str]], dict[str, str]]


@dataclass(frozen=True)
class Trace:
    """One rollout in full. verdict: None where nothing was rolled out, and `text` says why."""

    problem: Problem
    text: str
    verdict: Verdict | None


class RolloutAdapter:
    """Evaluates a context by one completion of each problem; a completion that could not be judged counts as 0.

    Every call samples anew: call number n has the stream `<stream>/evolve/<n>`. A candidate that is no context, or one
    that does not fit, is not rolled out and scores 0. What is seen goes into `evidence`.
    """

    def __init__(
        self, pool: RolloutPool, judge: Judge, policy: PolicyRef, sampling: Sampling, fits: Fits, evidence: Evidence
    ) -> None:
        self._pool, self._judge, self._policy = pool, judge, policy
        self._sampling, self._fits, self._evidence = replace(sampling, samples=1), fits, evidence
        self._calls = 0
        self.propose_new_texts: Proposer | None = None
        self.completions, self.tokens, self.unusable = 0, 0, 0

    def evaluate(
        self, batch: list[Problem], candidate: dict[str, str], capture_traces: bool = False
    ) -> EvaluationBatch[Trace, str]:
        """See `gepa.core.adapter.GEPAAdapter.evaluate`."""
        try:
            context = context_of(candidate)
            reason = "" if self._fits(context) else "The context is too long: the problem and its answer need room."
        except ValueError as error:
            reason = f"This is no context: {error}"
        if reason:
            self.unusable += 1
            traces = [Trace(problem, reason, None) for problem in batch]
        else:
            traces = self._rolled_out(batch, context)
        scores = [0.0 if t.verdict is None or t.verdict.reward is None else t.verdict.reward for t in traces]
        return EvaluationBatch([trace.text for trace in traces], scores, traces if capture_traces else None)

    def make_reflective_dataset(
        self, candidate: dict[str, str], eval_batch: EvaluationBatch[Trace, str], components_to_update: list[str]
    ) -> dict[str, list[dict[str, Any]]]:
        """See `gepa.core.adapter.GEPAAdapter.make_reflective_dataset`: every rollout with what the judge said."""
        return {COMPONENT: [_record(trace) for trace in eval_batch.trajectories or ()]}

    def _rolled_out(self, batch: list[Problem], context: Context) -> list[Trace]:
        sampling = replace(self._sampling, stream=f"{self._sampling.stream}/evolve/{self._calls}")
        self._calls += 1
        groups = self._pool.generate(self._policy, [in_context(problem, context) for problem in batch], sampling)
        judged = self._judge.judge(groups)
        self.completions += len(batch)
        self.tokens += sum(len(completion.tokens) for group in groups for completion in group.completions)
        for problem, group in zip(batch, judged, strict=True):
            self._evidence.observe(problem, group)
        return [
            Trace(problem, group.group.completions[0].text, group.verdicts[0])
            for problem, group in zip(batch, judged, strict=True)
        ]


def _record(trace: Trace) -> dict[str, Any]:
    verdict = trace.verdict
    if verdict is None:
        return {"Inputs": trace.problem.transcript, "Generated Outputs": "", "Feedback": trace.text}
    said = "could not be judged" if verdict.reward is None else "right" if verdict.reward > SUCCESS else "wrong"
    feedback = f"{said}; the expected answer is {trace.problem.answer}; format {verdict.format}"
    return {
        "Inputs": trace.problem.transcript,
        "Generated Outputs": trace.text,
        "Feedback": "; ".join(part for part in (feedback, verdict.shortcut_kind, verdict.note) if part),
    }
