"""One end of a connection on the simulated network, with the manners of an asyncio transport.

Two ends know each other.  What one writes is put on the network with the moment at which it is due
at the other, by the link profile; signals (end of stream, reset) travel in the same line, so order
is kept.  Everything a protocol is told comes from the loop, never from inside its own call.

The end behaves as asyncio's selector transport over a Linux socket does: small writes never count
as buffered, since a kernel takes them; `close` flushes and then gives the peer an end of stream, or
a reset where received bytes were left unread or still arrive.  One thing is on purpose harsher:
`abort` always resets the peer, which a kernel does only if bytes were left unread.
"""

import asyncio
import errno
from collections import deque
from collections.abc import Callable
from enum import Enum
from random import Random
from typing import Any, Final, TypeAlias

from .errors import BufferOverflow
from .line import Line
from .network import Network
from .profiles import LinkProfile

Address: TypeAlias = tuple[str, int]
"""Host and port, as sockets give them."""

KERNEL_BUFFER: Final = 65_536
"""Bytes on their way that count as taken by a kernel and not as buffered by the transport."""

HIGH_WATER: Final = 65_536
"""Buffered bytes above which a protocol is asked to pause (asyncio's own default)."""

BUFFER_LIMIT: Final = 16 * 1_048_576
"""Buffered bytes at which a protocol that does not pause is stopped."""


class _Signal(Enum):
    END_OF_STREAM = "end of stream"
    RESET = "reset"


class SimulatedTransport(asyncio.Transport):
    """One end of a connection; made by the simulated loop only."""

    __slots__ = (
        "_buffer_limits",
        "_closing",
        "_cut_bytes",
        "_eof_sent",
        "_held",
        "_in_flight",
        "_line",
        "_loop",
        "_lost",
        "_network",
        "_on_lost",
        "_peer",
        "_protocol",
        "_protocol_paused",
        "_random",
        "_reading_paused",
        "_reset_sent",
        "_uncut",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        network: Network,
        profile: LinkProfile,
        random: Random,
        *,
        sockname: Address,
        peername: Address,
        on_lost: "Callable[[SimulatedTransport], None] | None" = None,
    ) -> None:
        super().__init__({"sockname": sockname, "peername": peername})
        self._loop = loop
        self._network = network
        self._random = random
        self._line = Line(profile, random)
        self._on_lost = on_lost
        self._protocol: asyncio.Protocol = asyncio.Protocol()
        self._peer: SimulatedTransport | None = None
        self._cut_bytes = profile.segment_bytes
        self._uncut = bytearray()
        self._in_flight = 0
        self._buffer_limits = (HIGH_WATER // 4, HIGH_WATER)
        self._protocol_paused = False
        self._held: deque[bytes | _Signal] | None = None  # a queue while arrivals must wait
        self._reading_paused = False
        self._closing = False
        self._eof_sent = False
        self._reset_sent = False
        self._lost = False

    def __repr__(self) -> str:
        state = "lost" if self._lost else "closing" if self._closing else "open"
        ends = f"{self.get_extra_info('sockname')} to {self.get_extra_info('peername')}"
        return f"<SimulatedTransport {ends} {state}>"

    # --- wiring, for the loop

    def connect_to(self, peer: "SimulatedTransport") -> None:
        """Make `peer` the other end of this one."""
        self._peer = peer

    def next_due(self, size: int = 0) -> float:
        """Put `size` bytes on the line and return when the last of them is due at the peer."""
        return self._line.due(self._loop.time(), size)

    # --- writing

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"write() takes a bytes-like object, got {type(data).__name__}")
        if self._eof_sent:
            raise RuntimeError("Cannot call write() after write_eof()")
        size = len(data)
        if not size or self._closing:
            return
        self._in_flight += size
        if self._in_flight > KERNEL_BUFFER:
            self._pause_protocol_if_full()
        if self._cut_bytes is None:
            self._post(bytes(data))
        else:
            # The cuts ignore the bounds of writes, so all writes of this turn are cut as one.
            if not self._uncut:
                self._loop.call_soon(self._cut)
            self._uncut += data

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        if self._closing or self._eof_sent:
            return
        self._eof_sent = True
        self._cut()
        self._post(_Signal.END_OF_STREAM)

    def get_write_buffer_size(self) -> int:
        return max(0, self._in_flight - KERNEL_BUFFER)

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

    def _post(self, item: bytes | _Signal) -> None:
        assert self._peer is not None
        size = len(item) if isinstance(item, bytes) else 0
        self._network.post(self.next_due(size), self._peer._arrive, item)

    def _cut(self) -> None:
        """Put the writes of this turn on the wire, in pieces of random size."""
        stream = bytes(self._uncut)
        self._uncut.clear()
        start = 0
        while start < len(stream):
            assert self._cut_bytes is not None
            stop = start + self._random.randint(1, self._cut_bytes)
            self._post(stream[start:stop])
            start = stop

    def _pause_protocol_if_full(self) -> None:
        buffered = self.get_write_buffer_size()
        if buffered > BUFFER_LIMIT:
            self.abort()
            raise BufferOverflow(
                f"{self!r}: {buffered} bytes buffered, expected at most {BUFFER_LIMIT}: "
                "the protocol does not heed pause_writing"
            )
        if buffered > self._buffer_limits[1] and not self._protocol_paused:
            self._protocol_paused = True
            self._tell(self._protocol.pause_writing)

    def _taken_by_peer(self, size: int) -> None:
        """The peer's protocol got `size` bytes: there is room again."""
        self._in_flight -= size
        if self._lost:
            return
        buffered = self.get_write_buffer_size()
        if self._protocol_paused and buffered <= self._buffer_limits[0]:
            self._protocol_paused = False
            self._tell(self._protocol.resume_writing)
        if self._closing and not buffered:
            self._finish_close()

    # --- reading

    def is_reading(self) -> bool:
        return not self._closing and not self._reading_paused

    def pause_reading(self) -> None:
        if self.is_reading():
            self._reading_paused = True
            if self._held is None:
                self._held = deque()

    def resume_reading(self) -> None:
        if not self._closing and self._reading_paused:
            self._reading_paused = False
            self._loop.call_soon(self._release)

    def _arrive(self, item: bytes | _Signal) -> None:
        if self._closing:
            if isinstance(item, bytes):
                self._reset_peer()  # as a kernel answers bytes that nobody will read
            elif item is _Signal.RESET:
                self._fail(_reset_error())
        elif self._held is not None:
            self._held.append(item)
        else:
            self._take(item)

    def _release(self) -> None:
        """Hand over what arrived while reading was paused."""
        while self._held and self.is_reading():
            self._take(self._held.popleft())
        if not self._reading_paused and not self._held:
            self._held = None

    def _take(self, item: bytes | _Signal) -> None:
        assert self._peer is not None
        if isinstance(item, bytes):
            self._peer._taken_by_peer(len(item))
            if not self._closing:
                self._tell(self._protocol.data_received, item)
        elif item is _Signal.RESET:
            self._fail(_reset_error())
        elif not self._tell(self._protocol.eof_received):
            self.close()

    def _tell(self, callback: Any, *args: object) -> Any:
        """Call the protocol; a protocol that raises loses its connection and nothing else."""
        try:
            return callback(*args)
        except Exception as error:
            self._loop.call_exception_handler(
                {
                    "message": f"Fatal error: protocol.{callback.__name__}() call failed.",
                    "exception": error,
                    "transport": self,
                    "protocol": self._protocol,
                }
            )
            self._reset_peer()
            self._fail(error)
            return None

    # --- the end

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if self._closing:
            return
        self._closing = True
        self._cut()
        if not self.get_write_buffer_size():
            self._finish_close()

    def abort(self) -> None:
        self._reset_peer()
        self._fail(None)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.Protocol)
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def _finish_close(self) -> None:
        if self._held and isinstance(self._held[0], bytes):
            self._reset_peer()
        elif not self._eof_sent:
            self._eof_sent = True
            self._post(_Signal.END_OF_STREAM)
        self._lose(None)

    def _reset_peer(self) -> None:
        if not self._reset_sent:
            self._reset_sent = True
            self._post(_Signal.RESET)

    def _fail(self, error: Exception | None) -> None:
        self._closing = True
        self._uncut.clear()
        self._lose(error)

    def _lose(self, error: Exception | None) -> None:
        if not self._lost:
            self._lost = True
            self._loop.call_soon(self._connection_lost, error)

    def _connection_lost(self, error: Exception | None) -> None:
        try:
            self._protocol.connection_lost(error)
        finally:
            if self._on_lost is not None:
                self._on_lost(self)


def _reset_error() -> ConnectionResetError:
    return ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
