"""How far the policy has moved from the base and from the start of the phase: exact KL in both directions.

Each direction is an expectation under its own first argument: KL(reference || policy) is measured on completions of
the reference, KL(policy || reference) on completions of the policy. At every position the KL is exact over the
vocabulary; only the prefixes are sampled. It is averaged over tokens, or summed over a completion first: the second is
an estimate of the KL of whole completions (chain rule). Prompts are those of the plan's phases (new), of the prior
skills, together and each alone, and of neither (neutral). Forgetting is said to follow the forward
KL on new prompts (RL's Razor, arXiv 2509.04259) or drift on prior prompts (arXiv 2607.04364), and low-drift training
reports the reverse one (arXiv 2605.12484); all of them are kept.

Completions are sampled without top-p, whatever the rollouts use: a truncated distribution is another distribution.
With `rollout.top_p = 1` they are the retention probe's own. The base's are the same at every boundary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ductile.ports import Divergence, PolicyRef
from ductile.probes.base import ProbeContext, ProbeResult
from ductile.probes.evaluation import cells, interleaved
from ductile.problem import Group, Problem


class DriftProbe:
    """`drift/kl_<direction>_<reference>/...`: nats per completion token, or with `_sequence` per completion."""

    name = "drift"
    version = 2

    def measure(self, context: ProbeContext) -> ProbeResult:
        metrics: dict[str, float] = {}
        rows: list[dict[str, Any]] = []
        references = {"base": context.base, "start": context.start}
        for name, reference in references.items():
            if reference is None:
                continue
            if name == "start" and reference.version == 0:  # the first phase starts from the base: measured above
                metrics |= {key.replace("_base", "_start", 1): value for key, value in metrics.items()}
                continue
            for prompts, problems in _prompts(context):
                for direction, measured in _both(context, reference, problems):
                    token = measured.token_forward if direction == "forward" else measured.token_reverse
                    sequence = measured.sequence_forward if direction == "forward" else measured.sequence_reverse
                    metrics[f"drift/kl_{direction}_{name}/{prompts}"] = token
                    metrics[f"drift/kl_{direction}_{name}_sequence/{prompts}"] = sequence
                    rows.append(
                        {
                            "reference": name,
                            "prompts": prompts,
                            "direction": direction,
                            "kl_token": token,
                            "kl_sequence": sequence,
                            "tokens": measured.tokens,
                            "completions": measured.completions,
                        }
                    )
        return ProbeResult(metrics, {"drift": rows})


def _prompts(context: ProbeContext) -> Iterator[tuple[str, list[Problem]]]:
    """Name and problems of each group of prompts that there is; a prior skill alone only where there are several."""
    count = context.settings.drift_problems
    for kind in ("new", "prior", "neutral"):
        of_kind = cells(context, kind)
        if problems := interleaved(of_kind, count):
            yield kind, problems
        skills = dict.fromkeys(cell.skill for cell in of_kind)
        if kind == "prior" and len(skills) > 1:
            for skill in skills:
                yield f"prior/{skill}", interleaved([cell for cell in of_kind if cell.skill == skill], count)


def _both(context: ProbeContext, reference: PolicyRef, problems: list[Problem]) -> Iterator[tuple[str, Divergence]]:
    """The forward divergence on the reference's completions, then the reverse one on the policy's."""
    sampling, temperature = context.sampling(top_p=1.0), context.rollout.temperature
    of_reference: list[Group] = context.completions(problems, sampling, of=reference)
    of_policy = context.completions(problems, sampling)
    yield "forward", context.pool.divergence(context.policy, reference, of_reference, temperature)
    yield "reverse", context.pool.divergence(context.policy, reference, of_policy, temperature)
