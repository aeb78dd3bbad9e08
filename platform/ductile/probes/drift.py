"""How far the policy has moved from the base: exact KL in both directions, on new, prior and neutral prompts.

Each direction is an expectation under its own first argument: KL(base || policy) = E_{y ~ base} log base(y)/policy(y),
so it is measured on completions sampled from the base, and KL(policy || base) on completions of the policy. At every
position the KL is exact over the vocabulary; only the prefixes are sampled. Forgetting is said to follow the forward
KL on new prompts (arXiv 2509.04259) or drift on prior prompts (arXiv 2607.04364), and low-drift training reports the
reverse one (arXiv 2605.12484); all of them are kept.

Completions are sampled without top-p, whatever the rollouts use: a truncated distribution is another distribution.
With `rollout.top_p = 1` they are the retention probe's own.
"""

from __future__ import annotations

from typing import Any

from ductile.ports import Divergence
from ductile.probes.base import ProbeContext, ProbeResult
from ductile.probes.evaluation import cells, interleaved


class DriftProbe:
    """`drift/*`, nats per completion token, and `drift/*_sequence/*`, nats per completion."""

    name = "drift"
    version = 1

    def measure(self, context: ProbeContext) -> ProbeResult:
        sampling = context.sampling(top_p=1.0)
        metrics: dict[str, float] = {}
        rows: list[dict[str, Any]] = []
        for kind in ("new", "prior", "neutral"):
            problems = interleaved(cells(context, kind), context.settings.drift_problems)
            if not problems:
                continue
            forward, reverse = (
                context.pool.divergence(
                    context.policy,
                    context.base,
                    context.completions(problems, sampling, of_base=of_base),
                    context.rollout.temperature,
                )
                for of_base in (True, False)
            )
            metrics[f"drift/kl_forward_base/{kind}"] = forward.token_forward
            metrics[f"drift/kl_forward_base_sequence/{kind}"] = forward.sequence_forward
            metrics[f"drift/kl_reverse_base/{kind}"] = reverse.token_reverse
            metrics[f"drift/kl_reverse_base_sequence/{kind}"] = reverse.sequence_reverse
            rows.append(_row(kind, "forward", forward, forward.token_forward, forward.sequence_forward))
            rows.append(_row(kind, "reverse", reverse, reverse.token_reverse, reverse.sequence_reverse))
        return ProbeResult(metrics, {"drift": rows})


def _row(kind: str, direction: str, measured: Divergence, token: float, sequence: float) -> dict[str, Any]:
    return {
        "kind": kind,
        "direction": direction,
        "kl_token": token,
        "kl_sequence": sequence,
        "tokens": measured.tokens,
        "completions": measured.completions,
    }
