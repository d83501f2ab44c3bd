"""How a run is told: tables for a terminal, a section of a page, a JSON document. All figures come as arguments."""

import json
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from rich.box import SIMPLE
from rich.table import Table

from .goals import FLEET, MEMORY, MET, MISSED, SERVER, Verdict, verdicts
from .ingest import IMAGE_BYTES, IngestRow, Reading, summarize_ingest
from .machine import disturbance
from .pairs import Measurement
from .scale import Scaled
from .summary import Row, summarize

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
"""What stands around the measured section of a page."""

CHART: Final = "images/performance.svg"
"""The picture, from the page that shows it."""

FEW: Final = 100
"""Fewer devices under way say nothing about the memory of one."""

Cells = tuple[str, ...]
"""A line of a table."""

PAIR_HEADINGS: Final[Cells] = (
    "conns", "pair", "rec./s", "x C", "range", "at once", "srv µs", "MCU µs", "KiB/ conn", "KiB/ MCU",
)  # fmt: skip
INGEST_HEADINGS: Final[Cells] = ("text", "record", "reader", "MB/s", "x library", "range")
GOAL_HEADINGS: Final[Cells] = ("goal", "pair", "conns", "expected", "measured", "verdict")
SCALE_HEADINGS: Final[Cells] = ("what", "devices", "seconds", "figures")
"""Where a heading may be broken, there is a space."""

PROSE: Final = frozenset({"pair", "text", "reader", "goal", "expected", "verdict", "what", "figures"})
"""Columns that are aligned to the left."""


@dataclass(frozen=True, slots=True)
class Run:
    """All that a run found."""

    facts: dict[str, Any]
    measurements: Sequence[Measurement] = ()
    readings: Sequence[Reading] = ()
    scaled: Sequence[Scaled] = ()
    skipped: dict[str, str] = field(default_factory=dict)
    """What was not measured, and why."""

    @property
    def rows(self) -> list[Row]:
        """The pairs' table."""
        return summarize(self.measurements)

    @property
    def ingest_rows(self) -> list[IngestRow]:
        """The readers' table."""
        return summarize_ingest(self.readings)


def pair_cells(row: Row) -> Cells:
    """A row as text, with the marks of goals."""
    marks = [mark for goal in (SERVER, FLEET) if (mark := goal.mark(row))]
    server, fleet = (
        None if size is None or row.at_once < FEW else f"{size / 1024:.1f}"
        for size in (row.server_bytes_per_connection, row.fleet_bytes_per_device)
    )
    return (
        f"{row.connections:,}",
        row.pair,
        f"{row.records_per_s:,.0f}",
        " ".join([f"{row.ratio:.2f}", *marks]),
        f"{row.ratio_low:.2f}-{row.ratio_high:.2f}",
        f"{row.at_once:,.0f}",
        f"{row.server_cpu_us:.1f}",
        f"{row.fleet_cpu_us:.1f}",
        "-" if server is None else f"{server} {MEMORY.mark(row)}".rstrip(),
        fleet or "-",
    )


def ingest_cells(row: IngestRow) -> Cells:
    """A row as text; `-` where the reader is missing."""
    figures = (
        ("-", "-", "-")
        if row.mb_per_s is None or row.ratio is None
        else (f"{row.mb_per_s:.1f}", f"{row.ratio:.2f}", f"{row.ratio_low:.2f}-{row.ratio_high:.2f}")
    )
    return (row.format, f"{row.record_bytes} B", row.reader, *figures)


def goal_cells(verdict: Verdict) -> Cells:
    """A verdict as text."""
    return (
        verdict.goal,
        verdict.pair,
        f"{verdict.connections:,}",
        verdict.expected,
        f"{verdict.measured:.3f}",
        f"{MET} met" if verdict.is_met else f"{MISSED} missed",
    )


def scale_cells(scaled: Scaled) -> Cells:
    """A run at scale as text."""
    return (scaled.what, f"{scaled.devices:,}", f"{scaled.seconds:.1f}", scaled.figures)


def terminal_tables(run: Run) -> list[Table]:
    """What there is of the four tables, for a terminal of 80 columns."""
    contents = (
        (PAIR_HEADINGS, [pair_cells(row) for row in run.rows], 1),
        (GOAL_HEADINGS, [goal_cells(verdict) for verdict in verdicts(run.rows)], 1),
        (INGEST_HEADINGS, [ingest_cells(row) for row in run.ingest_rows], 2),
        (SCALE_HEADINGS, [scale_cells(scaled) for scaled in run.scaled], 1),
    )
    return [_terminal(*content) for content in contents if content[1]]


def _terminal(headings: Cells, lines: Sequence[Cells], grouped_by: int) -> Table:
    """A table with a space between lines whose first `grouped_by` cells differ."""
    shown = Table(box=SIMPLE, padding=(0, 1), show_edge=False, pad_edge=False, collapse_padding=True)
    for heading in headings:
        justify: Literal["left", "right"] = "left" if heading in PROSE else "right"
        shown.add_column(
            heading if heading == "x C" else heading.replace(" ", "\n"), justify=justify, no_wrap=heading != "figures"
        )
    for line, following in zip(lines, [*lines[1:], None], strict=True):
        ends = following is not None and following[:grouped_by] != line[:grouped_by]
        shown.add_row(*line, end_section=ends)
    return shown


def notes(run: Run) -> list[str]:
    """What else belongs to the tables: disturbance, what was skipped."""
    return [disturbance(run.facts), *(f"Not measured: {what}: {reason}." for what, reason in run.skipped.items())]


def document(run: Run) -> str:
    """Everything as JSON."""
    return (
        json.dumps(
            {
                "facts": run.facts,
                "skipped": run.skipped,
                "rows": [asdict(row) for row in run.rows],
                "goals": [asdict(verdict) for verdict in verdicts(run.rows)],
                "ingest": [asdict(row) for row in run.ingest_rows],
                "measurements": [asdict(measurement) for measurement in run.measurements],
                "readings": [asdict(reading) for reading in run.readings],
                "scale": [asdict(scaled) for scaled in run.scaled],
            },
            indent=1,
        )
        + "\n"
    )


def markdown(run: Run) -> str:
    """The measured section of a page."""
    facts = run.facts
    quick = ", --quick: this shows that it works, and not how fast" if facts["quick"] else ""
    return "\n".join(
        (
            _paragraph(
                f"Measured {facts['date']} in {facts['seconds'] / 60:.0f} minutes: {facts['cores']} cores "
                f"({facts['processor']}), Linux {facts['kernel']}, Python {facts['python']}, uvloop {facts['uvloop']}, "
                f"{facts['cc']}; {_counted(facts['rounds'], 'round')}{quick}. {' '.join(notes(run))}"
            ),
            "",
            f"![Server and fleet beside C: the ratios of the table below]({CHART})",
            "",
            *_lines(PAIR_HEADINGS, map(pair_cells, run.rows)),
            "",
            f"Goals ({MET} met, {MISSED} missed):",
            "",
            *_lines(GOAL_HEADINGS, map(goal_cells, verdicts(run.rows))),
            "",
            _paragraph(
                f"Reading firmware files of {IMAGE_BYTES // 1024} KiB: bincopy {facts['bincopy']}, "
                f"intelhex {facts['intelhex']}, {facts['srec_info'] or 'no srec_info'}; "
                f"{_counted(facts['readings'], 'reading')}:"
            ),
            "",
            *_lines(INGEST_HEADINGS, map(ingest_cells, run.ingest_rows)),
            *(("", "At scale:", "", *_lines(SCALE_HEADINGS, map(scale_cells, run.scaled))) if run.scaled else ()),
        )
    )


def _counted(number: int, name: str) -> str:
    return f"{number} {name}{'' if number == 1 else 's'}"


def _paragraph(text: str) -> str:
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def _lines(headings: Cells, rows: Iterable[Cells]) -> list[str]:
    return [
        f"| {' | '.join(heading.replace('/ ', '/') for heading in headings)} |",
        f"| {' | '.join('---' if heading in PROSE else '---:' for heading in headings)} |",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def replace_section(path: Path, text: str) -> None:
    """Put `text` between the markers in `path`; raises `ValueError` where there are none."""
    page = path.read_text(encoding="utf-8")
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path}: expected the markers {BEGIN} and {END}")
    path.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")
