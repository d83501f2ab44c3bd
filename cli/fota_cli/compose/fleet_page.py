"""A fleet's report as one HTML page, a pure function from figures to text.

Charts show what tables say, so that nothing is told by colour alone. Whatever comes from outside is escaped.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from fota_simulator.report import SwarmReport, percentile

from ..advice import advice_on
from ..slo import Judgement
from .charts import STATES, Bar, bars, fleet_over_time, histogram, legend, percentile_curve, rates_over_time
from .document import document, memory, mib, section, table

PERCENTILES: Final = (50.0, 75.0, 90.0, 95.0, 99.0, 99.9, 100.0)
"""Those that the table has."""

ATTEMPTS_TOLD: Final = 10
"""Numbers of attempts that have a bar of their own; larger ones share the last."""


@dataclass(frozen=True, slots=True)
class FleetPageFigures:
    """Everything that the page shows."""

    report: SwarmReport
    judgements: Sequence[Judgement]
    is_good: bool
    interrupted: bool
    ended_early: str | None
    """Why the run was ended before its time; None where it was not."""
    facts: Mapping[str, str]
    """Of the run: name to value, in the order of the page."""

    @property
    def verdict(self) -> str:
        """The run in one sentence."""
        report = self.report
        text = f"{report.updated:,} of {report.count:,} devices updated"
        if report.verified:
            text += f", {report.verified:,} flashes verified"
        if missed := sum(not one.met for one in self.judgements):
            text += f", {missed} of {len(self.judgements)} service levels missed"
        if self.interrupted:
            return f"Interrupted: {text}"
        return text if self.ended_early is None else f"Partial, ended before its time: {text}"


def render(figures: FleetPageFigures) -> str:
    """The page as HTML text."""
    report = figures.report
    durations = report.update_durations()
    marks = {"p50": report.p50_s, "p90": report.p90_s, "p99": report.p99_s} if durations else {}
    states = {style: name for style, (name, _) in STATES.items()} | {"rate": "records/s (right axis)"}
    sections = [
        section("Figures", table(_figures(report))),
        section("Outcomes", bars(_outcomes(report)) + _failures(report) + _not_connected(report)),
        section("Fleet over time", fleet_over_time(report.timeline) + legend(states)),
        section(
            "Updates and failures over time",
            rates_over_time(report.timeline) + legend({"pace": "updates/s", "trouble": "failed attempts/s (dashed)"}),
        ),
        section("How long updates took", histogram(durations, marks)),
        section("How long updates took, by percentile", percentile_curve(durations)),
        section("Percentiles", _percentiles(durations)),
        section("Attempts per device", bars(_attempts(report), "attempts", "devices by number of attempts")),
        section("The run", table(figures.facts.items())),
    ]
    if figures.judgements:
        sections.insert(1, section("Service levels", _judgements(figures.judgements)))
    if figures.ended_early is not None:
        sections.insert(0, section("Ended before its time", _ended_early(figures.ended_early, report)))
    is_whole = not figures.interrupted and figures.ended_early is None
    return document(figures.verdict, sections, well=figures.is_good and is_whole)


def _ended_early(why: str, report: SwarmReport) -> str:
    missing = report.count - report.updated - report.refused - report.failed
    return f"<p>{escape(why)}</p><p>All figures are of a part of the run: {missing:,} devices had not ended.</p>"


def _figures(report: SwarmReport) -> list[tuple[str, str]]:
    ended = report.updated + report.refused + report.failed
    strangers = report.strangers
    return [
        ("updated", f"{report.updated:,} of {report.count:,}"),
        ("flashes verified", f"{report.verified:,}, {report.not_verified:,} differ from their image"),
        ("refused, failed", f"{report.refused:,}, {report.failed:,}"),
        ("not ended", f"{report.count - ended:,}"),
        *([("strangers", f"{strangers.count:,}, {strangers.refused:,} of them refused")] if strangers.count else []),
        ("attempts", f"{report.attempts:,}, {report.attempts / ended if ended else 0.0:.2f} a device"),
        ("duration", f"{report.duration_s:.1f} s"),
        ("updates", f"{report.updates_per_s:,.1f} /s"),
        ("records", f"{report.records:,}, {report.records_per_s:,.0f} /s"),
        ("programmed", mib(report.bytes)),
        ("memory", memory(report.rss_bytes)),
    ]


def _judgements(judgements: Sequence[Judgement]) -> str:
    lines = "".join(
        f'<tr><th>{escape(one.slo.text)}</th><td>{escape(one.value)}</td><td class="{one.word}">{one.word}</td></tr>'
        for one in judgements
    )
    return f"<table>{lines}</table>"


def _outcomes(report: SwarmReport) -> list[Bar]:
    compared = report.verified + report.not_verified
    ended = report.updated + report.refused + report.failed
    always = [
        Bar("updated, flash verified", report.verified, "updated"),
        Bar("refused", report.refused, "refused"),
        Bar("failed", report.failed, "failed"),
    ]
    where_any = [
        Bar("updated, no image to compare with", report.updated - compared, "connected"),
        Bar("updated, flash differs", report.not_verified, "failed"),
        Bar("not ended", report.count - ended, "waiting"),
    ]
    return always + [bar for bar in where_any if bar.count]


def _failures(report: SwarmReport) -> str:
    """Reasons of devices and of attempts beside one another."""
    if not report.failed_attempts and not report.failures:
        return ""
    reasons = dict.fromkeys([*report.failures, *report.failed_attempts])
    lines = "".join(
        f"<tr><th>{escape(reason)}</th><td>{report.failures.get(reason, 0):,}</td>"
        f"<td>{report.failed_attempts.get(reason, 0):,}</td></tr>"
        for reason in reasons
    )
    return f"<h3>Failures by reason</h3><table><tr><th>reason</th><th>devices</th><th>attempts</th></tr>{lines}</table>"


def _not_connected(report: SwarmReport) -> str:
    """Why attempts found no connection, and what to do."""
    if not report.not_connected:
        return ""
    lines = "".join(
        f"<tr><th>{escape(cause)}</th><td>{number:,}</td><td>{escape(advice_on(cause) or '')}</td></tr>"
        for cause, number in report.not_connected.items()
    )
    head = "<tr><th>the system said</th><th>attempts</th><th>what to do</th></tr>"
    return f"<h3>No connection</h3><table>{head}{lines}</table>"


def _percentiles(ascending: Sequence[float]) -> str:
    if not ascending:
        return "<p>No device was updated.</p>"
    return table((f"{percent:g}%", f"within {percentile(ascending, percent):.3f} s") for percent in PERCENTILES)


def _attempts(report: SwarmReport) -> list[Bar]:
    counted = report.devices_by_attempts
    rows = [Bar(_times(number), count, "connected") for number, count in counted.items() if number <= ATTEMPTS_TOLD]
    more = sum(count for number, count in counted.items() if number > ATTEMPTS_TOLD)
    return [*rows, Bar(f"more than {ATTEMPTS_TOLD}", more, "refused")] if more else rows


def _times(number: int) -> str:
    return "1 attempt" if number == 1 else f"{number} attempts"
