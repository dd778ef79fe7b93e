"""An embedding whose weight the head shares, where another stage has the head.

first stage   embeds with a copy of its own, of which only the rows of a step's tokens are right
last stage    owns the weight: it has the optimizer, and adds the first's gradient to its own
"""

from __future__ import annotations

import torch

from edgepipe.engine.torch.anatomy import Anatomy, Cut
from edgepipe.engine.torch.build import BuiltStage


class SharedEmbedding:
    """One stage's copy of the weight, float32 [vocab, hidden]."""

    def __init__(self, weight: torch.nn.Parameter) -> None:
        self.weight = weight

    def gradient(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows that have a gradient: their ids, rising, and their gradients.

        At least one, of zeros where all gradients vanished, since a frame of no rows is none.
        """
        if self.weight.grad is not None:
            sparse = self.weight.grad.coalesce()
            ids, rows = sparse.indices()[0], sparse.values()
            told = rows.ne(0).any(dim=1)  # not the token that stands in the padding
            if told.any():
                return ids[told].cpu(), rows[told].cpu()
        return torch.zeros(1, dtype=torch.int64), torch.zeros((1, self.weight.shape[1]))

    def add_gradient(self, ids: torch.Tensor, rows: torch.Tensor) -> None:
        """Add to the rows of the gradient."""
        device = self.weight.device
        if self.weight.grad is None:
            self.weight.grad = torch.zeros_like(self.weight)
        self.weight.grad.index_add_(0, ids.to(device), rows.to(device))

    def rows(self, ids: torch.Tensor) -> torch.Tensor:
        """Rows of the weight."""
        return self.weight.detach()[ids.to(self.weight.device)].cpu()

    def set_rows(self, ids: torch.Tensor, rows: torch.Tensor) -> None:
        """Replace rows of the weight."""
        device = self.weight.device
        self.weight.detach()[ids.to(device)] = rows.to(device)


def shared_embedding(built: BuiltStage) -> SharedEmbedding | None:
    """The embedding that this stage shares with another, if it does.

    On the first stage its gradients are sparse from now on.
    """
    cut, tied = built.cut, shared_names(built.anatomy)
    if cut.embedding == cut.head or not tied:
        return None
    own = _own_modules(built.anatomy, cut)
    (name,) = (each for each in tied if each.rpartition(".")[0] in own)
    if cut.embedding:
        built.model.get_submodule(name.rpartition(".")[0]).sparse = True
    return SharedEmbedding(built.model.get_parameter(name))


def shared_names(anatomy: Anatomy) -> tuple[str, ...]:
    """The names of the weight that stands on both sides of the stack; none where nothing does."""
    for pair in anatomy.tied.items():
        modules = {name.rpartition(".")[0] for name in pair}
        if not modules.isdisjoint(anatomy.before) and not modules.isdisjoint(anatomy.after):
            return pair
    return ()


def _own_modules(anatomy: Anatomy, cut: Cut) -> tuple[str, ...]:
    return anatomy.before if cut.embedding else anatomy.after
