"""The journal: one row for every session, in SQLite, written in batches by one thread.

A session hands its row over and goes on. The thread commits what has gathered (WAL, synchronous NORMAL: a crash of the
process loses nothing that was committed, and the file always opens). Several processes may write to one journal. While
the disk is full or read-only, rows wait within a limit; what cannot be written is counted and reported. Neither stops
an update.
"""

import contextlib
import logging
import os
import queue
import sqlite3
import threading
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Final

from .errors import JournalError

BATCH: Final = 500
"""Most rows of one commit."""

QUEUE_LIMIT: Final = 100_000
"""Most rows that wait for the thread; further ones are dropped and counted."""

BUSY_TIMEOUT: Final = 5.0
"""Seconds to wait for another process that holds the file."""


@dataclass(frozen=True, slots=True)
class JournalRow:
    """One session. Times are seconds since the epoch, durations seconds."""

    started_at: float
    duration_s: float
    peer: str
    mcuid: str | None
    suffix: str
    filename: str | None
    version: str | None
    image_crc: str | None
    """Eight upper-case hexadecimal digits."""
    records: int
    """Records of the image."""
    records_acked: int
    bytes_sent: int
    """Bytes of records sent."""
    status: int
    """The reference server's number, or one of ours (`fota_protocol.status.Status`)."""
    status_name: str
    detail: str


READ_TIMEOUT: Final = 0.25
"""Seconds that a look-up of the server waits for another process; longer would hold up every session."""

RETRY_INTERVAL: Final = 1.0
"""Seconds until a commit that failed is tried again."""

_TEMPORARY: Final = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
    }
)

_SPOILED: Final = frozenset({sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN})
"""Errors that a connection may keep when their cause is gone."""

_COLUMNS: Final = tuple(field.name for field in fields(JournalRow))
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS sessions (
    id INTEGER PRIMARY KEY,
    started_at REAL NOT NULL, duration_s REAL NOT NULL, peer TEXT NOT NULL, mcuid TEXT, suffix TEXT NOT NULL,
    filename TEXT, version TEXT, image_crc TEXT, records INTEGER NOT NULL, records_acked INTEGER NOT NULL,
    bytes_sent INTEGER NOT NULL, status INTEGER NOT NULL, status_name TEXT NOT NULL, detail TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS sessions_by_device ON sessions (mcuid, status);
"""
_INSERT: Final = f"INSERT INTO sessions ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"


class Journal:
    """The journal at `path`, made where there is none; raises `JournalError` when it is none, or can never be made.

    Where the disk is full or read-only, rows wait and are written when it no longer is.
    """

    def __init__(self, path: Path, logger: logging.Logger) -> None:
        self._path = path
        self._logger = logger
        self._queue: queue.Queue[JournalRow | None] = queue.Queue(QUEUE_LIMIT)
        self._dropped = 0
        self._trouble: str | None = None
        self._closing = threading.Event()
        self._database: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        try:
            self._database = _open(path)
        except sqlite3.Error as error:
            if not (_is_temporary(error) and _is_unwritable_now(path)):
                raise JournalError(f"journal {path}: {error}, expected the journal of a server") from error
            self._say_trouble(error)
        self._thread = threading.Thread(target=self._write, name="fota-journal", daemon=True)
        self._thread.start()

    def add(self, row: JournalRow) -> None:
        """Hand a row over; never blocks."""
        try:
            self._queue.put_nowait(row)
        except queue.Full:
            self._dropped += 1
            if self._dropped == 1:
                self._logger.error("journal: rows come faster than they can be written; some are dropped")

    def was_updated(self, mcuid: str, filename: str, version: str) -> bool:
        """Whether a success of the device with this file and version was committed, by whatever process."""
        try:
            if self._reader is None:
                self._reader = sqlite3.connect(
                    f"{self._path.absolute().as_uri()}?mode=ro", timeout=READ_TIMEOUT, uri=True
                )
            found = self._reader.execute(
                "SELECT 1 FROM sessions WHERE mcuid = ? AND status = 0 AND filename = ? AND version = ? LIMIT 1",
                (mcuid, filename, version),
            ).fetchone()
        except sqlite3.Error as error:
            self._logger.error("journal: cannot be read: %s", error)
            return False
        return found is not None

    def close(self) -> None:
        """Commit what has gathered and close the file."""
        self._closing.set()
        self._queue.put(None)
        self._thread.join()
        for database in (self._database, self._reader):
            if database is not None:
                database.close()
        if self._dropped:
            self._logger.error("journal: %d rows were dropped", self._dropped)

    def _write(self) -> None:
        more = True
        while more:
            rows = [self._queue.get()]
            while len(rows) < BATCH:
                try:
                    rows.append(self._queue.get_nowait())
                except queue.Empty:
                    break
            more = None not in rows
            self._store([row for row in rows if row is not None])

    def _store(self, rows: list[JournalRow]) -> None:
        """Commit `rows`, however long that takes; give up where no waiting helps, or nobody waits any more."""
        while rows:
            is_last_try = self._closing.is_set()
            try:
                self._commit(rows)
            except Exception as error:  # this thread must not end: later rows would be lost as well
                if isinstance(error, sqlite3.Error) and _is_temporary(error):
                    self._say_trouble(error)
                    if error.sqlite_errorcode & 0xFF in _SPOILED:
                        self._reopen_next_time()
                    if not is_last_try:
                        self._closing.wait(RETRY_INTERVAL)
                        continue
                    rows += self._waiting()  # each try may take its time, and whoever closes has none
                self._logger.error("journal: %d rows lost: %s", len(rows), error)
                return
            if self._trouble is not None:
                self._trouble = None
                self._logger.warning("journal: can be written again")
            return

    def _waiting(self) -> list[JournalRow]:
        """Everything that is still in the queue."""
        rows = []
        with contextlib.suppress(queue.Empty):
            while True:
                if (row := self._queue.get_nowait()) is None:
                    self._queue.put(None)  # the end is for the thread's own loop
                    break
                rows.append(row)
        return rows

    def _commit(self, rows: list[JournalRow]) -> None:
        if self._database is None:
            self._database = _open(self._path)
        self._database.execute("BEGIN IMMEDIATE")
        try:
            self._database.executemany(_INSERT, map(astuple, rows))
            self._database.execute("COMMIT")
        except BaseException:
            if self._database.in_transaction:  # a full disk ends it by itself
                self._database.execute("ROLLBACK")
            raise

    def _reopen_next_time(self) -> None:
        """What was opened on a disk that was read-only stays so."""
        if self._database is not None:
            self._database.close()
            self._database = None

    def _say_trouble(self, error: sqlite3.Error) -> None:
        if self._trouble is None:
            self._trouble = str(error)
            self._logger.error("journal: cannot be written (%s); up to %d rows wait for that", error, QUEUE_LIMIT)


def _open(path: Path) -> sqlite3.Connection:
    """The file with its table; raises `sqlite3.Error`."""
    database = sqlite3.connect(path, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        database.executescript(_SCHEMA)
        database.execute(f"SELECT {', '.join(_COLUMNS)} FROM sessions LIMIT 0")
    except BaseException:
        database.close()
        raise
    return database


def _is_temporary(error: sqlite3.Error) -> bool:
    """Whether the same statement may do well later."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF in _TEMPORARY


def _is_unwritable_now(path: Path) -> bool:
    """Whether a file at `path` cannot be made or written because of the disk, and not because of its name."""
    try:
        free = os.statvfs(path.parent).f_bavail
    except OSError:  # no such folder: was it not made because it could not be?
        return not os.access(next(parent for parent in path.absolute().parents if parent.exists()), os.W_OK)
    return not path.is_dir() and (
        free == 0 or not os.access(path.parent, os.W_OK) or (path.exists() and not os.access(path, os.W_OK))
    )


def read_journal(
    path: Path, *, mcuid: str | None = None, failed: bool = False, since: float = 0.0, newest: int | None = None
) -> list[JournalRow]:
    """Committed rows, oldest first; raises `JournalError`.

    Those of one device, of sessions that were no success, that began at `since` (seconds since the epoch) or later; and
    of these the last `newest`.
    """
    if not path.exists():
        raise JournalError(f"journal {path}: no such file")
    try:
        database = sqlite3.connect(path, timeout=BUSY_TIMEOUT)
        try:
            found = database.execute(
                f"SELECT {', '.join(_COLUMNS)} FROM sessions WHERE (:mcuid IS NULL OR mcuid = :mcuid) "
                "AND (NOT :failed OR status != 0) AND started_at >= :since ORDER BY id DESC LIMIT :newest",
                {"mcuid": mcuid, "failed": failed, "since": since, "newest": -1 if newest is None else newest},
            )
            return [JournalRow(*row) for row in found][::-1]
        finally:
            database.close()
    except sqlite3.Error as error:
        raise JournalError(f"journal {path}: {error}, expected the journal of a server") from error
