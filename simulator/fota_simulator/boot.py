"""What a device does at a reset: which bootloaders there are, what each asks before it starts an application, and
what the core makes of the vectors that it is given.

Two things decide. The *bootloader* chooses, by its policy. Then the *core* runs what it was given, or cannot: a stack
pointer outside the RAM, an even reset vector or an entry point in blank flash is a fault, the fault of a core without
handlers a lock-up, and a lock-up a reset. Only flash and pin count: a device that lost its power remembers nothing
else.
"""

import enum
import struct
from dataclasses import dataclass
from typing import Final

from fota_protocol.integrity import check_seal, check_vectors, read_seal
from fota_protocol.parts import Part

from . import update_mark
from .flash import FlashMemory

_NMI_OFFSET = 8
"""Bytes from the vector table to the word that the hook time-out looks at (AN2295 bootloader)."""


class BootPolicy(enum.Enum):
    """What a bootloader asks of an image, before it acks the end frame and before it starts it."""

    SEALED = "sealed"
    """The seal is there and right, and the vectors are sane."""
    VECTORS = "vectors"
    """The vectors are sane."""
    MARK = "mark"
    """No update is in progress, by a mark in the last sector of the flash that an update sets and clears."""
    HOOK = "hook"
    """Nobody called for 10 s, and the NMI vector is not blank (AN2295 without its pin)."""
    AN2295 = "an2295"
    """The pin is released; nothing is asked of the image (AN2295 on the TWR-K60 boards)."""


class ProgrammingOrder(enum.Enum):
    """When the vectors are programmed."""

    VECTORS_LAST = "vectors-last"
    """Their sector is erased before anything else, and their first unit programmed after everything else."""
    FILE = "file"
    """When they come."""


@dataclass(frozen=True, slots=True)
class BootloaderSettings:
    """What kind of bootloader a device has."""

    policy: BootPolicy = BootPolicy.SEALED
    order: ProgrammingOrder = ProgrammingOrder.VECTORS_LAST
    guards_itself: bool = True
    """Whether it refuses records for its own flash."""
    allows_lock: bool = False
    """Whether it takes a flash configuration field that would lock the part for ever."""


STANDARD_BOOTLOADER: Final = BootloaderSettings()
"""That of a device of which nothing else is said."""


class Start(enum.Enum):
    """What a device does after a reset."""

    BOOTLOADER = "bootloader"
    """It stays in its bootloader, or comes back to it, and can be updated."""
    APPLICATION = "application"
    """It runs what the vectors point to."""
    RESET_LOOP = "reset loop"
    """Its bootloader leaves at once for something that cannot run: fault, lock-up, reset, for ever."""


def application_end(part: Part, policy: BootPolicy) -> int:
    """First address behind the flash that an image may use."""
    return update_mark.sector_start(part) if policy is BootPolicy.MARK else part.flash_end


def at_reset(flash: FlashMemory, policy: BootPolicy, *, pin_held: bool = False) -> Start:
    """What a device with this flash and policy does. `pin_held` matters to the policy `an2295` alone."""
    if not _leaves(flash, policy, pin_held):
        return Start.BOOTLOADER
    if _core_runs(flash):
        return Start.APPLICATION
    # Behind a hook time-out, every reset is a new chance to call.
    return Start.BOOTLOADER if policy is BootPolicy.HOOK else Start.RESET_LOOP


def would_start(flash: FlashMemory, policy: BootPolicy) -> bool:
    """Whether a device with this flash and policy runs an application after a reset that nobody holds a pin at."""
    return at_reset(flash, policy) is Start.APPLICATION


def _leaves(flash: FlashMemory, policy: BootPolicy, pin_held: bool) -> bool:
    """Whether the bootloader hands over to whatever the vectors say."""
    part = flash.part
    match policy:
        case BootPolicy.SEALED:
            seal = read_seal(flash.read, part.application_start)
            return (
                seal is not None
                and check_seal(flash.read, part) is None
                and check_vectors(flash.read, part, seal.end) is None
            )
        case BootPolicy.VECTORS:
            return check_vectors(flash.read, part, part.flash_end) is None
        case BootPolicy.MARK:
            # A device as it comes from the factory has no application and no mark either.
            blank = flash.read(part.application_start, part.application_start + 4) == b"\xff" * 4
            return not blank and not update_mark.in_progress(flash)
        case BootPolicy.HOOK:
            nmi = part.application_start + _NMI_OFFSET
            return flash.read(nmi, nmi + 4) != b"\xff" * 4
        case BootPolicy.AN2295:
            return not pin_held


def _core_runs(flash: FlashMemory) -> bool:
    """Whether the core gets anywhere with the vectors. It ignores the lowest two bits of the stack pointer."""
    part = flash.part
    start = part.application_start
    stack, reset = struct.unpack("<II", flash.read(start, start + 8))
    if not part.ram_start < stack & ~3 <= part.ram_end or not reset & 1 or not start <= reset - 1 < part.flash_end - 1:
        return False
    entry: bytes = flash.read(reset - 1, reset + 1)
    return entry != b"\xff\xff"
