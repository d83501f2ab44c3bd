"""Who has a device: the newest session, here and, where other processes serve too, among all of them.

A process keeps `Claims` of its own sessions. With others beside it, it tells a *book* of every claim and release, by
number and time; the book, kept where all processes are known, answers a process whose claim is overtaken. Times, of a
clock that all processes of a machine share, say which claim is newer, however late the book hears of it. Numbers keep a
late answer from ending a session that is newer than the one it was about.
"""

import time
from collections.abc import Callable, Hashable
from typing import Final, Generic, Protocol, TypeVar


class Claimant(Protocol):
    """A live session's owner."""

    def supersede(self) -> None:
        """Close at once: a newer session of the same device is there."""


class Claims:
    """The live sessions of this process by MCUID."""

    def __init__(self) -> None:
        self._live: dict[str, Claimant] = {}

    def claim(self, mcuid: str, claimant: Claimant) -> None:
        """Make `claimant` the session of the device, and close an older one."""
        older = self._live.get(mcuid)
        if older is not claimant:
            if older is not None:
                older.supersede()
            self._live[mcuid] = claimant

    def release(self, mcuid: str, claimant: Claimant) -> None:
        """`claimant` is over; nothing happens if the device is another's by now."""
        if self._live.get(mcuid) is claimant:
            del self._live[mcuid]


class SharedClaims(Claims):
    """The same, in one of several processes.

    `tell` is called with what happened, the MCUID, the claim's number, and when it was: seconds of a monotonic clock
    that all processes share.
    """

    CLAIM: Final = "claim"
    RELEASE: Final = "release"

    def __init__(
        self, tell: Callable[[str, str, int, float], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        self._tell = tell
        self._clock = clock
        self._numbers: dict[str, int] = {}
        self._count = 0

    def claim(self, mcuid: str, claimant: Claimant) -> None:
        if self._live.get(mcuid) is not claimant:
            super().claim(mcuid, claimant)
            self._count += 1
            self._numbers[mcuid] = self._count
            self._tell(self.CLAIM, mcuid, self._count, self._clock())

    def release(self, mcuid: str, claimant: Claimant) -> None:
        if self._live.get(mcuid) is claimant:
            super().release(mcuid, claimant)
            self._tell(self.RELEASE, mcuid, self._numbers.pop(mcuid), self._clock())

    def overtaken(self, mcuid: str, number: int) -> None:
        """Another process has the device since this one's claim of that number."""
        claimant = self._live.get(mcuid)
        if claimant is not None and self._numbers[mcuid] <= number:
            claimant.supersede()


_Process = TypeVar("_Process", bound=Hashable)


class ClaimBook(Generic[_Process]):
    """Which process has which device."""

    def __init__(self) -> None:
        self._owners: dict[str, tuple[_Process, int, float]] = {}

    def __len__(self) -> int:
        return len(self._owners)

    def claim(self, process: _Process, mcuid: str, number: int, at: float) -> tuple[_Process, int] | None:
        """`process` claimed the device at `at`; returns whose claim is overtaken, and its number.

        That is the other process's, or this one's where the other's is newer and was only heard of earlier.
        """
        known = self._owners.get(mcuid)
        if known is not None and known[0] != process and known[2] > at:
            return process, number
        self._owners[mcuid] = (process, number, at)
        return None if known is None or known[0] == process else known[:2]

    def release(self, process: _Process, mcuid: str, number: int) -> None:
        """The claim of that number is over."""
        if self._owners.get(mcuid, ())[:2] == (process, number):
            del self._owners[mcuid]

    def forget(self, process: _Process) -> None:
        """The process is gone, and its sessions with it."""
        for mcuid in [mcuid for mcuid, (owner, _, _) in self._owners.items() if owner == process]:
            del self._owners[mcuid]
