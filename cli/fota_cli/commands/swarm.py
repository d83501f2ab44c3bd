"""Run thousands of virtual K60s against a server, every flash verified where its image is given.

The devices are those of the server's registry, or COUNT devices with consecutive MCUIDs.

  fota swarm --server 127.0.0.1:4000 --registry devices2update.txt --firmware bin
  fota swarm --server 127.0.0.1:4000 --count 1000 --first-mcuid 0001000000000000000000000 --image app.s19
  fota swarm --server 127.0.0.1:4000 --count 50 --rate 5 --json report.json

Exit code 0 if all were updated (and verified where that could be told), 1 if not, 130 if interrupted by Ctrl-C, after
a report of what was done so far.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import itertools
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from fota_protocol.image import FirmwareImage
from fota_server.errors import ServerError
from fota_server.registry import open_registry
from fota_simulator.boot import BootloaderSettings
from fota_simulator.device_file import SUFFIX, load
from fota_simulator.errors import DeviceFileError
from fota_simulator.flash import SectorPool
from fota_simulator.report import SwarmReport
from fota_simulator.swarm import DevicePlan, run_swarm
from fota_transport.loops import raise_descriptor_limit
from fota_transport.loops import run as run_loop

from .. import exit_codes
from ..device_options import add_device_options, identification, part_named, server_address, timings
from ..errors import UsageError
from ..files import check_writable, read_image, write_json
from ..progress import FleetProgress, summary

FIRST_MCUID: Final = "0001000000000000000000000"
RESERVED_DESCRIPTORS: Final = 64
"""Descriptors that the process needs beside its connections."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of a run."""
    add_device_options(parser)
    add = parser.add_argument
    add("--count", type=int, metavar="N", help="how many devices (default: all of the registry)")
    add("--first-mcuid", default=FIRST_MCUID, metavar="DIGITS", help=f"MCUID of the first one (default: {FIRST_MCUID})")
    add(
        "--image",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="verify flashes against it; several are dealt out in turn",
    )
    add("--registry", type=Path, metavar="FILE", help="the server's registry: devices, files and parts come from it")
    add("--firmware", type=Path, metavar="DIR", help="the server's firmware folder: verify flashes against its files")
    add("--devices", type=Path, metavar="DIR", help="keep every device in a file there, from run to run")
    add("--rate", type=float, metavar="PER_S", help="begin at most so many updates per second (default: all at once)")
    add("--json", type=Path, metavar="FILE", help="write the report as JSON; - for standard output")
    add("--plain", action="store_true", help="lines instead of a live view")


def run(args: argparse.Namespace) -> int:
    """Run the devices; returns the exit code."""
    host, port = server_address(args.server)
    check_writable(args.json)
    if args.rate is not None and not args.rate > 0:
        raise UsageError(f"rate {args.rate:g}, expected more than 0 updates per second")
    if not args.registry:
        _check_room(args.count or 0)  # before so many plans are made
    plans = _from_registry(args) if args.registry else _numbered(args)
    _check_room(len(plans))
    if args.devices is not None:
        plans = _with_saved(plans, args.devices)

    async def run_all(progress: FleetProgress) -> tuple[SwarmReport, bool]:
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        loop.add_signal_handler(signal.SIGINT, stop.set)
        report, _ = await run_swarm(
            loop,
            host,
            port,
            plans,
            timings=timings(args.timeout),
            connect_rate_per_s=args.rate,
            settings=BootloaderSettings(args.policy),
            devices=args.devices,
            on_progress=progress.update,
            stop=stop,
        )
        return report, stop.is_set()

    with FleetProgress(len(plans), args.plain) as progress:
        report, interrupted = run_loop(run_all(progress))
    if args.json is not None:
        write_json(args.json, report.as_json())
    if str(args.json) != "-":
        print(summary(report))
    if interrupted:
        ended = report.updated + report.refused + report.failed
        print(f"fota: interrupted, {report.count - ended} devices had not ended", file=sys.stderr)
        return exit_codes.INTERRUPTED
    return exit_codes.OK if report.ok else exit_codes.FAILED


def _check_room(count: int) -> None:
    """Raise `UsageError` if this process may not open `count` connections."""
    room = raise_descriptor_limit() - RESERVED_DESCRIPTORS
    if count > room:
        raise UsageError(f"{count} devices, expected at most {room}: this process may not open more connections")


def _numbered(args: argparse.Namespace) -> list[DevicePlan]:
    """`--count` devices with consecutive MCUIDs."""
    if args.count is None or args.count < 1:
        raise UsageError("how many devices? Say --count N (at least 1), or --registry FILE")
    if not args.first_mcuid.isdecimal() or len(identification(args.first_mcuid).mcuid) != 25:
        raise UsageError(f"first MCUID {args.first_mcuid!r}, expected 25 decimal digits")
    part = part_named(args.part)
    images = itertools.cycle([read_image(path) for path in args.image] or [None])
    first = int(args.first_mcuid)
    if len(str(first + args.count - 1)) > 25:
        raise UsageError(f"{args.count} MCUIDs from {args.first_mcuid} on do not fit into 25 digits")
    return [
        DevicePlan(f"{first + i:025d}", next(images), part, acks_verdict=not args.no_verdict_ack)
        for i in range(args.count)
    ]


def _from_registry(args: argparse.Namespace) -> list[DevicePlan]:
    """The devices of the server's registry, the first `--count` of them."""
    if args.count is not None and args.count < 1:
        raise UsageError(f"count {args.count}, expected at least 1")
    if not args.registry.exists():
        raise UsageError(f"registry {args.registry}: no such file")
    try:
        with contextlib.closing(open_registry(args.registry)) as registry:
            entries = list(itertools.islice(registry, args.count))
    except ServerError as error:
        raise UsageError(str(error)) from error
    if not entries:
        raise UsageError(f"registry {args.registry}: no devices")
    images = {name: _served(args.firmware, name) for name in {entry.filename for entry in entries}}
    return [
        DevicePlan(
            entry.mcuid,
            images[entry.filename],
            part_named(entry.part or args.part),
            acks_verdict=not args.no_verdict_ack,
        )
        for entry in entries
    ]


def _with_saved(plans: Sequence[DevicePlan], folder: Path) -> list[DevicePlan]:
    """The devices as an earlier run left them in `folder`, new ones where it did not; raises `UsageError`."""
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UsageError(f"devices {folder}, expected a folder that can be written")
    pool = SectorPool()
    found = []
    for plan in plans:
        path = folder / f"{plan.mcuid}{SUFFIX}"
        if path.exists():
            try:
                saved = load(path)
            except DeviceFileError as error:
                raise UsageError(f"device {error}") from error
            if (saved.identification.mcuid, saved.part) != (plan.mcuid, plan.part):
                raise UsageError(
                    f"device {path}: it is {saved.identification.mcuid}, {saved.part.name}, "
                    f"expected {plan.mcuid}, {plan.part.name}"
                )
            shared = {index: pool.share(content) for index, content in saved.sectors.items()}
            plan = dataclasses.replace(plan, saved=dataclasses.replace(saved, sectors=shared))
        found.append(plan)
    return found


def _served(folder: Path | None, name: str) -> FirmwareImage | None:
    """The image that a server gives for a file name of its registry; None where it must refuse."""
    if folder is None or "\0" in name:
        return None
    path = (folder / name).resolve()
    return read_image(path) if path.is_relative_to(folder.resolve()) and path.is_file() else None
