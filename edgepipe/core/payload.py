"""How long an encoded tensor is. Known before a byte of it is read, so that it bounds what arrives.

none    the elements as they are                                    n · itemsize
bf16    n bfloat16; dtypes of two bytes travel as they are          n · 2
int8    of each row (the last dimension) its scale, float32         rows · 4
        its k values of largest magnitude, float32                  rows · k · 4
        where in the row they stand, int16 (int32 in rows too long) rows · k · 2
        all values, int8                                            n
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import assert_never

from edgepipe.core.frame import Codec, DType
from edgepipe.errors import WireError

SCALE_BYTES = 4
MAX_OUTLIERS = 8
"""Of SmolLM2's residual stream: 4 leave up to twice the error in the logits, 16 gain little."""


def outliers_per_row(dim: int) -> int:
    """How many values of a row of `dim` values int8 keeps exact: at most one in 16."""
    return min(MAX_OUTLIERS, dim // 16)


def position_bytes(dim: int) -> int:
    """Bytes of a place within a row of `dim` values."""
    return 2 if dim <= 1 << 15 else 4


def row_bytes(dim: int) -> int:
    """Bytes of one row of `dim` values in int8."""
    outlier = DType.FLOAT32.itemsize + position_bytes(dim)
    return SCALE_BYTES + outliers_per_row(dim) * outlier + dim


def payload_bytes(codec: Codec, shape: Sequence[int], dtype: DType) -> int:
    """Exact size of a tensor once encoded; 0 for shape (), a frame that carries no tensor.

    Raises:
        WireError: a lossy codec was asked for integers.
    """
    if codec is Codec.NONE:
        return math.prod(shape) * dtype.itemsize if shape else 0
    if dtype is DType.INT64:
        raise WireError(f"token ids cannot travel as {codec}: send them with codec none")
    if not shape:
        return 0
    match codec:
        case Codec.BF16:
            return math.prod(shape) * 2
        case Codec.INT8:
            return math.prod(shape[:-1]) * row_bytes(shape[-1])
        case _:
            assert_never(codec)
