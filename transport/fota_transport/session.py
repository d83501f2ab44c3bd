"""The one shape every session has; all that this package knows about protocols."""

from typing import Protocol


class Session(Protocol):
    """One end of a protocol: bytes and time in, bytes and events out.

    A session never sleeps, reads a clock or opens anything.  Times are seconds of any one monotonic
    clock.  Owner-side calls that a concrete session adds return bytes to send as well.
    """

    @property
    def events(self) -> tuple[object, ...]:
        """What the last calls produced; empty nearly always.  The owner reads and empties it."""

    @events.setter
    def events(self, value: tuple[()], /) -> None: ...

    @property
    def deadline(self) -> float | None:
        """When to call `timeout`; None once the session is over and its link should be closed."""

    def receive(self, data: bytes, now: float, /) -> bytes:
        """Take what the peer sent; return bytes to send, b"" for none. Ending here leaves an event."""

    def timeout(self, now: float, /) -> bytes:
        """Say that the deadline has passed; return bytes to send, b"" for none."""

    def peer_closed(self, now: float, /) -> None:
        """Say that nothing more will arrive: end of stream or reset."""
