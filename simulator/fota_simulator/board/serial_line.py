"""A serial line between a host and a board: its rate, its faults and its plug, in anybody's time.

A `Wire` is one direction. What is pushed into it comes out byte by byte, ten bits each (8N1: start, eight, stop), each
at its own ideal moment behind the one before; `pop` hands over all that are through by now, so an owner that sleeps for
a while is given many at once, and an owner that oversleeps does not shift what follows. `due` names the moment to look
again: when the last byte is through, or a little later than the next is, so that long replies come in a few pieces.

Faults are drawn from a seed, or named by the number of the byte, from 1, that was pushed into the wire.
"""

import enum
import math
import random
import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

BITS_PER_BYTE: Final = 10
"""Bits on the line for a byte: start, eight data, stop."""

INSTANT: Final = 0
"""The rate of a line that takes no time."""

MAX_BAUD: Final = 4_000_000
"""Highest rate, in bits a second, that is simulated."""

WIRE_LIMIT: Final = 65_536
"""Bytes in one direction, under way or not taken yet, at which the other end has to wait."""

MAX_FAULTS: Final = 1_000
"""Most faults of a line that may be planned."""

_QUANTUM: Final = 0.005
"""Seconds for which bytes of a long reply are gathered."""


class Way(enum.Enum):
    """A direction, as the board sees it."""

    IN = "in"
    OUT = "out"


class FaultKind(enum.Enum):
    """What happens to a byte."""

    FLIP = "flip"
    """One of its bits changes."""
    DROP = "drop"
    DOUBLE = "double"


@dataclass(frozen=True, slots=True)
class LineFault:
    """A fault of one direction: at byte number `byte`, or where that is 0 at each byte by `probability`."""

    way: Way
    kind: FaultKind
    probability: float = 0.0
    byte: int = 0


def parse_faults(text: str) -> tuple[LineFault, ...]:
    """`WAY:KIND:P` or `WAY:KIND@N`, between commas; a way is in, out or both. Raises `ValueError`."""
    faults: list[LineFault] = []
    for one in text.split(","):
        found = re.fullmatch(
            r"(in|out|both):(flip|drop|double)(?:@([1-9][0-9]{0,11})|:([0-9]{1,2}(?:\.[0-9]{1,12})?))", one.strip()
        )
        probability = float(found[4] or 0) if found else 2.0
        if found is None or probability > 1:
            raise ValueError(
                f"fault {one.strip()!r}, expected WAY:KIND:P or WAY:KIND@N with a way of in, out or both, "
                "a kind of flip, drop or double, a probability up to 1, or the number of a byte from 1"
            )
        for way in Way:
            if found[1] in (way.value, "both"):
                faults.append(LineFault(way, FaultKind(found[2]), probability, int(found[3] or 0)))
    if len(faults) > MAX_FAULTS:
        raise ValueError(f"{len(faults)} faults, expected at most {MAX_FAULTS}")
    return tuple(faults)


@dataclass(frozen=True, slots=True)
class UnplugPlan:
    """The plug is pulled before byte number `byte` passes the host's end, either way."""

    byte: int
    replug_after_s: float | None
    """Seconds until it is back; None for ever."""


class FaultyBytes:
    """What a direction makes of the bytes that are pushed into it."""

    __slots__ = ("_by_number", "_dice", "_drawn", "_number", "faults")

    def __init__(self, way: Way, faults: Sequence[LineFault], seed: int) -> None:
        self.faults = 0
        """Those that happened."""
        self._dice = random.Random(f"{seed}:{way.value}")
        self._drawn = [fault for fault in faults if fault.way is way and not fault.byte]
        self._by_number = {fault.byte: fault.kind for fault in faults if fault.way is way and fault.byte}
        self._number = 0

    def __call__(self, data: bytes) -> bytes:
        """`data`, as they come out."""
        if not self._drawn and not self._by_number:
            return data
        return b"".join(self._altered(byte) for byte in data)

    def garbled(self, data: bytes) -> bytes:
        """`data`, as the other end reads them at another rate."""
        return bytes(self._dice.randrange(256) for _ in data)

    def _altered(self, byte: int) -> bytes:
        self._number += 1
        out = bytes([byte])
        for kind in self._kinds():
            self.faults += 1
            match kind:
                case FaultKind.FLIP:
                    out = bytes(one ^ 1 << self._dice.randrange(8) for one in out)
                case FaultKind.DROP:
                    out = b""
                case FaultKind.DOUBLE:
                    out += out
        return out

    def _kinds(self) -> Iterator[FaultKind]:
        if self._number in self._by_number:
            yield self._by_number[self._number]
        for fault in self._drawn:
            if self._dice.random() < fault.probability:
                yield fault.kind


@dataclass(slots=True)
class _Burst:
    """Bytes that follow one another without a gap; `start_s` is when the first bit of the first leaves."""

    start_s: float
    byte_s: float
    data: bytes
    taken: int = 0

    def through(self, now: float) -> int:
        """How many bytes are through at `now`."""
        if self.byte_s == 0.0:
            return len(self.data) if now >= self.start_s else 0
        # What a moment was computed from must be found through at that moment, whatever floating point does.
        return min(len(self.data), max(0, math.floor((now - self.start_s) / self.byte_s + 1e-6)))

    def at(self, count: int) -> float:
        """When `count` bytes are through."""
        return self.start_s + count * self.byte_s


class Wire:
    """One direction of a line."""

    __slots__ = ("_bursts", "_free_at", "size")

    def __init__(self) -> None:
        self.size = 0
        """Bytes that were pushed and not popped."""
        self._bursts: deque[_Burst] = deque()
        self._free_at = 0.0

    @property
    def due(self) -> float | None:
        """When to `pop`; None while nothing is under way."""
        if not self._bursts:
            return None
        burst = self._bursts[0]
        return min(burst.at(len(burst.data)), burst.at(burst.taken + 1) + _QUANTUM)

    def push(self, data: bytes, now: float, baud: int) -> None:
        """Send `data` at `baud` bits a second, behind what is under way, at `now` at the earliest."""
        if not data:
            return
        byte_s = BITS_PER_BYTE / baud if baud else 0.0
        start = max(now, self._free_at)
        self._bursts.append(_Burst(start, byte_s, data))
        self._free_at = start + len(data) * byte_s
        self.size += len(data)

    def pop(self, now: float) -> tuple[bytes, float]:
        """The bytes that are through by `now`, and when the last of them was."""
        out, at = b"", now
        while self._bursts:
            burst = self._bursts[0]
            count = burst.through(now)
            if count > burst.taken:
                out += burst.data[burst.taken : count]
                at = burst.at(count)
                burst.taken = count
            if count < len(burst.data):
                break
            self._bursts.popleft()
        self.size -= len(out)
        return out, at

    def cut(self, now: float) -> None:
        """Lose what is under way."""
        self._bursts.clear()
        self._free_at = now
        self.size = 0
