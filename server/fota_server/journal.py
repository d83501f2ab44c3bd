"""The journal: one row for every session, in SQLite, written in batches by one thread.

A session hands its row over and goes on. The thread commits what has gathered (WAL, synchronous NORMAL: a crash of the
process loses nothing that was committed, and the file always opens). What cannot be written is counted and reported,
and stops no update.
"""

import logging
import queue
import sqlite3
import threading
from collections.abc import Iterator
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
    """The journal at `path`, made where there is none; raises `JournalError` when it cannot be opened."""

    def __init__(self, path: Path, logger: logging.Logger) -> None:
        self._logger = logger
        self._queue: queue.Queue[JournalRow | None] = queue.Queue(QUEUE_LIMIT)
        self._dropped = 0
        try:
            self._database = sqlite3.connect(path, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False)
        except sqlite3.Error as error:
            raise JournalError(f"journal {path}: {error}") from error
        try:
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = NORMAL")
            self._database.executescript(_SCHEMA)
            self._database.execute(f"SELECT {', '.join(_COLUMNS)} FROM sessions LIMIT 0")
        except sqlite3.Error as error:
            self._database.close()
            raise JournalError(f"journal {path}: {error}, expected the journal of a server") from error
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

    def updated(self) -> Iterator[tuple[str, str, str]]:
        """(MCUID, file name, version) of every success that was committed; for the start of the server."""
        yield from self._database.execute(
            "SELECT DISTINCT mcuid, filename, version FROM sessions WHERE status = 0 AND mcuid IS NOT NULL"
        )

    def close(self) -> None:
        """Commit what has gathered and close the file."""
        self._queue.put(None)
        self._thread.join()
        self._database.close()
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
            self._commit([row for row in rows if row is not None])

    def _commit(self, rows: list[JournalRow]) -> None:
        if not rows:
            return
        try:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                self._database.executemany(_INSERT, map(astuple, rows))
                self._database.execute("COMMIT")
            except BaseException:
                self._database.execute("ROLLBACK")
                raise
        except Exception as error:  # this thread must not end: later rows would be lost as well
            self._logger.error("journal: %d rows lost: %s", len(rows), error)


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
