"""The small parts: clocks, link profiles and real loops."""

import asyncio
import sys

import pytest

from fota_transport.clock import SystemClock, VirtualClock
from fota_transport.errors import ProfileError
from fota_transport.loops import new_event_loop, raise_descriptor_limit, run
from fota_transport.profiles import GPRS, LAN, LOOPBACK, PROFILES, LinkProfile


def test_a_virtual_clock_moves_only_when_told() -> None:
    """Both scales move together, and only forward."""
    clock = VirtualClock(epoch_s=1_000.0)
    clock.advance(1.5)
    clock.move_to(2.5)

    assert (clock.monotonic(), clock.wall()) == (2.5, 1_002.5)
    with pytest.raises(ValueError, match="cannot go back"):
        clock.move_to(2.4)


def test_a_system_clock_never_goes_back() -> None:
    """Its monotonic scale is ordered and its wall time is after 2020."""
    clock = SystemClock()
    first, second = clock.monotonic(), clock.monotonic()

    assert first <= second
    assert clock.wall() > 1_577_836_800


def test_profiles_are_found_by_name() -> None:
    """The table holds every profile under its own name."""
    assert dict(PROFILES) == {"loopback": LOOPBACK, "lan": LAN, "gprs": GPRS}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("latency_s", -0.1),
        ("latency_s", float("nan")),
        ("jitter_s", -0.1),
        ("bytes_per_second", 0.0),
        ("segment_bytes", 0),
    ],
)
def test_an_impossible_profile_is_refused(field: str, value: float) -> None:
    """The error names the profile, the field and what came."""
    with pytest.raises(ProfileError, match=f"link profile odd: {field} is {value}, expected"):
        LinkProfile("odd", **{field: value})  # type: ignore[arg-type]


def test_the_loop_in_earnest_is_uvloop() -> None:
    """Where uvloop is installed, new loops are its."""
    loop = new_event_loop()
    loop.close()

    assert type(loop).__module__ == "uvloop"


def test_without_uvloop_the_loop_is_asyncios(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that has no uvloop still gets a loop."""
    monkeypatch.setitem(sys.modules, "uvloop", None)
    loop = new_event_loop()
    loop.close()

    assert isinstance(loop, asyncio.SelectorEventLoop)


def test_run_returns_the_result_and_closes_the_loop() -> None:
    """A coroutine runs on a new loop, which is closed afterwards."""

    async def main() -> asyncio.AbstractEventLoop:
        await asyncio.sleep(0)
        return asyncio.get_running_loop()

    assert run(main()).is_closed()


def test_the_descriptor_limit_is_raised_as_far_as_it_goes() -> None:
    """The limit in force is returned, and asking again changes nothing."""
    resource = pytest.importorskip("resource")
    limit = raise_descriptor_limit()

    assert limit == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert limit == raise_descriptor_limit()
