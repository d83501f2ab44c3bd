"""A registry in a text file, which anybody may edit while the server runs.

The file is read again when it changes, a large one beside the loop. While it cannot be read, or is being written, what
was read last stays in force.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Final

from fota_protocol.identity import McuidFormat

from ..errors import RegistryError
from .entry import Problem, RegistryEntry
from .lines import Content, put_lines, read_lines, remove_lines

MAX_SIZE: Final = 64 * 1024 * 1024
"""Largest registry in bytes, about half a million devices: a bound on memory."""

INLINE_SIZE: Final = 65_536
"""Largest registry in bytes, some 1,500 devices, that is read at once by whoever looks something up: 10 ms."""

SETTLE: Final = 1.0
"""Seconds that a file may look half written before it counts as meant."""

LOCK_TIMEOUT: Final = 30.0
"""Seconds that a change waits for another process's change of a registry in the same folder."""

_LOCK_POLL: Final = 0.02

_BREATH_S: Final = 0.001
"""Seconds that a reader beside the loop rests after every millisecond of work: it must not keep the interpreter."""


class TextRegistry:
    """A registry in a text file; raises `RegistryError` when it cannot be read at first.

    `mcuid_format` None takes either format. With `may_be_missing` a file that is not there has no devices, and is made
    when one is put.
    """

    def __init__(self, path: Path, *, mcuid_format: McuidFormat | None = None, may_be_missing: bool = False) -> None:
        self._path = path
        self._mcuid_format = mcuid_format
        self._content = Content({}, (), is_whole=True)
        self._stamp: tuple[int, int, int] | None = None
        self._trouble: Problem | None = None
        self._half: tuple[tuple[int, int, int], float] | None = None
        """A content that looks half written, and when it was first seen, on the system's monotonic clock."""
        self._reading: Future[tuple[tuple[int, int, int], Content]] | None = None
        self._closed = False
        try:
            self._stamp, self._content = self._read()
        except FileNotFoundError as error:
            if not may_be_missing:
                raise self._unreadable(error) from error
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

    def put(self, entries: Iterable[RegistryEntry], *, replace: bool = True) -> None:
        """Add devices or replace their lines, all or none; every other line stays. Raises `RegistryError`."""
        self._rewrite(lambda text: put_lines(text, entries, replace=replace))

    def remove(self, mcuids: Collection[str]) -> None:
        """Drop the lines of these devices, all or none; every other line stays. Raises `RegistryError`."""
        self._rewrite(lambda text: remove_lines(text, mcuids))

    def close(self) -> None:
        """Nothing is held open; a reader beside the loop is left to end by itself."""
        self._closed = True

    def _refresh(self) -> None:
        try:
            self._take_what_was_read()
            stamp = _stamp(self._path)
            if stamp != self._stamp and self._reading is None and not self._is_half(stamp):
                if stamp[1] > INLINE_SIZE:
                    self._read_beside()
                else:
                    self._accept(*self._read())
            self._trouble = None
        except (OSError, RegistryError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            self._trouble = Problem(0, f"cannot be read again ({reason}); what was read last is in force")

    def _accept(self, stamp: tuple[int, int, int], content: Content) -> None:
        """Put `content` in force, unless it looks like half of what is being written, and has not for long."""
        now = time.monotonic()
        if self._half is None or self._half[0] != stamp:
            self._half = stamp, now
        if content.is_whole or not self._content.entries or now - self._half[1] >= SETTLE:
            self._stamp, self._content, self._half = stamp, content, None

    def _is_half(self, stamp: tuple[int, int, int]) -> bool:
        """Whether the file was seen to look half written a moment ago, and is the same: it need not be read again."""
        return self._half is not None and self._half[0] == stamp and time.monotonic() - self._half[1] < SETTLE

    def _read(self, breathe: Callable[[], object] | None = None) -> tuple[tuple[int, int, int], Content]:
        stamp = _stamp(self._path)  # first: what changes from here on is seen the next time
        if stamp[1] > MAX_SIZE:
            raise RegistryError(f"registry {self._path}: {stamp[1]} bytes, expected at most {MAX_SIZE}")
        return stamp, read_lines(self._path.read_bytes(), self._mcuid_format, breathe=breathe)

    def _read_beside(self) -> None:
        """Read the file in a thread; the look-up that comes after its end has it."""
        reading: Future[tuple[tuple[int, int, int], Content]] = Future()
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
            self._accept(*reading.result())

    def _rewrite(self, change: Callable[[bytes], bytes]) -> None:
        """Replace the file in one step, one writer at a time: nobody reads half of it, and no change is lost."""
        path = Path(os.path.realpath(self._path))  # a link stays one
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with _one_at_a_time(path.parent):
                try:
                    text, mode = path.read_bytes(), path.stat()
                except FileNotFoundError:
                    text, mode = b"", None
                with temporary.open("wb") as file:
                    if mode is not None:
                        os.chmod(file.fileno(), mode.st_mode & 0o7777)
                        with contextlib.suppress(PermissionError):  # only root may give a file away
                            os.chown(file.fileno(), mode.st_uid, mode.st_gid)
                    file.write(change(text))
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(path)
            self._stamp = None  # whoever looks next reads it
        except OSError as error:
            raise RegistryError(f"cannot write registry {self._path}: {error.strerror}") from error
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)

    def _unreadable(self, error: OSError) -> RegistryError:
        return RegistryError(
            f"registry {self._path}: {error.strerror}, expected a text file with one 'MCUID,filename,version' per line"
        )


@contextlib.contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Keep other processes of this program from changing registries of `folder` meanwhile, where that can be said."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        limit = time.monotonic() + LOCK_TIMEOUT
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > limit:
                    raise RegistryError(f"{folder}: locked by another process for {LOCK_TIMEOUT:g} s") from None
                time.sleep(_LOCK_POLL)
        yield
    finally:
        os.close(descriptor)


def _stamp(path: Path) -> tuple[int, int, int]:
    status = os.stat(path)
    return status.st_mtime_ns, status.st_size, status.st_ino
