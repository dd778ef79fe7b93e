"""The torch engine of training: one stage of a Hugging Face causal LM behind its protocol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from edgepipe.core.frame import DType
from edgepipe.core.training import (
    AdamW,
    Adapters,
    Gradients,
    Microbatch,
    Purpose,
    Training,
    Update,
)
from edgepipe.core.work import TrainMode
from edgepipe.engine.base import Loaded, Progress, StageSpec
from edgepipe.engine.torch.accumulating import GradientMemory, accumulate_in_place
from edgepipe.engine.torch.adapters import add_adapters
from edgepipe.engine.torch.build import BuiltStage, build_stage
from edgepipe.engine.torch.optimizer import StageOptimizer
from edgepipe.engine.torch.passes import Passes
from edgepipe.engine.torch.rehearsal import tiny_stage
from edgepipe.engine.torch.tied import SharedEmbedding, shared_embedding
from edgepipe.engine.torch.units import Unit, restore_unit, trained_units, unit_state
from edgepipe.engine.training import Backwarded, Forwarded, Targets


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loaded:
    passes: Passes
    optimizer: StageOptimizer
    units: Mapping[str, Unit]
    shared: SharedEmbedding | None
    memory: GradientMemory


class TorchTrainer:
    """Implements edgepipe.engine.training.TrainingEngine on a device (`cpu`, `cuda:0`, `mps`)."""

    def __init__(self, device: str) -> None:
        self._device = torch.device(device)
        self._loaded: _Loaded | None = None

    def load(self, spec: StageSpec, training: Training, progress: Progress) -> Loaded:
        """Build the stage, read its weights, add its adapters; see TrainingEngine.load."""
        self.unload()
        dtype = DType.FLOAT32 if training.mode is TrainMode.FULL else training.dtype
        return self.take(build_stage(spec, dtype, self._device, progress), training)

    def take(self, built: BuiltStage, training: Training) -> Loaded:
        """Train a stage that is built, in place of the one before."""
        is_full = training.mode is TrainMode.FULL
        memory = GradientMemory()
        if is_full:
            _train_all(built)
            memory = accumulate_in_place(built.model)
        else:
            assert training.adapters is not None, "LoRA trains adapters"
            add_adapters(built, training.adapters, training.seed)
        shared = shared_embedding(built) if is_full else None
        self._loaded = _assembled(built, training, shared, memory, self._device)
        trained = [p for unit in self._loaded.units.values() for p in unit.values()]
        added_bytes = 0 if is_full else sum(p.nbytes for p in trained)
        return Loaded(weight_bytes=built.weight_bytes + added_bytes, kv_bytes=0)

    def forward(
        self,
        microbatch: Microbatch,
        inputs: torch.Tensor,
        *,
        purpose: Purpose,
        targets: Targets | None,
    ) -> Forwarded:
        """Run the stage over a microbatch; see TrainingEngine.forward."""
        assert inputs.shape[0] == microbatch.num_rows, "one row per token"
        passes = self._stage.passes
        run = passes.evaluate if purpose is Purpose.EVALUATE else passes.forward
        return run(microbatch, inputs, targets)

    def backward(self, microbatch: int, gradient: torch.Tensor | None) -> Backwarded:
        """Accumulate gradients of a microbatch; see TrainingEngine.backward."""
        return self._stage.passes.backward(microbatch, gradient)

    def gradients(self) -> Gradients:
        """Those that were accumulated, an embedding's that another stage owns left out."""
        return Gradients(sum_of_squares=self._stage.optimizer.sum_of_squares())

    def rehearse(self) -> float:
        """Set the gradients aside, or compare; see TrainingEngine.rehearse."""
        dot = self._stage.optimizer.rehearse()
        self._stage.memory.give_away()
        self._forget_shared()
        return dot

    def apply(self, update: Update) -> None:
        """Step the optimizer; see TrainingEngine.apply."""
        self._stage.passes.weights_change()
        self._stage.optimizer.apply(update)
        self._forget_shared()

    def discard(self) -> None:
        """Forget the gradients, and every forward whose backward has not come."""
        self._stage.passes.forget()
        self._stage.optimizer.discard()
        self._forget_shared()

    def unload(self) -> None:
        """Free all that is held."""
        if self._loaded is not None:
            self._loaded.passes.forget()
        self._loaded = None

    def embedding_gradient(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows of the embedding that have a gradient; see TrainingEngine.embedding_gradient."""
        return self._shared.gradient()

    def add_embedding_gradient(self, ids: torch.Tensor, rows: torch.Tensor) -> None:
        """Add what the first stage's `embedding_gradient` gave."""
        self._shared.add_gradient(ids, rows)

    def embedding_rows(self, ids: torch.Tensor) -> torch.Tensor:
        """Those rows of the embedding, float32 [n, hidden]."""
        return self._shared.rows(ids)

    def set_embedding_rows(self, ids: torch.Tensor, rows: torch.Tensor) -> None:
        """Take the owner's rows."""
        self._shared.set_rows(ids, rows)

    def units(self) -> tuple[str, ...]:
        """What the trained state is kept by; see TrainingEngine.units."""
        return tuple(self._stage.units)

    def export_state(self, unit: str) -> Mapping[str, torch.Tensor]:
        """A unit's tensors, on the host; see TrainingEngine.export_state."""
        return unit_state(self._stage.units[unit], self._stage.optimizer)

    def import_state(self, unit: str, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take what `export_state` gave; see TrainingEngine.import_state."""
        self._stage.passes.weights_change()
        restore_unit(unit, self._stage.units[unit], self._stage.optimizer, tensors)

    @property
    def _stage(self) -> _Loaded:
        assert self._loaded is not None, "the engine must be loaded"
        return self._loaded

    @property
    def _shared(self) -> SharedEmbedding:
        shared = self._stage.shared
        assert shared is not None, "the embedding is trained, and another stage shares it"
        return shared

    def _forget_shared(self) -> None:
        if self._stage.shared is not None:
            self._stage.shared.weight.grad = None


def _train_all(built: BuiltStage) -> None:
    for parameter in built.model.parameters():
        parameter.requires_grad_(parameter.is_floating_point())


def _assembled(
    built: BuiltStage,
    training: Training,
    shared: SharedEmbedding | None,
    memory: GradientMemory,
    device: torch.device,
) -> _Loaded:
    foreign = shared.weight if shared and not built.cut.head else None
    units = trained_units(built, without=foreign)
    parameters = [parameter for unit in units.values() for parameter in unit.values()]
    return _Loaded(
        passes=Passes(built, training, device),
        optimizer=StageOptimizer(parameters, training.optimizer, device),
        units=units,
        shared=shared,
        memory=memory,
    )


def warm_up(device: str = "cpu") -> None:
    """Train a tiny model for a step, so that what torch and peft load late is there."""
    adapters = Adapters(rank=1, alpha=1.0, dropout=0.0, target_modules=("q_proj",))
    training = Training(
        mode=TrainMode.LORA,
        seed=0,
        recompute=True,
        optimizer=AdamW(),
        adapters=adapters,
        dtype=DType.FLOAT32,
    )
    trainer, ids = TorchTrainer(device), torch.zeros(8, dtype=torch.int64)
    with tiny_stage() as spec:
        trainer.load(spec, training, lambda _done, _total: None)
    trainer.forward(
        Microbatch(step=0, index=0, lengths=(8,)),
        ids,
        purpose=Purpose.TRAIN,
        targets=Targets(ids=ids, weight=1.0),
    )
    trainer.backward(0, None)
    trainer.apply(Update(learning_rate=0.0, scale=1.0))
    trainer.unload()
