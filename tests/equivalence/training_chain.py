"""Stages that train in one process, chained by hand, and the plain loop that they must equal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from equivalence.tiny_models import Parts, random_tokens

from edgepipe.core.frame import DType
from edgepipe.core.training import (
    IGNORED,
    AdamW,
    Adapters,
    Broken,
    Microbatch,
    Purpose,
    Training,
    Update,
)
from edgepipe.core.work import TrainMode
from edgepipe.engine.base import StageSpec
from edgepipe.engine.torch.training import TorchTrainer
from edgepipe.engine.training import Targets

LEARNING_RATE = 1e-3
EPS = 1e-6
"""Larger than the noise that a key's bias has for a gradient: its true one is zero."""
CLIP = 0.5
UNEVEN = ((7, 3, 5), (4, 4))
"""The lengths of two microbatches' sequences."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequences:
    """One microbatch: its sequences' tokens, and what follows each."""

    tokens: tuple[torch.Tensor, ...]

    @property
    def lengths(self) -> tuple[int, ...]:
        return tuple(len(each) for each in self.tokens)

    @property
    def targets(self) -> tuple[torch.Tensor, ...]:
        """The first two of a sequence count for nothing, as a prompt's do, nor does its last."""
        nothing = torch.tensor([IGNORED])
        return tuple(torch.cat([nothing, nothing, each[3:], nothing]) for each in self.tokens)

    @property
    def num_targets(self) -> int:
        return sum(int((each != IGNORED).sum()) for each in self.targets)


def batch_of(step: int, lengths: Sequence[Sequence[int]] = UNEVEN) -> list[Sequences]:
    return [
        Sequences(
            tokens=tuple(
                random_tokens(length, seed=1000 * step + 100 * index + place)
                for place, length in enumerate(each)
            )
        )
        for index, each in enumerate(lengths)
    ]


def training_of(
    *,
    mode: TrainMode = TrainMode.FULL,
    recompute: bool = False,
    dtype: DType = DType.FLOAT32,
    adapters: Adapters | None = None,
    weight_decay: float = 0.1,
    seed: int = 5,
) -> Training:
    return Training(
        mode=mode,
        seed=seed,
        recompute=recompute,
        optimizer=AdamW(weight_decay=weight_decay, eps=EPS),
        adapters=adapters,
        dtype=dtype,
    )


@dataclass(slots=True)
class Chain:
    """Stages [0, cuts[0]) [cuts[0], cuts[1]) …; `tied` where they exchange an embedding."""

    parts: Parts
    training: Training
    cuts: Sequence[int] = ()
    apart: bool = False
    engines: list[TorchTrainer] = field(default_factory=list)
    broken: list[Broken] = field(default_factory=list)

    def __post_init__(self) -> None:
        ranges = list(pairwise([0, *self.cuts, self.parts.shape.num_layers]))
        if self.apart:
            end = self.parts.shape.num_layers
            ranges = [(0, 0), *ranges, (end, end)]
        for index, (first, end) in enumerate(ranges):
            is_last = index == len(ranges) - 1
            spec = self.spec(first, end, embedding=index == 0, head=is_last)
            engine = TorchTrainer("cpu")
            engine.load(spec, self.training, lambda _done, _total: None)
            self.engines.append(engine)

    def spec(self, first: int, end: int, *, embedding: bool = True, head: bool = True) -> StageSpec:
        return StageSpec(
            config=self.parts.config,
            first=first,
            end=end,
            embedding=embedding,
            head=head,
            dtype=self.training.dtype,
            num_slots=1,
            max_positions=1,
            weights=self.parts.of(first, end, embedding=embedding, head=head),
        )

    @property
    def exchanges(self) -> bool:
        is_full = self.training.mode is TrainMode.FULL
        return is_full and self.parts.shape.tied and len(self.engines) > 1

    def forward(
        self,
        microbatch: Microbatch,
        sequences: Sequences,
        weight: float,
        purpose: Purpose = Purpose.TRAIN,
    ) -> float:
        rows = torch.cat(sequences.tokens)
        for engine in self.engines[:-1]:
            forwarded = engine.forward(microbatch, rows, purpose=purpose, targets=None)
            self.broken += [forwarded.broken] if forwarded.broken else []
            assert forwarded.hidden is not None
            assert not forwarded.hidden.requires_grad
            rows = forwarded.hidden
        targets = Targets(ids=torch.cat(sequences.targets), weight=weight)
        forwarded = self.engines[-1].forward(microbatch, rows, purpose=purpose, targets=targets)
        self.broken += [forwarded.broken] if forwarded.broken else []
        assert forwarded.loss_sum is not None
        return forwarded.loss_sum

    def backward(self, index: int) -> None:
        gradient: torch.Tensor | None = None
        for engine in reversed(self.engines):
            backwarded = engine.backward(index, gradient)
            self.broken += [backwarded.broken] if backwarded.broken else []
            gradient = backwarded.gradient

    def gradients(self, step: int, batch: Sequence[Sequences]) -> float:
        """Accumulate a whole step's gradients, all forwards first; its mean loss."""
        total = sum(each.num_targets for each in batch)
        microbatches = [
            Microbatch(step=step, index=index, lengths=each.lengths)
            for index, each in enumerate(batch)
        ]
        losses = [
            self.forward(microbatch, each, 1 / total)
            for microbatch, each in zip(microbatches, batch, strict=True)
        ]
        for microbatch in microbatches:
            self.backward(microbatch.index)
        if self.exchanges:
            self.engines[-1].add_embedding_gradient(*self.engines[0].embedding_gradient())
        return sum(losses) / total

    def norm(self) -> float:
        return sum(engine.gradients().sum_of_squares for engine in self.engines) ** 0.5

    def step(self, step: int, batch: Sequence[Sequences]) -> float:
        """Train on a batch, clipped; its mean loss."""
        loss = self.gradients(step, batch)
        update = Update(learning_rate=LEARNING_RATE, scale=min(1.0, CLIP / self.norm()))
        for engine in self.engines:
            engine.apply(update)
        if self.exchanges:
            ids = torch.arange(self.parts.shape.vocab_size)
            self.engines[0].set_embedding_rows(ids, self.engines[-1].embedding_rows(ids))
        return loss

    def evaluate(self, batch: Sequence[Sequences]) -> float:
        losses = [
            self.forward(
                Microbatch(step=0, index=index, lengths=each.lengths), each, 0.0, Purpose.EVALUATE
            )
            for index, each in enumerate(batch)
        ]
        return sum(losses) / sum(each.num_targets for each in batch)

    def state(self) -> dict[str, dict[str, torch.Tensor]]:
        """All units, copied."""
        return {
            unit: {name: tensor.clone() for name, tensor in engine.export_state(unit).items()}
            for engine in self.engines
            for unit in engine.units()
        }

    def weights(self) -> dict[str, torch.Tensor]:
        """What is trained, by its name in the whole model."""
        return {
            name: tensor
            for unit in self.state().values()
            for name, tensor in unit.items()
            if "#" not in name
        }


class PlainLoop:
    """transformers and torch alone: a whole model, sequence by sequence."""

    def __init__(self, model: Any, *, weight_decay: float = 0.1) -> None:
        self.model = model.train()
        trained = [p for p in model.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
            {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
        ]
        self.trained = trained
        self.optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, eps=EPS)

    def gradients(self, batch: Sequence[Sequences]) -> float:
        total, mean = sum(each.num_targets for each in batch), 0.0
        for sequences in batch:
            for tokens, targets in zip(sequences.tokens, sequences.targets, strict=True):
                logits = self.model(input_ids=tokens[None], use_cache=False).logits[0]
                loss = torch.nn.functional.cross_entropy(logits, targets, reduction="sum") / total
                loss.backward()
                mean += float(loss.detach())
        return mean

    def step(self, batch: Sequence[Sequences]) -> float:
        loss = self.gradients(batch)
        torch.nn.utils.clip_grad_norm_(self.trained, CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss

    def weights(self) -> Mapping[str, torch.Tensor]:
        return {name: p.detach() for name, p in self.model.named_parameters() if p.requires_grad}
