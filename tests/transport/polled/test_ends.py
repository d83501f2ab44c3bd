"""A connection ends in asyncio's manner, whatever its protocol does."""

import asyncio
import os
import socket

import pytest

from fota_transport.polled import FIRST_READ_SIZE, Poller

from .scene import HOST, LONG, LOST, RESET, MakeLoop, Noting, Scene, fill, run

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
        near.write(bytes(FIRST_READ_SIZE) + b"rest")
        await second.until("made", b"rest")
        is_second = first.transport.get_protocol() is second
        near.close()
        await second.until_lost()
        return first.heard, second.heard, is_second

    first, later, is_second = run(make_loop, play)

    assert ["made", bytes(FIRST_READ_SIZE)] == first
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
