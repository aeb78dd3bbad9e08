"""A state dict as NumPy arrays, which a store in shared memory takes by one copy and gives to its readers by none.

Pickle passes them on out of band (PEP 574), tensors it does not.
https://docs.ray.io/en/releases-2.60.0/ray-core/objects/serialization.html#numpy-arrays
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

UNKNOWN = {torch.bfloat16: torch.int16}
"""Types that NumPy does not know, and those of the same size that stand for them."""

Arrays = Mapping[str, tuple[NDArray[Any], torch.dtype]]
"""Name -> an array, and the type of the tensor that its bits are."""


def as_arrays(weights: Mapping[str, Tensor]) -> Arrays:
    """The tensors as arrays on their own memory, CPU tensors as they are; one array for all names of a tied weight."""
    arrays: dict[tuple[Any, ...], NDArray[Any]] = {}
    named = {}
    for name, tensor in weights.items():
        place = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if place not in arrays:
            bits = tensor.detach().contiguous().view(UNKNOWN.get(tensor.dtype, tensor.dtype))
            arrays[place] = bits.numpy()
        named[name] = arrays[place], tensor.dtype
    return named


def as_tensors(arrays: Arrays) -> dict[str, Tensor]:
    """Tensors on the arrays' memory, which they keep alive. Nobody may write to them: what Ray gives is read by all."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        return {name: torch.from_numpy(array).view(dtype) for name, (array, dtype) in arrays.items()}
