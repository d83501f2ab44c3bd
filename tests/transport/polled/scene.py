"""What the tests of our epoll play on: a poller within a loop, and a protocol that notes its calls."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

from fota_transport.loops import new_event_loop
from fota_transport.polled import PolledServer, PolledTransport, Poller

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
