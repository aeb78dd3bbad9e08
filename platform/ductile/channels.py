"""The four cells of a fast channel, for `probes.channels`: weights of the base or of the run, with it and without."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from ductile.contexts.context import SEED, Context
from ductile.models.load import load_model
from ductile.ports import PolicyRef, RolloutPool
from ductile.probes.base import Arm


def context_arms(policy: PolicyRef, base: PolicyRef, context: Context) -> dict[str, Arm]:
    """A context of the problems' domain. The seed context may be the best one found; the cells are then alike."""
    return {
        f"{weights}_{asked}": Arm(of, given)
        for weights, of in (("base", base), ("trained", policy))
        for asked, given in (("seed", SEED), ("evolved", context))
    }


def prefix_arms(
    policy: PolicyRef,
    base: PolicyRef,
    prefix: tuple[int, ...],
    weights: Mapping[str, Any],
    pool: RolloutPool,
    dtype: str,
) -> dict[str, Arm]:
    """A soft prefix, whose embeddings are rows of the trained member. weights: that member's, `ports.Learner.weights`.

    The base has none of its own, so it is given the run's: every other weight is as its folder has it.
    """
    path = next(member.path for member in base.composition.members if member.role == base.composition.trainable)
    given = pool.publish(with_rows(load_model(path, dtype), weights, prefix))
    return {
        "base_seed": Arm(base),
        "base_evolved": Arm(replace(base, weights=given), prefix=prefix),
        "trained_seed": Arm(policy),
        "trained_evolved": Arm(policy, prefix=prefix),
    }


def with_rows(model: Any, weights: Mapping[str, Any], rows: tuple[int, ...]) -> dict[str, Any]:
    """The model's weights, under the names of `weights`, with these rows of the input embedding from there."""
    state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    embedding = model.get_input_embeddings().weight
    shared = [name for name, tensor in model.state_dict().items() if tensor.data_ptr() == embedding.data_ptr()]
    places = torch.tensor(rows, dtype=torch.int64)
    for name in shared:
        if name in weights:
            state[name][places] = weights[name][places].to(state[name])
    return {name: state[name] for name in weights}
