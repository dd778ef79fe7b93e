"""A stage of a model with random weights, and calls of it that are timed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from edgepipe.core.frame import Span
from edgepipe.core.measured import Measurement
from edgepipe.engine.base import Engine, StageSpec
from edgepipe.engine.torch.anatomy import Cut
from edgepipe.engine.torch.architecture import read_config, torch_dtype
from edgepipe.engine.torch.engine import TorchEngine
from edgepipe.engine.torch.median import medians_s
from edgepipe.engine.torch.packing import pack_linears
from edgepipe.engine.torch.sample import random_stage
from edgepipe.engine.torch.stage_model import StageModel

Clock = Callable[[Callable[[], object]], float]
"""Runs a call on the device to its end, and gives the seconds that it took there."""

Make = Callable[[Mapping[str, Any], Measurement, Cut, torch.device], Engine]
"""A stage of a model, cut so, with random weights on the device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is measured, and with what: the model, the points, the device and its clock.

    `asked` names the engine, of which `make` gives a stage with random weights. Where
    `empty_takes_ids`, one with nothing in it is an embedding, for want of something emptier.
    """

    config: Mapping[str, Any]
    asked: Measurement
    device: torch.device
    clock: Clock
    make: Make
    empty_takes_ids: bool = False

    def takes_ids(self, cut: Cut) -> bool:
        """Whether a stage is fed with tokens."""
        is_empty = not cut.layers and not cut.head
        return cut.embedding or (self.empty_takes_ids and is_empty)

    @property
    def hidden_size(self) -> int:
        """Values of a row between two stages."""
        return int(read_config(self.config).get_text_config().hidden_size)

    @property
    def vocab_size(self) -> int:
        """Logits of a row."""
        return int(read_config(self.config).get_text_config().vocab_size)


class Call(NamedTuple):
    """Rows that are timed together: `rows` of each of so many slots, from position `start` on."""

    slots: int
    rows: int
    start: int


Times = Mapping[Call, float]


def random_engine(
    config: Mapping[str, Any], asked: Measurement, cut: Cut, device: torch.device
) -> Engine:
    """A stage of the model with random weights. Raises ModelError where it cannot be cut."""
    spec = StageSpec(
        config=config,
        first=cut.first,
        end=cut.end,
        embedding=cut.embedding,
        head=cut.head,
        dtype=asked.dtype,
        num_slots=max(asked.decode_rows),
        max_positions=asked.capacity,
        weight_format=asked.weight_format,
    )
    model, anatomy = random_stage(config, asked.dtype, cut, device)
    if asked.weight_format is not None:
        pack_linears(model, anatomy, cut, asked.weight_format, device)
    engine = TorchEngine(str(device))
    engine.take(StageModel(model, anatomy, cut), anatomy, cut, spec)
    return engine


class Bench:
    """A stage of the model, and the calls that are timed; `ids`: it takes tokens, not rows.

    Before each call so many bytes of others are read, as those of a stage's other items are: what
    is alone would be found in a cache.
    """

    def __init__(self, target: Target, engine: Engine, *, ids: bool, others_bytes: int = 0) -> None:
        self._target = target
        self._engine = engine
        self._ids = ids
        self._others = torch.zeros(others_bytes // 4, dtype=torch.float32, device=target.device)

    def times(self, calls: Sequence[Call], on_call: Callable[[], None]) -> Times:
        """Seconds of each call; `on_call` as in `medians_s`."""
        timed = [self._timed(call) for call in calls]
        if self._target.device.type != "cpu":
            for each in timed:  # loads or compiles its kernels, which may take seconds
                each()
        return dict(zip(calls, medians_s(timed, on_call), strict=True))

    def _timed(self, call: Call) -> Callable[[], float]:
        inputs = self._rows(call.slots * call.rows)
        spans = [Span(slot=slot, start=call.start, count=call.rows) for slot in range(call.slots)]

        def seconds() -> float:
            for slot in range(call.slots):
                self._fill(slot, call.start)
            self._others.sum()
            return self._target.clock(lambda: self._engine.forward(spans, inputs))

        return seconds

    def _fill(self, slot: int, length: int) -> None:
        """Have so many positions cached."""
        keys, values = self._engine.export_state(slot)
        self._engine.import_state(slot, _of_length(keys, length), _of_length(values, length))

    def _rows(self, rows: int) -> torch.Tensor:
        device = self._target.device
        if self._ids:
            return torch.randint(self._target.vocab_size, (rows,), device=device)
        dtype = torch_dtype(self._target.asked.dtype)
        return torch.randn((rows, self._target.hidden_size), device=device).to(dtype)


def _of_length(state: torch.Tensor, length: int) -> torch.Tensor:
    layers, heads, _, dim = state.shape
    return state.new_zeros((layers, heads, length, dim))
