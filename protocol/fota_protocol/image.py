"""Firmware images: immutable, checked, and carrying their encoded records once for all sessions that serve them.

An image is its data records in the order of the file. From them come the segments (what lies where), the image CRC and
the frames that go over the wire. `seal` and `pack` make new images. Files are read in `formats`.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from .errors import ImageError, ImageFault
from .integrity import SEAL_OFFSET, SEAL_SIZE, Seal, image_crc32, read_seal, sealed_crc
from .parts import Part
from .srecord import DATA_TYPES, SRecord

MAX_SPAN: Final = 4 * 1024 * 1024
"""Most bytes from an image's first to its last address: beyond any Kinetis, and a bound on memory."""

PACKED_SIZE: Final = 248
"""Most data bytes in a packed record: the longest that field devices are known to take (510 characters)."""

_PACKED_ALIGNMENT: Final = 8
"""Packed records end at phrases, the largest program unit."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Bytes without a hole among them."""

    start: int
    data: bytes

    @property
    def end(self) -> int:
        """First address behind the segment."""
        return self.start + len(self.data)


@dataclass(frozen=True, slots=True, eq=False)
class FirmwareImage:
    """A firmware image that can be served whole.

    Build it with `from_records` or one of the readers in `formats`; both check it.
    """

    records: tuple[SRecord, ...]
    """The data records, in the order of the file."""
    frames: tuple[bytes, ...] = field(repr=False)
    """The same records as they are sent."""
    segments: tuple[Segment, ...] = field(repr=False)
    """Ascending, neither touching nor overlapping."""
    crc32: int
    """The image CRC."""
    lines: tuple[int, ...] = field(default=(), repr=False)
    """The line of each record in its file, where it came from an S-record file."""
    header: bytes = b""
    """What the S0 record said."""
    start_address: int | None = None
    """The start address of the termination record; field tools write it without the Thumb bit."""
    warnings: tuple[str, ...] = ()
    """What is unusual about the file and yet served."""

    @classmethod
    def from_records(
        cls,
        records: Iterable[SRecord],
        *,
        frames: Sequence[bytes] | None = None,
        lines: Sequence[int] = (),
        header: bytes = b"",
        start_address: int | None = None,
        warnings: Sequence[str] = (),
    ) -> "FirmwareImage":
        """Check data records and make an image of them; raises `ImageError`.

        `frames` are the records as they are sent, where the caller has them; `lines` are theirs in their file.
        """
        kept = tuple(records)
        if not any(record.data for record in kept):
            raise ImageError("no data records", fault=ImageFault.INCOMPLETE)
        if foreign := {record.type for record in kept} - DATA_TYPES:
            raise ValueError(f"S{min(foreign)} is not a data record")
        segments, overlaps = _merge(kept, lines)
        first, end = segments[0].start, segments[-1].end
        if end - first > MAX_SPAN:
            raise ImageError(
                f"the image spans [{first:#010x}, {end:#010x}), expected at most {MAX_SPAN} bytes",
                fault=ImageFault.OUT_OF_RANGE,
            )
        return cls(
            records=kept,
            frames=tuple(frames if frames is not None else (record.encode() for record in kept)),
            segments=segments,
            crc32=image_crc32(_read(segments, first, end)),
            lines=tuple(lines),
            header=header,
            start_address=start_address,
            warnings=(*warnings, *overlaps),
        )

    @property
    def first(self) -> int:
        """Lowest address with a byte."""
        return self.segments[0].start

    @property
    def end(self) -> int:
        """First address behind the highest byte."""
        return self.segments[-1].end

    @property
    def size(self) -> int:
        """Bytes in [first, end), holes included."""
        return self.end - self.first

    def read(self, start: int, end: int) -> bytes:
        """The bytes of [start, end), FF where the image has none."""
        return _read(self.segments, start, end)

    def check_fits(self, part: Part) -> None:
        """Raise `ImageError` unless every byte lies in the part's application flash."""
        for number, record in enumerate(self.records, start=1):
            if record.data and not (part.application_start <= record.address and record.end <= part.flash_end):
                raise ImageError(
                    f"record {number}: [{record.address:#010x}, {record.end:#010x}), expected bytes in the application "
                    f"flash of {part.name}, [{part.application_start:#010x}, {part.flash_end:#010x})",
                    fault=ImageFault.OUT_OF_RANGE,
                    line=self.lines[number - 1] if self.lines else None,
                )

    def seal(self, vector_base: int) -> "FirmwareImage":
        """The image with a seal over all of it; raises `ImageError` when the 16 bytes for it are taken.

        Records that hold these bytes keep their place and length; bytes that no record holds come as a record of their
        own.
        """
        area = range(vector_base + SEAL_OFFSET, vector_base + SEAL_OFFSET + SEAL_SIZE)
        if self.first != vector_base or self.end < area.stop:
            raise ImageError(
                f"the image is [{self.first:#010x}, {self.end:#010x}), expected one from the vector table "
                f"to behind the configuration area, [{vector_base:#010x}, {area.stop:#010x})",
                fault=ImageFault.NOT_SEALABLE,
            )
        present = self.read(area.start, area.stop)
        if present.strip(b"\xff") and read_seal(self.read, vector_base) is None:
            raise ImageError(
                f"the configuration area at {area.start:#010x} holds {present.hex(' ')}, expected FF or a seal",
                fault=ImageFault.NOT_SEALABLE,
            )
        unsealed = self._with_bytes(area.start, Seal(self.first, self.size, 0).encode())
        crc = sealed_crc(unsealed.read, vector_base, self.first, self.end)
        return unsealed._with_bytes(area.start, Seal(self.first, self.size, crc).encode())

    def pack(self, sector_size: int) -> "FirmwareImage":
        """The same bytes in few S3 records, for slow links (`protocol.md` section 9).

        Records hold up to 248 bytes, end at phrases, and never cross a hole or a sector of `sector_size` bytes.
        """
        records = []
        for segment in self.segments:
            start = segment.start
            while start < segment.end:
                cut = (start + PACKED_SIZE) // _PACKED_ALIGNMENT * _PACKED_ALIGNMENT
                end = min(cut, segment.end, (start // sector_size + 1) * sector_size)
                records.append(SRecord(3, start, segment.data[start - segment.start : end - segment.start]))
                start = end
        return FirmwareImage.from_records(
            records, header=self.header, start_address=self.start_address, warnings=self.warnings
        )

    def _with_bytes(self, start: int, new: bytes) -> "FirmwareImage":
        """The image with `new` at `start`: patched into the records that hold it, added where none does."""
        end = start + len(new)
        missing = set(range(start, end))
        records: list[SRecord] = []
        for record in self.records:
            low, high = max(start, record.address), min(end, record.end)
            if low < high:
                missing -= set(range(low, high))
                data = bytearray(record.data)
                data[low - record.address : high - record.address] = new[low - start : high - start]
                record = dataclasses.replace(record, data=bytes(data))
            records.append(record)
        for low, high in _runs(sorted(missing)):
            place = next((i for i, r in enumerate(records) if r.address >= high), len(records))
            kind = max(record.type for record in self.records)  # whose addresses reach everywhere in the image
            records.insert(place, SRecord(kind, low, new[low - start : high - start]))
        return FirmwareImage.from_records(
            records, header=self.header, start_address=self.start_address, warnings=self.warnings
        )


def _runs(addresses: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Half-open ranges of consecutive addresses."""
    start = 0
    for i in range(1, len(addresses) + 1):
        if i == len(addresses) or addresses[i] != addresses[i - 1] + 1:
            yield addresses[start], addresses[i - 1] + 1
            start = i


def _merge(records: Sequence[SRecord], lines: Sequence[int]) -> tuple[tuple[Segment, ...], tuple[str, ...]]:
    """The segments of `records`, and a warning for overlaps that agree; raises `ImageError` for ones that do not."""
    order: Sequence[int] = range(len(records))
    if any(before.address > after.address for before, after in itertools.pairwise(records)):
        order = sorted(order, key=lambda i: records[i].address)
    pieces: list[tuple[int, bytearray]] = []
    start = end = -1
    data = bytearray()
    overlaps = 0
    for i in order:
        record = records[i]
        if not record.data:
            continue
        if record.address > end or not pieces:
            start, data = record.address, bytearray()
            pieces.append((start, data))
        elif record.address < end:
            again = min(end, record.end) - record.address
            offset = record.address - start
            if data[offset : offset + again] != record.data[:again]:
                raise ImageError(
                    f"record {i + 1} overlaps another at {record.address:#010x} with different bytes",
                    fault=ImageFault.OVERLAP,
                    line=lines[i] if lines else None,
                )
            overlaps += 1
            data += record.data[again:]
            end = start + len(data)
            continue
        data += record.data
        end = record.end
    warnings = (f"{overlaps} records overlap others with the same bytes",) if overlaps else ()
    return tuple(Segment(start, bytes(data)) for start, data in pieces), warnings


def _read(segments: Sequence[Segment], start: int, end: int) -> bytes:
    memory = bytearray(b"\xff") * (end - start)
    for segment in segments:
        low, high = max(start, segment.start), min(end, segment.end)
        if low < high:
            memory[low - start : high - start] = segment.data[low - segment.start : high - segment.start]
    return bytes(memory)
