"""Flash contents in files: S-records, Intel HEX and raw images, and the device files of virtual K60s."""

import argparse
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import intelhex

from fota_protocol.errors import ImageError
from fota_protocol.formats import MAX_FILE_SIZE, dump_srec, load
from fota_protocol.parts import Part
from fota_simulator.device_file import MAGIC, SavedDevice
from fota_simulator.errors import DeviceFileError
from fota_simulator.flash import Flash, SectorPool
from fota_simulator.flash.configuration import FIELD_SIZE, FIELD_START

from .device_options import part_named
from .errors import UsageError
from .files import read_bytes

BINARY: Final = frozenset({".bin"})
IHEX: Final = frozenset({".hex", ".ihex"})
SREC: Final = frozenset({".s19", ".s28", ".s37", ".srec", ".mot"})
SUFFIXES: Final = SREC | IHEX | BINARY
"""Endings of the names of dumps."""


@dataclass(frozen=True, slots=True)
class Dump:
    """A flash that was read from a file."""

    path: Path
    flash: Flash
    device: SavedDevice | None
    """The device whose flash it is, where the file says so."""
    has_field: bool
    """Whether the file has the flash configuration field, or all of the flash."""

    @property
    def wear(self) -> Mapping[int, int] | None:
        """Erases by index of the sector; None where the file does not say."""
        return None if self.device is None else self.device.wear


def raw_address(text: str) -> int:
    """A converter for argparse: where a raw image begins."""
    try:
        return int(text, 0)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}, expected a number, for instance 0x4000") from None


def read_dump(path: Path, part_name: str, address: int | None) -> Dump:
    """Read a device file, or a dump of a part's flash; raises `UsageError`.

    A raw image begins at `address`; where that is None, at 0 if it is a whole flash, else where applications begin.
    """
    data = read_bytes(path, "flash")
    if data.startswith(MAGIC):
        try:
            device = SavedDevice.decode(data, path)
        except DeviceFileError as error:
            raise UsageError(f"device {error}") from error
        return Dump(path, device.flash(SectorPool()), device, has_field=True)
    part = part_named(part_name)
    if path.suffix.lower() in BINARY:
        start = address if address is not None else 0 if len(data) == part.flash_size else part.application_start
        if not data or start < 0 or start + len(data) > part.flash_end or len(data) > MAX_FILE_SIZE:
            raise UsageError(
                f"dump {path}: {len(data)} bytes from {start:#010x}, expected at least one, "
                f"and all in the flash of {part.name}, [0, {part.flash_end:#010x})"
            )
        segments = [(start, data)]
    else:
        try:
            image = load(data, allow_unterminated=True)
        except ImageError as error:
            raise UsageError(f"dump {path}: {error}") from error
        if image.end > part.flash_end:
            raise UsageError(
                f"dump {path}: bytes up to {image.end:#010x}, the flash of {part.name} ends at {part.flash_end:#010x}"
            )
        segments = [(segment.start, segment.data) for segment in image.segments]
    has_field = any(
        start <= FIELD_START and start + len(piece) >= FIELD_START + FIELD_SIZE for start, piece in segments
    )
    return Dump(path, _flash(part, segments), None, has_field)


def encode_dump(flash: Flash, suffix: str, *, whole: bool = False) -> bytes:
    """The application flash, or the `whole` of it, in the format of a file name's ending, one of `SUFFIXES`."""
    start, end = 0 if whole else flash.part.application_start, flash.part.flash_end
    if suffix in BINARY:
        return flash.read(start, end)
    segments = flash.segments(start, end)
    return encode_ihex(segments) if suffix in IHEX else dump_srec(segments, header=b"k60-fota")


def encode_ihex(segments: Iterable[tuple[int, bytes]]) -> bytes:
    """Intel HEX of (address, bytes)."""
    writer = intelhex.IntelHex()
    for start, data in segments:
        writer.puts(start, data)
    text = io.StringIO()
    writer.write_hex_file(text)
    return text.getvalue().encode()


def _flash(part: Part, segments: list[tuple[int, bytes]]) -> Flash:
    memory = bytearray(b"\xff" * part.flash_size)
    for start, data in segments:
        memory[start : start + len(data)] = data
    size = part.sector_size
    sectors = {index: bytes(memory[index * size : (index + 1) * size]) for index in range(part.flash_size // size)}
    return Flash(part, SectorPool(), {index: sector for index, sector in sectors.items() if sector.strip(b"\xff")})
