"""Run and train models across the machines you already have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgepipe.api import Cluster, connect

__version__ = "0.1.0"
__all__ = ["Cluster", "connect"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from edgepipe import api  # noqa: PLC0415 (agents import __version__ alone)

    return getattr(api, name)
