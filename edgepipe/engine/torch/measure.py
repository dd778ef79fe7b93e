"""How fast a device runs a model's items, from samples with random weights.

    sample with K layers     ├─ a call's own ─┤├─ layer ─┤├─ layer ─┤ …
    sample with none         ├─ a call's own ─┤
    item                                       difference / K

K layers with weights of their own, so that they do not stay in a cache as one alone would. What a
call takes besides (masks, rotary tables, what stands around the stack) is told apart: a stage pays
it once a frame, however many layers it has.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from edgepipe.core.measured import SEQUENCES, Items, Measurement
from edgepipe.core.speed import Curve, ItemSpeed
from edgepipe.engine.torch.anatomy import Anatomy, Cut, examine
from edgepipe.engine.torch.architecture import build_on_meta, read_config
from edgepipe.engine.torch.bench import Bench, Call, Target, Times
from edgepipe.engine.torch.measure_training import TrainBench, TrainPoints
from edgepipe.engine.torch.median import MAX_REPEATS
from edgepipe.engine.torch.sample import Sample, layer_kinds, sample_of
from edgepipe.engine.torch.weights import stage_weights
from edgepipe.errors import StageError

ENOUGH_BYTES = 256 << 20
"""Weights of a sample: more than any cache holds."""
TRAINED_LAYERS = 4
TRAINED_COPIES = 4
"""Weights, their gradients, and the optimizer's two moments."""
_TRAINING_POINTS = 100
"""How many calls training counts as, in progress: it takes longer."""

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

    Raises ModelError for a model that cannot be cut, StageError for one of which not even a
    layer has room, and what `advance` raises.
    """
    asked = target.asked
    model = build_on_meta(read_config(target.config), asked.dtype)
    anatomy = examine(model)
    kinds = layer_kinds(model, anatomy)
    samples = [_sample(target, model, anatomy, kinds, kind) for kind in range(max(kinds) + 1)]
    end = anatomy.num_layers
    ends = [
        Cut(first=0, end=0, embedding=True, head=False),
        Cut(first=end, end=end, embedding=False, head=True),
    ]
    calls = (*decode_calls(asked), *prefill_calls(asked), *far_calls(asked))
    few = (*decode_calls(asked), *prefill_calls(asked)[-1:])
    counter = _Counter(asked, (calls, *(calls for _ in samples), few, few), advance)
    empty = _times(target, sample_of(()), calls, counter)
    layers = [
        _with_training(target, sample, _item(target, sample, calls, empty, counter), counter)
        for sample in samples
    ]
    layer_bytes = _weight_bytes(model, anatomy, sample_of((0,)))

    def end_item(cut: Cut) -> ItemSpeed:
        end_bytes = _weight_bytes(model, anatomy, cut)
        guessed = _of_the_size(layers[kinds[0]], end_bytes / layer_bytes)
        if end_bytes > asked.memory_bytes:
            return guessed
        speed = _item(target, cut, few, empty, counter)
        if TRAINED_COPIES * end_bytes > asked.memory_bytes:
            return _trained_as(speed, guessed)
        return _with_training(target, cut, speed, counter)

    embedding, head = map(end_item, ends)
    items = Items(kinds=kinds, layers=tuple(layers), embedding=embedding, head=head)
    return items, empty[decode_calls(asked)[0]]


def _item(
    target: Target, cut: Cut, calls: Sequence[Call], empty: Times, counter: _Counter
) -> ItemSpeed:
    """An item by itself: a sample's seconds less those of a call with nothing in it."""
    times = _times(target, cut, calls, counter)
    count = max(1, len(cut.layers))
    own = {call: max(0.0, times[call] - empty[call]) / count for call in calls}
    return _inference(target.asked, own)


def _times(target: Target, cut: Cut, calls: Sequence[Call], counter: _Counter) -> Times:
    """Of a bench that is gone afterwards: only the collector frees a model's weights."""
    try:
        return Bench(target, cut).times(calls, counter.timed)
    finally:
        gc.collect()


def _of_the_size(layer: ItemSpeed, ratio: float) -> ItemSpeed:
    """What has no room to be measured takes as long for its weights as a layer does for its own."""
    return ItemSpeed(
        decode=layer.decode.times(ratio),
        prefill=layer.prefill.times(ratio),
        forward=layer.forward.times(ratio),
        backward=layer.backward.times(ratio),
        update_s=layer.update_s * ratio,
    )


def _trained_as(speed: ItemSpeed, other: ItemSpeed) -> ItemSpeed:
    return replace(speed, forward=other.forward, backward=other.backward, update_s=other.update_s)


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


def _with_training(target: Target, cut: Cut, speed: ItemSpeed, counter: _Counter) -> ItemSpeed:
    """Where it is asked for. Fewer layers will do, and each takes several times as much memory."""
    if not target.asked.train_rows:
        return speed
    chosen = cut
    if isinstance(cut, Sample):
        few = -(-len(cut.chosen) // TRAINED_COPIES)
        chosen = sample_of(cut.chosen[: min(TRAINED_LAYERS, few)])
    asked, count = target.asked, max(1, len(chosen.layers))
    points = _train_points(target, chosen, counter)
    counter.trained()
    return replace(
        speed,
        forward=Curve(rows=asked.train_rows, seconds=tuple(s / count for s in points.forward)),
        backward=Curve(rows=asked.train_rows, seconds=tuple(s / count for s in points.backward)),
        update_s=points.update_s / count,
    )


def _train_points(target: Target, cut: Cut, counter: _Counter) -> TrainPoints:
    """Of a bench that is gone afterwards, as in `_times`."""
    try:
        return TrainBench(target, cut).points(SEQUENCES, counter.look)
    finally:
        gc.collect()


def _sample(target: Target, model: Any, anatomy: Anatomy, kinds: Sequence[int], kind: int) -> Cut:
    """As many layers of a kind as are enough, fit, and are there."""
    members = [index for index, each in enumerate(kinds) if each == kind]
    weight_bytes = _weight_bytes(model, anatomy, sample_of(members[:1]))
    kv = anatomy.kv[members[0]]
    asked = target.asked
    cached = asked.decode_rows[-1] * asked.capacity * asked.dtype.itemsize
    cached *= kv.num_values if kv else 0
    fitting = asked.memory_bytes // (weight_bytes + cached)
    if not fitting:
        raise StageError(
            f"a layer of the model takes {weight_bytes >> 20} MiB, more than is free there"
        )
    count = min(-(-ENOUGH_BYTES // weight_bytes), fitting)
    return sample_of(members[:count])


def _weight_bytes(model: Any, anatomy: Anatomy, cut: Cut) -> int:
    items = stage_weights(model, anatomy, cut)
    return sum(tensor.nbytes for item in items for tensor in item.in_model.values())


class _Counter:
    """Counts the calls of all samples, those that prove needless too."""

    def __init__(
        self, asked: Measurement, samples: Sequence[Sequence[Call]], advance: Advance
    ) -> None:
        self._trained = _TRAINING_POINTS if asked.train_rows else 0
        repeats = MAX_REPEATS + 1
        self._total = sum(len(calls) for calls in samples) * repeats
        self._total += (len(samples) - 1) * self._trained
        self._done = 0
        self._advance = advance

    def timed(self) -> None:
        """A call of a sample is done."""
        self._count(1)

    def look(self) -> None:
        """A call of a training is done: whether anybody still waits."""
        self._count(0)

    def trained(self) -> None:
        """A sample's training is measured."""
        self._count(self._trained)

    def _count(self, calls: int) -> None:
        self._done += calls
        self._advance(self._done, self._total)
