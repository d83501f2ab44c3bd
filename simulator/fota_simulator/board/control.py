"""What whoever stands beside a board can do to it: press, pull and switch, an order a line.

Orders come through a named pipe, so that `echo` is all that a bench's script needs. The board reads it before it reads
its serial line: what was ordered before a byte was sent is done before that byte is received.
"""

import contextlib
import enum
import errno
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .errors import BoardError

LINE_LIMIT: Final = 200
"""Bytes of an order; a longer line is none."""

LONGEST_UNPLUGGED: Final = 86_400.0
"""Seconds after which a plug may be back at the latest."""


class Order(enum.Enum):
    """An order, by its words."""

    RESET = "reset"
    """Reset the board; its pin is as it is."""
    ENTER = "enter"
    """Reset the board with SW1 pressed, and let go: its bootloader runs."""
    HOLD = "pin held"
    RELEASE = "pin released"
    POWER_OFF = "power off"
    POWER_ON = "power on"
    POWER_CYCLE = "power cycle"
    RESTART = "restart"
    """Let the pin go, and power-cycle."""
    PLUG = "plug"


@dataclass(frozen=True, slots=True)
class Unplug:
    """Pull the plug, and put it back after so many seconds, or not by itself."""

    seconds: float | None = None


def parse_order(line: str) -> Order | Unplug:
    """An order's words, or `unplug`, or `unplug SECONDS`; raises `ValueError`."""
    words = " ".join(line.split())
    if found := re.fullmatch(r"unplug(?: ([0-9]{1,5}(?:\.[0-9]{1,6})?))?", words):
        seconds = None if found[1] is None else float(found[1])
        if seconds is None or seconds <= LONGEST_UNPLUGGED:
            return Unplug(seconds)
    try:
        return Order(words)
    except ValueError:
        names = ", ".join(order.value for order in Order)
        raise ValueError(
            f"order {words[:60]!r}, expected one of {names}, unplug, unplug SECONDS (at most {LONGEST_UNPLUGGED:g})"
        ) from None


class ControlPipe:
    """A named pipe that orders are read from, made at `path` and removed by `close`; raises `BoardError`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rest = b""
        try:
            _remove_abandoned(path)
            os.mkfifo(path, 0o600)
            # Open for writing, too: a pipe without a writer is at its end, and would be so again and again.
            self._descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        except OSError as error:
            raise BoardError(f"control {path}: {error.strerror}, expected a free name for a pipe") from error

    def fileno(self) -> int:
        """Its descriptor, to be waited on."""
        return self._descriptor

    def orders(self) -> Iterator[Order | Unplug | ValueError]:
        """What was ordered since the last time; what is no order, as the complaint."""
        try:
            self._rest += os.read(self._descriptor, 4 * LINE_LIMIT)
        except BlockingIOError:
            return
        *lines, self._rest = self._rest.split(b"\n")
        if len(self._rest) > LINE_LIMIT:
            lines.append(self._rest)
            self._rest = b""
        for line in lines:
            if line.strip():
                try:
                    yield parse_order(line.decode("ascii", "backslashreplace"))
                except ValueError as error:
                    yield error

    def close(self) -> None:
        """Remove it."""
        os.close(self._descriptor)
        with contextlib.suppress(OSError):
            self.path.unlink()


def _remove_abandoned(path: Path) -> None:
    """Remove a pipe that nobody reads: its board was killed."""
    try:
        if not stat.S_ISFIFO(path.lstat().st_mode):
            return
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno == errno.ENXIO:  # no reader
            path.unlink()
