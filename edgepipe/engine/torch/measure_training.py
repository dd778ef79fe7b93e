"""How fast a device trains a model's items, by the very engine that trains, on random weights.

    sample with K layers     ├─ a call's own ─┤├─ layer ─┤├─ layer ─┤ …      forward, backward
    sample with none         ├─ a call's own ─┤
    item                                       difference / K

With a rank, adapters are trained beside frozen weights; else all weights are, in float32.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count

import torch

from edgepipe.core.frame import DType
from edgepipe.core.measured import Items, Measurement
from edgepipe.core.speed import Curve, ItemSpeed
from edgepipe.core.training import AdamW, Adapters, Microbatch, Purpose, Training, Update
from edgepipe.core.work import TrainMode
from edgepipe.engine.torch.anatomy import Cut
from edgepipe.engine.torch.architecture import torch_dtype
from edgepipe.engine.torch.bench import Target
from edgepipe.engine.torch.build import BuiltStage
from edgepipe.engine.torch.linear import leaf_of, linear_modules
from edgepipe.engine.torch.median import MAX_REPEATS, median_s, medians_s
from edgepipe.engine.torch.sample import random_stage, sample_of
from edgepipe.engine.torch.subject import Subject
from edgepipe.engine.torch.training import TorchTrainer
from edgepipe.engine.training import Targets

MAX_LAYERS = 4
"""Of a sample: its weights fill the caches, and each layer takes a while."""
FULL_BYTES = 16
"""Of a parameter that is trained: weight, gradient and two moments, in float32."""

Advance = Callable[[int, int], None]
"""As in `measure_items`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainTimes:
    """Seconds of microbatches of so many sequences, and of one step of the optimizer."""

    forward: tuple[float, ...]
    backward: tuple[float, ...]
    update_s: float

    def less(self, empty: TrainTimes, num_layers: int) -> TrainTimes:
        """An item's own: what a call takes besides is left out, and layers share the rest."""
        return TrainTimes(
            forward=_differences(self.forward, empty.forward, num_layers),
            backward=_differences(self.backward, empty.backward, num_layers),
            update_s=self.update_s / num_layers,
        )

    def speed(self, asked: Measurement) -> ItemSpeed:
        """The same as curves."""
        return ItemSpeed(
            forward=Curve(rows=asked.train_rows, seconds=self.forward),
            backward=Curve(rows=asked.train_rows, seconds=self.backward),
            update_s=self.update_s,
        )


def _differences(all_s: Sequence[float], own_s: Sequence[float], share: int) -> tuple[float, ...]:
    return tuple(max(0.0, a - b) / share for a, b in zip(all_s, own_s, strict=True))


def trained_items(target: Target, subject: Subject, advance: Advance) -> tuple[Items, float]:
    """The seconds of a model's items, and those that every forward takes besides.

    Raises StageError for a model of which not even a layer has room, and what `advance` raises.
    """
    asked = target.asked
    samples = [
        subject.sample(
            kind,
            most=MAX_LAYERS,
            each_bytes=_trained_bytes(asked, subject.weight_bytes(subject.one(kind))),
            free_bytes=asked.memory_bytes,
        )
        for kind in range(max(subject.kinds) + 1)
    ]
    measuring = _Measuring(target, num_cuts=len(samples) + 3, advance=advance)
    empty = measuring.times(sample_of(()))
    layers = [
        measuring.times(sample).less(empty, len(sample.layers)).speed(asked) for sample in samples
    ]
    first_bytes = subject.weight_bytes(sample_of((0,)))

    def end_item(cut: Cut) -> ItemSpeed:
        end_bytes = subject.weight_bytes(cut)
        if _trained_bytes(asked, end_bytes) > asked.memory_bytes:
            return _in_proportion(layers[subject.kinds[0]], end_bytes / first_bytes)
        return measuring.times(cut).less(empty, 1).speed(asked)

    embedding, head = map(end_item, subject.ends)
    items = Items(kinds=subject.kinds, layers=tuple(layers), embedding=embedding, head=head)
    return items, empty.forward[0]


def _trained_bytes(asked: Measurement, weight_bytes: int) -> int:
    """What weights take while they are trained, or while adapters beside them are."""
    return weight_bytes if asked.rank else weight_bytes // asked.dtype.itemsize * FULL_BYTES


def _in_proportion(layer: ItemSpeed, ratio: float) -> ItemSpeed:
    """What has no room to be measured takes as long for its weights as a layer does for its own."""
    return ItemSpeed(
        forward=layer.forward.times(ratio),
        backward=layer.backward.times(ratio),
        update_s=layer.update_s * ratio,
    )


class _Measuring:
    """Measures cut after cut, and counts the calls of all, those that prove needless too."""

    def __init__(self, target: Target, *, num_cuts: int, advance: Advance) -> None:
        self._target = target
        self._advance = advance
        self._of_a_cut = (2 * len(target.asked.train_sequences) + 1) * (MAX_REPEATS + 1)
        self._total = num_cuts * self._of_a_cut
        self._begun = 0
        self._done = 0

    def times(self, cut: Cut) -> TrainTimes:
        """Of a bench that is gone afterwards: only the collector frees a model's weights."""
        try:
            found = TrainBench(self._target, cut).times(self._count)
        finally:
            gc.collect()
        self._done = self._begun = self._begun + self._of_a_cut
        self._advance(self._done, self._total)
        return found

    def _count(self) -> None:
        self._done += 1
        self._advance(self._done, self._total)


class TrainBench:
    """A stage with random weights that is trained."""

    def __init__(self, target: Target, cut: Cut) -> None:
        asked = target.asked
        held = asked.dtype if asked.rank else DType.FLOAT32
        model, anatomy = random_stage(target.config, held, cut, target.device)
        built = BuiltStage(model=model, anatomy=anatomy, cut=cut, weight_bytes=0)
        self._trainer = TorchTrainer(str(target.device))
        self._trainer.take(built, _training(asked, built))
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._target = target
        self._cut = cut
        self._steps = count(1)

    def times(self, on_call: Callable[[], None]) -> TrainTimes:
        """Microbatches of each size; `on_call` as in `medians_s`."""
        found = [
            self._microbatch(sequences, on_call) for sequences in self._target.asked.train_sequences
        ]
        return TrainTimes(
            forward=tuple(forward_s for forward_s, _ in found),
            backward=tuple(backward_s for _, backward_s in found),
            update_s=self._update_s(on_call),
        )

    def _microbatch(self, sequences: int, on_call: Callable[[], None]) -> tuple[float, float]:
        length = self._target.asked.sequence_length
        microbatch = Microbatch(step=1, index=0, lengths=(length,) * sequences)
        rows = microbatch.num_rows
        inputs = self._ids(rows) if self._cut.embedding else self._hidden(rows)
        targets = Targets(ids=self._ids(rows), weight=1 / rows) if self._cut.head else None
        gradient = None if self._cut.head else self._hidden(rows)
        is_kept = False

        def forward() -> None:
            self._trainer.forward(microbatch, inputs, purpose=Purpose.TRAIN, targets=targets)

        def forward_s() -> float:
            nonlocal is_kept
            if is_kept:  # or the activations of two microbatches are held
                self._trainer.discard()
            is_kept = True
            return self._target.clock(forward)

        def backward_s() -> float:
            nonlocal is_kept
            if not is_kept:
                forward()
            is_kept = False
            return self._target.clock(lambda: self._trainer.backward(0, gradient))

        if self._target.device.type != "cpu":
            backward_s()  # loads or compiles its kernels, as in `Bench.times`
        forward_median_s, backward_median_s = medians_s([forward_s, backward_s], on_call)
        if is_kept:  # the optimizer is measured with its gradients
            self._trainer.backward(0, gradient)
        return forward_median_s, backward_median_s

    def _ids(self, rows: int) -> torch.Tensor:
        return torch.randint(self._target.vocab_size, (rows,), device=self._target.device)

    def _hidden(self, rows: int) -> torch.Tensor:
        shape = (rows, self._target.hidden_size)
        dtype = torch_dtype(self._target.asked.dtype)
        return torch.randn(shape, device=self._target.device).to(dtype)

    def _update_s(self, on_call: Callable[[], None]) -> float:
        """What ends a step: the gradients' norm, and the optimizer."""
        gradients = [parameter.grad for parameter in self._parameters]
        if not self._parameters:
            return 0.0

        def end() -> None:
            self._trainer.gradients()
            self._trainer.apply(Update(learning_rate=1e-6, scale=0.99))

        def seconds() -> float:
            for parameter, gradient in zip(self._parameters, gradients, strict=True):
                parameter.grad = gradient
            return self._target.clock(end)

        return median_s(seconds, on_call)


def _training(asked: Measurement, built: BuiltStage) -> Training:
    modules = linear_modules(built.model, built.anatomy.stack, built.cut.layers)
    adapters = Adapters(
        rank=asked.rank,
        alpha=asked.rank,
        dropout=0.0,
        target_modules=tuple(dict.fromkeys(leaf_of(name) for name in modules)),
    )
    return Training(
        mode=TrainMode.LORA if asked.rank else TrainMode.FULL,
        seed=0,
        recompute=False,
        optimizer=AdamW(),
        adapters=adapters if asked.rank else None,
        dtype=asked.dtype,
    )
