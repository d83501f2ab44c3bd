"""How far it goes: devices that wait, a fleet in virtual time, and a hundred thousand devices in shards.

Nothing here has a yardstick in C. Each figure comes from a command as users start it, in processes of its own, and
counts only when every flash was verified.
"""

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fota_protocol.formats import dump_image
from fota_protocol.parts import DEFAULT_PART, part
from fota_protocol.status import Status
from fota_server.journal import read_journal
from fota_server.registry import RegistryEntry, SqliteRegistry

from .errors import BenchmarkError
from .image import image_of
from .processes import first_output, json_output, memory, running, stop

HERE: Final = Path(__file__).resolve().parents[1]
"""The folder of `idle_fleet.py`."""

IDLE: Final = 9_000
"""Devices that wait: their process has both ends, and descriptors for no more."""

VIRTUAL: Final = 100
"""Devices in virtual time, over a link of modems."""

SEED: Final = 7
"""Of the run in virtual time."""

SHARD_RECORDS: Final = 68
"""Records of the image that devices in shards get: a little over 1 KiB, where its vectors point to."""

SHARD_RECORD_BYTES: Final = 16
"""Data bytes of one of them."""

SHARD_WORKERS: Final = 2
"""Processes that run shards."""

SOURCES: Final = "127.0.0.2-9"
"""Addresses that devices in shards connect from: each has some 28,000 ports."""

TIMEOUT: Final = 1_800.0
"""Seconds for any one of these."""


@dataclass(frozen=True, slots=True)
class Scaled:
    """One run: what it was, with how many devices, and what there is to say of it."""

    what: str
    devices: int
    seconds: float
    """By the clock on the wall."""
    figures: str


def measure_scale(folder: Path, shards: int, quick: bool, progress: Callable[[str], None]) -> Iterator[Scaled]:
    """Run them all; `shards` is how many devices run in shards, none of them for 0. Raises `BenchmarkError`."""
    divisor = 10 if quick else 1
    runs: list[Callable[[], Scaled]] = [lambda: _idle(IDLE // divisor), lambda: _virtual(folder, VIRTUAL // divisor)]
    if shards:
        runs.append(lambda: _in_shards(folder, shards))
    for run in runs:
        done = run()
        progress(f"{done.what}, {done.devices:,} devices: {done.seconds:.1f} s, {done.figures}")
        yield done


def _idle(count: int) -> Scaled:
    began = time.monotonic()
    found = json_output([sys.executable, str(HERE / "idle_fleet.py"), str(count)], "idle fleet", TIMEOUT)
    figures = f"{found['bytes_per_device'] / 1024:.2f} KiB a device"
    return Scaled("devices that wait", count, time.monotonic() - began, figures)


def _virtual(folder: Path, count: int) -> Scaled:
    report, seconds = _swarm(
        folder / "virtual.json", ["--virtual", "--count", str(count), "--link", "gprs", "--seed", str(SEED)], count
    )
    times = f"{report['p50_s']:.0f} s of device time each ({count * report['p50_s'] / seconds:,.0f} times faster)"
    return Scaled("virtual time, gprs", count, seconds, times)


def _in_shards(folder: Path, count: int) -> Scaled:
    firmware = folder / "shards"
    firmware.mkdir()
    image = firmware / "image.s19"
    image.write_bytes(dump_image(image_of(SHARD_RECORDS, SHARD_RECORD_BYTES, part(DEFAULT_PART))))
    with contextlib.closing(SqliteRegistry(folder / "shards.sqlite")) as registry:
        registry.put(RegistryEntry(f"{number:025d}", image.name, "1", part=DEFAULT_PART) for number in range(count))
    with _server(folder, firmware) as (server, port):
        report, seconds = _swarm(
            folder / "shards.json",
            [
                *("--server", f"127.0.0.1:{port}", "--count", str(count), "--first-mcuid", "0" * 25),
                *("--image", str(image), "--source-ip", SOURCES),
                *("--local-workers", str(SHARD_WORKERS)),
            ],
            count,
        )
        peak = memory(server.pid, "VmHWM")
        stop(server)
    rows = read_journal(folder / "shard-logs" / "journal.sqlite")
    if (good := sum(row.status == Status.SUCCESSFUL for row in rows)) != count:
        raise BenchmarkError(f"journal: {good} of {len(rows)} sessions successful, expected {count}")
    figures = f"{report['records'] / seconds:,.0f} records/s, {count / seconds:,.0f} updates/s, server {peak >> 20} MiB"
    return Scaled(f"in shards, {SHARD_WORKERS} workers", count, seconds, figures)


@contextlib.contextmanager
def _server(folder: Path, firmware: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    command = [sys.executable, "-m", "fota_cli", "serve", "--quiet", "--host", "127.0.0.1", "--port", "0"]
    command += ["--registry", str(folder / "shards.sqlite"), "--firmware", str(firmware)]
    command += ["--logs", str(folder / "shard-logs"), "--handshake", "wait"]
    with running(command) as server:
        yield server, json.loads(first_output(server, "our server"))["port"]


def _swarm(report: Path, options: list[str], count: int) -> tuple[dict[str, Any], float]:
    """Run `fota swarm`; returns its report and the seconds that it took. Raises `BenchmarkError`."""
    command = [sys.executable, "-m", "fota_cli", "swarm", "--plain", *options, "--json", str(report)]
    began = time.monotonic()
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        raise BenchmarkError(f"fota swarm {options[0]}: not done within {TIMEOUT:g} s") from None
    seconds = time.monotonic() - began
    if done.returncode:
        raise BenchmarkError(f"fota swarm {options[0]}: exit code {done.returncode}: {done.stderr[-1000:]}")
    found: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    if found["verified"] != count:
        raise BenchmarkError(f"fota swarm {options[0]}: {found['verified']} flashes verified, expected {count}")
    return found, seconds
