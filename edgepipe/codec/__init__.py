"""Tensors to bytes and back, on the tensor's own device."""

from edgepipe.codec.error import relative_error
from edgepipe.codec.payload import decode, encode
from edgepipe.core.payload import payload_bytes

__all__ = ["decode", "encode", "payload_bytes", "relative_error"]
