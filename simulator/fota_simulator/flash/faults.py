"""What can be wrong with the cells of a flash: bits that are stuck, sectors that wear out. Plans drawn from a seed."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from fota_protocol.parts import Part


@dataclass(frozen=True, slots=True)
class FlashFaults:
    """Faulty cells, by byte address, and weak sectors, by index. An empty plan is a good flash."""

    stuck_at_0: Mapping[int, int] = field(default_factory=dict)
    """Bits of a byte that no erase sets."""
    stuck_at_1: Mapping[int, int] = field(default_factory=dict)
    """Bits of a byte that no program clears."""
    weak_sectors: Mapping[int, int] = field(default_factory=dict)
    """Erases that a sector survives: every later one leaves a bit of its first byte at 0."""

    def __bool__(self) -> bool:
        return bool(self.stuck_at_0 or self.stuck_at_1 or self.weak_sectors)

    @classmethod
    def draw(
        cls,
        part: Part,
        seed: int,
        *,
        stuck_at_0: int = 0,
        stuck_at_1: int = 0,
        weak_sectors: int = 0,
        survives: int = 3,
    ) -> "FlashFaults":
        """A plan for the application flash of `part`: so many bits and sectors, and erases that a weak one survives."""
        dice = random.Random(seed)
        cells = range(part.application_start * 8, part.flash_end * 8)
        bits = dice.sample(cells, stuck_at_0 + stuck_at_1)
        sectors = range(part.application_start // part.sector_size, part.flash_end // part.sector_size)
        return cls(
            stuck_at_0=_by_byte(bits[:stuck_at_0]),
            stuck_at_1=_by_byte(bits[stuck_at_0:]),
            weak_sectors=dict.fromkeys(dice.sample(sectors, weak_sectors), survives),
        )

    def after_erase(self, start: int, size: int, erases: int, index: int) -> bytes:
        """What the sector `index` at `start` reads after its erase number `erases`."""
        content = bytearray(b"\xff" * size)
        for address, bits in self.stuck_at_0.items():
            if start <= address < start + size:
                content[address - start] &= ~bits & 0xFF
        if erases > self.weak_sectors.get(index, erases):
            content[0] &= 0xFE
        return bytes(content)

    def after_program(self, address: int, old: bytes, new: bytes) -> bytes:
        """What the bytes at `address` read when `new` was programmed over `old`."""
        return bytes(
            o & (n | self.stuck_at_1.get(address + i, 0)) for i, (o, n) in enumerate(zip(old, new, strict=True))
        )

    def reads_weak(self, index: int) -> bool:
        """Whether the cells of a sector fail at the factory's margin though they read well."""
        return index in self.weak_sectors


NO_FAULTS: Final = FlashFaults()
"""A good flash."""


def _by_byte(cells: list[int]) -> dict[int, int]:
    found: dict[int, int] = {}
    for cell in cells:
        found[cell // 8] = found.get(cell // 8, 0) | 1 << cell % 8
    return found
