"""A bootloader that speaks the update protocol over its UART: it asks a server for an update until it gets one.

After a reset it says its boot text, if it has one, and identifies itself. Who is refused, fails or hears nothing asks
again after a pause, which doubles from time to time up to a limit. A line has no end that a device could see: a server
that has closed is a server that is silent, or whatever text a relay puts in its place. Once an update is done the
device leaves its bootloader: for the application, if that starts by its policy.
"""

import enum
from collections.abc import Callable
from typing import Final

from fota_protocol.device import DeviceSession, Outcome, Result

from ..boot import Start
from ..mcu import VirtualMcu
from .firmware import Leave

LONGEST_PAUSE: Final = 300.0
"""Seconds that a device pauses at most before it identifies itself again, unless its first pause is longer."""

_ACK: Final = b"@"


class Newline(enum.Enum):
    """What a device's firmware sends behind its frames."""

    NONE = "none"
    LF = "lf"
    CRLF = "crlf"

    @property
    def encoded(self) -> bytes:
        """Its bytes."""
        return {Newline.NONE: b"", Newline.LF: b"\n", Newline.CRLF: b"\r\n"}[self]


class FotaDevice:
    """The sessions of `mcu`, one after the other. `retry_s` is the first pause; `on_outcome` hears how each ended."""

    def __init__(
        self,
        mcu: VirtualMcu,
        *,
        boot_text: bytes = b"",
        newline: Newline = Newline.NONE,
        retry_s: float = 5.0,
        on_outcome: Callable[[Outcome], None] = lambda _: None,
    ) -> None:
        self.events: tuple[Leave, ...] = ()
        """How it was left; the owner reads and empties it."""
        self._mcu = mcu
        self._on_outcome = on_outcome
        self._boot_text = boot_text
        self._newline = newline.encoded
        self._first_pause = self._pause = retry_s
        self._session: DeviceSession | None = None
        self._again_at: float | None = None

    @property
    def deadline(self) -> float | None:
        """When to call `timeout`; None before `start` and once it was left."""
        return self._again_at if self._session is None else self._session.deadline

    def begins_with(self, *, pin_held: bool) -> Start:
        """What a reset leads to: it always asks for an update first."""
        return Start.BOOTLOADER

    def start(self, now: float) -> bytes:
        """A reset led to the bootloader; returns its boot text and its identification."""
        self._pause = self._first_pause
        self.events = ()
        return self._boot_text + self._identify(now)

    def receive(self, data: bytes, now: float, /) -> bytes:
        """Take what came on the line; returns acks. Between two sessions, nothing is listened to."""
        if self._session is None:
            return b""
        out = self._session.receive(data, now)
        self._look(now)
        return out.replace(_ACK, _ACK + self._newline)

    def timeout(self, now: float, /) -> bytes:
        """The deadline has passed: the server is silent, or a pause is over."""
        deadline = self.deadline
        if deadline is None or now < deadline:
            return b""
        if self._session is None:
            return self._identify(now)
        out = self._session.timeout(now)
        self._look(now)
        return out

    def peer_closed(self, now: float, /) -> None:
        """A line has no end: nothing changes."""

    def _identify(self, now: float) -> bytes:
        self._again_at = None
        self._session = self._mcu.session()
        return self._session.start(now) + self._newline

    def _look(self, now: float) -> None:
        """End a session that has its outcome: nobody will close it."""
        session = self._session
        if session is None or session.outcome is None:
            return
        self._session = None
        self._on_outcome(session.outcome)
        if session.outcome.result is Result.UPDATED:
            self.events += (Leave.APPLICATION if self._mcu.boots else Leave.RESET,)
            return
        self._again_at = now + self._pause
        self._pause = max(self._first_pause, min(2 * self._pause, LONGEST_PAUSE))
