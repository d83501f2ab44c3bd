"""List the sessions in a server's journal: who came, what they were served, how it ended. The server may run meanwhile.

  fota sessions --journal /var/log/fota/journal.sqlite
  fota sessions --failed --last 20
  fota sessions --device 0001100023593110965955141 --json

Exit code 0, also when there is no session to list; 2 when there is no journal.
"""

import argparse
import dataclasses
import json
import re
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from fota_server.config import Settings
from fota_server.errors import JournalError
from fota_server.journal import JournalRow, read_journal

from .. import exit_codes
from ..device_options import identification
from ..errors import UsageError
from ..printable import printable

LAST: Final = 100
"""Sessions that are listed, where nobody says how many."""

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def configure(parser: argparse.ArgumentParser) -> None:
    """Which sessions."""
    journal = Settings().journal_path
    add = parser.add_argument
    add("--journal", type=Path, default=journal, metavar="FILE", help=f"the journal (default: {journal})")
    add("--device", metavar="DIGITS", help="only this MCUID's")
    add("--failed", action="store_true", help="only those that were no success")
    add("--since", type=_ago, metavar="AGE", help="only those of the last 90s, 30m, 12h or 7d")
    add("--last", type=int, default=LAST, metavar="N", help=f"the last N of them; 0 for all (default: {LAST})")
    add("--json", action="store_true", help="print a JSON array, one object for each session")


def run(args: argparse.Namespace) -> int:
    """List them; returns the exit code."""
    if args.last < 0:
        raise UsageError(f"last {args.last}, expected 0 or more sessions")
    try:
        rows = read_journal(
            args.journal,
            mcuid=None if args.device is None else identification(args.device).mcuid,
            failed=args.failed,
            since=0.0 if args.since is None else time.time() - args.since,
            newest=args.last or None,
        )
    except JournalError as error:
        raise UsageError(str(error)) from error
    if args.json:
        print(json.dumps([dataclasses.asdict(row) for row in rows], indent=1))
    else:
        print(_table(rows))
    return exit_codes.OK


def _ago(text: str) -> float:
    found = re.fullmatch(r"([0-9]{1,9})([smhd])", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r}, expected a number and s, m, h or d, for instance 12h")
    return int(found[1]) * float(_UNITS[found[2]])


def _table(rows: Sequence[JournalRow]) -> str:
    """One line for each session, and how many ended how."""
    lines = [
        f"{datetime.fromtimestamp(row.started_at, UTC):%Y-%m-%d %H:%M:%S}Z {row.duration_s:8.2f} s  "
        f"{row.mcuid or '-':<25}  {row.status_name:<25} {row.records_acked:>5}/{row.records:<5} "
        f"{printable(row.filename or '-')} {row.version or '-'} {row.image_crc or '-'}  {printable(row.detail)}"
        for row in rows
    ]
    ended = Counter(row.status_name for row in rows)
    counts = ", ".join(f"{count:,} {name}" for name, count in ended.most_common())
    return "\n".join([*lines, f"{len(rows):,} sessions{': ' if counts else ''}{counts}"])
