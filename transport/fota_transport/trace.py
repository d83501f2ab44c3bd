"""The one trace format: when, which way, which bytes.

A `Trace` records what passed one end of a link and keeps the newest part within a limit.  As text
it has one line for each chunk, after the time in seconds, the direction and the number of bytes;
what is not printable ASCII is escaped as in a Python bytes literal:

       0.001234  -> 42  S1130000285F245F2212226A000424290008237C2A
       0.001812  <- 1   @

As JSON lines, `data` holds one character for each byte (ISO 8859-1).
"""

import json
import re
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final

from .errors import TraceSyntaxError

TRACE_LIMIT: Final = 1_048_576
"""Default limit of a trace in bytes."""

ENTRY_COST: Final = 128
"""Bytes that an entry is reckoned to cost beyond its data, so that many small ones count too."""

_LINE: Final = re.compile(r" *(\d+\.\d{6})  (->|<-) (\d{3,}|\d\d |\d  ) (.*)", re.ASCII)
_ESCAPE: Final = re.compile(r"\\(?:x([0-9a-f]{2})|([\\rnt]))")
_SHORT: Final = {"\\": "\\", "r": "\r", "n": "\n", "t": "\t"}


class Direction(Enum):
    """Which way bytes went, as seen from our end."""

    SENT = "->"
    RECEIVED = "<-"


@dataclass(frozen=True, slots=True)
class TraceEntry:
    """Bytes that passed at once; `time_s` counts from the start of the trace."""

    time_s: float
    direction: Direction
    data: bytes

    def __str__(self) -> str:
        size = str(len(self.data))
        return f"{self.time_s:11.6f}  {self.direction.value} {size:<3} {_escape(self.data)}"

    def to_json(self) -> str:
        """Return the entry as one line of JSON."""
        return json.dumps(
            {
                "time_s": self.time_s,
                "direction": self.direction.name.lower(),
                "data": self.data.decode("latin-1"),
            }
        )


class Trace:
    """Records entries, dropping the oldest ones beyond `limit_bytes`.

    Times are counted from `start_s` on the recording side's clock and kept in whole microseconds.
    """

    def __init__(self, start_s: float, *, limit_bytes: int = TRACE_LIMIT) -> None:
        self.dropped_entries = 0
        self.dropped_bytes = 0
        self._start_s = start_s
        self._limit = limit_bytes
        self._cost = 0
        self._entries: deque[TraceEntry] = deque()

    def __iter__(self) -> Iterator[TraceEntry]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def record(self, now: float, direction: Direction, data: bytes) -> None:
        """Note that `data` passed at `now`."""
        entry = TraceEntry(round(max(0.0, now - self._start_s), 6), direction, data)
        self._entries.append(entry)
        self._cost += ENTRY_COST + len(data)
        while self._cost > self._limit:
            oldest = self._entries.popleft()
            self._cost -= ENTRY_COST + len(oldest.data)
            self.dropped_entries += 1
            self.dropped_bytes += len(oldest.data)

    def to_text(self) -> str:
        """Return one line for each entry, after a `#` line that says what was dropped."""
        text = render(self._entries)
        if not self.dropped_entries:
            return text
        return f"# {self.dropped_entries} chunks ({self.dropped_bytes} bytes) dropped\n{text}"

    def to_json_lines(self) -> str:
        """Return one JSON object for each entry, a line each."""
        return "".join(f"{entry.to_json()}\n" for entry in self._entries)


def render(entries: Iterable[TraceEntry]) -> str:
    """Return the text of `entries`, a line each."""
    return "".join(f"{entry}\n" for entry in entries)


def parse(text: str) -> list[TraceEntry]:
    """Read what `render` or `Trace.to_text` wrote; raises `TraceSyntaxError`.

    Blank lines and lines that start with `#` are skipped.
    """
    return [
        _parse_line(number, line)
        for number, line in enumerate(text.split("\n"), start=1)
        if line.strip() and not line.startswith("#")
    ]


def _parse_line(number: int, line: str) -> TraceEntry:
    match = _LINE.fullmatch(line)
    if match is None:
        raise TraceSyntaxError(number, f"{line!r}, expected time, -> or <-, count and data")
    time_text, arrow, count_text, escaped = match.groups()
    data = _unescape(number, escaped)
    if len(data) != int(count_text):
        raise TraceSyntaxError(number, f"{len(data)} bytes of data, expected {count_text}")
    return TraceEntry(float(time_text), Direction(arrow), data)


def _escape(data: bytes) -> str:
    return "".join(_ESCAPED[byte] for byte in data)


def _unescape(number: int, text: str) -> bytes:
    if not (text.isascii() and text.isprintable()) and text:
        raise TraceSyntaxError(number, "data that is not printable ASCII, expected escapes")
    if "\\" in _ESCAPE.sub("", text):
        raise TraceSyntaxError(number, r"an unknown escape, expected \xhh, \\, \r, \n or \t")
    return _ESCAPE.sub(lambda match: chr(int(match[1], 16)) if match[1] else _SHORT[match[2]], text).encode("latin-1")


def _escape_byte(byte: int) -> str:
    character = chr(byte)
    for short, meaning in _SHORT.items():
        if character == meaning:
            return f"\\{short}"
    return character if 0x20 <= byte < 0x7F else f"\\x{byte:02x}"


_ESCAPED: Final = tuple(_escape_byte(byte) for byte in range(256))
