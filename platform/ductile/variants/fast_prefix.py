"""FST-style training with a soft prefix: all weights learn slowly, and a prefix of each domain beside them fast.

After fast-slow training (arXiv 2605.12484), whose fast channel is a population of prompts; here it is trainable
embeddings before each prompt of a domain (prompt tuning, arXiv 2104.08691). Both channels learn from the same batch.
"""

from __future__ import annotations

from dataclasses import dataclass

from ductile.variants.base import PolicyGradient


@dataclass(frozen=True)
class FastPrefix(PolicyGradient):
    """The policy is the base itself; `learner.run_composition` adds room for the prefixes (`trainable.SoftPrefix`).

    fast_lr: of the prefixes; lr: of everything else.
    """

    prefix_tokens: int
    fast_lr: float
    lr: float | None = None
