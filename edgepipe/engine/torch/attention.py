"""Attention for rows that stand at positions of their own.

transformers' masks assume that all rows of a batch start at one offset. Models ask a registered
function for their masks, and say by a function of (query position, key position) what may be
seen. The functions here evaluate it at every row's own positions, so that full, sliding and
chunked attention are right for rows of unequal length by the model's own definition.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, eager_mask, sdpa_mask
from transformers.modeling_utils import AttentionInterface

SDPA = "edgepipe_sdpa"
EAGER = "edgepipe_eager"


def use_row_positions(model: Any) -> bool:
    """Let `model` take rows of unequal length in one batch; says whether that is right for it.

    It is where attention goes through transformers' attention interface and so asks for its
    masks, and where a token's rotary angles depend on its own position only. Otherwise the model
    stays as it is and takes one row at a time.
    """
    name = {"sdpa": SDPA, "eager": EAGER}.get(model.config._attn_implementation)  # noqa: SLF001
    if name is None or not model._supports_attention_backend or moving_rotaries(model):  # noqa: SLF001
        return False
    model.config._attn_implementation = name  # noqa: SLF001
    return True


def moving_rotaries(model: Any) -> list[Any]:
    """The rotary tables of `model` that change with the longest position of a batch."""
    return [
        module
        for module in model.modules()
        if any("dynamic" in kind or "longrope" in kind for kind in _rope_kinds(module))
    ]


def _rope_kinds(module: Any) -> tuple[str, ...]:
    kinds = getattr(module, "rope_type", ())
    if isinstance(kinds, dict):
        return tuple(kinds.values())
    return (kinds,) if isinstance(kinds, str) else ()


def _visible(
    mask_function: Callable[..., torch.Tensor], offsets: torch.Tensor, kv_length: int
) -> torch.Tensor:
    """Bool [rows, 1, tokens, kv_length]; `offsets` [rows, tokens] are position minus column."""
    rows, tokens = offsets.shape
    device = offsets.device
    queries = (offsets + torch.arange(tokens, device=device))[:, None, :, None]
    keys = torch.arange(kv_length, device=device)[None, None, None, :]
    row_index = torch.arange(rows, device=device)[:, None, None, None]
    head_index = torch.zeros((1, 1, 1, 1), dtype=torch.int64, device=device)
    return mask_function(row_index, head_index, queries, keys).expand(rows, 1, tokens, kv_length)


def _sdpa_mask(*, q_offset: Any = 0, **arguments: Any) -> Any:
    if not isinstance(q_offset, torch.Tensor):
        return sdpa_mask(q_offset=q_offset, **arguments)
    return _visible(arguments["mask_function"], q_offset, arguments["kv_length"])


def _eager_mask(*, q_offset: Any = 0, **arguments: Any) -> Any:
    if not isinstance(q_offset, torch.Tensor):
        return eager_mask(q_offset=q_offset, **arguments)
    visible = _visible(arguments["mask_function"], q_offset, arguments["kv_length"])
    dtype = arguments["dtype"]
    hidden = torch.tensor(torch.finfo(dtype).min, dtype=dtype, device=visible.device)
    return torch.where(visible, torch.zeros_like(hidden), hidden)


def _eager_attention(module: Any, *args: Any, **kwargs: Any) -> Any:
    """The eager attention that `module`'s own file defines."""
    return sys.modules[type(module).__module__].eager_attention_forward(module, *args, **kwargs)


AttentionInterface.register(SDPA, sdpa_attention_forward)
AttentionInterface.register(EAGER, _eager_attention)
AttentionMaskInterface.register(SDPA, _sdpa_mask)
AttentionMaskInterface.register(EAGER, _eager_mask)
