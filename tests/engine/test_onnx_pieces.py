"""What the ONNX engine decides without a session."""

from __future__ import annotations

from typing import Any

import gguf.quants
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType

from edgepipe.core.frame import Span
from edgepipe.engine.onnx import support
from edgepipe.engine.onnx.blocks import BLOCK, Blocks, from_gguf, joined, rounded
from edgepipe.engine.onnx.calls import Call, calls_of, is_one_run
from edgepipe.engine.onnx.providers import builder_name, providers

CPU = ("CPUExecutionProvider", {})


def test_providers_follow_the_device() -> None:
    available = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    assert providers("cpu", available) == [CPU]
    assert providers("cuda:1", available) == [("CUDAExecutionProvider", {"device_id": "1"}), CPU]
    rocm = ["MIGraphXExecutionProvider", "ROCMExecutionProvider", "CPUExecutionProvider"]
    assert providers("cuda:0", rocm) == [("ROCMExecutionProvider", {"device_id": "0"}), CPU]
    assert providers("mps", ["CoreMLExecutionProvider"]) == [("CoreMLExecutionProvider", {}), CPU]


def test_a_device_without_a_provider_is_told() -> None:
    assert providers("cuda:0", ["CPUExecutionProvider"]) is None
    assert providers("tpu", ["CPUExecutionProvider"]) is None


def test_the_builder_has_its_own_names() -> None:
    assert builder_name("CUDAExecutionProvider") == "cuda"
    assert builder_name("OpenVINOExecutionProvider") == "cpu"


def test_both_runtimes_at_once_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert support.unavailable() is None
    monkeypatch.setattr(support, "_installed", lambda _: True)
    assert "uninstall both" in str(support.unavailable())


def test_a_missing_runtime_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(support, "find_spec", lambda name: None if name == "onnx" else object())
    assert support.unavailable() == (
        "The engine onnx needs onnx: install it with pip install 'edgepipe[onnx]'."
    )


LLAMA = {
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": 64,
    "num_attention_heads": 4,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model_type": "olmo"}, "'olmo'"),
        ({"model_type": "smollm3"}, "'smollm3'"),
        ({"hidden_act": "relu6"}, "'relu6'"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "'yarn'"),
        ({"model_type": "qwen2", "rope_parameters": {"rope_type": "llama3"}}, "'llama3'"),
        ({"head_dim": 24}, "multiple of 16"),
        ({"partial_rotary_factor": 0.5}, "multiple of 16"),
        ({"model_type": "phi", "qk_layernorm": True}, "normalised"),
    ],
)
def test_a_model_that_would_be_wrong_is_refused(changes: dict[str, Any], named: str) -> None:
    assert support.unsupported(LLAMA) is None
    reason = str(support.unsupported({**LLAMA, **changes}))
    assert named in reason
    assert reason.endswith("use --engine torch.")


def values_of(blocks: Blocks) -> torch.Tensor:
    """What MatMulNBits multiplies by, written out."""
    quants = blocks.quants
    if blocks.bits == 4:
        quants = torch.stack([quants & 15, quants >> 4], dim=-1).flatten(2)
    middle = 1 << (blocks.bits - 1)
    values = blocks.scales[..., None] * (quants.float() - middle)
    if blocks.offsets is not None:
        values = values + blocks.offsets.T[..., None]
    return values.flatten(1)[:, : blocks.columns]


@pytest.mark.parametrize("name", ["Q8_0", "Q4_0", "Q4_1"])
def test_blocks_of_a_gguf_file_keep_their_values(name: str) -> None:
    kind = GGMLQuantizationType[name]
    matrix = np.random.default_rng(0).standard_normal((6, 96), dtype=np.float32)
    raw = gguf.quants.quantize(matrix, kind)
    blocks = from_gguf(kind, raw, 96)
    assert blocks is not None
    exact = torch.from_numpy(gguf.quants.dequantize(raw, kind))
    torch.testing.assert_close(values_of(blocks), exact, atol=1e-6, rtol=0.0)


def test_other_blocks_are_not_taken() -> None:
    assert from_gguf(GGMLQuantizationType.Q5_0, np.zeros((2, 44), dtype=np.uint8), 64) is None


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("columns", [64, 80])
def test_rounding_errs_by_half_a_step(bits: int, columns: int) -> None:
    matrix = torch.randn(5, columns, generator=torch.Generator().manual_seed(0))
    matrix[2, :BLOCK] = 0.0
    blocks = rounded(matrix, bits)
    steps = blocks.scales.abs().repeat_interleave(BLOCK, dim=1)[:, :columns]
    error = (values_of(blocks) - matrix).abs()
    # A value opposite to the largest one may need one more step than there is.
    assert (error <= steps * 1.001).all()
    assert (error <= steps * 0.501).float().mean() > 0.9
    assert error[2, :BLOCK].max() == 0


def test_joined_blocks_are_the_rows_one_after_another() -> None:
    matrices = [torch.randn(rows, 64) for rows in (3, 5)]
    whole = joined([rounded(matrix, 4) for matrix in matrices])
    assert torch.equal(values_of(whole), values_of(rounded(torch.cat(matrices), 4)))


def spans(*counts: tuple[int, int]) -> list[Span]:
    return [Span(slot=slot, start=3, count=count) for slot, count in counts]


def test_spans_become_runs_and_single_slots() -> None:
    """Slots 1, 2 and 5 decode together, with 3 and 4 idle; 9 is too far; 7 has a chunk."""
    mixed = spans((5, 1), (7, 4), (2, 1), (9, 1), (1, 1))
    assert list(calls_of(mixed)) == [
        Call(first=1, tokens=1, places=(4, 2, None, None, 0), offsets=(7, 5, 5, 5, 0)),
        Call(first=9, tokens=1, places=(3,), offsets=(6,)),
        Call(first=7, tokens=4, places=(1,), offsets=(1,)),
    ]


def test_a_run_in_order_needs_no_sorting() -> None:
    assert is_one_run(spans((2, 1), (3, 1), (4, 1)))
    assert not is_one_run(spans((3, 1), (2, 1)))
    assert not is_one_run(spans((2, 1), (4, 1)))
    assert not is_one_run(spans((2, 1), (3, 2)))
