"""Every cut, judged once for each state, is what the same cut is when it is played alone.

And what comes of the cuts: which bootloaders stay safe, which start half an application, which are lost.
"""

from collections import Counter

import pytest

from fota_protocol.image import FirmwareImage
from fota_protocol.parts import Part
from fota_protocol.srecord import SRecord
from fota_simulator.boot import BootloaderSettings, BootPolicy, ProgrammingOrder
from fota_simulator.flash import Flash, SectorPool
from fota_simulator.powercut.explore import Explorer, Judged
from fota_simulator.powercut.play import play
from fota_simulator.powercut.promises import PROMISES, Tally
from fota_simulator.powercut.scenario import Scenario
from fota_simulator.powercut.verdict import FirstStart, Recovery, Verdict
from fota_simulator.supply import CommandCut, CutMode

from .images import LONGWORDS, PHRASES, SIZE, image, scenario

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
        (BootPolicy.HOOK, FILE, False, {*SAFE, FirstStart.OTHER}, {Recovery.ITSELF, Recovery.BY_HAND}),
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


def grown(size: int) -> FirmwareImage:
    """The first image, with a tail that its seal does not cover."""
    first = image(1)
    tail = [SRecord(2, first.end + i, bytes([0x5A]) * 32) for i in range(0, size - SIZE, 32)]
    return FirmwareImage.from_records([*first.records, *tail])


@pytest.mark.parametrize("order", ProgrammingOrder)
@pytest.mark.parametrize(("old", "new"), [(SIZE, 0x1800), (0x1800, SIZE)], ids=["grows", "shrinks"])
def test_half_of_an_image_is_not_whole_because_a_smaller_one_is(order: ProgrammingOrder, old: int, new: int) -> None:
    """The old application and half of what the new one adds to it is neither; nobody is promised to start it."""
    under_test = Scenario(LONGWORDS, BootloaderSettings(BootPolicy.VECTORS, order), grown(old), grown(new), 1)

    verdicts = by_number(judged(under_test))

    assert FirstStart.OLD is verdicts[1].start
    assert FirstStart.NEW is verdicts[3 * under_test.clean.commands].start
    if order is ProgrammingOrder.FILE and new > old:
        assert FirstStart.OTHER in {verdict.start for verdict in verdicts.values()}


def test_sealed_image_with_a_hole_is_installed_over_whatever_was_there() -> None:
    """Its seal counts the hole as FF, so a sector that the old image left there is erased; no cut breaks that."""
    size = LONGWORDS.sector_size
    start = LONGWORDS.application_start
    records = [*image(1).records, *(SRecord(2, start + 3 * size + i, bytes([7]) * 32) for i in range(0, 256, 32))]
    holed = FirmwareImage.from_records(records).seal(start)
    old = FirmwareImage.from_records(
        [*image(2).records, *(SRecord(2, start + 0x400 + i, bytes([9]) * 32) for i in range(0, 4 * size, 32))]
    ).seal(start)
    under_test = Scenario(LONGWORDS, BootloaderSettings(BootPolicy.SEALED), old, holed, 1)

    groups = judged(under_test)

    assert Tally.of(groups, BootPolicy.SEALED).broken == ()
    assert Flash(LONGWORDS, SectorPool(), under_test.end).is_erased(start + size, start + 3 * size)


@pytest.mark.parametrize("used", [-2, -1, 0], ids=["last but one", "last pair", "full"])
def test_mark_survives_every_cut_also_when_its_sector_is_full(used: int) -> None:
    """The update that uses the last pair, and the one that erases the sector."""
    under_test = scenario(BootPolicy.MARK, FILE)
    pairs = LONGWORDS.sector_size // (2 * LONGWORDS.program_unit) + used
    content = bytes(pairs * 2 * LONGWORDS.program_unit).ljust(LONGWORDS.sector_size, b"\xff")
    last = LONGWORDS.flash_size // LONGWORDS.sector_size - 1
    under_test.__dict__["base"] = {**under_test.base, last: content}  # as so many updates before leave it

    groups = judged(under_test)

    assert Tally.of(groups, BootPolicy.MARK).broken == ()
