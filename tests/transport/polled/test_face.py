"""The session's face, served in place by the poller."""

import asyncio
import socket
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import pytest

from fota_transport.face import LINGER_LIMIT, SessionProtocol
from fota_transport.sweeper import Sweeper

from .scene import HOST, LONG, LOST, RESET, MakeLoop, Noting, Scene, run


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
