"""The flash controller, FTFL and FTFE: one contract for both, from the registers' side.

The commands are written here as the reference manuals have them, byte by byte, and what the parts are is written down
once more: these tests take nothing from `commands`.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fota_protocol.parts import PARTS, Part
from fota_simulator.errors import DebugRefused, FlashError, Overprogrammed, PowerLost
from fota_simulator.events import EventTrace
from fota_simulator.flash import Flash, SectorPool
from fota_simulator.flash.commands import Status, Timing
from fota_simulator.flash.configuration import Debugging
from fota_simulator.flash.controller import ControlledFlash, DebugPort, FlashController
from fota_simulator.flash.faults import FlashFaults
from fota_simulator.supply import CommandCut, CutMode, Supply
from fota_transport.clock import VirtualClock

DONE: Final = 0x80
"""FSTAT of a command that went well: CCIF."""
NOT_AS_MEANT: Final = 0x81
"""CCIF, MGSTAT0."""
BAD_ACCESS: Final = 0xA0
"""CCIF, ACCERR."""
PROTECTED: Final = 0x90
"""CCIF, FPVIOL."""

READ_BLOCK, READ_SECTION, CHECK = 0x00, 0x01, 0x02
ERASE_BLOCK, ERASE_SECTOR, PROGRAM_SECTION = 0x08, 0x09, 0x0B
READ_ALL, ERASE_ALL = 0x40, 0x44

PLACE: Final = 0x8000
"""An address in the middle of things: the start of a sector and of a protection region of both parts."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the manuals say of a module and its part; sizes in bytes."""

    program: int
    """The code of the program command."""
    others_program: int
    """That of the other module."""
    unit: int
    section: int
    """What section commands count in."""
    sector: int
    block: int
    end: int
    region: int
    seconds: dict[int, tuple[float, float]]
    """Typical and maximum time of the commands of the design's table."""


FACTS: Final = {
    "MK60DN512": Facts(
        0x06, 0x07, 4, 8, 0x800, 0x40000, 0x80000, 0x4000,
        {0x06: (65e-6, 145e-6), 0x09: (14e-3, 114e-3), 0x08: (122e-3, 985e-3), 0x44: (250e-3, 2.0)},
    ),
    "MK60FN1M0": Facts(
        0x07, 0x06, 8, 16, 0x1000, 0x40000, 0x100000, 0x8000,
        {0x07: (70e-6, 150e-6), 0x09: (15e-3, 115e-3), 0x08: (122e-3, 985e-3), 0x44: (500e-3, 4.0)},
    ),
}  # fmt: skip


def fccob(code: int, address: int = 0, rest: bytes = b"") -> bytes:
    """FCCOB0 and on."""
    return bytes([code]) + address.to_bytes(3, "big") + rest


def section(code: int, address: int, count: int, margin: int = 0) -> bytes:
    """A section command."""
    return fccob(code, address, count.to_bytes(2, "big") + bytes([margin]))


def checking(address: int, data: bytes, margin: int = 1) -> bytes:
    """A program-check command for four bytes."""
    return fccob(CHECK, address, bytes([margin, 0, 0, 0]) + data[::-1])


OPENED: Final = b"\xff" * 0x40C + b"\xfe"
"""What a flash begins with after a debugger's mass erase."""


class Bench:
    """One controller over a blank array, and the commands that its module has."""

    def __init__(
        self,
        part: Part,
        *,
        supply: Supply | None = None,
        faults: FlashFaults = FlashFaults(),  # noqa: B008  # frozen, and empty
        timing: Timing = Timing.TYPICAL,
        strict: bool = False,
        contents: dict[int, bytes] | None = None,
    ) -> None:
        self.part = part
        self.facts = FACTS[part.name]
        self.array = Flash(part, SectorPool(), contents or {})
        self.clock = VirtualClock()
        self.controller = FlashController(
            self.array, self.clock, supply=supply, faults=faults, timing=timing, strict=strict
        )

    def program(self, address: int, data: bytes) -> bytes:
        """A program command for one unit, which names the byte at the highest address of each longword first."""
        return fccob(self.facts.program, address, b"".join(data[i : i + 4][::-1] for i in range(0, len(data), 4)))

    def run(self, command: bytes) -> int:
        """FSTAT after the command."""
        return int(self.controller.execute(command))

    def content(self) -> bytes:
        """All of the array."""
        return self.array.read(0, self.facts.end)

    def fill(self, start: int, data: bytes) -> None:
        """Have `data` in blank flash, however it came there."""
        unit = self.facts.unit
        for position in range(0, len(data), unit):
            self.array.program(start + position, data[position : position + unit])


@pytest.fixture(params=list(PARTS.values()), ids=list(PARTS))
def part(request: pytest.FixtureRequest) -> Part:
    """Each module."""
    found = request.param
    assert isinstance(found, Part)
    return found


@pytest.fixture
def bench(part: Part) -> Bench:
    """A good controller over blank flash."""
    return Bench(part)


def field(part: Part, *, fprot: int = 0xFFFF_FFFF, fsec: int = 0xFE) -> dict[int, bytes]:
    """The first sector, with a flash configuration field that says this."""
    content = bytearray(b"\xff" * part.sector_size)
    content[0x408:0x40E] = fprot.to_bytes(4, "little") + bytes([fsec, 0x3B])
    return {0: bytes(content)}


# Programming.


def test_program_command_names_the_byte_at_the_highest_address_first() -> None:
    """FCCOB7 ends at the address itself, FCCOB4 three bytes above; a phrase is two such longwords."""
    longword, phrase = Bench(PARTS["MK60DN512"]), Bench(PARTS["MK60FN1M0"])

    statuses = (
        longword.run(bytes.fromhex("06 008004 44332211")),
        phrase.run(bytes.fromhex("07 008008 44332211 88776655")),
    )

    assert (DONE, DONE) == statuses
    assert bytes.fromhex("ff11223344ff") == longword.array.read(0x8003, 0x8009)
    assert bytes.fromhex("ff1122334455667788ff") == phrase.array.read(0x8007, 0x8011)


def test_programming_changes_one_unit_and_nothing_else(bench: Bench) -> None:
    """The first, the last, and those at both sides of a block border."""
    facts = bench.facts
    expected = bytearray(b"\xff" * facts.end)
    for number, address in enumerate((0, facts.block - facts.unit, facts.block, facts.end - facts.unit)):
        data = bytes(range(number, number + facts.unit))
        expected[address : address + facts.unit] = data

        assert DONE == bench.run(bench.program(address, data))

    assert bytes(expected) == bench.content()


def test_programming_what_is_not_erased_reads_old_and_new_and_says_so(bench: Bench) -> None:
    """Cells can only be cleared: MGSTAT0 where that is not what was asked for, and every such command counts."""
    unit = bench.facts.unit
    statuses = [
        bench.run(bench.program(PLACE, byte * unit)) for byte in (b"\x0f", b"\x0f", b"\x0c", b"\xf0", b"\x00", b"\xff")
    ]

    assert [DONE, DONE, DONE, NOT_AS_MEANT, DONE, NOT_AS_MEANT] == statuses
    assert bytes(unit) == bench.array.read(PLACE, PLACE + unit)
    assert 5 == bench.controller.overprogrammed


def test_programming_ff_over_blank_flash_is_no_overprogramming(bench: Bench) -> None:
    """The unit is still blank."""
    for _ in range(2):
        bench.run(bench.program(PLACE, b"\xff" * bench.facts.unit))

    assert 0 == bench.controller.overprogrammed


def test_strict_mode_stops_at_a_unit_that_was_not_erased(part: Part) -> None:
    """Even at one that would read well; the flash stays as it was."""
    bench = Bench(part, strict=True)
    bench.run(bench.program(PLACE, b"\x0f" * part.program_unit))

    with pytest.raises(Overprogrammed, match="expected it erased") as caught:
        bench.run(bench.program(PLACE, b"\x0c" * part.program_unit))

    assert PLACE == caught.value.address
    assert b"\x0f" * part.program_unit == bench.array.read(PLACE, PLACE + part.program_unit)
    assert 1 == bench.controller.overprogrammed


def test_strict_mode_hides_no_power_cut(part: Part) -> None:
    """A command that is cut is cut, whatever it programs."""
    bench = Bench(part, strict=True, supply=Supply(CommandCut(2, CutMode.AFTER)))
    bench.run(bench.program(PLACE, b"\x0f" * part.program_unit))

    with pytest.raises(PowerLost):
        bench.run(bench.program(PLACE, b"\x0c" * part.program_unit))


def test_mass_erase_that_leaves_a_bit_is_refused(part: Part) -> None:
    """A debugger is told that the part did not open."""
    bench = Bench(part, faults=FlashFaults(stuck_at_0={PLACE: 1}))

    with pytest.raises(DebugRefused, match="not blank"):
        DebugPort(bench.controller).mass_erase()


def test_program_section_takes_its_bytes_from_the_programming_ram(bench: Bench) -> None:
    """As many units of the module's section as were asked for; the rest of the sector stays blank."""
    size = 3 * bench.facts.section
    bench.controller.section_buffer[:] = random.Random(1).randbytes(len(bench.controller.section_buffer))
    place = PLACE + bench.facts.section

    status = bench.run(section(PROGRAM_SECTION, place, 3))

    assert DONE == status
    assert b"\xff" + bytes(bench.controller.section_buffer[:size]) + b"\xff" == bench.array.read(
        place - 1, place + size + 1
    )


# Erasing.


def filled(bench: Bench, *starts: int) -> bytearray:
    """Have zeroes in the sectors at `starts`; returns what all of the array holds then."""
    for start in starts:
        bench.fill(start, bytes(bench.facts.sector))
    return bytearray(bench.content())


def test_erase_sector_takes_any_aligned_address_in_it(bench: Bench) -> None:
    """The whole sector and nothing beside it; its wear is one more."""
    sector = bench.facts.sector
    expected = filled(bench, PLACE - sector, PLACE, PLACE + sector)
    expected[PLACE : PLACE + sector] = b"\xff" * sector

    status = bench.run(fccob(ERASE_SECTOR, PLACE + sector - bench.facts.section))

    assert DONE == status
    assert bytes(expected) == bench.content()
    assert {PLACE // sector: 1} == bench.array.erase_counts


def test_erase_block_takes_the_block_that_its_address_names(bench: Bench) -> None:
    """From its first sector to its last, the blocks beside it stay; each of its sectors is worn."""
    sector, block = bench.facts.sector, bench.facts.block
    expected = filled(bench, block - sector, block, 2 * block - sector)
    expected[block : 2 * block] = b"\xff" * block

    status = bench.run(fccob(ERASE_BLOCK, block + 5 * bench.facts.section))

    assert DONE == status
    assert bytes(expected) == bench.content()
    assert dict.fromkeys(range(block // sector, 2 * block // sector), 1) == bench.array.erase_counts


def test_erase_all_takes_everything(bench: Bench) -> None:
    """All blocks."""
    sector, end = bench.facts.sector, bench.facts.end
    filled(bench, 0, bench.facts.block, end - sector)

    status = bench.run(fccob(ERASE_ALL))

    assert DONE == status
    assert b"\xff" * end == bench.content()
    assert dict.fromkeys(range(end // sector), 1) == bench.array.erase_counts


def test_every_erase_wears(bench: Bench) -> None:
    """Blank or not."""
    for _ in range(3):
        bench.run(fccob(ERASE_SECTOR, PLACE))

    assert {PLACE // bench.facts.sector: 3} == bench.array.erase_counts


# Checking.


@pytest.mark.parametrize("margin", [0, 1, 2])
def test_read_1s_block_looks_at_its_block_alone(bench: Bench, margin: int) -> None:
    """A byte that is not FF anywhere in the block is found, one in the next block is not."""
    block, unit = bench.facts.block, bench.facts.unit
    bench.fill(2 * block - unit, b"\xff" * (unit - 1) + b"\xfe")

    statuses = [bench.run(fccob(READ_BLOCK, address, bytes([margin]))) for address in (0, block, 2 * block - 16)]

    assert [DONE, NOT_AS_MEANT, NOT_AS_MEANT] == statuses


@pytest.mark.parametrize("margin", [0, 1, 2])
def test_read_1s_section_looks_at_its_section_alone(bench: Bench, margin: int) -> None:
    """Neither at the byte before nor at the one behind."""
    size = bench.facts.section
    bench.fill(PLACE - size, bytes(size))
    bench.fill(PLACE + 2 * size, bytes(size))

    statuses = [
        bench.run(section(READ_SECTION, PLACE + first * size, count, margin))
        for first, count in ((0, 2), (-1, 3), (0, 3))
    ]

    assert [DONE, NOT_AS_MEANT, NOT_AS_MEANT] == statuses


@pytest.mark.parametrize("margin", [0, 1, 2])
def test_read_1s_all_looks_everywhere(bench: Bench, margin: int) -> None:
    """Up to the last byte."""
    command = bytes([READ_ALL, margin])
    before = bench.run(command)
    bench.fill(bench.facts.end - bench.facts.unit, b"\xff" * (bench.facts.unit - 1) + b"\x7f")

    after = bench.run(command)

    assert (DONE, NOT_AS_MEANT) == (before, after)


@pytest.mark.parametrize("margin", [1, 2])
def test_program_check_compares_four_bytes(bench: Bench, margin: int) -> None:
    """On both modules, at any longword."""
    bench.fill(PLACE, bytes(range(1, 9)))

    statuses = [
        bench.run(checking(address, data, margin))
        for address, data in (
            (PLACE, b"\1\2\3\4"),
            (PLACE + 4, b"\5\6\7\x08"),
            (PLACE, b"\4\3\2\1"),
            (PLACE + 8, b"\xff\xff\xff\xfe"),
        )
    ]

    assert [DONE, DONE, NOT_AS_MEANT, NOT_AS_MEANT] == statuses


# ACCERR.

Make = Callable[[Bench], bytes]

MALFORMED: Final[dict[str, Make]] = {
    "unknown code": lambda b: fccob(0x0A, PLACE),
    "the other module's program command": lambda b: fccob(b.facts.others_program, PLACE, bytes(8)),
    "program between units": lambda b: b.program(PLACE + b.facts.unit // 2, bytes(b.facts.unit)),
    "program past the end": lambda b: b.program(b.facts.end, bytes(b.facts.unit)),
    "program in the data flash": lambda b: b.program(0x80_0000, bytes(b.facts.unit)),
    "erase sector between sections": lambda b: fccob(ERASE_SECTOR, PLACE + b.facts.section // 2),
    "erase sector past the end": lambda b: fccob(ERASE_SECTOR, b.facts.end),
    "erase block between sections": lambda b: fccob(ERASE_BLOCK, b.facts.section // 2),
    "erase block past the end": lambda b: fccob(ERASE_BLOCK, b.facts.end),
    "read block between sections": lambda b: fccob(READ_BLOCK, b.facts.section // 2),
    "read block past the end": lambda b: fccob(READ_BLOCK, b.facts.end),
    "read block at margin 3": lambda b: fccob(READ_BLOCK, 0, b"\3"),
    "read section of none": lambda b: section(READ_SECTION, PLACE, 0),
    "read section between sections": lambda b: section(READ_SECTION, PLACE + b.facts.section // 2, 1),
    "read section past the end": lambda b: section(READ_SECTION, b.facts.end - b.facts.section, 2),
    "read section across a block": lambda b: section(READ_SECTION, b.facts.block - b.facts.section, 2),
    "read section at margin 3": lambda b: section(READ_SECTION, PLACE, 1, margin=3),
    "read all at margin 3": lambda b: bytes([READ_ALL, 3]),
    "check between longwords": lambda b: checking(PLACE + 2, bytes(4)),
    "check past the end": lambda b: checking(b.facts.end, bytes(4)),
    "check at the normal margin": lambda b: checking(PLACE, bytes(4), margin=0),
    "check at margin 3": lambda b: checking(PLACE, bytes(4), margin=3),
    "program section of none": lambda b: section(PROGRAM_SECTION, PLACE, 0),
    "program section between sections": lambda b: section(PROGRAM_SECTION, PLACE + b.facts.section // 2, 1),
    "program section past the end": lambda b: section(PROGRAM_SECTION, b.facts.end, 1),
    "program section across a sector": lambda b: section(PROGRAM_SECTION, PLACE - b.facts.section, 2),
    "program section beyond its RAM": lambda b: section(PROGRAM_SECTION, PLACE, 2048 // b.facts.section + 1),
}
"""Commands that the manuals forbid, by what is wrong with them."""


@pytest.mark.parametrize("make", MALFORMED.values(), ids=MALFORMED)
def test_malformed_command_sets_accerr_and_does_nothing(bench: Bench, make: Make) -> None:
    """No time passes and no bit changes."""
    filled(bench, PLACE - bench.facts.sector, 0, bench.facts.end - bench.facts.sector)
    before = bench.content()

    status = bench.run(make(bench))

    assert BAD_ACCESS == status
    assert before == bench.content()
    assert 0.0 == bench.clock.monotonic()
    assert {} == bench.array.erase_counts


def test_largest_commands_that_fit_are_taken(bench: Bench) -> None:
    """A section that ends with its block, and one that fills the programming RAM."""
    facts = bench.facts
    statuses = [
        bench.run(section(READ_SECTION, 0, facts.block // facts.section)),
        bench.run(section(READ_SECTION, facts.end - facts.section, 1)),
        bench.run(section(PROGRAM_SECTION, PLACE, 2048 // facts.section)),
    ]

    assert [DONE] * 3 == statuses


# FPVIOL.

CHANGES: Final[dict[str, Make]] = {
    "program": lambda b: b.program(PLACE, bytes(b.facts.unit)),
    "program section": lambda b: section(PROGRAM_SECTION, PLACE, 1),
    "erase sector": lambda b: fccob(ERASE_SECTOR, PLACE),
    "erase block": lambda b: fccob(ERASE_BLOCK, 0),
    "erase all": lambda b: fccob(ERASE_ALL),
}
"""The commands that change flash, the region at `PLACE` among it."""


def only(region: int) -> int:
    """FPROT that protects one region."""
    return 0xFFFF_FFFF & ~(1 << region)


@pytest.mark.parametrize("make", CHANGES.values(), ids=CHANGES)
def test_command_that_would_change_a_protected_region_sets_fpviol_and_does_nothing(part: Part, make: Make) -> None:
    """One region of those that it changes is enough."""
    region = PLACE // FACTS[part.name].region
    bench = Bench(part, contents=field(part, fprot=only(region)))
    filled(bench, PLACE)
    before = bench.content()

    status = bench.run(make(bench))

    assert PROTECTED == status
    assert before == bench.content()
    assert {} == bench.array.erase_counts


@pytest.mark.parametrize("name", ["program", "program section", "erase sector"])
def test_regions_beside_a_protected_one_can_be_changed(part: Part, name: str) -> None:
    """Protection ends with its region, on both sides."""
    region = PLACE // FACTS[part.name].region
    bench = Bench(part, contents=field(part, fprot=only(region - 1) & only(region + 1)))

    status = bench.run(CHANGES[name](bench))

    assert DONE == status


def test_block_beside_a_protected_region_can_be_erased(part: Part) -> None:
    """The last region below a block is not in it."""
    facts = FACTS[part.name]
    bench = Bench(part, contents=field(part, fprot=only(facts.block // facts.region - 1)))

    statuses = [bench.run(fccob(ERASE_BLOCK, facts.block)), bench.run(fccob(ERASE_BLOCK, 0))]

    assert [DONE, PROTECTED] == statuses


def test_protected_regions_can_be_read_and_checked(part: Part) -> None:
    """Protection is against changes."""
    bench = Bench(part, contents=field(part, fprot=0))

    statuses = [
        bench.run(section(READ_SECTION, PLACE, 4)),
        bench.run(checking(PLACE, b"\xff" * 4)),
        bench.run(fccob(READ_BLOCK, bench.facts.block)),
        bench.run(bytes([READ_ALL, 0])),  # the field itself is not blank
    ]

    assert [DONE, DONE, DONE, NOT_AS_MEANT] == statuses


def test_writing_fprot_protects_and_never_unprotects(bench: Bench) -> None:
    """Its bits can be cleared and not set, until a reset latches them anew."""
    bench.controller.protect(0x0000_FFFF)
    bench.controller.protect(0xFFFF_FFF0)

    assert 0x0000_FFF0 == bench.controller.configuration.fprot
    bench.controller.reset()
    assert 0xFFFF_FFFF == bench.controller.configuration.fprot


def test_writing_fprot_while_a_command_is_under_way_does_nothing(bench: Bench) -> None:
    """It can be written again once the command is through."""
    bench.controller.launch(fccob(ERASE_SECTOR, PLACE))
    bench.controller.protect(0)
    while_busy = bench.controller.configuration.fprot
    bench.controller.wait()

    bench.controller.protect(0)

    assert (0xFFFF_FFFF, 0) == (while_busy, bench.controller.configuration.fprot)


# The command sequence.


@pytest.mark.parametrize("flag", [Status.ACCERR, Status.FPVIOL])
def test_nothing_is_launched_while_an_error_is_set(part: Part, flag: Status) -> None:
    """A one written to the flag, and to no other, clears it and lets commands through again."""
    facts = FACTS[part.name]
    bench = Bench(part, contents=field(part, fprot=only(31)))
    good = bench.program(PLACE, bytes(facts.unit))
    bench.run(fccob(0x0A) if flag is Status.ACCERR else fccob(ERASE_SECTOR, facts.end - facts.sector))

    statuses = [bench.run(good)]
    for ones in (Status.ACCERR ^ Status.FPVIOL ^ flag, Status.RDCOLERR, Status.MGSTAT0, Status.CCIF):
        bench.controller.clear(ones)
        statuses.append(bench.run(good))
    untouched = bench.array.read(PLACE, PLACE + facts.unit)
    bench.controller.clear(flag)

    assert [0x80 | int(flag)] * 5 == statuses
    assert b"\xff" * facts.unit == untouched
    assert DONE == bench.run(good)
    assert bytes(facts.unit) == bench.array.read(PLACE, PLACE + facts.unit)


def test_nothing_is_launched_while_a_command_is_under_way(bench: Bench) -> None:
    """The second command is lost, and the first one goes on."""
    filled(bench, PLACE, PLACE + bench.facts.sector)
    bench.controller.launch(fccob(ERASE_SECTOR, PLACE))
    bench.controller.launch(fccob(ERASE_SECTOR, PLACE + bench.facts.sector))
    bench.controller.launch(fccob(0x0A))

    status = bench.controller.wait()

    assert DONE == int(status)
    assert {PLACE // bench.facts.sector: 1} == bench.array.erase_counts


def test_ccif_is_clear_until_the_command_has_had_its_time(bench: Bench) -> None:
    """What it does shows at its end, whoever looks first."""
    bench.controller.launch(bench.program(PLACE, bytes(bench.facts.unit)))
    at_once = int(bench.controller.status)
    bench.clock.advance(bench.facts.seconds[bench.facts.program][0])

    assert 0 == at_once
    assert bytes(bench.facts.unit) == bench.controller.read(PLACE, PLACE + bench.facts.unit)
    assert DONE == int(bench.controller.status)


@pytest.mark.parametrize("second", [DONE, BAD_ACCESS])
def test_mgstat0_is_cleared_by_the_next_launch_alone(bench: Bench, second: int) -> None:
    """Writing a one to it does nothing; a launch clears it even if the command is then refused."""
    bench.fill(PLACE, bytes(16))
    bench.run(section(READ_SECTION, PLACE, 1))
    bench.controller.clear(Status.MGSTAT0)
    after_writing = int(bench.controller.status)

    status = bench.run(section(READ_SECTION, PLACE + 16, 1 if second == DONE else 0))

    assert (NOT_AS_MEANT, second) == (after_writing, status)


def test_fccob_is_twelve_bytes_and_those_not_given_are_zero(bench: Bench) -> None:
    """What is behind them changes nothing."""
    statuses = [bench.run(b""), bench.run(fccob(READ_BLOCK) + bytes(8) + b"\xff" * 9)]

    assert [DONE, DONE] == statuses


@pytest.mark.parametrize(
    ("command", "busy", "free"),
    [
        (fccob(ERASE_SECTOR, PLACE), PLACE + 0x10000, 0x40000),
        (fccob(ERASE_BLOCK, 0x40000), 0x7FFFC, 0x3FFFC),
        (section(PROGRAM_SECTION, PLACE, 1), 0, 0x7FFFC),
        (section(READ_SECTION, 0x40000, 1), 0x40000, 0x3FFFC),
    ],
)
def test_block_that_a_command_is_at_work_on_reads_garbage(bench: Bench, command: bytes, busy: int, free: int) -> None:
    """RDCOLERR for it, the other blocks read well; afterwards the content is there and the flag stays until cleared."""
    bench.controller.launch(command)
    well = bench.controller.read(free, free + 4)
    before = int(bench.controller.status)
    garbage = bench.controller.read(busy, busy + 4)
    during = int(bench.controller.status)
    bench.controller.wait()
    after = int(bench.controller.status)
    bench.controller.clear(Status.RDCOLERR)

    assert (b"\xff" * 4, 0) == (well, before)
    assert garbage != b"\xff" * 4
    assert (0x40, 0xC0, 0x80) == (during, after, int(bench.controller.status))
    assert bench.array.read(busy, busy + 4) == bench.controller.read(busy, busy + 4)


def test_only_the_busy_part_of_a_read_is_garbage(bench: Bench) -> None:
    """A read over the border of two blocks."""
    border = bench.facts.block
    bench.controller.launch(fccob(ERASE_SECTOR, border))

    found = bench.controller.read(border - 4, border + 4)

    assert b"\xff" * 4 == found[:4]
    assert b"\xff" not in found[4:]


def test_nothing_reads_well_while_all_is_erased(bench: Bench) -> None:
    """Erase all is at work on every block."""
    bench.controller.launch(fccob(ERASE_ALL))

    found = [bench.controller.read(start, start + 1) for start in range(0, bench.facts.end, bench.facts.block)]

    assert b"\xff" not in found


def test_read_outside_the_flash_is_an_error(bench: Bench) -> None:
    """The model has nothing there."""
    with pytest.raises(FlashError, match="outside the flash"):
        bench.controller.read(bench.facts.end - 1, bench.facts.end + 1)


# Time.


@pytest.mark.parametrize(("timing", "column"), [(Timing.TYPICAL, 0), (Timing.MAXIMUM, 1)])
def test_commands_take_the_data_sheets_time(part: Part, timing: Timing, column: int) -> None:
    """One after the other, in virtual time."""
    bench = Bench(part, timing=timing)
    commands = {
        bench.facts.program: bench.program(PLACE, bytes(part.program_unit)),
        ERASE_SECTOR: fccob(ERASE_SECTOR, PLACE),
        ERASE_BLOCK: fccob(ERASE_BLOCK),
        ERASE_ALL: fccob(ERASE_ALL),
    }
    expected = 0.0
    for code, command in commands.items():
        bench.run(command)
        expected += bench.facts.seconds[code][column]

        assert bench.clock.monotonic() == pytest.approx(expected)


def test_time_that_passed_anyway_is_not_waited_for_again(bench: Bench) -> None:
    """A command that was over long ago moves no clock."""
    bench.controller.launch(fccob(ERASE_SECTOR, PLACE))
    bench.clock.advance(10.0)

    bench.controller.wait()

    assert 10.0 == bench.clock.monotonic()


# Reset.


def test_field_is_latched_at_a_reset_and_not_before(bench: Bench) -> None:
    """Who programs protection and security into it is bound by them after the next reset."""
    assert b"\xff" * 16 == bench.controller.read(0x400, 0x410)
    bench.fill(0x408, bytes.fromhex("feffffff fe3bffff"))
    before = bench.controller.configuration
    programmed = bench.run(bench.program(0x800 - bench.facts.unit, bytes(bench.facts.unit)))

    bench.controller.reset()

    after = bench.controller.configuration
    assert (0xFFFF_FFFF, 0xFF, 0xFF) == (before.fprot, before.fsec, before.fopt)
    assert (0xFFFF_FFFE, 0xFE, 0x3B) == (after.fprot, after.fsec, after.fopt)
    assert (DONE, PROTECTED) == (programmed, bench.run(fccob(ERASE_SECTOR, 0)))


def test_reset_clears_the_errors(bench: Bench) -> None:
    """FSTAT is as after power-on."""
    bench.run(fccob(0x0A))

    bench.controller.reset()

    assert DONE == int(bench.controller.status)


def test_reset_leaves_a_command_that_was_through_done(bench: Bench) -> None:
    """Though nobody had looked at FSTAT since."""
    bench.controller.launch(bench.program(PLACE, bytes(bench.facts.unit)))
    bench.clock.advance(1.0)

    bench.controller.reset()

    assert bytes(bench.facts.unit) == bench.array.read(PLACE, PLACE + bench.facts.unit)


def test_reset_tears_a_command_that_is_under_way(bench: Bench) -> None:
    """The manual promises nothing of its sector; it is no command any more."""
    filled(bench, PLACE)
    bench.controller.launch(fccob(ERASE_SECTOR, PLACE))

    bench.controller.reset()

    torn = bench.array.read(PLACE, PLACE + bench.facts.sector)
    assert torn not in (bytes(bench.facts.sector), b"\xff" * bench.facts.sector)
    assert DONE == int(bench.controller.status)
    assert torn == bench.controller.read(PLACE, PLACE + bench.facts.sector)


# Security.


def test_secured_part_refuses_debuggers_and_goes_on_programming(part: Part) -> None:
    """A mass erase opens it, and programs the security byte, so that it stays open."""
    bench = Bench(part, contents=field(part, fsec=0xFF))
    debugger = DebugPort(bench.controller)
    programmed = bench.run(bench.program(PLACE, bytes(part.program_unit)))
    with pytest.raises(DebugRefused, match="mass erase only"):
        debugger.read(0, 4)

    debugger.mass_erase()

    assert DONE == programmed
    assert (Debugging.OPEN, OPENED.ljust(part.flash_end, b"\xff")) == (
        debugger.access,
        debugger.read(0, part.flash_end),
    )
    bench.controller.reset()
    assert Debugging.OPEN is debugger.access


def test_secured_part_without_mass_erase_is_lost_to_debuggers_alone(part: Part) -> None:
    """Its own firmware can still erase it."""
    bench = Bench(part, contents=field(part, fsec=0xEF))
    debugger = DebugPort(bench.controller)

    with pytest.raises(DebugRefused, match="lost"):
        debugger.read(0, 4)
    with pytest.raises(DebugRefused, match="lost"):
        debugger.mass_erase()
    assert {} == bench.array.erase_counts
    assert DONE == bench.run(fccob(ERASE_ALL))
    assert Debugging.OPEN is debugger.access


def test_mass_erase_is_blocked_by_protection(part: Part) -> None:
    """One region is enough; nothing is erased, and the part stays as shut as it was."""
    bench = Bench(part, contents=field(part, fprot=only(0), fsec=0xFF))
    before = bench.content()

    with pytest.raises(DebugRefused, match="protected"):
        DebugPort(bench.controller).mass_erase()

    assert before == bench.content()
    assert Debugging.MASS_ERASE is DebugPort(bench.controller).access


def test_mass_erase_comes_through_whatever_the_core_was_doing(part: Part) -> None:
    """It waits for a command under way, and minds no error of an earlier one."""
    busy, wrong = Bench(part), Bench(part)
    filled(busy, PLACE)
    filled(wrong, PLACE)
    busy.controller.launch(fccob(ERASE_SECTOR, busy.facts.block))
    wrong.run(fccob(0x0A))

    DebugPort(busy.controller).mass_erase()
    DebugPort(wrong.controller).mass_erase()

    assert OPENED.ljust(part.flash_end, b"\xff") == busy.content() == wrong.content()


def test_erase_that_leaves_a_bit_does_not_open_the_part(part: Part) -> None:
    """Erase all verifies first."""
    bench = Bench(part, contents=field(part, fsec=0xFF), faults=FlashFaults(stuck_at_0={PLACE: 1}))

    status = bench.run(fccob(ERASE_ALL))

    assert NOT_AS_MEANT == status
    assert Debugging.MASS_ERASE is DebugPort(bench.controller).access


# Faults.


def test_bit_stuck_at_0_is_never_erased(part: Part) -> None:
    """Not before the first command either; erase and blank check say so, other sectors are good."""
    bench = Bench(part, faults=FlashFaults(stuck_at_0={PLACE + 5: 0x11}))
    new = bench.array.read(PLACE + 4, PLACE + 7)

    statuses = [
        bench.run(command)
        for command in (
            fccob(ERASE_SECTOR, PLACE),
            section(READ_SECTION, PLACE, 1),
            fccob(ERASE_SECTOR, PLACE + bench.facts.sector),
            fccob(ERASE_BLOCK, 0),
        )
    ]

    assert b"\xff\xee\xff" == new == bench.array.read(PLACE + 4, PLACE + 7)
    assert [NOT_AS_MEANT, NOT_AS_MEANT, DONE, NOT_AS_MEANT] == statuses


def test_bit_stuck_at_1_is_never_programmed(part: Part) -> None:
    """MGSTAT0 where it should have been, and only there."""
    unit = part.program_unit
    bench = Bench(part, faults=FlashFaults(stuck_at_1={PLACE + 1: 0x80}))

    statuses = [
        bench.run(bench.program(PLACE, b"\x12\x80".ljust(unit, b"\0"))),
        bench.run(bench.program(PLACE, bytes(unit))),
        bench.run(bench.program(PLACE + unit, bytes(unit))),
        bench.run(fccob(ERASE_SECTOR, PLACE)),
        bench.run(bench.program(PLACE, bytes(unit))),
    ]

    assert [DONE, NOT_AS_MEANT, DONE, DONE, NOT_AS_MEANT] == statuses


def test_bit_stuck_at_1_shows_what_the_program_left(part: Part) -> None:
    """All other bits are as asked for."""
    bench = Bench(part, faults=FlashFaults(stuck_at_1={PLACE + 1: 0x80}))

    bench.run(bench.program(PLACE, bytes(part.program_unit)))

    assert b"\0\x80\0\0" == bench.array.read(PLACE, PLACE + 4)


def test_weak_sector_survives_its_erases_and_no_more(part: Part) -> None:
    """It fails from then on; the factory's margin tells it beforehand, a normal read does not."""
    bench = Bench(part, faults=FlashFaults(weak_sectors={PLACE // part.sector_size: 2}))
    margins = [bench.run(section(READ_SECTION, PLACE, 1, margin)) for margin in (0, 1, 2)]

    statuses = [bench.run(fccob(ERASE_SECTOR, PLACE)) for _ in range(4)]

    assert [DONE, DONE, NOT_AS_MEANT] == margins
    assert [DONE, DONE, NOT_AS_MEANT, NOT_AS_MEANT] == statuses
    assert b"\xfe\xff" == bench.array.read(PLACE, PLACE + 2)


@pytest.mark.parametrize("seed", range(20))
def test_faults_are_drawn_from_the_seed(part: Part, seed: int) -> None:
    """As many as asked for, all in application flash, and the same ones for the same seed."""
    drawn, again, other = (
        FlashFaults.draw(part, number, stuck_at_0=5, stuck_at_1=4, weak_sectors=3, survives=7)
        for number in (seed, seed, seed + 1)
    )

    assert drawn == again != other
    assert [5, 4] == [sum(b.bit_count() for b in m.values()) for m in (drawn.stuck_at_0, drawn.stuck_at_1)]
    assert [7] * 3 == list(drawn.weak_sectors.values())
    assert all(part.application_start <= a < part.flash_end for a in (*drawn.stuck_at_0, *drawn.stuck_at_1))
    assert all(part.application_start <= i * part.sector_size < part.flash_end for i in drawn.weak_sectors)


# Power cuts.


def cut_at(part: Part, mode: CutMode, make: Make, *, number: int = 1, seed: int = 0) -> tuple[Bench, bytes]:
    """A bench on which `make`'s command lost its power, over random bytes; and what was in flash before."""
    bench = Bench(part, supply=Supply(CommandCut(number, mode), seed=seed))
    bench.fill(PLACE + bench.facts.sector // 2, random.Random(3).randbytes(64))
    for _ in range(number - 1):
        bench.run(section(READ_SECTION, 0, 1))
    before = bench.content()
    with pytest.raises(PowerLost, match=f"{'during' if mode is CutMode.TORN else mode.value} flash command {number}$"):
        bench.run(make(bench))
    return bench, before


CUT: Final = {name: CHANGES[name] for name in ("program", "program section", "erase sector")}


def uncut(part: Part, make: Make) -> bytes:
    """The flash after `make`'s command, over the same bytes, with power."""
    bench = Bench(part)
    bench.fill(PLACE + bench.facts.sector // 2, random.Random(3).randbytes(64))
    bench.run(make(bench))
    return bench.content()


def bits_changed(before: bytes, after: bytes) -> int:
    """The bits that differ, as a number."""
    return int.from_bytes(before, "little") ^ int.from_bytes(after, "little")


@pytest.mark.parametrize("make", CUT.values(), ids=CUT)
def test_cut_before_a_command_changes_nothing_and_one_after_it_nothing_less(part: Part, make: Make) -> None:
    """The cut before wears nothing and takes no time."""
    early, before = cut_at(part, CutMode.BEFORE, make)
    late, _ = cut_at(part, CutMode.AFTER, make)

    assert (before, {}, 0.0) == (early.content(), early.array.erase_counts, early.clock.monotonic())
    assert uncut(part, make) == late.content()


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("make", CUT.values(), ids=CUT)
def test_torn_command_has_changed_some_of_its_bits(part: Part, make: Make, seed: int) -> None:
    """At least one, not all, and none that the command would not have changed."""
    bench, before = cut_at(part, CutMode.TORN, make, seed=seed)

    wanted, changed = bits_changed(before, uncut(part, make)), bits_changed(before, bench.content())
    assert 0 < changed.bit_count() < wanted.bit_count()
    assert 0 == changed & ~wanted


@pytest.mark.parametrize("make", CUT.values(), ids=CUT)
def test_torn_command_is_drawn_from_seed_and_number(part: Part, make: Make) -> None:
    """The same cut can be played again alone; another seed, or another number, tears otherwise."""
    torn = [
        cut_at(part, CutMode.TORN, make, number=number, seed=seed)[0].content()
        for number, seed in ((1, 0), (1, 0), (1, 1), (2, 0))
    ]

    assert torn[0] == torn[1]
    assert 3 == len(set(torn))


def test_torn_command_of_one_bit_has_changed_it_or_not(part: Part) -> None:
    """There is nothing between."""
    one_bit = b"\xfe".ljust(part.program_unit, b"\xff")

    found = {
        cut_at(part, CutMode.TORN, lambda b: b.program(PLACE, one_bit), seed=seed)[0].array.read(PLACE, PLACE + 1)
        for seed in range(40)
    }

    assert {b"\xfe", b"\xff"} == found


def test_torn_command_of_two_bits_has_changed_one_of_them(part: Part) -> None:
    """Either, but neither none nor both."""
    two_bits = b"\x7e".ljust(part.program_unit, b"\xff")

    found = {
        cut_at(part, CutMode.TORN, lambda b: b.program(PLACE, two_bits), seed=seed)[0].array.read(PLACE, PLACE + 1)
        for seed in range(40)
    }

    assert {b"\x7f", b"\xfe"} == found


@pytest.mark.parametrize("mode", [CutMode.TORN, CutMode.AFTER])
def test_cut_erase_wears_its_sector(part: Part, mode: CutMode) -> None:
    """The high voltage was there."""
    bench, _ = cut_at(part, mode, CHANGES["erase sector"])

    assert {PLACE // part.sector_size: 1} == bench.array.erase_counts


def test_torn_erase_all_does_not_open_the_part(part: Part) -> None:
    """And a debugger that cut it by mistake can do it again."""
    bench = Bench(part, supply=Supply(CommandCut(1, CutMode.TORN)), contents=field(part, fsec=0xFF))

    with pytest.raises(PowerLost):
        bench.run(fccob(ERASE_ALL))

    assert Debugging.MASS_ERASE is DebugPort(bench.controller).access


def test_refused_commands_do_not_count_for_a_cut(part: Part) -> None:
    """The flash does nothing for them, so there is no such moment."""
    supply = Supply(CommandCut(1, CutMode.BEFORE))
    bench = Bench(part, supply=supply)
    bench.run(fccob(0x0A))

    assert 0 == supply.commands


# The driver.


def test_driver_programs_unit_by_unit_and_reads_back(bench: Bench) -> None:
    """Bytes are in memory order, whatever the registers want; a command for each unit, after one to erase."""
    supply = Supply()
    bench = Bench(bench.part, supply=supply)
    flash = ControlledFlash(bench.controller)
    data = bytes(range(8 * bench.facts.unit))

    flash.erase_sector(PLACE + 1)
    flash.program(PLACE, data)

    assert data == flash.read(PLACE, PLACE + len(data))
    assert 9 == supply.commands


@pytest.mark.parametrize(
    ("contents", "faults", "message"),
    [
        ({"fprot": only(PLACE // 0x4000) & only(PLACE // 0x8000)}, FlashFaults(), "FPVIOL"),
        ({}, FlashFaults(stuck_at_0={PLACE + 8: 1}), "MGSTAT0"),
    ],
)
def test_driver_says_what_fstat_said(part: Part, contents: dict[str, int], faults: FlashFaults, message: str) -> None:
    """The command, its address and the flag; and the next command is not kept from anything."""
    bench = Bench(part, contents=field(part, **contents), faults=faults)
    flash = ControlledFlash(bench.controller)

    with pytest.raises(FlashError, match=f"^erase sector at 0x00008000: {message}$") as caught:
        flash.erase_sector(PLACE)

    assert PLACE == caught.value.address
    flash.erase_sector(bench.facts.block)


@pytest.mark.parametrize("address", [-0x100_0000, 0x100_0000, 0x100_8000])
def test_driver_does_not_wrap_at_24_bits(bench: Bench, address: int) -> None:
    """What the registers would leave of such an address is another one."""
    flash = ControlledFlash(bench.controller)

    with pytest.raises(FlashError, match="24 bits"):
        flash.erase_sector(address)
    with pytest.raises(FlashError, match="24 bits"):
        flash.program(address, bytes(bench.facts.unit))
    assert {} == bench.array.erase_counts
    assert b"\xff" * bench.facts.end == bench.content()


def test_driver_waits_for_a_command_that_is_under_way(bench: Bench) -> None:
    """Launched meanwhile, its own would be lost without a word."""
    bench.controller.launch(fccob(ERASE_SECTOR, PLACE))

    ControlledFlash(bench.controller).erase_sector(bench.facts.block)

    assert {PLACE // bench.facts.sector: 1, bench.facts.block // bench.facts.sector: 1} == bench.array.erase_counts


def test_driver_clears_what_an_earlier_command_left(bench: Bench) -> None:
    """Write 0x70 first, as every Kinetis driver does."""
    bench.run(fccob(0x0A))

    ControlledFlash(bench.controller).erase_sector(PLACE)

    assert {PLACE // bench.facts.sector: 1} == bench.array.erase_counts


def test_trace_has_resets_commands_and_cuts(part: Part) -> None:
    """With what FSTAT said of them, in virtual time."""
    clock = VirtualClock()
    trace = EventTrace(clock)
    supply = Supply(CommandCut(2, CutMode.AFTER))
    controller = FlashController(Flash(part, SectorPool(), field(part)), clock, supply=supply, trace=trace)
    controller.execute(fccob(ERASE_SECTOR, PLACE))
    controller.execute(fccob(0x0A, PLACE))
    controller.clear(Status.ACCERR)
    with pytest.raises(PowerLost):
        controller.execute(fccob(ERASE_SECTOR, PLACE))

    took = FACTS[part.name].seconds[ERASE_SECTOR][0]
    assert [
        (0.0, "reset", {"fprot": "FFFFFFFF", "fsec": "FE", "debug": "open"}),
        (took, "flash", {"command": "erase_sector", "address": PLACE}),
        (took, "flash", {"command": "0x0a", "address": PLACE, "status": "ACCERR"}),
        (2 * took, "flash", {"command": "erase_sector", "address": PLACE, "cut": "after"}),
    ] == [(event.time_s, event.kind, event.facts) for event in trace.events]


# Any sequence, against rules written down once more.


class Oracle:
    """The manual's rules over a plain array, without time, faults and security."""

    def __init__(self, facts: Facts, memory: bytearray, fprot: int) -> None:
        self.facts = facts
        self.memory = memory
        self.fprot = fprot
        self.buffer = b""
        self.errors = 0

    def execute(self, given: bytes) -> int:
        """FSTAT after these FCCOB bytes."""
        if self.errors & 0x30 == 0:
            self.errors = self.verdict((given + bytes(12))[:12])
        return 0x80 | self.errors

    def verdict(self, c: bytes) -> int:
        """Do it; returns the error bits that it leaves."""
        f = self.facts
        address, count = c[1] << 16 | c[2] << 8 | c[3], (c[4] << 8 | c[5]) * f.section
        starts, change, data = address, b"", b""
        if c[0] == f.program:
            data = bytes(c[4 + (i ^ 3)] for i in range(f.unit))
            bad, ends, grain, change = False, address + f.unit, f.unit, b"program"
        elif c[0] == 0x0B:
            data = self.buffer[:count]
            bad, ends, grain, change = not 0 < count <= 2048, address + count, f.section, b"program"
            bad = bad or address // f.sector != (ends - 1) // f.sector
        elif c[0] == 0x09:
            starts = address // f.sector * f.sector
            bad, ends, grain, change = False, starts + f.sector, f.section, b"erase"
        elif c[0] in (0x00, 0x08):
            starts = address // f.block * f.block
            bad, ends, grain, change = c[0] == 0 and c[4] > 2, starts + f.block, f.section, b"erase" * (c[0] == 8)
        elif c[0] == 0x01:
            bad, ends, grain = c[6] > 2 or count == 0, address + count, f.section
            bad = bad or address // f.block != (ends - 1) // f.block
        elif c[0] == 0x02:
            bad, ends, grain = c[4] not in (1, 2), address + 4, 4
        elif c[0] in (0x40, 0x44):
            starts, ends, grain, address = 0, f.end, 1, 0
            bad, change = c[0] == 0x40 and c[1] > 2, b"erase" * (c[0] == 0x44)
        else:
            return 0x20
        if bad or address % grain or ends > f.end:
            return 0x20
        if change and any(self.fprot >> a // f.region & 1 == 0 for a in (*range(starts, ends, f.unit), ends - 1)):
            return 0x10
        if change == b"erase":
            self.memory[starts:ends] = b"\xff" * (ends - starts)
            return 0
        if change == b"program":
            for i, byte in enumerate(data):
                self.memory[starts + i] &= byte
            return int(bytes(self.memory[starts:ends]) != data)
        if c[0] == 0x02:
            return int(bytes(self.memory[starts:ends]) != bytes(c[8 + (i ^ 3)] for i in range(4)))
        return int(self.memory[starts:ends].count(0xFF) != ends - starts)


@st.composite
def sequences(draw: st.DrawFn) -> tuple[Part, int, list[tuple[str, bytes]]]:
    """A part, its FPROT, and what is done to its controller: mostly good commands, at places where it matters."""
    part = draw(st.sampled_from(list(PARTS.values())))
    f = FACTS[part.name]
    near = (0, 0x400, f.sector, f.region, f.block - f.sector, f.block, f.end - f.sector, f.end)
    nearby = st.builds(
        lambda base, offset: min(max(base + offset, 0), 0xFF_FFFF),
        st.sampled_from(near),
        st.sampled_from((-16, -8, -4, 0, 0, 0, 0, 4, 8, 16, 24, 2, 1)),
    )
    code = st.sampled_from(
        (f.program, f.program, f.program, 0x09, 0x09, 0x01, 0x01, 0x02, 0x02, 0x0B, 0x0B, 0x00, 0x08)
    )
    rare = st.sampled_from((f.others_program, 0x40, 0x44, 0x03, 0x45, 0xFF))
    unit_data = st.lists(st.sampled_from((0xFF, 0xFF, 0x0F, 0xF0, 0)), min_size=8, max_size=8).map(bytes)
    counts = st.sampled_from((1, 2, f.sector // f.section, f.block // f.section, 2048 // f.section + 1, 0))
    section_data = st.builds(
        lambda count, margin: count.to_bytes(2, "big") + bytes([margin]), counts, st.integers(0, 3)
    )
    check_data = st.builds(lambda margin, data: bytes([margin, 0, 0, 0]) + data, st.integers(0, 3), unit_data)
    commands = st.builds(
        fccob, st.one_of(code, code, code, rare), nearby, st.one_of(unit_data, section_data, check_data)
    )
    steps = st.one_of(
        st.tuples(st.just("run"), commands),
        st.tuples(st.just("run"), commands),
        st.tuples(st.just("run"), commands),
        st.tuples(st.just("run"), st.binary(max_size=14)),
        st.tuples(st.just("clear"), st.sampled_from((b"\x70", b"\x70", b"\x20", b"\x10", b"\x01"))),
        st.tuples(st.just("protect"), st.integers(0, 31).map(lambda r: only(r).to_bytes(4, "big"))),
        st.tuples(st.just("buffer"), st.binary(min_size=1, max_size=8)),
    )
    fprot = draw(st.sampled_from((0xFFFF_FFFF, 0xFFFF_FFFF, only(0), only(31), only(f.block // f.region), 0)))
    return part, fprot, draw(st.lists(steps, min_size=1, max_size=25))


@given(sequences(), st.booleans())
def test_any_sequence_of_commands_is_what_the_rules_say(
    sequence: tuple[Part, int, list[tuple[str, bytes]]], hurried: bool
) -> None:
    """Status and all of the flash are equal after each command; errors are cleared always, or when it happens."""
    part, fprot, steps = sequence
    bench = Bench(part, contents=field(part, fprot=fprot))
    oracle = Oracle(bench.facts, bytearray(bench.content()), fprot)
    oracle.buffer = bytes(2048)
    bench.controller.section_buffer[:] = oracle.buffer
    for what, data in steps:
        match what:
            case "clear":
                bench.controller.clear(Status(data[0]))
                oracle.errors &= ~(data[0] & 0x70)
            case "protect":
                bench.controller.protect(int.from_bytes(data, "big"))
                oracle.fprot &= int.from_bytes(data, "big")
            case "buffer":
                oracle.buffer = (data * 2048)[:2048]
                bench.controller.section_buffer[:] = oracle.buffer
            case _:
                if hurried:
                    bench.controller.clear(Status(0x70))
                    oracle.errors &= 0x8F

                assert oracle.execute(data) == bench.run(data)
        assert bytes(oracle.memory) == bench.content()
