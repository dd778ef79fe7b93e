"""What a codec costs in accuracy."""

from __future__ import annotations

import torch

from edgepipe.codec.dtypes import WIRE_DTYPES
from edgepipe.codec.payload import decode, encode
from edgepipe.core.frame import Codec


def relative_error(tensor: torch.Tensor, codec: Codec) -> float:
    """|decoded - tensor| / |tensor| in the 2-norm; 0 for a tensor of zeros, NaN if not finite."""
    back = decode(
        encode(tensor, codec),
        codec=codec,
        shape=tensor.shape,
        dtype=WIRE_DTYPES[tensor.dtype],
        device=tensor.device,
    )
    lost = torch.linalg.vector_norm((back.double() - tensor.double()).reshape(-1))
    return float(lost / torch.linalg.vector_norm(tensor.double().reshape(-1))) if lost else 0.0
