"""A registry in SQLite: one row a device, changed by others while the server runs."""

import contextlib
import os
import sqlite3
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from fota_protocol.server import Handshake
from fota_protocol.status import Status

from ..errors import RegistryError, TemporaryError, UnservableError
from .entry import Problem, RegistryEntry

SQLITE_MAGIC: Final = b"SQLite format 3\x00"
"""How every SQLite file begins."""

BUSY_TIMEOUT: Final = 0.25
"""Seconds a look-up waits for another process's write; longer would hold up every session."""

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS devices (
    mcuid TEXT PRIMARY KEY,
    filename TEXT NOT NULL,
    version TEXT NOT NULL,
    part TEXT,
    handshake TEXT,
    pack INTEGER NOT NULL DEFAULT 0,
    once INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID
"""
_REPLACED: Final = Problem(
    0,
    "another file stands in its place; the one that was opened is in force. "
    "Change it by SQL or 'fota registry import', or stop the server before you replace it",
)
_COLUMNS: Final = "mcuid, filename, version, part, handshake, pack, once"


class SqliteRegistry:
    """A registry in an SQLite file, made where there is none; raises `RegistryError` when it cannot be used.

    With `read_only` nothing is made and nothing changed. `busy_timeout_s` is how long another process's write is waited
    for.
    """

    def __init__(self, path: Path, *, read_only: bool = False, busy_timeout_s: float = BUSY_TIMEOUT) -> None:
        self._path = path
        self._database = _open_read_only(path) if read_only else _open(path, busy_timeout_s)
        self._inode = _inode(path)

    @property
    def name(self) -> str:
        """The file."""
        return str(self._path)

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Whether another file was put in its place. A bad row is reported when its device comes."""
        # To follow it would be wrong: SQLite would take what is left in the old file's log for the new one's.
        if _inode(self._path) in (None, self._inode):
            return ()
        return (_REPLACED,)

    def audit(self) -> tuple[Problem, ...]:
        """Malformed rows; raises `RegistryError` when the file cannot be read."""
        return tuple(
            Problem(0, f"entry of {row[0]!r}: {wrong}") for row, wrong in self._rows() if isinstance(wrong, ValueError)
        )

    def find(self, mcuid: str) -> RegistryEntry | None:
        """The entry of a device; raises `UnservableError` when its row is malformed or the file cannot be read."""
        try:
            # Rows that others wrote may have hexadecimal digits in lower case.
            row = self._database.execute(
                f"SELECT {_COLUMNS} FROM devices WHERE mcuid IN (?, ?) ORDER BY mcuid", (mcuid, mcuid.lower())
            ).fetchone()
            return None if row is None else _entry(row)
        except sqlite3.Error as error:
            raise TemporaryError(f"registry {self._path}: {error}", status=Status.SERVER_ERROR) from error
        except ValueError as error:
            raise UnservableError(f"registry entry of {mcuid}: {error}", status=Status.UNPROPER_FILE_FORMAT) from error

    def __len__(self) -> int:
        count: int = self._database.execute("SELECT count(*) FROM devices").fetchone()[0]
        return count

    def __iter__(self) -> Iterator[RegistryEntry]:
        return (entry for _, entry in self._rows() if isinstance(entry, RegistryEntry))

    def put(self, entries: Iterable[RegistryEntry], *, replace: bool = True) -> None:
        """Add devices or replace them, all or none; without `replace`, none may be there. Raises `RegistryError`."""
        rows = [
            (e.mcuid, e.filename, e.version, e.part, e.handshake and e.handshake.value, int(e.pack), int(e.once))
            for e in entries
        ]
        lower = [(row[0].lower(),) for row in rows if row[0].lower() != row[0]]
        with self._change() as database:
            if not replace:
                for row in rows:
                    query = "SELECT 1 FROM devices WHERE mcuid IN (?, ?)"
                    if database.execute(query, (row[0], row[0].lower())).fetchone():
                        raise RegistryError(f"{row[0]} is there already")
            database.executemany("DELETE FROM devices WHERE mcuid = ?", lower)
            database.executemany(f"INSERT OR REPLACE INTO devices ({_COLUMNS}) VALUES (?,?,?,?,?,?,?)", rows)

    def remove(self, mcuids: Collection[str]) -> None:
        """Drop these devices, well-formed or not, all or none; raises `RegistryError`."""
        with self._change() as database:
            rows = [(name,) for mcuid in mcuids for name in {mcuid, mcuid.lower()}]
            database.executemany("DELETE FROM devices WHERE mcuid = ?", rows)

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    @contextlib.contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        """A transaction: all or none; raises `RegistryError`."""
        try:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
            except BaseException:
                self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")
        except (sqlite3.Error, UnicodeEncodeError) as error:  # a file name may hold bytes that are no text
            raise RegistryError(f"registry {self._path}: {error}") from error

    def _rows(self) -> Iterator[tuple[tuple[Any, ...], RegistryEntry | ValueError]]:
        """Every row, and what it means or why it means nothing; raises `RegistryError`."""
        try:
            for row in self._database.execute(f"SELECT {_COLUMNS} FROM devices ORDER BY mcuid"):
                try:
                    yield row, _entry(row)
                except ValueError as error:
                    yield row, error
        except sqlite3.Error as error:
            raise RegistryError(f"registry {self._path}: {error}") from error


def _open_read_only(path: Path) -> sqlite3.Connection:
    """The file as it is; raises `RegistryError`."""
    uri = path.absolute().as_uri()
    for mode in ("mode=ro", "mode=ro&immutable=1"):  # the latter where even a lock cannot be written
        database = None
        try:
            database = sqlite3.connect(f"{uri}?{mode}", uri=True, timeout=BUSY_TIMEOUT, isolation_level=None)
            database.execute(f"SELECT {_COLUMNS} FROM devices LIMIT 0")
            return database
        except sqlite3.Error as error:
            if database is not None:
                database.close()
            trouble = error
    raise RegistryError(f"registry {path}: {trouble}, expected an SQLite registry") from trouble


def _open(path: Path, busy_timeout_s: float) -> sqlite3.Connection:
    """The file with its table; raises `RegistryError`."""
    try:
        database = sqlite3.connect(path, timeout=busy_timeout_s, isolation_level=None, check_same_thread=False)
    except sqlite3.Error as error:
        raise RegistryError(f"registry {path}: {error}, expected an SQLite file or a folder to make it in") from error
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute(_SCHEMA)
        database.execute(f"SELECT {_COLUMNS} FROM devices LIMIT 0")
    except sqlite3.Error as error:
        database.close()
        raise RegistryError(f"registry {path}: {error}, expected an SQLite registry") from error
    return database


def _inode(path: Path) -> tuple[int, int] | None:
    """Which file stands at `path`; None where there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _entry(row: tuple[Any, ...]) -> RegistryEntry:
    """An entry from a row, which anybody may have written; raises `ValueError`."""
    mcuid, filename, version, part, handshake, pack, once = row
    for value in (mcuid, filename, version, part or ""):
        if not isinstance(value, str):
            raise ValueError(f"{value!r}, expected text")
    return RegistryEntry(
        mcuid=mcuid,
        filename=filename,
        version=version,
        part=part,
        handshake=None if handshake is None else Handshake(handshake),
        pack=bool(pack),
        once=bool(once),
    )
