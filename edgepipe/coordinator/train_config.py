"""A training config: all that a run depends on. docs/examples/ has each setting with its default.

Paths are absolute. None means: edgepipe chooses, or the setting does not apply.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from edgepipe.coordinator.toml_text import toml_text
from edgepipe.coordinator.toml_values import AUTO
from edgepipe.core.dataset import DataFormat
from edgepipe.core.frame import Codec, DType
from edgepipe.core.learning_rate import Decay, LearningRate
from edgepipe.core.schedule import ScheduleName
from edgepipe.core.training import AdamW
from edgepipe.core.work import Strategy, TrainMode

ALL_LINEAR = "all-linear"
"""Adapters beside every linear module but the head, as peft has it."""


_AUTO = {"word": AUTO}
_ALL_LINEAR = {"word": ALL_LINEAR}
"""What a file calls None."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """What is learned from. One of `eval_path` and `eval_fraction` is None."""

    path: tuple[Path, ...]
    eval_path: Path | None = None
    eval_fraction: float | None = 0.05
    format: DataFormat = DataFormat.AUTO
    sequence_length: int = 512
    packing: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchConfig:
    """Sequences of a step, and into how many microbatches they are cut."""

    sequences: int = 8
    microbatches: int | None = field(default=None, metadata=_AUTO)


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerConfig:
    """AdamW, its learning rate over time, and clipping; a `clip_norm` of 0 is none."""

    learning_rate: float
    warmup_steps: int
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    clip_norm: float = 1.0
    decay: Decay = Decay.COSINE
    eight_bit: bool = False

    @property
    def adamw(self) -> AdamW:
        """What the stages are told."""
        return AdamW(
            weight_decay=self.weight_decay,
            betas=self.betas,
            eps=self.eps,
            eight_bit=self.eight_bit,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraConfig:
    """Adapters; without `target_modules`, beside all linear modules."""

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    target_modules: tuple[str, ...] | None = field(default=None, metadata=_ALL_LINEAR)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """What happens every so many steps; 0 is never, but for a run's end. All in steps.

    `keep_checkpoints` of 0 keeps all; at `guard_threshold`, a relative difference of the loss, a
    codec steps up.
    """

    dtype: DType | None = field(default=None, metadata=_AUTO)
    eval_every: int = 20
    checkpoint_every: int = 50
    keep_checkpoints: int = 3
    guard_every: int = 50
    guard_threshold: float = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Codecs:
    """How activations travel down, and gradients up."""

    forward: Codec | None = field(default=None, metadata=_AUTO)
    backward: Codec | None = field(default=None, metadata=_AUTO)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanConfig:
    """How the model is cut, and in which order stages work; a `schedule` may be a CSV file."""

    strategy: Strategy = Strategy.EXACT
    schedule: ScheduleName | Path = ScheduleName.ONE_F_ONE_B_K
    codec: Codecs = Codecs()
    recompute: bool | None = field(default=None, metadata=_AUTO)
    split: tuple[int, ...] | None = None
    nodes: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """A whole run. `lora` is there in the mode `lora` alone."""

    model: str
    mode: TrainMode
    seed: int
    steps: int
    output: Path
    data: DataConfig
    batch: BatchConfig
    optimizer: OptimizerConfig
    lora: LoraConfig | None
    run: RunConfig
    plan: PlanConfig

    @property
    def learning_rate(self) -> LearningRate:
        """Of every step."""
        return LearningRate(
            peak=self.optimizer.learning_rate,
            num_steps=self.steps,
            warmup_steps=self.optimizer.warmup_steps,
            decay=self.optimizer.decay,
        )

    def to_toml(self) -> str:
        """The file that reads as this config, with every setting that applies."""
        return toml_text(_written(self))


def _written(value: Any) -> Any:
    """A value as TOML has it."""
    if is_dataclass(value):
        return dict(_settings(value))
    if isinstance(value, Path):
        return str(value)
    return [_written(each) for each in value] if isinstance(value, tuple) else value


def _settings(config: Any) -> Iterator[tuple[str, Any]]:
    """Its fields; one that is None by its word, or not at all."""
    for each in fields(config):
        value = getattr(config, each.name)
        word = each.metadata.get("word") if value is None else _written(value)
        if word is not None:
            yield each.name, word
