"""Distillation of a composed policy into one model: the slow update of a proxy.

    loss = mean over completion tokens of KL(teacher || student),  exact over the vocabulary

on completions that the teacher samples (word- and sequence-level distillation are Hinton et al., arXiv 1503.02531, and
Kim and Rush, arXiv 1606.07947; forward KL on the teacher's own samples is the mode-covering one). Each completion is
seen once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ductile.config import LearnerSettings, RunSettings
from ductile.models.compose import ComposedPolicy, completion_logits
from ductile.models.kept import fingerprint, kept
from ductile.models.load import DTYPES, load_model
from ductile.packed import Pair, pack
from ductile.ports import Composition, PolicyRef, Sampling
from ductile.problem import Group

if TYPE_CHECKING:  # steps import variants, and they this
    from ductile.plan import Phase
    from ductile.step import StepPorts


def distilled_base(settings: RunSettings, ended: Phase, stream: str, steps: int, ports: StepPorts) -> str:
    """Folder of the policy's base, trained to answer as the whole policy does on the ended phase's problems.

    Each of the steps learns from one completion each of `rollout.groups` problems. The learner is charged for sampling
    and training. The folder is named by what it is made from: doing it again, after an interruption or in a branch,
    samples the same completions and finds it.
    """
    learner, count = ports.learner, steps * settings.rollout.groups
    composition, weights, models = learner.composition, learner.weights(), learner.models
    if models is None:
        raise RuntimeError("distillation: this learner has no folder for models; give `models` when it is made")
    policy = PolicyRef(composition, ports.pool.publish(weights), learner.version)
    problems = ended.some(count, settings.seed, stream)
    rollout = settings.rollout
    samples = -(-count // len(problems))
    sampling = Sampling(settings.seed, stream, samples, rollout.max_tokens, rollout.temperature, rollout.top_p)
    groups = ports.pool.generate(policy, problems, sampling)
    rows = _in_turn(groups)[:count]
    base = composition.members[0]

    def make() -> PreTrainedModel:
        teacher = ComposedPolicy.load(composition, settings.model.dtype)
        teacher.load_trainable(weights)
        student = load_model(base.path, "float32")
        device = "cuda" if torch.cuda.is_available() else "cpu"
        nn.Module.to(teacher, device)
        nn.Module.to(student, device)
        distil(teacher, student, rows, steps, settings.learner, rollout.temperature)
        nn.Module.to(student, "cpu", DTYPES[settings.model.dtype])
        return student

    sampled = sum(len(completion.tokens) for group in groups for completion in group.completions)
    learner.spend(
        {
            "completions": sum(len(group.completions) for group in groups),
            "sampled_tokens": sampled,
            "forward_tokens": sampled * len(composition.members),
            "learner_forward_tokens": sum(len(p) + len(c) for p, c in rows) * (len(composition.members) + 1),
            "trained_tokens": sum(len(c) for _, c in rows),
        }
    )
    name = f"base-{fingerprint(dict(weights))}-{_digest(rows, composition, settings, steps)}"
    return str(kept(models, name, base.path, make))


def distil(
    teacher: ComposedPolicy,
    student: PreTrainedModel,
    rows: Sequence[Pair],
    steps: int,
    settings: LearnerSettings,
    temperature: float,
) -> list[float]:
    """Train the student in place; returns the loss of each step before it, nats a token at the temperature.

    Step i learns from rows i, i + steps, ...: AdamW with the learner's betas and clip, and its learning rate falling to
    0: student and teacher are close, and Adam makes full-size steps of however small a gradient.
    """
    student.requires_grad_(True)
    betas = (settings.betas[0], settings.betas[1])
    optimizer = torch.optim.AdamW(student.parameters(), settings.lr, betas, weight_decay=settings.weight_decay)
    losses = []
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = settings.lr * (1 - step / steps)
        packed = pack(rows[step::steps], teacher.device)
        with torch.no_grad():
            target = torch.log_softmax(teacher.completion_logits(packed) / temperature, dim=-1)
        logits = completion_logits(student, student, packed)[:, : teacher.vocabulary].float() / temperature
        loss = forward_kl(target, torch.log_softmax(logits, dim=-1))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(student.parameters(), settings.clip)
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def forward_kl(teacher: Tensor, student: Tensor) -> Tensor:
    """Mean over tokens of KL(teacher || student). Both: [token, vocabulary] log-probabilities."""
    return torch.where(teacher > -torch.inf, teacher.exp() * (teacher - student), 0.0).sum(dim=-1).mean()


def _in_turn(groups: Sequence[Group]) -> list[Pair]:
    """Every group's first completion, then every group's second, and so on."""
    turns = zip(*(group.completions for group in groups), strict=True)
    return [
        (group.prompt_tokens, completion.tokens)
        for turn in turns
        for group, completion in zip(groups, turn, strict=True)
    ]


def _digest(rows: Sequence[Pair], composition: Composition, settings: RunSettings, steps: int) -> str:
    """Names whatever else the result depends on."""
    models = [(member.role, Path(member.path).name, member.coefficient) for member in composition.members]
    learner = settings.learner
    optimizer = (learner.lr, learner.betas, learner.weight_decay, learner.clip)
    digest = hashlib.sha256(repr((models, optimizer, settings.rollout.temperature, steps)).encode())
    for pair in rows:
        for ids in pair:
            digest.update(len(ids).to_bytes(4) + ids.astype(np.int32).tobytes())
    return digest.hexdigest()[:16]
