"""The flash configuration field: what its bytes mean, bit by bit."""

import pytest

from fota_protocol.parts import PARTS, Part
from fota_simulator.bootloader import bootloader_sectors
from fota_simulator.flash.configuration import (
    DEVELOPMENT_FIELD,
    FIELD_SIZE,
    FSEC_ADDRESS,
    Debugging,
    FlashConfiguration,
    locks_for_ever,
    protecting_field,
)


def test_field_is_read_byte_by_byte() -> None:
    """Eight bytes of key, FPROT with the lowest regions first, FSEC, FOPT, and two that are of no use here."""
    found = FlashConfiguration.decode(bytes.fromhex("0011223344556677 01020480 fe 3b ffff"))

    assert FlashConfiguration(fprot=0x8004_0201, fsec=0xFE, fopt=0x3B) == found


@pytest.mark.parametrize("size", [0, FIELD_SIZE - 1, FIELD_SIZE + 1])
def test_field_of_another_size_is_misuse(size: int) -> None:
    """It says how many bytes there were."""
    with pytest.raises(ValueError, match=f"{size} bytes, expected the 16"):
        FlashConfiguration.decode(bytes(size))


@pytest.mark.parametrize("fsec", range(256))
def test_fsec_says_who_may_look(fsec: int) -> None:
    """SEC 10 alone is unsecured; a secured part with MEEN 10 is lost; KEYEN 10 alone takes the backdoor key."""
    configuration = FlashConfiguration(0, fsec, 0)
    keyen, meen, _, sec = (fsec >> shift & 3 for shift in (6, 4, 2, 0))

    if sec == 2:
        expected = Debugging.OPEN
    elif meen == 2:
        expected = Debugging.LOST
    else:
        expected = Debugging.MASS_ERASE
    assert expected is configuration.debugging
    assert (sec != 2, meen != 2, keyen == 2) == (
        configuration.secured,
        configuration.mass_erase_enabled,
        configuration.backdoor_enabled,
    )
    assert (expected is Debugging.LOST) == locks_for_ever(fsec)


def test_erased_flash_is_secured_and_can_be_erased() -> None:
    """A part as it comes from the factory, or from a mass erase that nothing followed."""
    assert Debugging.MASS_ERASE is FlashConfiguration.decode(b"\xff" * 16).debugging


def test_development_field_protects_and_secures_nothing() -> None:
    """FE at 0x40C, 3B at 0x40D, as in the AN2295 bootloader's own image."""
    found = FlashConfiguration.decode(DEVELOPMENT_FIELD)

    assert FlashConfiguration(0xFFFF_FFFF, 0xFE, 0x3B) == found
    assert 0x40C == FSEC_ADDRESS
    assert Debugging.OPEN is found.debugging


@pytest.mark.parametrize("region", [0, 1, 15, 31])
@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_region_is_a_thirty_second_of_the_flash(part: Part, region: int) -> None:
    """Its first and its last byte are protected, the bytes beside it are not, and a range over it is."""
    size = part.flash_size // 32
    start, end = region * size, (region + 1) * size
    configuration = FlashConfiguration(0xFFFF_FFFF ^ 1 << region, 0xFE, 0xFF)

    assert configuration.protects(part, start, start + 1)
    assert configuration.protects(part, end - 1, end)
    assert configuration.protects(part, 0, part.flash_end)
    assert not configuration.protects(part, start, start)
    assert not start or not configuration.protects(part, 0, start)
    assert end == part.flash_end or not configuration.protects(part, end, part.flash_end)


def test_field_that_protects_the_bootloader_is_fe_at_0x408() -> None:
    """Where the bootloader is a whole region; everything else is as in the development field."""
    field = protecting_field(PARTS["MK60DN512"], 0, 0x4000)

    assert bytes.fromhex("ffffffffffffffff feffffff fe3bffff") == field


def test_field_protects_as_many_regions_as_asked_for() -> None:
    """And no other."""
    part = PARTS["MK60FN1M0"]
    found = FlashConfiguration.decode(protecting_field(part, 0x8000, 0x18000))

    assert 0xFFFF_FFF9 == found.fprot


def test_bootloader_that_is_half_a_region_cannot_be_protected_alone() -> None:
    """The larger part has regions of 32 KiB; the error says so."""
    with pytest.raises(ValueError, match="MK60FN1M0 has regions of 32768 bytes"):
        protecting_field(PARTS["MK60FN1M0"], 0, 0x4000)


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_new_devices_have_the_field_in_their_bootloader(part: Part) -> None:
    """At 0x400, and nothing but it differs from a bootloader with another field."""
    ordinary, secured = bootloader_sectors(part), bootloader_sectors(part, b"\xff" * 12 + b"\xff\x3b\xff\xff")
    content, other = (b"".join(sectors.values()) for sectors in (ordinary, secured))

    assert DEVELOPMENT_FIELD == content[0x400:0x410]
    assert [0x40C] == [i for i, (a, b) in enumerate(zip(content, other, strict=True)) if a != b]
