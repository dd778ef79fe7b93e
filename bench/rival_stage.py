"""What one rank of torch.distributed.pipelining holds.

batch [M, …] ─▶ stage 0 ─[1, …]▶ … ─[1, …]▶ stage P-1 ─▶ loss with targets [M, …]
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True, slots=True, kw_only=True)
class RivalStage:
    """One rank's stage, and what its steps are made of.

    `batch` goes into the first stage and `targets` into the last one's loss, which is that of one
    microbatch; both hold all microbatches, one a row.
    """

    module: nn.Module
    batch: torch.Tensor
    targets: torch.Tensor
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    optimizer: torch.optim.Optimizer | None
