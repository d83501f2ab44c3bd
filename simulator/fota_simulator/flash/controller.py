"""The flash controller, FTFL or FTFE: commands over one array, with status, protection, times, faults and power cuts.

`FlashController` is the module as its registers show it: `launch` takes the FCCOB bytes and starts a command, `status`
is FSTAT, `clear` writes ones to it. That is the seam for a face of byte-wide registers. A command is under way until
the clock has passed its time; `wait` moves the clock there. `ControlledFlash` is the driver that bootloaders have in
RAM: it launches, waits, looks at FSTAT and raises `FlashError`.

Rules of the manual. ACCERR or FPVIOL, once set, keep any command from being launched until they are cleared; while a
command is under way, nothing can be launched and FCCOB cannot be written. A command with a bad code, address, alignment
or count sets ACCERR and does nothing; one that would change a protected region sets FPVIOL and does nothing.
Programming clears bits and sets none, so a unit that was not erased reads old AND new, and MGSTAT0 says so where that
is not what was asked for.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from fota_protocol.parts import Part
from fota_transport.clock import VirtualClock

from ..errors import DebugRefused, FlashError, Overprogrammed
from ..events import EventTrace, Fact
from ..supply import CutMode, Supply
from .array import ERASED, Flash
from .commands import Command, FlashModule, Margin, Status, Timing, command_word, data_words, module_of
from .configuration import FIELD_SIZE, FIELD_START, FSEC_ADDRESS, UNSECURED_FSEC, Debugging, FlashConfiguration
from .faults import NO_FAULTS, FlashFaults

_CCIF: Final = int(Status.CCIF)  # plain numbers: every operation on a flag costs as much as a whole command
_MGSTAT0: Final = int(Status.MGSTAT0)
_ERRORS: Final = int(Status.RDCOLERR | Status.ACCERR | Status.FPVIOL)
"""What writing ones clears."""

_BLOCKED: Final = int(Status.ACCERR | Status.FPVIOL)
"""What keeps a command from being launched."""

_FCCOB_SIZE: Final = 12

_NAMES: Final = {int(command): command.name.lower() for command in Command}


class _Refused(Exception):
    """The command is not started; `status` is what FSTAT shows for it."""

    def __init__(self, status: Status) -> None:
        super().__init__(status)
        self.status = status


@dataclass(slots=True)
class _Running:
    command: Command
    address: int
    ends_s: float
    cut: CutMode | None
    change: Callable[[CutMode | None], bool]
    """Do what the command does, or a part of it; returns whether the flash then reads as it should."""
    blocks: range
    """Indices of the blocks that cannot be read meanwhile."""


class FlashController:
    """One flash module over `array`. Its configuration field is latched when it is made, and by `reset`."""

    def __init__(
        self,
        array: Flash,
        clock: VirtualClock,
        *,
        supply: Supply | None = None,
        faults: FlashFaults = NO_FAULTS,
        timing: Timing = Timing.TYPICAL,
        strict: bool = False,
        trace: EventTrace | None = None,
    ) -> None:
        self.array = array
        self.part: Part = array.part
        self.module: FlashModule = module_of(array.part)
        self.configuration = FlashConfiguration(0, 0, 0)
        """As latched at the last reset; FPROT as it was written since."""
        self.overprogrammed = 0
        """Program commands for a unit that was not blank."""
        self.section_buffer = bytearray(self.module.section_buffer)
        """The programming RAM that a program-section command takes its data from."""
        self._clock = clock
        self._supply = Supply() if supply is None else supply
        self._faults = faults
        self._commands: dict[int, tuple[Command, float]] = {
            int(command): (command, times.of(timing)) for command, times in self.module.times.items()
        }
        """The commands of this module by their codes, with the seconds that each takes."""
        self._strict = strict
        self._trace = trace
        self._status = _CCIF
        self._running: _Running | None = None
        for address in faults.stuck_at_0:
            self._stick(address)
        self.reset()

    @property
    def status(self) -> Status:
        """FSTAT now: a command whose time has passed is through."""
        return Status(self._now())

    def reset(self) -> None:
        """A reset of the part: a command under way is torn, the field at 0x400 is latched."""
        self._now()
        aborted, self._running = self._running, None
        if aborted is not None:
            aborted.change(CutMode.TORN)
        self._status = _CCIF
        self.configuration = FlashConfiguration.decode(self.array.read(FIELD_START, FIELD_START + FIELD_SIZE))
        if self._trace is not None:
            found = self.configuration
            self._trace.record(
                "reset", fprot=f"{found.fprot:08X}", fsec=f"{found.fsec:02X}", debug=found.debugging.value
            )

    def clear(self, flags: Status) -> None:
        """Write ones to RDCOLERR, ACCERR, FPVIOL."""
        self._status &= ~(int(flags) & _ERRORS)

    def protect(self, fprot: int) -> None:
        """Write FPROT: bits can only be cleared until the next reset, and not while a command is under way."""
        if self._now() & _CCIF:
            found = self.configuration
            self.configuration = FlashConfiguration(found.fprot & fprot, found.fsec, found.fopt)

    def read(self, start: int, end: int) -> bytes:
        """What the core reads from [start, end); garbage, and RDCOLERR, from a block that a command is at work on.

        Raises `FlashError` outside the flash.
        """
        busy = not self._now() & _CCIF  # first of all: a command whose time has passed changes what is read
        content = self.array.read(start, end)
        if busy and self._running is not None:
            size, blocks = self.part.block_size, self._running.blocks
            if any(block in blocks for block in self._blocks(start, end)):
                self._status |= int(Status.RDCOLERR)
                return bytes(
                    byte ^ 0xFF if address // size in blocks else byte for address, byte in enumerate(content, start)
                )
        return content

    def launch(self, fccob: bytes) -> None:
        """Clear CCIF with these FCCOB bytes (command, address, …; up to 12): start a command, or set why not.

        Raises `PowerLost` where the supply fails before the command does anything.
        """
        if not self._now() & _CCIF or self._status & _BLOCKED:
            return
        fccob = fccob.ljust(_FCCOB_SIZE, b"\0")[:_FCCOB_SIZE]
        self._status &= ~_MGSTAT0
        address = int.from_bytes(fccob[1:4], "big")
        try:
            known = self._commands.get(fccob[0])
            if known is None:
                raise _Refused(Status.ACCERR)
            command, takes_s = known
            blocks, change = self._prepared(command, address, fccob)
        except _Refused as refused:
            self._status |= int(refused.status)
            self._note(fccob[0], address)
            return
        cut = self._supply.flash_command()
        self._status &= ~_CCIF
        self._running = _Running(command, address, self._clock.monotonic() + takes_s, cut, change, blocks)

    def wait(self) -> Status:
        """Let time pass until no command is under way; returns FSTAT. Raises `PowerLost` as the supply has it."""
        return Status(self._finish())

    def execute(self, fccob: bytes) -> Status:
        """`launch` and `wait`."""
        self.launch(fccob)
        return self.wait()

    def _now(self) -> int:
        """FSTAT now, as a number."""
        if self._running is not None and self._clock.monotonic() >= self._running.ends_s:
            self._complete(self._running)
        return self._status

    def _finish(self) -> int:
        """FSTAT once no command is under way, as a number."""
        if self._running is not None:
            self._clock.move_to(max(self._clock.monotonic(), self._running.ends_s))
        return self._now()

    def _prepared(self, command: Command, address: int, fccob: bytes) -> tuple[range, Callable[[CutMode | None], bool]]:
        """The blocks that a command occupies, and what it will do; raises `_Refused`."""
        part, unit = self.part, self.module.section_unit
        match command:
            case Command.PROGRAM_LONGWORD | Command.PROGRAM_PHRASE:
                data = data_words(fccob[4 : 4 + part.program_unit])
                self._check(address, len(data), len(data), within=part.block_size)
                self._check_protection(address, address + len(data))
                return self._blocks(address, address + 1), lambda cut: self._program(address, data, cut)
            case Command.READ_1S_ALL:
                margin = _margin(fccob[1])
                return self._blocks(0, part.flash_end), lambda _: self._reads_erased(0, part.flash_end, margin)
            case Command.READ_1S_BLOCK:
                margin = _margin(fccob[4])
                start, end = self._block(address)
                return self._blocks(start, end), lambda _: self._reads_erased(start, end, margin)
            case Command.READ_1S_SECTION:
                margin = _margin(fccob[6])
                size = int.from_bytes(fccob[4:6], "big") * unit
                self._check(address, size, unit, within=part.block_size)
                return self._blocks(address, address + size), lambda _: self._reads_erased(
                    address, address + size, margin
                )
            case Command.PROGRAM_CHECK:
                margin = _margin(fccob[4], lowest=Margin.USER)
                expected = data_words(fccob[8:12])
                self._check(address, 4, 4, within=part.block_size)
                return self._blocks(address, address + 4), lambda _: self._reads(address, expected, margin)
            case Command.PROGRAM_SECTION:
                size = int.from_bytes(fccob[4:6], "big") * unit
                self._check(address, size, unit, within=part.sector_size)
                if size > self.module.section_buffer:
                    raise _Refused(Status.ACCERR)
                self._check_protection(address, address + size)
                section = bytes(self.section_buffer[:size])
                return self._blocks(address, address + 1), lambda cut: self._program(address, section, cut)
            case Command.ERASE_SECTOR:
                self._check(address, 1, self.module.erase_alignment, within=part.block_size)
                index = address // part.sector_size
                self._check_protection(index * part.sector_size, (index + 1) * part.sector_size)
                return self._blocks(address, address + 1), lambda cut: self._erase(range(index, index + 1), cut)
            case Command.ERASE_BLOCK:
                start, end = self._block(address)
                self._check_protection(start, end)
                return self._blocks(start, end), lambda cut: self._erase(self._sectors(start, end), cut)
            case Command.ERASE_ALL:
                self._check_protection(0, part.flash_end)
                return self._blocks(0, part.flash_end), self._erase_all

    def _complete(self, running: _Running) -> None:
        self._running = None
        self._status |= _CCIF
        if not running.change(running.cut):
            self._status |= _MGSTAT0
        self._note(running.command, running.address, running.cut)
        if running.cut is not None:
            raise self._supply.fail_in_command(running.cut)

    def _note(self, code: int, address: int, cut: CutMode | None = None) -> None:
        """Note a command that is over, or that was not started."""
        if self._trace is None:
            return
        facts: dict[str, Fact] = {"command": _NAMES.get(code, f"{code:#04x}")}
        if code not in (Command.READ_1S_ALL, Command.ERASE_ALL):  # these have none
            facts["address"] = address
        if cut is not None:
            facts["cut"] = cut.value
        if errors := Status(self._status & (_ERRORS | _MGSTAT0)):
            facts["status"] = "+".join(str(flag.name) for flag in errors)
        self._trace.record("flash", **facts)

    # What commands do to the array.

    def _program(self, address: int, data: bytes, cut: CutMode | None) -> bool:
        end = address + len(data)
        old = self.array.read(address, end)
        blank = not old.strip(ERASED)
        if not blank:
            self.overprogrammed += 1
            if self._strict and cut is None:
                raise Overprogrammed(
                    f"programming [{address:#010x}, {end:#010x}), which holds {old.hex(' ')}, expected it erased",
                    address=address,
                )
        new = self._faults.after_program(address, old, data) if self._faults.stuck_at_1 else data
        if cut is CutMode.TORN:
            new = self._torn(old, bytes(a & b for a, b in zip(old, new, strict=True)))
        self.array.program(address, new)
        return (blank and new is data) or self.array.read(address, end) == data

    def _erase(self, sectors: range, cut: CutMode | None) -> bool:
        size = self.part.sector_size
        blank = True
        for index in sectors:
            old = self.array.read(index * size, (index + 1) * size) if cut is CutMode.TORN else b""
            self.array.erase_sector(index * size)
            content = ERASED * size
            if self._faults:
                content = self._faults.after_erase(index * size, size, self.array.erase_count(index), index)
            blank = blank and content == ERASED * size
            if cut is CutMode.TORN:
                content = self._torn(old, content)
            if content != ERASED * size:
                self.array.replace_sector(index, content)
        return blank

    def _erase_all(self, cut: CutMode | None) -> bool:
        blank = self._erase(self._sectors(0, self.part.flash_end), cut)
        if blank and cut is None:
            found = self.configuration
            opened = found.fsec & ~0b11 | 0b10  # until the next reset latches the field, which is blank now
            self.configuration = FlashConfiguration(found.fprot, opened, found.fopt)
        return blank

    def _torn(self, old: bytes, new: bytes) -> bytes:
        """Some of the bits that differ have changed: not none of them, nor all, where there are two."""
        before, after = int.from_bytes(old, "little"), int.from_bytes(new, "little")
        differing = before ^ after
        dice = self._supply.dice()
        if differing.bit_count() < 2:
            return old if dice.random() < 0.5 else new
        while True:
            changed = differing & dice.getrandbits(8 * len(old))
            if 0 < changed < differing:
                return (before ^ changed).to_bytes(len(old), "little")

    def _reads_erased(self, start: int, end: int, margin: Margin) -> bool:
        return not self.array.read(start, end).strip(ERASED) and self._reads_well(start, end, margin)

    def _reads(self, address: int, expected: bytes, margin: Margin) -> bool:
        end = address + len(expected)
        return self.array.read(address, end) == expected and self._reads_well(address, end, margin)

    def _reads_well(self, start: int, end: int, margin: Margin) -> bool:
        if margin is not Margin.FACTORY:
            return True
        return not any(self._faults.reads_weak(index) for index in self._sectors(start, end))

    def _stick(self, address: int) -> None:
        size = self.part.sector_size
        index = address // size
        content = bytearray(self.array.read(index * size, (index + 1) * size))
        content[address - index * size] &= ~self._faults.stuck_at_0[address] & 0xFF
        self.array.replace_sector(index, bytes(content))

    # What commands may be given.

    def _check(self, address: int, size: int, alignment: int, *, within: int) -> None:
        """Whether [address, address + size) is one that a command takes: aligned, and in one stretch of `within`."""
        if not size > 0 or address % alignment or address + size > self.part.flash_end:
            raise _Refused(Status.ACCERR)
        if address // within != (address + size - 1) // within:
            raise _Refused(Status.ACCERR)

    def _check_protection(self, start: int, end: int) -> None:
        if self.configuration.protects(self.part, start, end):
            raise _Refused(Status.FPVIOL)

    def _block(self, address: int) -> tuple[int, int]:
        """The block that a command's address names."""
        self._check(address, 1, self.module.section_unit, within=self.part.block_size)
        start = address - address % self.part.block_size
        return start, start + self.part.block_size

    def _blocks(self, start: int, end: int) -> range:
        size = self.part.block_size
        return range(start // size, (end - 1) // size + 1)

    def _sectors(self, start: int, end: int) -> range:
        size = self.part.sector_size
        return range(start // size, (end - 1) // size + 1)


def _margin(code: int, lowest: Margin = Margin.NORMAL) -> Margin:
    if not lowest <= code <= Margin.FACTORY:
        raise _Refused(Status.ACCERR)
    return Margin(code)


class ControlledFlash:
    """A bootloader's flash driver over a controller: a `FlashMemory`. An error of FSTAT is a `FlashError`."""

    __slots__ = ("_controller", "_program_command", "part")

    def __init__(self, controller: FlashController) -> None:
        self.part = controller.part
        self._controller = controller
        self._program_command = controller.module.program_command

    def read(self, start: int, end: int) -> bytes:
        """The bytes of [start, end); raises `FlashError` outside the flash."""
        return self._controller.read(start, end)

    def erase_sector(self, address: int) -> None:
        """Erase the sector that holds `address`, in one command."""
        self._run(command_word(Command.ERASE_SECTOR, address - address % self.part.sector_size), address)

    def program(self, address: int, data: bytes) -> None:
        """Program whole units, within one sector, one command each."""
        unit = self.part.program_unit
        end = address + len(data)
        if (address | end) % unit:
            raise FlashError(
                f"programming [{address:#010x}, {end:#010x}), expected whole units of {unit} bytes", address=address
            )
        if address // self.part.sector_size != (end - 1) // self.part.sector_size:
            raise FlashError(f"programming [{address:#010x}, {end:#010x}) crosses a sector", address=address)
        for start in range(address, end, unit):
            words = data_words(data[start - address : start - address + unit])
            self._run(command_word(self._program_command, start) + words, start)

    def _run(self, fccob: bytes, address: int) -> None:
        if not 0 <= address <= 0xFF_FFFF:  # FCCOB1..3 have no room for it, and what is left of it is another address
            raise FlashError(f"{address:#010x}, expected an address of 24 bits", address=address)
        controller = self._controller
        if controller._running is not None:
            controller._finish()  # nothing can be launched meanwhile
        if controller._status & _ERRORS:
            controller.clear(Status(_ERRORS))
        controller.launch(fccob)
        errors = controller._finish() & (_BLOCKED | _MGSTAT0)
        if errors:
            names = ", ".join(str(flag.name) for flag in Status(errors))
            what = Command(fccob[0]).name.lower().replace("_", " ")
            raise FlashError(f"{what} at {address:#010x}: {names}", address=address)


class DebugPort:
    """What a debugger can do with a part, as its security has it."""

    def __init__(self, controller: FlashController) -> None:
        self._controller = controller

    @property
    def access(self) -> Debugging:
        """By the configuration that was latched at the last reset."""
        return self._controller.configuration.debugging

    def read(self, start: int, end: int) -> bytes:
        """Memory; raises `DebugRefused` where the part is secured."""
        if self.access is not Debugging.OPEN:
            raise DebugRefused(f"read by a debugger: {self.access.value}")
        return self._controller.read(start, end)

    def mass_erase(self) -> None:
        """Erase all of it and open the part for good; raises `DebugRefused` where that is disabled.

        Unlike the core's own erase-all, that of a debugger also programs the security byte to unsecured (K-series
        reference manuals, "Erase All Blocks", triggered from outside).

        A protected region blocks it, too, and cells that do not erase keep the part from opening.
        """
        if self.access is Debugging.LOST:
            raise DebugRefused(f"mass erase by a debugger: {self.access.value}")
        self._controller.wait()
        self._controller.clear(Status(_ERRORS))
        status = self._controller.execute(command_word(Command.ERASE_ALL))
        if status & _BLOCKED:
            raise DebugRefused("mass erase by a debugger: a region is protected")
        if status & Status.MGSTAT0:
            raise DebugRefused("mass erase by a debugger: the flash is not blank, the part as secured as it was")
        unit = self._controller.part.program_unit
        start = FSEC_ADDRESS - FSEC_ADDRESS % unit
        opened = bytearray(ERASED * unit)
        opened[FSEC_ADDRESS - start] = UNSECURED_FSEC
        self._controller.array.program(start, bytes(opened))
