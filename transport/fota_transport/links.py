"""Blocking byte links: what one is, over TCP and in memory.

All links agree on one contract, which one test runs over each of them:

* `read` returns at least one byte, b"" at the end of the stream, again and again;
* `write` sends everything or raises; after an error nobody knows how much has arrived;
* a wait that reaches its time-out raises the built-in `TimeoutError`;
* a peer or wire that breaks the link raises `LinkLost`, use after `close` raises `LinkClosed`;
* `close` may be called again and never raises.

A link is used by one thread at a time.  Pseudo-terminals are in `ptys`, which needs a POSIX system.
"""

import errno
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from typing import Final, Protocol, Self

from .errors import LinkClosed, LinkLost

READ_SIZE: Final = 4_096
"""Most bytes that one read of a link returns."""

MEMORY_CAPACITY: Final = 65_536
"""Bytes a memory link holds for its reader before its writer has to wait."""


class Link(Protocol):
    """A blocking byte stream; see this module's contract."""

    def read(self, timeout_s: float | None) -> bytes:
        """Return what has arrived, at least one byte; b"" at the end.  None waits for ever."""

    def write(self, data: bytes, timeout_s: float) -> None:
        """Send all of `data`, or raise."""

    def close(self) -> None:
        """Close this end; the peer reads what was sent, then the end of the stream."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc_info: object) -> None: ...


class ClosingLink(ABC):
    """The context manager that all links share: leaving the block closes the link."""

    __slots__ = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Close the link."""


def why_not_connected(error: Exception) -> str:
    """Why there is no connection, in the system's words, and what to look at where that is known."""
    if isinstance(error, (socket.gaierror, UnicodeError)):  # UnicodeError: a name that no name service can be asked for
        advice = "; is the host's name right?"
    elif isinstance(error, ConnectionRefusedError):
        advice = "; does a server run there, on that port?"
    elif isinstance(error, TimeoutError) or getattr(error, "errno", None) in (errno.EHOSTUNREACH, errno.ENETUNREACH):
        advice = "; is the host right, and no firewall between?"
    else:
        advice = ""
    return f"{getattr(error, 'strerror', None) or error}{advice}"


class TcpLink(ClosingLink):
    """A connected TCP socket, which the link owns from now on."""

    __slots__ = ("_socket",)

    def __init__(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = connection

    @classmethod
    def connect(cls, host: str, port: int, timeout_s: float) -> Self:
        """Connect, trying each address of `host`; raises `LinkLost` if none answers."""
        try:
            return cls(socket.create_connection((host, port), timeout_s))
        except TimeoutError:
            raise TimeoutError(f"{host}:{port} did not answer within {timeout_s} s") from None
        except (OSError, UnicodeError) as error:
            raise LinkLost(f"cannot connect to {host}:{port}: {why_not_connected(error)}") from error

    def read(self, timeout_s: float | None) -> bytes:
        self._prepare(timeout_s)
        try:
            return self._socket.recv(READ_SIZE)
        except BlockingIOError:
            raise TimeoutError("nothing to read") from None
        except TimeoutError:
            raise
        except OSError as error:
            raise LinkLost(f"the connection broke while reading: {error}") from error

    def write(self, data: bytes, timeout_s: float) -> None:
        self._prepare(timeout_s)
        try:
            self._socket.sendall(data)  # the time-out is for all of it
        except BlockingIOError:
            raise TimeoutError(f"the peer did not take {len(data)} bytes at once") from None
        except TimeoutError:
            raise TimeoutError(f"the peer did not take {len(data)} bytes within {timeout_s} s") from None
        except OSError as error:
            raise LinkLost(f"the connection broke while writing: {error}") from error

    def close(self) -> None:
        self._socket.close()

    def _prepare(self, timeout_s: float | None) -> None:
        if self._socket.fileno() < 0:
            raise LinkClosed("this end of the connection has been closed")
        self._socket.settimeout(None if timeout_s is None else max(0.0, timeout_s))


class _Channel:
    """One direction of a memory link: a bounded queue of bytes."""

    __slots__ = ("changed", "chunks", "reader_gone", "size", "writer_gone")

    def __init__(self, changed: threading.Condition) -> None:
        self.changed = changed
        self.chunks: deque[bytes] = deque()
        self.size = 0
        self.reader_gone = False
        self.writer_gone = False

    def take(self, timeout_s: float | None) -> bytes:
        with self.changed:
            if not self.changed.wait_for(lambda: self.chunks or self.writer_gone, timeout_s):
                raise TimeoutError(f"nothing to read within {timeout_s} s")
            if not self.chunks:
                return b""
            chunk = self.chunks.popleft()
            if len(chunk) > READ_SIZE:
                self.chunks.appendleft(chunk[READ_SIZE:])
                chunk = chunk[:READ_SIZE]
            self.size -= len(chunk)
            self.changed.notify_all()
            return chunk

    def put(self, data: bytes, timeout_s: float) -> None:
        until = time.monotonic() + timeout_s
        while data:
            with self.changed:
                if not self.changed.wait_for(
                    lambda: self.size < MEMORY_CAPACITY or self.reader_gone,
                    max(0.0, until - time.monotonic()),
                ):
                    raise TimeoutError(f"the peer did not take all bytes within {timeout_s} s")
                if self.reader_gone:
                    raise LinkLost("the other end of the memory link has been closed")
                room = MEMORY_CAPACITY - self.size
                self.chunks.append(data[:room])
                self.size += len(data[:room])
                data = data[room:]
                self.changed.notify_all()


class MemoryLink(ClosingLink):
    """One end of `memory_pair`; each end may be used by another thread."""

    __slots__ = ("_closed", "_incoming", "_outgoing")

    def __init__(self, incoming: _Channel, outgoing: _Channel) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self._closed = False

    def read(self, timeout_s: float | None) -> bytes:
        self._check()
        return self._incoming.take(timeout_s)

    def write(self, data: bytes, timeout_s: float) -> None:
        self._check()
        self._outgoing.put(data, timeout_s)

    def close(self) -> None:
        with self._outgoing.changed:
            self._closed = True
            self._outgoing.writer_gone = True
            self._incoming.reader_gone = True
            self._outgoing.changed.notify_all()

    def _check(self) -> None:
        if self._closed:
            raise LinkClosed("this end of the memory link has been closed")


def memory_pair() -> tuple[MemoryLink, MemoryLink]:
    """Return the two ends of a link inside this process."""
    changed = threading.Condition()
    there, back = _Channel(changed), _Channel(changed)
    return MemoryLink(back, there), MemoryLink(there, back)
