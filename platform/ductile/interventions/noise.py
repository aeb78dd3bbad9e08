"""Gaussian noise that belongs to a parameter: the same on every rank, engine and resumed run."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor


def gaussian(like: Tensor, deviation: float, seed: int, stream: str, name: str) -> Tensor:
    """N(0, deviation^2) of the shape, dtype and device of `like`, keyed by (seed, stream, name) alone."""
    key = hashlib.blake2b(f"{seed}/{stream}/{name}".encode(), digest_size=16).digest()
    random = np.random.Generator(np.random.Philox(key=np.frombuffer(key, np.uint64)))
    drawn = torch.from_numpy(random.standard_normal(tuple(like.shape)) * deviation)
    return drawn.to(like.device, like.dtype)
