"""What a device does once its power is back, and whether it can be updated again.

Who can be updated again depends on the bootloader. One with a pin needs a hand at the pin, whatever stands in flash.
The others stay in the bootloader by themselves when they find nothing to start; an application that is whole, the old
or the new one, is trusted to ask for its update; something else is not. Then a hand at the reset button helps where a
hook time-out gives every reset a chance.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from fota_protocol.device import Result

from ..boot import BootPolicy, Start, application_end, at_reset
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
    """With a hand at its pin or its reset button."""
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
    contents = flash.contents()
    own = range(part.application_start // part.sector_size)
    kept = all(contents.get(index) == scenario.base.get(index) for index in own)
    if not kept:
        return FirstStart.BRICKED, kept
    match at_reset(flash, scenario.settings.policy):
        case Start.BOOTLOADER:
            return FirstStart.BOOTLOADER, kept
        case Start.RESET_LOOP:
            return FirstStart.BRICKED, kept
        case Start.APPLICATION:
            if _same_application(scenario, contents, scenario.base):
                return FirstStart.OLD, kept
            return (FirstStart.NEW if _same_application(scenario, contents, scenario.end) else FirstStart.OTHER), kept


def access(scenario: Scenario, flash: Flash, start: FirstStart, bootloader_kept: bool) -> Recovery:
    """How the next update can reach the device, if at all."""
    policy = scenario.settings.policy
    if not bootloader_kept:
        return Recovery.NOT
    if start is FirstStart.BOOTLOADER:
        return Recovery.ITSELF
    if at_reset(flash, policy, pin_held=True) is Start.BOOTLOADER:
        return Recovery.BY_HAND
    if start in (FirstStart.OLD, FirstStart.NEW):
        return Recovery.ITSELF
    return Recovery.BY_HAND if policy is BootPolicy.HOOK and start is FirstStart.OTHER else Recovery.NOT


def is_updated(scenario: Scenario, flash: Flash, result: Result | None, difference: str | None) -> bool:
    """Whether an update that ended with `result` brought the new application, verified and started."""
    return (
        result is Result.UPDATED
        and difference is None
        and at_reset(flash, scenario.settings.policy) is Start.APPLICATION
    )


def _same_application(scenario: Scenario, contents: Mapping[int, bytes], other: Mapping[int, bytes]) -> bool:
    """Whether all of the flash that images can use is equal: nothing less is a whole application."""
    part = scenario.part
    size = part.sector_size
    sectors = range(part.application_start // size, application_end(part, scenario.settings.policy) // size)
    return all(contents.get(index) == other.get(index) for index in sectors)
