"""Supervised learning on given completions: the mean negative log-likelihood of their tokens."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ductile.rl.batch import MicroBatch
from ductile.rl.selected import selected


@dataclass(frozen=True)
class Supervised:
    """What a learner minimises on solutions to imitate. Nothing holds the policy: there is no anchor."""

    anchor = kl_target = None
    kl = l2_init = ewc = 0.0
    kl_in_loss = acts_on_batch = False


def likelihood_loss(logits: Tensor, micro: MicroBatch) -> tuple[Tensor, dict[str, Tensor]]:
    """The micro-batch's share of  - sum over tokens of weight * log softmax(logits)[token], at temperature 1.

    logits: [token, vocabulary] that predict each completion token. With every weight 1 / (tokens of the step) it is the
    mean in nats per token. Advantages and behaviour log-probabilities are not read. The sums are those of
    `objective.micro_loss`.
    """
    logps, entropy = selected(logits, micro.packed.targets, 1.0)
    loss = -(logps * micro.weights).sum()
    counted = micro.weights > 0
    nothing = loss.new_zeros(())
    sums = {
        "loss": loss,
        "policy_loss": loss,
        "kl": nothing,
        "entropy": (entropy * counted).sum(),
        "clipped": nothing,
        "gap": nothing,
        "tokens": counted.sum(),
        "ratio_max": loss.new_ones(()),
    }
    return loss, {name: value.detach() for name, value in sums.items()}
