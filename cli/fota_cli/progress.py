"""How a run of many devices shows itself while it goes on: a live view on a terminal, a line now and then elsewhere.

A view is a function of a few samples; it is made at most ten times a second, however often a run tells how far it is.
Rates are of the last seconds, in the run's own time, which may be virtual; what is left to wait is in the user's.
"""

import sys
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from types import TracebackType
from typing import Final, Self

from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress_bar import ProgressBar
from rich.text import Text

from fota_simulator.report import Sample, SwarmReport

from .advice import advice_on, with_causes

PLAIN_INTERVAL: Final = 2.0
"""Seconds between two lines where there is no terminal."""

VIEW_INTERVAL: Final = 0.1
"""Seconds between two views where there is one."""

RATE_WINDOW: Final = 5.0
"""Seconds that a rate looks back."""

REASONS_TOLD: Final = 3
"""Most reasons of failures while a run goes on; the report has all."""


@dataclass(frozen=True, slots=True)
class Look:
    """A sample, and when it came in seconds of the user's."""

    seen_at: float
    sample: Sample


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a run goes."""

    records_per_s: float
    updates_per_s: float
    to_go_s: float | None
    """None where nothing says how fast devices end."""

    @classmethod
    def of(cls, before: Look, now: Look, count: int) -> "Pace":
        """What `count` devices came to between two looks. A lost worker may take back what its devices had done."""
        passed_s = now.sample.time_s - before.sample.time_s
        ended = now.sample.done - before.sample.done
        waited_s = now.seen_at - before.seen_at
        return cls(
            max(0, now.sample.records - before.sample.records) / passed_s if passed_s > 0 else 0.0,
            max(0, now.sample.updated - before.sample.updated) / passed_s if passed_s > 0 else 0.0,
            (count - now.sample.done) * waited_s / ended if ended > 0 else None,
        )


class FleetProgress:
    """Shows samples of a run of `count` devices. `plain` prints lines; otherwise only a terminal gets the live view."""

    def __init__(self, count: int, plain: bool) -> None:
        self._count = count
        self._plain = plain or not sys.stderr.isatty()
        self._last = time.monotonic()  # not the run's own time, which may be virtual
        self._looks: deque[Look] = deque()
        self._told_end = False

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
        now = time.monotonic()
        if not self._looks:
            self._looks.append(Look(now, sample))
        interval = PLAIN_INTERVAL if self._plain else VIEW_INTERVAL
        is_end = sample.done >= self._count and not self._told_end
        if now - self._last < interval and not is_end:
            return
        self._last, self._told_end = now, self._told_end or is_end
        look = Look(now, sample)
        self._looks.append(look)
        while len(self._looks) > 2 and now - self._looks[1].seen_at >= RATE_WINDOW:
            self._looks.popleft()
        pace = Pace.of(self._looks[0], look, self._count)
        if self._plain:
            print(line(sample, pace, self._count), file=sys.stderr, flush=True)
        else:
            self._live.update(view(sample, pace, self._count))


def line(sample: Sample, pace: Pace, count: int) -> str:
    """The run at a moment, for a log."""
    parts = [
        f"{sample.time_s:6.1f} s  {sample.updated}/{count} updated",
        f"{sample.connected} under way",
        f"{sample.waiting} waiting",
        f"{sample.refused} refused",
        f"{sample.failed} failed",
        f"{pace.records_per_s:,.0f} records/s",
        f"{pace.updates_per_s:,.1f} updates/s",
    ]
    if sample.updated:
        parts.append(f"p50 {sample.p50_s:.2f} s, p90 {sample.p90_s:.2f} s, p99 {sample.p99_s:.2f} s")
    if sample.done < count and pace.to_go_s is not None:
        parts.append(f"{_duration(pace.to_go_s)} to go")
    told = ", ".join(parts)
    reasons = _most_frequent(with_causes(sample.failed_attempts, sample.not_connected))
    return f"{told}; attempts: {', '.join(reasons)}" if reasons else told


def view(sample: Sample, pace: Pace, count: int) -> RenderableType:
    """The run at a moment, for a terminal of any width: figures that belong together stay together."""
    states = [
        Text(f"{sample.updated:,} updated", "green"),
        Text(f"{sample.connected:,} under way", "cyan"),
        Text(f"{sample.waiting:,} waiting", "dim"),
        Text(f"{sample.refused:,} refused", "yellow" if sample.refused else "dim"),
        Text(f"{sample.failed:,} failed", "red" if sample.failed else "dim"),
    ]
    speeds = [
        Text(f"{sample.time_s:,.1f} s"),
        Text(f"{pace.records_per_s:,.0f} records/s"),
        Text(f"{pace.updates_per_s:,.1f} updates/s"),
        Text(f"{100 * sample.done // count if count else 100}% of {count:,} ended"),
    ]
    if sample.done < count and pace.to_go_s is not None:
        speeds.append(Text(f"{_duration(pace.to_go_s)} to go"))
    rows: list[RenderableType] = [
        Padding(ProgressBar(total=max(count, 1), completed=sample.done), 0),  # it alone would not end its line
        _flow(states),
        _flow(speeds),
    ]
    if sample.updated:
        rows.append(
            _flow(
                [
                    Text("an update took", "dim"),
                    *(
                        Text(f"{name} {seconds:.2f} s")
                        for name, seconds in (("p50", sample.p50_s), ("p90", sample.p90_s), ("p99", sample.p99_s))
                    ),
                ]
            )
        )
    if reasons := _most_frequent(with_causes(sample.failed_attempts, sample.not_connected)):
        rows.append(_flow([Text("attempts that failed", "dim"), *(Text(reason, "red") for reason in reasons)]))
    return Group(*rows)


def _flow(pieces: list[Text]) -> RenderableType:
    """Pieces beside one another as far as there is room, the rest below; none is broken."""
    for piece in pieces:
        piece.no_wrap = True
    return Columns(pieces, padding=(0, 3))


def _most_frequent(reasons: Mapping[str, int]) -> list[str]:
    ordered = sorted(reasons.items(), key=lambda reason: -reason[1])
    told = [f"{number:,} x {reason}" for reason, number in islice(ordered, REASONS_TOLD)]
    rest = sum(number for _, number in ordered[REASONS_TOLD:])
    return [*told, f"{rest:,} x other"] if rest else told


def _duration(seconds: float) -> str:
    """Seconds as people say them: 48 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


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
    first = f"{report.updated} of {report.count} updated, {report.refused} refused, {report.failed} failed"
    if report.verified + report.not_verified:
        first += f"; {report.verified} flashes verified"
    elif report.updated:
        first += "; no image given to verify flashes against"
    lines = [
        first,
        f"{report.duration_s:.1f} s, {report.updates_per_s:,.1f} updates/s, {report.records_per_s:,.0f} records/s",
    ]
    if report.updated:
        lines.append(
            f"an update took p50 {report.p50_s:.2f} s, p90 {report.p90_s:.2f} s, p99 {report.p99_s:.2f} s, "
            f"at most {report.max_s:.2f} s"
        )
    if report.attempts > report.updated + report.refused + report.failed:
        told = ", ".join(f"{number} x {reason}" for reason, number in report.failed_attempts.items())
        lines.append(f"{report.attempts} attempts" + (f", of which failed: {told}" if told else ""))
    lines += [f"{number} x {reason}" for reason, number in report.failures.items()]
    for cause, number in report.not_connected.items():
        advice = advice_on(cause)
        lines.append(f"no connection, {number} x {cause}" + (f"; {advice}" if advice else ""))
    return "\n".join(lines)
