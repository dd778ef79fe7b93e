"""A tensor to a payload and back.

Encoding runs on the tensor's own device; what crosses to the host is the encoded payload, once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import assert_never

import numpy as np
import torch

from edgepipe.codec.dtypes import TORCH_DTYPES, WIRE_DTYPES
from edgepipe.codec.rows import dequantise, quantise
from edgepipe.core.frame import Codec, DType
from edgepipe.core.payload import SCALE_BYTES, payload_bytes
from edgepipe.errors import WireError


def encode(tensor: torch.Tensor, codec: Codec) -> memoryview:
    """The payload of a tensor of one dimension or more, as contiguous bytes.

    Where nothing has to change (codec `none` on a CPU) the payload shares the tensor's memory:
    write into neither until the frame was sent.

    Raises:
        WireError: a lossy codec was asked for integers.
    """
    assert tensor.ndim > 0
    tensor = tensor.detach()
    size = payload_bytes(codec, tensor.shape, WIRE_DTYPES[tensor.dtype])
    if codec is Codec.NONE and tensor.is_cpu and tensor.dtype is torch.float32:
        return tensor.contiguous().numpy().reshape(-1).data.cast("B")
    match codec:
        case Codec.NONE:
            encoded = _bytes(tensor)
        case Codec.BF16:
            encoded = _bytes(tensor if tensor.itemsize == 2 else tensor.to(torch.bfloat16))
        case Codec.INT8:
            encoded = _encode_rows(tensor, size)
        case _:
            assert_never(codec)
    return _to_host(encoded).numpy().data


def decode(
    payload: memoryview,
    *,
    codec: Codec,
    shape: Sequence[int],
    dtype: DType,
    device: torch.device | str,
) -> torch.Tensor:
    """The tensor that was encoded, contiguous, on `device`.

    It takes over the payload's memory where that is writable and needs no change.

    Raises:
        WireError: the payload is not as long as codec, shape and dtype imply.
    """
    if len(payload) != (size := payload_bytes(codec, shape, dtype)):
        raise WireError(f"a payload of {len(payload)} bytes came where {size} were announced")
    torch_dtype = TORCH_DTYPES[dtype]
    memory = bytearray(payload) if payload.readonly else payload
    if codec is Codec.NONE and size:
        return torch.frombuffer(memory, dtype=torch_dtype).to(device).view(*shape)
    encoded = torch.from_numpy(np.frombuffer(memory, np.uint8)).to(device)
    match codec:
        case Codec.NONE:
            return encoded.view(torch_dtype).view(*shape)
        case Codec.BF16:
            sent = torch_dtype if dtype.itemsize == 2 else torch.bfloat16
            return encoded.view(sent).view(*shape).to(torch_dtype)
        case Codec.INT8:
            return _decode_rows(encoded, shape).to(torch_dtype)
        case _:
            assert_never(codec)


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    if not tensor.numel():  # an empty tensor's strides are arbitrary
        return torch.empty(0, dtype=torch.uint8)
    return tensor.contiguous().view(-1).view(torch.uint8)


def _encode_rows(tensor: torch.Tensor, size: int) -> torch.Tensor:
    if not tensor.numel():  # rows of nothing have scales too
        return torch.zeros(size, dtype=torch.uint8)
    encoded = torch.empty(size, dtype=torch.uint8, device=tensor.device)
    quantise(tensor.reshape(-1, tensor.shape[-1]), *_scales_and_rows(encoded, tensor.shape))
    return encoded


def _decode_rows(encoded: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    if not math.prod(shape):
        return torch.empty(*shape, device=encoded.device)
    return dequantise(*_scales_and_rows(encoded, shape)).view(*shape)


def _scales_and_rows(
    encoded: torch.Tensor, shape: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Views of an encoded payload: scales float32 [rows, 1] and rows int8 [rows, last]."""
    head = math.prod(shape[:-1]) * SCALE_BYTES
    scales = encoded[:head].view(torch.float32).view(-1, 1)
    return scales, encoded[head:].view(torch.int8).view(-1, shape[-1])


def _to_host(encoded: torch.Tensor) -> torch.Tensor:
    """One copy off the device: pinned, and on a stream of its own, where the device is CUDA."""
    if not encoded.is_cuda:
        return encoded.cpu()
    host = torch.empty(encoded.shape, dtype=torch.uint8, pin_memory=True)
    stream = torch.cuda.Stream(encoded.device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(encoded.device))
    with torch.cuda.stream(stream):
        host.copy_(encoded, non_blocking=True)
    stream.synchronize()
    return host
