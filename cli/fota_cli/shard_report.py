"""What comes of a run in shards: the report of one shard, and how those of all are added up.

No engine is needed here, and none is known. A shard sends its counts, and how long each of its updates took, eight
bytes a device: so the report of the whole run is that of one process, percentiles included, also where no device has a
row.
"""

import array
import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fota_simulator.durations import Durations
from fota_simulator.report import McuReport, Sample, Strangers, SwarmReport, most_frequent_first, percentile

from . import exit_codes
from .fleet_shards import Attempt


@dataclass(frozen=True, slots=True)
class ShardResult:
    """What came of one attempt of a shard."""

    report: SwarmReport
    """Without timeline and histogram; with devices only if they were ordered."""
    ok: int
    """Devices that ended as they should."""
    durations: "array.array[float]"
    """Seconds that each successful update took, ascending."""

    @classmethod
    def of(cls, report: SwarmReport, *, with_devices: bool) -> "ShardResult":
        """The result of a shard whose devices all have rows in `report`."""
        return cls(
            dataclasses.replace(report, timeline=(), histogram=(), devices=report.devices if with_devices else ()),
            sum(device.ok for device in report.devices),
            array.array("d", report.update_durations()),
        )


@dataclass(frozen=True, slots=True)
class ShardRow:
    """The attempt of a shard that counted."""

    shard: int
    attempt: int
    worker: str
    devices: int
    updated: int
    started_s: float
    """Seconds since the start of the run."""
    duration_s: float
    rss_bytes: int
    """The most memory that its worker's process had held by then."""


@dataclass(frozen=True, slots=True)
class LostRow:
    """An attempt whose worker was lost: nothing of it was counted."""

    shard: int
    attempt: int
    worker: str


@dataclass(frozen=True, slots=True)
class ShardedReport(SwarmReport):
    """A swarm's report, of a run in shards: memory is that of all workers together."""

    ok_devices: int
    """Devices that ended as they should."""
    shards: tuple[ShardRow, ...]
    lost: tuple[LostRow, ...]
    trouble: str | None
    """Why the run was ended before its time, so that the report is of a part of it; None where it was not."""
    exit_code: int
    durations: Sequence[float]
    """Seconds that each successful update took, ascending. Not in the JSON form."""

    @property
    def ok(self) -> bool:
        """Every device ended as it should, and the run was not ended before."""
        return self.trouble is None and self.ok_devices == self.count

    def update_durations(self) -> list[float]:
        """Seconds that each successful update took, ascending."""
        return list(self.durations)

    def as_json(self) -> dict[str, Any]:
        """The report as JSON has it, keyed by the fields' names; devices and timeline are lists of objects."""
        found = SwarmReport.as_json(self)
        del found["durations"]
        return found


def merge(
    count: int,
    results: Sequence[tuple[Attempt, float, ShardResult]],
    timeline: Sequence[Sample],
    *,
    duration_s: float,
    strangers: int = 0,
    lost: Sequence[Attempt] = (),
    trouble: str | None = None,
    exit_code: int = exit_codes.OK,
) -> ShardedReport:
    """Add up final results, each with its attempt and the second at which that began, in the order of shards.

    `count` devices were to run, of which `strangers` are such. Records in `timeline` become those that counted.
    """
    reports = [result.report for _, _, result in results]
    durations = array.array("d", sorted(duration for _, _, result in results for duration in result.durations))
    memory: dict[str, int] = {}
    for attempt, _, result in results:
        memory[attempt.worker] = max(memory.get(attempt.worker, 0), result.report.rss_bytes)
    updated = sum(report.updated for report in reports)
    records = sum(report.records for report in reports)
    found = ShardedReport(
        count=count,
        updated=updated,
        refused=sum(report.refused for report in reports),
        failed=sum(report.failed for report in reports),
        verified=sum(report.verified for report in reports),
        not_verified=sum(report.not_verified for report in reports),
        duration_s=duration_s,
        records=records,
        bytes=sum(report.bytes for report in reports),
        updates_per_s=updated / duration_s if duration_s else 0.0,
        records_per_s=records / duration_s if duration_s else 0.0,
        p50_s=percentile(durations, 50),
        p90_s=percentile(durations, 90),
        p99_s=percentile(durations, 99),
        max_s=durations[-1] if durations else 0.0,
        rss_bytes=sum(memory.values()),
        timeline=_counted(timeline),
        failures=most_frequent_first(_added(report.failures for report in reports)),
        attempts=sum(report.attempts for report in reports),
        devices_by_attempts=dict(sorted(_added(report.devices_by_attempts for report in reports).items())),
        failed_attempts=most_frequent_first(_added(report.failed_attempts for report in reports)),
        not_connected=most_frequent_first(_added(report.not_connected for report in reports)),
        strangers=Strangers(
            count=strangers,
            updated=sum(report.strangers.updated for report in reports),
            refused=sum(report.strangers.refused for report in reports),
            failed=sum(report.strangers.failed for report in reports),
            attempts=sum(report.strangers.attempts for report in reports),
        ),
        histogram=Durations(durations).buckets(),
        devices=tuple(_later(device, began_s) for _, began_s, result in results for device in result.report.devices),
        ok_devices=sum(result.ok for _, _, result in results),
        shards=tuple(
            ShardRow(
                attempt.shard,
                attempt.number,
                attempt.worker,
                result.report.count,
                result.report.updated,
                began_s,
                result.report.duration_s,
                result.report.rss_bytes,
            )
            for attempt, began_s, result in results
        ),
        lost=tuple(LostRow(attempt.shard, attempt.number, attempt.worker) for attempt in lost),
        trouble=trouble,
        exit_code=exit_code,
        durations=durations,
    )
    return found if found.ok or found.exit_code else dataclasses.replace(found, exit_code=exit_codes.FAILED)


def _counted(timeline: Sequence[Sample]) -> tuple[Sample, ...]:
    """The same without records that were taken away later, with an attempt that was lost: they never fall."""
    records = list(itertools.accumulate((sample.records for sample in reversed(timeline)), min))[::-1]
    return tuple(dataclasses.replace(sample, records=number) for sample, number in zip(timeline, records, strict=True))


def _added(counts: Iterable[Mapping[Any, int]]) -> Counter[Any]:
    total: Counter[Any] = Counter()
    for one in counts:
        total.update(one)
    return total


def _later(device: McuReport, seconds: float) -> McuReport:
    return dataclasses.replace(device, started_s=device.started_s + seconds)
