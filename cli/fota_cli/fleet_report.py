"""What a run of a fleet leaves: options that ask for reports, and the files and lines that answer them.

The same figures as JSON (its schema is in `schemas/`), as CSV with a line for each device, and as an HTML page; then a
summary, and whether each service level was held. What is printed comes first: a full disk does not take it away.
"""

import argparse
import csv
import dataclasses
import importlib.metadata
import io
import platform
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any, Final, TypeVar

from fota_simulator.report import McuReport, SwarmReport

from .compose.fleet_page import FleetPageFigures, render
from .errors import HarnessError, UsageError
from .files import check_writable, write_file, write_json
from .progress import summary
from .shard_report import ShardedReport
from .slo import Judgement, is_good, parse

_T = TypeVar("_T")

SCHEMA_NAME: Final = "schemas/swarm-report-1.json"
"""JSON schema of the JSON report, in this package."""

SECRET: Final = re.compile(r"--[a-z-]*(?:password|passphrase|token|secret|key)[a-z-]*", re.A)
"""Options whose values no report has."""

HIDDEN: Final = "***"
"""What stands for them."""


def add_report_options(parser: argparse.ArgumentParser) -> None:
    """Add the options to `parser`."""
    add = parser.add_argument
    add("--json", type=Path, metavar="FILE", help="write the report as JSON; - for standard output")
    add("--csv", type=Path, metavar="FILE", help="write a line for each device; - for standard output")
    add("--html", type=Path, metavar="FILE", help="write the report as a page: curves, distributions, reasons")
    add(
        "--slo",
        action="append",
        default=[],
        metavar="EXPR",
        help="exit code 1 unless this holds, for instance 'p99<60s', 'failed<1%%', 'updates/s>100', 'verified=100%%'",
    )
    add("--schema", action="store_true", help="print the JSON schema of the JSON report, and do nothing else")


def check_report_options(args: argparse.Namespace) -> None:
    """Raise `UsageError` for a report that could not be written, or a service level that is none."""
    for path in (args.json, args.csv, args.html):
        check_writable(path)
    if str(args.html) == "-":
        raise UsageError("--html -: expected a file")
    if str(args.json) == str(args.csv) == "-":
        raise UsageError("--json - and --csv -: expected one of them on standard output")
    for text in args.slo:
        parse(text)


def schema() -> str:
    """The JSON schema of the JSON report."""
    return (resources.files(__package__) / SCHEMA_NAME).read_text(encoding="utf-8")


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What was run, where and when."""

    command: str
    """Without secrets; in a shell, it does the same again."""
    seed: int
    link: str
    server: str | None
    """None in virtual time."""
    ended_at: str
    """UTC, ISO 8601."""
    fota_version: str
    python: str
    platform: str

    @classmethod
    def of(cls, args: argparse.Namespace, argv: Sequence[str], ended_at: datetime) -> "RunFacts":
        """The facts of a run with these options, called with these words."""
        return cls(
            command=shlex.join(["fota", *without_secrets(argv)]),
            seed=args.seed,
            link=args.link.name,
            server=None if args.virtual else args.server,
            ended_at=ended_at.astimezone(UTC).isoformat(timespec="seconds"),
            fota_version=importlib.metadata.version("k60-fota"),
            python=f"{platform.python_implementation()} {platform.python_version()}",
            platform=platform.platform(),
        )

    def told(self) -> dict[str, str]:
        """Name to value, for people."""
        return {
            "command": self.command,
            "seed": str(self.seed),
            "link": self.link,
            "server": self.server or "its own, in virtual time",
            "ended": self.ended_at,
            "k60-fota": self.fota_version,
            "Python": self.python,
            "platform": self.platform,
        }


def without_secrets(argv: Sequence[str]) -> list[str]:
    """A command line whose passwords, tokens and keys are not there: values of such options, and those in addresses."""
    told = []
    hide_next = False
    for word in argv:
        option, equals, _ = word.partition("=")
        if hide_next and not word.startswith("--"):
            word, hide_next = HIDDEN, False
        elif SECRET.fullmatch(option):
            hide_next = not equals
            word = f"{option}={HIDDEN}" if equals else option
        else:
            hide_next = False
            word = re.sub(r"(?<=//)[^/@]*@", f"{HIDDEN}@", word)
        told.append(word)
    return told


def write_reports(args: argparse.Namespace, report: SwarmReport, *, interrupted: bool = False) -> bool:
    """Write and print what was asked for; returns whether the run was good: service levels, devices, flashes.

    A file that cannot be written takes no other away; then, `HarnessError` names all such.
    """
    judgements = [parse(text).judge(report) for text in args.slo]
    good = is_good(report, judgements)
    taken = "-" in (str(args.json), str(args.csv))
    if not taken:
        print(summary(report))
    for one in judgements:
        print(f"{one.word:<7} {one.slo.text}: {one.value}", file=sys.stderr if taken else sys.stdout)
    argv = sys.argv[1:] if sys.argv[1:2] == ["swarm"] else ["swarm"]  # not that of a program that has called us
    facts = RunFacts.of(args, argv, datetime.now(UTC))
    unwritten = []
    if args.html is not None:
        page = render(FleetPageFigures(report, judgements, good, interrupted, ended_early(report), facts.told()))
        unwritten += _troubles(write_file, args.html, page.encode())
    if args.csv is not None:
        unwritten += _troubles(_write_csv, args.csv, report.devices)
    if args.json is not None:
        unwritten += _troubles(write_json, args.json, as_json(report, judgements, facts, interrupted=interrupted))
    if unwritten:
        raise HarnessError("; ".join(unwritten))
    return good


def ended_early(report: SwarmReport) -> str | None:
    """Why a run was ended before its time, so that what is told is a part of it; None where it was not."""
    return report.trouble if isinstance(report, ShardedReport) else None


def _troubles(write: Callable[[Path, _T], None], path: Path, content: _T) -> list[str]:
    """Write a file; returns what is wrong with it, if anything is."""
    try:
        write(path, content)
    except UsageError as error:
        return [str(error)]
    return []


def as_json(
    report: SwarmReport, judgements: Sequence[Judgement], facts: RunFacts, *, interrupted: bool
) -> dict[str, Any]:
    """The JSON report: that of the fleet, with the run and its service levels in front of the figures."""
    figures = report.as_json()
    return {
        "version": figures.pop("version"),
        "run": dataclasses.asdict(facts),
        "interrupted": interrupted,
        "partial": interrupted or ended_early(report) is not None,
        "slos": [one.as_json() for one in judgements],
        **figures,
    }


def csv_text(devices: Sequence[McuReport]) -> str:
    """A line for each device under a line of names, by RFC 4180; what is null in JSON is empty here."""
    text = io.StringIO()
    names = [field.name for field in dataclasses.fields(McuReport)]
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(names)
    writer.writerows([_cell(getattr(device, name)) for name in names] for device in devices)
    return text.getvalue()


def _cell(value: Any) -> Any:
    return str(value).lower() if isinstance(value, bool) else value


def _write_csv(path: Path, devices: Sequence[McuReport]) -> None:
    text = csv_text(devices)
    if str(path) == "-":
        sys.stdout.write(text)
    else:
        write_file(path, text.encode())
