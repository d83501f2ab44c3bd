"""A serial port as a link: whatever pyserial can open, by the contract of `fota_transport.links`.

`/dev/tty…`, `COMn`, `hwgrep://`, `socket://`, `rfc2217://`, `spy://`, `loop://`, the path of a pseudo terminal: always
8 data bits, no parity, one stop bit, no flow control.

Theory of operation. pyserial opens and configures the port; the bytes then go past it, because its own reads and writes
either wait for a number of bytes that nobody knows or spin. Where the port is a descriptor (POSIX: real ports, pseudo
terminals, `spy://`, `hwgrep://`, `socket://`) we poll that. Where it is not (`rfc2217://`, `loop://`, Windows) a thread
carries what arrives into a socket pair, and we wait for that: so every port has a `fileno` that a selector can watch.

A serial line has no end of stream. What ends it, a plug that is pulled, a pseudo terminal's master or a socket's peer
that closes, a server of RFC 2217 that is gone, is `LinkLost`.

DTR and RTS are on, as in any terminal program, unless `open` is told otherwise. They are set before the port is opened
where that is possible; Linux itself raises both for a moment while it opens a port.
"""

import contextlib
import errno
import os
import queue
import re
import select
import socket
import stat
import sys
import threading
import time
from typing import Any, Final, Protocol, Self

import serial
from serial.tools import list_ports

from fota_transport.errors import LinkClosed, LinkLost
from fota_transport.links import READ_SIZE, ClosingLink

from .errors import PortError, PortNameError

DEFAULT_BAUD: Final = 115_200
"""Bits a second where nobody says otherwise."""

MAX_BAUD: Final = 4_000_000
"""Most bits a second that a port may be asked for."""

WRITE_TIMEOUT: Final = 5.0
"""Seconds for a port without a descriptor to take `WRITE_SIZE` bytes; by so much it may overrun a write's deadline."""

WRITE_SIZE: Final = 64
"""Bytes that a port without a descriptor is given at once."""

FULL_PAUSE: Final = 0.001
"""Seconds until a port that said it were ready and then took nothing is asked again."""

DRAIN_INTERVAL: Final = 0.002
"""Seconds between two looks at how much of the output still waits."""

_CARRY_INTERVAL: Final = 0.2
"""Seconds after which the thread of a port without a descriptor looks whether it is still wanted."""

_JOIN_TIMEOUT: Final = 2.0
"""Seconds for that thread to end."""

_EXAMPLES: Final = "for instance /dev/ttyUSB0, COM3, hwgrep://0403:6001, socket://HOST:PORT or rfc2217://HOST:PORT"

_LOST: Final = "unplugged, or closed at its other end"

_NO_BREAK: Final = frozenset({"socket", "loop"})
"""Schemes that have nothing to send a break on; pyserial ignores it there."""

_BROKEN: Final = (OSError, ValueError, TypeError)
"""What pyserial raises when a port breaks: SerialException is an OSError, and a port that is gone gives the others."""


class _Bytes(Protocol):
    """Where a port's bytes go in and out."""

    def fileno(self) -> int:
        """What to watch for bytes to read."""

    def receive(self) -> bytes:
        """What is there now; b"" if nothing is. Raises `LinkLost`."""

    def send(self, data: bytes) -> int:
        """Take some of `data` now; returns how much, 0 if there is no room. Raises `LinkLost`."""

    def wait(self, writing: bool, timeout_s: float | None) -> bool:
        """Wait until there is something to read, or room to write; False if there is not in time."""

    def drop(self) -> None:
        """Throw away what is there to read."""

    def stop(self) -> None:
        """The port is about to be closed."""


class SerialLink(ClosingLink):
    """An open serial port; `name` is what it was opened by."""

    __slots__ = ("_bytes", "_port", "name")

    def __init__(self, port: serial.SerialBase, name: str) -> None:
        """Take over a port that is open; use `open`."""
        self.name = name
        self._port: Any = port  # the types of pyserial know no URL handlers
        self._bytes: _Bytes | None = _bytes_of(self._port, name)

    @classmethod
    def open(
        cls, url: str, baud: int = DEFAULT_BAUD, *, dtr: bool = True, rts: bool = True, keeps_input: bool = False
    ) -> Self:
        """Open a port for ourselves alone where the system allows that; raises `PortError`.

        What a pseudo terminal holds from before is thrown away, unless `keeps_input`.
        """
        port = _made(url, baud)
        try:
            port.dtr, port.rts = dtr, rts
            if keeps_input and hasattr(port, "_reset_input_buffer"):
                port._reset_input_buffer = lambda: None  # pyserial's open calls it, and asks nobody
            try:
                port.open()
            except _BROKEN as error:
                raise _explained(url, error) from error
            vars(port).pop("_reset_input_buffer", None)
            return cls(port, url)
        except BaseException:
            _shut(port)
            raise

    @property
    def baud(self) -> int:
        """Bits a second."""
        baud: int = self._port.baudrate
        return baud

    def fileno(self) -> int:
        """What a selector may watch for bytes to read."""
        return self._open().fileno()

    def read(self, timeout_s: float | None) -> bytes:
        """Return what has arrived, at least one byte; None waits for ever. Raises `LinkLost`, never returns b""."""
        source = self._open()
        until = None if timeout_s is None else time.monotonic() + timeout_s
        remaining = timeout_s
        while source.wait(False, remaining):
            if data := source.receive():
                return data
            remaining = None if until is None else until - time.monotonic()
        raise TimeoutError(f"{self.name}: nothing to read within {timeout_s} s")

    def write(self, data: bytes, timeout_s: float) -> None:
        """Send all of `data`, or raise `TimeoutError` or `LinkLost`."""
        sink = self._open()
        until = time.monotonic() + timeout_s
        while data:
            if not sink.wait(True, max(0.0, until - time.monotonic())):
                break
            taken = sink.send(data)
            data = data[taken:]
            if time.monotonic() >= until and (timeout_s > 0 or not taken):
                break
            if not taken:
                time.sleep(FULL_PAUSE)
        if data:
            raise TimeoutError(f"{self.name} did not take the last {len(data)} bytes within {timeout_s} s")

    def receive_now(self) -> bytes:
        """What is there to read, b"" if nothing is; for those who watch `fileno`. Raises `LinkLost`."""
        return self._open().receive()

    def send_now(self, data: bytes) -> int:
        """Take as much of `data` as there is room for; returns how much. Raises `LinkLost`."""
        return self._open().send(data)

    def drain(self, timeout_s: float) -> None:
        """Wait until what was written is on the line, as far as the system knows; at most so long."""
        self._open()
        until = time.monotonic() + timeout_s
        with contextlib.suppress(AttributeError, NotImplementedError), self._translated("waiting for its output"):
            while self._port.out_waiting and time.monotonic() < until:
                time.sleep(DRAIN_INTERVAL)

    def discard_input(self) -> None:
        """Throw away what has arrived and was not read."""
        source = self._open()
        with self._translated("throwing away its input"):
            self._port.reset_input_buffer()
        source.drop()

    def send_break(self, seconds: float) -> None:
        """Hold the line low for so long; raises `PortError` where a port cannot."""
        self._open()
        if self._scheme in _NO_BREAK:
            raise PortError(self.name, f"{self._scheme}:// carries no break")
        self._hold("break_condition", True, seconds)

    def pulse(self, line: str, seconds: float) -> None:
        """Turn `dtr` or `rts` over for so long; raises `PortError` where a port has no such line."""
        self._open()
        if line not in ("dtr", "rts"):
            raise ValueError(f"line {line!r}, expected dtr or rts")
        if self._scheme in _NO_BREAK:
            raise PortError(self.name, f"{self._scheme}:// has no {line.upper()}")
        self._hold(line, not getattr(self._port, line), seconds)

    def set_baud(self, baud: int) -> None:
        """Change the speed; raises `PortError` if the port has no such speed."""
        self._open()
        try:
            self._port.baudrate = _checked(self.name, baud)
        except ValueError as error:
            raise PortError(self.name, f"{baud} baud: {error}") from error
        except _BROKEN as error:
            raise LinkLost(f"{self.name}: {_LOST} ({error})") from error

    def close(self) -> None:
        source, self._bytes = self._bytes, None
        if source is not None:
            source.stop()
            _shut(self._port)

    @property
    def _scheme(self) -> str:
        scheme, colon, _ = self.name.partition("://")
        return scheme.lower() if colon else ""

    def _open(self) -> _Bytes:
        if self._bytes is None:
            raise LinkClosed(f"{self.name} has been closed")
        return self._bytes

    def _hold(self, line: str, state: bool, seconds: float) -> None:
        """Set one of the port's lines, wait, and set it back."""
        try:
            with self._translated(f"setting {line}"):
                setattr(self._port, line, state)
                time.sleep(seconds)
                setattr(self._port, line, not state)
        except LinkLost as error:
            cause = error.__cause__
            if isinstance(cause, OSError) and cause.errno in (errno.ENOTTY, errno.EINVAL):
                what = "no break" if line == "break_condition" else f"no {line.upper()}"
                raise PortError(self.name, f"it has {what} (a pseudo terminal?)") from cause
            raise

    @contextlib.contextmanager
    def _translated(self, doing: str) -> Any:
        try:
            yield
        except _BROKEN as error:
            raise LinkLost(f"{self.name}: {_LOST}, while {doing} ({error})") from error
        except Exception as error:
            if type(error).__module__ != "termios":  # termios.error, which no Windows has, is an Exception
                raise
            raise LinkLost(f"{self.name}: {_LOST}, while {doing} ({error.args[-1]})") from error


class _Descriptor:
    """A port that is a descriptor, which pyserial has made non-blocking."""

    def __init__(self, port: Any, name: str) -> None:
        self._name = name
        self._descriptor: int = port.fileno()
        self._spy = getattr(port, "formatter", None)  # spy:// sees what passes in pyserial's methods; we tell it

    def fileno(self) -> int:
        return self._descriptor

    def receive(self) -> bytes:
        try:
            data = os.read(self._descriptor, READ_SIZE)
            if not data:
                # pyserial sets VMIN to 0: an empty terminal reads as its end does, but only the end is ready for that.
                if not self.wait(False, 0.0):
                    return b""
                data = os.read(self._descriptor, READ_SIZE)
        except BlockingIOError:
            return b""
        except OSError as error:
            raise LinkLost(f"{self._name}: {_LOST}, while reading ({error.strerror})") from error
        if not data:
            raise LinkLost(f"{self._name}: {_LOST}, while reading")
        if self._spy is not None:
            self._spy.rx(data)
        return data

    def send(self, data: bytes) -> int:
        try:
            taken = os.write(self._descriptor, data)
        except BlockingIOError:  # ready for fewer bytes than it takes to wake up a writer
            return 0
        except OSError as error:
            raise LinkLost(f"{self._name}: {_LOST}, while writing ({error.strerror})") from error
        if self._spy is not None:
            self._spy.tx(data[:taken])
        return taken

    def wait(self, writing: bool, timeout_s: float | None) -> bool:
        poll = select.poll()  # select() cannot watch descriptors above 1,023
        poll.register(self._descriptor, select.POLLOUT if writing else select.POLLIN)
        return bool(poll.poll(None if timeout_s is None else max(0.0, timeout_s) * 1000.0))

    def drop(self) -> None:
        """Nothing: pyserial has thrown it away."""

    def stop(self) -> None:
        """Nothing: pyserial closes it."""


class _Carried:
    """A port that is no descriptor: a thread carries what arrives into a socket pair."""

    def __init__(self, port: Any, name: str) -> None:
        self._name = name
        self._port = port
        self._ours, self._theirs = socket.socketpair()
        self._stopping = threading.Event()
        self._trouble = _LOST
        self._ours.setblocking(False)
        self._theirs.settimeout(_CARRY_INTERVAL)
        self._thread = threading.Thread(target=self._carry, name=f"bytes of {name}", daemon=True)
        self._thread.start()

    def fileno(self) -> int:
        return self._ours.fileno()

    def receive(self) -> bytes:
        try:
            data = self._ours.recv(READ_SIZE)
        except BlockingIOError:
            return b""
        except OSError as error:
            raise LinkLost(f"{self._name}: {error}") from error
        if not data:
            raise LinkLost(f"{self._name}: {self._trouble}, while reading")
        return data

    def send(self, data: bytes) -> int:
        piece = data[:WRITE_SIZE]
        try:
            taken = self._port.write(piece)
        except serial.SerialTimeoutException:
            return 0
        except queue.Full:  # loop://
            return 0
        except _BROKEN as error:
            raise LinkLost(f"{self._name}: {_LOST}, while writing ({error})") from error
        return len(piece) if taken is None else int(taken)

    def wait(self, writing: bool, timeout_s: float | None) -> bool:
        if writing:  # the port itself waits
            return True
        left = None if timeout_s is None else max(0.0, timeout_s)
        return bool(select.select([self._ours], [], [], left)[0])

    def drop(self) -> None:
        with contextlib.suppress(LinkLost):
            while self.receive():
                pass

    def stop(self) -> None:
        self._stopping.set()
        with contextlib.suppress(Exception):
            self._port.cancel_read()
        self._thread.join(_JOIN_TIMEOUT)
        self._ours.close()

    def _carry(self) -> None:
        """Runs in a thread of its own until the port is lost or closed."""
        with self._theirs:
            try:
                while not self._stopping.is_set():
                    if data := self._port.read(1):
                        self._hand_over(data + self._port.read(min(READ_SIZE, self._port.in_waiting)))
            except Exception as error:  # whatever a backend raises, the reader learns that its port is lost
                self._trouble = f"{_LOST} ({error})"

    def _hand_over(self, data: bytes) -> None:
        while data and not self._stopping.is_set():
            with contextlib.suppress(TimeoutError):
                data = data[self._theirs.send(data) :]


def _bytes_of(port: Any, name: str) -> _Bytes:
    if os.name == "posix":
        with contextlib.suppress(OSError):  # io.UnsupportedOperation is one
            port.fileno()
            return _Descriptor(port, name)
    return _Carried(port, name)


def _checked(url: str, baud: int) -> int:
    if not 0 < baud <= MAX_BAUD:
        raise PortError(url, f"{baud} baud, expected 1 to {MAX_BAUD}")
    return baud


def _made(url: str, baud: int) -> Any:
    """The port, not yet open; raises `PortError`."""
    if not url.strip():
        raise PortNameError(url, f"empty, expected its name, {_EXAMPLES}")
    _checked(url, baud)
    scheme = url.lower().partition("://")[0] if "://" in url else ""
    # Seconds that pyserial itself waits, set once: a change would negotiate the whole of RFC 2217 again. That has no
    # write time-out but its socket's.
    patience: dict[str, Any] = {"write_timeout": None if scheme == "rfc2217" else WRITE_TIMEOUT}
    try:
        return serial.serial_for_url(url, baud, do_not_open=True, timeout=_CARRY_INTERVAL, exclusive=True, **patience)
    except serial.SerialException as error:
        if scheme == "hwgrep":
            raise PortError(url, f"no port matches. {_ports_here()}") from error
        raise PortNameError(url, f"{error}; {_EXAMPLES}") from error
    except (ValueError, re.error) as error:
        raise PortNameError(url, f"{error}; expected a port, {_EXAMPLES}") from error
    except OSError as error:  # spy:// opens its file
        raise PortError(url, str(error)) from error


def _shut(port: Any) -> None:
    """Close a port, whatever state it is in; pyserial forgets its socket where the peer is gone, and a spy's file."""
    connection = getattr(port, "_socket", None)
    output = getattr(getattr(port, "formatter", None), "output", None)
    with contextlib.suppress(Exception):
        port.close()
    if connection is not None:
        connection.close()
    if output not in (None, sys.stderr, sys.stdout):
        output.close()


def _explained(url: str, error: Exception) -> PortError:
    """What is wrong with a port that cannot be opened, and what to do."""
    context = error.__context__
    number = getattr(error, "errno", None) or (context.args[0] if context is not None and context.args else None)
    if "://" in url and not url.lower().startswith(("spy://", "hwgrep://")):
        detail = str(error).partition(f"{url}: ")[2] or str(error)
        return PortError(url, f"{detail}. Does its server run, and is nobody else using it?")
    match number:
        case errno.ENOENT:
            return PortError(url, f"there is no such port. Is the board plugged in? {_ports_here()}")
        case errno.EACCES | errno.EPERM:
            group = _group_of(url)
            return PortError(url, f"no permission. Join its group, {group} (usermod -aG), and log in again")
        case errno.EBUSY | errno.EAGAIN:
            return PortError(url, "it is in use. Close the terminal program, or the relay, that has it")
        case errno.ENOTTY | errno.EISDIR:
            return PortError(url, f"is no serial port, expected {_EXAMPLES}")
        case errno.EIO | errno.ENXIO | errno.ENODEV:
            return PortError(url, "nothing answers there. Plug the board in again")
    return PortError(url, str(error))


def _group_of(path: str) -> str:
    """The group that may use a port: dialout on most systems."""
    with contextlib.suppress(ImportError, OSError, KeyError):
        import grp

        status = os.stat(path)
        if status.st_mode & stat.S_IWGRP and status.st_gid != 0:
            return grp.getgrgid(status.st_gid).gr_name
    return "dialout"


def _ports_here() -> str:
    names = sorted(port.device for port in list_ports.comports())
    return f"Ports here: {', '.join(names)}" if names else "There are no serial ports here"
