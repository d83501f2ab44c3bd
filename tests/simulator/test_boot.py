"""What a device does at a reset: every policy over every sort of flash, and the mark of an update in progress."""

import itertools
import struct
from typing import Final

import pytest

import fota_fixtures
from fota_protocol.errors import RecordRejected, Rejection
from fota_protocol.formats import load
from fota_protocol.image import FirmwareImage
from fota_protocol.parts import PARTS, Part
from fota_protocol.srecord import SRecord
from fota_simulator import update_mark
from fota_simulator.boot import BootPolicy, ProgrammingOrder, Start, application_end, at_reset, would_start
from fota_simulator.bootloader import Bootloader, bootloader_sectors
from fota_simulator.flash import Flash, SectorPool
from fota_simulator.flash.controller import ControlledFlash, FlashController
from fota_transport.clock import VirtualClock

PART: Final = PARTS["MK60DN512"]
START: Final = PART.application_start
ENTRY: Final = START + 0x500

BOOTLOADER, APPLICATION, RESET_LOOP = Start.BOOTLOADER, Start.APPLICATION, Start.RESET_LOOP

GOOD: Final = (PART.ram_end, ENTRY + 1, ENTRY + 1)
"""Initial stack pointer, reset vector and NMI vector that are as they should be."""


def image(vectors: tuple[int, int, int] = GOOD, *, code: bytes = b"\x00\xbf\xfe\xe7", sealed: bool = True) -> bytes:
    """An application of 0x600 bytes, as it is in flash."""
    content = bytearray(b"\xff" * 0x600)
    content[:12] = struct.pack("<III", *vectors)
    content[0x10:0x3C0] = bytes(0x3B0)
    content[ENTRY - START : ENTRY - START + len(code)] = code
    content[-4:] = b"tail"
    made = FirmwareImage.from_records(records(content))
    made = made.seal(START) if sealed else made
    return made.read(START, START + len(content))


def records(content: bytes | bytearray) -> list[SRecord]:
    """`content` from the application's start."""
    return [SRecord(3, START + i, bytes(content[i : i + 128])) for i in range(0, len(content), 128)]


def flash_with(content: bytes, part: Part = PART) -> Flash:
    """A device whose application flash begins with `content`."""
    size = part.sector_size
    padded = content.ljust(-(-len(content) // size) * size, b"\xff")
    sectors = {START // size + i: padded[i * size : (i + 1) * size] for i in range(len(padded) // size)}
    return Flash(part, SectorPool(), {**bootloader_sectors(part), **sectors})


def started(content: bytes) -> dict[BootPolicy, Start]:
    """What every policy makes of an application."""
    return {policy: at_reset(flash_with(content), policy) for policy in BootPolicy}


def by_policy(sealed: Start, vectors: Start, mark: Start, hook: Start, an2295: Start) -> dict[BootPolicy, Start]:
    """A row of expectations."""
    return dict(zip(BootPolicy, (sealed, vectors, mark, hook, an2295), strict=True))


def test_sealed_application_is_started_by_all() -> None:
    """It has everything that any of them asks for."""
    assert dict.fromkeys(BootPolicy, APPLICATION) == started(image())


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_fixture_is_started_by_all_on_every_part(part: Part) -> None:
    """An image that this code did not make."""
    found = load(fota_fixtures.read("blink_1.s19"))
    flash = flash_with(found.read(START, found.end), part)

    assert dict.fromkeys(BootPolicy, APPLICATION) == {policy: at_reset(flash, policy) for policy in BootPolicy}


def test_blank_flash_keeps_all_in_the_bootloader_but_the_one_that_does_not_look() -> None:
    """AN2295 with its pin released jumps into FF, again and again."""
    assert by_policy(BOOTLOADER, BOOTLOADER, BOOTLOADER, BOOTLOADER, RESET_LOOP) == started(b"")


def test_application_without_a_seal_is_refused_by_one_policy() -> None:
    """The others do not ask for it."""
    assert by_policy(BOOTLOADER, APPLICATION, APPLICATION, APPLICATION, APPLICATION) == started(image(sealed=False))


@pytest.mark.parametrize("position", [0x10, 0x3C0, 0x3CC, 0x5FF])
def test_application_with_a_flipped_bit_is_refused_by_one_policy(position: int) -> None:
    """In its bytes, in the tag, in the CRC, in the last byte."""
    content = bytearray(image())
    content[position] ^= 1

    assert by_policy(BOOTLOADER, APPLICATION, APPLICATION, APPLICATION, APPLICATION) == started(bytes(content))


@pytest.mark.parametrize(
    "vectors",
    [
        (PART.ram_start, ENTRY + 1, ENTRY + 1),
        (PART.ram_end + 4, ENTRY + 1, ENTRY + 1),
        (PART.ram_end, ENTRY, ENTRY + 1),
        (PART.ram_end, START - 1, ENTRY + 1),
        (PART.ram_end, PART.flash_end + 1, ENTRY + 1),
        (0, ENTRY + 1, ENTRY + 1),
    ],
)
def test_vectors_that_no_core_can_run_loop_where_nobody_looks_at_them(vectors: tuple[int, int, int]) -> None:
    """Behind a hook time-out, each reset is a chance to call, so that device is not lost."""
    expected = by_policy(BOOTLOADER, BOOTLOADER, RESET_LOOP, BOOTLOADER, RESET_LOOP)

    assert (expected, expected) == (started(image(vectors)), started(image(vectors, sealed=False)))


def test_entry_point_in_blank_flash_loops() -> None:
    """Its first instruction is FFFF, which faults; only the CRC of a seal that covers FF cannot tell."""
    content = image(code=b"\xff\xff")

    assert by_policy(RESET_LOOP, RESET_LOOP, RESET_LOOP, BOOTLOADER, RESET_LOOP) == started(content)


def test_entry_point_at_the_last_halfword_is_judged() -> None:
    """Nothing is read behind the flash."""
    content = image((PART.ram_end, PART.flash_end - 1, 1), sealed=False)

    assert by_policy(BOOTLOADER, RESET_LOOP, RESET_LOOP, BOOTLOADER, RESET_LOOP) == started(content)


def test_reset_vector_behind_the_sealed_range_is_refused() -> None:
    """The seal says where the image ends."""
    content = image((PART.ram_end, START + 0x801, 1)) + b"\xff" * 0x200 + b"\x00\xbf" * 2

    assert by_policy(BOOTLOADER, APPLICATION, APPLICATION, APPLICATION, APPLICATION) == started(content)


@pytest.mark.parametrize(("nmi", "expected"), [(0xFFFF_FFFF, BOOTLOADER), (0xFFFF_FFFE, APPLICATION), (0, APPLICATION)])
def test_hook_leaves_for_an_application_with_an_nmi_vector(nmi: int, expected: Start) -> None:
    """The word at 0x4008 is all that it looks at, and nobody else does."""
    found = started(image((PART.ram_end, ENTRY + 1, nmi), sealed=False))

    assert by_policy(BOOTLOADER, APPLICATION, APPLICATION, expected, APPLICATION) == found


@pytest.mark.parametrize("content", [b"", image()])
def test_held_pin_keeps_an2295_in_its_bootloader(content: bytes) -> None:
    """With or without an application; the other policies know no pin."""
    found = {policy: at_reset(flash_with(content), policy, pin_held=True) for policy in BootPolicy}

    assert {**started(content), BootPolicy.AN2295: BOOTLOADER} == found


@pytest.mark.parametrize("policy", BootPolicy)
def test_would_start_is_about_the_application_alone(policy: BootPolicy) -> None:
    """A reset loop starts nothing."""
    assert (True, False) == (would_start(flash_with(image()), policy), would_start(flash_with(b""), policy))


# The mark.

PARTS_AND_SECTORS: Final = [pytest.param(part, id=name) for name, part in PARTS.items()]


def mark_sector(flash: Flash) -> bytes:
    """The last sector."""
    return flash.read(flash.part.flash_end - flash.part.sector_size, flash.part.flash_end)


def marked(part: Part, units: list[bytes]) -> Flash:
    """A device with an application, and these units at the start of its last sector."""
    flash = flash_with(image(), part)
    unit = part.program_unit
    content = b"".join(u.ljust(unit, u[-1:]) for u in units).ljust(part.sector_size, b"\xff")
    flash.replace_sector(part.flash_end // part.sector_size - 1, content)
    return flash


ZERO, BLANK = b"\0", b"\xff"


@pytest.mark.parametrize("part", PARTS_AND_SECTORS)
@pytest.mark.parametrize(
    ("units", "expected"),
    [
        ([], APPLICATION),
        ([ZERO, BLANK], BOOTLOADER),
        ([ZERO, ZERO], APPLICATION),
        ([ZERO, ZERO, ZERO], BOOTLOADER),
        ([ZERO, ZERO, ZERO, ZERO], APPLICATION),
        ([b"\xff\xff\xff\xfe", BLANK], BOOTLOADER),
        ([b"\x7f\xff", BLANK], BOOTLOADER),
        ([ZERO, b"\0\0\0\x01"], BOOTLOADER),
        ([ZERO, b"\x80\0"], BOOTLOADER),
        ([ZERO, ZERO, b"\xfe\xff", BLANK], BOOTLOADER),
        ([b"\x01\0", ZERO], APPLICATION),
    ],
)
def test_last_pair_of_the_mark_tells(part: Part, units: list[bytes], expected: Start) -> None:
    """In progress unless its second unit is all zeroes; torn ones are in progress."""
    assert expected is at_reset(marked(part, units), BootPolicy.MARK)


def test_last_units_of_the_sector_tell_too() -> None:
    """A sector that is full."""
    units = PART.sector_size // PART.program_unit
    done, open_ended = marked(PART, [ZERO] * units), marked(PART, [ZERO] * (units - 1))

    assert (APPLICATION, BOOTLOADER) == (at_reset(done, BootPolicy.MARK), at_reset(open_ended, BootPolicy.MARK))


@pytest.mark.parametrize("part", PARTS_AND_SECTORS)
def test_mark_takes_a_pair_for_each_update_and_wraps_when_the_sector_is_full(part: Part) -> None:
    """It is erased once in so many updates; in between, nothing is programmed twice."""
    flash = flash_with(image(), part)
    pairs, pair = part.sector_size // (2 * part.program_unit), 2 * part.program_unit
    seen = []
    for _ in range(2 * pairs + 1):
        update_mark.begin(flash)
        seen.append(update_mark.in_progress(flash))
        update_mark.end(flash)
        seen.append(update_mark.in_progress(flash))

    assert [True, False] * (2 * pairs + 1) == seen
    assert bytes(pair).ljust(part.sector_size, b"\xff") == mark_sector(flash)
    assert {part.flash_end // part.sector_size - 1: 2} == flash.erase_counts


def test_update_after_one_that_was_cut_goes_on_with_its_mark() -> None:
    """No pair is used up for it."""
    flash = flash_with(image())
    for _ in range(3):
        update_mark.begin(flash)

    update_mark.end(flash)

    assert bytes(2 * PART.program_unit).ljust(PART.sector_size, b"\xff") == mark_sector(flash)


@pytest.mark.parametrize(("first", "second"), list(itertools.product((b"\0\x80\xff\xfe", ZERO), (b"\x55\xff", BLANK))))
@pytest.mark.parametrize("used", [0, PART.sector_size // (2 * PART.program_unit) - 1], ids=["first", "last pair"])
def test_torn_mark_is_mended_by_the_next_update(first: bytes, second: bytes, used: int) -> None:
    """Whatever of the pair was torn, its end says that the image is whole, and programs no unit twice."""
    flash = marked(PART, [ZERO] * 2 * used + [first, second])
    controller = FlashController(flash, VirtualClock(), strict=True)
    memory = ControlledFlash(controller)
    update_mark.begin(memory)

    update_mark.end(memory)

    assert APPLICATION is at_reset(flash, BootPolicy.MARK)
    assert 0 == controller.overprogrammed


def test_image_may_not_use_the_sector_of_the_mark() -> None:
    """Under that policy alone; the record is refused."""
    last = PART.flash_end - 4
    Bootloader(flash_with(b""), BootPolicy.VECTORS).write(SRecord(3, last, bytes(4)))

    with pytest.raises(RecordRejected) as caught:
        Bootloader(flash_with(b""), BootPolicy.MARK).write(SRecord(3, PART.flash_end - PART.sector_size, bytes(4)))

    assert Rejection.OUT_OF_RANGE is caught.value.reason
    assert (PART.flash_end - PART.sector_size, PART.flash_end) == (
        application_end(PART, BootPolicy.MARK),
        application_end(PART, BootPolicy.AN2295),
    )


@pytest.mark.parametrize("order", ProgrammingOrder)
def test_update_that_wrote_nothing_does_not_say_that_a_half_image_is_whole(order: ProgrammingOrder) -> None:
    """A file of nothing but records without data, after an update that was cut."""
    flash = flash_with(image())
    cut = Bootloader(flash, BootPolicy.MARK, order=order)
    for record in records(image())[:3]:
        cut.write(record)
    empty = Bootloader(flash, BootPolicy.MARK, order=order)

    empty.write(SRecord(3, START, b""))
    empty.finish("1")

    assert BOOTLOADER is at_reset(flash, BootPolicy.MARK)
