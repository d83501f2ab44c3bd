"""Links over pseudo-terminals: a serial line without the line.  POSIX only.

A pseudo-terminal has a master end and a slave end; the slave has a path that any program can open
as if it were a serial port.  Two manners of the kernel's show: hanging up is reported as EIO, which
here is the end of the stream, and a master that closes takes bytes that the slave has not read yet
with it, whereas a slave's last bytes arrive.
"""

import errno
import os
import select
import termios
import time
import tty
from typing import Final, Self

from .errors import LinkClosed, LinkLost
from .links import READ_SIZE, ClosingLink

_CLOSED: Final = -1


class PtyLink(ClosingLink):
    """A terminal's file descriptor, which the link owns from now on and puts into raw mode.

    `path` is that of the slave, for other programs.
    """

    __slots__ = ("_descriptor", "path")

    def __init__(self, descriptor: int, path: str) -> None:
        self.path = path
        self._descriptor = descriptor
        try:
            tty.setraw(descriptor)
        except termios.error as error:
            self.close()
            raise LinkLost(f"{path} is no terminal: {error.args[-1]}") from error
        os.set_blocking(descriptor, False)

    @classmethod
    def open(cls, path: str) -> Self:
        """Open the slave at `path`; raises `LinkLost` if there is none."""
        try:
            return cls(os.open(path, os.O_RDWR | os.O_NOCTTY), path)
        except OSError as error:
            raise LinkLost(f"cannot open {path}: {error.strerror}") from error

    def read(self, timeout_s: float | None) -> bytes:
        self._wait(select.POLLIN, timeout_s, "nothing to read")
        try:
            return os.read(self._descriptor, READ_SIZE)
        except OSError as error:
            if error.errno == errno.EIO:
                return b""
            raise LinkLost(f"{self.path} broke while reading: {error.strerror}") from error

    def write(self, data: bytes, timeout_s: float) -> None:
        until = time.monotonic() + timeout_s
        while data:
            remaining = max(0.0, until - time.monotonic())
            self._wait(select.POLLOUT, remaining, f"{len(data)} bytes not taken")
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:  # ready for fewer bytes than it takes to wake up a writer
                continue
            except OSError as error:
                raise LinkLost(f"{self.path} broke while writing: {error.strerror}") from error

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, _CLOSED
        if descriptor != _CLOSED:
            os.close(descriptor)

    def _wait(self, event: int, timeout_s: float | None, what: str) -> None:
        if self._descriptor == _CLOSED:
            raise LinkClosed(f"this end of {self.path} has been closed")
        poll = select.poll()  # select() cannot watch descriptors above 1,023
        poll.register(self._descriptor, event)
        if not poll.poll(None if timeout_s is None else max(0.0, timeout_s) * 1000.0):
            raise TimeoutError(f"{self.path}: {what} within {timeout_s} s")


def open_pty() -> tuple[PtyLink, PtyLink]:
    """Return master and slave of a new pseudo-terminal.

    Another program can open `path` of either.  While nobody has the slave open the master reads the
    end of the stream: keep the slave until the other program is there.
    """
    master, slave = os.openpty()
    path = os.ttyname(slave)
    return PtyLink(master, path), PtyLink(slave, path)
