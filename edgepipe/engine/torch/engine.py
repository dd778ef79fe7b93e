"""The torch engine: one stage of a Hugging Face causal LM behind the engine protocol.

An idle worker imports this module and calls `warm_up` before it reports what it holds, so the
heavy libraries and what they load on first use count as its baseline and not as the stage's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from edgepipe.core.frame import Span
from edgepipe.engine.base import Loaded, Progress, StageSpec
from edgepipe.engine.torch.anatomy import Anatomy, Cut
from edgepipe.engine.torch.architecture import torch_dtype
from edgepipe.engine.torch.batch import Batch, batches
from edgepipe.engine.torch.build import build_stage
from edgepipe.engine.torch.cache import SlotCache
from edgepipe.engine.torch.rehearsal import tiny_stage
from edgepipe.engine.torch.stage_model import StageModel


class TorchEngine:
    """Implements edgepipe.engine.base.Engine on a torch device (`cpu`, `cuda:0`, `mps`)."""

    def __init__(self, device: str) -> None:
        self._device = torch.device(device)
        self._stage: StageModel | None = None
        self._cache: SlotCache | None = None
        self._head = False

    def load(self, spec: StageSpec, progress: Progress) -> Loaded:
        """Build the stage on meta and read its weights; see Engine.load."""
        self.unload()
        built = build_stage(spec, spec.dtype, self._device, progress, packs=True)
        model, anatomy, cut = built.model, built.anatomy, built.cut
        kv_bytes = self.take(StageModel(model, anatomy, cut), anatomy, cut, spec)
        return Loaded(weight_bytes=built.weight_bytes, kv_bytes=kv_bytes)

    def take(self, stage: StageModel, anatomy: Anatomy, cut: Cut, spec: StageSpec) -> int:
        """Run a stage whose weights are there already; returns the bytes of its cache."""
        self._cache = SlotCache(
            {index: kv for index in cut.layers if (kv := anatomy.kv[index])},
            num_slots=spec.num_slots,
            capacity=spec.max_positions,
            dtype=torch_dtype(spec.dtype),
            device=self._device,
        )
        self._stage = stage
        self._head = cut.head
        return self._cache.num_bytes

    def forward(
        self, spans: Sequence[Span], inputs: torch.Tensor, *, all_logits: bool = False
    ) -> torch.Tensor:
        """Run the stage over the packed rows of `spans`; see Engine.forward."""
        stage, cache = self._loaded()
        assert inputs.shape[0] == sum(span.count for span in spans), "one row per token"
        last_only = self._head and not all_logits
        inputs = inputs.to(self._device)
        if len(spans) == 1:
            (batch,) = batches(spans, together=False)
            return _run(stage, cache, batch, inputs[None], last_only=last_only)[0]
        output: torch.Tensor | None = None
        for batch in batches(spans, together=stage.batches_rows):
            rows = batch.rows()
            result = _run(stage, cache, batch, inputs[rows.to(self._device)], last_only=last_only)
            places = torch.tensor(batch.order)[:, None] if last_only else rows
            if output is None:
                size = len(spans) if last_only else inputs.shape[0]
                output = result.new_empty((size, result.shape[-1]))
            output[places.to(self._device)] = result
        assert output is not None, "a call has at least one span"
        return output

    def export_state(self, slot: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The slot's keys and values; see Engine.export_state."""
        return self._loaded()[1].export(slot)

    def import_state(self, slot: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Replace a slot's cache; see Engine.import_state."""
        self._loaded()[1].replace(slot, keys, values)

    def unload(self) -> None:
        """Free the weights and the cache."""
        self._stage = self._cache = None

    def _loaded(self) -> tuple[StageModel, SlotCache]:
        assert self._stage is not None, "the engine must be loaded"
        assert self._cache is not None, "the engine must be loaded"
        return self._stage, self._cache


def _run(
    stage: StageModel, cache: SlotCache, batch: Batch, inputs: torch.Tensor, *, last_only: bool
) -> torch.Tensor:
    positions = cache.begin(batch)
    output = stage.run(inputs, positions, cache, last_only=last_only)
    cache.commit(batch)
    return output


def warm_up(device: str = "cpu") -> None:
    """Load and run a tiny model once, so that what torch and transformers load late is there."""
    engine = TorchEngine(device)
    with tiny_stage() as spec:
        engine.load(spec, lambda _done, _total: None)
    prompts = [Span(slot=slot, start=0, count=16) for slot in range(2)]
    engine.forward(prompts, torch.zeros(32, dtype=torch.int64))
    engine.forward(
        [Span(slot=slot, start=16, count=1) for slot in range(2)], torch.zeros(2, dtype=torch.int64)
    )
    engine.unload()
