"""The devices of a cluster file, and how fast each runs a model."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from edgepipe.coordinator.toml_table import NAME, Table
from edgepipe.core.candidates import MAX_DEVICES, Candidate
from edgepipe.core.frame import DType
from edgepipe.core.model import ModelShape
from edgepipe.core.profile import DeviceId, DeviceKind, DeviceProfile
from edgepipe.core.roofline import Roofline, roofline_speed
from edgepipe.core.size import parse_size
from edgepipe.core.speed import DeviceSpeed
from edgepipe.core.stated import Pass, StatedSeconds, stated_speed
from edgepipe.errors import UsageError

MAX_MEMORY_BYTES = 1 << 50
MAX_SECONDS = 3600.0
MIN_PER_S = 1e6
MAX_PER_S = 1e18
"""Bounds of FLOPs and of bytes per second: beyond them somebody mistook the unit."""
HOST_POOL = "host"

_DEVICE = re.compile(r"cpu|mps|cuda:\d{1,2}")
_ROOFLINE_KEYS = ("flops_per_s", "memory_bytes_per_s")
_ITEMS = ("embedding", "layer", "head")
_TIME_KEYS = tuple(f"{item}_{each}_s" for item in _ITEMS for each in Pass)
_KEYS = ("node", "device", "memory", "pool", *_ROOFLINE_KEYS, *_TIME_KEYS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Paper:
    """The model that is planned for, and what stated seconds are of.

    `passes` are those that a device with stated seconds must state. Where the model is `adapted`,
    its own weights are not trained.
    """

    model: ModelShape
    dtype: DType
    prefill_chunk: int
    microbatch_rows: int
    passes: Collection[Pass]
    adapted: bool = False


def read_devices(
    whole: Table, paper: Paper
) -> tuple[tuple[Candidate, ...], tuple[DeviceSpeed, ...]]:
    """Devices and their speeds in the file's order. Raises UsageError."""
    tables = tuple(_named(table) for table in whole.tables("device", at_most=MAX_DEVICES))
    if not tables:
        raise whole.wrong("no device: add at least one [[device]]")
    devices = tuple(_device(table) for table in tables)
    _check_distinct(tables, devices)
    return devices, tuple(_speed(table, paper) for table in tables)


def _named(table: Table) -> Table:
    """The table, with its node in its place where there is one."""
    node = table.values.get("node")
    if not isinstance(node, str) or NAME.fullmatch(node) is None:
        return table
    return Table(file=table.file, place=f"{table.place} ({node})", values=table.values)


def _device(table: Table) -> Candidate:
    table.check_keys(_KEYS)
    node = table.text("node")
    device = table.text("device", _DEVICE, wants="cpu, cuda:0 or mps")
    kind = DeviceKind(device.partition(":")[0])
    memory_bytes = _memory_bytes(table)
    profile = DeviceProfile(
        id=DeviceId(device),
        kind=kind,
        name=device,
        pool=table.text("pool") if "pool" in table.values else _pool(device, kind),
        memory_bytes=memory_bytes,
        memory_free_bytes=memory_bytes,
        memory_limit_bytes=memory_bytes,
        baseline_bytes=0,
        port=0,
        num_threads=1,
    )
    return Candidate(node=node, device=profile, host=node)


def _pool(device: str, kind: DeviceKind) -> str:
    """As an agent says it: a GPU of CUDA has memory of its own, Apple's lives in the machine's."""
    return device if kind is DeviceKind.CUDA else HOST_POOL


def _memory_bytes(table: Table) -> int:
    text = table.text("memory", re.compile(r".*", re.DOTALL), wants="a size such as 24GiB")
    if text.strip().startswith("-"):
        raise table.wrong("memory is negative: write a size such as 24GiB")
    try:
        memory_bytes = parse_size(text, what="memory")
    except UsageError:
        raise table.wrong(f"memory is {text[:40]!r}: write a size such as 24GiB") from None
    if memory_bytes > MAX_MEMORY_BYTES:
        raise table.wrong(f"memory is {text[:40]!r}: write a size of at most 1024TiB")
    return memory_bytes


def _check_distinct(tables: Sequence[Table], devices: Sequence[Candidate]) -> None:
    first: dict[tuple[str, DeviceId], Table] = {}
    for table, device in zip(tables, devices, strict=True):
        if device.key in first:
            raise table.wrong(
                f"{device.device.id} is {first[device.key].place} too: state each device once"
            )
        first[device.key] = table


def _speed(table: Table, paper: Paper) -> DeviceSpeed:
    roofline = [key for key in _ROOFLINE_KEYS if key in table.values]
    times = [key for key in _TIME_KEYS if key in table.values]
    if roofline and times:
        raise table.wrong(f"states both {roofline[0]} and {times[0]}: leave one of the two out")
    if roofline:
        return roofline_speed(
            _roofline(table),
            paper.model,
            paper.dtype,
            prefill_chunk=paper.prefill_chunk,
            adapted=paper.adapted,
        )
    if times:
        return _stated(table, paper)
    raise table.wrong("no speed: add flops_per_s and memory_bytes_per_s, or seconds for each item")


def _roofline(table: Table) -> Roofline:
    return Roofline(
        flops_per_s=table.number("flops_per_s", low=MIN_PER_S, high=MAX_PER_S),
        memory_bytes_per_s=table.number("memory_bytes_per_s", low=MIN_PER_S, high=MAX_PER_S),
    )


def _stated(table: Table, paper: Paper) -> DeviceSpeed:
    for each in Pass:
        _check_whole(table, each, wanted=each in paper.passes)
    return stated_speed(
        (
            _one(table, "embedding"),
            *_layers(table, paper.model),
            _one(table, "head"),
        ),
        prefill_chunk=paper.prefill_chunk,
        microbatch_rows=paper.microbatch_rows,
    )


def _check_whole(table: Table, each: Pass, *, wanted: bool) -> None:
    """A pass is stated for embedding, layers and head, or for none where nobody wants it."""
    keys = [f"{item}_{each}_s" for item in _ITEMS]
    missing = [key for key in keys if key not in table.values]
    if missing and (wanted or len(missing) < len(keys)):
        raise table.wrong(f"{missing[0]} is missing: add it, 0 where it takes no time")


def _one(table: Table, item: str) -> StatedSeconds:
    return StatedSeconds(
        **{
            f"{each}_s": table.number(f"{item}_{each}_s", low=0, high=MAX_SECONDS)
            for each in Pass
            if f"{item}_{each}_s" in table.values
        }
    )


def _layers(table: Table, model: ModelShape) -> tuple[StatedSeconds, ...]:
    by_pass = {
        f"{each}_s": _by_layer(table, f"layer_{each}_s", model)
        for each in Pass
        if f"layer_{each}_s" in table.values
    }
    return tuple(
        StatedSeconds(**{name: seconds[layer] for name, seconds in by_pass.items()})
        for layer in range(model.num_layers)
    )


def _by_layer(table: Table, key: str, model: ModelShape) -> Sequence[float]:
    """Seconds of every layer: a number for all, or a list of one each."""
    value: Any = table.values[key]
    if not isinstance(value, list):
        return [table.number(key, low=0, high=MAX_SECONDS)] * model.num_layers
    if len(value) != model.num_layers:
        raise table.wrong(
            f"{key} lists {len(value)} numbers, and {model.name} has {model.num_layers} layers: "
            "list one for each, or write one number for all"
        )
    return [
        table.checked(f"{key}[{layer}]", each, low=0, high=MAX_SECONDS)
        for layer, each in enumerate(value)
    ]
