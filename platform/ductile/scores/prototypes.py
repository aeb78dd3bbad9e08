"""Distance to the nearest prototype (Sorscher et al. 2022, arXiv 2206.14486): a score without any label.

k-means in an embedding, score = cosine distance to the nearest centroid, 1 - x c / (|x| |c|): near a prototype is easy.
Where we differ: the embedding is the base's last hidden state at the prompt's last token, in place of a self-supervised
image model's.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2
from transformers import PreTrainedModel

from ductile.rl.batch import pad_rows
from ductile.scores.base import BASE, Asked, Floats
from ductile.scores.training import ROWS

ITERATIONS = 50
"""Of k-means; a few dozen problems a cluster settle in far fewer."""


def prototype_distances(embeddings: Floats, clusters: int, seed: int) -> Floats:
    """[problem] float64 in [0, 2]: cosine distance to the nearest centroid of k-means++.

    embeddings: [problem, width] float64; clusters: at most as many as there are problems are made.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "One of the clusters is empty", UserWarning)  # it keeps its last centroid
        centroids, _ = kmeans2(
            embeddings, min(clusters, len(embeddings)), ITERATIONS, minit="++", rng=np.random.default_rng(seed)
        )
    return np.asarray((1 - _unit(embeddings) @ _unit(centroids).T).min(axis=1).clip(0.0, 2.0), np.float64)


@torch.inference_mode()
def embed(model: PreTrainedModel, prompts: Sequence[NDArray[np.int32]]) -> Floats:
    """[prompt, width] float64: the last hidden state, after the final norm, at each prompt's last token."""
    order = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
    found: list[NDArray[np.float64]] = [np.zeros(0)] * len(prompts)
    nothing = np.zeros(0, np.int32)
    for start in range(0, len(order), ROWS):
        part = order[start : start + ROWS]
        padded = pad_rows([(prompts[place], nothing) for place in part], model.device)
        states = model.base_model(input_ids=padded.ids, attention_mask=padded.mask, use_cache=False).last_hidden_state
        last = states[torch.arange(len(part)), padded.mask.sum(dim=1) - 1]
        for place, state in zip(part, last.double().cpu().numpy(), strict=True):
            found[place] = state
    return np.stack(found)


class Prototypes:
    """`clusters` prototypes of all of the problems together."""

    needs = frozenset({BASE})
    hardness = True

    def __call__(self, asked: Asked) -> Floats:
        """See `Score`."""
        embeddings = embed(asked.base(), asked.prompts())
        asked.told("prototypes: prompts embedded")
        return prototype_distances(embeddings, asked.settings.clusters, asked.seed)


def _unit(vectors: Floats) -> Floats:
    """Rows of length 1; a row of zeros stays."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1.0), np.float64)
