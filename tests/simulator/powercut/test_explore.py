"""Every cut, judged once for each state, is what the same cut is when it is played alone.

And what comes of the cuts: which bootloaders stay safe, which start half an application, which are lost.
"""

from collections import Counter

import pytest

from fota_protocol.parts import Part
from fota_simulator.boot import BootPolicy, ProgrammingOrder
from fota_simulator.powercut.explore import Explorer, Judged
from fota_simulator.powercut.play import play
from fota_simulator.powercut.promises import PROMISES, Tally
from fota_simulator.powercut.scenario import Scenario
from fota_simulator.powercut.verdict import FirstStart, Recovery, Verdict
from fota_simulator.supply import CommandCut, CutMode

from .images import LONGWORDS, PHRASES, scenario

VECTORS_LAST, FILE = ProgrammingOrder.VECTORS_LAST, ProgrammingOrder.FILE


def judged(under_test: Scenario, *, length: int = 1 << 20) -> list[Judged]:
    """All cuts, in ranges of `length` commands."""
    commands = under_test.clean.commands
    explorer = Explorer(under_test)
    return [
        group
        for first in range(1, commands + 1, length)
        for group in explorer.judge_commands(range(first, min(first + length, commands + 1)))
    ]


def by_number(groups: list[Judged]) -> dict[int, Verdict]:
    """The verdict on each cut."""
    return {number: group.verdict for group in groups for number in range(group.first, group.last + 1)}


@pytest.mark.parametrize("order", ProgrammingOrder)
@pytest.mark.parametrize("policy", BootPolicy)
@pytest.mark.parametrize("part", [LONGWORDS, PHRASES], ids=["longwords", "phrases"])
def test_each_cut_is_judged_exactly_once(part: Part, policy: BootPolicy, order: ProgrammingOrder) -> None:
    """Whatever the ranges are in which it is done: the same cuts, classes and verdicts."""
    under_test = scenario(policy, order, part)

    whole, pieces = judged(under_test), judged(under_test, length=10)

    assert sorted(by_number(whole)) == list(range(1, under_test.cuts + 1))
    assert sum(group.cuts for group in whole) == sum(group.cuts for group in pieces) == under_test.cuts
    assert by_number(whole) == by_number(pieces)
    assert Tally.of(whole, policy) == Tally.of(pieces, policy)


@pytest.mark.parametrize("descending", [False, True], ids=["ascending", "descending"])
@pytest.mark.parametrize("order", ProgrammingOrder)
@pytest.mark.parametrize("policy", BootPolicy)
def test_merged_verdicts_are_those_of_cuts_played_alone(
    policy: BootPolicy, order: ProgrammingOrder, descending: bool
) -> None:
    """Here and there, and all around the first and the last commands, where states change most."""
    under_test = scenario(policy, order, descending=descending)
    commands = 3 * under_test.clean.commands
    numbers = {*range(1, under_test.cuts + 1, 97), *range(1, 10), *range(commands - 8, commands + 4), under_test.cuts}

    merged = by_number(judged(under_test))

    assert {n: play(under_test, under_test.cut(n)).verdict for n in numbers} == {n: merged[n] for n in numbers}


def starts(under_test: Scenario) -> Counter[FirstStart]:
    """What devices do after cuts at flash commands."""
    groups = judged(under_test)
    return Counter(group.verdict.start for group in groups if group.kind != "wire")


SAFE = {FirstStart.BOOTLOADER, FirstStart.OLD, FirstStart.NEW}


@pytest.mark.parametrize(
    ("policy", "order", "descending", "outcomes", "recoveries"),
    [
        (BootPolicy.SEALED, VECTORS_LAST, False, SAFE, {Recovery.ITSELF}),
        (BootPolicy.SEALED, FILE, False, SAFE, {Recovery.ITSELF}),
        (BootPolicy.SEALED, FILE, True, SAFE, {Recovery.ITSELF}),
        (BootPolicy.MARK, VECTORS_LAST, False, SAFE, {Recovery.ITSELF}),
        (BootPolicy.MARK, FILE, False, SAFE, {Recovery.ITSELF}),
        (BootPolicy.MARK, FILE, True, SAFE, {Recovery.ITSELF}),
        (BootPolicy.VECTORS, VECTORS_LAST, False, SAFE, {Recovery.ITSELF}),
        (
            BootPolicy.VECTORS,
            FILE,
            False,
            {*SAFE, FirstStart.OTHER, FirstStart.BRICKED},
            {Recovery.ITSELF, Recovery.NOT},
        ),
        (BootPolicy.HOOK, FILE, False, {*SAFE, FirstStart.OTHER}, {Recovery.ITSELF}),
        (
            BootPolicy.AN2295,
            VECTORS_LAST,
            False,
            {FirstStart.OLD, FirstStart.NEW, FirstStart.BRICKED},
            {Recovery.BY_HAND},
        ),
        (
            BootPolicy.AN2295,
            FILE,
            False,
            {FirstStart.OLD, FirstStart.NEW, FirstStart.OTHER, FirstStart.BRICKED},
            {Recovery.BY_HAND},
        ),
    ],
)
def test_what_becomes_of_a_device_is_its_bootloaders_choice(
    policy: BootPolicy,
    order: ProgrammingOrder,
    descending: bool,
    outcomes: set[FirstStart],
    recoveries: set[Recovery],
) -> None:
    """A seal or a mark keep every device, vectors alone lose some, a pin needs a hand, a hook always has a chance."""
    groups = judged(scenario(policy, order, descending=descending))

    assert outcomes == {group.verdict.start for group in groups}
    assert recoveries == {group.verdict.recovery for group in groups}
    assert all(group.verdict.bootloader_kept for group in groups)
    kept = all(promise.holds(group.verdict) for promise in PROMISES[policy] for group in groups)
    assert kept, "a policy promises what it does not keep"


def test_torn_command_depends_on_the_seed_alone() -> None:
    """The same seed tears the same bits, another one others."""
    first, again, other = (play(scenario(seed=seed), CommandCut(40, CutMode.TORN)) for seed in (1, 1, 2))

    assert first.device.sectors == again.device.sectors
    assert first.device.sectors != other.device.sectors


def test_a_played_cut_tells_its_story() -> None:
    """Reset, frames, flash commands, the power cut, and what came of it, in virtual time that never goes back."""
    played = play(scenario(), CommandCut(20, CutMode.TORN), traced=True)

    assert played.trace is not None
    events = played.trace.events
    kinds = [event.kind for event in events]
    assert kinds[0] == "reset"
    assert [event.kind for event in events if event.kind.startswith("power")] == ["power lost", "power back"]
    assert kinds[-1] == "second update"
    assert kinds.count("flash") == 20 + 257
    times = [event.time_s for event in events]
    assert sorted(times) == times
    assert "flash command 20" in played.detail
