"""Which address is used: loopback, then the fastest measured, the interface's word, the nearest."""

import random

import pytest

from edgepipe.core.profile import Address
from edgepipe.core.reach import Reached, is_loopback, rank


def reached(host, *, measured=0.0, advertised=0, round_trip_s=0.001):
    address = Address(host=host, port=1, speed_bytes_per_s=advertised)
    return Reached(address=address, round_trip_s=round_trip_s, measured_bytes_per_s=measured)


BEST_FIRST = {
    "loopback wins though another was measured": [
        reached("127.0.0.1", round_trip_s=1.0),
        reached("10.0.0.1", measured=1e9),
    ],
    "measured before advertised": [
        reached("10.0.0.1", measured=90e6, advertised=12_500_000),
        reached("192.168.0.1", measured=10e6, advertised=125_000_000),
    ],
    "speeds as good as equal: the interface's word decides": [
        reached("10.0.0.1", measured=100e6, advertised=1_250_000_000),
        reached("10.0.1.1", measured=110e6, advertised=125_000_000),
    ],
    "nothing measured: advertised": [
        reached("10.0.0.1", advertised=125_000_000, round_trip_s=0.01),
        reached("10.0.1.1", advertised=12_500_000),
    ],
    "nothing known: the shortest round trip": [
        reached("10.0.0.1", round_trip_s=0.001),
        reached("10.0.1.1", round_trip_s=0.002),
    ],
    "not measurable comes last": [
        reached("10.0.0.1", measured=1e6),
        reached("10.0.1.1", advertised=10**9),
    ],
}


@pytest.mark.parametrize("ranked", BEST_FIRST.values(), ids=BEST_FIRST)
def test_best_first(ranked):
    shuffled = random.Random(0).sample(ranked, len(ranked))
    assert list(rank(shuffled)) == ranked
    assert list(rank(reversed(ranked))) == ranked


def test_loopback():
    assert all(map(is_loopback, ("127.0.0.1", "127.8.0.1", "::1", "localhost")))
    assert not any(map(is_loopback, ("10.0.0.1", "fe80::1%lo", "elsewhere")))
