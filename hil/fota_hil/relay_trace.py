"""The trace that a relay writes while it runs: what passed, when, which way, and what it means.

A chunk is a line in the one trace format of `fota_transport.trace`, `->` what the board says and `<-` what the server
says. What it means, and what happened to port and connection, are lines that begin with `#`, which that format's reader
skips:

       0.004511  ->  27 @0001000000000000000000000#
    #  identification 0001000000000000000000000

A file that has grown to its limit is renamed to `NAME.1`, in place of an older one, and begun anew; what is no file (a
pipe), or was opened by somebody else, is written on without one. A disk that is full ends the trace and nothing else.
"""

import datetime
import os
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO, Final, cast

from fota_transport.clock import Clock
from fota_transport.trace import Direction, TraceEntry

FILE_LIMIT: Final = 67_108_864
"""Bytes of a trace file; one older file is kept beside it (64 MiB)."""


class RelayTrace:
    """Writes `path` until `close`; raises `OSError` if it cannot be begun. `complain` is told if it cannot go on.

    `stream`, unbuffered, is what `path` names, where that is open already; it is closed, too.
    """

    def __init__(
        self,
        path: Path,
        title: str,
        clock: Clock,
        complain: Callable[[str], None],
        *,
        stream: BinaryIO | None = None,
        limit: int = FILE_LIMIT,
    ) -> None:
        self._path = path
        self._title = title
        self._clock = clock
        self._complain = complain
        self._limit = limit
        self._start = clock.monotonic()
        self._size = 0
        self._turns_over = False
        self._file: BinaryIO | None = self._begun(stream)

    def chunk(self, now: float, direction: Direction, data: bytes, notes: Iterable[str]) -> None:
        """These bytes passed, and mean `notes`."""
        entry = TraceEntry(round(now - self._start, 6), direction, data)
        self._write("".join((f"{entry}\n", *(f"#  {_one_line(note)}\n" for note in notes))))

    def note(self, now: float, text: str) -> None:
        """Something happened."""
        self._write(f"# {now - self._start:.6f}: {_one_line(text)}\n")

    def close(self) -> None:
        """End the trace; it may be called again."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _begun(self, stream: BinaryIO | None = None) -> BinaryIO:
        started = datetime.datetime.fromtimestamp(self._clock.wall(), datetime.UTC).isoformat(timespec="milliseconds")
        offset = self._clock.monotonic() - self._start
        head = f"# {self._title}; -> the board says, <- the server says; second {offset:.3f} is {started}\n"
        # Unbuffered: what has passed is in the file, whatever becomes of us.
        file = stream or cast("BinaryIO", self._path.open("wb", buffering=0))
        try:
            self._turns_over = stream is None and stat.S_ISREG(os.fstat(file.fileno()).st_mode)
            file.write(_encoded(head))
        except BaseException:
            file.close()
            raise
        self._size = len(head)
        return file

    def _write(self, text: str) -> None:
        file = self._file
        if file is None:
            return
        try:
            self._size += file.write(_encoded(text)) or 0
            if self._turns_over and self._size > self._limit:
                self.close()
                os.replace(self._path, f"{self._path}.1")
                self._file = self._begun()
        except OSError as error:
            self.close()
            self._complain(f"trace {self._path}: {error.strerror}; it ends here")


def _encoded(text: str) -> bytes:
    return text.encode("ascii", "backslashreplace")


def _one_line(text: str) -> str:
    return text.replace("\r", "\\r").replace("\n", "\\n")
