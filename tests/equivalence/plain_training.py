"""Training as anybody writes it with transformers and torch: nothing of edgepipe is in here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence


@dataclass(frozen=True, kw_only=True)
class Settings:
    steps: int
    learning_rate: float
    warmup_steps: int = 0
    decay: str = "cosine"
    weight_decay: float = 0.01
    clip_norm: float = 1.0

    def rate(self, step: int) -> float:
        top = max(self.warmup_steps, 1)
        if step <= top:
            return self.learning_rate * step / top
        left = (self.steps - step) / (self.steps - top)
        shares = {"linear": left, "cosine": (1 - math.cos(math.pi * left)) / 2, "constant": 1.0}
        return self.learning_rate * shares[self.decay]


def plain_training(
    model: Any, batches: Iterable[Sequence[Sequence[Sequence[int]]]], settings: Settings
) -> list[float]:
    """Train in place on batches of microbatches of token lists; each step's loss per target."""
    trained = [p for p in model.train().parameters() if p.requires_grad]
    matrices = {"params": [p for p in trained if p.ndim > 1]}
    vectors = {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0}
    groups = [group for group in (matrices, vectors) if group["params"]]
    optimizer = torch.optim.AdamW(groups, weight_decay=settings.weight_decay)
    losses = []
    for step, batch in enumerate(batches, start=1):
        num_targets = sum(len(tokens) - 1 for microbatch in batch for tokens in microbatch)
        loss_sum = 0.0
        for microbatch in batch:
            rows = [torch.tensor(tokens) for tokens in microbatch]
            ids, labels = (pad_sequence(rows, True, value) for value in (0, -100))
            logits = model(input_ids=ids, attention_mask=(labels >= 0).long()).logits
            logits, targets = logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
            loss = cross_entropy(logits, targets, reduction="sum")
            (loss / num_targets).backward()
            loss_sum += loss.item()
        torch.nn.utils.clip_grad_norm_(trained, settings.clip_norm or math.inf)
        for group in optimizer.param_groups:
            group["lr"] = settings.rate(step)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss_sum / num_targets)
    return losses
