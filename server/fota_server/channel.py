"""What a supervisor and its workers say to each other: JSON objects, one a line, over a pair of Unix sockets.

Each end is one's own process, so what arrives is trusted; the limit on a line only bounds what a bug can do.
"""

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable
from typing import Any, Final, cast

LINE_LIMIT: Final = 1_048_576
"""Bytes of a message."""

WAITING_LIMIT: Final = 8 * 1024 * 1024
"""Bytes that may wait for the other end; log lines beyond that are dropped."""

Message = dict[str, Any]
"""Has one of these keys, or one of `SharedClaims`; its value is what there is to say."""

SETTINGS: Final = "settings"
"""To a worker: what it is to serve, with `PORT`, `TLS_PORT` and `IS_FIRST` beside it."""

PORT: Final = "port"
TLS_PORT: Final = "tls_port"
IS_FIRST: Final = "is_first"

STOP: Final = "stop"
"""To a worker: let live updates finish, and end."""

CUT: Final = "cut"
"""To a worker: cut them."""

OVERTAKEN: Final = "overtaken"
"""To a worker: MCUID and number of a claim that is no longer the newest."""

SERVED: Final = "served"
"""Either way: device, file and version of `once` entries that were served."""

READY: Final = "ready"
"""From a worker: it serves."""

FAILED: Final = "failed"
"""From a worker: why it cannot."""

LOG: Final = "log"
"""From a worker: a line for the server log, as time, level, text and traceback."""


class Channel(asyncio.Protocol):
    """One end. `on_message` gets each message, `on_closed` is called once when the other end is gone."""

    def __init__(self, on_message: Callable[[Message], None], on_closed: Callable[[], None]) -> None:
        self._on_message = on_message
        self._on_closed = on_closed
        self._partial = b""
        self._transport: asyncio.Transport

    def send(self, message: Message) -> None:
        """Send it; a message to an end that is gone is lost."""
        if not self._transport.is_closing():
            self._transport.write(json.dumps(message).encode() + b"\n")

    def is_behind(self) -> bool:
        """Whether the other end does not keep up."""
        return self._transport.get_write_buffer_size() > WAITING_LIMIT

    def close(self) -> None:
        """Send what waits, and close."""
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        *lines, self._partial = (self._partial + data).split(b"\n")
        if len(self._partial) > LINE_LIMIT:
            self._transport.abort()
        for line in lines:
            self._on_message(json.loads(line))

    def connection_lost(self, exc: Exception | None) -> None:
        self._on_closed()


class ChannelLogHandler(logging.Handler):
    """A worker's log: its lines are written by the supervisor, so that one process writes and rotates the file.

    Threads may log; their lines take the way over the loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, channel: Channel) -> None:
        super().__init__()
        self._loop = loop
        self._channel = channel
        self._formatter = logging.Formatter()

    def emit(self, record: logging.LogRecord) -> None:
        """Send the line; a lost supervisor is nobody's trouble here."""
        traceback = self._formatter.formatException(record.exc_info) if record.exc_info else None
        message = {LOG: [record.created, record.levelno, record.getMessage(), traceback]}
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._send, message)

    def _send(self, message: Message) -> None:
        if not self._channel.is_behind():
            self._channel.send(message)


def write_log(logger: logging.Logger, line: tuple[float, int, str, str | None]) -> None:
    """Log a worker's line at its own time."""
    created, level, message, traceback = line
    record = logger.makeRecord(logger.name, level, "", 0, message, (), None)
    record.created, record.msecs = created, created % 1 * 1000
    record.exc_text = traceback
    logger.handle(record)
