"""The text of a registry: one `MCUID,filename,version[,field…]` per line, as the reference server has it.

White space, blank lines and `#` comments are ignored. A malformed line is reported by its number and disables only
itself; so does an MCUID that no identification of the server's format can have. Writing keeps every line that it is not
about. Nothing here opens a file.
"""

import codecs
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from fota_protocol.errors import RemoteProtocolError
from fota_protocol.identity import McuidFormat, parse_mcuid

from ..errors import KnownDeviceError, RegistryError
from .entry import Problem, RegistryEntry, entry_from_fields

BREATH: Final = 200
"""Lines after which `read_lines` lets others have their turn: about a millisecond's work."""


@dataclass(frozen=True, slots=True)
class Content:
    """What a text says: entries by MCUID, and what is wrong with its other lines."""

    entries: Mapping[str, RegistryEntry]
    problems: tuple[Problem, ...]
    is_whole: bool
    """Whether it may be all of a file: not so when it is empty, or ends within a line, whose rest may be to come."""


def read_lines(
    text: bytes, mcuid_format: McuidFormat | None = None, *, breathe: Callable[[], object] | None = None
) -> Content:
    """Read a registry; `mcuid_format` None takes either. `breathe` is called every `BREATH` lines."""
    entries: dict[str, RegistryEntry] = {}
    numbers: dict[str, int] = {}
    problems: list[Problem] = []
    lines = _lines(text)
    for number, line in enumerate(lines, start=1):
        if breathe is not None and number % BREATH == 0:
            breathe()
        content = line.partition(b"#")[0].strip()
        if not content:
            continue
        try:
            entry = _parse(content, mcuid_format)
            if entry.mcuid in entries:
                raise ValueError(f"MCUID {entry.mcuid} again, it stands in line {numbers[entry.mcuid]} already")
        except ValueError as error:
            problems.append(Problem(number, str(error)))
        else:
            entries[entry.mcuid] = entry
            numbers[entry.mcuid] = number
    return Content(entries, tuple(problems), is_whole=bool(text.strip()) and text.endswith((b"\n", b"\r")))


def put_lines(text: bytes, entries: Iterable[RegistryEntry], *, replace: bool = True) -> tuple[bytes, int]:
    """`text` with these devices added, or in place of the lines that they have; and how many had one.

    Raises `RegistryError`; without `replace`, a device that has a line already is an error.
    """
    wanted = {entry.mcuid: entry for entry in entries}
    count = len(wanted)
    lines, end = _lines(text, keep_ends=True), _end(text)
    for index, mcuid in _about(lines, wanted.keys()):
        entry = wanted.pop(mcuid, None)
        if entry is not None:  # a repetition stays one
            if not replace:
                raise KnownDeviceError(f"{mcuid} is there already")
            line = lines[index].rstrip(b"\r\n")
            _, mark, comment = line.partition(b"#")
            new = format_line(entry) + (b"  " + mark + comment if mark else b"")
            lines[index] = new + lines[index][len(line) :]
    if lines and wanted and not lines[-1].endswith((b"\n", b"\r")):
        lines[-1] += end
    lines += [format_line(entry) + end for entry in wanted.values()]
    return _mark(text) + b"".join(lines), count - len(wanted)


def remove_lines(text: bytes, mcuids: Collection[str]) -> tuple[bytes, frozenset[str]]:
    """`text` without the lines of these devices, malformed ones and repetitions too; and which of them had one."""
    lines = _lines(text, keep_ends=True)
    found = []
    for index, mcuid in _about(lines, frozenset(mcuids)):
        lines[index] = b""
        found.append(mcuid)
    return _mark(text) + b"".join(lines), frozenset(found)


def format_line(entry: RegistryEntry, *, plain: bool = False) -> bytes:
    """An entry as a line without its end; raises `RegistryError` when a line cannot say it.

    `plain` has the three fields that the reference server reads and no other.
    """
    fields = [entry.mcuid, entry.filename, entry.version]
    if not plain:
        fields += [f"part={entry.part}"] if entry.part is not None else []
        fields += [f"handshake={entry.handshake.value}"] if entry.handshake is not None else []
        fields += [name for name in ("pack", "once") if getattr(entry, name)]
    name = entry.filename
    line = ",".join(fields).encode("utf-8", "surrogateescape")
    if _UNSAYABLE.search(name) or (not plain and (name != name.strip() or not _is_utf8(line))):
        raise RegistryError(
            f"file name {name!r} of {entry.mcuid}: expected one that a text registry can say, in UTF-8, "
            "without comma, # and line end, and without white space at its ends"
        )
    return line


_UNSAYABLE: Final = re.compile("[,#\r\n]")


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _lines(text: bytes, *, keep_ends: bool = False) -> list[bytes]:
    """Bytes have only the line ends that an editor counts; text has a dozen."""
    return text.removeprefix(codecs.BOM_UTF8).splitlines(keep_ends)


def _end(text: bytes) -> bytes:
    return b"\r\n" if b"\r\n" in text else b"\n"


def _mark(text: bytes) -> bytes:
    return codecs.BOM_UTF8 if text.startswith(codecs.BOM_UTF8) else b""


def _about(lines: Iterable[bytes], mcuids: Collection[str]) -> Iterator[tuple[int, str]]:
    """The lines, well-formed or not, that are about one of these devices: index and device."""
    keys = {mcuid.encode() for mcuid in mcuids}
    for index, line in enumerate(lines):
        key = line.partition(b",")[0].partition(b"#")[0].strip().upper()
        if key in keys:
            yield index, key.decode()


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
