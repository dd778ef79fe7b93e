"""A model that was found, its sizes, and what is to be merged into it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgepipe.coordinator.adapter import Adapter, read_adapter
from edgepipe.coordinator.models import Model, resolve
from edgepipe.coordinator.shape import model_shape
from edgepipe.core.model import Item, ModelShape


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A model that was found, its sizes, and the adapter that goes into its weights, if any.

    `offsets` says that the layers' matrices are in blocks that have one each, as GGUF's Q4_1 do.
    """

    model: Model
    shape: ModelShape
    adapter: Adapter | None = None
    offsets: bool = False

    def tensors(self, items: Iterable[Item]) -> tuple[str, ...]:
        """The tensors of some items, and the adapter's beside them."""
        weights = self.shape.tensors(items)
        return weights if self.adapter is None else (*weights, *self.adapter.beside(weights))

    @property
    def options(self) -> dict[str, Any]:
        """What every stage is told beside its weights."""
        return {} if self.adapter is None else dict(self.adapter.options)


async def prepare(name: str, *, home: Path, adapter: Path | None = None) -> Prepared:
    """Find a model and read its sizes, and its adapter, off the event loop.

    Raises ModelError, and DamagedWeights where a file that was imported is.
    """

    def work() -> Prepared:
        model = resolve(name, home=home)
        shape = model_shape(model.name, model.config, home=home)
        found = read_adapter(adapter, shape) if adapter is not None else None
        return Prepared(model=model, shape=shape, adapter=found, offsets=_has_offsets(model))

    return await asyncio.to_thread(work)


def _has_offsets(model: Model) -> bool:
    """Whether most of what a `.gguf` file's layers multiply by is in blocks with offsets."""
    if model.gguf is None:
        return False
    sizes = Counter[str]()
    for tensor in model.tensors():
        origin = tensor.gguf
        if origin is not None and origin.name.startswith("blk.") and len(origin.shape) == 2:
            sizes[origin.type] += tensor.size_bytes
    return 2 * sizes["Q4_1"] > sizes.total()
