"""Asyncio's manners: transports and servers of the simulated loop act as those of real loops do."""

import asyncio
import errno
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias, TypeVar

import pytest

from fota_transport.loops import new_event_loop
from fota_transport.profiles import GPRS, LOOPBACK
from fota_transport.simulated import SimulatedLoop

_T = TypeVar("_T")
MakeLoop: TypeAlias = Callable[[], asyncio.AbstractEventLoop]

LOOPS: dict[str, MakeLoop] = {
    "uvloop": new_event_loop,
    "asyncio": asyncio.new_event_loop,
    "loopback": lambda: SimulatedLoop(1, LOOPBACK),
    "gprs": lambda: SimulatedLoop(1, GPRS),
}

LONG = 600.0
"""Seconds for any one conversation; virtual ones on a simulated loop."""


@pytest.fixture(params=list(LOOPS))
def make_loop(request: pytest.FixtureRequest) -> MakeLoop:
    """Every loop there is."""
    return LOOPS[request.param]


def run(make_loop: MakeLoop, main: Coroutine[Any, Any, _T]) -> _T:
    """Run `main` on a new loop, within ten minutes of that loop's time."""
    with asyncio.Runner(loop_factory=make_loop) as runner:
        return runner.run(asyncio.wait_for(main, LONG))


class Noting(asyncio.Protocol):
    """Notes every call; neighbouring bytes are joined, since no stream promises their cuts."""

    def __init__(self, *, stay_after_eof: bool = False) -> None:
        self.calls: list[object] = []
        self.changed = asyncio.Event()
        self.transport: asyncio.Transport
        self._stay_after_eof = stay_after_eof

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # uvloop's derive from nothing
        self._note("made")

    def data_received(self, data: bytes) -> None:
        if isinstance(self.calls[-1], bytes):
            self.calls[-1] += data
            self.changed.set()
        else:
            self._note(data)

    def eof_received(self) -> bool:
        self._note("eof")
        return self._stay_after_eof

    def connection_lost(self, exc: Exception | None) -> None:
        self._note(type(exc))

    def _note(self, call: object) -> None:
        self.calls.append(call)
        self.changed.set()

    async def until(self, *calls: object) -> None:
        """Wait until the last calls were these."""
        while self.calls[-len(calls) :] != list(calls):
            self.changed.clear()
            await self.changed.wait()


LOST = type(None)
"""The note of a connection that ended in good order."""


async def connected(
    play: Callable[[Noting, Noting], Coroutine[Any, Any, None]], *, stay_after_eof: bool = False
) -> tuple[list[object], list[object]]:
    """Connect two ends, play, close both, and return what each went through."""
    loop = asyncio.get_running_loop()
    near = Noting(stay_after_eof=stay_after_eof)
    far = Noting(stay_after_eof=stay_after_eof)
    server = await loop.create_server(lambda: far, "127.0.0.1", 0)
    async with server:
        await loop.create_connection(lambda: near, *server.sockets[0].getsockname())
        while not far.calls:
            await asyncio.sleep(0.001)
        await play(near, far)
        near.transport.close()
        far.transport.close()
        while not (isinstance(near.calls[-1], type) and isinstance(far.calls[-1], type)):
            await asyncio.sleep(0.001)
    return near.calls, far.calls


def test_close_flushes_and_ends_the_stream(make_loop: MakeLoop) -> None:
    """Everything written before a close arrives, then the end of the stream."""
    data = bytes(range(256)) * 20

    async def play(near: Noting, far: Noting) -> None:
        near.transport.write(data)
        near.transport.writelines([b"and", b"more"])
        near.transport.close()
        assert near.transport.is_closing()
        assert near.calls == ["made"]
        await far.until("eof", LOST)

    near, far = run(make_loop, connected(play))

    assert near == ["made", LOST]
    assert far == ["made", data + b"andmore", "eof", LOST]


def test_writing_never_calls_the_peer_from_inside(make_loop: MakeLoop) -> None:
    """A protocol hears of bytes from the loop, never during the other's write."""

    async def play(near: Noting, far: Noting) -> None:
        near.transport.write(b"@")
        assert far.calls == ["made"]
        await far.until(b"@")

    _, far = run(make_loop, connected(play))

    assert far[:2] == ["made", b"@"]


def test_half_a_close_leaves_the_other_half_open(make_loop: MakeLoop) -> None:
    """After write_eof the peer may stay and answer; writing on our side is over."""

    async def play(near: Noting, far: Noting) -> None:
        assert near.transport.can_write_eof()
        near.transport.write(b"question")
        near.transport.write_eof()
        with pytest.raises(RuntimeError, match="write_eof"):
            near.transport.write(b"more")
        await far.until(b"question", "eof")
        far.transport.write(b"answer")
        await near.until(b"answer")
        far.transport.close()
        await near.until("eof")

    near, far = run(make_loop, connected(play, stay_after_eof=True))

    assert near == ["made", b"answer", "eof", LOST]
    assert far == ["made", b"question", "eof", LOST]


def test_writing_to_a_peer_that_has_left_resets(make_loop: MakeLoop) -> None:
    """Bytes for an end that is closed come back as a lost connection."""

    async def play(near: Noting, far: Noting) -> None:
        near.transport.close()
        await far.until("eof")
        while not isinstance(far.calls[-1], type):
            far.transport.write(b"anybody there?")
            await asyncio.sleep(0.01)

    near, far = run(make_loop, connected(play, stay_after_eof=True))

    assert near == ["made", LOST]
    assert far[:2] == ["made", "eof"]
    assert far[2] in (ConnectionResetError, BrokenPipeError)


def test_abort_loses_the_connection_once_on_both_sides(make_loop: MakeLoop) -> None:
    """Abort is no error on the side that asked for it, however often it asks."""

    async def play(near: Noting, far: Noting) -> None:
        near.transport.abort()
        near.transport.abort()
        near.transport.close()
        await near.until(LOST)
        while not isinstance(far.calls[-1], type):
            await asyncio.sleep(0.001)

    near, far = run(make_loop, connected(play))

    assert near == ["made", LOST]
    assert far in (["made", "eof", LOST], ["made", ConnectionResetError])


def test_paused_reading_holds_bytes_and_the_end_back(make_loop: MakeLoop) -> None:
    """While reading is paused nothing is told; resuming tells all of it in order."""

    async def play(near: Noting, far: Noting) -> None:
        far.transport.pause_reading()
        near.transport.write(b"one")
        near.transport.write(b"two")
        near.transport.close()
        await asyncio.sleep(0.05)
        assert far.calls == ["made"]
        assert not far.transport.is_reading()
        far.transport.resume_reading()
        assert far.transport.is_reading()
        await far.until("eof", LOST)

    _, far = run(make_loop, connected(play))

    assert far == ["made", b"onetwo", "eof", LOST]


def test_closing_on_unread_bytes_resets_the_peer(make_loop: MakeLoop) -> None:
    """Who closes before it has read all that arrived resets its peer, as kernels do."""

    async def play(near: Noting, far: Noting) -> None:
        far.transport.pause_reading()
        near.transport.write(b"unread")
        await asyncio.sleep(1.0 if isinstance(asyncio.get_running_loop(), SimulatedLoop) else 0.05)
        far.transport.close()
        while not isinstance(near.calls[-1], type):
            await asyncio.sleep(0.001)

    near, far = run(make_loop, connected(play))

    assert near == ["made", ConnectionResetError]
    assert far == ["made", LOST]


def test_a_slow_reader_pauses_the_writer_and_resumes_it(make_loop: MakeLoop) -> None:
    """A protocol is asked to pause above the high-water mark and to go on below the low one."""

    class Writer(Noting):
        def pause_writing(self) -> None:
            self._note("pause")

        def resume_writing(self) -> None:
            self._note("resume")

    chunk = bytes(16_384)

    async def main() -> tuple[list[object], int, int]:
        loop = asyncio.get_running_loop()
        writer, reader = Writer(), Noting()
        server = await loop.create_server(lambda: reader, "127.0.0.1", 0)
        written = 0
        async with server:
            await loop.create_connection(lambda: writer, *server.sockets[0].getsockname())
            while not reader.calls:
                await asyncio.sleep(0.001)
            reader.transport.pause_reading()
            writer.transport.set_write_buffer_limits(high=100_000, low=1_000)
            while "pause" not in writer.calls:
                writer.transport.write(chunk)
                written += len(chunk)
                await asyncio.sleep(0)
            assert writer.transport.get_write_buffer_size() > 100_000
            reader.transport.resume_reading()
            await writer.until("resume")
            assert writer.transport.get_write_buffer_size() <= 1_000
            writer.transport.close()
            await reader.until("eof", LOST)
        return writer.calls, written, len(reader.calls[1])  # type: ignore[arg-type]

    with asyncio.Runner(loop_factory=make_loop) as runner:
        calls, written, read = runner.run(main())

    assert calls == ["made", "pause", "resume", LOST]
    assert written == read


def test_small_writes_are_not_counted_as_buffered(make_loop: MakeLoop) -> None:
    """A kernel takes a record at once, so the transport's buffer stays empty."""

    async def play(near: Noting, far: Noting) -> None:
        near.transport.write(bytes(100))
        await asyncio.sleep(0)
        assert near.transport.get_write_buffer_size() == 0

    run(make_loop, connected(play))


def test_both_ends_know_the_same_addresses(make_loop: MakeLoop) -> None:
    """The peer's name at one end is the own name at the other."""

    async def play(near: Noting, far: Noting) -> None:
        info = near.transport.get_extra_info
        assert info("peername") == far.transport.get_extra_info("sockname")
        assert info("sockname") == far.transport.get_extra_info("peername")
        assert info("sockname")[0] == "127.0.0.1"
        assert info("no such thing", "default") == "default"

    run(make_loop, connected(play))


def test_protocols_may_be_exchanged(make_loop: MakeLoop) -> None:
    """After set_protocol the new protocol hears everything, the old one nothing."""

    async def play(near: Noting, far: Noting) -> None:
        other = Noting()
        other.connection_made(far.transport)
        far.transport.set_protocol(other)
        assert far.transport.get_protocol() is other
        near.transport.write(b"@")
        await other.until("made", b"@")
        far.transport.set_protocol(far)

    _, far = run(make_loop, connected(play))

    assert b"@" not in far


def test_nobody_listening_refuses_the_connection(make_loop: MakeLoop) -> None:
    """Connecting to a port whose server has closed raises ConnectionRefusedError."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Noting, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        assert server.is_serving()
        server.close()
        await server.wait_closed()
        assert not server.is_serving()
        assert tuple(server.sockets) == ()
        with pytest.raises(ConnectionRefusedError):
            await loop.create_connection(Noting, *address)

    run(make_loop, main())


def test_a_taken_port_is_refused(make_loop: MakeLoop) -> None:
    """Listening twice on one port raises OSError with EADDRINUSE, until the first has closed."""

    async def main() -> int | None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Noting, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        with pytest.raises(OSError, match="address already in use") as caught:
            await loop.create_server(Noting, host, port)
        server.close()
        await server.wait_closed()
        (await loop.create_server(Noting, host, port)).close()
        return caught.value.errno

    assert run(make_loop, main()) == errno.EADDRINUSE


def test_a_server_serves_until_it_is_cancelled(make_loop: MakeLoop) -> None:
    """serve_forever ends by cancellation only, and closes the server then."""

    async def main() -> bool:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Noting, "127.0.0.1", 0, start_serving=False)
        serving = asyncio.create_task(server.serve_forever())
        await asyncio.sleep(0.01)
        assert server.is_serving()
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
        return server.is_serving()

    assert run(make_loop, main()) is False


def test_streams_work_unchanged(make_loop: MakeLoop) -> None:
    """Asyncio's own streams echo lines over the loop."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(line.upper())
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def main() -> bytes:
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"a\nb\n")
            writer.write_eof()
            answer = await reader.read()
            writer.close()
            await writer.wait_closed()
        return answer

    assert run(make_loop, main()) == b"A\nB\n"


def test_functions_for_threads_return_or_raise(make_loop: MakeLoop) -> None:
    """run_in_executor and to_thread give results and exceptions on every loop."""

    async def main() -> int:
        loop = asyncio.get_running_loop()
        with pytest.raises(ValueError, match="invalid literal"):
            await loop.run_in_executor(None, int, "a")
        return await asyncio.to_thread(int, "16", base=16)

    assert run(make_loop, main()) == 22
