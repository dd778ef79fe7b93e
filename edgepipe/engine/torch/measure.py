"""How fast a device runs a model's items, from samples with random weights.

    sample with K layers     ├─ a call's own ─┤├─ layer ─┤├─ layer ─┤ …
    sample with none         ├─ a call's own ─┤
    item                                       difference / K

K layers with weights of their own, so that they do not stay in a cache as one alone would; before
the head, of which there is one, as much else is read. What a call takes besides (masks, rotary
tables, what stands around the stack) is told apart: a stage pays it once a frame, however many
layers it has.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence

from edgepipe.core.measured import Items, Measurement
from edgepipe.core.speed import Curve, ItemSpeed
from edgepipe.engine.torch.anatomy import Cut
from edgepipe.engine.torch.bench import Bench, Call, Target, Times
from edgepipe.engine.torch.median import MAX_REPEATS
from edgepipe.engine.torch.sample import sample_of
from edgepipe.engine.torch.subject import Subject

ENOUGH_BYTES = 256 << 20
"""Weights of a sample: more than any cache holds."""

Advance = Callable[[int, int], None]
"""Called with (points done, points in all); what it raises ends the measurement."""


def decode_calls(asked: Measurement) -> tuple[Call, ...]:
    """One row of each of 1, 2, 4 … sequences."""
    return tuple(Call(rows, 1, asked.near) for rows in asked.decode_rows)


def prefill_calls(asked: Measurement) -> tuple[Call, ...]:
    """The first 16, 32 … rows of a sequence."""
    return tuple(Call(1, rows, 0) for rows in asked.prefill_rows[1:])


def far_calls(asked: Measurement) -> tuple[Call, ...]:
    """A row, and a chunk, that see many positions; none where there is no room for them."""
    rows = (1, asked.prefill_rows[-1])
    return tuple(Call(1, count, asked.far) for count in rows if asked.far > asked.near)


def measure_items(target: Target, advance: Advance) -> tuple[Items, float]:
    """The seconds of a model's items, and those that every call takes besides.

    Of training alone, where that is asked for.

    Raises ModelError for a model that cannot be cut, StageError for one of which not even a
    layer has room, and what `advance` raises.
    """
    subject = Subject.of(target.config, target.asked.dtype)
    if not target.asked.train_rows:
        return _inferring_items(target, subject, advance)
    from edgepipe.engine.torch.measure_training import trained_items  # noqa: PLC0415 -- seconds

    return trained_items(target, subject, advance)


def _inferring_items(target: Target, subject: Subject, advance: Advance) -> tuple[Items, float]:
    asked = target.asked
    samples = [_sample(asked, subject, kind) for kind in range(max(subject.kinds) + 1)]
    calls = (*decode_calls(asked), *prefill_calls(asked), *far_calls(asked))
    few = (*decode_calls(asked), *prefill_calls(asked)[-1:])
    counter = _Counter((calls, *(calls for _ in samples), few, few), advance)
    empty = _times(target, sample_of(()), calls, counter)
    layers = [_item(target, sample, calls, empty, counter) for sample in samples]
    layer_bytes = subject.weight_bytes(sample_of((0,)))
    all_bytes = sum(_held_bytes(asked, subject.weight_bytes(each)) for each in subject.layers)

    def end_item(cut: Cut) -> ItemSpeed:
        end_bytes = subject.weight_bytes(cut)
        if end_bytes > asked.memory_bytes:
            return _of_the_size(layers[subject.kinds[0]], end_bytes / layer_bytes)
        others_bytes = min(ENOUGH_BYTES, all_bytes, (asked.memory_bytes - end_bytes) // 2)
        return _item(target, cut, few, empty, counter, others_bytes=others_bytes if cut.head else 0)

    embedding, head = map(end_item, subject.ends)
    items = Items(kinds=subject.kinds, layers=tuple(layers), embedding=embedding, head=head)
    return items, empty[decode_calls(asked)[0]]


def _item(
    target: Target,
    cut: Cut,
    calls: Sequence[Call],
    empty: Times,
    counter: _Counter,
    *,
    others_bytes: int = 0,
) -> ItemSpeed:
    """An item by itself: a sample's seconds less those of a call with nothing in it."""
    times = _times(target, cut, calls, counter, others_bytes=others_bytes)
    count = max(1, len(cut.layers))
    own = {call: max(0.0, times[call] - empty[call]) / count for call in calls}
    return _inference(target.asked, own)


def _times(
    target: Target, cut: Cut, calls: Sequence[Call], counter: _Counter, *, others_bytes: int = 0
) -> Times:
    """Of a bench that is gone afterwards: only the collector frees a model's weights."""
    try:
        engine = target.make(target.config, target.asked, cut, target.device)
        bench = Bench(target, engine, ids=target.takes_ids(cut), others_bytes=others_bytes)
        try:
            return bench.times(calls, counter.timed)
        finally:
            engine.unload()
    finally:
        gc.collect()


def _of_the_size(layer: ItemSpeed, ratio: float) -> ItemSpeed:
    """What has no room to be measured takes as long for its weights as a layer does for its own."""
    return ItemSpeed(decode=layer.decode.times(ratio), prefill=layer.prefill.times(ratio))


def _inference(asked: Measurement, seconds: Times) -> ItemSpeed:
    """Curves of rows that see no other positions, and what those cost."""
    decode_s, prefill_s = _attention_s(asked, seconds)
    decode = [
        max(0.0, seconds[call] - call.slots * call.start * decode_s) for call in decode_calls(asked)
    ]
    chunks = [call for call in prefill_calls(asked) if call in seconds]
    prefill = [max(0.0, seconds[call] - call.rows**2 / 2 * prefill_s) for call in chunks]
    return ItemSpeed(
        decode=Curve(rows=asked.decode_rows, seconds=tuple(decode)),
        prefill=Curve(rows=(1, *(call.rows for call in chunks)), seconds=(decode[0], *prefill)),
        attention_s=decode_s,
        prefill_attention_s=prefill_s,
    )


def _attention_s(asked: Measurement, seconds: Times) -> tuple[float, float]:
    """Seconds for each position that a row sees: decoded alone, and as one of a chunk."""
    far = [call for call in far_calls(asked) if call in seconds]
    if not far:
        return 0.0, 0.0
    row, chunk = far
    more = seconds[row] - seconds[decode_calls(asked)[0]]
    row_s = max(0.0, more) / (asked.far - asked.near)
    if chunk.rows == 1:
        return row_s, row_s
    more = seconds[chunk] - seconds[prefill_calls(asked)[-1]]
    return row_s, max(0.0, more) / (chunk.rows * asked.far)


def _sample(asked: Measurement, subject: Subject, kind: int) -> Cut:
    """As many layers of a kind as are enough, fit, and are there."""
    first = subject.one(kind)
    weight_bytes, kv = subject.weight_bytes(first), subject.anatomy.kv[first.chosen[0]]
    cached = asked.decode_rows[-1] * asked.capacity * asked.dtype.itemsize
    cached *= kv.num_values if kv else 0
    return subject.sample(
        kind,
        most=-(-ENOUGH_BYTES // _held_bytes(asked, weight_bytes)),
        each_bytes=weight_bytes + cached,
        free_bytes=asked.memory_bytes,
    )


def _held_bytes(asked: Measurement, weight_bytes: int) -> int:
    """What weights of so many bytes in the dtype that is computed in are held in."""
    held = asked.weight_format
    return weight_bytes if held is None else held.bytes_of(weight_bytes // asked.dtype.itemsize)


class _Counter:
    """Counts the calls of all samples, those that prove needless too."""

    def __init__(self, samples: Sequence[Sequence[Call]], advance: Advance) -> None:
        self._total = sum(len(calls) for calls in samples) * (MAX_REPEATS + 1)
        self._done = 0
        self._advance = advance

    def timed(self) -> None:
        """A call of a sample is done."""
        self._done += 1
        self._advance(self._done, self._total)
