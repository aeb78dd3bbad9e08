"""Linear layers of float32 on a CPU by oneDNN.

PyTorch multiplies matrices of float32 with MKL, which is less than half as fast as oneDNN on CPUs that are not Intel's:
108 against 240 GFLOP/s on a core of an AMD EPYC with AVX-512. In bfloat16 it takes oneDNN by itself. Results agree to
rounding. On CPUs of Intel nothing was measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

Linear = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""(x [token, inputs], weight [outputs, inputs], bias [outputs] or None) -> [token, outputs]"""


def linear_for(like: Tensor) -> Linear:
    """`torch.nn.functional.linear` for tensors of this one's number format and device; oneDNN's has no gradients."""
    return _product if _is_onednns(like) else functional.linear


def linears_for(like: Tensor) -> AbstractContextManager[Any]:
    """What to enter around the forward pass of a model of this number format and device: `OneDnnLinear`, or nothing."""
    return OneDnnLinear() if _is_onednns(like) else nullcontext()


class OneDnnLinear(TorchFunctionMode):
    """While it is entered, linear layers of float32 on a CPU are computed by oneDNN, and so are their gradients.

    It stands around a forward pass; backward needs no mode, but activation checkpointing, which computes the pass again
    there, would. There are no second derivatives. A linear layer under autocast is left to PyTorch, which makes another
    number format of it, and so is what DeepSpeed puts in the place of `functional.linear` at ZeRO 3.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """See `torch.overrides.TorchFunctionMode`."""
        if func is functional.linear and not kwargs and _by_onednn(*args[:2]):
            x, weight, *bias = args
            return _Linear.apply(x, weight, *(bias or [None]))  # type: ignore[no-untyped-call]
        return func(*args, **(kwargs or {}))


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        by_x, by_weight, _ = ctx.needs_input_grad
        ctx.save_for_backward(x if by_weight else None, weight if by_x else None)
        return _product(x, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, of_y: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        by_x, by_weight, by_bias = ctx.needs_input_grad
        rows = of_y.flatten(0, -2)
        return (
            _product(of_y, weight.T) if by_x else None,
            _transposed_product(rows, x.flatten(0, -2)) if by_weight else None,
            rows.sum(dim=0) if by_bias else None,
        )


def _transposed_product(a: Tensor, b: Tensor) -> Tensor:
    """a.T @ b, of [row, n] and [row, m]. oneDNN has the left factor copied, so the narrower one stands there."""
    return _product(a.T, b.T) if a.shape[1] <= b.shape[1] else _product(b.T, a.T).T


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")  # type: ignore[no-any-return]


def _is_onednns(like: Tensor) -> bool:
    return like.dtype == torch.float32 and like.device.type == "cpu" and torch.backends.mkldnn.is_available()


def _by_onednn(x: Tensor, weight: Tensor) -> bool:
    return (
        _is_onednns(x)
        and weight.dtype == x.dtype
        and x.dim() >= weight.dim() == 2
        and x.shape[-1] == weight.shape[1]  # else PyTorch says what is wrong
        and bool(x.numel())
        and not torch.is_autocast_enabled("cpu")
    )
