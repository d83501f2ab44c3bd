"""The device's side of one update: a plain object that turns bytes and times into bytes and events.

Theory of operation. The session cuts frames, keeps deadlines and acks; what a record *does* is the business of its
`Target`, which writes flash. A target refuses by raising `RecordRejected`; then nothing is acked and the session is
over. The server's refusal after `@4#` (revision B) looks like the beginning of the end frame `@0##` and is told from it
by the silence or the close that follows.

The common case, a chunk that is exactly one record that some device has seen before, is the first branch of `receive`:
it is found in the shared `RecordCache`, which holds records parsed and checked, by their text.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from .errors import RecordRejected, Rejection, RemoteProtocolError, SRecordError
from .frames import (
    ACK,
    EndFrame,
    ReceiveBuffer,
    RecordFrame,
    is_late_refusal,
    normal_version,
    read_transfer,
    read_verdict,
)
from .identity import Identification
from .srecord import DATA_TYPES, MAX_RECORD_SIZE, SRecord, parse
from .transitions import follow

RECEIVE_LIMIT: Final = 4 * MAX_RECORD_SIZE
"""Most bytes that a server may send ahead of the device's acks."""


@dataclass(frozen=True, slots=True)
class DeviceTimings:
    """How long a device waits, in seconds (`protocol.md` section 4)."""

    verdict: float = 60.0
    """From the identification to the answer."""
    frame: float = 60.0
    """From an ack to the next frame."""
    refusal: float = 2.0
    """From `@0#` in mid-update to taking it for a refusal: silence tells it from `@0##`. At most `frame`."""

    def __post_init__(self) -> None:
        if min(self.verdict, self.frame, self.refusal) <= 0:
            raise ValueError(f"{self}: times must be more than 0 s")


class Target(Protocol):
    """What records are written to. Both methods raise `RecordRejected`."""

    def write(self, record: SRecord) -> None:
        """Take one data record; on return it is in flash, or in a buffer of at most one sector."""

    def finish(self, version: str) -> None:
        """The image is complete: write what waits, and check it; on return the device may ack the end frame."""


class RecordCache:
    """Records that were parsed and checked before, by their text, for all devices of a process."""

    def __init__(self, limit: int = 1 << 16) -> None:
        self._limit = limit
        self._records: dict[bytes, SRecord] = {}
        self.get = self._records.get
        """The record of a text seen before, or None."""

    def parse(self, text: bytes) -> SRecord:
        """Parse a record and remember it; raises `SRecordError`."""
        record = self._records.get(text)
        if record is None:
            record = parse(text)
            if record.type not in DATA_TYPES:
                raise SRecordError(f"an S{record.type}, expected a data record (S1, S2 or S3)")
            if len(self._records) >= self._limit:
                self._records.clear()
            self._records[text] = record
        return record


class DeviceState(enum.Enum):
    """Where a device session stands."""

    IDLE = "idle"
    IDENTIFIED = "identified"
    UPDATING = "updating"
    FINISHED = "finished"
    CLOSED = "closed"


class DeviceInput(enum.Enum):
    """What can happen to a device session."""

    START = "start"
    ALLOWED = "allowed"
    DENIED = "denied"
    REJECTED = "record rejected"
    COMPLETED = "image complete"
    UNEXPECTED = "unexpected bytes"
    TIMED_OUT = "timed out"
    PEER_CLOSED = "peer closed"


_S, _I = DeviceState, DeviceInput
_UPDATING: Final = DeviceState.UPDATING  # looking a member up costs more than the rest of a record (Python 3.11)
_ENDS: Final = {_I.UNEXPECTED: _S.CLOSED, _I.TIMED_OUT: _S.CLOSED, _I.PEER_CLOSED: _S.CLOSED}

TRANSITIONS: Final[Mapping[DeviceState, Mapping[DeviceInput, DeviceState]]] = {
    _S.IDLE: {_I.START: _S.IDENTIFIED, _I.UNEXPECTED: _S.CLOSED, _I.PEER_CLOSED: _S.CLOSED},
    _S.IDENTIFIED: {_I.ALLOWED: _S.UPDATING, _I.DENIED: _S.CLOSED, **_ENDS},
    _S.UPDATING: {_I.COMPLETED: _S.FINISHED, _I.REJECTED: _S.CLOSED, _I.DENIED: _S.CLOSED, **_ENDS},
    _S.FINISHED: {_I.TIMED_OUT: _S.CLOSED, _I.PEER_CLOSED: _S.CLOSED},
    _S.CLOSED: {},
}
"""The device session's state machine. Within UPDATING, records move a count and not the state."""


class Result(enum.Enum):
    """How an update ended for the device."""

    UPDATED = "updated"
    REFUSED = "refused"
    FAILED = "failed"


class Failure(enum.Enum):
    """Why an update failed, where no record was to blame."""

    TIMEOUT = "timeout"
    CONNECTION_LOST = "connection lost"
    PROTOCOL = "protocol"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an update ended: a reason only where it failed, a version only where the end frame came."""

    result: Result
    detail: str
    reason: Failure | Rejection | None = None
    version: str | None = None


@dataclass(frozen=True, slots=True)
class Allowed:
    """The server lets the device update: records follow."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The update is over; close the connection when what was returned is sent."""

    outcome: Outcome


DeviceEvent = Allowed | Finished


class DeviceSession:
    """One update of one device. Times are seconds of any monotonic clock."""

    __slots__ = (
        "_acks_verdict",
        "_buffer",
        "_known",
        "_limit",
        "_parse",
        "_since",
        "_target_finish",
        "_target_write",
        "_timings",
        "completed_at",
        "events",
        "identification",
        "outcome",
        "records",
        "state",
    )

    def __init__(
        self,
        identification: Identification,
        target: Target,
        *,
        cache: RecordCache,
        acks_verdict: bool = True,
        timings: DeviceTimings = DeviceTimings(),
    ) -> None:
        self.state = DeviceState.IDLE
        self.identification = identification
        self.events: tuple[DeviceEvent, ...] = ()
        """What happened since the owner last set this to `()`."""
        self.outcome: Outcome | None = None
        """How it ended; set as soon as it is certain, None until then."""
        self.records = 0
        """Records acknowledged."""
        self.completed_at: float | None = None
        """When the image was found good; the server may close much later."""
        self._target_write = target.write
        self._target_finish = target.finish
        self._known = cache.get
        self._parse = cache.parse
        self._acks_verdict = acks_verdict
        self._timings = timings
        self._buffer: ReceiveBuffer | None = None
        self._since = 0.0
        self._limit = timings.verdict

    @property
    def deadline(self) -> float | None:
        """When to call `timeout`; None before `start` and once the session is over."""
        if self.state in (DeviceState.IDLE, DeviceState.CLOSED):
            return None
        return self._since + self._limit

    def start(self, now: float) -> bytes:
        """The connection is there; returns the identification."""
        self._move(DeviceInput.START, now, self._timings.verdict)
        return self.identification.encode()

    def receive(self, data: bytes, now: float) -> bytes:
        """Take what the server sent; returns acks to send."""
        if self._buffer is None and self.state is _UPDATING:
            record = self._known(data)
            if record is not None:
                try:
                    self._target_write(record)
                except RecordRejected as error:
                    numbered = self._numbered(error)
                    self._close(DeviceInput.REJECTED, now, Outcome(Result.FAILED, str(numbered), error.reason))
                    return b""
                self.records += 1
                self._since = now
                return ACK
        return self._receive(data, now)

    def peer_closed(self, now: float) -> None:
        """The server closed or reset the connection."""
        if self.state is DeviceState.CLOSED:
            return
        if self._is_late_refusal():
            self._close(DeviceInput.DENIED, now, Outcome(Result.REFUSED, "refused in mid-update"))
        else:
            self._fail(DeviceInput.PEER_CLOSED, now, Failure.CONNECTION_LOST, "the server closed")

    def timeout(self, now: float) -> bytes:
        """To be called when `now` has reached `deadline`; there is never anything to send."""
        deadline = self.deadline
        if deadline is None or now < deadline:
            return b""
        if self._is_late_refusal():
            self._close(DeviceInput.DENIED, now, Outcome(Result.REFUSED, "refused in mid-update"))
        else:
            self._fail(
                DeviceInput.TIMED_OUT,
                now,
                Failure.TIMEOUT,
                f"silent for {self._limit:g} s while {self.state.value}",
            )
        return b""

    def _receive(self, data: bytes, now: float) -> bytes:
        if self.state in (DeviceState.FINISHED, DeviceState.CLOSED):
            return b""
        if self.state is DeviceState.IDLE:
            self._fail(DeviceInput.UNEXPECTED, now, Failure.PROTOCOL, f"{data[:40]!r} before the identification")
            return b""
        if self._buffer is None:
            self._buffer = ReceiveBuffer(RECEIVE_LIMIT)
        acks = b""
        try:
            self._buffer += data
            while (ack := self._step(self._buffer, now)) is not None:
                acks += ack
        except RemoteProtocolError as error:
            self._fail(DeviceInput.UNEXPECTED, now, Failure.PROTOCOL, str(error))
        except RecordRejected as error:
            self._close(DeviceInput.REJECTED, now, Outcome(Result.FAILED, str(error), error.reason))
        if self._is_late_refusal():
            self._since, self._limit = now, min(self._timings.refusal, self._timings.frame)
        if not self._buffer:
            self._buffer = None
        return acks

    def _step(self, buffer: ReceiveBuffer, now: float) -> bytes | None:
        """Take one frame from the buffer; returns the ack it gets, or None when there is no whole frame."""
        match self.state:
            case DeviceState.IDENTIFIED:
                verdict = read_verdict(buffer)
                if verdict is None:
                    return None
                if not verdict.allowed:
                    self._close(DeviceInput.DENIED, now, Outcome(Result.REFUSED, "refused"))
                    return b""
                self._move(DeviceInput.ALLOWED, now, self._timings.frame)
                self.events += (Allowed(),)
                return ACK if self._acks_verdict else b""
            case DeviceState.UPDATING:
                match read_transfer(buffer):
                    case RecordFrame(text):
                        self._take(text)
                        self.records += 1
                        self._since, self._limit = now, self._timings.frame
                        return ACK
                    case EndFrame(version):
                        if not self.records:
                            raise RemoteProtocolError("an end frame before any record")
                        try:
                            self._target_finish(version)
                        except RecordRejected as error:
                            raise RecordRejected(f"end frame: {error}", reason=error.reason) from error
                        self.completed_at = now
                        self.outcome = Outcome(Result.UPDATED, "updated", version=normal_version(version))
                        self._move(DeviceInput.COMPLETED, now, self._timings.frame)
                        return ACK
        return None

    def _take(self, text: bytes) -> None:
        try:
            self._target_write(self._parse(text))
        except SRecordError as error:
            raise self._numbered(RecordRejected(str(error), reason=Rejection.BAD_RECORD)) from error
        except RecordRejected as error:
            raise self._numbered(error) from error

    def _numbered(self, error: RecordRejected) -> RecordRejected:
        return RecordRejected(f"record {self.records + 1}: {error}", reason=error.reason, address=error.address)

    def _is_late_refusal(self) -> bool:
        return self.state is DeviceState.UPDATING and self._buffer is not None and is_late_refusal(self._buffer)

    def _fail(self, happened: DeviceInput, now: float, reason: Failure, detail: str) -> None:
        self._close(happened, now, Outcome(Result.FAILED, detail, reason))

    def _move(self, happened: DeviceInput, now: float, limit: float) -> None:
        self.state = follow(TRANSITIONS, self.state, happened)
        self._since, self._limit = now, limit

    def _close(self, happened: DeviceInput, now: float, outcome: Outcome) -> None:
        self._move(happened, now, 0.0)
        if self.outcome is None:  # what the end frame's ack promised stays true
            self.outcome = outcome
        self._buffer = None
        self.events += (Finished(self.outcome),)
