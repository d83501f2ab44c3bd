"""The server's side of one update: a plain object that turns bytes and times into bytes and events.

Theory of operation. `receive`, `timeout` and the owner's calls return what to send. What the owner must know comes as
`events`, a tuple that is empty nearly always: after `Identified` the owner calls `allow`, `deny` or `abandon`; after
`Closed` it closes the connection. The common case, one ack that asks for one more record, is the first branch of
`receive` and allocates nothing.

The handshake (`protocol.md` section 3). Revision B devices ack `@4#`, most of revision A do not, and an ack does not
say what it acknowledges. A session that went on without that ack is *unsure*: the device may be one ack ahead until the
end. Two things settle it: two acks that arrive together when one frame was out (acks of `@4#` and of the record behind
it), and one more ack in the grace after the end frame's. Silence in that grace means that there was none to come; a
close means that nobody knows (`UNCONFIRMED`).
"""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from .errors import LocalProtocolError, RemoteProtocolError
from .frames import ACK, ALLOW, DENY, EndFrame, ReceiveBuffer, count_acks, read_identification
from .identity import MAX_IDENTIFICATION_SIZE, Identification, McuidFormat
from .status import Status
from .transitions import follow


class Handshake(enum.Enum):
    """What the server does between `@4#` and the first record."""

    WAIT = "wait"
    """Revision B: waits for the device's ack of `@4#`."""
    IMMEDIATE = "immediate"
    """Revision A: sends the first record at once."""
    AUTO = "auto"
    """Waits for the ack for a grace, then goes on without it."""


PAUSE: Final = 0.3
"""Seconds between `@4#` and the first record for a device that is known not to ack `@4#`.

Not 0: a device that compares one read with `@4#` must not find a record behind it (D5).
"""


@dataclass(frozen=True, slots=True)
class ServerTimings:
    """How long a server session waits, in seconds (`protocol.md` section 4)."""

    identification: float = 30.0
    """From the connection to a complete identification (revision A: `TIMEOUT`)."""
    ack: float = 30.0
    """From a frame to its ack (revision A: `TIMEOUT`)."""
    end_ack: float = 30.0
    """From the end frame to its ack: a device may check its whole flash in that time."""
    grace: float = 5.0
    """`AUTO`: from `@4#` to going on without its ack; any session that went on so: from the last ack to the end."""

    def __post_init__(self) -> None:
        if min(self.identification, self.ack, self.end_ack, self.grace) <= 0:
            raise ValueError(f"{self}: times must be more than 0 s")


class ServerState(enum.Enum):
    """Where a server session stands."""

    IDENTIFYING = "identifying"
    DECIDING = "deciding"
    OFFERED = "offered"
    SENDING = "sending"
    ENDING = "ending"
    LINGERING = "lingering"
    CLOSED = "closed"


class ServerInput(enum.Enum):
    """What can happen to a server session."""

    IDENTIFIED = "identified"
    MALFORMED = "malformed"
    OFFER = "allow and wait"
    GO = "allow and go on"
    DENY = "deny"
    ACK = "ack"
    GRACE_OVER = "grace over"
    LAST_RECORD_ACKED = "last record acked"
    END_ACKED = "end acked"
    END_ACKED_UNSURE = "end acked, unsure"
    UNEXPECTED = "unexpected bytes"
    TIMED_OUT = "timed out"
    PEER_CLOSED = "peer closed"
    ABANDON = "abandon"


_S, _I = ServerState, ServerInput
_SENDING: Final = ServerState.SENDING  # looking a member up costs more than the rest of an ack (Python 3.11)
_ENDS: Final = {_I.TIMED_OUT: _S.CLOSED, _I.PEER_CLOSED: _S.CLOSED, _I.ABANDON: _S.CLOSED}

TRANSITIONS: Final[Mapping[ServerState, Mapping[ServerInput, ServerState]]] = {
    _S.IDENTIFYING: {_I.IDENTIFIED: _S.DECIDING, _I.MALFORMED: _S.CLOSED, **_ENDS},
    _S.DECIDING: {_I.OFFER: _S.OFFERED, _I.GO: _S.SENDING, _I.DENY: _S.CLOSED, _I.UNEXPECTED: _S.CLOSED, **_ENDS},
    _S.OFFERED: {_I.ACK: _S.SENDING, _I.GRACE_OVER: _S.SENDING, _I.UNEXPECTED: _S.CLOSED, **_ENDS},
    _S.SENDING: {_I.LAST_RECORD_ACKED: _S.ENDING, _I.UNEXPECTED: _S.CLOSED, **_ENDS},
    _S.ENDING: {
        _I.END_ACKED: _S.CLOSED,
        _I.END_ACKED_UNSURE: _S.LINGERING,
        _I.UNEXPECTED: _S.CLOSED,
        **_ENDS,
    },
    _S.LINGERING: {_I.ACK: _S.CLOSED, _I.GRACE_OVER: _S.CLOSED, _I.UNEXPECTED: _S.CLOSED, **_ENDS},
    _S.CLOSED: {},
}
"""The server session's state machine. Within SENDING, acks move an index and not the state."""


@dataclass(frozen=True, slots=True)
class Identified:
    """The device said who it is; answer with `allow`, `deny` or `abandon`."""

    identification: Identification


@dataclass(frozen=True, slots=True)
class Closed:
    """The session is over; close the connection when what it returned is sent."""

    status: Status
    detail: str


ServerEvent = Identified | Closed


class ServerSession:
    """One connection of a device, seen from the server. Times are seconds of any monotonic clock."""

    __slots__ = (
        "_buffer",
        "_count",
        "_cut_in_record",
        "_end_frame",
        "_format",
        "_frames",
        "_limit",
        "_max_identification",
        "_next",
        "_since",
        "_timings",
        "_unsure",
        "acks_verdict",
        "events",
        "outcome",
        "state",
    )

    def __init__(
        self,
        now: float,
        *,
        mcuid_format: McuidFormat = McuidFormat.DECIMAL25,
        timings: ServerTimings = ServerTimings(),
        max_identification: int = MAX_IDENTIFICATION_SIZE,
    ) -> None:
        """`max_identification` is the longest identification that is taken, in bytes."""
        self.state = ServerState.IDENTIFYING
        self.events: tuple[ServerEvent, ...] = ()
        """What happened since the owner last set this to `()`."""
        self.outcome: Closed | None = None
        """How it ended; None while it goes on."""
        self.acks_verdict: bool | None = None
        """Whether this device acks `@4#`, as far as this session saw or was told."""
        self._format = mcuid_format
        self._timings = timings
        self._max_identification = max_identification
        # Small and made to be dropped: most of a session's life needs no buffer.
        self._buffer: ReceiveBuffer | None = ReceiveBuffer(2 * max_identification)
        self._frames: Sequence[bytes] = ()
        self._end_frame = b""
        self._count = 0
        self._next = 0
        self._cut_in_record = False
        self._unsure = False
        self._since = now
        self._limit = timings.identification

    @property
    def deadline(self) -> float | None:
        """When to call `timeout`; None once the session is over."""
        return None if self.state is ServerState.CLOSED else self._since + self._limit

    @property
    def records_sent(self) -> int:
        """Records sent so far; the last of them may be unacknowledged."""
        return self._next

    @property
    def records_acked(self) -> int:
        """Records that the device acknowledged, as far as acks tell."""
        return self._next - (self.state is ServerState.SENDING or self._cut_in_record)

    def receive(self, data: bytes, now: float) -> bytes:
        """Take what the device sent; returns what to send."""
        if data == ACK and self.state is _SENDING:
            sent = self._next
            if sent < self._count:
                self._next = sent + 1
                self._since = now
                return self._frames[sent]
        return self._receive(data, now)

    def allow(
        self,
        frames: Sequence[bytes],
        version: str,
        now: float,
        *,
        handshake: Handshake = Handshake.AUTO,
        acks_verdict: bool | None = None,
    ) -> bytes:
        """Let the device have `frames`, encoded records that no one changes any more, and then `version`.

        `acks_verdict` is what earlier sessions of the device showed; `AUTO` needs no grace when it is known. Raises
        `LocalProtocolError` when no decision is due or there is nothing to send, `ValueError` for a bad version.
        """
        if self.state is not ServerState.DECIDING:
            raise LocalProtocolError(f"allow() in state {self.state.value!r}")
        if not frames:
            raise LocalProtocolError("allow() without a record")
        self._frames, self._count = frames, len(frames)
        self._end_frame = EndFrame(version).encode()
        early = b"" if self._buffer is None else self._buffer.peek().strip(b"\r\n")
        self._buffer = None
        if early:
            return self._unexpected(f"{early[:40]!r} behind the identification, before any frame", now)
        if handshake is Handshake.IMMEDIATE:
            self._unsure = True
            return ALLOW + self._go_on(ServerInput.GO, now)
        self._unsure = handshake is Handshake.AUTO and acks_verdict is not True
        if not self._unsure:
            wait = self._timings.ack
        elif acks_verdict is False:
            wait = min(PAUSE, self._timings.grace)
        else:
            wait = self._timings.grace
        self._move(ServerInput.OFFER, now, wait)
        return ALLOW

    def deny(self, status: Status, detail: str, now: float) -> bytes:
        """Refuse the device for good; returns `@0#`."""
        self._close(ServerInput.DENY, now, status, detail)
        return DENY

    def abandon(self, status: Status, detail: str, now: float) -> None:
        """Close without a frame: the device may try again."""
        if self.state is not ServerState.CLOSED:
            self._close(ServerInput.ABANDON, now, status, detail)

    def peer_closed(self, now: float) -> None:
        """The device closed or reset the connection."""
        if self.state is ServerState.LINGERING:
            self._close(
                ServerInput.PEER_CLOSED, now, Status.UNCONFIRMED, "closed when one more ack may have been missing"
            )
        elif self.state is not ServerState.CLOSED:
            self._close(
                ServerInput.PEER_CLOSED, now, Status.CONNECTION_LOST, f"the device closed while {self.state.value}"
            )

    def timeout(self, now: float) -> bytes:
        """To be called when `now` has reached `deadline`; returns what to send."""
        deadline = self.deadline
        if deadline is None or now < deadline:
            return b""
        if self.state is ServerState.OFFERED and self._unsure:
            return self._go_on(ServerInput.GRACE_OVER, now)
        if self.state is ServerState.LINGERING:
            self.acks_verdict = False
            self._close(ServerInput.GRACE_OVER, now, Status.SUCCESSFUL, "updated")
        else:
            self._close(
                ServerInput.TIMED_OUT,
                now,
                Status.TIMEOUT_CONNECTION,
                f"silent for {self._limit:g} s while {self.state.value}",
            )
        return b""

    def _receive(self, data: bytes, now: float) -> bytes:
        match self.state:
            case ServerState.IDENTIFYING | ServerState.DECIDING:
                return self._identify(data, now)
            case ServerState.CLOSED:
                return b""
        try:
            acks = count_acks(data)
        except RemoteProtocolError as error:
            return self._unexpected(str(error), now)
        if not acks:
            return b""  # a modem's line end
        if acks == 2 and self._unsure and self.state in (ServerState.SENDING, ServerState.ENDING):
            # Both were under way before the next frame leaves: the acks of `@4#` and of the first record.
            self._unsure = False
            self.acks_verdict = True
        elif acks > 1:
            return self._unexpected(f"{acks} acks for one frame", now)
        return self._acked(now)

    def _identify(self, data: bytes, now: float) -> bytes:
        assert self._buffer is not None  # kept until a decision
        try:
            self._buffer += data
            if self.state is ServerState.DECIDING:
                return b""
            identification = read_identification(self._buffer, self._format, self._max_identification)
        except RemoteProtocolError as error:
            if self.state is ServerState.DECIDING:
                return self._unexpected(str(error), now)
            self._close(ServerInput.MALFORMED, now, Status.UNFORMATTED_MCUID, str(error))
            return DENY
        if identification is not None:
            self._move(ServerInput.IDENTIFIED, now, self._timings.identification)
            self.events += (Identified(identification),)
        return b""

    def _acked(self, now: float) -> bytes:
        match self.state:
            case ServerState.OFFERED:
                self._unsure = False
                self.acks_verdict = True
                return self._go_on(ServerInput.ACK, now)
            case ServerState.SENDING if self._next < self._count:
                self._next += 1
                self._since = now
                return self._frames[self._next - 1]
            case ServerState.SENDING:
                self._move(ServerInput.LAST_RECORD_ACKED, now, self._timings.end_ack)
                return self._end_frame
            case ServerState.ENDING if self._unsure:
                self._move(ServerInput.END_ACKED_UNSURE, now, self._timings.grace)
            case ServerState.ENDING:
                self._close(ServerInput.END_ACKED, now, Status.SUCCESSFUL, "updated")
            case ServerState.LINGERING:
                self.acks_verdict = True
                self._close(ServerInput.ACK, now, Status.SUCCESSFUL, "updated")
        return b""

    def _go_on(self, happened: ServerInput, now: float) -> bytes:
        """Send the first record."""
        self._move(happened, now, self._timings.ack)
        self._next = 1
        return self._frames[0]

    def _unexpected(self, detail: str, now: float) -> bytes:
        self._close(ServerInput.UNEXPECTED, now, Status.UNEXPECTED_ACK, detail)
        return b""

    def _move(self, happened: ServerInput, now: float, limit: float) -> None:
        self.state = follow(TRANSITIONS, self.state, happened)
        self._since, self._limit = now, limit

    def _close(self, happened: ServerInput, now: float, status: Status, detail: str) -> None:
        cut_in_record = self.state is ServerState.SENDING
        self._move(happened, now, 0.0)
        self._cut_in_record = cut_in_record
        self._buffer = None
        self.outcome = Closed(status, detail)
        self.events += (self.outcome,)
