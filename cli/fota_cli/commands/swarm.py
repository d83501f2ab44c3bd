"""Run thousands of virtual K60s against a server, every flash verified where its image is given.

The devices are those of the server's registry, or COUNT devices with consecutive MCUIDs. With --virtual, server and
devices run in virtual time, and nothing else is needed: minutes pass in seconds, a seed repeats a run byte for byte.

  fota swarm --server 127.0.0.1:4000 --registry devices2update.txt --firmware bin
  fota swarm --server 127.0.0.1:4000 --count 1000 --first-mcuid 0001000000000000000000000 --image app.s19
  fota swarm --server 127.0.0.1:4000 --count 5000 --ramp 500/s --retries 3 --faults faults.toml --json report.json
  fota swarm --virtual --count 100 --link gprs --seed 7 --trace run.trace
  fota swarm --virtual --count 100 --retries 3 --faults faults.toml --slo 'p99<60s' --slo 'failed<1%' --html report.html
  fota swarm --server 127.0.0.1:4000 --registry registry.sqlite --firmware bin --local-workers 8 --source-ip 127.0.0.2-9

Exit code 0 if all were updated (and verified where that could be told) and every --slo holds, 1 if not, 3 if a run in
shards broke down, 4 if a worker was lost and that makes the run invalid (--on-worker-loss), 130 if interrupted by
Ctrl-C or SIGTERM; each after a report of what was done so far.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import io
import itertools
import os
import shlex
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Final

from fota_protocol.formats import load as load_image
from fota_protocol.image import FirmwareImage
from fota_protocol.server import Handshake
from fota_server.errors import ServerError
from fota_server.registry import open_registry
from fota_simulator.boot import BootloaderSettings
from fota_simulator.device_file import SUFFIX, load
from fota_simulator.errors import DeviceFileError
from fota_simulator.flash import SectorPool
from fota_simulator.report import SwarmReport
from fota_simulator.swarm import DevicePlan, Tracer, run_swarm
from fota_transport.loops import raise_descriptor_limit
from fota_transport.loops import run as run_loop
from fota_transport.profiles import LOOPBACK

from .. import exit_codes
from ..choices import one_of
from ..compose.virtual_fleet import Served, run_virtual, virtual_image
from ..device_options import add_device_options, identification, part_named, server_address, timings
from ..errors import UsageError
from ..files import check_writable, open_to_write, read_bytes, read_image
from ..fleet_options import add_fleet_options, arrivals, behaviour
from ..fleet_report import (
    add_report_options,
    check_report_options,
    ended_early,
    schema,
    without_secrets,
    write_reports,
)
from ..fleet_shards import ShardSettings, add_shard_options, check_devices, shard_settings
from ..interrupts import Deferred, Sigterm
from ..progress import FleetProgress
from ..shard_report import ShardedReport

FIRST_MCUID: Final = "0001000000000000000000000"
RESERVED_DESCRIPTORS: Final = 64
"""Descriptors that the process needs beside its connections."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of a run."""
    add_device_options(parser, needs_server=False)
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
    add(
        "--unknown",
        type=_share,
        default=0.0,
        metavar="SHARE",
        help="of devices that the server does not know, 0.2 or 20%% (default: 0)",
    )
    add_fleet_options(parser)
    add_shard_options(parser)
    add("--virtual", action="store_true", help="a server of its own, in virtual time; without --image a 16 KiB image")
    add(
        "--handshake",
        type=one_of(Handshake),
        metavar="auto|wait|immediate",
        help="of the virtual server (default: auto)",
    )
    add("--pack", action="store_true", help="the virtual server sends few long records")
    add("--trace", type=Path, metavar="FILE", help="write what passed between server and devices, with times")
    add_report_options(parser)
    add("--plain", action="store_true", help="lines instead of a live view")


def run(args: argparse.Namespace) -> int:
    """Run the devices; returns the exit code."""
    if args.schema:
        print(schema(), end="")
        return exit_codes.OK
    check_report_options(args)
    check_writable(args.trace)
    if not 0 <= args.unknown < 1:
        raise UsageError(f"unknown {args.unknown:g}, expected a share from 0 to less than 1")
    spread = shard_settings(args)
    with Sigterm():
        return _run(args, spread)


def _share(text: str) -> float:
    """A converter for argparse."""
    number = text.removesuffix("%")
    try:
        return float(number) / (1 if number == text else 100)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}, expected a share, such as 0.2 or 20%") from None


def _run(args: argparse.Namespace, spread: ShardSettings | None) -> int:
    report: SwarmReport
    with contextlib.ExitStack() as stack:
        on_chunk = None if args.trace is None else stack.enter_context(_tracing(args.trace))
        if args.virtual:
            report, interrupted = _run_virtual(args, on_chunk)
        elif spread is not None:
            report, interrupted = _run_sharded(args, spread)
        else:
            report, interrupted = _run_real(args, on_chunk)
    try:
        good = write_reports(args, report, interrupted=interrupted)
    finally:  # also where a report cannot be written
        _tell_early_end(report, interrupted)
    if interrupted:
        return exit_codes.INTERRUPTED
    if isinstance(report, ShardedReport) and report.trouble is not None:
        return report.exit_code
    if not good:
        seed = [] if "--seed" in sys.argv else ["--seed", str(args.seed)]
        command = shlex.join(["fota", *without_secrets(sys.argv[1:]), *seed])
        print(f"fota: to repeat what chance did, --seed {args.seed}: {command}", file=sys.stderr)
    return exit_codes.OK if good else exit_codes.FAILED


def _tell_early_end(report: SwarmReport, interrupted: bool) -> None:
    """Say on standard error why a run ended before its time, where it did."""
    missing = report.count - report.updated - report.refused - report.failed
    why = ended_early(report)
    if interrupted:
        print(f"fota: interrupted, {missing} devices had not ended", file=sys.stderr)
    elif why is not None:
        print(
            f"fota: {why}; the results are partial: {missing} of {report.count} devices had not ended", file=sys.stderr
        )


def _run_real(args: argparse.Namespace, on_chunk: Tracer | None) -> tuple[SwarmReport, bool]:
    """Run against a server; returns the report, and whether it was interrupted."""
    host, port = _real_server(args)
    if not args.registry:
        _check_room(args.count or 0)  # before so many plans are made
    plans = _with_strangers(_from_registry(args) if args.registry else _numbered(args, _images(args)), args.unknown)
    _check_room(len(plans))
    if args.devices is not None:
        plans = _with_saved(plans, args.devices)
    how, when = behaviour(args), arrivals(args)

    async def run_all(progress: FleetProgress) -> tuple[SwarmReport, bool]:
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        if threading.current_thread() is threading.main_thread():  # which alone hears of interrupts
            loop.add_signal_handler(signal.SIGINT, stop.set)
        report, _ = await run_swarm(
            loop,
            host,
            port,
            plans,
            timings=timings(args.timeout),
            arrivals=when,
            behaviour=how,
            settings=BootloaderSettings(args.policy),
            devices=args.devices,
            source_addresses=args.source_ip or (),
            on_progress=progress.update,
            on_chunk=on_chunk,
            stop=stop,
        )
        return report, stop.is_set()

    with FleetProgress(len(plans), args.plain) as progress:
        return run_loop(run_all(progress))


def _run_sharded(args: argparse.Namespace, spread: ShardSettings) -> tuple[SwarmReport, bool]:
    """Run against a server from worker processes; returns the report, and whether it was interrupted."""
    with Deferred():
        from ..compose.shards import run_sharded  # of the extra `swarm`, which nobody else needs

    host, port = _real_server(args)
    check_devices(args.count or 0)  # before so many plans are made
    plans = _with_strangers(_from_registry(args) if args.registry else _numbered(args, _images(args)), args.unknown)
    check_devices(len(plans))
    with FleetProgress(len(plans), args.plain) as progress:
        return run_sharded(
            spread,
            host,
            port,
            plans,
            timings=timings(args.timeout),
            arrivals=arrivals(args),
            behaviour=behaviour(args),
            bootloader=BootloaderSettings(args.policy),
            source_addresses=args.source_ip or (),
            on_progress=progress.update,
            tell=lambda what: print(f"fota: {what}", file=sys.stderr, flush=True),
        )


def _real_server(args: argparse.Namespace) -> tuple[str, int]:
    """The address of the server; raises `UsageError`, also for options that only a virtual one has."""
    if args.server is None:
        raise UsageError("which server? Say --server HOST:PORT, or --virtual")
    if args.handshake is not None or args.pack:
        raise UsageError("--handshake and --pack: expected with --virtual; a real server decides by itself")
    return server_address(args.server)


def _run_virtual(args: argparse.Namespace, on_chunk: Tracer | None) -> tuple[SwarmReport, bool]:
    """Run server and devices in virtual time; returns the report, and whether it was interrupted."""
    for name, value in (
        ("--server", args.server),
        ("--registry", args.registry),
        ("--firmware", args.firmware),
        ("--devices", args.devices),
        ("--source-ip", args.source_ip),
    ):
        if value:
            raise UsageError(f"{name}: not with --virtual, which has a server and a network of its own")
    files = [(path.name, read_bytes(path)) for path in args.image] or [("virtual.s19", virtual_image())]
    images = [load_image(content) for _, content in files] if not args.image else [read_image(p) for p in args.image]
    served = [Served(f"{number}-{name}", content, f"{number + 1:X}") for number, (name, content) in enumerate(files)]
    if len(served) > 255:
        raise UsageError(f"{len(served)} images, expected at most 255")
    plans = _with_strangers(_numbered(args, images), args.unknown)
    how = behaviour(args)
    stop = asyncio.Event()
    with (
        tempfile.TemporaryDirectory(prefix="fota-virtual-") as folder,
        _stopped_by_interrupt(stop),
        FleetProgress(len(plans), args.plain) as progress,
    ):
        done = run_virtual(
            Path(folder),
            plans,
            served,
            link=how.link,
            seed=args.seed,
            handshake=args.handshake or Handshake.AUTO,
            pack=args.pack,
            timings=timings(args.timeout),
            arrivals=arrivals(args),
            behaviour=dataclasses.replace(how, link=LOOPBACK),  # the loop's network is the link
            settings=BootloaderSettings(args.policy),
            on_progress=progress.update,
            on_chunk=on_chunk,
            stop=stop,
        )
    return done.report, stop.is_set()


@contextlib.contextmanager
def _stopped_by_interrupt(stop: asyncio.Event) -> Iterator[None]:
    """Ctrl-C sets `stop` instead of ending whatever is under way; a second one ends it as ever."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def on_interrupt(_: int, __: FrameType | None) -> None:
        signal.signal(signal.SIGINT, before)
        stop.set()  # in the loop's own thread, and a simulated loop never sleeps: nothing need wake it

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _tracing(path: Path) -> Iterator[Tracer]:
    """Writes what passes to `path`, a line each: the device, then as traces are."""
    try:
        with io.TextIOWrapper(open_to_write(path), encoding="ascii") as file:
            yield lambda mcuid, entry: print(mcuid, entry, file=file)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error


def _check_room(count: int) -> None:
    """Raise `UsageError` if this process may not open `count` connections."""
    room = raise_descriptor_limit() - RESERVED_DESCRIPTORS
    if count > room:
        raise UsageError(f"{count} devices, expected at most {room}: this process may not open more connections")


def _images(args: argparse.Namespace) -> Sequence[FirmwareImage | None]:
    return [read_image(path) for path in args.image] or [None]


def _numbered(args: argparse.Namespace, dealt: Sequence[FirmwareImage | None]) -> list[DevicePlan]:
    """`--count` devices with consecutive MCUIDs, and `dealt` images in turn."""
    if args.count is None or args.count < 1:
        raise UsageError("how many devices? Say --count N (at least 1), or --registry FILE")
    if not args.first_mcuid.isdecimal() or len(identification(args.first_mcuid).mcuid) != 25:
        raise UsageError(f"first MCUID {args.first_mcuid!r}, expected 25 decimal digits")
    part = part_named(args.part)
    images = itertools.cycle(dealt)
    first = int(args.first_mcuid)
    if len(str(first + args.count - 1)) > 25:
        raise UsageError(f"{args.count} MCUIDs from {args.first_mcuid} on do not fit into 25 digits")
    return [
        DevicePlan(f"{first + i:025d}", next(images), part, acks_verdict=not args.no_verdict_ack)
        for i in range(args.count)
    ]


def _with_strangers(plans: list[DevicePlan], share: float) -> list[DevicePlan]:
    """`plans` with devices among them that the server does not know, so that they are `share` of all."""
    wanted = round(len(plans) * share / (1 - share))
    strangers = [DevicePlan(f"9{number:024d}", None, plans[0].part, is_stranger=True) for number in range(wanted)]
    mixed: list[DevicePlan] = []
    for place, plan in enumerate(plans):
        first, end = place * wanted // len(plans), (place + 1) * wanted // len(plans)
        mixed += [plan, *strangers[first:end]]
    return mixed


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
