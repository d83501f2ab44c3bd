"""A registry in a text file, which anybody may edit while the server runs.

The file is read again when it changes, a large one beside the loop. While it cannot be read, or is being written, what
was read last stays in force. A file that was put in place whole, by renaming, counts at once. One that was written last
may be seen at any moment of that, so what might be half of it (it ends within a line, or takes devices away) has to be
still for a while first. Only the time of the renaming tells: a file that is deleted and written again is a new one too.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

from fota_protocol.identity import McuidFormat

from ..errors import RegistryError
from .entry import Problem, RegistryEntry, check_is_file, check_known, reason_of
from .folder_lock import one_at_a_time
from .lines import Content, put_lines, read_lines, remove_lines
from .sqlite import SQLITE_MAGIC

MAX_SIZE: Final = 64 * 1024 * 1024
"""Largest registry in bytes, about half a million devices: a bound on memory."""

INLINE_SIZE: Final = 65_536
"""Largest registry in bytes, some 1,500 devices, that is read at once by whoever looks something up: 10 ms."""

SETTLE: Final = 1.0
"""Seconds that a file which may be half written has to be still before it counts as meant."""

SETTLE_LIMIT: Final = 10.0
"""Seconds after which what looks half written counts all the same, where somebody writes all the time."""

RETRY_INTERVAL: Final = 1.0
"""Seconds until a file that could not be read is tried again without having changed."""

ATTEMPTS: Final = 10
"""Times that a change is begun when somebody else changes the file meanwhile."""

_T = TypeVar("_T")

_TICK_NS: Final = 20_000_000
"""Nanoseconds by which files' clocks are behind at most: two times that are further apart differ."""

_BREATH_S: Final = 0.001
"""Seconds that a reader beside the loop rests after every millisecond of work: it must not keep the interpreter."""


class _Stamp(NamedTuple):
    """What changes with a file's content."""

    changed_ns: int
    modified_ns: int
    size: int
    inode: int

    @property
    def was_put(self) -> bool:
        """Whether the last that happened to it was no write: it was renamed, or got its time or mode."""
        return self.changed_ns > self.modified_ns


class _Reading(NamedTuple):
    """What a file said."""

    stamp: _Stamp
    content: Content
    may_be_half: bool
    """Whether it might be half of what is being written."""


class _Half(NamedTuple):
    """What may be half written, in seconds on the system's monotonic clock."""

    stamp: _Stamp
    seen_at: float
    began_at: float
    """When the first of several that followed one another was seen."""

    def is_meant(self) -> bool:
        """Whether it has been still for long enough, or nobody lets it be."""
        now = time.monotonic()
        return now - self.seen_at >= SETTLE or now - self.began_at >= SETTLE_LIMIT


class TextRegistry:
    """A registry in a text file; raises `RegistryError` when it cannot be read at first.

    `mcuid_format` None takes either format. With `may_be_missing` a file that is not there has no devices, and is made
    when one is put; one that is there is read when something is asked of it.
    """

    def __init__(self, path: Path, *, mcuid_format: McuidFormat | None = None, may_be_missing: bool = False) -> None:
        self._path = path
        self._mcuid_format = mcuid_format
        self._content = Content({}, (), is_whole=True)
        self._stamp: _Stamp | None = None
        self._trouble: Problem | None = None
        self._half: _Half | None = None
        self._refused: tuple[_Stamp | None, float] = None, 0.0
        """What could not be read, and until when it is not tried again, on the system's monotonic clock."""
        self._readings = 1
        self._reading: Future[_Reading] | None = None
        self._closed = False
        if may_be_missing:
            return
        try:
            self._stamp, self._content, _ = self._read()
        except OSError as error:
            raise self._unreadable(error) from error

    @property
    def name(self) -> str:
        """The file."""
        return str(self._path)

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Malformed lines; and, as line 0, why the file cannot be read again."""
        self._refresh()
        problems = self._content.problems
        return problems if self._trouble is None else (self._trouble, *problems)

    @property
    def readings(self) -> int:
        """How often what the file says was put in force."""
        return self._readings

    def audit(self) -> tuple[Problem, ...]:
        """The same: all lines have been looked at."""
        return self.problems

    def find(self, mcuid: str) -> RegistryEntry | None:
        """The entry of a device; the file is read again first if it has changed, a large one soon after."""
        self._refresh()
        return self._content.entries.get(mcuid)

    def __len__(self) -> int:
        self._refresh()
        return len(self._content.entries)

    def __iter__(self) -> Iterator[RegistryEntry]:
        self._refresh()
        return iter(tuple(self._content.entries.values()))

    def put(self, entries: Iterable[RegistryEntry], *, replace: bool = True) -> int:
        """Add devices or replace their lines, all or none; every other line stays. Raises `RegistryError`.

        Returns how many had a line, well-formed or not.
        """
        devices = tuple(entries)
        return self._rewrite(lambda text: put_lines(text, devices, replace=replace))

    def remove(self, mcuids: Collection[str], *, may_be_unknown: bool = True) -> None:
        """Drop the lines of these devices, all or none; every other line stays. Raises `RegistryError`."""

        def change(text: bytes) -> tuple[bytes, None]:
            text, known = remove_lines(text, mcuids)
            if not may_be_unknown:
                check_known(self.name, mcuids, known)
            return text, None

        self._rewrite(change)

    def close(self) -> None:
        """Nothing is held open; a reader beside the loop is left to end by itself."""
        self._closed = True

    def _refresh(self) -> None:
        try:
            self._take_what_was_read()
            stamp = _stamp(self._path)
            if stamp == self._refused[0] and time.monotonic() < self._refused[1]:
                return
            if stamp != self._stamp and self._reading is None and not self._is_half(stamp):
                if stamp.size > INLINE_SIZE and self._stamp is not None:
                    self._read_beside()
                else:
                    self._accept(self._read())
            if self._reading is None:
                self._trouble = None
        except (OSError, RegistryError) as error:
            reason = reason_of(error, self.name)
            self._trouble = Problem(0, f"cannot be read again ({reason}); what was read last is in force")
            with contextlib.suppress(OSError):
                self._refused = _stamp(self._path), time.monotonic() + RETRY_INTERVAL

    def _accept(self, reading: _Reading) -> None:
        """Put it in force, unless it may be half of what is being written."""
        half, now = self._half, time.monotonic()
        if half is None or half.stamp != reading.stamp:
            half = _Half(reading.stamp, now, now if half is None else half.began_at)
        if reading.may_be_half and not half.is_meant():
            self._half = half
        else:
            self._stamp, self._content, self._half = reading.stamp, reading.content, None
            self._readings += 1

    def _is_half(self, stamp: _Stamp) -> bool:
        """Whether the file was seen a moment ago, may be half written, and is the same: it need not be read again."""
        return self._half is not None and self._half.stamp == stamp and not self._half.is_meant()

    def _read(self, breathe: Callable[[], object] | None = None) -> _Reading:
        stamp = _stamp(self._path)  # first: what changes from here on is seen the next time
        check_is_file(self._path)
        self._check_size(stamp.size)
        with self._path.open("rb") as file:
            text = file.read(len(SQLITE_MAGIC))
            if text == SQLITE_MAGIC:
                raise RegistryError("an SQLite file, expected a text; a server that is started again takes it")
            text += file.read()
        content = read_lines(text, self._mcuid_format, breathe=breathe)
        known = self._content.entries.keys()
        may_be_half = not content.is_whole or not known <= content.entries.keys()
        return _Reading(stamp, content, may_be_half and bool(known) and not stamp.was_put)

    def _read_beside(self) -> None:
        """Read the file in a thread; the look-up that comes after its end has it."""
        reading: Future[_Reading] = Future()
        self._reading = reading

        def breathe() -> None:
            if self._closed:
                raise RegistryError(f"registry {self._path}: closed")
            time.sleep(_BREATH_S)

        def read() -> None:
            try:
                reading.set_result(self._read(breathe))
            except BaseException as error:
                reading.set_exception(error)

        threading.Thread(target=read, name="fota-registry", daemon=True).start()

    def _take_what_was_read(self) -> None:
        if self._reading is not None and self._reading.done():
            reading, self._reading = self._reading, None
            self._accept(reading.result())

    def _rewrite(self, change: Callable[[bytes], tuple[bytes, _T]]) -> _T:
        """Replace the file in one step, one writer at a time: nobody reads half of it, and no change is lost.

        An editor takes no lock: what it has written meanwhile is read, and changed, instead.
        """
        path = Path(os.path.realpath(self._path))  # a link stays one
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with one_at_a_time(path):
                for _ in range(ATTEMPTS):
                    stamp, text = _stamp_or_none(path), b""
                    if stamp is not None:
                        self._check_size(stamp.size)
                        text = path.read_bytes()
                    new, answer = change(text)
                    self._check_size(len(new))
                    _write_beside(temporary, new, path)
                    if _stamp_or_none(path) == stamp:
                        temporary.replace(path)
                        self._stamp = None  # whoever looks next reads it
                        return answer
            raise RegistryError(f"registry {self._path}: changed by somebody else all the time; nothing is written")
        except OSError as error:
            raise RegistryError(f"cannot write registry {self._path}: {error.strerror}") from error
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)

    def _check_size(self, size: int) -> None:
        if size > MAX_SIZE:
            raise RegistryError(f"registry {self._path}: {size} bytes, expected at most {MAX_SIZE}")

    def _unreadable(self, error: OSError) -> RegistryError:
        return RegistryError(
            f"registry {self._path}: {error.strerror}, expected a text file with one 'MCUID,filename,version' per line"
        )


def _write_beside(temporary: Path, content: bytes, like: Path) -> None:
    """Write a file, down to the disk, with mode and owner of the one that it is to replace."""
    with temporary.open("wb") as file:
        with contextlib.suppress(FileNotFoundError):
            status = like.stat()
            os.chmod(file.fileno(), status.st_mode & 0o7777)
            with contextlib.suppress(PermissionError):  # only root may give a file away
                os.chown(file.fileno(), status.st_uid, status.st_gid)
        file.write(content)
        file.flush()
        status = os.fstat(file.fileno())  # written before it is renamed: nobody takes it for half written
        os.utime(file.fileno(), ns=(status.st_atime_ns, status.st_mtime_ns - _TICK_NS))
        os.fsync(file.fileno())


def _stamp(path: Path) -> _Stamp:
    status = os.stat(path)
    return _Stamp(status.st_ctime_ns, status.st_mtime_ns, status.st_size, status.st_ino)


def _stamp_or_none(path: Path) -> _Stamp | None:
    try:
        return _stamp(path)
    except FileNotFoundError:
        return None
