"""The flash configuration field, which the part reads at reset: what is protected, and who may look.

Sixteen bytes at 0x400 (K60 reference manual, "Flash configuration field"): backdoor key, FPROT3..0, FSEC, FOPT, FEPROT,
FDPROT. Writing them changes nothing until the next reset, when the controller latches them. *Security* shuts debuggers
out and nothing else: the core goes on reading, erasing and programming, so updates do not notice it.
"""

import enum
from dataclasses import dataclass
from typing import Final

from fota_protocol.parts import Part

FIELD_START: Final = 0x400
"""Address of the field."""

FIELD_SIZE: Final = 16
"""Bytes of the field."""

FSEC_ADDRESS: Final = FIELD_START + 0xC
"""Address of the security byte."""

REGIONS: Final = 32
"""Protection regions of a flash, one bit of FPROT each; a bit that is 0 protects."""

DEVELOPMENT_FIELD: Final = bytes.fromhex("ff" * 12 + "fe3bffff")
"""What the AN2295 bootloader's own image holds there: nothing protected, unsecured, normal boot, NMI pin off."""

UNSECURED_FSEC: Final = 0xFE
"""The security byte of an open part, as its bootloader or a debugger's mass erase programs it."""

_FPROT: Final = slice(0x8, 0xC)
_FSEC: Final = 0xC
_FOPT: Final = 0xD

_UNSECURED: Final = 0b10
_MASS_ERASE_OFF: Final = 0b10
_BACKDOOR_ON: Final = 0b10


class Debugging(enum.Enum):
    """What a debugger can do with a part."""

    OPEN = "open"
    """Everything."""
    MASS_ERASE = "mass erase only"
    """It is secured: nothing is read, but erasing all of it opens it again."""
    LOST = "lost: secured, and mass erase is disabled"
    """It is secured and cannot be erased from outside: no debugger will ever get in. Only its firmware can help."""


@dataclass(frozen=True, slots=True)
class FlashConfiguration:
    """The field as latched at a reset."""

    fprot: int
    """32 bits, bit n for region n from address 0 up; 0 protects."""
    fsec: int
    fopt: int

    @classmethod
    def decode(cls, field: bytes) -> "FlashConfiguration":
        """Of the 16 bytes at 0x400. FPROT3 comes first and has the lowest regions: the word is little-endian."""
        if len(field) != FIELD_SIZE:
            raise ValueError(f"{len(field)} bytes, expected the {FIELD_SIZE} of the flash configuration field")
        return cls(int.from_bytes(field[_FPROT], "little"), field[_FSEC], field[_FOPT])

    @property
    def secured(self) -> bool:
        """Whether debuggers are shut out: the lowest two bits of FSEC are anything but 10. Erased flash is secured."""
        return self.fsec & 0b11 != _UNSECURED

    @property
    def mass_erase_enabled(self) -> bool:
        """Whether a debugger may erase all (MEEN)."""
        return self.fsec >> 4 & 0b11 != _MASS_ERASE_OFF

    @property
    def backdoor_enabled(self) -> bool:
        """Whether the backdoor key opens it until the next reset (KEYEN)."""
        return self.fsec >> 6 == _BACKDOOR_ON

    @property
    def debugging(self) -> Debugging:
        """What a debugger can do."""
        if not self.secured:
            return Debugging.OPEN
        return Debugging.MASS_ERASE if self.mass_erase_enabled else Debugging.LOST

    def protects(self, part: Part, start: int, end: int) -> bool:
        """Whether any byte of [start, end) lies in a protected region."""
        if start >= end:
            return False
        size = part.protection_region
        regions = range(start // size, (end - 1) // size + 1)
        return any(not self.fprot >> region & 1 for region in regions)


def locks_for_ever(fsec: int) -> bool:
    """Whether a part with this FSEC is lost to every debugger."""
    return FlashConfiguration(0, fsec, 0).debugging is Debugging.LOST


def protecting_field(part: Part, start: int, end: int) -> bytes:
    """The development field, with the regions that [start, end) lies in protected.

    Raises `ValueError` unless the range is whole regions: a region is the least that can be protected.
    """
    size = part.protection_region
    if start % size or end % size:
        raise ValueError(
            f"[{start:#010x}, {end:#010x}) cannot be protected alone: {part.name} has regions of {size} bytes"
        )
    mask = (1 << REGIONS) - 1
    for region in range(start // size, end // size):
        mask &= ~(1 << region)
    field = bytearray(DEVELOPMENT_FIELD)
    field[_FPROT] = mask.to_bytes(4, "little")
    return bytes(field)
