"""The annotated wire log: when, in which direction, which bytes, and what they mean.

One log belongs to one case and may span several connections, which are numbered then, also from several threads. It is
bounded by a number of entries; what is dropped is counted and said. The clock is an argument.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from fota_conformance.wire import Sender, explain, show

MAX_ENTRIES: Final = 100_000
"""Entries that one log keeps: an image of 300 KiB in records of 16 bytes takes about 40,000."""
CONTEXT_HEAD: Final = 4
"""Entries of a log's beginning that a failure message shows: who the device is and how it was answered."""
CONTEXT_TAIL: Final = 12
"""Entries of a log's end that a failure message shows."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the log; `data` is empty for an event (connected, closed)."""

    at_s: float
    sender: Sender | None
    data: bytes
    meaning: str
    connection: int = 0
    """Its number, from 1; 0 for an event of none."""

    def line(self, *, is_numbered: bool) -> str:
        """The entry as text, with the connection's number where that matters."""
        number = f"#{self.connection} " if is_numbered and self.connection else ""
        if self.sender is None:
            return f"{self.at_s:9.3f}  --      {number}{self.meaning}"
        arrow = "S -> D" if self.sender is Sender.SERVER else "D -> S"
        return f"{self.at_s:9.3f}  {arrow}  {number}{show(self.data)}   {self.meaning}"


@dataclass(slots=True)
class WireLog:
    """What was sent and received in one case, in order; times are seconds since the log began."""

    clock: Callable[[], float]
    entries: list[Entry] = field(default_factory=list)
    dropped: int = 0
    connections: int = 0
    """Connections so far."""
    begun: float = field(init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.begun = self.clock()

    def open(self, meaning: str) -> int:
        """A new connection; its number."""
        with self._lock:
            self.connections += 1
            number = self.connections
        self.event(meaning, number)
        return number

    def chunk(self, sender: Sender, data: bytes, connection: int) -> None:
        """One write of the kit or one read from its peer."""
        self._add(Entry(self.clock() - self.begun, sender, data, explain(data, sender), connection))

    def event(self, meaning: str, connection: int = 0) -> None:
        """Something that is not bytes."""
        self._add(Entry(self.clock() - self.begun, None, b"", meaning, connection))

    def render(self) -> str:
        """The whole log, one line per entry."""
        lines = self._lines()
        if self.dropped:
            lines.append(f"… and {self.dropped} more, not kept")
        return "".join(f"{line}\n" for line in lines)

    def excerpt(self) -> str:
        """The log's beginning and end: what a failure message shows."""
        lines = self._lines()
        left_out = len(lines) - CONTEXT_HEAD - CONTEXT_TAIL
        if left_out > 1:
            lines[CONTEXT_HEAD:-CONTEXT_TAIL] = [f"           … {left_out} lines left out"]
        return "".join(f"{line}\n" for line in lines)

    def _lines(self) -> list[str]:
        return [entry.line(is_numbered=self.connections > 1) for entry in self.entries]

    def _add(self, entry: Entry) -> None:
        if len(self.entries) < MAX_ENTRIES:
            self.entries.append(entry)
        else:
            self.dropped += 1
