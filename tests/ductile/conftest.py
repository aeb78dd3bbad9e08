"""A Llama small enough for milliseconds, as a Hugging Face folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], str]:
    """Seed -> folder of one layer of width 16 with the character tokenizer.

    Its weights are scaled up: as initialised, every next token is about as likely as any other and depends on nothing.
    """
    import torch

    from ductile.config import ArchitectureSettings
    from ductile.models.scratch import build_llama
    from ductile.models.tokenizer import character_tokenizer

    torch.set_num_threads(1)
    tokenizer = character_tokenizer()
    folders: dict[int, Path] = {}

    def folder(seed: int) -> str:
        if seed not in folders:
            model = build_llama(ArchitectureSettings(1, 16, 2, 32, 128), tokenizer, seed)
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.ndim > 1:
                        parameter.mul_(6)
            folders[seed] = tmp_path_factory.mktemp("llama") / f"seed-{seed}"
            model.save_pretrained(folders[seed])
            tokenizer.save_pretrained(folders[seed])
        return str(folders[seed])

    return folder


@pytest.fixture(scope="session")
def tiny_folder(tiny_llama: Callable[[int], str]) -> str:
    """The folder of one such model."""
    return tiny_llama(0)
