"""The programmer, the two targets of an update and the hands at a board, on a virtual board in virtual time."""

import contextlib
import dataclasses
import itertools
import sys
import time
from pathlib import Path
from typing import Final

import pytest

import fota_fixtures
from fota_hil import templates
from fota_hil.an2295_master import Master, QuitAnswer
from fota_hil.errors import BoardError, BoardFault, HandNeeded, PlanError, TemplateError
from fota_hil.plan import Layout, Piece, estimate, make_plan
from fota_hil.programmer import BoardState, Programmer
from fota_hil.templates import Act, Hands, Template
from fota_hil.update import StoreTarget, StreamTarget
from fota_protocol.errors import RecordRejected, Rejection
from fota_protocol.formats import load
from fota_protocol.image import FirmwareImage
from fota_protocol.srecord import SRecord
from fota_simulator.board.an2295 import Quirk
from fota_simulator.board.board import Condition
from fota_simulator.board.control import Order
from fota_simulator.board.serial_line import UnplugPlan, parse_faults
from fota_simulator.board.wired import LineSettings
from fota_simulator.flash.faults import FlashFaults
from fota_simulator.supply import CommandCut, CutMode, Supply
from fota_transport.errors import LinkLost

from .soak import PART, Bench, VirtualLine

BLINK: Final = load(fota_fixtures.read("blink_1.s19"))
BLINK_2: Final = load(fota_fixtures.read("blink_2.s19"))
DEMO: Final = load(fota_fixtures.read("demo_16k.s19"))
ANNOUNCED: Final = 10.0


def reach(bench: Bench, settings: LineSettings | None = None, *, baud: int = 115_200) -> tuple[Master, VirtualLine]:
    """A master that has hooked the board of a bench."""
    line = bench.line(settings)
    master = Master(line, bench.clock, baud=baud)
    master.connect(ANNOUNCED, on_silence=line.press)
    return master, line


def program(bench: Bench, image: FirmwareImage, settings: LineSettings | None = None) -> Programmer:
    """Put an image onto the board of a bench."""
    master, _ = reach(bench, settings)
    plan = make_plan(image, master.ident)
    programmer = Programmer(master, plan.layout)
    programmer.program(plan)
    return programmer


@pytest.mark.parametrize("name", ["blink_1.s19", "demo_16k.s19", "unaligned.s19", "descending.s19"])
def test_image_is_in_flash_and_nothing_else_has_changed(name: str) -> None:
    """Its bytes, FF around them, the bootloader as it was."""
    bench = Bench()
    image = load(fota_fixtures.read(name))

    programmer = program(bench, image)

    assert BoardState.PROGRAMMED is programmer.state
    assert bench.difference(image) is None


@pytest.mark.parametrize("quirk", list(Quirk))
def test_boards_of_every_build_are_programmed(quirk: Quirk) -> None:
    """What older builds do otherwise changes nothing of the result."""
    bench = Bench(quirks=(quirk,))
    image = load(fota_fixtures.read("unaligned.s19"))

    program(bench, image)

    assert bench.difference(image) is None


def test_old_image_is_replaced_and_its_other_sectors_stay() -> None:
    """Only sectors that the new image needs are erased."""
    bench = Bench()
    program(bench, DEMO)

    programmer = program(bench, BLINK)

    assert [0x4000] == programmer.erased
    assert bench.difference(BLINK) is None
    assert DEMO.read(0x4800, DEMO.end) == bench.flash.read(0x4800, DEMO.end)


@pytest.mark.parametrize("baud", [9_600, 115_200])
def test_time_is_what_the_line_and_the_flash_need(baud: int) -> None:
    """Within 5 % of the bytes both ways at ten bits each, and of the flash's typical times; the estimate says so."""
    bench = Bench(has_flash_times=True)
    master, _ = reach(bench, LineSettings(baud=baud), baud=baud)
    plan = make_plan(DEMO, master.ident)
    before, began = master.tally.copy(), bench.clock.monotonic()

    Programmer(master, plan.layout).program(plan)

    elapsed = bench.clock.monotonic() - began
    work = master.tally.minus(before)
    line_s = (work.bytes_sent + work.bytes_received) * 10 / baud
    flash_s = 8 * 0.014 + 4096 * 65e-6  # 8 sectors, 16 KiB of longwords
    assert line_s + flash_s == pytest.approx(elapsed, rel=0.05)
    assert flash_s == pytest.approx(work.flash_s, rel=0.05)
    assert estimate(plan, baud, verify=True).total_s == pytest.approx(elapsed, rel=0.05)
    assert estimate(plan, baud, verify=True).line_bytes == work.bytes_sent + work.bytes_received


def commands_of(image: FirmwareImage) -> int:
    """Flash commands of an update: a sector each, and a longword each."""
    bench = Bench()
    supply = Supply()
    bench.renew(supply)
    program(bench, image)
    return supply.commands


@pytest.mark.parametrize("mode", list(CutMode))
def test_board_whose_power_fails_at_a_flash_command_is_brought_to_its_end(mode: CutMode) -> None:
    """It comes back after a second and is hooked again; what was torn is erased and written once more."""
    last = commands_of(BLINK)
    for number in (1, 2, last // 2, last - 1, last):
        bench = Bench()
        bench.renew(Supply(CommandCut(number, mode), seed=number))

        program(bench, BLINK)

        assert bench.difference(BLINK) is None


def test_unplugging_at_any_moment_leaves_a_board_that_the_next_run_updates() -> None:
    """At some forty bytes all over the update: the vectors come last, the bootloader is never touched."""
    total = sum(reach_and_count())
    for byte in range(60, total, total // 40):
        bench = Bench()
        program(bench, BLINK_2)
        with pytest.raises(LinkLost):
            program(bench, BLINK, LineSettings(unplug=UnplugPlan(byte, 1.0)))
        bench.clock.advance(2.0)
        torn = bench.flash.read(0x4000, 0x4008)

        program(bench, BLINK)

        assert torn in (BLINK_2.read(0x4000, 0x4008), b"\xff" * 8, BLINK.read(0x4000, 0x4008))
        assert bench.difference(BLINK) is None


def reach_and_count() -> tuple[int, int]:
    """Bytes both ways of an update."""
    bench = Bench()
    master, _ = reach(bench)
    plan = make_plan(BLINK, master.ident)
    Programmer(master, plan.layout).program(plan)
    return master.tally.bytes_sent, master.tally.bytes_received


@pytest.mark.parametrize("seed", range(5))
def test_noisy_line_costs_time_and_no_byte(seed: int) -> None:
    """One byte of three thousand is flipped, dropped or doubled, either way."""
    bench = Bench()
    faults = parse_faults("both:flip:0.0001,both:drop:0.0001,both:double:0.0001")

    program(bench, DEMO, LineSettings(faults=faults, seed=seed))

    assert bench.difference(DEMO) is None


def test_no_vectors_are_in_flash_until_all_the_rest_is() -> None:
    """Watched at every request: the sector with the vectors is blank from the first erase to the last write."""
    bench = Bench()
    program(bench, DEMO)
    master, _ = reach(bench)
    plan = make_plan(DEMO, master.ident)
    seen: list[tuple[str, bool]] = []

    def on_progress(what: str, size: int) -> None:
        seen.append((what, bench.flash.read(0x4000, 0x4008) == b"\xff" * 8))

    Programmer(master, plan.layout, on_progress=on_progress).program(plan)

    last_write = max(i for i, (what, _) in enumerate(seen) if what == "writing")
    assert all(is_blank for _, is_blank in seen[:last_write])
    assert not seen[last_write][1]
    assert {"erasing", "writing", "verifying"} == {what for what, _ in seen}


class Broken(Master):
    """A master whose board does not do what it says."""

    erases: int = 0
    refuses_erase_from: int = 1_000
    writes_wrong: int = 0
    silent_at: int = 0
    requests: int = 0

    def erase(self, address: int) -> None:
        self.erases += 1
        if self.erases >= self.refuses_erase_from:
            raise BoardError(f"erase {address:#010x}: refused, 4 times", fault=BoardFault.REFUSED, address=address)
        super().erase(address)

    def write(self, address: int, data: bytes) -> None:
        self.requests += 1
        if self.requests == self.silent_at:
            raise BoardError("the board does not answer any more", fault=BoardFault.SILENT)
        if self.writes_wrong:
            self.writes_wrong -= 1
            data = bytes([data[0] & 0x7F & ~(data[0] & 1)]) + data[1:]
        super().write(address, data)


@pytest.mark.parametrize("is_worn", [False, True])
def test_board_that_refuses_to_erase_is_untouched_only_if_it_is(is_worn: bool) -> None:
    """A stock bootloader says the same of a protected sector and of one that it has erased in part: it is looked at."""
    bench = Bench()
    program(bench, BLINK_2)
    before = bench.flash.read(0x4000, 0x4800)
    if is_worn:
        bench.renew(faults=FlashFaults(weak_sectors={0x4000 // PART.sector_size: 0}))
        master, _ = reach(bench)
    else:
        master = broken(bench)
        master.refuses_erase_from = 1
    plan = make_plan(BLINK, master.ident)
    programmer = Programmer(master, plan.layout)

    with pytest.raises(BoardError, match="cannot be erased") as refused:
        programmer.program(plan)

    assert BoardFault.ERASE is refused.value.fault
    assert is_worn == (before != bench.flash.read(0x4000, 0x4800))
    assert (BoardState.INCOMPLETE if is_worn else BoardState.UNTOUCHED) is programmer.state


def test_erase_whose_answer_was_lost_and_that_is_refused_then_is_no_untouched_board() -> None:
    """The first answer is garbled, the second request, too, so that the board says no to it."""
    bench = Bench()
    program(bench, BLINK_2)
    line = bench.line(LineSettings(faults=parse_faults("out:flip@39,in:flip@13")))
    master = Master(line, bench.clock, baud=115_200, retries=1)
    master.connect(ANNOUNCED, on_silence=line.press)
    plan = make_plan(BLINK, master.ident)
    programmer = Programmer(master, plan.layout)
    with contextlib.suppress(BoardError):
        programmer.program(plan)

    is_blank = not bench.flash.read(0x4000, 0x4008).strip(b"\xff")
    assert not (is_blank and programmer.state is BoardState.UNTOUCHED)


def broken(bench: Bench) -> Broken:
    """A master that has hooked the board of a bench and can be told to break."""
    master = Broken(bench.line(), bench.clock, baud=115_200)
    master.connect(ANNOUNCED)
    return master


def test_erase_that_fails_is_fatal_and_nothing_is_written() -> None:
    """The stock master says so, goes on, and ends with exit code 0."""
    bench = Bench()
    master = broken(bench)
    master.refuses_erase_from = 3
    plan = make_plan(DEMO, master.ident)
    programmer = Programmer(master, plan.layout)

    with pytest.raises(
        BoardError, match=r"sector at 0x00005000 cannot be erased .*refused, 4 times.*protected"
    ) as failed:
        programmer.program(plan)

    assert (BoardFault.ERASE, 0x5000) == (failed.value.fault, failed.value.address)
    assert BoardState.INCOMPLETE is programmer.state
    assert 0 == master.requests


def test_sector_that_reads_wrong_is_erased_and_written_once_more() -> None:
    """Once; a second time would wear it out for nothing."""
    bench = Bench()
    master = broken(bench)
    master.writes_wrong = 1
    plan = make_plan(DEMO, master.ident)
    programmer = Programmer(master, plan.layout)

    programmer.program(plan)

    assert 1 == len(programmer.renewed)
    assert bench.difference(DEMO) is None


def test_sector_that_never_reads_right_fails_with_its_address() -> None:
    """And has no vectors."""
    bench = Bench()
    master = broken(bench)
    master.writes_wrong = 1_000
    plan = make_plan(DEMO, master.ident)
    programmer = Programmer(master, plan.layout)

    with pytest.raises(BoardError, match="does not take its content, erased once more") as failed:
        programmer.program(plan)

    assert BoardFault.VERIFY is failed.value.fault
    assert BoardState.INCOMPLETE is programmer.state
    assert b"\xff" * 8 == bench.flash.read(0x4000, 0x4008)


def test_board_that_falls_silent_is_revived_and_goes_on() -> None:
    """Its owner has a command for that; once it has none, the update fails."""
    bench = Bench()
    plan = make_plan(DEMO, reach(bench)[0].ident)
    for means, ends_well in ((1, True), (0, False)):
        master = broken(bench)
        master.silent_at = 7
        left = [means]

        def revive(left: list[int] = left) -> bool:
            left[0] -= 1
            return left[0] >= 0

        programmer = Programmer(master, plan.layout, revive=revive)
        if ends_well:
            programmer.program(plan)
            assert bench.difference(DEMO) is None
        else:
            with pytest.raises(BoardError, match="does not answer any more"):
                programmer.program(plan)


def test_nothing_is_read_back_when_nobody_wants_it() -> None:
    """A read costs as much time as a write; only where the first erase will be, it looks once."""
    bench = Bench()
    master, _ = reach(bench)
    plan = make_plan(BLINK, master.ident)
    before = master.tally.copy()

    Programmer(master, plan.layout, verify=False).program(plan)

    written = [piece for piece in plan.pieces if not piece.is_blank]
    assert 1 + len(plan.erases) + len(written) == master.tally.minus(before).requests


def test_quit_leads_to_the_application_or_back_into_the_bootloader() -> None:
    """By the pin alone."""
    for is_held, condition in ((True, Condition.BOOTLOADER), (False, Condition.APPLICATION)):
        bench = Bench(is_held=is_held)
        line = bench.line()
        line.order(Order.ENTER)
        master = Master(line, bench.clock, baud=115_200)
        master.connect(ANNOUNCED)
        plan = make_plan(BLINK, master.ident)
        Programmer(master, plan.layout).program(plan)

        answer = master.quit()

        assert QuitAnswer.ACKNOWLEDGED is answer
        assert is_held is master.announces()
        assert condition is bench.board.condition


def stream(bench: Bench) -> tuple[StreamTarget, Programmer, Master]:
    """A target that programs the board of a bench while records come."""
    master, _ = reach(bench)
    layout = Layout(master.ident)
    programmer = Programmer(master, layout)
    return StreamTarget(programmer, layout), programmer, master


class TestStream:
    """Records go into flash as they come."""

    @pytest.mark.parametrize("name", ["blink_1.s19", "demo_16k.s19", "unaligned.s19", "long_records.s19"])
    def test_image_is_in_flash_after_the_end_frame(self, name: str) -> None:
        """Whatever its records are like; its name is known without having been kept as a file."""
        bench = Bench()
        image = load(fota_fixtures.read(name))
        target, programmer, _ = stream(bench)

        for record in image.records:
            target.write(record)
        target.finish("1A")

        assert ("1A", image.crc32) == (target.version, target.image_crc())
        assert BoardState.PROGRAMMED is programmer.state
        assert bench.difference(image) is None

    def test_record_outside_the_flash_is_refused_before_it_touches_any(self) -> None:
        """The first one, so nothing was erased."""
        for address, reason in ((0x3FF8, Rejection.BOOTLOADER), (0x80000, Rejection.OUT_OF_RANGE)):
            bench = Bench()
            target, programmer, _ = stream(bench)

            with pytest.raises(RecordRejected) as refused:
                target.write(SRecord(3, address, b"\1" * 16))

            assert reason is refused.value.reason
            assert ([], BoardState.UNTOUCHED) == (programmer.erased, programmer.state)

    def test_board_whose_vector_table_is_not_in_its_flash_is_not_touched(self) -> None:
        """An ident may say what it likes: the table's sector is erased with the first page, so it is looked at, too."""
        bench = Bench()
        master, _ = reach(bench)
        ident = dataclasses.replace(master.ident, blocks=((0x8000, 0x80000),))
        programmer = Programmer(master, Layout(ident))

        with pytest.raises(PlanError, match=r"vector table at 0x00004000.*not in its flash") as refused:
            StreamTarget(programmer, Layout(ident))

        assert 0x4000 == refused.value.address
        assert ([], BoardState.UNTOUCHED) == (programmer.erased, programmer.state)

    def test_sectors_are_erased_as_they_are_reached_and_the_vectors_sector_first(self) -> None:
        """So that a server that is lost leaves no vectors of either application."""
        bench = Bench()
        program(bench, DEMO)
        target, programmer, _ = stream(bench)

        target.write(SRecord(3, 0x5000, b"\1" * 128))
        before = list(programmer.erased)
        target.write(SRecord(3, 0x5080, b"\1" * 4))

        assert [] == before
        assert [0x4000, 0x5000] == programmer.erased
        assert b"\xff" * 8 == bench.flash.read(0x4000, 0x4008)

    def test_vector_page_is_kept_until_the_end_frame(self) -> None:
        """Also when it comes first, as it does."""
        bench = Bench()
        target, _, _ = stream(bench)
        for record in DEMO.records:
            target.write(record)

        before = bench.flash.read(0x4000, 0x4080)
        target.finish("1")

        assert b"\xff" * 0x80 == before
        assert DEMO.read(0x4000, 0x4080) == bench.flash.read(0x4000, 0x4080)

    def test_image_whose_vectors_cannot_be_right_is_not_finished(self) -> None:
        """The board has no vectors then, and can be updated."""
        bench = Bench()
        target, programmer, _ = stream(bench)
        for record in load(fota_fixtures.read("bad_vectors_stack.s19")).records:
            target.write(record)

        with pytest.raises(RecordRejected) as refused:
            target.finish("1")

        assert Rejection.VECTORS is refused.value.reason
        assert BoardState.INCOMPLETE is programmer.state
        assert b"\xff" * 8 == bench.flash.read(0x4000, 0x4008)

    def test_byte_that_changes_its_mind_is_refused(self) -> None:
        """It would have to be programmed a second time; the same byte again is harmless."""
        bench = Bench()
        target, _, _ = stream(bench)
        first = SRecord(3, 0x5000, b"\1" * 128)
        target.write(first)
        target.write(SRecord(3, 0x6000, b"\2" * 128))

        target.write(first)
        with pytest.raises(RecordRejected) as refused:
            target.write(SRecord(3, 0x5000, b"\3"))

        assert (Rejection.REWRITTEN, 0x5000) == (refused.value.reason, refused.value.address)


class TestStore:
    """The whole image first."""

    def test_image_is_handed_on_with_its_version_at_the_end_frame(self) -> None:
        """Not a byte of the board is touched before."""
        got: list[tuple[int, str]] = []
        target = StoreTarget(lambda image, version: got.append((image.crc32, version)))
        for record in BLINK.records:
            target.write(record)

        before = list(got)
        target.finish("1A")

        assert [] == before
        assert [(BLINK.crc32, "1A")] == got

    def test_records_that_contradict_each_other_are_refused_at_the_end_frame(self) -> None:
        """The server has checked that too; we do not believe it."""
        target = StoreTarget(lambda image, version: None)
        target.write(SRecord(3, 0x4000, b"\1\2"))
        target.write(SRecord(3, 0x4001, b"\3"))

        with pytest.raises(RecordRejected) as refused:
            target.finish("1")

        assert Rejection.BAD_RECORD is refused.value.reason

    def test_image_that_does_not_fit_leaves_the_board_untouched(self) -> None:
        """The plan is made before the first erase."""
        bench = Bench()
        master, _ = reach(bench)
        before = bench.flash.contents()
        target = StoreTarget(
            lambda image, version: Programmer(master, Layout(master.ident)).program(make_plan(image, master.ident))
        )
        for record in load(fota_fixtures.read("other_part.s19")).records:
            target.write(record)

        with pytest.raises(PlanError):
            target.finish("1")

        assert before == bench.flash.contents()


class TestTemplates:
    """Commands are words, and no shell sees them."""

    def test_placeholder_cannot_become_a_second_word_or_a_command(self, tmp_path: Path) -> None:
        """Whatever a port is called."""
        port = f"a b; touch {tmp_path / 'oops'} $(id) `id` {{mcuid}}"
        script = "import sys, pathlib; pathlib.Path(sys.argv[1]).write_text(repr(sys.argv[2:]))"
        words = f"{sys.executable} -c '{script}' {tmp_path / 'out'} on '{{port}}' {{baud}}"

        Template.parse(words).run({"port": port, "baud": "9600", "mcuid": "1"})

        assert repr(["on", port, "9600"]) == (tmp_path / "out").read_text()
        assert not (tmp_path / "oops").exists()

    @pytest.mark.parametrize("text", ["", "  ", "say 'x", "relay {prot}", "relay {port.x} {user}"])
    def test_template_that_cannot_be_is_refused(self, text: str) -> None:
        """Before anything is opened."""
        with pytest.raises(TemplateError):
            Template.parse(text)

    @pytest.mark.parametrize(
        ("code", "message"),
        [
            ("import sys; print('no relay'); sys.exit(3)", "exit code 3: no relay"),
            ("import os; os.abort()", "signal 6"),
        ],
    )
    def test_command_that_fails_is_an_error_with_its_last_words(self, code: str, message: str) -> None:
        """Exit codes are looked at."""
        with pytest.raises(TemplateError, match=message):
            Template.parse(f'{sys.executable} -c "{code}"').run({})

    def test_command_that_is_not_there_is_an_error(self) -> None:
        """With its name."""
        with pytest.raises(TemplateError, match="cannot run nowhere/relay on: No such file"):
            Template.parse("nowhere/relay on").run({})

    def test_command_that_takes_too_long_is_killed_with_what_it_started(self) -> None:
        """A grandchild that keeps our pipe open does not hold us up."""
        began = time.monotonic()

        with pytest.raises(TemplateError, match=r"did not end within 0\.3 s"):
            Template.parse("sh -c 'sleep 60 & sleep 60'").run({}, 0.3)

        assert time.monotonic() - began < 20.0

    def test_command_whose_owner_has_to_stop_is_ended_soon(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """In order first, so that it can undo what it has begun; a process that it has left behind goes with it."""
        monkeypatch.setattr(templates, "END_GRACE", 60.0)  # however slow the machine is
        script = (
            f"trap 'echo undone > {tmp_path / 'said'}; exit 1' TERM; sleep 600 & echo $! > {tmp_path / 'pid'}; wait"
        )

        with pytest.raises(TemplateError, match="did not end within 2 s of the order to stop"):
            Template(("sh", "-c", script)).run({}, 600.0, (tmp_path / "pid").exists)

        assert "undone\n" == (tmp_path / "said").read_text()
        stat = Path("/proc") / (tmp_path / "pid").read_text().strip() / "stat"
        deadline = time.monotonic() + 60.0
        while stat.exists() and " Z " not in stat.read_text():  # a zombie waits for whoever adopted it
            assert time.monotonic() < deadline
            time.sleep(0.01)


class TestHands:
    """Commands where there are some, a person where there are none."""

    @staticmethod
    def hands(*acts: Act, person: bool = True) -> tuple[Hands, list[str], list[str]]:
        """Hands with a harmless command for each of `acts`; what is told, and what is asked."""
        told: list[str] = []
        asked: list[str] = []
        hands = Hands(
            {act: Template.parse(f"{sys.executable} -c pass {act.value}") for act in acts},
            {},
            tell=lambda text: told.append(text.partition(":")[0]),
            wait=asked.append if person else None,
        )
        return hands, told, asked

    def test_button_is_held_before_the_reset_and_let_go_before_quit(self) -> None:
        """The pin is looked at in each reset."""
        hands, told, asked = self.hands(*Act)

        hands.enter()
        hands.leave()

        assert (["enter", "reset", "leave"], []) == (told, asked)

    def test_power_stands_in_for_a_reset_and_helps_where_that_did_not(self) -> None:
        """A hung board hears no reset button."""
        alone, told_alone, _ = self.hands(Act.ENTER, Act.POWER)
        both, told_both, _ = self.hands(Act.RESET, Act.POWER)

        alone.enter()
        both.enter()
        both.help_silent()

        assert ["enter", "power"] == told_alone
        assert ["reset", "power"] == told_both

    def test_revival_tries_each_means_once_until_the_board_is_reached(self) -> None:
        """Then the board counts as dead."""
        hands, told, _ = self.hands(Act.RESET, Act.POWER)
        answers = iter([False, True])

        def connect() -> None:
            if not next(answers):
                raise BoardError("no answer", fault=BoardFault.SILENT)

        assert [True, False] == [hands.revive(connect), hands.revive(connect)]
        assert ["reset", "still silent", "power"] == told

    def test_revival_does_not_go_on_with_another_board(self) -> None:
        """Its flash is not the one that we know."""
        hands, told, _ = self.hands(Act.RESET, Act.POWER)

        def connect() -> None:
            raise BoardError("another board", fault=BoardFault.OTHER_BOARD)

        with pytest.raises(BoardError, match="another board"):
            hands.revive(connect)
        assert ["reset"] == told

    def test_person_who_held_the_button_is_asked_to_let_it_go(self) -> None:
        """And nobody else is."""
        helped, told, asked = self.hands()
        helped.help_silent()
        helped.leave()
        untouched, _, not_asked = self.hands()
        untouched.leave()

        assert ["no bootloader answers"] == told
        assert 1 == len(asked)
        assert [] == not_asked

    @pytest.mark.parametrize(
        ("commands", "told_first", "asked", "helped"),
        [
            ((Act.LEAVE,), "no bootloader answers", 0, True),
            ((Act.ENTER,), "no bootloader answers", 0, True),
            ((Act.RESET,), "no bootloader answers", 1, True),
            ((Act.ENTER, Act.RESET), None, 0, False),
        ],
    )
    def test_a_person_is_asked_for_what_has_no_command(
        self, commands: tuple[Act, ...], told_first: str | None, asked: int, helped: bool
    ) -> None:
        """Some hands of a bench may be people's."""
        hands, told, questions = self.hands(*commands)

        assert helped == hands.help_silent()
        assert told_first == (told[0] if told else None)
        assert asked == len(questions)

    def test_a_person_revives_a_board_that_no_command_can(self) -> None:
        """In mid-update, too."""
        hands, _, asked = self.hands(Act.LEAVE)
        reached: list[bool] = []

        assert hands.revive(lambda: reached.append(True))
        assert ([True], 1) == (reached, len(asked))

    def test_nobody_is_asked_who_may_not_be(self) -> None:
        """A bench without people fails instead of waiting."""
        hands, _, _ = self.hands(person=False)

        found = hands.help_silent()

        assert not found
        assert not hands.person_entered
        with pytest.raises(HandNeeded, match="--no-input"):
            hands.ask("SW1 must be let go")


def test_pieces_written_in_any_order_are_renewed_in_theirs() -> None:
    """A sector that is written once more gets all that it had, also where that came out of order."""
    bench = Bench()
    master, _ = reach(bench)
    programmer = Programmer(master, Layout(master.ident))
    pieces = [Piece(0x4800 + 128 * i, bytes([i + 1]) * 128) for i in (3, 1, 2)]
    programmer.erase(0x4800)
    for piece in pieces:
        programmer.write(piece)
    master.write(0x4800 + 128, b"\0" * 128)  # somebody else's doing: the second piece is spoilt

    programmer.check(sorted(pieces, key=lambda piece: piece.address))

    assert [0x4800] == programmer.renewed
    expected = b"\xff" * 128 + bytes(itertools.chain.from_iterable([i] * 128 for i in (2, 3, 4)))
    assert expected == bench.flash.read(0x4800, 0x4A00)


class Spoiling(Master):
    """A master whose board cannot write one piece, and spoils another when its sector is written once more."""

    refuses: int
    spoils: int
    refused = False

    def write(self, address: int, data: bytes) -> None:
        if address == self.refuses and not self.refused:
            self.refused = True
            raise BoardError(f"write {address:#010x}: refused, 4 times", fault=BoardFault.REFUSED, address=address)
        super().write(address, b"\0" * len(data) if self.refused and address == self.spoils else data)


@pytest.mark.parametrize("refuses", [0x4000, 0x4880], ids=["vectors", "body"])
def test_sector_that_was_written_once_more_is_read_back_again(refuses: int) -> None:
    """Also what had been read back before; and no vectors are written over a body that is not right."""
    bench = Bench()
    master = Spoiling(bench.line(), bench.clock, baud=115_200)
    master.connect(ANNOUNCED)
    master.refuses, master.spoils = refuses, refuses + 0x80 if refuses == 0x4000 else 0x4800
    target = StreamTarget(Programmer(master, Layout(master.ident)), Layout(master.ident))

    def update() -> None:
        for record in DEMO.records:
            target.write(record)
        target.finish("1")

    with pytest.raises(BoardError, match="does not take its content, erased once more") as failed:
        update()

    assert (BoardFault.VERIFY, master.spoils) == (failed.value.fault, failed.value.address)
    assert b"\xff" * 8 == bench.flash.read(0x4000, 0x4008)
