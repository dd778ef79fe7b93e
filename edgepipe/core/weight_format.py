"""What a stage's matrices are held as, whatever is computed in.

int8   one scale for each row of a matrix, or for each block of 32 values, as the engine does it
int4   blocks of 32 values, each with a scale
"""

from __future__ import annotations

from enum import StrEnum


class WeightFormat(StrEnum):
    """How matrices lie in memory. Vectors, norms and biases keep the dtype."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    INT8 = "int8"
    INT4 = "int4"
