"""Logs as the reference server has them: one of the server, rotated at midnight, and one of each session.

A session's lines gather in memory and are appended to its file when it ends, so no session holds a file open. Writing
them is the work of a thread of its own: a slow disk must not hold up the loop.
"""

import contextlib
import errno
import hashlib
import io
import json
import logging
import logging.handlers
import queue
import re
import sys
import threading
import time
from collections import OrderedDict
from pathlib import Path
from typing import Final, TextIO

from .errors import ConfigError

FORMAT: Final = "%(asctime)s %(levelname)-8s %(message)s"
"""Line format of the reference server."""

SERVER_LOG: Final = "otaserver.log"
BACKUPS: Final = 3
"""Rotated server logs that are kept (reference server: 3)."""

SESSION_LINES: Final = 200
"""Most lines of one session's log."""

QUEUE_LIMIT: Final = 20_000
"""Most session logs that wait to be written; further ones are dropped and said so."""

CONSOLE_LINES: Final = 10_000
"""Most lines that wait for whoever reads the console."""

CONSOLE_TIMEOUT: Final = 1.0
"""Seconds that the last lines have to be read."""

SAME_MINUTE: Final = 100
"""Most session logs of one device in one minute; further sessions are appended to the last."""

NAMES_REMEMBERED: Final = 10_000
"""Devices and minutes of which it is remembered how many session logs there are."""

_UNWRITABLE: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO})
"""What a disk may say that is no fault of the folder's name."""

_SAFE_NAME: Final = re.compile(r"[0-9A-Za-z]{1,64}")
_DIGEST_DIGITS: Final = 16


class CustomLogger:
    """Stands in for standard output or error: what is written to it becomes lines of a log, at `level`."""

    def __init__(self, logger: logging.Logger, level: int) -> None:
        self.logger = logger
        self.level = level
        self._writing = False

    def write(self, message: str) -> int:
        """Log `message`, unless it is only the white space that `print` writes apart."""
        text = message.rstrip()
        if text and not self._writing:
            self._writing = True  # what a handler prints of its own trouble must not come back to it
            try:
                self.logger.log(self.level, "%s", text)
            finally:
                self._writing = False
        return len(message)

    def flush(self) -> None:
        """Nothing is held back."""


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, message."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        line = {"time": record.created, "level": record.levelname, "message": record.getMessage()}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        elif record.exc_text:  # another process's
            line["traceback"] = record.exc_text
        return json.dumps(line)


class _Quiet(logging.Handler):
    """A handler that cannot write does without: a full disk or a closed terminal stops no update.

    The trouble is said once, where standard error was when the process began.
    """

    _said = False

    def handleError(self, record: logging.LogRecord) -> None:
        """Called by `logging` while the error is handled."""
        self.say(sys.exc_info()[1])

    def say(self, error: BaseException | None) -> None:
        """Say it, once."""
        if not self._said:
            self._said = True
            with contextlib.suppress(OSError, ValueError, AttributeError):
                print(f"fota: the log cannot be written: {error}", file=sys.__stderr__, flush=True)


class ServerLogHandler(_Quiet, logging.handlers.TimedRotatingFileHandler):
    """The server log's file, made with its folder when there is something to write and a disk that takes it."""

    def _open(self) -> io.TextIOWrapper:
        Path(self.baseFilename).parent.mkdir(parents=True, exist_ok=True)
        return super()._open()


class ConsoleHandler(_Quiet):
    """The server log's copy for whoever started the server, written by a thread: a pipe that nobody reads stops nobody.

    Lines that find no room are dropped.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._lines: queue.Queue[str | None] = queue.Queue(CONSOLE_LINES)
        self._thread = threading.Thread(target=self._run, name="fota-console", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Hand a line over; never blocks."""
        with contextlib.suppress(queue.Full):
            self._lines.put_nowait(self.format(record) + "\n")

    def close(self) -> None:
        """Write what has gathered, if somebody reads it."""
        with contextlib.suppress(queue.Full):
            self._lines.put(None, timeout=CONSOLE_TIMEOUT)
        self._thread.join(CONSOLE_TIMEOUT)
        super().close()

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            try:
                self._stream.write(line)
                self._stream.flush()
            except (OSError, ValueError) as error:  # a terminal that is gone
                self.say(error)


def open_server_log(folder: Path, *, as_json: bool, console: TextIO | None) -> logging.Logger:
    """The server's log in `folder`, copied to `console` where there is one.

    Raises `ConfigError` when `folder` cannot be one; a disk that is full or read-only is said, and stops nobody.
    """
    formatter = JsonFormatter() if as_json else logging.Formatter(FORMAT)
    file = ServerLogHandler(
        folder / SERVER_LOG,
        when="midnight",
        backupCount=BACKUPS,
        encoding="utf-8",
        errors="backslashreplace",
        delay=True,
    )
    try:
        file.stream = file._open()
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise ConfigError(f"log folder {folder}: {error.strerror}") from error
        file.say(error)
    logger = logging.Logger(f"otaserver:{folder}", logging.INFO)  # not in the global tree: a process may run several
    handlers: list[logging.Handler] = [file]
    if console is not None:
        handlers.append(ConsoleHandler(console))
    for handler in handlers:
        handler.setFormatter(formatter)
        logger.addHandler(handler)
    return logger


def close_log(logger: logging.Logger) -> None:
    """Close what `open_server_log` opened."""
    for handler in tuple(logger.handlers):
        logger.removeHandler(handler)
        with contextlib.suppress(OSError):  # what a full disk does not take is lost, and was said
            handler.close()


class SessionLog:
    """The lines of one session, in memory."""

    __slots__ = ("lines", "mcuid", "started_at")

    def __init__(self, mcuid: str, started_at: float) -> None:
        self.mcuid = mcuid
        self.started_at = started_at
        self.lines: list[tuple[float, int, str]] = []

    def add(self, at: float, message: str, level: int = logging.INFO) -> None:
        """Keep a line; `at` is seconds since the epoch. Lines beyond the limit are dropped."""
        if len(self.lines) < SESSION_LINES:
            self.lines.append((at, level, message))


class SessionLogs:
    """Writes session logs to `<folder>/<mcuid>-<dd-mm-yy_HH-MM>.txt`, with `_2` and so on behind it in the same minute.

    A name is taken in one step, so that several processes may write to one folder.
    """

    def __init__(self, folder: Path, logger: logging.Logger) -> None:
        self._folder = folder
        self._logger = logger
        self._formatter = logging.Formatter(FORMAT)
        self._queue: queue.Queue[SessionLog | None] = queue.Queue(QUEUE_LIMIT)
        self._failed = False
        self._dropped = 0
        self._numbers: OrderedDict[str, int] = OrderedDict()
        """How many files of a device and minute were written, as far as this process knows."""
        self._thread = threading.Thread(target=self._run, name="fota-session-logs", daemon=True)
        self._thread.start()

    def write(self, log: SessionLog) -> None:
        """Hand a session's log over; never blocks."""
        try:
            self._queue.put_nowait(log)
        except queue.Full:
            self._dropped += 1
            if self._dropped.bit_count() == 1:  # 1, 2, 4, 8 …: what overwhelms the disk must not fill the server log
                self._logger.error("session logs come faster than they can be written; %d are dropped", self._dropped)

    def close(self) -> None:
        """Write what has gathered."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (log := self._queue.get()) is not None:
            try:
                with self._file(log) as file:
                    file.writelines(self._line(*line) for line in log.lines)
                self._failed = False
            except Exception as error:  # this thread must not end: later logs would be lost as well
                self._complain(f"session logs cannot be written: {error}")

    def _file(self, log: SessionLog) -> TextIO:
        # An MCUID has been checked by now; what is no plain name all the same never becomes a path.
        safe = _SAFE_NAME.fullmatch(log.mcuid) is not None
        digest = hashlib.sha256(log.mcuid.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST_DIGITS]
        name = log.mcuid if safe else f"id-{digest}"
        stamp = time.strftime("%d-%m-%y_%H-%M", time.localtime(log.started_at))
        first = self._folder / f"{name}-{stamp}.txt"
        number = self._numbers.pop(first.name, 0)
        while True:
            number += 1
            path = first if number == 1 else first.with_stem(f"{first.stem}_{min(number, SAME_MINUTE)}")
            try:
                file = path.open("a" if number >= SAME_MINUTE else "x", encoding="utf-8", errors="backslashreplace")
            except FileExistsError:  # another process's, or one of an earlier run
                continue
            self._numbers[first.name] = number
            if len(self._numbers) > NAMES_REMEMBERED:
                self._numbers.popitem(last=False)
            return file

    def _line(self, at: float, level: int, message: str) -> str:
        record = logging.LogRecord("session", level, "", 0, message, None, None)
        record.created, record.msecs = at, at % 1 * 1000
        return self._formatter.format(record) + "\n"

    def _complain(self, message: str) -> None:
        if not self._failed:  # once, until it works again: a full disk must not fill the server log as well
            self._failed = True
            self._logger.error("%s", message)
