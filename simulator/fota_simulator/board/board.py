"""A board: its power, its reset, its pin, and which of bootloader and application runs. No I/O, no clock.

Each reset latches the flash configuration, looks whether the bootloader is still what it was, and asks it what the pin
leads to. A bootloader that was overwritten is the end: the board is *bricked*, and only a debugger would help. An
application that starts says its banner and is silent from then on; one that cannot run is a fault, and with the pin
released the board then resets for ever, until somebody holds the pin.

The flash has a clock of its own, which runs on while commands do; `ready_at` is when the board is through with them and
can say what it has to, if flash times count. A bootloader that was left has said its last by then: what follows comes
from `timeout`, at a deadline that is due at once.
"""

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from fota_protocol.integrity import image_crc32
from fota_transport.clock import VirtualClock

from ..boot import BootPolicy, Start, application_end, at_reset
from ..errors import PowerLost
from ..flash import ERASED, Flash
from ..flash.configuration import FIELD_SIZE, FIELD_START
from ..flash.controller import FlashController
from .firmware import FOREVER, Firmware, Leave

REPOWER: Final = 1.0
"""Seconds until the power is back that failed at a flash command."""


class Pin(enum.Enum):
    """The pin that a reset looks at: SW1 on the TWR-K60 boards."""

    HELD = "held"
    """Always, as by a wire: every reset leads to the bootloader."""
    RELEASED = "released"
    """Never."""
    SW1 = "sw1"
    """By a person: held for the first reset and for each that is asked for with it, and let go."""
    ABSENT = "absent"
    """The bootloader was built without it: it always runs, and leaves by its hook time-out."""


class Condition(enum.Enum):
    """What a board is at."""

    OFF = "off"
    BOOTLOADER = "bootloader"
    APPLICATION = "application"
    RESET_LOOP = "reset loop"
    BRICKED = "bricked"


@dataclass(frozen=True, slots=True)
class Changed:
    """The board begins something, perhaps what it was at before. The CRC is an application's."""

    condition: Condition
    image_crc: str | None = None
    detail: str = ""


def application_crc(flash: Flash, end: int) -> str | None:
    """The image CRC of the application flash below `end`, from its first to its last byte that is not FF."""
    segments = list(flash.segments(flash.part.application_start, end))
    if not segments:
        return None
    return f"{image_crc32(flash.read(segments[0][0], segments[-1][0] + len(segments[-1][1]))):08X}"


class VirtualBoard:
    """One board around `controller`, whose flash time is `clock`. It is off until `power_on`.

    `banner` makes an application's text of its image CRC; with `has_flash_times`, answers wait for the flash.
    """

    def __init__(
        self,
        firmware: Firmware,
        controller: FlashController,
        clock: VirtualClock,
        *,
        policy: BootPolicy,
        is_held: bool = False,
        banner: Callable[[str], bytes] = lambda _: b"",
        has_flash_times: bool = False,
    ) -> None:
        self.condition = Condition.OFF
        self.events: tuple[Changed, ...] = ()
        """What it began, since the owner last set this to `()`."""
        self.ready_at = 0.0
        """When what was last returned begins to leave the board, on its owner's clock."""
        self._firmware = firmware
        self._controller = controller
        self._clock = clock
        self._application_end = application_end(controller.part, policy)
        self._is_held = is_held
        self._banner = banner
        self._has_flash_times = has_flash_times
        self._origin: float | None = None
        self._since = 0.0
        self._power_at: float | None = None
        self._whole = self._bootloader_content()

    @property
    def deadline(self) -> float | None:
        """When to call `timeout`; None while it is off and stays so."""
        match self.condition:
            case Condition.OFF:
                return self._power_at
            case Condition.BOOTLOADER:
                return self.ready_at if self._firmware.events else self._firmware.deadline
            case Condition.APPLICATION | Condition.RESET_LOOP | Condition.BRICKED:
                return self._since + FOREVER

    @property
    def image_crc(self) -> str | None:
        """The image CRC of what is in the application flash; None where that is blank."""
        return application_crc(self._controller.array, self._application_end)

    @property
    def is_bricked(self) -> bool:
        """Whether its bootloader was overwritten, or is not there: the next reset finds nothing to run."""
        return self._bootloader_content() != self._whole or self._controller.array.is_erased(0, 8)

    def power_on(self, now: float, *, pressing: bool = False) -> bytes:
        """Switch the power on, SW1 pressed or not; returns bytes to send. Of a board that is on, nothing."""
        if self.condition is not Condition.OFF:
            return b""
        self.condition = Condition.BOOTLOADER
        return self.reset(now, pressing=pressing)

    def power_off(self, now: float) -> None:
        """Switch the power off."""
        self._power_at = None
        self._begin(Condition.OFF, now)

    def reset(self, now: float, *, pressing: bool = False) -> bytes:
        """Reset it, SW1 pressed or not; returns bytes to send. Of a board that is off, nothing."""
        if self.condition is Condition.OFF:
            return b""
        self._advance(now)
        self._controller.reset()
        if self.is_bricked:
            self._begin(Condition.BRICKED, now, detail="its bootloader was overwritten")
            return b""
        match self._firmware.begins_with(pin_held=self._is_held or pressing):
            case Start.BOOTLOADER:
                self._begin(Condition.BOOTLOADER, now)
                return self._firmware.start(now)
            case Start.APPLICATION:
                return self._run_application(now)
            case Start.RESET_LOOP:
                self._begin(Condition.RESET_LOOP, now, detail="the pin is released and no application can run")
                return b""

    def hold(self, now: float) -> bytes:
        """Hold the pin from now on; returns bytes to send. A board that resets all the time notices at once."""
        self._is_held = True
        return self.reset(now) if self.condition is Condition.RESET_LOOP else b""

    def release(self) -> None:
        """Let the pin go; the next reset looks at it."""
        self._is_held = False

    def receive(self, data: bytes, now: float) -> bytes:
        """Take what came on the line; returns bytes to send from `ready_at` on."""
        if self.condition is not Condition.BOOTLOADER or self._firmware.events:
            return b""
        return self._played(lambda at: self._firmware.receive(data, at), now)

    def timeout(self, now: float) -> bytes:
        """The deadline has passed; returns bytes to send from `ready_at` on."""
        deadline = self.deadline
        if deadline is None or now < deadline:
            return b""
        match self.condition:
            case Condition.OFF:
                return self.power_on(now)
            case Condition.BOOTLOADER if self._firmware.events:
                how, *_ = self._firmware.events
                self._firmware.events = ()
                return self._run_application(now) if how is Leave.APPLICATION else self.reset(now)
            case Condition.BOOTLOADER:
                return self._played(self._firmware.timeout, now)
        self._since = now
        return b""

    def _played(self, play: Callable[[float], bytes], now: float) -> bytes:
        now = max(now, self.ready_at)  # the core is at the flash until then
        self._advance(now)
        began = self._clock.monotonic()
        try:
            out = play(now)
        except PowerLost as lost:
            self._begin(Condition.OFF, now, detail=str(lost))
            self._power_at = now + REPOWER
            return b""
        took = self._clock.monotonic() - began
        self.ready_at = now + took if self._has_flash_times else now
        return out

    def _run_application(self, now: float) -> bytes:
        if at_reset(self._controller.array, BootPolicy.AN2295) is not Start.APPLICATION:
            return self.reset(now)  # a fault, a lock-up
        crc = self.image_crc or ""
        self._begin(Condition.APPLICATION, now, image_crc=crc)
        return self._banner(crc)

    def _begin(self, condition: Condition, now: float, *, image_crc: str | None = None, detail: str = "") -> None:
        self.condition = condition
        self._since = now
        self.events += (Changed(condition, image_crc, detail),)

    def _bootloader_content(self) -> bytes:
        """The bootloader's flash, without the configuration field, which it can do without."""
        array = self._controller.array
        behind = FIELD_START + FIELD_SIZE
        return array.read(0, FIELD_START) + ERASED * FIELD_SIZE + array.read(behind, array.part.application_start)

    def _advance(self, now: float) -> None:
        """Let the flash's clock keep up with the board's."""
        if self._origin is None:
            self._origin = now - self._clock.monotonic()
        self._clock.move_to(max(self._clock.monotonic(), now - self._origin))
