"""What a variant is, and the batch that all policy-gradient variants share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

from ductile.config import ObjectiveSettings, RunSettings
from ductile.ports import Composition, Member
from ductile.problem import SUCCESS, Completion, JudgedGroup, by_problem, pooled_lengths, pooled_rewards
from ductile.rl.advantages import left_out, step_advantages
from ductile.rl.batch import Batch, Row
from ductile.rl.losses import token_weights
from ductile.rl.objective import Objective
from ductile.rl.supervised import Supervised

if TYPE_CHECKING:  # `step` imports this module
    from ductile.plan import Phase
    from ductile.step import StepPorts

Penalties = Sequence[NDArray[np.float64]] | None
"""For each group, [completion], what is taken off its rewards."""


class Variant(Protocol):
    """How the policy is composed and updated. `needs_expert`: whether `composition` uses the expert's folder."""

    needs_expert: bool

    @property
    def lr(self) -> float | None:
        """Learning rate in place of `learner.lr`, or None."""

    def composition(self, base: Path, expert: Path) -> Composition:
        """The policy, of models that start from these folders."""

    def objective(self, settings: ObjectiveSettings) -> Objective | Supervised:
        """What the learner minimises."""

    def batch(self, judged: Sequence[JudgedGroup], settings: RunSettings, penalties: Penalties = None) -> Batch:
        """What the learner learns from. penalties: as `ports.Learner.penalties` gives them."""

    def switch(self, settings: RunSettings, ended: Phase, stream: str, ports: StepPorts) -> None:
        """The variant's own part of what is done between two phases (`switch.py`). stream: keys what is random."""


class PolicyGradient:
    """RL on every weight of the base with a policy gradient: what a variant does otherwise, it overrides."""

    needs_expert = False

    def composition(self, base: Path, expert: Path) -> Composition:
        """The base alone."""
        return base_alone(base)

    def objective(self, settings: ObjectiveSettings) -> Objective:
        """The policy loss and the entropy bonus, with no KL."""
        return policy_gradient(settings)

    def batch(self, judged: Sequence[JudgedGroup], settings: RunSettings, penalties: Penalties = None) -> Batch:
        """Rows of the judged completions that have a gradient."""
        return policy_gradient_batch(judged, settings, self.objective(settings.objective), penalties)

    def switch(self, settings: RunSettings, ended: Phase, stream: str, ports: StepPorts) -> None:
        """Nothing of its own."""


@runtime_checkable
class Checked(Protocol):
    """A variant whose options can contradict each other."""

    def check(self) -> Iterator[str]:
        """A line for each mistake, beginning with the option's name."""


@runtime_checkable
class Dialled(Protocol):
    """A variant whose policy has a weight alpha in logit space, which may change as the run goes on."""

    alpha: float
    alpha_end: float | None

    def at_alpha(self, composition: Composition, alpha: float) -> Composition:
        """The same models with another alpha."""


def scheduled_alpha(variant: Dialled, done: int, steps: int) -> float:
    """Alpha when so many of the run's RL steps are done: linear from `alpha` to `alpha_end`, which the last step has.

    alpha_i = alpha + (alpha_end - alpha) * min(i, n - 1) / (n - 1),  i steps done of n.
    """
    if variant.alpha_end is None:
        return variant.alpha
    share = min(done, steps - 1) / (steps - 1) if steps > 1 else 0.0
    return variant.alpha + (variant.alpha_end - variant.alpha) * share


def base_alone(base: Path) -> Composition:
    """The policy that is the base itself."""
    return Composition((Member("policy", str(base), 1.0),), "policy")


def policy_gradient(settings: ObjectiveSettings) -> Objective:
    """The policy loss and the entropy bonus that the settings name, with no KL."""
    return Objective(
        settings.clip_low, settings.clip_high, 0.0, "k3", None, settings.entropy, settings.loss, settings.dual_clip
    )


def policy_gradient_batch(
    judged: Sequence[JudgedGroup], settings: RunSettings, objective: Objective, penalties: Penalties = None
) -> Batch:
    """A row for each judged completion that has a gradient.

    All completions of a problem share one baseline; each keeps the prompt of its own group. The average over tokens
    counts every judged completion, but for those of silent groups that `objective.dynamic_sampling` leaves out: no term
    of the loss acts on them. Rows whose advantage is 0 are then left out, unless the objective has a term that acts on
    them too: they would add nothing but time. penalties are taken off the rewards before the advantages; how many
    succeeded is said by the rewards as they were.
    """
    pools = by_problem(judged)
    rewards, lengths = [pooled_rewards(pool) for pool in pools], [pooled_lengths(pool) for pool in pools]
    taken = None if penalties is None else _pooled(penalties, judged, pools)
    advantages = step_advantages(rewards, lengths, settings.objective, taken)
    out = left_out(rewards, lengths, settings.objective)
    known = [
        (prompt, completion, float(advantage), int((group > SUCCESS).sum()))
        for pool, group, values, skipped in zip(pools, rewards, advantages, out, strict=True)
        if not skipped
        for (prompt, completion), advantage in zip(_completions(pool), values, strict=True)
        if not np.isnan(advantage)
    ]
    counts = torch.tensor([len(completion.tokens) for _, completion, _, _ in known], dtype=torch.int64)
    weights = token_weights(counts, settings.objective.length_norm, settings.rollout.max_tokens).tolist()
    return Batch(
        tuple(
            Row(prompt, completion.tokens, completion.logps, advantage, weight, successes)
            for (prompt, completion, advantage, successes), weight in zip(known, weights, strict=True)
            if advantage or objective.acts_without_advantage
        )
    )


def _completions(pool: Sequence[JudgedGroup]) -> list[tuple[NDArray[np.int32], Completion]]:
    """(prompt tokens, completion) of all completions of one problem."""
    return [(group.group.prompt_tokens, completion) for group in pool for completion in group.group.completions]


def _pooled(
    penalties: Sequence[NDArray[np.float64]], judged: Sequence[JudgedGroup], pools: Sequence[Sequence[JudgedGroup]]
) -> list[NDArray[np.float64]]:
    """The penalties of the groups, in pools as the groups are."""
    of_group = {id(group): penalty for group, penalty in zip(judged, penalties, strict=True)}
    return [np.concatenate([of_group[id(group)] for group in pool]) for pool in pools]
