"""Making the engine that a job names."""

from __future__ import annotations

from pathlib import Path

import torch

from edgepipe.engine.base import Engine
from edgepipe.engine.emulated import EmulatedEngine
from edgepipe.engine.onnx.support import unavailable
from edgepipe.errors import StageError


def make_engine(name: str, device: torch.device, home: Path) -> Engine:
    """The engine of that name; what it builds is kept under `home`.

    Raises StageError for one that this agent lacks.
    """
    match name:
        case "torch":
            from edgepipe.engine.torch.engine import TorchEngine  # noqa: PLC0415 -- seconds

            return TorchEngine(str(device))
        case "onnx":
            require_onnx()
            from edgepipe.engine.onnx.engine import OnnxEngine  # noqa: PLC0415 -- an extra

            return OnnxEngine(str(device), cache=home / "onnx")
        case "emulated":
            return EmulatedEngine()
        case _:
            raise StageError(f"this agent has no engine {name!r}, only torch, onnx and emulated")


def require_onnx() -> None:
    """Raise StageError, which says what to install, where ONNX Runtime is not here."""
    if reason := unavailable():
        raise StageError(reason)
