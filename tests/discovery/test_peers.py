from __future__ import annotations

import pytest

from edgepipe.core.profile import Address
from edgepipe.discovery.peers import DEFAULT_PORT, parse_address, parse_peers, static_sightings
from edgepipe.errors import UsageError


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("10.0.0.2:81", "10.0.0.2", 81),
        ("attic.local:81", "attic.local", 81),
        ("my_box", "my_box", DEFAULT_PORT),
        ("[fd00::2]:81", "fd00::2", 81),
        ("[fd00::2]", "fd00::2", DEFAULT_PORT),
        ("fd00::2", "fd00::2", DEFAULT_PORT),
        ("[fe80::2%eth0]:81", "fe80::2%eth0", 81),
        (" 10.0.0.2 ", "10.0.0.2", DEFAULT_PORT),
    ],
)
def test_peers_are_read_as_people_write_them(text: str, host: str, port: int) -> None:
    assert parse_peers([text]) == (Address(host=host, port=port),)


@pytest.mark.parametrize(
    "text",
    [
        "", ":", ":81", "host:", "host:port", "host:65536", "host:-1", "10.0.0:81", "10.0.0.256:81",
        "a b:81", "http://host:81", "[fd00::2:81", "[fd00::2]81", "fd00::g", "x" * 64 + ":81",
        "-h:81", "host:99999999999999999999",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--peer wants HOST:PORT .*\.$"):
        parse_peers([text])


def test_a_peer_needs_its_real_port() -> None:
    with pytest.raises(UsageError, match="has no port"):
        parse_peers(["10.0.0.2:0"])


def test_a_port_is_required_where_there_is_no_default() -> None:
    with pytest.raises(UsageError, match="--listen wants HOST:PORT"):
        parse_address("10.0.0.2", what="--listen")


def test_a_peer_given_twice_is_seen_once() -> None:
    peers = parse_peers(["10.0.0.2", f"10.0.0.2:{DEFAULT_PORT}", "10.0.0.3"])
    sightings = static_sightings(peers)
    assert [s.key for s in sightings] == [f"10.0.0.2:{DEFAULT_PORT}", f"10.0.0.3:{DEFAULT_PORT}"]
    assert {s.id for s in sightings} == {None}


def test_a_variable_names_several_peers_in_one_text() -> None:
    assert parse_peers(["10.0.0.2, 10.0.0.3:81"]) == (
        Address(host="10.0.0.2", port=DEFAULT_PORT),
        Address(host="10.0.0.3", port=81),
    )
