"""Whether there is time for more; who asks has the clock."""

from __future__ import annotations

from collections.abc import Callable

Going = Callable[[], bool]
"""Asked again and again; once it says no, it stays so, and whoever asks comes to an end."""


def always() -> bool:
    """As long as it takes."""
    return True
