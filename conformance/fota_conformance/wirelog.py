"""The annotated wire log: when, in which direction, which bytes, and what they mean.

One log belongs to one case and may span several connections. It is bounded by a number of entries; what is dropped is
counted and said. The clock is an argument.
"""

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

    def __str__(self) -> str:
        if self.sender is None:
            return f"{self.at_s:9.3f}  --      {self.meaning}"
        arrow = "S -> D" if self.sender is Sender.SERVER else "D -> S"
        return f"{self.at_s:9.3f}  {arrow}  {show(self.data)}   {self.meaning}"


@dataclass(slots=True)
class WireLog:
    """What was sent and received in one case, in order; times are seconds since the log began."""

    clock: Callable[[], float]
    entries: list[Entry] = field(default_factory=list)
    dropped: int = 0
    begun: float = field(init=False)

    def __post_init__(self) -> None:
        self.begun = self.clock()

    def chunk(self, sender: Sender, data: bytes) -> None:
        """One write of the kit or one read from its peer."""
        self._add(Entry(self.clock() - self.begun, sender, data, explain(data, sender)))

    def event(self, meaning: str) -> None:
        """Something that is not bytes."""
        self._add(Entry(self.clock() - self.begun, None, b"", meaning))

    def render(self) -> str:
        """The whole log, one line per entry."""
        lines = [str(entry) for entry in self.entries]
        if self.dropped:
            lines.append(f"… and {self.dropped} more, not kept")
        return "".join(f"{line}\n" for line in lines)

    def excerpt(self) -> str:
        """The log's beginning and end: what a failure message shows."""
        lines = [str(entry) for entry in self.entries]
        left_out = len(lines) - CONTEXT_HEAD - CONTEXT_TAIL
        if left_out > 1:
            lines[CONTEXT_HEAD:-CONTEXT_TAIL] = [f"           … {left_out} lines left out"]
        return "".join(f"{line}\n" for line in lines)

    def _add(self, entry: Entry) -> None:
        if len(self.entries) < MAX_ENTRIES:
            self.entries.append(entry)
        else:
            self.dropped += 1
