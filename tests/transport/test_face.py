"""The asyncio face of a session, with the same results on every loop, real and simulated."""

import asyncio
import socket
import struct
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

import pytest

from fota_transport.face import LINGER_LIMIT, SessionProtocol
from fota_transport.loops import new_event_loop
from fota_transport.profiles import GPRS, LAN, LOOPBACK
from fota_transport.simulated import SimulatedLoop
from fota_transport.sweeper import Sweeper

_T = TypeVar("_T")
MakeLoop: TypeAlias = Callable[[], asyncio.AbstractEventLoop]

LOOPS: dict[str, MakeLoop] = {
    "uvloop": new_event_loop,
    "asyncio": asyncio.new_event_loop,
    "loopback": lambda: SimulatedLoop(1, LOOPBACK),
    "lan": lambda: SimulatedLoop(1, LAN),
    "gprs": lambda: SimulatedLoop(1, GPRS),
}

LONG = 60.0
"""Seconds for what takes a few round trips of any profile; virtual ones on a simulated loop."""


@pytest.fixture(params=list(LOOPS))
def make_loop(request: pytest.FixtureRequest) -> MakeLoop:
    """Every loop that the face must run on."""
    return LOOPS[request.param]


def run(make_loop: MakeLoop, main: Coroutine[Any, Any, _T]) -> _T:
    """Run `main` on a new loop, within a minute of that loop's time."""
    with asyncio.Runner(loop_factory=make_loop) as runner:
        return runner.run(asyncio.wait_for(main, LONG))


@dataclass(frozen=True, slots=True)
class Record:
    """A whole record came in."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Over:
    """The session is over, and why."""

    reason: str


class Sender:
    """Sends records, each ended by a line feed, and waits for `@` after each."""

    def __init__(self, now: float, records: list[bytes], timeout_s: float) -> None:
        self.events: tuple[Over, ...] = ()
        self.deadline: float | None = now + timeout_s
        self._timeout_s = timeout_s
        self._left = records

    def start(self) -> bytes:
        return self._left[0] + b"\n"

    def receive(self, data: bytes, now: float) -> bytes:
        if data != b"@":
            self._end("wrong ack")
            return b"!\n"
        self._left = self._left[1:]
        if not self._left:
            self._end("complete")
            return b""
        self.deadline = now + self._timeout_s
        return self._left[0] + b"\n"

    def timeout(self, now: float) -> bytes:
        self._end("time-out")
        return b"?\n"

    def peer_closed(self, now: float) -> None:
        self._end("peer closed")

    def _end(self, reason: str) -> None:
        self.deadline = None
        self.events += (Over(reason),)


class Receiver:
    """Acks every record with `@`, or leaves it at that after `acks` of them."""

    def __init__(self, now: float, acks: int) -> None:
        self.events: tuple[Record | Over, ...] = ()
        self.deadline: float | None = now + LONG
        self._acks = acks
        self._pending = b""

    def receive(self, data: bytes, now: float) -> bytes:
        *records, self._pending = (self._pending + data).split(b"\n")
        self.events += tuple(Record(record) for record in records)
        acks = min(self._acks, len(records))
        self._acks -= acks
        return b"@" * acks

    def timeout(self, now: float) -> bytes:
        raise AssertionError("a receiver waits for its sender")

    def peer_closed(self, now: float) -> None:
        self.deadline = None
        self.events += (Over("peer closed"),)


@dataclass
class Log:
    """What a protocol went through, in order."""

    entries: list[object] = field(default_factory=list)
    closed: asyncio.Event = field(default_factory=asyncio.Event)


class Sending(SessionProtocol[Sender]):
    """The server's end: speaks first."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sweeper: Sweeper,
        log: Log,
        records: list[bytes],
        *,
        timeout_s: float = LONG,
        linger_s: float = 0.0,
    ) -> None:
        super().__init__(loop, sweeper)
        self._log = log
        self._records = records
        self._timeout_s = timeout_s
        self._linger_s = linger_s

    def open_session(self, now: float) -> Sender:
        return Sender(now, self._records, self._timeout_s)

    def on_open(self) -> bytes:
        return self.session.start()

    def on_event(self, event: object) -> bytes:
        self._log.entries.append(event)
        return b""

    def linger_s(self) -> float:
        return self._linger_s

    def on_closed(self, error: Exception | None) -> None:
        self._log.entries.append(type(error))
        self._log.closed.set()


class Receiving(SessionProtocol[Receiver]):
    """The device's end."""

    def __init__(self, loop: asyncio.AbstractEventLoop, sweeper: Sweeper, log: Log, *, acks: int = 1_000_000) -> None:
        super().__init__(loop, sweeper)
        self._log = log
        self._acks = acks

    def open_session(self, now: float) -> Receiver:
        return Receiver(now, self._acks)

    def on_event(self, event: object) -> bytes:
        self._log.entries.append(event)
        return b""

    def on_closed(self, error: Exception | None) -> None:
        self._log.entries.append(type(error))
        self._log.closed.set()


class Raw(asyncio.Protocol):
    """The other end without a session: keeps what comes, and does what a test says."""

    def __init__(self) -> None:
        self.received = b""
        self.ended = asyncio.Event()
        self.arrived = asyncio.Event()
        self.error: Exception | None = None
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # uvloop's derive from nothing

    def data_received(self, data: bytes) -> None:
        self.received += data
        self.arrived.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.error = exc
        self.ended.set()


@dataclass
class Scene:
    """One sender on a server, and a client made by the test."""

    sweeper: Sweeper
    sender: Log
    port: int

    async def connect(self, factory: Callable[[], asyncio.Protocol]) -> Any:
        loop = asyncio.get_running_loop()
        _, protocol = await loop.create_connection(factory, "127.0.0.1", self.port)
        return protocol


async def on_stage(
    play: Callable[[Scene], Coroutine[Any, Any, None]], records: list[bytes], **options: float
) -> list[object]:
    """Serve `records` to whoever connects, play, and return what the sender went through."""
    loop = asyncio.get_running_loop()
    sweeper = Sweeper(loop, 0.01)
    log = Log()
    server = await loop.create_server(lambda: Sending(loop, sweeper, log, records, **options), "127.0.0.1", 0)
    async with server:
        await play(Scene(sweeper, log, server.sockets[0].getsockname()[1]))
        await log.closed.wait()
    sweeper.stop()
    assert len(sweeper) == 0
    return log.entries


RECORDS = [b"S1130000%032X" % number for number in range(20)]


def test_sessions_on_both_ends_come_to_the_same_result(make_loop: MakeLoop) -> None:
    """A stop-and-wait transfer is the same, event by event, on every loop."""
    receiver = Log()

    async def play(scene: Scene) -> None:
        loop = asyncio.get_running_loop()
        await scene.connect(lambda: Receiving(loop, scene.sweeper, receiver))
        await receiver.closed.wait()

    sender = run(make_loop, on_stage(play, RECORDS))

    assert [Over("complete"), type(None)] == sender
    assert [*map(Record, RECORDS), Over("peer closed"), type(None)] == receiver.entries


def test_many_connections_do_not_mix(make_loop: MakeLoop) -> None:
    """Fifty transfers at once each get all of their own records in order."""

    def transfer(number: int) -> list[bytes]:
        return [b"%d-%d" % (number, record) for record in range(5)]

    async def main() -> list[list[object]]:
        loop = asyncio.get_running_loop()
        sweeper = Sweeper(loop, 1.0)
        numbers = iter(range(50))
        server = await loop.create_server(
            lambda: Sending(loop, sweeper, Log(), transfer(next(numbers))),
            "127.0.0.1",
            0,
        )
        logs = [Log() for _ in range(50)]
        async with server:
            port = server.sockets[0].getsockname()[1]
            for log in logs:
                await loop.create_connection(
                    lambda log=log: Receiving(loop, sweeper, log),  # type: ignore[misc]
                    "127.0.0.1",
                    port,
                )
            for log in logs:
                await log.closed.wait()
        sweeper.stop()
        return [log.entries for log in logs]

    results = run(make_loop, main())

    expected = [[Record(record) for record in transfer(number)] for number in range(50)]
    assert sorted(map(str, expected)) == sorted(str(entries[:5]) for entries in results)


def test_a_silent_peer_times_out_and_is_told(make_loop: MakeLoop) -> None:
    """At the deadline the session's last bytes go out before the connection closes."""

    async def play(scene: Scene) -> None:
        peer = await scene.connect(Raw)
        await peer.ended.wait()
        assert peer.received == b"a\n?\n"

    log = run(make_loop, on_stage(play, [b"a"], timeout_s=0.02))

    assert [Over("time-out"), type(None)] == log


def test_an_end_of_stream_ends_the_session_once(make_loop: MakeLoop) -> None:
    """A peer that closes in the middle is told to the session, and to nobody twice."""

    async def play(scene: Scene) -> None:
        peer = await scene.connect(Raw)
        await peer.arrived.wait()
        peer.transport.close()

    log = run(make_loop, on_stage(play, RECORDS))

    assert [Over("peer closed"), type(None)] == log


def test_a_reset_ends_the_session_once(make_loop: MakeLoop) -> None:
    """A reset reaches the peer as ConnectionResetError, after its session was told."""

    async def play(scene: Scene) -> None:
        loop = asyncio.get_running_loop()
        receiver = Log()
        peer = await scene.connect(lambda: Receiving(loop, scene.sweeper, receiver, acks=3))
        while len(receiver.entries) < 4:
            await asyncio.sleep(0.01)
        peer.reset()
        await receiver.closed.wait()

    log = run(make_loop, on_stage(play, RECORDS))

    assert [Over("peer closed"), ConnectionResetError] == log


def test_bytes_before_the_end_of_stream_still_count(make_loop: MakeLoop) -> None:
    """A last ack and a close that follows at once complete the session."""

    async def play(scene: Scene) -> None:
        peer = await scene.connect(Raw)
        await peer.arrived.wait()
        peer.transport.write(b"@")
        peer.transport.close()

    log = run(make_loop, on_stage(play, [b"a"]))

    assert [Over("complete"), type(None)] == log


class Stubborn(Raw):
    """Keeps its end open after the peer's end of stream."""

    def eof_received(self) -> bool:
        return True


def test_a_lingering_end_delivers_its_last_frame(make_loop: MakeLoop) -> None:
    """A refusal and an orderly end arrive though the peer goes on sending after both."""

    async def play(scene: Scene) -> None:
        peer = await scene.connect(Stubborn)
        await peer.arrived.wait()
        while not peer.received.endswith(b"!\n"):
            peer.transport.write(b"x" * 100)
            await asyncio.sleep(0.005)
        for _ in range(5):
            peer.transport.write(b"x" * 100)
            await asyncio.sleep(0.005)
        peer.transport.close()
        await peer.ended.wait()
        assert peer.received == b"a\n!\n"
        assert peer.error is None

    log = run(make_loop, on_stage(play, [b"a"], linger_s=LONG))

    assert [Over("wrong ack"), type(None)] == log


def test_lingering_has_a_deadline(make_loop: MakeLoop) -> None:
    """A peer that never closes is cut off when the linger time is over."""

    async def play(scene: Scene) -> None:
        peer = await scene.connect(Stubborn)
        await peer.arrived.wait()
        peer.transport.write(b"x")
        await scene.sender.closed.wait()
        peer.transport.abort()
        await peer.ended.wait()

    log = run(make_loop, on_stage(play, [b"a"], linger_s=0.05))

    assert [Over("wrong ack"), type(None)] == log


def test_lingering_has_a_limit(make_loop: MakeLoop) -> None:
    """A peer that sends without end is cut off at the linger limit, long before the deadline."""

    async def play(scene: Scene) -> None:
        peer = await scene.connect(Stubborn)
        await peer.arrived.wait()
        peer.transport.write(b"x")
        while not scene.sender.closed.is_set():
            if not peer.transport.get_write_buffer_size():
                peer.transport.write(bytes(LINGER_LIMIT // 4))
            await asyncio.sleep(0.005)
        peer.transport.abort()
        await peer.ended.wait()

    log = run(make_loop, on_stage(play, [b"a"], linger_s=1_000 * LONG))

    assert [Over("wrong ack"), type(None)] == log


def test_an_owner_may_close_at_any_time(make_loop: MakeLoop) -> None:
    """Closing from outside flushes, tells the session and frees the sweeper."""
    receiver = Log()

    async def play(scene: Scene) -> None:
        loop = asyncio.get_running_loop()
        peer = await scene.connect(lambda: Receiving(loop, scene.sweeper, receiver))
        while not receiver.entries:
            await asyncio.sleep(0.01)
        peer.proceed(b"")
        peer.close()
        peer.close()
        await receiver.closed.wait()

    run(make_loop, on_stage(play, RECORDS * 1_000))

    assert [Over("peer closed"), type(None)] == receiver.entries[-2:]


def test_a_session_that_cannot_open_leaves_no_connection(make_loop: MakeLoop) -> None:
    """An owner that raises in open_session loses that connection, and the loop is told."""

    class Failing(Receiving):
        def open_session(self, now: float) -> Receiver:
            raise LookupError("no session for you")

    told: list[object] = []
    failing = Log()

    async def play(scene: Scene) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: told.append(type(context["exception"])))
        await scene.connect(lambda: Failing(loop, scene.sweeper, failing))
        await failing.closed.wait()

    run(make_loop, on_stage(play, RECORDS))

    assert [LookupError] == told
    assert [type(None)] == failing.entries


def test_a_session_that_raises_ends_only_its_own_connection(make_loop: MakeLoop) -> None:
    """A bug in one session is reported to the loop and reaches no other session."""

    class Broken(Receiver):
        def receive(self, data: bytes, now: float) -> bytes:
            raise ArithmeticError("a bug")

    class Receives(Receiving):
        def open_session(self, now: float) -> Receiver:
            return Broken(now, 0)

    told: list[object] = []
    receiver = Log()

    async def play(scene: Scene) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: told.append(type(context["exception"])))
        await scene.connect(lambda: Receives(loop, scene.sweeper, receiver))
        await receiver.closed.wait()

    log = run(make_loop, on_stage(play, RECORDS))

    assert [ArithmeticError] == told
    assert [Over("peer closed"), ArithmeticError] == receiver.entries
    assert Over("peer closed") == log[0]


@pytest.mark.parametrize("name", ["uvloop", "asyncio", "loopback"])
def test_a_peer_that_does_not_read_is_not_heard(name: str) -> None:
    """While our bytes wait for the peer, reading is paused; nothing is lost when it goes on."""
    size = 8 * 1_048_576
    notes: list[bool] = []

    class Watched(Sending):
        def pause_writing(self) -> None:
            super().pause_writing()
            notes.append(self.transport.is_reading())

        def resume_writing(self) -> None:
            super().resume_writing()
            notes.append(self.transport.is_reading())

    async def main() -> int:
        loop = asyncio.get_running_loop()
        sweeper, log = Sweeper(loop, 0.01), Log()
        server = await loop.create_server(
            lambda: Watched(loop, sweeper, log, [bytes(size)], timeout_s=10_000.0), "127.0.0.1", 0
        )
        async with server:
            port = server.sockets[0].getsockname()[1]
            _, peer = await loop.create_connection(Raw, "127.0.0.1", port)
            while len(peer.received) < size + 1:
                peer.arrived.clear()
                await peer.arrived.wait()
            peer.transport.write(b"@")
            await log.closed.wait()
        sweeper.stop()
        return len(peer.received)

    received = run(LOOPS[name], main())

    assert size + 1 == received
    assert notes == [False, True]


@pytest.mark.parametrize("name", ["uvloop", "asyncio"])
def test_a_full_kernel_buffer_keeps_order(name: str) -> None:
    """What the kernel does not take at once follows through the transport, in order."""
    pieces = [b"%07d\n" % number for number in range(200_000)]

    async def main() -> bytes:
        loop = asyncio.get_running_loop()
        sweeper, log = Sweeper(loop, 1.0), Log()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            ours = socket.create_connection(listener.getsockname())
            theirs, _ = listener.accept()
        ours.setblocking(False)
        theirs.setblocking(False)
        _, face = await loop.create_connection(lambda: Receiving(loop, sweeper, log), sock=ours)
        for piece in pieces:
            face.send(piece)
        received = bytearray()
        while len(received) < 8 * len(pieces):
            received += await loop.sock_recv(theirs, 65_536)
        face.close()
        await log.closed.wait()
        theirs.close()
        sweeper.stop()
        return bytes(received)

    assert b"".join(pieces) == run(LOOPS[name], main())


@pytest.mark.parametrize("name", ["uvloop", "asyncio"])
def test_sending_into_a_reset_is_no_exception(name: str) -> None:
    """A connection that broke unnoticed is reported as lost, not raised at the sender."""

    async def main() -> list[object]:
        loop = asyncio.get_running_loop()
        sweeper, log = Sweeper(loop, 1.0), Log()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            ours = socket.create_connection(listener.getsockname())
            theirs, _ = listener.accept()
        ours.setblocking(False)
        _, face = await loop.create_connection(lambda: Receiving(loop, sweeper, log), sock=ours)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        theirs.close()
        for _ in range(3):
            face.proceed(b"anybody there?")
        await log.closed.wait()
        sweeper.stop()
        return log.entries

    over, error = run(LOOPS[name], main())

    assert over == Over("peer closed")
    assert error in (ConnectionResetError, BrokenPipeError)
