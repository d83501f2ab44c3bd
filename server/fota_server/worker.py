"""One of several processes that serve a port together; `workers` starts it: `python -m fota_server.worker DESCRIPTOR`.

It has its own loop, registry, images and journal connection, and its own listening sockets on the shared port. It ends
when its supervisor says so, or is gone.
"""

import asyncio
import dataclasses
import logging
import signal
import socket
import sys
from pathlib import Path
from typing import Final

from fota_transport.loops import run

from .app import Part, report, running
from .channel import (
    CUT,
    FAILED,
    IS_FIRST,
    OVERTAKEN,
    PORT,
    READY,
    SERVED,
    SETTINGS,
    STOP,
    TLS_PORT,
    Channel,
    ChannelLogHandler,
    Message,
)
from .claims import SharedClaims
from .config import Settings, read_settings
from .errors import ServerError
from .listener import Listener
from .service import ServedOnce
from .sockets import bind

LAST_WORDS_TIMEOUT: Final = 5.0
"""Seconds for the supervisor to take the last log lines."""


class Worker:
    """Serves as its supervisor says."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._told = asyncio.Event()
        self._stop = asyncio.Event()
        self._gone = asyncio.Event()
        self._order: Message = {}
        self._listener: Listener | None = None
        self.channel = Channel(self._on_message, self._on_closed)
        self._claims = SharedClaims(lambda what, *claim: self.channel.send({what: claim}))
        self._served = ServedOnce(lambda update: self.channel.send({SERVED: [update]}))

    async def serve(self) -> None:
        """Serve from the supervisor's order until it says stop; a server that cannot start tells why."""
        await self._told.wait()
        if self._stop.is_set():
            return
        settings = read_settings(self._order[SETTINGS], Path())
        logger = logging.Logger("worker", logging.INFO)
        logger.addHandler(ChannelLogHandler(self._loop, self.channel))
        self._loop.set_exception_handler(lambda _, context: report(logger, context))
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stop.set)
        try:
            async with running(settings, part=self._part(settings, logger)) as (self._listener, ready, _):
                self.channel.send({READY: dataclasses.asdict(ready)})
                await self._stop.wait()
        except ServerError as error:
            self.channel.send({FAILED: str(error)})
        await asyncio.sleep(0)  # log lines of the journal's thread take the way over the loop
        self.channel.close()
        await asyncio.wait_for(self._gone.wait(), LAST_WORDS_TIMEOUT)

    def _part(self, settings: Settings, logger: logging.Logger) -> Part:
        port, tls_port = self._order[PORT], self._order[TLS_PORT]
        return Part(
            bind(settings.host, port, shared=True),
            [] if tls_port is None else bind(settings.host, tls_port, shared=True),
            logger,
            self._claims,
            self._served,
            is_first=self._order[IS_FIRST],
        )

    def _on_message(self, message: Message) -> None:
        if SETTINGS in message:
            self._order = message
            self._served.heard(message[SERVED])
            self._told.set()
        elif OVERTAKEN in message:
            self._claims.overtaken(*message[OVERTAKEN])
        elif SERVED in message:
            self._served.heard(message[SERVED])
        elif STOP in message:
            self._stop.set()
        elif CUT in message and self._listener is not None:
            self._listener.cut_all()

    def _on_closed(self) -> None:
        """The supervisor is gone: nobody would stop this process otherwise."""
        self._gone.set()
        self._told.set()
        self._stop.set()


async def _main(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    worker = Worker(loop)
    await loop.create_unix_connection(lambda: worker.channel, sock=socket.socket(fileno=descriptor))
    await worker.serve()


if __name__ == "__main__":
    run(_main(int(sys.argv[1])))
