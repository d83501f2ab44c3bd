"""Verification finds every byte that is not as it must be."""

import pytest

from fota_protocol.image import FirmwareImage
from fota_protocol.parts import PARTS
from fota_protocol.srecord import SRecord
from fota_simulator.bootloader import bootloader_sectors
from fota_simulator.flash import Flash, SectorPool
from fota_simulator.verify import first_difference

PART = PARTS["MK60DN512"]
START = PART.application_start
IMAGE = FirmwareImage.from_records([SRecord(2, START, b"\xa5" * 16), SRecord(2, START + 32, b"\x5a" * 16)])
TOUCHED = {START // PART.sector_size}


@pytest.fixture
def flash() -> Flash:
    """A device that holds the image."""
    flash = Flash(PART, SectorPool(), bootloader_sectors(PART))
    flash.erase_sector(START)
    for record in IMAGE.records:
        flash.program(record.address, record.data)
    return flash


def test_a_flash_that_holds_the_image_verifies(flash: Flash) -> None:
    """Nothing differs."""
    assert first_difference(flash, IMAGE, TOUCHED) is None


@pytest.mark.parametrize(
    ("address", "what"),
    [
        (START, "in the image"),
        (START + 16, "in a hole"),
        (START + PART.sector_size - 4, "at the end of a sector of the image"),
        (0, "at the start of the bootloader"),
        (START - 4, "at the end of the bootloader"),
    ],
)
def test_one_changed_bit_is_found(flash: Flash, address: int, what: str) -> None:
    """A single cleared bit anywhere that matters is a difference."""
    old = flash.read(address, address + 4)
    lowest_set = old[0] & -old[0]
    assert lowest_set, "the first byte must have a bit to clear"

    flash.program(address, bytes([old[0] ^ lowest_set]) + old[1:])

    assert first_difference(flash, IMAGE, TOUCHED) is not None, what


def test_difference_says_where_and_what(flash: Flash) -> None:
    """The address, the byte that is there and the one that should be."""
    flash.program(START + 20, b"\xff\x7f\xff\xff")

    assert first_difference(flash, IMAGE, TOUCHED) == "0x00004015 holds 0x7f, expected 0xff"


def test_a_sector_that_was_touched_beside_the_image_must_be_blank(flash: Flash) -> None:
    """A device that wrote where the image has nothing is not verified."""
    beside = START + 4 * PART.sector_size
    flash.erase_sector(beside)
    flash.program(beside, bytes(4))

    assert first_difference(flash, IMAGE, TOUCHED) is None
    assert first_difference(flash, IMAGE, TOUCHED | {beside // PART.sector_size}) is not None
