"""The command line: what is measured, in which order, and where the report goes.

Pairs come first, then readers of firmware files, then fleets at scale. What cannot be measured is said and put down;
the exit code is 3 when that is a pair, or when a measurement turned out not to be valid. Figures and goals never change
the exit code.
"""

import argparse
import datetime
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.console import Console

from fota_transport.loops import raise_descriptor_limit

from .chart import chart
from .errors import BenchmarkError
from .ingest import IMAGE_BYTES, QUICK_READINGS, READINGS, Reading, measure_ingest, missing_readers
from .machine import Cores, machine_facts
from .pairs import RECORDS_OF_A_PAIR, Measurement, measure, prepare, too_many
from .report import BEGIN, CHART, END, Run, document, markdown, notes, replace_section, terminal_tables
from .scale import Scaled, measure_scale

CONNECTIONS: Final = (1, 100, 1_000, 10_000)
"""What is measured unless `--connections` says otherwise."""

ROUNDS: Final = 5
"""Rounds of four pairs at each number of connections."""

QUICK_ROUNDS: Final = 1
"""The same in a quick run."""

QUICK_DIVISOR: Final = 10
"""A quick run moves so many times fewer records, as far as images can be shorter."""

MOST_CONNECTIONS: Final = 28_000
"""Ports of one source address that Linux gives away by default."""

MOST_DEVICES: Final = 1_000_000
"""Most devices of a run in shards."""

CANNOT_TEST: Final = 3
"""Exit code: a pair could not be measured."""

PAIRS_SKIPPED: Final = "pairs"
"""What is skipped when there is no C pair to compare with."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and report; returns the exit code."""
    parser = _parser()
    args = parser.parse_args(arguments)
    rounds = args.rounds or (QUICK_ROUNDS if args.quick else ROUNDS)
    readings_of_each = QUICK_READINGS if args.quick else READINGS
    if args.write is not None and (problem := _unwritable(args.write)):
        parser.error(problem)
    progress = Console(stderr=True, highlight=False)
    skipped: dict[str, str] = {}
    before = Cores.now()
    try:
        with tempfile.TemporaryDirectory(prefix="fota-bench-") as folder:
            records = RECORDS_OF_A_PAIR // (QUICK_DIVISOR if args.quick else 1)
            measurements = _pairs(Path(folder), args.connections, rounds, records, progress, skipped)
            pairs_skipped = bool(skipped)
            readings = _readings(Path(folder), readings_of_each, progress, skipped)
            scaled = _scaled(Path(folder), args.shards, args.quick, progress, skipped)
    except BenchmarkError as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return CANNOT_TEST
    facts = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "rounds": rounds,
        "readings": readings_of_each,
        "quick": args.quick,
        **machine_facts(before, Cores.now()),
    }
    run = Run(facts, measurements, readings, scaled, skipped)
    _tell(run)
    if args.json is not None:
        args.json.write_text(document(run), encoding="utf-8")
    if args.write is not None and pairs_skipped:
        print(f"benchmark: {args.write} stays as it is: pairs were skipped", file=sys.stderr)
    elif args.write is not None:
        replace_section(args.write, markdown(run))
        (args.write.parent / CHART).write_text(chart(run.rows), encoding="utf-8")
    return CANNOT_TEST if pairs_skipped else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Server, fleet and readers beside their yardsticks.")
    shown = ",".join(map(str, CONNECTIONS))
    parser.add_argument("--connections", type=_counts, default=CONNECTIONS, metavar="N,…", help=f"default: {shown}")
    parser.add_argument("--rounds", type=_count, metavar="N", help=f"default: {ROUNDS}, with --quick {QUICK_ROUNDS}")
    parser.add_argument("--quick", action="store_true", help="a tenth of the records: does it work, not how fast")
    parser.add_argument(
        "--shards", type=_devices, default=0, metavar="N", help="also run so many devices in shards, e.g. 100000"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every measurement")
    parser.add_argument(
        "--write",
        type=Path,
        metavar="FILE",
        help=f"put the tables between {BEGIN} and {END}, and the chart into {CHART} beside FILE",
    )
    return parser


def _counts(text: str) -> tuple[int, ...]:
    return tuple(dict.fromkeys(_count(item) for item in text.split(",")))


def _count(text: str) -> int:
    number = int(text)
    if not 1 <= number <= MOST_CONNECTIONS:
        raise argparse.ArgumentTypeError(f"{number}, expected 1 to {MOST_CONNECTIONS}")
    return number


def _devices(text: str) -> int:
    number = int(text)
    if not 0 <= number <= MOST_DEVICES:
        raise argparse.ArgumentTypeError(f"{number}, expected 0 to {MOST_DEVICES}")
    return number


def _unwritable(page: Path) -> str:
    """Why the report cannot go into `page`, found before a run of many minutes rather than after it; or nothing."""
    if not page.is_file():
        return f"{page}: no such file"
    if not (page.parent / CHART).parent.is_dir():
        return f"{(page.parent / CHART).parent}: no such folder, and the chart goes there"
    text = page.read_text(encoding="utf-8")
    return "" if BEGIN in text and END in text else f"{page}: expected the markers {BEGIN} and {END}"


def _pairs(
    folder: Path, counts: Sequence[int], rounds: int, records: int, progress: Console, skipped: dict[str, str]
) -> list[Measurement]:
    """Measure what can be; the rest is added to `skipped` and said."""
    descriptors = raise_descriptor_limit()
    possible = []
    for count in counts:
        if (reason := too_many(count, descriptors)) is None:
            possible.append(count)
        else:
            _skip(f"{count:,} connections", reason, progress, skipped)
    try:
        place = prepare(folder)
    except BenchmarkError as error:
        _skip(PAIRS_SKIPPED, str(error), progress, skipped)
        return []
    return list(measure(place, possible, rounds, records, progress.print))


def _readings(folder: Path, readings: int, progress: Console, skipped: dict[str, str]) -> list[Reading]:
    for reader, reason in missing_readers().items():
        _skip(reader, reason, progress, skipped)
    return list(measure_ingest(folder, readings, progress.print, IMAGE_BYTES))


def _scaled(folder: Path, shards: int, quick: bool, progress: Console, skipped: dict[str, str]) -> list[Scaled]:
    """Fleets at scale; what fails is said, and takes nothing else with it."""
    done: list[Scaled] = []
    try:
        done.extend(measure_scale(folder, shards, quick, progress.print))
    except BenchmarkError as error:
        _skip("fleets at scale", str(error).splitlines()[-1], progress, skipped)
    return done


def _skip(what: str, reason: str, progress: Console, skipped: dict[str, str]) -> None:
    skipped[what] = reason
    progress.print(f"skipped: {what}: {reason}")


def _tell(run: Run) -> None:
    console = Console(highlight=False)
    for table in terminal_tables(run):
        console.print(table)
        console.print()
    for note in notes(run):
        print(note)
