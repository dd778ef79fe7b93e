"""A checkpoint's `manifest.json`: written last, and checked before it is believed.

{"schema": 1, "step": 60, "mode": "lora", "model": …, "num_layers": 30, …,
 "files": [{"unit": "layer-00007", "sha256": …, "size_bytes": …}, …]}
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgepipe.coordinator.manifest import MAX_UNIT_BYTES, SCHEMA, Manifest, is_unit
from edgepipe.core import record
from edgepipe.core.compression import LOSSY_ORDER
from edgepipe.core.frame import DType
from edgepipe.core.loss_scale import LossScale
from edgepipe.core.training import AdamW, Adapters
from edgepipe.core.work import TrainMode
from edgepipe.errors import CheckpointError

MAX_MANIFEST_BYTES = 4 << 20
MAX_LAYERS = 1 << 12
MAX_STEP = 999_999_999
_MAX_COUNT = (1 << 63) - 1
_MAX_SEED = (1 << 64) - 1
_MAX_RANK = 1 << 12
_MAX_ALPHA = 1e6
_MAX_MODULES = 256
_MAX_MODEL_CHARS = 4096
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MODULE = re.compile(r"[A-Za-z0-9_]{1,128}")
_FLOATS = frozenset({DType.FLOAT32, DType.BFLOAT16, DType.FLOAT16})

Bounded = dict[str, tuple[float, float, float]]
"""Numbers by what they are: the value, and the least and the most that it may be."""


def write_manifest(manifest: Manifest) -> bytes:
    """The file's content. Raises CheckpointError where nobody could read it back."""
    for wrong in _wrong(manifest):
        raise CheckpointError(f"A checkpoint cannot say {wrong}: train with another value.")
    return json.dumps(record.to_json(manifest), indent=1).encode()


def read_manifest(path: Path) -> Manifest:
    """A manifest whose every number and name is within bounds.

    Raises:
        CheckpointError: it is missing, damaged, or of a later version; the sentence is left open
            for what can be done instead.
    """
    document = _parse(path)
    schema = document.get("schema")
    if type(schema) is int and schema > SCHEMA:
        raise CheckpointError(f"{path} is of a later version of edgepipe (update this one)")
    try:
        manifest = record.from_json(Manifest, document)
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged ({error})") from None
    for wrong in _wrong(manifest):
        raise CheckpointError(f"{path} is damaged (it says {wrong})")
    return manifest


def _parse(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror})") from None
    document = None
    if len(data) <= MAX_MANIFEST_BYTES:
        try:
            document = json.loads(data)
        except (ValueError, RecursionError):
            document = None
    if not isinstance(document, dict):
        raise CheckpointError(f"{path} is damaged (it is not a JSON object)")
    return document


def _wrong(manifest: Manifest) -> Iterator[str]:
    """What no checkpoint says, in words; nothing of a sound one."""
    numbers = {
        "schema": (manifest.schema, 1, SCHEMA),
        "step": (manifest.step, 0, MAX_STEP),
        "num_layers": (manifest.num_layers, 1, MAX_LAYERS),
        "seed": (manifest.seed, 0, _MAX_SEED),
        "epoch": (manifest.cursor.epoch, 0, _MAX_COUNT),
        "position": (manifest.cursor.position, 0, _MAX_COUNT),
        "codec_steps": (manifest.codec_steps, 0, len(LOSSY_ORDER)),
        **_optimizer_numbers(manifest.optimizer),
        **_adapter_numbers(manifest.adapters),
        **_scale_numbers(manifest.loss_scale),
    }
    for name, (value, low, high) in numbers.items():
        if not low <= value <= high:
            yield f"{name} {str(value)[:40]}, only {low} to {high}"
    yield from _wrong_names(manifest)
    yield from _wrong_files(manifest)


def _optimizer_numbers(optimizer: AdamW) -> Bounded:
    betas = {f"beta{i}": (beta, 0.0, 1.0) for i, beta in enumerate(optimizer.betas, start=1)}
    return {
        "number of betas": (len(optimizer.betas), 2, 2),
        "weight_decay": (optimizer.weight_decay, 0.0, 1e6),
        "eps": (optimizer.eps, 0.0, 1.0),
        **betas,
    }


def _adapter_numbers(adapters: Adapters | None) -> Bounded:
    if adapters is None:
        return {}
    return {
        "rank": (adapters.rank, 1, _MAX_RANK),
        "alpha": (adapters.alpha, 0.0, _MAX_ALPHA),
        "dropout": (adapters.dropout, 0.0, 1.0),
        "number of target modules": (len(adapters.target_modules), 1, _MAX_MODULES),
    }


def _scale_numbers(loss_scale: LossScale | None) -> Bounded:
    if loss_scale is None:
        return {}
    return {
        "loss scale": (loss_scale.scale, 2.0**-64, 2.0**64),
        "good_steps": (loss_scale.good_steps, 0, _MAX_COUNT),
    }


def _wrong_names(manifest: Manifest) -> Iterator[str]:
    if not 1 <= len(manifest.model) <= _MAX_MODEL_CHARS or "\0" in manifest.model:
        yield "a model that has no name"
    if _SHA256.fullmatch(manifest.config_sha256) is None:
        yield f"config_sha256 {manifest.config_sha256[:80]!r}"
    if manifest.dtype not in _FLOATS:
        yield f"dtype {manifest.dtype}"
    if (manifest.adapters is not None) != (manifest.mode is TrainMode.LORA):
        yield f"mode {manifest.mode} {'with' if manifest.adapters else 'without'} adapters"
    for module in manifest.adapters.target_modules if manifest.adapters else ():
        if _MODULE.fullmatch(module) is None:
            yield f"target module {module[:80]!r}"


def _wrong_files(manifest: Manifest) -> Iterator[str]:
    units = [file.unit for file in manifest.files]
    if len(set(units)) != len(units):
        yield "one unit twice"
    for file in manifest.files:
        if not is_unit(file.unit, manifest.num_layers):
            yield f"unit {file.unit[:80]!r} of {manifest.num_layers} layers"
        if _SHA256.fullmatch(file.sha256) is None or not 8 <= file.size_bytes <= MAX_UNIT_BYTES:
            yield f"a size or hash of {file.unit[:80]} that no file has"
