"""What goes wrong with a fleet goes wrong as it was said to, on real sockets and in virtual time alike.

The server is that of `test_swarm`: the protocol's own session and nothing else.
"""

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from tests.simulator.test_swarm import BLINK, DEMO, PART, Served, mcuid, plan, serve, update

from fota_protocol.device import DeviceTimings
from fota_simulator import swarm as swarm_module
from fota_simulator.behaviour import Arrivals, Behaviour, Fault, FaultKind, FaultRule, RetryOn, RetryPolicy
from fota_simulator.report import SwarmReport
from fota_simulator.swarm import DevicePlan, run_swarm
from fota_transport.loops import new_event_loop
from fota_transport.profiles import LinkProfile
from fota_transport.simulated import SimulatedLoop
from fota_transport.trace import TraceEntry

MakeLoop = Callable[[], asyncio.AbstractEventLoop]
WORLDS: dict[str, MakeLoop] = {
    "uvloop": new_event_loop,
    "asyncio": asyncio.new_event_loop,
    "simulated": lambda: SimulatedLoop(1),
}
RECORDS = len(BLINK.records)


@pytest.fixture(params=list(WORLDS))
def make_loop(request: pytest.FixtureRequest) -> MakeLoop:
    """Each kind of loop."""
    return WORLDS[request.param]


def run_fleet(make_loop: MakeLoop, count: int = 3, **settings: Any) -> SwarmReport:
    """Update so many devices with `BLINK`."""
    loop = make_loop()
    try:
        served = {mcuid(i): Served(BLINK.frames) for i in range(count)}
        settings = {"timings": DeviceTimings(verdict=5.0, frame=1.0, refusal=0.5)} | settings
        return update(loop, [plan(i, BLINK) for i in range(count)], served.get, **settings)[0]
    finally:
        loop.close()


def always(kind: FaultKind, *, seconds: float = 0.2, retries: int = 0) -> Behaviour:
    """Every attempt but a retry meets this at its tenth record: faults are drawn for each attempt."""
    return Behaviour(faults=(FaultRule(kind, 1.0, 10, 10, seconds),), retry=RetryPolicy(retries, pause_s=0.05), seed=1)


def ends(report: SwarmReport) -> set[tuple[str, str | None, int, int]]:
    """Result, reason, records of the last attempt, attempts."""
    return {(device.result, device.reason, device.records, device.attempts) for device in report.devices}


@pytest.mark.parametrize(
    ("kind", "reason", "records"),
    [
        (FaultKind.DISCONNECT, "connection lost", 10),
        (FaultKind.HALF_OPEN, "timeout", 10),
        (FaultKind.CORRUPT_RECORD, "bad record", 9),
        (FaultKind.CORRUPT_ACK, "connection lost", 10),
    ],
)
def test_a_fault_ends_an_attempt_as_it_does_on_a_real_line(
    make_loop: MakeLoop, kind: FaultKind, reason: str, records: int
) -> None:
    """At its record, and with the reason that the device sees."""
    report = run_fleet(make_loop, behaviour=always(kind))

    assert {("failed", reason, records, 1)} == ends(report)


def test_a_stall_delays_and_ends_nothing(make_loop: MakeLoop) -> None:
    """The ack comes, only later."""
    report = run_fleet(make_loop, behaviour=always(FaultKind.STALL, seconds=0.4))

    assert {("updated", None, RECORDS, 1)} == ends(report)
    assert report.verified == 3
    assert report.p50_s >= 0.4


def first_attempt_only(kind: FaultKind, monkeypatch: pytest.MonkeyPatch, *, retries: int) -> Behaviour:
    """A fault at the tenth record of every device's first attempt."""
    behaviour = always(kind, retries=retries)

    class Dice:
        def __init__(self, attempt: int) -> None:
            self.attempt = attempt

        def random(self) -> float:
            return 0.5

        def randint(self, low: int, high: int) -> int:
            return low

    monkeypatch.setattr(Behaviour, "dice", lambda self, number, attempt: Dice(attempt))
    monkeypatch.setattr(Behaviour, "draw_fault", lambda self, dice: Fault(kind, 10, 0.2) if dice.attempt == 1 else None)
    return behaviour


@pytest.mark.parametrize("kind", [FaultKind.DISCONNECT, FaultKind.CORRUPT_RECORD, FaultKind.HALF_OPEN])
def test_a_device_that_tries_again_is_updated(
    make_loop: MakeLoop, kind: FaultKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second attempt begins anew, and the flash is whole."""
    report = run_fleet(make_loop, behaviour=first_attempt_only(kind, monkeypatch, retries=3))

    assert {("updated", None, RECORDS, 2)} == ends(report)
    assert report.verified == 3


def test_a_device_comes_again_after_a_power_cut_by_itself(make_loop: MakeLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its power comes back whatever its policy; what it left behind is no device of its own."""
    report = run_fleet(make_loop, behaviour=first_attempt_only(FaultKind.POWER_CUT, monkeypatch, retries=0))

    assert {("updated", None, RECORDS, 2)} == ends(report)
    assert (3, 3) == (report.count, len(report.devices))


def test_a_supply_that_always_fails_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device of which nothing is left but power cuts is a failed one."""
    monkeypatch.setattr(swarm_module, "MAX_POWER_CUTS", 3)
    report = run_fleet(WORLDS["simulated"], behaviour=always(FaultKind.POWER_CUT))

    assert {("failed", "power lost", 10, 4)} == ends(report)


def test_what_power_cuts_leave_behind_is_bounded_and_says_nothing() -> None:
    """At most one dead connection for each device, without a deadline of its own: the server's decides."""
    loop = new_event_loop()
    served = {mcuid(i): Served(BLINK.frames) for i in range(3)}
    before = len(os.listdir("/proc/self/fd"))
    most: list[int] = []
    behaviour = Behaviour(faults=(FaultRule(FaultKind.POWER_CUT, 0.9, 5, 5, 0.05),), seed=3)

    report, _ = update(
        loop,
        [plan(i, BLINK) for i in range(3)],
        served.get,
        behaviour=behaviour,
        on_progress=lambda _: most.append(len(os.listdir("/proc/self/fd")) - before),
    )

    loop.close()
    assert report.verified == 3
    assert report.attempts > 15
    assert max(most) < 3 * 4 + 8  # both ends of a live and a dead connection each, and the loop's own


def test_a_storm_leaves_alone_who_has_its_image() -> None:
    """A device whose connection is only being closed is updated, once."""

    def seconds(storm_at_s: float | None) -> SwarmReport:
        loop = SimulatedLoop(1, LinkProfile("slow", latency_s=0.3))
        report, _ = update(
            loop,
            [plan(0, BLINK)],
            lambda _: Served(BLINK.frames),
            arrivals=Arrivals(storm_at_s=storm_at_s),
        )
        loop.close()
        return report

    ended = seconds(None).devices[0].duration_s

    assert {("updated", None, RECORDS, 1)} == ends(seconds(ended + 0.1))


def test_bytes_are_counted_once_however_many_attempts(make_loop: MakeLoop) -> None:
    """What a flash took in all of its attempts, no more."""
    report = run_fleet(make_loop, behaviour=always(FaultKind.DISCONNECT, retries=2))

    assert 0.5 * 16 * report.records < report.bytes <= 20 * report.records


def test_retries_are_bounded_and_counted(make_loop: MakeLoop) -> None:
    """A line that always breaks is given up."""
    report = run_fleet(make_loop, behaviour=always(FaultKind.DISCONNECT, retries=2))

    assert {("failed", "connection lost", 10, 3)} == ends(report)


@pytest.mark.parametrize(("on", "attempts"), [(RetryOn.FAILED, 1), (RetryOn.ANY, 4)])
def test_a_refusal_is_for_good_unless_the_fleet_hammers(make_loop: MakeLoop, on: RetryOn, attempts: int) -> None:
    """`@0#` ends it for a device that knows the protocol."""
    loop = make_loop()
    behaviour = Behaviour(retry=RetryPolicy(3, pause_s=0.0, on=on))

    report, _ = update(loop, [plan(i, BLINK) for i in range(3)], lambda _: None, behaviour=behaviour)

    loop.close()
    assert {("refused", None, 0, attempts)} == ends(report)


def test_strangers_end_well_when_they_are_refused(make_loop: MakeLoop) -> None:
    """They are not retried, and a run with them is no failed run."""
    loop = make_loop()
    stranger = DevicePlan(mcuid(9), None, PART, is_stranger=True)
    behaviour = Behaviour(retry=RetryPolicy(3, pause_s=0.0, on=RetryOn.ANY))

    report, _ = update(loop, [plan(0, BLINK), stranger], {mcuid(0): Served(BLINK.frames)}.get, behaviour=behaviour)
    wrong, _ = update(loop, [stranger], lambda _: Served(BLINK.frames))

    loop.close()
    assert (report.ok, report.refused, report.devices[1].attempts) == (True, 1, 1)
    assert not wrong.ok


def test_a_storm_costs_everybody_the_connection_and_nobody_the_update(make_loop: MakeLoop) -> None:
    """All come again at once, without a retry being theirs to spend."""
    report = run_fleet(make_loop, behaviour=Behaviour(think_s=0.005), arrivals=Arrivals(storm_at_s=0.2))

    assert {("updated", None, RECORDS, 2)} == ends(report)
    assert report.records > 3 * RECORDS


def test_thinking_takes_its_time(make_loop: MakeLoop) -> None:
    """Before every ack of a record, on the mean."""
    report = run_fleet(make_loop, behaviour=Behaviour(think_s=0.01))

    assert {("updated", None, RECORDS, 1)} == ends(report)
    assert 0.6 * 0.01 * RECORDS < report.p50_s < 5.0


@pytest.mark.parametrize("make_real_loop", [new_event_loop, asyncio.new_event_loop], ids=["uvloop", "asyncio"])
def test_a_slow_link_lies_between_real_sockets_too(make_real_loop: MakeLoop) -> None:
    """Round trips, order and the last byte before the end of the stream are the link's."""
    link = LinkProfile("slow", latency_s=0.01, jitter_s=0.005, bytes_per_second=20_000.0)

    report = run_fleet(make_real_loop, behaviour=Behaviour(link=link))

    assert {("updated", None, RECORDS, 1)} == ends(report)
    assert report.p50_s > 0.02 * RECORDS
    assert report.verified == 3


def test_a_refusal_arrives_over_a_slow_link() -> None:
    """The end of the stream does not overtake it."""
    loop = new_event_loop()

    report, _ = update(
        loop, [plan(0, BLINK)], lambda _: None, behaviour=Behaviour(link=LinkProfile("slow", latency_s=0.1))
    )

    loop.close()
    assert {("refused", None, 0, 1)} == ends(report)


def test_a_busy_loop_keeps_the_order_of_a_slow_link() -> None:
    """Timers that are late, and the end of the stream before them: nothing is overtaken."""
    loop = asyncio.new_event_loop()

    def block() -> None:
        time.sleep(0.03)
        loop.call_soon(block)

    loop.call_soon(block)
    report, _ = update(
        loop, [plan(0, BLINK)], lambda _: None, behaviour=Behaviour(link=LinkProfile("slow", latency_s=0.02))
    )

    loop.close()
    assert {("refused", None, 0, 1)} == ends(report)


def test_the_same_seed_moves_the_same_bytes_at_the_same_moments() -> None:
    """Faults, retries, thinking, jitter: a run in virtual time repeats to the byte; another seed is another run."""

    def trace(seed: int) -> list[tuple[str, TraceEntry]]:
        chunks: list[tuple[str, TraceEntry]] = []
        loop = SimulatedLoop(seed, LinkProfile("odd", latency_s=0.1, jitter_s=0.1, segment_bytes=20, loss=0.01))
        rules = tuple(FaultRule(kind, 0.2, 1, 50, 1.0) for kind in FaultKind)
        update(
            loop,
            [plan(i, BLINK) for i in range(5)],
            lambda _: Served(BLINK.frames),
            behaviour=Behaviour(retry=RetryPolicy(5), think_s=0.1, faults=rules, seed=seed),
            arrivals=Arrivals(per_s=1.0, storm_at_s=20.0),
            on_chunk=lambda name, entry: chunks.append((name, entry)),
        )
        loop.close()
        return chunks

    first = trace(1)

    assert len(first) > 500
    assert first == trace(1)
    assert first != trace(2)


def test_devices_connect_from_the_addresses_they_are_given() -> None:
    """In turn, so that one address's ports are not all that there is."""
    seen: Counter[str] = Counter()

    async def main() -> SwarmReport:
        loop = asyncio.get_running_loop()
        server, port = await serve(loop, lambda _: Served(DEMO.frames))
        report, _ = await run_swarm(
            loop,
            "127.0.0.1",
            port,
            [plan(i, DEMO) for i in range(6)],
            source_addresses=("127.0.0.2", "127.0.0.3"),
            on_progress=lambda _: seen.update(peers(port)),
        )
        server.close()
        return report

    loop = new_event_loop()
    report = loop.run_until_complete(main())
    loop.close()

    assert report.verified == 6
    assert {"127.0.0.2", "127.0.0.3"} <= set(seen)


def peers(port: int) -> set[str]:
    """Who is, or was a moment ago, connected to `port`, by the kernel's own table."""
    with open("/proc/net/tcp", encoding="ascii") as table:
        rows = [line.split() for line in table][1:]
    found = set()
    for row in rows:
        _, _, local_port = row[1].partition(":")
        if int(local_port, 16) == port and row[2] != "00000000:0000":
            remote = row[2].partition(":")[0]
            found.add(".".join(str(int(remote[i : i + 2], 16)) for i in (6, 4, 2, 0)))
    return found


def test_an_end_at_last_counts_from_the_first_beginning(make_loop: MakeLoop) -> None:
    """A device's duration has its pauses in it: that is how long it was not updated."""
    report = run_fleet(
        make_loop,
        behaviour=Behaviour(
            faults=(FaultRule(FaultKind.DISCONNECT, 1.0, 10, 10),), retry=RetryPolicy(1, pause_s=0.4, jitter=0.0)
        ),
    )

    durations = [device.duration_s for device in report.devices]
    assert all(duration >= 0.4 for duration in durations)
