from __future__ import annotations

import pytest

from edgepipe.core.size import human_size


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        ((1 << 20) - 1, "1.0 MiB"),
        (int(3.1 * (1 << 30)), "3.1 GiB"),
        (5000 << 40, "5000.0 TiB"),
        (-2048, "-2.0 KiB"),
    ],
)
def test_sizes_as_a_person_reads_them(num_bytes: int, text: str) -> None:
    assert human_size(num_bytes) == text
