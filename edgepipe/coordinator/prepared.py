"""A model that was found, and its sizes: all that a plan needs of it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from edgepipe.coordinator.models import Model, resolve
from edgepipe.coordinator.shape import model_shape
from edgepipe.core.model import ModelShape


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A model that was found, and its sizes."""

    model: Model
    shape: ModelShape


async def prepare(name: str, *, home: Path) -> Prepared:
    """Find a model and read its sizes, off the event loop. Raises ModelError."""

    def work() -> Prepared:
        model = resolve(name, home=home)
        return Prepared(model=model, shape=model_shape(model.name, model.config, home=home))

    return await asyncio.to_thread(work)
