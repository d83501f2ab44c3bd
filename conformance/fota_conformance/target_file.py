"""Reading target files: TOML in, a target out.

A file that is wrong is refused here, with file, key and what was expected, before anything is started; unknown keys are
refused too, since a misspelt one would be silently without effect.
"""

import datetime
import difflib
import enum
import re
import shlex
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from fota_conformance.catalogue import PROFILE, load
from fota_conformance.errors import CatalogueError, TargetError
from fota_conformance.target import (
    COMMAND_CONCURRENCY,
    CONTROL_PLACEHOLDERS,
    DECLARED,
    DEVICE_CAPABILITIES,
    DEVICE_CONCURRENCY,
    DEVICE_PLACEHOLDERS,
    LOOPBACK,
    PROVISION_PLACEHOLDERS,
    SERVER_CAPABILITIES,
    SERVER_PLACEHOLDERS,
    AnyTarget,
    DeviceCommand,
    DeviceDeadlines,
    Exclusion,
    Handshake,
    Kind,
    KnownDevice,
    Limits,
    Memory,
    Observe,
    Ready,
    Revision,
    ServerAddress,
    ServerCommand,
    ServerDeadlines,
    Timeouts,
    placeholders,
)

_EnumT = TypeVar("_EnumT", bound=enum.Enum)


def load_target(path: Path) -> AnyTarget:
    """Read a target file; raises `TargetError` with file, key and what was expected."""
    try:
        with path.open("rb") as file:
            content = tomllib.load(file)
    except OSError as error:
        raise TargetError(path, "", f"cannot be read: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise TargetError(path, "", f"is not TOML: {error}") from error
    table = _Table(path, "", content)
    kind = table.choice("kind", Kind)
    match kind:
        case Kind.SERVER_BY_COMMAND:
            target: AnyTarget = _server_command(table, kind)
        case Kind.SERVER_BY_ADDRESS:
            target = _server_address(table, kind)
        case Kind.DEVICE_BY_COMMAND:
            target = _device_command(table, kind)
    table.refuse_the_rest()
    return target


class _Table:
    """A TOML table that remembers what was asked of it, so that the rest can be refused."""

    def __init__(self, path: Path, prefix: str, content: Mapping[str, Any]) -> None:
        self.path = path
        self._prefix = prefix
        self._content = content
        self._asked: dict[str, None] = {}

    def error(self, key: str, problem: str) -> TargetError:
        return TargetError(self.path, self._prefix + key, problem)

    def expected(self, key: str, what: str) -> TargetError:
        if key not in self._content:
            return self.error(key, f"missing, expected {what}")
        return self.error(key, f"expected {what}, got {self._content[key]!r}")

    def raw(self, key: str) -> Any:
        self._asked[key] = None
        return self._content.get(key)

    def has(self, key: str) -> bool:
        return self.raw(key) is not None

    def text(self, key: str, what: str, default: str | None = None, pattern: str = r".+") -> str:
        value = self.raw(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise self.expected(key, what)
        return value

    def boolean(self, key: str, what: str) -> bool:
        value = self.raw(key)
        if not isinstance(value, bool):
            raise self.expected(key, what)
        return value

    def date(self, key: str, what: str) -> datetime.date:
        value = self.raw(key)
        if not isinstance(value, datetime.date) or isinstance(value, datetime.datetime):
            raise self.expected(key, what)
        return value

    def number(self, key: str, default: float, what: str = "a number of seconds above 0") -> float:
        value = self.raw(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e6:
            raise self.expected(key, what)
        return float(value)

    def integer(self, key: str, what: str, within: range, default: int | None = None) -> int:
        value = self.raw(key)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or value not in within:
            raise self.expected(key, what)
        return value

    def choice(self, key: str, choices: type[_EnumT], default: _EnumT | None = None) -> _EnumT:
        value = self.raw(key)
        if value is None and default is not None:
            return default
        for choice in choices:
            if choice.value == value:
                return choice
        raise self.expected(key, "one of " + ", ".join(repr(choice.value) for choice in choices))

    def table(self, key: str) -> "_Table":
        value = self.raw(key)
        if value is not None and not isinstance(value, dict):
            raise self.expected(key, "a table")
        return _Table(self.path, f"{self._prefix}{key}.", value or {})

    def tables(self, key: str, what: str) -> list["_Table"]:
        value = self.raw(key)
        if not isinstance(value, list) or not value or not all(isinstance(item, dict) for item in value):
            raise self.expected(key, what)
        return [_Table(self.path, f"{self._prefix}{key}[{index}].", item) for index, item in enumerate(value)]

    def command(self, key: str, known: tuple[str, ...]) -> tuple[str, ...]:
        what = "a command: a list of strings, or one string"
        value = self.raw(key)
        if isinstance(value, str):
            try:
                value = shlex.split(value)
            except ValueError as error:
                raise self.error(key, f"{error} in {value!r}") from error
        if not isinstance(value, list) or not value or not all(isinstance(item, str) and item for item in value):
            raise self.expected(key, what)
        command = tuple(value)
        self.check_placeholders(key, command, known)
        return command

    def optional_command(self, key: str, known: tuple[str, ...]) -> tuple[str, ...] | None:
        return self.command(key, known) if self.has(key) else None

    def target_command(self, known: tuple[str, ...]) -> tuple[str, ...]:
        command = self.command("command", known)
        if "port" not in placeholders(command):
            raise self.error("command", "expected {port} somewhere: the kit chooses the port")
        return command

    def check_placeholders(self, key: str, texts: Iterable[str], known: tuple[str, ...]) -> None:
        for name in placeholders(texts):
            if name not in known:
                raise self.error(
                    key, f"unknown placeholder {{{name}}}, expected one of " + " ".join(f"{{{one}}}" for one in known)
                )

    def path_text(self, key: str, what: str, known: tuple[str, ...]) -> str | None:
        """An optional path that may have placeholders."""
        if not self.has(key):
            return None
        value = self.text(key, what)
        self.check_placeholders(key, [value], known)
        return value

    def refuse_the_rest(self) -> None:
        for key in self._content:
            if key not in self._asked:
                near = difflib.get_close_matches(key, self._asked, n=1)
                known = f"did you mean {near[0]!r}?" if near else "known here: " + ", ".join(sorted(self._asked))
                raise self.error(key, f"unknown key; {known}")


_SecondsT = TypeVar("_SecondsT", Timeouts, ServerDeadlines, DeviceDeadlines)


def _seconds(table: _Table, key: str, kind: type[_SecondsT]) -> _SecondsT:
    """A table of durations, all with defaults."""
    times = table.table(key)
    found = kind(**{item.name: times.number(item.name, getattr(kind(), item.name)) for item in fields(kind)})
    times.refuse_the_rest()
    return found


def _exclusions(table: _Table) -> tuple[Exclusion, ...]:
    found = []
    items = table.tables("exclusions", "[[exclusions]] tables") if table.has("exclusions") else []
    for item in items:
        if item.has("requirement") == item.has("case"):
            raise item.error("requirement", "expected either requirement or case")
        requirement = item.text("requirement", "the id of a requirement", default="")
        try:
            requirement = load().requirement(requirement).id if requirement else ""
        except CatalogueError as error:
            raise item.error("requirement", str(error)) from error
        found.append(
            Exclusion(
                requirement=requirement,
                case=item.text("case", "a case's id, * and ? allowed", default=""),
                reason=item.text("reason", "why it does not count"),
                until=item.date("until", "the last day on which it does not count, for instance 2027-01-31"),
            )
        )
        item.refuse_the_rest()
    return tuple(found)


def _capabilities(table: _Table, known: Mapping[str, str]) -> dict[str, bool]:
    """Capabilities that the file declares; only those that nothing else tells can be declared true."""
    declared = table.table("capabilities")
    found = {}
    for name in known:
        if declared.has(name):
            found[name] = declared.boolean(name, "true or false")
            if found[name] and name not in DECLARED:
                raise declared.error(name, f"cannot be declared, only offered: {known[name]}")
    declared.refuse_the_rest()
    return found


def _common(table: _Table, kind: Kind) -> dict[str, Any]:
    """The fields of `Target`, for whatever kind."""
    revision = table.choice("revision", Revision)
    scale = table.number("scale", 1.0, "a factor above 0")
    timeouts = _seconds(table, "timeouts", Timeouts)
    known = DEVICE_CAPABILITIES if kind is Kind.DEVICE_BY_COMMAND else SERVER_CAPABILITIES
    declared = _capabilities(table, known)
    common: dict[str, Any] = {}
    if kind is Kind.DEVICE_BY_COMMAND:
        common["declared"] = frozenset(name for name, has in declared.items() if has)
    return common | {
        "profile": table.text("profile", f"{PROFILE!r}", pattern=re.escape(PROFILE)) if table.has("profile") else None,
        "lacks": frozenset(name for name, has in declared.items() if not has),
        "exclusions": _exclusions(table),
        "path": table.path,
        "name": table.text("name", "a name for reports", default=table.path.stem),
        "kind": kind,
        "revision": revision,
        "handshake": table.choice(
            "handshake", Handshake, Handshake.IMMEDIATE if revision is Revision.A else Handshake.WAIT
        ),
        "scale": scale,
        "timeouts": timeouts.scaled(scale),
    }


def _server_command(table: _Table, kind: Kind) -> ServerCommand:
    common = _common(table, kind)
    ready = table.table("ready")
    how = [key for key in ("log", "file", "listening") if ready.has(key)]
    if len(how) > 1:
        raise table.error("ready", f"expected one of log, file, listening, got {' and '.join(how)}")
    if "listening" in how and ready.raw("listening") is not True:
        raise ready.expected("listening", "true")
    try:
        log = re.compile(ready.text("log", "a regular expression")) if "log" in how else None
    except re.error as error:
        raise ready.error("log", f"is not a regular expression: {error}") from error
    file = ready.path_text("file", "the path of a file", SERVER_PLACEHOLDERS)
    ready.refuse_the_rest()
    return ServerCommand(
        **common,
        command=table.target_command(SERVER_PLACEHOLDERS),
        host=table.text("host", "an address to listen on", LOOPBACK),
        ready=Ready(log=log, file=file, listening=not how or "listening" in how),
        deadlines=_seconds(table, "deadlines", ServerDeadlines),
        provision=table.optional_command("provision", PROVISION_PLACEHOLDERS),
        concurrency=_concurrency(table, COMMAND_CONCURRENCY),
    )


def _server_address(table: _Table, kind: Kind) -> ServerAddress:
    common = _common(table, kind)
    devices = []
    for item in table.tables("devices", "one [[devices]] table per device that the server knows"):
        file = table.path.parent / item.text("file", "the path of the S-record file that the server has for it")
        if not file.is_file():
            raise item.error("file", f"there is no file {file}")
        devices.append(
            KnownDevice(
                mcuid=_mcuid(item, common["revision"]),
                file=file,
                version=item.text("version", "one or two upper-case hex digits", pattern="[0-9A-F]{1,2}"),
            )
        )
        item.refuse_the_rest()
    return ServerAddress(
        **common,
        host=table.text("host", "the server's name or address"),
        port=table.integer("port", "a port, 1 to 65535", range(1, 65_536)),
        devices=tuple(devices),
        deadlines=_seconds(table, "deadlines", ServerDeadlines),
        concurrency=_concurrency(table, 1),
    )


def _device_command(table: _Table, kind: Kind) -> DeviceCommand:
    common = _common(table, kind)
    command = table.target_command(DEVICE_PLACEHOLDERS)
    mcuid = _mcuid(table, common["revision"]) if table.has("mcuid") else None
    if mcuid is None and "mcuid" not in placeholders(command):
        raise table.error("command", "expected {mcuid} somewhere, or mcuid = with the identity that the device has")
    observe = table.table("observe")
    seen = Observe(
        flash=observe.path_text("flash", "the path of a flash dump", DEVICE_PLACEHOLDERS),
        flash_address=observe.integer("flash_address", "an address of 32 bits", range(1 << 32), default=0),
        outcome=observe.path_text("outcome", "the path of a JSON file", DEVICE_PLACEHOLDERS),
    )
    observe.refuse_the_rest()
    port = table.integer("port", "a port, or 0 for any free one", range(65_536), default=0)
    is_one = mcuid is not None or port != 0
    if is_one and table.has("concurrency"):
        raise table.error("concurrency", "is 1 for a device with an mcuid or a port of its own")
    limits = table.table("limits")
    found_limits = Limits(
        max_erases_per_sector=limits.integer("max_erases_per_sector", "a number from 1 on", range(1, 1 << 20), 0)
        if limits.has("max_erases_per_sector")
        else 0,
        max_minutes=limits.number("max_minutes", 0.0, "a number of minutes above 0"),
    )
    limits.refuse_the_rest()
    return DeviceCommand(
        **common,
        command=command,
        host=table.text("host", "the address of the kit's server, as the device sees it", LOOPBACK),
        port=port,
        mcuid=mcuid,
        observe=seen,
        reset=table.optional_command("reset", CONTROL_PLACEHOLDERS),
        power_off=table.optional_command("power_off", CONTROL_PLACEHOLDERS),
        power_on=table.optional_command("power_on", CONTROL_PLACEHOLDERS),
        deadlines=_seconds(table, "deadlines", DeviceDeadlines),
        memory=_memory(table),
        limits=found_limits,
        concurrency=1 if is_one else _concurrency(table, DEVICE_CONCURRENCY),
    )


def _concurrency(table: _Table, default: int) -> int:
    return table.integer("concurrency", "a number of sessions, 1 to 1000", range(1, 1001), default)


def _memory(table: _Table) -> Memory:
    memory = table.table("memory")
    what = "[start, end): two addresses, multiples of the sector size"
    sector = memory.integer("sector", "bytes of a flash sector, a power of two", range(256, 1 << 17), Memory().sector)
    value = memory.raw("application")
    if value is None:
        value = [Memory().start, Memory().end]
    if (
        not isinstance(value, list)
        or [type(item) for item in value] != [int, int]
        or not 0 <= value[0] < value[1] <= 1 << 32
        or sector & (sector - 1)
        or value[0] % sector
        or value[1] % sector
    ):
        raise memory.expected("application", what)
    memory.refuse_the_rest()
    return Memory(start=value[0], end=value[1], sector=sector)


def _mcuid(table: _Table, revision: Revision) -> str:
    if revision is Revision.A:
        return table.text("mcuid", "25 decimal digits (revision A)", pattern="[0-9]{25}")
    return table.text("mcuid", "1 to 64 upper-case hex digits (revision B)", pattern="[0-9A-F]{1,64}")
