"""What tells a good image from a bad one: the image CRC, the seal and the vectors (`protocol.md` section 6).

The *image CRC* names an image in every report. The *seal* lets a device check the flash against the image without being
told a CRC on the wire: it sits where Kinetis tools expect it, in the bootloader configuration area. *Vectors* are what
the core loads at reset. Memory is read through a function, so that an image in a file and an image in flash are judged
by the same code.
"""

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from .parts import Part

Read = Callable[[int, int], bytes]
"""`read(start, end)` returns the bytes of [start, end), FF where there are none."""

SEAL_OFFSET: Final = 0x3C0
"""Bytes from the vector table to the bootloader configuration area (Kinetis bootloader reference manual)."""

SEAL_SIZE: Final = 16
"""Bytes of the area that the seal uses: tag, start address, byte count, expected CRC."""

_TAG: Final = b"kcfg"
_FIELDS: Final = struct.Struct("<4sIII")
_EXPECTED_OFFSET: Final = 12

_REVERSED_BYTE: Final = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def image_crc32(data: bytes) -> int:
    """The CRC that names an image: CRC-32 as zlib has it, over [first, last + 1) with holes as FF."""
    return zlib.crc32(data)


def crc32_mpeg2(data: bytes) -> int:
    """CRC-32/MPEG-2: polynomial 0x04C11DB7, start FFFFFFFF, not reflected, no final XOR.

    zlib's CRC is the same one with every byte, and the result, read backwards and inverted: that makes it fast.
    """
    reflected = zlib.crc32(data.translate(_REVERSED_BYTE)) ^ 0xFFFF_FFFF
    return int.from_bytes(reflected.to_bytes(4, "little").translate(_REVERSED_BYTE), "big")


@dataclass(frozen=True, slots=True)
class Seal:
    """The sealed range [start, start + count) and the CRC expected of it."""

    start: int
    count: int
    expected: int

    @property
    def end(self) -> int:
        """First address behind the sealed range."""
        return self.start + self.count

    def encode(self) -> bytes:
        """The 16 bytes of the configuration area."""
        return _FIELDS.pack(_TAG, self.start, self.count, self.expected)


def read_seal(read: Read, vector_base: int) -> Seal | None:
    """The seal of the image whose vector table is at `vector_base`; None when there is none."""
    tag, start, count, expected = _FIELDS.unpack(read(vector_base + SEAL_OFFSET, vector_base + SEAL_OFFSET + SEAL_SIZE))
    return Seal(start, count, expected) if tag == _TAG else None


def sealed_crc(read: Read, vector_base: int, start: int, end: int) -> int:
    """The CRC that a seal of [start, end), which lies around it, expects: without the four bytes that hold it,
    zero-padded to longwords.
    """
    hole = vector_base + SEAL_OFFSET + _EXPECTED_OFFSET
    data = read(start, hole) + read(hole + 4, end)
    return crc32_mpeg2(data + bytes(-len(data) % 4))


def check_seal(read: Read, part: Part) -> str | None:
    """What is wrong with the seal in a part's application flash; None when it is there and right."""
    base = part.application_start
    seal = read_seal(read, base)
    if seal is None:
        return f"no seal at {base + SEAL_OFFSET:#010x}"
    if seal.start != base or not base + SEAL_OFFSET + SEAL_SIZE <= seal.end <= part.flash_end:
        return (
            f"the seal covers [{seal.start:#010x}, {seal.end:#010x}), expected a range from {base:#010x} "
            f"over the seal to at most {part.flash_end:#010x}"
        )
    found = sealed_crc(read, base, seal.start, seal.end)
    if found != seal.expected:
        return f"the sealed CRC is {found:08X}, the seal expects {seal.expected:08X}"
    return None


def check_vectors(read: Read, part: Part, end: int) -> str | None:
    """What is wrong with the vectors of an image that ends at `end`; None when they are sane.

    The initial stack pointer lies in (RAM start, RAM end] and is a multiple of 4; the reset vector is odd (Thumb) and
    inside the image.
    """
    base = part.application_start
    stack, reset = struct.unpack("<II", read(base, base + 8))
    if not part.ram_start < stack <= part.ram_end or stack % 4:
        return (
            f"initial stack pointer {stack:#010x}, expected a multiple of 4 "
            f"in ({part.ram_start:#010x}, {part.ram_end:#010x}]"
        )
    if not reset & 1 or not base <= reset - 1 < end:
        return f"reset vector {reset:#010x}, expected an odd address in [{base:#010x}, {end:#010x})"
    return None
