"""What a swarm's report says of durations and attempts, and how little it takes to say it while a run goes on."""

import dataclasses
import json
import random
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.simulator.test_swarm import BLINK, Served, mcuid, plan, update

from fota_protocol.device import DeviceTimings
from fota_simulator.behaviour import Arrivals, Behaviour, FaultKind, FaultRule, RetryPolicy
from fota_simulator.durations import Durations
from fota_simulator.report import McuReport, Sample, Strangers, SwarmReport, percentile
from fota_transport.simulated import SimulatedLoop

PERCENTS = (0.0, 50.0, 90.0, 99.0, 99.9, 100.0)
durations = st.lists(st.floats(0.0, 1e5), max_size=50)


def device(number: int = 0, result: str = "updated", **changes: Any) -> McuReport:
    """One device of a report; updated, verified, in one attempt and a second if not told otherwise."""
    found = McuReport(
        mcuid=f"{number:025d}",
        result=result,
        reason=None if result == "updated" else "timeout",
        detail=result,
        version="01",
        records=10,
        booted=True,
        image_crc="0123ABCD",
        verified=result == "updated",
        started_s=0.0,
        duration_s=1.0,
    )
    return dataclasses.replace(found, **changes)


def report_of(devices: Sequence[McuReport], **more: Any) -> SwarmReport:
    """A run of these devices and no others."""
    return SwarmReport.of(
        len(devices),
        devices,
        [],
        duration_s=10.0,
        records=10 * len(devices),
        programmed_bytes=0,
        rss_bytes=0,
        **more,
    )


@given(durations)
def test_percentiles_are_right_but_for_the_width_of_a_bucket(seconds: list[float]) -> None:
    """Never below the exact one, and above it by at most 1/128, or a tick."""
    ascending = sorted(seconds)

    found = Durations(seconds).percentiles(PERCENTS)

    for percent, value in zip(PERCENTS, found, strict=True):
        exact = percentile(ascending, percent)
        assert exact <= value <= exact * (1 + 1 / 128) + 1e-4


@given(durations, durations)
def test_buckets_of_two_runs_add_up_to_those_of_both(first: list[float], second: list[float]) -> None:
    """So histograms of many processes can be merged by the beginnings of their buckets."""
    summed: Counter[float] = Counter()
    for seconds in (first, second):
        for bucket in Durations(seconds).buckets():
            summed[bucket.from_s] += bucket.count

    whole = Durations(first + second).buckets()

    assert summed == {bucket.from_s: bucket.count for bucket in whole}


@given(durations)
def test_every_duration_is_in_the_bucket_that_counts_it(seconds: list[float]) -> None:
    """Buckets ascend, do not overlap, and each has as many durations as it says."""
    buckets = Durations(seconds).buckets()

    ticks = [int(duration * 10_000) / 10_000 for duration in seconds]
    assert [sum(bucket.from_s <= tick < bucket.to_s for tick in ticks) for bucket in buckets] == [
        bucket.count for bucket in buckets
    ]
    assert all(before.to_s <= after.from_s for before, after in pairwise(buckets))
    assert len(seconds) == sum(bucket.count for bucket in buckets)


def test_a_percentile_asked_again_knows_of_what_came_since() -> None:
    """What was told is remembered only until another duration is counted."""
    counted = Durations([1.0])
    first = counted.percentiles((50.0, 100.0))
    counted.add(8.0)
    counted.add(8.0)

    again = counted.percentiles((50.0, 100.0))

    assert ((1.0, 1.0), (8.0, 8.0)) == (first, again)


def test_a_hundred_thousand_durations_have_few_buckets() -> None:
    """What a sample looks at does not grow with the fleet."""
    dice = random.Random(1)

    buckets = Durations(dice.lognormvariate(0.0, 1.0) for _ in range(100_000)).buckets()

    assert len(buckets) < 2_500


def test_report_counts_attempts() -> None:
    """All of them together, and how many devices took how many."""
    report = report_of([device(0), device(1, attempts=3), device(2, attempts=3), device(3, "failed", attempts=4)])

    assert 11 == report.attempts
    assert {1: 1, 3: 2, 4: 1} == report.devices_by_attempts
    assert {"1": 1, "3": 2, "4": 1} == report.as_json()["devices_by_attempts"]


def test_report_begins_with_its_version() -> None:
    """The first key of its JSON form says what a reader may rely on."""
    content = json.loads(json.dumps(report_of([device()]).as_json()))

    assert ("version", 1) == next(iter(content.items()))


def test_failed_attempts_are_those_of_the_last_ones_unless_told() -> None:
    """Whoever knows only how devices ended says so of their attempts."""
    devices = [device(0), device(1, "failed"), device(2, verified=False)]

    assert {"timeout": 1, "not verified": 1} == report_of(devices).failed_attempts
    assert {"power lost": 7, "timeout": 1} == report_of(
        devices, failed_attempts={"timeout": 1, "bad record": 0, "power lost": 7}
    ).failed_attempts


def test_durations_are_those_of_updated_devices() -> None:
    """Ascending, and without those that failed."""
    report = report_of([device(0, duration_s=3.0), device(1, duration_s=2.0), device(2, "failed", duration_s=9.0)])

    assert [2.0, 3.0] == report.update_durations()


def test_strangers_are_told_apart_and_counted_with_all() -> None:
    """By how they ended; those that had not ended are known from the plan."""
    fleet = [
        device(0),
        device(1, "refused", is_stranger=True),
        device(2, "failed", is_stranger=True, attempts=3),
        device(3, is_stranger=True),
    ]

    report = report_of(fleet, strangers=5)

    assert Strangers(count=5, updated=1, refused=1, failed=1, attempts=5) == report.strangers
    assert (2, 1, 1) == (report.updated, report.refused, report.failed)
    assert 3 == report_of(fleet).strangers.count


def watched(count: int, **settings: Any) -> tuple[SwarmReport, list[Sample]]:
    """Update so many devices in virtual time; returns the report and every sample."""
    samples: list[Sample] = []
    loop = SimulatedLoop(1)
    try:
        served = {mcuid(number): Served(BLINK.frames) for number in range(count)}
        report, _ = update(
            loop,
            [plan(number, BLINK) for number in range(count)],
            served.get,
            timings=DeviceTimings(verdict=5.0, frame=1.0, refusal=0.5),
            on_progress=samples.append,
            **settings,
        )
    finally:
        loop.close()
    return report, samples


def test_attempts_that_failed_are_counted_though_their_devices_came_again() -> None:
    """A report of devices that were all updated says what it took, by reason."""
    faults = (FaultRule(FaultKind.DISCONNECT, 0.3, 1, 50), FaultRule(FaultKind.POWER_CUT, 0.3, 1, 50, 0.1))
    behaviour = Behaviour(retry=RetryPolicy(50, pause_s=0.05), faults=faults, seed=3)

    report, samples = watched(20, behaviour=behaviour)

    assert (20, {}) == (report.updated, report.failures)
    assert {"connection lost", "power lost"} == set(report.failed_attempts)
    assert report.attempts == 20 + sum(report.failed_attempts.values())
    assert report.failed_attempts == samples[-1].failed_attempts


def test_a_storm_is_a_reason_of_its_own() -> None:
    """What the run did to its own devices is not taken for a fault of the server."""
    report, _ = watched(5, arrivals=Arrivals(storm_at_s=0.5), behaviour=Behaviour(think_s=0.1))

    assert {"storm": 5} == report.failed_attempts
    assert 10 == report.attempts


def test_samples_have_percentiles_of_the_updates_so_far() -> None:
    """None before the first update; in the end those of the report."""
    report, samples = watched(20, arrivals=Arrivals(per_s=20.0), behaviour=Behaviour(think_s=0.01))

    assert (0.0, 0.0, 0.0) == (samples[0].p50_s, samples[0].p90_s, samples[0].p99_s)
    assert any(sample.p50_s > 0.0 for sample in samples if sample.done < 20)
    assert (report.p50_s, report.p90_s, report.p99_s) == pytest.approx(
        (samples[-1].p50_s, samples[-1].p90_s, samples[-1].p99_s), rel=1 / 128
    )
