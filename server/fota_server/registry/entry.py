"""What a registry knows of a device, and what every registry can do."""

import re
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from fota_protocol.errors import RemoteProtocolError, UnknownPartError
from fota_protocol.frames import normal_version
from fota_protocol.identity import McuidFormat, parse_mcuid
from fota_protocol.parts import part as find_part
from fota_protocol.server import Handshake

from ..errors import RegistryError


@dataclass(frozen=True, slots=True)
class RegistryEntry:
    """One device: the firmware it is to have, and what is special about it. Raises `ValueError` for bad values."""

    mcuid: str
    filename: str
    """A file in the firmware folder; `/` leads into folders below it, never out."""
    version: str
    """1 or 2 hexadecimal digits, upper case."""
    part: str | None = None
    """The part's name; the image must fit into its application flash. None: any image is served."""
    handshake: Handshake | None = None
    """None: the server's."""
    pack: bool = False
    """Whether the image is re-cut into long records."""
    once: bool = False
    """Whether the device is left alone after one success."""

    def __post_init__(self) -> None:
        if not self.filename:
            raise ValueError("no file name")
        object.__setattr__(self, "mcuid", normal_mcuid(self.mcuid))
        object.__setattr__(self, "version", normal_version(self.version))
        if self.part is not None:
            try:
                object.__setattr__(self, "part", find_part(self.part).name)
            except UnknownPartError as error:
                raise ValueError(str(error)) from error


@dataclass(frozen=True, slots=True)
class Problem:
    """An entry of a registry that disables only itself."""

    line: int
    """Where it stands; 0 where there are no lines."""
    message: str


class Registry(Protocol):
    """A source of entries. Looking up never fails because of another device's entry."""

    @property
    def name(self) -> str:
        """Where it is kept, for messages."""

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What is known to be wrong with it at this moment; the devices of these lines are unknown. Quick."""

    @property
    def readings(self) -> int:
        """How often what it says was put in force: it grows when a file was changed or replaced, and has been read."""

    def audit(self) -> tuple[Problem, ...]:
        """All that is wrong with it: every entry is looked at. May be slow."""

    def find(self, mcuid: str) -> RegistryEntry | None:
        """The entry of a device; None when it is unknown. Raises `UnservableError` where its entry is malformed."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[RegistryEntry]:
        """Every entry that is well-formed."""

    def put(self, entries: Iterable[RegistryEntry], *, replace: bool = True) -> int:
        """Add devices or replace them, all or none; without `replace`, none may be there. Raises `RegistryError`.

        Returns how many were there, well-formed or not.
        """

    def remove(self, mcuids: Collection[str], *, may_be_unknown: bool = True) -> None:
        """Drop these devices, well-formed or not, all or none. Raises `RegistryError`."""

    def close(self) -> None: ...


def normal_mcuid(text: str) -> str:
    """An MCUID as sessions report it: in either format, hexadecimal digits in upper case; raises `ValueError`."""
    if _NORMAL_MCUID.fullmatch(text):
        return text
    try:
        return parse_mcuid(text, McuidFormat.HEX).mcuid
    except RemoteProtocolError as error:
        raise ValueError(f"MCUID {text!r}, expected 25 decimal or 1 to 64 hexadecimal digits") from error


_NORMAL_MCUID: Final = re.compile("[0-9A-F]{1,64}")
"""Nearly all that stand in a large registry: it is read five times as quickly for that."""

_FLAGS: Final = frozenset({"pack", "once"})


def check_is_file(path: Path) -> None:
    """Raise `RegistryError` for a pipe or a device: it can be read once, if ever, and nobody knows when that ends."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return  # whoever opens it has words for that
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise RegistryError(f"registry {path}: a pipe or a device, expected a file")


def reason_of(error: Exception, name: str) -> str:
    """What went wrong, for whoever says himself that it is about the registry called `name`."""
    reason = isinstance(error, OSError) and error.strerror
    return reason or str(error).removeprefix(f"registry {name}: ")


def check_known(name: str, mcuids: Collection[str], known: Collection[str]) -> None:
    """Raise `RegistryError` for the first of `mcuids` that the registry called `name` does not know."""
    for mcuid in mcuids:
        if mcuid not in known:
            raise RegistryError(f"registry {name}: no device {mcuid}; nothing is removed")


def entry_from_fields(mcuid: str, filename: str, version: str, fields: Mapping[str, str]) -> RegistryEntry:
    """An entry from text; raises `ValueError` with what is wrong."""
    if not fields:
        return RegistryEntry(mcuid, filename, version)
    unknown = fields.keys() - _FLAGS - {"part", "handshake"}
    if unknown:
        raise ValueError(f"unknown field {min(unknown)!r}, expected part=, handshake=, pack or once")
    handshake = fields.get("handshake")
    if handshake is not None and handshake not in {choice.value for choice in Handshake}:
        raise ValueError(f"handshake {handshake!r}, expected wait, immediate or auto")
    for flag in _FLAGS & fields.keys():
        if fields[flag] not in ("", "1", "yes", "true"):
            raise ValueError(f"{flag}={fields[flag]}, expected just {flag!r}")
    return RegistryEntry(
        mcuid=mcuid,
        filename=filename,
        version=version,
        part=fields.get("part"),
        handshake=None if handshake is None else Handshake(handshake),
        pack="pack" in fields,
        once="once" in fields,
    )
