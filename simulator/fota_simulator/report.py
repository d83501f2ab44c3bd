"""What came of one virtual MCU, and of a swarm of them.

Plain data with a JSON form; no clock and no device lives here. Times are seconds since the start of the run. Numbers
that JSON readers may do without (`failures`, percentiles) are derived once, in `SwarmReport.of`.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from fota_protocol.device import Result

from .durations import Bucket, Durations

REPORT_VERSION: Final = 1
"""Of the JSON form of a swarm's report: keys are only added within one version."""

NOT_CONNECTED: Final = "connection"
"""The reason of a device that never reached its server; a connection that broke later is `connection lost`."""

POWER_LOST: Final = "power lost"
"""Reason of a device whose supply failed."""

STORM: Final = "storm"
"""Reason of an attempt that ended when the whole fleet lost its connections."""

BRICKED: Final = "bricked"
"""Reason of a device whose bootloader is damaged: it does nothing any more."""

NOT_SAVED: Final = "not saved"
"""Reason of a device whose file could not be written."""

NOT_VERIFIED: Final = "not verified"
"""What an updated device whose flash is not its image counts as among the failures."""


@dataclass(frozen=True, slots=True)
class McuReport:
    """How one attempt of one virtual MCU ended."""

    mcuid: str
    result: str
    """`updated`, `refused` or `failed`."""
    reason: str | None
    """Why it failed, in a word or two: a `Failure`, a `Rejection` or `NOT_CONNECTED`. None where it did not."""
    detail: str
    """The same in a sentence."""
    version: str | None
    """What the end frame named; None where none was accepted."""
    records: int
    """Records acknowledged."""
    booted: bool
    """Whether it would start its application at the next reset."""
    image_crc: str | None
    """The image CRC of the programmed range, 8 upper-case digits; None where nothing was programmed."""
    verified: bool | None
    """Whether the flash holds the image and nothing else; None where no image was given to compare with."""
    started_s: float
    """When it began to connect."""
    duration_s: float
    """From then until it accepted the image, or until its last attempt was over."""
    attempts: int = 1
    """Connections that it took, or tried."""
    is_stranger: bool = False
    """Whether the server was not to know it."""

    @property
    def ok(self) -> bool:
        """Updated, and not found to differ from its image; a stranger: refused."""
        if self.is_stranger:
            return self.result == Result.REFUSED.value
        return self.result == Result.UPDATED.value and self.verified is not False

    def as_json(self) -> dict[str, Any]:
        """The report as JSON has it, keyed by the fields' names."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, slots=True)
class Sample:
    """How far a swarm was at one moment. The five numbers of devices add up to all of them."""

    time_s: float
    waiting: int
    """Not yet connected."""
    connected: int
    updated: int
    refused: int
    failed: int
    records: int
    """Acknowledged so far by all devices."""
    p50_s: float = 0.0
    """Of the updates so far, as are the next two; `Durations` says how exact they are."""
    p90_s: float = 0.0
    p99_s: float = 0.0
    failed_attempts: Mapping[str, int] = field(default_factory=dict)
    """How many attempts had failed or were not verified, by reason, whether the device tried again or not."""
    not_connected: Mapping[str, int] = field(default_factory=dict)
    """Of those with the reason `NOT_CONNECTED`: how many, by what the system said."""

    @property
    def done(self) -> int:
        """Devices whose attempt is over."""
        return self.updated + self.refused + self.failed


@dataclass(frozen=True, slots=True)
class Strangers:
    """Devices that the server was not to know: they are among all others, and this is how many of those they are."""

    count: int
    updated: int
    refused: int
    """As they should be."""
    failed: int
    attempts: int

    @classmethod
    def of(cls, count: int, devices: Iterable[McuReport]) -> "Strangers":
        """`count` of them, of which these devices, or those among them that are strangers, have ended."""
        ended = [device for device in devices if device.is_stranger]
        results = Counter(device.result for device in ended)
        return cls(
            count=max(count, len(ended)),
            updated=results[Result.UPDATED.value],
            refused=results[Result.REFUSED.value],
            failed=results[Result.FAILED.value],
            attempts=sum(device.attempts for device in ended),
        )


@dataclass(frozen=True, slots=True)
class SwarmReport:
    """What came of a swarm. Percentiles are over the durations of successful updates, 0 where there was none."""

    version: int = field(default=REPORT_VERSION, init=False)
    """Of this shape."""
    count: int
    """Devices that were to run; fewer ended when the run was interrupted."""
    updated: int
    refused: int
    failed: int
    verified: int
    """Devices whose flash was compared with their image, and equal."""
    not_verified: int
    """Updated devices whose flash differed from their image."""
    duration_s: float
    records: int
    bytes: int
    """Bytes that were programmed, padding of program units not counted."""
    updates_per_s: float
    records_per_s: float
    p50_s: float
    p90_s: float
    p99_s: float
    max_s: float
    rss_bytes: int
    """The most memory that the process held; 0 where the system does not say."""
    timeline: tuple[Sample, ...]
    failures: Mapping[str, int]
    """How many devices failed or were not verified, by reason, the most frequent first."""
    attempts: int
    """Connections that were made or tried by the devices that ended."""
    devices_by_attempts: Mapping[int, int]
    """How many devices took so many attempts."""
    failed_attempts: Mapping[str, int]
    """How many attempts failed or were not verified, by reason, whether the device tried again or not."""
    not_connected: Mapping[str, int]
    """Of those with the reason `NOT_CONNECTED`: how many, by what the system said, the most frequent first."""
    strangers: Strangers
    histogram: tuple[Bucket, ...]
    """Durations of successful updates, in buckets that are the same in every run."""
    devices: tuple[McuReport, ...]
    """In the order of the plans."""

    @classmethod
    def of(
        cls,
        count: int,
        devices: Sequence[McuReport],
        timeline: Sequence[Sample],
        *,
        duration_s: float,
        records: int,
        programmed_bytes: int,
        rss_bytes: int,
        failed_attempts: Mapping[str, int] | None = None,
        not_connected: Mapping[str, int] | None = None,
        strangers: int = 0,
    ) -> "SwarmReport":
        """Add up the reports of the devices that ended; `records` and bytes are of all attempts.

        Without `failed_attempts`, the last one of each device is taken for all that failed. `strangers` is how many of
        `count` are such; those among `devices` are, whatever it says.
        """
        results = Counter(device.result for device in devices)
        updated = [device for device in devices if device.result == Result.UPDATED.value]
        not_verified = sum(device.verified is False for device in updated)
        durations = sorted(device.duration_s for device in updated)
        failures = Counter(device.reason for device in devices if device.reason is not None)
        failures[NOT_VERIFIED] = not_verified
        attempts = Counter(device.attempts for device in devices)
        return cls(
            count=count,
            updated=len(updated),
            refused=results[Result.REFUSED.value],
            failed=results[Result.FAILED.value],
            verified=sum(device.verified is True for device in devices),
            not_verified=not_verified,
            duration_s=duration_s,
            records=records,
            bytes=programmed_bytes,
            updates_per_s=len(updated) / duration_s if duration_s else 0.0,
            records_per_s=records / duration_s if duration_s else 0.0,
            p50_s=percentile(durations, 50),
            p90_s=percentile(durations, 90),
            p99_s=percentile(durations, 99),
            max_s=durations[-1] if durations else 0.0,
            rss_bytes=rss_bytes,
            timeline=tuple(timeline),
            failures=most_frequent_first(failures),
            attempts=sum(number * count for number, count in attempts.items()),
            devices_by_attempts=dict(sorted(attempts.items())),
            failed_attempts=most_frequent_first(failures if failed_attempts is None else failed_attempts),
            not_connected=most_frequent_first(not_connected or {}),
            strangers=Strangers.of(strangers, devices),
            histogram=Durations(durations).buckets(),
            devices=tuple(devices),
        )

    @property
    def ok(self) -> bool:
        """Every device ended as it should: updated and not found to differ from its image, or refused as a stranger."""
        return len(self.devices) == self.count and all(device.ok for device in self.devices)

    def update_durations(self) -> list[float]:
        """Seconds that each successful update took, ascending."""
        return sorted(device.duration_s for device in self.devices if device.result == Result.UPDATED.value)

    def as_json(self) -> dict[str, Any]:
        """The report as JSON has it, keyed by the fields' names; devices and timeline are lists of objects."""
        by_attempts = {str(number): count for number, count in self.devices_by_attempts.items()}
        return dataclasses.asdict(self) | {"devices_by_attempts": by_attempts}


def most_frequent_first(reasons: Mapping[str, int]) -> dict[str, int]:
    """The same counts in the order of reports, without those that are 0."""
    return {reason: number for reason, number in Counter(reasons).most_common() if number}


def percentile(ascending: Sequence[float], percent: float) -> float:
    """The smallest of the values that at least `percent` of them do not exceed (nearest rank); 0 of none."""
    if not ascending:
        return 0.0
    return ascending[max(0, math.ceil(len(ascending) * percent / 100) - 1)]
