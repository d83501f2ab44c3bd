"""What is judged: how it is started and found, and what it promises, offers and lacks.

Plain data; `target_file` reads it. The three kinds of target are three dataclasses; what they share is `Target`.
"""

import abc
import datetime
import enum
import fnmatch
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Final, TypeAlias

SERVER_PLACEHOLDERS: Final = ("host", "port", "registry", "firmware", "logs")
"""What a server's command may ask for: where to listen, the registry file, the firmware folder, a folder for logs."""
DEVICE_PLACEHOLDERS: Final = ("host", "port", "mcuid", "artifacts")
"""What a device's command may ask for: where the kit's server is, the identity to use, a folder for its files."""
CONTROL_PLACEHOLDERS: Final = (*DEVICE_PLACEHOLDERS, "pid")
"""What `reset`, `power_off` and `power_on` may ask for: also the process that runs the device's command."""
PROVISION_PLACEHOLDERS: Final = (*SERVER_PLACEHOLDERS, "table")
"""What `provision` may ask for: also the JSON file that says which devices the server is to know."""
COMMAND_CONCURRENCY: Final = 64
"""Sessions that the kit may hold at once with a server that it starts itself, unless the target file says otherwise."""
DEVICE_CONCURRENCY: Final = 8
"""Commands that the kit may run at once for a device that is only a command; a board is one board."""
SERVER_CAPABILITIES: Final = {
    "registry": "the kit writes the registry and the firmware folder, which it can do for a server by command",
    "registry-text": "the kit writes the registry's text itself, as for a server by command without provision",
    "process": "the kit sees the server's process, which it does for a server by command",
    "concurrency": "the kit may hold several sessions at once: concurrency = 2 or more",
}
"""What a server may offer to be seen, and how."""
DEVICE_CAPABILITIES: Final = {
    "flash": "a dump of the flash: flash under [observe]",
    "outcome": "the outcome as JSON: outcome under [observe]",
    "power": "the power can be cut: power_off",
    "bootloader": "the flash dump shows the bootloader's region, too: bootloader = true under [capabilities]",
    "seal": "the device accepts only sealed images whose CRC is right: seal = true under [capabilities]",
    "vectors": "the device checks stack pointer and reset vector: vectors = true under [capabilities]",
}
"""What a device may offer to be seen, and how."""
OPTIONAL: Final = frozenset({"seal", "vectors"})
"""Capabilities that a target may do without: what needs them does not bind a target that declares to lack them."""
DECLARED: Final = frozenset({"bootloader", "seal", "vectors"})
"""Capabilities that nothing else in the target file tells: they may be declared true."""
LOOPBACK: Final = "127.0.0.1"
"""Where targets and the kit meet unless the target file says otherwise."""

_PLACEHOLDER: Final = re.compile(r"\{([a-z_]+)\}")


class Role(enum.Enum):
    """What a target is; the kit plays the other one."""

    SERVER = "server"
    DEVICE = "device"


class Kind(enum.Enum):
    """How a target is reached."""

    SERVER_BY_COMMAND = "server-by-command"
    SERVER_BY_ADDRESS = "server-by-address"
    DEVICE_BY_COMMAND = "device-by-command"


class Revision(enum.Enum):
    """The revision of the protocol that a target declares."""

    A = "A"
    """The seed: an MCUID is 25 decimal digits, further digits are ignored, `@4#` is not acked."""
    B = "B"
    """Its successor: an MCUID is hex of any length, `@4#` is acked."""


class Handshake(enum.Enum):
    """What a target does about the ack of `@4#`."""

    WAIT = "wait"
    """A server waits for it; a device sends it (revision B)."""
    IMMEDIATE = "immediate"
    """A server does not wait for it; a device does not send it (revision A)."""
    AUTO = "auto"
    """A server gets on with both sorts of device; of a device, the kit finds out which sort it is."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds the kit waits at most, before `scale` is applied; each is an upper bound, never a pace."""

    ready: float = 15.0
    """From start to ready (server), or to the connection (device)."""
    answer: float = 10.0
    """From connection to identification, and from identification to answer."""
    grace: float = 2.0
    """For the ack of `@4#` of a device whose handshake is `auto`."""
    frame: float = 15.0
    """For each record, end frame or ack; longer than the grace of a server whose handshake is `auto`."""
    close: float = 15.0
    """From the last ack to the close."""
    exit: float = 15.0
    """From the close to the end of a device's command."""
    stop: float = 5.0
    """From a polite request to stop to the kill."""

    def scaled(self, scale: float) -> "Timeouts":
        """The same, stretched for a slow target or a slow machine."""
        return Timeouts(**{item.name: getattr(self, item.name) * scale for item in fields(self)})


@dataclass(frozen=True, slots=True)
class Ready:
    """How a server shows that it listens. Never by connecting: on a one-client server that is already a session."""

    log: re.Pattern[str] | None = None
    """A line of its output, standard output and error together."""
    file: str | None = None
    """A file that appears; placeholders are filled in."""
    listening: bool = False
    """The port is seen listening in the kernel's socket table."""


@dataclass(frozen=True, slots=True)
class Observe:
    """What a device shows of itself after an update; placeholders are filled in."""

    flash: str | None = None
    """A dump of its flash: S-records, Intel HEX, or `.bin`."""
    flash_address: int = 0
    """The address of the first byte of a `.bin` dump."""
    outcome: str | None = None
    """A JSON object: `outcome` (`updated`, `refused`, `failed`), `reason`, `booted`, `image_crc` (8 hex digits)."""


@dataclass(frozen=True, slots=True)
class ServerDeadlines:
    """Seconds after which a server promises to give up on a silent device (docs/protocol.md, 4)."""

    identification: float = 30.0
    """From the connection to the complete identification."""
    ack: float = 30.0
    """From a frame to its ack."""
    end_ack: float = 30.0
    """From the end frame to its ack."""
    grace: float = 5.0
    """For the ack of `@4#` of a server whose handshake is `auto`, and for a last ack that may be missing."""


@dataclass(frozen=True, slots=True)
class DeviceDeadlines:
    """Seconds after which a device promises to give up on a silent server (docs/protocol.md, 4)."""

    answer: float = 60.0
    """From the identification to its answer."""
    frame: float = 60.0
    """From an ack to the next frame."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Where a device's application may be: half-open ranges of byte addresses."""

    start: int = 0x4000
    end: int = 0x80000
    sector: int = 2048
    """Bytes of one flash sector."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a real board may be put through; 0 is no limit."""

    max_erases_per_sector: int = 0
    max_minutes: float = 0.0


@dataclass(frozen=True, slots=True)
class Exclusion:
    """Cases that are not to count, why, and until when (that day included)."""

    requirement: str
    """An id of the catalogue, or empty."""
    case: str
    """A glob over case ids, or empty."""
    reason: str
    until: datetime.date

    def covers(self, case: str, requirements: Iterable[str]) -> bool:
        """Whether a case is meant."""
        return self.requirement in requirements or bool(self.case and fnmatch.fnmatchcase(case, self.case))


@dataclass(frozen=True, slots=True)
class KnownDevice:
    """A device that a server by address knows, and what it serves to it."""

    mcuid: str
    file: Path
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Target(abc.ABC):
    """What every kind of target declares."""

    path: Path
    name: str
    kind: Kind
    revision: Revision
    handshake: Handshake
    timeouts: Timeouts = field(default_factory=Timeouts)
    """Already scaled."""
    scale: float = 1.0
    profile: str | None = None
    """`k60-fota` for a target that is bound by this project's own decisions, too."""
    lacks: frozenset[str] = frozenset()
    """Capabilities that it declares not to have."""
    exclusions: tuple[Exclusion, ...] = ()
    concurrency: int = 1
    """Sessions that the kit may hold with it at once."""

    @property
    @abc.abstractmethod
    def offers(self) -> frozenset[str]:
        """Capabilities that it has: what of it can be seen."""

    @property
    def role(self) -> Role:
        """What the target is."""
        return Role.DEVICE if self.kind is Kind.DEVICE_BY_COMMAND else Role.SERVER


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerCommand(Target):
    """A server that the kit starts, with a registry and firmware that the kit writes."""

    command: tuple[str, ...]
    host: str = LOOPBACK
    ready: Ready
    deadlines: ServerDeadlines = field(default_factory=ServerDeadlines)
    provision: tuple[str, ...] | None = None
    """A command that tells the server which devices to know; without one the kit writes the seed's registry."""

    @property
    def offers(self) -> frozenset[str]:
        """Everything: the kit makes its surroundings."""
        found = {"registry", "process"}
        if self.provision is None:
            found.add("registry-text")
        if self.concurrency > 1:
            found.add("concurrency")
        return frozenset(found) - self.lacks


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerAddress(Target):
    """A server that runs already, with devices that it knows already."""

    host: str
    port: int
    devices: tuple[KnownDevice, ...]
    deadlines: ServerDeadlines = field(default_factory=ServerDeadlines)

    @property
    def offers(self) -> frozenset[str]:
        """What a stranger sees."""
        return frozenset({"concurrency"} if self.concurrency > 1 else ()) - self.lacks


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceCommand(Target):
    """A device: a command that plays one session with the kit's server, writes its observations, and exits."""

    command: tuple[str, ...]
    host: str = LOOPBACK
    port: int = 0
    mcuid: str | None = None
    """The identity of a device that has one of its own; otherwise the kit gives it one per case."""
    observe: Observe = field(default_factory=Observe)
    reset: tuple[str, ...] | None = None
    """Brings the device into its bootloader; run before each of its sessions."""
    power_off: tuple[str, ...] | None = None
    power_on: tuple[str, ...] | None = None
    deadlines: DeviceDeadlines = field(default_factory=DeviceDeadlines)
    memory: Memory = field(default_factory=Memory)
    limits: Limits = field(default_factory=Limits)
    declared: frozenset[str] = frozenset()
    """Capabilities that it declares to have."""

    @property
    def offers(self) -> frozenset[str]:
        """What it shows of itself, what can be done to it, and what it declares."""
        seen = {"flash": self.observe.flash, "outcome": self.observe.outcome, "power": self.power_off}
        return frozenset({name for name, how in seen.items() if how is not None} | self.declared) - self.lacks


AnyTarget: TypeAlias = ServerCommand | ServerAddress | DeviceCommand
"""A target of whatever kind."""


def fill(text: str, values: Mapping[str, object]) -> str:
    """Put values in the place of the placeholders; braces that are no placeholder stay."""
    return _PLACEHOLDER.sub(lambda found: str(values[found[1]]) if found[1] in values else found[0], text)


def placeholders(texts: Iterable[str]) -> set[str]:
    """The names between braces in some texts."""
    return {name for text in texts for name in _PLACEHOLDER.findall(text)}
