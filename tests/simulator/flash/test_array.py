"""The flash array: what erasing and programming do, and what sharing must not change."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fota_protocol.parts import PARTS, Part
from fota_simulator.errors import FlashError
from fota_simulator.flash import Flash, SectorPool

PART = PARTS["MK60DN512"]
SECTOR = PART.sector_size
START = PART.application_start


@pytest.fixture
def flash() -> Flash:
    """A blank flash of its own."""
    return Flash(PART, SectorPool())


def test_blank_flash_reads_ff(flash: Flash) -> None:
    """Nobody wrote anything, so every byte is FF and no sector is used."""
    content = flash.read(0, PART.flash_end)

    assert b"\xff" * PART.flash_size == content
    assert flash.sectors == ()


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_program_unit_is_the_least_that_can_be_programmed(part: Part) -> None:
    """A longword on FTFL and a phrase on FTFE work at once; half of one, or one between two, does not."""
    flash = Flash(part, SectorPool())
    flash.erase_sector(START)
    unit = part.program_unit

    flash.program(START, bytes(unit))

    assert bytes(unit) + b"\xff" == flash.read(START, START + unit + 1)
    with pytest.raises(FlashError, match="whole units"):
        flash.program(START + unit, bytes(unit // 2))
    with pytest.raises(FlashError, match="whole units"):
        flash.program(START + unit + unit // 2, bytes(unit))


def test_programming_only_clears_bits(flash: Flash) -> None:
    """Programming over programmed bytes gives old AND new, as on the part."""
    flash.erase_sector(START)
    flash.program(START, b"\x0f\xff\xaa\x00")

    flash.program(START, b"\xfc\x12\x0f\xff")

    assert flash.read(START, START + 4) == b"\x0c\x12\x0a\x00"


def test_programming_within_a_programmed_sector_keeps_the_rest(flash: Flash) -> None:
    """Bytes behind and before those that are programmed stay as they are, in whatever order they come."""
    flash.erase_sector(START)
    flash.program(START + 16, b"\x11" * 8)

    flash.program(START + 4, b"\x22" * 4)
    flash.program(START + 32, b"\x33" * 4)

    expected = b"\xff" * 4 + b"\x22" * 4 + b"\xff" * 8 + b"\x11" * 8 + b"\xff" * 8 + b"\x33" * 4
    assert expected.ljust(SECTOR, b"\xff") == flash.read(START, START + SECTOR)


def test_reading_in_between_changes_nothing(flash: Flash) -> None:
    """A sector may be read while it is being programmed."""
    flash.erase_sector(START)
    flash.program(START, b"\x01" * 8)
    before = flash.read(START, START + 16)

    flash.program(START + 8, b"\x02" * 8)

    assert before == b"\x01" * 8 + b"\xff" * 8
    assert flash.read(START, START + 16) == b"\x01" * 8 + b"\x02" * 8


def test_erasing_takes_the_whole_sector_and_counts(flash: Flash) -> None:
    """Everything in the sector is FF again, its neighbour untouched, and the wear is known."""
    for sector in (START, START + SECTOR):
        flash.erase_sector(sector)
        flash.program(sector, bytes(SECTOR))

    flash.erase_sector(START)

    assert b"\xff" * SECTOR + bytes(SECTOR) == flash.read(START, START + 2 * SECTOR)
    assert flash.erase_counts == {START // SECTOR: 2, START // SECTOR + 1: 1}


@pytest.mark.parametrize(("address", "size"), [(-4, 4), (PART.flash_end, 4), (PART.flash_end - 4, 8)])
def test_operations_outside_the_flash_are_errors_with_the_address(flash: Flash, address: int, size: int) -> None:
    """There is nothing to program below 0 or behind the last sector."""
    with pytest.raises(FlashError) as caught:
        flash.program(address, bytes(size))

    assert address == caught.value.address


def test_programming_across_sectors_is_an_error(flash: Flash) -> None:
    """One operation stays in one sector: the next one may not be erased."""
    flash.erase_sector(START)

    with pytest.raises(FlashError, match="crosses a sector"):
        flash.program(START + SECTOR - 4, bytes(8))


def test_equal_sectors_are_one_object_for_all_flashes() -> None:
    """A thousand devices with one image hold it once."""
    pool = SectorPool()
    for _ in range(1_000):
        flash = Flash(PART, pool)
        for index in range(4):
            flash.erase_sector(START + index * SECTOR)
            flash.program(START + index * SECTOR, bytes([index]) * SECTOR)
        flash.settle()

    assert len(pool) == 4


def test_pool_forgets_beyond_its_limit_and_flashes_keep_their_content() -> None:
    """Only sharing is lost, so a process that sees ever new images does not grow for ever."""
    pool = SectorPool(limit=3)
    flash = Flash(PART, pool)
    for index in range(8):
        flash.erase_sector(START + index * SECTOR)
        flash.program(START + index * SECTOR, bytes([index]) * SECTOR)

    flash.settle()

    assert len(pool) <= 3
    assert b"".join(bytes([i]) * SECTOR for i in range(8)) == flash.read(START, START + 8 * SECTOR)


operations = st.lists(
    st.one_of(
        st.tuples(st.just("erase"), st.integers(0, 2), st.just(b"")),
        st.tuples(
            st.just("program"),
            st.integers(0, 3 * SECTOR // 4 - 1),
            st.integers(1, 6).flatmap(lambda units: st.binary(min_size=4 * units, max_size=4 * units)),
        ),
        st.tuples(st.just("read"), st.integers(0, 2), st.just(b"")),
    ),
    max_size=30,
)


@given(operations)
def test_sparse_shared_flash_is_a_plain_array(steps: list[tuple[str, int, bytes]]) -> None:
    """Whatever is erased, programmed and read, the content is that of a byte array that does the same."""
    flash = Flash(PART, SectorPool())
    model = bytearray(b"\xff" * 3 * SECTOR)
    for what, where, data in steps:
        if what == "erase":
            flash.erase_sector(where * SECTOR)
            model[where * SECTOR : (where + 1) * SECTOR] = b"\xff" * SECTOR
        elif what == "read":
            assert bytes(model[where * SECTOR : (where + 1) * SECTOR]) == flash.read(
                where * SECTOR, (where + 1) * SECTOR
            )
        elif (4 * where) // SECTOR == (4 * where + len(data) - 1) // SECTOR:
            flash.program(4 * where, data)
            for i, byte in enumerate(data, start=4 * where):
                model[i] &= byte

    assert bytes(model) == flash.read(0, 3 * SECTOR)
