"""How an agent is set up: TOML < environment (EDGEPIPE_*) < flags.

The key in the TOML file, the variable and the flag share one name; `agents/agent.toml` explains
each. A list is an array in TOML, repeated as a flag, and separated by commas in a variable.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import BeforeValidator, Field
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from edgepipe.core.lease import DEFAULT_TTL_S, MAX_TTL_S, MIN_TTL_S
from edgepipe.core.profile import Address, DeviceId
from edgepipe.core.size import parse_size
from edgepipe.discovery.peers import DEFAULT_PORT, parse_address, parse_peers
from edgepipe.errors import UsageError
from edgepipe.home import default_home
from edgepipe.obs.logs import LogFormat, LogLevel

MAX_GRACE_S = 3600.0
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryLimits:
    """`--memory`: bytes for every device, and for some by name."""

    everywhere: int | None
    by_device: Mapping[DeviceId, int]

    def of(self, device: DeviceId) -> int | None:
        """The limit of a device in bytes, None where the user set none."""
        return self.by_device.get(device, self.everywhere)


def default_name() -> str:
    """This machine's host name, as a node may be called."""
    short = socket.gethostname().partition(".")[0]
    return re.sub(r"[^A-Za-z0-9-]+", "-", short).strip("-")[:63] or "node"


def _name(value: object) -> object:
    if isinstance(value, str) and _NAME.fullmatch(value) is None:
        raise UsageError(
            f"'{value[:80]}' cannot name a node or a cluster: use up to 63 letters, digits, dots, "
            "dashes and underscores."
        )
    return value


def _listen(value: object) -> object:
    return _own_address(value, what="--listen")


def _metrics(value: object) -> object:
    if isinstance(value, str) and ":" not in value:
        raise UsageError(f"--metrics '{value[:80]}' has no port: write HOST:PORT, or :PORT.")
    return _own_address(value, what="--metrics")


def _own_address(value: object, *, what: str) -> object:
    """Where to listen: an address of this machine, or an empty host for all of them."""
    if not isinstance(value, str):
        return value
    host, _, port = value.rpartition(":")
    if host in {"", "*", "[::]", "0.0.0.0"}:  # noqa: S104 -- the user's word for "everywhere"
        return Address(host="", port=parse_address(f"x:{port}", what=what).port)
    return _numeric(parse_address(value.replace("localhost", "127.0.0.1"), what=what))


def _advertise(value: object) -> object:
    if not isinstance(value, str):
        return value
    address = _numeric(parse_address(value, what="--advertise"))
    if address.port == 0:
        raise UsageError("--advertise wants the port that others dial, not 0.")
    return address


def _numeric(address: Address) -> Address:
    try:
        ipaddress.ip_address(address.host)
    except ValueError:
        raise UsageError(
            f"'{address.host}' is a name: give an IP address, which means the same everywhere."
        ) from None
    return address


def _items(value: object) -> object:
    if isinstance(value, str):
        return tuple(item for item in (part.strip() for part in value.split(",")) if item)
    return tuple(value) if isinstance(value, list) else value


Items = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_items)]
Name = Annotated[str, BeforeValidator(_name)]


class AgentSettings(BaseSettings):
    """Everything that can be set about an agent. An empty `listen.host` means every address."""

    model_config: ClassVar[SettingsConfigDict] = SettingsConfigDict(
        env_prefix="EDGEPIPE_", extra="forbid", frozen=True
    )

    listen: Annotated[Address, NoDecode, BeforeValidator(_listen)] = Address(
        host="", port=DEFAULT_PORT
    )
    advertise: Annotated[Address | None, NoDecode, BeforeValidator(_advertise)] = None
    interface: str | None = None
    name: Name = Field(default_factory=default_name)
    cluster: Name = "default"
    peer: Items = ()
    device: Items = ()
    threads: int | None = Field(default=None, ge=1, le=1024)
    memory: Items = ()
    slowdown: float = Field(default=1.0, ge=1.0, le=1000.0)
    insecure: bool = False
    home: Path = Field(default_factory=default_home)
    lease_ttl_s: float = Field(default=DEFAULT_TTL_S, ge=MIN_TTL_S, le=MAX_TTL_S)
    metrics: Annotated[Address | None, NoDecode, BeforeValidator(_metrics)] = None
    grace_s: float = Field(default=20.0, ge=0.0, le=MAX_GRACE_S)
    log_format: LogFormat = LogFormat.AUTO
    log_level: LogLevel = LogLevel.INFO

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 -- the base class's signature
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags before the environment before the file."""
        return (init_settings, env_settings, TomlConfigSettingsSource(settings_cls))

    @property
    def peers(self) -> tuple[Address, ...]:
        """The static peers."""
        return parse_peers(self.peer)

    @property
    def memory_limits(self) -> MemoryLimits:
        """`memory`, parsed."""
        return parse_memory_limits(self.memory)

    def worker_listen(self, index: int) -> Address:
        """Where the worker of device `index` binds: PORT+1+index, or an ephemeral port."""
        port = self.listen.port and self.listen.port + 1 + index
        return Address(host=self.listen.host, port=port)

    def worker_port(self, index: int, bound_port: int) -> int:
        """The port that others dial for device `index`, whose worker is bound to `bound_port`."""
        return bound_port if self.advertise is None else self.advertise.port + 1 + index


def parse_memory_limits(items: tuple[str, ...]) -> MemoryLimits:
    """`6GiB` for every device, `cuda:0=6GiB` for one.

    Raises:
        UsageError: one is neither.
    """
    everywhere, by_device = None, {}
    for item in items:
        device, equals, size = item.rpartition("=")
        num_bytes = parse_size(size, what="--memory")
        if equals:
            by_device[DeviceId(device.strip())] = num_bytes
        else:
            everywhere = num_bytes
    return MemoryLimits(everywhere=everywhere, by_device=by_device)
