"""Deadlines for many sessions by one timer.

A timer for every ack would cost more than the ack.  A session only notes its deadline; the sweeper
looks at all of them once an interval and calls those whose time has come, so a deadline is met at
most one interval late.  A look at one of many costs a microsecond or two, since no cache holds them
all; thousands are looked at less often, so that looking never takes more than some hundredths of the
time.  The timer runs only while there is something to look at: on a simulated loop an idle sweeper
lets the run end.

A sweep that comes late itself, since the process or the machine was held up, waits for one more
interval: what peers sent in the meantime lies unread, and is no silence of theirs.
"""

import asyncio
from typing import Final, Protocol

INTERVAL_OF_A_MEMBER: Final = 0.0001
"""Seconds between two sweeps for each member, where that is more than the interval: 1 s for 10,000."""


class Swept(Protocol):
    """Something with a deadline."""

    @property
    def deadline(self) -> float | None:
        """When to call `timeout`, on the scale of the loop's `time()`; None for never."""

    def timeout(self, now: float, /) -> None:
        """Take note that the deadline has passed."""

    def abort(self) -> None:
        """End at once; called when `timeout` raised."""


class Sweeper:
    """Calls `timeout` on members whose deadline has passed, once every `interval_s` seconds; thousands wait longer."""

    __slots__ = ("_due_s", "_interval_s", "_is_late", "_loop", "_members", "_stopped", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, interval_s: float) -> None:
        self._loop = loop
        self._interval_s = interval_s
        self._members: dict[Swept, None] = {}  # a set that keeps order, so runs can be repeated
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = False
        self._due_s = 0.0
        self._is_late = False

    def __len__(self) -> int:
        return len(self._members)

    def add(self, member: Swept) -> None:
        """Look after `member` from now on."""
        self._members[member] = None
        if self._timer is None:
            self._arm()

    def discard(self, member: Swept) -> None:
        """Look after `member` no longer; it need not be known."""
        self._members.pop(member, None)

    def stop(self) -> None:
        """Sweep no more, whoever is added."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        if not self._stopped:
            self._due_s = self._loop.time() + self._interval()
            self._timer = self._loop.call_at(self._due_s, self._sweep)

    def _interval(self) -> float:
        return max(self._interval_s, len(self._members) * INTERVAL_OF_A_MEMBER)

    def _sweep(self) -> None:
        self._timer = None
        now = self._loop.time()
        self._is_late = not self._is_late and now - self._due_s > self._interval()
        if self._is_late:
            self._arm()
            return
        due = [member for member in self._members if (deadline := member.deadline) is not None and deadline <= now]
        for member in due:
            if member not in self._members:  # an earlier time-out ended this one
                continue
            try:
                member.timeout(now)
            except Exception as error:
                self._loop.call_exception_handler({"message": f"{member!r} failed in its time-out", "exception": error})
                member.abort()
        if self._members:
            self._arm()
