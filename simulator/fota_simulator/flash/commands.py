"""The flash commands that are modelled, and how long they take: data.

Sources: K60 sub-family reference manuals, chapters "Flash Memory Module (FTFL)" and "(FTFE)"; codes, alignments and
error conditions from the command descriptions there. Times are those of the K60 data sheets as remembered, not read off
a page: treat them as defaults.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from fota_protocol.parts import Part


class Command(enum.IntEnum):
    """FCCOB0."""

    READ_1S_BLOCK = 0x00
    READ_1S_SECTION = 0x01
    PROGRAM_CHECK = 0x02
    PROGRAM_LONGWORD = 0x06
    PROGRAM_PHRASE = 0x07
    ERASE_BLOCK = 0x08
    ERASE_SECTOR = 0x09
    PROGRAM_SECTION = 0x0B
    READ_1S_ALL = 0x40
    ERASE_ALL = 0x44


class Status(enum.IntFlag):
    """FSTAT."""

    CCIF = 0x80
    """No command is under way."""
    RDCOLERR = 0x40
    """The core read from a block that a command was at work on, and got garbage."""
    ACCERR = 0x20
    """The command is not one of this module, or its address or count is not one that it takes."""
    FPVIOL = 0x10
    """The command would have changed a protected region."""
    MGSTAT0 = 0x01
    """The flash did not read as the command meant it to."""


class Margin(enum.IntEnum):
    """The level at which a read is judged: cells that are losing their charge fail at the stricter ones first."""

    NORMAL = 0
    USER = 1
    FACTORY = 2


class Timing(enum.Enum):
    """Which of the data sheet's columns commands take."""

    TYPICAL = "typical"
    MAXIMUM = "maximum"


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds that a command takes."""

    typical_s: float
    maximum_s: float

    def of(self, timing: Timing) -> float:
        """The column asked for."""
        return self.typical_s if timing is Timing.TYPICAL else self.maximum_s


@dataclass(frozen=True, slots=True)
class FlashModule:
    """What tells FTFL from FTFE. Sizes and alignments in bytes."""

    name: str
    program_command: Command
    section_unit: int
    """What the counts of section commands count, and the alignment of their addresses."""
    erase_alignment: int
    """Of the address of an erase-sector command, which may be anywhere in the sector."""
    section_buffer: int
    """Bytes of programming RAM that a program-section command can take."""
    times: Mapping[Command, Times]


_MILLISECOND: Final = 1e-3
_MICROSECOND: Final = 1e-6

MODULES: Final[Mapping[str, FlashModule]] = {
    "FTFL": FlashModule(
        name="FTFL",
        program_command=Command.PROGRAM_LONGWORD,
        section_unit=8,
        erase_alignment=8,
        section_buffer=2048,
        times={
            Command.READ_1S_BLOCK: Times(1.0 * _MILLISECOND, 1.7 * _MILLISECOND),
            Command.READ_1S_SECTION: Times(30 * _MICROSECOND, 60 * _MICROSECOND),
            Command.PROGRAM_CHECK: Times(30 * _MICROSECOND, 45 * _MICROSECOND),
            Command.PROGRAM_LONGWORD: Times(65 * _MICROSECOND, 145 * _MICROSECOND),
            Command.ERASE_BLOCK: Times(122 * _MILLISECOND, 985 * _MILLISECOND),
            Command.ERASE_SECTOR: Times(14 * _MILLISECOND, 114 * _MILLISECOND),
            Command.PROGRAM_SECTION: Times(9.3 * _MILLISECOND, 21 * _MILLISECOND),
            Command.READ_1S_ALL: Times(1.8 * _MILLISECOND, 3.4 * _MILLISECOND),
            Command.ERASE_ALL: Times(250 * _MILLISECOND, 2000 * _MILLISECOND),
        },
    ),
    "FTFE": FlashModule(
        name="FTFE",
        program_command=Command.PROGRAM_PHRASE,
        section_unit=16,
        erase_alignment=16,
        section_buffer=2048,
        times={
            Command.READ_1S_BLOCK: Times(1.0 * _MILLISECOND, 1.7 * _MILLISECOND),
            Command.READ_1S_SECTION: Times(50 * _MICROSECOND, 100 * _MICROSECOND),
            Command.PROGRAM_CHECK: Times(40 * _MICROSECOND, 95 * _MICROSECOND),
            Command.PROGRAM_PHRASE: Times(70 * _MICROSECOND, 150 * _MICROSECOND),
            Command.ERASE_BLOCK: Times(122 * _MILLISECOND, 985 * _MILLISECOND),
            Command.ERASE_SECTOR: Times(15 * _MILLISECOND, 115 * _MILLISECOND),
            Command.PROGRAM_SECTION: Times(10 * _MILLISECOND, 22 * _MILLISECOND),
            Command.READ_1S_ALL: Times(3.6 * _MILLISECOND, 6.8 * _MILLISECOND),
            Command.ERASE_ALL: Times(500 * _MILLISECOND, 4000 * _MILLISECOND),
        },
    ),
}
"""By the name that a part gives."""


def module_of(part: Part) -> FlashModule:
    """The flash module of a part."""
    return MODULES[part.flash_module]


def command_word(command: Command, address: int = 0) -> bytes:
    """FCCOB0..3: the command, and the 24 bits of an address, high byte first."""
    return bytes([command, *(address & 0xFF_FFFF).to_bytes(3, "big")])


def data_words(data: bytes) -> bytes:
    """FCCOB bytes for memory bytes: of each longword the byte at the highest address first."""
    if len(data) == 4:
        return data[::-1]
    return b"".join(data[i : i + 4][::-1] for i in range(0, len(data), 4))
