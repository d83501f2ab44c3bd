"""Thousands of client connections in one thread, and a device that behaves well.

An epoll loop of our own, because hostile clients do with a socket what no asyncio transport lets them: reset, half
close, stop reading, at a moment of their choice. Nothing here imports the project: what a device should get is text of
the firmware file, frames are told apart by the count field and by `##`.

Theory of operation. A `Peer` owns one socket and at most one alarm. The engine calls `connected`, `received`, `ended`
and `rang`; a peer calls `send`, `set_alarm` and `close`. Connections asked for within a call are made between two looks
at the kernel, so that no event of a descriptor that was closed meets its successor.
"""

import errno
import heapq
import random
import select
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Protocol

READ_SIZE: Final = 65_536
"""Bytes of one read."""

CONNECTING_AT_ONCE: Final = 400
"""Connections in the making; more would overrun short accept queues."""

MAX_SLEEP: Final = 0.05
"""Longest sleep in seconds; an iteration that takes much longer was held up by the machine."""

STALL: Final = 0.3
"""Seconds of one iteration from which on it is remembered as a stall of this program, which is no fault of a server."""

MAX_FRAME: Final = 514
"""Characters of the longest record: `S`, type, count FF, 255 bytes."""

_NO_PORT: Final = 24
"""IP_BIND_ADDRESS_NO_PORT of Linux: the port is chosen when both ends are known, so that few ports do for many."""

_RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER on, zero seconds: closing resets the connection."""


class Wakeable(Protocol):
    """What may have an alarm."""

    alarm: float | None

    def rang(self) -> None:
        """The alarm went off."""


class Engine:
    """The loop. `now` is `time.monotonic()` at the beginning of the iteration."""

    def __init__(self) -> None:
        self.now = time.monotonic()
        self.stalls: list[tuple[float, float]] = []
        """Beginning and length of iterations that were held up, in seconds."""
        self.worst_iteration = 0.0
        self._epoll = select.epoll()
        self._peers: dict[int, Peer] = {}
        self._alarms: list[tuple[float, int, Wakeable]] = []
        self._order = 0
        self._waiting: deque[tuple[Peer, tuple[str, int], str | None]] = deque()
        self._connecting = 0

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
        for peer in tuple(self._peers.values()):
            peer.close()
        self._epoll.close()

    def connect(self, peer: "Peer", address: tuple[str, int], source: str | None = None) -> None:
        """Connect `peer` as soon as there is room, from the address `source`."""
        self._waiting.append((peer, address, source))

    def set_alarm(self, target: Wakeable, at: float | None) -> None:
        """Call `target.rang()` at that time instead of an earlier one."""
        target.alarm = at
        if at is not None:
            self._order += 1
            heapq.heappush(self._alarms, (at, self._order, target))

    def after(self, delay_s: float, call: Callable[[], None]) -> None:
        """Call once, later."""
        self.set_alarm(_Later(call), self.now + delay_s)

    def every(self, interval_s: float, call: Callable[[], None]) -> None:
        """Call again and again, beginning now."""
        _Periodic(self, interval_s, call).rang()

    def run(self, done: Callable[[], bool], timeout_s: float) -> bool:
        """Work until `done()`; returns whether that came in time."""
        limit = time.monotonic() + timeout_s
        began = self.now = time.monotonic()
        while not done():
            if self.now > limit:
                return False
            while self._alarms and self._alarms[0][0] <= self.now:
                at, _, target = heapq.heappop(self._alarms)
                if target.alarm == at:
                    target.alarm = None
                    target.rang()
            self._open()
            sleep = MAX_SLEEP if not self._alarms else min(MAX_SLEEP, self._alarms[0][0] - self.now)
            found = self._epoll.poll(max(0.0, sleep), 512)
            self.now = time.monotonic()
            for descriptor, events in found:
                peer = self._peers.get(descriptor)
                if peer is not None:
                    peer.happened(events)
            now = time.monotonic()
            if now - began > self.worst_iteration:
                self.worst_iteration = now - began
            if now - began > STALL:
                self.stalls.append((began, now - began))
            began = self.now = now
        return True

    def stalled_since(self, moment: float) -> float:
        """The longest stall since then, in seconds."""
        return max((length for began, length in self.stalls if began + length >= moment), default=0.0)

    # --- for peers

    def changed(self, peer: "Peer", events: int) -> None:
        self._epoll.modify(peer.descriptor, events)

    def established(self) -> None:
        self._connecting -= 1

    def forget(self, peer: "Peer", *, connecting: bool) -> None:
        self._epoll.unregister(peer.descriptor)
        del self._peers[peer.descriptor]
        self._connecting -= connecting

    def _open(self) -> None:
        while self._waiting and self._connecting < CONNECTING_AT_ONCE:
            peer, address, source = self._waiting.popleft()
            connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            if source is not None:
                connection.setsockopt(socket.IPPROTO_IP, _NO_PORT, 1)
                connection.bind((source, 0))
            code = connection.connect_ex(address)
            if code not in (0, errno.EINPROGRESS):
                connection.close()
                peer.failed(errno.errorcode.get(code, str(code)))
                continue
            peer.opened(self, connection)
            self._peers[peer.descriptor] = peer
            self._epoll.register(peer.descriptor, select.EPOLLOUT)
            self._connecting += 1


class _Later:
    def __init__(self, call: Callable[[], None]) -> None:
        self.alarm: float | None = None
        self.rang = call


class _Periodic:
    def __init__(self, engine: Engine, interval_s: float, call: Callable[[], None]) -> None:
        self.alarm: float | None = None
        self._engine, self._interval, self._call = engine, interval_s, call

    def rang(self) -> None:
        self._call()
        self._engine.set_alarm(self, self._engine.now + self._interval)


class Peer:
    """One connection."""

    __slots__ = ("_connecting", "_deaf", "_unsent", "alarm", "descriptor", "engine", "sock")

    engine: Engine
    sock: socket.socket

    def __init__(self) -> None:
        self.alarm: float | None = None
        self.descriptor = -1
        self._connecting = False
        self._deaf = False
        self._unsent = b""

    # --- to fill in

    def connected(self) -> None:
        """The connection is made."""

    def failed(self, why: str) -> None:
        """It was never made."""

    def received(self, data: bytes) -> None:
        """The server sent something."""

    def ended(self, why: str) -> None:
        """The server ended it: `eof`, or the name of an error, such as `ECONNRESET`."""

    def rang(self) -> None:
        """The alarm went off."""

    # --- to call

    @property
    def is_open(self) -> bool:
        """Whether there is a socket."""
        return self.descriptor >= 0

    def send(self, data: bytes) -> None:
        """Send, and keep what the kernel does not take yet."""
        if self._unsent:
            self._unsent += data
            return
        try:
            sent = self.sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._lost(error)
            return
        if sent < len(data):
            self._unsent = data[sent:]
            self._watch()

    def set_alarm(self, delay_s: float | None) -> None:
        """`rang` after so many seconds instead of an earlier alarm."""
        self.engine.set_alarm(self, None if delay_s is None else self.engine.now + delay_s)

    def stop_reading(self) -> None:
        """Leave in the kernel what comes from now on."""
        self._deaf = True
        self._watch()

    def half_close(self) -> None:
        """Say that no more will be sent."""
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            self._lost(error)

    def close(self, *, reset: bool = False) -> None:
        """Close, or reset, if there is something to close."""
        if self.descriptor < 0:
            return
        self.engine.forget(self, connecting=self._connecting)
        self._connecting = False
        self.descriptor = -1
        self.alarm = None
        if reset:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.sock.close()

    # --- called by the engine

    def opened(self, engine: Engine, connection: socket.socket) -> None:
        self.engine = engine
        self.sock = connection
        self.descriptor = connection.fileno()
        self._connecting = True

    def happened(self, events: int) -> None:
        if self._connecting:
            code = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                self.close()
                self.failed(errno.errorcode.get(code, str(code)))
                return
            self._connecting = False
            self.engine.established()
            self._watch()
            self.connected()
            return
        if events & select.EPOLLOUT and self._unsent:
            data, self._unsent = self._unsent, b""
            self.send(data)
            if self.descriptor < 0:
                return
            if not self._unsent:
                self._watch()
        if not self._deaf and events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
            self._read()
        elif self._deaf and events & select.EPOLLERR:
            self._lost(OSError(self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), ""))
        elif self._deaf and events & select.EPOLLHUP:
            self.ended("eof")

    def _read(self) -> None:
        try:
            data = self.sock.recv(READ_SIZE)
        except BlockingIOError:
            return
        except OSError as error:
            self._lost(error)
            return
        if data:
            self.received(data)
        else:
            self._deaf = True  # or the end of the stream would be reported for ever
            self._watch()
            self.ended("eof")

    def _lost(self, error: OSError) -> None:
        self.close()
        self.ended(errno.errorcode.get(error.errno or 0, str(error)))

    def _watch(self) -> None:
        if self.descriptor >= 0 and not self._connecting:
            reading = 0 if self._deaf else select.EPOLLIN
            self.engine.changed(self, reading | (select.EPOLLOUT if self._unsent else 0))


class Device(Peer):
    """A device that behaves: says who it is, acks every frame, expects the end, and keeps all that it got.

    `on_end` is called once. Then `failure` is None if the server refused it by `@0#` or carried the update to its end;
    `frames` are what came, verdict first.
    """

    __slots__ = ("_acks_verdict", "_buffer", "_on_end", "began", "failure", "frames", "mcuid", "refused", "took_s")

    def __init__(
        self, mcuid: str, on_end: Callable[["Device"], None], *, acks_verdict: bool = True, patience_s: float = 30.0
    ) -> None:
        super().__init__()
        self.mcuid = mcuid
        self.frames: list[bytes] = []
        self.failure: str | None = "it never connected"
        self.refused = False
        self.began = 0.0
        """When it was connected, on the engine's clock."""
        self.took_s = patience_s
        """Seconds from the connection to the end; before that, how long it may take."""
        self._on_end = on_end
        self._acks_verdict = acks_verdict
        self._buffer = b""

    def connected(self) -> None:
        self.began = self.engine.now
        self.set_alarm(self.took_s)
        self.send(b"@%s#" % self.mcuid.encode())

    def failed(self, why: str) -> None:
        self._end(f"no connection: {why}")

    def received(self, data: bytes) -> None:
        self._buffer += data
        while (size := self._frame_size()) and self.is_open:
            frame, self._buffer = self._buffer[:size], self._buffer[size:]
            if self.complete or self.refused:
                self._end(f"{frame[:60]!r} behind the end")
                return
            self.frames.append(frame)
            if frame == b"@0#":
                self.refused = True
            elif len(self.frames) > 1 or self._acks_verdict:
                self.send(b"@")
        if len(self._buffer) > MAX_FRAME:
            self._end(f"{self._buffer[:60]!r}, expected a frame")

    @property
    def complete(self) -> bool:
        """Whether the end frame came."""
        return len(self.frames) > 1 and self.frames[-1].endswith(b"##")

    def ended(self, why: str) -> None:
        if self._buffer:
            self._end(f"{why} behind {self._buffer[:60]!r}")
        elif self.refused or self.complete:  # a reset is an end as well: the last ack of one ahead meets no reader
            self._end(None)
        else:
            self._end(f"{why} after {len(self.frames)} frames")

    def rang(self) -> None:
        self._end(f"no end within {self.took_s:g} s, after {len(self.frames)} frames")

    def _frame_size(self) -> int:
        """Characters of the frame in front, 0 while it is not whole."""
        buffer = self._buffer
        if not self.frames:
            return 3 if len(buffer) >= 3 else 0
        if buffer[:1] == b"S":
            if len(buffer) < 4:
                return 0
            try:
                size = 4 + 2 * int(buffer[2:4], 16)
            except ValueError:
                return len(buffer)  # whatever this is, it is no record, and will not be equal to one
            return size if len(buffer) >= size else 0
        return buffer.find(b"##") + 2 if b"##" in buffer else 0

    def _end(self, failure: str | None) -> None:
        if self.is_open:
            self.took_s = self.engine.now - self.began
            self.close()
        elif self.began:
            self.took_s = self.engine.now - self.began
        if self._on_end is not _nobody:
            on_end, self._on_end = self._on_end, _nobody
            self.failure = failure
            on_end(self)


def _nobody(device: Device) -> None:
    pass


def difference(frames: Sequence[bytes], expected: Sequence[bytes]) -> str | None:
    """Where two sequences of frames part; None if they do not."""
    if tuple(frames) == tuple(expected):
        return None
    for number, (frame, wanted) in enumerate(zip(frames, expected, strict=False)):
        if frame != wanted:
            return f"frame {number}: {frame[:60]!r}, expected {wanted[:60]!r}"
    return f"{len(frames)} frames, expected {len(expected)}"


class Lane:
    """One device that updates again and again, one session after the other, and is judged each time.

    A session that fails while this program itself was held up by the machine for `excuse_s` says nothing of the
    server: it is repeated and counted.
    """

    def __init__(
        self,
        engine: Engine,
        address: tuple[str, int],
        mcuid: str,
        judge: Callable[[Device], str | None],
        *,
        rng: random.Random,
        pause_s: float,
        acks_verdict: bool = True,
        source: str | None = None,
        patience_s: float = 30.0,
        excuse_s: float = float("inf"),
    ) -> None:
        self.address = address
        self.mcuid = mcuid
        self.updated = 0
        self.repeated = 0
        self.failures: list[str] = []
        self.worst_s = 0.0
        self.stopping = False
        self.idle = True
        self._engine = engine
        self._judge = judge
        self._rng = rng
        self._pause = pause_s
        self._acks_verdict = acks_verdict
        self._source = source
        self._patience = patience_s
        self._excuse = excuse_s

    def begin(self) -> None:
        """One more session, if nobody has asked to stop."""
        if self.stopping or not self.idle:
            return
        self.idle = False
        device = Device(self.mcuid, self._ended, acks_verdict=self._acks_verdict, patience_s=self._patience)
        self._engine.connect(device, self.address, self._source)

    def _ended(self, device: Device) -> None:
        self.idle = True
        failure = device.failure or self._judge(device)
        if failure is None:
            self.updated += 1
            self.worst_s = max(self.worst_s, device.took_s)
        elif self._engine.stalled_since(device.began) >= self._excuse:
            self.repeated += 1
        else:
            self.failures.append(f"{self.mcuid}: {failure}")
        if not self.stopping:
            self._engine.after(self._rng.uniform(0.0, 2 * self._pause), self.begin)


def expecting(frames: Sequence[bytes]) -> Callable[[Device], str | None]:
    """A judge for devices that should get exactly these frames."""
    return lambda device: difference(device.frames, frames)
