"""How long an encoded tensor is. Known before a byte of it is read, so that it bounds what arrives.

none    the elements as they are                                    n · itemsize
bf16    n bfloat16; dtypes of two bytes travel as they are          n · 2
int8    one float32 scale per row (the last dimension), then int8   rows · 4 + n
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import assert_never

from edgepipe.core.frame import Codec, DType
from edgepipe.errors import WireError

SCALE_BYTES = 4


def payload_bytes(codec: Codec, shape: Sequence[int], dtype: DType) -> int:
    """Exact size of a tensor once encoded; 0 for shape (), a frame that carries no tensor.

    Raises:
        WireError: a lossy codec was asked for integers.
    """
    if dtype is DType.INT64 and codec is not Codec.NONE:
        raise WireError(f"token ids cannot travel as {codec}: send them with codec none")
    if not shape:
        return 0
    match codec:
        case Codec.NONE:
            return math.prod(shape) * dtype.itemsize
        case Codec.BF16:
            return math.prod(shape) * 2
        case Codec.INT8:
            return math.prod(shape[:-1]) * SCALE_BYTES + math.prod(shape)
        case _:
            assert_never(codec)
