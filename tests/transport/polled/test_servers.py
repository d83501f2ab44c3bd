"""Listening, connecting, and what is known of a connection."""

import asyncio
import contextlib
import errno
import os
import resource
import socket
from collections.abc import Callable
from typing import Any

import pytest

from fota_transport import polled
from fota_transport.loops import raise_descriptor_limit
from fota_transport.polled import PolledTransport

from .scene import HOST, LOST, RESET, MakeLoop, Noting, Scene, full_server, run

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
