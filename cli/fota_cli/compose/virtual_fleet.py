"""A fleet and its server in virtual time: the real server's service and sessions, the real devices, no sockets.

Both run on one simulated loop, whose network is the link and whose clock jumps from event to event. The same seed gives
the same bytes at the same moments, so a trace of a run is the same every time.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import fota_fixtures
from fota_protocol.device import DeviceTimings
from fota_protocol.formats import dump_image, load
from fota_protocol.image import FirmwareImage
from fota_protocol.server import Handshake
from fota_protocol.srecord import SRecord
from fota_server.app import running
from fota_server.config import Settings
from fota_server.journal import read_journal
from fota_server.registry import RegistryEntry, SqliteRegistry
from fota_simulator.behaviour import ALL_AT_ONCE, PLAIN, Arrivals, Behaviour
from fota_simulator.boot import STANDARD_BOOTLOADER, BootloaderSettings
from fota_simulator.report import Sample, SwarmReport
from fota_simulator.swarm import DevicePlan, Tracer, run_swarm
from fota_transport.profiles import LinkProfile
from fota_transport.simulated import SimulatedLoop

RECORD_BYTES: Final = 32
"""Data bytes of a record of the image that is served where none is given."""

VIRTUAL_PORT: Final = 4000
"""Where the server listens, in a network of its own."""


def virtual_image() -> bytes:
    """A file to serve where none is given: 16 KiB in 512 records of 32 bytes, as field tools write them."""
    image = load(fota_fixtures.read("demo_16k.s19"))
    records = [
        SRecord(2, start, image.read(start, min(start + RECORD_BYTES, image.end)))
        for start in range(image.first, image.end, RECORD_BYTES)
    ]
    return dump_image(FirmwareImage.from_records(records, start_address=image.start_address))


@dataclass(frozen=True, slots=True)
class Served:
    """A firmware file and what the server calls its version."""

    name: str
    content: bytes
    version: str


@dataclass(frozen=True, slots=True)
class VirtualRun:
    """What came of a run: the fleet's report, and how many sessions the server's journal says ended how."""

    report: SwarmReport
    sessions: Counter[str]


def run_virtual(
    folder: Path,
    plans: Sequence[DevicePlan],
    served: Sequence[Served],
    *,
    link: LinkProfile,
    seed: int,
    handshake: Handshake = Handshake.AUTO,
    pack: bool = False,
    timings: DeviceTimings = DeviceTimings(),
    arrivals: Arrivals = ALL_AT_ONCE,
    behaviour: Behaviour = PLAIN,
    settings: BootloaderSettings = STANDARD_BOOTLOADER,
    on_progress: Callable[[Sample], None] | None = None,
    on_chunk: Tracer | None = None,
    stop: asyncio.Event | None = None,
) -> VirtualRun:
    """Update `plans` in virtual time; files of `served` are dealt out in turn, strangers get none.

    `folder` is new, and holds registry, firmware, logs and journal afterwards. Setting `stop` ends the run early: the
    report has only the devices that had ended.
    """
    firmware = folder / "firmware"
    firmware.mkdir()
    for one in served:
        (firmware / one.name).write_bytes(one.content)
    known = [plan for plan in plans if not plan.is_stranger]
    with contextlib.closing(SqliteRegistry(folder / "registry.sqlite")) as registry:
        registry.put(
            RegistryEntry(plan.mcuid, one.name, one.version, part=plan.part.name, pack=pack)
            for plan, one in ((plan, served[number % len(served)]) for number, plan in enumerate(known))
        )
    server = Settings(
        port=VIRTUAL_PORT,
        registry=folder / "registry.sqlite",
        firmware=firmware,
        logs=folder / "logs",
        handshake=handshake,
        limit=max(1, 2 * len(plans)),
    )

    async def run_all() -> SwarmReport:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SimulatedLoop)
        async with running(server, clock=loop.clock) as (_, ready, _):
            report, _ = await run_swarm(
                loop,
                ready.host,
                ready.port,
                plans,
                timings=timings,
                arrivals=arrivals,
                behaviour=behaviour,
                settings=settings,
                on_progress=on_progress,
                on_chunk=on_chunk,
                stop=stop,
            )
        return report

    with asyncio.Runner(loop_factory=lambda: SimulatedLoop(seed, link)) as runner:
        report = runner.run(run_all())
    return VirtualRun(report, Counter(row.status_name for row in read_journal(server.journal_path)))
