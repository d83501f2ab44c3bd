"""An update that comes from a server: two targets for a device's session, one for each of the two orders of doing it.

*Store*: `StoreTarget` takes every record, and hands on the whole, checked image when the end frame comes; whether that
is programmed before or behind the ack of the end frame is its owner's business. Until then, nothing of the board was
touched, and a server that is lost has cost nothing.

*Stream*: `StreamTarget` erases and writes while records come, for images that are not to be kept, and boards whose line
is so slow that the end frame's ack would be late. Every record is checked against the board's flash before any of it is
touched; but what is wrong with a later record is found when the board has lost its application. A page is collected
until a record leaves it, the vector page until the end: so an ack means that a record is in flash, or in one of these
two buffers.

Neither does I/O of its own; `play` carries a session over a link.
"""

import contextlib
from collections.abc import Callable
from typing import Final

from fota_protocol.device import DeviceSession, DeviceState, DeviceTimings, Outcome, RecordCache, Target
from fota_protocol.errors import ImageError, RecordRejected, Rejection
from fota_protocol.identity import Identification
from fota_protocol.image import MAX_SPAN, FirmwareImage
from fota_protocol.integrity import check_vectors, image_crc32
from fota_protocol.srecord import SRecord
from fota_transport.clock import Clock
from fota_transport.errors import LinkLost
from fota_transport.links import Link
from fota_transport.pump import pump
from fota_transport.trace import Trace

from .errors import PlanError
from .plan import Layout, Piece
from .programmer import Programmer

MAX_RECORDS: Final = 1_000_000
"""Most records of one update: the largest image in records of four bytes, and a bound on memory."""

CLOSE_WAIT: Final = 10.0
"""Seconds for a server to close behind the ack of its end frame: twice the grace of ours, where it is in doubt."""

VECTORS_SIZE: Final = 8
"""Bytes that the core loads at reset: stack pointer and reset vector (Cortex-M)."""


class StoreTarget:
    """Keeps an update's records; `on_image` gets the image when the end frame has come, and may raise `PlanError`."""

    def __init__(self, on_image: Callable[[FirmwareImage, str], None]) -> None:
        self._on_image = on_image
        self._records: list[SRecord] = []
        self._size = 0

    def write(self, record: SRecord) -> None:
        """Keep one record."""
        self._size += len(record.data)
        if len(self._records) >= MAX_RECORDS or self._size > MAX_SPAN:
            raise RecordRejected(f"more than {MAX_RECORDS} records or {MAX_SPAN} bytes", reason=Rejection.OUT_OF_RANGE)
        self._records.append(record)

    def finish(self, version: str) -> None:
        """The end frame: hand the image on."""
        try:
            image = FirmwareImage.from_records(self._records)
        except ImageError as error:
            raise RecordRejected(str(error), reason=Rejection.BAD_RECORD) from error
        self._on_image(image, version)


class _Page:
    """A page's bytes as they come."""

    def __init__(self, start: int, end: int) -> None:
        self.start = start
        self.data = bytearray(b"\xff") * (end - start)
        self.has = bytearray(end - start)
        """1 for each byte that came."""
        self.done = bytearray(end - start)
        """1 for each byte whose unit is in flash."""

    def put(self, address: int, data: bytes) -> None:
        """Take bytes; raises `RecordRejected` for ones that would have to be programmed a second time."""
        for at, byte in enumerate(data, start=address - self.start):
            if (self.has[at] or self.done[at]) and self.data[at] != byte:
                raise RecordRejected(
                    f"{self.start + at:#010x} was {self.data[at]:02X} and is now {byte:02X}, expected each byte once "
                    "and its unit whole; store mode takes records in any order",
                    reason=Rejection.REWRITTEN,
                    address=self.start + at,
                )
            self.data[at] = byte
            self.has[at] = 1

    def take(self, unit: int) -> list[Piece]:
        """What came and is not yet in flash, in whole units."""
        pieces: list[tuple[int, int]] = []
        for at in range(0, len(self.data), unit):
            end = min(at + unit, len(self.data))
            if any(self.has[at:end]) and not any(self.done[at:end]):
                self.done[at:end] = b"\1" * (end - at)
                if pieces and pieces[-1][1] == at:
                    pieces[-1] = pieces[-1][0], end
                else:
                    pieces.append((at, end))
        return [Piece(self.start + low, bytes(self.data[low:high])) for low, high in pieces]


class StreamTarget:
    """Erases and writes a board while records come. Raises `RecordRejected`, and what `Programmer` raises.

    Of a board whose vector table it could not erase it raises `PlanError` at once.
    """

    def __init__(self, programmer: Programmer, layout: Layout, *, any_vectors: bool = False) -> None:
        layout.check_vector_sector()
        self.version: str | None = None
        """What the end frame said; None before it."""
        self._programmer = programmer
        self._layout = layout
        self._any_vectors = any_vectors
        self._pages: dict[int, _Page] = {}
        self._current: _Page | None = None
        self._vector_page = layout.vector_page
        self._erased: set[int] = set()

    def write(self, record: SRecord) -> None:
        """Take one record; what leaves its page behind is in flash on return."""
        if not record.data:
            return
        layout = self._layout
        try:
            layout.check(record.address, record.end, "the record")
        except PlanError as error:
            at = record.address if error.address is None else error.address
            reason = Rejection.BOOTLOADER if layout.is_bootloader(at) else Rejection.OUT_OF_RANGE
            raise RecordRejected(str(error), reason=reason, address=at) from error
        address, data = record.address, record.data
        while data:
            start, end = layout.page(address)
            page = self._pages.get(start)
            if page is None:
                page = self._pages[start] = _Page(start, end)
            if start != self._vector_page[0] and page is not self._current:
                self._flush()
                self._current = page
            page.put(address, data[: end - address])
            data = data[end - address :]
            address = end

    def finish(self, version: str) -> None:
        """The end frame: the last page, and then the vectors."""
        self._flush()
        page = self._pages.get(self._vector_page[0])
        if not self._any_vectors:
            self._check_vectors(page)
        if page is not None:
            self._write(page)
        self.version = version
        self._programmer.finished()

    def image_crc(self) -> int | None:
        """The image CRC of what came; None for nothing."""
        pages = sorted((page for page in self._pages.values() if any(page.has)), key=lambda page: page.start)
        if not pages:
            return None
        first = pages[0].start + pages[0].has.index(1)
        last = pages[-1].start + pages[-1].has.rindex(1)
        memory = bytearray(b"\xff") * (last + 1 - first)
        for page in pages:
            low, high = max(first, page.start), min(last + 1, page.start + len(page.data))
            memory[low - first : high - first] = page.data[low - page.start : high - page.start]
        return image_crc32(bytes(memory))

    def _flush(self) -> None:
        """Have the page that was left in flash."""
        page, self._current = self._current, None
        if page is not None:
            self._write(page)

    def _write(self, page: _Page) -> None:
        pieces = page.take(self._layout.unit)
        if not pieces:
            return
        for sector in (self._layout.vector_sector, self._layout.sector(page.start)):  # no vectors without the rest
            if sector not in self._erased:
                self._erased.add(sector)
                self._programmer.erase(sector)
        for piece in pieces:
            self._programmer.write(piece)
            if self._programmer.verify:
                self._programmer.check([piece])

    def _check_vectors(self, page: _Page | None) -> None:
        layout = self._layout
        if not layout.is_kinetis:
            return
        base = layout.ident.relocated_table
        at = base - self._vector_page[0]
        if page is None or not all(page.has[at : at + VECTORS_SIZE]):
            raise RecordRejected(f"no vector table at {base:#010x}", reason=Rejection.VECTORS, address=base)
        end = max(page.start + page.has.rindex(1) + 1 for page in self._pages.values() if any(page.has))
        vectors = bytes(page.data)
        wrong = None
        if layout.part is not None:
            wrong = check_vectors(lambda start, stop: vectors[at + start - base : at + stop - base], layout.part, end)
        if wrong is not None:
            raise RecordRejected(wrong, reason=Rejection.VECTORS, address=base)


class _UntilAcked(DeviceSession):
    """A session that is over with the ack of the end frame: when the server closes is not the board's business."""

    __slots__ = ()

    @property
    def deadline(self) -> float | None:
        return None if self.state is DeviceState.FINISHED else super().deadline


def play(
    identification: Identification,
    target: Target,
    link: Link,
    clock: Clock,
    *,
    acks_verdict: bool = True,
    timings: DeviceTimings = DeviceTimings(),
    trace: Trace | None = None,
) -> tuple[Outcome, int]:
    """Play one update over `link`; returns how it ended for the server, and how many records were acked.

    An update is over with the ack of its end frame; the connection is open yet, see `await_close`. What the target
    raises beyond `RecordRejected` goes through: the link's owner closes it, and nothing was acked.
    """
    session = _UntilAcked(identification, target, cache=RecordCache(), acks_verdict=acks_verdict, timings=timings)
    pump(session, link, clock, lambda _: b"", session.start(clock.monotonic()), trace)
    assert session.outcome is not None  # it is over
    return session.outcome, session.records


def has_closed(link: Link) -> bool:
    """Whether the server has closed by now, or was lost."""
    try:
        return not link.read(0.0)
    except TimeoutError:
        return False
    except LinkLost:
        return True


def await_close(link: Link, clock: Clock) -> None:
    """Wait until the server closes, for `CLOSE_WAIT` at most: one in doubt takes an early close for a missing ack."""
    until = clock.monotonic() + CLOSE_WAIT
    with contextlib.suppress(LinkLost, TimeoutError):
        while (left := until - clock.monotonic()) > 0 and link.read(left):
            pass
