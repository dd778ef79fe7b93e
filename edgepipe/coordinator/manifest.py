"""What a checkpoint says of itself, and what its files are called."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgepipe.core.frame import DType
from edgepipe.core.loss_scale import LossScale
from edgepipe.core.shuffle import Cursor
from edgepipe.core.training import AdamW, Adapters
from edgepipe.core.work import TrainMode

SCHEMA = 1
MANIFEST_NAME = "manifest.json"
MAX_UNIT_BYTES = 1 << 42
"""Of one unit's file."""
_UNIT = re.compile(r"embedding|head|layer-(?P<layer>\d{5})")


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitFile:
    """The file of one unit, named for it."""

    unit: str
    sha256: str
    size_bytes: int

    @property
    def name(self) -> str:
        """The file's name in the checkpoint's folder."""
        return unit_name(self.unit)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A checkpoint after `step` steps were applied.

    `model` is what finds the model again: a folder or file by its whole path, else an id.
    `config_sha256` is `config_hash` of its config. `dtype` is the run's. Adapters are there in
    the mode `lora` alone, `loss_scale` where there is one. `codec_steps` is how often the codecs
    stepped up.
    """

    schema: int = SCHEMA
    step: int
    mode: TrainMode
    model: str
    num_layers: int
    config_sha256: str
    dtype: DType
    seed: int
    cursor: Cursor
    optimizer: AdamW
    adapters: Adapters | None = None
    loss_scale: LossScale | None = None
    codec_steps: int = 0
    files: tuple[UnitFile, ...] = ()


def config_hash(config: Mapping[str, Any]) -> str:
    """SHA-256 of a Hugging Face config, however its keys are ordered."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def unit_name(unit: str) -> str:
    """The name of a unit's file."""
    return f"{unit}.safetensors"


def is_unit(unit: str, num_layers: int) -> bool:
    """Whether a model of so many layers has such a unit."""
    match = _UNIT.fullmatch(unit)
    return match is not None and (match["layer"] is None or int(match["layer"]) < num_layers)
