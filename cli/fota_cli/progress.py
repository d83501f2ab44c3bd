"""How a run of many devices shows itself while it goes on: a live view on a terminal, a line now and then elsewhere."""

import sys
import time
from types import TracebackType
from typing import Final, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress_bar import ProgressBar
from rich.text import Text

from fota_simulator.report import Sample, SwarmReport

PLAIN_INTERVAL: Final = 2.0
"""Seconds between two lines where there is no terminal."""


class FleetProgress:
    """Shows samples of a run of `count` devices. `plain` prints lines; otherwise only a terminal gets the live view."""

    def __init__(self, count: int, plain: bool) -> None:
        self._count = count
        self._plain = plain or not sys.stderr.isatty()
        self._last = time.monotonic()  # not the run's own time, which may be virtual

    def __enter__(self) -> Self:
        if not self._plain:
            self._live = Live(console=Console(stderr=True), refresh_per_second=8, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._plain:
            self._live.stop()

    def update(self, sample: Sample) -> None:
        """Show the run at a moment."""
        if not self._plain:
            self._live.update(self._view(sample))
        elif (now := time.monotonic()) - self._last >= PLAIN_INTERVAL or sample.done == self._count:
            self._last = now
            print(self._line(sample), file=sys.stderr, flush=True)

    def _line(self, sample: Sample) -> str:
        rate = sample.records / sample.time_s if sample.time_s else 0.0
        return (
            f"{sample.time_s:6.1f} s  {sample.updated}/{self._count} updated, {sample.connected} under way, "
            f"{sample.waiting} waiting, {sample.refused} refused, {sample.failed} failed, {rate:,.0f} records/s"
        )

    def _view(self, sample: Sample) -> Group:
        states = Text.assemble(
            (f"{sample.updated:>7,} updated  ", "green"),
            (f"{sample.connected:>7,} under way  ", "cyan"),
            (f"{sample.waiting:>7,} waiting  ", "dim"),
            (f"{sample.refused:>5,} refused  ", "yellow" if sample.refused else "dim"),
            (f"{sample.failed:>5,} failed", "red" if sample.failed else "dim"),
        )
        rate = sample.records / sample.time_s if sample.time_s else 0.0
        eta = f", {sample.time_s * (self._count - sample.done) / sample.done:.0f} s to go" if sample.done else ""
        figures = Text(f"{sample.time_s:7.1f} s  {sample.records:,} records, {rate:,.0f} records/s{eta}", "dim")
        return Group(states, ProgressBar(total=self._count, completed=sample.done), figures)


class WorkProgress:
    """Shows which part of some work is done: a bar on a terminal, elsewhere (or if `plain`) a line now and then."""

    def __init__(self, what: str, plain: bool) -> None:
        self._what = what
        self._live = not plain and sys.stderr.isatty()
        self._began = self._last = time.monotonic()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("to go"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._bar.add_task(what, total=1.0)

    def __enter__(self) -> Self:
        if self._live:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()

    def update(self, done: float) -> None:
        """So much of it is done, from 0 to 1."""
        if self._live:
            self._bar.update(self._task, completed=done)
        elif (now := time.monotonic()) - self._last >= PLAIN_INTERVAL:
            self._last = now
            print(f"{now - self._began:6.1f} s  {done:4.0%} {self._what}", file=sys.stderr, flush=True)


def summary(report: SwarmReport) -> str:
    """The run in a few lines."""
    verified = report.verified + report.not_verified
    lines = [
        f"{report.updated} of {report.count} updated, {report.refused} refused, {report.failed} failed"
        + (f"; {report.verified} flashes verified" if verified else "; no image given to verify flashes against"),
        f"{report.duration_s:.1f} s, {report.updates_per_s:,.1f} updates/s, {report.records_per_s:,.0f} records/s",
        f"an update took p50 {report.p50_s:.2f} s, p90 {report.p90_s:.2f} s, p99 {report.p99_s:.2f} s, "
        f"at most {report.max_s:.2f} s",
    ]
    lines += [f"{number} x {reason}" for reason, number in report.failures.items()]
    return "\n".join(lines)
