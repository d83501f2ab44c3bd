"""A relay between a board's serial port and a server: the board's firmware speaks the protocol, we carry its bytes.

What passes is not altered, unless line ends are to be stripped. What is decoded is decoded behind the bytes' backs, for
trace and report (`frame_watch`). Where a session begins in the board's bytes, and what is noise, is `identifications`.

Theory of operation. One thread, one selector: the port, the connection, and a wake-up. Bytes go on within the turn in
which they came; only what the other side does not take waits in a buffer of its own limit. A slow board holds up the
server, since we stop reading from it; a server that does not take what a board says loses its session, since a board
cannot be held up. Connections are made by `dialling`.

A serial line cannot show that a connection was closed. So whoever wants the board to see it chooses a signal
(`close_signal`): a text, a break, a pulse on DTR or RTS, or a command that resets the board. It is given when anything
but the board itself ended the session. The other way round, a board cannot close: its session ends when it is silent
too long, identifies itself anew, or is unplugged.
"""

import contextlib
import datetime
import errno
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from fota_transport.clock import Clock
from fota_transport.errors import LinkLost
from fota_transport.links import why_not_connected
from fota_transport.trace import Direction

from .close_signal import FLUSH_TIMEOUT, NO_SIGNAL, CloseSignal, SignalKind
from .dialling import DIAL_RETRIES, Dialler, pause_behind
from .errors import HilError, PortError, PortNameError
from .frame_watch import FrameWatch
from .identifications import Finder, Kind, Piece
from .relay_report import KEPT_SESSIONS, Ended, Outcome, SessionReport
from .relay_trace import RelayTrace
from .serial_link import FULL_PAUSE, SerialLink
from .templates import Template

IDLE: Final = 120.0
"""Seconds of silence of both sides after which a session is over; servers and boards give up after 30 and 60."""

TO_SERVER_LIMIT: Final = 65_536
"""Bytes of a board that wait for the server, while it is dialled or slow; beyond, the session is dropped."""

TO_BOARD_LIMIT: Final = 4_096
"""Bytes of a server that wait for the board; beyond, we stop reading from the server."""

READ_SIZE: Final = 4_096
"""Bytes of one read from the server."""

HOLD: Final = 0.1
"""Seconds without a byte after which what is held back goes on: an ack of the end frame, an identification's part."""

REOPEN: Final = 300.0
"""Seconds for which a port that was unplugged is tried again."""

REOPEN_PAUSE: Final = 0.1
"""Seconds before the first attempt to open it again; the pause doubles."""

LONGEST_REOPEN_PAUSE: Final = 2.0
"""Seconds to which it grows."""

_LINE_ENDS: Final = b"\r\n"


@dataclass(frozen=True, slots=True)
class RelaySettings:
    """What a relay does; times are seconds."""

    host: str
    port: int
    idle_s: float = IDLE
    on_close: CloseSignal = NO_SIGNAL
    reset: Template | None = None
    """The command of the signal `reset`."""
    strips_line_ends: bool = False
    """Whether CR and LF are taken out of what the board says."""
    dial_retries: int = DIAL_RETRIES
    reopen_s: float | None = REOPEN
    """For how long a lost port is tried again; None for not at all."""
    sessions: int | None = None
    """After how many sessions to end; None for never."""

    @property
    def server(self) -> str:
        """The server's address, for people."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(slots=True)
class _Session:
    number: int
    began: float
    began_wall: float
    last: float
    """When a byte last moved."""
    watch: FrameWatch = field(default_factory=FrameWatch)
    to_server: bytearray = field(default_factory=bytearray)
    connection: socket.socket | None = None
    attempts: int = 0
    dial_at: float | None = None
    """When to dial again; None while an attempt is under way, and once connected."""
    sent: int = 0
    received: int = 0
    broken: OSError | None = None
    """Why nothing can be sent any more; what the server said before can still be read."""


@dataclass(slots=True)
class _Farewell:
    """A session has ended and the board is to be told."""

    session: _Session
    until: float


class Relay:
    """Carries bytes until it is told to stop, or has carried so many sessions. Use it once, and close it.

    `open_port` opens the board's port; `say` is told, a line each, what people may want to know.
    """

    def __init__(
        self,
        settings: RelaySettings,
        open_port: Callable[[], SerialLink],
        clock: Clock,
        say: Callable[[str], None],
        trace: RelayTrace | None = None,
    ) -> None:
        self.reports: deque[SessionReport] = deque(maxlen=KEPT_SESSIONS)
        """The newest sessions that have ended, the oldest first."""
        self.ended = 0
        """Sessions that have ended."""
        self.ok = 0
        """Those of them that the server ended after an acked end frame."""
        self.noise = 0
        """Bytes of boards that belonged to no session."""
        self.trouble: HilError | None = None
        """Why the relay ended by itself, where it did: no port any more."""
        self._settings = settings
        self._open_port = open_port
        self._clock = clock
        self._say = say
        self._trace = trace
        self._selector = selectors.DefaultSelector()
        self._wake, self._waker = socket.socketpair()
        self._wake.setblocking(False)
        self._waker.setblocking(False)
        self._selector.register(self._wake, selectors.EVENT_READ, "wake")
        self._stopping = False
        self._finder = Finder()
        self._port: SerialLink | None = None
        self._port_mask = 0
        self._connection_mask = 0
        self._to_board = bytearray()
        self._last_byte = 0.0
        self._session: _Session | None = None
        self._farewell: _Farewell | None = None
        self._lost_at = self._reopen_at = 0.0
        self._reopen_pause = REOPEN_PAUSE
        self._dialler: Dialler[_Session] = Dialler(settings.host, settings.port, self._wake_up)
        self._closed = False

    @property
    def is_stopping(self) -> bool:
        """Whether it was told to end."""
        return self._stopping

    def stop(self) -> None:
        """End soon; may be called from another thread or a signal's handler."""
        self._stopping = True
        self._wake_up()

    def run(self) -> None:
        """Open the port and carry bytes; raises `PortError` if it cannot be opened at all."""
        try:
            self._port = self._open_port()
            self._watch_port()
            self._note(f"port {self._port.name} open at {self._port.baud} baud")
            while not self._is_done():
                self._turn()
        finally:
            self.close()

    def close(self) -> None:
        """Give everything back; the board is told, unless it is gone. `run` does it at its end."""
        if self._closed:
            return
        try:
            if self._session is not None:
                self._end(Ended.STOPPED, "the relay was stopped")
            if self._farewell is not None:
                self._tell_board(self._farewell)
        finally:
            self._closed = True
            self._dialler.close()
            if self._port is not None:
                self._port.close()
            self._selector.close()
            self._wake.close()
            self._waker.close()

    # --- one turn of the loop

    def _is_done(self) -> bool:
        wanted = self._settings.sessions
        enough = wanted is not None and self.ended >= wanted and self._farewell is None
        return self._stopping or enough or self.trouble is not None

    def _turn(self) -> None:
        self._arrange()
        now = self._clock.monotonic()
        next_time = self._next_time(now)
        timeout = None if next_time is None else max(0.0, next_time - now)
        for key, mask in self._selector.select(timeout):
            if key.data == "wake":
                with contextlib.suppress(BlockingIOError):
                    self._wake.recv(READ_SIZE)
            elif key.data == "port":
                self._port_ready(mask)
            else:
                self._connection_ready(mask)
        self._take_dialled()
        self._look_at_the_clock()

    def _arrange(self) -> None:
        """Watch what there is something to do about."""
        port, session = self._port, self._session
        if port is not None:
            wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._to_board else 0)
            if wanted != self._port_mask:
                self._selector.modify(port, wanted, "port")
                self._port_mask = wanted
        if session is not None and session.connection is not None:
            wanted = selectors.EVENT_READ if len(self._to_board) < TO_BOARD_LIMIT else 0
            if session.to_server and self._may_send():
                wanted |= selectors.EVENT_WRITE
            if wanted != self._connection_mask:
                if not self._connection_mask:
                    self._selector.register(session.connection, wanted, "connection")
                elif not wanted:
                    self._selector.unregister(session.connection)
                else:
                    self._selector.modify(session.connection, wanted, "connection")
                self._connection_mask = wanted

    def _next_time(self, now: float) -> float | None:
        """When there is something to do though nothing moves."""
        times = []
        if self._port is None:
            times.append(self._reopen_at)
        if (self._finder.is_holding or self._finder.is_naming) and now < self._last_byte + HOLD:
            times.append(self._last_byte + HOLD)
        if self._farewell is not None:
            times.append(self._farewell.until)
        session = self._session
        if session is not None:
            if session.connection is not None:
                times.append(session.last + self._settings.idle_s)
            if session.dial_at is not None:
                times.append(session.dial_at)
        return min(times, default=None)

    def _look_at_the_clock(self) -> None:
        now = self._clock.monotonic()
        if self._port is None and now >= self._reopen_at:
            self._reopen(now)
        if now >= self._last_byte + HOLD:
            if self._finder.is_holding:
                self._carry(self._finder.release(), now)
            if self._finder.is_naming and self._session is not None and self._session.to_server:
                self._send(now)
        session = self._session
        if session is not None:
            if session.dial_at is not None and now >= session.dial_at:
                self._dial(session)
            if session.connection is not None and now >= session.last + self._settings.idle_s:
                self._end(Ended.IDLE, f"both sides silent for {self._settings.idle_s:g} s")
        farewell = self._farewell
        if farewell is not None and (not self._to_board or now >= farewell.until):
            self._tell_board(farewell)

    # --- the board

    def _watch_port(self) -> None:
        assert self._port is not None
        self._port_mask = selectors.EVENT_READ
        self._selector.register(self._port, self._port_mask, "port")

    def _port_ready(self, mask: int) -> None:
        port = self._port
        if port is None:
            return
        try:
            if mask & selectors.EVENT_READ and (data := port.receive_now()):
                now = self._last_byte = self._clock.monotonic()
                self._carry(self._finder.feed(data), now)
            if mask & selectors.EVENT_WRITE and self._to_board:
                self._feed_board()
        except LinkLost as error:
            self._lose_port(error)

    def _carry(self, pieces: tuple[Piece, ...], now: float) -> None:
        """Do with the board's bytes what each piece wants."""
        for piece in pieces:
            match piece.kind:
                case Kind.NOISE:
                    self.noise += len(piece.data)
                    self._trace_chunk(now, Direction.SENT, piece.data, ["noise, not sent"])
                case Kind.BEGIN:
                    self._begin(piece.data, now)
                case Kind.PASS:
                    self._to_the_server(piece.data, now)

    def _begin(self, data: bytes, now: float) -> None:
        """The board identifies itself."""
        session = self._session
        if session is not None and session.connection is None:
            session.to_server.clear()  # it was not connected yet: this is simply what it will say
            session.watch = FrameWatch()
        else:
            if session is not None:
                self._end(Ended.NEW_IDENTIFICATION, "the board began anew")
                if self._is_done():
                    return
            if self._farewell is not None:
                self._farewell = None  # whoever identifies himself has seen it, or does not care
            self._to_board.clear()
            session = self._session = _Session(self.ended + 1, now, self._clock.wall(), now)
            self._note(f"session {session.number}: the board identifies itself, dialling {self._settings.server}")
            self._dial(session)
        self._to_the_server(data, now)

    def _to_the_server(self, data: bytes, now: float) -> None:
        session = self._session
        if session is None:
            return
        sent = data.translate(None, _LINE_ENDS) if self._settings.strips_line_ends else data
        session.to_server += sent
        session.last = now
        if session.connection is not None and session.to_server and self._may_send():
            self._send(now)
        notes = session.watch.from_board(data)
        self._trace_chunk(now, Direction.SENT, data, notes if sent == data else [*notes, "line ends stripped"])
        if len(session.to_server) > TO_SERVER_LIMIT:
            self._end(Ended.STALLED, f"more than {TO_SERVER_LIMIT} bytes wait for the server")

    def _may_send(self) -> bool:
        """Whether the server may have what waits: an identification goes in one piece, as servers may demand."""
        return not self._finder.is_naming or self._clock.monotonic() >= self._last_byte + HOLD

    def _feed_board(self) -> None:
        """Give the board what it takes now."""
        assert self._port is not None
        taken = self._port.send_now(bytes(self._to_board))
        del self._to_board[:taken]
        if taken and self._session is not None:
            self._session.last = self._clock.monotonic()
        if not taken:
            time.sleep(FULL_PAUSE)  # the port said that it were ready, and will say so again at once

    def _lose_port(self, error: LinkLost) -> None:
        port, self._port = self._port, None
        assert port is not None
        self._selector.unregister(port)
        port.close()
        self._finder.line_lost()
        self._to_board.clear()
        self._farewell = None
        now = self._lost_at = self._clock.monotonic()
        self._reopen_pause = REOPEN_PAUSE
        self._reopen_at = now + REOPEN_PAUSE
        self._note(str(error))
        if self._session is not None:
            self._end(Ended.UNPLUGGED, "the board was unplugged")
        if self._is_done():
            return
        if self._settings.reopen_s is None:
            self.trouble = PortError(port.name, "unplugged, and not to be opened again (--reopen never)")
        else:
            self._say(f"{port.name}: unplugged; trying to open it again for {self._settings.reopen_s:g} s")

    def _reopen(self, now: float) -> None:
        try:
            self._port = self._open_port()
        except PortError as error:
            reopen_s = self._settings.reopen_s
            if isinstance(error, PortNameError) or reopen_s is None or now >= self._lost_at + reopen_s:
                self.trouble = error
            self._reopen_at = now + self._reopen_pause
            self._reopen_pause = min(2 * self._reopen_pause, LONGEST_REOPEN_PAUSE)
            return
        self._watch_port()
        self._note(f"port {self._port.name} open again")
        self._say(f"{self._port.name}: open again")

    # --- the server

    def _dial(self, session: _Session) -> None:
        """Begin an attempt to connect."""
        session.attempts += 1
        session.dial_at = None
        self._dialler.dial(session)

    def _take_dialled(self) -> None:
        for session, found in self._dialler.found():
            if session is not self._session:
                if isinstance(found, socket.socket):
                    found.close()
            elif isinstance(found, Exception):
                self._not_connected(session, found)
            else:
                session.connection = found
                self._connection_mask = 0
                now = session.last = self._clock.monotonic()
                self._note(f"session {session.number}: connected")
                if session.to_server and self._may_send():
                    self._send(now)

    def _not_connected(self, session: _Session, error: Exception) -> None:
        now = self._clock.monotonic()
        reason = why_not_connected(error)
        if session.attempts > self._settings.dial_retries:
            attempts = f"{session.attempts} attempt{'s' * (session.attempts > 1)}"
            self._end(Ended.NOT_CONNECTED, f"{attempts} to connect to {self._settings.server}: {reason}")
            return
        pause = pause_behind(session.attempts)
        session.dial_at = now + pause
        self._note(f"session {session.number}: {self._settings.server}: {reason}; again in {pause:g} s")

    def _connection_ready(self, mask: int) -> None:
        session = self._session
        if session is None or session.connection is None:
            return
        if mask & selectors.EVENT_WRITE and session.to_server:
            self._send(self._clock.monotonic())
        if mask & selectors.EVENT_READ:
            self._receive(session, session.connection)

    def _send(self, now: float) -> None:
        """Send what waits for the server, as much as it takes."""
        session = self._session
        if session is None or session.connection is None:
            return
        if session.broken is None:
            try:
                taken = session.connection.send(session.to_server)
            except BlockingIOError:
                return
            except OSError as error:
                session.broken = error  # what the server said before that is read first, then comes the end
            else:
                del session.to_server[:taken]
                session.sent += taken
                session.last = now
                return
        session.to_server.clear()

    def _receive(self, session: _Session, connection: socket.socket) -> None:
        try:
            data = connection.recv(READ_SIZE)
        except BlockingIOError:
            return
        except OSError as error:
            session.broken = session.broken or error
            data = b""
        if not data:
            self._connection_ended(session)
            return
        now = session.last = self._clock.monotonic()
        session.received += len(data)
        try:
            if self._to_board:
                self._to_board += data
            elif self._port is not None and (taken := self._port.send_now(data)) < len(data):
                self._to_board += data[taken:]
        except LinkLost as error:
            self._lose_port(error)
            return
        notes = session.watch.from_server(data)
        if session.watch.version is not None:
            self._finder.end_frame_passed()
        self._trace_chunk(now, Direction.RECEIVED, data, notes)

    def _connection_ended(self, session: _Session) -> None:
        """The server has closed, or the connection broke.

        A server that closes with bytes of ours unread, such as the line end behind the last ack, resets the connection:
        once the end frame is acked, that is a close. EPIPE means that its close came before the reset.
        """
        error = session.broken
        if error is None or error.errno == errno.EPIPE or session.watch.end_acked:
            self._end(Ended.SERVER_CLOSED, "the server closed")
        else:
            self._end(Ended.SERVER_LOST, f"the connection broke: {error.strerror or error}")

    # --- the ends of sessions

    def _end(self, ended: Ended, detail: str) -> None:
        session, self._session = self._session, None
        assert session is not None
        if session.connection is not None:
            if self._connection_mask:
                self._selector.unregister(session.connection)
            self._connection_mask = 0
            session.connection.close()
        now = self._clock.monotonic()
        watch = session.watch
        outcome = Outcome.REFUSED if watch.is_refused else Outcome.FAILED
        report = SessionReport(
            number=session.number,
            started=datetime.datetime.fromtimestamp(session.began_wall, datetime.UTC).isoformat(
                timespec="milliseconds"
            ),
            duration_s=round(now - session.began, 6),
            identification=watch.identification,
            outcome=Outcome.UPDATED if watch.end_acked else outcome,
            ended=ended,
            detail=detail,
            records=watch.records,
            acks=watch.acks,
            version=watch.version,
            end_acked=watch.end_acked,
            bytes_to_server=session.sent,
            bytes_to_board=session.received,
        )
        self.reports.append(report)
        self.ended += 1
        self.ok += report.ok
        self._note(f"session {session.number}: {report}")
        self._say(str(report))
        if ended is not Ended.NEW_IDENTIFICATION:
            self._finder.session_ended()
            if ended is not Ended.UNPLUGGED:
                self._farewell = _Farewell(session, now + FLUSH_TIMEOUT)

    def _tell_board(self, farewell: _Farewell) -> None:
        """Give the board the signal that its session is over; what it did not take in time is dropped."""
        if self._to_board:
            self._say(f"{len(self._to_board)} bytes of the server dropped: the board did not take them")
        self._to_board.clear()
        self._farewell = None
        port, signal = self._port, self._settings.on_close
        if port is None or signal.kind is SignalKind.NONE:
            return
        self._note(f"session {farewell.session.number}: telling the board by {signal.kind.value}")
        values = {"port": port.name, "baud": str(port.baud)}
        values["mcuid"] = farewell.session.watch.identification or ""
        try:
            signal.give(port, self._settings.reset, values, lambda: self._stopping)
        except LinkLost as error:
            self._lose_port(error)
        except (HilError, TimeoutError) as error:
            self._note(str(error))
            self._say(f"the board was not told: {error}")
        else:
            if signal.kind is SignalKind.TEXT:
                self._trace_chunk(self._clock.monotonic(), Direction.RECEIVED, signal.text, ["from the relay"])

    # --- the rest

    def _trace_chunk(self, now: float, direction: Direction, data: bytes, notes: list[str]) -> None:
        if self._trace is not None:
            self._trace.chunk(now, direction, data, notes)

    def _note(self, text: str) -> None:
        if self._trace is not None:
            self._trace.note(self._clock.monotonic(), text)

    def _wake_up(self) -> None:
        with contextlib.suppress(OSError):
            self._waker.send(b"!")
