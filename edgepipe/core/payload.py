"""How long an encoded tensor is. Known before a byte of it is read, so that it bounds what arrives.

none    the elements as they are                                    n · itemsize
bf16    n bfloat16; dtypes of two bytes travel as they are          n · 2
int8    of each row (the last dimension) its scale, float32         rows · 4
        its k values of largest magnitude, float32                  rows · k · 4
        where in the row they stand, int16 (int32 in rows too long) rows · k · 2
        all values, int8                                            n
int4    of each row its k values of largest magnitude, float32      rows · k · 4
        where in the row they stand                                 rows · k · 2
        of each group of 32 values its scale, bfloat16              rows · ⌈dim/32⌉ · 2
        all values, two a byte                                      rows · ⌈dim/2⌉
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import assert_never

from edgepipe.core.frame import Codec, DType
from edgepipe.errors import WireError

SCALE_BYTES = 4
OUTLIER_BYTES = 4
GROUP_VALUES = 32
"""Values of a row that share a scale in int4. On SmolLM2's residual stream 64 of them leave an
eighth more error, at as many bytes with scales in float32."""
GROUP_SCALE_BYTES = 2
MAX_OUTLIERS = 8
"""Of SmolLM2's residual stream: 4 leave up to twice the error in the logits, 16 gain little."""


def outliers_per_row(dim: int) -> int:
    """How many values of a row of `dim` values int8 and int4 keep exact: at most one in 16."""
    return min(MAX_OUTLIERS, dim // 16)


def position_bytes(dim: int) -> int:
    """Bytes of a place within a row of `dim` values."""
    return 2 if dim <= 1 << 15 else 4


def groups_per_row(dim: int) -> int:
    """Groups of a row of `dim` values in int4; the last may be smaller."""
    return -(-dim // GROUP_VALUES)


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
            return math.prod(shape[:-1]) * _int8_bytes(shape[-1])
        case Codec.INT4:
            return math.prod(shape[:-1]) * _int4_bytes(shape[-1])
        case _:
            assert_never(codec)


def _int8_bytes(dim: int) -> int:
    return SCALE_BYTES + _outlier_bytes(dim) + dim


def _int4_bytes(dim: int) -> int:
    return _outlier_bytes(dim) + groups_per_row(dim) * GROUP_SCALE_BYTES + (dim + 1) // 2


def _outlier_bytes(dim: int) -> int:
    return outliers_per_row(dim) * (OUTLIER_BYTES + position_bytes(dim))
