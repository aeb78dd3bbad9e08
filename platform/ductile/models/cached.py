"""Where the cache has a base model from scratch: a folder named by a hash of everything that the model depends on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ductile.config import ArchitectureSettings, MixtureSettings, ModelSettings, PretrainSettings
from ductile.settings import as_plain

RECIPE = 1
"""Raised when the training in `pretrain` changes, so that models of an older recipe are not taken from the cache."""


def model_folder(settings: ModelSettings, which: str, cache: Path) -> Path:
    """The folder of the model: `path` (or `expert_path`) as set, else the one in the cache, which may not be there yet.

    which: "base" or "expert". What is there is whole: a folder is given its name when it is.
    """
    given = settings.path if which == "base" else settings.expert_path
    return Path(given or cache / "models" / f"{which}-{settings_key(settings, which)}").absolute()


def model_key(
    architecture: ArchitectureSettings,
    pretrain: PretrainSettings,
    mixture: Mapping[str, MixtureSettings],
    instructed: float = 0.0,
    examples: float = 0.0,
) -> str:
    """A hash of everything that a model built from scratch depends on."""
    recipe: list[Any] = [RECIPE, as_plain(architecture), as_plain(pretrain), as_plain(mixture)]
    if instructed or examples:  # a model that is taught no contexts keeps the key it had before there were any
        recipe.append([instructed, examples])
    return hashlib.blake2b(json.dumps(recipe, sort_keys=True).encode(), digest_size=8).hexdigest()


def settings_key(settings: ModelSettings, which: str) -> str:
    """`model_key` of the base or of the expert of these settings."""
    architecture = settings.base if which == "base" else settings.expert
    return model_key(architecture, settings.pretrain, settings.mixture, settings.instructed, settings.examples)
