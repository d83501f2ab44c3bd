"""Settings of the server: their defaults, and the TOML file that may change them.

A setting has one name everywhere: `ack-timeout` in the file is `--ack-timeout` on the command line and `ack_timeout`
here. What is said on the command line wins over the file, the file over the defaults.
"""

import dataclasses
import enum
import tomllib
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fota_protocol.identity import MAX_IDENTIFICATION_SIZE, MIN_IDENTIFICATION_SIZE, McuidFormat
from fota_protocol.server import Handshake, ServerTimings

from .errors import ConfigError

MAX_PORT: Final = 65_535

MAX_RATE: Final = 1_000_000
"""Most sessions a second that can be meant."""

MAX_WORKERS: Final = 64
"""Most processes that can be meant."""


class LogFormat(enum.Enum):
    """How lines of the server log look."""

    TEXT = "text"
    JSON = "json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that can be set; raises `ConfigError` for a value that cannot be meant. Times are seconds."""

    host: str = ""
    """Address to listen on; empty for every interface, as the reference server does."""
    port: int = 4000
    """TCP port; 0 for a free one, which the readiness line names."""
    registry: Path = Path("devices2update.txt")
    firmware: Path = Path("bin")
    logs: Path = Path("logs")
    journal: Path | None = None
    """None: `journal.sqlite` in the log folder."""
    log_format: LogFormat = LogFormat.TEXT
    mcuid_format: McuidFormat = McuidFormat.DECIMAL25
    handshake: Handshake = Handshake.AUTO
    identification_timeout: float = 30.0
    ack_timeout: float = 30.0
    end_ack_timeout: float = 30.0
    grace: float = 5.0
    stop_timeout: float = 30.0
    """How long live sessions may go on after the server was told to stop."""
    limit: int | None = None
    """Most connections at once; None: as many as the process may have descriptors, less a reserve."""
    sessions_per_second: float | None = None
    """Most new sessions a second, over a second's mean; None: any number."""
    identification_size: int = MAX_IDENTIFICATION_SIZE
    """Longest identification in bytes that is taken."""
    workers: int = 1
    """Processes that serve the port together."""
    tls_port: int | None = None
    """TCP port for devices that speak TLS; None: there is none."""
    tls_cert: Path | None = None
    """PEM file with the server's certificate and those that lead to its root."""
    tls_key: Path | None = None
    """PEM file with its private key; None: it is in `tls_cert`."""
    tls_client_ca: Path | None = None
    """PEM file with the roots of devices' certificates, which must then have one; None: none is asked for."""
    allow_unterminated: bool = False
    """Whether S-record files without a termination record are served."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= MAX_PORT:
            raise ConfigError(f"port {self.port}, expected 0 to {MAX_PORT}")
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"limit {self.limit}, expected at least 1")
        if self.sessions_per_second is not None and not 0 < self.sessions_per_second <= MAX_RATE:
            raise ConfigError(
                f"sessions-per-second {self.sessions_per_second:g}, expected more than 0 and at most {MAX_RATE}"
            )
        if not MIN_IDENTIFICATION_SIZE <= self.identification_size <= MAX_IDENTIFICATION_SIZE:
            raise ConfigError(
                f"identification-size {self.identification_size}, "
                f"expected {MIN_IDENTIFICATION_SIZE} to {MAX_IDENTIFICATION_SIZE}"
            )
        if not 1 <= self.workers <= MAX_WORKERS:
            raise ConfigError(f"workers {self.workers}, expected 1 to {MAX_WORKERS}")
        if self.tls_port is not None and not 0 <= self.tls_port <= MAX_PORT:
            raise ConfigError(f"tls-port {self.tls_port}, expected 0 to {MAX_PORT}")
        if self.tls_port and self.tls_port == self.port:
            raise ConfigError(f"tls-port {self.tls_port}, expected another than port")
        if (self.tls_port is None) != (self.tls_cert is None):
            raise ConfigError("tls-port and tls-cert: expected both or neither")
        if self.tls_cert is None and (self.tls_key is not None or self.tls_client_ca is not None):
            raise ConfigError("tls-key and tls-client-ca: expected with tls-port and tls-cert only")
        for name in ("identification_timeout", "ack_timeout", "end_ack_timeout", "grace", "stop_timeout"):
            if not 0 < getattr(self, name) <= 86_400:
                raise ConfigError(f"{_dashed(name)} {getattr(self, name):g}, expected more than 0 and at most 86400 s")

    @property
    def timings(self) -> ServerTimings:
        """The times that sessions keep."""
        return ServerTimings(
            identification=self.identification_timeout,
            ack=self.ack_timeout,
            end_ack=self.end_ack_timeout,
            grace=self.grace,
        )

    @property
    def journal_path(self) -> Path:
        """Where the journal is."""
        return self.logs / "journal.sqlite" if self.journal is None else self.journal

    def changed(self, values: Mapping[str, Any]) -> "Settings":
        """The settings with `values` in place of some; raises `ConfigError`."""
        return dataclasses.replace(self, **values)


def load_settings(path: Path) -> Settings:
    """Settings from a TOML file, paths in it relative to its folder; raises `ConfigError`."""
    try:
        table = tomllib.loads(path.read_bytes().decode("utf-8"))
        return read_settings(table, path.parent)
    except OSError as error:
        raise ConfigError(f"configuration {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, ConfigError) as error:
        raise ConfigError(f"configuration {path}: {error}") from error


def read_settings(table: Mapping[str, object], folder: Path) -> Settings:
    """Settings from a table, paths in it relative to `folder`; raises `ConfigError`."""
    types = typing.get_type_hints(Settings)
    values: dict[str, Any] = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name not in types or "_" in key:
            known = ", ".join(_dashed(field.name) for field in dataclasses.fields(Settings))
            raise ConfigError(f"unknown setting {key!r}, expected one of {known}")
        try:
            values[name] = _convert(value, types[name], folder)
        except ValueError as error:
            raise ConfigError(f"{key} = {value!r}, expected {error}") from None
        except OverflowError:
            raise ConfigError(f"{key} = {value!r}, expected a smaller number") from None
    return Settings(**values)


def write_settings(settings: Settings) -> dict[str, object]:
    """The table that `read_settings` reads, in what JSON and TOML can say."""
    values = {_dashed(field.name): getattr(settings, field.name) for field in dataclasses.fields(settings)}
    return {
        name: value.value if isinstance(value, enum.Enum) else str(value) if isinstance(value, Path) else value
        for name, value in values.items()
        if value is not None
    }


def _convert(value: object, wanted: Any, folder: Path) -> object:
    """`value` as the type of its setting; raises `ValueError` with what was expected."""
    kinds = [kind for kind in typing.get_args(wanted) or (wanted,) if kind is not type(None)]
    kind = kinds[0]
    if isinstance(kind, enum.EnumMeta):
        choices: dict[str, object] = {choice.value: choice for choice in typing.cast(type[enum.Enum], kind)}
        if not isinstance(value, str) or value not in choices:
            raise ValueError(f"one of {', '.join(map(str, choices))}")
        return choices[value]
    if kind is Path and isinstance(value, str):
        return folder / value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    raise ValueError(
        {Path: "a string", str: "a string", int: "a whole number", float: "a number"}.get(kind, "a boolean")
    )


def _dashed(name: str) -> str:
    return name.replace("_", "-")
