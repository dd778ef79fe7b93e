"""Which engines this agent has, found without importing one: the supervisor imports no torch."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from edgepipe.core.profile import DeviceKind
from edgepipe.engine.onnx.support import unavailable
from edgepipe.errors import NodeError

_BUILDS = {
    "onnxruntime": {DeviceKind.CPU},
    "onnxruntime-gpu": {DeviceKind.CPU, DeviceKind.CUDA},
    "onnxruntime-rocm": {DeviceKind.CPU, DeviceKind.CUDA},
    "onnxruntime-migraphx": {DeviceKind.CPU, DeviceKind.CUDA},
    "onnxruntime-openvino": {DeviceKind.CPU},
}
"""Builds of ONNX Runtime, and the devices that each of them computes on."""


def engines_of(kind: DeviceKind) -> tuple[str, ...]:
    """The engines that a device of this kind has here."""
    has_onnx = unavailable() is None and any(
        kind in kinds for name, kinds in _BUILDS.items() if is_installed(name)
    )
    return ("torch", "onnx") if has_onnx else ("torch",)


def check_builds() -> None:
    """Raise NodeError where two builds of ONNX Runtime have overwritten each other."""
    if is_installed("onnxruntime") and is_installed("onnxruntime-gpu"):
        raise NodeError(str(unavailable()))


def is_installed(distribution: str) -> bool:
    """Whether pip knows it."""
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True
