"""A model that was found, its sizes, and what is to be merged into it."""

from __future__ import annotations

import asyncio
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
    """A model that was found, its sizes, and the adapter that goes into its weights, if any."""

    model: Model
    shape: ModelShape
    adapter: Adapter | None = None

    def tensors(self, items: Iterable[Item]) -> tuple[str, ...]:
        """The tensors of some items, and the adapter's beside them."""
        weights = self.shape.tensors(items)
        return weights if self.adapter is None else (*weights, *self.adapter.beside(weights))

    @property
    def options(self) -> dict[str, Any]:
        """What every stage is told beside its weights."""
        return {} if self.adapter is None else dict(self.adapter.options)


async def prepare(name: str, *, home: Path, adapter: Path | None = None) -> Prepared:
    """Find a model and read its sizes, and its adapter, off the event loop. Raises ModelError."""

    def work() -> Prepared:
        model = resolve(name, home=home)
        shape = model_shape(model.name, model.config, home=home)
        found = read_adapter(adapter, shape) if adapter is not None else None
        return Prepared(model=model, shape=shape, adapter=found)

    return await asyncio.to_thread(work)
