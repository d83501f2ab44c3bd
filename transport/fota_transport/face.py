"""The asyncio face of a session: one protocol object for every connection, real or simulated.

Subclasses say which session to open and what an event means; the face does the rest: it carries
bytes both ways, keeps deadlines through a sweeper, and ends the connection when the session is
over.  `data_received` is the hot path of the whole project: between a read and a write there is one
call of the session and two looks at it.

Writes go straight to the descriptor where there is one, because that saves a queue and a turn of
the loop for every record.  The transport owns the rest: whatever the kernel does not take at once,
an error, and everything after it go through the transport, which keeps order, bounds its buffer and
reports the loss.  The descriptor is ours to write to only until the connection is closed or lost,
since its number may belong to another connection afterwards.
"""

import asyncio
import os
import socket
import struct
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar, cast

from .session import Session
from .sweeper import Sweeper

SessionT = TypeVar("SessionT", bound=Session)

READ_SIZE: Final = 1_024
"""Bytes asked for by one read.

Asyncio asks for 256 KiB, and allocating those for one byte of ack costs four times all the rest.
"""

CLOSE_TIMEOUT: Final = 5.0
"""Seconds a closing connection has to hand its last bytes to the kernel."""

LINGER_LIMIT: Final = 65_536
"""Bytes of input that are thrown away while a connection lingers."""

_NO_DESCRIPTOR: Final = -1

_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
"""SO_LINGER on, zero seconds: closing throws away what is unsent and resets the peer."""


class SessionProtocol(asyncio.Protocol, ABC, Generic[SessionT]):
    """Drives one session over one connection; derive from it and fill in the hooks.

    `sweeper` must belong to `loop`; it calls `timeout` when the session's deadline has passed.
    A session whose `receive` ends it must say so by an event: that is what the hot path looks at.
    """

    __slots__ = (
        "_close_deadline",
        "_descriptor",
        "_now",
        "_peer_closed",
        "_sweeper",
        "session",
        "transport",
    )

    session: SessionT
    transport: asyncio.Transport

    def __init__(self, loop: asyncio.AbstractEventLoop, sweeper: Sweeper) -> None:
        self._now: Callable[[], float] = loop.time
        self._sweeper = sweeper
        self._descriptor = _NO_DESCRIPTOR
        self._peer_closed = False
        self._close_deadline: float | None = None

    # --- hooks

    @abstractmethod
    def open_session(self, now: float) -> SessionT:
        """Make the session of a connection that has just been made; `transport` is set."""

    def on_open(self) -> bytes:
        """Start the session if it speaks first; return bytes to send."""
        return b""

    @abstractmethod
    def on_event(self, event: object) -> bytes:
        """Act on an event of the session; return bytes to send."""

    def linger_s(self) -> float:
        """Return how long to linger now that the session is over; 0 closes at once.

        Lingering sends the end of stream and throws input away until the peer closes too.  Without
        it, unread input makes the kernel reset the connection, and a last frame may be lost.
        """
        return 0.0

    @abstractmethod
    def on_closed(self, error: Exception | None) -> None:
        """Take note that the connection is gone, once; `error` is None after an orderly end."""

    # --- for owners

    @property
    def deadline(self) -> float | None:
        """When to call `timeout`: the session's deadline, then that of closing."""
        deadline = self.session.deadline
        return self._close_deadline if deadline is None else deadline

    def proceed(self, data: bytes) -> None:
        """Send what an owner-side call to the session returned, and see to what it caused."""
        if data:
            self.send(data)
        self._settle()

    def send(self, data: bytes) -> None:
        """Send `data`; it is dropped if the connection is closing or lingers."""
        if self._descriptor >= 0:
            try:
                sent = os.write(self._descriptor, data)
            except OSError:  # would block, or broken: the transport waits, or finds out
                sent = 0
            if sent == len(data):
                return
            self._descriptor = _NO_DESCRIPTOR
            data = data[sent:]
        if self._close_deadline is None and not self.transport.is_closing():
            self.transport.write(data)

    def close(self) -> None:
        """Flush, then close; the session, if it still runs, is told that its peer has gone."""
        self._end_session()
        self._finish(0.0)

    def reset(self) -> None:
        """Drop the connection so that the peer sees a reset and not an end of stream."""
        connection = self.transport.get_extra_info("socket")
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self.abort()

    def abort(self) -> None:
        """Drop the connection and what is unsent."""
        self._descriptor = _NO_DESCRIPTOR
        self.transport.abort()

    # --- called by the sweeper

    def timeout(self, now: float) -> None:
        if self.session.deadline is None:
            self.abort()
        else:
            self.proceed(self.session.timeout(now))

    # --- called by the loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's derive from nothing
        if hasattr(transport, "max_size"):
            transport.max_size = READ_SIZE
        connection = transport.get_extra_info("socket")
        if connection is not None:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # Not where a socket is no file descriptor, and not where TLS lies between.
            if sys.platform != "win32" and transport.get_extra_info("sslcontext") is None:
                self._descriptor = connection.fileno()
        try:
            self.session = self.open_session(self._now())
        except BaseException:
            self._peer_closed = True  # there is no session to tell
            self.abort()
            raise
        self._sweeper.add(self)
        self.proceed(self.on_open())

    def data_received(self, data: bytes) -> None:
        session = self.session
        out = session.receive(data, self._now())
        if out:
            self.send(out)
        if session.events:  # a session that ends says so; asking for its deadline each time would cost a call
            self._settle()

    def pause_writing(self) -> None:
        if not self.transport.is_closing():
            self.transport.pause_reading()  # a peer that does not read is not heard either

    def resume_writing(self) -> None:
        if not self.transport.is_closing():
            self.transport.resume_reading()

    def eof_received(self) -> bool | None:
        self._end_session()
        self._finish(0.0)
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        self._descriptor = _NO_DESCRIPTOR
        self._sweeper.discard(self)
        try:
            self._end_session()
        finally:
            self.on_closed(exc)

    # --- inside

    def _settle(self) -> None:
        """Hand on the session's events, and end the connection if the session is over."""
        session = self.session
        while session.events:
            events = session.events
            session.events = ()
            for event in events:
                if out := self.on_event(event):
                    self.send(out)
        if session.deadline is None and self._close_deadline is None:
            self._finish(0.0 if self._peer_closed else self.linger_s())

    def _end_session(self) -> None:
        """Tell the session, once and if it still runs, that its peer has gone."""
        if not self._peer_closed:
            self._peer_closed = True
            if self.session.deadline is not None:
                self.session.peer_closed(self._now())
                self._settle()

    def _finish(self, linger_s: float) -> None:
        self._descriptor = _NO_DESCRIPTOR
        if self.transport.is_closing():
            return
        self._close_deadline = self._now() + (linger_s or CLOSE_TIMEOUT)
        if linger_s and self.transport.can_write_eof():
            self.transport.set_protocol(_Lingering(self))
            self.transport.write_eof()
        else:
            self.transport.close()


class _Lingering(asyncio.Protocol):
    """Takes a connection over from a face whose session is over, until the peer closes."""

    __slots__ = ("_allowance", "_face")

    def __init__(self, face: SessionProtocol[Any]) -> None:
        self._face = face
        self._allowance = LINGER_LIMIT

    def data_received(self, data: bytes) -> None:
        self._allowance -= len(data)
        if self._allowance < 0:
            self._face.transport.close()

    def resume_writing(self) -> None:
        self._face.resume_writing()

    def pause_writing(self) -> None:
        self._face.pause_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._face.connection_lost(exc)
