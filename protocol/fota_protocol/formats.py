"""Firmware files: S-records by our own reader, which keeps their order; Intel HEX, ELF and raw binary by libraries.

The reader of S-records refuses what cannot be served whole (`protocol.md` section 5): a line that is no record,
overlaps that differ, a missing termination record (the file may be cut), a record count that does not match, data
behind the termination. It warns of what is merely unusual. All readers take bytes: opening files is for applications.
"""

import enum
import io
import struct
from collections.abc import Iterable
from typing import Final

import bincopy
import intelhex

from .errors import ImageError, ImageFault, SRecordError
from .image import MAX_SPAN, FirmwareImage
from .srecord import COUNT_TYPES, DATA_TYPES, SRecord, parse

MAX_FILE_SIZE: Final = 8 * 1024 * 1024
"""Largest firmware file in bytes: a bound on memory, far beyond any Kinetis."""

RECORD_SIZE: Final = 16
"""Data bytes per record cut from files that are not S-records: what every known bootloader's line buffer takes."""

MAX_ELF_ENTRIES: Final = 1024
"""Most segments, and most sections, of an ELF file: firmware has a few dozen."""

_TERMINATION_OF: Final = {1: 9, 2: 8, 3: 7}

_ELF32_LITTLE_ENDIAN: Final = b"\x7fELF\x01\x01\x01"
_ELF_HEADER: Final = struct.Struct("<16xHHIIIIIHHHHHH")
_ELF_SEGMENT: Final = struct.Struct("<II8xI12x")
"""Type, offset and size in the file."""
_ELF_SECTION: Final = struct.Struct("<4xI8xII16x")
"""Type, offset and size in the file."""
_MACHINE_ARM: Final = 40
_SEGMENT_LOAD: Final = 1
_SECTION_WITHOUT_BYTES: Final = 8


class FileFormat(enum.Enum):
    """Kinds of firmware files."""

    SREC = "srec"
    IHEX = "ihex"
    ELF = "elf"
    BINARY = "binary"


def detect_format(data: bytes) -> FileFormat:
    """Which format the content is in, by its first bytes; anything that is not text of records is raw binary."""
    if data[:4] == b"\x7fELF":
        return FileFormat.ELF
    start = data[:4096].lstrip()[:2]
    if start[:1] == b"S" and start[1:].isdigit():
        return FileFormat.SREC
    return FileFormat.IHEX if start[:1] == b":" else FileFormat.BINARY


def load(
    data: bytes,
    *,
    file_format: FileFormat | None = None,
    address: int | None = None,
    allow_unterminated: bool = False,
) -> FirmwareImage:
    """Read a firmware file of any format; raises `ImageError`.

    `address` is where a raw binary goes, and needed for it. `allow_unterminated` accepts S-records without a
    termination.
    """
    if len(data) > MAX_FILE_SIZE:
        raise ImageError(f"{len(data)} bytes, expected at most {MAX_FILE_SIZE}", fault=ImageFault.UNREADABLE)
    if not data:
        raise ImageError("the file is empty", fault=ImageFault.INCOMPLETE)
    match file_format or detect_format(data):
        case FileFormat.SREC:
            return load_srec(data, allow_unterminated=allow_unterminated)
        case FileFormat.IHEX:
            return load_ihex(data)
        case FileFormat.ELF:
            return load_elf(data)
        case FileFormat.BINARY:
            if address is None:
                raise ImageError(
                    "neither S-records, Intel HEX nor ELF; a raw binary needs an address",
                    fault=ImageFault.UNREADABLE,
                )
            return _from_memory([(address, data)])


def load_srec(data: bytes, *, allow_unterminated: bool = False) -> FirmwareImage:
    """Read S-records; raises `ImageError` with the line to blame."""
    records: list[SRecord] = []
    frames: list[bytes] = []
    lines: list[int] = []
    warnings: list[str] = []
    header = b""
    end: SRecord | None = None
    for number, line in enumerate(data.splitlines(), start=1):
        text = line.strip()
        if not text:
            continue
        try:
            record = parse(text)
        except SRecordError as error:
            raise ImageError(str(error), fault=ImageFault.BAD_RECORD, line=number) from error
        if end is not None:
            raise ImageError(
                f"an S{record.type} behind the termination record",
                fault=ImageFault.BAD_RECORD,
                line=number,
            )
        if record.type in DATA_TYPES:
            records.append(record)
            frames.append(text.upper())  # what a record that was parsed is when it is encoded
            lines.append(number)
        elif record.type == 0:
            header = header or record.data
        elif record.type in COUNT_TYPES:
            if record.address != len(records):
                raise ImageError(
                    f"S{record.type} counts {record.address} data records, {len(records)} precede it",
                    fault=ImageFault.INCOMPLETE,
                    line=number,
                )
        else:
            end = record
    if not records:
        raise ImageError("no data records", fault=ImageFault.INCOMPLETE)
    if end is None:
        if not allow_unterminated:
            raise ImageError(
                "no termination record (S7, S8 or S9): the file may be cut",
                fault=ImageFault.INCOMPLETE,
            )
        warnings.append("no termination record")
    elif end.type != _TERMINATION_OF[max(record.type for record in records)]:
        warnings.append(f"terminated by S{end.type}")
    return FirmwareImage.from_records(
        records,
        frames=frames,
        lines=lines,
        header=header,
        start_address=None if end is None else end.address,
        warnings=warnings,
    )


def load_ihex(data: bytes) -> FirmwareImage:
    """Read Intel HEX; raises `ImageError`."""
    reader = intelhex.IntelHex()
    try:
        reader.loadhex(io.StringIO(data.decode("ascii")))
    except (intelhex.HexReaderError, UnicodeDecodeError, ValueError) as error:
        raise ImageError(
            f"Intel HEX: {error}", fault=ImageFault.UNREADABLE, line=getattr(error, "line", None)
        ) from error
    _check_ihex_end(data)
    return _from_memory((start, bytes(reader.tobinarray(start=start, end=end - 1))) for start, end in reader.segments())


def load_elf(data: bytes) -> FirmwareImage:
    """Read the loadable sections of an ELF file for a Cortex-M; raises `ImageError`."""
    _check_elf(data)
    reader = bincopy.BinFile()
    try:
        reader.add_elf(data, overwrite=False)
    except Exception as error:  # the library lets errors of every kind through
        raise ImageError(f"ELF: {error}", fault=ImageFault.UNREADABLE) from error
    return _from_memory((segment.address, bytes(segment.data)) for segment in reader.segments)


def dump_srec(segments: Iterable[tuple[int, bytes]], *, header: bytes = b"", start_address: int = 0) -> bytes:
    """S-record text of `segments`, with LF line ends, an S0 and the termination that fits."""
    records = cut(segments)
    kind = records[0].type if records else 1
    ends = SRecord(0, 0, header), SRecord(_TERMINATION_OF[kind], start_address)
    return b"\n".join(record.encode() for record in (ends[0], *records, ends[1])) + b"\n"


def dump_image(image: FirmwareImage) -> bytes:
    """S-record text of an image: its own records in their order, with its S0 and the termination that fits."""
    start = image.start_address or 0
    kind = max(*(record.type for record in image.records), 1 if start < 1 << 16 else 2 if start < 1 << 24 else 3)
    end = SRecord(_TERMINATION_OF[kind], start)
    return b"\n".join((SRecord(0, 0, image.header).encode(), *image.frames, end.encode())) + b"\n"


def cut(segments: Iterable[tuple[int, bytes]]) -> tuple[SRecord, ...]:
    """Records of 16 data bytes for `segments`, all of the smallest type whose addresses reach."""
    pieces = [
        (start + offset, data[offset : offset + RECORD_SIZE])
        for start, data in segments
        for offset in range(0, len(data), RECORD_SIZE)
    ]
    highest = max((address + len(data) for address, data in pieces), default=0)
    kind = 1 if highest <= 1 << 16 else 2 if highest <= 1 << 24 else 3
    return tuple(SRecord(kind, address, data) for address, data in pieces)


def _check_ihex_end(data: bytes) -> None:
    """The library stops at the first end-of-file record, and needs none: refuse what is cut or goes on."""
    lines = [(number, line) for number, line in enumerate(data.splitlines(), start=1) if line.strip()]
    ends = [i for i, (_, line) in enumerate(lines) if line[7:9] == b"01"]
    if not ends:
        raise ImageError("no end-of-file record (:00000001FF): the file may be cut", fault=ImageFault.INCOMPLETE)
    if ends[0] + 1 < len(lines):
        raise ImageError(
            "a line behind the end-of-file record", fault=ImageFault.BAD_RECORD, line=lines[ends[0] + 1][0]
        )


def _check_elf(data: bytes) -> None:
    """What the library leaves unchecked: the machine, and whether the file has all that its headers announce."""
    if data[:7] != _ELF32_LITTLE_ENDIAN or len(data) < _ELF_HEADER.size:
        raise ImageError("ELF: expected a whole header, 32 bits, little-endian", fault=ImageFault.UNREADABLE)
    _, machine, _, _, segments_at, sections_at, _, _, segment_size, segments, section_size, sections, _ = (
        _ELF_HEADER.unpack_from(data)
    )
    if machine != _MACHINE_ARM:
        raise ImageError(f"ELF: machine {machine}, expected {_MACHINE_ARM} (ARM)", fault=ImageFault.UNREADABLE)
    if (segment_size, section_size) != (_ELF_SEGMENT.size, _ELF_SECTION.size) or not (
        0 < segments <= MAX_ELF_ENTRIES and 0 < sections <= MAX_ELF_ENTRIES
    ):
        raise ImageError(
            f"ELF: {segments} segments of {segment_size} bytes and {sections} sections of {section_size} in the "
            f"tables, expected 1 to {MAX_ELF_ENTRIES} of {_ELF_SEGMENT.size} and of {_ELF_SECTION.size}",
            fault=ImageFault.UNREADABLE,
        )
    if max(segments_at + segments * segment_size, sections_at + sections * section_size) > len(data):
        raise ImageError("ELF: a table ends behind the file: it may be cut", fault=ImageFault.INCOMPLETE)
    for number in range(sections):
        kind, offset, size = _ELF_SECTION.unpack_from(data, sections_at + number * section_size)[:3]
        if kind != _SECTION_WITHOUT_BYTES and offset + size > len(data):
            raise ImageError(
                f"ELF: section {number} ends at byte {offset + size} of the {len(data)} in the file: it may be cut",
                fault=ImageFault.INCOMPLETE,
            )
    for number in range(segments):
        kind, offset, size = _ELF_SEGMENT.unpack_from(data, segments_at + number * segment_size)
        if kind == _SEGMENT_LOAD and offset + size > len(data):
            raise ImageError(
                f"ELF: segment {number} ends at byte {offset + size} of the {len(data)} in the file: it may be cut",
                fault=ImageFault.INCOMPLETE,
            )


def _from_memory(segments: Iterable[tuple[int, bytes]]) -> FirmwareImage:
    segments = list(segments)
    if (size := sum(len(data) for _, data in segments)) > MAX_SPAN:
        raise ImageError(f"{size} bytes, expected at most {MAX_SPAN}", fault=ImageFault.OUT_OF_RANGE)
    try:
        return FirmwareImage.from_records(cut(segments))
    except SRecordError as error:
        raise ImageError(str(error), fault=ImageFault.OUT_OF_RANGE) from error
