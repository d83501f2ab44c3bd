"""The text of a registry: one `MCUID,filename,version[,field…]` per line, as the reference server has it.

White space, blank lines and `#` comments are ignored. A malformed line is reported by its number and disables only
itself; so does an MCUID that no identification of the server's format can have. Writing keeps every line that it is not
about. Nothing here opens a file.
"""

import codecs
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from fota_protocol.errors import RemoteProtocolError
from fota_protocol.identity import McuidFormat, parse_mcuid

from ..errors import RegistryError
from .entry import Problem, RegistryEntry, entry_from_fields, normal_mcuid

BREATH: Final = 200
"""Lines after which `read_lines` lets others have their turn: about a millisecond's work."""

PIECE: Final = 4096
"""Bytes from which on a file may be written in pieces."""


@dataclass(frozen=True, slots=True)
class Content:
    """What a text says: entries by MCUID, and what is wrong with its other lines."""

    entries: Mapping[str, RegistryEntry]
    problems: tuple[Problem, ...]
    is_whole: bool
    """Whether it looks like all of a file; not so when it is empty, or ends within a line that makes no sense, or
    within any line where it is large enough to be written in pieces."""


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
    ends_in_line = not text.endswith((b"\n", b"\r"))
    makes_no_sense = bool(problems) and problems[-1].line == len(lines)
    # Editors and programs write small files at once, larger ones in pieces.
    cut = ends_in_line and (makes_no_sense or len(text) >= PIECE)
    return Content(entries, tuple(problems), is_whole=bool(text.strip()) and not cut)


def put_lines(text: bytes, entries: Iterable[RegistryEntry], *, replace: bool = True) -> bytes:
    """`text` with these devices added, or in place of the lines that they have; raises `RegistryError`.

    Without `replace`, a device that has a line already is an error.
    """
    wanted = {entry.mcuid: entry for entry in entries}
    end = b"\r\n" if b"\r\n" in text else b"\n"
    lines = []
    for line in _lines(text):
        entry = wanted.pop(_mcuid_of(line), None)
        if entry is not None:
            if not replace:
                raise RegistryError(f"{entry.mcuid} is there already")
            _, mark, comment = line.partition(b"#")
            line = format_line(entry) + (b"  " + mark + comment if mark else b"")
        lines.append(line)
    lines += map(format_line, wanted.values())
    return _mark(text) + b"".join(line + end for line in lines)


def remove_lines(text: bytes, mcuids: Collection[str]) -> bytes:
    """`text` without the lines of these devices, malformed ones and repetitions too."""
    end = b"\r\n" if b"\r\n" in text else b"\n"
    return _mark(text) + b"".join(line + end for line in _lines(text) if _mcuid_of(line) not in mcuids)


def format_line(entry: RegistryEntry, *, plain: bool = False) -> bytes:
    """An entry as a line without its end; raises `RegistryError` when a line cannot say it.

    `plain` has the three fields that the reference server reads and no other.
    """
    fields = [entry.mcuid, entry.filename, entry.version]
    if not plain:
        fields += [f"part={entry.part}"] if entry.part is not None else []
        fields += [f"handshake={entry.handshake.value}"] if entry.handshake is not None else []
        fields += [name for name in ("pack", "once") if getattr(entry, name)]
    line = ",".join(fields).encode("utf-8", "surrogateescape")
    try:
        well = plain or _parse(line.partition(b"#")[0].strip(), None) == entry
        well = well and len(_lines(line)) == 1 and line.count(b",") == len(fields) - 1 and b"#" not in line
    except ValueError:
        well = False
    if not well:
        raise RegistryError(
            f"file name {entry.filename!r} of {entry.mcuid}: expected one that a text registry can say, in UTF-8, "
            "without comma, # and line end, and without white space at its ends"
        )
    return line


def _lines(text: bytes) -> list[bytes]:
    """Bytes have only the line ends that an editor counts; text has a dozen."""
    return text.removeprefix(codecs.BOM_UTF8).splitlines()


def _mark(text: bytes) -> bytes:
    return codecs.BOM_UTF8 if text.startswith(codecs.BOM_UTF8) else b""


def _mcuid_of(line: bytes) -> str:
    """The device that a line is about, well-formed or not; empty where it is about none."""
    try:
        return normal_mcuid(line.partition(b"#")[0].partition(b",")[0].strip().decode("ascii"))
    except ValueError:
        return ""


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
