"""A registry in SQLite: one row a device, changed by others while the server runs.

A file that is put in its place (a back-up, what a configuration tool writes) is opened beside the look-ups once it is
whole; until then the file that was opened before stays in force. SQLite itself would not survive that: what is left of
the old file in `-wal` and `-shm` belongs to these names and would be taken for the new one's, so it is written back and
taken away first: before the new file is opened, or when the registry is closed.
"""

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any, Final, NamedTuple

from fota_protocol.server import Handshake
from fota_protocol.status import Status

from ..errors import KnownDeviceError, RegistryError, TemporaryError, UnservableError
from .entry import Problem, RegistryEntry, check_known, reason_of
from .folder_lock import one_at_a_time

SQLITE_MAGIC: Final = b"SQLite format 3\x00"
"""How every SQLite file begins."""

BUSY_TIMEOUT: Final = 0.25
"""Seconds a look-up waits for another process's write; longer would hold up every session."""

FOLLOW_INTERVAL: Final = 1.0
"""Seconds until a file that stands in the registry's place, and could not be read, is tried again."""

CLOSE_TIMEOUT: Final = 5.0
"""Seconds that closing waits for an opening in flight, and as long for another process's change."""

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
_COLUMNS: Final = "mcuid, filename, version, part, handshake, pack, once"

_LOG: Final = "-wal"
_SHARED: Final = "-shm"

_MOVED: Final = "moved while it was looked at"

_STEPS: Final = 10_000
"""Steps of SQLite's machine, a millisecond's at most, after which a check looks whether it is still wanted."""

_ALONE: Final = "mode=ro&immutable=1"
"""How a file is opened without a look at, or a lock on, anything beside it."""

_File = tuple[int, int] | None
"""Which file stands somewhere, by device and inode; None where there is none."""


class _Files(NamedTuple):
    """The files of an open database."""

    main: _File
    log: _File
    shared: _File


_Opening = Future[tuple[sqlite3.Connection, _Files]]


class SqliteRegistry:
    """A registry in an SQLite file, made where there is none; raises `RegistryError` when it cannot be used.

    With `read_only` nothing is made and nothing changed. `busy_timeout_s` is how long another process's write is waited
    for.
    """

    def __init__(self, path: Path, *, read_only: bool = False, busy_timeout_s: float = BUSY_TIMEOUT) -> None:
        self._path = path
        self._is_followed = not read_only
        if read_only:
            self._database, self._files = _open_read_only(path), _files(path)
        else:
            with contextlib.suppress(OSError):  # which SQLite has words for
                _make_room(path)
            self._database, self._files = _open(path, busy_timeout_s)
        self._trouble: tuple[Problem, ...] = ()
        self._readings = 1
        self._closed = False
        self._opening: _Opening | None = None
        self._try_again_at = 0.0
        """Seconds on the system's monotonic clock."""

    @property
    def name(self) -> str:
        """The file."""
        return str(self._path)

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Why the file that stands there now is not in force. A bad row is reported when its device comes."""
        self._follow()
        return self._trouble

    @property
    def readings(self) -> int:
        """How often a file was opened."""
        return self._readings

    def audit(self) -> tuple[Problem, ...]:
        """Malformed rows; raises `RegistryError` when the file cannot be read."""
        return tuple(
            Problem(0, f"entry of {row[0]!r}: {wrong}") for row, wrong in self._rows() if isinstance(wrong, ValueError)
        )

    def find(self, mcuid: str) -> RegistryEntry | None:
        """The entry of a device; raises `UnservableError` when its row is malformed or the file cannot be read."""
        self._follow()
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

    def put(self, entries: Iterable[RegistryEntry], *, replace: bool = True) -> int:
        """Add devices or replace them, all or none; without `replace`, none may be there. Raises `RegistryError`.

        Returns how many were there, well-formed or not.
        """
        rows = [
            (e.mcuid, e.filename, e.version, e.part, e.handshake and e.handshake.value, int(e.pack), int(e.once))
            for e in entries
        ]
        with self._change() as database:
            there = self._there(database, [row[0] for row in rows])
            if there and not replace:
                raise KnownDeviceError(f"{next(iter(there))} is there already")
            database.executemany("DELETE FROM devices WHERE mcuid = ?", [(mcuid.lower(),) for mcuid in there])
            database.executemany(f"INSERT OR REPLACE INTO devices ({_COLUMNS}) VALUES (?,?,?,?,?,?,?)", rows)
        return len(there)

    def remove(self, mcuids: Collection[str], *, may_be_unknown: bool = True) -> None:
        """Drop these devices, well-formed or not, all or none; raises `RegistryError`."""
        with self._change() as database:
            if not may_be_unknown:
                check_known(self.name, mcuids, self._there(database, mcuids))
            rows = [(name,) for mcuid in mcuids for name in {mcuid, mcuid.lower()}]
            database.executemany("DELETE FROM devices WHERE mcuid = ?", rows)

    def _there(self, database: sqlite3.Connection, mcuids: Iterable[str]) -> dict[str, None]:
        """Those of `mcuids` that have a row, in their order."""
        query = "SELECT 1 FROM devices WHERE mcuid IN (?, ?)"
        return {mcuid: None for mcuid in mcuids if database.execute(query, (mcuid, mcuid.lower())).fetchone()}

    def close(self) -> None:
        """Close the file; where another one stands in its place, leave nothing that SQLite would take for that one's.

        Takes up to twice `CLOSE_TIMEOUT` when another process holds the folder.
        """
        self._closed = True
        if self._opening is not None:
            wait([self._opening], CLOSE_TIMEOUT)
        if self._is_followed and _file(self._path) != self._files.main:
            with contextlib.ExitStack() as stack, contextlib.suppress(OSError, RegistryError):
                with contextlib.suppress(OSError, RegistryError):  # who does not get the lock must do it all the same
                    stack.enter_context(one_at_a_time(self._path, CLOSE_TIMEOUT))
                there = _file(self._path)
                if there != self._files.main:
                    _take_leftovers_away(self._path, self._database, self._files, there)
        self._database.close()
        if self._opening is not None:
            self._opening.add_done_callback(_close_what_was_opened)

    def _follow(self) -> None:
        """Turn to another file that was put in place of the one that is open, once it has been opened beside."""
        if not self._is_followed:
            return
        if self._opening is None:
            there = _files(self._path)
            if there == self._files:
                self._trouble = ()
            elif there.main is None:
                self._trouble = (Problem(0, "is not there any more; the one that was opened is in force"),)
            elif there.main == self._files.main:
                self._open_again()
            elif time.monotonic() >= self._try_again_at:
                self._open_beside()
        elif self._opening.done():
            opening, self._opening = self._opening, None
            try:
                database, files = opening.result()
            except (OSError, sqlite3.Error, RegistryError) as error:
                self._try_again_at = time.monotonic() + FOLLOW_INTERVAL
                reason = reason_of(error, self.name)
                message = f"another file stands in its place ({reason}); the one that was opened is in force"
                self._trouble = (Problem(0, message),)
            else:
                self._database.close()
                self._put_in_force(database, files)

    def _put_in_force(self, database: sqlite3.Connection, files: _Files) -> None:
        self._database, self._files, self._trouble = database, files, ()
        self._readings += 1

    def _open_again(self) -> None:
        """It was away for a moment, in which somebody took its `-wal` and `-shm` away: others write to new ones.

        It has to be closed first: SQLite keeps what belongs to `-shm` once in a process for each file.
        """
        self._database.close()
        try:
            self._put_in_force(*_open(self._path, BUSY_TIMEOUT, expected=self._files.main))
        except RegistryError as error:
            self._trouble = (Problem(0, f"cannot be opened again ({reason_of(error, self.name)})"),)

    def _open_beside(self) -> None:
        """Open in a thread what stands at the path; the look-up that comes after its end has it."""
        opening: _Opening = Future()
        self._opening = opening
        old, old_files = self._database, self._files

        def work() -> None:
            try:
                with one_at_a_time(self._path):
                    there = _file(self._path)
                    if there in (None, old_files.main):
                        raise RegistryError(f"registry {self._path}: {_MOVED}")
                    _check_whole(self._path, old_files, lambda: self._closed)
                    if self._closed:  # what is left of the old one is no longer ours to know
                        raise RegistryError(f"registry {self._path}: closed")
                    _take_leftovers_away(self._path, old, old_files, there)
                    opening.set_result(_open(self._path, BUSY_TIMEOUT, expected=there))
            except BaseException as error:
                opening.set_exception(error)

        threading.Thread(target=work, name="fota-registry", daemon=True).start()

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


def _open_read_only(path: Path, modes: tuple[str, ...] = ("mode=ro", _ALONE)) -> sqlite3.Connection:
    """The file as it is; raises `RegistryError`."""
    uri = path.absolute().as_uri()
    for mode in modes:
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


def _open(path: Path, busy_timeout_s: float, *, expected: _File = None) -> tuple[sqlite3.Connection, _Files]:
    """The file with its table, which is `expected` or, without, made where there is none; raises `RegistryError`."""
    before = _file(path)  # first: what is put in its place from here on is seen the next time
    mode = "rwc" if expected is None else "rw"
    try:
        database = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode={mode}",
            uri=True,
            timeout=busy_timeout_s,
            isolation_level=None,
            check_same_thread=False,
        )
    except sqlite3.Error as error:
        raise RegistryError(f"registry {path}: {error}, expected an SQLite file or a folder to make it in") from error
    try:
        if expected is not None:
            _check_stands(path, expected)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute(_SCHEMA)
        database.execute(f"SELECT {_COLUMNS} FROM devices LIMIT 0")
    except sqlite3.Error as error:
        database.close()
        raise RegistryError(f"registry {path}: {error}, expected an SQLite registry") from error
    except RegistryError:
        database.close()
        raise
    files = _files(path)
    return database, files._replace(main=expected or before or files.main)


def _close_what_was_opened(opening: _Opening) -> None:
    if opening.exception() is None:
        opening.result()[0].close()


def _make_room(path: Path) -> None:
    """Where there is no file, begin one without what is left of a deleted one; raises `OSError`."""
    if _file(path) is None:
        with one_at_a_time(path):
            if _file(path) is None:
                for suffix in (_LOG, _SHARED):
                    Path(os.path.realpath(path) + suffix).unlink(missing_ok=True)
                path.touch(0o644)


def _check_whole(path: Path, old: _Files, is_unwanted: Callable[[], bool]) -> None:
    """Raise `RegistryError` or `sqlite3.Error` unless `path` is a registry from its first to its last page.

    `is_unwanted` ends that early.
    """
    files = _files(path)
    is_clean = not {files.log, files.shared} & ({old.log, old.shared} - {None})
    with contextlib.closing(_open_read_only(path, ("mode=ro", _ALONE) if is_clean else (_ALONE,))) as database:
        database.set_progress_handler(is_unwanted, _STEPS)
        found = database.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        raise RegistryError(f"registry {path}: {found}")


def _take_leftovers_away(path: Path, old: sqlite3.Connection, files: _Files, there: _File) -> None:
    """Part the names at `path` from the database that stood there; who has it open keeps it, whole.

    Raises `RegistryError` when `there` is not what stands there now: those names may be in use again.
    """
    with contextlib.suppress(sqlite3.Error):
        old.execute("PRAGMA wal_checkpoint(PASSIVE)")  # it may live on under another name
    _check_stands(path, there)
    for suffix, file in ((_LOG, files.log), (_SHARED, files.shared)):
        if file is not None and _file(other := os.path.realpath(path) + suffix) == file:
            os.unlink(other)


def _check_stands(path: Path, file: _File) -> None:
    if _file(path) != file:
        raise RegistryError(f"registry {path}: {_MOVED}")


def _files(path: Path) -> _Files:
    """SQLite's own files stand beside the file that a link leads to."""
    real = os.path.realpath(path) if os.path.islink(path) else str(path)  # each look-up asks; most are no links
    return _Files(_file(real), _file(real + _LOG), _file(real + _SHARED))


def _file(path: str | Path) -> _File:
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
