"""The ONNX engine: one stage of a causal LM on ONNX Runtime, behind the engine protocol."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import onnxruntime
import torch

from edgepipe.core.frame import DType, Span
from edgepipe.core.weight_format import WeightFormat
from edgepipe.engine.base import Loaded, Progress, StageSpec
from edgepipe.engine.onnx.build import build
from edgepipe.engine.onnx.calls import calls_of, is_one_run
from edgepipe.engine.onnx.providers import CPU, Provider, builder_name, providers
from edgepipe.engine.onnx.runner import Runner
from edgepipe.engine.onnx.session import OPEN_ERRORS, open_session
from edgepipe.engine.onnx.slots import Slots
from edgepipe.engine.onnx.store import Description, StageStore, stage_key
from edgepipe.engine.onnx.support import unavailable, unsupported
from edgepipe.engine.torch.architecture import read_config, torch_dtype
from edgepipe.errors import ModelError

_QUANTISED = frozenset({WeightFormat.INT8, WeightFormat.INT4})


class OnnxEngine:
    """Implements edgepipe.engine.base.Engine on a device such as `cpu` or `cuda:0`.

    `threads` are the session's; None: as many as torch uses. Built stages are kept in the folder
    `cache`; None: they are built anew each time and dropped with the stage.
    """

    def __init__(
        self, device: str = "cpu", threads: int | None = None, *, cache: Path | None = None
    ) -> None:
        self._name = device
        self._device = torch.device(device if device.startswith("cuda") else "cpu")
        self._threads = threads
        self._cache = cache
        self._drop: Callable[[], object] | None = None
        self._slots: Slots | None = None
        self._runner: Runner | None = None

    def load(self, spec: StageSpec, progress: Progress) -> Loaded:
        """Build the stage's graph, or find it built, and open it; see Engine.load."""
        self.unload()
        chosen = self._providers(spec)
        session, held = self._open(spec, chosen, progress)
        dtype = torch_dtype(spec.dtype)
        self._slots = Slots(
            held.kv,
            num_slots=spec.num_slots,
            max_positions=spec.max_positions,
            dtype=dtype,
            device=self._device,
        )
        self._runner = Runner(session, self._slots, dtype, self._device)
        progress(held.weight_bytes, held.weight_bytes)
        return Loaded(weight_bytes=held.weight_bytes, kv_bytes=self._slots.num_bytes)

    def _providers(self, spec: StageSpec) -> list[Provider]:
        if reason := unavailable():
            raise ModelError(reason)
        config = read_config(spec.config)
        if reason := unsupported(config.to_dict()):
            raise ModelError(reason)
        chosen = providers(self._name, onnxruntime.get_available_providers())
        if chosen is None:
            raise ModelError(
                f"This machine's ONNX Runtime does not run on {self._name}: install "
                "edgepipe[onnx-gpu], or use --engine torch."
            )
        if reason := _cannot_hold(spec, config.max_position_embeddings, chosen[0][0]):
            raise ModelError(reason)
        return chosen

    def _open(
        self, spec: StageSpec, chosen: list[Provider], progress: Progress
    ) -> tuple[Any, Description]:
        store = StageStore(self._cache or self._passing_folder())
        name = builder_name(chosen[0][0])
        key = stage_key(spec, name)
        threads = self._threads or torch.get_num_threads()
        held = store.find(key)
        if held is not None:
            try:
                return open_session(store.path(key), chosen, threads), held
            except OPEN_ERRORS:
                held = None
        store.add(key, lambda folder: build(spec, name, folder, progress))
        held = store.find(key)
        assert held is not None, "a stage is whole once it is built"
        return open_session(store.path(key), chosen, threads), held

    def _passing_folder(self) -> Path:
        folder = tempfile.mkdtemp(prefix="edgepipe-onnx-")
        self._drop = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return Path(folder)

    def forward(
        self, spans: Sequence[Span], inputs: torch.Tensor, *, all_logits: bool = False
    ) -> torch.Tensor:
        """Run the stage over the packed rows of `spans`; see Engine.forward."""
        slots, runner = self._loaded()
        assert inputs.shape[0] == sum(span.count for span in spans), "one row per token"
        inputs = inputs.to(self._device)
        if len(spans) == 1 or is_one_run(spans):
            for span in spans:
                slots.extend(span)
            return runner.run(spans[0].slot, len(spans), inputs, all_logits=all_logits)
        return self._mixed(spans, inputs, all_logits=all_logits)

    def _mixed(
        self, spans: Sequence[Span], inputs: torch.Tensor, *, all_logits: bool
    ) -> torch.Tensor:
        """Call by call; what comes of a span is put where it belongs among all of them."""
        slots, runner = self._loaded()
        every_row = all_logits or not runner.head
        begins = [0, *accumulate(span.count if every_row else 1 for span in spans)]
        output: torch.Tensor | None = None
        for call in calls_of(spans):
            for row, place in enumerate(call.places):
                if place is None:
                    slots.idle(call.first + row)
                else:
                    slots.extend(spans[place])
            fed = (torch.tensor(call.offsets)[:, None] + torch.arange(call.tokens)).flatten()
            result = runner.run(
                call.first, len(call.places), inputs[fed.to(self._device)], all_logits=all_logits
            )
            if output is None:
                output = result.new_empty((begins[-1], result.shape[1]))
            per_row = len(result) // len(call.places)
            for row, place in enumerate(call.places):
                if place is not None:
                    own = result[row * per_row : (row + 1) * per_row]
                    output[begins[place] : begins[place + 1]] = own
        assert output is not None, "a call has at least one span"
        return output

    def export_state(self, slot: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The slot's keys and values; see Engine.export_state."""
        return self._loaded()[0].export(slot)

    def import_state(self, slot: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Replace a slot's cache; see Engine.import_state."""
        self._loaded()[0].replace(slot, keys, values)

    def unload(self) -> None:
        """Free the weights and the cache."""
        self._runner = self._slots = None
        if self._drop is not None:
            self._drop()
            self._drop = None

    def _loaded(self) -> tuple[Slots, Runner]:
        assert self._slots is not None, "the engine must be loaded"
        assert self._runner is not None, "the engine must be loaded"
        return self._slots, self._runner


def _cannot_hold(spec: StageSpec, context: int, provider: str) -> str | None:
    """Why a provider cannot run what the stage is told to be, in a sentence; None where it can."""
    if spec.max_positions > context:
        return (
            f"The model has {context} positions, not {spec.max_positions}: take a shorter context."
        )
    halves = {DType.FLOAT16, DType.BFLOAT16}
    if provider == CPU:
        allowed, named = {DType.FLOAT32}, "float32"
    else:
        allowed, named = halves, "float16 and bfloat16"
    if spec.dtype not in allowed:
        return f"The engine onnx computes in {named} here, not in {spec.dtype}: set --dtype."
    held = spec.weight_format
    if held is None or held in _QUANTISED or str(held) == str(spec.dtype):
        return None
    return (
        f"The engine onnx holds weights as {spec.dtype}, int8 or int4 here, "
        f"not as {held}: set --weights."
    )
