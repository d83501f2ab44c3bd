"""No event reaches the wrong owner of a descriptor's number, and the poller's end leaves nothing."""

import asyncio
import os
import socket
from typing import Any

import pytest

from fota_transport import polled
from fota_transport.polled import Poller

from .scene import HOST, LOST, MakeLoop, Noting, Scene, fill, full_server, run

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
