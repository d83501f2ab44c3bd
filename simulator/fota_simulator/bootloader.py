"""The bootloader of a virtual MCU: which records it takes, how it programs them, and how it judges the whole.

What it starts after a reset is `boot`'s to say.

Rules (protocol description, "Programming"). Records need not align with program units, ascend, or stay in one sector.
The bootloader's own flash is never touched, unless it is one that does not guard itself. Each sector is erased once a
session, when its first byte comes. A program unit of which only some bytes are known waits for the others; at the end
of the update, or when more units wait than a buffer of one sector holds, it is programmed with FF in their place. With
the order `vectors-last`, the sector of the vectors is erased before anything else is, and the application's first unit,
the initial stack pointer, is programmed after everything else: an update that the power, the link or a bad record cuts
short leaves no vectors to start. Each unit is programmed exactly once a session. A byte that comes again is ignored
where it is the same (files whose records overlap with equal bytes are served, with a warning) and rejected where it is
not.

Theory of operation. A *run* is the stretch of whole units that the last records have programmed upwards without a gap.
It ends at `_next` and may go on until `_limit`: the end of its sector, or the next unit that is programmed or waits.
A record that goes on with the run is the common case and costs three comparisons; everything else first enters the run
into the bitmap of its sector.
"""

import functools
import zlib
from collections.abc import Mapping
from typing import Final

from fota_protocol.errors import RecordRejected, Rejection
from fota_protocol.integrity import Read, check_seal, check_vectors, image_crc32, read_seal
from fota_protocol.parts import Part
from fota_protocol.srecord import SRecord

from . import update_mark
from .boot import BootPolicy, ProgrammingOrder, application_end
from .errors import FlashError
from .flash import FlashMemory
from .flash.configuration import DEVELOPMENT_FIELD, FIELD_START, FSEC_ADDRESS, locks_for_ever

_NOWHERE: Final = -1
"""`_next` when there is no run: the address of no record."""


@functools.cache
def bootloader_sectors(part: Part, field: bytes = DEVELOPMENT_FIELD) -> Mapping[int, bytes]:
    """What stands in the bootloader's own flash, by sector index: nothing that runs, but nothing else looks like it.

    `field` is the flash configuration field, which is a part of it.
    """
    size = part.sector_size
    content = bytearray(
        b"".join(zlib.crc32(b"%d" % word).to_bytes(4, "little") for word in range(0, part.application_start, 4))
    )
    content[FIELD_START : FIELD_START + len(field)] = field
    return {index: bytes(content[index * size : (index + 1) * size]) for index in range(len(content) // size)}


@functools.cache
def _all_units(count: int) -> int:
    """The bits of a sector that is programmed in whole: one number for all devices, not one for each sector."""
    return (1 << count) - 1


class Bootloader:
    """The `Target` of one update: writes records to `flash` and checks the image. A new update needs a new one.

    One that does not guard itself takes records for its own flash too, as the AN2295 bootloader does; a flash
    configuration field that would lock the part for ever among them only if it `allows_lock`.
    """

    __slots__ = (
        "_allows_lock",
        "_application_end",
        "_application_start",
        "_end",
        "_first",
        "_flash",
        "_limit",
        "_next",
        "_order",
        "_pending",
        "_pending_limit",
        "_policy",
        "_program",
        "_programmed",
        "_run_start",
        "_sector_size",
        "_unit",
        "_unit_rest",
        "_vectors",
    )

    def __init__(
        self,
        flash: FlashMemory,
        policy: BootPolicy,
        *,
        order: ProgrammingOrder = ProgrammingOrder.VECTORS_LAST,
        guards_itself: bool = True,
        allows_lock: bool = False,
    ) -> None:
        part = flash.part
        self._flash = flash
        self._policy = policy
        self._order = order
        self._allows_lock = allows_lock
        self._application_start = part.application_start if guards_itself else 0
        self._application_end = application_end(part, policy)
        self._program = flash.program
        self._sector_size = part.sector_size
        self._unit = part.program_unit
        self._unit_rest = part.program_unit - 1
        self._vectors = part.application_start if order is ProgrammingOrder.VECTORS_LAST else _NOWHERE
        """The unit that is programmed last."""
        self._programmed: dict[int, int] = {}
        """By index of each sector erased in this session: its programmed units, one bit each."""
        self._pending: dict[int, dict[int, int]] = {}
        """By address of a unit that waits: its known bytes by their addresses. The oldest comes first."""
        self._pending_limit = part.sector_size // part.program_unit
        self._run_start = self._next = self._limit = _NOWHERE
        self._first, self._end = part.flash_end, 0
        """The range [first, end) of all bytes that came, without those of the run."""

    @property
    def touched(self) -> frozenset[int]:
        """Indices of the sectors that this session erased."""
        return frozenset(self._programmed)

    def write(self, record: SRecord) -> None:
        """Take one data record; raises `RecordRejected`."""
        end = record.end
        try:
            if record.address == self._next < end <= self._limit and not end & self._unit_rest:
                self._program(record.address, record.data)
                self._next = end
            else:
                self._take(record)
        except FlashError as error:
            raise RecordRejected(str(error), reason=Rejection.FLASH, address=error.address) from error

    def finish(self, version: str) -> None:
        """Program what waits and check the image; raises `RecordRejected`."""
        self._end_run()
        try:
            for unit in sorted(self._pending, key=lambda unit: unit == self._vectors):  # the vectors last
                if unit == self._vectors:
                    self._blank_holes()
                self._program_pending(unit)
            self._blank_holes()
        except FlashError as error:
            raise RecordRejected(str(error), reason=Rejection.FLASH, address=error.address) from error
        # This session's own bytes first: what an earlier update left must not make half an image whole. Then all of the
        # flash, as it will be judged at a reset.
        for read in (self._read_written, self._flash.read):
            self._check(read)
        if self._policy is BootPolicy.MARK and self._programmed:  # who wrote nothing has not mended a half image
            try:
                update_mark.end(self._flash)
            except FlashError as error:
                raise RecordRejected(str(error), reason=Rejection.FLASH, address=error.address) from error

    def _blank_holes(self) -> None:
        """Erase what an earlier image left in the sectors of a sealed range: a seal counts its holes as FF."""
        seal = read_seal(self._read_written, self._flash.part.application_start)
        if self._policy is not BootPolicy.SEALED or seal is None:
            return
        size = self._sector_size
        start, end = max(seal.start, self._application_start), min(seal.end, self._application_end)
        for index in range(start // size, -(-end // size)):
            if index not in self._programmed and self._flash.read(index * size, (index + 1) * size).strip(b"\xff"):
                self._erase(index)

    def state(self) -> tuple[object, ...]:
        """All that it knows of this session, to be compared: equal states go on equally over equal flash."""
        return (
            self._programmed,
            self._pending,
            self._run_start,
            self._next,
            self._limit,
            self._first,
            self._end,
        )

    def _check(self, read: Read) -> None:
        """Judge memory by the policy; raises `RecordRejected`."""
        part = self._flash.part
        if self._policy is BootPolicy.SEALED and (wrong := check_seal(read, part)) is not None:
            raise RecordRejected(wrong, reason=Rejection.SEAL)
        if (
            self._policy in (BootPolicy.SEALED, BootPolicy.VECTORS)
            and (wrong := check_vectors(read, part, self._end)) is not None
        ):
            raise RecordRejected(wrong, reason=Rejection.VECTORS)

    def image_crc(self) -> int | None:
        """The image CRC of what this session has written; None when that is nothing."""
        self._end_run()
        if self._end <= self._first:
            return None
        return image_crc32(self._read_written(self._first, self._end))

    def _read_written(self, start: int, end: int) -> bytes:
        """The bytes of [start, end), FF for sectors that this session has not touched."""
        size = self._sector_size
        sectors = range(start // size, -(-end // size))
        pieces = (
            self._flash.read(max(start, index * size), min(end, (index + 1) * size))
            if index in self._programmed
            else b"\xff" * (min(end, (index + 1) * size) - max(start, index * size))
            for index in sectors
        )
        return b"".join(pieces)

    def _take(self, record: SRecord) -> None:
        """Take a record that does not simply go on with the run."""
        self._end_run()
        start, end, data = record.address, record.end, record.data
        if not data:
            return
        self._check_range(start, end)
        if start <= FSEC_ADDRESS < end:
            self._check_lock(data[FSEC_ADDRESS - start])
        if not self._programmed:
            self._prepare()
        self._first, self._end = min(self._first, start), max(self._end, end)
        size = self._sector_size
        for index in range(start // size, -(-end // size)):
            if index not in self._programmed:
                self._erase(index)
            low, high = max(start, index * size), min(end, (index + 1) * size)
            self._take_in_sector(low, data[low - start : high - start])

    def _prepare(self) -> None:
        """What comes before the first byte of an update."""
        if self._policy is BootPolicy.MARK:
            update_mark.begin(self._flash)
        if self._order is ProgrammingOrder.VECTORS_LAST:
            self._erase(self._vectors // self._sector_size)

    def _erase(self, index: int) -> None:
        self._flash.erase_sector(index * self._sector_size)
        self._programmed[index] = 0

    def _take_in_sector(self, start: int, data: bytes) -> None:
        """Program the whole units that are free; the rest goes byte by byte."""
        position, end = start, start + len(data)
        while position < end:
            unit = position - position % self._unit
            whole = position == unit != self._vectors
            free_until = min(self._free_until(position), end - end % self._unit) if whole else position
            if position < free_until:
                self._end_run()
                self._program(position, data[position - start : free_until - start])
                self._run_start, self._next = position, free_until
                self._limit = self._free_until(free_until, within=position)
                if position <= FSEC_ADDRESS:  # a record that went on with this run would not be looked at
                    self._end_run()
                position = free_until
            else:
                part_end = min(end, unit + self._unit)
                self._take_bytes(unit, position, data[position - start : part_end - start])
                position = part_end

    def _take_bytes(self, unit: int, start: int, data: bytes) -> None:
        """Take bytes of one program unit, which ends the run: no run goes on into a unit that waits."""
        self._end_run()
        if self._is_programmed(unit):
            found = self._flash.read(start, start + len(data))
            if found != data:
                raise self._rewritten(start, data, found)
            return
        known = self._pending.setdefault(unit, {})
        for address, byte in enumerate(data, start):
            if known.setdefault(address, byte) != byte:
                raise self._rewritten(address, bytes([byte]), bytes([known[address]]))
        if len(known) == self._unit and unit != self._vectors:
            self._program_pending(unit)
        elif len(self._pending) > self._pending_limit:
            self._program_pending(next(oldest for oldest in self._pending if oldest != self._vectors))

    def _program_pending(self, unit: int) -> None:
        known = self._pending.pop(unit)
        self._program(unit, bytes(known.get(address, 0xFF) for address in range(unit, unit + self._unit)))
        self._mark(unit, unit + self._unit)

    def _end_run(self) -> None:
        if self._next > self._run_start:
            self._mark(self._run_start, self._next)
            self._end = max(self._end, self._next)
        self._run_start = self._next = self._limit = _NOWHERE

    def _mark(self, start: int, end: int) -> None:
        """Note that the units of [start, end), which lies in one sector, are programmed."""
        index, offset = divmod(start, self._sector_size)
        units = (1 << (end - start) // self._unit) - 1
        taken = self._programmed[index] | units << offset // self._unit
        whole = _all_units(self._sector_size // self._unit)
        self._programmed[index] = whole if taken == whole else taken

    def _is_programmed(self, unit: int) -> bool:
        index, offset = divmod(unit, self._sector_size)
        return bool(self._programmed[index] >> offset // self._unit & 1)

    def _free_until(self, position: int, within: int | None = None) -> int:
        """Where the free units from `position` on end: at a unit that is programmed or waits, or with the sector.

        The sector is that of `within`, for a position that may be its end.
        """
        index = (position if within is None else within) // self._sector_size
        limit = (index + 1) * self._sector_size
        if position >= limit:
            return limit
        taken = self._programmed[index] >> (position % self._sector_size) // self._unit
        if taken:
            limit = position + ((taken & -taken).bit_length() - 1) * self._unit
        return min((unit for unit in self._pending if position <= unit < limit), default=limit)

    def _check_range(self, start: int, end: int) -> None:
        if start < self._application_start:
            raise RecordRejected(
                f"bytes at {start:#010x}, inside the bootloader's [0, {self._application_start:#010x})",
                reason=Rejection.BOOTLOADER,
                address=start,
            )
        if end > self._application_end:
            raise RecordRejected(
                f"bytes up to {end:#010x}, expected application flash, "
                f"[{self._application_start:#010x}, {self._application_end:#010x})",
                reason=Rejection.OUT_OF_RANGE,
                address=start,
            )

    def _check_lock(self, fsec: int) -> None:
        if not self._allows_lock and locks_for_ever(fsec):
            raise RecordRejected(
                f"FSEC {fsec:#04x} at {FSEC_ADDRESS:#010x} secures the part and disables mass erase: "
                "no debugger would ever get in again",
                reason=Rejection.SECURITY,
                address=FSEC_ADDRESS,
            )

    def _rewritten(self, address: int, data: bytes, found: bytes) -> RecordRejected:
        return RecordRejected(
            f"{data.hex(' ')} for {address:#010x}, which this update has written as {found.hex(' ')}",
            reason=Rejection.REWRITTEN,
            address=address,
        )
