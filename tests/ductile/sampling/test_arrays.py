"""Weights that go through a store in shared memory are the same weights, and are not copied on the way."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import torch

from ductile.sampling.arrays import Arrays, as_arrays, as_tensors


def through_a_store(arrays: Arrays) -> tuple[Arrays, list[memoryview]]:
    """What a reader gets, and the read-only memory that it is on: as Ray stores pickles."""
    buffers: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(arrays, protocol=5, buffer_callback=buffers.append)
    assert len(pickled) < 1000  # no weight is in it
    stored = [memoryview(bytes(buffer.raw())) for buffer in buffers]
    return pickle.loads(pickled, buffers=stored), stored


def test_tensors_of_every_kind_come_back_on_the_stores_memory() -> None:
    torch.manual_seed(0)
    weight = torch.randn(70, 30)
    state = {
        "embedding": weight,
        "head": weight,
        "half": torch.randn(40, 30).bfloat16(),
        "turned": torch.randn(3, 50).t(),
        "count": torch.tensor(7),
        "scale": torch.tensor(0.1, dtype=torch.bfloat16),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        arrays, stored = through_a_store(as_arrays(state))
        read = as_tensors(arrays)
    assert len(stored) == 5  # a tied weight is stored once
    for name, tensor in state.items():
        assert read[name].dtype == tensor.dtype and torch.equal(read[name], tensor)
    places = {np.frombuffer(buffer, np.uint8).ctypes.data for buffer in stored}
    assert {tensor.data_ptr() for tensor in read.values()} == places


def test_tensors_keep_the_stores_memory_alive() -> None:
    arrays, stored = through_a_store(as_arrays({"weight": torch.arange(1e5)}))
    read = as_tensors(arrays)["weight"]
    del arrays, stored
    torch.full((100_000,), 3.0)
    assert torch.equal(read, torch.arange(1e5))
