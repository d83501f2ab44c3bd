"""One S-record: parsing, formatting, checksum. Files are made of them in `formats`, images in `image`.

An S-record is `S`, a type digit, and pairs of hexadecimal digits: a count of the bytes that follow, an address whose
width depends on the type, data, and a checksum that makes count, address, data and checksum add up to 0xFF (mod 256).
Either case of hexadecimal is read, upper case is written. There is no line end in a record: that belongs to files.
"""

import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from .errors import SRecordError

ADDRESS_BYTES: Final[Mapping[int, int]] = {0: 2, 1: 2, 2: 3, 3: 4, 5: 2, 6: 3, 7: 4, 8: 3, 9: 2}
"""Width of the address field in bytes, by record type. S4 is reserved."""

_TYPES: Final = {b"S%d" % kind: (kind, width) for kind, width in ADDRESS_BYTES.items()}
"""Type and width by a record's first two characters."""

DATA_TYPES: Final = frozenset({1, 2, 3})
COUNT_TYPES: Final = frozenset({5, 6})
TERMINATION_TYPES: Final = frozenset({7, 8, 9})

MAX_COUNT: Final = 0xFF
"""Most bytes that a record's count field can announce: address, data and checksum."""

MAX_RECORD_SIZE: Final = 4 + 2 * MAX_COUNT
"""Longest record, in characters."""


@dataclass(frozen=True, slots=True)
class SRecord:
    """One record: its type (0 to 9, not 4), address and data.

    For S5 and S6 the address field holds the number of data records, for S7 to S9 the start address.
    """

    type: int
    address: int
    data: bytes = b""
    end: int = field(init=False, repr=False, compare=False)
    """First address behind the data."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "end", self.address + len(self.data))

    def encode(self) -> bytes:
        """The record as text in upper case, without a line end.

        Raises `SRecordError` when the type is not one of the ten, or address or data do not fit.
        """
        width = ADDRESS_BYTES.get(self.type)
        if width is None:
            raise SRecordError(f"there is no record type S{self.type}")
        count = width + len(self.data) + 1
        if count > MAX_COUNT:
            raise SRecordError(f"{len(self.data)} data bytes do not fit into an S{self.type}")
        if self.address < 0 or max(self.address + 1, self.end) > 1 << (8 * width):
            raise SRecordError(
                f"[{self.address:#010x}, {self.end:#010x}) is beyond the {width} address bytes of an S{self.type}"
            )
        body = bytes([count]) + self.address.to_bytes(width, "big") + self.data
        return b"S%d%s" % (self.type, (body + bytes([checksum(body)])).hex().upper().encode())


def checksum(body: bytes) -> int:
    """The checksum byte for `body`, which is a record's count, address and data."""
    return ~sum(body) & 0xFF


def parse(text: bytes) -> SRecord:
    """Parse one record that has no white space around it; raises `SRecordError`."""
    known = _TYPES.get(text[:2])
    if known is None or len(text) < 4:
        raise SRecordError(_no_beginning(text))
    kind, width = known
    try:
        body = binascii.unhexlify(text[2:])
    except ValueError:
        raise SRecordError(_not_hexadecimal(text)) from None
    count = body[0]
    if len(body) != count + 1:
        raise SRecordError(f"count {count:#04x} announces {2 * count} characters, {len(text) - 4} follow it")
    if count <= width:
        raise SRecordError(f"count {count:#04x} is too small for an S{kind} (at least {width + 1})")
    if sum(body) & 0xFF != 0xFF:
        raise SRecordError(f"checksum {body[-1]:#04x}, expected {checksum(body[:-1]):#04x}")
    record = SRecord(kind, int.from_bytes(body[1 : 1 + width], "big"), body[1 + width : -1])
    if record.end > 1 << (8 * width) and record.data:
        raise SRecordError(f"data at {record.address:#010x} runs past the end of the address space")
    return record


def _no_beginning(text: bytes) -> str:
    if text[:1] != b"S":
        return f"starts with {text[:1]!r}, expected an S-record ('S')"
    if text[:2] not in _TYPES:
        return f"record type {text[1:2]!r}, expected one of S0-S3 or S5-S9"
    return f"cut after {len(text)} characters, expected a count"


def _not_hexadecimal(text: bytes) -> str:
    for column, character in enumerate(text[2:], start=3):
        if character not in b"0123456789ABCDEFabcdef":
            return f"column {column}: {bytes([character])!r} is not a hexadecimal digit"
    return f"{len(text) - 2} hexadecimal digits, expected an even number"
