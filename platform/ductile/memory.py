"""What the anchor prior_data is held on: prior tasks, and how the policy answered them when the phase began.

The drift that does harm is drift on what was learned before, and a KL on the new task's own completions does not see
it (CPO, arXiv 2607.04364). So at the start of each phase the policy answers problems of `data.prior` and of all earlier
phases, and every update of the phase adds

    kl * mean over tokens of KL(policy at the phase's start || policy)        exact, over the full vocabulary

on a share of these answers. As they are the first policy's own samples, that is an unbiased estimate of the forward KL.
The answers are sampled anew at each phase: the memory needs no more room as phases are added, and what it holds the
policy to is always what the policy still knew.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from ductile.config import RunSettings
from ductile.plan import Phase, ResolveDomain, draw
from ductile.ports import Learner, PolicyRef, RolloutPool, Sampling
from ductile.problem import Group, Problem
from ductile.rl.batch import Batch, Row

Tokens = NDArray[np.int32]


@dataclass(frozen=True)
class Memory:
    """Prompts and the completions that the policy gave to them, as token ids."""

    rows: tuple[tuple[Tokens, Tokens], ...] = ()

    @classmethod
    def of(cls, groups: Sequence[Group]) -> Memory:
        """Every completion of the groups."""
        return cls(tuple((group.prompt_tokens, c.tokens) for group in groups for c in group.completions))

    def share(self, count: int, seed: int, version: int) -> Batch:
        """`count` rows without repeats, all where there are fewer; their weights make a sum the mean over tokens."""
        chosen = np.random.default_rng([seed, version]).permutation(len(self.rows))[:count]
        rows = [self.rows[i] for i in sorted(chosen)]
        tokens = sum(len(completion) for _, completion in rows)
        return Batch(
            tuple(
                Row(prompt, completion, np.zeros(len(completion), np.float32), 0.0, 1.0 / tokens)
                for prompt, completion in rows
            )
        )

    def files(self) -> dict[str, dict[str, torch.Tensor]]:
        """Name of a file -> the tensors in it, for a checkpoint; nothing where there are no rows."""
        if not self.rows:
            return {}
        parts = [part for row in self.rows for part in row]
        lengths = torch.tensor([len(part) for part in parts])
        tokens = torch.from_numpy(np.concatenate(parts).astype(np.int32))
        return {"memory.safetensors": {"lengths": lengths, "tokens": tokens}}

    @classmethod
    def load(cls, folder: Path) -> Memory:
        """What `files` returned, written below `folder`."""
        path = folder / "memory.safetensors"
        if not path.exists():
            return cls()
        kept = load_file(path)
        parts = [part.numpy() for part in kept["tokens"].split(kept["lengths"].tolist())]
        return cls(tuple(zip(parts[::2], parts[1::2], strict=True)))


def remember(
    settings: RunSettings,
    earlier: Iterable[Phase],
    phase: str,
    policy: PolicyRef,
    pool: RolloutPool,
    learner: Learner,
    resolve: ResolveDomain,
) -> None:
    """At the start of a phase, where the anchor is prior_data: let the policy answer, and the learner remember it.

    One completion a problem, keyed by the phase's name. The learner is charged for it.
    """
    if settings.variant.anchor != "prior_data":
        return
    rollout = settings.rollout
    sampling = Sampling(settings.seed, f"prior/{phase}", 1, rollout.max_tokens, rollout.temperature, rollout.top_p)
    problems = prior_problems(settings, earlier, resolve)
    groups = pool.generate(policy, problems, sampling) if problems else []
    learner.remember(groups)
    tokens = sum(len(completion.tokens) for group in groups for completion in group.completions)
    forward = tokens * len(policy.composition.members)
    learner.spend({"completions": len(groups), "sampled_tokens": tokens, "forward_tokens": forward})


def prior_problems(settings: RunSettings, earlier: Iterable[Phase], resolve: ResolveDomain) -> list[Problem]:
    """As many problems as a step has completions, from the train splits of `data.prior` and of earlier phases alike.

    Fewer where a split has no more; the same problem of two of them once.
    """
    skills = [
        (resolve(skill.domain, f"data.prior.{name}.domain"), skill.levels)
        for name, skill in settings.data.prior.items()
    ] + [(phase.domain, phase.levels) for phase in earlier]
    if not skills:
        return []
    count = -(-settings.rollout.groups * settings.rollout.group_size // len(skills))
    drawn = [problem for domain, levels in skills for problem in draw(domain, levels, "train", count, settings.seed)]
    return list({problem.id: problem for problem in drawn}.values())
