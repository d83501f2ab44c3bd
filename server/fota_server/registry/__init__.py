"""Which device gets which firmware: one interface, two ways to keep it (a text file, SQLite)."""

from pathlib import Path

from fota_protocol.identity import McuidFormat

from .entry import Problem, Registry, RegistryEntry
from .sqlite import SQLITE_MAGIC, SqliteRegistry
from .text import TextRegistry

__all__ = ["Problem", "Registry", "RegistryEntry", "SqliteRegistry", "TextRegistry", "open_registry"]

_SQLITE_SUFFIXES = frozenset({".sqlite", ".sqlite3", ".db"})


def open_registry(path: Path, *, mcuid_format: McuidFormat | None = None) -> Registry:
    """Open the registry at `path`: SQLite by its content or, where there is no file yet, by its name.

    Lines of a text file whose MCUID has not `mcuid_format` are reported as malformed; None takes either format.
    Raises `RegistryError` when it cannot be read, or when a text file is missing.
    """
    try:
        with path.open("rb") as file:
            is_sqlite = file.read(len(SQLITE_MAGIC)) == SQLITE_MAGIC
    except OSError:
        is_sqlite = path.suffix.lower() in _SQLITE_SUFFIXES
    return SqliteRegistry(path) if is_sqlite else TextRegistry(path, mcuid_format=mcuid_format)
