from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from bench.shaped_network import Lan, can_make_networks, make_lan


@contextmanager
def _lans() -> Iterator[Callable[..., Lan]]:
    if not can_make_networks():
        pytest.skip("network namespaces need Linux, root and iproute2")
    with ExitStack() as stack:

        def make(num_hosts: int, rate: str | None = None) -> Lan:
            return make_lan(stack, num_hosts, rate)

        yield make


@pytest.fixture
def lan() -> Iterator[Callable[..., Lan]]:
    """Make LANs: `lan(num_hosts, rate=None)`. Skips where namespaces cannot be had."""
    with _lans() as make:
        yield make


@pytest.fixture(scope="module")
def lasting_lan() -> Iterator[Callable[..., Lan]]:
    """The same, for LANs that all tests of a module share."""
    with _lans() as make:
        yield make
