"""Watch a server update a fleet of virtual K60s: everything happens here and now, on this machine.

A server starts on its defaults and a free port of 127.0.0.1; 1,000 virtual K60s connect at once and are updated from
real S-record images; every flash is verified, and the server's journal is held against it. The report is one HTML page.

  fota demo
  fota demo --count 200 --report report.html --json report.json

Exit code 0 if every flash was verified and the journal agrees, 1 if not, 3 if the server did not start.
"""

import argparse
import dataclasses
import importlib.metadata
import os
import platform
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from types import FrameType
from typing import Any, Final

from fota_transport.loops import raise_descriptor_limit

from .. import exit_codes
from ..compose import demo
from ..compose.local_server import LocalServer
from ..compose.page import PageFigures, render
from ..errors import UsageError
from ..files import check_writable, write_file, write_json
from ..progress import FleetProgress

COUNT: Final = 1_000
SEED: Final = 60
REPORT: Final = Path("fota-demo.html")
RESERVED_DESCRIPTORS: Final = 64
"""Descriptors that a process needs beside its connections."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Everything has a default."""
    add = parser.add_argument
    add("--count", type=int, default=COUNT, metavar="N", help=f"how many virtual K60s (default: {COUNT})")
    add("--seed", type=int, default=SEED, metavar="N", help=f"MCUIDs are drawn from it (default: {SEED})")
    add("--report", type=Path, default=REPORT, metavar="FILE", help=f"the HTML page (default: {REPORT})")
    add("--json", type=Path, metavar="FILE", help="write the figures as JSON; - for standard output")
    add("--plain", action="store_true", help="lines instead of a live view")
    add("--keep", type=Path, metavar="DIR", help="keep the server's folder there: registry, firmware, logs, journal")


def run(args: argparse.Namespace) -> int:
    """Run the demo; returns the exit code."""
    room = raise_descriptor_limit() - RESERVED_DESCRIPTORS
    if not 1 <= args.count <= room:
        raise UsageError(f"--count {args.count}, expected 1 to {room}: this process may not open more connections")
    for path in (args.report, args.json):
        check_writable(path)
    if args.keep is not None and args.keep.exists():
        raise UsageError(f"--keep {args.keep}: it exists already, expected a new folder")
    check_writable(args.keep)
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:  # nohup has SIGHUP ignored
            signal.signal(number, _interrupt)
    with tempfile.TemporaryDirectory(prefix="fota-demo-") as name:
        folder = Path(name)
        try:
            figures = _run(args, folder)
        finally:
            if args.keep is not None:
                shutil.copytree(folder, args.keep)
    write_file(args.report, render(figures).encode())
    if args.json is not None:
        write_json(args.json, _as_json(figures))
    if str(args.json) != "-":
        print(_summary(figures, args.report))
    return exit_codes.OK if figures.ok else exit_codes.FAILED


def _run(args: argparse.Namespace, folder: Path) -> PageFigures:
    fleet = demo.draw_fleet(args.count, args.seed)
    with LocalServer(folder) as server:
        demo.register(server, fleet)
        print(
            f"{args.count:,} virtual K60s against fota serve (pid {server.process.pid}) on {server.host}:{server.port}",
            file=sys.stderr,
            flush=True,
        )
        with FleetProgress(args.count, args.plain) as progress:
            report, flashes = demo.run_fleet(server, fleet.plans, progress.update)
        server_bytes = server.process.peak_memory()
    # The server has stopped, so its journal is complete.
    journal = demo.compare_journal(server.sessions(), report)
    return demo.gather(fleet, report, flashes, journal, server_bytes, _environment(args.seed))


def _interrupt(_: int, __: FrameType | None) -> None:
    """Whoever ends the demo ends it as Ctrl-C does: the server is stopped and the folder removed."""
    signal.raise_signal(signal.SIGINT)


def _environment(seed: int) -> dict[str, str]:
    return {
        "k60-fota": importlib.metadata.version("k60-fota"),
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "platform": platform.platform(),
        "processors": str(os.cpu_count()),
        "seed": str(seed),
    }


def _summary(figures: PageFigures, page: Path) -> str:
    report, journal = figures.report, figures.journal
    lines = [
        figures.verdict,
        f"  {'time':<10}{report.duration_s:.1f} s, {report.updates_per_s:,.1f} updates/s, "
        f"{report.records_per_s:,.0f} records/s",
        f"  {'update':<10}p50 {report.p50_s:.2f} s, p99 {report.p99_s:.2f} s, longest {report.max_s:.2f} s",
        f"  {'memory':<10}server {_mib(figures.server_bytes)}, fleet {_mib(report.rss_bytes)}",
        f"  {'journal':<10}{journal.successful:,} of {journal.rows:,} sessions SUCCESSFUL, "
        + ("as the devices say" if not journal.disagreements else "and the devices say otherwise:"),
        *(f"    {line}" for line in journal.disagreements),
        *(f"  {'failures':<10}{number:,} x {reason}" for reason, number in report.failures.items()),
        f"  {'page':<10}{page.absolute()}",
    ]
    return "\n".join(lines)


def _mib(size: int) -> str:
    return f"{size / (1 << 20):,.0f} MiB" if size else "not known"


def _as_json(figures: PageFigures) -> dict[str, Any]:
    return {
        "ok": figures.ok,
        "verdict": figures.verdict,
        "fleet": figures.report.as_json(),
        "journal": dataclasses.asdict(figures.journal),
        "server_bytes": figures.server_bytes,
        "images": [dataclasses.asdict(image) | {"crc32": f"{image.crc32:08X}"} for image in figures.images],
        "environment": dict(figures.environment),
    }
