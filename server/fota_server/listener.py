"""The listener: accepts connections, carries each one's session, and stops gracefully."""

import asyncio
import functools
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from fota_protocol.identity import MAX_IDENTIFICATION_SIZE, McuidFormat
from fota_protocol.image import FirmwareImage
from fota_protocol.server import Closed, Identified, ServerSession, ServerState, ServerTimings
from fota_protocol.status import Status
from fota_transport.face import SessionProtocol
from fota_transport.polled import PolledServer, Poller, available
from fota_transport.sweeper import Sweeper

from .errors import TemporaryError, UnservableError
from .firmware import Key
from .rate import RateLimit
from .registry import RegistryEntry
from .service import SessionNote, UpdateService
from .sockets import BACKLOG
from .tls import TlsDoor

SWEEP_INTERVAL: Final = 0.25
"""Seconds by which a deadline may be overrun, unless there are more than a sweep looks at (`LOOKS_PER_SECOND`)."""

HANDSHAKE_TIMEOUT: Final = 10.0
"""Seconds that a TLS handshake may take."""

REASONS: Final = 100
"""Most different reasons that are counted one by one."""

LINGER: Final = 2.0
"""Seconds that a refused connection has to read why before it is reset."""

_ANSWERED: Final = frozenset(Status) - {
    Status.SUCCESSFUL,
    Status.TIMEOUT_CONNECTION,
    Status.SUPERSEDED,
    Status.CONNECTION_LOST,
    Status.UNCONFIRMED,
    Status.LIMIT_REACHED,
    Status.SERVER_STOPPED,
}
"""Ends that the device is told of by a last frame, or that find it in the middle of sending."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a listener takes."""

    connections: int
    """Most at once."""
    sessions_per_second: float | None = None
    """Most new ones a second; after a pause, a second's worth may come at once. None: any number."""
    identification_size: int = MAX_IDENTIFICATION_SIZE
    """Longest identification in bytes."""


class Listener:
    """Serves `service` on a loop. Times are on the loop's clock, `wall` gives seconds since the epoch."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        service: UpdateService,
        logger: logging.Logger,
        *,
        mcuid_format: McuidFormat,
        timings: ServerTimings,
        limits: Limits,
        wall: Callable[[], float],
    ) -> None:
        self.loop = loop
        self.service = service
        self.wall = wall
        self._logger = logger
        self._mcuid_format = mcuid_format
        self._timings = timings
        self._limits = limits
        self._rate = RateLimit(limits.sessions_per_second, loop.time())
        shortest = min(timings.identification, timings.ack, timings.end_ack, timings.grace)
        self._sweeper = Sweeper(loop, min(SWEEP_INTERVAL, shortest / 4))
        self._connections: dict[Connection, None] = {}
        self._waiting: dict[Key, list[Callable[[FirmwareImage | UnservableError], None]]] = {}
        self._poller: Poller | None = None
        self._servers: list[asyncio.Server | PolledServer] = []
        self._doors: list[TlsDoor] = []
        self._stopping = False
        self._refused: Counter[str] = Counter()
        self._idle = asyncio.Event()

    async def start(self, sockets: Iterable[socket.socket]) -> None:
        """Accept connections on these sockets, which are the listener's from now on."""
        if available():
            self._poller = Poller(self.loop)
        for listening in sockets:
            if self._poller is not None:
                self._servers.append(self._poller.listen(listening, self._connection, backlog=BACKLOG))
            else:
                self._servers.append(await self.loop.create_server(self._connection, sock=listening, backlog=BACKLOG))

    async def start_simulated(self, host: str, port: int) -> tuple[str, int]:
        """Accept connections in a loop's own network, which has no sockets; returns the address."""
        server = await self.loop.create_server(self._connection, host or None, port)
        self._servers.append(server)
        address: tuple[str, int] = server.sockets[0].getsockname()
        return address

    def start_tls(self, sockets: Iterable[socket.socket], context: ssl.SSLContext) -> None:
        """Accept connections that begin with a TLS handshake on these sockets, the listener's from now on."""
        for listening in sockets:
            self._doors.append(
                TlsDoor(
                    self.loop,
                    listening,
                    context,
                    timeout_s=min(HANDSHAKE_TIMEOUT, self._timings.identification),
                    factory=self._connection,
                    turns_away=self._turns_away,
                    failed=self._handshake_failed,
                )
            )

    async def stop(self, timeout_s: float) -> None:
        """Take no more sessions, let live updates finish for `timeout_s` seconds, then cut them."""
        self._stopping = True
        for server in self._servers:
            server.close()
        for door in self._doors:
            door.close()
        for connection in tuple(self._connections):
            if connection.session.state in (ServerState.IDENTIFYING, ServerState.DECIDING):
                connection.cut()
        if self._connections:
            self._logger.info("Stopping: %d updates may go on for %g s", self._live(), timeout_s)
            self._idle.clear()
            try:
                await asyncio.wait_for(self._idle.wait(), timeout_s)
            except TimeoutError:
                self._logger.warning("Stopping: %d updates are cut", self._live())
        self.cut_all()
        while self._connections:
            await asyncio.sleep(0.01)
        self._sweeper.stop()
        if self._poller is not None:
            self._poller.close()

    @property
    def handshakes(self) -> int:
        """Connections in the middle of a TLS handshake."""
        return sum(door.waiting for door in self._doors)

    def cut_all(self) -> None:
        """Cut every session at once."""
        for connection in tuple(self._connections):
            connection.cut()
        self._idle.set()

    def opened(self, connection: "Connection", now: float) -> ServerSession:
        """A connection was made: its session, which is over already when there is no room."""
        session = ServerSession(
            now,
            mcuid_format=self._mcuid_format,
            timings=self._timings,
            max_identification=self._limits.identification_size,
        )
        if self._stopping:
            session.abandon(Status.SERVER_STOPPED, "the server is stopping", now)
        elif any(door.arrived(connection) for door in self._doors):
            pass  # it was let in before its handshake
        elif (why := self._no_room(now)) is not None:
            session.abandon(Status.LIMIT_REACHED, why, now)
        self._connections[connection] = None
        return session

    def closed(self, connection: "Connection") -> None:
        """A connection is gone."""
        self._connections.pop(connection, None)
        if not self._connections:
            self._idle.set()

    def load(self, key: Key, then: Callable[[FirmwareImage | UnservableError], None]) -> None:
        """Load an image beside the loop, once for all who wait for it, and call each one's `then` with what came."""
        waiting = self._waiting.setdefault(key, [])
        waiting.append(then)
        if len(waiting) == 1:
            reading = self.loop.run_in_executor(None, self.service.store.read, key)
            reading.add_done_callback(functools.partial(self._loaded, key))

    def _connection(self) -> "Connection":
        return Connection(self, self._sweeper)

    def _is_full(self) -> bool:
        return len(self._connections) + self.handshakes >= self._limits.connections

    def _no_room(self, now: float) -> str | None:
        """Why one more may not come now; None when it may, and then it counts."""
        if self._is_full():
            why = f"{self._limits.connections} connections are open"
        elif not self._rate.allows(now):
            why = f"more than {self._limits.sessions_per_second:g} sessions a second"
        else:
            return None
        self._count(f"Limit reached: {why}", "turned away")
        return why

    def _turns_away(self) -> bool:
        return self._stopping or self._no_room(self.loop.time()) is not None

    def _handshake_failed(self, why: str) -> None:
        self._count(f"TLS handshake failed: {why}", "so far")

    def _count(self, what: str, how: str) -> None:
        """Log what a peer can cause, the 1st, 2nd, 4th, 8th … time: a flood does not flood the log."""
        if len(self._refused) >= REASONS:
            what = what.partition(":")[0]
        self._refused[what] += 1
        if self._refused[what].bit_count() == 1:
            self._logger.warning("%s; %d %s", what, self._refused[what], how)

    def _live(self) -> int:
        """Sessions that go on; further connections only wait for their peers to close."""
        return sum(connection.session.deadline is not None for connection in self._connections)

    def _loaded(self, key: Key, reading: asyncio.Future[FirmwareImage | UnservableError]) -> None:
        try:
            found = reading.result()
        except Exception as error:  # whatever a file can do to a parser is that file's fault
            self._logger.error("firmware %s", key.filename, exc_info=error)
            found = UnservableError("firmware: cannot be read", status=Status.UNABLE_BUFFERING_CODE)
        self.service.store.remember(key, found)
        for then in self._waiting.pop(key):
            then(found)


class Connection(SessionProtocol[ServerSession]):
    """One device's connection."""

    __slots__ = ("_listener", "_note")

    def __init__(self, listener: Listener, sweeper: Sweeper) -> None:
        super().__init__(listener.loop, sweeper)
        self._listener = listener

    def open_session(self, now: float) -> ServerSession:
        """The session of this connection."""
        peer = self.transport.get_extra_info("peername") or ("?", 0)
        self._note = SessionNote(peer=f"{peer[0]}:{peer[1]}", started_at=self._listener.wall())
        return self._listener.opened(self, now)

    def on_event(self, event: object) -> bytes:
        """Decide on a device, or take note of the end."""
        match event:
            case Identified(identification):
                try:
                    entry, key = self._listener.service.identified(self._note, identification)
                    image = self._listener.service.cached(key)
                except UnservableError as error:
                    return self._refuse(error)
                self._listener.service.claim(entry, self)
                if image is not None:
                    return self._offer(entry, image)
                self._listener.load(key, functools.partial(self._loaded, entry))
            case Closed():
                self._listener.service.ended(self._note, self.session, self)
        return b""

    def linger_s(self) -> float:
        """A refusal must arrive, also when the device has sent more than was read, or still sends a line end."""
        assert self.session.outcome is not None
        return LINGER if self.session.outcome.status in _ANSWERED else 0.0

    def on_closed(self, error: Exception | None) -> None:
        """The connection is gone."""
        self._listener.closed(self)

    def supersede(self) -> None:
        """Close at once: a newer session of the same device is there."""
        self.session.abandon(Status.SUPERSEDED, "a newer session of the device took over", self._now())
        self.proceed(b"")

    def cut(self) -> None:
        """Close at once: the server stops."""
        self.session.abandon(Status.SERVER_STOPPED, "the server stopped", self._now())
        self.proceed(b"")
        if self.transport.get_extra_info("sslcontext") is not None:
            self.abort()  # or a peer that does not answer the end of TLS would be waited for

    def _offer(self, entry: RegistryEntry, image: FirmwareImage) -> bytes:
        offer = self._listener.service.offer(self._note, entry, image, self)
        return self.session.allow(
            image.frames, entry.version, self._now(), handshake=offer.handshake, acks_verdict=offer.acks_verdict
        )

    def _refuse(self, error: UnservableError) -> bytes:
        """`@0#` is for what lasts; where the device may try again, it gets a close and no frame."""
        if isinstance(error, TemporaryError):
            self.session.abandon(error.status, str(error), self._now())
            return b""
        return self.session.deny(error.status, str(error), self._now())

    def _loaded(self, entry: RegistryEntry, found: FirmwareImage | UnservableError) -> None:
        if self.session.state is ServerState.DECIDING:  # and not gone in the meantime
            self.proceed(self._refuse(found) if isinstance(found, UnservableError) else self._offer(entry, found))
