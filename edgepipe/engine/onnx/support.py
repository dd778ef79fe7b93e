"""Whether the ONNX engine can be used here, and for which models."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

_WANTED = ("onnxruntime", "onnxruntime_genai", "onnx", "onnx_ir")

BUILDERS = {
    "llama": "LlamaModel",
    "mistral": "MistralModel",
    "qwen2": "QwenModel",
    "qwen3": "Qwen3Model",
    "gemma2": "Gemma2Model",
    "gemma3_text": "Gemma3Model",
    "phi": "PhiModel",
    "phi3": "Phi3MiniModel",
    "granite": "GraniteModel",
}
"""Architectures whose graphs were held to transformers' logits, and the builder's class of each."""

_ACTIVATIONS = frozenset({"silu", "gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "relu"})
_ROTARY_KINDS = {"llama": frozenset({"default", "llama3"})}
_ROTARY_UNIT = 16
"""The rotary kernel takes eight pairs of values at a time."""


def unavailable() -> str | None:
    """Why the engine cannot run on this machine, in a sentence; None where it can."""
    if _installed("onnxruntime") and _installed("onnxruntime-gpu"):
        return (
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other: "
            "uninstall both, then install edgepipe[onnx] or edgepipe[onnx-gpu]."
        )
    if missing := [name for name in _WANTED if find_spec(name) is None]:
        return f"The engine onnx needs {missing[0]}: install it with pip install 'edgepipe[onnx]'."
    return None


def _installed(distribution: str) -> bool:
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True


def unsupported(config: Mapping[str, Any]) -> str | None:
    """Why the engine cannot run a model, in a sentence; None where it can.

    `config` is what transformers reads of the file: older names and left out fields would mislead.
    """
    kind = config.get("model_type")
    if kind not in BUILDERS:
        return _refusal(f"the architecture {kind!r}")
    if config.get("qk_layernorm"):
        return _refusal(f"{kind} with normalised queries and keys")
    activation = config.get("hidden_activation") or config.get("hidden_act")
    if activation not in _ACTIVATIONS:
        return _refusal(f"the activation {activation!r}")
    rotary = _rotary(config)
    allowed = _ROTARY_KINDS.get(kind, frozenset({"default"}))
    for parameters in rotary:
        if parameters.get("rope_type", "default") not in allowed:
            return _refusal(f"{kind} with rotary positions of type {parameters['rope_type']!r}")
    if _rotary_dim(config, rotary) % _ROTARY_UNIT:
        return _refusal(f"heads whose rotary part is no multiple of {_ROTARY_UNIT}")
    return None


def _rotary(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The rotary parameters of every kind of layer."""
    stated = config.get("rope_parameters") or config.get("rope_scaling") or {}
    nested = [value for value in stated.values() if isinstance(value, Mapping)]
    return nested or [stated]


def _rotary_dim(config: Mapping[str, Any], rotary: list[Mapping[str, Any]]) -> int:
    dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    factor = rotary[0].get("partial_rotary_factor", config.get("partial_rotary_factor"))
    return int(dim * (1.0 if factor is None else factor))


def _refusal(what: str) -> str:
    return f"The engine onnx does not run {what}: use --engine torch."
