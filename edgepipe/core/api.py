"""The version of the wire: what two machines must agree on before anything else."""

from __future__ import annotations

from edgepipe.errors import VersionMismatch

API = 2
"""Counts up whenever one side would misread, or wait for, what the other does not send."""


def check_api(api: int, who: str = "the caller") -> None:
    """Raise VersionMismatch unless `api` is ours."""
    if api != API:
        raise VersionMismatch(
            f"{who} speaks wire version {api} and this machine {API}: "
            f"install the same edgepipe on both"
        )
