"""How a stage's own layers are called while it trains: seeded, and computed again if wanted.

forward    layer(hidden)                    the generators forked and seeded, if it draws
backward   [layer(hidden) once more]        seeded the same; where activations were not kept
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from edgepipe.core.training import Microbatch, Training
from edgepipe.engine.torch.build import BuiltStage
from edgepipe.engine.torch.dropout import draws, seed_of, seeded

OUTSIDE = -1
"""Stands for a layer's number where what is outside the layers draws."""


class LayerCalls:
    """Takes over the calls of a stage's own layers. They are as before while nothing is trained."""

    def __init__(self, built: BuiltStage, training: Training, device: torch.device) -> None:
        self._seed = training.seed
        self._recompute = training.recompute
        self._device = device
        self._draws = draws(built.model)
        self._microbatch: Microbatch | None = None
        layers = built.model.get_submodule(built.anatomy.stack)
        if self._recompute or self._draws:
            for index in built.cut.layers:
                layers[index].forward = partial(self._call, index, layers[index].forward)

    @contextmanager
    def training(self, microbatch: Microbatch) -> Iterator[None]:
        """What is called within is one forward of this microbatch."""
        self._microbatch = microbatch
        try:
            with self._seeded(microbatch, OUTSIDE):
                yield
        finally:
            self._microbatch = None

    def _call(self, index: int, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        microbatch = self._microbatch
        if microbatch is None:
            return forward(*args, **kwargs)

        def run(*args: Any, **kwargs: Any) -> Any:
            with self._seeded(microbatch, index):
                return forward(*args, **kwargs)

        if not self._recompute:
            return run(*args, **kwargs)
        return checkpoint(run, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

    def _seeded(self, microbatch: Microbatch, index: int) -> Any:
        if not self._draws:
            return nullcontext()
        seed = seed_of(self._seed, microbatch.step, microbatch.index, index)
        return seeded(self._device, seed)
