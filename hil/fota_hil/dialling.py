"""Connections to a server for whoever cannot wait for them: each is made in a thread, since names resolve slowly."""

import queue
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Final, Generic, TypeVar

DIAL_TIMEOUT: Final = 10.0
"""Seconds for one attempt to connect."""

DIAL_RETRIES: Final = 5
"""Attempts to connect after the first."""

DIAL_PAUSE: Final = 0.5
"""Seconds before the second attempt; the pause doubles from one to the next."""

LONGEST_DIAL_PAUSE: Final = 10.0
"""Seconds to which it grows."""

KEEPALIVE_IDLE: Final = 30
"""Seconds of a connection's silence after which the kernel asks the other end whether it is still there."""

KEEPALIVE_INTERVAL: Final = 10
"""Seconds between two such questions; after `KEEPALIVE_COUNT` without an answer the connection is lost."""

KEEPALIVE_COUNT: Final = 3
"""Questions without an answer."""

_For = TypeVar("_For")


class Dialler(Generic[_For]):
    """Makes connections for sessions, and calls `wake` when there is something to take; of any thread."""

    def __init__(self, host: str, port: int, wake: Callable[[], None]) -> None:
        self._address = host, port
        self._wake = wake
        self._found: queue.SimpleQueue[tuple[_For, socket.socket | Exception]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._is_closed = False

    def dial(self, session: _For) -> None:
        """Begin an attempt to connect."""
        threading.Thread(target=self._connect, args=(session,), name="dialling", daemon=True).start()

    def found(self) -> Iterator[tuple[_For, socket.socket | Exception]]:
        """The attempts that came to their end: for whom, and a connection that does not block, or why there is none."""
        while not self._found.empty():
            yield self._found.get()

    def close(self) -> None:
        """Close what is not wanted any more, also what is still to come."""
        with self._lock:
            self._is_closed = True
        for _, found in self.found():
            if isinstance(found, socket.socket):
                found.close()

    def _connect(self, session: _For) -> None:
        """Runs in a thread of its own."""
        found: socket.socket | Exception
        try:
            found = socket.create_connection(self._address, DIAL_TIMEOUT)
            _prepare(found)
        except (OSError, UnicodeError) as error:
            found = error
        with self._lock:
            if not self._is_closed:
                self._found.put((session, found))
                self._wake()
            elif isinstance(found, socket.socket):
                found.close()


def pause_behind(attempts: int) -> float:
    """Seconds from attempt number `attempts` to the next."""
    return min(DIAL_PAUSE * 2.0 ** (attempts - 1), LONGEST_DIAL_PAUSE)


def _prepare(connection: socket.socket) -> None:
    connection.setblocking(False)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if sys.platform == "linux":
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_COUNT)
