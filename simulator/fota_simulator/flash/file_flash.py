"""Program flash that outlives its process: the whole of it, from address 0, as a raw image in a file.

The file always holds what the flash reads. Every erase and every program is written through before it returns, so
before its record is acked: whatever ends the process, `kill -9` included, leaves the flash of that moment, as a power
cut does. It is the process that may end at any time, not the machine: nothing is synced to the disk.
"""

import contextlib
import os
from collections.abc import Mapping
from io import FileIO
from pathlib import Path
from typing import Self

from fota_protocol.parts import Part

from ..errors import FlashError, FlashFileError
from .array import ERASED, Flash, SectorPool


class FileFlash(Flash):
    """The program flash of one part, in a file of its size. It is one process's at a time."""

    __slots__ = ("_file",)

    def __init__(self, part: Part, pool: SectorPool, file: FileIO) -> None:
        """Read `file`, which has the flash's size, and own it from now on."""
        size = part.sector_size
        file.seek(0)
        content = file.readall()
        sectors = {index: content[index * size : (index + 1) * size] for index in range(part.flash_size // size)}
        super().__init__(part, pool, {index: sector for index, sector in sectors.items() if sector.strip(ERASED)})
        self._file = file

    @classmethod
    def open(cls, path: Path, part: Part, pool: SectorPool, new: Mapping[int, bytes]) -> Self:
        """The flash in the file `path`; raises `FlashFileError`.

        Where there is no such file, it is made: the sectors `new`, by their index, and erased everywhere else.
        """
        try:
            if not path.exists():
                _make(path, part, new)
            with contextlib.ExitStack() as closing:
                file = closing.enter_context(path.open("r+b", buffering=0))
                if (size := os.fstat(file.fileno()).st_size) != part.flash_size:
                    raise FlashFileError(path, part.flash_size, f"{size} bytes")
                flash = cls(part, pool, file)
                closing.pop_all()
                return flash
        except OSError as error:
            raise FlashFileError(path, part.flash_size, error.strerror or str(error)) from error

    def close(self) -> None:
        """Close the file; what the flash reads stays."""
        self._file.close()

    def replace_sector(self, index: int, content: bytes) -> None:
        """Let a sector hold `content`, here and in the file; raises `FlashError`."""
        super().replace_sector(index, content)
        self._store(index * self.part.sector_size, content)

    def erase_sector(self, address: int) -> None:
        """Erase the sector that holds `address`, here and in the file; raises `FlashError`."""
        super().erase_sector(address)
        size = self.part.sector_size
        self._store(address - address % size, ERASED * size)

    def program(self, address: int, data: bytes) -> None:
        """Program whole units, within one sector, here and in the file; raises `FlashError`."""
        super().program(address, data)
        offset = address - self._base  # the sector just programmed is the open one
        self._store(address, bytes(self._open[offset : offset + len(data)]))

    def _store(self, address: int, data: bytes) -> None:
        try:
            self._file.seek(address)
            written = self._file.write(data)
        except OSError as error:
            raise FlashError(f"the flash's file: {error.strerror or error}", address=address) from error
        if written != len(data):
            raise FlashError(f"the flash's file: took {written} of {len(data)} bytes", address=address)


def _make(path: Path, part: Part, sectors: Mapping[int, bytes]) -> None:
    """Make the file in one step: whoever is killed meanwhile leaves none, not half of one."""
    blank = ERASED * part.sector_size
    content = b"".join(sectors.get(index, blank) for index in range(part.flash_size // part.sector_size))
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
