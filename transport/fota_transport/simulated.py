"""An asyncio event loop in virtual time, over a simulated network.

Ordinary asyncio code runs on it unchanged: tasks, `sleep`, `wait_for`, `call_at`, streams,
`create_server` and `create_connection`.  It takes asyncio's own loop and replaces the two things
that touch the world, the clock and the selector: time stands still while anything is ready and
jumps to the next timer or arrival when nothing is.  The same seed gives the same order of events.

What may not be used on it: threads (`run_in_executor` runs the function at once, in the loop), real
sockets, subprocesses, signals.  Order is the program's own only where the program does not depend
on hash order, as iteration over a set of tasks does.
"""

import asyncio
import errno
import os
import random
from collections.abc import Callable
from concurrent.futures import Executor
from itertools import count
from typing import Final, TypeVar, TypeVarTuple

from .clock import VirtualClock
from .network import HORIZON, Arrival, Network
from .profiles import LOOPBACK, LinkProfile
from .simulated_transport import Address, SimulatedTransport

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")

HOST: Final = "127.0.0.1"
"""The address of both ends where a caller names no other."""

FIRST_PORT: Final = 49_152
"""The first port given out; the count has no upper end, so that no two peers share a port."""

TIMER_RESOLUTION: Final = 1e-9
"""Seconds by which a timer may run early (what asyncio uses on Linux); covers float rounding."""


class SimulatedSocket:
    """What stands in `SimulatedServer.sockets`: an address and nothing else."""

    __slots__ = ("_address",)

    def __init__(self, address: Address) -> None:
        self._address = address

    def getsockname(self) -> Address:
        return self._address


class SimulatedServer(asyncio.AbstractServer):
    """A listening virtual port; behaves as `asyncio.Server` of Python 3.12 and later does."""

    def __init__(
        self,
        loop: "SimulatedLoop",
        factory: Callable[[], asyncio.BaseProtocol],
        address: Address,
    ) -> None:
        self._loop = loop
        self._factory = factory
        self._address = address
        self._open = True
        self._serving = False
        self._transports: dict[SimulatedTransport, None] = {}  # a set that keeps order
        self._closed = loop.create_future()

    @property
    def sockets(self) -> tuple[SimulatedSocket, ...]:
        """One pseudo-socket while the server is open."""
        return (SimulatedSocket(self._address),) if self._open else ()

    def get_loop(self) -> "SimulatedLoop":
        return self._loop

    def is_serving(self) -> bool:
        return self._serving

    async def start_serving(self) -> None:
        self._serving = self._open

    async def serve_forever(self) -> None:
        await self.start_serving()
        try:
            await self._loop.create_future()
        finally:
            self.close()
            await self.wait_closed()

    def close(self) -> None:
        """Stop listening; connections live on."""
        if self._open:
            self._open = self._serving = False
            self._loop.stop_listening(self._address[1])
            self._wake_if_done()

    def close_clients(self) -> None:
        for transport in list(self._transports):
            transport.close()

    def abort_clients(self) -> None:
        for transport in list(self._transports):
            transport.abort()

    async def wait_closed(self) -> None:
        """Wait until the server is closed and its last connection is lost."""
        await asyncio.shield(self._closed)

    def accept(self, transport: SimulatedTransport) -> asyncio.BaseProtocol:
        """Attach a new connection; return the protocol it is for."""
        protocol = self._factory()
        self._transports[transport] = None
        return protocol

    def detach(self, transport: SimulatedTransport) -> None:
        """Forget a connection that was lost."""
        self._transports.pop(transport, None)
        self._wake_if_done()

    def _wake_if_done(self) -> None:
        if not self._open and not self._transports and not self._closed.done():
            self._closed.set_result(None)


class SimulatedLoop(asyncio.BaseEventLoop):
    """An event loop whose clock is virtual and whose network is `profile`, by `seed`.

    `clock` tells the same time as `time()`.  `horizon_s` ends a run that repeats for ever, such as
    a periodic timer with nothing else left; `SimulationStalled` is raised then and where nothing at
    all is left to wait for.
    """

    def __init__(self, seed: int, profile: LinkProfile = LOOPBACK, *, horizon_s: float = HORIZON) -> None:
        super().__init__()
        self.clock = VirtualClock()
        self.profile = profile
        self._random = random.Random(seed)
        self._network = Network(self.clock, self._who_waits, horizon_s=horizon_s)
        self._listening: dict[int, SimulatedServer] = {}
        self._ports = count(FIRST_PORT)
        # The next two are where BaseEventLoop looks for the outside world (3.11 to 3.13).
        self._selector = self._network
        self._clock_resolution = TIMER_RESOLUTION

    def time(self) -> float:
        return self.clock.monotonic()

    def close(self) -> None:
        super().close()
        self._network.clear()
        self._listening.clear()

    # --- what BaseEventLoop leaves to its subclasses

    def _process_events(self, event_list: list[Arrival]) -> None:
        for arrive, item in event_list:
            arrive(item)

    def _write_to_self(self) -> None:
        """Nothing sleeps, so nothing need be woken."""

    def run_in_executor(
        self,
        executor: Executor | None,
        func: Callable[[*_Ts], _T],
        *args: *_Ts,
    ) -> asyncio.Future[_T]:
        """Run `func` at once, in the loop's own thread: a thread would make order random."""
        future: asyncio.Future[_T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    # --- servers and connections

    async def create_server(  # type: ignore[override]  # no TLS, no real sockets, one address
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        host: str | None = None,
        port: int = 0,
        *,
        backlog: int = 100,
        reuse_address: bool | None = None,
        reuse_port: bool | None = None,
        start_serving: bool = True,
    ) -> SimulatedServer:
        """Listen on a virtual port, on a free one for 0; host and options change nothing else."""
        if port == 0:
            port = next(self._ports)
        elif port in self._listening:
            raise OSError(
                errno.EADDRINUSE,
                f"error while attempting to bind on address {(host or HOST, port)!r}: "
                f"{os.strerror(errno.EADDRINUSE).lower()}",
            )
        server = self._listening[port] = SimulatedServer(self, protocol_factory, (host or HOST, port))
        if start_serving:
            await server.start_serving()
        return server

    def stop_listening(self, port: int) -> None:
        """Free a virtual port; `SimulatedServer.close` calls this."""
        self._listening.pop(port, None)

    async def create_connection(  # type: ignore[override]  # no TLS, no real sockets
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        host: str | None = None,
        port: int | None = None,
        *,
        local_addr: Address | None = None,
    ) -> tuple[SimulatedTransport, asyncio.BaseProtocol]:
        """Connect to a virtual port, in one round trip; ConnectionRefusedError if nobody listens.

        The host names the peer's address and nothing more: there is one virtual host.
        """
        if port is None:
            raise ValueError("create_connection() on a simulated loop needs a port")
        own = (local_addr[0] if local_addr else HOST, next(self._ports))
        client = SimulatedTransport(
            self,
            self._network,
            self.profile,
            self._random,
            sockname=own,
            peername=(host or HOST, port),
        )
        connected: asyncio.Future[asyncio.BaseProtocol] = self.create_future()

        def answer(_: object) -> None:
            """The request has reached the virtual host."""
            server = self._listening.get(port)
            if server is None or not server.is_serving():
                self._network.post(self.time() + self.profile.latency_s, refuse, None)
                return
            transport = SimulatedTransport(
                self,
                self._network,
                self.profile,
                self._random,
                sockname=(host or HOST, port),
                peername=own,
                on_lost=server.detach,
            )
            transport.connect_to(client)
            client.connect_to(transport)
            self._network.post(transport.next_due(), established, None)
            try:
                protocol = server.accept(transport)
            except Exception as error:
                self.call_exception_handler(
                    {
                        "message": "Error on transport creation for incoming connection",
                        "exception": error,
                        "transport": transport,
                    }
                )
                transport.abort()
                return
            self._connect(transport, protocol)

        def refuse(_: object) -> None:
            if not connected.done():
                connected.set_exception(
                    ConnectionRefusedError(errno.ECONNREFUSED, f"Connect call failed {(host or HOST, port)!r}")
                )

        def established(_: object) -> None:
            """The answer is back."""
            if connected.done():  # the caller gave up
                client.abort()
                return
            try:
                protocol = protocol_factory()
            except Exception as error:
                client.abort()
                connected.set_exception(error)
                return
            self._connect(client, protocol)
            connected.set_result(protocol)

        self._network.post(client.next_due(), answer, None)
        return client, await connected

    def _connect(self, transport: SimulatedTransport, protocol: asyncio.BaseProtocol) -> None:
        transport.set_protocol(protocol)
        try:
            protocol.connection_made(transport)
        except Exception as error:
            self.call_exception_handler(
                {
                    "message": "Error in connection_made()",
                    "exception": error,
                    "transport": transport,
                    "protocol": protocol,
                }
            )

    def _who_waits(self) -> str:
        names = sorted(task.get_name() for task in asyncio.all_tasks(self))
        return ", ".join(names) if names else "no task"
