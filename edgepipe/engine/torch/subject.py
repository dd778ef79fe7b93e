"""The model that is measured: its kinds of layers, and samples of each that there is room for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from edgepipe.core.frame import DType
from edgepipe.engine.torch.anatomy import Anatomy, Cut, examine
from edgepipe.engine.torch.architecture import build_on_meta, read_config
from edgepipe.engine.torch.sample import Sample, layer_kinds, sample_of
from edgepipe.engine.torch.weights import stage_weights
from edgepipe.errors import StageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A model on meta. Layer i is of kind `kinds[i]`, numbered as they come."""

    model: Any
    anatomy: Anatomy
    kinds: tuple[int, ...]

    @classmethod
    def of(cls, config: Mapping[str, Any], dtype: DType) -> Self:
        """Raises ModelError for a model that cannot be cut."""
        model = build_on_meta(read_config(config), dtype)
        anatomy = examine(model)
        return cls(model=model, anatomy=anatomy, kinds=layer_kinds(model, anatomy))

    @property
    def ends(self) -> tuple[Cut, Cut]:
        """The embedding alone, and the head."""
        end = self.anatomy.num_layers
        return (
            Cut(first=0, end=0, embedding=True, head=False),
            Cut(first=end, end=end, embedding=False, head=True),
        )

    @property
    def layers(self) -> tuple[Cut, ...]:
        """Each layer alone."""
        return tuple(sample_of((index,)) for index in range(self.anatomy.num_layers))

    def weight_bytes(self, cut: Cut) -> int:
        """Of what a cut holds."""
        items = stage_weights(self.model, self.anatomy, cut)
        return sum(tensor.nbytes for item in items for tensor in item.in_model.values())

    def one(self, kind: int) -> Sample:
        """The first layer of a kind."""
        return sample_of((self.kinds.index(kind),))

    def sample(self, kind: int, *, most: int, each_bytes: int, free_bytes: int) -> Sample:
        """At most so many layers of a kind, each of which takes so much of what is free.

        Raises StageError where there is room for none.
        """
        fitting = free_bytes // each_bytes
        if not fitting:
            raise StageError(
                f"a layer of the model takes {each_bytes >> 20} MiB, more than is free there"
            )
        members = [index for index, each in enumerate(self.kinds) if each == kind]
        return sample_of(members[: min(most, fitting)])
