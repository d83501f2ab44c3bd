"""Service levels that a run must hold: `p99<60s`, `failed<1%`, `updates/s>100`, `verified=100%`.

Text in, judgement out; nothing is printed here. What is measured and what it is held against are exact fractions, so
that 100% is 100%. Shares are of the devices that were to be updated: a stranger that is refused is as it should be.
"""

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

from fota_protocol.device import Result
from fota_simulator.report import SwarmReport, percentile

from .errors import UsageError

_RELATIONS: Final[Mapping[str, Callable[[Fraction, Fraction], bool]]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
    "=": operator.eq,
}
_SECONDS: Final[Mapping[str, Fraction]] = {"ms": Fraction(1, 1000), "s": Fraction(1), "min": Fraction(60)}
_DEVICES: Final[Mapping[str, Fraction]] = {"%": Fraction(1), "": Fraction(1)}
_NUMBER: Final[Mapping[str, Fraction]] = {"": Fraction(1)}

MEASURES: Final[Mapping[str, Mapping[str, Fraction]]] = {
    "max": _SECONDS,
    "duration": _SECONDS,
    "updated": _DEVICES,
    "verified": _DEVICES,
    "refused": _DEVICES,
    "failed": _DEVICES,
    "attempts": _NUMBER,
    "updates/s": _NUMBER,
    "records/s": _NUMBER,
}
"""What can be measured beside percentiles (`p50`, `p99.9`), each with its units and what they are worth."""

TOLERATES: Final[Mapping[str, frozenset[str]]] = {
    "failed": frozenset({Result.FAILED.value}),
    "refused": frozenset({Result.REFUSED.value}),
    "updated": frozenset({Result.FAILED.value, Result.REFUSED.value}),
    "verified": frozenset({Result.FAILED.value, Result.REFUSED.value}),
}
"""Which results a service level of that measure judges, so that one such device alone does not fail the run."""

_EXPRESSION: Final = re.compile(
    r"\s*([a-z][a-z0-9./]*)\s*(<=|>=|<|>|=)\s*([0-9]{1,12}(?:\.[0-9]{1,9})?)\s*([a-z%]*)\s*", re.ASCII
)
_PERCENTILE: Final = re.compile(r"p([0-9]{1,2}(?:\.[0-9]{1,6})?|100)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Slo:
    """One service level: `measure` stands in `relation` to `limit`, in seconds, percent, devices, or a rate."""

    text: str
    """As it was given, without its spaces."""
    measure: str
    relation: str
    limit: Fraction
    unit: str
    """`s`, `%`, or nothing."""

    def judge(self, report: SwarmReport) -> "Judgement":
        """Hold a run against it. What was not measured, as a percentile of no updates, is missed."""
        measured = _measure(report, self.measure, self.unit)
        met = measured is not None and _RELATIONS[self.relation](measured, self.limit)
        return Judgement(self, measured, met)


@dataclass(frozen=True, slots=True)
class Judgement:
    """Whether a run held a service level."""

    slo: Slo
    measured: Fraction | None
    """In the unit of the service level; None where there was nothing to measure."""
    met: bool

    @property
    def word(self) -> str:
        """`met` or `missed`."""
        return "met" if self.met else "missed"

    @property
    def value(self) -> str:
        """What was measured, in words."""
        if self.measured is None:
            return "nothing to measure"
        unit = {"s": " s", "%": "%"}.get(self.slo.unit, "")
        return f"{float(self.measured):.6g}{unit}"

    def as_json(self) -> dict[str, Any]:
        """The judgement as JSON has it."""
        return {
            "slo": self.slo.text,
            "met": self.met,
            "measured": None if self.measured is None else float(self.measured),
            "unit": self.slo.unit,
        }


def parse(text: str) -> Slo:
    """Read a service level; raises `UsageError` with what was expected."""
    found = _EXPRESSION.fullmatch(text)
    if found is None:
        raise UsageError(f"slo {text!r}, expected a measure, one of {' '.join(_RELATIONS)}, and a limit: p99<60s")
    measure, relation, number, unit = found.groups()
    units = _SECONDS if _PERCENTILE.fullmatch(measure) else MEASURES.get(measure)
    if units is None:
        raise UsageError(f"slo {text!r}: measure {measure!r}, expected p50, p99.9 or the like, {', '.join(MEASURES)}")
    if unit not in units:
        wanted = ", ".join(name or "none" for name in units)
        raise UsageError(f"slo {text!r}: unit {unit or 'none'}, expected {wanted}")
    limit = Fraction(number) * units[unit]
    if unit == "%" and limit > 100:
        raise UsageError(f"slo {text!r}: {number}%, expected at most 100%")
    return Slo("".join(text.split()), measure, relation, limit, "s" if units is _SECONDS else unit)


def is_good(report: SwarmReport, judgements: Sequence[Judgement]) -> bool:
    """Whether a run was good: all service levels met, and every device as it should be, or judged by one of them.

    No service level excuses a flash that differs from its image, nor a stranger that was not refused.
    """
    counts = _Counts.of(report)
    tolerated = frozenset().union(*(TOLERATES.get(one.slo.measure, ()) for one in judgements))
    return all(one.met for one in judgements) and (
        report.ok
        or (
            not counts.waiting
            and not counts.bad_strangers
            and not report.not_verified
            and (not counts.refused or Result.REFUSED.value in tolerated)
            and (not counts.failed or Result.FAILED.value in tolerated)
        )
    )


@dataclass(frozen=True, slots=True)
class _Counts:
    """How the devices ended that were to be updated: all but strangers."""

    wanted: int
    waiting: int
    """Those that had not ended, strangers included."""
    updated: int
    refused: int
    failed: int
    attempts: int
    bad_strangers: int
    """Strangers that ended, and were not refused."""

    @classmethod
    def of(cls, report: SwarmReport) -> "_Counts":
        strangers = report.strangers
        return cls(
            wanted=report.count - strangers.count,
            waiting=report.count - report.updated - report.refused - report.failed,
            updated=report.updated - strangers.updated,
            refused=report.refused - strangers.refused,
            failed=report.failed - strangers.failed,
            attempts=report.attempts - strangers.attempts,
            bad_strangers=strangers.updated + strangers.failed,
        )

    @property
    def ended(self) -> int:
        return self.updated + self.refused + self.failed


def _measure(report: SwarmReport, measure: str, unit: str) -> Fraction | None:
    counts = _Counts.of(report)
    if (found := _PERCENTILE.fullmatch(measure)) is not None:
        durations = report.update_durations()
        return Fraction(percentile(durations, float(found[1]))) if durations else None
    match measure:
        case "max":
            return Fraction(report.max_s) if report.updated else None
        case "duration":
            return Fraction(report.duration_s)
        case "updates/s":
            return Fraction(report.updates_per_s)
        case "records/s":
            return Fraction(report.records_per_s)
        case "attempts":
            return Fraction(counts.attempts, counts.ended) if counts.ended else None
        case "updated":
            number = counts.updated
        case "verified":
            number = report.verified
        case "refused":
            number = counts.refused
        case _:
            number = counts.failed
    if unit != "%":
        return Fraction(number)
    return Fraction(100 * number, counts.wanted) if counts.wanted > 0 else None
