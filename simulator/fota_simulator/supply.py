"""The power supply of a device, which can fail once, at a moment that is named beforehand.

A moment is a flash command by its number (before it does anything, when a part of its bits have changed, or when it is
through) or a byte on the wire by its number (it never passes; all before it did). Numbers count from 1. What
happens then is `PowerLost`, which no part of a device catches: whatever was in RAM is gone.
"""

import enum
import random
import re
from dataclasses import dataclass

from .errors import PowerLost


class CutMode(enum.Enum):
    """When, within a flash command, the power fails."""

    BEFORE = "before"
    TORN = "torn"
    """Some of the bits that it changes have changed, others have not; which ones is drawn from the seed."""
    AFTER = "after"


@dataclass(frozen=True, slots=True)
class CommandCut:
    """The power fails at a flash command."""

    number: int
    mode: CutMode

    def __str__(self) -> str:
        return f"command:{self.number}:{self.mode.value}"


@dataclass(frozen=True, slots=True)
class WireCut:
    """The power fails before a byte passes, either way, on the wire."""

    number: int

    def __str__(self) -> str:
        return f"byte:{self.number}"


Cut = CommandCut | WireCut


def parse_cut(text: str) -> Cut:
    """`command:N:before|torn|after` or `byte:N`, as cuts print; raises `ValueError`."""
    if found := re.fullmatch(r"command:([1-9][0-9]{0,11}):(before|torn|after)", text):
        return CommandCut(int(found[1]), CutMode(found[2]))
    if found := re.fullmatch(r"byte:([1-9][0-9]{0,11})", text):
        return WireCut(int(found[1]))
    raise ValueError(f"cut {text!r}, expected command:N:before, command:N:torn, command:N:after or byte:N, from 1 up")


class Supply:
    """Power until `cut`; for ever without one. It counts flash commands and bytes on the wire."""

    __slots__ = ("_command", "_mode", "_wire_byte", "commands", "seed", "wire_bytes")

    def __init__(self, cut: Cut | None = None, *, seed: int = 0, commands: int = 0) -> None:
        self.seed = seed
        self.commands = commands
        """Flash commands that began, or would have."""
        self.wire_bytes = 0
        """Bytes that passed."""
        self._command = cut.number if isinstance(cut, CommandCut) else 0
        self._mode = cut.mode if isinstance(cut, CommandCut) else None
        self._wire_byte = cut.number if isinstance(cut, WireCut) else None

    @property
    def pending(self) -> bool:
        """Whether a failure is still to come."""
        if self._wire_byte is not None:
            return self.wire_bytes < self._wire_byte - 1
        return self.commands < self._command

    def flash_command(self) -> CutMode | None:
        """A flash command begins; returns how it is cut, None when it is not. Raises `PowerLost` before it."""
        self.commands += 1
        if self.commands != self._command:
            return None
        if self._mode is CutMode.BEFORE:
            raise PowerLost(f"before flash command {self.commands}")
        return self._mode

    def fail_in_command(self, mode: CutMode) -> PowerLost:
        """What to raise when the command that was to be cut has done its part."""
        return PowerLost(f"{'during' if mode is CutMode.TORN else 'after'} flash command {self.commands}")

    def carry(self, size: int) -> int:
        """How many of the next `size` bytes pass on the wire: fewer than `size` when the power fails among them."""
        if self._wire_byte is not None:
            size = min(size, self._wire_byte - 1 - self.wire_bytes)
        self.wire_bytes += size
        return size

    def dice(self) -> random.Random:
        """The dice of the flash command under way: a child of the seed, so that one cut can be played again alone."""
        return random.Random(f"{self.seed}:{self.commands}")
