"""The board as a whole, without a line: pin, reset, power, and which of bootloader and application runs."""

from typing import Final

import pytest

import fota_fixtures
from fota_protocol.formats import load
from fota_protocol.image import FirmwareImage
from fota_protocol.parts import part
from fota_simulator.board.an2295 import An2295Slave, ident_of
from fota_simulator.board.board import Changed, Condition, VirtualBoard
from fota_simulator.board.memory import BoardMemory
from fota_simulator.boot import BootPolicy
from fota_simulator.bootloader import bootloader_sectors
from fota_simulator.flash import Flash, SectorPool
from fota_simulator.flash.controller import ControlledFlash, FlashController
from fota_simulator.supply import Supply, parse_cut
from fota_transport.clock import VirtualClock

PART: Final = part("MK60DN512")
IMAGE: Final = load(fota_fixtures.path("blink_1.s19").read_bytes())
CRC: Final = fota_fixtures.fixture("blink_1.s19").image
ERASE: Final = bytes.fromhex("45 00 00 40 00 2E FF")
ERASE_BOOTLOADER: Final = bytes.fromhex("45 00 00 00 00 23 33")
QUIT: Final = bytes.fromhex("51 AB 24")
ACKED: Final = bytes.fromhex("FC CF 63")


def flash_with(image: FirmwareImage | None) -> Flash:
    """The flash of a board whose application is `image`."""
    sectors = dict(bootloader_sectors(PART))
    if image is not None:
        size = PART.sector_size
        for index in range(image.first // size, -(-image.end // size)):
            sectors[index] = image.read(index * size, (index + 1) * size)
    return Flash(PART, SectorPool(), sectors)


def make_board(
    image: FirmwareImage | None = None,
    *,
    flash: Flash | None = None,
    is_held: bool = False,
    has_pin: bool = True,
    cut: str | None = None,
    has_flash_times: bool = False,
) -> VirtualBoard:
    """A board that is off."""
    clock = VirtualClock()
    supply = Supply(None if cut is None else parse_cut(cut))
    controller = FlashController(flash_with(image) if flash is None else flash, clock, supply=supply)
    slave = An2295Slave(
        BoardMemory(controller, 0x014A), ControlledFlash(controller), ident_of(PART, 0x014A), has_pin=has_pin
    )
    return VirtualBoard(
        slave,
        controller,
        clock,
        policy=BootPolicy.AN2295,
        is_held=is_held,
        banner=lambda crc: f"up {crc}".encode(),
        has_flash_times=has_flash_times,
    )


def conditions(board: VirtualBoard) -> list[Condition]:
    """What the board began since the last time."""
    events, board.events = board.events, ()
    return [event.condition for event in events]


def banner() -> bytes:
    """What the application of IMAGE says."""
    assert CRC is not None
    return b"up %08X" % CRC.crc32


def test_released_pin_starts_the_application_at_once() -> None:
    """It says its banner with the image CRC, and hears nothing any more."""
    board = make_board(IMAGE)

    said = board.power_on(0.0)

    assert banner() == said
    assert [Condition.APPLICATION] == conditions(board)
    assert b"" == board.receive(b"\xfc", 1.0)


def test_released_pin_and_blank_application_is_a_reset_loop_until_the_pin_is_held() -> None:
    """It does not stay in its bootloader: nothing is heard of it."""
    board = make_board()
    board.power_on(0.0)
    heard = board.receive(b"\xfcI", 1.0)

    board.hold(2.0)

    assert b"" == heard
    assert [Condition.RESET_LOOP, Condition.BOOTLOADER] == conditions(board)
    assert board.deadline == pytest.approx(2.16)


def test_pressed_pin_counts_for_one_reset() -> None:
    """After the quit of a programmer the application starts, as SW1 was let go."""
    board = make_board(IMAGE)
    board.power_on(0.0, pressing=True)
    board.receive(b"\xfc", 0.2)

    acked = board.receive(QUIT, 0.3)
    said = board.timeout(0.3)

    assert (ACKED, banner()) == (acked, said)
    assert [Condition.BOOTLOADER, Condition.APPLICATION] == conditions(board)


def test_held_pin_comes_back_to_the_bootloader() -> None:
    """Until it is let go."""
    board = make_board(IMAGE, is_held=True)
    board.power_on(0.0)
    board.receive(b"\xfc" + QUIT, 0.2)
    board.timeout(0.2)
    board.release()

    board.reset(1.0)

    assert [Condition.BOOTLOADER, Condition.BOOTLOADER, Condition.APPLICATION] == conditions(board)


def test_reset_in_the_middle_of_a_request_forgets_it() -> None:
    """The next hook finds a board that waits for nothing."""
    board = make_board(is_held=True)
    board.power_on(0.0)
    board.receive(b"\xfc" + ERASE[:3], 0.2)

    board.reset(1.0)

    assert b"\xfc" + ACKED == board.receive(b"\xfc" + ERASE, 1.2)


def test_bootloader_without_a_pin_runs_and_leaves_by_its_time_out() -> None:
    """After ten seconds, for an application that has an NMI vector."""
    board = make_board(IMAGE, has_pin=False)
    board.power_on(0.0)

    said = b""
    while board.condition is Condition.BOOTLOADER:
        deadline = board.deadline
        assert deadline is not None
        said += board.timeout(deadline)

    assert 10.0 == deadline
    assert b"\xfc" * 31 + banner() == said


def test_application_that_cannot_run_brings_a_board_without_a_pin_back_to_its_bootloader() -> None:
    """A fault of a core without handlers is a reset."""
    flash = flash_with(None)
    flash.program(0x4008, b"\x01\x40\x00\x00")
    board = make_board(flash=flash, has_pin=False)
    board.power_on(0.0)

    board.timeout(10.0)
    board.timeout(10.0)

    assert [Condition.BOOTLOADER, Condition.BOOTLOADER] == conditions(board)


def test_bootloader_that_was_erased_works_until_the_next_reset() -> None:
    """Then it is gone, whatever the pin says."""
    board = make_board(IMAGE, is_held=True)
    board.power_on(0.0)

    erased = board.receive(b"\xfc" + ERASE_BOOTLOADER, 0.2)
    still = board.receive(b"\xfc", 0.3)
    board.receive(QUIT, 0.4)
    board.timeout(0.4)
    board.reset(1.0)

    assert (b"\xfc" + ACKED, b"\xfc") == (erased, still)
    assert [Condition.BOOTLOADER, Condition.BRICKED, Condition.BRICKED] == conditions(board)
    assert b"" == board.receive(b"\xfcI", 2.0)


def test_board_without_a_bootloader_is_dead_from_the_start() -> None:
    """A flash file whose first vectors are blank was left by somebody who erased them."""
    flash = flash_with(IMAGE)
    flash.erase_sector(0)
    board = make_board(flash=flash, is_held=True)

    board.power_on(0.0)

    assert [Condition.BRICKED] == conditions(board)


def test_configuration_field_may_change_under_the_bootloader() -> None:
    """It is looked at by the part, and not run."""
    flash = flash_with(None)
    board = make_board(flash=flash, is_held=True)
    flash.program(0x408, b"\xfe\xff\xff\xff")

    board.power_on(0.0)

    assert [Condition.BOOTLOADER] == conditions(board)


def test_board_without_power_does_nothing() -> None:
    """No reset, no byte, no deadline."""
    board = make_board(is_held=True)
    board.power_on(0.0)
    board.power_off(1.0)

    heard = (board.reset(2.0), board.receive(b"\xfc", 2.0), board.deadline)

    assert (b"", b"", None) == heard
    assert [Condition.BOOTLOADER, Condition.OFF] == conditions(board)


def test_power_that_fails_at_a_flash_command_is_back_a_second_later() -> None:
    """The answer never comes; then the board announces itself as ever."""
    board = make_board(IMAGE, is_held=True, cut="command:1:torn")
    board.power_on(0.0)

    answer = board.receive(b"\xfc" + ERASE, 0.5)
    back_at = board.deadline
    board.timeout(1.5)

    assert (b"", 1.5) == (answer, back_at)
    assert [Condition.BOOTLOADER, Condition.OFF, Condition.BOOTLOADER] == conditions(board)
    assert board.deadline == pytest.approx(1.66)


@pytest.mark.parametrize(("has_flash_times", "ready_at"), [(False, 1.0), (True, 1.014)])
def test_answer_waits_for_the_flash_where_its_times_count(has_flash_times: bool, ready_at: float) -> None:
    """An erase takes 14 ms."""
    board = make_board(is_held=True, has_flash_times=has_flash_times)
    board.power_on(0.0)
    board.receive(b"\xfc", 0.5)

    board.receive(ERASE, 1.0)

    assert board.ready_at == pytest.approx(ready_at)


def test_request_that_comes_while_the_flash_is_at_work_waits_for_it() -> None:
    """Two erases take 28 ms, however close they come."""
    board = make_board(is_held=True, has_flash_times=True)
    board.power_on(0.0)
    board.receive(b"\xfc" + ERASE, 1.0)

    board.receive(ERASE, 1.001)

    assert board.ready_at == pytest.approx(1.028)


def test_changes_say_what_runs() -> None:
    """The event of an application has its CRC."""
    board = make_board(IMAGE)
    board.power_on(0.0)

    assert (Changed(Condition.APPLICATION, banner()[3:].decode()),) == board.events
