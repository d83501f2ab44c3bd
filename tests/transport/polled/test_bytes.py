"""Bytes arrive whole and in order, however slowly they are read."""

import asyncio
import os
import socket
from collections.abc import Callable
from typing import Any

import pytest

from fota_transport.face import READ_SIZE
from fota_transport.polled import FIRST_READ_SIZE

from .scene import LOST, RESET, MakeLoop, Noting, Scene, fill, run

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

    async def play(scene: Scene) -> tuple[int, int, int]:
        far = Noting()
        transport = await scene.pair(Noting(), far)
        transport.write(bytes(100_000))
        await far.until("made", bytes(100_000))
        return far.reads[0], max(far.reads), sum(far.reads)

    assert (FIRST_READ_SIZE, READ_SIZE, 100_000) == run(make_loop, play)


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

    assert [[], [FIRST_READ_SIZE], [FIRST_READ_SIZE, READ_SIZE]] == run(make_loop, play)


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
