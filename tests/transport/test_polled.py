"""Connections on an epoll of our own: asyncio's manners, within asyncio's loop and within uvloop's."""

import asyncio
import contextlib
import errno
import gc
import os
import resource
import socket
import struct
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

import pytest

from fota_transport import polled
from fota_transport.face import LINGER_LIMIT, READ_SIZE, SessionProtocol
from fota_transport.loops import new_event_loop, raise_descriptor_limit
from fota_transport.polled import PolledServer, PolledTransport, Poller
from fota_transport.sweeper import Sweeper

pytestmark = pytest.mark.skipif(not polled.available(), reason="epoll is Linux's")

_T = TypeVar("_T")
MakeLoop: TypeAlias = Callable[[], asyncio.AbstractEventLoop]

LOOPS: dict[str, MakeLoop] = {"uvloop": new_event_loop, "asyncio": asyncio.new_event_loop}

LONG = 60.0
"""Seconds for any one conversation."""

HOST = "127.0.0.1"

LOST = type(None)
"""The note of a connection that ended in good order."""

RESET = struct.pack("ii", 1, 0)
"""SO_LINGER that makes a close a reset."""


@pytest.fixture(params=list(LOOPS))
def make_loop(request: pytest.FixtureRequest) -> MakeLoop:
    """Every loop that a poller must run in."""
    return LOOPS[request.param]


@pytest.fixture(autouse=True)
def _no_descriptor_is_left() -> Iterator[None]:
    """Whatever a test did, it leaves as many descriptors as it found."""
    for new in LOOPS.values():  # the first of a kind opens some for good
        new().close()
    before = set(os.listdir("/proc/self/fd"))
    yield
    gc.collect()
    assert before == set(os.listdir("/proc/self/fd"))


class Noting(asyncio.Protocol):
    """Notes every call; neighbouring bytes are joined, since no stream promises their cuts."""

    def __init__(self, *, stay_after_eof: bool = False) -> None:
        self.calls: list[object] = []
        self.changed = asyncio.Event()
        self.transport: PolledTransport
        self.reads: list[int] = []
        self._stay_after_eof = stay_after_eof
        self._received = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, PolledTransport)
        self.transport = transport
        self._note("made")

    def data_received(self, data: bytes) -> None:
        self.reads.append(len(data))
        self._received += data
        self.changed.set()

    def eof_received(self) -> bool:
        self._note("eof")
        return self._stay_after_eof

    def pause_writing(self) -> None:
        self._note("pause")

    def resume_writing(self) -> None:
        self._note("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self._note(type(exc))

    @property
    def heard(self) -> list[object]:
        """Every call so far."""
        return self.calls + ([bytes(self._received)] if self._received else [])

    @property
    def is_over(self) -> bool:
        """Whether the connection is lost."""
        return isinstance(self.heard[-1], type)

    def _note(self, call: object) -> None:
        self.calls = [*self.heard, call]
        self._received.clear()
        self.changed.set()

    async def until(self, *calls: object) -> None:
        """Wait until the last calls were these."""
        while self.heard[-len(calls) :] != list(calls):
            self.changed.clear()
            await self.changed.wait()

    async def until_lost(self) -> None:
        """Wait until the connection is lost."""
        while not self.is_over:
            self.changed.clear()
            await self.changed.wait()


@dataclass
class Scene:
    """A poller in the running loop, and what the loop was told of errors."""

    loop: asyncio.AbstractEventLoop
    poller: Poller
    told: list[dict[str, Any]] = field(default_factory=list)

    def listen(self, factory: Callable[[], asyncio.Protocol]) -> tuple[PolledServer, int]:
        """A server on a port that is free, and the port."""
        server = self.poller.listen(socket.create_server((HOST, 0)), factory)
        return server, server.sockets[0].getsockname()[1]

    async def pair(self, near: asyncio.Protocol, far: Noting) -> PolledTransport:
        """Connect `near` to `far`, both on the poller; returns the transport of `near`."""
        server, port = self.listen(lambda: far)
        transport, _ = await self.poller.connect(lambda: near, HOST, port)
        while not far.calls:
            await asyncio.sleep(0.001)
        server.close()
        return transport

    async def plain(self, factory: Callable[[], asyncio.Protocol]) -> socket.socket:
        """A non-blocking socket without a poller, connected to a protocol of `factory`."""
        server, port = self.listen(factory)
        sock = socket.socket()
        sock.setblocking(False)
        await self.loop.sock_connect(sock, (HOST, port))
        await asyncio.sleep(0.01)
        server.close()
        return sock

    @property
    def errors(self) -> list[type]:
        """The types of the exceptions that the loop was told of."""
        return [type(context["exception"]) for context in self.told]


@contextlib.asynccontextmanager
async def stage() -> AsyncIterator[Scene]:
    """A scene whose poller is closed at the end, and whose connections are gone then."""
    loop = asyncio.get_running_loop()
    scene = Scene(loop, Poller(loop))
    loop.set_exception_handler(lambda _, context: scene.told.append(context))
    try:
        yield scene
    finally:
        scene.poller.close()
        await asyncio.sleep(0)
        await asyncio.sleep(0)


def run(make_loop: MakeLoop, play: Callable[[Scene], Coroutine[Any, Any, _T]]) -> _T:
    """Play on a new loop and return what the play returns."""

    async def main() -> _T:
        async with stage() as scene:
            return await asyncio.wait_for(play(scene), LONG)

    with asyncio.Runner(loop_factory=make_loop) as runner:
        return runner.run(main())


def fill(transport: PolledTransport, chunk: int = 65_536) -> int:
    """Write until the kernel takes no more, or the connection ends; returns the bytes that the transport was given."""
    written = 0
    while not transport.get_write_buffer_size() and not transport.is_closing():
        transport.write(bytes(chunk))
        written += chunk
    return written


# --- bytes


def test_an_echo_returns_every_byte(make_loop: MakeLoop) -> None:
    """What many writes of odd sizes sent comes back as one stream, byte for byte."""
    pieces = [bytes([size % 251]) * size for size in range(1, 1_500, 7)]
    sent = b"".join(pieces)

    class Echo(Noting):
        def data_received(self, data: bytes) -> None:
            self.transport.write(data)

    async def play(scene: Scene) -> list[object]:
        near = Noting()
        transport = await scene.pair(near, Echo())
        for piece in pieces:
            transport.write(piece)
        await near.until("made", sent)
        return near.heard

    assert ["made", sent] == run(make_loop, play)


def test_a_read_is_small(make_loop: MakeLoop) -> None:
    """A stream comes in reads of at most the face's size, one for each event."""

    async def play(scene: Scene) -> tuple[int, int]:
        far = Noting()
        transport = await scene.pair(Noting(), far)
        transport.write(bytes(100_000))
        await far.until("made", bytes(100_000))
        return max(far.reads), sum(far.reads)

    assert (READ_SIZE, 100_000) == run(make_loop, play)


def test_a_long_stream_does_not_keep_others_waiting(make_loop: MakeLoop) -> None:
    """While one connection pours, another's echo and the loop's own timers get their turns."""
    size = 4 * 1_048_576

    async def play(scene: Scene) -> tuple[int, int]:
        sink, quick = Noting(), Noting()
        pouring = await scene.pair(Noting(), sink)
        asking = await scene.pair(Noting(), quick)
        pouring.write(bytes(size))
        asking.write(b"@")
        await quick.until("made", b"@")
        at_answer = sum(sink.reads)
        await asyncio.sleep(0.001)
        at_timer = sum(sink.reads)
        pouring.abort()
        return at_answer, at_timer

    at_answer, at_timer = run(make_loop, play)

    assert at_answer <= 4 * READ_SIZE
    assert at_timer < size


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_all_kinds_of_bytes_may_be_written(make_loop: MakeLoop, kind: Callable[[bytes], Any]) -> None:
    """Bytes, byte arrays and views are sent as they are at the moment of the write, and empty ones not at all."""

    async def play(scene: Scene) -> list[object]:
        far = Noting()
        transport = await scene.pair(Noting(), far)
        transport.write(kind(b""))
        transport.write(kind(b"one"))
        transport.writelines([kind(b"two"), b"", b"three"])
        await far.until("made", b"onetwothree")
        return far.heard

    assert ["made", b"onetwothree"] == run(make_loop, play)


def test_text_is_no_bytes(make_loop: MakeLoop) -> None:
    """Writing a string raises TypeError and harms nothing."""

    async def play(scene: Scene) -> bool:
        transport = await scene.pair(Noting(), Noting())
        with pytest.raises(TypeError, match="bytes-like"):
            transport.write("text")  # type: ignore[arg-type]
        return transport.is_closing()

    assert run(make_loop, play) is False


def test_writing_never_calls_the_peer_from_inside(make_loop: MakeLoop) -> None:
    """A protocol hears of bytes from the loop, never during the other's write."""

    async def play(scene: Scene) -> list[object]:
        far = Noting()
        transport = await scene.pair(Noting(), far)
        transport.write(b"@")
        return far.heard

    assert ["made"] == run(make_loop, play)


# --- back pressure


def test_a_slow_reader_pauses_the_writer_and_resumes_it(make_loop: MakeLoop) -> None:
    """A protocol is asked to pause above the high-water mark and to go on below the low one; nothing is lost."""

    async def play(scene: Scene) -> tuple[list[object], int, list[int], int]:
        writer, reader = Noting(), Noting()
        transport = await scene.pair(writer, reader)
        reader.transport.pause_reading()
        transport.set_write_buffer_limits(high=100_000, low=1_000)
        written, sizes = 0, []
        while "pause" not in writer.calls:
            transport.write(bytes(16_384))
            written += 16_384
        sizes.append(transport.get_write_buffer_size())
        reader.transport.resume_reading()
        await writer.until("pause", "resume")
        sizes.append(transport.get_write_buffer_size())
        transport.close()
        await reader.until("eof", LOST)
        return writer.heard, written, sizes, sum(reader.reads)

    calls, written, (at_pause, at_resume), read = run(make_loop, play)

    assert ["made", "pause", "resume", LOST] == calls
    assert written == read
    assert 100_000 < at_pause <= 100_000 + 16_384
    assert at_resume <= 1_000


def test_buffered_bytes_keep_their_order(make_loop: MakeLoop) -> None:
    """What the kernel takes at once, what waits, and what is written behind it arrive in order."""
    pieces = [b"%07d\n" % number for number in range(20_000)]

    async def play(scene: Scene) -> tuple[int, int, bool]:
        far = Noting()
        transport = await scene.pair(Noting(), far)
        far.transport.pause_reading()
        filling = fill(transport)
        for piece in pieces:
            transport.write(piece)
        buffered = transport.get_write_buffer_size()
        far.transport.resume_reading()
        stream = bytes(filling) + b"".join(pieces)
        while sum(far.reads) < len(stream):
            await asyncio.sleep(0.01)
        return buffered, len(stream), far.heard == ["made", stream]

    buffered, size, is_equal = run(make_loop, play)

    assert 8 * len(pieces) < buffered < size
    assert is_equal


def test_small_writes_are_not_buffered(make_loop: MakeLoop) -> None:
    """A kernel takes a record at once."""

    async def play(scene: Scene) -> int:
        transport = await scene.pair(Noting(), Noting())
        transport.write(bytes(100))
        return transport.get_write_buffer_size()

    assert 0 == run(make_loop, play)


def test_buffer_limits_are_those_of_asyncio(make_loop: MakeLoop) -> None:
    """Without limits of their own transports have asyncio's; one that is given makes the other."""

    async def play(scene: Scene) -> list[tuple[int, int]]:
        transport = await scene.pair(Noting(), Noting())
        limits = [transport.get_write_buffer_limits()]
        for options in ({"high": 1_000}, {"low": 1_000}, {"high": 7, "low": 5}, {}):
            transport.set_write_buffer_limits(**options)
            limits.append(transport.get_write_buffer_limits())
        with pytest.raises(ValueError, match="must be >= low"):
            transport.set_write_buffer_limits(high=1, low=2)
        return limits

    default = (16_384, 65_536)
    assert [default, (250, 1_000), (1_000, 4_000), (5, 7), default] == run(make_loop, play)


def test_lowering_the_limit_below_what_is_buffered_pauses(make_loop: MakeLoop) -> None:
    """A limit counts from the moment it is set."""

    async def play(scene: Scene) -> tuple[list[object], list[object]]:
        near, far = Noting(), Noting()
        transport = await scene.pair(near, far)
        far.transport.pause_reading()
        transport.set_write_buffer_limits(high=1 << 30)
        fill(transport)
        before = near.heard
        transport.set_write_buffer_limits(high=0)
        return before, near.heard

    assert (["made"], ["made", "pause"]) == run(make_loop, play)


def test_writing_while_resuming_keeps_order(make_loop: MakeLoop) -> None:
    """A protocol that writes from inside resume_writing appends to what is left."""

    class Resuming(Noting):
        def resume_writing(self) -> None:
            super().resume_writing()
            self.transport.write(b"the end")

    async def play(scene: Scene) -> tuple[int, int, object]:
        near, far = Resuming(), Noting()
        transport = await scene.pair(near, far)
        far.transport.pause_reading()
        transport.set_write_buffer_limits(high=1, low=0)
        written = fill(transport)
        far.transport.resume_reading()
        await near.until("pause", "resume")
        while sum(far.reads) < written + 7:
            await asyncio.sleep(0.001)
        return written, sum(far.reads), far.heard[-1]

    written, read, stream = run(make_loop, play)

    assert written + 7 == read
    assert bytes(written) + b"the end" == stream


# --- reading, paused and not


def test_paused_reading_holds_bytes_and_the_end_back(make_loop: MakeLoop) -> None:
    """While reading is paused nothing is told; resuming tells all of it in order."""

    async def play(scene: Scene) -> tuple[list[object], list[bool], list[object]]:
        far = Noting()
        near = await scene.pair(Noting(), far)
        readings = [far.transport.is_reading()]
        far.transport.pause_reading()
        far.transport.pause_reading()
        near.write(b"one")
        near.write(b"two")
        near.close()
        await asyncio.sleep(0.05)
        held = far.heard
        readings.append(far.transport.is_reading())
        far.transport.resume_reading()
        far.transport.resume_reading()
        readings.append(far.transport.is_reading())
        await far.until("eof", LOST)
        return held, readings, far.heard

    held, readings, calls = run(make_loop, play)

    assert ["made"] == held
    assert [True, False, True] == readings
    assert ["made", b"onetwo", "eof", LOST] == calls


def test_a_protocol_may_pause_at_once_and_within_a_read(make_loop: MakeLoop) -> None:
    """Pausing counts from inside connection_made and data_received, too: no further byte is told."""

    class Careful(Noting):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            self.transport.pause_reading()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self.transport.pause_reading()

    async def play(scene: Scene) -> list[list[int]]:
        far = Careful()
        near = await scene.pair(Noting(), far)
        near.write(bytes(3 * READ_SIZE))
        reads = []
        for _ in range(3):
            await asyncio.sleep(0.02)
            reads.append(list(far.reads))
            far.transport.resume_reading()
        return reads

    assert [[], [READ_SIZE], [READ_SIZE] * 2] == run(make_loop, play)


def test_a_hang_up_of_a_paused_connection_does_not_spin(make_loop: MakeLoop) -> None:
    """A peer that resets while nobody reads wakes the loop never, and is found out when reading goes on."""

    async def play(scene: Scene) -> tuple[float, list[object]]:
        far = Noting()
        sock = await scene.plain(lambda: far)
        far.transport.pause_reading()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        sock.close()
        before = os.times()
        await asyncio.sleep(0.3)
        after = os.times()
        far.transport.resume_reading()
        await far.until_lost()
        return after.user + after.system - before.user - before.system, far.heard

    busy_s, calls = run(make_loop, play)

    assert busy_s < 0.15
    assert ["made", ConnectionResetError] == calls


# --- ends


def test_close_flushes_and_ends_the_stream(make_loop: MakeLoop) -> None:
    """Everything written before a close arrives, then the end of the stream; what is written after it does not."""

    async def play(scene: Scene) -> tuple[int, int, list[object], list[object], list[object]]:
        near, far = Noting(), Noting()
        transport = await scene.pair(near, far)
        far.transport.pause_reading()
        written = fill(transport)
        transport.close()
        transport.close()
        transport.write(b"too late")
        assert transport.is_closing()
        await asyncio.sleep(0.02)
        flushing = near.heard
        far.transport.resume_reading()
        await far.until("eof", LOST)
        return written, sum(far.reads), flushing, near.heard, far.calls[2:]

    written, read, flushing, near, far = run(make_loop, play)

    assert written == read
    assert "made" == flushing[0]
    assert LOST not in flushing
    assert LOST == near[-1]
    assert ["eof", LOST] == far


def test_a_closing_connection_hears_nothing_but_its_loss(make_loop: MakeLoop) -> None:
    """Behind a close neither bytes nor room to write are told, though bytes still leave."""

    async def play(scene: Scene) -> list[object]:
        near, far = Noting(), Noting(stay_after_eof=True)
        transport = await scene.pair(near, far)
        far.transport.pause_reading()
        transport.set_write_buffer_limits(high=1)
        fill(transport)
        far.transport.write(b"not for you")
        transport.close()
        far.transport.resume_reading()
        await near.until_lost()
        return near.heard

    assert ["made", "pause", LOST] == run(make_loop, play)


def test_close_is_told_from_the_loop(make_loop: MakeLoop) -> None:
    """connection_lost never comes from inside close or abort, and once for any number of them."""

    async def play(scene: Scene) -> tuple[list[object], list[object]]:
        near = Noting()
        transport = await scene.pair(near, Noting())
        transport.close()
        transport.abort()
        transport.close()
        before = near.heard
        await near.until_lost()
        await asyncio.sleep(0.01)
        return before, near.heard

    assert (["made"], ["made", LOST]) == run(make_loop, play)


def test_abort_drops_what_is_buffered(make_loop: MakeLoop) -> None:
    """Abort does not wait for a peer that does not read."""

    async def play(scene: Scene) -> tuple[list[object], bool]:
        near, far = Noting(), Noting()
        transport = await scene.pair(near, far)
        far.transport.pause_reading()
        written = fill(transport, 1_048_576)
        transport.abort()
        assert transport.get_write_buffer_size() == 0
        await near.until_lost()
        far.transport.resume_reading()
        await far.until_lost()
        return near.calls, sum(far.reads) < written

    near, is_cut = run(make_loop, play)

    assert LOST == near[-1]
    assert is_cut


def test_half_a_close_leaves_the_other_half_open(make_loop: MakeLoop) -> None:
    """After write_eof the peer may stay and answer; writing on our side is over."""

    async def play(scene: Scene) -> tuple[list[object], list[object]]:
        near, far = Noting(stay_after_eof=True), Noting(stay_after_eof=True)
        transport = await scene.pair(near, far)
        assert transport.can_write_eof()
        transport.write(b"question")
        transport.write_eof()
        transport.write_eof()
        with pytest.raises(RuntimeError, match="write_eof"):
            transport.write(b"more")
        await far.until(b"question", "eof")
        far.transport.write(b"answer")
        await near.until("made", b"answer")
        far.transport.close()
        await near.until("eof")
        transport.close()
        await near.until_lost()
        return near.heard, far.heard

    near, far = run(make_loop, play)

    assert ["made", b"answer", "eof", LOST] == near
    assert ["made", b"question", "eof", LOST] == far


def test_half_a_close_waits_for_what_is_buffered(make_loop: MakeLoop) -> None:
    """The end of the stream leaves behind the last buffered byte and not before."""

    async def play(scene: Scene) -> tuple[int, int, object]:
        near, far = Noting(), Noting(stay_after_eof=True)
        transport = await scene.pair(near, far)
        far.transport.pause_reading()
        written = fill(transport, 1_048_576)
        transport.write_eof()
        far.transport.resume_reading()
        await far.until("eof")
        assert not transport.is_closing()
        return written, sum(far.reads), far.heard[-1]

    written, read, last = run(make_loop, play)

    assert (written, "eof") == (read, last)


def test_the_end_of_a_stream_is_told_once(make_loop: MakeLoop) -> None:
    """A protocol that stays after the end is not told again, not even after pausing and resuming."""

    async def play(scene: Scene) -> tuple[float, list[object]]:
        far = Noting(stay_after_eof=True)
        near = await scene.pair(Noting(), far)
        near.write_eof()
        await far.until("eof")
        before = os.times()
        await asyncio.sleep(0.2)
        after = os.times()
        far.transport.pause_reading()
        far.transport.resume_reading()
        await asyncio.sleep(0.02)
        return after.user + after.system - before.user - before.system, far.heard

    busy_s, calls = run(make_loop, play)

    assert busy_s < 0.1
    assert ["made", "eof"] == calls


def test_a_reset_is_an_error(make_loop: MakeLoop) -> None:
    """A peer's reset ends the connection with ConnectionResetError and nothing else."""

    async def play(scene: Scene) -> list[object]:
        far = Noting()
        sock = await scene.plain(lambda: far)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        sock.close()
        await far.until_lost()
        return far.heard

    assert ["made", ConnectionResetError] == run(make_loop, play)


def test_closing_on_unread_bytes_resets_the_peer(make_loop: MakeLoop) -> None:
    """Who closes before it has read all that arrived resets its peer, as kernels do."""

    async def play(scene: Scene) -> list[object]:
        near, far = Noting(), Noting()
        transport = await scene.pair(near, far)
        far.transport.pause_reading()
        transport.write(b"unread")
        await asyncio.sleep(0.02)
        far.transport.close()
        await near.until_lost()
        return near.heard

    assert ["made", ConnectionResetError] == run(make_loop, play)


@pytest.mark.parametrize("is_buffered", [False, True])
def test_writing_to_a_peer_that_has_left_is_an_error_from_the_loop(make_loop: MakeLoop, is_buffered: bool) -> None:
    """A write, at once or of the buffer, that finds nobody ends the connection; the writer sees no exception."""

    async def play(scene: Scene) -> tuple[list[object], list[object]]:
        far = Noting()
        sock = await scene.plain(lambda: far)
        far.transport.pause_reading()
        if is_buffered:
            fill(far.transport, 1_048_576)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        sock.close()
        before = far.heard
        for _ in range(3):
            far.transport.write(b"anybody there?")
        assert before == far.heard
        await far.until_lost()
        return before, far.heard

    before, calls = run(make_loop, play)

    assert before == calls[:-1]
    assert calls[-1] in (ConnectionResetError, BrokenPipeError)


def test_write_eof_to_a_peer_that_has_reset_is_no_exception(make_loop: MakeLoop) -> None:
    """A half close of what is broken already is found out by reading."""

    async def play(scene: Scene) -> list[object]:
        far = Noting()
        sock = await scene.plain(lambda: far)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        sock.close()
        far.transport.write_eof()
        await far.until_lost()
        return far.heard

    assert ["made", ConnectionResetError] == run(make_loop, play)


# --- protocols


def test_protocols_may_be_exchanged_in_mid_stream(make_loop: MakeLoop) -> None:
    """After set_protocol, here from inside data_received, the new protocol hears everything, the old one nothing."""
    second = Noting()

    class First(Noting):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            second.connection_made(self.transport)
            self.transport.set_protocol(second)

    async def play(scene: Scene) -> tuple[list[object], list[object], bool]:
        first = First()
        near = await scene.pair(Noting(), first)
        near.write(bytes(READ_SIZE) + b"rest")
        await second.until("made", b"rest")
        is_second = first.transport.get_protocol() is second
        near.close()
        await second.until_lost()
        return first.heard, second.heard, is_second

    first, later, is_second = run(make_loop, play)

    assert ["made", bytes(READ_SIZE)] == first
    assert ["made", b"rest", "eof", LOST] == later
    assert is_second


def test_only_streaming_protocols_are_taken(make_loop: MakeLoop) -> None:
    """A BufferedProtocol, which would never be called, is refused."""

    async def play(scene: Scene) -> None:
        transport = await scene.pair(Noting(), Noting())
        with pytest.raises(TypeError, match=r"asyncio\.Protocol"):
            transport.set_protocol(asyncio.BufferedProtocol())

    run(make_loop, play)


@pytest.mark.parametrize("callback", ["connection_made", "data_received", "eof_received", "pause_writing"])
def test_a_protocol_that_raises_ends_only_its_own_connection(make_loop: MakeLoop, callback: str) -> None:
    """An error in any callback is reported to the loop and loses that connection; a neighbour goes on."""

    class Broken(Noting):
        pass

    def raising(self: Broken, *_: object) -> None:
        if callback == "connection_made":
            super(Broken, self).connection_made(*_)  # type: ignore[arg-type]
        raise ArithmeticError("a bug")

    setattr(Broken, callback, raising)

    async def play(scene: Scene) -> tuple[list[type], str, object, list[object]]:
        broken, neighbour, other = Broken(), Noting(), Noting()
        other_near = await scene.pair(Noting(), other)
        near = await scene.pair(neighbour, broken)
        if callback == "pause_writing":
            neighbour.transport.pause_reading()
            fill(broken.transport, 1_048_576)
        near.write(b"@")
        near.write_eof()
        await broken.until_lost()
        other_near.write(b"still here")
        await other.until("made", b"still here")
        return scene.errors, scene.told[0]["message"], broken.heard[-1], other.heard

    errors, message, end, other = run(make_loop, play)

    assert [ArithmeticError] == errors
    assert f"Fatal error: protocol.{callback}() call failed." == message
    assert end is ArithmeticError
    assert ["made", b"still here"] == other


def test_a_protocol_that_raises_when_it_may_write_again_is_ended(make_loop: MakeLoop) -> None:
    """resume_writing is no exception to the rule for callbacks that raise."""

    class Broken(Noting):
        def resume_writing(self) -> None:
            raise ArithmeticError("a bug")

    async def play(scene: Scene) -> tuple[list[type], object]:
        near, far = Broken(), Noting()
        transport = await scene.pair(near, far)
        far.transport.pause_reading()
        transport.set_write_buffer_limits(high=1)
        fill(transport)
        far.transport.resume_reading()
        await near.until_lost()
        return scene.errors, near.heard[-1]

    assert ([ArithmeticError], ArithmeticError) == run(make_loop, play)


def test_a_loss_that_raises_still_closes_the_descriptor(make_loop: MakeLoop) -> None:
    """connection_lost is the loop's to report, and the descriptor is closed whatever it does."""

    class Broken(Noting):
        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            raise ArithmeticError("a bug")

    async def play(scene: Scene) -> tuple[list[type], object]:
        near = Broken()
        transport = await scene.pair(near, Noting())
        transport.close()
        await near.until_lost()
        await asyncio.sleep(0.01)
        return scene.errors, transport.get_extra_info("socket")

    assert ([ArithmeticError], None) == run(make_loop, play)


@pytest.mark.parametrize("make_loop", [asyncio.new_event_loop])
def test_a_keyboard_interrupt_ends_the_loop_and_loses_no_event(make_loop: MakeLoop) -> None:
    """What interrupts the loop within a batch leaves the batch's other events to the next run."""
    loop = make_loop()
    poller = Poller(loop)
    protocols: list[Noting] = []

    class Interrupted(Noting):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if sum(bool(protocol.reads) for protocol in protocols) == 1:
                raise KeyboardInterrupt

    def factory() -> Noting:
        protocols.append(Interrupted())
        return protocols[-1]

    async def rest() -> None:
        while not all(protocol.reads for protocol in protocols):
            await asyncio.sleep(0.001)
        poller.close()
        for protocol in protocols:
            await protocol.until_lost()

    with socket.create_server((HOST, 0)) as listening:
        poller.listen(listening, factory)
        peers = [socket.create_connection(listening.getsockname()) for _ in range(3)]
        while len(protocols) < 3:
            loop.run_until_complete(asyncio.sleep(0.001))
        for peer in peers:
            peer.sendall(b"@")
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(asyncio.sleep(LONG))
        loop.run_until_complete(asyncio.wait_for(rest(), LONG))
    for peer in peers:
        peer.close()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()

    assert [["made", b"@", LOST]] * 3 == [protocol.heard for protocol in protocols]


# --- what is known of a connection


def test_both_ends_know_the_same_addresses(make_loop: MakeLoop) -> None:
    """The peer's name at one end is the own name at the other."""

    async def play(scene: Scene) -> None:
        far = Noting()
        near = await scene.pair(Noting(), far)
        assert near.get_extra_info("peername") == far.transport.get_extra_info("sockname")
        assert near.get_extra_info("sockname") == far.transport.get_extra_info("peername")
        assert HOST == near.get_extra_info("sockname")[0]
        assert "default" == near.get_extra_info("no such thing", "default")

    run(make_loop, play)


def test_a_peer_that_was_gone_before_it_was_accepted_has_a_name(make_loop: MakeLoop) -> None:
    """A log can say who connected and reset at once, though the kernel no longer knows."""
    names: list[object] = []

    class Named(Noting):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            names.append(transport.get_extra_info("peername"))

    async def play(scene: Scene) -> tuple[object, list[object]]:
        far = Named()
        _, port = scene.listen(lambda: far)
        sock = socket.create_connection((HOST, port))
        own = sock.getsockname()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        sock.close()
        while not far.calls:
            await asyncio.sleep(0.001)
        await far.until_lost()
        return own, far.heard

    own, calls = run(make_loop, play)

    assert [own] == names
    assert ["made", ConnectionResetError] == calls


def test_the_socket_may_be_configured_until_it_is_closed(make_loop: MakeLoop) -> None:
    """What `socket` gives takes options and tells its descriptor; once the connection is gone there is none."""

    async def play(scene: Scene) -> tuple[int, object, str]:
        near = Noting()
        transport = await scene.pair(near, Noting())
        connection = transport.get_extra_info("socket")
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        transport.abort()
        await near.until_lost()
        await asyncio.sleep(0)
        return (
            connection.fileno(),
            transport.get_extra_info("socket"),
            transport.get_extra_info("peername", "gone"),
        )

    assert (-1, None, "gone") == run(make_loop, play)


# --- servers


def test_a_taken_port_is_free_when_the_server_closes(make_loop: MakeLoop) -> None:
    """Closing frees the port at once, refuses who comes later, and leaves live connections alone."""

    async def play(scene: Scene) -> list[object]:
        far = Noting()
        server, port = scene.listen(lambda: far)
        transport, _ = await scene.poller.connect(Noting, HOST, port)
        while not far.calls:
            await asyncio.sleep(0.001)
        assert server.is_serving()
        server.close()
        server.close()
        assert not server.is_serving()
        assert () == server.sockets
        with pytest.raises(ConnectionRefusedError):
            await scene.poller.connect(Noting, HOST, port)
        scene.poller.listen(socket.create_server((HOST, port)), Noting).close()
        transport.write(b"still here")
        await far.until("made", b"still here")
        return far.heard

    assert ["made", b"still here"] == run(make_loop, play)


def test_accepting_does_not_starve_the_live(make_loop: MakeLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two portions of a flood of connections, those that are there are served."""
    monkeypatch.setattr(polled, "ACCEPTS_AT_ONCE", 5)
    accepted: list[int] = []

    async def play(scene: Scene) -> int:
        made = 0

        class Counted(Noting):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                nonlocal made
                made += 1
                super().connection_made(transport)

            def data_received(self, data: bytes) -> None:
                accepted.append(made)

        _, port = scene.listen(Counted)
        first = socket.create_connection((HOST, port))
        while not made:
            await asyncio.sleep(0.001)
        first.sendall(b"@")
        flood = [socket.create_connection((HOST, port)) for _ in range(50)]
        while made < 51 or not accepted:
            await asyncio.sleep(0.001)
        for sock in (first, *flood):
            sock.close()
        return made

    assert 51 == run(make_loop, play)
    assert accepted[0] <= 1 + 2 * 5


def test_running_out_of_descriptors_is_waited_out(make_loop: MakeLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a descriptor to accept with, the server rests, tells the loop once, and goes on when there are some."""
    monkeypatch.setattr(polled, "ACCEPT_RETRY_DELAY", 0.05)

    async def play(scene: Scene) -> tuple[float, list[int | None], list[type]]:
        far = Noting()
        _, port = scene.listen(lambda: far)
        client = socket.socket()
        client.setblocking(False)
        await asyncio.sleep(0.01)
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (client.fileno(), limits[1]))
        hogs = []
        try:
            with contextlib.suppress(OSError):
                while True:
                    hogs.append(os.dup(0))
            await scene.loop.sock_connect(client, (HOST, port))
            before = os.times()
            await asyncio.sleep(0.3)
            after = os.times()
            assert not far.calls
        finally:
            for hog in hogs:
                os.close(hog)
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        while not far.calls:
            await asyncio.sleep(0.001)
        client.close()
        await far.until("eof", LOST)
        numbers = [context["exception"].errno for context in scene.told]
        return after.user + after.system - before.user - before.system, numbers, scene.errors

    busy_s, numbers, errors = run(make_loop, play)

    assert busy_s < 0.15
    assert [errno.EMFILE] == numbers
    assert [OSError] == errors


def test_a_server_may_close_while_it_rests(make_loop: MakeLoop) -> None:
    """A server that waits for descriptors closes like any other, and is not tried again."""

    async def play(scene: Scene) -> list[type]:
        server, port = scene.listen(Noting)
        server._rest(OSError(errno.ENFILE, "no descriptors in the system"))
        server.close()
        with pytest.raises(ConnectionRefusedError):
            await scene.poller.connect(Noting, HOST, port)
        return scene.errors

    assert [OSError] == run(make_loop, play)


def test_a_factory_that_raises_loses_that_connection_only(make_loop: MakeLoop) -> None:
    """An owner who cannot make a protocol loses the connection, not the server."""
    far = Noting()
    made: list[Callable[[], Noting]] = [lambda: far]

    def factory() -> Noting:
        if len(made) == 1:
            made.append(lambda: far)
            raise LookupError("no protocol for you")
        return made[1]()

    async def play(scene: Scene) -> tuple[list[type], list[object], list[object]]:
        _, port = scene.listen(factory)
        unlucky = Noting()
        await scene.poller.connect(lambda: unlucky, HOST, port)
        await unlucky.until_lost()
        transport, _ = await scene.poller.connect(Noting, HOST, port)
        transport.write(b"@")
        while far.heard[-1:] != [b"@"]:
            await asyncio.sleep(0.001)
        return scene.errors, unlucky.heard, far.heard

    assert ([LookupError], ["made", "eof", LOST], ["made", b"@"]) == run(make_loop, play)


def test_two_thousand_connections_do_not_mix(make_loop: MakeLoop) -> None:
    """Many connections at once each get their own bytes back."""
    raise_descriptor_limit()
    count = 2_000

    class Echo(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, PolledTransport)
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            self.transport.write(data[::-1])

    async def play(scene: Scene) -> list[list[object]]:
        _, port = scene.listen(Echo)
        ends = [Noting() for _ in range(count)]
        for start in range(0, count, 100):
            connecting = (scene.poller.connect(lambda end=end: end, HOST, port) for end in ends[start : start + 100])  # type: ignore[misc]
            await asyncio.gather(*connecting)
        for number, end in enumerate(ends):
            end.transport.write(b"%09d" % number)
        for number, end in enumerate(ends):
            await end.until("made", (b"%09d" % number)[::-1])
        return [end.heard for end in ends]

    heard = run(make_loop, play)

    assert [["made", (b"%09d" % number)[::-1]] for number in range(count)] == heard


# --- connecting


def test_nobody_listening_refuses_the_connection(make_loop: MakeLoop) -> None:
    """Connecting to a port without a server raises ConnectionRefusedError that names the address."""

    async def play(scene: Scene) -> None:
        with socket.socket() as taken:
            taken.bind((HOST, 0))
            port = taken.getsockname()[1]
            with pytest.raises(ConnectionRefusedError, match=str(port)):
                await scene.poller.connect(Noting, HOST, port)

    run(make_loop, play)


def test_an_unreachable_address_is_an_error(make_loop: MakeLoop) -> None:
    """An address that no connection can have, a multicast one, raises OSError at once."""

    async def play(scene: Scene) -> int | None:
        with pytest.raises(OSError, match=r".+") as caught:
            await scene.poller.connect(Noting, "224.0.0.1", 9)
        return caught.value.errno

    assert run(make_loop, play) == errno.ENETUNREACH


def test_an_unknown_name_is_an_error(make_loop: MakeLoop) -> None:
    """A host that the loop's name service does not know raises its OSError."""

    async def play(scene: Scene) -> None:
        with pytest.raises(socket.gaierror):
            await scene.poller.connect(Noting, "no such host", 9)

    run(make_loop, play)


def test_names_are_the_host_loop_s_to_resolve(make_loop: MakeLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name is asked of the loop, every address is tried in order, and the first that answers is taken."""

    async def play(scene: Scene) -> list[object]:
        far = Noting()
        _, port = scene.listen(lambda: far)
        with socket.socket() as dead:
            dead.bind((HOST, 0))

            async def addresses(*_: object, **__: object) -> list[tuple[Any, ...]]:
                stream = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
                return [(*stream, dead.getsockname()), (*stream, (HOST, port))]

            scene.poller._loop = _Resolving(scene.loop, addresses)  # type: ignore[assignment]
            transport, _ = await scene.poller.connect(Noting, "device.example", port)
            scene.poller._loop = scene.loop
        return [transport.get_extra_info("peername")[1] == port]

    assert [True] == run(make_loop, play)


def test_a_poller_that_closes_during_a_look_up_fails_the_connect(make_loop: MakeLoop) -> None:
    """Closing counts before there is a socket, too."""

    async def play(scene: Scene) -> None:
        async def addresses(*_: object, **__: object) -> list[tuple[Any, ...]]:
            scene.poller.close()
            return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (HOST, 9))]

        scene.poller._loop = _Resolving(scene.loop, addresses)  # type: ignore[assignment]
        with pytest.raises(ConnectionAbortedError):
            await scene.poller.connect(Noting, "device.example", 9)

    run(make_loop, play)


class _Resolving:
    """A loop with a name service of its own."""

    def __init__(self, loop: asyncio.AbstractEventLoop, getaddrinfo: Callable[..., Any]) -> None:
        self._loop = loop
        self.getaddrinfo = getaddrinfo

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)


@contextlib.contextmanager
def full_server() -> Iterator[int]:
    """The port of a server whose queue is full: connecting to it neither succeeds nor fails."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server((HOST, 0), backlog=0))
        for _ in range(2):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(server.getsockname())
        yield server.getsockname()[1]


def test_a_cancelled_connect_leaves_nothing(make_loop: MakeLoop) -> None:
    """Cancelling closes the socket, and makes no protocol."""
    made: list[Noting] = []

    def factory() -> Noting:
        made.append(Noting())
        return made[-1]

    async def play(scene: Scene) -> int:
        with full_server() as port:
            before = len(os.listdir("/proc/self/fd"))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(scene.poller.connect(factory, HOST, port), 0.05)
            assert {} == scene.poller._others
            return len(os.listdir("/proc/self/fd")) - before

    assert 0 == run(make_loop, play)
    assert [] == made


def test_a_factory_that_raises_fails_the_connect(make_loop: MakeLoop) -> None:
    """The caller of connect gets its factory's error, and the peer an end of stream."""

    def factory() -> Noting:
        raise LookupError("no protocol for you")

    async def play(scene: Scene) -> list[object]:
        far = Noting()
        _, port = scene.listen(lambda: far)
        with pytest.raises(LookupError):
            await scene.poller.connect(factory, HOST, port)
        while not far.calls:
            await asyncio.sleep(0.001)
        await far.until_lost()
        return far.heard

    assert ["made", "eof", LOST] == run(make_loop, play)


# --- descriptors and their numbers


def test_a_connection_lost_within_a_batch_hears_none_of_its_events(make_loop: MakeLoop) -> None:
    """Of two ends with news in one batch the first to hear aborts the other, which then hears of its loss only."""
    ends: list[Noting] = []

    class Rival(Noting):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            for end in ends:
                if end is not self:
                    end.transport.abort()

    def factory() -> Noting:
        ends.append(Rival())
        return ends[-1]

    async def play(scene: Scene) -> list[list[object]]:
        _, port = scene.listen(factory)
        peers = [socket.create_connection((HOST, port)) for _ in range(2)]
        while len(ends) < 2:
            await asyncio.sleep(0.001)
        for peer in peers:
            peer.sendall(b"@")
        while not any(end.is_over for end in ends):
            await asyncio.sleep(0.001)
        for peer in peers:
            peer.close()
        return sorted((end.heard[:2] for end in ends), key=str)

    assert [["made", LOST], ["made", b"@"]] == sorted(run(make_loop, play), key=lambda heard: heard[1] != LOST)


def test_no_number_is_used_again_within_a_batch(make_loop: MakeLoop) -> None:
    """While a batch is served no descriptor of a lost connection is free, so nothing new can get its events."""
    ends: list[Noting] = []
    fresh: list[int] = []

    class Rival(Noting):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            for end in ends:
                end.transport.abort()
            with socket.socket() as new:
                fresh.append(new.fileno())

    def factory() -> Noting:
        ends.append(Rival())
        return ends[-1]

    async def play(scene: Scene) -> list[int]:
        _, port = scene.listen(factory)
        peers = [socket.create_connection((HOST, port)) for _ in range(5)]
        while len(ends) < 5:
            await asyncio.sleep(0.001)
        numbers = [end.transport.get_extra_info("socket").fileno() for end in ends]
        for peer in peers:
            peer.sendall(b"@")
        for end in ends:
            await end.until_lost()
        for peer in peers:
            peer.close()
        return numbers

    numbers = run(make_loop, play)

    assert 1 == len(fresh)
    assert fresh[0] not in numbers
    assert 1 == sum(bool(end.reads) for end in ends)


def test_an_event_of_an_old_owner_of_a_number_is_harmless(make_loop: MakeLoop) -> None:
    """An event left over from a server that closed within the batch does nothing to the connection in its place."""

    async def play(scene: Scene) -> tuple[bool, list[object]]:
        heir = Noting()
        old = scene.listen(Noting)[0]
        number = old.sockets[0].fileno()
        other, port = scene.listen(lambda: heir)
        client = socket.create_connection((HOST, port))
        # One batch: the event of `other` frees the number and gives it away, then that of `old` is served.
        batch = [(other.sockets[0].fileno(), 1), (number, 1), (number, 4), (number, 16), (number, 24)]
        epoll = scene.poller._epoll
        old.close()
        scene.poller._epoll = _Canned(epoll, batch)  # type: ignore[assignment]
        scene.poller._serve_batch()
        scene.poller._epoll = epoll
        is_heir = heir.transport.get_extra_info("socket").fileno() == number
        client.sendall(b"@")
        await heir.until("made", b"@")
        client.close()
        await heir.until_lost()
        return is_heir, heir.heard

    assert (True, ["made", b"@", "eof", LOST]) == run(make_loop, play)


class _Canned:
    """An epoll object that reports what a test wants."""

    def __init__(self, epoll: Any, batch: list[tuple[int, int]]) -> None:
        self._epoll = epoll
        self._batch = batch

    def poll(self, timeout: float, maxevents: int) -> list[tuple[int, int]]:
        return self._batch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._epoll, name)


def test_an_event_of_nobody_is_ignored(make_loop: MakeLoop) -> None:
    """A number that no one has is no error: its owner was lost since the batch was fetched."""

    async def play(scene: Scene) -> list[type]:
        epoll = scene.poller._epoll
        scene.poller._epoll = _Canned(epoll, [(1_000_000, 1), (1_000_000, 25)])  # type: ignore[assignment]
        scene.poller._serve_batch()
        scene.poller._epoll = epoll
        return scene.errors

    assert [] == run(make_loop, play)


def test_a_duplicate_that_stays_open_brings_no_events(make_loop: MakeLoop) -> None:
    """A descriptor of which someone holds a duplicate leaves the epoll object when its connection ends."""

    async def play(scene: Scene) -> tuple[float, list[object]]:
        far = Noting()
        near = await scene.pair(Noting(), far)
        duplicate = os.dup(far.transport.get_extra_info("socket").fileno())
        far.transport.abort()
        await far.until_lost()
        near.write(b"still reaches the duplicate")
        before = os.times()
        await asyncio.sleep(0.2)
        after = os.times()
        os.close(duplicate)
        return after.user + after.system - before.user - before.system, far.heard

    busy_s, calls = run(make_loop, play)

    assert busy_s < 0.1
    assert ["made", LOST] == calls


# --- the poller's end


def test_closing_the_poller_closes_what_is_left(make_loop: MakeLoop) -> None:
    """Servers, connections in every state and connects in the making end; protocols hear it once, from the loop."""

    async def play(scene: Scene) -> tuple[list[list[object]], list[object]]:
        plain, paused, flushing = Noting(), Noting(), Noting()
        silent = Noting()
        await scene.pair(plain, Noting())
        (await scene.pair(paused, Noting())).pause_reading()
        full = await scene.pair(flushing, silent)
        silent.transport.pause_reading()
        fill(full)
        full.close()
        server, port = scene.listen(Noting)
        with full_server() as full_port:
            connecting = asyncio.ensure_future(scene.poller.connect(Noting, HOST, full_port))
            await asyncio.sleep(0.01)
            scene.poller.close()
            scene.poller.close()
            inside = [plain.heard[-1], paused.heard[-1]]
            with pytest.raises(ConnectionAbortedError):
                await connecting
        assert not server.is_serving()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((HOST, port))
        await asyncio.sleep(0.01)
        return [plain.heard, paused.heard, [flushing.heard[0], flushing.heard[-1]]], inside

    heard, inside = run(make_loop, play)

    assert [["made", LOST]] * 3 == heard
    assert ["made", "made"] == inside


def test_a_closed_poller_takes_nothing_new(make_loop: MakeLoop) -> None:
    """Listening and connecting on a closed poller raise RuntimeError."""

    async def play(scene: Scene) -> None:
        scene.poller.close()
        with socket.create_server((HOST, 0)) as listening:
            with pytest.raises(RuntimeError, match="closed"):
                scene.poller.listen(listening, Noting)
            with pytest.raises(RuntimeError, match="closed"):
                await scene.poller.connect(Noting, HOST, listening.getsockname()[1])

    run(make_loop, play)


def test_a_protocol_may_close_the_poller_within_a_batch(make_loop: MakeLoop) -> None:
    """The rest of the batch is for nobody then, and every protocol hears of its loss."""
    ends: list[Noting] = []

    async def play(scene: Scene) -> list[list[object]]:
        class Closing(Noting):
            def data_received(self, data: bytes) -> None:
                super().data_received(data)
                scene.poller.close()

        def factory() -> Noting:
            ends.append(Closing())
            return ends[-1]

        _, port = scene.listen(factory)
        peers = [socket.create_connection((HOST, port)) for _ in range(3)]
        while len(ends) < 3:
            await asyncio.sleep(0.001)
        for peer in peers:
            peer.sendall(b"@")
        for end in ends:
            await end.until_lost()
        for peer in peers:
            peer.close()
        return sorted((end.heard for end in ends), key=len)

    assert [["made", LOST], ["made", LOST], ["made", b"@", LOST]] == run(make_loop, play)


def test_a_poller_needs_epoll(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is none, `available` says so, and a poller is not to be had."""
    monkeypatch.delattr("select.epoll")

    assert polled.available() is False
    with pytest.raises(NotImplementedError):
        Poller(None)  # type: ignore[arg-type]


# --- the face over it


@dataclass(frozen=True, slots=True)
class Over:
    """The session is over, and why."""

    reason: str


class Sender:
    """Sends records, each ended by a line feed, and waits for `@` after each."""

    def __init__(self, now: float, records: list[bytes]) -> None:
        self.events: tuple[Over, ...] = ()
        self.deadline: float | None = now + LONG
        self._left = records

    def start(self) -> bytes:
        return self._left[0] + b"\n"

    def receive(self, data: bytes, now: float) -> bytes:
        if data != b"@":
            self._end("wrong ack")
            return b"!\n"
        self._left = self._left[1:]
        if self._left:
            return self._left[0] + b"\n"
        self._end("complete")
        return b""

    def timeout(self, now: float) -> bytes:
        raise AssertionError("no test waits that long")

    def peer_closed(self, now: float) -> None:
        self._end("peer closed")

    def _end(self, reason: str) -> None:
        self.deadline = None
        self.events += (Over(reason),)


class Sending(SessionProtocol[Sender]):
    """The server's end: speaks first, and lingers for `linger`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, sweeper: Sweeper, records: list[bytes], linger: float) -> None:
        super().__init__(loop, sweeper)
        self.log: list[object] = []
        self.closed = asyncio.Event()
        self._records = records
        self._linger = linger

    def open_session(self, now: float) -> Sender:
        return Sender(now, self._records)

    def on_open(self) -> bytes:
        return self.session.start()

    def on_event(self, event: object) -> bytes:
        self.log.append(event)
        return b""

    def linger_s(self) -> float:
        return self._linger

    def on_closed(self, error: Exception | None) -> None:
        self.log.append(type(error))
        self.closed.set()


class Acking(Noting):
    """A device: acks each record as soon as it is whole."""

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if data.endswith(b"\n"):
            self.transport.write(b"@")


async def served(
    scene: Scene, records: list[bytes], linger: float, peer: Noting, play: Callable[[], Coroutine[Any, Any, None]]
) -> list[object]:
    """Serve `records` to `peer`, play, and return what the sender went through."""
    sweeper = Sweeper(scene.loop, 0.01)
    sending = Sending(scene.loop, sweeper, records, linger)
    _, port = scene.listen(lambda: sending)
    await scene.poller.connect(lambda: peer, HOST, port)
    await play()
    await sending.closed.wait()
    sweeper.stop()
    assert len(sweeper) == 0
    return sending.log


RECORDS = [b"S1130000%032X" % number for number in range(200)]


def test_a_session_runs_to_its_end(make_loop: MakeLoop) -> None:
    """The face carries a stop-and-wait transfer over the poller, and closes behind it."""

    async def play(scene: Scene) -> tuple[list[object], list[object]]:
        device = Acking()
        log = await served(scene, RECORDS, 0.0, device, lambda: device.until("eof", LOST))
        return log, device.heard

    log, device = run(make_loop, play)

    assert [Over("complete"), LOST] == log
    assert ["made", b"\n".join([*RECORDS, b""]), "eof", LOST] == device


def test_a_session_s_long_frame_pauses_reading(make_loop: MakeLoop) -> None:
    """The face goes over to the transport where the kernel takes no more, and no byte is lost or changes places."""
    frame = bytes(range(1, 10)) * 500_000

    async def play(scene: Scene) -> tuple[list[object], bool]:
        device = Noting()

        async def slowly() -> None:
            device.transport.pause_reading()
            await asyncio.sleep(0.02)
            device.transport.resume_reading()
            while sum(device.reads) <= len(frame):
                await asyncio.sleep(0.01)
            device.transport.write(b"@")

        log = await served(scene, [frame], 0.0, device, slowly)
        await device.until_lost()
        return log, device.heard == ["made", frame + b"\n", "eof", LOST]

    log, is_whole = run(make_loop, play)

    assert [Over("complete"), LOST] == log
    assert is_whole


def test_a_refusal_lingers_until_it_is_read(make_loop: MakeLoop) -> None:
    """A last frame and an orderly end arrive though the peer goes on sending after both."""

    async def play(scene: Scene) -> tuple[list[object], list[object]]:
        device = Noting(stay_after_eof=True)

        async def stubbornly() -> None:
            await device.until("made", b"a\n")
            for _ in range(5):
                device.transport.write(b"x" * 100)
                await asyncio.sleep(0.005)
            await device.until("eof")
            device.transport.close()
            await device.until_lost()

        log = await served(scene, [b"a"], LONG, device, stubbornly)
        return log, device.heard

    log, device = run(make_loop, play)

    assert [Over("wrong ack"), LOST] == log
    assert ["made", b"a\n!\n", "eof", LOST] == device


@pytest.mark.parametrize("how", ["deadline", "limit"])
def test_lingering_ends(make_loop: MakeLoop, how: str) -> None:
    """A peer that never closes is cut off at the linger's deadline, one that sends without end at its limit."""

    async def play(scene: Scene) -> list[object]:
        device = Noting(stay_after_eof=True)

        async def stubbornly() -> None:
            await device.until("made", b"a\n")
            device.transport.write(b"x")
            await device.until("eof")
            if how == "limit":
                device.transport.write(bytes(LINGER_LIMIT + 1))

        return await served(scene, [b"a"], 0.05 if how == "deadline" else LONG, device, stubbornly)

    assert [Over("wrong ack"), LOST] == run(make_loop, play)


@pytest.mark.parametrize(("end", "error"), [("close", LOST), ("reset", ConnectionResetError)])
def test_a_session_hears_that_its_peer_has_gone(make_loop: MakeLoop, end: str, error: type) -> None:
    """An end of stream and a reset both end the session once, before the connection counts as lost."""

    async def play(scene: Scene) -> list[object]:
        device = Noting()

        async def leave() -> None:
            await device.until("made", RECORDS[0] + b"\n")
            if end == "reset":
                connection = device.transport.get_extra_info("socket")
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            device.transport.close()

        return await served(scene, RECORDS, 0.0, device, leave)

    assert [Over("peer closed"), error] == run(make_loop, play)
