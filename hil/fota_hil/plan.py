"""What programming an image on a board comes to: which sectors to erase, which pieces to write. Pure, no I/O.

Everything that can be wrong with an image is found here, before the board is touched: bytes outside the blocks that the
board announces, sectors that reach into the bootloader, vectors that cannot be right, a table that is missing. The
stock master only warns, and programs on.

Theory of operation. `Layout` is the board's flash as its ident gives it. An image is cut at the pages that the ident
asks for; of each page that has a byte of it, one piece goes out, from its first to its last byte, holes as FF, widened
to whole program units. Pieces of nothing but FF are not written: erased flash reads so. The sector of the vector table
is erased first and its first page written last, so that at no moment an application that is not whole has vectors.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from fota_protocol.an2295 import MAX_DATA, Command, Ident, Request
from fota_protocol.errors import ImageError
from fota_protocol.formats import cut
from fota_protocol.image import FirmwareImage
from fota_protocol.integrity import check_vectors
from fota_protocol.parts import PARTS, Part

from .an2295_master import BITS_PER_BYTE, described
from .errors import PlanError

TABLE_SIZE: Final = 0x400
"""Bytes of a vector table that are moved on request (AN2295's master; a K60 has about 120 vectors, 480 bytes)."""

PROGRAM_UNIT: Final = 4
"""Bytes to which pieces are padded for a part that we do not know: a longword, the unit of FTFL (AN2295)."""

ERASE_TYPICAL: Final = 0.014
"""Seconds that a sector takes to erase (K60 data sheets, from memory; `simulator.md` has the same)."""

ERASE_MAX: Final = 0.115
"""The same at worst (4 KiB sector, FTFE)."""

UNIT_TYPICAL: Final = 65e-6
"""Seconds that four bytes take to program (K60 data sheets, from memory)."""

UNIT_MAX: Final = 145e-6
"""The same at worst."""

ROUND_TRIP_MAX: Final = 0.016
"""Seconds that a USB adapter may hold an answer back (the latency timer of the common FTDI chips)."""

FIRST_LOOK: Final = 64
"""Bytes that are read where the first erase will be: whether a board that refuses it has done it all the same."""

_KINETIS: Final = 0x8


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes for one write."""

    address: int
    data: bytes

    @property
    def end(self) -> int:
        """First address behind it."""
        return self.address + len(self.data)

    @property
    def is_blank(self) -> bool:
        """Whether erased flash holds it already."""
        return not self.data.strip(b"\xff")


class Layout:
    """A board's flash, as its ident gives it."""

    def __init__(self, ident: Ident) -> None:
        self.ident = ident
        self.part = part_of(ident)
        """The part that the ident fits, None for none that we know."""
        self.unit = PROGRAM_UNIT if self.part is None else self.part.program_unit
        """Bytes to which pieces are padded."""
        self.page_size = _page_size(ident.write_size, self.unit)
        """Most bytes of one write."""
        if self.page_size < self.unit:
            raise PlanError(f"writes of {ident.write_size} bytes, expected a board that takes {self.unit} at once")
        self._blocks = tuple(_merged(sorted(ident.blocks)))

    @property
    def is_kinetis(self) -> bool:
        """Whether vectors are those of a Cortex-M."""
        return self.ident.version & 0x0F == _KINETIS

    def sector(self, address: int) -> int:
        """The first address of the sector of `address`."""
        return address // self.ident.erase_size * self.ident.erase_size

    def page(self, address: int) -> tuple[int, int]:
        """The page of `address`; pages are counted from their sector's start, and end with it."""
        sector = self.sector(address)
        start = sector + (address - sector) // self.page_size * self.page_size
        return start, min(start + self.page_size, sector + self.ident.erase_size)

    @property
    def vector_page(self) -> tuple[int, int]:
        """The page whose first bytes start an application."""
        return self.page(self.ident.relocated_table)

    @property
    def vector_sector(self) -> int:
        """The sector of the same."""
        return self.sector(self.ident.relocated_table)

    def holds(self, start: int, end: int) -> bool:
        """Whether [start, end) may be erased and written."""
        return any(low <= start and end <= high for low, high in self._blocks)

    def is_bootloader(self, address: int) -> bool:
        """Whether an address lies below all that may be written: where the bootloader is."""
        return address < self._blocks[0][0]

    def check(self, start: int, end: int, what: str) -> None:
        """Raise `PlanError` unless [start, end), and the sectors around it, may be erased and written."""
        if not self.holds(start, end):
            bad = next((at for at in (start, end - 1) if not self.holds(at, at + 1)), start)
            is_over = self.is_bootloader(bad)
            place = "over the bootloader" if is_over else "where it has no flash: is the image for another part?"
            raise PlanError(
                f"{what}: bytes at [{start:#010x}, {end:#010x}), expected none outside the flash of the board, "
                f"{described(self.ident)}: they lie {place}",
                address=bad,
            )
        first, last = self.sector(start), self.sector(end - 1) + self.ident.erase_size
        if not self.holds(first, last):
            raise PlanError(
                f"{what}: its sectors are [{first:#010x}, {last:#010x}); erasing them would take more than the flash "
                f"of the board, {described(self.ident)}",
                address=start,
            )

    def check_vector_sector(self) -> None:
        """Raise `PlanError` unless the sector of the vector table may be erased, which the ident does not promise."""
        base, start = self.ident.relocated_table, self.vector_sector
        if not self.holds(start, start + self.ident.erase_size):
            raise PlanError(
                f"the board has its vector table at {base:#010x}, in a sector that is not in its flash, "
                f"{described(self.ident)}; expected a table that can be erased",
                address=base,
            )

    def check_vectors(self, image: FirmwareImage, what: str) -> None:
        """Raise `PlanError` unless the image has a vector table that can be right."""
        base = self.ident.relocated_table
        if not self.is_kinetis:
            return
        if not any(segment.start <= base and base + 8 <= segment.end for segment in image.segments):
            raise PlanError(
                f"{what}: no vector table at {base:#010x}, so nothing of it could start (an image for a board without "
                "this bootloader?)",
                address=base,
            )
        if self.part is not None and (wrong := check_vectors(image.read, self.part, image.end)) is not None:
            raise PlanError(f"{what}: {wrong}", address=base)

    def pieces(self, image: FirmwareImage) -> tuple[Piece, ...]:
        """The image, cut for writes, in ascending order."""
        spans: dict[tuple[int, int], tuple[int, int]] = {}
        for segment in image.segments:
            at = segment.start
            while at < segment.end:
                page = self.page(at)
                low, _ = spans.get(page, (at, at))
                spans[page] = low, min(page[1], segment.end)
                at = page[1]
        return tuple(Piece(*self._padded(image, page, span)) for page, span in sorted(spans.items()))

    def _padded(self, image: FirmwareImage, page: tuple[int, int], span: tuple[int, int]) -> tuple[int, bytes]:
        low = max(page[0], span[0] // self.unit * self.unit)
        high = min(page[1], -(-span[1] // self.unit) * self.unit)
        return low, image.read(low, high)


@dataclass(frozen=True, slots=True)
class Plan:
    """An image on a board: what to do, in this order."""

    layout: Layout
    image: FirmwareImage
    """What will be in flash: vectors moved, if that was asked for."""
    erases: tuple[int, ...]
    """Sectors by their first addresses; the vector table's comes first."""
    body: tuple[Piece, ...]
    """All pieces but those of the vector page, ascending."""
    vectors: tuple[Piece, ...]
    """The pieces of the vector page: written last."""
    notes: tuple[str, ...] = ()
    """What a user should know about it."""

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """All of them in the order of writing."""
        return self.body + self.vectors


def make_plan(image: FirmwareImage, ident: Ident, *, relocate: bool = False, any_vectors: bool = False) -> Plan:
    """Check an image against a board and plan it; raises `PlanError`.

    `relocate` moves the vector table from where images without a bootloader have it; `any_vectors` takes images whose
    vectors are missing or cannot be right.
    """
    layout = Layout(ident)
    notes: tuple[str, ...] = ()
    if relocate:
        image, note = relocated(image, layout)
        notes += (note,)
    for number, record in enumerate(image.records, start=1):
        if record.data:
            try:
                layout.check(record.address, record.end, f"record {number}")
            except PlanError as error:
                raise PlanError(f"{error}{_advice(image, layout, relocate)}", address=error.address) from error
    if not any_vectors:
        layout.check_vectors(image, "the image")
    pieces = layout.pieces(image)
    first = layout.vector_sector
    sectors = sorted({layout.sector(piece.address) for piece in pieces}, key=lambda sector: (sector != first, sector))
    low, high = layout.vector_page
    return Plan(
        layout,
        image,
        erases=tuple(sectors),
        body=tuple(piece for piece in pieces if not low <= piece.address < high),
        vectors=tuple(piece for piece in pieces if low <= piece.address < high),
        notes=notes,
    )


def relocated(image: FirmwareImage, layout: Layout) -> tuple[FirmwareImage, str]:
    """The image with its vector table moved to where the board's bootloader looks for it, and what was done.

    Nothing moves where any aligned word of the new place is in the image already. Raises `PlanError` where there is
    nothing to move.
    """
    ident = layout.ident
    old, new = ident.original_table, ident.relocated_table
    if not layout.is_kinetis or old == new:
        raise PlanError(f"vectors cannot be moved on this board, {described(ident)}: leave --relocate out")
    if _has_word(image, new, new + TABLE_SIZE):
        return image, f"no vectors moved: the image has bytes in the table at {new:#010x} already"
    if not _has_word(image, old, old + TABLE_SIZE):
        raise PlanError(
            f"--relocate: no vectors at {old:#010x} nor at {new:#010x}, expected a table at one of them", address=old
        )
    rest = [(start, image.read(start, end)) for start, end in _outside(image, old, old + TABLE_SIZE)]
    try:
        moved = FirmwareImage.from_records(
            cut(sorted([(new, image.read(old, old + TABLE_SIZE)), *rest])),
            header=image.header,
            start_address=image.start_address,
        )
    except ImageError as error:
        raise PlanError(f"--relocate: {error}", address=new) from error
    return moved, f"{TABLE_SIZE} bytes of vectors moved from {old:#010x} to {new:#010x}"


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a plan takes."""

    line_bytes: int
    """Bytes both ways."""
    line_s: float
    """Seconds that these take on the line."""
    flash_s: float
    """Seconds of erasing and programming."""
    round_trips: int

    @property
    def total_s(self) -> float:
        """Seconds all in all, if nothing goes wrong."""
        return self.line_s + self.flash_s


def estimate(plan: Plan, baud: int, *, verify: bool, at_worst: bool = False) -> Estimate:
    """What a plan takes at a baud rate; `at_worst` reckons with a slow flash and a slow adapter, not with faults."""
    ident = plan.layout.ident
    written = [piece for piece in plan.pieces if not piece.is_blank]
    requests = [Request(Command.ERASE, sector) for sector in plan.erases]
    if ident.can_read:
        requests += [Request(Command.READ, sector, length=FIRST_LOOK) for sector in plan.erases[:1]]
    requests += [Request(Command.WRITE, piece.address, piece.data) for piece in written]
    if verify and ident.can_read:
        checked = (*joined(plan.body), *joined(plan.vectors))
        requests += [Request(Command.READ, piece.address, length=len(piece.data)) for piece in checked]
    size = sum(
        len(request.encode(ident.family, has_crc=ident.has_crc)) + request.reply_size(has_crc=ident.has_crc)
        for request in requests
    )
    units = sum(len(piece.data) for piece in written) / PROGRAM_UNIT
    erase_s, unit_s = (ERASE_MAX, UNIT_MAX) if at_worst else (ERASE_TYPICAL, UNIT_TYPICAL)
    flash_s = len(plan.erases) * erase_s + units * unit_s + (len(requests) * ROUND_TRIP_MAX if at_worst else 0.0)
    return Estimate(size, size * BITS_PER_BYTE / baud, flash_s, len(requests))


def joined(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """The bytes of ascending pieces in as few as one read can ask for."""
    limit = MAX_DATA // PROGRAM_UNIT * PROGRAM_UNIT
    start, data = 0, b""
    for piece in pieces:
        if piece.address != start + len(data):
            yield from _cut(start, data, limit)
            start, data = piece.address, b""
        data += piece.data
        while len(data) >= limit:
            yield Piece(start, data[:limit])
            start, data = start + limit, data[limit:]
    yield from _cut(start, data, limit)


def part_of(ident: Ident) -> Part | None:
    """The part whose flash a bootloader announces; None for none that we know."""
    if ident.version & 0x0F != _KINETIS:
        return None
    end = max(end for _, end in ident.blocks)
    return next(
        (
            part
            for part in PARTS.values()
            if (part.flash_end, part.sector_size, part.application_start)
            == (end, ident.erase_size, ident.relocated_table)
        ),
        None,
    )


def _page_size(write_size: int, unit: int) -> int:
    """The write size, halved until a request can carry it, in whole units where it has one."""
    while write_size > MAX_DATA:
        write_size //= 2
    return write_size // unit * unit or write_size


def _cut(start: int, data: bytes, limit: int) -> Iterator[Piece]:
    for at in range(0, len(data), limit):
        yield Piece(start + at, data[at : at + limit])


def _merged(ranges: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Ascending ranges, those that touch as one."""
    current: tuple[int, int] | None = None
    for start, end in ranges:
        if current is not None and start <= current[1]:
            current = current[0], max(current[1], end)
        else:
            if current is not None:
                yield current
            current = start, end
    if current is not None:
        yield current


def _has_word(image: FirmwareImage, start: int, end: int) -> bool:
    """Whether any aligned word of [start, end) is wholly in the image."""
    return any(-(-max(segment.start, start) // 4) * 4 + 4 <= min(segment.end, end) for segment in image.segments)


def _outside(image: FirmwareImage, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The ranges of an image that lie before or behind [start, end)."""
    for segment in image.segments:
        for low, high in ((segment.start, min(segment.end, start)), (max(segment.start, end), segment.end)):
            if low < high:
                yield low, high


def _advice(image: FirmwareImage, layout: Layout, relocate: bool) -> str:
    """What may help against an image that is out of range."""
    old = layout.ident.original_table
    if relocate or not layout.is_kinetis or not layout.is_bootloader(old):
        return ""
    if _has_word(image, old, old + TABLE_SIZE) and all(
        layout.holds(start, end) for start, end in _outside(image, old, old + TABLE_SIZE)
    ):
        return ". Only its vectors are out of place: --relocate moves them"
    return ""
