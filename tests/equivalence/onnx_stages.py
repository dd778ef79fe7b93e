"""A pipeline whose stages run on ONNX Runtime, or on either engine in turn."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from equivalence.tiny_models import Parts, Pipeline

from edgepipe.core.frame import DType
from edgepipe.core.weight_format import WeightFormat
from edgepipe.engine.base import Engine, Loaded, StageSpec
from edgepipe.engine.onnx.engine import OnnxEngine
from edgepipe.engine.torch.engine import TorchEngine


class OnnxPipeline(Pipeline):
    """As Pipeline; `torch_stages` are the places of stages that run on torch."""

    def __init__(
        self,
        parts: Parts,
        cuts: Sequence[int] = (),
        *,
        cache: Path | None = None,
        held: WeightFormat | None = None,
        torch_stages: frozenset[int] = frozenset(),
        num_slots: int = 4,
        max_positions: int = 128,
    ) -> None:
        ranges = list(pairwise([0, *cuts, parts.shape.num_layers]))
        self.engines: list[Engine] = []  # type: ignore[assignment]
        self.loaded: list[Loaded] = []
        for index, (first, end) in enumerate(ranges):
            own = {"embedding": index == 0, "head": index == len(ranges) - 1}
            spec = StageSpec(
                config=parts.config,
                first=first,
                end=end,
                dtype=DType.FLOAT32,
                num_slots=num_slots,
                max_positions=max_positions,
                weights=parts.of(first, end, **own),
                weight_format=None if index in torch_stages else held,
                **own,
            )
            engine: Engine = (
                TorchEngine("cpu")
                if index in torch_stages
                else OnnxEngine("cpu", threads=1, cache=cache)
            )
            self.loaded.append(engine.load(spec, lambda _done, _total: None))
            self.engines.append(engine)
