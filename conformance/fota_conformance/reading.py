"""Firmware files and flash dumps, as bincopy reads them.

The kit never reads firmware with the product's own reader: bincopy is the second opinion. A `Firmware` is what a server
must send (its data records as text, in the file's order) and what a flash must hold afterwards (its bytes by address).
"""

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import bincopy

from fota_conformance.errors import ReadingError

MAX_FILE_BYTES: Final = 16 * 1024 * 1024
"""Size of the largest file that is read; the text of an S-record file is about 2.7 times the K60's largest flash."""
_DATA_TYPES: Final = frozenset("123")


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes by address: segments `(address, bytes)`, ascending and disjoint."""

    segments: tuple[tuple[int, bytes], ...]

    @property
    def size(self) -> int:
        """Bytes that are set."""
        return sum(len(data) for _, data in self.segments)

    @property
    def crc(self) -> int:
        """CRC-32 (as zlib) over `[first, last + 1)`, holes as FF: the number by which an image is named."""
        crc = 0
        position = self.segments[0][0] if self.segments else 0
        for address, data in self.segments:
            crc = zlib.crc32(b"\xff" * (address - position), crc)
            crc = zlib.crc32(data, crc)
            position = address + len(data)
        return crc

    def differences(self, held: "Memory") -> list[tuple[int, int, int | None]]:
        """Addresses of this memory at which `held` differs: `(address, byte here, byte there)`."""
        found = []
        for start, data in self.segments:
            there = held.slice(start, len(data))
            found += [
                (start + at, byte, there[at]) for at, byte in enumerate(data) if there[at] is None or there[at] != byte
            ]
        return found

    def slice(self, start: int, size: int) -> list[int | None]:
        """The bytes of `[start, start + size)`, `None` where nothing is set."""
        cells: list[int | None] = [None] * size
        for address, data in self.segments:
            first, last = max(address, start), min(address + len(data), start + size)
            if first < last:
                cells[first - start : last - start] = data[first - address : last - address]
        return cells


@dataclass(frozen=True, slots=True)
class Firmware:
    """One S-record file: its text, the data records that a server must send, and the bytes that they carry."""

    name: str
    content: bytes
    records: tuple[bytes, ...]
    memory: Memory


def read_firmware(path: Path) -> Firmware:
    """Read an S-record file; every line's checksum is bincopy's to check."""
    return read_text(path.name, _read(path), str(path))


def read_text(name: str, content: bytes, where: str = "") -> Firmware:
    """The same for a file's content."""
    where = where or name
    try:
        lines = [line.strip() for line in content.decode("ascii").splitlines() if line.strip()]
        records = tuple(line.upper().encode("ascii") for line in lines if bincopy.unpack_srec(line)[0] in _DATA_TYPES)
        memory = memory_of(records)
    except (bincopy.Error, ValueError) as error:
        raise ReadingError(f"{where}: {error}") from error
    if not records:
        raise ReadingError(f"{where}: no data record (S1, S2, S3)")
    return Firmware(name, content, records, memory)


def memory_of(records: Iterable[bytes]) -> Memory:
    """What some data records, received in this order, amount to."""
    file = bincopy.BinFile()
    file.add_srec("\n".join(record.decode("ascii") for record in records), overwrite=True)
    return _memory(file)


def read_dump(path: Path, binary_address: int) -> Memory:
    """Read a flash dump: S-records or Intel HEX by content, `.bin` as bytes from `binary_address` on."""
    content = _read(path)
    file = bincopy.BinFile()
    try:
        if path.suffix.lower() == ".bin":
            file.add_binary(content, address=binary_address, overwrite=True)
        else:
            file.add(content.decode("ascii"), overwrite=True)
    except (bincopy.Error, ValueError) as error:
        raise ReadingError(f"{path}: neither S-records nor Intel HEX: {error}") from error
    memory = _memory(file)
    if not memory.segments:
        raise ReadingError(f"{path}: neither S-records nor Intel HEX: no data in it")
    return memory


def _read(path: Path) -> bytes:
    """A file's bytes, up to the limit."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ReadingError(f"{path}: {error.strerror or error}") from error
    if len(content) > MAX_FILE_BYTES:
        raise ReadingError(f"{path}: more than {MAX_FILE_BYTES} bytes")
    return content


def _memory(file: "bincopy.BinFile") -> Memory:
    return Memory(tuple((segment.address, bytes(segment.data)) for segment in file.segments))
