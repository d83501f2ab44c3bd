"""A board on a line, in virtual time: how long sessions take, what the plug does, and orders."""

from collections.abc import Callable
from typing import Final

import pytest

from fota_protocol.an2295 import with_crc
from fota_protocol.parts import part
from fota_simulator.board.an2295 import An2295Slave, ident_of
from fota_simulator.board.board import Changed, Condition, VirtualBoard
from fota_simulator.board.control import Order, Unplug
from fota_simulator.board.memory import BoardMemory
from fota_simulator.board.serial_line import UnplugPlan, parse_faults
from fota_simulator.board.wired import LineSettings, Plugged, WiredBoard
from fota_simulator.boot import BootPolicy
from fota_simulator.bootloader import bootloader_sectors
from fota_simulator.flash import Flash, SectorPool
from fota_simulator.flash.controller import ControlledFlash, FlashController
from fota_transport.clock import VirtualClock
from fota_transport.trace import Direction, Trace

PART: Final = part("MK60DN512")
ERASE: Final = bytes.fromhex("45 00 00 40 00 2E FF")
READ: Final = bytes.fromhex("52 00 00 40 00 80 79 E1")
ACKED: Final = bytes.fromhex("FC CF 63")


class Bench:
    """A held board on a line, and a host whose time is virtual. `naps` makes it oversleep."""

    def __init__(self, settings: LineSettings, naps: Callable[[], float] = lambda: 0.0) -> None:
        flash_clock = VirtualClock()
        controller = FlashController(Flash(PART, SectorPool(), bootloader_sectors(PART)), flash_clock)
        memory = BoardMemory(controller, 0x014A)
        slave = An2295Slave(memory, ControlledFlash(controller), ident_of(PART, 0x014A))
        board = VirtualBoard(slave, controller, flash_clock, policy=BootPolicy.AN2295, is_held=True)
        self.now = 100.0
        self.trace = Trace(self.now)
        self.wired = WiredBoard(board, settings, self.trace)
        self.naps = naps
        self.wired.power_on(self.now)

    def heard(self, size: int, until: float = 1e9) -> bytes:
        """What the host is handed next, until it has so many bytes or it is late."""
        out = self.wired.advance(self.now)
        while len(out) < size and (due := self.wired.due) is not None and due <= until:
            self.now = max(self.now, due) + self.naps()
            out += self.wired.advance(self.now)
        return out

    def asked(self, data: bytes, size: int) -> bytes:
        """Write, and wait for so many bytes."""
        self.wired.host_wrote(data, self.now)
        return self.heard(size)

    def conditions(self) -> list[Condition | bool]:
        """What happened since the last time: what the board began, whether the plug is in."""
        events, self.wired.events = self.wired.events, ()
        return [event.condition if isinstance(event, Changed) else event.is_in for event in events]


@pytest.mark.parametrize("baud", [9600, 115_200])
@pytest.mark.parametrize("nap_s", [0.0, 0.0007])
def test_session_takes_the_time_of_its_bytes(baud: int, nap_s: float) -> None:
    """A hundred erases and reads, both ways, one after the other: within 2 %, however the owner's naps are."""
    bench = Bench(LineSettings(baud=baud, app_baud=baud), lambda: nap_s)
    bench.asked(b"\xfc", 1)
    began, before = bench.now, bench.wired.passed

    for _ in range(100):
        assert ACKED == bench.asked(ERASE, 3)
        assert 130 == len(bench.asked(READ, 130))

    bits = 10 * (bench.wired.passed - before)
    assert 14_800 * 10 == bits
    assert bench.now - began == pytest.approx(bits / baud, rel=0.02)


def test_instant_line_takes_no_time() -> None:
    """The answer is there when the request is."""
    bench = Bench(LineSettings())
    bench.asked(b"\xfc", 1)

    bench.asked(READ, 130)

    assert 100.0 == bench.now


def test_host_that_writes_a_lot_has_to_wait() -> None:
    """A line that takes a second for 960 bytes does not take more than a driver keeps."""
    bench = Bench(LineSettings(baud=9600))
    bench.wired.host_wrote(b"\xfc" * 4096, bench.now)

    could, heard = bench.wired.can_take, bench.heard(4096)

    assert (False, True) == (could, bench.wired.can_take)
    assert b"\xfc" * 4096 == heard


def test_pulled_plug_loses_everything_from_the_byte_that_was_named() -> None:
    """All before it passed; the board goes on, and with the plug back, the rest makes its request whole."""
    bench = Bench(LineSettings(unplug=UnplugPlan(byte=8, replug_after_s=2.0)))
    hooked = bench.asked(b"\xfc", 1)

    bench.wired.host_wrote(ERASE, bench.now)
    lost = bench.heard(3, until=bench.now + 1.0)
    bench.wired.host_wrote(ERASE, bench.now)
    pulled = bench.conditions()
    bench.heard(1, until=bench.now + 2.0)
    answered = bench.asked(ERASE[5:], 3)

    assert (b"\xfc", b"", ACKED) == (hooked, lost, answered)
    assert ([Condition.BOOTLOADER, False], [True]) == (pulled, bench.conditions())


def test_plug_may_be_pulled_in_the_middle_of_an_answer() -> None:
    """The host gets what passed of it."""
    bench = Bench(LineSettings(unplug=UnplugPlan(byte=111, replug_after_s=None)))
    bench.asked(b"\xfc", 1)

    assert bytes(100) != bench.asked(READ, 100)
    assert 110 == bench.wired.passed
    assert [Condition.BOOTLOADER, False] == bench.conditions()
    assert b"" == bench.heard(1, until=bench.now + 1000.0)


def test_answer_that_the_plug_cut_off_is_not_heard_later() -> None:
    """With the plug back, the line begins anew."""
    bench = Bench(LineSettings(baud=9600))
    bench.asked(b"\xfc", 1)
    bench.asked(READ, 30)

    bench.wired.obey(Unplug(0.01), bench.now)
    late = bench.heard(1, until=bench.now + 10.0)

    assert b"" == late
    assert ACKED == bench.asked(ERASE, 3)


def test_host_has_to_wait_for_a_board_that_has_much_to_say() -> None:
    """Requests that make thirty times as many bytes of answers fill no memory, and all are answered."""
    greedy = with_crc(bytes.fromhex("52 00 00 40 00 FF"))
    bench = Bench(LineSettings(baud=9600))
    bench.asked(b"\xfc", 1)
    bench.wired.host_wrote(greedy * 512, bench.now)

    heard = b""
    for _ in range(45):  # 0.1 s each: until all requests could be through
        bench.now += 0.1
        heard += bench.wired.advance(bench.now)
    could = bench.wired.can_take
    heard += bench.heard(512 * 257 - len(heard))

    assert not could
    assert 512 * 257 == len(heard)


def test_board_that_lives_off_its_plug_starts_anew_with_it() -> None:
    """As a tower board behind its USB debugger does."""
    bench = Bench(LineSettings(is_usb_powered=True))
    bench.asked(b"\xfc", 1)

    bench.wired.obey(Unplug(2.0), bench.now)
    announced = bench.heard(1)

    assert b"\xfc" == announced
    assert bench.now == pytest.approx(102.16)
    assert [Condition.BOOTLOADER, False, Condition.OFF, True, Condition.BOOTLOADER] == bench.conditions()


def test_faults_of_the_line_are_what_board_and_host_see() -> None:
    """A byte dropped on its way in makes a request swallow the next; one doubled on its way out comes twice."""
    bench = Bench(LineSettings(faults=parse_faults("in:drop@3,out:double@1")))

    hooked = bench.asked(b"\xfc", 2)
    bench.wired.host_wrote(ERASE, bench.now)
    waiting = bench.heard(3, until=bench.now + 1.0)
    refused = bench.asked(b"\xfc", 3)

    assert (b"\xfc\xfc", b"", bytes.fromhex("03 D1 93")) == (hooked, waiting, refused)
    assert 2 == bench.wired.faults


def test_garbled_line_gives_no_sense() -> None:
    """As many bytes, and others."""
    bench = Bench(LineSettings(seed=5))
    bench.asked(b"\xfc", 1)
    bench.wired.is_garbled = True

    bench.wired.host_wrote(b"\xfc" * 16, bench.now)
    bench.wired.is_garbled = False

    assert b"\xfc" * 16 != bench.heard(16, until=bench.now)


@pytest.mark.parametrize(
    ("orders", "expected"),
    [
        ([Order.RESET], [Condition.BOOTLOADER]),
        ([Order.RELEASE, Order.RESET], [Condition.RESET_LOOP]),
        ([Order.RESTART], [Condition.OFF, Condition.RESET_LOOP]),
        ([Order.RESTART, Order.ENTER], [Condition.OFF, Condition.RESET_LOOP, Condition.BOOTLOADER]),
        ([Order.RESTART, Order.HOLD], [Condition.OFF, Condition.RESET_LOOP, Condition.BOOTLOADER]),
        ([Order.POWER_OFF, Order.RESET, Order.POWER_ON], [Condition.OFF, Condition.BOOTLOADER]),
        ([Order.POWER_CYCLE], [Condition.OFF, Condition.BOOTLOADER]),
        ([Unplug(), Order.PLUG, Order.PLUG], [False, True]),
    ],
)
def test_orders_do_what_they_say(orders: list[Order | Unplug], expected: list[Condition | bool]) -> None:
    """One after the other, to a board without an application."""
    bench = Bench(LineSettings())
    bench.conditions()

    for order in orders:
        bench.wired.obey(order, bench.now)

    assert expected == bench.conditions()


def test_reset_cuts_an_answer_that_is_under_way() -> None:
    """What was still in the UART is lost."""
    bench = Bench(LineSettings(baud=9600))
    bench.asked(b"\xfc", 1)
    bench.wired.host_wrote(READ, bench.now)
    heard = bench.heard(30)

    bench.wired.obey(Order.RESET, bench.now)
    rest = bench.heard(1)

    assert 30 <= len(heard) < 130
    assert b"\xfc" == rest


def test_trace_has_both_directions_as_the_host_saw_them() -> None:
    """With the moments of its clock."""
    bench = Bench(LineSettings())
    bench.asked(b"\xfc", 1)

    bench.asked(ERASE, 3)

    assert [
        (Direction.RECEIVED, b"\xfc"),
        (Direction.SENT, b"\xfc"),
        (Direction.RECEIVED, ERASE),
        (Direction.SENT, ACKED),
    ] == [(entry.direction, entry.data) for entry in bench.trace]


def test_plug_has_its_event() -> None:
    """In the order in which things happen."""
    bench = Bench(LineSettings())

    bench.wired.obey(Unplug(), bench.now)

    assert (Changed(Condition.BOOTLOADER), Plugged(False)) == bench.wired.events
