from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest
from netns import Lan, make_lan


@contextmanager
def _lans() -> Iterator[Callable[..., Lan]]:
    if sys.platform != "linux" or os.geteuid() != 0 or not shutil.which("ip"):
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
