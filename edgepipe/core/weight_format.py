"""What a stage's matrices are held as, whatever is computed in.

int8   one byte a value, and at most a float32 scale for each block of 32
int4   half a byte a value, and at most a float32 scale and a float32 minimum for each block of 32;
       the head, whose rounding costs most, is held as int8
"""

from __future__ import annotations

from enum import StrEnum
from fractions import Fraction


class WeightFormat(StrEnum):
    """How matrices lie in memory. The embedding's table, norms and biases keep the dtype."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    INT8 = "int8"
    INT4 = "int4"

    @property
    def of_head(self) -> WeightFormat:
        """What the head is held as."""
        return WeightFormat.INT8 if self is WeightFormat.INT4 else self

    def bytes_of(self, num_values: int) -> int:
        """What a matrix of so many values takes, at most."""
        return -int(-num_values * _VALUE_BYTES[self] // 1)


_VALUE_BYTES = {
    WeightFormat.FLOAT32: Fraction(4),
    WeightFormat.BFLOAT16: Fraction(2),
    WeightFormat.FLOAT16: Fraction(2),
    WeightFormat.INT8: Fraction(9, 8),
    WeightFormat.INT4: Fraction(3, 4),
}
