"""Who has a device: the newest session, here and, where other processes serve too, among all of them.

A process keeps `Claims` of its own sessions. With others beside it, it tells a *book* of every claim and release, by
number; the book, kept where all processes are known, answers a process whose claim is overtaken. Numbers keep a late
answer from ending a session that is newer than the one it was about.
"""

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
    """The same, in one of several processes; `tell` is called with what happened, the MCUID and the claim's number."""

    CLAIM: Final = "claim"
    RELEASE: Final = "release"

    def __init__(self, tell: Callable[[str, str, int], None]) -> None:
        super().__init__()
        self._tell = tell
        self._numbers: dict[str, int] = {}
        self._count = 0

    def claim(self, mcuid: str, claimant: Claimant) -> None:
        if self._live.get(mcuid) is not claimant:
            super().claim(mcuid, claimant)
            self._count += 1
            self._numbers[mcuid] = self._count
            self._tell(self.CLAIM, mcuid, self._count)

    def release(self, mcuid: str, claimant: Claimant) -> None:
        if self._live.get(mcuid) is claimant:
            super().release(mcuid, claimant)
            self._tell(self.RELEASE, mcuid, self._numbers.pop(mcuid))

    def overtaken(self, mcuid: str, number: int) -> None:
        """Another process has the device since this one's claim of that number."""
        claimant = self._live.get(mcuid)
        if claimant is not None and self._numbers[mcuid] <= number:
            claimant.supersede()


_Process = TypeVar("_Process", bound=Hashable)


class ClaimBook(Generic[_Process]):
    """Which process has which device."""

    def __init__(self) -> None:
        self._owners: dict[str, tuple[_Process, int]] = {}

    def __len__(self) -> int:
        return len(self._owners)

    def claim(self, process: _Process, mcuid: str, number: int) -> tuple[_Process, int] | None:
        """`process` has the device now; returns the other process that had it and its claim's number."""
        older = self._owners.get(mcuid)
        self._owners[mcuid] = (process, number)
        return None if older is None or older[0] == process else older

    def release(self, process: _Process, mcuid: str, number: int) -> None:
        """The claim of that number is over."""
        if self._owners.get(mcuid) == (process, number):
            del self._owners[mcuid]

    def forget(self, process: _Process) -> None:
        """The process is gone, and its sessions with it."""
        for mcuid in [mcuid for mcuid, (owner, _) in self._owners.items() if owner == process]:
            del self._owners[mcuid]
