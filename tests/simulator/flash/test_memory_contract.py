"""What a bootloader knows of flash: one contract for the array, the file and the controllers, and equal updates."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

import pytest

import fota_fixtures
from fota_protocol.formats import load
from fota_protocol.parts import PARTS, Part
from fota_simulator.boot import BootPolicy, ProgrammingOrder
from fota_simulator.bootloader import Bootloader, bootloader_sectors
from fota_simulator.errors import FlashError, PowerLost
from fota_simulator.flash import Flash, FlashMemory, SectorPool
from fota_simulator.flash.controller import ControlledFlash, FlashController
from fota_simulator.flash.faults import FlashFaults
from fota_simulator.flash.file_flash import FileFlash
from fota_simulator.supply import CommandCut, CutMode, Supply
from fota_transport.clock import VirtualClock

PLACE: Final = 0x8000
"""The start of a sector of both parts."""

Make = Callable[[Part, Path], FlashMemory]


def controller_over(array: Flash) -> FlashController:
    """A good controller, whose configuration protects nothing."""
    return FlashController(array, VirtualClock())


KINDS: Final[Mapping[str, Make]] = {
    "array": lambda part, _: Flash(part, SectorPool()),
    "file": lambda part, folder: FileFlash.open(folder / "flash.bin", part, SectorPool(), {}),
    "controller": lambda part, _: ControlledFlash(controller_over(Flash(part, SectorPool()))),
}


@pytest.fixture(
    params=[(kind, part) for kind in KINDS for part in PARTS.values()],
    ids=[f"{kind}-{name}" for kind in KINDS for name in PARTS],
)
def flash(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FlashMemory]:
    """A blank flash of every kind and part."""
    kind, part = request.param
    made = KINDS[kind](part, tmp_path)
    yield made
    if isinstance(made, FileFlash):
        made.close()


def test_programmed_bytes_are_read_and_nothing_else_has_changed(flash: FlashMemory) -> None:
    """In memory order, at both ends of the flash and of its blocks, one unit or several."""
    part, unit = flash.part, flash.part.program_unit
    expected = bytearray(b"\xff" * part.flash_end)
    pieces = {
        0: bytes(range(unit)),
        PLACE + unit: bytes(range(7 * unit)),
        part.block_size - unit: b"\x5a" * unit,
        part.block_size: bytes(range(256))[::-1],
        part.flash_end - unit: bytes(range(unit, 2 * unit)),
    }
    for address, data in pieces.items():
        flash.program(address, data)
        expected[address : address + len(data)] = data

    assert bytes(expected) == flash.read(0, part.flash_end)


@pytest.mark.parametrize("within", [0, 1, -1])
def test_erasing_takes_the_sector_that_holds_the_address(flash: FlashMemory, within: int) -> None:
    """Named by any of its addresses; the sectors beside it keep their bytes."""
    sector = flash.part.sector_size
    for start in (PLACE - sector, PLACE, PLACE + sector):
        flash.program(start, bytes(sector))

    flash.erase_sector(PLACE + within % sector)

    assert bytes(sector) + b"\xff" * sector + bytes(sector) == flash.read(PLACE - sector, PLACE + 2 * sector)


def test_sector_can_be_programmed_again_once_erased(flash: FlashMemory) -> None:
    """The first and the last, too."""
    part = flash.part
    for start in (0, PLACE, part.flash_end - part.sector_size):
        flash.program(start, bytes(part.program_unit))
        flash.erase_sector(start)
        flash.program(start, b"\x77" * part.program_unit)

        assert b"\x77" * part.program_unit + b"\xff" == flash.read(start, start + part.program_unit + 1)


def test_reads_may_start_and_end_anywhere(flash: FlashMemory) -> None:
    """Over sectors and blocks, down to one byte."""
    border = flash.part.block_size
    flash.program(border - 8, bytes(range(8)))
    flash.program(border, bytes(range(8, 16)))

    assert bytes(range(3, 13)) == flash.read(border - 5, border + 5)
    assert b"\x07" == flash.read(border - 1, border)


Misuse = Callable[[FlashMemory], object]

MISUSES: Final[Mapping[str, Misuse]] = {
    "read below": lambda f: f.read(-1, 4),
    "read behind": lambda f: f.read(f.part.flash_end - 1, f.part.flash_end + 1),
    "read nothing": lambda f: f.read(PLACE, PLACE),
    "read backwards": lambda f: f.read(PLACE, PLACE - 4),
    "erase below": lambda f: f.erase_sector(-1),
    "erase behind": lambda f: f.erase_sector(f.part.flash_end),
    "erase far behind": lambda f: f.erase_sector(0x100_8000),
    "erase far below": lambda f: f.erase_sector(0x8000 - 0x100_0000),
    "program below": lambda f: f.program(-f.part.program_unit, bytes(f.part.program_unit)),
    "program behind": lambda f: f.program(f.part.flash_end, bytes(f.part.program_unit)),
    "program over the end": lambda f: f.program(f.part.flash_end - f.part.program_unit, bytes(2 * f.part.program_unit)),
    "program far behind": lambda f: f.program(0x100_8000, bytes(f.part.program_unit)),
    "program between units": lambda f: f.program(PLACE + f.part.program_unit // 2, bytes(f.part.program_unit)),
    "program half a unit": lambda f: f.program(PLACE, bytes(f.part.program_unit // 2)),
    "program a unit and a byte": lambda f: f.program(PLACE, bytes(f.part.program_unit + 1)),
    "program across a sector": lambda f: f.program(PLACE - f.part.program_unit, bytes(2 * f.part.program_unit)),
}
"""What no flash does, by what is wrong with it."""


@pytest.mark.parametrize("misuse", MISUSES.values(), ids=MISUSES)
def test_what_cannot_be_done_is_an_error_and_changes_nothing(flash: FlashMemory, misuse: Misuse) -> None:
    """Outside, misaligned, or across a sector: a `FlashError`, and the flash works on."""
    part = flash.part
    flash.program(PLACE, b"\x12" * part.program_unit)
    before = flash.read(0, part.flash_end)

    with pytest.raises(FlashError):
        misuse(flash)

    assert before == flash.read(0, part.flash_end)
    flash.erase_sector(PLACE)
    assert b"\xff" * part.flash_end == flash.read(0, part.flash_end)


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_file_behind_a_controller_is_what_is_left_of_a_torn_command(tmp_path: Path, part: Part, number: int) -> None:
    """With a bit that is stuck elsewhere: the next process finds what the power cut left."""
    path = tmp_path / "flash.bin"
    faults = FlashFaults(stuck_at_0={PLACE + 9: 0x40})
    with contextlib.closing(FileFlash.open(path, part, SectorPool(), {})) as file:
        supply = Supply(CommandCut(number, CutMode.TORN))
        flash = ControlledFlash(FlashController(file, VirtualClock(), supply=supply, faults=faults))
        with pytest.raises(PowerLost):
            flash.program(PLACE + part.sector_size, bytes(4 * part.program_unit))

        left = file.read(0, part.flash_end)

    assert left == path.read_bytes()
    assert b"\xbf" == left[PLACE + 9 : PLACE + 10]
    assert left.count(0) < 4 * part.program_unit


def update(flash: FlashMemory, name: str, policy: BootPolicy, order: ProgrammingOrder) -> None:
    """One whole update with a fixture."""
    bootloader = Bootloader(flash, policy, order=order)
    for record in load(fota_fixtures.read(name)).records:
        bootloader.write(record)
    bootloader.finish("1")


@pytest.mark.parametrize("order", ProgrammingOrder)
@pytest.mark.parametrize("policy", BootPolicy)
@pytest.mark.parametrize("name", ["blink_1.s19", "unaligned.s19", "descending.s19"])
@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_update_through_the_controller_is_the_update_of_the_array(
    part: Part, name: str, policy: BootPolicy, order: ProgrammingOrder
) -> None:
    """Twice in a row: equal bytes, equal wear, and no unit programmed that was not blank."""
    plain = Flash(part, SectorPool(), bootloader_sectors(part))
    array = Flash(part, SectorPool(), bootloader_sectors(part))
    controller = controller_over(array)
    for image in ("blink_2.s19", name):
        update(plain, image, policy, order)
        update(ControlledFlash(controller), image, policy, order)

    assert plain.read(0, part.flash_end) == array.read(0, part.flash_end)
    assert plain.erase_counts == array.erase_counts
    assert 0 == controller.overprogrammed


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_updates_never_overprogram_however_often_the_mark_wraps(part: Part) -> None:
    """More updates than the sector of the mark has pairs, in strict mode."""
    array = Flash(part, SectorPool(), bootloader_sectors(part))
    flash = ControlledFlash(FlashController(array, VirtualClock(), strict=True))
    pairs = part.sector_size // (2 * part.program_unit)
    records = load(fota_fixtures.read("blink_1.s19")).records[:1]
    for _ in range(pairs + 2):
        bootloader = Bootloader(flash, BootPolicy.MARK)
        for record in records:
            bootloader.write(record)
        bootloader.finish("1")

    assert 1 == array.erase_counts[part.flash_end // part.sector_size - 1]
