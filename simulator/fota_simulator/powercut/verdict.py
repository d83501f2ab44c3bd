"""What a device does once its power is back, and whether it can be updated again.

Who can be updated again depends on the bootloader. One with a hook time-out offers itself at every reset. One with a
pin needs a hand at the pin, whatever stands in flash. The others stay in the bootloader by themselves when they find
nothing to start; an application that is whole, the old or the new one, is trusted to ask for its update; something else
is not.
"""

import enum
from dataclasses import dataclass

from fota_protocol.device import Result
from fota_protocol.image import FirmwareImage

from ..boot import BootPolicy, Start, at_reset
from ..flash import Flash
from .scenario import Scenario


class FirstStart(enum.Enum):
    """What a device does when its power is back."""

    BOOTLOADER = "still in bootloader"
    OLD = "old application"
    NEW = "new application"
    OTHER = "something else"
    """It runs what is neither the old nor the new application: half of one, a mixture, a torn one."""
    BRICKED = "bricked"
    """It resets for ever, or its bootloader is damaged."""


class Recovery(enum.Enum):
    """Whether the next update brings the new application."""

    ITSELF = "recovered"
    """Without anybody near the device."""
    BY_HAND = "by hand"
    """With a hand at its pin."""
    NOT = "not recovered"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of one cut."""

    start: FirstStart
    recovery: Recovery
    bootloader_kept: bool


def first_start(scenario: Scenario, flash: Flash) -> tuple[FirstStart, bool]:
    """What the device does, and whether its bootloader's flash is as it was."""
    part = scenario.part
    contents, base = flash.contents(), scenario.base
    own = range(part.application_start // part.sector_size)
    kept = all(contents.get(index) == base.get(index) for index in own)
    if not kept:
        return FirstStart.BRICKED, kept
    match at_reset(flash, scenario.settings.policy):
        case Start.BOOTLOADER:
            return FirstStart.BOOTLOADER, kept
        case Start.RESET_LOOP:
            return FirstStart.BRICKED, kept
        case Start.APPLICATION:
            if _holds(flash, scenario.new):
                return FirstStart.NEW, kept
            return (FirstStart.OLD if _holds(flash, scenario.old) else FirstStart.OTHER), kept


def access(scenario: Scenario, start: FirstStart, bootloader_kept: bool) -> Recovery:
    """How the next update can reach the device, if at all."""
    if not bootloader_kept:
        return Recovery.NOT
    match scenario.settings.policy:
        case BootPolicy.HOOK:
            return Recovery.ITSELF
        case BootPolicy.AN2295:
            return Recovery.BY_HAND
        case BootPolicy.SEALED | BootPolicy.VECTORS | BootPolicy.MARK:
            lost = start in (FirstStart.OTHER, FirstStart.BRICKED)
            return Recovery.NOT if lost else Recovery.ITSELF


def is_updated(scenario: Scenario, flash: Flash, result: Result | None, difference: str | None) -> bool:
    """Whether an update that ended with `result` brought the new application, verified and started."""
    return (
        result is Result.UPDATED
        and difference is None
        and at_reset(flash, scenario.settings.policy) is Start.APPLICATION
    )


def _holds(flash: Flash, image: FirmwareImage) -> bool:
    return all(flash.read(segment.start, segment.end) == segment.data for segment in image.segments)
