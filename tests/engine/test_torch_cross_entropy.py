from __future__ import annotations

import pytest
import torch

from edgepipe.engine.torch import cross_entropy
from edgepipe.engine.torch.cross_entropy import cross_entropy_sum


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_equals_torchs_in_float32_chunk_by_chunk(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cross_entropy, "_CHUNK_VALUES", 3 * 50)
    logits = (3 * torch.randn(7, 50)).to(dtype).requires_grad_()
    exact = logits.detach().float().requires_grad_()
    targets = torch.randint(50, (7,))
    total = cross_entropy_sum(logits, targets)
    expected = torch.nn.functional.cross_entropy(exact, targets, reduction="sum")
    assert total.dtype is torch.float32
    torch.testing.assert_close(total, expected)
    total.backward(torch.tensor(0.25))
    expected.backward(torch.tensor(0.25))
    assert logits.grad is not None
    assert exact.grad is not None
    torch.testing.assert_close(logits.grad, exact.grad.to(dtype))


def test_no_rows_come_to_nothing() -> None:
    logits = torch.empty(0, 50, requires_grad=True)
    total = cross_entropy_sum(logits, torch.empty(0, dtype=torch.int64))
    total.backward()
    assert total == 0
