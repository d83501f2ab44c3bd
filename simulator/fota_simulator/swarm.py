"""Many virtual MCUs in one process, on whatever loop they are given: real or simulated.

Each device connects, updates, and is verified as soon as its session is over; then its flash is dropped, so memory
follows the devices that are under way. A connection that cannot be made is a failed device, not an error.
"""

import asyncio
import dataclasses
import itertools
import sys
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fota_protocol.device import DeviceSession, DeviceTimings, Finished, Result
from fota_protocol.identity import Identification
from fota_protocol.image import FirmwareImage
from fota_protocol.parts import Part
from fota_transport.face import SessionProtocol
from fota_transport.polled import Poller, available
from fota_transport.simulated import SimulatedLoop
from fota_transport.sweeper import Sweeper

from .boot import STANDARD_BOOTLOADER, BootloaderSettings
from .device_file import SUFFIX, SavedDevice, save
from .errors import DeviceFileError
from .flash import Flash
from .mcu import McuShare, VirtualMcu
from .report import BRICKED, NOT_CONNECTED, NOT_SAVED, McuReport, Sample, SwarmReport

CONNECTS_AT_ONCE: Final = 100
"""Connections that are being made at the same time: fewer than the shortest listen backlog in use (128)."""

CONNECT_TIMEOUT: Final = 30.0
"""Seconds to make a connection."""

SAMPLE_INTERVAL: Final = 0.2
"""Seconds between two looks at the run."""

TIMELINE_LIMIT: Final = 2_000
"""Most samples of a report; a longer run keeps every second one, then every fourth, and so on."""

SWEEP_INTERVAL: Final = 0.25
"""Longest time in seconds by which a device's deadline may be overrun."""


@dataclass(frozen=True, slots=True)
class DevicePlan:
    """One device of a run. With `image`, its flash is verified against it."""

    mcuid: str
    image: FirmwareImage | None
    part: Part
    suffix: str = ""
    acks_verdict: bool = True
    saved: SavedDevice | None = None
    """What its flash is, where it is not a new device."""


async def run_swarm(
    loop: asyncio.AbstractEventLoop,
    host: str,
    port: int,
    plans: Sequence[DevicePlan],
    *,
    timings: DeviceTimings = DeviceTimings(),
    connect_rate_per_s: float | None = None,
    settings: BootloaderSettings = STANDARD_BOOTLOADER,
    devices: Path | None = None,
    on_progress: Callable[[Sample], None] | None = None,
    keep_flash_of: Collection[str] = (),
    stop: asyncio.Event | None = None,
) -> tuple[SwarmReport, dict[str, Flash]]:
    """Update all of `plans` against a server; returns the report, and the flashes of `keep_flash_of` by MCUID.

    `connect_rate_per_s` spreads the beginnings; None begins as fast as connections can be made. Every device leaves its
    file in the folder `devices`, where there is one. Setting `stop` ends the run early: the report has only the devices
    that had ended. Cancelling it closes every connection.
    """
    swarm = _Swarm(loop, plans, timings=timings, settings=settings, devices=devices, keep=frozenset(keep_flash_of))
    run = loop.create_task(swarm.run(host, port, connect_rate_per_s))
    observer = loop.create_task(swarm.observe(on_progress))
    stopped = loop.create_task((stop or asyncio.Event()).wait())
    tasks = (run, observer, stopped)
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        ended = [task for task in tasks if task.done()]
        for task in tasks:
            task.cancel()
        swarm.close()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in ended:
        task.result()  # raises what a progress callback, or a bug, raised
    if on_progress is not None:
        on_progress(swarm.sample())
    return swarm.report(), swarm.kept


class _Swarm:
    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        plans: Sequence[DevicePlan],
        *,
        timings: DeviceTimings,
        settings: BootloaderSettings,
        devices: Path | None,
        keep: frozenset[str],
    ) -> None:
        self.loop = loop
        self.finished = asyncio.Event()
        self.kept: dict[str, Flash] = {}
        self.live: dict[_Device, None] = {}
        self.began = loop.time()
        self._plans = plans
        self._timings = timings
        self._settings = settings
        self._devices = devices
        self._keep = keep
        self._share = McuShare.new()
        self._sweeper = Sweeper(loop, SWEEP_INTERVAL)
        # A simulated loop has a network of its own.
        self._poller = Poller(loop) if available() and not isinstance(loop, SimulatedLoop) else None
        self._reports: dict[int, McuReport] = {}
        self._results: Counter[str] = Counter()
        self._records = 0
        self._programmed_bytes = 0
        self._timeline: list[Sample] = []
        self._timeline_every = 1
        self._closed = False
        if not plans:
            self.finished.set()

    def now(self) -> float:
        """Seconds since the start of the run."""
        return self.loop.time() - self.began

    async def run(self, host: str, port: int, rate_per_s: float | None) -> None:
        """Connect all devices and wait for the last one to end."""
        await self._connect_all(host, port, rate_per_s)
        await self.finished.wait()

    async def _connect_all(self, host: str, port: int, rate_per_s: float | None) -> None:
        slots = asyncio.Semaphore(CONNECTS_AT_ONCE)
        async with asyncio.TaskGroup() as group:
            for number, plan in enumerate(self._plans):
                if rate_per_s is not None:
                    await asyncio.sleep(max(0.0, number / rate_per_s - self.now()))
                await slots.acquire()
                task = group.create_task(self._connect(number, plan, host, port))
                task.add_done_callback(lambda _: slots.release())

    async def _connect(self, number: int, plan: DevicePlan, host: str, port: int) -> None:
        saved = plan.saved
        mcu = VirtualMcu(
            Identification(plan.mcuid, plan.suffix) if saved is None else saved.identification,
            plan.part,
            self._share,
            flash=None if saved is None else saved.flash(self._share.pool),
            settings=self._settings if saved is None else saved.settings,
            acks_verdict=plan.acks_verdict,
            timings=self._timings,
        )
        device = _Device(self, self._sweeper, number, plan, mcu)
        if saved is not None and saved.is_bricked:
            self.done(device, "its bootloader is damaged", BRICKED)
            return
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                if self._poller is not None:
                    await self._poller.connect(lambda: device, host, port)
                else:
                    await self.loop.create_connection(lambda: device, host, port)
        except TimeoutError:
            self.done(device, f"no connection within {CONNECT_TIMEOUT:g} s")
        except OSError as error:
            self.done(device, f"cannot connect: {error.strerror or error}")
        except UnicodeError as error:  # a host name that no name service can be asked for
            self.done(device, f"cannot connect: {error}")

    def done(self, device: "_Device", trouble: str | None = None, reason: str = NOT_CONNECTED) -> None:
        """A device is through: judge it and let go of it; `trouble` is why it never had a connection."""
        self.live.pop(device, None)
        if self._closed or device.number in self._reports:
            return
        plan, mcu, session = device.plan, device.mcu, device.attempt
        report = mcu.report(
            session,
            plan.image,
            started_s=device.started_s,
            duration_s=device.ended() - device.started_s,
        )
        if trouble is not None:
            report = dataclasses.replace(
                report, reason=reason, detail=trouble, booted=report.booted and reason != BRICKED
            )
        if (unsaved := self._save(device)) is not None:
            report = dataclasses.replace(report, result=Result.FAILED.value, reason=NOT_SAVED, detail=unsaved)
        self._reports[device.number] = report
        self._results[report.result] += 1
        self._records += session.records
        self._programmed_bytes += mcu.flash.programmed_units * mcu.part.program_unit
        if plan.mcuid in self._keep:
            mcu.flash.settle()
            self.kept[plan.mcuid] = mcu.flash
        if len(self._reports) == len(self._plans):
            self.finished.set()

    def _save(self, device: "_Device") -> str | None:
        """Leave the device's file, where there is a place for it; returns what went wrong."""
        if self._devices is None or (device.plan.saved is not None and device.plan.saved.is_bricked):
            return None
        try:
            save(self._devices / f"{device.plan.mcuid}{SUFFIX}", device.mcu.saved(), durable=False)
        except DeviceFileError as error:
            return str(error)
        return None

    async def observe(self, on_progress: Callable[[Sample], None] | None) -> None:
        for number in itertools.count():
            sample = self.sample()
            if len(self._timeline) >= TIMELINE_LIMIT:
                del self._timeline[1::2]
                self._timeline_every *= 2
            if number % self._timeline_every == 0:
                self._timeline.append(sample)
            if on_progress is not None:
                on_progress(sample)
            await asyncio.sleep(SAMPLE_INTERVAL)

    def sample(self) -> Sample:
        """The run at this moment."""
        under_way = sum(device.attempt.records for device in self.live)
        return Sample(
            time_s=self.now(),
            waiting=len(self._plans) - len(self._reports) - len(self.live),
            connected=len(self.live),
            updated=self._results[Result.UPDATED.value],
            refused=self._results[Result.REFUSED.value],
            failed=self._results[Result.FAILED.value],
            records=self._records + under_way,
        )

    def close(self) -> None:
        """Drop every connection; devices that were under way have no report."""
        self._closed = True
        for device in tuple(self.live):
            self._save(device)  # as a power cut leaves it
            device.abort()
        self._sweeper.stop()
        if self._poller is not None:
            self._poller.close()

    def report(self) -> SwarmReport:
        """The whole run."""
        devices = [self._reports[number] for number in sorted(self._reports)]
        return SwarmReport.of(
            len(self._plans),
            devices,
            (*self._timeline, self.sample()),
            duration_s=self.now(),
            programmed_bytes=self._programmed_bytes,
            rss_bytes=resident_bytes(),
        )


class _Device(SessionProtocol[DeviceSession]):
    """One device's connection."""

    __slots__ = ("_finished_s", "_swarm", "attempt", "mcu", "number", "plan", "started_s")

    def __init__(self, swarm: _Swarm, sweeper: Sweeper, number: int, plan: DevicePlan, mcu: VirtualMcu) -> None:
        super().__init__(swarm.loop, sweeper)
        self._swarm = swarm
        self.number = number
        self.plan = plan
        self.mcu = mcu
        self.attempt = mcu.session()
        self.started_s = swarm.now()
        self._finished_s: float | None = None

    def open_session(self, now: float) -> DeviceSession:
        """The device's one attempt."""
        self._swarm.live[self] = None
        return self.attempt

    def on_open(self) -> bytes:
        """Say who it is."""
        return self.attempt.start(self._now())

    def on_event(self, event: object) -> bytes:
        """Take note of the end."""
        if isinstance(event, Finished):
            self._finished_s = self._swarm.now()
        return b""

    def ended(self) -> float:
        """When the image was accepted or the attempt was over: how long the server then lingers does not count."""
        if self.attempt.completed_at is not None:
            return self.attempt.completed_at - self._swarm.began
        return self._swarm.now() if self._finished_s is None else self._finished_s

    def on_closed(self, error: Exception | None) -> None:
        """The connection is gone."""
        self._swarm.done(self)


def resident_bytes() -> int:
    """The largest resident memory of this process so far; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
