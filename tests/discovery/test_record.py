from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgepipe.core.profile import Address, NodeId
from edgepipe.discovery.record import Advertisement, MalformedRecord, read_sighting

ADVERTISEMENT = Advertisement(
    id=NodeId("0123456789abcdef"),
    name="attic",
    version="0.1.0",
    cluster="default",
    api=1,
    devices="cuda:0 NVIDIA GeForce RTX 3060, cpu AMD EPYC",
    addresses=(Address(host="10.0.0.1", port=27700),),
)
TXT: dict[bytes, bytes | None] = {k.encode(): v.encode() for k, v in ADVERTISEMENT.txt().items()}


def test_what_is_advertised_is_what_is_read() -> None:
    sighting = read_sighting(TXT, ["10.0.0.1"], 27700)
    assert {name: getattr(sighting, name) for name in ADVERTISEMENT.txt()} == {
        name: getattr(ADVERTISEMENT, name) for name in ADVERTISEMENT.txt()
    }
    assert sighting.addresses == ADVERTISEMENT.addresses


def test_a_long_name_and_a_long_hint_are_cut_to_fit() -> None:
    long = replace(ADVERTISEMENT, name="n" * 63, devices="GPU é" * 100)
    assert len(long.instance.partition(".")[0]) <= 63
    assert all(len(f"{k}={v}".encode()) <= 255 for k, v in long.txt().items())
    assert sum(len(f"{k}={v}".encode()) + 1 for k, v in long.txt().items()) < 1024


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("id", None), ("id", b""), ("id", b"../../etc"), ("id", b"a" * 33),
        ("id", b"0123456789ABCDEF"),
        ("name", b"a b"), ("name", b"\xff"), ("name", b"x" * 64), ("name", b"-rf"),
        ("cluster", b""), ("api", b"-1"), ("api", b"1e9"), ("api", b"\xd9\xa1"),
        ("api", b"1234567"),
        ("version", b"\x1b[31m"), ("devices", b"line\nline"), ("devices", b"\xfe"),
    ],
)  # fmt: skip
def test_a_malformed_string_is_named(key: str, value: bytes | None) -> None:
    with pytest.raises(MalformedRecord, match=f"its '{key}' is"):
        read_sighting({**TXT, key.encode(): value}, ["10.0.0.1"], 27700)


@pytest.mark.parametrize("port", [None, 0, 65536])
def test_a_record_needs_a_port(port: int | None) -> None:
    with pytest.raises(MalformedRecord, match="port"):
        read_sighting(TXT, ["10.0.0.1"], port)


def test_addresses_that_cannot_be_dialled_are_left_out() -> None:
    hosts = ["0.0.0.0", "224.0.0.1", "::", "ff02::1", "fe80::1", "fe80::1%3", "10.0.0.1"]
    found = read_sighting(TXT, hosts, 1).addresses
    assert [address.host for address in found] == ["fe80::1%3", "10.0.0.1"]
    with pytest.raises(MalformedRecord, match="no usable address"):
        read_sighting(TXT, ["fe80::1"], 1)


def test_the_number_of_addresses_and_bytes_is_bounded() -> None:
    hosts = [f"10.0.1.{i}" for i in range(200)]
    assert len(read_sighting(TXT, hosts, 1).addresses) == 16
    with pytest.raises(MalformedRecord, match="its TXT record has 2"):
        read_sighting({**TXT, b"x": b"y" * 2000}, hosts, 1)


@given(
    st.dictionaries(
        st.sampled_from([*TXT, b"other"]), st.none() | st.binary(max_size=300), max_size=7
    )
)
def test_no_record_does_more_than_be_malformed(noise: dict[bytes, bytes | None]) -> None:
    try:
        sighting = read_sighting({**TXT, **noise}, ["10.0.0.1"], 1)
    except MalformedRecord:
        return
    assert sighting.name.isprintable()
    assert sighting.devices.isprintable()
