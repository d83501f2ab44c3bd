"""The server as a whole: opens everything, serves until it is told to stop, closes everything."""

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TextIO

from fota_transport.clock import Clock, SystemClock
from fota_transport.loops import raise_descriptor_limit

from .claims import Claims
from .config import LogFormat, Settings
from .errors import ConfigError
from .firmware import FirmwareStore
from .journal import Journal
from .listener import Limits, Listener
from .logs import CustomLogger, SessionLogs, close_log, open_server_log
from .registry import open_registry
from .service import ServedOnce, UpdateService
from .sockets import bind, close, port_of
from .tls import LOOK_INTERVAL, Certificates, certificates_of

REGISTRY_INTERVAL: Final = 1.0
"""Seconds between two looks at the registry while no device comes: a change is followed all the same."""

RESERVED_DESCRIPTORS: Final = 64
"""Descriptors kept for files, the registry, the journal and the loop."""


@dataclass(frozen=True, slots=True)
class Ready:
    """What a server says of itself when it accepts connections."""

    host: str
    port: int
    tls_port: int | None
    devices: int
    """Devices in the registry."""
    problems: int
    """Malformed entries of it, as far as they are known."""
    limits: Limits
    workers: tuple[int, ...] = ()
    """Their process numbers, where there are several."""


@dataclass(frozen=True, slots=True)
class Part:
    """What a worker of several has instead of the whole."""

    sockets: Sequence[socket.socket]
    tls_sockets: Sequence[socket.socket]
    logger: logging.Logger
    claims: Claims
    served: ServedOnce
    is_first: bool
    """Whether this one reports what is wrong with the registry and with the certificate's time."""


@contextlib.asynccontextmanager
async def running(
    settings: Settings, *, clock: Clock | None = None, console: TextIO | None = None, part: Part | None = None
) -> AsyncIterator[tuple[Listener, Ready, logging.Logger]]:
    """A server on the running loop: its listener, what it has to say, its log. Leaving stops it gracefully.

    A virtual `clock` comes with a simulated loop: the server then listens in the loop's own network. Raises an error of
    `fota_server.errors` when something cannot be opened; then nothing stays open, and where the address cannot be
    listened on, nothing was made.
    """
    wall = (clock or SystemClock()).wall
    loop = asyncio.get_running_loop()
    is_first = part is None or part.is_first
    with contextlib.ExitStack() as stack:
        if not settings.firmware.is_dir():
            raise ConfigError(f"firmware folder {settings.firmware}: no such folder")
        limits = limits_of(settings)
        certificates = certificates_of(settings)
        sockets, tls_sockets = ([], []) if clock is not None else _sockets(settings, part)
        stack.callback(close, [*sockets, *tls_sockets])
        registry = open_registry(settings.registry, mcuid_format=settings.mcuid_format)
        stack.callback(registry.close)
        if part is None:
            logger = open_log(settings, console)
            stack.callback(close_log, logger)
        else:
            logger = part.logger
        journal = Journal(settings.journal_path, logger)
        stack.callback(journal.close)
        session_logs = SessionLogs(settings.logs, logger)
        stack.callback(session_logs.close)
        service = UpdateService(
            registry,
            FirmwareStore(settings.firmware, allow_unterminated=settings.allow_unterminated),
            journal,
            session_logs,
            logger,
            handshake=settings.handshake,
            mcuid_format=settings.mcuid_format,
            wall=wall,
            claims=None if part is None else part.claims,
            served=None if part is None else part.served,
            reports_registry=is_first,
        )
        listener = Listener(
            loop,
            service,
            logger,
            mcuid_format=settings.mcuid_format,
            timings=settings.timings,
            limits=limits,
            wall=wall,
        )
        if clock is not None:
            host, port = await listener.start_simulated(settings.host, settings.port)
        else:
            host, port = settings.host or "0.0.0.0", port_of(sockets)
            await listener.start(sockets)
            stack.callback(loop.create_task(_look_at_registry(service)).cancel)
        tls_port = None
        if certificates is not None:
            tls_port = port_of(tls_sockets)
            listener.start_tls(tls_sockets, certificates.context)
            stack.callback(loop.create_task(_look_after(certificates, logger, warns=is_first)).cancel)
        ready = Ready(host, port, tls_port, len(registry), len(registry.problems), limits)
        if part is None:
            logger.info("%s", greeting(settings, ready))
        try:
            yield listener, ready, logger
        finally:
            await listener.stop(settings.stop_timeout)
            if part is None:
                logger.info("Stopped")


def limits_of(settings: Settings) -> Limits:
    """The limits of one process, an equal share of the whole; raises `ConfigError`."""
    room = max(1, raise_descriptor_limit() - RESERVED_DESCRIPTORS)
    share = room if settings.limit is None else -(-settings.limit // settings.workers)
    if share > room:
        raise ConfigError(
            f"limit {settings.limit}, expected at most {room * settings.workers}: "
            "this process may not open more connections"
        )
    rate = settings.sessions_per_second
    return Limits(share, None if rate is None else rate / settings.workers, settings.identification_size)


def open_log(settings: Settings, console: TextIO | None) -> logging.Logger:
    """The server log; raises `ConfigError`."""
    return open_server_log(settings.logs, as_json=settings.log_format is LogFormat.JSON, console=console)


def greeting(settings: Settings, ready: Ready) -> str:
    """What the log says first: addresses, registry, limits."""
    workers = max(1, len(ready.workers))
    malformed = f" ({ready.problems} malformed lines)" if ready.problems else ""
    tls = "" if ready.tls_port is None else f" and with TLS on port {ready.tls_port}"
    rate = ready.limits.sessions_per_second
    facts = [
        f"{ready.devices} devices in {settings.registry}{malformed}",
        f"firmware in {settings.firmware}",
        f"journal {settings.journal_path}",
        f"at most {ready.limits.connections * workers} connections"
        + ("" if rate is None else f" and {rate * workers:g} new ones a second"),
        f"deadlines {settings.identification_timeout:g} s to identify, {settings.ack_timeout:g} s to ack",
    ]
    facts += [f"{workers} workers"] if ready.workers else []
    host = f"[{ready.host}]" if ":" in ready.host else ready.host
    return f"Listening on {host}:{ready.port}{tls}: {', '.join(facts)}"


async def serve(settings: Settings, *, on_ready: Callable[[Ready], None], console: TextIO | None = None) -> None:
    """Serve until SIGTERM, SIGINT or SIGHUP; a second signal cuts the updates that still go on."""
    async with running(settings, console=console) as (listener, ready, logger):
        asyncio.get_running_loop().set_exception_handler(lambda _, context: report(logger, context))
        with on_signals(listener.cut_all) as stop:
            on_ready(ready)
            with printing_to(logger):
                await stop.wait()


@contextlib.contextmanager
def on_signals(again: Callable[[], None]) -> Iterator[asyncio.Event]:
    """An event that SIGTERM, SIGINT or SIGHUP sets; every further signal calls `again`, also after leaving."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()

    def on_signal() -> None:
        if stop.is_set():
            again()
        stop.set()

    numbers = [signal.SIGTERM, signal.SIGINT]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # nohup ignores it
        numbers.append(signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, on_signal)
    yield stop


@contextlib.contextmanager
def printing_to(logger: logging.Logger) -> Iterator[None]:
    """As the reference server does: what anything prints from here on belongs in the log."""
    out = contextlib.redirect_stdout(CustomLogger(logger, logging.INFO))
    err = contextlib.redirect_stderr(CustomLogger(logger, logging.ERROR))
    with out, err:
        yield


def readiness(ready: Ready) -> str:
    """The line that says that the server accepts connections."""
    line = {"event": "ready", "host": ready.host, "port": ready.port, "pid": os.getpid()}
    if ready.tls_port is not None:
        line["tls_port"] = ready.tls_port
    return json.dumps(line | ({"workers": list(ready.workers)} if ready.workers else {}))


def write_ready_file(path: Path, line: str) -> None:
    """Write `line` to `path` in one step, so that nobody reads half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(line + "\n", encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise ConfigError(f"ready file {path}: {error.strerror}") from error


def report(logger: logging.Logger, context: dict[str, object]) -> None:
    """Log what a loop's handler of exceptions is called with."""
    error = context.get("exception")
    logger.error("%s", context.get("message"), exc_info=error if isinstance(error, BaseException) else None)


def _sockets(settings: Settings, part: Part | None) -> tuple[Sequence[socket.socket], Sequence[socket.socket]]:
    if part is not None:
        return part.sockets, part.tls_sockets
    plain = bind(settings.host, settings.port)
    try:
        return plain, [] if settings.tls_port is None else bind(settings.host, settings.tls_port)
    except BaseException:
        close(plain)
        raise


async def _look_after(certificates: Certificates, logger: logging.Logger, *, warns: bool) -> None:
    while True:
        certificates.look(logger, warns=warns)
        await asyncio.sleep(LOOK_INTERVAL)


async def _look_at_registry(service: UpdateService) -> None:
    while True:
        await asyncio.sleep(REGISTRY_INTERVAL)
        service.report_registry()
