"""The options of `fota hil program`: what can be asked for, and what of it cannot be, or not together."""

import argparse
import enum
import re
from pathlib import Path
from typing import Final

from fota_hil.an2295_master import RETRIES
from fota_hil.errors import TemplateError
from fota_hil.serial_link import MAX_BAUD
from fota_hil.templates import COMMAND_TIMEOUT, Act, Template

from ..choices import one_of
from ..device_options import add_identity_options, add_session_options
from ..errors import UsageError
from ..files import check_writable
from .port_options import add_port_options

DESCRIPTION: Final = """Program one board that has the stock serial bootloader (AN2295), from a file or by an update.

  fota hil program --serial /dev/ttyUSB0 --image app.s19
  fota hil program --serial ./k60-1 --server 127.0.0.1:4000 --mcuid 0001000000000000000000000
  fota hil program --serial /dev/ttyUSB0 --image app.s19 --no-input --enter 'relay {port} press' --reset 'relay reset'

With --server it is the device to the server, so that a board that knows only its serial bootloader is updated over the
air: the image is fetched and checked as a whole, then programmed. Everything that can be wrong with an image is found
before the board is touched. It may be interrupted at any moment and started again: a board that was not touched by
then is told to start its application, any other stays in its bootloader.

Exit code 0 when the image is in flash (and was read back, and --expect was seen), 1 when board or server failed, 2 for
bad input, 3 when the port or a command failed, 130 after Ctrl-C.
"""

MIN_BAUD: Final = 300
"""Least bits a second: below that, waits are too short for the bytes."""

MAX_RETRIES: Final = 100
"""Most times that a request may be sent again."""

LONGEST_WAIT: Final = 86_400.0
"""Seconds that a wait may be set to at most."""

HOOK_TIMEOUT: Final = 60.0
"""Seconds to reach the board, and once more the same when a person was asked to reset it."""


class EndAck(enum.Enum):
    """When the end frame is acked."""

    AFTER = "after"
    """When the image is in flash."""
    RECEIPT = "receipt"
    """When the image was received and checked."""


class Mode(enum.Enum):
    """Where the image comes from, and when it is programmed."""

    FILE = "file"
    STORE = "store"
    STREAM = "stream"


_ONLY_WITH: Final = {
    "server": ("mcuid", "suffix", "stream", "end_ack", "end_ack_time", "no_verdict_ack", "timeout"),
    "expect": ("expect_baud", "expect_timeout"),
}
"""Options that mean nothing without another one."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options to `parser`."""
    add = parser.add_argument
    add_port_options(parser, default_baud=9600)
    add("--image", type=Path, metavar="FILE", help="firmware to program: S-records, Intel HEX or ELF")
    add("--server", metavar="HOST:PORT", help="server to get an update from, instead of --image")
    add_identity_options(parser)
    add("--json", type=Path, metavar="FILE", help="write the outcome as JSON; - for standard output")
    add("--transcript", type=Path, metavar="FILE", help="write what passed on the serial line, decoded")
    add("--plain", action="store_true", help="lines instead of a progress bar")
    flash = parser.add_argument_group("the flash")
    flash.add_argument("--no-verify", action="store_true", help="do not read back what was written")
    flash.add_argument("--relocate", action="store_true", help="move vectors from address 0 to the application's table")
    flash.add_argument("--any-vectors", action="store_true", help="take images whose vectors are missing or wrong")
    flash.add_argument(
        "--retries",
        type=int,
        default=RETRIES,
        metavar="N",
        help=f"send a request again so often before it counts as failed (default: {RETRIES})",
    )
    update = parser.add_argument_group("with --server")
    update.add_argument("--stream", action="store_true", help="program while records come; see the manual first")
    update.add_argument(
        "--end-ack",
        type=one_of(EndAck),
        default=EndAck.AFTER,
        metavar="after|receipt",
        help="ack the end frame when all is in flash, or when it was received (default: after)",
    )
    update.add_argument(
        "--end-ack-time", type=float, default=30.0, metavar="S", help="the server waits so long for that (default: 30)"
    )
    add_session_options(update)
    hands = parser.add_argument_group("hands at the board: commands with {port}, {baud} and {mcuid} in them")
    hands.add_argument("--enter", metavar="CMD", help="hold SW1; run first")
    hands.add_argument("--reset", metavar="CMD", help="reset the board")
    hands.add_argument("--power", metavar="CMD", help="switch the board off and on")
    hands.add_argument("--leave", metavar="CMD", help="let SW1 go; run before the bootloader is left")
    hands.add_argument(
        "--command-timeout",
        type=float,
        default=COMMAND_TIMEOUT,
        metavar="S",
        help="such a command may take so long (default: 60)",
    )
    hands.add_argument("--no-input", action="store_true", help="never ask a person: fail")
    hands.add_argument(
        "--hook-timeout", type=float, default=HOOK_TIMEOUT, metavar="S", help="wait so long for the board (default: 60)"
    )
    hands.add_argument("--calibrate", action="store_true", help="send pulses to a board whose clock is not trimmed")
    banner = parser.add_argument_group("the application")
    banner.add_argument("--expect", metavar="REGEX", help="what it must say when it has started")
    banner.add_argument("--expect-baud", type=int, metavar="N", help="at so many bits a second (default: as --baud)")
    banner.add_argument("--expect-timeout", type=float, default=10.0, metavar="S", help="within so long (default: 10)")


def check(args: argparse.Namespace) -> None:
    """Raise `UsageError` for options that cannot be, or not together."""
    if (args.image is None) == (args.server is None):
        raise UsageError("what is to be programmed? Say --image FILE, or --server HOST:PORT with --mcuid, not both")
    if args.server is not None and args.mcuid is None:
        raise UsageError("who is the board to the server? Say --mcuid DIGITS")
    given = _given(args)
    for needed, options in _ONLY_WITH.items():
        for option in options:
            if option in given and needed not in given:
                raise UsageError(f"--{option.replace('_', '-')} without --{needed}, expected both")
    if args.stream and (idle := given & {"end_ack", "end_ack_time"}):
        option = min(idle).replace("_", "-")
        raise UsageError(f"--{option} with --stream, which acks when all is in flash: leave one out")
    if args.stream and args.relocate:
        raise UsageError("--relocate with --stream, expected the whole image before anything is moved: leave one out")
    for option, low, high in (
        ("baud", MIN_BAUD, MAX_BAUD),
        ("expect_baud", MIN_BAUD, MAX_BAUD),
        ("retries", 0, MAX_RETRIES),
    ):
        value = getattr(args, option)
        if value is not None and not low <= value <= high:
            raise UsageError(f"--{option.replace('_', '-')} {value}, expected {low} to {high}")
    for option in ("end_ack_time", "command_timeout", "hook_timeout", "expect_timeout"):
        value = getattr(args, option)
        if not 0 < value <= LONGEST_WAIT:
            raise UsageError(
                f"--{option.replace('_', '-')} {value:g}, expected more than 0 and at most {LONGEST_WAIT:g} s"
            )
    for path in (args.json, args.transcript):
        check_writable(path)


def _given(args: argparse.Namespace) -> set[str]:
    """Which options say something else than their defaults."""
    parser = argparse.ArgumentParser()
    add_options(parser)
    return {option for option, value in vars(args).items() if value != parser.get_default(option)}


def templates(args: argparse.Namespace) -> dict[Act, Template]:
    """The commands for hands at the board; raises `UsageError`."""
    found = {}
    for act in Act:
        text = getattr(args, act.value)
        if text is not None:
            try:
                found[act] = Template.parse(text)
            except TemplateError as error:
                raise UsageError(f"--{act.value}: {error}") from error
    return found


def regex(text: str) -> "re.Pattern[bytes]":
    """What --expect says; raises `UsageError`."""
    try:
        return re.compile(text.encode())
    except re.error as error:
        raise UsageError(f"--expect {text!r}: {error}") from error
