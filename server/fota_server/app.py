"""The server as a whole: opens everything, serves until it is told to stop, closes everything."""

import asyncio
import contextlib
import json
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final, TextIO

from fota_transport.clock import Clock, SystemClock
from fota_transport.loops import raise_descriptor_limit

from .config import LogFormat, Settings
from .errors import ConfigError
from .firmware import FirmwareStore
from .journal import Journal
from .listener import Listener
from .logs import CustomLogger, SessionLogs, close_log, open_server_log
from .registry import open_registry
from .service import UpdateService

RESERVED_DESCRIPTORS: Final = 64
"""Descriptors kept for files, the registry, the journal and the loop."""


@contextlib.asynccontextmanager
async def running(
    settings: Settings, *, clock: Clock | None = None, console: TextIO | None = None
) -> AsyncIterator[tuple[Listener, tuple[str, int], logging.Logger]]:
    """A server on the running loop: its listener, its address and its log. Leaving stops it gracefully.

    Raises an error of `fota_server.errors` when something cannot be opened; then nothing stays open.
    """
    wall = (clock or SystemClock()).wall
    loop = asyncio.get_running_loop()
    with contextlib.ExitStack() as stack:
        if not settings.firmware.is_dir():
            raise ConfigError(f"firmware folder {settings.firmware}: no such folder")
        registry = open_registry(settings.registry, mcuid_format=settings.mcuid_format)
        stack.callback(registry.close)
        logger = open_server_log(settings.logs, as_json=settings.log_format is LogFormat.JSON, console=console)
        stack.callback(close_log, logger)
        journal = Journal(settings.journal_path, logger)
        stack.callback(journal.close)
        session_logs = SessionLogs(settings.logs, logger)
        stack.callback(session_logs.close)
        store = FirmwareStore(settings.firmware, allow_unterminated=settings.allow_unterminated)
        service = UpdateService(
            registry,
            store,
            journal,
            session_logs,
            logger,
            handshake=settings.handshake,
            mcuid_format=settings.mcuid_format,
            wall=wall,
        )
        room = max(1, raise_descriptor_limit() - RESERVED_DESCRIPTORS)
        limit = settings.limit or room
        if limit > room:
            raise ConfigError(f"limit {limit}, expected at most {room}: this process may not open more connections")
        listener = Listener(
            loop,
            service,
            logger,
            mcuid_format=settings.mcuid_format,
            timings=settings.timings,
            limit=limit,
            wall=wall,
        )
        address = await listener.start(settings.host, settings.port)
        logger.info(
            "Listening on %s:%d: %d devices in %s, firmware in %s, at most %d connections",
            *address,
            len(registry),
            registry.name,
            settings.firmware,
            limit,
        )
        try:
            yield listener, address, logger
        finally:
            await listener.stop(settings.stop_timeout)
            logger.info("Stopped")


async def serve(settings: Settings, *, on_ready: Callable[[str, int], None], console: TextIO | None = None) -> None:
    """Serve until SIGTERM or SIGINT; a second signal cuts the updates that still go on."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    async with running(settings, console=console) as (listener, address, logger):
        loop.set_exception_handler(lambda _, context: _report(logger, context))

        def on_signal() -> None:
            if stop.is_set():
                listener.cut_all()
            stop.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, on_signal)
        on_ready(*address)
        # As the reference server does: what anything prints from here on belongs in the log.
        out = contextlib.redirect_stdout(CustomLogger(logger, logging.INFO))
        err = contextlib.redirect_stderr(CustomLogger(logger, logging.ERROR))
        with out, err:
            await stop.wait()


def readiness(host: str, port: int) -> str:
    """The line that says that the server accepts connections."""
    return json.dumps({"event": "ready", "host": host, "port": port, "pid": os.getpid()})


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


def _report(logger: logging.Logger, context: dict[str, object]) -> None:
    error = context.get("exception")
    logger.error("%s", context.get("message"), exc_info=error if isinstance(error, BaseException) else None)
