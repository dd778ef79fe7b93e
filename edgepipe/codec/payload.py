"""A tensor to a payload and back.

Encoding runs on the tensor's own device; what crosses to the host is the encoded payload, once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import assert_never

import numpy as np
import torch

from edgepipe.codec.blocks import Blocks, write
from edgepipe.codec.dtypes import TORCH_DTYPES, WIRE_DTYPES
from edgepipe.codec.groups import Grouped
from edgepipe.codec.rows import Quantised
from edgepipe.core.frame import Codec, DType
from edgepipe.core.payload import payload_bytes
from edgepipe.errors import WireError

CPU = torch.device("cpu")
_BLOCKS: dict[Codec, type[Blocks]] = {Codec.INT8: Quantised, Codec.INT4: Grouped}


def encode(tensor: torch.Tensor, codec: Codec) -> memoryview:
    """The payload of a tensor of one dimension or more, as contiguous bytes.

    Where nothing has to change (codec `none` on a CPU) the payload shares the tensor's memory:
    write into neither until the frame was sent.

    Raises:
        WireError: a lossy codec was asked for integers.
    """
    assert tensor.ndim > 0
    if tensor.requires_grad:
        tensor = tensor.detach()
    if codec is Codec.NONE:
        if tensor.dtype is torch.float32 and tensor.is_cpu:  # no detour for a decoded token
            return tensor.contiguous().numpy().reshape(-1).data.cast("B")
        return _to_host(_bytes(tensor)).numpy().data
    size = payload_bytes(codec, tensor.shape, WIRE_DTYPES[tensor.dtype])
    match codec:
        case Codec.BF16:
            encoded = _bytes(tensor if tensor.itemsize == 2 else tensor.to(torch.bfloat16))
        case Codec.INT8 | Codec.INT4:
            encoded = _encode_rows(tensor, size, _BLOCKS[codec])
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
        WireError: the payload is not as long as codec, shape and dtype imply, or names places
            outside of its rows.
    """
    if len(payload) != (size := payload_bytes(codec, shape, dtype)):
        raise WireError(f"a payload of {len(payload)} bytes came where {size} were announced")
    torch_dtype = TORCH_DTYPES[dtype]
    memory = bytearray(payload) if payload.readonly else payload
    if codec is Codec.NONE:
        if not size:
            return torch.empty(tuple(shape), dtype=torch_dtype, device=device)
        if dtype is DType.FLOAT32 and device == CPU:  # no detour for a decoded token
            return torch.from_numpy(np.ndarray(shape, np.float32, memory))
        return torch.frombuffer(memory, dtype=torch_dtype).view(*shape).to(device)
    if codec in _BLOCKS:
        return _decode_rows(memory, codec, shape, device).to(torch_dtype)
    encoded = torch.from_numpy(np.frombuffer(memory, np.uint8)).to(device)
    sent = torch_dtype if dtype.itemsize == 2 else torch.bfloat16
    return encoded.view(sent).view(*shape).to(torch_dtype)


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    if not tensor.numel():  # an empty tensor's strides are arbitrary
        return torch.empty(0, dtype=torch.uint8)
    return tensor.contiguous().view(-1).view(torch.uint8)


def _encode_rows(tensor: torch.Tensor, size: int, blocks: type[Blocks]) -> torch.Tensor:
    if not tensor.numel():  # rows of nothing have scales too
        return torch.zeros(size, dtype=torch.uint8)
    encoded = torch.empty(size, dtype=torch.uint8, device=tensor.device)
    write(tensor.reshape(-1, tensor.shape[-1]), blocks.of(encoded, tensor.shape))
    return encoded


def _decode_rows(
    memory: memoryview | bytearray,
    codec: Codec,
    shape: Sequence[int],
    device: torch.device | str,
) -> torch.Tensor:
    if not math.prod(shape):
        return torch.empty(*shape, device=device)
    encoded = torch.from_numpy(np.frombuffer(memory, np.uint8))
    # Here, on the host: on a GPU a place outside of the row would end the process.
    positions = _BLOCKS[codec].of(encoded, shape).positions.numpy()
    if positions.size and not 0 <= positions.min() <= positions.max() < shape[-1]:
        raise WireError(f"an {codec} payload names a place outside of its rows of {shape[-1]}")
    return _BLOCKS[codec].of(encoded.to(device), shape).read().view(*shape)


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
