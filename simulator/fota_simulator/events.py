"""What happened in one device, in virtual time: resets, flash commands, frames, power cuts.

The time is the device's own: it passes while flash commands run, and as whoever drives the device moves its clock.
"""

import json
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from fota_transport.clock import Clock

EVENT_LIMIT: Final = 200_000
"""Events that a trace keeps; the oldest go first."""

Fact = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened: when, in seconds of the device's clock, what, and the facts of it."""

    time_s: float
    kind: str
    facts: Mapping[str, Fact]

    def to_text(self) -> str:
        """One line: the time in seconds to the microsecond, the kind, and the facts as name=value."""
        facts = " ".join(f"{name}={_shown(name, value)}" for name, value in self.facts.items())
        return f"{self.time_s:12.6f}  {self.kind:<14} {facts}".rstrip()


class EventTrace:
    """The events of one device, oldest first."""

    __slots__ = ("_clock", "_events", "dropped")

    def __init__(self, clock: Clock, limit: int = EVENT_LIMIT) -> None:
        self._clock = clock
        self._events: deque[Event] = deque(maxlen=limit)
        self.dropped = 0
        """Events that are gone, as there were more than the limit."""

    @property
    def events(self) -> tuple[Event, ...]:
        """Those that were kept."""
        return tuple(self._events)

    def record(self, kind: str, **facts: Fact) -> None:
        """Note that something happens now."""
        self.dropped += len(self._events) == self._events.maxlen
        self._events.append(Event(self._clock.monotonic(), kind, facts))

    def to_text(self) -> str:
        """A line for each event."""
        head = [f"# {self.dropped} earlier events were dropped"] if self.dropped else []
        return "".join(f"{line}\n" for line in (*head, *(event.to_text() for event in self._events)))

    def to_json(self) -> str:
        """A JSON object: `version` 1, `dropped`, `events` (each with `time_s`, `kind` and its facts)."""
        events = [{"time_s": round(e.time_s, 9), "kind": e.kind, **e.facts} for e in self._events]
        return json.dumps({"version": 1, "dropped": self.dropped, "events": events}, indent=1) + "\n"


def _shown(name: str, value: Fact) -> str:
    if name in ("address", "end") and isinstance(value, int):
        return f"{value:#010x}"
    text = str(value)
    return json.dumps(text) if " " in text or not text.isprintable() else text
