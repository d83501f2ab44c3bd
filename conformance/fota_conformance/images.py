"""Images that the cases play with: fixtures by name, and small ones that are made here.

A made image is a sealed program's shape (vector table, code, seal) in as few records as a case wants, different for
every number, so that fifty devices can have fifty images. Records are written here, character by character, since some
cases need records that no library would write.
"""

import functools
import hashlib
import itertools
import zlib
from collections.abc import Iterable
from typing import Final

import fota_fixtures
from fota_conformance.errors import ReadingError
from fota_conformance.reading import Firmware, Memory, read_firmware, read_text

BASE: Final = 0x4000
"""Where an application of a TWR-K60 with the serial bootloader begins (AN2295)."""
SEAL_OFFSET: Final = 0x3C0
"""Bytes from the vector table to the seal (docs/protocol.md, 6)."""
SEAL_SIZE: Final = 16
"""Bytes of a seal: tag, start, byte count, CRC."""
STACK_TOP: Final = 0x2000_0000
"""A stack pointer that is sane for a K60: the middle of its RAM."""
MADE: Final = "made-"
"""How the names of made images begin; a number follows."""
MIXED: Final = "mixed.s19"
"""The made image whose records are S1, S2 and S3 by turns."""

_ADDRESS_SIZE: Final = {1: 2, 2: 3, 3: 4}


def record(address: int, data: bytes, kind: int = 3) -> bytes:
    """One data record, S1, S2 or S3, as text."""
    body = bytes([_ADDRESS_SIZE[kind] + len(data) + 1]) + address.to_bytes(_ADDRESS_SIZE[kind]) + data
    return f"S{kind}{body.hex().upper()}{0xFF - sum(body) % 256:02X}".encode("ascii")


def is_valid(raw: bytes) -> bool:
    """Whether a data record, as long as its count says, has room for its address and the right checksum."""
    body = bytes.fromhex(raw[2:].decode("ascii"))
    return body[0] > _ADDRESS_SIZE[int(raw[1:2])] and sum(body) % 256 == 0xFF


def records_of(memory: Memory, size: int = 16, kind: int = 3) -> tuple[bytes, ...]:
    """A memory cut into records of `size` bytes, ascending."""
    return tuple(record(at, data, kind) for at, data in _pieces(memory, size))


def firmware_of(name: str, records: Iterable[bytes]) -> Firmware:
    """Records as a whole file: S0, the records, S7."""
    lines = [b"S0030000FC", *records, f"S705{BASE:08X}{0xFF - (5 + sum(BASE.to_bytes(4))) % 256:02X}".encode("ascii")]
    return read_text(name, b"".join(line + b"\n" for line in lines))


def sealed(start: int, content: bytes) -> bytes:
    """The same bytes with a right seal in them; `content` begins at a vector table and goes on behind the seal."""
    head, tail = content[:SEAL_OFFSET], content[SEAL_OFFSET + SEAL_SIZE :]
    seal = b"kcfg" + start.to_bytes(4, "little") + len(content).to_bytes(4, "little")
    crc = crc32_mpeg2(head + seal + tail)
    return head + seal + crc.to_bytes(4, "little") + tail


def crc32_mpeg2(data: bytes) -> int:
    """CRC-32/MPEG-2 of bytes, padded with zeroes to a multiple of four."""
    # zlib's CRC-32 is the reflected one: over bit-reversed bytes, without its final XOR, it is this one bit-reversed.
    padded = data + bytes(-len(data) % 4)
    reflected = zlib.crc32(padded.translate(_REVERSED)) ^ 0xFFFF_FFFF
    return int(f"{reflected:032b}"[::-1], 2)


_REVERSED: Final = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


@functools.cache
def made(number: int, size: int = 1024 + 64) -> Firmware:
    """A small sealed image, different for every number: sane vectors, noise behind them; records of 32 bytes."""
    vectors = STACK_TOP.to_bytes(4, "little") + (BASE + 0x401).to_bytes(4, "little")
    noise = hashlib.shake_128(f"image {number}".encode("ascii")).digest(size - len(vectors))
    return firmware_of(f"{MADE}{number}.s19", records_of(_at(BASE, sealed(BASE, vectors + noise)), 32))


def noise(number: int, size: int) -> bytes:
    """Bytes that look like nothing else, none of them FF; different for every number."""
    return hashlib.shake_128(f"noise {number}".encode("ascii")).digest(size).replace(b"\xff", b"\x00")


def extended(program: Firmware, *pieces: tuple[int, bytes]) -> Firmware:
    """A program with pieces `(address, bytes)` behind it, ascending, holes between them, sealed anew over all of it.

    It still runs, on a real board, too: nothing in front of the seal or behind it is changed. S1 records of 32 bytes.
    """
    ((start, code),) = program.memory.segments
    content = code
    for address, data in pieces:
        content += b"\xff" * (address - start - len(content)) + data
    whole = sealed(start, content)
    ranges = [(start, len(code)), *((address, len(data)) for address, data in pieces)]
    memory = Memory(tuple((address, whole[address - start : address - start + size]) for address, size in ranges))
    return firmware_of(f"{program.name}, extended to {len(whole)} bytes", records_of(memory, 32, kind=1))


def fixture(name: str) -> Firmware:
    """A fixture that bincopy can read; raises `ReadingError`."""
    return read_firmware(fota_fixtures.path(name))


def mixed() -> Firmware:
    """The bytes of a made image in S1, S2 and S3 records by turns."""
    kinds = itertools.cycle((1, 2, 3))
    return firmware_of(MIXED, (record(at, data, next(kinds)) for at, data in _pieces(made(0).memory, 32)))


def image(name: str) -> tuple[Firmware | None, str, bytes]:
    """An image by name (a fixture, `made-N`, `mixed.s19`): as bincopy reads it if it can, file name, content."""
    if name.startswith(MADE) or name == MIXED:
        firmware = mixed() if name == MIXED else made(int(name.removeprefix(MADE)))
        return firmware, firmware.name, firmware.content
    try:
        return fixture(name), name, fota_fixtures.read(name)
    except ReadingError:
        return None, name, fota_fixtures.read(name)


def _pieces(memory: Memory, size: int) -> list[tuple[int, bytes]]:
    return [(start + at, data[at : at + size]) for start, data in memory.segments for at in range(0, len(data), size)]


def _at(address: int, data: bytes) -> Memory:
    return Memory(((address, data),))
