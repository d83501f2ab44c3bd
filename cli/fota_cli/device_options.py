"""Options that every command with virtual MCUs has, and what they mean."""

import argparse
from typing import Final

from fota_protocol.device import DeviceTimings
from fota_protocol.errors import RemoteProtocolError, UnknownPartError
from fota_protocol.identity import Identification, McuidFormat, parse_mcuid
from fota_protocol.parts import DEFAULT_PART, PARTS, Part
from fota_protocol.parts import part as find_part
from fota_simulator.boot import BootPolicy

from .choices import one_of
from .errors import UsageError

Options = argparse._ActionsContainer
"""Where options go: a parser, or a group of one. argparse has no public name for what both are."""

PART_NAMES: Final = ", ".join((*PARTS, *(board for part in PARTS.values() for board in part.boards)))
"""Parts and boards, for the help."""


def add_device_options(parser: argparse.ArgumentParser, *, needs_server: bool = True) -> None:
    """Add the options to `parser`."""
    parser.add_argument("--server", required=needs_server, metavar="HOST:PORT", help="address of the server")
    add_part_option(parser)
    add_policy_option(parser)
    add_session_options(parser)


def add_part_option(parser: Options) -> None:
    """Which part a board has."""
    parser.add_argument(
        "--part", default=DEFAULT_PART, metavar="NAME", help=f"part or board: {PART_NAMES} (default: {DEFAULT_PART})"
    )


def add_policy_option(parser: Options) -> None:
    """What its bootloader demands."""
    parser.add_argument(
        "--policy",
        type=one_of(BootPolicy),
        default=BootPolicy.SEALED,
        metavar="|".join(policy.value for policy in BootPolicy),
        help="what the bootloader demands of an image before it acks the end (default: sealed)",
    )


def add_identity_options(parser: Options, default: str = "") -> None:
    """Who a device is; `default` is said in the help, and for the command to set."""
    said = f" (default: {default})" if default else ""
    parser.add_argument(
        "--mcuid", metavar="DIGITS", help=f"who it is to the server: 25 decimal, or hexadecimal digits{said}"
    )
    parser.add_argument(
        "--suffix", default="", metavar="DIGITS", help="digits behind a decimal MCUID (model, versions)"
    )


def add_session_options(parser: Options) -> None:
    """How a device behaves in a session."""
    parser.add_argument("--no-verdict-ack", action="store_true", help="do not ack @4#, as most devices of revision A")
    parser.add_argument(
        "--timeout", type=float, default=60.0, metavar="S", help="longest silence of the server (default: 60)"
    )


def server_address(text: str) -> tuple[str, int]:
    """HOST:PORT, also [::1]:PORT; raises `UsageError`."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) <= 65_535:
        raise UsageError(f"server {text!r}, expected HOST:PORT, for instance 127.0.0.1:4000")
    return host.removeprefix("[").removesuffix("]"), int(port)


def part_named(name: str) -> Part:
    """The part or the board's part; raises `UsageError`."""
    try:
        return find_part(name)
    except UnknownPartError as error:
        raise UsageError(str(error)) from error


def timings(timeout_s: float) -> DeviceTimings:
    """Deadlines of a device that waits `timeout_s`; raises `UsageError`."""
    if not 0 < timeout_s <= 86_400:
        raise UsageError(f"timeout {timeout_s:g}, expected more than 0 and at most 86400 s")
    return DeviceTimings(verdict=timeout_s, frame=timeout_s)


def identification(mcuid: str, suffix: str = "") -> Identification:
    """An identification in either format; raises `UsageError`."""
    if suffix and not (suffix.isdecimal() and suffix.isascii()):
        raise UsageError(f"suffix {suffix!r}, expected decimal digits")
    try:
        if suffix or (mcuid.isdecimal() and mcuid.isascii() and len(mcuid) > 25):
            found = parse_mcuid(mcuid + suffix, McuidFormat.DECIMAL25)
        else:
            found = parse_mcuid(mcuid, McuidFormat.HEX)
    except RemoteProtocolError as error:
        raise UsageError(str(error)) from error
    if len(found.encode()) > 1024:
        raise UsageError("the identification is longer than 1024 bytes")
    return found
