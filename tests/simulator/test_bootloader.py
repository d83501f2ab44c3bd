"""The bootloader: records in any shape end as the image in flash, and nothing else ever changes."""

import random
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

import fota_fixtures
from fota_protocol.errors import RecordRejected, Rejection
from fota_protocol.formats import load
from fota_protocol.image import FirmwareImage
from fota_protocol.integrity import image_crc32
from fota_protocol.parts import PARTS, Part
from fota_protocol.srecord import SRecord
from fota_simulator.boot import BootPolicy, ProgrammingOrder, would_start
from fota_simulator.bootloader import Bootloader, bootloader_sectors
from fota_simulator.errors import FlashError
from fota_simulator.flash import Flash, SectorPool
from fota_simulator.verify import first_difference

PART = PARTS["MK60DN512"]
SECTOR = PART.sector_size
START = PART.application_start


class CountingFlash(Flash):
    """A flash that refuses what a bootloader must never do: program a unit twice, or touch the bootloader."""

    def __init__(self, part: Part) -> None:
        super().__init__(part, SectorPool(), bootloader_sectors(part))
        self.programmed: set[int] = set()

    def erase_sector(self, address: int) -> None:
        """Erase, above the bootloader only."""
        assert address >= self.part.application_start
        super().erase_sector(address)

    def program(self, address: int, data: bytes) -> None:
        """Program, each unit once and where it is erased."""
        assert address >= self.part.application_start
        assert self.is_erased(address, address + len(data))
        units = set(range(address, address + len(data), self.part.program_unit))
        assert not units & self.programmed
        self.programmed |= units
        super().program(address, data)


class PowerLost(Exception):
    """The supply has failed."""


class FailingSupply(Flash):
    """A flash whose supply fails after a number of commands."""

    def __init__(self, commands: int) -> None:
        super().__init__(PART, SectorPool(), bootloader_sectors(PART))
        self.commands = commands

    def _use(self) -> None:
        if not self.commands:
            raise PowerLost
        self.commands -= 1

    def erase_sector(self, address: int) -> None:
        """Erase, while there is power."""
        self._use()
        super().erase_sector(address)

    def program(self, address: int, data: bytes) -> None:
        """Program, while there is power."""
        self._use()
        super().program(address, data)


class BrokenFlash(Flash):
    """A flash whose controller fails at every program command."""

    def program(self, address: int, data: bytes) -> None:
        """Fail."""
        raise FlashError("MGSTAT0", address=address)


def update(flash: Flash, records: Iterable[SRecord], policy: BootPolicy = BootPolicy.AN2295) -> Bootloader:
    """Run one whole update; returns the bootloader that did it."""
    bootloader = Bootloader(flash, policy)
    for record in records:
        bootloader.write(record)
    bootloader.finish("1")
    return bootloader


def s3(address: int, data: bytes) -> SRecord:
    """A record for anywhere."""
    return SRecord(3, address, data)


@st.composite
def images_in_pieces(draw: st.DrawFn) -> tuple[Part, FirmwareImage, list[SRecord]]:
    """An image with holes near sector ends, and its bytes cut anywhere, in any order."""
    part = draw(st.sampled_from(list(PARTS.values())))
    rng = random.Random(draw(st.integers(0, 2**32 - 1)))
    start = part.application_start
    records: list[SRecord] = []
    position = start + draw(st.integers(0, 20))
    for hole in draw(st.lists(st.integers(1, part.sector_size), min_size=1, max_size=4)):
        size = rng.randrange(1, 400)
        while size > 0:
            cut = min(size, rng.choice((1, 3, 4, 7, 8, 16, 16, 16, 32, 61, 240)))
            records.append(s3(position, bytes(rng.choices((0, 0x5A, 0xFF), k=cut))))
            position, size = position + cut, size - cut
        position += hole
    image = FirmwareImage.from_records(records)
    order = draw(st.sampled_from(("file", "reversed", "shuffled")))
    if order == "reversed":
        records.reverse()
    elif order == "shuffled":
        rng.shuffle(records)
    return part, image, records


@given(images_in_pieces())
def test_any_cut_and_order_of_an_image_ends_as_the_image(pieces: tuple[Part, FirmwareImage, list[SRecord]]) -> None:
    """Each unit is programmed once, the flash verifies, and its digest is the image CRC."""
    part, image, records = pieces
    flash = CountingFlash(part)

    bootloader = update(flash, records)

    assert first_difference(flash, image, bootloader.touched) is None
    assert image.crc32 == bootloader.image_crc()
    assert image.crc32 == image_crc32(flash.read(image.first, image.end))
    assert dict.fromkeys(bootloader.touched, 1) == flash.erase_counts


@given(images_in_pieces(), st.data())
def test_records_that_come_again_with_the_same_bytes_change_nothing(
    pieces: tuple[Part, FirmwareImage, list[SRecord]], data: st.DataObject
) -> None:
    """Files whose records overlap with equal bytes are served, so devices take them."""
    part, image, records = pieces
    flash = CountingFlash(part)
    again = data.draw(st.lists(st.sampled_from(records), max_size=4))
    mixed = data.draw(st.permutations([*records, *again])) if len(records) < 40 else [*records, *again]

    bootloader = update(flash, mixed)

    assert first_difference(flash, image, bootloader.touched) is None


@given(st.integers(0, 60), st.integers(1, 40), st.integers(0, 60), st.integers(1, 40), st.integers(0, 60))
def test_other_bytes_for_what_was_written_are_rejected(a: int, size_a: int, b: int, size_b: int, between: int) -> None:
    """Whatever came in between, and whether the unit is programmed or waits: the update ends there."""
    first, second = s3(START + a, b"\x0f" * size_a), s3(START + b, b"\xf0" * size_b)
    overlap = first.address < second.end and second.address < first.end
    bootloader = Bootloader(CountingFlash(PART), BootPolicy.AN2295)
    bootloader.write(first)
    bootloader.write(s3(START + 512 + between, b"\x33" * 16))

    try:
        bootloader.write(second)
    except RecordRejected as error:
        reason: Rejection | None = error.reason
    else:
        reason = None

    assert (Rejection.REWRITTEN if overlap else None) == reason


def test_a_run_does_not_go_on_over_what_is_programmed() -> None:
    """A record that ends where an earlier one starts is no licence to program the earlier one again."""
    bootloader = Bootloader(CountingFlash(PART), BootPolicy.AN2295)
    bootloader.write(s3(START + 16, b"\x0f" * 16))
    bootloader.write(s3(START, b"\x01" * 16))

    with pytest.raises(RecordRejected) as caught:
        bootloader.write(s3(START + 16, b"\xf0" * 16))

    assert Rejection.REWRITTEN is caught.value.reason


def test_a_run_does_not_go_on_over_a_unit_that_waits() -> None:
    """Bytes that wait behind a run are compared with those that come for their unit."""
    bootloader = Bootloader(CountingFlash(PART), BootPolicy.AN2295)
    bootloader.write(s3(START, b"\x0f" * 10))

    with pytest.raises(RecordRejected) as caught:
        bootloader.write(s3(START + 8, b"\xf0" * 4))

    assert Rejection.REWRITTEN is caught.value.reason


def test_more_waiting_units_than_a_sector_holds_are_programmed_early() -> None:
    """Acknowledged bytes fit into a buffer of one sector; what comes too late for its unit is rejected."""
    flash = CountingFlash(PART)
    bootloader = Bootloader(flash, BootPolicy.AN2295)
    for i in range(SECTOR // PART.program_unit + 1):
        bootloader.write(s3(START + i * PART.program_unit, b"\x11"))

    with pytest.raises(RecordRejected) as caught:
        bootloader.write(s3(START + PART.program_unit + 1, b"\x11"))

    assert {START + PART.program_unit} == flash.programmed  # the first one has the vectors, which wait for the end
    assert Rejection.REWRITTEN is caught.value.reason


@pytest.mark.parametrize(
    ("address", "size", "reason"),
    [
        (0, 4, Rejection.BOOTLOADER),
        (START - 4, 4, Rejection.BOOTLOADER),
        (START - 4, 16, Rejection.BOOTLOADER),
        (PART.flash_end - 4, 8, Rejection.OUT_OF_RANGE),
        (PART.flash_end, 4, Rejection.OUT_OF_RANGE),
        (0xFFFF_FFF0, 16, Rejection.OUT_OF_RANGE),
    ],
)
@pytest.mark.parametrize("before", [(), ((START, 16),), ((PART.flash_end - 32, 28),)])
def test_bytes_outside_the_application_flash_are_rejected_and_change_nothing(
    before: tuple[tuple[int, int], ...], address: int, size: int, reason: Rejection
) -> None:
    """Not one byte of such a record is written, wherever the records before it were."""
    flash = CountingFlash(PART)
    bootloader = Bootloader(flash, BootPolicy.AN2295)
    for start, length in before:
        bootloader.write(s3(start, bytes(length)))
    content = flash.read(0, PART.flash_end)

    with pytest.raises(RecordRejected) as caught:
        bootloader.write(s3(address, bytes(size)))

    assert reason is caught.value.reason
    assert content == flash.read(0, PART.flash_end)


def test_a_record_without_data_does_nothing_anywhere() -> None:
    """It names an address and no byte, so there is nothing to object to."""
    flash = CountingFlash(PART)

    update(flash, [s3(0, b""), s3(START, b"\x00" * 4), s3(START + 4, b""), s3(0xFFFF_0000, b"")])

    assert {START} == flash.programmed


def test_an_error_of_the_flash_controller_rejects_the_record() -> None:
    """The device does not ack what it could not program."""
    bootloader = Bootloader(BrokenFlash(PART, SectorPool()), BootPolicy.AN2295)

    with pytest.raises(RecordRejected) as caught:
        bootloader.write(s3(START + 16, bytes(16)))

    assert (caught.value.reason, caught.value.address) == (Rejection.FLASH, START + 16)


def test_an_error_of_the_flash_controller_at_the_end_rejects_the_image() -> None:
    """What waited until the end is no less part of the image."""
    bootloader = Bootloader(BrokenFlash(PART, SectorPool()), BootPolicy.AN2295)
    bootloader.write(s3(START, bytes(3)))

    with pytest.raises(RecordRejected) as caught:
        bootloader.finish("1")

    assert Rejection.FLASH is caught.value.reason


@pytest.mark.parametrize("name", ["blink_1.s19", "demo_16k.s19", "large_300k.s19", "descending.s19", "unaligned.s19"])
def test_sealed_images_are_taken_and_started(name: str) -> None:
    """A good image satisfies the strictest policy, and verifies."""
    image = load(fota_fixtures.read(name))
    flash = CountingFlash(PART)

    bootloader = update(flash, image.records, BootPolicy.SEALED)

    assert would_start(flash, BootPolicy.SEALED)
    assert first_difference(flash, image, bootloader.touched) is None


@pytest.mark.parametrize(
    ("name", "policy", "reason"),
    [
        ("bad_seal.s19", BootPolicy.SEALED, Rejection.SEAL),
        ("blink_1_unsealed.s19", BootPolicy.SEALED, Rejection.SEAL),
        ("bad_vectors_reset.s19", BootPolicy.SEALED, Rejection.VECTORS),
        ("bad_vectors_stack.s19", BootPolicy.SEALED, Rejection.VECTORS),
        ("bad_vectors_reset.s19", BootPolicy.VECTORS, Rejection.VECTORS),
        ("bad_seal.s19", BootPolicy.VECTORS, None),
        ("blink_1_unsealed.s19", BootPolicy.VECTORS, None),
        ("bad_vectors_reset.s19", BootPolicy.AN2295, None),
    ],
)
def test_policy_decides_what_is_taken(name: str, policy: BootPolicy, reason: Rejection | None) -> None:
    """Each policy refuses what it asks for and does not find, and nothing else."""
    flash = CountingFlash(PART)

    try:
        update(flash, load(fota_fixtures.read(name)).records, policy)
    except RecordRejected as error:
        found: Rejection | None = error.reason
    else:
        found = None

    assert reason is found


def test_reset_vector_behind_the_image_is_not_inside_it() -> None:
    """An address in blank flash is no place to start, though it is in the flash."""
    vectors = (PART.ram_end).to_bytes(4, "little") + (START + 0x1001).to_bytes(4, "little")

    with pytest.raises(RecordRejected, match="reset vector"):
        update(CountingFlash(PART), [s3(START, vectors + bytes(8))], BootPolicy.VECTORS)


@pytest.mark.parametrize("policy", BootPolicy)
def test_blank_device_starts_nothing(policy: BootPolicy) -> None:
    """Even a bootloader that jumps without looking lands in no application."""
    assert not would_start(CountingFlash(PART), policy)


@pytest.mark.parametrize("policy", BootPolicy)
def test_update_that_loses_power_at_any_flash_command_starts_nothing(policy: BootPolicy) -> None:
    """From the first erase to the last program, under any policy, over another image; the next update is good."""
    earlier, image = load(fota_fixtures.read("blink_2.s19")), load(fota_fixtures.read("blink_1.s19"))
    plenty = FailingSupply(10_000)
    update(plenty, image.records, policy)
    needed = 10_000 - plenty.commands
    started = []
    for commands in range(1, needed):
        flash = FailingSupply(10_000)
        update(flash, earlier.records, policy)
        flash.commands = commands
        with pytest.raises(PowerLost):
            update(flash, image.records, policy)
        started.append(would_start(flash, policy))
        flash.commands = 10_000
        assert first_difference(flash, image, update(flash, image.records, policy).touched) is None

    assert [False] * (needed - 1) == started


@pytest.mark.parametrize("policy", BootPolicy)
def test_image_is_started_once_its_end_frame_came(policy: BootPolicy) -> None:
    """A device that was sent every record, and nothing behind them, does not know that it has all of them."""
    flash = CountingFlash(PART)
    bootloader = Bootloader(flash, policy)
    for record in load(fota_fixtures.read("blink_1.s19")).records:
        bootloader.write(record)
    before = would_start(flash, policy)

    bootloader.finish("1")

    assert (before, would_start(flash, policy)) == (False, True)


def test_second_update_leaves_nothing_of_the_first_in_its_sectors() -> None:
    """A sector is erased again in every session, so old bytes do not show through the new image's holes."""
    flash = Flash(PART, SectorPool(), bootloader_sectors(PART))
    update(flash, [s3(START + i, bytes(16)) for i in range(0, SECTOR, 16)])
    image = FirmwareImage.from_records([s3(START, b"\x11" * 16), s3(START + 64, b"\x22" * 16)])

    bootloader = update(flash, image.records)

    assert first_difference(flash, image, bootloader.touched) is None
    assert image.crc32 == bootloader.image_crc()


def test_a_record_without_data_changes_nothing() -> None:
    """Files may hold empty records, also where programming would go on."""
    part = PARTS["MK60DN512"]
    flash = Flash(part, SectorPool())
    bootloader = Bootloader(flash, BootPolicy.AN2295)
    bootloader.write(SRecord(3, 0x4100, b"\x01" * 16))
    bootloader.write(SRecord(3, 0x4020, b"\x02" * 16))

    bootloader.write(SRecord(3, 0x4030, b""))

    assert b"\x02" * 16 + b"\xff" * 16 == flash.read(0x4020, 0x4040)


class RecordingFlash(Flash):
    """A flash that notes what was done to it, in order."""

    def __init__(self, part: Part) -> None:
        super().__init__(part, SectorPool(), bootloader_sectors(part))
        self.done: list[tuple[str, int]] = []

    def erase_sector(self, address: int) -> None:
        """Erase, and note it."""
        self.done.append(("erase", address))
        super().erase_sector(address)

    def program(self, address: int, data: bytes) -> None:
        """Program, and note each unit."""
        self.done += [("program", unit) for unit in range(address, address + len(data), self.part.program_unit)]
        super().program(address, data)


PIECES = {
    "ascending": [s3(START, b"\x11" * 16), s3(START + 16, b"\x22" * 16), s3(START + 3 * SECTOR, b"\x33" * 16)],
    "descending": [s3(START + 3 * SECTOR, b"\x33" * 16), s3(START + 16, b"\x22" * 16), s3(START, b"\x11" * 16)],
    "vectors between": [s3(START + 16, b"\x22" * 16), s3(START, b"\x11" * 16), s3(START + 3 * SECTOR, b"\x33" * 16)],
    "vectors in bytes": [
        *(s3(START + 3 * SECTOR + i, b"\x33" * 4) for i in (0, 4)),
        *(s3(START + i, b"\x11") for i in range(15, -1, -1)),
    ],
}
"""Updates of two sectors, the one with the vectors among them, by how their records come."""


@pytest.mark.parametrize("records", PIECES.values(), ids=PIECES)
@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_vectors_last_erases_their_sector_before_anything_and_programs_them_after_everything(
    part: Part, records: list[SRecord]
) -> None:
    """Wherever in the file they stand: no moment of the update has an old or a new stack pointer over half an image."""
    flash = RecordingFlash(part)
    bootloader = Bootloader(flash, BootPolicy.AN2295, order=ProgrammingOrder.VECTORS_LAST)
    for record in records:
        bootloader.write(record)
    before_the_end = list(flash.done)

    bootloader.finish("1")

    assert ("erase", START) == flash.done[0]
    assert ("program", START) not in before_the_end
    assert ("program", START) == flash.done[-1]
    assert 1 == flash.done.count(("erase", START))


@pytest.mark.parametrize("policy", BootPolicy)
def test_vectors_last_erases_their_sector_even_where_no_record_has_them(policy: BootPolicy) -> None:
    """An image without vectors leaves none of an earlier one; under the policy `mark`, the mark comes first."""
    flash = RecordingFlash(PART)

    Bootloader(flash, policy).write(s3(START + 3 * SECTOR, b"\x33" * 16))

    mark = [("program", PART.flash_end - SECTOR)] if policy is BootPolicy.MARK else []
    assert [*mark, ("erase", START), ("erase", START + 3 * SECTOR)] == flash.done[: len(mark) + 2]


@pytest.mark.parametrize("name", ["ascending", "descending", "vectors between"])
@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_file_order_programs_vectors_when_they_come(part: Part, name: str) -> None:
    """Every sector is erased, and every unit programmed, as its record comes."""
    flash = RecordingFlash(part)
    bootloader = Bootloader(flash, BootPolicy.AN2295, order=ProgrammingOrder.FILE)
    expected: list[tuple[str, int]] = []
    for record in PIECES[name]:
        bootloader.write(record)
        sector = record.address - record.address % part.sector_size
        if ("erase", sector) not in expected:
            expected.append(("erase", sector))
        expected += [("program", unit) for unit in range(record.address, record.end, part.program_unit)]

        assert expected == flash.done

    bootloader.finish("1")

    assert expected == flash.done


@pytest.mark.parametrize("order", ProgrammingOrder)
@given(pieces=images_in_pieces())
def test_both_orders_end_as_the_image(
    order: ProgrammingOrder, pieces: tuple[Part, FirmwareImage, list[SRecord]]
) -> None:
    """And program each unit once."""
    part, image, records = pieces
    flash = CountingFlash(part)
    bootloader = Bootloader(flash, BootPolicy.AN2295, order=order)
    for record in records:
        bootloader.write(record)

    bootloader.finish("1")

    assert first_difference(flash, image, bootloader.touched) is None
    assert image.crc32 == bootloader.image_crc()


# A bootloader that does not guard itself.

OPEN_FIELD = bytes.fromhex("ff" * 12 + "fe3bffff")
LOCKING_FIELD = bytes.fromhex("ff" * 12 + "ef3bffff")
"""FSEC EF: secured, and mass erase disabled."""


def own_flash(field: bytes) -> bytes:
    """A new bootloader's [0, 0x600), with this flash configuration field."""
    content = bytearray(random.Random(5).randbytes(0x600))
    content[0x400:0x410] = field
    return bytes(content)


def cut_into(content: bytes, sizes: Iterable[int], start: int = 0) -> list[SRecord]:
    """Records of these sizes, the last one with all the rest."""
    cut, position = [], start
    for size in sizes:
        cut.append(s3(position, content[position : position + size]))
        position += size
    return [*cut, s3(position, content[position:])] if position < len(content) else cut


def write_all(bootloader: Bootloader, records: Iterable[SRecord]) -> None:
    """Write them, up to one that is rejected."""
    for record in records:
        bootloader.write(record)


@pytest.mark.parametrize("order", ProgrammingOrder)
@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_unguarded_bootloader_takes_records_for_its_own_flash(part: Part, order: ProgrammingOrder) -> None:
    """As AN2295 does, unless its sectors are protected; the application beside it is programmed as ever."""
    flash = Flash(part, SectorPool(), bootloader_sectors(part))
    content = own_flash(OPEN_FIELD)
    bootloader = Bootloader(flash, BootPolicy.AN2295, order=order, guards_itself=False)
    write_all(bootloader, [*cut_into(content, [16] * 90), s3(START - 8, b"\x77" * 24)])

    bootloader.finish("1")

    assert content.ljust(part.sector_size, b"\xff") == flash.read(0, len(content.ljust(part.sector_size, b"\xff")))
    assert b"\x77" * 24 == flash.read(START - 8, START + 16)


FIELD_CUTS = {
    "whole": [0x600],
    "sixteen": [16] * 96,
    "eight": [8] * 192,
    "four": [4] * 384,
    "from the field": [0x400, 16, 16],
    "at FSEC": [0x40C, 4, 16],
    "behind FSEC": [0x40D, 3, 16],
    "between units": [13] * 120,
    "one by one": [1] * 0x600,
    "two at once, of odd sizes": [0x3FF, 13, 1, 3],
}
"""Sizes of the records in which a bootloader's image comes."""


@pytest.mark.parametrize("allows_lock", [False, True])
@pytest.mark.parametrize("sizes", FIELD_CUTS.values(), ids=FIELD_CUTS)
@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_field_that_locks_for_ever_is_refused_however_it_is_cut_unless_allowed(
    part: Part, sizes: list[int], allows_lock: bool
) -> None:
    """The record with FSEC is not acked, and FSEC is not in flash; where it is allowed, it is."""
    flash = Flash(part, SectorPool(), bootloader_sectors(part))
    bootloader = Bootloader(flash, BootPolicy.AN2295, guards_itself=False, allows_lock=allows_lock)
    reasons = []
    for record in cut_into(own_flash(LOCKING_FIELD), sizes):
        try:
            bootloader.write(record)
        except RecordRejected as error:
            reasons.append((error.reason, error.address))
            break
    else:
        bootloader.finish("1")

    if allows_lock:
        assert ([], 0xEF) == (reasons, flash.read(0x40C, 0x40D)[0])
    else:
        assert [(Rejection.SECURITY, 0x40C)] == reasons
        assert 0xEF != flash.read(0x40C, 0x40D)[0]


@pytest.mark.parametrize("start", [0x300, 0x3F0, 0x3FC, 0x400, 0x404, 0x408])
@pytest.mark.parametrize("size", [4, 8, 12, 16, 20])
@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_run_that_goes_on_into_the_field_is_looked_at(part: Part, start: int, size: int) -> None:
    """A record that only goes on with the last one is the quick case, and the dangerous one."""
    bootloader = Bootloader(Flash(part, SectorPool(), bootloader_sectors(part)), BootPolicy.AN2295, guards_itself=False)
    content = own_flash(LOCKING_FIELD)

    with pytest.raises(RecordRejected, match=r"FSEC 0xef at 0x0000040c .* no debugger") as caught:
        write_all(bootloader, cut_into(content, [size] * (-(-(0x410 - start) // size)), start))

    assert Rejection.SECURITY is caught.value.reason


@pytest.mark.parametrize("fsec", [0xFE, 0xFF, 0xEE, 0xDF, 0xFC, 0x00])
def test_field_that_a_mass_erase_can_still_undo_is_taken(fsec: int) -> None:
    """Secured or not: only what nobody can undo is refused."""
    field = OPEN_FIELD[:12] + bytes([fsec]) + OPEN_FIELD[13:]
    flash = Flash(PART, SectorPool(), bootloader_sectors(PART))

    bootloader = Bootloader(flash, BootPolicy.AN2295, guards_itself=False)
    write_all(bootloader, cut_into(own_flash(field), [16] * 96))
    bootloader.finish("1")

    assert fsec == flash.read(0x40C, 0x40D)[0]


def test_guarded_bootloader_refuses_its_own_flash_before_it_looks_at_the_field() -> None:
    """Allowed or not."""
    for allows_lock in (False, True):
        bootloader = Bootloader(CountingFlash(PART), BootPolicy.AN2295, allows_lock=allows_lock)
        with pytest.raises(RecordRejected) as caught:
            bootloader.write(s3(0x400, LOCKING_FIELD))

        assert Rejection.BOOTLOADER is caught.value.reason
