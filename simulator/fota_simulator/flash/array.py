"""Program flash: an array of sectors that erasing sets to FF and programming can only clear bits of.

Two operations change it, `erase_sector` and `program`, as on the part; everything that is to be known of a flash
controller (commands, status, times, faults) is in `controller`, over such an array. The array is sparse: a blank sector
costs nothing, and sectors with equal content are one object for all flashes of a `SectorPool`, so a thousand devices
with the same image hold it once. Only the sector that is being programmed is a buffer of its own.
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Final, Protocol

from fota_protocol.parts import Part

from ..errors import FlashError

ERASED: Final = b"\xff"
"""What an erased byte reads as."""

POOL_LIMIT: Final = 1 << 12
"""Most sectors that a pool shares: sixteen images of 512 KiB. Sectors that no two devices share cost a place in it."""

_NO_SECTOR: Final = -1


class FlashMemory(Protocol):
    """What a bootloader knows of flash. All three raise `FlashError`."""

    @property
    def part(self) -> Part:
        """Whose flash it is."""

    def read(self, start: int, end: int) -> bytes:
        """The bytes of [start, end)."""

    def erase_sector(self, address: int) -> None:
        """Erase the sector that holds `address`."""

    def program(self, address: int, data: bytes) -> None:
        """Program whole units, within one sector."""


class SectorPool:
    """Sectors by content, shared by the flashes of a process."""

    def __init__(self, limit: int = POOL_LIMIT) -> None:
        self._limit = limit
        self._sectors: dict[bytes, bytes] = {}

    def __len__(self) -> int:
        return len(self._sectors)

    def share(self, content: bytes) -> bytes:
        """The one object with this content."""
        if len(self._sectors) >= self._limit and content not in self._sectors:
            self._sectors.clear()  # who holds sectors keeps them; only later sharing is lost
        return self._sectors.setdefault(content, content)


class Flash:
    """The program flash of one part. Addresses are byte addresses from 0.

    It begins with `contents`, whole sectors by their index, and is erased everywhere else.
    """

    __slots__ = (
        "_base",
        "_erased",
        "_erased_again",
        "_open",
        "_pool",
        "_programmed_bytes",
        "_sectors",
        "_tail",
        "_tail_end",
        "_unit_rest",
        "part",
    )

    def __init__(
        self,
        part: Part,
        pool: SectorPool,
        contents: Mapping[int, bytes] = MappingProxyType({}),
        erase_counts: Mapping[int, int] = MappingProxyType({}),
    ) -> None:
        self.part = part
        # Most sectors are erased once or never, so one bit each says it: an entry of a dict takes a hundred times that.
        self._erased = sum(1 << index for index, count in erase_counts.items() if count)
        self._erased_again = {index: count - 1 for index, count in erase_counts.items() if count > 1}
        self._programmed_bytes = 0
        self._pool = pool
        self._unit_rest = part.program_unit - 1  # the bits of an address within a unit
        self._sectors: dict[int, bytes] = {index: pool.share(sector) for index, sector in contents.items()}
        self._open = bytearray()
        # The open sector: its address, where what is programmed ends, and the sector's own end. The buffer ends at
        # the tail, and FF follows: growing it is several times quicker than writing into the middle of it.
        self._base = _NO_SECTOR
        self._tail = _NO_SECTOR
        self._tail_end = _NO_SECTOR

    @property
    def programmed_units(self) -> int:
        """Program units written since it was made."""
        return self._programmed_bytes // self.part.program_unit

    @property
    def erase_counts(self) -> dict[int, int]:
        """How often each sector was erased that was, by its index: wear."""
        return {
            index: self.erase_count(index) for index in range(self._erased.bit_length()) if self._erased >> index & 1
        }

    def erase_count(self, index: int) -> int:
        """How often sector `index` was erased."""
        return (self._erased >> index & 1) + self._erased_again.get(index, 0)

    @property
    def sectors(self) -> tuple[int, ...]:
        """Indices of the sectors that are not blank, ascending."""
        self.settle()
        return tuple(sorted(self._sectors))

    def contents(self) -> dict[int, bytes]:
        """The sectors that are not blank, by their index: what a flash is made from."""
        self.settle()
        return dict(self._sectors)

    def replace_sector(self, index: int, content: bytes) -> None:
        """Let a sector hold `content`, however it came to: a command that was torn, cells that are stuck."""
        if len(content) != self.part.sector_size:
            raise ValueError(f"{len(content)} bytes, expected a sector of {self.part.sector_size}")
        self.settle()
        self._sectors.pop(index, None)
        if content.strip(ERASED):
            self._sectors[index] = self._pool.share(content)

    def erase_sector(self, address: int) -> None:
        """Erase the sector that holds `address`; raises `FlashError` outside the flash."""
        self._check(address, 1)
        size = self.part.sector_size
        index = address // size
        self.settle()
        self._sectors.pop(index, None)
        if self._erased >> index & 1:
            self._erased_again[index] = self._erased_again.get(index, 0) + 1
        self._erased |= 1 << index
        self._base = self._tail = index * size
        self._tail_end = self._base + size
        self._open = bytearray()

    def program(self, address: int, data: bytes) -> None:
        """Program whole units, within one sector; bits can only be cleared.

        Raises `FlashError` when address or length are not whole units, the data cross a sector or leave the flash.
        """
        end = address + len(data)
        if address == self._tail and end <= self._tail_end and not end & self._unit_rest:
            # Right behind everything that is programmed in this sector, so there is nothing to AND with.
            self._open += data
            self._tail = end
            self._programmed_bytes += len(data)
            return
        unit = self.part.program_unit
        self._check(address, len(data))
        if (address | end) % unit:
            raise FlashError(
                f"programming [{address:#010x}, {end:#010x}), expected whole units of {unit} bytes", address=address
            )
        size = self.part.sector_size
        if address // size != (end - 1) // size:
            raise FlashError(f"programming [{address:#010x}, {end:#010x}) crosses a sector", address=address)
        self._reopen(address // size)
        offset = address - self._base
        over = self._open[offset : offset + len(data)]
        if over:
            self._open[offset : offset + len(over)] = bytes(old & new for old, new in zip(over, data, strict=False))
        if end > self._tail:
            self._open = self._open.ljust(offset + len(over), ERASED) + data[len(over) :]
            self._tail = end
        self._programmed_bytes += len(data)

    def read(self, start: int, end: int) -> bytes:
        """The bytes of [start, end); raises `FlashError` outside the flash."""
        self._check(start, end - start)
        if self._base <= start and end <= self._tail_end:
            return bytes(self._open[start - self._base : end - self._base]).ljust(end - start, ERASED)
        self.settle()
        size = self.part.sector_size
        first, last = start // size, (end - 1) // size
        if first == last:  # a look at a seal or a vector copies no sector
            sector = self._sectors.get(first)
            return ERASED * (end - start) if sector is None else sector[start - first * size : end - first * size]
        blank = ERASED * size
        content = b"".join([self._sectors.get(index, blank) for index in range(first, last + 1)])
        return content[start - first * size : end - first * size]

    def is_erased(self, start: int, end: int) -> bool:
        """Whether all of [start, end) reads FF."""
        return not self.read(start, end).strip(ERASED)

    def segments(self, start: int, end: int) -> Iterator[tuple[int, bytes]]:
        """(address, bytes) of the runs of sectors in [start, end) that are not blank, less FF around them."""
        size = self.part.sector_size
        run: list[int] = []
        for index in (*self.sectors, None):
            if run and index != run[-1] + 1:
                low, high = max(start, run[0] * size), min(end, (run[-1] + 1) * size)
                if low < high:
                    data = self.read(low, high)
                    low += len(data) - len(data.lstrip(ERASED))
                    if stripped := data.strip(ERASED):
                        yield low, stripped
                run = []
            if index is not None:
                run.append(index)

    def settle(self) -> None:
        """Give the open sector's buffer up; the content stays, shared."""
        if self._base >= 0:
            content = bytes(self._open).ljust(self.part.sector_size, ERASED)
            if content.strip(ERASED):
                self._sectors[self._base // self.part.sector_size] = self._pool.share(content)
            self._open = bytearray()
            self._base = self._tail = self._tail_end = _NO_SECTOR

    def _reopen(self, index: int) -> None:
        """Have what is programmed of sector `index` in the buffer."""
        size, unit = self.part.sector_size, self.part.program_unit
        if self._base != index * size:
            self.settle()
            self._base = index * size
            self._tail_end = self._base + size
            used = self._sectors.pop(index, b"").rstrip(ERASED)
            self._open = bytearray(used.ljust(-(-len(used) // unit) * unit, ERASED))
            self._tail = self._base + len(self._open)

    def _check(self, address: int, size: int) -> None:
        if size < 1 or not 0 <= address <= address + size <= self.part.flash_end:
            raise FlashError(
                f"[{address:#010x}, {address + size:#010x}) is outside the flash of {self.part.flash_end:#x} bytes",
                address=address,
            )
