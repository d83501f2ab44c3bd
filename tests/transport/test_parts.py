"""The small parts: clocks, link profiles and real loops."""

import asyncio
import sys
from random import Random

import pytest

from fota_transport.clock import SystemClock, VirtualClock
from fota_transport.errors import ProfileError
from fota_transport.line import Line
from fota_transport.loops import new_event_loop, raise_descriptor_limit, run
from fota_transport.profiles import GPRS, LAN, LOOPBACK, LOSSY, NB_IOT, PROFILES, LinkProfile


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
    assert dict(PROFILES) == {"loopback": LOOPBACK, "lan": LAN, "gprs": GPRS, "lossy": LOSSY, "nb-iot": NB_IOT}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("latency_s", -0.1),
        ("latency_s", float("nan")),
        ("jitter_s", -0.1),
        ("bytes_per_second", 0.0),
        ("segment_bytes", 0),
        ("loss", 1.0),
        ("resend_s", -1.0),
        ("outage_every_s", 0.0),
        ("outage_s", float("inf")),
    ],
)
def test_an_impossible_profile_is_refused(field: str, value: float) -> None:
    """The error names the profile, the field and what came."""
    with pytest.raises(ProfileError, match=f"link profile odd: {field} is {value}, expected"):
        LinkProfile("odd", **{field: value})  # type: ignore[arg-type]


def arrivals(profile: LinkProfile, *, seed: int = 1, writes: int = 2_000, size: int = 10) -> list[float]:
    """When writes arrive that leave one every 10 ms."""
    line = Line(profile, Random(seed))
    return [line.due(0.01 * number, size) - 0.01 * number for number in range(writes)]


def test_a_line_is_late_by_latency_and_bytes() -> None:
    """What is written at once leaves one after the other."""
    line = Line(LinkProfile("slow", latency_s=0.5, bytes_per_second=100.0), Random(1))

    assert [0.6, 0.7, 2.6] == [pytest.approx(line.due(now, 10)) for now in (0.0, 0.0, 2.0)]


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_a_line_keeps_order_and_repeats_by_its_seed(profile: LinkProfile) -> None:
    """Whatever chance does, nothing overtakes, and the same seed does the same."""
    delays = arrivals(profile)
    line = Line(profile, Random(1))
    moments = [line.due(0.01 * number, 10) for number in range(2_000)]

    assert moments == sorted(moments)
    assert delays == arrivals(profile)
    assert min(delays) >= profile.latency_s - 1e-9


def test_what_is_lost_comes_later() -> None:
    """A share of writes is sent again, and holds up what is behind it."""
    delays = arrivals(LinkProfile("lossy", loss=0.01, resend_s=1.0))

    assert max(delays) == pytest.approx(1.0)
    assert 0.0 == min(delays)
    assert 2_000 * 0.3 < sum(delay > 0 for delay in delays) < 2_000


def test_an_outage_holds_everything_until_its_end() -> None:
    """Outages come as often as the profile says, and nothing arrives within one."""
    delays = arrivals(LinkProfile("bad", outage_every_s=10.0, outage_s=2.0), writes=100_000)
    share = sum(delay > 0 for delay in delays) / len(delays)

    assert max(delays) == pytest.approx(2.0, abs=0.02)
    assert share == pytest.approx(2.0 / 12.0, rel=0.4)


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
