"""A stage's parameters, read from parts straight into tensors of the stage's type.

Memory while loading stays near the weights' own size: a tensor is allocated once, in its final
type, and filled piece by piece. Where transformers stores a checkpoint in another form than the
model's (experts one by one), one layer's tensors are held twice while they are converted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import convert_and_load_state_dict_in_model
from transformers.modeling_utils import LoadStateDictConfig
from transformers.utils.logging import disable_progress_bar

from edgepipe.engine.base import Progress
from edgepipe.engine.torch.anatomy import Anatomy, Cut, layer_weights, own_weights
from edgepipe.engine.torch.architecture import float32_names
from edgepipe.engine.torch.blocks import Block, pack_rows
from edgepipe.engine.torch.gguf_rows import keeps_rows, read_gguf
from edgepipe.engine.torch.merging import Pair, is_transposed, pairs_of
from edgepipe.engine.torch.packing import Packing
from edgepipe.engine.torch.part import TORCH_DTYPES, StoredTensor, read_part
from edgepipe.engine.torch.probe import checkpoint_weights
from edgepipe.errors import DamagedWeights


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemWeights:
    """One item of a stage: its weights by their names in the model, and in a checkpoint."""

    in_model: dict[str, torch.Tensor]
    in_checkpoint: dict[str, torch.Tensor]


def stage_weights(model: Any, anatomy: Anatomy, cut: Cut) -> list[ItemWeights]:
    """What a stage holds, item by item, still on meta."""
    outside = [own_weights(model, module) for module in cut.outside(anatomy)]
    items = [
        {name: tensor for weights in outside for name, tensor in weights.items()},
        *(layer_weights(model, anatomy, index) for index in cut.layers),
    ]
    return [_item(model, anatomy, weights) for weights in items]


def _item(model: Any, anatomy: Anatomy, weights: dict[str, torch.Tensor]) -> ItemWeights:
    named = {anatomy.tied.get(name, name): tensor for name, tensor in weights.items()}
    return ItemWeights(in_model=weights, in_checkpoint=checkpoint_weights(model, named))


class Loader:
    """Fills a model's items from parts; `config` is the Hugging Face config as a dict.

    With an `adapter_scale`, the adapters that lie in the parts are merged into their weights. With
    a `packing`, the weights that it names are packed while they are read.
    """

    def __init__(
        self,
        model: Any,
        anatomy: Anatomy,
        *,
        config: Mapping[str, Any],
        device: torch.device,
        adapter_scale: float | None = None,
        packing: Packing | None = None,
    ) -> None:
        self._model = model
        self._tied = anatomy.tied
        self._config = config
        self._device = device
        self._float32_names = float32_names(model)
        self._loaded: dict[str, torch.nn.Parameter | torch.Tensor] = {}
        self._packing = packing
        self._packed_bytes = 0
        self._scratch = torch.empty(0)
        self._adapter_scale = adapter_scale
        self._pairs: dict[str, Pair] = {}
        self._merged_names: set[str] = set()

    def load(self, items: Iterable[ItemWeights], parts: Iterable[Path], progress: Progress) -> int:
        """Read every tensor of `items`; returns the bytes that they take on the device.

        Raises DamagedWeights naming the file and the tensor, or the tensor that is missing, or
        the weight of an adapter that the items lack.
        """
        items = list(items)
        index = {name: tensor for part in parts for name, tensor in read_part(part).items()}
        self._pairs = pairs_of(index) if self._adapter_scale is not None else {}
        stored = {name: self._find(index, name) for item in items for name in item.in_checkpoint}
        advance = _counter(sum(tensor.num_bytes for tensor in stored.values()), progress)
        for item in items:
            self._load_plain(item, stored, advance)
            self._load_converted(item, stored, advance)
        if lost := self._pairs.keys() - self._merged_names:
            raise DamagedWeights(
                f"The adapter changes {min(lost)}, which the model does not have, or not "
                "as a weight of its own: use an adapter of this model."
            )
        return self._packed_bytes + sum(tensor.nbytes for tensor in self._loaded.values())

    def _find(self, index: Mapping[str, StoredTensor], name: str) -> StoredTensor:
        """A checkpoint of the bare model leaves out the prefix of the model's body."""
        bare = name.removeprefix(f"{self._model.base_model_prefix}.")
        stored = index.get(name) or index.get(bare)
        if stored is None:
            raise DamagedWeights(
                f"The weights of the stage lack the tensor {name}; "
                "the checkpoint is incomplete or of another architecture."
            )
        return stored

    def _load_plain(
        self, item: ItemWeights, stored: Mapping[str, StoredTensor], advance: Callable[[int], None]
    ) -> None:
        for name, meta in item.in_model.items():
            source = self._tied.get(name, name)
            if source not in item.in_checkpoint:
                continue
            if self._packing and name in self._packing.names:
                self._pack(self._packing, name, stored[source], meta, advance)
                continue
            if source not in self._loaded:
                dtype = self._dtype(name, meta)
                tensor = self._merged(name, stored[source], meta, dtype, advance)
                is_parameter = isinstance(meta, torch.nn.Parameter)
                self._loaded[source] = _parameter(tensor) if is_parameter else tensor
            self._place(name, self._loaded[source])

    def _pack(
        self,
        packing: Packing,
        name: str,
        stored: StoredTensor,
        meta: torch.Tensor,
        advance: Callable[[int], None],
    ) -> None:
        """Hold a weight packed, read in blocks, or whole where its rows are moved or merged."""
        source = self._tied.get(name, name)
        if source in self._loaded:
            advance = _count_nothing
        in_rows = (
            source not in self._pairs
            and not is_transposed(self._model, name)
            and keeps_rows(stored, tuple(meta.shape), self._config)
        )
        if in_rows:
            blocks = self._read_blocks(packing, name, stored, meta, advance)
        else:
            weight = self._merged(name, stored, meta, packing.dtype, advance)
            blocks = packing.blocks(name, weight)
        self._packed_bytes += packing.place(name, blocks)

    def _read_blocks(
        self,
        packing: Packing,
        name: str,
        stored: StoredTensor,
        meta: torch.Tensor,
        advance: Callable[[int], None],
    ) -> Iterator[Block]:
        for first, end in packing.row_ranges(*meta.shape):
            target = self._scratch_like(meta[first:end], packing.dtype)
            self._fill(stored.rows(first, end), target, advance)
            yield pack_rows(target, packing.held_of(name))

    def _scratch_like(self, meta: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """One buffer for all blocks: glibc cannot reuse aligned memory of the same size."""
        if self._scratch.numel() < meta.numel():
            self._scratch = torch.empty(meta.numel(), dtype=dtype, device=self._device)
        return self._scratch[: meta.numel()].view(meta.shape)

    def _merged(
        self,
        name: str,
        stored: StoredTensor,
        meta: torch.Tensor,
        dtype: torch.dtype,
        advance: Callable[[int], None],
    ) -> torch.Tensor:
        """A weight, with its adapter in it where there is one."""
        source = self._tied.get(name, name)
        pair = self._pairs.get(source)
        if pair is None or self._adapter_scale is None:
            return self._read(stored, meta, dtype, advance)
        self._merged_names.add(source)
        weight = self._read(stored, meta, torch.float32, advance)
        pair.merge(weight, self._adapter_scale, transposed=is_transposed(self._model, name))
        return weight.to(dtype)

    def _place(self, name: str, tensor: torch.Tensor) -> None:
        module, _, attribute = name.rpartition(".")
        tensor._is_hf_initialized = True  # type: ignore[attr-defined]  # noqa: SLF001
        setattr(self._model.get_submodule(module), attribute, tensor)

    def _dtype(self, name: str, meta: torch.Tensor) -> torch.dtype:
        return torch.float32 if self._float32_names(name) else meta.dtype

    def _read(
        self,
        stored: StoredTensor,
        meta: torch.Tensor,
        dtype: torch.dtype,
        advance: Callable[[int], None],
    ) -> torch.Tensor:
        target = torch.empty(meta.shape, dtype=dtype, device=self._device)
        self._fill(stored, target, advance)
        return target

    def _fill(
        self, stored: StoredTensor, target: torch.Tensor, advance: Callable[[int], None]
    ) -> None:
        if stored.gguf is not None:
            read_gguf(stored, target, self._config, advance)
        else:
            read_plain(stored, target, advance)

    def _load_converted(
        self, item: ItemWeights, stored: Mapping[str, StoredTensor], advance: Callable[[int], None]
    ) -> None:
        """The tensors that transformers merges or splits on the way into the model."""
        plain = {self._tied.get(name, name) for name in item.in_model}
        sources = {
            name: _Unread(stored[name], meta, advance)
            for name, meta in item.in_checkpoint.items()
            if name not in plain
        }
        if not sources:
            return
        disable_progress_bar()
        convert_and_load_state_dict_in_model(
            self._model,
            sources,
            LoadStateDictConfig(
                dtype=self._model.dtype,
                device_map={"": self._device},
                weight_mapping=get_model_conversion_mapping(self._model),
            ),
        )
        for name in item.in_model.keys() - item.in_checkpoint.keys():
            self._take_converted(name, item.in_model[name])

    def _take_converted(self, name: str, meta: torch.Tensor) -> None:
        tensor = self._model.get_parameter_or_buffer(name)
        if tensor.is_meta or tensor.shape != meta.shape:
            raise DamagedWeights(
                f"The tensor {name} cannot be made from this checkpoint; "
                "it is damaged or of another architecture."
            )
        self._loaded[name] = tensor.requires_grad_(requires_grad=False)


class _Unread:
    """A tensor that is read when transformers slices it."""

    def __init__(
        self, stored: StoredTensor, meta: torch.Tensor, advance: Callable[[int], None]
    ) -> None:
        self._stored = stored
        self._meta = meta
        self._advance = advance

    def __getitem__(self, _: Any) -> torch.Tensor:
        target = torch.empty(self._meta.shape, dtype=self._meta.dtype)
        read_plain(self._stored, target, self._advance)
        return target


def read_plain(stored: StoredTensor, target: torch.Tensor, advance: Callable[[int], None]) -> None:
    """Fill `target` from a stored tensor of any element type; DamagedWeights on another shape."""
    if stored.shape != tuple(target.shape):
        raise stored.damaged(
            f"has the shape {list(stored.shape)}, the model wants {list(target.shape)}"
        )
    dtype = TORCH_DTYPES[stored.dtype]
    flat = target.view(-1)
    first = 0
    for piece in stored.pieces(dtype.itemsize):
        values = torch.frombuffer(piece, dtype=dtype)
        flat[first : first + len(values)].copy_(values)
        first += len(values)
        advance(len(piece))


def _parameter(tensor: torch.Tensor) -> torch.nn.Parameter:
    return torch.nn.Parameter(tensor, requires_grad=False)


def _count_nothing(_num_bytes: int) -> None:
    """These bytes are counted already."""


def _counter(total: int, progress: Progress) -> Callable[[int], None]:
    done = 0

    def advance(num_bytes: int) -> None:
        nonlocal done
        done += num_bytes
        progress(done, total)

    return advance
