"""Many virtual MCUs in one process, on whatever loop they are given: real or simulated.

Each device connects, updates, and is verified as soon as its last attempt is over; then its flash is dropped, so memory
follows the devices that are under way. A connection that cannot be made is a failed attempt, not an error.
"""

import asyncio
import dataclasses
import itertools
import os
import socket
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fota_protocol.device import DeviceTimings, Result
from fota_protocol.identity import Identification
from fota_protocol.image import FirmwareImage
from fota_protocol.parts import Part
from fota_transport.polled import Poller, available
from fota_transport.simulated import SimulatedLoop
from fota_transport.sweeper import Sweeper
from fota_transport.trace import TraceEntry

from .attempt import Attempt, TroubledAttempt
from .behaviour import ALL_AT_ONCE, PLAIN, Arrivals, Behaviour, RetryOn
from .boot import STANDARD_BOOTLOADER, BootloaderSettings
from .device_file import SUFFIX, SavedDevice, save
from .durations import Durations
from .errors import DeviceFileError
from .flash import Flash
from .mcu import McuShare, VirtualMcu
from .report import (
    BRICKED,
    NOT_CONNECTED,
    NOT_SAVED,
    NOT_VERIFIED,
    POWER_LOST,
    STORM,
    McuReport,
    Sample,
    SwarmReport,
)

CONNECTS_AT_ONCE: Final = 100
"""Connections that are being made at the same time: fewer than the shortest listen backlog in use (128)."""

CONNECT_TIMEOUT: Final = 30.0
"""Seconds to make a connection."""

NO_ADDRESS: Final = "no address for that host"
"""How a cause begins that is its name."""

SAMPLE_INTERVAL: Final = 0.2
"""Seconds between two looks at the run."""

TIMELINE_LIMIT: Final = 2_000
"""Most samples of a report; a longer run keeps every second one, then every fourth, and so on."""

SWEEP_INTERVAL: Final = 0.25
"""Seconds by which a device's deadline may be overrun, unless there are more than a sweep looks at."""


MAX_POWER_CUTS: Final = 100
"""Most power cuts of one device; a supply that fails more often is given up."""

RESUMED: Final = "resumed"
"""Not an end: the device lost its power or its connection, and begins again by itself."""


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
    is_stranger: bool = False
    """Whether the server does not know it: then a refusal is what should happen."""


Tracer = Callable[[str, TraceEntry], None]
"""Called with a device's MCUID and what passed between it and the server."""


async def run_swarm(
    loop: asyncio.AbstractEventLoop,
    host: str,
    port: int,
    plans: Sequence[DevicePlan],
    *,
    timings: DeviceTimings = DeviceTimings(),
    arrivals: Arrivals = ALL_AT_ONCE,
    behaviour: Behaviour = PLAIN,
    settings: BootloaderSettings = STANDARD_BOOTLOADER,
    devices: Path | None = None,
    source_addresses: Sequence[str] = (),
    on_progress: Callable[[Sample], None] | None = None,
    on_chunk: Tracer | None = None,
    keep_flash_of: Collection[str] = (),
    stop: asyncio.Event | None = None,
) -> tuple[SwarmReport, dict[str, Flash]]:
    """Update all of `plans` against a server; returns the report, and the flashes of `keep_flash_of` by MCUID.

    Devices begin by `arrivals` and act by `behaviour`; they connect from `source_addresses` in turn, where there are
    any. Every device leaves its file in the folder `devices`, where there is one. Setting `stop` ends the run early:
    the report has only the devices that had ended, and the records of all. Cancelling it closes every connection.
    """
    swarm = _Swarm(
        loop,
        plans,
        timings=timings,
        arrivals=arrivals,
        behaviour=behaviour,
        settings=settings,
        devices=devices,
        on_chunk=on_chunk,
        keep=frozenset(keep_flash_of),
    )
    run = loop.create_task(swarm.run(host, port, source_addresses))
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


@dataclass(slots=True)
class _Device:
    """A device from its first attempt to its last."""

    plan: DevicePlan
    mcu: VirtualMcu
    started_s: float
    attempts: int = 0
    retries: int = 0
    power_cuts: int = 0


class _Swarm:
    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        plans: Sequence[DevicePlan],
        *,
        timings: DeviceTimings,
        arrivals: Arrivals,
        behaviour: Behaviour,
        settings: BootloaderSettings,
        devices: Path | None,
        on_chunk: Tracer | None,
        keep: frozenset[str],
    ) -> None:
        self.loop = loop
        self.finished = asyncio.Event()
        self.kept: dict[str, Flash] = {}
        self.began = loop.time()
        self._plans = plans
        self._timings = timings
        self._arrivals = arrivals
        self._behaviour = behaviour
        self._settings = settings
        self._folder = devices
        self._on_chunk = on_chunk
        self._keep = keep
        self._share = McuShare.new()
        self._sweeper = Sweeper(loop, SWEEP_INTERVAL)
        # A simulated loop has a network of its own.
        self._poller = Poller(loop) if available() and not isinstance(loop, SimulatedLoop) else None
        self._queue: asyncio.Queue[int] = asyncio.Queue()
        """Numbers of devices that are to connect."""
        self._devices: dict[int, _Device] = {}
        """Devices that have begun and not ended."""
        self._live: dict[Attempt, None] = {}
        self._silent: dict[Attempt, None] = {}
        """Connections that a power cut left behind; the server ends them."""
        self._reports: dict[int, McuReport] = {}
        self._results: Counter[str] = Counter()
        self._failed_attempts: Counter[str] = Counter()
        self._not_connected: Counter[str] = Counter()
        self._durations = Durations()
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

    # --- beginning

    async def run(self, host: str, port: int, sources: Sequence[str]) -> None:
        """Connect all devices and wait for the last one to end."""
        source = itertools.cycle(sources or (None,))
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._connect_one_by_one(host, port, source)) for _ in range(CONNECTS_AT_ONCE)]
            tasks.append(group.create_task(self._begin_all()))
            if self._arrivals.storm_at_s is not None:
                tasks.append(group.create_task(self._storm(self._arrivals.storm_at_s)))
            await self.finished.wait()
            for task in tasks:
                task.cancel()

    async def _begin_all(self) -> None:
        for number, moment in enumerate(self._arrivals.moments(len(self._plans))):
            if (wait := moment - self.now()) > 0:
                await asyncio.sleep(wait)
            self._queue.put_nowait(number)

    async def _storm(self, at_s: float) -> None:
        await asyncio.sleep(max(0.0, at_s - self.now()))
        for attempt in tuple(self._live):
            if attempt.finished_at is not None or attempt.session.completed_at is not None:
                continue  # it has its image, and only its connection is still there
            self._finish_attempt(attempt, "everybody lost the connection", RESUMED)
            self._failed_attempts[STORM] += 1
            self._queue.put_nowait(attempt.number)
            attempt.reset()

    async def _connect_one_by_one(self, host: str, port: int, source: Iterator[str | None]) -> None:
        while True:
            await self._connect(await self._queue.get(), host, port, next(source))

    async def _connect(self, number: int, host: str, port: int, source: str | None) -> None:
        device = self._devices.get(number) or self._begin(number)
        device.attempts += 1
        attempt = self._attempt(number, device)
        if device.plan.saved is not None and device.plan.saved.is_bricked:
            self.ended(attempt, "its bootloader is damaged", BRICKED)
            return
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                if self._poller is not None:
                    await self._poller.connect(lambda: attempt, host, port, source=source)
                else:
                    local = None if source is None else (source, 0)
                    await self.loop.create_connection(lambda: attempt, host, port, local_addr=local)
        except (OSError, UnicodeError) as error:  # the latter: a name that no name service can be asked for
            cause = _cause(error)
            self._not_connected[cause] += 1
            self.ended(attempt, f"cannot connect: {cause}", NOT_CONNECTED)

    def _begin(self, number: int) -> _Device:
        plan = self._plans[number]
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
        device = self._devices[number] = _Device(plan, mcu, self.now())
        return device

    def _attempt(self, number: int, device: _Device) -> Attempt:
        session = device.mcu.session()
        if self._behaviour.is_plain and self._on_chunk is None:
            return Attempt(self.loop, self._sweeper, self, number, session)
        return TroubledAttempt(
            self.loop,
            self._sweeper,
            self,
            number,
            session,
            behaviour=self._behaviour,
            dice=self._behaviour.dice(number, device.attempts),
            trace=None if self._on_chunk is None else self._trace,
            on_power_lost=self._power_lost,
        )

    def _trace(self, number: int, entry: TraceEntry) -> None:
        assert self._on_chunk is not None
        self._on_chunk(self._plans[number].mcuid, dataclasses.replace(entry, time_s=entry.time_s - self.began))

    # --- ending

    def opened(self, attempt: Attempt) -> None:
        """A connection was made."""
        self._live[attempt] = None

    def ended(self, attempt: Attempt, trouble: str | None = None, reason: str = NOT_CONNECTED) -> None:
        """An attempt is over: judge it, and let the device go or come again."""
        self._silent.pop(attempt, None)
        report = self._finish_attempt(attempt, trouble, reason)
        if report is None:
            return
        if report.reason is not None:
            self._failed_attempts[report.reason] += 1
        number, device = attempt.number, self._devices[attempt.number]
        retry = self._behaviour.retry
        may_retry = reason != BRICKED and report.result != Result.UPDATED.value and not device.plan.is_stranger
        if report.result == Result.REFUSED.value and retry.on is RetryOn.FAILED:
            may_retry = False
        if may_retry and device.retries < retry.retries:
            device.retries += 1
            pause = retry.pause(device.retries, self._behaviour.dice(number, -device.retries))
            self.loop.call_later(pause, self._queue.put_nowait, number)
        else:
            self._let_go(number, device, report)

    def _power_lost(self, attempt: Attempt, off_s: float) -> None:
        """A device fell silent in mid-update; it comes again when its power does."""
        device = self._devices[attempt.number]
        device.power_cuts += 1
        if device.power_cuts > MAX_POWER_CUTS:
            report = self._finish_attempt(attempt, f"its supply failed {device.power_cuts} times", POWER_LOST)
            attempt.abort()
            if report is not None:
                self._let_go(attempt.number, device, report)
            return
        self._finish_attempt(attempt, "the supply failed", RESUMED)
        self._failed_attempts[POWER_LOST] += 1
        for older in [older for older in self._silent if older.number == attempt.number]:
            older.abort()  # one for each device is enough of what no server has ended
        self._silent[attempt] = None
        self.loop.call_later(off_s, self._queue.put_nowait, attempt.number)

    def _finish_attempt(self, attempt: Attempt, trouble: str | None, reason: str) -> McuReport | None:
        """Take an attempt out of those under way; returns how it went, None where that was told already."""
        known = attempt in self._live
        self._live.pop(attempt, None)
        device = self._devices.get(attempt.number)
        if self._closed or device is None or not (known or trouble is not None):
            return None
        session = attempt.session
        self._records += session.records
        if reason == RESUMED:
            return None
        completed = session.completed_at if session.completed_at is not None else attempt.finished_at
        ended_s = self.now() if completed is None else completed - self.began
        report = device.mcu.report(
            session,
            device.plan.image,
            started_s=device.started_s,
            duration_s=ended_s - device.started_s,
            attempts=device.attempts,
            is_stranger=device.plan.is_stranger,
        )
        if trouble is not None:
            report = dataclasses.replace(
                report, reason=reason, detail=trouble, booted=report.booted and reason != BRICKED
            )
        return report

    def _let_go(self, number: int, device: _Device, report: McuReport) -> None:
        """A device is through."""
        if (unsaved := self._save(device)) is not None:
            report = dataclasses.replace(report, result=Result.FAILED.value, reason=NOT_SAVED, detail=unsaved)
            self._failed_attempts[NOT_SAVED] += 1
        self._programmed_bytes += _programmed(device)
        del self._devices[number]
        self._reports[number] = report
        self._results[report.result] += 1
        if report.result == Result.UPDATED.value:
            self._durations.add(report.duration_s)
            if report.verified is False:
                self._failed_attempts[NOT_VERIFIED] += 1
        if device.plan.mcuid in self._keep:
            device.mcu.flash.settle()
            self.kept[device.plan.mcuid] = device.mcu.flash
        if len(self._reports) == len(self._plans):
            self.finished.set()

    def _save(self, device: _Device) -> str | None:
        """Leave the device's file, where there is a place for it; returns what went wrong."""
        if self._folder is None or (device.plan.saved is not None and device.plan.saved.is_bricked):
            return None
        try:
            save(self._folder / f"{device.plan.mcuid}{SUFFIX}", device.mcu.saved(), durable=False)
        except DeviceFileError as error:
            return str(error)
        return None

    # --- telling

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
        under_way = sum(attempt.session.records for attempt in self._live)
        p50_s, p90_s, p99_s = self._durations.percentiles((50, 90, 99))
        return Sample(
            time_s=self.now(),
            waiting=len(self._plans) - len(self._reports) - len(self._live),
            connected=len(self._live),
            updated=self._results[Result.UPDATED.value],
            refused=self._results[Result.REFUSED.value],
            failed=self._results[Result.FAILED.value],
            records=self._records + under_way,
            p50_s=p50_s,
            p90_s=p90_s,
            p99_s=p99_s,
            failed_attempts=dict(self._failed_attempts),
            not_connected=dict(self._not_connected),
        )

    def close(self) -> None:
        """Drop every connection; devices that were under way have no report."""
        self._closed = True
        for device in self._devices.values():
            self._save(device)  # as a power cut leaves it
        self._records += sum(attempt.session.records for attempt in self._live)
        dropped = (*self._live, *self._silent)
        self._live.clear()
        for attempt in dropped:
            attempt.abort()
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
            records=self._records,
            programmed_bytes=self._programmed_bytes + sum(map(_programmed, self._devices.values())),
            rss_bytes=resident_bytes(),
            failed_attempts=self._failed_attempts,
            not_connected=self._not_connected,
            strangers=sum(plan.is_stranger for plan in self._plans),
        )


def _cause(error: OSError | UnicodeError) -> str:
    """Why there is no connection, in the system's words, which are the same for all devices that it is the cause of."""
    if isinstance(error, (socket.gaierror, UnicodeError)):
        return f"{NO_ADDRESS}: {getattr(error, 'strerror', None) or error}"
    if error.errno is not None:
        return os.strerror(error.errno)
    return f"no answer within {CONNECT_TIMEOUT:g} s" if isinstance(error, TimeoutError) else str(error)


def _programmed(device: _Device) -> int:
    """Bytes that its flash took, in all of its attempts."""
    return device.mcu.flash.programmed_units * device.mcu.part.program_unit


def resident_bytes() -> int:
    """The largest resident memory of this process so far; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
