"""TCP connections on an epoll object of our own, inside a running asyncio loop. Linux only; see `available`.

Here live transports, servers and connecting as asyncio has them, and nothing that knows a session. The host loop keeps
timers, signals, tasks and name service. It watches one descriptor of ours, the epoll object's; when that is readable,
`Poller` fetches a batch of events and serves each: a read, and a call of the protocol. So thousands of connections cost
the host one wake-up for a batch, and a connection costs one small object beside its socket.

Theory of operation.

*Two tables.* A descriptor is in `_reading` exactly while its transport may be read, and in `_others` while it is
watched for anything else: a server, a connection in the making, a transport that is paused or flushes its last bytes.
So the one look-up in `_reading` that an event costs also says whether the protocol may be told. A transport in neither
table is lost: its protocol hears of that, and of nothing else.

*Events are hints.* Nothing is concluded from an event but that a read or a write is worth a try; what that returns is
what happened. An event that comes too late or for somebody else costs one read that would block.

*Numbers are not re-used within a batch.* A transport's descriptor is closed in a callback of the host loop, after
`connection_lost`, hence never while a batch is served: an event of a batch cannot reach a connection made in that batch
under an old number. The one exception is a server that a protocol closes, whose port must be free at once; the event
left over from it is a hint like any other. Descriptors leave the epoll object before they are closed, since epoll would
go on reporting one whose duplicate is open elsewhere.

*Faces are served in place.* Where the protocol is a `SessionProtocol` with its own `data_received`, a batch does what
that does, with one look at the clock for all of the batch.

*Reads are as large as need be.* What comes is an ack of one byte, mostly, but Python makes a buffer for all that is
asked for, and a kilobyte is more than its quick allocator has: half a microsecond. So a connection asks for little
until a read comes back full, and for `READ_SIZE` from then on.

*Nobody starves.* Events are level-triggered, a connection gets one small read for each event, and a batch is bounded;
what is left is reported by the next one, behind whatever the host loop has to do. An exception that ends the host loop
(`KeyboardInterrupt`) therefore loses no event either.
"""

import asyncio
import contextlib
import errno
import functools
import os
import select
import socket
from asyncio.trsock import TransportSocket
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol, TypeVar

from .face import READ_SIZE, SessionProtocol

_P = TypeVar("_P", bound=asyncio.Protocol)

MAX_EVENTS: Final = 256
"""Most events of one batch: one to three milliseconds of acks. Batches of 1,024 gain 1 %, those of 64 lose 2 %."""

FIRST_READ_SIZE: Final = 256
"""Bytes that one read asks for until there were as many: an ack, an identification, records of up to 120 data bytes."""

ACCEPTS_AT_ONCE: Final = 8
"""Most connections that a server takes for one event: a crowd at the door must not hold up those inside."""

ACCEPT_RETRY_DELAY: Final = 1.0
"""Seconds that a server accepts nothing when accepting failed for want of descriptors or memory (asyncio's value)."""

BACKLOG: Final = 65_535
"""Connections that the kernel may hold for a server; it cuts this to its own limit."""

HIGH_WATER: Final = 65_536
"""Buffered bytes above which a protocol is asked to pause (asyncio's own default)."""

_READABLE: Final = 0x001
"""`EPOLLIN`, the same on every Linux; `select` has it there only, and this module is importable anywhere."""

_WRITABLE: Final = 0x004
"""`EPOLLOUT`."""

_BIND_ADDRESS_NO_PORT: Final = 24
"""`IP_BIND_ADDRESS_NO_PORT` of Linux: the port is picked when the peer is known, so all peers together do not share one
source address's ports."""

_DEFAULT_LIMITS: Final = (HIGH_WATER // 4, HIGH_WATER)

# What a transport has been told and has gone through: bits of one number, since ten thousand objects carry it.
_CLOSING: Final = 1
_LOST: Final = 2
_READING_PAUSED: Final = 4
_PEER_ENDED: Final = 8
_EOF_WRITTEN: Final = 16
_PROTOCOL_PAUSED: Final = 32
_DEAF: Final = _CLOSING | _LOST | _READING_PAUSED | _PEER_ENDED
"""Any of these: there is nothing to read, or nobody to read for."""


def available() -> bool:
    """Return whether this system has epoll; where it has not, use the loop's own servers and connections."""
    return hasattr(select, "epoll")


class _Waiting(Protocol):
    """What waits for events of a descriptor."""

    def _on_event(self, events: int) -> None:
        """Try what `events`, bits of epoll's, are worth a try of."""

    def _on_poller_closed(self) -> None:
        """Let go of the descriptor."""


class Poller:
    """Serves connections within `loop`, which must have `add_reader`. To be used on the loop's thread only.

    Raises `NotImplementedError` where there is no epoll, `OSError` when no descriptor is left for one.
    """

    __slots__ = ("_closed", "_epoll", "_loop", "_others", "_reading")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        if not available():
            raise NotImplementedError("this system has no epoll")
        self._loop = loop
        self._reading: dict[int, PolledTransport] = {}
        self._others: dict[int, _Waiting] = {}
        self._closed = False
        self._epoll = select.epoll()
        loop.add_reader(self._epoll.fileno(), self._serve_batch)

    def listen(
        self, sock: socket.socket, protocol_factory: Callable[[], asyncio.Protocol], *, backlog: int = BACKLOG
    ) -> "PolledServer":
        """Accept connections on `sock`, a bound stream socket, which is the server's from now on.

        Raises `OSError` when the socket cannot listen; then it is still the caller's.
        """
        self._check_open()
        sock.setblocking(False)
        sock.listen(backlog)
        return PolledServer(self, sock, protocol_factory)

    async def connect(
        self, protocol_factory: Callable[[], _P], host: str, port: int, *, source: str | None = None
    ) -> "tuple[PolledTransport, _P]":
        """Connect to the first address of `host` that takes the connection; the protocol has been told when it returns.

        `source` is the own address; the kernel picks the port. Raises `OSError` as `loop.create_connection` does: that
        of the only address, or of all if they agree, else one that names all. Cancelling it, or closing the poller
        (`ConnectionAbortedError`), leaves nothing open.
        """
        self._check_open()
        errors: list[OSError] = []
        for family, kind, proto, _, address in await self._addresses(host, port):
            try:
                connection = await self._connected(family, kind, proto, address, source)
            except OSError as error:
                errors.append(error)
                continue
            protocol, transport = self._adopt(connection, protocol_factory, None)
            return transport, protocol
        try:
            if len({str(error) for error in errors}) == 1:
                raise errors[0]
            raise OSError(f"Multiple exceptions: {', '.join(map(str, errors))}")
        finally:
            errors.clear()  # whose tracebacks hold this frame

    def close(self) -> None:
        """Close the servers, drop the connections and what they have not sent, and fail those in the making.

        Protocols hear `connection_lost(None)` from the loop, which closes the descriptors; it must still run a turn.
        """
        if self._closed:
            return
        self._closed = True
        for waiting in (*self._others.values(), *self._reading.values()):
            waiting._on_poller_closed()
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()

    # --- the hot path

    def _serve_batch(self) -> None:
        """Fetch a batch of events and serve it; called by the host loop when there are any."""
        reading = self._reading
        read, write = os.read, os.write
        now = self._loop.time()
        for descriptor, events in self._epoll.poll(0, MAX_EVENTS):
            transport = reading.get(descriptor)
            if transport is None:
                waiting = self._others.get(descriptor)
                if waiting is not None:  # else lost since the batch was fetched
                    waiting._on_event(events)
                continue
            if events != _READABLE:
                transport._on_event(events)
                continue
            size = transport._read_size
            try:
                data = read(descriptor, size)
            except OSError as error:
                transport._read_failed(error)
                continue
            if not data:
                transport._stream_ended()
                continue
            if len(data) == size:
                transport._read_size = READ_SIZE
            face = transport._face
            try:
                if face is None:
                    transport._protocol.data_received(data)
                    continue
                # What `SessionProtocol.data_received` does, without two calls: a tenth of all that an ack costs.
                session = face.session
                out = session.receive(data, now)
                if out:
                    if face._descriptor >= 0:
                        try:
                            sent = write(descriptor, out)
                        except OSError:  # would block, or broken: the transport waits, or finds out
                            sent = 0
                        if sent != len(out):
                            face._descriptor = -1
                            face.send(out[sent:])
                    else:
                        face.send(out)
                if session.events:
                    face._settle()
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                transport._blame("data_received", error)

    # --- inside

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("the poller is closed")

    def _adopt(
        self, connection: socket.socket, protocol_factory: Callable[[], _P], peername: Any
    ) -> "tuple[_P, PolledTransport]":
        """Make protocol and transport of a connection, and tell the protocol; a failure closes the connection."""
        try:
            protocol = protocol_factory()
            transport = PolledTransport(self, connection, protocol, peername)
        except BaseException:
            connection.close()
            raise
        transport._start()
        return protocol, transport

    async def _addresses(self, host: str, port: int) -> Iterable[tuple[Any, ...]]:
        try:
            return _numeric_addresses(host, port)
        except socket.gaierror:
            return await self._loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)

    async def _connected(self, family: int, kind: int, proto: int, address: Any, source: str | None) -> socket.socket:
        """A non-blocking socket that is connected to `address`; raises `OSError`."""
        if self._closed:  # while a name was looked up, or an earlier address tried
            raise _aborted()
        connection = socket.socket(family, kind, proto)
        try:
            connection.setblocking(False)
            if source is not None:
                connection.setsockopt(socket.IPPROTO_IP, _BIND_ADDRESS_NO_PORT, 1)
                connection.bind((source, 0))
            try:
                connection.connect(address)
            except BlockingIOError:
                await _Connecting(self, connection).done
                if number := connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    raise OSError(number, f"Connect call failed {address}") from None
            if self._closed:
                raise _aborted()
        except BaseException:
            self._forget(connection.fileno())
            connection.close()
            raise
        return connection

    def _forget(self, descriptor: int) -> None:
        """Watch a descriptor of `_others` no more; it need not be there."""
        if self._others.pop(descriptor, None) is not None and not self._closed:
            self._epoll.unregister(descriptor)


class PolledTransport(asyncio.Transport):
    """One connection; made by a `Poller` only.

    `get_extra_info` knows `socket`, `sockname` and `peername`. It asks the kernel each time, so names are the default
    again once the connection was reset or is gone; within `connection_made` an accepted one has its peer's for certain.
    """

    __slots__ = (
        "_buffer",
        "_buffer_limits",
        "_descriptor",
        "_face",
        "_flags",
        "_peername",
        "_poller",
        "_protocol",
        "_read_size",
        "_socket",
        "_watched",
    )

    def __init__(self, poller: Poller, connection: socket.socket, protocol: asyncio.Protocol, peername: Any) -> None:
        # Not the base's __init__: it makes a dict for each connection.
        self._poller = poller
        self._socket = connection
        self._descriptor = connection.fileno()
        self._protocol = protocol
        self._face = _fused(protocol)
        self._peername = peername
        self._buffer: bytearray | None = None  # never empty
        self._buffer_limits = _DEFAULT_LIMITS
        self._flags = 0
        self._read_size = FIRST_READ_SIZE
        self._watched = 0
        self._watch()

    def __repr__(self) -> str:
        state = "lost" if self._flags & _LOST else "closing" if self._flags & _CLOSING else "open"
        return f"<PolledTransport descriptor {self._descriptor} {state}, {self.get_write_buffer_size()} bytes buffered>"

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if self._socket.fileno() < 0:
            return default
        if name == "socket":
            return TransportSocket(self._socket)
        try:
            if name == "peername":
                return self._peername or self._socket.getpeername()
            if name == "sockname":
                return self._socket.getsockname()
        except OSError:
            pass
        return default

    # --- writing

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"write() takes a bytes-like object, got {type(data).__name__}")
        if self._flags & _EOF_WRITTEN:
            raise RuntimeError("Cannot call write() after write_eof()")
        if self._flags & _CLOSING or not data:
            return
        if self._buffer is not None:
            self._buffer += data
        else:
            try:
                sent = os.write(self._descriptor, data)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                self._lose(error)
                return
            rest = memoryview(data).cast("B")[sent:]
            if not rest:
                return
            self._buffer = bytearray(rest)
            self._watch()
        self._pause_protocol_if_full()

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        if self._flags & (_CLOSING | _EOF_WRITTEN):
            return
        self._flags |= _EOF_WRITTEN
        if self._buffer is None:
            self._shut_down()

    def get_write_buffer_size(self) -> int:
        return 0 if self._buffer is None else len(self._buffer)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._buffer_limits

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        if high is None:
            high = HIGH_WATER if low is None else 4 * low
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
        self._buffer_limits = (low, high)
        self._pause_protocol_if_full()

    def _flush(self) -> None:
        """Send what is buffered, as far as the kernel takes it."""
        buffer = self._buffer
        assert buffer is not None
        try:
            sent = os.write(self._descriptor, buffer)
        except BlockingIOError:
            return
        except OSError as error:
            self._lose(error)
            return
        del buffer[:sent]
        if not buffer:
            self._buffer = None
        if self._flags & (_PROTOCOL_PAUSED | _CLOSING) == _PROTOCOL_PAUSED and len(buffer) <= self._buffer_limits[0]:
            self._flags &= ~_PROTOCOL_PAUSED
            try:
                self._protocol.resume_writing()  # which may write, close and abort
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                self._blame("resume_writing", error)
        if self._buffer is None and not self._flags & _LOST:
            if self._flags & _CLOSING:
                self._lose(None)
                return
            if self._flags & _EOF_WRITTEN:
                self._shut_down()
            self._watch()

    def _shut_down(self) -> None:
        with contextlib.suppress(OSError):  # the peer has reset the connection: reading tells
            self._socket.shutdown(socket.SHUT_WR)

    def _pause_protocol_if_full(self) -> None:
        if self.get_write_buffer_size() > self._buffer_limits[1] and not self._flags & (_PROTOCOL_PAUSED | _CLOSING):
            self._flags |= _PROTOCOL_PAUSED
            try:
                self._protocol.pause_writing()
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                self._blame("pause_writing", error)

    # --- reading

    def is_reading(self) -> bool:
        return not self._flags & (_CLOSING | _READING_PAUSED)

    def pause_reading(self) -> None:
        if self.is_reading():
            self._flags |= _READING_PAUSED
            self._watch()

    def resume_reading(self) -> None:
        if not self._flags & _CLOSING and self._flags & _READING_PAUSED:
            self._flags &= ~_READING_PAUSED
            self._watch()

    def _on_event(self, events: int) -> None:
        """Serve what is not just readable: room to write, a hang-up, an error, or some of these at once."""
        if self._buffer is not None and events != _READABLE:
            self._flush()
        if events == _WRITABLE or self._flags & _DEAF:
            return
        try:
            data = os.read(self._descriptor, self._read_size)
        except OSError as error:
            self._read_failed(error)
            return
        if not data:
            self._stream_ended()
            return
        if len(data) == self._read_size:
            self._read_size = READ_SIZE
        try:
            self._protocol.data_received(data)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self._blame("data_received", error)

    def _read_failed(self, error: OSError) -> None:
        if not isinstance(error, BlockingIOError):
            self._lose(error)

    def _stream_ended(self) -> None:
        self._flags |= _PEER_ENDED
        try:
            stays = self._protocol.eof_received()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self._blame("eof_received", error)
            return
        if not stays:
            self.close()
        elif not self._flags & _LOST:
            self._watch()

    # --- the end

    def is_closing(self) -> bool:
        return bool(self._flags & _CLOSING)

    def close(self) -> None:
        if self._flags & _CLOSING:
            return
        self._flags |= _CLOSING
        if self._buffer is None:
            self._lose(None)
        else:
            self._watch()

    def abort(self) -> None:
        self._lose(None)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        if not isinstance(protocol, asyncio.Protocol):
            raise TypeError(f"set_protocol() takes an asyncio.Protocol, got {type(protocol).__name__}")
        self._protocol = protocol
        self._face = _fused(protocol)

    def get_protocol(self) -> asyncio.Protocol:
        return self._protocol

    def _start(self) -> None:
        try:
            self._protocol.connection_made(self)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self._blame("connection_made", error)
        self._peername = None  # the kernel knows it, too; what is kept here is kept for every connection

    def _watch(self) -> None:
        """Wait for what there is to wait for now, and for nothing else: what nobody handles would be told for ever."""
        flags, poller, descriptor = self._flags, self._poller, self._descriptor
        wanted = 0 if flags & _DEAF else _READABLE
        if self._buffer is not None:
            wanted |= _WRITABLE
        if wanted != self._watched:
            if not wanted:
                poller._epoll.unregister(descriptor)
            elif not self._watched:
                poller._epoll.register(descriptor, wanted)
            else:
                poller._epoll.modify(descriptor, wanted)
            self._watched = wanted
        if wanted & _READABLE:
            poller._others.pop(descriptor, None)
            poller._reading[descriptor] = self
        else:
            poller._reading.pop(descriptor, None)
            if flags & _LOST:
                poller._others.pop(descriptor, None)
            else:
                poller._others[descriptor] = self

    def _blame(self, callback: str, error: BaseException) -> None:
        """The protocol raised: it loses its connection, and nobody else does."""
        self._poller._loop.call_exception_handler(
            {
                "message": f"Fatal error: protocol.{callback}() call failed.",
                "exception": error,
                "transport": self,
                "protocol": self._protocol,
            }
        )
        self._lose(error)

    def _lose(self, error: BaseException | None) -> None:
        if self._flags & _LOST:
            return
        self._flags |= _CLOSING | _LOST
        self._buffer = None
        self._watch()
        self._poller._loop.call_soon(self._connection_lost, error)

    def _on_poller_closed(self) -> None:
        self._lose(None)

    def _connection_lost(self, error: Any) -> None:
        try:
            self._protocol.connection_lost(error)
        finally:
            self._protocol = _NOBODY  # which the protocol's last callback left in a cycle with this
            self._face = None
            self._socket.close()


class PolledServer:
    """A listening socket; made by `Poller.listen` only. Its connections live on when it closes."""

    __slots__ = ("_is_short", "_poller", "_protocol_factory", "_retry", "_socket")

    def __init__(
        self, poller: Poller, listening: socket.socket, protocol_factory: Callable[[], asyncio.Protocol]
    ) -> None:
        self._poller = poller
        self._socket = listening
        self._protocol_factory = protocol_factory
        self._retry: asyncio.TimerHandle | None = None
        self._is_short = False
        self._watch()

    @property
    def sockets(self) -> tuple[TransportSocket, ...]:
        """The listening socket; empty once the server is closed."""
        return (TransportSocket(self._socket),) if self.is_serving() else ()

    def is_serving(self) -> bool:
        """Whether the server has not been closed."""
        return self._socket.fileno() >= 0

    def close(self) -> None:
        """Accept no more and free the port, at once."""
        if not self.is_serving():
            return
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
            self._poller._others.pop(self._socket.fileno())
        else:
            self._poller._forget(self._socket.fileno())
        self._socket.close()

    def _watch(self) -> None:
        self._retry = None
        self._poller._epoll.register(self._socket.fileno(), _READABLE)
        self._poller._others[self._socket.fileno()] = self

    def _on_event(self, events: int) -> None:
        for _ in range(ACCEPTS_AT_ONCE):
            try:
                connection, peername = self._socket.accept()
            except BlockingIOError:
                return
            except ConnectionAbortedError:  # gone before we came
                continue
            except OSError as error:
                self._rest(error)
                return
            self._is_short = False
            connection.setblocking(False)
            try:
                self._poller._adopt(connection, self._protocol_factory, peername)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                self._report("a connection could not be set up", error)
            if not self.is_serving():  # closed by a protocol
                return

    def _rest(self, error: OSError) -> None:
        """Accept nothing for a while: the connection stays in the queue, and would be reported again at once."""
        self._poller._epoll.unregister(self._socket.fileno())
        self._retry = self._poller._loop.call_later(ACCEPT_RETRY_DELAY, self._watch)
        if not self._is_short:
            self._is_short = True
            self._report("accepting failed; it is tried again at intervals", error)

    def _report(self, message: str, error: BaseException) -> None:
        self._poller._loop.call_exception_handler(
            {"message": f"{self!r}: {message}", "exception": error, "socket": TransportSocket(self._socket)}
        )

    def _on_poller_closed(self) -> None:
        self.close()


class _Connecting:
    """A connection in the making: `done` is set when there is an outcome to ask the socket for."""

    __slots__ = ("_descriptor", "_poller", "done")

    def __init__(self, poller: Poller, connection: socket.socket) -> None:
        self._poller = poller
        self._descriptor = connection.fileno()
        self.done: asyncio.Future[None] = poller._loop.create_future()
        poller._epoll.register(self._descriptor, _WRITABLE)
        poller._others[self._descriptor] = self

    def _on_event(self, events: int) -> None:
        self._poller._forget(self._descriptor)
        if not self.done.done():
            self.done.set_result(None)

    def _on_poller_closed(self) -> None:
        if not self.done.done():
            self.done.set_exception(_aborted())


def _fused(protocol: asyncio.Protocol) -> SessionProtocol[Any] | None:
    """`protocol` if it takes bytes as every face does, None if it has a way of its own."""
    if isinstance(protocol, SessionProtocol) and type(protocol).data_received is SessionProtocol.data_received:
        return protocol
    return None


@functools.lru_cache(maxsize=16)
def _numeric_addresses(host: str, port: int) -> tuple[tuple[Any, ...], ...]:
    """What an address in digits means, which asks nobody; raises `socket.gaierror` for a name.

    It is kept: it does not change, unless it names an interface (`fe80::1%eth0`) that is made anew.
    """
    numeric = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    return tuple(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=numeric))


def _aborted() -> ConnectionAbortedError:
    return ConnectionAbortedError(errno.ECONNABORTED, "the poller was closed while connecting")


_NOBODY: Final = asyncio.Protocol()
"""Whom a lost transport belongs to."""
