"""A swarm gives every device its own fate and tells it truly, on real sockets and in virtual time alike.

The server here is the protocol's own session behind the transport's face, on any loop, and nothing else.
"""

import asyncio
import errno
import itertools
import json
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

import fota_fixtures
from fota_protocol.device import DeviceTimings
from fota_protocol.formats import load
from fota_protocol.image import FirmwareImage
from fota_protocol.parts import PARTS
from fota_protocol.server import Handshake, Identified, ServerSession
from fota_protocol.status import Status
from fota_simulator.behaviour import Arrivals, Behaviour, RetryPolicy
from fota_simulator.boot import BootloaderSettings, BootPolicy
from fota_simulator.flash import Flash
from fota_simulator.report import McuReport, Sample, SwarmReport
from fota_simulator.swarm import DevicePlan, run_swarm
from fota_transport.face import SessionProtocol
from fota_transport.loops import new_event_loop
from fota_transport.profiles import LinkProfile
from fota_transport.simulated import SimulatedLoop
from fota_transport.sweeper import Sweeper

PART = PARTS["MK60DN512"]
BLINK = load(fota_fixtures.read("blink_1.s19"))
DEMO = load(fota_fixtures.read("demo_16k.s19"))
UNSEALED = load(fota_fixtures.read("blink_1_unsealed.s19"))

Loop = asyncio.AbstractEventLoop


@dataclass(frozen=True, slots=True)
class Served:
    """What one device gets."""

    frames: Sequence[bytes]
    version: str = "1A"
    reset_after: int | None = None


Find = Callable[[str], Served | None]


class ServerFace(SessionProtocol[ServerSession]):
    """One connection of a device."""

    def __init__(self, loop: asyncio.AbstractEventLoop, sweeper: Sweeper, find: Find, handshake: Handshake) -> None:
        super().__init__(loop, sweeper)
        self._find = find
        self._handshake = handshake
        self._reset_after: int | None = None

    def open_session(self, now: float) -> ServerSession:
        """The server waits for the device to speak."""
        return ServerSession(now)

    def on_event(self, event: object) -> bytes:
        """Answer the identification."""
        if not isinstance(event, Identified):
            return b""
        served = self._find(event.identification.mcuid)
        if served is None:
            return self.session.deny(Status.CLIENT_UNVERIFIED, "unknown", self._now())
        self._reset_after = served.reset_after
        return self.session.allow(served.frames, served.version, self._now(), handshake=self._handshake)

    def data_received(self, data: bytes) -> None:
        """Break the connection when it is time to."""
        super().data_received(data)
        if self._reset_after is not None and self.session.records_sent > self._reset_after:
            self.abort()

    def on_closed(self, error: Exception | None) -> None:
        """Nothing to note."""


async def serve(
    loop: asyncio.AbstractEventLoop, find: Find, handshake: Handshake = Handshake.WAIT
) -> tuple[asyncio.AbstractServer, int]:
    """Listen on a free port; returns the server and the port."""
    sweeper = Sweeper(loop, 0.1)
    server = await loop.create_server(lambda: ServerFace(loop, sweeper, find, handshake), "127.0.0.1", 0)
    return server, server.sockets[0].getsockname()[1]


def simulated_loop() -> Loop:
    """Virtual time, an ideal network."""
    return SimulatedLoop(1)


@pytest.fixture(params=[new_event_loop, asyncio.new_event_loop, simulated_loop], ids=["uvloop", "asyncio", "simulated"])
def loop(request: pytest.FixtureRequest) -> Iterator[Loop]:
    """Each kind of loop that swarms run on."""
    loop: Loop = request.param()
    yield loop
    loop.close()


def mcuid(number: int) -> str:
    """The MCUID of a test device."""
    return f"{number:025d}"


def plan(number: int, image: FirmwareImage | None, **fields: Any) -> DevicePlan:
    """One device on the default part."""
    return DevicePlan(mcuid(number), image, PART, **fields)


def update(
    loop: Loop, plans: Sequence[DevicePlan], find: Find, *, handshake: Handshake = Handshake.WAIT, **settings: Any
) -> tuple[SwarmReport, dict[str, Flash]]:
    """Run a swarm against a server on the same loop."""

    async def run() -> tuple[SwarmReport, dict[str, Flash]]:
        server, port = await serve(loop, find, handshake)
        try:
            return await run_swarm(loop, "127.0.0.1", port, plans, **settings)
        finally:
            server.close()

    return loop.run_until_complete(run())


def fate(device: McuReport) -> tuple[str, str, str | None, str | None, int, bool, str | None, bool | None]:
    """All of a report but its times and its sentence."""
    return (
        device.mcuid,
        device.result,
        device.reason,
        device.version,
        device.records,
        device.booted,
        device.image_crc,
        device.verified,
    )


def crc(image: FirmwareImage) -> str:
    """An image's name."""
    return f"{image.crc32:08X}"


def test_same_plans_have_the_same_results_on_every_loop(loop: Loop) -> None:
    """Updated, given the wrong image, refused, rejected by its own check, cut off: each as planned, and nobody else."""
    served = {
        mcuid(0): Served(BLINK.frames),
        mcuid(1): Served(DEMO.frames, "2"),
        mcuid(2): Served(DEMO.frames),
        mcuid(4): Served(UNSEALED.frames),
        mcuid(5): Served(DEMO.frames, reset_after=100),
        mcuid(6): Served((b"S1130000285F245F2212226A000424290008237C2A",)),
    }
    plans = [plan(0, BLINK), plan(1, DEMO), plan(2, BLINK), plan(3, None), plan(4, None), plan(5, DEMO), plan(6, None)]

    report, _ = update(loop, plans, served.get)

    blink, demo = len(BLINK.records), len(DEMO.records)
    assert [fate(device) for device in report.devices[:5]] == [
        (mcuid(0), "updated", None, "1A", blink, True, crc(BLINK), True),
        (mcuid(1), "updated", None, "2", demo, True, crc(DEMO), True),
        (mcuid(2), "updated", None, "1A", demo, True, crc(DEMO), False),
        (mcuid(3), "refused", None, None, 0, False, None, None),
        (mcuid(4), "failed", "seal", None, len(UNSEALED.records), False, crc(UNSEALED), None),
    ]
    assert [(d.result, d.reason, d.booted) for d in report.devices[5:]] == [
        ("failed", "connection lost", False),
        ("failed", "bootloader region", False),
    ]
    assert (report.updated, report.refused, report.failed) == (3, 1, 3)
    assert (report.verified, report.not_verified, report.ok) == (2, 1, False)


@pytest.mark.parametrize("acks_verdict", [True, False])
@pytest.mark.parametrize("handshake", [Handshake.AUTO, Handshake.IMMEDIATE])
def test_devices_of_both_revisions_update_in_virtual_time(handshake: Handshake, acks_verdict: bool) -> None:
    """Whether or not a device acks `@4#`, over a slow link with its own cuts."""
    loop = SimulatedLoop(7, LinkProfile("calm gprs", latency_s=0.3, bytes_per_second=1_920.0, segment_bytes=64))
    plans = [plan(i, BLINK, acks_verdict=acks_verdict, suffix="0141") for i in range(3)]

    report, _ = update(loop, plans, lambda _: Served(BLINK.frames), handshake=handshake)

    loop.close()
    assert (report.updated, report.verified, report.ok) == (3, 3, True)
    assert report.p50_s > 0.6 * len(BLINK.records)


def test_nobody_listens_so_every_device_failed(loop: Loop) -> None:
    """A connection that is refused is a device's result, not an error of the run."""

    async def run() -> SwarmReport:
        server, port = await serve(loop, lambda _: None)
        server.close()
        report, _ = await run_swarm(loop, "127.0.0.1", port, [plan(i, BLINK) for i in range(300)])
        return report

    report = loop.run_until_complete(run())

    assert (report.failed, report.failures) == (300, {"connection": 300})
    assert {(d.result, d.reason, d.verified, d.image_crc) for d in report.devices} == {
        ("failed", "connection", False, None)
    }


@pytest.mark.parametrize(
    ("host", "source", "cause"),
    [
        ("127.0.0.1", None, os.strerror(errno.ECONNREFUSED)),
        ("127.0.0.1", "192.0.2.1", os.strerror(errno.EADDRNOTAVAIL)),  # of the documentation's, so nobody's
        ("no-such-host.invalid", None, "no address for that host: "),
        ("a" * 64, None, "no address for that host: "),  # longer than a label of a name may be
    ],
)
def test_a_connection_that_cannot_be_made_has_the_system_s_cause(host: str, source: str | None, cause: str) -> None:
    """Counted attempt by attempt, in the report and in samples, and in the device's own words."""
    samples: list[Sample] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    loop = new_event_loop()

    report, _ = loop.run_until_complete(
        run_swarm(
            loop,
            host,
            port,
            [plan(i, BLINK) for i in range(3)],
            behaviour=Behaviour(retry=RetryPolicy(1, 0.0)),
            source_addresses=() if source is None else (source,),
            on_progress=samples.append,
        )
    )

    loop.close()
    ((found, number),) = report.not_connected.items()
    assert found.startswith(cause)
    assert (6, {"connection": 6}) == (number, report.failed_attempts)
    assert report.not_connected == samples[-1].not_connected
    assert {f"cannot connect: {found}"} == {device.detail for device in report.devices}


def test_silent_server_is_a_timeout() -> None:
    """Every wait of a device has a deadline, also in virtual time."""
    loop = SimulatedLoop(1)

    async def run() -> SwarmReport:
        server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        report, _ = await run_swarm(loop, "127.0.0.1", port, [plan(0, None)], timings=DeviceTimings(verdict=60.0))
        server.close()
        return report

    report = loop.run_until_complete(run())

    loop.close()
    assert [(d.result, d.reason) for d in report.devices] == [("failed", "timeout")]
    assert 60.0 <= report.duration_s <= 61.0


def test_kept_flashes_hold_the_image_and_others_are_dropped(loop: Loop) -> None:
    """One flash of many is there to be looked at afterwards."""
    plans = [plan(i, BLINK) for i in range(5)]

    _, kept = update(loop, plans, lambda _: Served(BLINK.frames), keep_flash_of=[mcuid(3)])

    assert list(kept) == [mcuid(3)]
    assert kept[mcuid(3)].read(BLINK.first, BLINK.end) == BLINK.read(BLINK.first, BLINK.end)


def test_samples_add_up_and_end_with_everyone(loop: Loop) -> None:
    """At every moment each device is in one state; the last sample has them all at their end."""
    samples: list[Sample] = []
    plans = [plan(i, BLINK) for i in range(30)]

    report, _ = update(loop, plans, lambda _: Served(BLINK.frames), on_progress=samples.append)

    assert {s.waiting + s.connected + s.done for s in samples} == {30}
    assert (samples[-1].updated, samples[-1].records) == (30, 30 * len(BLINK.records))
    assert report.records == 30 * len(BLINK.records)
    assert all(later.time_s >= earlier.time_s for earlier, later in itertools.pairwise(samples))


def test_error_of_the_progress_callback_ends_the_run(loop: Loop) -> None:
    """It is the caller's own, so the caller gets it, and no connection stays behind."""

    def on_progress(sample: Sample) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        update(loop, [plan(0, BLINK)], lambda _: Served(BLINK.frames), on_progress=on_progress)


def test_connect_rate_spreads_the_beginnings() -> None:
    """At four a second the ninth device begins two seconds after the first."""
    loop = SimulatedLoop(1)
    plans = [plan(i, None) for i in range(9)]

    report, _ = update(loop, plans, lambda _: None, arrivals=Arrivals(per_s=4.0))

    loop.close()
    assert [d.started_s for d in report.devices] == pytest.approx([i / 4 for i in range(9)])


def test_stopped_run_reports_those_that_ended() -> None:
    """Two are done, the third would have gone on."""
    loop = SimulatedLoop(1)
    stop = asyncio.Event()

    def on_progress(sample: Sample) -> None:
        if sample.time_s > 1.0:
            stop.set()

    plans = [plan(i, BLINK) for i in range(3)]
    report, _ = update(
        loop, plans, lambda _: Served(BLINK.frames), arrivals=Arrivals(per_s=1.0), on_progress=on_progress, stop=stop
    )

    loop.close()
    assert (report.count, report.updated, len(report.devices)) == (3, 2, 2)
    assert not report.ok


def test_stopped_run_counts_the_records_of_those_under_way(loop: Loop) -> None:
    """Their flashes hold them, so the report does; what was counted once stays counted to the last sample."""
    stop = asyncio.Event()

    def on_progress(sample: Sample) -> None:
        if sample.records >= 30:
            stop.set()

    plans = [plan(i, BLINK) for i in range(3)]
    report, _ = update(
        loop,
        plans,
        lambda _: Served(BLINK.frames),
        behaviour=Behaviour(think_s=0.05),
        on_progress=on_progress,
        stop=stop,
    )

    records = [sample.records for sample in report.timeline]
    assert () == report.devices
    assert 30 <= report.records == records[-1]
    assert sorted(records) == records
    assert 0 == report.timeline[-1].connected


def test_timeline_of_a_long_run_is_bounded() -> None:
    """An hour of virtual time makes no more samples than a report should carry."""
    loop = SimulatedLoop(1)
    plans = [plan(i, None) for i in range(2)]

    report, _ = update(loop, plans, lambda _: None, arrivals=Arrivals(per_s=1 / 3_500))

    loop.close()
    assert len(report.timeline) <= 2_000
    assert report.timeline[-1].time_s > 3_000


def test_policy_none_takes_what_sealed_refuses(loop: Loop) -> None:
    """The policy reaches every device."""
    report, _ = update(
        loop, [plan(0, UNSEALED)], lambda _: Served(UNSEALED.frames), settings=BootloaderSettings(BootPolicy.AN2295)
    )

    assert report.ok


def test_no_devices_are_a_run_that_is_over(loop: Loop) -> None:
    """Nothing to wait for."""
    report, _ = update(loop, [], lambda _: None)

    assert (report.count, report.ok, report.p99_s) == (0, True, 0.0)


def test_reports_are_json(loop: Loop) -> None:
    """Everything in it is of JSON's types, devices and timeline included."""
    report, _ = update(loop, [plan(0, BLINK)], lambda _: Served(BLINK.frames))

    document = json.loads(json.dumps(report.as_json()))

    assert (document["updated"], document["devices"][0]["image_crc"]) == (1, crc(BLINK))
    assert document["timeline"][-1].keys() == {
        "time_s",
        "waiting",
        "connected",
        "updated",
        "refused",
        "failed",
        "records",
        "p50_s",
        "p90_s",
        "p99_s",
        "failed_attempts",
        "not_connected",
    }
