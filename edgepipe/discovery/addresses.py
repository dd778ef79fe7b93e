"""This machine's network interfaces, and which of their addresses others should be told.

wired | wireless      what people mean by "the network"
virtual               docker0, bridges of virtual machines, veth: a trap, unless all there is
                      (inside a container or a network namespace)
vpn                   tailscale, WireGuard: the last resort, but perhaps the only way
loopback              this machine only
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path

import psutil

from edgepipe.core.profile import Address
from edgepipe.errors import UsageError

MAX_ADDRESSES = 16
_SYSFS = Path("/sys/class/net")
_VPN_NAME = re.compile(r"(tun|tap|wg|tailscale|zt|utun|ppp|ipsec|nordlynx|proton)", re.IGNORECASE)
_VIRTUAL_NAME = re.compile(
    r"(docker|br-|veth(?!ernet)|virbr|vnet|vmnet|vboxnet|cni|flannel|cali|lxc|lxd|podman|kube|dummy|ifb"
    r"|awdl|llw|anpi|ap\d|gif|stf|bridge[1-9]\d\d"
    r"|vEthernet \((WSL|Default Switch)|VirtualBox|VMware|Local Area Connection\* )",
    re.IGNORECASE,
)
_WIRELESS_NAME = re.compile(r"(wl|wi-?fi|ath\d)", re.IGNORECASE)


class InterfaceKind(IntEnum):
    """The better an interface is for tensors, the lower its rank."""

    WIRED = 0
    WIRELESS = 1
    VIRTUAL = 2
    VPN = 3
    LOOPBACK = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What Linux's sysfs says of an interface.

    `is_physical` holds too for a bridge, bond or VLAN that stands on a physical interface.
    """

    is_physical: bool
    is_wireless: bool = False
    is_tunnel: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """An interface that is up. A link-local IPv6 address carries its zone: `fe80::1%eth0`."""

    name: str
    kind: InterfaceKind
    hosts: tuple[str, ...]
    speed_bytes_per_s: int = 0

    @property
    def rank(self) -> tuple[int, int]:
        """Sorts the best interface first."""
        return (self.kind, -self.speed_bytes_per_s)


def classify(name: str, *, is_loopback: bool, traits: Traits | None = None) -> InterfaceKind:
    """The kind of an interface, from sysfs where there is one, else from its name."""
    if is_loopback:
        return InterfaceKind.LOOPBACK
    if traits is None:
        return _classify_by_name(name)
    if traits.is_tunnel:
        return InterfaceKind.VPN
    if not traits.is_physical:
        return InterfaceKind.VPN if _VPN_NAME.match(name) else InterfaceKind.VIRTUAL
    return InterfaceKind.WIRELESS if traits.is_wireless else InterfaceKind.WIRED


def _classify_by_name(name: str) -> InterfaceKind:
    patterns = (
        (_VPN_NAME, InterfaceKind.VPN),
        (_VIRTUAL_NAME, InterfaceKind.VIRTUAL),
        (_WIRELESS_NAME, InterfaceKind.WIRELESS),
    )
    return next((kind for pattern, kind in patterns if pattern.match(name)), InterfaceKind.WIRED)


def read_traits(name: str, sysfs: Path = _SYSFS) -> Traits | None:
    """What sysfs says of an interface, None where there is no sysfs (not Linux)."""
    folder = sysfs / name
    if not folder.exists():
        return None
    uevent = (folder / "uevent").read_text(errors="replace")
    return Traits(
        is_physical=_is_physical(folder),
        is_wireless=(folder / "wireless").exists() or (folder / "phy80211").exists(),
        is_tunnel=(folder / "tun_flags").exists()
        or re.search(r"^DEVTYPE=(wireguard|ppp)$", uevent, re.MULTILINE) is not None,
    )


def _is_physical(folder: Path, depth: int = 4) -> bool:
    if (folder / "device").exists():
        return True
    lower = folder.glob("lower_*") if depth else ()
    return any(_is_physical(link.resolve(), depth - 1) for link in lower)


def read_interfaces() -> tuple[Interface, ...]:
    """Every interface of this machine that is up and has an address, the best first."""
    stats = psutil.net_if_stats()
    found = []
    for name, addresses in psutil.net_if_addrs().items():
        hosts = tuple(_zoned(a.address, name) for a in addresses if _is_usable(a.family, a.address))
        if hosts and name in stats and stats[name].isup:
            found.append(_interface(name, hosts, speed_mbit_per_s=stats[name].speed))
    return tuple(sorted(found, key=lambda interface: interface.rank))


def _interface(name: str, hosts: tuple[str, ...], *, speed_mbit_per_s: int) -> Interface:
    is_loopback = any(ipaddress.ip_address(host).is_loopback for host in hosts)
    return Interface(
        name=name,
        kind=classify(name, is_loopback=is_loopback, traits=read_traits(name)),
        hosts=tuple(sorted(hosts, key=_host_rank)),
        speed_bytes_per_s=max(0, speed_mbit_per_s) * 1_000_000 // 8,
    )


def _is_usable(family: int, host: str) -> bool:
    if family not in {socket.AF_INET, socket.AF_INET6}:
        return False
    address = ipaddress.ip_address(host)
    return not (address.is_unspecified or address.is_multicast)


def _zoned(host: str, interface: str) -> str:
    """Some systems leave out the zone of a link-local address."""
    address = ipaddress.ip_address(host)
    is_bare = address.version == 6 and address.is_link_local and "%" not in host
    return f"{host}%{interface}" if is_bare else host


def _host_rank(host: str) -> int:
    """IPv4 first, then global IPv6, then what works on one link only."""
    address = ipaddress.ip_address(host)
    return 2 * address.is_link_local + (address.version == 6)


def select(interfaces: Sequence[Interface], only: str | None = None) -> tuple[Interface, ...]:
    """The interfaces that other machines may reach us by, the best first.

    Raises:
        UsageError: there is no interface `only`.
    """
    if only is not None:
        return (_named(interfaces, only),)
    outward = [i for i in interfaces if i.kind is not InterfaceKind.LOOPBACK]
    real = [i for i in outward if i.kind in {InterfaceKind.WIRED, InterfaceKind.WIRELESS}]
    vpns = [i for i in outward if i.kind is InterfaceKind.VPN]
    return tuple(real + vpns if real else outward or interfaces)


def _named(interfaces: Sequence[Interface], name: str) -> Interface:
    for interface in interfaces:
        if interface.name == name:
            return interface
    there = ", ".join(interface.name for interface in interfaces)
    raise UsageError(f"There is no interface '{name}' that is up with an address: use {there}.")


def advertised(
    interfaces: Sequence[Interface],
    listen: Address,
    *,
    only: str | None = None,
    advertise: Address | None = None,
) -> tuple[Address, ...]:
    """Where others reach an agent that is bound to `listen` (its real port), the best first.

    `advertise` replaces everything; an empty `listen.host` stands for all of `select`.
    """
    if advertise is not None:
        return (advertise,)
    if listen.host:
        return (_address(_owner(interfaces, listen.host), listen.host, listen.port),)
    found = [
        _address(interface, host, listen.port)
        for interface in select(interfaces, only)
        for host in interface.hosts
    ]
    return tuple(found[:MAX_ADDRESSES])


def _address(interface: Interface | None, host: str, port: int) -> Address:
    if interface is None:
        return Address(host=host, port=port)
    speed_bytes_per_s = interface.speed_bytes_per_s
    return Address(
        host=host, port=port, interface=interface.name, speed_bytes_per_s=speed_bytes_per_s
    )


def _owner(interfaces: Sequence[Interface], host: str) -> Interface | None:
    """The interface of `host`; all of 127.0.0.0/8 is loopback's."""
    if ipaddress.ip_address(host).is_loopback:
        return next((i for i in interfaces if i.kind is InterfaceKind.LOOPBACK), None)
    return next((i for i in interfaces if host in i.hosts), None)


def multicast_hosts(
    interfaces: Sequence[Interface], listen_host: str = "", *, only: str | None = None
) -> tuple[str, ...]:
    """One address per interface and IP version on which mDNS is to be spoken.

    An agent that listens on loopback stays there; 127.0.0.1 speaks for ::1, whose group does not
    work.
    """
    if listen_host:
        owner = _owner(interfaces, listen_host)
        chosen: Sequence[Interface] = () if owner is None else (owner,)
    else:
        chosen = select(interfaces, only)
    return tuple(host for interface in chosen for host in _multicast_hosts(interface))


def _multicast_hosts(interface: Interface) -> tuple[str, ...]:
    """From a link-local IPv6 address where there is one: it tells the receiver the zone."""
    if interface.kind is InterfaceKind.LOOPBACK:
        return ("127.0.0.1",)
    v4 = [host for host in interface.hosts if ":" not in host]
    v6 = [host for host in interface.hosts if ":" in host]
    return (*v4[:1], *v6[-1:])


def rescoped(addresses: Sequence[Address], interfaces: Sequence[Interface]) -> tuple[Address, ...]:
    """The addresses as this machine can dial them.

    A zone means something only on the machine that wrote it, so a link-local IPv6 address is
    tried on each of our own interfaces.
    """
    ours = [i.name for i in interfaces if any("%" in host for host in i.hosts)]
    found: list[Address] = []
    for address in addresses:
        bare, _, zone = address.host.partition("%")
        hosts = [f"{bare}%{name}" for name in ours] if zone else [address.host]
        found += [replace(address, host=host) for host in hosts]
    return tuple(found)
