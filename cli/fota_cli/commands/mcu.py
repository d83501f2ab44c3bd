"""Run one virtual K60 against a server, and see what is in its flash afterwards.

  fota mcu --server 127.0.0.1:4000 --mcuid 0001000000000000000000000
  fota mcu --server 127.0.0.1:4000 --mcuid 0001000000000000000000000 --image app.s19 --dump flash.s19 --json -
  fota mcu --server 127.0.0.1:4000 --mcuid 0001000000000000000000000 --device board.k60 --cut command:317:torn

Exit code 0 if it was updated (and, with --image, its flash verified), 1 if not.
"""

import argparse
import contextlib
import dataclasses
import sys
from pathlib import Path
from typing import Final

from fota_protocol.device import Result
from fota_protocol.image import FirmwareImage
from fota_protocol.parts import DEFAULT_PART, Part
from fota_simulator.boot import BootloaderSettings, BootPolicy, ProgrammingOrder
from fota_simulator.bootloader import bootloader_sectors
from fota_simulator.device_file import SavedDevice, load, save
from fota_simulator.errors import DeviceFileError, FlashFileError, PowerLost
from fota_simulator.events import EventTrace
from fota_simulator.flash import Flash
from fota_simulator.flash.configuration import DEVELOPMENT_FIELD, Debugging, protecting_field
from fota_simulator.flash.controller import ControlledFlash, FlashController
from fota_simulator.flash.faults import FlashFaults
from fota_simulator.flash.file_flash import FileFlash
from fota_simulator.mcu import McuShare, VirtualMcu
from fota_simulator.powered import PoweredSession
from fota_simulator.report import BRICKED, NOT_CONNECTED, POWER_LOST
from fota_simulator.supply import Cut, Supply, parse_cut
from fota_transport.clock import SystemClock, VirtualClock
from fota_transport.errors import LinkLost
from fota_transport.links import TcpLink
from fota_transport.pump import pump
from fota_transport.trace import Trace

from .. import exit_codes
from ..choices import one_of
from ..device_options import (
    add_device_options,
    add_identity_options,
    identification,
    part_named,
    server_address,
    timings,
)
from ..dumps import SUFFIXES, encode_dump
from ..errors import UsageError
from ..files import check_writable, read_image, write_file, write_json

MAX_STUCK_BITS: Final = 1000
"""Most cells of each kind that may be stuck."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of one device."""
    add_device_options(parser)
    parser.set_defaults(part=None, policy=None)  # None: not said, so a device that was kept has its own
    add = parser.add_argument
    add_identity_options(parser)
    add("--image", type=Path, metavar="FILE", help="firmware that the flash is verified against")
    add("--device", type=Path, metavar="FILE", help="keep the device in this file from run to run; made if missing")
    add("--flash", type=Path, metavar="FILE", help="keep the whole flash in this file from run to run; made if missing")
    add(
        "--order",
        type=one_of(ProgrammingOrder),
        metavar="|".join(order.value for order in ProgrammingOrder),
        help="when the bootloader programs the vectors (default: vectors-last)",
    )
    add("--unguarded", action="store_true", help="its bootloader takes records for its own flash, too")
    add("--allow-lock", action="store_true", help="it even takes a configuration field that locks the part for ever")
    add("--protect", action="store_true", help="a new device's FPROT protects the bootloader's region")
    add("--cut", metavar="CUT", help="its power fails at command:N:before|torn|after of its flash, or at byte:N")
    add("--stuck-bits", type=int, default=0, metavar="N", help="cells stuck at 0, and as many at 1 (default: 0)")
    add("--weak-sectors", type=int, default=0, metavar="N", help="sectors that survive three erases (default: 0)")
    add("--strict", action="store_true", help="programming a unit that is not erased is an error")
    add("--seed", type=int, default=0, metavar="N", help="torn bits and faulty cells (default: 0)")
    add(
        "--dump",
        type=Path,
        metavar="FILE",
        help="write the application flash: .s19, .hex, or .bin (whole, FF where blank)",
    )
    add("--json", type=Path, metavar="FILE", help="write the outcome as JSON; - for standard output")
    add("--trace", type=Path, metavar="FILE", help="write what passed on the wire")
    add("--events", type=Path, metavar="FILE", help="write what happened in it, in virtual time; JSON for .json")


def run(args: argparse.Namespace) -> int:
    """Update the device once; returns the exit code."""
    host, port = server_address(args.server)
    image = None if args.image is None else read_image(args.image)
    if args.dump is not None and args.dump.suffix.lower() not in SUFFIXES:
        raise UsageError(f"dump {args.dump}, expected a name that ends in .s19, .hex or .bin")
    for path in (args.dump, args.json, args.trace, args.events, args.device):
        check_writable(path)
    if str(args.device) == "-":
        raise UsageError("a device is kept in a file, expected a name and not -")
    waits = timings(args.timeout)
    supply = Supply(_cut(args.cut), seed=args.seed)
    with contextlib.ExitStack() as stack:
        known = _known(args)
        share = McuShare.new()
        faults = _faults(known.part, args)
        flash = _flash(known, args, share, stack)
        if faults:
            print(f"fota: faulty cells drawn from seed {args.seed}", file=sys.stderr)
        clock = VirtualClock()
        events = None if args.events is None else EventTrace(clock)
        controller = FlashController(flash, clock, supply=supply, faults=faults, strict=args.strict, trace=events)
        mcu = VirtualMcu(
            known.identification,
            known.part,
            share,
            flash=flash,
            memory=ControlledFlash(controller),
            settings=known.settings,
            acks_verdict=not args.no_verdict_ack,
            timings=waits,
        )
        try:
            trouble = (BRICKED, "its bootloader is damaged") if known.is_bricked else None
            return _update(mcu, supply, (host, port), image, events, trouble, args)
        finally:
            controller.reset()
            if controller.overprogrammed:
                print(f"fota: {controller.overprogrammed} units were programmed that were not erased", file=sys.stderr)
            if controller.configuration.debugging is Debugging.LOST:
                print(f"fota: to a debugger, the part is {Debugging.LOST.value}", file=sys.stderr)
            if events is not None:
                _write_events(args.events, events)
            if args.device is not None and not known.is_bricked:
                _save(args.device, mcu)


def _play(
    session: PoweredSession, server: tuple[str, int], trace: Trace, args: argparse.Namespace
) -> tuple[str, str] | None:
    """One connection; returns what the session itself cannot know: that there was none, or that the power failed."""
    clock = SystemClock()
    trouble = None
    try:
        with TcpLink.connect(*server, args.timeout) as link:
            try:
                pump(session, link, clock, lambda _: b"", session.start(clock.monotonic()), trace)
            except PowerLost as lost:
                trouble = POWER_LOST, f"power lost {lost}"
                link.write(lost.sent, 0.0)
    except (LinkLost, TimeoutError) as error:
        trouble = trouble or (NOT_CONNECTED, str(error))
    return trouble


def _write_events(path: Path, events: EventTrace) -> None:
    text = events.to_json() if path.suffix == ".json" else events.to_text()
    if str(path) == "-":
        sys.stdout.write(text)
    else:
        write_file(path, text.encode())


def _known(args: argparse.Namespace) -> SavedDevice:
    """The device of --device, or a new one as the other options have it; raises `UsageError`."""
    if args.device is not None and args.flash is not None:
        raise UsageError("--device and --flash both keep the flash, expected one of them")
    if args.device is not None and args.device.exists():
        try:
            saved = load(args.device)
        except DeviceFileError as error:
            raise UsageError(f"device {error}") from error
        _check_same(saved, args)
        allows_lock = saved.settings.allows_lock or args.allow_lock
        return dataclasses.replace(saved, settings=dataclasses.replace(saved.settings, allows_lock=allows_lock))
    if args.mcuid is None:
        raise UsageError("who is it? Say --mcuid DIGITS, or --device FILE of one that was kept")
    part = part_named(args.part or DEFAULT_PART)
    field = DEVELOPMENT_FIELD
    if args.protect:
        try:
            field = protecting_field(part, 0, part.application_start)
        except ValueError as error:
            raise UsageError(str(error)) from error
    return SavedDevice(
        identification(args.mcuid, args.suffix),
        part,
        BootloaderSettings(
            args.policy or BootPolicy.SEALED,
            args.order or ProgrammingOrder.VECTORS_LAST,
            guards_itself=not args.unguarded,
            allows_lock=args.allow_lock,
        ),
        sectors=bootloader_sectors(part, field),
    )


def _check_same(saved: SavedDevice, args: argparse.Namespace) -> None:
    """Raise `UsageError` where an option says of a device that was kept what it is not."""
    who = saved.identification
    for what, asked, found in (
        ("MCUID", args.mcuid and identification(args.mcuid).mcuid, who.mcuid),
        ("suffix", args.suffix, who.suffix),
        ("part", args.part and part_named(args.part).name, saved.part.name),
        ("policy", args.policy and args.policy.value, saved.settings.policy.value),
        ("order", args.order and args.order.value, saved.settings.order.value),
    ):
        if asked and asked != found:
            raise UsageError(f"device {args.device}: its {what} is {found or 'none'}, expected {asked}")
    if (args.unguarded and saved.settings.guards_itself) or args.protect:
        raise UsageError(f"device {args.device}: it is there already, expected --unguarded and --protect for a new one")


def _flash(known: SavedDevice, args: argparse.Namespace, share: McuShare, stack: contextlib.ExitStack) -> Flash:
    if args.flash is None:
        return known.flash(share.pool)
    try:
        file = FileFlash.open(args.flash, known.part, share.pool, known.sectors)
    except FlashFileError as error:
        raise UsageError(f"flash {error}") from error
    return stack.enter_context(contextlib.closing(file))


def _cut(text: str | None) -> Cut | None:
    try:
        return None if text is None else parse_cut(text)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _faults(part: Part, args: argparse.Namespace) -> FlashFaults:
    bits, sectors = args.stuck_bits, args.weak_sectors
    if (
        not 0 <= bits <= MAX_STUCK_BITS
        or not 0 <= sectors <= (part.flash_end - part.application_start) // part.sector_size
    ):
        raise UsageError(
            f"{bits} stuck bits and {sectors} weak sectors, expected 0 to {MAX_STUCK_BITS} bits "
            "and no more sectors than the part has"
        )
    return FlashFaults.draw(part, args.seed, stuck_at_0=bits, stuck_at_1=bits, weak_sectors=sectors)


def _save(path: Path, mcu: VirtualMcu) -> None:
    try:
        save(path, mcu.saved())
    except DeviceFileError as error:
        raise UsageError(f"cannot write {error}") from error


def _update(
    mcu: VirtualMcu,
    supply: Supply,
    server: tuple[str, int],
    image: FirmwareImage | None,
    events: EventTrace | None,
    trouble: tuple[str, str] | None,
    args: argparse.Namespace,
) -> int:
    """Play the session, write and print what came of it; returns the exit code.

    `trouble` is why there can be no session: a reason, and the same in a sentence.
    """
    clock = SystemClock()
    session = mcu.session()
    powered = PoweredSession(session, supply, events)
    began = clock.monotonic()
    trace = Trace(began)
    if trouble is None:
        trouble = _play(powered, server, trace, args)
        if trouble is not None and trouble[0] == POWER_LOST and events is not None:
            events.record("power lost", where=trouble[1], records=session.records)
        if supply.pending:
            print(f"fota: the power did not fail: {args.cut} was not reached", file=sys.stderr)
    report = mcu.report(session, image, started_s=0.0, duration_s=clock.monotonic() - began)
    if trouble is not None:
        reason, detail = trouble
        report = dataclasses.replace(
            report,
            result=Result.FAILED.value,
            reason=reason,
            detail=detail,
            booted=report.booted and reason != BRICKED,
            verified=None if image is None else False,
        )
    values = report.as_json()
    outcome = {"outcome": values.pop("result"), "part": mcu.part.name, **values}
    if args.dump is not None:
        write_file(args.dump, encode_dump(mcu.flash, args.dump.suffix.lower()))
    if args.trace is not None:
        write_file(args.trace, trace.to_text().encode())
    if args.json is not None:
        write_json(args.json, outcome)
    why = "" if report.detail == report.result else f", {report.detail}"
    verified = {None: "", True: ", flash verified", False: ", flash not as the image"}[report.verified]
    print(f"{report.mcuid}: {report.result} after {report.records} records{why}{verified}", file=sys.stderr)
    return exit_codes.OK if report.ok else exit_codes.FAILED
