"""Durations counted in buckets: however many there are, they take little room, and counts of several runs add up.

The buckets are log-linear, as HdrHistogram's are: a duration is rounded down to `PRECISION` binary digits of its ticks,
so a bucket is never wider than 1/128 of what is in it. They are the same in every run, so to merge two runs is to add
what they count for the same `from_s`.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

TICKS_PER_S: Final = 10_000
"""Durations are counted in ticks of 0.1 ms."""

PRECISION: Final = 8
"""Binary digits of a duration that tell buckets apart."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """How many durations were in [from_s, to_s)."""

    from_s: float
    to_s: float
    count: int


class Durations:
    """How many durations were counted, by bucket."""

    def __init__(self, seconds: Iterable[float] = ()) -> None:
        self._counts: Counter[int] = Counter()  # by the first tick of a bucket
        self._total = 0
        self._longest_s = 0.0
        self._told: tuple[int, tuple[float, ...], tuple[float, ...]] = (0, (), ())
        for duration in seconds:
            self.add(duration)

    def add(self, seconds: float) -> None:
        """Count one."""
        ticks = int(seconds * TICKS_PER_S)
        shift = max(0, ticks.bit_length() - PRECISION)
        self._counts[ticks >> shift << shift] += 1
        self._total += 1
        self._longest_s = max(self._longest_s, seconds)

    def buckets(self) -> tuple[Bucket, ...]:
        """Those that are not empty, ascending."""
        return tuple(
            Bucket(first / TICKS_PER_S, (first + _width(first)) / TICKS_PER_S, self._counts[first])
            for first in sorted(self._counts)
        )

    def percentiles(self, percents: Sequence[float]) -> tuple[float, ...]:
        """For each of `percents`, ascending, what so many did not exceed (nearest rank, end of its bucket); 0 of none.

        Asked again before another was counted, it does not look again: a live view may ask often.
        """
        asked = tuple(percents)
        if self._told[:2] != (self._total, asked):
            self._told = (self._total, asked, tuple(self._find(asked)))
        return self._told[2]

    def _find(self, percents: Iterable[float]) -> Iterable[float]:
        ascending = iter(sorted(self._counts))
        below, first = 0, 0
        for percent in percents:
            while below * 100 < percent * self._total or (not below and self._total):
                first = next(ascending)
                below += self._counts[first]
            yield min(self._longest_s, (first + _width(first)) / TICKS_PER_S) if below else 0.0


def _width(first: int) -> int:
    """Ticks of the bucket that begins there."""
    return 1 << max(0, first.bit_length() - PRECISION)
