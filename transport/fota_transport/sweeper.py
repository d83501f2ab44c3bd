"""Deadlines for many sessions by one timer.

A timer for every ack would cost more than the ack.  A session only notes its deadline; the sweeper
looks at all of them once an interval and calls those whose time has come, so a deadline is met at
most one interval late.  A look at one of many costs a microsecond or two, since no cache holds them
all, so a sweep looks at no more than some thousands, and at the next ones an interval later: looking
takes some hundredths of the time at most, and thousands whose time comes together do not end in one
go.  The timer runs only while there is something to look at: on a simulated loop an idle sweeper lets
the run end.

A sweep that comes late itself, since the process or the machine was held up, waits for one more
interval: what peers sent in the meantime lies unread, and is no silence of theirs.
"""

import asyncio
from typing import Final, Protocol

LOOKS_PER_SECOND: Final = 10_000
"""Most members that are looked at in a second: with twice as many, a deadline may be overrun by two seconds."""


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

    __slots__ = ("_due_s", "_interval_s", "_is_late", "_loop", "_members", "_rest", "_stopped", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, interval_s: float) -> None:
        self._loop = loop
        self._interval_s = interval_s
        self._members: dict[Swept, None] = {}  # a set that keeps order, so runs can be repeated
        self._rest: list[Swept] = []
        """Whom the next sweeps are to look at, before they begin anew; who left meanwhile may be among them."""
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
        looks = max(1, round(self._interval_s * LOOKS_PER_SECOND))
        members = self._rest or list(self._members)
        self._rest = members[looks:]
        due = [member for member in members[:looks] if (deadline := member.deadline) is not None and deadline <= now]
        for member in due:
            if member not in self._members:  # it left, or an earlier time-out ended it
                continue
            try:
                member.timeout(now)
            except Exception as error:
                self._loop.call_exception_handler({"message": f"{member!r} failed in its time-out", "exception": error})
                member.abort()
        if self._members:
            self._arm()
        else:
            self._rest = []
