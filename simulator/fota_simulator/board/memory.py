"""What code on the board can reach: its flash through the controller, a few registers, and zeros elsewhere.

Reading goes over the bus, by all 32 bits of an address. Erasing and programming go through the flash controller, which
has room for 24 (`FCCOB1..3`): what a caller puts above is lost (K60 reference manual, "Flash Common Command Object").
The bus faults that silicon has where nothing answers are not modelled: there, zeros are read.
"""

import enum
from typing import Final

from ..errors import FlashError
from ..flash import ERASED
from ..flash.commands import Command, Status, command_word, data_words
from ..flash.controller import FlashController

_SDID: Final = 0x4004_8024
"""SIM_SDID (K60 reference manual, "System Integration Module")."""

_FTFL: Final = 0x4002_0000
"""The flash module's registers: FSTAT at 0, FSEC at 2, FOPT at 3, FPROT3..0 at 0x10 (same, "Flash Memory Module")."""

_ERRORS: Final = Status.RDCOLERR | Status.ACCERR | Status.FPVIOL
_BLOCKED: Final = Status.ACCERR | Status.FPVIOL


class Programmed(enum.Enum):
    """What came of programming."""

    DONE = "done"
    REFUSED = "refused"
    """ACCERR or FPVIOL, or no flash to be had; what lies before the refused unit is programmed."""
    MISREAD = "misread"
    """MGSTAT0: some unit was not erased before, or does not hold its bits."""


class BoardMemory:
    """The memory of a board around `controller`. `sdid` are the low 16 bits of SIM_SDID."""

    def __init__(self, controller: FlashController, sdid: int) -> None:
        self.part = controller.part
        self._controller = controller
        self._sdid = sdid

    def read(self, address: int, size: int) -> bytes:
        """What the bus reads from [address, address + size)."""
        flash_end = self.part.flash_end
        end = address + size
        content = self._controller.read(address, min(end, flash_end)) if address < min(end, flash_end) else b""
        rest = range(address + len(content), end)
        if not rest:
            return content
        registers = self._registers()
        return content + bytes(registers.get(at, 0) for at in rest)

    def erase_sector(self, address: int) -> bool:
        """Issue the command for the sector that holds `address`; returns whether it went well."""
        return self._execute(command_word(Command.ERASE_SECTOR, address)) is Programmed.DONE

    def program(self, address: int, data: bytes) -> Programmed:
        """Program `data`, FF behind it to a whole unit, unit by unit, until one is refused."""
        unit = self.part.program_unit
        data = data.ljust(-(-len(data) // unit) * unit, ERASED)
        command = self._controller.module.program_command
        worst = Programmed.DONE
        for offset in range(0, len(data), unit):
            fccob = command_word(command, address + offset) + data_words(data[offset : offset + unit])
            match self._execute(fccob):
                case Programmed.REFUSED:
                    return Programmed.REFUSED
                case Programmed.MISREAD:
                    worst = Programmed.MISREAD
        return worst

    def _execute(self, fccob: bytes) -> Programmed:
        self._controller.clear(_ERRORS)
        try:
            status = self._controller.execute(fccob)
        except FlashError:  # its file cannot be written, or the model is strict
            return Programmed.REFUSED
        if status & _BLOCKED:
            return Programmed.REFUSED
        return Programmed.MISREAD if status & Status.MGSTAT0 else Programmed.DONE

    def _registers(self) -> dict[int, int]:
        """Registers that do not read as zero, byte by byte."""
        configuration = self._controller.configuration
        contents = {
            _SDID: self._sdid.to_bytes(4, "little"),
            _FTFL: bytes([self._controller.status]),
            _FTFL + 2: bytes([configuration.fsec, configuration.fopt]),
            _FTFL + 0x10: configuration.fprot.to_bytes(4, "little"),
        }
        return {start + i: byte for start, content in contents.items() for i, byte in enumerate(content)}
