"""A stage for torch.distributed.pipelining that is the very module that edgepipe trains."""

from __future__ import annotations

import torch
from torch import nn

from bench.rival_stage import RivalStage
from bench.training_task import LlamaTraining
from edgepipe.core.frame import DType
from edgepipe.engine.torch.anatomy import Cut
from edgepipe.engine.torch.sample import random_stage
from edgepipe.engine.torch.stage_model import StageModel


class LlamaStage(nn.Module):
    """A cut of the model's own forward, as edgepipe's torch engine runs it."""

    def __init__(self, training: LlamaTraining, cut: Cut) -> None:
        super().__init__()
        device = torch.device("cpu")
        self.model, anatomy = random_stage(training.config, DType.FLOAT32, cut, device)
        self.model.train()
        for parameter in self.model.parameters():
            parameter.requires_grad_()
        self._stage = StageModel(self.model, anatomy, cut)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Token ids [rows, tokens] or a hidden state to a hidden state or logits."""
        positions = torch.arange(inputs.shape[1]).expand(inputs.shape[:2])
        return self._stage.differentiable(inputs, positions)


def llama_stage(training: LlamaTraining, rank: int) -> RivalStage:
    """A rank's layers, with the embedding on the first and the head on the last."""
    embedding, head = rank == 0, rank == training.num_stages - 1
    first, end = training.cuts[rank : rank + 2]
    module = LlamaStage(training, Cut(first=first, end=end, embedding=embedding, head=head))
    shape = (training.num_microbatches, training.sequence_length)
    tokens = torch.randint(training.vocab_size, shape, generator=torch.Generator().manual_seed(0))
    return RivalStage(
        module=module,
        batch=tokens,
        targets=tokens,
        loss=_next_token_loss,
        optimizer=torch.optim.AdamW(module.parameters(), lr=training.learning_rate, fused=True),
    )


def _next_token_loss(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy of [rows, tokens, vocab] against the tokens that follow."""
    return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
