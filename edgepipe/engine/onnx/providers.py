"""Which of ONNX Runtime's execution providers run a stage on a device."""

from __future__ import annotations

from collections.abc import Sequence

CPU = "CPUExecutionProvider"

_BY_KIND = {
    "cpu": (),
    "cuda": ("CUDAExecutionProvider", "ROCMExecutionProvider", "MIGraphXExecutionProvider"),
    "dml": ("DmlExecutionProvider",),
    "privateuseone": ("DmlExecutionProvider",),
    "xpu": ("OpenVINOExecutionProvider",),
    "mps": ("CoreMLExecutionProvider",),
}
"""TensorRT is not among them: it would build an engine anew for every shape of a batch."""

_BUILDER_NAMES = {"CUDAExecutionProvider": "cuda", "DmlExecutionProvider": "dml"}
_TAKES_INDEX = frozenset({"cuda", "dml", "privateuseone"})

Provider = tuple[str, dict[str, str]]
"""A provider's name and options, as InferenceSession takes them."""


def providers(device: str, available: Sequence[str]) -> list[Provider] | None:
    """The providers for a device such as `cpu` or `cuda:0`, first choice first.

    The CPU follows an accelerator's provider, for the operators that this lacks. None where
    `available`, what onnxruntime.get_available_providers() gives, has no provider for the device.
    """
    kind, _, index = device.partition(":")
    wanted = _BY_KIND.get(kind)
    if wanted is None:
        return None
    options = {"device_id": index or "0"} if kind in _TAKES_INDEX else {}
    accelerated = [(name, options) for name in wanted if name in available][:1]
    if wanted and not accelerated:
        return None
    return [*accelerated, (CPU, {})]


def builder_name(provider: str) -> str:
    """What the model builder calls a provider; its CPU graph is the one that all others take."""
    return _BUILDER_NAMES.get(provider, "cpu")
