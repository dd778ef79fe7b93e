"""How fast a device encodes and decodes frames."""

from __future__ import annotations

from collections.abc import Callable

import torch

from edgepipe import codec
from edgepipe.core.frame import Codec, DType
from edgepipe.core.speed import CodecSpeed
from edgepipe.engine.torch.architecture import torch_dtype
from edgepipe.engine.torch.median import median_s

FEW_ROWS, MANY_ROWS = 2, 128
"""As in a group's frame, and in a prefill chunk's."""

Clock = Callable[[Callable[[], object]], float]


def codec_speeds(
    hidden_size: int, dtype: DType, device: torch.device, clock: Clock
) -> dict[str, CodecSpeed]:
    """Every codec that computes, by its name."""
    return {
        each.value: _speed(each, hidden_size, dtype, device, clock)
        for each in (Codec.BF16, Codec.INT8, Codec.INT4)
    }


def _speed(
    which: Codec, hidden_size: int, dtype: DType, device: torch.device, clock: Clock
) -> CodecSpeed:
    few, many = (
        _seconds(which, (rows, hidden_size), dtype, device, clock) for rows in (FEW_ROWS, MANY_ROWS)
    )
    encode_s, encode_call_s = _line(few[0], many[0], hidden_size)
    decode_s, decode_call_s = _line(few[1], many[1], hidden_size)
    return CodecSpeed(
        encode_s=encode_s,
        decode_s=decode_s,
        encode_call_s=encode_call_s,
        decode_call_s=decode_call_s,
    )


def _seconds(
    which: Codec, shape: tuple[int, int], dtype: DType, device: torch.device, clock: Clock
) -> tuple[float, float]:
    """Of one frame: encoding, decoding."""
    rows = torch.randn(shape, device=device).to(torch_dtype(dtype))
    payload = codec.encode(rows, which)

    def decode() -> object:
        return codec.decode(payload, codec=which, shape=shape, dtype=dtype, device=device)

    encode_s = median_s(lambda: clock(lambda: codec.encode(rows, which)))
    return encode_s, median_s(lambda: clock(decode))


def _line(few_s: float, many_s: float, hidden_size: int) -> tuple[float, float]:
    """Seconds per value, and of a call."""
    values = (MANY_ROWS - FEW_ROWS) * hidden_size
    value_s = max(0.0, many_s - few_s) / values
    return value_s, max(0.0, few_s - FEW_ROWS * hidden_size * value_s)
