"""`fota hil relay`: a board's firmware speaks the protocol over its UART, and its bytes are carried to a server.

Options, signals, printing and exit codes are here; what is done with the bytes is in `fota_hil.relay`.
"""

import argparse
import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from fota_hil.board_process import BoardProcess
from fota_hil.close_signal import CloseSignal, SignalKind
from fota_hil.dialling import DIAL_RETRIES
from fota_hil.errors import PortError, PortNameError, TemplateError
from fota_hil.relay import IDLE, REOPEN, Relay, RelaySettings
from fota_hil.relay_report import Ended, Outcome
from fota_hil.relay_trace import RelayTrace
from fota_hil.serial_link import DEFAULT_BAUD, MAX_BAUD, SerialLink
from fota_hil.templates import Template
from fota_transport.clock import SystemClock

from .. import exit_codes
from ..device_options import server_address
from ..errors import UsageError
from ..files import check_writable, open_again, write_json
from ..printable import printable
from .port_options import add_port_options

DESCRIPTION: Final = """Carry the bytes of a board whose firmware speaks the update protocol over its UART to a server.

  fota hil relay --serial /dev/ttyUSB0 --server 127.0.0.1:4000
  fota hil relay --serial ./k60-1 --server 127.0.0.1:4000 --on-close 'text=\\r\\nCLOSED\\r\\n' --trace relay.txt
  fota hil relay --serial rfc2217://bench:2217 --server fota.example:4000 --on-close reset --reset 'usbrelay RST=1'
  fota hil relay --serial ./k60-1 --board 'fota board --kind fota --pty {port}' --server 127.0.0.1:4000 --once

A session begins when the board identifies itself ('@' and a digit), and what it says before that goes to the trace
only. It ends when the server closes, when both are silent for --idle, when the board identifies itself anew, or when it
is unplugged. Nothing that passes is altered, but by --strip-crlf. The relay runs until SIGTERM or Ctrl-C.

In --reset and --board, {port}, {baud} and, in --reset, {mcuid} stand for the port, its speed and the board's digits; no
shell sees the command.

Exit code 0 when the server ended every session after an acked end frame, 1 when it did not, 2 for bad input, 3 when the
port or the server could not be had.
"""

NEVER: Final = "never"
"""What --reopen takes for not at all."""

LONGEST_WAIT: Final = 86_400.0
"""Seconds that --idle and --reopen may be at most."""

MAX_RETRIES: Final = 1_000
"""Most attempts to connect that may be asked for."""

MAX_SESSIONS: Final = 1_000_000
"""Most sessions that may be asked for."""

JSON_VERSION: Final = 1
"""Version of the JSON summary."""


def configure(actions: Any) -> None:
    """Add the action."""
    parser: argparse.ArgumentParser = actions.add_parser(
        "relay",
        help="carry the bytes of a board that speaks the update protocol",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(action=run)
    add = parser.add_argument
    add_port_options(parser, default_baud=DEFAULT_BAUD)
    add("--server", required=True, metavar="HOST:PORT", help="address of the server")
    for line in ("dtr", "rts"):
        add(f"--{line}", choices=("on", "off"), default="on", help=f"what {line.upper()} is (default: on)")
    add("--idle", type=float, default=IDLE, metavar="S", help=f"silence that ends a session (default: {IDLE:g})")
    add(
        "--on-close",
        default=SignalKind.NONE.value,
        metavar="none|text=…|break|dtr|rts|reset",
        help=r"how the board is told that its session is over; a text may have \r, \n, \xhh (default: none)",
    )
    add("--reset", metavar="CMD", help="the command of '--on-close reset'")
    add("--strip-crlf", action="store_true", help="take the line ends out of what the board says")
    add(
        "--dial-retries",
        type=int,
        default=DIAL_RETRIES,
        metavar="N",
        help=f"attempts to connect after the first, with growing pauses (default: {DIAL_RETRIES})",
    )
    add(
        "--reopen",
        default=f"{REOPEN:g}",
        metavar=f"S|{NEVER}",
        help=f"how long to try to open a port again that was unplugged (default: {REOPEN:g})",
    )
    add("--sessions", type=int, metavar="N", help="end after so many sessions")
    add("--once", action="store_true", help="end after one session")
    add(
        "--board",
        metavar="CMD",
        help="start this command, a virtual board, before its port is opened; stop it at the end",
    )
    add("--trace", type=Path, metavar="FILE", help="write what passes and what it means, while it passes")
    add("--json", type=Path, metavar="FILE", help="write a summary as JSON at the end; - for standard output")


def run(args: argparse.Namespace) -> int:
    """Relay until told otherwise; returns the exit code."""
    settings = _settings(args)
    board = _template("--board", args.board)
    for path in (args.trace, args.json):
        check_writable(path)
    clock = SystemClock()
    with contextlib.ExitStack() as stack:
        trace = None if args.trace is None else stack.enter_context(contextlib.closing(_trace(args, settings, clock)))

        def open_port() -> SerialLink:
            return SerialLink.open(args.serial, args.baud, dtr=args.dtr == "on", rts=args.rts == "on", keeps_input=True)

        relay = stack.enter_context(contextlib.closing(Relay(settings, open_port, clock, _say, trace)))
        stack.enter_context(_signals(relay.stop))
        try:
            if board is not None:
                values = {"port": args.serial, "baud": str(args.baud)}
                stack.enter_context(BoardProcess(board, values, args.serial, lambda: relay.is_stopping))
            if not relay.is_stopping:  # while the board was started
                _say(f"relay: {args.serial} at {args.baud} baud, server {settings.server}")
                relay.run()
        except PortError as error:
            relay.trouble = error
    if args.json is not None:
        write_json(args.json, _summary(args, settings, relay))
    return _exit_code(relay, settings)


def _exit_code(relay: Relay, settings: RelaySettings) -> int:
    if relay.trouble is not None:
        _say(str(relay.trouble))
        return exit_codes.USAGE if isinstance(relay.trouble, PortNameError) else exit_codes.HARNESS
    if any(report.ended is Ended.NOT_CONNECTED for report in relay.reports):
        return exit_codes.HARNESS
    wanted = settings.sessions or 0
    return exit_codes.OK if relay.ok == relay.ended >= wanted else exit_codes.FAILED


def _summary(args: argparse.Namespace, settings: RelaySettings, relay: Relay) -> dict[str, Any]:
    last = relay.reports[-1] if relay.reports else None
    return {
        "version": JSON_VERSION,
        "serial": args.serial,
        "baud": args.baud,
        "server": settings.server,
        "outcome": (last.outcome if last else Outcome.FAILED).value,
        "reason": last.detail if last else "no session",
        "ended": relay.ended,
        "ok": relay.ok,
        "noise_bytes": relay.noise,
        "trouble": None if relay.trouble is None else str(relay.trouble),
        "sessions": [report.as_json() for report in relay.reports],
    }


def _settings(args: argparse.Namespace) -> RelaySettings:
    """What the options mean; raises `UsageError`."""
    host, port = server_address(args.server)
    if not 0 < args.baud <= MAX_BAUD:
        raise UsageError(f"{args.baud} baud, expected 1 to {MAX_BAUD}")
    if not 0 < args.idle <= LONGEST_WAIT:
        raise UsageError(f"idle {args.idle:g}, expected more than 0 and at most {LONGEST_WAIT:g} s")
    if not 0 <= args.dial_retries <= MAX_RETRIES:
        raise UsageError(f"{args.dial_retries} attempts more, expected 0 to {MAX_RETRIES}")
    if args.sessions is not None and (args.once or not 0 < args.sessions <= MAX_SESSIONS):
        raise UsageError(f"--sessions {args.sessions}, expected 1 to {MAX_SESSIONS}, and no --once beside it")
    try:
        on_close = CloseSignal.parse(args.on_close)
    except ValueError as error:
        raise UsageError(f"--on-close: {error}") from error
    if (on_close.kind is SignalKind.RESET) != (args.reset is not None):
        raise UsageError("--on-close reset needs --reset CMD, and --reset is for nothing else")
    return RelaySettings(
        host,
        port,
        idle_s=args.idle,
        on_close=on_close,
        reset=_template("--reset", args.reset),
        strips_line_ends=args.strip_crlf,
        dial_retries=args.dial_retries,
        reopen_s=_reopen(args.reopen),
        sessions=1 if args.once else args.sessions,
    )


def _reopen(text: str) -> float | None:
    if text == NEVER:
        return None
    with contextlib.suppress(ValueError):
        if 0 <= float(text) <= LONGEST_WAIT:
            return float(text)
    raise UsageError(f"--reopen {text!r}, expected 0 to {LONGEST_WAIT:g} s, or {NEVER}")


def _template(option: str, text: str | None) -> Template | None:
    try:
        return None if text is None else Template.parse(text)
    except TemplateError as error:
        raise UsageError(f"{option}: {error}") from error


def _trace(args: argparse.Namespace, settings: RelaySettings, clock: SystemClock) -> RelayTrace:
    title = f"{args.serial} at {args.baud} baud, {settings.server}"
    try:
        return RelayTrace(args.trace, title, clock, _say, stream=open_again(args.trace, buffering=0))
    except OSError as error:
        raise UsageError(f"cannot write {args.trace}: {error.strerror}") from error


def _say(text: str) -> None:
    print(f"fota: {printable(text)}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _signals(stop: Callable[[], None]) -> Iterator[None]:
    """SIGTERM and Ctrl-C stop the relay in order; both are Python's again afterwards."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kept = {number: signal.signal(number, lambda *_: stop()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
