"""The AN2295 slave, without a line: byte-exact replies, and the manners of the real one."""

import itertools
import random
from collections.abc import Collection
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fota_protocol.an2295 import read_ident
from fota_protocol.parts import Part, part
from fota_simulator.board.an2295 import SDIDS, An2295Slave, Quirk, ident_of
from fota_simulator.board.firmware import Leave
from fota_simulator.board.memory import BoardMemory
from fota_simulator.boot import Start
from fota_simulator.bootloader import bootloader_sectors
from fota_simulator.flash import Flash, SectorPool
from fota_simulator.flash.configuration import DEVELOPMENT_FIELD, protecting_field
from fota_simulator.flash.controller import ControlledFlash, FlashController
from fota_transport.clock import VirtualClock

FTFL: Final = part("MK60DN512")
FTFE: Final = part("MK60FN1M0")

IDENT: Final = bytes.fromhex(
    "C8 01 4A 00 00 00 01 00 00 40 00 00 07 FF FF 00 00 40 0000 00 00 00 00 00 08 00 00 00 00 80 4B 36 30 00 5A B1"
)
"""What a TWR-K60 says of itself (A9 of the facts: seen on the wire)."""

ACKED: Final = "FC CF 63"
REFUSED: Final = "03 D1 93"


def crc16(data: bytes) -> bytes:
    """CRC-16/CCITT-FALSE, bit by bit: another reading than the product's."""
    crc = 0xFFFF
    for byte in data:
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1) ^ (0x1021 if crc & 0x8000 else 0)
        crc &= 0xFFFF
    return crc.to_bytes(2, "big")


def request(text: str) -> bytes:
    """A request by its hexadecimal digits, with its CRC behind it."""
    message = bytes.fromhex(text)
    return message + crc16(message)


class Board:
    """A slave and its flash; what it answers is hexadecimal, as in the facts."""

    def __init__(
        self, flash_part: Part = FTFL, quirks: Collection[Quirk] = (), field: bytes = DEVELOPMENT_FIELD
    ) -> None:
        self.flash = Flash(flash_part, SectorPool(), bootloader_sectors(flash_part, field))
        controller = FlashController(self.flash, VirtualClock())
        sdid = SDIDS[flash_part.flash_module]
        self.slave = An2295Slave(
            BoardMemory(controller, sdid), ControlledFlash(controller), ident_of(flash_part, sdid), quirks=quirks
        )
        self.slave.start(0.0)

    def hooked(self) -> "Board":
        """The same, in its command loop."""
        self.slave.receive(b"\xfc", 0.2)
        return self

    def asked(self, data: bytes | str, now: float = 1.0) -> str:
        """What it answers to bytes."""
        raw = bytes.fromhex(data) if isinstance(data, str) else data
        return self.slave.receive(raw, now).hex(" ").upper()


def test_session_of_the_facts_is_reproduced_byte_for_byte() -> None:
    """Hook, ident, all 248 erases, write, read back and quit are those of the recorded session."""
    board = Board()
    data = bytes.fromhex("F8 FF 00 20 8D 56 00 00 71 55") + bytes(range(118))
    page = bytes.fromhex("57 00 00 40 00 80") + data

    announced = board.slave.timeout(0.16)
    hooked = board.asked("FC")
    ident = board.asked("49")
    erased = [board.asked(text) for text in ("45 00 00 40 00 2E FF", "45 00 00 48 00 A7 56", "45 00 07 F8 00 3C CB")]
    others = {board.asked(request(f"45 {address:08X}")) for address in range(0x5000, 0x7F800, 0x800)}
    written = board.asked(page + crc16(page))
    read = board.asked("52 00 00 40 00 80 79 E1")
    left = board.asked("51 AB 24")

    assert (b"\xfc", "FC", IDENT.hex(" ").upper()) == (announced, hooked, ident)
    assert [ACKED] * 3 == erased
    assert {ACKED} == others
    assert ACKED == written
    assert (data + crc16(data)).hex(" ").upper() == read
    assert (ACKED, (Leave.RESET,), None) == (left, board.slave.events, board.slave.deadline)


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        ("45 00 00 40 00 2E FE", REFUSED),  # CRC
        ("45 00 00 48 01 B7 77", REFUSED),  # unaligned
        ("45 00 08 00 00 8A 92", REFUSED),  # past the end
        ("45 00 00 48 08 26 5E", ACKED),  # inside a sector, 8-aligned
        ("57 00 00 40 00 08 00 01 02 03 04 05 06 07 7F BD", ACKED),
        ("57 00 00 40 08 08 00 01 02 03 04 05 06 07 35 F7", REFUSED),  # CRC
        ("57 00 00 40 21 04 01 02 03 04 32 0E", REFUSED),  # unaligned
        ("57 00 00 40 10 05 11 22 33 44 55 4D 70", ACKED),  # no multiple of 4
        ("52 00 00 40 00 00 E8 69", "FF FF"),  # length 0
        ("52 00 00 40 00 04 A8 EC", REFUSED),  # CRC
        ("51 AB 25", REFUSED),  # CRC
        ("00", ""),
        ("58", ""),
        ("69", ""),
        ("FC", "FC"),
        ("49", IDENT.hex(" ").upper()),
    ],
)
def test_error_table_of_the_facts_is_reproduced(asked: str, answer: str) -> None:
    """Each request gets the reply that the real bootloader's code gave, and the board stays in its loop."""
    board = Board().hooked()

    assert answer == board.asked(asked)
    assert board.slave.is_hooked


def test_write_over_what_is_not_erased_is_refused() -> None:
    """FF over other bytes changes nothing, and MGSTAT0 says that the flash does not read as was asked."""
    board = Board().hooked()
    board.asked("57 00 00 40 00 08 00 01 02 03 04 05 06 07 7F BD")

    answer = board.asked("57 00 00 40 00 04 FF FF FF FF D6 6A")

    assert REFUSED == answer
    assert bytes(range(8)) == board.flash.read(0x4000, 0x4008)


def test_odd_write_is_padded_with_ff() -> None:
    """Five bytes take two longwords."""
    board = Board().hooked()
    board.asked("57 00 00 40 10 05 11 22 33 44 55 4D 70")

    assert bytes.fromhex("11 22 33 44 55 FF FF FF") == board.flash.read(0x4010, 0x4018)


def test_announcements_come_at_160_ms_and_every_320_ms() -> None:
    """The first after half a period, then with the tick of the real one."""
    board = Board()

    moments: list[float] = []
    while len(moments) < 5:
        moment = board.slave.deadline
        assert moment is not None
        assert b"\xfc" == board.slave.timeout(moment)
        moments.append(round(moment, 6))

    assert [0.16, 0.48, 0.8, 1.12, 1.44] == moments


def test_owner_that_slept_gets_one_announcement() -> None:
    """Those that were missed are not made up for; the rhythm is kept."""
    board = Board()

    assert b"\xfc" == board.slave.timeout(2.0)
    assert board.slave.deadline == pytest.approx(2.08)


def test_junk_before_the_hook_is_ignored() -> None:
    """Only FC counts, wherever in a chunk it comes; requests before it are not heard."""
    board = Board()

    before = board.asked("00 F8 FE 49 45 00", 0.01)
    hooked = board.asked("80 FC 49", 0.02)

    assert ("", "FC " + IDENT.hex(" ").upper()) == (before, hooked)


def test_hooked_board_never_announces_itself() -> None:
    """In the command loop there is nothing that it does by itself."""
    board = Board().hooked()

    deadline = board.slave.deadline
    assert deadline is not None
    assert deadline > 1000
    assert b"" == board.slave.timeout(deadline)
    assert board.slave.is_hooked


def test_request_may_be_silent_in_its_middle() -> None:
    """There is no time-out between bytes: a day later, the rest makes it whole."""
    board = Board().hooked()

    begun = board.asked("45 00 00 40", 1.0)
    ended = board.asked("00 2E FF", 86_400.0)

    assert ("", ACKED) == (begun, ended)


def test_request_that_was_cut_short_swallows_the_next() -> None:
    """There is no resynchronisation: an ident becomes the address of an erase."""
    board = Board().hooked()

    swallowed = board.asked("45 00 00" + "49" * 4)
    answered = board.asked("49")

    assert (REFUSED, IDENT.hex(" ").upper()) == (swallowed, answered)


@given(cuts=st.lists(st.integers(1, 400), max_size=20), junk=st.binary(max_size=4))
def test_answers_do_not_depend_on_how_bytes_are_cut(cuts: list[int], junk: bytes) -> None:
    """Whole, byte by byte or at random cuts, the same bytes get the same answers."""
    noise = bytes(byte for byte in junk if byte not in b"IEWRQ")
    stream = b"\xfc" + noise + b"I" + request("45 00 00 40 00") + b"\xfc" + request("57 00 00 40 00 05 01 02 03 04 05")
    stream += request("52 00 00 40 00 09") + request("51")
    whole = Board().asked(stream)

    pieces = Board()
    positions = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    answers = [pieces.asked(stream[start:end]) for start, end in itertools.pairwise(positions)]

    assert whole == " ".join(answer for answer in answers if answer)
    assert whole.endswith(ACKED)


def test_only_24_bits_of_an_address_reach_the_flash() -> None:
    """Erasing FF004000 erases 4000."""
    board = Board().hooked()
    board.asked(request("57 00 00 40 00 04 01 02 03 04"))

    answer = board.asked(request("45 FF 00 40 00"))

    assert ACKED == answer
    assert board.flash.is_erased(0x4000, 0x4004)


def test_bootloader_can_be_told_to_erase_itself() -> None:
    """Nothing protects it in this build."""
    board = Board().hooked()

    answer = board.asked(request("45 00 00 00 00"))

    assert ACKED == answer
    assert board.flash.is_erased(0, 0x800)


def test_protected_bootloader_refuses_to_be_erased_and_written() -> None:
    """FPROT of its region: FPVIOL, so NACK; the application's flash is free."""
    board = Board(field=protecting_field(FTFL, 0, 0x4000)).hooked()
    before = board.flash.read(0, 0x4000)

    refused = [board.asked(request("45 00 00 08 00")), board.asked(request("57 00 00 04 00 04 00 00 00 00"))]
    taken = board.asked(request("45 00 00 40 00"))

    assert ([REFUSED] * 2, ACKED) == (refused, taken)
    assert before == board.flash.read(0, 0x4000)


@pytest.mark.parametrize(
    ("address", "size", "content"),
    [
        (0x0000_0408, 4, "FF FF FF FF"),  # FPROT in flash
        (0x1FFF_0000, 4, "00 00 00 00"),  # RAM
        (0x4004_8024, 4, "4A 01 00 00"),  # SIM_SDID
        (0x4002_0000, 4, "80 00 FE 3B"),  # FSTAT, FCNFG, FSEC, FOPT
        (0x0007_FFFC, 8, "FF FF FF FF 00 00 00 00"),  # over the end of the flash
        (0xFFFF_FFFE, 4, "00 00 00 00"),
    ],
)
def test_any_address_can_be_read(address: int, size: int, content: str) -> None:
    """Flash, registers that a master may want, and zeros elsewhere."""
    board = Board().hooked()

    answer = board.asked(request(f"52 {address:08X} {size:02X}"))

    assert (bytes.fromhex(content) + crc16(bytes.fromhex(content))).hex(" ").upper() == answer


def test_hook_time_out_leaves_for_the_application_where_it_has_an_nmi_vector() -> None:
    """After 10 s without a call; announced until then."""
    board = Board()
    board.flash.program(0x4008, b"\x01\x40\x00\x00")

    announced = 0
    while not board.slave.events:
        deadline = board.slave.deadline
        assert deadline is not None
        announced += len(board.slave.timeout(deadline))

    assert (Leave.APPLICATION,) == board.slave.events
    assert 31 == announced  # at 0.16 s and every 0.32 s, the last at 9.76 s


def test_board_without_an_nmi_vector_announces_itself_for_ever() -> None:
    """A blank application is never started by the hook time-out."""
    board = Board()

    announced = 0
    deadline = 0.0
    while deadline < 60.0:
        deadline = board.slave.deadline or 1e9
        announced += len(board.slave.timeout(deadline))

    assert () == board.slave.events
    assert 188 == announced


@pytest.mark.parametrize(("pin_held", "start"), [(True, Start.BOOTLOADER), (False, Start.RESET_LOOP)])
def test_pin_alone_decides_what_a_reset_leads_to(pin_held: bool, start: Start) -> None:
    """A blank application is started all the same when the pin is released."""
    assert start is Board().slave.begins_with(pin_held=pin_held)


def test_larger_part_is_programmed_by_phrases() -> None:
    """The MK60FN1M0 says 4 KiB sectors, takes pieces at multiples of 8 only, and pads to 8."""
    board = Board(FTFE).hooked()

    ident = read_ident(bytes.fromhex(board.asked("49")))
    odd = board.asked(request("57 00 00 40 04 04 01 02 03 04"))
    even = board.asked(request("57 00 00 40 08 04 01 02 03 04"))

    assert ident is not None
    assert ((0x4000, 0x10_0000),) == ident[0].blocks
    assert (0x1000, 0x01CA) == (ident[0].erase_size, ident[0].sdid)
    assert (REFUSED, ACKED) == (odd, even)
    assert bytes.fromhex("01 02 03 04 FF FF FF FF") == board.flash.read(0x4008, 0x4010)


def test_older_build_drops_the_odd_bytes_of_a_write_and_acks_it() -> None:
    """The quirk `drop-odd`: five bytes are four."""
    board = Board(quirks=[Quirk.DROP_ODD]).hooked()

    answer = board.asked("57 00 00 40 10 05 11 22 33 44 55 4D 70")

    assert ACKED == answer
    assert bytes.fromhex("11 22 33 44 FF FF FF FF") == board.flash.read(0x4010, 0x4018)


def test_older_build_says_nack_and_ack_where_the_flash_reads_otherwise() -> None:
    """The quirk `nack-then-ack`; a refusal by the controller is still one NACK."""
    board = Board(quirks=[Quirk.NACK_THEN_ACK]).hooked()
    board.asked("57 00 00 40 00 08 00 01 02 03 04 05 06 07 7F BD")

    misread = board.asked("57 00 00 40 00 04 FF FF FF FF D6 6A")
    unaligned = board.asked("57 00 00 40 21 04 01 02 03 04 32 0E")

    assert (f"{REFUSED} {ACKED}", REFUSED) == (misread, unaligned)


def test_older_build_resets_at_junk_in_the_hook_phase() -> None:
    """The quirk `reset-on-junk`; in the command loop, junk is dropped as ever."""
    hooking, hooked = (Board(quirks=[Quirk.RESET_ON_JUNK]) for _ in range(2))
    hooked.hooked()

    hooking.asked("F8 FC")
    hooked.asked("F8")

    assert ((Leave.RESET,), False) == (hooking.slave.events, hooking.slave.is_hooked)
    assert ((), True) == (hooked.slave.events, hooked.slave.is_hooked)


def test_garbage_neither_stops_the_slave_nor_fills_it() -> None:
    """After 100 kB of noise, hooks get it out of whatever it waits for, and it answers."""
    board = Board().hooked()
    dice = random.Random(2295)
    board.asked(dice.randbytes(100_000).replace(b"Q", b"q"))

    board.asked(b"\xfc" * 300)

    assert board.asked("FC 49").endswith(IDENT.hex(" ").upper())
