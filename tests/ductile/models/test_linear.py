"""Linear layers by oneDNN against PyTorch's own in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.profiler import profile

from ductile.models.linear import OneDnnLinear, linear_for, linears_for

needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch was built without oneDNN")


def tensors(*shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, requires_grad=True) for shape in shapes]


def called(function, name: str) -> int:
    """How often `function` reached the operator."""
    with profile() as seen:
        function()
    return sum(event.count for event in seen.key_averages() if event.key == name)


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("rows", [(3,), (1, 7), (2, 5)])
@pytest.mark.parametrize("sizes", [(6, 40), (40, 6)])
def test_outputs_and_gradients_are_those_of_float64(biased, rows, sizes):
    inputs, outputs = sizes
    x, weight, bias, of_y = tensors((*rows, inputs), (outputs, inputs), (outputs,), (*rows, outputs))
    leaves = [x, weight, bias] if biased else [x, weight]
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    with OneDnnLinear():
        y = functional.linear(*leaves)
    expected = functional.linear(*exact)
    torch.testing.assert_close(y, expected.float(), rtol=1e-5, atol=1e-5)
    found = torch.autograd.grad(y, leaves, of_y)
    wanted = torch.autograd.grad(expected, exact, of_y.double())
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other.float(), rtol=1e-5, atol=1e-5)


def test_what_needs_no_gradient_gets_none():
    x, weight = tensors((4, 8), (8, 8))
    weight.requires_grad_(False)
    with OneDnnLinear():
        functional.linear(x, weight).sum().backward()
    assert weight.grad is None
    torch.testing.assert_close(x.grad, weight.sum(dim=0).expand(4, 8))


@needs_onednn
def test_layers_are_onednns_while_it_is_entered_and_pytorchs_afterwards():
    layer, x = nn.Linear(8, 8), torch.ones(4, 8)

    def passed() -> None:
        with OneDnnLinear():
            layer(x).sum().backward()

    assert called(passed, "mkldnn::_linear_pointwise") == 2  # forward, and the weight's gradient
    assert called(lambda: layer(x), "mkldnn::_linear_pointwise") == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_number_formats_are_pytorchs(dtype):
    x, weight = (tensor.detach().to(dtype) for tensor in tensors((4, 8), (6, 8)))
    with OneDnnLinear():
        assert torch.equal(functional.linear(x, weight), x @ weight.T)
    assert torch.equal(linear_for(x)(x, weight, None), x @ weight.T)
    assert not isinstance(linears_for(x), OneDnnLinear)


@needs_onednn
def test_float32_on_a_cpu_is_onednns():
    x, weight = (tensor.detach() for tensor in tensors((4, 8), (6, 8)))
    assert called(lambda: linear_for(x)(x, weight, None), "mkldnn::_linear_pointwise") == 1
    assert isinstance(linears_for(x), OneDnnLinear)


def test_autocast_rounds_as_ever():
    x, weight = tensors((4, 8), (6, 8))
    with torch.autocast("cpu", torch.bfloat16):
        expected = functional.linear(x, weight)
        with OneDnnLinear():
            found = functional.linear(x, weight)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, expected)


def test_no_rows_and_a_single_vector_are_pytorchs():
    [weight] = tensors((6, 8))
    with OneDnnLinear():
        assert functional.linear(torch.empty(0, 8), weight).shape == (0, 6)
        torch.testing.assert_close(functional.linear(torch.ones(8), weight), weight.sum(dim=1))
