"""The bootloader: what a record does to flash, and what may be started afterwards.

Programming follows `protocol.md` 6. Records need not align with program units nor ascend: every sector is erased once a
session, when it is first touched; a program unit of which only some bytes have come waits for the others until the end,
or until as many wait as fill a sector, and is then programmed with FF for the rest; each unit is programmed exactly
once. Bytes that come again are taken when they are the same, since files with such overlaps are served. The common
case, a record of whole units behind the last one, is one flash command.
"""

import enum
import functools
import zlib
from collections.abc import Mapping

from fota_protocol.errors import RecordRejected, Rejection
from fota_protocol.integrity import check_seal, check_vectors
from fota_protocol.parts import Part
from fota_protocol.srecord import SRecord

from .flash import Flash


class BootPolicy(enum.Enum):
    """What a bootloader demands of an image before it starts it."""

    SEALED = "sealed"
    """A seal whose CRC is right, and sane vectors."""
    VECTORS = "vectors"
    """Sane vectors."""
    NONE = "none"
    """Nothing, as AN2295's bootloader."""


@functools.cache
def bootloader_sectors(part: Part) -> Mapping[int, bytes]:
    """What stands in the bootloader's own flash, by sector index: nothing that runs, but nothing else looks like it."""
    size = part.sector_size
    return {
        index: b"".join(
            zlib.crc32(b"%d" % word).to_bytes(4, "little") for word in range(index * size, (index + 1) * size, 4)
        )
        for index in range(part.application_start // size)
    }


class Bootloader:
    """Writes one image to flash, record by record: the `Target` of one device session."""

    __slots__ = (
        "_flash",
        "_pending",
        "_policy",
        "_program",
        "_programmed",
        "_run_start",
        "_sector_end",
        "_tail",
        "_unit_mask",
    )

    def __init__(self, flash: Flash, policy: BootPolicy) -> None:
        self._flash = flash
        self._policy = policy
        self._program = flash.program
        self._unit_mask = flash.part.program_unit - 1
        # Programmed ranges by sector index, for every sector that this session erased. The newest range, [_run_start,
        # _tail) in the sector that ends at _sector_end, grows here and is not in the table.
        self._programmed: dict[int, list[tuple[int, int]]] = {}
        self._run_start = self._tail = self._sector_end = 0
        # Units that wait for bytes, oldest first: address of the unit to (offset in it to byte).
        self._pending: dict[int, dict[int, int]] = {}

    @property
    def touched(self) -> frozenset[int]:
        """Indices of the sectors that this session erased."""
        return frozenset(self._programmed)

    def write(self, record: SRecord) -> None:
        """Take one record; raises `RecordRejected`, and then the record has changed nothing."""
        address, end = record.address, record.end
        if (
            address == self._tail
            and end <= self._sector_end
            and not (address | end) & self._unit_mask
            and not self._pending
        ):
            # Goes on behind the newest range in its erased sector, where nothing can be yet.
            self._program(address, record.data)
            self._tail = end
            return
        if record.data:
            self._check_range(address, end)
            units = self._units(record)
            self._check_new(units)
            for unit, data in units.items():
                self._take(unit, data)

    def finish(self, version: str) -> None:
        """Program what waits, and check the image; raises `RecordRejected`."""
        for unit in tuple(self._pending):
            self._flush(unit)
        flash = self._flash
        if self._policy is BootPolicy.SEALED and (wrong := check_seal(flash.read, flash.part)):
            raise RecordRejected(wrong, reason=Rejection.SEAL)
        if self._policy is not BootPolicy.NONE and (
            wrong := check_vectors(flash.read, flash.part, flash.part.flash_end)
        ):
            raise RecordRejected(wrong, reason=Rejection.VECTORS)

    def _check_range(self, address: int, end: int) -> None:
        part = self._flash.part
        if address < part.application_start:
            raise RecordRejected(
                f"[{address:#010x}, {end:#010x}) is in the bootloader, which ends at {part.application_start:#010x}",
                reason=Rejection.BOOTLOADER,
                address=address,
            )
        if end > part.flash_end:
            raise RecordRejected(
                f"[{address:#010x}, {end:#010x}) is outside the flash, which ends at {part.flash_end:#010x}",
                reason=Rejection.OUT_OF_RANGE,
                address=address,
            )

    def _units(self, record: SRecord) -> dict[int, dict[int, int]]:
        """The record's bytes by program unit: address of the unit to (offset in it to byte)."""
        units: dict[int, dict[int, int]] = {}
        for address, byte in enumerate(record.data, start=record.address):
            units.setdefault(address & ~self._unit_mask, {})[address & self._unit_mask] = byte
        return units

    def _check_new(self, units: Mapping[int, Mapping[int, int]]) -> None:
        """Raise `RecordRejected` if bytes come again that are not the same."""
        for unit, data in units.items():
            if self._is_programmed(unit):
                content = self._flash.read(unit, unit + self._unit_mask + 1)
                there = dict(enumerate(content))
            else:
                there = self._pending.get(unit, {})
            for offset, byte in data.items():
                if there.get(offset, byte) != byte:
                    raise RecordRejected(
                        f"{unit + offset:#010x} is programmed in this update already, with {there[offset]:#04x} "
                        f"and not {byte:#04x}",
                        reason=Rejection.REWRITTEN,
                        address=unit + offset,
                    )

    def _take(self, unit: int, data: Mapping[int, int]) -> None:
        if self._is_programmed(unit):
            return
        waiting = self._pending.setdefault(unit, {})
        waiting.update(data)
        if len(waiting) == self._unit_mask + 1:
            self._flush(unit)
        elif sum(map(len, self._pending.values())) > self._flash.part.sector_size:
            self._flush(next(iter(self._pending)))

    def _flush(self, unit: int) -> None:
        """Program a unit that waits, with FF where no byte came."""
        waiting = self._pending.pop(unit)
        size = self._unit_mask + 1
        self._enter(unit)
        self._program(unit, bytes(waiting.get(offset, 0xFF) for offset in range(size)))
        if unit == self._tail:
            self._tail = unit + size
        else:
            self._close_run()
            self._run_start, self._tail = unit, unit + size

    def _enter(self, unit: int) -> None:
        """Have the unit's sector erased in this session, and make it the current one."""
        size = self._flash.part.sector_size
        index = unit // size
        if index not in self._programmed:
            self._flash.erase_sector(index * size)
        if self._sector_end != (index + 1) * size:
            self._close_run()
            self._programmed.setdefault(index, [])
            self._run_start = self._tail = index * size
            self._sector_end = (index + 1) * size

    def _close_run(self) -> None:
        """Put the newest range into the table."""
        if self._run_start < self._tail:
            self._programmed[self._run_start // self._flash.part.sector_size].append((self._run_start, self._tail))
            self._run_start = self._tail

    def _is_programmed(self, unit: int) -> bool:
        if self._run_start <= unit < self._tail:
            return True
        return any(low <= unit < high for low, high in self._programmed.get(unit // self._flash.part.sector_size, ()))
