"""When bytes arrive that are sent now: one direction of a link, by its profile.

It has no clock and sends nothing: the simulated network asks it, and so does whoever delays real
bytes.  Bytes leave one after the other, then travel; what chance holds back (jitter, an outage, a
segment sent again) also holds back what is behind it, so order is kept.
"""

from random import Random

from .profiles import LinkProfile


class Line:
    """One direction; `random` is asked only for what the profile leaves to chance."""

    __slots__ = ("_bytes_per_second", "_free_s", "_last_due_s", "_outage_ends_s", "_outage_s", "_profile", "_random")

    def __init__(self, profile: LinkProfile, random: Random) -> None:
        self._profile = profile
        self._random = random
        self._bytes_per_second = profile.bytes_per_second or float("inf")
        self._free_s = 0.0
        self._last_due_s = 0.0
        self._outage_s = self._outage_ends_s = -1.0

    def due(self, now: float, size: int) -> float:
        """When the last of `size` bytes sent at `now` is there; never before what was sent earlier."""
        profile = self._profile
        free = self._free_s
        free = (free if free > now else now) + size / self._bytes_per_second
        self._free_s = free
        due = free + profile.latency_s
        if profile.jitter_s:
            due += self._random.random() * profile.jitter_s
        if profile.loss and self._random.random() < profile.loss:
            due += profile.resend_s
        if profile.outage_every_s is not None:
            due = self._behind_outage(due)
        if due < self._last_due_s:
            due = self._last_due_s
        self._last_due_s = due
        return due

    def _behind_outage(self, due: float) -> float:
        """`due`, or the end of the outage that it falls into."""
        profile = self._profile
        assert profile.outage_every_s is not None
        if self._outage_s < 0:
            self._draw_outage(0.0)
        while due >= self._outage_ends_s:
            self._draw_outage(self._outage_ends_s)
        return self._outage_ends_s if due >= self._outage_s else due

    def _draw_outage(self, after_s: float) -> None:
        profile = self._profile
        assert profile.outage_every_s is not None
        self._outage_s = after_s + self._random.expovariate(1.0 / profile.outage_every_s)
        self._outage_ends_s = self._outage_s + profile.outage_s
