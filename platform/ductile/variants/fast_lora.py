"""FST-style training with a fast LoRA: all weights learn slowly, and an adapter of each domain beside them fast.

After fast-slow training (arXiv 2605.12484), whose fast channel is a population of prompts; here it is low-rank adapters
(LoRA, arXiv 2106.09685), one for each domain. Both channels learn from the same batch.
"""

from __future__ import annotations

from dataclasses import dataclass

from ductile.variants.base import PolicyGradient


@dataclass(frozen=True)
class FastLora(PolicyGradient):
    """The policy is the base itself; the learner puts adapters in, and publishes them merged (`trainable.FastLora`).

    fast_lr: of the adapters; lr: of everything else.
    """

    fast_rank: int
    fast_lr: float
    lr: float | None = None
