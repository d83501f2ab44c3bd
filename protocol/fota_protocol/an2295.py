"""The serial protocol of the AN2295 bootloaders ("FC protocol"): bytes for both ends, no line and no clock.

A board announces itself by a bare `FC`; the master answers with the same byte (the *hook*), asks who it is (`I`), then
erases, writes, reads and quits, one request at a time. Fields are most-significant byte first. What a board's version
byte says decides everything else: its lower half names the family, by which addresses and tables have their width, its
upper half whether there are reads and whether every message carries a CRC.

What restarts a request after silence or noise is for the owner to decide: the protocol has no marks to find a beginning
by, and a board waits for ever for the rest of a request (AN2295, and its source).
"""

import binascii
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from .errors import RemoteProtocolError

ACK: Final = 0xFC
"""Announcement, hook, and a result that is good. The hook is never followed by a CRC."""

NACK: Final = 0x03
"""A result that is not."""

HOOK: Final = bytes([ACK])
"""What announces a board, and what a master answers with."""

OFF_KEY_ACKS: Final = frozenset({0xFF, 0xFE, 0xFC, 0xF8, 0xF0, 0xE0, 0xC0, 0x80})
"""What an announcement may look like from a board whose clock is not trimmed yet."""

READ_FLAG: Final = 0x80
"""Of the version byte: the board can be read."""

CRC_FLAG: Final = 0x40
"""Of the version byte: requests and results carry a CRC."""

MAX_DATA: Final = 0xFF
"""Most data bytes of a write or a read: its length is one byte."""

MAX_BLOCKS: Final = 16
"""Most flash blocks that an ident may announce."""

MAX_NAME: Final = 40
"""Most bytes of a board's name, its NUL included (what the field's master keeps)."""


class Command(IntEnum):
    """The first byte of a request."""

    IDENT = 0x49
    ERASE = 0x45
    WRITE = 0x57
    READ = 0x52
    QUIT = 0x51


@dataclass(frozen=True, slots=True)
class Family:
    """How a family of bootloaders writes its fields; widths in bytes, 0 for a field that it has not."""

    name: str
    address: int
    """Of an address in a request."""
    sdid: int
    block_count: int
    block_address: int
    table: int
    """Of vector tables, erase and write sizes."""
    private: int
    """Bytes before the name that mean nothing to a master."""
    has_inclusive_end: bool
    """Whether a block's end is its last address, and not the one behind."""


FAMILIES: Final = {
    0x1: Family("HC08", 2, 0, 0, 2, 2, 8, has_inclusive_end=False),
    0x3: Family("large HC08", 2, 2, 1, 2, 2, 0, has_inclusive_end=False),
    0x2: Family("HCS08", 2, 2, 1, 2, 2, 0, has_inclusive_end=False),
    0x6: Family("long HCS08", 3, 2, 1, 3, 2, 0, has_inclusive_end=False),
    0xA: Family("large HCS08", 3, 2, 1, 3, 2, 0, has_inclusive_end=False),
    0x4: Family("ColdFire", 4, 2, 4, 4, 4, 0, has_inclusive_end=True),
    0x8: Family("Kinetis", 4, 2, 4, 4, 4, 0, has_inclusive_end=True),
}
"""Families by the lower half of the version byte."""


def crc16(data: bytes) -> int:
    """CRC-16/CCITT-FALSE of a whole message: polynomial 0x1021, from 0xFFFF, not reflected."""
    return binascii.crc_hqx(data, 0xFFFF)


def with_crc(message: bytes) -> bytes:
    """A message with its CRC behind it."""
    return message + crc16(message).to_bytes(2, "big")


@dataclass(frozen=True, slots=True)
class Ident:
    """What a board says of itself. Addresses are byte addresses, ranges half-open, sizes in bytes."""

    version: int
    """The version byte: flags and family."""
    sdid: int
    """Low 16 bits of SIM_SDID; 0 where the family has none."""
    blocks: tuple[tuple[int, int], ...]
    """Ranges that may be erased and written."""
    relocated_table: int
    """Where the application's vector table goes."""
    original_table: int
    """Where an image that does not know of the bootloader has it."""
    erase_size: int
    write_size: int
    """Most bytes of one write, in pieces aligned to it."""
    name: str

    @property
    def family(self) -> Family:
        """The board's family."""
        return FAMILIES[self.version & 0x0F]

    @property
    def can_read(self) -> bool:
        """Whether the board can be read."""
        return bool(self.version & READ_FLAG)

    @property
    def has_crc(self) -> bool:
        """Whether messages carry a CRC."""
        return bool(self.version & CRC_FLAG)

    def encode(self) -> bytes:
        """The board's reply to `I`, with its CRC: which also covers the command."""
        family = self.family
        body = bytes([self.version]) + self.sdid.to_bytes(family.sdid, "big")
        body += len(self.blocks).to_bytes(family.block_count, "big") if family.block_count else b""
        for start, end in self.blocks:
            body += start.to_bytes(family.block_address, "big")
            body += (end - family.has_inclusive_end).to_bytes(family.block_address, "big")
        for value in (self.relocated_table, self.original_table, self.erase_size, self.write_size):
            body += value.to_bytes(family.table, "big")
        body += bytes(family.private) + self.name.encode("ascii") + b"\0"
        return body + (crc16(bytes([Command.IDENT]) + body).to_bytes(2, "big") if self.has_crc else b"")


def read_ident(data: bytes) -> tuple[Ident, int] | None:
    """Read a reply to `I` from the front of `data`; returns it and its size, None when more bytes are needed.

    Raises `RemoteProtocolError` as soon as no continuation can be right.
    """
    if not data:
        return None
    family = FAMILIES.get(data[0] & 0x0F)
    if family is None:
        raise RemoteProtocolError(f"version byte {data[0]:#04x}, expected a family of {_names()}")
    fields = _Fields(data, 1)
    sdid = fields.take(family.sdid)
    count = fields.take(family.block_count) if family.block_count else 1
    if count is not None and not 0 < count <= MAX_BLOCKS:
        raise RemoteProtocolError(f"{count} flash blocks, expected 1 to {MAX_BLOCKS}")
    ends = [fields.take(family.block_address) for _ in range(2 * (count or 0))]
    tables = [fields.take(family.table) for _ in range(4)]
    fields.take(family.private)
    if fields.is_short:
        return None
    nul = data.find(0, fields.position, fields.position + MAX_NAME)
    if nul < 0:
        if len(data) >= fields.position + MAX_NAME:
            raise RemoteProtocolError(f"a name without an end within {MAX_NAME} bytes")
        return None
    size = nul + 1
    ident = Ident(
        version=data[0],
        sdid=sdid or 0,
        blocks=tuple(
            (start or 0, (end or 0) + family.has_inclusive_end)
            for start, end in zip(ends[::2], ends[1::2], strict=True)
        ),
        relocated_table=tables[0] or 0,
        original_table=tables[1] or 0,
        erase_size=tables[2] or 0,
        write_size=tables[3] or 0,
        name=data[fields.position : nul].decode("ascii", "backslashreplace"),
    )
    if ident.has_crc:
        if len(data) < size + 2:
            return None
        expected = crc16(bytes([Command.IDENT]) + data[:size])
        found = int.from_bytes(data[size : size + 2], "big")
        if found != expected:
            raise RemoteProtocolError(f"ident with CRC {found:04X}, expected {expected:04X}")
        size += 2
    _check(ident)
    return ident, size


def _check(ident: Ident) -> None:
    if not ident.erase_size or not ident.write_size:
        raise RemoteProtocolError(f"erase size {ident.erase_size}, write size {ident.write_size}: expected more than 0")
    if any(start >= end for start, end in ident.blocks):
        raise RemoteProtocolError(f"flash blocks {ident.blocks}, expected ranges that are not empty")


class _Fields:
    """Takes numbers from the front of bytes; what is not there yet is None."""

    def __init__(self, data: bytes, position: int) -> None:
        self._data = data
        self.position = position
        self.is_short = False

    def take(self, width: int) -> int | None:
        end = self.position + width
        self.is_short = self.is_short or end > len(self._data)
        if self.is_short:
            return None
        value = int.from_bytes(self._data[self.position : end], "big")
        self.position = end
        return value


def _names() -> str:
    return ", ".join(f"{nibble:X} ({family.name})" for nibble, family in sorted(FAMILIES.items()))


@dataclass(frozen=True, slots=True)
class Request:
    """What a master asks of a board. `data` is a write's, `length` a read's."""

    command: Command
    address: int = 0
    data: bytes = b""
    length: int = 0

    def encode(self, family: Family, *, has_crc: bool) -> bytes:
        """Its bytes. Neither the ident's request nor its board know yet whether there are CRCs, so it has none.

        Raises `ValueError` for more data than a request can carry, or an address that the family cannot say.
        """
        message = bytes([self.command])
        if self.command in (Command.ERASE, Command.WRITE, Command.READ):
            if not 0 <= self.address < 1 << (8 * family.address):
                raise ValueError(f"address {self.address:#010x}, expected {family.address} bytes of one")
            message += self.address.to_bytes(family.address, "big")
        if max(self.length, len(self.data)) > MAX_DATA:
            raise ValueError(f"{max(self.length, len(self.data))} bytes, expected at most {MAX_DATA}")
        if self.command is Command.WRITE:
            message += bytes([len(self.data)]) + self.data
        elif self.command is Command.READ:
            message += bytes([self.length])
        return with_crc(message) if has_crc and self.command is not Command.IDENT else message

    def reply_size(self, *, has_crc: bool) -> int:
        """Bytes of a reply that is good; a refusal has 1, or 3 with a CRC."""
        return (self.length if self.command is Command.READ else 1) + 2 * has_crc


@dataclass(frozen=True, slots=True)
class Received:
    """A request as a board got it, and how many bytes it was."""

    request: Request
    size: int
    is_whole: bool
    """Whether its CRC is right."""


def read_request(data: bytes, family: Family, *, has_crc: bool) -> Received | None:
    """Read a request from the front of `data`; None when more bytes are needed.

    Raises `RemoteProtocolError` for a first byte that is no command: a board drops it, and looks at the next.
    """
    if not data:
        return None
    try:
        command = Command(data[0])
    except ValueError:
        raise RemoteProtocolError(f"{data[0]:#04x} is no command") from None
    fields = _Fields(data, 1)
    address = length = None
    if command in (Command.ERASE, Command.WRITE, Command.READ):
        address = fields.take(family.address)
    if command in (Command.WRITE, Command.READ):
        length = fields.take(1)
    end = fields.position + (length or 0 if command is Command.WRITE else 0)
    size = end + (2 if has_crc and command is not Command.IDENT else 0)
    if fields.is_short or len(data) < size:
        return None
    request = Request(
        command,
        address or 0,
        bytes(data[fields.position : end]),
        length or 0 if command is Command.READ else 0,
    )
    return Received(request, size, is_whole=size == end or with_crc(bytes(data[:end])) == bytes(data[:size]))


def result(*, is_good: bool, has_crc: bool) -> bytes:
    """A board's answer to erase, write and quit, and its refusal of a read."""
    byte = bytes([ACK if is_good else NACK])
    return with_crc(byte) if has_crc else byte
