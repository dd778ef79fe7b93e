from __future__ import annotations

from pathlib import Path

import pytest

from edgepipe.core.profile import Address
from edgepipe.discovery.addresses import (
    Interface,
    InterfaceKind,
    Traits,
    advertised,
    classify,
    multicast_hosts,
    read_interfaces,
    read_traits,
    rescoped,
    select,
)
from edgepipe.errors import UsageError

LO = Interface(name="lo", kind=InterfaceKind.LOOPBACK, hosts=("127.0.0.1", "::1"))
ETH = Interface(
    name="eth0",
    kind=InterfaceKind.WIRED,
    hosts=("192.168.1.5", "fd00::5", "fe80::5%eth0"),
    speed_bytes_per_s=125_000_000,
)
WLAN = Interface(name="wlan0", kind=InterfaceKind.WIRELESS, hosts=("192.168.1.6",))
DOCKER = Interface(name="docker0", kind=InterfaceKind.VIRTUAL, hosts=("172.17.0.1",))
VPN = Interface(name="tailscale0", kind=InterfaceKind.VPN, hosts=("100.64.0.5",))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("en0", InterfaceKind.WIRED),
        ("Ethernet", InterfaceKind.WIRED),
        ("vEthernet (External)", InterfaceKind.WIRED),
        ("bridge0", InterfaceKind.WIRED),
        ("Wi-Fi", InterfaceKind.WIRELESS),
        ("wlp3s0", InterfaceKind.WIRELESS),
        ("utun4", InterfaceKind.VPN),
        ("tailscale0", InterfaceKind.VPN),
        ("docker0", InterfaceKind.VIRTUAL),
        ("bridge100", InterfaceKind.VIRTUAL),
        ("vEthernet (WSL)", InterfaceKind.VIRTUAL),
        ("awdl0", InterfaceKind.VIRTUAL),
    ],
)
def test_names_decide_where_there_is_no_sysfs(name: str, kind: InterfaceKind) -> None:
    assert classify(name, is_loopback=False) is kind


@pytest.mark.parametrize(
    ("name", "traits", "kind"),
    [
        ("docker0", Traits(is_physical=True), InterfaceKind.WIRED),
        ("enp3s0", Traits(is_physical=True, is_wireless=True), InterfaceKind.WIRELESS),
        ("eth0", Traits(is_physical=False), InterfaceKind.VIRTUAL),
        ("office", Traits(is_physical=False, is_tunnel=True), InterfaceKind.VPN),
        ("wg0", Traits(is_physical=False), InterfaceKind.VPN),
    ],
)
def test_sysfs_knows_better_than_a_name(name: str, traits: Traits, kind: InterfaceKind) -> None:
    assert classify(name, is_loopback=False, traits=traits) is kind


def make_interface(sysfs: Path, name: str, *, device: bool = False, uevent: str = "") -> Path:
    folder = sysfs / name
    folder.mkdir()
    (folder / "uevent").write_text(f"INTERFACE={name}\n{uevent}")
    if device:
        (folder / "device").mkdir()
    return folder


def test_a_bridge_is_as_real_as_what_it_stands_on(tmp_path: Path) -> None:
    nic = make_interface(tmp_path, "enp1s0", device=True)
    bond = make_interface(tmp_path, "bond0")
    (bond / "lower_enp1s0").symlink_to(nic)
    bridge = make_interface(tmp_path, "br0")
    (bridge / "lower_bond0").symlink_to(bond)
    docker = make_interface(tmp_path, "docker0")
    (docker / "lower_veth1").symlink_to(make_interface(tmp_path, "veth1"))
    assert read_traits("br0", tmp_path) == Traits(is_physical=True)
    assert read_traits("docker0", tmp_path) == Traits(is_physical=False)
    assert read_traits("eth9", tmp_path) is None


def test_tunnels_and_wifi_are_told_by_sysfs(tmp_path: Path) -> None:
    make_interface(tmp_path, "office", uevent="DEVTYPE=wireguard\n")
    (make_interface(tmp_path, "corp") / "tun_flags").touch()
    (make_interface(tmp_path, "radio", device=True) / "phy80211").mkdir()
    assert read_traits("office", tmp_path) == Traits(is_physical=False, is_tunnel=True)
    assert read_traits("corp", tmp_path) == Traits(is_physical=False, is_tunnel=True)
    assert read_traits("radio", tmp_path) == Traits(is_physical=True, is_wireless=True)


def test_virtual_interfaces_are_left_out_and_a_vpn_comes_last() -> None:
    assert select([ETH, WLAN, DOCKER, VPN, LO]) == (ETH, WLAN, VPN)


@pytest.mark.parametrize(
    ("here", "chosen"),
    [([DOCKER, LO], (DOCKER,)), ([DOCKER, VPN, LO], (DOCKER, VPN)), ([LO], (LO,))],
)
def test_what_there_is_is_used_where_nothing_is_real(
    here: list[Interface], chosen: tuple[Interface, ...]
) -> None:
    assert select(here) == chosen


def test_an_unknown_interface_is_refused_with_those_there_are() -> None:
    assert select([ETH, DOCKER, LO], "docker0") == (DOCKER,)
    with pytest.raises(UsageError, match=r"no interface 'eth7' .* use eth0, lo"):
        select([ETH, LO], "eth7")


def test_every_address_of_the_chosen_interfaces_is_advertised() -> None:
    everywhere = Address(host="", port=27700)
    found = advertised([ETH, WLAN, DOCKER, LO], everywhere)
    assert [a.host for a in found] == [*ETH.hosts, *WLAN.hosts]
    assert {(a.port, a.interface) for a in found} == {(27700, "eth0"), (27700, "wlan0")}
    assert found[0].speed_bytes_per_s == 125_000_000
    assert [a.host for a in advertised([ETH, WLAN, LO], everywhere, only="wlan0")] == [*WLAN.hosts]


def test_one_listening_address_is_advertised_alone() -> None:
    (loopback,) = advertised([ETH, LO], Address(host="127.0.0.1", port=5))
    assert (loopback.host, loopback.interface) == ("127.0.0.1", "lo")
    outside = Address(host="203.0.113.9", port=81)
    assert advertised([ETH, LO], Address(host="", port=5), advertise=outside) == (outside,)


def test_mdns_is_spoken_once_per_interface_and_ip_version() -> None:
    spoken = ("192.168.1.5", "fe80::5%eth0", "192.168.1.6")
    assert multicast_hosts([ETH, WLAN, DOCKER, LO]) == spoken
    assert multicast_hosts([ETH, WLAN, LO], "192.168.1.6") == ("192.168.1.6",)


@pytest.mark.parametrize("listen", ["127.0.0.1", "127.0.0.2", "::1"])
def test_an_agent_on_loopback_speaks_there_only(listen: str) -> None:
    assert multicast_hosts([ETH, LO], listen) == ("127.0.0.1",)


def test_a_foreign_zone_is_replaced_by_each_of_ours() -> None:
    theirs = (Address(host="10.0.0.9", port=1), Address(host="fe80::9%en5", port=1))
    hosts = [address.host for address in rescoped(theirs, [ETH, WLAN, LO])]
    assert hosts == ["10.0.0.9", "fe80::9%eth0"]


def test_this_machine_has_a_loopback() -> None:
    kinds = {interface.kind for interface in read_interfaces()}
    assert InterfaceKind.LOOPBACK in kinds
