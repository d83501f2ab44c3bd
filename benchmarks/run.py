"""Server and fleet beside a C server and a C fleet, alternating in one run: ratios hold when the machine drifts.

    python benchmarks/run.py [--connections 1,100,1000] [--rounds 5] [--quick] [--json FILE] [--write FILE.md]

Every round runs four pairs over loopback with the same image: C and C, our server and the C fleet, the C server and our
fleet, ours and ours. A ratio is to the C pair of the same round; the table has medians over the rounds. The C sources
are in `reference/` and are compiled here; without `cc` there is nothing to compare with, and the exit code is 3.
"""

import argparse
import contextlib
import datetime
import json
import os
import platform
import random
import select
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from fota_protocol.image import FirmwareImage
from fota_protocol.integrity import SEAL_OFFSET, SEAL_SIZE
from fota_protocol.parts import DEFAULT_PART, Part, part
from fota_protocol.srecord import SRecord
from fota_protocol.status import Status
from fota_server.journal import read_journal
from fota_server.registry import RegistryEntry, SqliteRegistry

HERE: Final = Path(__file__).resolve().parent

RECORD_BYTES: Final = 16
"""Data bytes of a record, as the linker tools of the K60 boards write them: 44 characters as an S2."""

RECORDS_OF_A_PAIR: Final = 500_000
"""Records that one pair moves in all, over its connections."""

QUICK_DIVISOR: Final = 10
MIN_RECORDS: Final = 128
"""Fewest records of a device's image: it must cover the seal, and updates are no shorter in earnest."""
MAX_RECORDS: Final = 20_000
"""Most records of a device's image: what fits into the part's flash."""

FIRST_ID: Final = 1
VERSION: Final = "16"
GRACE: Final = 0.2
"""Seconds that our server waits, behind the last ack, for one that may be missing. Outside the C fleet's clock."""

PAIR_DEADLINE: Final = 300.0
"""Seconds for one pair, start to end."""
READY_DEADLINE: Final = 30.0
STOP_DEADLINE: Final = 30.0

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"

CANNOT_TEST: Final = 3
"""Exit code: something could not be measured."""


class BenchmarkError(Exception):
    """A measurement that cannot be made, or is not valid."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Who talks to whom."""

    name: str
    our_server: bool
    our_fleet: bool


PAIRS: Final = (
    Pair("C, C", False, False),
    Pair("ours, C", True, False),
    Pair("C, ours", False, True),
    Pair("ours, ours", True, True),
)


@dataclass(frozen=True, slots=True)
class Measurement:
    """One pair at work once. Memory is what grew while it worked, None where it is not ours."""

    pair: str
    connections: int
    round: int
    records: int
    seconds: float
    connect_seconds: float
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
class Row:
    """One line of the table."""

    connections: int
    pair: str
    records_per_s: float
    ratio: float
    ratio_low: float
    ratio_high: float
    server_cpu_us: float
    """Processor time of the server for one record, in microseconds, the kernel's work for it included."""
    fleet_cpu_us: float
    server_bytes_per_connection: float | None
    fleet_bytes_per_device: float | None


@dataclass(frozen=True, slots=True)
class Bench:
    """Where things are during a run."""

    folder: Path
    c_server: Path
    c_fleet: Path


def main() -> int:
    args = _parser().parse_args()
    progress = Console(stderr=True)
    before = Cores.now()
    try:
        with tempfile.TemporaryDirectory(prefix="fota-bench-") as folder:
            bench = compile_reference(Path(folder))
            divisor = QUICK_DIVISOR if args.quick else 1
            measurements = list(measure(bench, args.connections, args.rounds, RECORDS_OF_A_PAIR // divisor, progress))
    except BenchmarkError as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return CANNOT_TEST
    rows, facts = summarize(measurements), machine_facts(args.rounds, args.quick, before, Cores.now())
    Console().print(table(rows))
    print(disturbance(facts))
    if args.json is not None:
        document = {
            "facts": facts,
            "rows": [asdict(row) for row in rows],
            "measurements": [asdict(measurement) for measurement in measurements],
        }
        args.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    if args.write is not None:
        replace_section(args.write, markdown(rows, facts))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--connections", type=_counts, default=(1, 100, 1000), metavar="N,…", help="default: 1,100,1000"
    )
    parser.add_argument("--rounds", type=_count, default=5, metavar="N", help="default: 5")
    parser.add_argument("--quick", action="store_true", help="a tenth of the records: does it work, not how fast")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every measurement")
    parser.add_argument("--write", type=Path, metavar="FILE", help=f"put the table between {BEGIN} and {END}")
    return parser


def _counts(text: str) -> tuple[int, ...]:
    return tuple(_count(item) for item in text.split(","))


def _count(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 19_000:  # descriptors of one process
        raise argparse.ArgumentTypeError(f"{number}, expected 1 to 19000")
    return number


# --- measuring


def compile_reference(folder: Path) -> Bench:
    """Compile the C pair into `folder`; raises `BenchmarkError` when it cannot be."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise BenchmarkError("no C compiler: expected `cc` on the path")
    programs = {name: folder / name for name in ("server", "client")}
    for name, program in programs.items():
        source = HERE / "reference" / f"{name}.c"
        command = [compiler, "-std=gnu11", "-O2", "-o", str(program), str(source)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        if done.returncode:
            raise BenchmarkError(f"cannot compile {source.name}:\n{done.stderr}")
    return Bench(folder, programs["server"], programs["client"])


def measure(
    bench: Bench, connections: Sequence[int], rounds: int, records_of_a_pair: int, progress: Console
) -> Iterator[Measurement]:
    """Run every pair once a round; raises `BenchmarkError`."""
    for count in connections:
        records = min(max(records_of_a_pair // count, MIN_RECORDS), MAX_RECORDS)
        firmware = bench.folder / f"firmware-{count}"
        firmware.mkdir()
        (firmware / "image.s19").write_bytes(s19(image_of(records, part(DEFAULT_PART))))
        for number in range(1, rounds + 1):
            for pair in PAIRS:
                with _pinned(count == 1):
                    measurement = run_pair(bench, pair, count, number, records, firmware)
                progress.print(
                    f"{count:6} connections, round {number} of {rounds}, {pair.name}: {measurement.rate:,.0f}/s",
                    highlight=False,
                )
                yield measurement


def run_pair(bench: Bench, pair: Pair, count: int, number: int, records: int, firmware: Path) -> Measurement:
    """Start a server, let a fleet update against it, check that all of it was updated; raises `BenchmarkError`."""
    image = firmware / "image.s19"
    with contextlib.ExitStack() as stack:
        if pair.our_server:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=bench.folder)))
            server, port = stack.enter_context(our_server(folder, firmware, count, wait=pair.our_fleet))
        else:
            folder = None
            server, port = stack.enter_context(c_server(bench, image))
        rss_before, cpu_before = _memory(server.pid, "VmRSS"), _cpu_seconds(server.pid)
        fleet = [str(port), str(count), str(FIRST_ID)]
        if pair.our_fleet:
            command = [sys.executable, str(HERE / "fleet.py"), *fleet, str(image)]
            command += ["--acks-verdict"] if pair.our_server else []
        else:
            command = [str(bench.c_fleet), *fleet, str(PAIR_DEADLINE)]
        result = _fleet_result(command, pair)
        server_rss = _memory(server.pid, "VmHWM") - rss_before
        server_cpu = _cpu_seconds(server.pid) - cpu_before
        if folder is not None:
            _stop(server)
            _check_journal(folder, count)
    if result["updated"] != count or result["records"] != count * records:
        raise BenchmarkError(f"{pair.name}: {result}, expected {count} updates of {records} records")
    return Measurement(
        pair.name,
        count,
        number,
        result["records"],
        result["seconds"],
        result["connect_seconds"],
        server_cpu,
        result["user_seconds"] + result["system_seconds"],
        server_rss if pair.our_server else None,
        result["rss_bytes"] if pair.our_fleet else None,
    )


@contextlib.contextmanager
def c_server(bench: Bench, image: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The C server and its port."""
    with _process([str(bench.c_server), str(image), str(PAIR_DEADLINE)], stderr=None) as server:
        yield server, int(_first_line(server, "C server"))


@contextlib.contextmanager
def our_server(
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
    with (folder / "stderr").open("wb") as stderr, _process(command, stderr=stderr) as server:
        try:
            ready = json.loads(_first_line(server, "our server"))
        except (BenchmarkError, ValueError) as error:
            raise BenchmarkError(f"{error}\n{(folder / 'stderr').read_text()}") from error
        yield server, ready["port"]


@contextlib.contextmanager
def _process(command: Sequence[str], *, stderr: Any) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, bufsize=0) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def _first_line(process: subprocess.Popen[bytes], name: str) -> bytes:
    assert process.stdout is not None
    readable, _, _ = select.select([process.stdout], [], [], READY_DEADLINE)
    line = process.stdout.readline() if readable else b""
    if not line:
        raise BenchmarkError(f"{name}: not ready within {READY_DEADLINE:g} s")
    return line


def _stop(server: subprocess.Popen[bytes]) -> None:
    server.send_signal(signal.SIGTERM)
    try:
        code = server.wait(STOP_DEADLINE)
    except subprocess.TimeoutExpired:
        raise BenchmarkError(f"our server: still there {STOP_DEADLINE:g} s after SIGTERM") from None
    if code:
        raise BenchmarkError(f"our server: exit code {code}, expected 0")


def _fleet_result(command: Sequence[str], pair: Pair) -> dict[str, Any]:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PAIR_DEADLINE)
    except subprocess.TimeoutExpired:
        raise BenchmarkError(f"{pair.name}: not done within {PAIR_DEADLINE:g} s") from None
    if done.returncode:
        raise BenchmarkError(f"{pair.name}: the fleet's exit code is {done.returncode}: {done.stdout}{done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def _check_journal(folder: Path, count: int) -> None:
    """What the C fleet believes, the server must have noted."""
    rows = read_journal(folder / "logs" / "journal.sqlite")
    successful = sum(row.status == Status.SUCCESSFUL for row in rows)
    if (successful, len(rows)) != (count, count):
        raise BenchmarkError(f"journal: {successful} of {len(rows)} sessions successful, expected {count} of {count}")


def _memory(pid: int, field: str) -> int:
    """A size from /proc/PID/status, in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise BenchmarkError(f"/proc/{pid}/status: no {field}")


def _cpu_seconds(pid: int) -> float:
    """Processor time that a process has used so far, its own and the kernel's for it."""
    after_name = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def _pinned(wanted: bool) -> Iterator[None]:
    """Keep this process and those it starts on one core: a single connection measures wake-ups otherwise."""
    cores = os.sched_getaffinity(0)
    if wanted:
        os.sched_setaffinity(0, {max(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


# --- the image


def image_of(records: int, target: Part) -> FirmwareImage:
    """A sealed image of so many S2 records that a device checks and would start; always the same."""
    base = target.application_start
    content = bytearray(random.Random(records).randbytes(records * RECORD_BYTES))
    content[0:4] = target.ram_end.to_bytes(4, "little")
    content[4:8] = (base + 0x401).to_bytes(4, "little")
    content[SEAL_OFFSET : SEAL_OFFSET + SEAL_SIZE] = b"\xff" * SEAL_SIZE
    return FirmwareImage.from_records(
        SRecord(2, base + start, bytes(content[start : start + RECORD_BYTES]))
        for start in range(0, len(content), RECORD_BYTES)
    ).seal(base)


def s19(image: FirmwareImage) -> bytes:
    """The image as an S-record file."""
    return b"\n".join([*image.frames, SRecord(8, image.first).encode(), b""])


# --- telling


def summarize(measurements: Sequence[Measurement]) -> list[Row]:
    """Medians over the rounds. Whole updates, connecting included, are compared where the fleet is ours."""
    rows = []
    by_place = {(m.connections, m.pair, m.round): m for m in measurements}
    for count in dict.fromkeys(m.connections for m in measurements):
        for pair in PAIRS:
            of_pair = [m for m in measurements if (m.connections, m.pair) == (count, pair.name)]
            references = [by_place[count, PAIRS[0].name, m.round] for m in of_pair]
            ratios = [
                m.rate_with_connecting / reference.rate_with_connecting if pair.our_fleet else m.rate / reference.rate
                for m, reference in zip(of_pair, references, strict=True)
            ]
            rows.append(
                Row(
                    count,
                    pair.name,
                    statistics.median(m.rate for m in of_pair),
                    statistics.median(ratios),
                    min(ratios),
                    max(ratios),
                    statistics.median(1e6 * m.server_cpu_s / m.records for m in of_pair),
                    statistics.median(1e6 * m.fleet_cpu_s / m.records for m in of_pair),
                    _per_head([m.server_rss_bytes for m in of_pair], count),
                    _per_head([m.fleet_rss_bytes for m in of_pair], count),
                )
            )
    return rows


def _per_head(sizes: Sequence[int | None], count: int) -> float | None:
    known = [size for size in sizes if size is not None]
    return statistics.median(known) / count if known else None


HEADINGS: Final = ("conns", "pair", "rec./s", "x C", "range", "srv µs", "MCU µs", "KiB/conn", "KiB/MCU")


def cells(row: Row) -> tuple[str, ...]:
    """A row as text; memory of a handful of connections says nothing about one."""
    sizes = (row.server_bytes_per_connection, row.fleet_bytes_per_device)
    memory = ("-" if size is None or row.connections < 100 else f"{size / 1024:.1f}" for size in sizes)
    ratios = (f"{row.ratio:.2f}", f"{row.ratio_low:.2f}-{row.ratio_high:.2f}")
    cpu = (f"{row.server_cpu_us:.1f}", f"{row.fleet_cpu_us:.1f}")
    return (f"{row.connections:,}", row.pair, f"{row.records_per_s:,.0f}", *ratios, *cpu, *memory)


def table(rows: Sequence[Row]) -> Table:
    """The rows for a terminal."""
    shown = Table(*HEADINGS, box=SIMPLE, padding=(0, 1), show_edge=False, pad_edge=False, collapse_padding=True)
    for column in (0, *range(2, len(HEADINGS))):
        shown.columns[column].justify = "right"
    for last, row in zip([*rows[1:], None], rows, strict=True):
        shown.add_row(*cells(row), end_section=last is not None and last.connections != row.connections)
    return shown


@dataclass(frozen=True, slots=True)
class Cores:
    """What all cores have done so far, in seconds of one core."""

    clock: float
    busy: float
    """In processes, ours and others."""
    stolen: float
    """Taken by the host of a virtual machine."""
    ours: float
    """In this process and in those it started and has waited for."""

    @classmethod
    def now(cls) -> "Cores":
        """As the system tells it."""
        user, nice, system, _, _, _, _, stolen = map(int, Path("/proc/stat").read_text().split(maxsplit=9)[1:9])
        tick = os.sysconf("SC_CLK_TCK")
        own = os.times()
        ours = own.user + own.system + own.children_user + own.children_system
        return cls(time.monotonic(), (user + nice + system) / tick, stolen / tick, ours)


def disturbance(facts: dict[str, Any]) -> str:
    """How much else the machine did; ratios of a busy machine say little, whoever wins."""
    return (
        f"While it ran, other processes took {facts['others_share']:.0%} of the cores' time, "
        f"the machine's host {facts['stolen_share']:.0%}."
    )


def machine_facts(rounds: int, quick: bool, before: Cores, after: Cores) -> dict[str, Any]:
    """What the numbers depend on."""
    cores = len(os.sched_getaffinity(0))
    available = (after.clock - before.clock) * cores
    others = after.busy - before.busy - (after.ours - before.ours)
    compiler = subprocess.run(["cc", "--version"], capture_output=True, text=True, check=True, timeout=10)
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "rounds": rounds,
        "quick": quick,
        "cores": cores,
        "processor": _processor(),
        "kernel": platform.release().partition("-")[0],
        "others_share": max(0.0, others / available),
        "stolen_share": (after.stolen - before.stolen) / available,
        "python": platform.python_version(),
        "uvloop": version("uvloop"),
        "k60-fota": version("k60-fota"),
        "cc": compiler.stdout.splitlines()[0],
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def markdown(rows: Sequence[Row], facts: dict[str, Any]) -> str:
    """The rows and what they depend on, for a page."""
    lines = [
        f"Measured {facts['date']}: {facts['cores']} cores ({facts['processor']}), Linux {facts['kernel']}, "
        f"Python {facts['python']}, uvloop {facts['uvloop']}, {facts['cc']}; {facts['rounds']} rounds"
        f"{', --quick' if facts['quick'] else ''}. {disturbance(facts)}",
        "",
        f"| {' | '.join(HEADINGS)} |",
        f"| {' | '.join('---' if i == 1 else '---:' for i in range(len(HEADINGS)))} |",
        *(f"| {' | '.join(cells(row))} |" for row in rows),
    ]
    return "\n".join(lines)


def replace_section(path: Path, text: str) -> None:
    """Put `text` between the markers in `path`."""
    page = path.read_text(encoding="utf-8")
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{path}: expected the markers {BEGIN} and {END}")
    path.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
