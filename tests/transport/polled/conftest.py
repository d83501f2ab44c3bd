"""Every test here runs in each loop, needs epoll, and leaves no descriptor."""

import gc
import os
from collections.abc import Iterator

import pytest

from fota_transport import polled

from .scene import LOOPS, MakeLoop


@pytest.fixture(params=list(LOOPS))
def make_loop(request: pytest.FixtureRequest) -> MakeLoop:
    """Every loop that a poller must run in."""
    return LOOPS[request.param]


@pytest.fixture(autouse=True)
def _no_descriptor_is_left() -> Iterator[None]:
    """Whatever a test did, it leaves as many descriptors as it found."""
    if not polled.available():
        pytest.skip("epoll is Linux's")
    for new in LOOPS.values():  # the first of a kind opens some for good
        new().close()
    before = set(os.listdir("/proc/self/fd"))
    yield
    gc.collect()
    assert before == set(os.listdir("/proc/self/fd"))
