"""Which device gets which firmware: one interface, two ways to keep it (a text file, SQLite)."""

from pathlib import Path

from fota_protocol.identity import McuidFormat

from .entry import Problem, Registry, RegistryEntry, normal_mcuid
from .lines import format_line
from .sqlite import SQLITE_MAGIC, SqliteRegistry
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


def open_registry(path: Path, *, mcuid_format: McuidFormat | None = None, may_be_missing: bool = False) -> Registry:
    """Open the registry at `path`: SQLite by its content or, where there is no file yet, by its name.

    Lines of a text file whose MCUID has not `mcuid_format` are reported as malformed; None takes either format.
    Raises `RegistryError` when it cannot be read, or when a text file is missing and may not be.
    """
    if is_sqlite(path):
        return SqliteRegistry(path)
    return TextRegistry(path, mcuid_format=mcuid_format, may_be_missing=may_be_missing)


def is_sqlite(path: Path) -> bool:
    """Whether `path` is SQLite: by its content or, where there is no file yet, by its name."""
    try:
        with path.open("rb") as file:
            return file.read(len(SQLITE_MAGIC)) == SQLITE_MAGIC
    except OSError:
        return path.suffix.lower() in _SQLITE_SUFFIXES
