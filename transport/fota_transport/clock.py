"""Clocks are arguments: whoever needs the time is given one of these.

`monotonic` is for deadlines and durations, `wall` for logs and journals.  Code on an asyncio loop
takes deadlines from `loop.time()` and never mixes them with another clock's `monotonic`.
"""

import time
from typing import Final, Protocol

VIRTUAL_EPOCH: Final = 1_000_000_000.0
"""Wall time, in seconds since 1970, at which virtual clocks start (2001-09-09 01:46:40 UTC)."""


class Clock(Protocol):
    """Tells the time; see `SystemClock` and `VirtualClock`."""

    def monotonic(self) -> float:
        """Return seconds since an arbitrary moment; never goes back."""

    def wall(self) -> float:
        """Return seconds since 1970-01-01 00:00 UTC."""


class SystemClock:
    """The machine's own clocks."""

    __slots__ = ()

    def monotonic(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()


class VirtualClock:
    """A clock that moves only when it is told to."""

    __slots__ = ("_epoch_s", "_now_s")

    def __init__(self, *, epoch_s: float = VIRTUAL_EPOCH) -> None:
        self._now_s = 0.0
        self._epoch_s = epoch_s

    def monotonic(self) -> float:
        return self._now_s

    def wall(self) -> float:
        return self._epoch_s + self._now_s

    def advance(self, seconds: float) -> None:
        """Move `seconds` forward."""
        self.move_to(self._now_s + seconds)

    def move_to(self, moment_s: float) -> None:
        """Move forward to `moment_s` on the scale of `monotonic`."""
        if moment_s < self._now_s:
            raise ValueError(f"a clock at {self._now_s} s cannot go back to {moment_s} s")
        self._now_s = moment_s
