"""How fast a device on paper runs a model: the roofline of its arithmetic and its memory.

rows     seconds = max(FLOPs per token · rows / flops_per_s, weight bytes / memory_bytes_per_s)
seen     max(4 · hidden / flops_per_s, KV bytes per position / memory_bytes_per_s), for each
         position that a row sees; the rows of a prefill chunk share the reads
backward 2 · forward: the gradients of the weights and those of the input
update   28 bytes per parameter / memory_bytes_per_s: AdamW in float32; adapters take no time
codec    bytes read and written / memory_bytes_per_s

The embedding only reads its rows. Rooflines: Williams, Waterman, Patterson, CACM 52(4), 2009.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from edgepipe.core.frame import Codec, DType
from edgepipe.core.model import Item, ModelShape
from edgepipe.core.speed import CodecSpeed, Curve, DeviceSpeed, ItemSpeed

ADAMW_BYTES_PER_PARAMETER = 28
"""Weight, mean and variance read and written, the gradient read: seven float32 values."""

_CODEC_BYTES = {Codec.BF16: 2, Codec.INT8: 1, Codec.INT4: 0.5}


@dataclass(frozen=True, slots=True, kw_only=True)
class Roofline:
    """What a device reaches in dense products of the model's dtype, and in reads of its memory."""

    flops_per_s: float
    memory_bytes_per_s: float


def roofline_speed(
    roofline: Roofline,
    model: ModelShape,
    dtype: DType,
    *,
    prefill_chunk: int,
    adapted: bool = False,
) -> DeviceSpeed:
    """The model's items on the device, weights and KV cache held as `dtype`.

    Where it is `adapted`, training is of adapters beside frozen weights.
    """
    items = (
        _embedding(roofline, model, dtype),
        *(_product(roofline, model, layer, dtype, prefill_chunk) for layer in model.layers),
        _product(roofline, model, model.head, dtype, prefill_chunk),
    )
    if adapted:
        items = tuple(replace(item, update_s=0.0) for item in items)
    return DeviceSpeed(items=items, codecs=_codecs(roofline, dtype))


def roof(roofline: Roofline, *, flops_per_row: float, held_bytes: float) -> Curve:
    """Seconds by rows of a call that reads `held_bytes` once; exact at every number of rows.

    Up to the knee held_bytes / memory_bytes_per_s, then rows · flops_per_row / flops_per_s.
    """
    row_s = flops_per_row / roofline.flops_per_s
    read_s = held_bytes / roofline.memory_bytes_per_s
    knee = int(read_s / row_s) if row_s > 0 else 0
    if knee < 1:
        return Curve.flat(max(row_s, read_s))
    return Curve(rows=(knee, knee + 1), seconds=(read_s, max(read_s, row_s * (knee + 1))))


def _product(
    roofline: Roofline, model: ModelShape, item: Item, dtype: DType, prefill_chunk: int
) -> ItemSpeed:
    curve = roof(
        roofline,
        flops_per_row=item.flops_per_token,
        held_bytes=model.weight_bytes((item,), dtype),
    )
    seen = partial(_seen_s, roofline, model, item.kv_values_per_token * dtype.itemsize)
    return ItemSpeed(
        decode=curve,
        prefill=curve,
        forward=curve,
        backward=curve.times(2),
        attention_s=seen(sharing_rows=1),
        prefill_attention_s=seen(sharing_rows=prefill_chunk),
        update_s=_update_s(roofline, model, item.tensors),
    )


def _seen_s(roofline: Roofline, model: ModelShape, kv_bytes: int, *, sharing_rows: int) -> float:
    """Seconds of a row for a position that it sees: two products, and its part of the read."""
    if not kv_bytes:
        return 0.0
    return max(
        4 * model.hidden_size / roofline.flops_per_s,
        kv_bytes / sharing_rows / roofline.memory_bytes_per_s,
    )


def _embedding(roofline: Roofline, model: ModelShape, dtype: DType) -> ItemSpeed:
    rows = Curve.flat(model.hidden_size * dtype.itemsize / roofline.memory_bytes_per_s)
    # The head updates what it shares with the embedding.
    own = tuple(name for name in model.embedding.tensors if name not in model.head.tensors)
    return ItemSpeed(
        decode=rows,
        prefill=rows,
        forward=rows,
        backward=rows.times(2),
        update_s=_update_s(roofline, model, own),
    )


def _update_s(roofline: Roofline, model: ModelShape, tensors: tuple[str, ...]) -> float:
    num_parameters = sum(model.parameters[name] for name in tensors)
    return num_parameters * ADAMW_BYTES_PER_PARAMETER / roofline.memory_bytes_per_s


def _codecs(roofline: Roofline, dtype: DType) -> dict[str, CodecSpeed]:
    """A value is read in one form and written in the other, whichever way."""
    seconds = {
        codec: (dtype.itemsize + num_bytes) / roofline.memory_bytes_per_s
        for codec, num_bytes in _CODEC_BYTES.items()
    }
    return {codec: CodecSpeed(encode_s=each, decode_s=each) for codec, each in seconds.items()}
