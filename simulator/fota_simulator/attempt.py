"""One connection of one device of a fleet: plain, or with a slow link, a slow core, faults and a trace between.

Who owns attempts is told when one ends; why it began, and whether there will be another, is the owner's business.
A plain attempt adds nothing to the hot path.
"""

import asyncio
from collections.abc import Callable
from random import Random
from typing import Final, Protocol

from fota_protocol.device import DeviceSession, Finished
from fota_protocol.frames import ACK
from fota_transport.face import SessionProtocol
from fota_transport.line import Line
from fota_transport.profiles import LOOPBACK
from fota_transport.sweeper import Sweeper
from fota_transport.trace import Direction, TraceEntry

from .behaviour import Behaviour, Fault, FaultKind

_BIT: Final = 0x04
"""The bit that a fault flips: of an `@` it makes a `D`, of a digit another one."""


class AttemptOwner(Protocol):
    """Whom attempts belong to."""

    def opened(self, attempt: "Attempt") -> None:
        """The connection was made."""

    def ended(self, attempt: "Attempt", trouble: str | None = None, reason: str = "") -> None:
        """The attempt is over; called once or more. `trouble` and `reason` say what the session does not know."""


class Attempt(SessionProtocol[DeviceSession]):
    """One connection of device `number`. Times are on the loop's clock."""

    __slots__ = ("_owner", "finished_at", "number")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sweeper: Sweeper,
        owner: AttemptOwner,
        number: int,
        session: DeviceSession,
    ) -> None:
        super().__init__(loop, sweeper)
        self._owner = owner
        self.number = number
        self.session = session
        self.finished_at: float | None = None
        """When the session was over; how long the server then lingers does not count."""

    def open_session(self, now: float) -> DeviceSession:
        """The one session that it was made for."""
        self._owner.opened(self)
        return self.session

    def on_open(self) -> bytes:
        """Say who it is."""
        return self.session.start(self._now())

    def on_event(self, event: object) -> bytes:
        """Take note of the end."""
        if isinstance(event, Finished):
            self.finished_at = self._now()
        return b""

    def on_closed(self, error: Exception | None) -> None:
        """The connection is gone."""
        self._owner.ended(self)


class TroubledAttempt(Attempt):
    """An attempt of a device that is not plain: what passes is delayed, damaged and told."""

    __slots__ = (
        "_behaviour",
        "_call_at",
        "_coming",
        "_dice",
        "_fault",
        "_going",
        "_incoming",
        "_is_dead",
        "_last_in_s",
        "_last_out_s",
        "_outgoing",
        "_silent",
        "_trace",
        "on_power_lost",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sweeper: Sweeper,
        owner: AttemptOwner,
        number: int,
        session: DeviceSession,
        *,
        behaviour: Behaviour,
        dice: Random,
        trace: Callable[[int, TraceEntry], None] | None,
        on_power_lost: Callable[[Attempt, float], None],
    ) -> None:
        super().__init__(loop, sweeper, owner, number, session)
        self._call_at = loop.call_at
        self._behaviour = behaviour
        self._dice = dice
        self._trace = trace
        self._fault: Fault | None = behaviour.draw_fault(dice)
        self._silent = self._is_dead = False
        # What is on its way, oldest first. Loops keep no order among timers of one moment, nor between a timer that is
        # late and what arrives meanwhile: a timer says that something is due, the queue says what.
        # Lists, since a deque costs a device more than all of its session, and seldom two chunks are on their way.
        self._coming: list[bytes | None] = []
        self._going: list[bytes] = []
        self._last_in_s = self._last_out_s = 0.0
        shaped = behaviour.link != LOOPBACK
        self._incoming = Line(behaviour.link, dice) if shaped else None
        self._outgoing = Line(behaviour.link, dice) if shaped else None
        self.on_power_lost = on_power_lost

    # --- what comes

    def data_received(self, data: bytes) -> None:
        if self._incoming is None:
            self._arrived(data)
        else:
            self._last_in_s = self._incoming.due(self._now(), len(data))
            self._coming.append(data)
            self._call_at(self._last_in_s, self._next_arrives)

    def eof_received(self) -> bool:
        """The end of the stream is behind the bytes that are still on their way."""
        if self._is_dead:
            self.abort()  # what the kernel would go on holding for nobody
            return False
        if self._silent:
            return True
        if self._coming:
            self._coming.append(None)
            self._call_at(self._last_in_s, self._next_arrives)
            return True
        self._ended()
        return False

    def _next_arrives(self) -> None:
        data = self._coming.pop(0)
        if data is None:
            self._ended()
        else:
            self._arrived(data)

    def _arrived(self, data: bytes) -> None:
        if self._silent or self.transport.is_closing():
            return
        fault = self._fault
        if (
            fault is not None
            and fault.kind is FaultKind.CORRUPT_RECORD
            and fault.record == self.session.records + 1
            and len(data) > 8
        ):
            self._fault = None
            middle = len(data) // 2
            data = data[:middle] + bytes([data[middle] ^ _BIT]) + data[middle + 1 :]
        if self._trace is not None:
            self._trace(self.number, TraceEntry(self._now(), Direction.RECEIVED, data))
        super().data_received(data)

    def _ended(self) -> None:
        if not self.transport.is_closing():
            super().eof_received()

    # --- what goes

    def send(self, data: bytes) -> None:
        if self._silent:
            return
        pause = 0.0
        if data == ACK and self.session.records:
            if self._behaviour.think_s:
                pause = self._behaviour.think_s * (0.5 + self._dice.random())
            fault = self._fault
            if fault is not None and fault.record == self.session.records:
                if fault.kind is FaultKind.STALL:
                    self._fault = None
                    pause += fault.seconds
                elif fault.kind is FaultKind.CORRUPT_ACK:
                    self._fault = None
                    data = bytes([data[0] ^ _BIT])
                elif fault.kind is not FaultKind.CORRUPT_RECORD:
                    self._strike(fault)
                    return
        if not pause and self._outgoing is None and not self._going:
            self._leave(data)
            return
        due = self._now() + pause
        if self._outgoing is not None:
            due = self._outgoing.due(due, len(data))
        self._last_out_s = max(due, self._last_out_s)
        self._going.append(data)
        self._call_at(self._last_out_s, self._next_leaves)

    def _next_leaves(self) -> None:
        self._leave(self._going.pop(0))

    def _leave(self, data: bytes) -> None:
        if self._silent or self.transport.is_closing():
            return
        if self._trace is not None:
            self._trace(self.number, TraceEntry(self._now(), Direction.SENT, data))
        super().send(data)

    def _strike(self, fault: Fault) -> None:
        """What ends the attempt, or leaves it hanging."""
        self._fault = None
        match fault.kind:
            case FaultKind.DISCONNECT:
                self.reset()
            case FaultKind.POWER_CUT:
                self._silent = self._is_dead = True
                self._sweeper.discard(self)  # the dead keep no deadlines: the server's decides
                self.on_power_lost(self, fault.seconds)
            case FaultKind.HALF_OPEN:
                self._silent = True
