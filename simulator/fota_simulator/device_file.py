"""A virtual device in a file: who it is, how it is set, what is in its flash and how worn that is.

The file is text: a line that names format, version and the SHA-256 of everything behind it, then a JSON object. It is
written beside its place and then moved there, so a reader finds the old device or the new one and never half of one.
What is read is checked whole before any of it is used: a file is untrusted until then.
"""

import base64
import binascii
import contextlib
import hashlib
import json
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from fota_protocol.errors import RemoteProtocolError, UnknownPartError
from fota_protocol.identity import Identification, McuidFormat, parse_mcuid
from fota_protocol.parts import Part
from fota_protocol.parts import part as find_part

from .boot import STANDARD_BOOTLOADER, BootloaderSettings, BootPolicy, ProgrammingOrder
from .errors import DeviceFileError
from .flash import ERASED, Flash, SectorPool

MAGIC: Final = b"k60-fota device "
"""What every device file begins with."""

VERSION: Final = 1
"""Of the format that is written, and the only one that is read."""

MAX_SIZE: Final = 8 * 1024 * 1024
"""Most bytes of a device file: several times what a whole flash takes."""

MAX_WEAR: Final = 10**9
"""Most erases of a sector that a file may claim."""

SUFFIX: Final = ".k60"
"""What the names of device files end in."""

_Found = TypeVar("_Found")


@dataclass(frozen=True, slots=True)
class SavedDevice:
    """All of a device that outlives its power."""

    identification: Identification
    part: Part
    settings: BootloaderSettings = STANDARD_BOOTLOADER
    sectors: Mapping[int, bytes] = field(default_factory=dict, repr=False)
    """Those that are not blank, by index."""
    wear: Mapping[int, int] = field(default_factory=dict, repr=False)
    """Erases, by index of the sector."""
    bootloader_crc: int | None = None
    """CRC-32 of the bootloader's flash when it was whole; None where nobody knows."""

    @property
    def is_bricked(self) -> bool:
        """Whether its bootloader is not what it was: nothing that it did before can be relied on."""
        return self.bootloader_crc not in (None, zlib.crc32(self.read(0, self.part.application_start)))

    def flash(self, pool: SectorPool) -> Flash:
        """The flash as it was saved."""
        return Flash(self.part, pool, self.sectors, self.wear)

    def read(self, start: int, end: int) -> bytes:
        """The bytes of [start, end) of the flash, FF where it is blank."""
        return self.flash(SectorPool()).read(start, end)

    def encode(self) -> bytes:
        """The content of its file; equal devices have equal files."""
        body = {
            "mcuid": self.identification.mcuid,
            "suffix": self.identification.suffix,
            "part": self.part.name,
            "policy": self.settings.policy.value,
            "order": self.settings.order.value,
            "guards_itself": self.settings.guards_itself,
            "allows_lock": self.settings.allows_lock,
            "bootloader_crc": self.bootloader_crc,
            "wear": {str(index): count for index, count in sorted(self.wear.items())},
            "sectors": {
                str(index): base64.b64encode(zlib.compress(content)).decode()
                for index, content in sorted(self.sectors.items())
            },
        }
        text = json.dumps(body, indent=1).encode() + b"\n"
        return MAGIC + b"%d %s\n" % (VERSION, hashlib.sha256(text).hexdigest().encode()) + text

    @classmethod
    def decode(cls, data: bytes, path: Path) -> Self:
        """What `encode` made; raises `DeviceFileError` with the reason, naming `path`."""
        if not data.startswith(MAGIC):
            raise DeviceFileError(path, f"no device file, expected one that begins with {MAGIC.decode().strip()!r}")
        head, _, text = data.partition(b"\n")
        version, _, digest = head[len(MAGIC) :].partition(b" ")
        if version != b"%d" % VERSION:
            raise DeviceFileError(path, f"version {version[:20]!r} of the format, expected {VERSION}")
        if hashlib.sha256(text).hexdigest().encode() != digest:
            raise DeviceFileError(path, "damaged: its checksum is not that of its content")
        try:
            return cls._from_body(json.loads(text))
        except KeyError as error:
            raise DeviceFileError(path, f"not a device: {error} is missing") from error
        except (TypeError, ValueError, AttributeError, RecursionError) as error:
            raise DeviceFileError(path, f"not a device: {error}") from error
        except (RemoteProtocolError, UnknownPartError, zlib.error, binascii.Error) as error:
            raise DeviceFileError(path, f"not a device: {error}") from error

    @classmethod
    def _from_body(cls, body: Mapping[str, Any]) -> Self:
        part = find_part(_typed(body["part"], str))
        mcuid, suffix = _typed(body["mcuid"], str), _typed(body["suffix"], str)
        return cls(
            identification=(
                parse_mcuid(mcuid + suffix, McuidFormat.DECIMAL25) if suffix else parse_mcuid(mcuid, McuidFormat.HEX)
            ),
            part=part,
            settings=BootloaderSettings(
                BootPolicy(body["policy"]),
                ProgrammingOrder(body["order"]),
                _typed(body["guards_itself"], bool),
                _typed(body["allows_lock"], bool),
            ),
            bootloader_crc=None if body["bootloader_crc"] is None else _crc(body["bootloader_crc"]),
            sectors={
                _index(index, part): _sector(_typed(packed, str), part)
                for index, packed in _typed(body["sectors"], dict).items()
            },
            wear={_index(index, part): _erases(count) for index, count in _typed(body["wear"], dict).items()},
        )


def load(path: Path) -> SavedDevice:
    """Read the device in `path`; raises `DeviceFileError`."""
    try:
        if not path.is_file() and path.exists():
            raise DeviceFileError(path, "not a file")  # opening a pipe would wait for ever
        with path.open("rb") as file:
            data = file.read(MAX_SIZE + 1)
    except OSError as error:
        raise DeviceFileError(path, error.strerror or str(error)) from error
    if len(data) > MAX_SIZE:
        raise DeviceFileError(path, f"more than {MAX_SIZE} bytes, expected a device file")
    return SavedDevice.decode(data, path)


def save(path: Path, device: SavedDevice, *, durable: bool = True) -> None:
    """Write `device` to `path` in one step; raises `DeviceFileError`. `durable` waits for the disk."""
    temporary = path.parent / f".{path.name}.{os.getpid()}"
    try:
        try:
            with temporary.open("wb") as file:
                file.write(device.encode())
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
    except OSError as error:
        raise DeviceFileError(path, error.strerror or str(error)) from error


def _typed(value: Any, kind: type[_Found]) -> _Found:
    if not isinstance(value, kind):
        raise ValueError(f"{value!r:.40}, expected {kind.__name__}")
    return value


def _index(text: str, part: Part) -> int:
    sectors = part.flash_size // part.sector_size
    canonical = text.isdecimal() and len(text) <= len(str(sectors)) and text == str(int(text))  # no two names for one
    if not canonical or int(text) >= sectors:
        raise ValueError(f"sector {text!r:.40}, expected a number below {sectors}")
    return int(text)


def _crc(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 32:
        raise ValueError(f"CRC {value!r:.40}, expected a number of 32 bits")
    return value


def _erases(count: Any) -> int:
    if type(count) is not int or not 0 <= count <= MAX_WEAR:
        raise ValueError(f"wear {count!r:.40}, expected a number up to {MAX_WEAR}")
    return count


def _sector(packed: str, part: Part) -> bytes:
    unpacker = zlib.decompressobj()
    content = unpacker.decompress(base64.b64decode(packed, validate=True), part.sector_size + 1)
    if len(content) != part.sector_size or not unpacker.eof or unpacker.unused_data:
        raise ValueError(f"a sector of another size, or more behind it, expected {part.sector_size} bytes")
    if not content.strip(ERASED):
        raise ValueError("a blank sector, expected only those that are not")
    return content
