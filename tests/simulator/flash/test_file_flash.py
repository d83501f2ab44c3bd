"""The flash in a file: the file is the flash, after every command and in the next process."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import fota_fixtures
from fota_protocol.errors import RecordRejected, Rejection
from fota_protocol.formats import load
from fota_protocol.parts import PARTS, Part
from fota_simulator.boot import BootPolicy, would_start
from fota_simulator.bootloader import Bootloader, bootloader_sectors
from fota_simulator.errors import FlashError, FlashFileError
from fota_simulator.flash import Flash, SectorPool
from fota_simulator.flash.file_flash import FileFlash

PART = PARTS["MK60DN512"]
SECTOR = PART.sector_size
START = PART.application_start


def opened(path: Path, part: Part = PART) -> FileFlash:
    """The flash in `path`, as a device has it."""
    return FileFlash.open(path, part, SectorPool(), bootloader_sectors(part))


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_file_that_is_not_there_is_made_as_a_new_device(tmp_path: Path, part: Part) -> None:
    """The bootloader's sectors and FF behind them; nothing else is left in the folder."""
    path = tmp_path / "flash.bin"

    flash = opened(path, part)
    flash.close()

    new = Flash(part, SectorPool(), bootloader_sectors(part)).read(0, part.flash_end)
    assert new == path.read_bytes()
    assert new == flash.read(0, part.flash_end)
    assert [path] == list(tmp_path.iterdir())


commands = st.lists(
    st.one_of(
        st.tuples(st.just("erase"), st.integers(0, 3 * SECTOR // 4), st.just(b"")),
        st.tuples(
            st.just("program"),
            st.integers(0, 3 * SECTOR // 4),
            st.integers(1, 70).flatmap(lambda units: st.binary(min_size=4 * units, max_size=4 * units)),
        ),
        st.tuples(st.just("go on"), st.just(0), st.binary(min_size=16, max_size=16)),
        st.tuples(st.just("read"), st.integers(0, 3 * SECTOR // 4), st.just(b"")),
    ),
    max_size=20,
)


@given(commands)
def test_file_holds_what_the_flash_reads_after_every_command(steps: list[tuple[str, int, bytes]]) -> None:
    """Erased, programmed in any order, twice, or refused: a process killed between two commands loses nothing."""
    first = PART.flash_end - 3 * SECTOR  # the last sectors, so that commands also leave the flash
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "flash.bin"
        flash = opened(path)
        behind = first
        for what, unit, data in steps:
            address = behind if what == "go on" else first + 4 * unit
            try:
                match what:
                    case "erase":
                        flash.erase_sector(address)
                        behind = address - address % SECTOR
                    case "program" | "go on":
                        flash.program(address, data)
                        behind = address + len(data)
                    case _:
                        flash.read(address, address + 1)
            except FlashError:
                pass  # across a sector, or outside

            assert path.read_bytes() == flash.read(0, PART.flash_end)
        flash.close()
        again = opened(path)
        again.close()

        assert flash.read(0, PART.flash_end) == again.read(0, PART.flash_end)


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_next_process_goes_on_with_the_flash(tmp_path: Path, part: Part) -> None:
    """Half an update, a power cut, and a whole update with another flash object on the same file."""
    image = load(fota_fixtures.read("descending.s19"))
    path = tmp_path / "flash.bin"
    cut = opened(path, part)
    half = Bootloader(cut, BootPolicy.SEALED)
    for record in image.records[: len(image.records) // 2]:
        half.write(record)
    cut.close()

    flash = opened(path, part)
    before = would_start(flash, BootPolicy.SEALED)
    whole = Bootloader(flash, BootPolicy.SEALED)
    for record in image.records:
        whole.write(record)
    whole.finish("1")
    flash.close()

    after = opened(path, part)
    after.close()
    assert not before
    assert would_start(after, BootPolicy.SEALED)
    assert path.read_bytes()[image.first : image.end] == image.read(image.first, image.end)


@pytest.mark.parametrize(("size", "found"), [(0, "0 bytes"), (PART.flash_size - 1, "524287 bytes")])
def test_file_of_another_size_is_no_flash(tmp_path: Path, size: int, found: str) -> None:
    """It is named, with its size and the one expected, and stays as it is."""
    path = tmp_path / "flash.bin"
    path.write_bytes(bytes(size))

    with pytest.raises(FlashFileError, match=f"{found}, expected a file of 524288 bytes") as caught:
        opened(path)

    assert (path, PART.flash_size) == (caught.value.path, caught.value.expected_size)
    assert bytes(size) == path.read_bytes()


@pytest.mark.parametrize("name", [".", "no/such/folder.bin"])
def test_place_where_no_file_can_be_is_no_flash(tmp_path: Path, name: str) -> None:
    """A folder, or a folder that is not there."""
    with pytest.raises(FlashFileError, match="expected a file of 524288 bytes"):
        opened(tmp_path / name)


def test_file_that_takes_nothing_is_a_flash_error(tmp_path: Path) -> None:
    """A record that did not reach the file is not acked."""
    path = tmp_path / "flash.bin"
    opened(path).close()
    with path.open("rb", buffering=0) as file:
        bootloader = Bootloader(FileFlash(PART, SectorPool(), file), BootPolicy.AN2295)

        with pytest.raises(RecordRejected) as caught:
            bootloader.write(load(fota_fixtures.read("blink_1.s19")).records[0])

    assert Rejection.FLASH is caught.value.reason
