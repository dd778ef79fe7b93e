"""What was measured, kept under EDGEPIPE_HOME/profiles: one file for each device and link.

The name of a file is the digest of what its figures depend on; inside, that stands in words. A
damaged file is none. Private agents are told from others by nothing but their host, threads and
slowdown, so that one run's measurement serves the next.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from edgepipe.core import record
from edgepipe.core.measured import Measured, Measurement
from edgepipe.core.profile import DeviceProfile, NodeProfile
from edgepipe.core.reach import is_loopback
from edgepipe.core.speed import DeviceSpeed
from edgepipe.errors import EdgepipeError
from edgepipe.home import write_atomically

Entry = TypeVar("Entry", "DeviceEntry", "LinkEntry")

_IRRELEVANT = frozenset(
    {
        "_model_name_or_path",
        "_name_or_path",
        "architectures",
        "attention_dropout",
        "bos_token_id",
        "dtype",
        "eos_token_id",
        "initializer_range",
        "pad_token_id",
        "torch_dtype",
        "transformers_version",
        "unk_token_id",
        "use_cache",
    }
)
"""Fields of a config that make no layer faster or slower."""


METHOD = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceKey:
    """What the seconds of a model's items depend on. `model` is the digest of its config.

    `sequence_length` and `rank` are of training, 0 where generation was measured, or all weights
    are trained; `weight_format` is "" where matrices are of the dtype, and `offsets` are those of
    the blocks in the model's file. `method` counts up with how they are measured; see `known_as`.
    """

    model: str
    engine: str
    dtype: str
    weight_format: str
    offsets: bool
    decode_rows: tuple[int, ...]
    prefill_rows: tuple[int, ...]
    far: int
    sequence_length: int
    rank: int
    method: int
    known_as: str
    device: str
    name: str
    num_threads: int
    slowdown: float
    libraries: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkKey:
    """One way between two hosts, to the address that is reached."""

    sender: str
    receiver: str
    address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceEntry:
    """A device's figures; `measured_at_s` is the time of day, in seconds since 1970."""

    measured_at_s: float
    key: DeviceKey
    measured: Measured
    model_name: str = ""

    @property
    def speed(self) -> DeviceSpeed:
        """What a plan makes of the figures."""
        return replace(self.measured.speed, engine=self.key.engine)

    def is_of(self, node: NodeProfile, device: DeviceProfile) -> bool:
        """The figures are of this device as it is now, whatever the model."""
        known = (self.key.known_as, self.key.device, self.key.num_threads, self.key.slowdown)
        return known == (known_as(node), device.id, device.num_threads, device.slowdown)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkEntry:
    """A link's figures."""

    measured_at_s: float
    key: LinkKey
    bytes_per_s: float
    latency_s: float

    def __post_init__(self) -> None:
        """Raises ValueError for figures that no link has."""
        if not (0 < self.bytes_per_s < math.inf and 0 <= self.latency_s < math.inf):
            raise ValueError("a link has a rate above 0 and a latency from 0 on")


def known_as(node: NodeProfile) -> str:
    """The name under which a node's figures are kept, also after it restarts.

    Private agents, which only their own machine reaches, have a new id each time: they are known
    by their machine, so that one run's figures serve the next.
    """
    private = all(is_loopback(address.host) for address in node.addresses)
    return node.host_id if private else node.id


def device_key(
    config: Mapping[str, Any], asked: Measurement, node: NodeProfile, device: DeviceProfile
) -> DeviceKey:
    """Where the figures of a model on a device are kept."""
    relevant = {name: value for name, value in config.items() if name not in _IRRELEVANT}
    return DeviceKey(
        model=hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest(),
        engine=asked.engine,
        dtype=asked.dtype,
        weight_format=asked.weight_format or "",
        offsets=asked.offsets,
        decode_rows=asked.decode_rows,
        prefill_rows=asked.prefill_rows,
        far=asked.far,
        sequence_length=asked.sequence_length,
        rank=asked.rank,
        method=METHOD,
        known_as=known_as(node),
        device=device.id,
        name=device.name,
        num_threads=device.num_threads,
        slowdown=device.slowdown,
        libraries=device.libraries,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Profiles:
    """The figures kept in a home."""

    home: Path

    def device(self, key: DeviceKey) -> DeviceEntry | None:
        """What is known of a model on a device."""
        return self._read(DeviceEntry, key)

    def link(self, key: LinkKey) -> LinkEntry | None:
        """What is known of a link."""
        return self._read(LinkEntry, key)

    def devices(self) -> tuple[DeviceEntry, ...]:
        """All that is known of devices, the latest first."""
        return tuple(sorted(self._all(DeviceEntry), key=lambda entry: -entry.measured_at_s))

    def links(self) -> tuple[LinkEntry, ...]:
        """All that is known of links, the latest first."""
        return tuple(sorted(self._all(LinkEntry), key=lambda entry: -entry.measured_at_s))

    def _all(self, kind: type[Entry]) -> Iterator[Entry]:
        for path in (self.home / "profiles").glob("*.json"):
            if (entry := _load(kind, path)) is not None and self._path(entry.key) == path:
                yield entry

    def keep(self, entry: DeviceEntry | LinkEntry) -> None:
        """Remember what was measured. Raises EdgepipeError where the home cannot be written."""
        text = json.dumps(record.to_json(entry), indent=1)
        path = self._path(entry.key)
        try:
            write_atomically(path, text.encode())
        except OSError as error:
            raise EdgepipeError(
                f"what was measured cannot be kept in {path.parent} ({error.strerror}): make room "
                "there, allow writing, or set EDGEPIPE_HOME"
            ) from None

    def forget(self, key: DeviceKey | LinkKey) -> None:
        """Drop an entry; the next survey measures anew."""
        self._path(key).unlink(missing_ok=True)

    def _read(self, kind: type[Entry], key: DeviceKey | LinkKey) -> Entry | None:
        return _load(kind, self._path(key))

    def _path(self, key: DeviceKey | LinkKey) -> Path:
        text = json.dumps([type(key).__name__, record.to_json(key)], sort_keys=True)
        return self.home / "profiles" / f"{hashlib.sha256(text.encode()).hexdigest()}.json"


def _load(kind: type[Entry], path: Path) -> Entry | None:
    try:
        return record.from_json(kind, json.loads(path.read_bytes()))
    except (OSError, ValueError, RecursionError):
        return None
