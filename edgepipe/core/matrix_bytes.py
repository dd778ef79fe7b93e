"""Bytes of a matrix by what it is held as, in the ONNX engine.

A block of 32 values is 16 or 32 bytes and a float32 scale; a Q4_1 block of a GGUF file has a
float32 offset too.
"""

from __future__ import annotations

from edgepipe.core.weight_format import WeightFormat

BLOCK = 32
SCALE_BYTES = 4

_VALUE_BYTES = {
    WeightFormat.FLOAT32: 4,
    WeightFormat.BFLOAT16: 2,
    WeightFormat.FLOAT16: 2,
}
_BLOCK_BYTES = {WeightFormat.INT8: BLOCK, WeightFormat.INT4: BLOCK // 2}


def matrix_bytes(rows: int, columns: int, held: WeightFormat, *, shifted: bool = False) -> int:
    """Bytes of a matrix [rows, columns]; `shifted` says that its blocks have offsets (Q4_1)."""
    if held in _VALUE_BYTES:
        return rows * columns * _VALUE_BYTES[held]
    num_blocks = -(-columns // BLOCK)
    extra = SCALE_BYTES * (2 if shifted and held is WeightFormat.INT4 else 1)
    return rows * num_blocks * (_BLOCK_BYTES[held] + extra)


def outer_format(held: WeightFormat) -> WeightFormat:
    """What the head and the embedding are held as where the layers' matrices are held as `held`.

    They are never rounded to 4 bits.
    """
    return WeightFormat.INT8 if held is WeightFormat.INT4 else held
