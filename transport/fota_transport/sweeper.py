"""Deadlines for many sessions by one timer.

A timer for every ack would cost more than the ack.  A session only notes its deadline; the sweeper
looks at deadlines once an interval, and calls those whose time has come.  A look at one of many costs
a microsecond or two, since no cache holds them all, so a sweep looks at some thousands at most, and
the next one goes on behind them: looking takes some hundredths of the time, and thousands whose time
comes together do not end in one go.  A deadline is met at most one interval late, or, where there are
more members than a sweep looks at, one round later.  The timer runs only while there is something to
look at: on a simulated loop an idle sweeper lets the run end.

A sweep that comes late itself, since the process or the machine was held up, waits for one more
interval: what peers sent in the meantime lies unread, and is no silence of theirs.
"""

import asyncio
import itertools
from typing import Final, Protocol

LOOKS_PER_SECOND: Final = 10_000
"""Most members that are looked at in a second: a round of 20,000 takes two."""


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

    __slots__ = ("_due_s", "_interval_s", "_is_late", "_looks", "_loop", "_members", "_stopped", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, interval_s: float) -> None:
        self._loop = loop
        self._interval_s = interval_s
        self._looks = max(1, round(interval_s * LOOKS_PER_SECOND))
        self._members: dict[Swept, None] = {}
        """A set that keeps order, so that runs can be repeated: who was looked at longest ago comes first."""
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
            self._due_s = self._loop.time() + self._interval_s
            self._timer = self._loop.call_at(self._due_s, self._sweep)

    def _sweep(self) -> None:
        self._timer = None
        now = self._loop.time()
        self._is_late = not self._is_late and now - self._due_s > self._interval_s
        if self._is_late:
            self._arm()
            return
        members = list(itertools.islice(self._members, self._looks))
        if len(members) < len(self._members):
            for member in members:  # to the end, behind those who wait for their turn
                del self._members[member]
                self._members[member] = None
        due = [member for member in members if (deadline := member.deadline) is not None and deadline <= now]
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
