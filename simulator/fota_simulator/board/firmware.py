"""What a bootloader is to the board that it runs on: a session that begins at a reset, and how it is left."""

import enum
from typing import Final, Protocol

from ..boot import Start

FOREVER: Final = 3600.0
"""Seconds until the deadline of somebody who waits for ever; then it does nothing, and waits again."""


class Leave(enum.Enum):
    """How a bootloader is left; the event that ends its session."""

    RESET = "reset"
    """By a reset of the whole part (SYSRESETREQ)."""
    APPLICATION = "application"
    """By a jump to whatever the application's vectors say."""


class Firmware(Protocol):
    """A bootloader, with the shape of `fota_transport.session.Session`; `start` begins it anew, whatever it was at."""

    @property
    def events(self) -> tuple[Leave, ...]:
        """How it was left, once it was."""

    @events.setter
    def events(self, value: tuple[()], /) -> None: ...

    @property
    def deadline(self) -> float | None:
        """When to call `timeout`; None before the start and once it was left."""

    def begins_with(self, *, pin_held: bool) -> Start:
        """What a reset leads to."""

    def start(self, now: float) -> bytes:
        """It runs from now on; returns bytes to send."""

    def receive(self, data: bytes, now: float, /) -> bytes:
        """Take what came on the line; returns bytes to send."""

    def timeout(self, now: float, /) -> bytes:
        """The deadline has passed; returns bytes to send."""

    def peer_closed(self, now: float, /) -> None:
        """Nothing more will arrive: a line has no end, so this changes nothing."""
