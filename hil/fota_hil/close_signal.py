"""How a board is told that its connection is gone, which its line cannot show: the signals, read and given."""

import enum
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from .serial_link import SerialLink
from .templates import Template

BREAK_TIME: Final = 0.25
"""Seconds of a break that tells a board of a close."""

PULSE_TIME: Final = 0.1
"""Seconds of a pulse on DTR or RTS."""

RESET_TIMEOUT: Final = 30.0
"""Seconds for the command that resets a board."""

TEXT_LIMIT: Final = 256
"""Bytes of a text that tells a board of a close."""

FLUSH_TIMEOUT: Final = 5.0
"""Seconds for the board to take the server's last bytes, before the signal that the server has closed."""

_ESCAPE: Final = re.compile(r"\\(?:x([0-9A-Fa-f]{2})|([\\rnt0])|(.?))", re.DOTALL)
_SHORT: Final = {"\\": "\\", "r": "\r", "n": "\n", "t": "\t", "0": "\0"}


class SignalKind(enum.Enum):
    """How a board is told that the connection is gone."""

    NONE = "none"
    TEXT = "text"
    BREAK = "break"
    DTR = "dtr"
    RTS = "rts"
    RESET = "reset"


@dataclass(frozen=True, slots=True)
class CloseSignal:
    """How, and with which words."""

    kind: SignalKind = SignalKind.NONE
    text: bytes = b""

    @classmethod
    def parse(cls, word: str) -> "CloseSignal":
        r"""Read a word of the command line; a text may have \r, \n, \t, \0, \\ and \xhh. Raises `ValueError`."""
        name, equals, text = word.partition("=")
        if equals and name == SignalKind.TEXT.value:
            data = _ESCAPE.sub(_unescaped, text).encode("latin-1")
            if not 0 < len(data) <= TEXT_LIMIT:
                raise ValueError(f"a text of {len(data)} bytes, expected 1 to {TEXT_LIMIT}")
            return cls(SignalKind.TEXT, data)
        if word in {kind.value for kind in SignalKind} - {SignalKind.TEXT.value}:
            return cls(SignalKind(word))
        raise ValueError(f"{word!r}, expected none, text=…, break, dtr, rts or reset")

    def give(
        self, port: SerialLink, reset: Template | None, values: Mapping[str, str], is_stopping: Callable[[], bool]
    ) -> None:
        """Give it to the board at `port`; `reset` is the command of `RESET`, with `values` in it.

        Raises `LinkLost`, and `HilError` or `TimeoutError` where it could not be given.
        """
        if self.kind is SignalKind.TEXT:
            port.write(self.text, FLUSH_TIMEOUT)
            return
        port.drain(FLUSH_TIMEOUT)
        match self.kind:
            case SignalKind.BREAK:
                port.send_break(BREAK_TIME)
            case SignalKind.DTR | SignalKind.RTS:
                port.pulse(self.kind.value, PULSE_TIME)
            case SignalKind.RESET if reset is not None:
                reset.run(values, RESET_TIMEOUT, is_stopping)


NO_SIGNAL: Final = CloseSignal()
"""The board is told nothing."""


def _unescaped(match: re.Match[str]) -> str:
    if match[1]:
        return chr(int(match[1], 16))
    if match[2]:
        return _SHORT[match[2]]
    raise ValueError(rf"escape \{match[3]}, expected \r, \n, \t, \0, \\ or \xhh")
