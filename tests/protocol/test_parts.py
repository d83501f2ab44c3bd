"""The parts that are known."""

import dataclasses

import pytest

from fota_protocol.errors import UnknownPartError
from fota_protocol.parts import DEFAULT_PART, PARTS, Part, part


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("MK60DN512", "MK60DN512"),
        ("mk60dn512", "MK60DN512"),
        ("TWR-K60N512", "MK60DN512"),
        ("TWR-K60D100M", "MK60DN512"),
        ("MK60FN1M0", "MK60FN1M0"),
        ("twr-k60f120m", "MK60FN1M0"),
    ],
)
def test_a_part_is_found_by_its_name_and_by_its_boards(name: str, expected: str) -> None:
    """Either case of either name will do."""
    assert expected == part(name).name


def test_an_unknown_part_is_answered_with_those_that_are_known() -> None:
    """The message lists every part and board."""
    with pytest.raises(UnknownPartError) as caught:
        part("MKL26Z128")

    message = str(caught.value)
    assert "'MKL26Z128'" in message
    assert all(name in message for known in PARTS.values() for name in (known.name, *known.boards))


@pytest.mark.parametrize("known", PARTS.values(), ids=PARTS)
def test_the_memories_of_a_part_make_sense(known: Part) -> None:
    """What the flash and the checks take for granted: powers of two that divide one another, and room for both
    images.
    """
    sizes = (known.program_unit, known.sector_size, known.protection_region, known.flash_size)

    assert all(size.bit_count() == 1 for size in sizes)
    assert sorted(sizes) == list(sizes)
    assert {"FTFL": 4, "FTFE": 8}[known.flash_module] == known.program_unit
    assert 0 < known.application_start < known.flash_end <= known.ram_start < known.ram_end


def test_the_default_part_is_known() -> None:
    """The name without which nothing starts."""
    assert part(DEFAULT_PART).name == DEFAULT_PART


@pytest.mark.parametrize("change", [{"application_start": 0x4001}, {"flash_size": 512 * 1024 + 4}])
def test_a_region_that_cuts_a_sector_is_refused(change: dict[str, int]) -> None:
    """A sector is erased whole: what shares one would be lost."""
    with pytest.raises(ValueError, match="whole sectors"):
        dataclasses.replace(part(DEFAULT_PART), **change)  # type: ignore[arg-type]  # an int for an int


def test_a_flash_of_half_a_block_is_refused() -> None:
    """Blocks are arrays of their own, all of one size."""
    with pytest.raises(ValueError, match="whole blocks"):
        dataclasses.replace(part(DEFAULT_PART), flash_size=384 * 1024)
