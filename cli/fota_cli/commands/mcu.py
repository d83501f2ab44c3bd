"""Run one virtual K60 against a server, and see what is in its flash afterwards.

  fota mcu --server 127.0.0.1:4000 --mcuid 0001000000000000000000000
  fota mcu --server 127.0.0.1:4000 --mcuid 0001000000000000000000000 --image app.s19 --dump flash.s19 --json -
  fota mcu --server 127.0.0.1:4000 --mcuid 0001000000000000000000000 --flash flash.bin

Exit code 0 if it was updated (and, with --image, its flash verified), 1 if not.
"""

import argparse
import contextlib
import dataclasses
import io
import sys
from pathlib import Path
from typing import Final

import intelhex

from fota_protocol.formats import dump_srec
from fota_protocol.image import FirmwareImage
from fota_protocol.parts import Part
from fota_simulator.bootloader import bootloader_sectors
from fota_simulator.errors import FlashFileError
from fota_simulator.flash.file_flash import FileFlash
from fota_simulator.mcu import McuShare, VirtualMcu
from fota_simulator.report import NOT_CONNECTED
from fota_transport.clock import SystemClock
from fota_transport.errors import LinkLost
from fota_transport.links import TcpLink
from fota_transport.pump import pump
from fota_transport.trace import Trace

from .. import exit_codes
from ..device_options import add_device_options, identification, part_named, server_address, timings
from ..errors import UsageError
from ..files import check_writable, read_image, write_file, write_json

_DUMPS: Final = {".s19", ".srec", ".mot", ".hex", ".ihex", ".bin"}


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of one device."""
    add_device_options(parser)
    add = parser.add_argument
    add("--mcuid", required=True, metavar="DIGITS", help="who it is: 25 decimal, or 1 to 64 hexadecimal digits")
    add("--suffix", default="", metavar="DIGITS", help="digits behind a decimal MCUID (model, versions)")
    add("--image", type=Path, metavar="FILE", help="firmware that the flash is verified against")
    add("--flash", type=Path, metavar="FILE", help="keep the whole flash in this file from run to run; made if missing")
    add(
        "--dump",
        type=Path,
        metavar="FILE",
        help="write the application flash: .s19, .hex, or .bin (whole, FF where blank)",
    )
    add("--json", type=Path, metavar="FILE", help="write the outcome as JSON; - for standard output")
    add("--trace", type=Path, metavar="FILE", help="write what passed on the wire")


def run(args: argparse.Namespace) -> int:
    """Update the device once; returns the exit code."""
    host, port = server_address(args.server)
    image = None if args.image is None else read_image(args.image)
    if args.dump is not None and args.dump.suffix.lower() not in _DUMPS:
        raise UsageError(f"dump {args.dump}, expected a name that ends in .s19, .hex or .bin")
    for path in (args.dump, args.json, args.trace):
        check_writable(path)
    who, waits = identification(args.mcuid, args.suffix), timings(args.timeout)
    part, share = part_named(args.part), McuShare.new()
    with contextlib.ExitStack() as stack:
        flash = None
        if args.flash is not None:
            flash = stack.enter_context(contextlib.closing(_file_flash(args.flash, part, share)))
        mcu = VirtualMcu(
            who, part, share, flash=flash, policy=args.policy, acks_verdict=not args.no_verdict_ack, timings=waits
        )
        return _update(mcu, (host, port), image, args)


def _file_flash(path: Path, part: Part, share: McuShare) -> FileFlash:
    try:
        return FileFlash.open(path, part, share.pool, bootloader_sectors(part))
    except FlashFileError as error:
        raise UsageError(f"flash {error}") from error


def _update(mcu: VirtualMcu, server: tuple[str, int], image: FirmwareImage | None, args: argparse.Namespace) -> int:
    """Play the session, write and print what came of it; returns the exit code."""
    clock = SystemClock()
    session = mcu.session()
    began = clock.monotonic()
    trace = Trace(began)
    trouble = None
    try:
        with TcpLink.connect(*server, args.timeout) as link:
            pump(session, link, clock, lambda _: b"", session.start(clock.monotonic()), trace)
    except (LinkLost, TimeoutError) as error:
        trouble = str(error)
    report = mcu.report(session, image, started_s=0.0, duration_s=clock.monotonic() - began)
    if trouble is not None:
        report = dataclasses.replace(report, reason=NOT_CONNECTED, detail=trouble)
    values = report.as_json()
    outcome = {"outcome": values.pop("result"), "part": mcu.part.name, **values}
    if args.dump is not None:
        write_file(args.dump, _dump(mcu, args.dump.suffix.lower()))
    if args.trace is not None:
        write_file(args.trace, trace.to_text().encode())
    if args.json is not None:
        write_json(args.json, outcome)
    why = "" if report.detail == report.result else f", {report.detail}"
    verified = {None: "", True: ", flash verified", False: ", flash not as the image"}[report.verified]
    print(f"{report.mcuid}: {report.result} after {report.records} records{why}{verified}", file=sys.stderr)
    return exit_codes.OK if report.ok else exit_codes.FAILED


def _dump(mcu: VirtualMcu, suffix: str) -> bytes:
    """The application flash in the format that a file name's suffix asks for."""
    part = mcu.part
    if suffix == ".bin":
        return mcu.flash.read(part.application_start, part.flash_end)
    segments = list(mcu.flash.segments(part.application_start, part.flash_end))
    if suffix in (".hex", ".ihex"):
        writer = intelhex.IntelHex()
        for start, data in segments:
            writer.puts(start, data)
        text = io.StringIO()
        writer.write_hex_file(text)
        return text.getvalue().encode()
    return dump_srec(segments, header=b"k60-fota")
