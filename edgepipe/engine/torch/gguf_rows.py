"""GGUF tensors as a transformers model wants them, dequantised a few rows at a time.

A GGUF file orders some weights in its own way, and transformers' tensor processors undo that on
whole float32 tensors. Those that only move rows, or transpose, are found by processing the row
numbers, and then done piecewise; small tensors, and the rest, are processed whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import gguf.quants
import numpy as np
import torch
from numpy.typing import NDArray
from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor

from edgepipe.engine.torch.part import TORCH_DTYPES, GgufOrigin, StoredTensor
from edgepipe.errors import DamagedWeights, ModelError

Rows = NDArray[np.float32]
Process = Callable[[Rows], Rows]

_WHOLE_VALUES = 1 << 18
"""Up to here (1 MiB of float32) a tensor is simply processed whole."""


def read_gguf(
    stored: StoredTensor,
    target: torch.Tensor,
    config: Mapping[str, Any],
    advance: Callable[[int], None],
) -> None:
    """Fill `target` from a tensor with a GGUF origin. Raises DamagedWeights on another shape."""
    origin = stored.gguf
    assert origin is not None
    process = processor_of(origin, config)
    pieces = _counted(_pieces(stored, origin), advance, stored.num_bytes / _num_rows(origin))
    order = None if math.prod(origin.shape) <= _WHOLE_VALUES else row_order(process, origin)
    if order is None:
        _copy(stored, process(np.concatenate(list(pieces)).reshape(origin.shape)), target)
        return
    by_rows = target.T if order.ndim == 2 else target
    if tuple(by_rows.shape) != origin.shape:
        raise _misshapen(stored, origin.shape, target)
    places = torch.from_numpy(np.argsort(order.ravel())).to(target.device)
    first = 0
    for rows in pieces:
        values = torch.from_numpy(rows).to(target.device, target.dtype)
        by_rows[places[first : first + len(rows)]] = values
        first += len(rows)


def keeps_rows(stored: StoredTensor, shape: tuple[int, ...], config: Mapping[str, Any]) -> bool:
    """Whether the rows of a stored tensor are those of a model's tensor of this shape, in order."""
    origin = stored.gguf
    if origin is None:
        return stored.shape == shape
    order = row_order(processor_of(origin, config), origin)
    return (
        order is not None and origin.shape == shape and np.array_equal(order, np.arange(shape[0]))
    )


def processor_of(origin: GgufOrigin, config: Mapping[str, Any]) -> Process:
    """What transformers makes of a tensor of that origin."""
    processor = TENSOR_PROCESSORS.get(origin.architecture, TensorProcessor)(config=dict(config))

    def process(rows: Rows) -> Rows:
        # A processor may file a tensor under its own name here; the caller knows the name.
        filed: dict[str, Any] = {"tensors": {}}
        result = processor.process(weights=rows, name=origin.name, parsed_parameters=filed)
        weights: Rows = result.weights
        return weights

    return process


def row_order(process: Process, origin: GgufOrigin) -> NDArray[np.int64] | None:
    """Which source row stands at each place: [rows], or [1, rows] where rows become columns.

    None where `process` does more than move rows.
    """
    if len(origin.shape) != 2:
        return None
    numbers = np.arange(origin.shape[0], dtype=np.float32).reshape(-1, 1)
    try:
        moved = process(numbers)
    except (ValueError, IndexError, KeyError, TypeError):
        return None
    if not np.array_equal(np.sort(moved, axis=None), numbers[:, 0]):
        return None
    order = moved.astype(np.int64)
    return order if order.shape[0] == 1 else order[:, 0]


def _num_rows(origin: GgufOrigin) -> int:
    return math.prod(origin.shape[:-1])


def _pieces(stored: StoredTensor, origin: GgufOrigin) -> Iterator[Rows]:
    """Float32 [some rows, columns], all rows in order."""
    row_bytes = stored.num_bytes // max(1, _num_rows(origin))
    for piece in stored.pieces(max(1, row_bytes)):
        raw = np.frombuffer(piece, dtype=np.uint8).reshape(-1, row_bytes)
        yield _dequantise(raw, stored, origin)


def _dequantise(raw: NDArray[np.uint8], stored: StoredTensor, origin: GgufOrigin) -> Rows:
    if origin.kind is None:
        plain: Rows = torch.from_numpy(raw).view(TORCH_DTYPES[stored.dtype]).float().numpy().copy()
        return plain
    try:
        rows: Rows = gguf.quants.dequantize(raw, origin.kind)
    except NotImplementedError as error:
        raise ModelError(
            f"GGUF tensors of type {origin.kind.name} ({stored.name}) cannot be dequantised; "
            "take a file of another quantisation."
        ) from error
    return rows


def _counted(
    pieces: Iterator[Rows], advance: Callable[[int], None], bytes_per_row: float
) -> Iterator[Rows]:
    for rows in pieces:
        yield rows
        advance(round(len(rows) * bytes_per_row))


def _copy(stored: StoredTensor, weights: Rows, target: torch.Tensor) -> None:
    if weights.shape != tuple(target.shape):
        raise _misshapen(stored, weights.shape, target)
    target.copy_(torch.from_numpy(np.ascontiguousarray(weights)))


def _misshapen(
    stored: StoredTensor, shape: tuple[int, ...], target: torch.Tensor
) -> DamagedWeights:
    return stored.damaged(f"has the shape {list(shape)}, the model wants {list(target.shape)}")
