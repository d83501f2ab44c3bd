"""Which device gets which firmware: one interface, two ways to keep it (a text file, SQLite)."""

import contextlib
from pathlib import Path

from fota_protocol.identity import McuidFormat

from .entry import Problem, Registry, RegistryEntry, check_is_file, normal_mcuid
from .lines import format_line
from .sqlite import BUSY_TIMEOUT, SQLITE_MAGIC, SqliteRegistry
from .text import TextRegistry

__all__ = [
    "Problem",
    "Registry",
    "RegistryEntry",
    "SqliteRegistry",
    "TextRegistry",
    "format_line",
    "is_sqlite",
    "normal_mcuid",
    "open_registry",
]

_SQLITE_SUFFIXES = frozenset({".sqlite", ".sqlite3", ".db"})


def open_registry(
    path: Path,
    *,
    mcuid_format: McuidFormat | None = None,
    may_be_missing: bool = False,
    read_only: bool = False,
    busy_timeout_s: float = BUSY_TIMEOUT,
) -> Registry:
    """Open the registry at `path`: SQLite by its content or, where there is no file yet, by its name.

    Lines of a text file whose MCUID has not `mcuid_format` are reported as malformed; None takes either format.
    With `read_only`, nothing is made and nothing changed; `busy_timeout_s` is how long SQLite waits for another
    process. Raises `RegistryError` when it cannot be read, or when a text file is missing and may not be.
    """
    check_is_file(path)
    if is_sqlite(path):
        return SqliteRegistry(path, read_only=read_only, busy_timeout_s=busy_timeout_s)
    return TextRegistry(path, mcuid_format=mcuid_format, may_be_missing=may_be_missing)


def is_sqlite(path: Path) -> bool:
    """Whether `path` is SQLite: by its content or, where there is none yet, by its name."""
    with contextlib.suppress(OSError):
        if path.is_file():  # whoever opens a pipe waits for its other end
            with path.open("rb") as file:
                if start := file.read(len(SQLITE_MAGIC)):
                    return start == SQLITE_MAGIC
    return path.suffix.lower() in _SQLITE_SUFFIXES
