"""The reference server's registry: a text file with one `MCUID,filename,version[,field…]` per line.

White space, blank lines and `#` comments are ignored. A malformed line is reported by its number and disables only
itself; so does an MCUID that no identification of the server's format can have. The file is read again when it changes;
while it cannot be read, what was read last stays in force.
"""

import codecs
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from fota_protocol.errors import RemoteProtocolError
from fota_protocol.identity import McuidFormat, parse_mcuid

from ..errors import RegistryError
from .entry import Problem, RegistryEntry, entry_from_fields

MAX_SIZE: Final = 64 * 1024 * 1024
"""Largest registry in bytes, about half a million devices: a bound on memory."""


class TextRegistry:
    """A registry in a text file; raises `RegistryError` when it cannot be read at first. None takes either format."""

    def __init__(self, path: Path, *, mcuid_format: McuidFormat | None = None) -> None:
        self._path = path
        self._mcuid_format = mcuid_format
        self._entries: dict[str, RegistryEntry] = {}
        self._problems: tuple[Problem, ...] = ()
        self._stamp: tuple[int, int, int] | None = None
        self._trouble: Problem | None = None
        try:
            self._load()
        except OSError as error:
            raise RegistryError(
                f"registry {path}: {error.strerror}, expected a text file with one 'MCUID,filename,version' per line"
            ) from error

    @property
    def name(self) -> str:
        """The file."""
        return str(self._path)

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Malformed lines; and, as line 0, why the file cannot be read again."""
        self._refresh()
        return self._problems if self._trouble is None else (self._trouble, *self._problems)

    def find(self, mcuid: str) -> RegistryEntry | None:
        """The entry of a device; the file is read again first if it has changed."""
        self._refresh()
        return self._entries.get(mcuid)

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[RegistryEntry]:
        return iter(tuple(self._entries.values()))

    def close(self) -> None:
        """Nothing is held open."""

    def _refresh(self) -> None:
        try:
            if self._stamp != _stamp(self._path):
                self._load()
            self._trouble = None
        except (OSError, RegistryError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            self._trouble = Problem(0, f"cannot be read again ({reason}); what was read last is in force")

    def _load(self) -> None:
        stamp = _stamp(self._path)
        if stamp[1] > MAX_SIZE:
            raise RegistryError(f"registry {self._path}: {stamp[1]} bytes, expected at most {MAX_SIZE}")
        entries: dict[str, RegistryEntry] = {}
        lines: dict[str, int] = {}
        problems: list[Problem] = []
        # Bytes have only the line ends that an editor counts; text has a dozen.
        for number, line in enumerate(self._path.read_bytes().removeprefix(codecs.BOM_UTF8).splitlines(), start=1):
            content = line.partition(b"#")[0].strip()
            if not content:
                continue
            try:
                entry = _parse(content, self._mcuid_format)
                if entry.mcuid in entries:
                    raise ValueError(f"MCUID {entry.mcuid} again, it stands in line {lines[entry.mcuid]} already")
            except ValueError as error:
                problems.append(Problem(number, str(error)))
            else:
                entries[entry.mcuid] = entry
                lines[entry.mcuid] = number
        self._entries, self._problems, self._stamp = entries, tuple(problems), stamp


def _parse(content: bytes, mcuid_format: McuidFormat | None) -> RegistryEntry:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{content[:80]!r}, expected UTF-8") from None
    parts = [part.strip() for part in text.split(",")]
    if len(parts) < 3:
        raise ValueError(f"{text[:80]!r}, expected MCUID,filename,version")
    if mcuid_format is not None:
        _check_format(parts[0], mcuid_format)
    fields = {}
    for field in parts[3:]:
        name, _, value = field.partition("=")
        fields[name.strip()] = value.strip()
    return entry_from_fields(parts[0], parts[1], parts[2], fields)


def _check_format(mcuid: str, mcuid_format: McuidFormat) -> None:
    try:
        suffix = parse_mcuid(mcuid, mcuid_format).suffix
    except RemoteProtocolError as error:
        raise ValueError(str(error)) from None
    if suffix:
        raise ValueError(f"MCUID {mcuid!r}, expected 25 decimal digits without a suffix")


def _stamp(path: Path) -> tuple[int, int, int]:
    status = os.stat(path)
    return status.st_mtime_ns, status.st_size, status.st_ino
