"""The board's end of a pseudo-terminal whose other end any program can open as if it were a serial port. POSIX only.

The kernel's pseudo-terminals differ from a serial port in manners that a client would notice; what is done about each:

* It begins in cooked mode, with echo, and goes back to that whenever the last program closes it; and a master whose
  slave nobody has open reads an error. So it is made raw before its path is known, and the slave is kept open here.
* Because of that, a client's exclusive use (TIOCEXCL) would outlive the client; it is lifted again and again.
* What arrives while nobody has a serial port open is lost, what is written to a pseudo-terminal is kept. So what nobody
  has read for a while is thrown away as soon as there is more.
* A master that closes takes what the client has not read with it: whoever ends a board gives the client time.

A break is invisible here, and the client's rate is nothing but a number, which `client_baud` reads.
"""

import contextlib
import errno
import fcntl
import os
import struct
import termios
import tty
from pathlib import Path
from typing import Final

from .errors import BoardError

READ_SIZE: Final = 4_096
"""Bytes of one read."""

STALE: Final = 5.0
"""Seconds that bytes may wait unread before new ones take their place."""

_SPEEDS: Final = {
    getattr(termios, name): int(name[1:]) for name in dir(termios) if name[0] == "B" and name[1:].isdecimal()
}
"""Rates in bits a second by their constants."""

_ISPEED: Final = 4
_OSPEED: Final = 5


class BoardTerminal:
    """A new pseudo-terminal. `path` is a link to make to its slave, None for none; raises `BoardError`."""

    def __init__(self, path: Path | None, baud: int) -> None:
        if path is not None:
            _remove_abandoned(path)
        try:
            self._master, self._slave = os.openpty()
        except OSError as error:
            raise BoardError(f"no pseudo-terminal to be had: {error.strerror}") from error
        tty.setraw(self._slave)
        _set_speed(self._slave, baud)
        os.set_blocking(self._master, False)
        self.slave_path = os.ttyname(self._slave)
        self._link: Path | None = None
        self._unread_since: float | None = None
        self._unread = 0
        if path is not None:
            try:
                path.symlink_to(self.slave_path)
            except OSError as error:
                self.close()
                expected = "expected a free name for a link to the pseudo-terminal"
                raise BoardError(f"pty {path}: {error.strerror}, {expected}") from error
            self._link = path

    @property
    def port(self) -> str:
        """What a client opens."""
        return self.slave_path if self._link is None else str(self._link)

    def fileno(self) -> int:
        """The master's descriptor, to be waited on."""
        return self._master

    @property
    def client_baud(self) -> int | None:
        """The rate that the client has set; None for one without a name."""
        return _SPEEDS.get(termios.tcgetattr(self._slave)[_OSPEED])

    def read(self) -> bytes:
        """What the client has written; b"" for nothing."""
        try:
            data = os.read(self._master, READ_SIZE)
        except BlockingIOError:
            return b""
        except OSError as error:
            if error.errno == errno.EIO:
                return b""
            raise
        self._share()
        return data

    def write(self, data: bytes | bytearray, now: float) -> int:
        """Write what there is room for; returns how many bytes that was."""
        self._share()
        self._forget_stale(now)
        try:
            written = os.write(self._master, data)
        except BlockingIOError:
            return 0
        self._unread += written
        return written

    def close(self) -> None:
        """Remove the link, if it is still ours, and hang up."""
        link = self._link
        if link is not None:
            with contextlib.suppress(OSError):
                if link.readlink() == Path(self.slave_path):
                    link.unlink()
        os.close(self._slave)
        os.close(self._master)

    def _waiting(self) -> int:
        """Bytes that the client could read at once."""
        (size,) = struct.unpack("i", fcntl.ioctl(self._slave, termios.FIONREAD, bytes(4)))
        return int(size)

    def _share(self) -> None:
        with contextlib.suppress(OSError):
            fcntl.ioctl(self._slave, termios.TIOCNXCL)

    def _forget_stale(self, now: float) -> None:
        waiting = self._waiting()
        if not waiting or waiting < self._unread or self._unread_since is None:  # somebody reads
            self._unread_since = now
        elif now - self._unread_since > STALE:
            termios.tcflush(self._slave, termios.TCIFLUSH)
            waiting = 0
            self._unread_since = now
        self._unread = waiting


def _set_speed(descriptor: int, baud: int) -> None:
    """Have a client find the board's rate, where that has a name."""
    named = {speed: constant for constant, speed in _SPEEDS.items()}.get(baud)
    if named:
        attributes = termios.tcgetattr(descriptor)
        attributes[_ISPEED] = attributes[_OSPEED] = named
        termios.tcsetattr(descriptor, termios.TCSANOW, attributes)


def _remove_abandoned(path: Path) -> None:
    """Remove a link whose pseudo-terminal is gone: its board was killed.

    The kernel gives numbers out again, so there may be another one of that name. It is younger than the link, and a
    board's own is older; its ctime stays when bytes pass (seen on Linux's devpts).
    """
    with contextlib.suppress(OSError):
        if not path.is_symlink() or path.readlink().parent != Path("/dev/pts"):
            return
        try:
            is_abandoned = path.stat().st_ctime_ns > path.lstat().st_mtime_ns
        except FileNotFoundError:
            is_abandoned = True
        if is_abandoned:
            path.unlink()
