"""What a relay says of its sessions when it ends."""

import enum
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

KEPT_SESSIONS: Final = 10_000
"""Sessions that a report tells of one by one; of older ones it has the number."""


class Ended(enum.Enum):
    """What ended a session."""

    SERVER_CLOSED = "server closed"
    SERVER_LOST = "connection lost"
    NEW_IDENTIFICATION = "new identification"
    IDLE = "idle"
    UNPLUGGED = "unplugged"
    NOT_CONNECTED = "not connected"
    STALLED = "server stalled"
    STOPPED = "relay stopped"


class Outcome(enum.Enum):
    """What became of the update, as far as the bytes tell."""

    UPDATED = "updated"
    """The board acked the end frame."""
    REFUSED = "refused"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class SessionReport:
    """One session."""

    number: int
    started: str
    """UTC, ISO 8601."""
    duration_s: float
    identification: str | None
    """The digits between `@` and `#`; None where they never were whole."""
    outcome: Outcome
    ended: Ended
    detail: str
    records: int
    """Records that passed to the board."""
    acks: int
    version: str | None
    """That of the end frame, if it passed."""
    end_acked: bool
    bytes_to_server: int
    bytes_to_board: int

    @property
    def ok(self) -> bool:
        """Whether it was ended by the server after an acked end frame."""
        return self.end_acked and self.ended is Ended.SERVER_CLOSED

    def as_json(self) -> dict[str, Any]:
        """The fields, for JSON."""
        return {**asdict(self), "outcome": self.outcome.value, "ended": self.ended.value}

    def __str__(self) -> str:
        who = self.identification or "nobody"
        end = f", end frame {self.version}{' acked' if self.end_acked else ' not acked'}" if self.version else ""
        why = self.detail or self.ended.value
        return f"{who}: {self.outcome.value} after {self.records} records{end}; {why}, {self.duration_s:.1f} s"


SESSION_KEYS: Final = tuple(field.name for field in fields(SessionReport))
"""The keys of a session's JSON object, in their order."""
