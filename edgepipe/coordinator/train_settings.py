"""What each setting of a training config may be: a table of readers for each table of the file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from edgepipe.coordinator import toml_values as toml
from edgepipe.coordinator.models import BUNDLED
from edgepipe.coordinator.toml_table import NAME, Table
from edgepipe.coordinator.train_config import ALL_LINEAR, Codecs
from edgepipe.core.dataset import DataFormat
from edgepipe.core.frame import Codec, DType
from edgepipe.core.learning_rate import Decay
from edgepipe.core.schedule import MAX_MICROBATCHES, ScheduleName
from edgepipe.core.work import Strategy, TrainMode

MAX_STEPS = 10_000_000
MAX_SEQUENCES = 4096
MAX_SEQUENCE_LENGTH = 1 << 17
_LEAF = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
_FLOATS = (DType.FLOAT32, DType.BFLOAT16, DType.FLOAT16)


def _model(table: Table, key: str) -> str:
    """A path from the file's folder on where it is one, else a name."""
    written = table.text(key, toml.PLAIN, wants="a model")
    found = toml.located(table, key, written)
    is_path = found.exists() or written.startswith((".", "~")) or written.endswith(".gguf")
    return str(found) if is_path and written != BUNDLED else written


def _betas(table: Table, key: str) -> tuple[float, float]:
    value = table.values[key]
    if not isinstance(value, list) or len(value) != 2:
        raise table.wrong(f"{key} is no pair: write two numbers, as in [0.9, 0.999]")
    first, second = (
        table.checked(f"{key}[{at}]", each, low=0, high=0.999999) for at, each in enumerate(value)
    )
    return first, second


def _target_modules(table: Table, key: str) -> tuple[str, ...] | None:
    if table.values[key] == ALL_LINEAR:
        return None
    names: tuple[str, ...] = _LEAVES(table, key)
    return names


def _split(table: Table, key: str) -> tuple[int, ...]:
    cuts: tuple[int, ...] = toml.integers(1, 4096)(table, key)
    if sorted(set(cuts)) != list(cuts):
        raise table.wrong(f"{key} does not rise: write the layers at which stages begin, in order")
    return cuts


def _schedule(table: Table, key: str) -> ScheduleName | Path:
    value = table.values[key]
    if isinstance(value, str) and value.endswith(".csv"):
        return toml.path(table, key)
    if not isinstance(value, str) or value not in list(ScheduleName):
        names = ", ".join(ScheduleName)
        shown = repr(value[:40]) if isinstance(value, str) else "no text"
        raise table.wrong(f"{key} is {shown}: write {names} or the path of a .csv file of actions")
    return ScheduleName(value)


def _codec(table: Table, key: str) -> Codecs:
    """One for both directions, or a table."""
    inner = table.values[key]
    if isinstance(inner, dict):
        place = replace(table, place=f"{table.place}.{key}", values=inner)
        codecs = Codecs(**toml.given(place, {"forward": _CODEC, "backward": _CODEC}))
    else:
        each = _CODEC(table, key)
        codecs = Codecs(forward=each, backward=each)
    if codecs.backward is Codec.INT4:
        raise table.wrong(
            f"{key} sends gradients as int4, which is for activations only: write "
            f'{key} = {{forward = "int4", backward = "int8"}}'
        )
    return codecs


_LEAVES = toml.texts(
    'one module\'s last name, such as "q_proj"', f'modules\' last names, or "{ALL_LINEAR}"', _LEAF
)
_CODEC = toml.choice(Codec, auto=True)
_STEPS = toml.integer(0, MAX_STEPS)

WHOLE: Mapping[str, toml.Read] = {
    "model": _model,
    "mode": toml.choice(TrainMode),
    "seed": toml.integer(0, 2**63 - 1),
    "steps": toml.integer(1, MAX_STEPS),
    "output": toml.path,
}
DATA: Mapping[str, toml.Read] = {
    "path": toml.paths,
    "eval_path": toml.path,
    "eval_fraction": toml.number(0, 0.9),
    "format": toml.choice(DataFormat),
    "sequence_length": toml.integer(2, MAX_SEQUENCE_LENGTH),
    "packing": toml.flag,
}
BATCH: Mapping[str, toml.Read] = {
    "sequences": toml.integer(1, MAX_SEQUENCES),
    "microbatches": toml.integer(1, MAX_MICROBATCHES, auto=True),
}
OPTIMIZER: Mapping[str, toml.Read] = {
    "learning_rate": toml.number(0, 10),
    "weight_decay": toml.number(0, 1),
    "betas": _betas,
    "eps": toml.number(1e-20, 1),
    "clip_norm": toml.number(0, 1e9),
    "warmup_steps": _STEPS,
    "decay": toml.choice(Decay),
    "eight_bit": toml.flag,
}
LORA: Mapping[str, toml.Read] = {
    "rank": toml.integer(1, 4096),
    "alpha": toml.number(1e-6, 1e6),
    "dropout": toml.number(0, 0.99),
    "target_modules": _target_modules,
}
RUN: Mapping[str, toml.Read] = {
    "dtype": toml.choice(_FLOATS, auto=True),
    "eval_every": _STEPS,
    "checkpoint_every": _STEPS,
    "keep_checkpoints": toml.integer(0, 1_000_000),
    "guard_every": _STEPS,
    "guard_threshold": toml.number(0, 1e3),
}
PLAN: Mapping[str, toml.Read] = {
    "strategy": toml.choice(Strategy),
    "schedule": _schedule,
    "codec": _codec,
    "recompute": toml.flag_or_auto,
    "split": _split,
    "nodes": toml.texts("one node's name", "nodes' names", NAME),
}
