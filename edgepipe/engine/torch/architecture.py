"""A Hugging Face config becomes a model without weights. No code of a checkpoint ever runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers.core_model_loading import build_glob_alternation
from transformers.initialization import no_init_weights
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from edgepipe.core.frame import DType
from edgepipe.errors import ModelError

ATTENTION_KINDS = frozenset({"full_attention", "sliding_attention", "chunked_attention"})
"""Layer types whose only state is keys and values by position."""


LIBRARY_ERRORS = (
    StrictDataclassError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What transformers raises on a config that it cannot turn into a model, or a model that cannot
run on meta: it has no error tree of its own."""

_MAX_LAYERS = 4096
_DEPTH_FIELDS = ("num_hidden_layers", "num_layers", "n_layers", "n_layer")


def torch_dtype(dtype: DType) -> torch.dtype:
    """The torch type of `dtype`."""
    return {
        DType.FLOAT32: torch.float32,
        DType.BFLOAT16: torch.bfloat16,
        DType.FLOAT16: torch.float16,
        DType.INT64: torch.int64,
    }[dtype]


def read_config(config: Mapping[str, Any]) -> Any:
    """The config object for a config dict, which transformers would change as it reads it.

    Raises ModelError where the dict is not one of ours.
    """
    model_type = config.get("model_type")
    if model_type not in CONFIG_MAPPING:
        raise ModelError(f"The architecture {model_type!r} is not known to transformers.")
    _check_depth(config)
    _check_not_quantised(config)
    left_out = {"auto_map", "quantization_config"}
    fields = {name: deepcopy(value) for name, value in config.items() if name not in left_out}
    try:
        return CONFIG_MAPPING[model_type].from_dict(fields)
    except LIBRARY_ERRORS as error:
        raise ModelError(f"The {model_type} config is not valid: {one_line(error)}.") from error


def one_line(error: Exception) -> str:
    """What an error says, on one line."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def _check_depth(config: Mapping[str, Any]) -> None:
    """Some configs make a list with an entry per layer, so this comes before they are parsed."""
    text = config.get("text_config")
    for fields in (config, text if isinstance(text, Mapping) else {}):
        given = [fields.get(name) for name in _DEPTH_FIELDS]
        num_layers = max((count for count in given if isinstance(count, int)), default=0)
        if num_layers > _MAX_LAYERS:
            raise ModelError(f"The {config['model_type']} config asks for {num_layers} layers.")


def _check_not_quantised(config: Mapping[str, Any]) -> None:
    """GGUF is dequantised on the way; other methods need modules of their own."""
    method = (config.get("quantization_config") or {}).get("quant_method", "gguf")
    if method != "gguf":
        raise ModelError(
            f"The checkpoint is quantised with {method}, which edgepipe cannot load; "
            "take the unquantised checkpoint or a GGUF file."
        )


def build_on_meta(config: Any, dtype: DType) -> Any:
    """The causal LM of `config` on the meta device, in eval mode.

    Raises:
        ModelError: the architecture has no causal LM, keeps more state than keys and values, or
            does not accept this config.
    """
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ModelError(f"The architecture {config.model_type!r} has no causal language model.")
    model_class = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    _check_layer_kinds(config, model_class)
    try:
        with torch.device("meta"), no_init_weights():
            model = model_class._from_config(config, dtype=torch_dtype(dtype))  # noqa: SLF001
    except LIBRARY_ERRORS as error:
        reason = one_line(error)
        raise ModelError(f"No {config.model_type} model fits this config: {reason}.") from error
    return model.eval().requires_grad_(requires_grad=False)


def _check_layer_kinds(config: Any, model_class: Any) -> None:
    kinds = set(getattr(config.get_text_config(), "layer_types", None) or ())
    if foreign := sorted(kinds - ATTENTION_KINDS):
        raise ModelError(
            f"The architecture {config.model_type!r} has {foreign[0]} layers, "
            "which edgepipe does not support yet."
        )
    if getattr(model_class, "_is_stateful", False):
        raise ModelError(
            f"The architecture {config.model_type!r} keeps a recurrent state, "
            "which edgepipe does not support yet."
        )


def float32_names(model: Any) -> Callable[[str], bool]:
    """Which weights this architecture keeps in float32 whatever the model's type is."""
    is_empty = not any(p.is_floating_point() for p in model.parameters())  # then it has no type
    plan = {} if is_empty else model._get_dtype_plan(model.dtype)  # noqa: SLF001
    if not plan:
        return lambda _: False
    pattern, _, _ = build_glob_alternation(list(plan))
    return lambda name: pattern.search(name) is not None
