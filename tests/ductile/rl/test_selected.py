"""Log-probability and entropy by one function with a backward pass of its own, against float64 and autograd."""

from __future__ import annotations

import pytest
import torch

from ductile.rl import selected as module
from ductile.rl.selected import selected

TEMPERATURE = 0.7


def drawn(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(9, 6, generator=generator, dtype=torch.float64)
    return logits.to(dtype).requires_grad_(), torch.randint(6, (9,), generator=generator)


@pytest.fixture(autouse=True, params=[6, 24, 1 << 21])
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """One token at a time, four, and all of them."""
    monkeypatch.setattr(module, "CHUNK", request.param)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 1e-5)]
)
def test_values_are_those_of_log_softmax_in_float64(dtype: torch.dtype, tolerance: float) -> None:
    logits, targets = drawn(dtype)
    logps, entropy = selected(logits, targets, TEMPERATURE)
    exact = torch.log_softmax(logits.detach().double() / TEMPERATURE, dim=-1)
    torch.testing.assert_close(logps.double(), exact[torch.arange(9), targets], atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(entropy.double(), -(exact.exp() * exact).sum(dim=-1), atol=tolerance, rtol=tolerance)
    assert logps.dtype == entropy.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@pytest.mark.parametrize("used", [(1, 0), (0, 1), (1, 1)])
def test_gradient_of_what_is_used_passes_gradcheck(used: tuple[int, int]) -> None:
    logits, targets = drawn(torch.float64)

    def function(logits: torch.Tensor) -> torch.Tensor:
        outputs = selected(logits, targets, TEMPERATURE)
        parts = [torch.sin(output) for output, wanted in zip(outputs, used, strict=True) if wanted]
        return torch.stack(parts)

    assert torch.autograd.gradcheck(function, logits)


def test_gradient_of_bf16_logits_is_that_of_float32_rounded() -> None:
    logits, targets = drawn(torch.bfloat16)
    wide = logits.detach().float().requires_grad_()
    for held in (logits, wide):
        logps, entropy = selected(held, targets, TEMPERATURE)
        (logps.sum() + 0.3 * entropy.sum()).backward()
    assert logits.grad is not None and wide.grad is not None
    assert torch.equal(logits.grad, wide.grad.bfloat16())
