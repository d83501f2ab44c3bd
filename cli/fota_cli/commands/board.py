"""Be a virtual K60 on a pseudo-terminal, which any program can open as if it were a serial port.

  fota board --pty ./k60-1
  fota board --pty ./k60-1 --baud 9600 --flash k60-1.bin --control ./k60-1.control
  fota board --pty ./k60-1 --kind fota --mcuid 0001000000000000000000000 --newline crlf

Two kinds: 'an2295' has the stock serial bootloader of the TWR-K60 boards, 'fota' asks a server for updates over its
UART. One line of JSON says when the port is there; the board runs until SIGTERM or Ctrl-C.

SIGUSR1 resets it with SW1 pressed, so that its bootloader runs; SIGUSR2 lets the pin go and cuts its power for a
moment. With --control, a named pipe takes a line each of: reset, enter (a reset with SW1 pressed), pin held,
pin released, power off, power on, power cycle, restart (the pin released, then a power cycle), plug, unplug, or
unplug SECONDS.

Exit code 0 when it was told to end, or with --once when its application has started; 1 if it was told before that.
"""

import argparse
import codecs
import contextlib
import enum
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from fota_protocol.errors import ImageError
from fota_protocol.image import FirmwareImage
from fota_protocol.parts import Part
from fota_simulator.board.an2295 import SDIDS, An2295Slave, Quirk, ident_of
from fota_simulator.board.board import Condition, Pin, VirtualBoard
from fota_simulator.board.control import LONGEST_UNPLUGGED, Order
from fota_simulator.board.errors import BoardError
from fota_simulator.board.firmware import Firmware
from fota_simulator.board.fota_device import FotaDevice, Newline
from fota_simulator.board.memory import BoardMemory
from fota_simulator.board.runner import BoardRunner
from fota_simulator.board.serial_line import INSTANT, MAX_BAUD, UnplugPlan, parse_faults
from fota_simulator.board.wired import LineSettings, Plugged, WiredBoard, WiredEvent
from fota_simulator.boot import BootloaderSettings, BootPolicy
from fota_simulator.bootloader import bootloader_sectors
from fota_simulator.errors import FlashFileError
from fota_simulator.events import EventTrace
from fota_simulator.flash import Flash
from fota_simulator.flash.commands import Timing
from fota_simulator.flash.configuration import DEVELOPMENT_FIELD, protecting_field
from fota_simulator.flash.controller import ControlledFlash, FlashController
from fota_simulator.flash.file_flash import FileFlash
from fota_simulator.mcu import McuShare, VirtualMcu
from fota_simulator.supply import CommandCut, Supply, parse_cut
from fota_transport.clock import SystemClock, VirtualClock
from fota_transport.trace import Trace

from .. import exit_codes
from ..choices import one_of
from ..device_options import (
    add_identity_options,
    add_part_option,
    add_policy_option,
    add_session_options,
    identification,
    part_named,
    timings,
)
from ..dumps import SUFFIXES, encode_dump
from ..errors import UsageError
from ..files import check_writable, read_image, write_file

DEFAULT_MCUID: Final = "0001000000000000000000000"
"""Who a board of kind `fota` is when nobody says."""

MIN_BAUD: Final = 300
"""Lowest rate, in bits a second, that is simulated."""

LONGEST_RETRY: Final = 86_400.0
"""Seconds that a board may be told to pause before it asks again."""

TEXT_LIMIT: Final = 1_024
"""Bytes of a banner or a boot text."""


class Kind(enum.Enum):
    """What bootloader a board has."""

    AN2295 = "an2295"
    FOTA = "fota"


class FlashTimes(enum.Enum):
    """Whether answers wait for the flash, and by which column of the data sheet."""

    NONE = "none"
    TYPICAL = "typical"
    MAXIMUM = "maximum"


OF_KIND: Final = {
    Kind.AN2295: ("sdid", "pin", "quirk"),
    Kind.FOTA: ("mcuid", "suffix", "policy", "newline", "boot_text", "retry", "timeout", "no_verdict_ack"),
}
"""Options that boards of one kind have, and of the other have not."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of a board."""
    add = parser.add_argument
    add("--pty", type=Path, metavar="PATH", help="make a link to the pseudo-terminal there; without, its own name")
    add(
        "--kind",
        type=one_of(Kind),
        default=Kind.AN2295,
        metavar="an2295|fota",
        help="which bootloader it has (default: an2295)",
    )
    add_part_option(parser)
    add("--once", action="store_true", help="end when the application has started")
    line = parser.add_argument_group("the line")
    line.add_argument("--baud", default="instant", metavar="N|instant", help="bits a second (default: instant)")
    line.add_argument("--app-baud", metavar="N|instant", help="those of the application (default: as --baud)")
    line.add_argument("--strict-baud", action="store_true", help="a client with another rate than --baud gets garbage")
    line.add_argument("--faults", metavar="PLAN", help="WAY:KIND:P or WAY:KIND@N,…: in|out|both, flip|drop|double")
    line.add_argument("--unplug-at", type=int, metavar="BYTE", help="pull the plug before this byte passes, either way")
    line.add_argument("--replug-after", type=float, metavar="S", help="and put it back after so long (default: never)")
    line.add_argument("--usb-powered", action="store_true", help="without the plug, the board has no power")
    line.add_argument("--seed", type=int, default=0, metavar="N", help="faulty bytes, torn flash bits (default: 0)")
    flash = parser.add_argument_group("the flash")
    flash.add_argument("--flash", type=Path, metavar="FILE", help="keep the whole flash there; made if missing")
    flash.add_argument("--application", type=Path, metavar="FILE", help="firmware that a new flash begins with")
    flash.add_argument("--dump", type=Path, metavar="FILE", help="write the whole flash at the end: .s19, .hex, .bin")
    flash.add_argument(
        "--flash-times",
        type=one_of(FlashTimes),
        default=FlashTimes.NONE,
        metavar="|".join(times.value for times in FlashTimes),
        help="whether answers wait for the flash (default: none)",
    )
    flash.add_argument("--cut", metavar="CUT", help="the power fails for a second at command:N:before|torn|after")
    bench = parser.add_argument_group("the bench")
    bench.add_argument("--control", type=Path, metavar="PATH", help="make a named pipe there that takes orders")
    bench.add_argument("--banner", metavar="TEXT", help="what the application says (default: {part} application {crc})")
    bench.add_argument("--transcript", type=Path, metavar="FILE", help="write what passed on the line, at the end")
    bench.add_argument("--events", type=Path, metavar="FILE", help="write resets and flash commands; JSON for .json")
    an2295 = parser.add_argument_group("kind an2295")
    an2295.add_argument("--sdid", metavar="HEX", help="low 16 bits of SIM_SDID (default: the part's)")
    an2295.add_argument(
        "--pin",
        type=one_of(Pin),
        metavar="|".join(pin.value for pin in Pin),
        help="whether SW1 is held when it resets (default: sw1)",
    )
    an2295.add_argument(
        "--quirk",
        type=one_of(Quirk),
        action="append",
        metavar="|".join(quirk.value for quirk in Quirk),
        help="what an older build does otherwise; may come more than once",
    )
    fota = parser.add_argument_group("kind fota")
    add_identity_options(fota, DEFAULT_MCUID)
    add_policy_option(fota)
    fota.add_argument("--newline", type=one_of(Newline), metavar="none|lf|crlf", help="behind frames (default: none)")
    fota.add_argument("--boot-text", metavar="TEXT", help="what it says before it identifies itself (default: none)")
    fota.add_argument("--retry", type=float, metavar="S", help="first pause before it asks again (default: 5)")
    add_session_options(fota)
    # None: not said, so that what a board of the other kind has not is told apart.
    parser.set_defaults(suffix=None, policy=None, no_verdict_ack=None, timeout=None)


def run(args: argparse.Namespace) -> int:
    """Be a board until told otherwise; returns the exit code."""
    _check_kind(args)
    part = part_named(args.part)
    baud = _baud("--baud", args.baud)
    line = _line(args, baud)
    if args.strict_baud and baud == INSTANT:
        raise UsageError("--strict-baud with an instant line, expected --baud N")
    supply = _supply(args)
    for path in (args.pty, args.control, args.flash):
        if path is not None and not path.name:
            raise UsageError(f"{str(path)!r}, expected the name of a file")
    if args.dump is not None and args.dump.suffix.lower() not in SUFFIXES:
        raise UsageError(f"dump {args.dump}, expected a name that ends in .s19, .hex or .bin")
    for path in (args.dump, args.transcript, args.events):
        check_writable(path)
    with contextlib.ExitStack() as stack:
        share = McuShare.new()
        flash = _flash(args, part, share, stack)
        clock, flash_clock = SystemClock(), VirtualClock()
        events = None if args.events is None else EventTrace(flash_clock)
        timing = Timing.MAXIMUM if args.flash_times is FlashTimes.MAXIMUM else Timing.TYPICAL
        controller = FlashController(flash, flash_clock, supply=supply, timing=timing, trace=events)
        pin = args.pin or Pin.SW1
        policy = BootPolicy.AN2295 if args.kind is Kind.AN2295 else args.policy or BootPolicy.SEALED
        board = VirtualBoard(
            _firmware(args, part, controller, share, pin),
            controller,
            flash_clock,
            policy=policy,
            is_held=pin is Pin.HELD,
            banner=_banner(args, part),
            has_flash_times=args.flash_times is not FlashTimes.NONE,
        )
        trace = None if args.transcript is None else Trace(clock.monotonic())
        wired = WiredBoard(board, line, trace)
        try:
            return _play(args, wired, clock, baud, is_pressing=pin is Pin.SW1)
        finally:
            if args.dump is not None:
                write_file(args.dump, encode_dump(flash, args.dump.suffix.lower(), whole=True))
            if trace is not None:
                write_file(args.transcript, trace.to_text().encode())
            if events is not None:
                text = events.to_json() if args.events.suffix == ".json" else events.to_text()
                write_file(args.events, text.encode())


def _play(args: argparse.Namespace, wired: WiredBoard, clock: SystemClock, baud: int, *, is_pressing: bool) -> int:
    try:
        with (
            BoardRunner(
                wired,
                args.pty,
                clock,
                baud=baud,
                control=args.control,
                checks_baud=args.strict_baud,
                is_once=args.once,
                on_event=_report,
                on_complaint=_say,
            ) as runner,
            _signals(runner),
        ):
            if args.faults is not None:
                _say(f"faults of the line drawn from seed {args.seed}")
            ready = {
                "event": "ready",
                "port": runner.port,
                "pid": os.getpid(),
                "kind": args.kind.value,
                "part": part_named(args.part).name,
                "seed": args.seed,
            }
            print(json.dumps(ready), flush=True)
            runner.run(pressing=is_pressing)
    except BoardError as error:
        raise UsageError(str(error)) from error
    finally:
        if wired.faults:
            _say(f"{wired.faults} bytes were altered on the line")
    return exit_codes.FAILED if args.once and not runner.application_started else exit_codes.OK


def _say(text: str) -> None:
    print(f"fota: {text}", file=sys.stderr, flush=True)


def _report(event: WiredEvent) -> None:
    """Say what happened."""
    if isinstance(event, Plugged):
        what = "plugged in" if event.is_in else "unplugged"
    else:
        what = "power off" if event.condition is Condition.OFF else event.condition.value
        what += f" {event.image_crc}" if event.image_crc else ""
        what += f": {event.detail}" if event.detail else ""
    _say(f"board: {what}")


@contextlib.contextmanager
def _signals(runner: BoardRunner) -> Iterator[None]:
    """Have signals mean something while the board runs."""
    handlers: dict[signal.Signals, Callable[..., None]] = {
        signal.SIGTERM: lambda *_: runner.stop(),
        signal.SIGINT: lambda *_: runner.stop(),
        signal.SIGUSR1: lambda *_: runner.order(Order.ENTER),
        signal.SIGUSR2: lambda *_: runner.order(Order.RESTART),
    }
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _check_kind(args: argparse.Namespace) -> None:
    """Raise `UsageError` for an option of the other kind."""
    for kind, names in OF_KIND.items():
        for name in names:
            if kind is not args.kind and getattr(args, name) is not None:
                option = "--" + name.replace("_", "-")
                raise UsageError(f"{option} with --kind {args.kind.value}, expected it with --kind {kind.value} only")


def _baud(option: str, text: str) -> int:
    if text == "instant":
        return INSTANT
    if not (text.isdecimal() and text.isascii()) or not MIN_BAUD <= int(text[:12]) <= MAX_BAUD:
        raise UsageError(f"{option} {text[:20]!r}, expected instant, or {MIN_BAUD} to {MAX_BAUD} bits a second")
    return int(text)


def _line(args: argparse.Namespace, baud: int) -> LineSettings:
    unplug = None
    if args.replug_after is not None and not 0 <= args.replug_after <= LONGEST_UNPLUGGED:
        raise UsageError(f"--replug-after {args.replug_after:g}, expected 0 to {LONGEST_UNPLUGGED:g} s")
    if args.unplug_at is not None:
        if args.unplug_at < 1:
            raise UsageError(f"--unplug-at {args.unplug_at}, expected the number of a byte from 1")
        unplug = UnplugPlan(args.unplug_at, args.replug_after)
    elif args.replug_after is not None:
        raise UsageError("--replug-after without --unplug-at, expected both")
    try:
        faults = () if args.faults is None else parse_faults(args.faults)
    except ValueError as error:
        raise UsageError(str(error)) from error
    return LineSettings(
        baud=baud,
        app_baud=baud if args.app_baud is None else _baud("--app-baud", args.app_baud),
        is_usb_powered=args.usb_powered,
        faults=faults,
        unplug=unplug,
        seed=args.seed,
    )


def _supply(args: argparse.Namespace) -> Supply:
    try:
        cut = None if args.cut is None else parse_cut(args.cut)
    except ValueError as error:
        raise UsageError(str(error)) from error
    if cut is not None and not isinstance(cut, CommandCut):
        raise UsageError(f"cut {args.cut!r}, expected command:N:before|torn|after; for bytes there is --unplug-at")
    return Supply(cut, seed=args.seed)


def _flash(args: argparse.Namespace, part: Part, share: McuShare, stack: contextlib.ExitStack) -> Flash:
    field = DEVELOPMENT_FIELD
    if args.quirk is not None and Quirk.PROTECTED in args.quirk:
        try:
            field = protecting_field(part, 0, part.application_start)
        except ValueError as error:
            raise UsageError(f"--quirk protected: {error}") from error
    new = Flash(part, share.pool, bootloader_sectors(part, field))
    if args.application is not None:
        if args.flash is not None and args.flash.exists():
            raise UsageError(f"--application with {args.flash}, which is there already, expected a new flash")
        _preload(new, read_image(args.application), args.application)
    if args.flash is None:
        return new
    try:
        file = FileFlash.open(args.flash, part, share.pool, new.contents())
    except FlashFileError as error:
        raise UsageError(f"flash {error}") from error
    return stack.enter_context(contextlib.closing(file))


def _preload(flash: Flash, image: FirmwareImage, path: Path) -> None:
    part = flash.part
    try:
        image.check_fits(part)
    except ImageError as error:
        raise UsageError(f"firmware {path}: {error}") from error
    size = part.sector_size
    for index in range(image.first // size, -(-image.end // size)):
        start, end = index * size, (index + 1) * size
        flash.replace_sector(index, image.read(start, end))


def _firmware(args: argparse.Namespace, part: Part, controller: FlashController, share: McuShare, pin: Pin) -> Firmware:
    memory = ControlledFlash(controller)
    if args.kind is Kind.AN2295:
        sdid = SDIDS[part.flash_module] if args.sdid is None else _sdid(args.sdid)
        return An2295Slave(
            BoardMemory(controller, sdid),
            memory,
            ident_of(part, sdid),
            quirks=args.quirk or (),
            has_pin=pin is not Pin.ABSENT,
        )
    retry = 5.0 if args.retry is None else args.retry
    if not 0 < retry <= LONGEST_RETRY:
        raise UsageError(f"--retry {retry:g}, expected more than 0 and at most {LONGEST_RETRY:g} s")
    mcu = VirtualMcu(
        identification(DEFAULT_MCUID if args.mcuid is None else args.mcuid, args.suffix or ""),
        part,
        share,
        flash=controller.array,
        memory=memory,
        settings=BootloaderSettings(args.policy or BootPolicy.SEALED),
        acks_verdict=not args.no_verdict_ack,
        timings=timings(60.0 if args.timeout is None else args.timeout),
    )
    return FotaDevice(
        mcu,
        boot_text=b"" if args.boot_text is None else _text("--boot-text", args.boot_text),
        newline=args.newline or Newline.NONE,
        retry_s=retry,
        on_outcome=lambda outcome: _say(f"board: {outcome.detail}"),
    )


def _sdid(text: str) -> int:
    try:
        found = int(text, 16)
    except ValueError:
        found = -1
    if not 0 <= found <= 0xFFFF:
        raise UsageError(f"--sdid {text!r}, expected up to four hexadecimal digits, for instance 014A")
    return found


def _banner(args: argparse.Namespace, part: Part) -> Callable[[str], bytes]:
    template = "{part} application {crc}\\r\\n" if args.banner is None else args.banner

    def banner(crc: str) -> bytes:
        return _text("--banner", template.replace("{part}", part.name).replace("{crc}", crc))

    banner("00000000")
    return banner


def _text(option: str, text: str) -> bytes:
    r"""A text with the escapes of a Python string (\r, \n, \x00)."""
    try:
        found = codecs.decode(text.encode("latin-1", "backslashreplace"), "unicode_escape").encode("latin-1")
    except ValueError as error:
        raise UsageError(
            f"{option} {text!r}: {error}, expected characters up to \\xff, escaped as in Python"
        ) from error
    if len(found) > TEXT_LIMIT:
        raise UsageError(f"{option}: {len(found)} bytes, expected at most {TEXT_LIMIT}")
    return found
