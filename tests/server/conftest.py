"""What the tests of the server share: a site to serve from, a server in a thread, and a device that speaks raw bytes.

The device knows nothing of `fota_protocol`: what should come is read from the firmware files by their text.
"""

import asyncio
import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

import fota_fixtures
from fota_server.app import Ready, running
from fota_server.config import Settings
from fota_server.journal import JournalRow, read_journal
from fota_server.listener import Listener
from fota_transport.loops import run

MCUID: Final = "0001100023593110965955141"
OTHER_MCUID: Final = "0011000235931109659550002"
PATIENCE: Final = 10.0
"""Seconds after which something that should happen counts as not happening."""


def identification(mcuid: str) -> bytes:
    return b"@%s#" % mcuid.encode()


def records_of(name: str) -> tuple[bytes, ...]:
    """The data records of a fixture as they should be sent, read by nothing but the first two characters."""
    lines = fota_fixtures.read(name).split()
    return tuple(line.upper() for line in lines if line[:2] in (b"S1", b"S2", b"S3"))


@dataclass(frozen=True, slots=True)
class Update:
    """Everything that a device received in one session."""

    verdict: bytes
    records: tuple[bytes, ...] = ()
    end: bytes = b""
    rest: bytes = b""
    """What came behind the ack of the end frame."""


class Peer:
    """A device's end of a connection, in raw bytes."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address, PATIENCE)

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def take(self, size: int) -> bytes:
        """The next `size` bytes, fewer where the stream ends."""
        data = b""
        while len(data) < size and (more := self.socket.recv(size - len(data))):
            data += more
        return data

    def rest(self) -> bytes:
        """All bytes up to the end of the stream."""
        data = b""
        while more := self.socket.recv(65_536):
            data += more
        return data

    def frame(self) -> bytes:
        """A record by its count, or an end frame."""
        data = self.take(4)
        if data[:1] == b"S":
            return data + self.take(2 * int(data[2:4], 16))
        while data and not data.endswith(b"##") and (more := self.take(1)):
            data += more
        return data

    def identify(self, mcuid: str = MCUID, *, acks_verdict: bool = True) -> bytes:
        """Say who it is and take the answer, acking it on request."""
        self.send(identification(mcuid))
        verdict = self.take(3)
        if verdict == b"@4#" and acks_verdict:
            self.send(b"@")
        return verdict

    def finish(self, *, ack: bytes = b"@") -> tuple[tuple[bytes, ...], bytes, bytes]:
        """Take and ack records until the end: records, end frame, what came behind it."""
        records = []
        while (frame := self.frame()).startswith(b"S"):
            records.append(frame)
            self.send(ack)
        if frame:
            self.send(ack)
        return tuple(records), frame, self.rest()

    def update(self, mcuid: str = MCUID, *, acks_verdict: bool = True) -> Update:
        """One whole session."""
        verdict = self.identify(mcuid, acks_verdict=acks_verdict)
        if verdict != b"@4#":
            return Update(verdict, rest=self.rest())
        return Update(verdict, *self.finish())

    def reset(self) -> None:
        """Close so that the other end sees a reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.socket.close()


def blink(number: int = 1) -> Update:
    """What a device receives that is to have `blink_<number>.s19`, version 1<number>."""
    return Update(b"@4#", records_of(f"blink_{number}.s19"), b"@1%d##" % number)


class RunningServer:
    """The server on a loop of its own in a thread; leaving the block stops it as SIGTERM would."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.address = ("", 0)
        self.listener: Listener
        self.ready: Ready
        self.failures: list[dict[str, Any]] = []
        """What reached the loop's handler of exceptions."""
        self._ready: Future[tuple[str, int]] = Future()
        self._thread = threading.Thread(target=lambda: run(self._serve()), name="server under test")
        self._loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event

    def __enter__(self) -> "RunningServer":
        self._thread.start()
        try:
            self.address = self._ready.result(PATIENCE)
        except BaseException:
            self._thread.join()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.ask_to_stop()
        self._thread.join()
        assert not self.failures

    def ask_to_stop(self) -> None:
        """Begin to stop; leaving the block waits for the end."""
        with contextlib.suppress(RuntimeError):  # its loop is closed already
            self._loop.call_soon_threadsafe(self._stop.set)

    def call(self, what: Callable[[], object]) -> None:
        """Call `what` on the server's loop."""
        self._loop.call_soon_threadsafe(what)

    def connect(self) -> Peer:
        return Peer(self.address)

    def update(self, mcuid: str = MCUID, *, acks_verdict: bool = True) -> Update:
        """One whole session over a connection of its own."""
        with self.connect() as peer:
            return peer.update(mcuid, acks_verdict=acks_verdict)

    def rows(self, count: int) -> list[JournalRow]:
        """The journal as soon as it has `count` rows."""
        limit = time.monotonic() + PATIENCE
        while len(rows := read_journal(self.settings.journal_path)) < count:
            assert time.monotonic() < limit, f"{len(rows)} rows, expected {count}"
            time.sleep(0.01)
        return rows

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(lambda _, context: self.failures.append(context))
        self._stop = asyncio.Event()
        try:
            async with running(self.settings) as (self.listener, self.ready, _):
                self._ready.set_result((self.ready.host, self.ready.port))
                await self._stop.wait()
        except BaseException as error:
            if self._ready.done():
                raise
            self._ready.set_exception(error)


class Site:
    """A folder with a registry, a firmware folder and a place for logs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.registry = folder / "devices2update.txt"
        self.firmware = folder / "bin"
        self.logs = folder / "logs"
        self.firmware.mkdir()
        self.registry.touch()

    def put(self, *names: str) -> None:
        """Copy fixtures into the firmware folder."""
        for name in names:
            (self.firmware / name).write_bytes(fota_fixtures.read(name))

    def register(self, *lines: str) -> None:
        """Make these lines the registry."""
        temporary = self.folder / "new"
        temporary.write_text("".join(line + "\n" for line in lines))
        os.utime(temporary, (0, 0))  # files' clocks tick slowly: it is renamed some time after it was written
        temporary.replace(self.registry)

    def settings(self, **changes: Any) -> Settings:
        """Settings on a free port of loopback, with times for tests."""
        values: dict[str, Any] = {
            "host": "127.0.0.1",
            "port": 0,
            "registry": self.registry,
            "firmware": self.firmware,
            "logs": self.logs,
            "identification_timeout": PATIENCE,
            "ack_timeout": PATIENCE,
            "end_ack_timeout": PATIENCE,
            "grace": 0.2,
            "stop_timeout": PATIENCE,
        }
        return Settings(**(values | changes))

    def serve(self, **changes: Any) -> RunningServer:
        return RunningServer(self.settings(**changes))

    def log(self) -> str:
        """The server's log."""
        return (self.logs / "otaserver.log").read_text()


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Two devices: `MCUID` is to have blink_1.s19, `OTHER_MCUID` blink_2.s19."""
    site = Site(tmp_path)
    site.put("blink_1.s19", "blink_2.s19")
    site.register(f"{MCUID},blink_1.s19,11", f"{OTHER_MCUID},blink_2.s19,12")
    return site


@pytest.fixture
def server(site: Site) -> Iterator[RunningServer]:
    """A server of the site."""
    with site.serve() as server:
        yield server


def statuses(rows: Sequence[JournalRow]) -> list[str]:
    return [row.status_name for row in rows]
