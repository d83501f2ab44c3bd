"""Devices for users' own tests: one virtual K60 to update by hand, and fleets, against any server that has an address.

What the pytest fixtures `virtual_mcu` and `fleet` hand out. With an `ota_server`, what a device is to have is known,
so its flash is verified without being told.
"""

import asyncio
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Protocol

import fota_fixtures
from fota_protocol.device import DeviceTimings
from fota_protocol.identity import Identification
from fota_protocol.image import FirmwareImage
from fota_protocol.parts import DEFAULT_PART
from fota_protocol.parts import part as find_part
from fota_simulator.boot import BootloaderSettings, BootPolicy
from fota_simulator.flash import Flash
from fota_simulator.mcu import McuShare, VirtualMcu
from fota_simulator.report import NOT_CONNECTED, McuReport, SwarmReport
from fota_simulator.swarm import DevicePlan, run_swarm
from fota_transport.clock import SystemClock
from fota_transport.errors import LinkLost
from fota_transport.links import TcpLink
from fota_transport.loops import run as run_loop
from fota_transport.pump import pump

from .local_server import LocalServer

DEFAULT_IMAGE: Final = "demo_16k.s19"
"""The fixture that a fleet gets when no image is named."""

CONNECT_TIMEOUT: Final = 10.0
"""Seconds to make a connection."""

TIMINGS: Final = DeviceTimings(verdict=15.0, frame=15.0, refusal=1.0)
"""What a device of a test waits: longer than the servers of tests, so that theirs is the first time-out."""

Firmware = Path | str | FirmwareImage
"""A firmware file, or what is in one."""


class Address(Protocol):
    """Where a server listens: a `LocalServer`, or whatever else has these two."""

    @property
    def host(self) -> str: ...

    @property
    def port(self) -> int: ...


class BenchMcu:
    """A virtual K60 that is updated by hand. Its flash survives from update to update."""

    def __init__(self, mcu: VirtualMcu, image: FirmwareImage | None) -> None:
        self._mcu = mcu
        self._image = image

    @property
    def mcuid(self) -> str:
        """Who it says it is."""
        return self._mcu.identification.mcuid

    @property
    def flash(self) -> Flash:
        """Its program flash: `.read(start, end)`, `.sectors`, `.erase_counts`."""
        return self._mcu.flash

    def update(self, server: Address) -> McuReport:
        """Connect to `server` and do as it says, to the end; never raises for what a server does."""
        ours = server if isinstance(server, LocalServer) else None
        image = self._image
        if image is None and ours is not None:
            image = ours.image_of(self.mcuid)
        clock = SystemClock()
        began = clock.monotonic()
        session = self._mcu.session()
        trouble = None
        try:
            with TcpLink.connect(server.host, server.port, CONNECT_TIMEOUT) as link:
                pump(session, link, clock, lambda _: b"", session.start(clock.monotonic()))
        except (LinkLost, TimeoutError) as error:
            trouble = str(error)
        report = self._mcu.report(session, image, started_s=0.0, duration_s=clock.monotonic() - began)
        if trouble is not None:
            return dataclasses.replace(report, reason=NOT_CONNECTED, detail=trouble)
        if ours is not None:
            ours.expect_sessions(1)
        return report


class McuFactory:
    """Makes virtual K60s; see the fixture `virtual_mcu`."""

    def __init__(self, mcuids: Iterator[str]) -> None:
        self._mcuids = mcuids
        self._share = McuShare.new()

    def __call__(
        self,
        *,
        mcuid: str | None = None,
        part: str = DEFAULT_PART,
        image: FirmwareImage | None = None,
        suffix: str = "",
        policy: BootPolicy = BootPolicy.SEALED,
        acks_verdict: bool = True,
        timings: DeviceTimings = TIMINGS,
    ) -> BenchMcu:
        """A new device with blank application flash.

        `mcuid` is one of its own if None, `part` the name of a part or board, `image` what its flash is compared
        with; `acks_verdict=False` makes it a device of revision A, which sends no ack for `@4#`.
        """
        identification = Identification(next(self._mcuids) if mcuid is None else mcuid, suffix)
        mcu = VirtualMcu(
            identification,
            find_part(part),
            self._share,
            settings=BootloaderSettings(policy),
            acks_verdict=acks_verdict,
            timings=timings,
        )
        return BenchMcu(mcu, image)


class FleetFactory:
    """Runs fleets; see the fixture `fleet`."""

    def __init__(self, mcuids: Iterator[str]) -> None:
        self._mcuids = mcuids

    def __call__(
        self,
        server: LocalServer,
        count: int = 50,
        images: Sequence[Firmware] = (),
        *,
        part: str = DEFAULT_PART,
        version: str = "01",
        policy: BootPolicy = BootPolicy.SEALED,
        timings: DeviceTimings = TIMINGS,
    ) -> SwarmReport:
        """Register `count` new devices with `server` and update all of them at once."""
        chosen: Sequence[Firmware] = images or (fota_fixtures.path(DEFAULT_IMAGE),)
        mcuids = [next(self._mcuids) for _ in range(count)]
        for turn, firmware in enumerate(chosen):
            server.add_all(mcuids[turn :: len(chosen)], firmware, version)
        plans = [DevicePlan(mcuid, server.image_of(mcuid), find_part(part)) for mcuid in mcuids]

        async def run_all() -> SwarmReport:
            loop = asyncio.get_running_loop()
            report, _ = await run_swarm(
                loop, server.host, server.port, plans, settings=BootloaderSettings(policy), timings=timings
            )
            return report

        report = run_loop(run_all())
        server.expect_sessions(sum(device.reason != NOT_CONNECTED for device in report.devices))
        return report
