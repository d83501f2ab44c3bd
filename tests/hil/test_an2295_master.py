"""The master against a board that is played from a script: a recorded session, every error, and getting into step.

Time is virtual: a wait that finds nothing moves the clock on by as much as it may.
"""

import itertools
from collections.abc import Sequence
from typing import Final

import pytest

from fota_hil.an2295_master import FILLER, KNOCK_AFTER, Master, MasterTimings, QuitAnswer
from fota_hil.errors import BoardError, BoardFault
from fota_hil.transcript import render_transcript
from fota_protocol.an2295 import Ident, with_crc
from fota_transport.clock import VirtualClock
from fota_transport.errors import LinkLost
from fota_transport.links import ClosingLink
from fota_transport.trace import Trace
from fota_transport.trace import parse as parse_trace

HOOK: Final = b"\xfc"
ACK: Final = bytes.fromhex("FC CF 63")
NACK: Final = bytes.fromhex("03 D1 93")
IDENT: Final = bytes.fromhex(
    "C8 01 4A 00 00 00 01 00 00 40 00 00 07 FF FF 00 00 40 00 00 00 00 00 00 00 08 00 00 00 00 80 4B 36 30 00 5A B1"
)
TWR_K60: Final = Ident(0xC8, 0x014A, ((0x4000, 0x80000),), 0x4000, 0, 2048, 128, "K60")
ERASE: Final = bytes.fromhex("45 00 00 40 00 2E FF")
WRITE: Final = bytes.fromhex("57 00 00 40 00 08 F8 FF 00 20 8D 56 00 00 AF 4C")
READ: Final = bytes.fromhex("52 00 00 40 00 08 69 61")
QUIT: Final = bytes.fromhex("51 AB 24")
DATA: Final = bytes.fromhex("F8 FF 00 20 8D 56 00 00")

HOOKING: Final = [(HOOK, HOOK), (b"I", IDENT)]
"""What follows the announcement."""

INTO_STEP: Final = HOOKING
"""What the master does before it repeats a request."""

Step = tuple[bytes, bytes | Sequence[tuple[float, bytes]]]
"""What the master sends, and what comes back: at once, or in parts after so many seconds each."""


class ScriptedLine(ClosingLink):
    """A line to a board that does what its script says, and nothing for what the script has not; `first` comes unasked.

    A script that is played out has the board silent. `sent` is all that the master wrote, `breaks` counts its pulses.
    """

    def __init__(self, clock: VirtualClock, script: Sequence[Step], first: bytes = HOOK) -> None:
        self.sent: list[bytes] = []
        self.breaks = 0
        self.breaks_until_hook: int | None = None
        self._clock = clock
        self._script = list(script)
        self._coming: list[tuple[float, bytes]] = [(0.05, first)] if first else []

    @property
    def is_played_out(self) -> bool:
        """Whether the master has sent everything that the script has."""
        return not self._script

    def read(self, timeout_s: float | None) -> bytes:
        assert timeout_s is not None
        now = self._clock.monotonic()
        if self._coming and self._coming[0][0] <= now + timeout_s:
            at, data = self._coming.pop(0)
            self._clock.move_to(max(at, now))
            return data
        self._clock.advance(timeout_s)
        raise TimeoutError

    def write(self, data: bytes, timeout_s: float) -> None:
        self.sent.append(data)
        if self._script and self._script[0][0] == data:
            _, reply = self._script.pop(0)
            parts = [(0.0, reply)] if isinstance(reply, bytes) else reply
            if all(pending == HOOK for _, pending in self._coming):
                self._coming = []  # who was hooked announces itself no more
            at = max([self._clock.monotonic(), *(moment for moment, _ in self._coming)])  # a board answers in order
            for wait, part in parts:
                at += wait
                if part:
                    self._coming.append((at, part))

    def discard_input(self) -> None:
        now = self._clock.monotonic()
        self._coming = [(at, data) for at, data in self._coming if at > now]

    def send_break(self, seconds: float) -> None:
        self._clock.advance(seconds)
        self.breaks += 1
        if self.breaks == self.breaks_until_hook:
            self._coming.append((self._clock.monotonic(), HOOK))

    def close(self) -> None:
        """Nothing."""


def connected(script: Sequence[Step], retries: int = 3) -> tuple[Master, ScriptedLine]:
    """A master that has hooked the board, and the rest of the script ahead."""
    clock = VirtualClock()
    line = ScriptedLine(clock, [*HOOKING, *script])
    master = Master(line, clock, baud=9600, retries=retries)
    master.connect(10.0)
    line.sent.clear()
    return master, line


def test_a_recorded_session_is_byte_exact() -> None:
    """Hook, ident, erase, write, read, quit, as on the line of a TWR-K60; nothing else is sent."""
    script = [*HOOKING, (ERASE, ACK), (WRITE, ACK), (READ, with_crc(DATA)), (QUIT, ACK)]
    clock = VirtualClock()
    line = ScriptedLine(clock, script)
    master = Master(line, clock, baud=9600)

    ident = master.connect(10.0)
    master.erase(0x4000)
    master.write(0x4000, DATA)
    found = master.read(0x4000, 8)
    left = master.quit()

    assert TWR_K60 == ident
    assert DATA == found
    assert QuitAnswer.ACKNOWLEDGED is left
    assert [sent for sent, _ in script] == line.sent
    assert (0, 36) == (master.tally.failures, master.tally.bytes_sent)
    assert 1 + 1 + len(IDENT) + 3 + 3 + 10 + 3 == master.tally.bytes_received


class TestHook:
    """From a board somewhere to one that has said who it is."""

    def test_noise_before_the_announcement_is_not_answered(self) -> None:
        """Boot noise and an application's last words, then FC."""
        clock = VirtualClock()
        line = ScriptedLine(clock, HOOKING, first=b"\x00\xf8hello\r\n\xfc")

        Master(line, clock, baud=9600).connect(10.0)

        assert [HOOK, b"I"] == line.sent

    def test_announcement_that_races_the_hook_is_not_taken_for_the_ident(self) -> None:
        """It comes between the hook's answer and our question."""
        clock = VirtualClock()
        line = ScriptedLine(clock, [(HOOK, [(0.0, HOOK), (0.05, HOOK)]), (b"I", IDENT)])

        assert TWR_K60 == Master(line, clock, baud=9600).connect(10.0)

    def test_silent_board_in_its_command_loop_is_reached_by_a_knock(self) -> None:
        """An interrupted run left it there; it announces nothing."""
        clock = VirtualClock()
        line = ScriptedLine(clock, HOOKING, first=b"")

        Master(line, clock, baud=9600).connect(10.0)

        assert [HOOK, b"I"] == line.sent
        assert KNOCK_AFTER < clock.monotonic() < 2.0

    def test_board_in_the_middle_of_a_request_is_reached_by_completing_it(self) -> None:
        """The first FC is one of its fields; of as many as any request has, the last is answered."""
        clock = VirtualClock()
        line = ScriptedLine(clock, [(HOOK, b""), (HOOK * FILLER, NACK + HOOK * 3), (b"I", IDENT)], first=b"")

        Master(line, clock, baud=9600).connect(10.0)

        assert [HOOK, HOOK * FILLER, b"I"] == line.sent

    def test_pulses_are_sent_only_to_a_board_that_stays_silent(self) -> None:
        """One with an RC clock says FC when it is trimmed; it may be off key before."""
        clock = VirtualClock()
        line = ScriptedLine(clock, [(HOOK, b""), (b"I", IDENT)], first=b"\xf8")
        line.breaks_until_hook = 5

        Master(line, clock, baud=9600).connect(30.0, calibrate=True)

        assert 5 == line.breaks
        assert [HOOK, b"I"] == line.sent

    def test_no_pulse_is_sent_without_being_asked_for_and_not_more_than_21(self) -> None:
        """A break is nothing that any board must get."""
        clock = VirtualClock()
        plain, calibrated = ScriptedLine(clock, []), ScriptedLine(clock, [])

        for line, calibrate in ((plain, False), (calibrated, True)):
            with pytest.raises(BoardError):
                Master(line, clock, baud=9600).connect(5.0, calibrate=calibrate)

        assert (0, 21) == (plain.breaks, calibrated.breaks)

    @pytest.mark.parametrize(
        ("first", "fault", "message"),
        [
            (b"", BoardFault.SILENT, "is the board powered"),
            (b"\x1c\xe0\x80garbage", BoardFault.GARBLED, "another baud rate than 9600"),
            (HOOK, BoardFault.SILENT, "announces itself at 9600 baud but does not answer"),
        ],
    )
    def test_board_that_cannot_be_reached_is_told_apart(self, first: bytes, fault: BoardFault, message: str) -> None:
        """Within the time that it has, and a little."""
        clock = VirtualClock()
        master = Master(ScriptedLine(clock, [], first), clock, baud=9600)

        with pytest.raises(BoardError, match=message) as failed:
            master.connect(10.0)

        assert fault is failed.value.fault
        assert 10.0 <= clock.monotonic() < 13.0

    def test_bootloader_of_an_unknown_family_is_named(self) -> None:
        """Version nibble 5 is a chapter of the note, and nothing on the wire."""
        clock = VirtualClock()
        script = list(itertools.chain.from_iterable([(HOOK, HOOK), (b"I", b"\xc5" + IDENT[1:])] for _ in range(20)))

        with pytest.raises(BoardError, match="version byte 0xc5, expected a family of"):
            Master(ScriptedLine(clock, script), clock, baud=9600).connect(5.0)

    def test_what_only_echoes_is_called_so(self) -> None:
        """An application that says again what it hears is no bootloader of an unknown family, whose letter `I` is."""
        clock = VirtualClock()
        script = [(sent, sent) for sent in (HOOK, b"I", HOOK * FILLER, b"I")] * 10

        with pytest.raises(BoardError, match=r"only echoes what it is sent at 9600 baud.*reset it with SW1") as failed:
            Master(ScriptedLine(clock, script, first=b""), clock, baud=9600).connect(5.0)

        assert BoardFault.GARBLED is failed.value.fault

    @pytest.mark.parametrize("can_help", [True, False])
    def test_a_hand_is_asked_for_once_when_nobody_answers(self, can_help: bool) -> None:
        """After a knock of both kinds; if it could do something, the board has its time again."""
        clock = VirtualClock()
        asked: list[float] = []
        master = Master(ScriptedLine(clock, [], b""), clock, baud=9600)

        def on_silence() -> bool:
            asked.append(clock.monotonic())
            return can_help

        with pytest.raises(BoardError):
            master.connect(10.0, on_silence=on_silence)

        assert 1 == len(asked)
        assert asked[0] < 3.0
        assert can_help is (clock.monotonic() >= asked[0] + 10.0)


BAD_ANSWERS: Final = {
    "nothing": b"",
    "a refusal": NACK,
    "a refusal and its second answer": NACK + ACK,
    "a flipped bit": bytes.fromhex("FC CF 62"),
    "a byte too few": ACK[:2],
    "a byte before it": b"\x00" + ACK,
    "a bare FC": HOOK,
}


@pytest.mark.parametrize("answer", BAD_ANSWERS.values(), ids=BAD_ANSWERS)
def test_erase_is_repeated_in_step_after_anything_but_a_good_answer(answer: bytes) -> None:
    """The line is quiet, the board has said who it is, and the same bytes go out again."""
    master, line = connected([(ERASE, answer), *INTO_STEP, (ERASE, ACK)])

    master.erase(0x4000)

    assert [ERASE, HOOK, b"I", ERASE] == line.sent
    assert 1 == master.tally.failures


def test_late_answer_is_not_taken_for_the_next_requests() -> None:
    """It comes while we knock, before the ident; the erase that it belonged to is sent again, and answered anew."""
    late = [(6.0, ACK)]
    other = bytes.fromhex("45 00 00 48 00 A7 56")
    master, line = connected([(ERASE, late), *INTO_STEP, (ERASE, ACK), (other, NACK), *INTO_STEP, (other, ACK)])

    master.erase(0x4000)
    master.erase(0x4800)

    assert [ERASE, HOOK, b"I", ERASE, other, HOOK, b"I", other] == line.sent


def test_late_answer_between_question_and_ident_is_not_taken_for_either() -> None:
    """What is no ident alone is none: the master knocks again."""
    script = [(ERASE, b""), (HOOK, HOOK), (b"I", ACK + IDENT), (HOOK * FILLER, HOOK), (b"I", IDENT), (ERASE, ACK)]
    master, line = connected(script)

    master.erase(0x4000)

    assert [ERASE, HOOK, b"I", HOOK * FILLER, b"I", ERASE] == line.sent


def test_request_that_lost_a_byte_is_completed_before_it_is_repeated() -> None:
    """The board waits for a byte, and takes the knock for it: its refusal ends in no FC."""
    script = [(ERASE, b""), (HOOK, NACK), (HOOK * FILLER, HOOK * FILLER), (b"I", IDENT), (ERASE, ACK)]
    master, line = connected(script)

    master.erase(0x4000)

    assert line.is_played_out


def test_board_that_was_reset_in_mid_update_is_hooked_again() -> None:
    """It announces itself instead of answering; its flash is as it was."""
    announcing = [(0.16 if i == 0 else 0.32, HOOK) for i in range(25)]
    master, line = connected([(ERASE, announcing), *INTO_STEP, (ERASE, ACK)])

    master.erase(0x4000)

    assert [ERASE, HOOK, b"I", ERASE] == line.sent


def test_announcements_of_a_board_that_was_reset_do_not_fill_an_answer() -> None:
    """One byte every 0.32 s would last for 40 s, longer than the board stays."""
    announcing = [(0.16 if i == 0 else 0.32, HOOK) for i in range(25)]
    read = bytes.fromhex("52 00 00 40 00 80 79 E1")
    data = bytes(range(128))
    clock = VirtualClock()
    line = ScriptedLine(clock, [*HOOKING, (read, announcing), *INTO_STEP, (read, with_crc(data))])
    master = Master(line, clock, baud=9600)
    master.connect(10.0)
    began = clock.monotonic()

    assert data == master.read(0x4000, 128)
    assert clock.monotonic() - began < 10.0


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_request_is_repeated_no_more_often_than_allowed(retries: int) -> None:
    """Then it fails, with how often it was tried."""
    script = list(itertools.chain.from_iterable([(ERASE, NACK), *INTO_STEP] for _ in range(5)))
    master, line = connected(script, retries)

    with pytest.raises(BoardError, match=rf"erase 0x00004000: refused by the board \(03 D1 93\), {retries + 1} times"):
        master.erase(0x4000)

    assert retries + 1 == line.sent.count(ERASE)


def test_board_that_falls_silent_is_called_so_in_bounded_time() -> None:
    """No knock is answered."""
    clock = VirtualClock()
    line = ScriptedLine(clock, HOOKING)
    master = Master(line, clock, baud=9600)
    master.connect(10.0)
    began = clock.monotonic()

    with pytest.raises(BoardError, match="does not answer any more") as failed:
        master.erase(0x4000)

    assert BoardFault.SILENT is failed.value.fault
    assert clock.monotonic() - began < 15.0


def test_another_board_on_the_line_is_not_programmed_on() -> None:
    """Somebody has moved the plug."""
    other = Ident(0xC8, 0x01CA, ((0x4000, 0x100000),), 0x4000, 0, 4096, 128, "K60").encode()
    master, line = connected([(ERASE, b""), (HOOK, HOOK), (b"I", other)])

    with pytest.raises(BoardError, match="another board answers") as failed:
        master.erase(0x4000)

    assert BoardFault.OTHER_BOARD is failed.value.fault
    assert 1 == line.sent.count(ERASE)


class TestWrite:
    """A cell is not programmed twice because an answer was lost."""

    def test_write_whose_answer_was_lost_is_found_in_flash(self) -> None:
        """It is read, and not sent again."""
        master, line = connected([(WRITE, b""), *INTO_STEP, (READ, with_crc(DATA))])

        master.write(0x4000, DATA)

        assert 1 == line.sent.count(WRITE)

    def test_write_that_did_not_arrive_is_sent_again(self) -> None:
        """Its flash is still blank."""
        master, line = connected([(WRITE, NACK), *INTO_STEP, (READ, with_crc(b"\xff" * 8)), (WRITE, ACK)])

        master.write(0x4000, DATA)

        assert 2 == line.sent.count(WRITE)

    def test_write_that_left_something_else_is_not_repeated(self) -> None:
        """Only erasing helps, and that is the programmer's."""
        master, line = connected([(WRITE, NACK + ACK), *INTO_STEP, (READ, with_crc(b"\xf8" + b"\xff" * 7))])

        with pytest.raises(BoardError, match="neither what was to be written nor blank") as failed:
            master.write(0x4000, DATA)

        assert (BoardFault.WRITE, 0x4000) == (failed.value.fault, failed.value.address)
        assert 1 == line.sent.count(WRITE)


class TestRead:
    """Answers that carry data, or a refusal that looks like data."""

    def test_refusal_of_a_read_is_not_data(self) -> None:
        """Three bytes, and then nothing."""
        master, line = connected([(READ, NACK), *INTO_STEP, (READ, with_crc(DATA))])

        assert DATA == master.read(0x4000, 8)
        assert line.is_played_out

    def test_data_that_begin_like_a_refusal_are_data(self) -> None:
        """Their CRC decides."""
        data = NACK + b"\1\2\3\4\5"
        master, _ = connected([(READ, [(0.0, with_crc(data)[:3]), (0.2, with_crc(data)[3:])])])

        assert data == master.read(0x4000, 8)

    def test_one_byte_is_not_read(self) -> None:
        """A byte 03 and a refusal are the same three bytes."""
        master, _ = connected([])

        with pytest.raises(ValueError, match="at least 2"):
            master.read(0x4000, 1)


class TestQuit:
    """Leaving, and what is known of it."""

    def test_refused_quit_is_repeated(self) -> None:
        """Its CRC did not arrive."""
        master, line = connected([(QUIT, NACK), *INTO_STEP, (QUIT, ACK)])

        assert QuitAnswer.ACKNOWLEDGED is master.quit()
        assert 2 == line.sent.count(QUIT)

    def test_quit_whose_answer_was_lost_is_unheard(self) -> None:
        """Nobody is in a command loop any more; the application is not shouted at."""
        master, line = connected([(QUIT, b"")])

        assert QuitAnswer.UNHEARD is master.quit()
        assert max(len(sent) for sent in line.sent) <= len(QUIT)

    def test_board_that_came_back_is_asked_to_quit_again(self) -> None:
        """Its pin is still held, or its answer was lost."""
        master, line = connected([(QUIT, b""), *INTO_STEP, (QUIT, ACK)])

        assert QuitAnswer.ACKNOWLEDGED is master.quit()
        assert line.is_played_out

    @pytest.mark.parametrize(
        ("heard", "expected"),
        [([(0.16, HOOK), (0.32, HOOK), (0.32, HOOK)], True), ([(0.1, HOOK)], False), ([(0.1, b"Hi \xfc\xfc")], False)],
    )
    def test_announcements_after_quit_tell_a_bootloader_from_an_application(
        self, heard: list[tuple[float, bytes]], expected: bool
    ) -> None:
        """More than one, and nothing else."""
        master, _ = connected([(QUIT, [(0.0, ACK), *heard])])

        master.quit()

        assert expected is master.announces()


def test_line_that_ends_is_lost_and_not_a_silent_board() -> None:
    """Somebody has pulled the plug."""

    class Ended(ScriptedLine):
        def read(self, timeout_s: float | None) -> bytes:
            return b""

    clock = VirtualClock()

    with pytest.raises(LinkLost, match="unplugged"):
        Master(Ended(clock, []), clock, baud=9600).connect(1.0)


def test_flash_times_are_what_erases_and_writes_take_beyond_their_bytes() -> None:
    """At 9,600 baud, an erase and its answer are 10 bytes, 10.4 ms."""
    master, _ = connected([(ERASE, [(0.0104166 + 0.014, ACK)]), (READ, with_crc(DATA))])

    master.erase(0x4000)
    master.read(0x4000, 8)

    assert 0.014 == pytest.approx(master.tally.flash_s, abs=1e-5)


def test_transcript_says_what_was_asked_and_is_a_trace() -> None:
    """Comments above what they are about; the reader of traces skips them."""
    clock = VirtualClock()
    trace = Trace(0.0)
    line = ScriptedLine(clock, [*HOOKING, (ERASE, NACK), *INTO_STEP, (ERASE, ACK), (QUIT, ACK)])
    master = Master(line, clock, baud=9600, trace=trace)
    master.connect(10.0)
    master.erase(0x4000)
    master.quit()

    text = render_transcript(trace, master.ident)

    said = [row[2:] for row in text.splitlines() if row.startswith("# ")]
    hooking = ["hook", "announcement, or answer to a hook", "ident"]
    erasing = ["erase 0x00004000", "refused", *hooking, "erase 0x00004000", "done"]
    assert ["announcement, or answer to a hook", *hooking, *erasing, "quit", "done"] == said
    assert list(trace) == parse_trace(text)


def test_timings_that_cannot_be_are_refused() -> None:
    """A wait of nothing would never see a byte."""
    with pytest.raises(ValueError, match="more than 0 s"):
        MasterTimings(quiet=0.0)
