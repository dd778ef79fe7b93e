"""A whole model as transformers would save it, of which one item is in memory at a time.

parts of the base ──Loader──▶ an item's weights ──trained ones over them──▶ a checkpoint's
                      ▲                                                     names
          adapters, merged on the way
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

import torch

from edgepipe.core.frame import DType
from edgepipe.engine.state_file import Described
from edgepipe.engine.torch.anatomy import Cut, examine
from edgepipe.engine.torch.architecture import build_on_meta, read_config, torch_dtype
from edgepipe.engine.torch.merging import is_transposed
from edgepipe.engine.torch.part import StoredTensor, read_part
from edgepipe.engine.torch.probe import checkpoint_weights
from edgepipe.engine.torch.weights import ItemWeights, Loader, read_plain, stage_weights
from edgepipe.errors import DamagedWeights

Weights = dict[str, torch.Tensor]
Stored = Mapping[str, StoredTensor]


class Assembly:
    """The items of a model in its order: the embedding, every layer, the head.

    `config` is the Hugging Face config as a dict; floats are saved as `dtype`. Raises ModelError
    where the architecture cannot be cut into items.
    """

    def __init__(self, config: Mapping[str, Any], dtype: DType) -> None:
        self._config = config
        self._dtype = torch_dtype(dtype)
        self._model = build_on_meta(read_config(config), dtype)
        self._anatomy = examine(self._model)

    @property
    def num_items(self) -> int:
        """The layers, and the two ends."""
        return self._anatomy.num_layers + 2

    def described(self) -> list[tuple[Described, ...]]:
        """The tensors of each item as they are saved; a tied one is the first item's alone."""
        seen: set[str] = set()
        items = []
        for item in range(self.num_items):
            weights = checkpoint_weights(self._model, self._named(self._weights(item)))
            own = {name: tensor for name, tensor in weights.items() if name not in seen}
            seen.update(own)
            items.append(tuple(self._describe(name, tensor) for name, tensor in own.items()))
        return items

    def read(
        self,
        item: int,
        parts: Iterable[Path],
        *,
        trained: Stored,
        adapter_scale: float | None = None,
    ) -> Weights:
        """An item's tensors on the host, as they are saved.

        Args:
            item: its index.
            parts: files that hold the item's weights in the base model, and its adapters.
            trained: weights that take the place of the base's, by `trained_tensors`.
            adapter_scale: of the adapters, which are merged; None where there are none.

        Raises:
            DamagedWeights: a tensor is missing, of another shape, or has nowhere to go.
        """
        weights = self._weights(item)
        loader = Loader(
            self._model,
            self._anatomy,
            config=self._config,
            device=torch.device("cpu"),
            adapter_scale=adapter_scale,
        )
        loader.load(weights, parts, lambda _done, _total: None)
        named = self._named(weights, loaded=True)
        for name in named.keys() & trained.keys():
            named[name] = self._read_trained(trained[name], named[name].shape)
        self._forget(weights)
        saved = checkpoint_weights(self._model, named)
        return {name: self._cast(tensor) for name, tensor in saved.items()}

    def trained_tensors(self, files: Iterable[Path]) -> Stored:
        """The trained weights in the files of a checkpoint's units, without their moments.

        Raises:
            DamagedWeights: one of them is not the model's.
        """
        stored = {name: each for file in files for name, each in read_part(file).items()}
        tied = self._anatomy.tied
        trained = {tied.get(name, name): stored[name] for name in stored if "#" not in name}
        _check_known(trained, self._known())
        return trained

    def has_transposed(self, modules: Iterable[str]) -> bool:
        """Whether the weight of one of these modules is stored [in, out].

        Raises DamagedWeights for a module that the model lacks.
        """
        weights = [f"{module}.weight" for module in modules]
        _check_known(weights, self._known())
        return any(is_transposed(self._model, weight) for weight in weights)

    def _known(self) -> set[str]:
        """The names of all weights in the model."""
        return {name for item in range(self.num_items) for name in self._named(self._weights(item))}

    def _weights(self, item: int) -> list[ItemWeights]:
        last = self._anatomy.num_layers
        first = max(0, item - 1)
        cut = Cut(
            first=first,
            end=first + (0 < item <= last),
            embedding=item == 0,
            head=item == last + 1,
        )
        return stage_weights(self._model, self._anatomy, cut)

    def _named(self, items: Iterable[ItemWeights], *, loaded: bool = False) -> Weights:
        """Tensors by their names in the whole model, shared ones once."""
        return {
            self._anatomy.tied.get(name, name): (
                self._model.get_parameter_or_buffer(name).detach() if loaded else meta
            )
            for item in items
            for name, meta in item.in_model.items()
        }

    def _forget(self, items: Iterable[ItemWeights]) -> None:
        """Put the model back on meta."""
        for item in items:
            for name, meta in item.in_model.items():
                module, _, attribute = name.rpartition(".")
                setattr(self._model.get_submodule(module), attribute, meta)

    def _read_trained(self, stored: StoredTensor, shape: torch.Size) -> torch.Tensor:
        target = torch.empty(shape, dtype=self._dtype)
        read_plain(stored, target, lambda _num_bytes: None)
        return target

    def _describe(self, name: str, tensor: torch.Tensor) -> Described:
        dtype = self._dtype if tensor.is_floating_point() else tensor.dtype
        return Described(name=name, dtype=dtype, shape=tuple(tensor.shape))

    def _cast(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self._dtype) if tensor.is_floating_point() else tensor


def _check_known(names: Iterable[str], known: AbstractSet[str]) -> None:
    if foreign := sorted(set(names) - known):
        raise DamagedWeights(
            f"The checkpoint has trained {foreign[0]}, which the model lacks: export with the "
            "model that was trained."
        )
