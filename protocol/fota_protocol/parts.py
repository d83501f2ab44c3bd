"""The parts that are known: one declarative literal each. What a flash controller does with them is code elsewhere.

Sources: K60 sub-family reference manuals (FTFL for 100 MHz parts, FTFE for 120/150 MHz), the AN2295 bootloader's
configuration for the TWR-K60 boards, and the device data of debuggers for sizes and sectors.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from .errors import UnknownPartError


@dataclass(frozen=True, slots=True)
class Part:
    """A microcontroller's memories. Addresses are byte addresses, ranges half-open, sizes in bytes."""

    name: str
    boards: tuple[str, ...]
    flash_module: str
    """FTFL programs longwords, FTFE phrases."""
    flash_size: int
    block_size: int
    """Bytes of one flash block: an array of its own, that cannot be read while it is programmed or erased."""
    sector_size: int
    program_unit: int
    """Bytes that one program command writes, and their alignment."""
    protection_region: int
    """Bytes guarded by one bit of FPROT."""
    application_start: int
    """First address behind the bootloader; the application's vector table."""
    ram_start: int
    ram_end: int

    def __post_init__(self) -> None:
        if any(size % self.sector_size for size in (self.application_start, self.flash_size, self.block_size)):
            raise ValueError(f"{self.name}: regions must be whole sectors")
        if self.flash_size % self.block_size:
            raise ValueError(f"{self.name}: the flash must be whole blocks")

    @property
    def flash_end(self) -> int:
        """First address behind the program flash, which starts at 0."""
        return self.flash_size


_BOOTLOADER_END: Final = 0x4000
"""The AN2295 bootloader owns [0, 0x4000) on every K60 build."""

PARTS: Final[Mapping[str, Part]] = {
    part.name: part
    for part in (
        Part(
            name="MK60DN512",
            boards=("TWR-K60N512", "TWR-K60D100M"),
            flash_module="FTFL",
            flash_size=512 * 1024,
            block_size=256 * 1024,
            sector_size=2048,
            program_unit=4,
            protection_region=16 * 1024,
            application_start=_BOOTLOADER_END,
            ram_start=0x1FFF_0000,
            ram_end=0x2001_0000,
        ),
        Part(
            name="MK60FN1M0",
            boards=("TWR-K60F120M",),
            flash_module="FTFE",
            flash_size=1024 * 1024,
            block_size=256 * 1024,
            sector_size=4096,
            program_unit=8,
            protection_region=32 * 1024,
            application_start=_BOOTLOADER_END,
            ram_start=0x1FFF_0000,
            ram_end=0x2001_0000,
        ),
    )
}
"""Every known part by its name."""

DEFAULT_PART: Final = "MK60DN512"
"""The part of the TWR-K60N512 and the TWR-K60D100M."""


def part(name: str) -> Part:
    """The part called `name`, or the part on the board called `name`, in either case; raises `UnknownPartError`."""
    wanted = name.upper()
    for candidate in PARTS.values():
        if wanted == candidate.name or wanted in candidate.boards:
            return candidate
    known = ", ".join(f"{p.name} ({', '.join(p.boards)})" for p in PARTS.values())
    raise UnknownPartError(f"unknown part {name!r}, expected one of {known}")
