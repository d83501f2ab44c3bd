"""Serve firmware to devices until SIGTERM or Ctrl-C.

The registry says who gets what, one device a line: MCUID,filename,version (or an SQLite file). Settings come from
the command line, then from a TOML file (--config), then from defaults. When the server accepts connections it prints
one JSON line with its address; everything else goes to the log folder, and to standard error.

  fota serve --registry devices2update.txt --firmware bin --logs logs
  fota serve -db devices2update.txt -pbf bin -ho 127.0.0.1 -p 4000 -lp /tmp
  fota serve --config fota.toml --port 0 --ready-file ready.json
  fota serve --config fota.toml --check --json
  fota serve --workers 4 --sessions-per-second 500
  fota serve --tls-port 4443 --tls-cert fullchain.pem --tls-key privkey.pem
"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from fota_protocol.identity import McuidFormat
from fota_protocol.server import Handshake
from fota_server.app import Ready, readiness, serve, write_ready_file
from fota_server.config import LogFormat, Settings, load_settings
from fota_server.errors import ServerError
from fota_server.preflight import check
from fota_server.workers import serve_with_workers
from fota_transport.loops import run as run_loop

from .. import exit_codes
from ..choices import one_of
from ..errors import UsageError
from ..printable import printable


def configure(parser: argparse.ArgumentParser) -> None:
    """Options; those of the reference server keep their names."""
    defaults = Settings()
    add = parser.add_argument
    add("--config", type=Path, metavar="TOML", help="settings by their long names, e.g. ack-timeout = 30")
    add("-ho", "--host", help="address to listen on (default: every interface)")
    add("-p", "--port", type=int, help=f"TCP port, 0 for a free one (default: {defaults.port})")
    add(
        "-db",
        "--dbname",
        "--registry",
        dest="registry",
        type=Path,
        metavar="FILE",
        help=_of(defaults.registry, "who gets what: a text file or SQLite"),
    )
    add(
        "-pbf",
        "--pathbinaryfiles",
        "--firmware",
        dest="firmware",
        type=Path,
        metavar="DIR",
        help=_of(defaults.firmware, "firmware folder"),
    )
    add(
        "-lp",
        "--logpath",
        "--logs",
        dest="logs",
        type=Path,
        metavar="DIR",
        help=_of(defaults.logs, "log folder, made where there is none"),
    )
    add(
        "--journal",
        type=Path,
        metavar="FILE",
        help="SQLite journal of sessions (default: journal.sqlite in the log folder)",
    )
    add(
        "--log-format",
        type=one_of(LogFormat),
        metavar="text|json",
        help="of the server log (default: text)",
    )
    add(
        "--mcuid-format",
        type=one_of(McuidFormat),
        metavar="decimal25|hex",
        help="of identifications (default: decimal25)",
    )
    add(
        "--handshake",
        type=one_of(Handshake),
        metavar="auto|wait|immediate",
        help="whether devices ack @4# before the first record (default: auto)",
    )
    for name, what in (
        ("identification-timeout", "from the connection to the identification"),
        ("ack-timeout", "from a frame to its ack"),
        ("end-ack-timeout", "from the end frame to its ack"),
        ("grace", "how long auto waits for the ack of @4#"),
        ("stop-timeout", "how long live updates may go on after SIGTERM"),
    ):
        default = getattr(defaults, name.replace("-", "_"))
        add(f"--{name}", type=float, metavar="S", help=f"{what}, in seconds (default: {default:g})")
    add("--limit", type=int, metavar="N", help="most connections at once (default: from the descriptor limit)")
    add("--sessions-per-second", type=float, metavar="N", help="most new sessions a second (default: any number)")
    add(
        "--identification-size",
        type=int,
        metavar="N",
        help=f"longest identification in bytes (default: {defaults.identification_size})",
    )
    add("--workers", type=int, metavar="N", help=f"processes that share the port (default: {defaults.workers})")
    add("--tls-port", type=int, metavar="N", help="TCP port for devices that speak TLS, 0 for a free one")
    add("--tls-cert", type=Path, metavar="PEM", help="the server's certificate, and those that lead to its root")
    add("--tls-key", type=Path, metavar="PEM", help="its private key (default: in the file of --tls-cert)")
    add("--tls-client-ca", type=Path, metavar="PEM", help="roots of the certificates that devices must then have")
    add(
        "--allow-unterminated",
        action="store_true",
        default=None,
        help="serve S-record files that may be cut: without S7, S8 or S9",
    )
    add("--ready-file", type=Path, metavar="FILE", help="also write the JSON line to this file, in one step")
    add("--check", action="store_true", help="serve nobody: say what would be refused and why; exit code 2 if anything")
    add("--json", action="store_true", help="what --check finds as a JSON object")
    add("--quiet", action="store_true", help="log to the log folder only")


def _of(default: object, what: str) -> str:
    return f"{what} (default: {default})"


def run(args: argparse.Namespace) -> int:
    """Serve; returns the exit code."""
    named: dict[str, Any] = {
        name: value
        for name, value in vars(args).items()
        if value is not None and name not in ("config", "ready_file", "quiet", "check", "json")
    }

    def on_ready(ready: Ready) -> None:
        line = readiness(ready)
        if args.ready_file is not None:
            write_ready_file(args.ready_file, line)
        sys.stdout.write(f"{line}\n")  # in one piece, whatever else is written to the same pipe
        sys.stdout.flush()

    try:
        settings = (load_settings(args.config) if args.config else Settings()).changed(named)
        if args.check:
            return _check(settings, as_json=args.json)
        if args.json:
            raise UsageError("--json: expected with --check")
        console = None if args.quiet else sys.stderr
        if settings.workers > 1:
            run_loop(serve_with_workers(settings, on_ready=on_ready, console=console))
        else:
            run_loop(serve(settings, on_ready=on_ready, console=console))
    except ServerError as error:
        raise UsageError(str(error)) from error
    return exit_codes.OK


def _check(settings: Settings, *, as_json: bool) -> int:
    """Print what a server with these settings would refuse; returns the exit code."""
    found = check(settings)
    if as_json:
        document = {
            "ok": not found.refused,
            "devices": found.devices,
            "images": found.images,
            "refused": found.refused,
            "findings": [dataclasses.asdict(finding) for finding in found.findings],
        }
        print(json.dumps(document, indent=1))
    else:
        for finding in found.findings:
            print(f"{'REFUSED' if finding.refused else 'warning'}  {finding.where}: {printable(finding.message)}")
        print(f"{found.devices:,} devices, {found.images:,} images; {found.refused:,} would be refused")
    return exit_codes.USAGE if found.refused else exit_codes.OK
