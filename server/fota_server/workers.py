"""Several processes that serve one port: the supervisor that starts them, and starts those again that die.

Every worker listens on the port by itself (SO_REUSEPORT), and the kernel shares connections out. What they must agree
on goes through the supervisor: which process has which device (the newest session wins), the server log, stopping. The
journal and the session logs are files that several processes may write to. A device that comes to another worker is
asked for its handshake anew; all else is the same.
"""

import asyncio
import contextlib
import logging
import socket
import sys
from collections.abc import Callable
from typing import Any, Final, TextIO

from .app import Ready, greeting, limits_of, on_signals, open_log, printing_to, report
from .channel import (
    CUT,
    FAILED,
    IS_FIRST,
    LOG,
    OVERTAKEN,
    PORT,
    READY,
    SERVED,
    SETTINGS,
    STOP,
    TLS_PORT,
    Channel,
    Message,
    write_log,
)
from .claims import ClaimBook, SharedClaims
from .config import Settings, write_settings
from .errors import ConfigError, ServerError
from .listener import Limits
from .logs import close_log
from .sockets import claim_port, close, port_of, reserve

START_TIMEOUT: Final = 300.0
"""Seconds from the start of a worker's process to its readiness: several may read a large registry at once."""

STOP_RESERVE: Final = 20.0
"""Seconds that workers have to end beyond the time that live updates may go on; then they are killed.

Connections that close have 5 s, and a journal that another process holds is tried twice for 5 s.
"""

SERVED_REMEMBERED: Final = 10_000
"""Updates of `once` devices that a worker which is started again is told of; older ones are in the journal."""

FIRST_PAUSE: Final = 0.1
"""Seconds before a worker that died is started again; doubled with every death soon after a start."""

LONGEST_PAUSE: Final = 30.0
"""Most seconds of that pause."""

HEALTHY: Final = 10.0
"""Seconds after which a start counts as well, and the pause is short again."""


async def serve_with_workers(
    settings: Settings, *, on_ready: Callable[[Ready], None], console: TextIO | None = None
) -> None:
    """Serve with `settings.workers` processes until SIGTERM, SIGINT or SIGHUP; a second signal cuts what goes on.

    Raises an error of `fota_server.errors` when they cannot start.
    """
    if not hasattr(socket, "SO_REUSEPORT"):
        raise ConfigError(f"workers {settings.workers}, expected 1: this system cannot share a port")
    with contextlib.ExitStack() as stack:
        limits_of(settings)  # what it raises is for the whole
        kept = reserve(settings.host, settings.port)
        stack.callback(close, kept)
        stack.callback(close, [claim_port(bound) for bound in kept])
        kept_for_tls = [] if settings.tls_port is None else reserve(settings.host, settings.tls_port)
        stack.callback(close, kept_for_tls)
        stack.callback(close, [claim_port(bound) for bound in kept_for_tls])
        logger = open_log(settings, console)
        stack.callback(close_log, logger)
        asyncio.get_running_loop().set_exception_handler(lambda _, context: report(logger, context))
        supervisor = Supervisor(
            settings, port_of(kept), port_of(kept_for_tls) if settings.tls_port is not None else None, logger
        )
        with on_signals(supervisor.cut) as stop:
            try:
                ready = await supervisor.start(stop)
                if ready is not None:
                    logger.info("%s", greeting(settings, ready))
                    on_ready(ready)
                    with printing_to(logger):
                        await stop.wait()
            finally:
                await supervisor.stop()
                logger.info("Stopped")


class Supervisor:
    """Keeps the workers running."""

    def __init__(self, settings: Settings, port: int, tls_port: int | None, logger: logging.Logger) -> None:
        self._settings = settings
        self._port = port
        self._tls_port = tls_port
        self._logger = logger
        self._book: ClaimBook[_Child] = ClaimBook()
        self._children: dict[int, _Child] = {}
        self._served: dict[tuple[str, ...], None] = {}
        """What `once` devices were served, which the journal may not have yet."""
        self._keepers: list[asyncio.Task[None]] = []
        self._stopping = False

    async def start(self, stop: asyncio.Event) -> Ready | None:
        """Start all workers, the first one alone: it makes the journal. Raises what keeps it from serving.

        Returns None when `stop` is set meanwhile.
        """
        first = await self._start(0)
        numbers = range(1, self._settings.workers)
        others = [asyncio.ensure_future(self._start(number)) for number in numbers if not stop.is_set()]
        try:
            await asyncio.gather(*others)
        finally:
            for other in others:
                other.cancel()
        if stop.is_set():
            return None
        loop = asyncio.get_running_loop()
        self._keepers = [loop.create_task(self._keep(number)) for number in self._children]
        limits = Limits(**first.ready["limits"])
        pids = tuple(self._children[number].pid for number in sorted(self._children))
        return Ready(**{**first.ready, "limits": limits, "workers": pids})

    async def stop(self) -> None:
        """Let live updates finish, then end every worker."""
        self._stopping = True
        for keeper in self._keepers:
            keeper.cancel()
        children = tuple(self._children.values())
        for child in children:
            child.channel.send({STOP: True})
        ends = [asyncio.ensure_future(child.process.wait()) for child in children]
        if ends:
            _, late = await asyncio.wait(ends, timeout=self._settings.stop_timeout + STOP_RESERVE)
            if late:
                self._logger.error("%d workers do not end and are killed", len(late))
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                child.process.kill()
        await asyncio.gather(*ends)
        await asyncio.gather(*(child.gone.wait() for child in children))  # their last log lines

    def cut(self) -> None:
        """Cut every session at once."""
        for child in self._children.values():
            child.channel.send({CUT: True})

    async def _start(self, number: int) -> "_Child":
        """Start a worker and wait until it serves; raises `ServerError`."""
        child = _Child(self._on_message)
        try:
            await child.start()
            self._children[number] = child
            child.channel.send(
                {
                    SETTINGS: write_settings(self._settings),
                    PORT: self._port,
                    TLS_PORT: self._tls_port,
                    IS_FIRST: number == 0,
                    SERVED: list(self._served),
                }
            )
            async with asyncio.timeout(START_TIMEOUT):
                await child.settled.wait()
        except (OSError, TimeoutError) as error:
            reason = f"not ready within {START_TIMEOUT:g} s" if isinstance(error, TimeoutError) else error.strerror
            raise ServerError(f"worker {number + 1}: cannot be started: {reason}") from error
        if child.failure is not None:
            raise ServerError(child.failure)
        return child

    async def _keep(self, number: int) -> None:
        """Wait for a worker's end and start it again, as often as it takes."""
        pause = FIRST_PAUSE
        loop = asyncio.get_running_loop()
        while True:
            child, began = self._children[number], loop.time()
            code = await child.process.wait()
            await child.gone.wait()
            self._book.forget(child)
            if loop.time() - began >= HEALTHY:
                pause = FIRST_PAUSE
            self._logger.error(
                "worker %d (pid %d) ended with exit code %d; started again in %g s", number + 1, child.pid, code, pause
            )
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
            try:
                child = await self._start(number)
            except ServerError as error:
                self._logger.error("worker %d: %s", number + 1, error)
                with contextlib.suppress(ProcessLookupError):
                    self._children[number].process.kill()
            else:
                self._logger.info("worker %d (pid %d) serves", number + 1, child.pid)

    def _on_message(self, child: "_Child", message: Message) -> None:
        if SharedClaims.CLAIM in message:
            overtaken = self._book.claim(child, *message[SharedClaims.CLAIM])
            if overtaken is not None:
                other, number = overtaken
                other.channel.send({OVERTAKEN: [message[SharedClaims.CLAIM][0], number]})
        elif SharedClaims.RELEASE in message:
            mcuid, number, _ = message[SharedClaims.RELEASE]
            self._book.release(child, mcuid, number)
        elif SERVED in message:
            self._spread_served(child, message[SERVED])
        elif LOG in message:
            write_log(self._logger, message[LOG])

    def _spread_served(self, child: "_Child", served: list[list[str]]) -> None:
        """Tell the others what one has served."""
        for update in served:
            self._served[tuple(update)] = None
        while len(self._served) > SERVED_REMEMBERED:  # the oldest are in the journal by now
            del self._served[next(iter(self._served))]
        for other in self._children.values():
            if other is not child:
                other.channel.send({SERVED: served})


class _Child:
    """A worker's process, seen from the supervisor."""

    def __init__(self, on_message: "Callable[[_Child, Message], None]") -> None:
        self._on_message = on_message
        self.settled = asyncio.Event()
        """It serves, or said why not, or is gone."""
        self.gone = asyncio.Event()
        self.ready: dict[str, Any] = {}
        self.failure: str | None = None
        self.channel = Channel(self._take, self._lost)
        self.process: asyncio.subprocess.Process

    @property
    def pid(self) -> int:
        """Its process number."""
        return self.process.pid

    async def start(self) -> None:
        """Start the process, apart from the terminal: its signals are the supervisor's to pass on. Raises `OSError`."""
        ours, theirs = socket.socketpair()
        with theirs:
            await asyncio.get_running_loop().create_unix_connection(lambda: self.channel, sock=ours)
            try:
                self.process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-P",  # whatever lies in the working directory is not ours to run
                    "-m",
                    f"{__package__}.worker",
                    str(theirs.fileno()),
                    pass_fds=(theirs.fileno(),),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.DEVNULL,
                    start_new_session=True,
                )
            except BaseException:
                self.channel.close()
                raise

    def _take(self, message: Message) -> None:
        if READY in message:
            self.ready = message[READY]
            self.settled.set()
        elif FAILED in message:
            self.failure = message[FAILED]
            self.settled.set()
        else:
            self._on_message(self, message)

    def _lost(self) -> None:
        if not self.settled.is_set():
            self.failure = "a worker ended before it served"
            self.settled.set()
        self.gone.set()
