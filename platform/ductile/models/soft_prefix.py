"""Soft prefixes (prompt tuning, arXiv 2104.08691): trainable embeddings that stand before a prompt.

They are token ids beyond the vocabulary: id `vocabulary + row` is embedded by the prefix's row of that number. So a
prompt with a prefix is a longer list of ids and nothing else, and since the logits end with the vocabulary, none of
them is ever sampled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "prefix"
SEED = 20210408


class PrefixedEmbedding(nn.Embedding):
    """Token embeddings with rows of a soft prefix after them: `weight` as it was, and `prefix` [rows, width]."""

    def __init__(self, tokens: nn.Embedding, rows: int) -> None:
        """The table of `tokens` is shared, ties and all. Each row begins as a token drawn by its number."""
        super().__init__(
            tokens.num_embeddings, tokens.embedding_dim, padding_idx=tokens.padding_idx, _weight=tokens.weight.detach()
        )
        self.weight = tokens.weight
        drawn = [_token(row, tokens.num_embeddings) for row in range(rows)]
        self.prefix = nn.Parameter(tokens.weight.detach()[drawn].clone())

    def forward(self, ids: Tensor) -> Tensor:
        """ids: [row, position] int64. Returns [row, position, width]."""
        beyond = ids >= self.num_embeddings
        plain = super().forward(torch.where(beyond, 0, ids))
        soft = self.prefix[torch.where(beyond, ids - self.num_embeddings, 0)]
        return torch.where(beyond.unsqueeze(-1), soft, plain)


def add_prefix(model: PreTrainedModel, rows: int) -> None:
    """Give the model's token embeddings so many rows of a soft prefix, in place."""
    own = model.get_input_embeddings()
    assert isinstance(own, nn.Embedding)
    model.set_input_embeddings(PrefixedEmbedding(own, rows))


def is_prefix(name: str) -> bool:
    """Whether this is the name of a model's soft prefix."""
    return name.rpartition(".")[2] == NAME


def slot_ids(vocabulary: int, slot: int, length: int) -> tuple[int, ...]:
    """The token ids of one prefix of several of the same length."""
    return tuple(range(vocabulary + slot * length, vocabulary + (slot + 1) * length))


def _token(row: int, vocabulary: int) -> int:
    """The same for every process and size of the prefix."""
    return int(torch.randint(vocabulary, (1,), generator=torch.Generator().manual_seed(SEED + row)))
