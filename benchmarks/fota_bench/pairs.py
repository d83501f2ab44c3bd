"""A server and a fleet at work: four pairs a round over loopback, alternating, so that ratios hold when rates drift.

C and C is the yardstick of its round; our server and our fleet take one side each, then both. The C sources are in
`reference/` and are compiled at run time. A measurement counts only when every device was updated by every record and
the server noted it: whatever else happened raises `BenchmarkError`.
"""

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fota_protocol.formats import dump_image
from fota_protocol.parts import DEFAULT_PART, part
from fota_protocol.status import Status
from fota_server.app import RESERVED_DESCRIPTORS
from fota_server.journal import read_journal
from fota_server.registry import RegistryEntry, SqliteRegistry

from .errors import BenchmarkError
from .image import image_of
from .processes import compile_c, cpu_seconds, first_output, json_output, memory, pinned, running, stop

HERE: Final = Path(__file__).resolve().parents[1]
"""The folder of `fleet.py` and `reference/`."""

RECORD_BYTES: Final = 16
"""Data bytes of a record, as the linker tools of the K60 boards write them: 44 characters as an S2."""

RECORDS_OF_A_PAIR: Final = 400_000
"""Records that one pair moves in all, over its connections, as far as the two limits below allow."""

MIN_RECORDS: Final = 128
"""Fewest records of a device's image: it must cover the seal, and updates are no shorter in earnest."""

MAX_RECORDS: Final = 20_000
"""Most records of a device's image: what fits into the part's flash."""

FIRST_ID: Final = 1
"""MCUID of the first device, as a number; the others follow."""

VERSION: Final = "16"
"""What both servers put into the end frame."""

GRACE: Final = 0.2
"""Seconds that our server waits, behind the last ack, for one that may be missing. Outside the C fleet's clock."""

PAIR_TIMEOUT: Final = 600.0
"""Seconds for one pair, start to end."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Who talks to whom."""

    name: str
    """Server, fleet."""
    our_server: bool
    our_fleet: bool


C_PAIR: Final = Pair("C, C", False, False)
OUR_SERVER: Final = Pair("ours, C", True, False)
OUR_FLEET: Final = Pair("C, ours", False, True)
OURS: Final = Pair("ours, ours", True, True)

PAIRS: Final = (C_PAIR, OUR_SERVER, OUR_FLEET, OURS)
"""The pairs of a round, in the order in which they run."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One pair at work once. Memory is what grew while it worked, None where it is not ours."""

    pair: str
    connections: int
    round: int
    records: int
    seconds: float
    connect_seconds: float
    at_once: int
    """Most devices that were under way at the same time: all of a C fleet; ours begin as soon as they connect."""
    server_cpu_s: float
    fleet_cpu_s: float
    server_rss_bytes: int | None
    fleet_rss_bytes: int | None

    @property
    def rate(self) -> float:
        """Records a second, once all are connected (a C fleet) or with connecting (ours)."""
        return self.records / self.seconds

    @property
    def rate_with_connecting(self) -> float:
        """Records a second from the first connection on."""
        return self.records / (self.seconds + self.connect_seconds)


@dataclass(frozen=True, slots=True)
class Workplace:
    """Where things are during a run."""

    folder: Path
    c_server: Path
    c_fleet: Path


def prepare(folder: Path) -> Workplace:
    """Compile the C pair into `folder`; raises `BenchmarkError` when it cannot be."""
    place = Workplace(folder, folder / "server", folder / "client")
    for program in (place.c_server, place.c_fleet):
        compile_c(HERE / "reference" / f"{program.name}.c", program)
    return place


def records_of_a_device(connections: int, records_of_a_pair: int) -> int:
    """Records of the image that each of so many devices is updated with."""
    return min(max(records_of_a_pair // connections, MIN_RECORDS), MAX_RECORDS)


def too_many(connections: int, descriptors: int) -> str | None:
    """Why so many connections cannot be measured with `descriptors` open files a process; None where they can."""
    needed = connections + RESERVED_DESCRIPTORS
    return f"{needed:,} open files a process, {descriptors:,} allowed" if needed > descriptors else None


def measure(
    place: Workplace,
    connections: Sequence[int],
    rounds: int,
    records_of_a_pair: int,
    progress: Callable[[str], None],
) -> Iterator[Measurement]:
    """Run every pair once a round, both ends on one core where there is one connection; raises `BenchmarkError`."""
    for count in connections:
        records = records_of_a_device(count, records_of_a_pair)
        firmware = place.folder / f"firmware-{count}"
        firmware.mkdir()
        image = image_of(records, RECORD_BYTES, part(DEFAULT_PART))
        (firmware / "image.s19").write_bytes(dump_image(image))
        for number in range(1, rounds + 1):
            for pair in PAIRS:
                with pinned(count == 1):
                    measurement = run_pair(place, pair, count, number, records, firmware)
                progress(f"{count:6} connections, round {number} of {rounds}, {pair.name}: {measurement.rate:,.0f}/s")
                yield measurement


def run_pair(place: Workplace, pair: Pair, count: int, number: int, records: int, firmware: Path) -> Measurement:
    """Start a server, let a fleet update against it, check that all of it was updated; raises `BenchmarkError`."""
    image = firmware / "image.s19"
    with contextlib.ExitStack() as stack:
        if pair.our_server:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=place.folder)))
            server, port = stack.enter_context(_our_server(folder, firmware, count, wait=pair.our_fleet))
        else:
            folder = None
            server, port = stack.enter_context(_c_server(place, image))
        rss_before, cpu_before = memory(server.pid, "VmRSS"), cpu_seconds(server.pid)
        result = json_output(_fleet(place, pair, port, count, image), pair.name, PAIR_TIMEOUT)
        server_rss = memory(server.pid, "VmHWM") - rss_before
        server_cpu = cpu_seconds(server.pid) - cpu_before
        if folder is not None:
            stop(server)
            _check_journal(folder, count)
    if result["updated"] != count or result["records"] != count * records:
        raise BenchmarkError(f"{pair.name}: {result}, expected {count} updates of {records} records")
    return Measurement(
        pair=pair.name,
        connections=count,
        round=number,
        records=result["records"],
        seconds=result["seconds"],
        connect_seconds=result["connect_seconds"],
        at_once=result.get("at_once", count),
        server_cpu_s=server_cpu,
        fleet_cpu_s=result["user_seconds"] + result["system_seconds"],
        server_rss_bytes=server_rss if pair.our_server else None,
        fleet_rss_bytes=result["rss_bytes"] if pair.our_fleet else None,
    )


def _fleet(place: Workplace, pair: Pair, port: int, count: int, image: Path) -> list[str]:
    arguments = [str(port), str(count), str(FIRST_ID)]
    if not pair.our_fleet:
        return [str(place.c_fleet), *arguments, str(PAIR_TIMEOUT)]
    command = [sys.executable, str(HERE / "fleet.py"), *arguments, str(image)]
    return [*command, "--acks-verdict"] if pair.our_server else command


@contextlib.contextmanager
def _c_server(place: Workplace, image: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The C server and its port."""
    with running([str(place.c_server), str(image), str(PAIR_TIMEOUT)]) as server:
        yield server, int(first_output(server, "C server"))


@contextlib.contextmanager
def _our_server(
    folder: Path, firmware: Path, count: int, *, wait: bool
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Our complete server, as its users start it, and its port.

    A C fleet never acks `@4#`, so the server goes on without and lingers a grace at the end. Our own fleet acks it, so
    that neither has to guess, and no linger is in the fleet's clock.
    """
    devices = (RegistryEntry(f"{FIRST_ID + i:025d}", "image.s19", VERSION, part=DEFAULT_PART) for i in range(count))
    with contextlib.closing(SqliteRegistry(folder / "registry.sqlite")) as registry:
        registry.put(devices)
    command = [sys.executable, "-m", "fota_cli", "serve", "--host", "127.0.0.1", "--port", "0"]
    command += ["--registry", str(folder / "registry.sqlite"), "--firmware", str(firmware)]
    command += ["--logs", str(folder / "logs"), "--handshake", "wait" if wait else "immediate", "--grace", str(GRACE)]
    with (folder / "stderr").open("wb") as stderr, running(command, stderr=stderr) as server:
        try:
            ready = json.loads(first_output(server, "our server"))
        except (BenchmarkError, ValueError) as error:
            raise BenchmarkError(f"{error}\n{(folder / 'stderr').read_text()}") from error
        yield server, ready["port"]


def _check_journal(folder: Path, count: int) -> None:
    """What the C fleet believes, the server must have noted."""
    rows = read_journal(folder / "logs" / "journal.sqlite")
    successful = sum(row.status == Status.SUCCESSFUL for row in rows)
    if (successful, len(rows)) != (count, count):
        raise BenchmarkError(f"journal: {successful} of {len(rows)} sessions successful, expected {count} of {count}")
