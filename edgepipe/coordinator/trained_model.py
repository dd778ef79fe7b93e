"""A model with what was trained in it, written item by item into a Hugging Face folder."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from edgepipe.coordinator.checkpoints import Checkpoint
from edgepipe.coordinator.model_folder import (
    copy_tokenizer,
    shards_of,
    write_config,
    write_weights,
)
from edgepipe.coordinator.models import Model
from edgepipe.coordinator.parts import Part, build_parts, parts_for
from edgepipe.coordinator.shape import model_shape
from edgepipe.core.model import ModelShape
from edgepipe.engine.state_file import Described
from edgepipe.engine.torch.assembly import Assembly, Stored, Weights
from edgepipe.errors import CheckpointError

Progress = Callable[[str, int, int], None]
"""Called with what is done, how much of it, and of how much."""


def write_model(
    checkpoint: Checkpoint, model: Model, folder: Path, *, home: Path, progress: Progress
) -> None:
    """Fill an empty folder with the model that a checkpoint has come to, in the run's type.

    Raises:
        CheckpointError: the model is of another depth than the one that was trained.
        ModelError: its weights are not there, or do not fit what was trained.
        OSError: the folder takes no more.
    """
    manifest = checkpoint.manifest
    shape = model_shape(model.name, model.config, home=home)
    if shape.num_layers != manifest.num_layers:
        raise CheckpointError(
            f"{checkpoint.folder} is of {manifest.num_layers} layers, but {model.name} has "
            f"{shape.num_layers}: export with the model that was trained."
        )
    parts = build_parts(
        model.tensors(),
        shape.parameters,
        home=home,
        progress=lambda done, total: progress("reading the model", done, total),
    )
    assembling = _Assembling(
        assembly=Assembly(model.config, manifest.dtype),
        checkpoint=checkpoint,
        shape=shape,
        parts=parts,
        progress=progress,
    )
    assembling.write(folder)
    copy_tokenizer(model.folder, folder)
    write_config(folder, model.config, architecture=shape.architecture, dtype=manifest.dtype.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Assembling:
    """Weights of a base model and of a checkpoint on their way into one folder."""

    assembly: Assembly
    checkpoint: Checkpoint
    shape: ModelShape
    parts: tuple[Part, ...]
    progress: Progress

    def write(self, folder: Path) -> None:
        described = self.assembly.described()
        shards = shards_of([tensor for item in described for tensor in item])
        write_weights(folder, shards, self._tensors(described, folder))

    def _tensors(
        self, described: Sequence[Sequence[Described]], folder: Path
    ) -> Iterator[tuple[str, torch.Tensor]]:
        adapted = self.checkpoint.manifest.adapters is not None
        paths = self.checkpoint.paths
        trained = {} if adapted else self.assembly.trained_tensors(paths)
        for index, tensors in enumerate(described):
            weights = self._item(index, trained, folder)
            for tensor in tensors:
                yield tensor.name, weights[tensor.name]
            self.progress("writing the model", index + 1, len(described))

    def _item(self, index: int, trained: Stored, folder: Path) -> Weights:
        """One item's weights; its parts lie in the folder meanwhile."""
        layers = self.shape.layers
        item = (self.shape.embedding, *layers, self.shape.head)[index]
        adapters = self.checkpoint.manifest.adapters
        with tempfile.TemporaryDirectory(dir=folder, prefix=".parts-") as room:
            files = [part.write(Path(room)) for part in parts_for(self.parts, item.tensors)]
            if adapters is None:
                return self.assembly.read(index, files, trained=trained)
            unit = "embedding" if index == 0 else "head"
            unit = f"layer-{index - 1:05d}" if 0 < index <= len(layers) else unit
            return self.assembly.read(
                index,
                [*files, *self.checkpoint.files_of(unit)],
                trained=trained,
                adapter_scale=adapters.alpha / adapters.rank,
            )
