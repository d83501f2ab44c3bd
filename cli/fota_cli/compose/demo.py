"""The demo's run: a server as a process, a fleet of virtual K60s in this one, and what both say of it.

Two images, each for half of the devices. The server runs on its defaults, on a registry in SQLite and a free port. A
run counts as good only if the devices' flashes and the server's journal say the same.
"""

import asyncio
import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import fota_fixtures
from fota_protocol.formats import load
from fota_protocol.parts import DEFAULT_PART, PARTS
from fota_protocol.status import Status
from fota_server.journal import JournalRow
from fota_simulator.flash import Flash
from fota_simulator.report import McuReport, Sample, SwarmReport
from fota_simulator.swarm import DevicePlan, run_swarm
from fota_transport.loops import run as run_loop

from .local_server import LocalServer
from .page import FlashFigures, ImageFigures, JournalFigures, PageFigures

IMAGES: Final = ("demo_16k.s19", "demo_32k.s19")
"""The fixtures that are served; devices take them in turn."""

VERSIONS: Final = ("16", "32")
"""What the server calls them."""

MCUID_DIGITS: Final = 25

DISAGREEMENTS_TOLD: Final = 10
"""Most lines about devices of which the journal says otherwise."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """The devices of a demo."""

    plans: tuple[DevicePlan, ...]
    images: tuple[ImageFigures, ...]


def draw_fleet(count: int, seed: int) -> Fleet:
    """`count` devices with MCUIDs drawn from `seed`, no two alike."""
    dice = random.Random(seed)
    mcuids: dict[str, None] = {}
    while len(mcuids) < count:
        mcuids[f"0001{dice.randrange(10**21):021d}"] = None
    images = [load(fota_fixtures.read(name)) for name in IMAGES]
    plans = [DevicePlan(mcuid, image, PARTS[DEFAULT_PART]) for mcuid, image in zip(mcuids, itertools.cycle(images))]
    figures = [
        ImageFigures(
            name=name,
            crc32=image.crc32,
            first=image.first,
            end=image.end,
            records=len(image.records),
            devices=sum(plan.image is image for plan in plans),
        )
        for name, image in zip(IMAGES, images, strict=True)
    ]
    return Fleet(tuple(plans), tuple(figures))


def register(server: LocalServer, fleet: Fleet) -> None:
    """Tell the server which device gets what."""
    for turn, (name, version) in enumerate(zip(IMAGES, VERSIONS, strict=True)):
        mcuids = [plan.mcuid for plan in fleet.plans[turn :: len(IMAGES)]]
        server.add_all(mcuids, fota_fixtures.path(name), version, part=DEFAULT_PART)


def run_fleet(
    server: LocalServer, plans: Sequence[DevicePlan], on_progress: Callable[[Sample], None]
) -> tuple[SwarmReport, dict[str, Flash]]:
    """Update all devices at once; returns the report and the flash of the last one."""

    async def run_all() -> tuple[SwarmReport, dict[str, Flash]]:
        return await run_swarm(
            asyncio.get_running_loop(),
            server.host,
            server.port,
            plans,
            on_progress=on_progress,
            keep_flash_of={plans[-1].mcuid},
        )

    whole = run_all()
    try:
        return run_loop(whole)
    finally:
        whole.close()  # an interrupt may come before the loop has taken it


def compare_journal(rows: Sequence[JournalRow], report: SwarmReport) -> JournalFigures:
    """Hold the journal against the devices: each has one row, successful and with its image where it was updated."""
    by_device: dict[str | None, list[JournalRow]] = {}
    for row in rows:
        by_device.setdefault(row.mcuid, []).append(row)
    wrong = [
        f"{device.mcuid}: {trouble}"
        for device in report.devices
        if (trouble := _trouble(device, by_device.get(device.mcuid, []))) is not None
    ]
    if len(wrong) > DISAGREEMENTS_TOLD:
        wrong[DISAGREEMENTS_TOLD:] = [f"and {len(wrong) - DISAGREEMENTS_TOLD} more"]
    successful = sum(row.status == Status.SUCCESSFUL for row in rows)
    return JournalFigures(len(rows), successful, tuple(wrong))


def gather(
    fleet: Fleet,
    report: SwarmReport,
    flashes: Mapping[str, Flash],
    journal: JournalFigures,
    server_bytes: int,
    environment: Mapping[str, str],
) -> PageFigures:
    """Everything that summary and page show."""
    flash = None
    by_mcuid = {device.mcuid: device for device in report.devices}
    for mcuid, content in flashes.items():
        image = fleet.images[(len(fleet.plans) - 1) % len(fleet.images)]
        bootloader = content.part.application_start // content.part.sector_size
        programmed = frozenset(index for index in content.sectors if index >= bootloader)
        flash = FlashFigures(by_mcuid[mcuid], content.part, image, programmed)
    return PageFigures(report, fleet.images, journal, server_bytes, flash, environment)


def _trouble(device: McuReport, rows: Sequence[JournalRow]) -> str | None:
    """What the journal says that the device does not; None when they agree."""
    if len(rows) != 1:
        return f"{len(rows)} rows in the journal, expected 1"
    (row,) = rows
    if (row.status == Status.SUCCESSFUL) != (device.result == "updated"):
        return f"{device.result}, and the journal says {row.status_name}"
    if device.result == "updated" and row.image_crc != device.image_crc:
        return f"image CRC {device.image_crc} in flash, and the journal says {row.image_crc}"
    return None
