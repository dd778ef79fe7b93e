"""A stage's own tensors, read from its parts one by one as the graph comes to need them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from edgepipe.engine.base import Progress, StageSpec
from edgepipe.engine.onnx.blocks import Blocks, from_gguf
from edgepipe.engine.torch.anatomy import Anatomy
from edgepipe.engine.torch.gguf_rows import processor_of, read_gguf, row_order
from edgepipe.engine.torch.merging import adapter_scale, pairs_of
from edgepipe.engine.torch.part import StoredTensor, read_part
from edgepipe.engine.torch.weights import read_plain
from edgepipe.errors import DamagedWeights


class StageTensors:
    """Tensors of a meta model by their names there; `progress` hears of every byte read."""

    def __init__(self, model: Any, anatomy: Anatomy, spec: StageSpec, progress: Progress) -> None:
        self._tied = anatomy.tied
        self._prefix = f"{model.base_model_prefix}."
        self._config = spec.config
        self._index = {name: t for part in spec.weights for name, t in read_part(part).items()}
        self._scale = adapter_scale(spec.options)
        self._pairs = pairs_of(self._index) if self._scale is not None else {}
        self._advance = _counter(sum(t.num_bytes for t in self._index.values()), progress)

    def values(self, name: str, meta: torch.Tensor) -> torch.Tensor:
        """A tensor of the shape of `meta` as float32, an adapter merged into it."""
        source = self._tied.get(name, name)
        stored = self.stored(name)
        target = torch.empty(meta.shape)
        if stored.gguf is not None:
            read_gguf(stored, target, self._config, self._advance)
        else:
            read_plain(stored, target, self._advance)
        if self._scale is not None and source in self._pairs:
            self._pairs[source].merge(target, self._scale, transposed=False)
        return target

    def blocks(self, name: str, meta: torch.Tensor) -> Blocks | None:
        """A matrix as its file holds it in blocks; None where it has to be rounded anew."""
        stored = self.stored(name)
        if stored.gguf is None or stored.gguf.kind is None or self._is_adapted(name):
            return None
        if stored.gguf.shape != tuple(meta.shape):
            return None
        order = row_order(processor_of(stored.gguf, self._config), stored.gguf)
        if order is None or order.ndim != 1:
            return None
        raw = np.frombuffer(b"".join(stored.pieces(stored.num_bytes)), dtype=np.uint8)
        blocks = from_gguf(stored.gguf.kind, raw.reshape(stored.shape)[order], meta.shape[1])
        if blocks is not None:
            self._advance(stored.num_bytes)
        return blocks

    def stored(self, name: str) -> StoredTensor:
        """Where a tensor lies. A checkpoint of the bare model leaves out the body's prefix."""
        source = self._tied.get(name, name)
        stored = self._index.get(source) or self._index.get(source.removeprefix(self._prefix))
        if stored is None:
            raise DamagedWeights(
                f"The weights of the stage lack the tensor {source}; "
                "the checkpoint is incomplete or of another architecture."
            )
        return stored

    def _is_adapted(self, name: str) -> bool:
        return self._tied.get(name, name) in self._pairs


def _counter(total: int, progress: Progress) -> Callable[[int], None]:
    done = 0

    def advance(num_bytes: int) -> None:
        nonlocal done
        done = min(total, done + num_bytes)
        progress(done, total)

    return advance
