"""A config as the model builder reads it, with the layers of a stage alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgepipe.engine.torch.architecture import read_config

_LOCAL, _GLOBAL = "sliding_attention", "full_attention"


def stage_config(config: Mapping[str, Any], first: int, end: int, architecture: str) -> Any:
    """The config object of layers [first, end) of a model whose class is `architecture`.

    The builder wants the kind of every layer spelled out, one flat set of rotary parameters, and
    knows the epsilon of a norm by one name.
    """
    parsed = read_config(config)
    parsed.architectures = [architecture]
    parsed.layer_types = _layer_types(parsed)[first:end]
    parsed.num_hidden_layers = end - first
    if hasattr(parsed, "layer_norm_eps"):
        parsed.rms_norm_eps = parsed.layer_norm_eps
    rotary = parsed.rope_parameters
    if _LOCAL in rotary:
        parsed.rope_local_base_freq = rotary[_LOCAL]["rope_theta"]
        parsed.rope_parameters = dict(rotary[_GLOBAL])
    return parsed


def _layer_types(config: Any) -> list[str]:
    """Transformers lets every layer of a model with a window slide, unless it says otherwise."""
    everywhere = _LOCAL if getattr(config, "sliding_window", None) else _GLOBAL
    stated = getattr(config, "layer_types", None)
    return list(stated or [everywhere] * config.num_hidden_layers)
