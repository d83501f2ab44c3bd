"""The contract of the two worlds: real sockets and virtual time give the same journal."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest
from tests.server.conftest import Site

import fota_fixtures
from fota_protocol.formats import load
from fota_protocol.image import FirmwareImage
from fota_protocol.parts import part
from fota_server.app import running
from fota_server.journal import JournalRow, read_journal
from fota_simulator.report import SwarmReport
from fota_simulator.swarm import DevicePlan, run_swarm
from fota_transport.loops import new_event_loop
from fota_transport.profiles import GPRS, LAN, LOOPBACK
from fota_transport.simulated import SimulatedLoop

PART = part("MK60DN512")
DEVICES = 12
STRANGER = "9" * 25
BROKEN = "8" * 25


def image(name: str) -> FirmwareImage:
    return load(fota_fixtures.read(name))


def plans() -> list[DevicePlan]:
    """Devices of both handshakes and with both images, one that is unknown, and one whose file is broken."""
    devices = [
        DevicePlan(
            f"{number:025d}",
            image("blink_1.s19" if number % 2 else "blink_2.s19"),
            PART,
            suffix=str(number),
            acks_verdict=number % 3 > 0,
        )
        for number in range(DEVICES)
    ]
    return [*devices, DevicePlan(STRANGER, None, PART), DevicePlan(BROKEN, None, PART)]


def fleet(site: Site, make_loop: Callable[[], asyncio.AbstractEventLoop]) -> tuple[SwarmReport, list[JournalRow]]:
    """The plans' devices, updated by a server on the same loop: what they say, and what the journal says."""
    site.put("bad_checksum.s19")
    known = (f"{n:025d},blink_{1 if n % 2 else 2}.s19,{n:X}{',pack' if n % 4 == 0 else ''}" for n in range(DEVICES))
    site.register(*known, f"{BROKEN},bad_checksum.s19,1")
    settings = site.settings(grace=0.3)

    async def main() -> SwarmReport:
        loop = asyncio.get_running_loop()
        clock = loop.clock if isinstance(loop, SimulatedLoop) else None
        async with running(settings, clock=clock) as (_, ready, _):
            report, _ = await run_swarm(loop, ready.host, ready.port, plans())
        return report

    with asyncio.Runner(loop_factory=make_loop) as runner:
        report = runner.run(main())
    return report, read_journal(settings.journal_path)


WORLDS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "uvloop": new_event_loop,
    "asyncio": asyncio.new_event_loop,
    "simulated loopback": lambda: SimulatedLoop(1, LOOPBACK),
    "simulated LAN": lambda: SimulatedLoop(2, LAN),
    "simulated GPRS": lambda: SimulatedLoop(3, GPRS),
}


def timeless(rows: list[JournalRow]) -> list[JournalRow]:
    """The rows by device, without what may differ: times and ports."""
    bare = [replace(row, started_at=0.0, duration_s=0.0, peer="") for row in rows]
    return sorted(bare, key=lambda row: row.mcuid or "")


def expected(number: int) -> JournalRow:
    """The row that a device's update should leave."""
    name = "blink_1.s19" if number % 2 else "blink_2.s19"
    served = image(name).pack(PART.sector_size) if number % 4 == 0 else image(name)
    return JournalRow(
        started_at=0.0,
        duration_s=0.0,
        peer="",
        mcuid=f"{number:025d}",
        suffix=str(number),
        filename=name,
        version=f"{number:X}",
        image_crc=f"{fota_fixtures.fixture(name).image.crc32:08X}",  # type: ignore[union-attr]  # firmware has facts
        records=len(served.records),
        records_acked=len(served.records),
        bytes_sent=sum(map(len, served.frames)),
        status=0,
        status_name="SUCCESSFUL",
        detail="updated",
    )


@pytest.mark.parametrize("world", WORLDS)
def test_every_world_gives_the_same_journal(site: Site, world: str) -> None:
    """The same server and the same devices leave the same rows, over sockets and in virtual time."""
    report, rows = fleet(site, WORLDS[world])
    *updated, broken, stranger = timeless(rows)

    assert [expected(number) for number in range(DEVICES)] == updated
    assert (BROKEN, 8, 0) == (broken.mcuid, broken.status, broken.bytes_sent)
    assert (STRANGER, 1, 0) == (stranger.mcuid, stranger.status, stranger.bytes_sent)
    assert (DEVICES, 2, 0, DEVICES) == (report.updated, report.refused, report.failed, report.verified)


def test_virtual_time_repeats_itself_exactly(tmp_path_factory: pytest.TempPathFactory) -> None:
    """With one seed two runs agree in every row, times and ports included."""
    runs = []
    for _ in range(2):
        site = Site(tmp_path_factory.mktemp("site"))
        site.put("blink_1.s19", "blink_2.s19")
        runs.append(fleet(site, WORLDS["simulated GPRS"])[1])

    assert runs[0] == runs[1]
