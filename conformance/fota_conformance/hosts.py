"""Bringing a target up for the cases: the registry and firmware it serves, its address, its logs, its end.

A server started by command lives through many cases: one instance per pytest worker, with a registry of all devices of
all cases, written before it starts. It is discarded after a case that did not pass, and started again for the next. A
case may have an instance of its own, with a registry of its own. A server by address is only known. A device's command
plays one session, so each session of a case starts its own.
"""

import contextlib
import enum
import hashlib
import json
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from fota_conformance.errors import CouldNotTest
from fota_conformance.ports import ReservedPort
from fota_conformance.process import Child, port_is_listening
from fota_conformance.reading import Firmware
from fota_conformance.target import DeviceCommand, ServerAddress, ServerCommand, Timeouts, fill

REGISTRY_NAME: Final = "devices2update.txt"
"""The seed's name for its registry."""
MCUID_DIGITS: Final = 25
"""Decimal digits of an MCUID under revision A; valid under revision B, too."""
OUTSIDE: Final = "outside"
"""The folder beside the firmware folder, for files that no server may serve."""
PROVISION_TIMEOUT: Final = 60.0
"""Seconds that a target's own provision or control command may take."""
LOG_TAIL: Final = 64 * 1024
"""Bytes of each of a server's log files that are kept with a case, at most."""
MAX_LOGS: Final = 20
"""Log files of a server that are kept with a case; some write one for each session."""
BINARY_LOGS: Final = frozenset({".sqlite", ".sqlite-wal", ".sqlite-shm", ".db"})
"""What servers put beside their logs and nobody reads as text."""
LAST_LINES: Final = 3
"""Lines of a dead server's output that a failure's message shows."""
TABLE_NAME: Final = "table.json"
"""The file that tells a `provision` command which devices the server is to know."""


class Place(enum.Enum):
    """Where the file of a registry entry lies."""

    INSIDE = "in the firmware folder"
    ABOVE = "beside the firmware folder, named by ../"
    ABSOLUTE = "beside the firmware folder, named by its absolute path"
    LINK = "beside the firmware folder, behind a symbolic link in it"
    NOWHERE = "nowhere"


@dataclass(frozen=True, slots=True)
class Device:
    """A device that the server under test is to know: its identity, its image, the version in its end frame."""

    mcuid: str
    firmware: Firmware | None
    """None where bincopy cannot read the file: such a device is never to be served."""
    version: str
    file: str
    """The name of the file."""
    content: bytes = b""
    place: Place = Place.INSIDE

    def entry(self, folder: Path) -> str:
        """The registry's name for the file; `folder` is the firmware folder."""
        if self.place is Place.ABOVE:
            return f"../{OUTSIDE}/{self.file}"
        return str(folder.parent / OUTSIDE / self.file) if self.place is Place.ABSOLUTE else self.file

    @classmethod
    def of(cls, mcuid: str, firmware: Firmware, version: str) -> "Device":
        """A device with an ordinary image."""
        return cls(mcuid, firmware, version, firmware.name, firmware.content)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A device that a case wants the server to know: an image by name (see `images`), a version, a place."""

    image: str
    version: str = "16"
    place: Place = Place.INSIDE


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a server by command finds when it starts."""

    devices: tuple[Device, ...]
    lines: tuple[str, ...] = ()
    """The registry's lines where they are not simply the devices'; `{0}` is the first device's own line, `{0.mcuid}`,
    `{0.file}`, `{0.version}` its fields."""


def make_mcuid(*parts: object) -> str:
    """An MCUID that belongs to these parts alone (case, worker, number), the same in every run."""
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
    return f"{int.from_bytes(digest) % 10**MCUID_DIGITS:0{MCUID_DIGITS}d}"


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in what a server says."""

    output: int = 0
    """Bytes of its output."""
    sizes: Mapping[Path, int] = field(default_factory=dict)
    """Bytes of its log files."""


class CommandServer:
    """A server under test that the kit starts when a case needs it."""

    def __init__(self, target: ServerCommand, folder: Path, surroundings: Surroundings) -> None:
        self._target = target
        self._folder = folder
        self._surroundings = surroundings
        self._instances = 0
        self._child: Child | None = None
        self._never_ready = False
        self._address = ("", 0)
        self._port: ReservedPort | None = None
        self._place = folder

    def address(self) -> tuple[str, int]:
        """Where it listens; it is started if it does not run. One that was never ready is not tried again."""
        if self._never_ready:
            raise CouldNotTest("the server never became ready; the first case that needs it says why")
        if self._child is not None and self._child.exit_status is not None:
            self.stop()
        if self._child is None:
            self._start()
        return self._address

    def stop(self) -> None:
        """Stop it; the next case gets a fresh one."""
        if self._child is not None:
            self._child.stop(self._target.timeouts.stop)
            self._child = None
        if self._port is not None:
            self._port.release()

    def again(self) -> None:
        """Kill it, as a power cut would, and start it on the same port with the same folders."""
        child = self.process
        child.stop(0.0)
        self._launch()

    @property
    def process(self) -> Child:
        """Its process, which runs or has ended."""
        self.address()
        assert self._child is not None
        return self._child

    @property
    def firmware(self) -> Path:
        """Its firmware folder."""
        return self._place / "firmware"

    def open_files(self) -> int:
        """Descriptors that its process and all of the same group have open (Linux)."""
        group = self.process.pid
        total = 0
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                if os.getpgid(int(entry.name)) == group:
                    total += len(list((entry / "fd").iterdir()))
        return total

    def terminate(self) -> None:
        """Ask its process to stop, as a service manager does."""
        self.process.tell(signal.SIGTERM)

    def mark(self) -> Mark:
        """Where its output and its log files end now, for `logs`; nowhere, if the next case starts it."""
        if self._child is None or self._child.exit_status is not None:
            return Mark()
        return Mark(self._child.output.mark(), {path: path.stat().st_size for path in self._log_files()})

    def logs(self, mark: Mark) -> dict[str, str]:
        """What it said and wrote to its log files since a mark, by name."""
        if self._child is None:
            return {}
        found = {"output.log": self._child.output.since(mark.output)}
        for path in self._log_files():
            begin, end = mark.sizes.get(path, 0), path.stat().st_size
            if begin < end and len(found) <= MAX_LOGS:
                with path.open("rb") as file:
                    file.seek(max(begin, end - LOG_TAIL))
                    found[path.name] = file.read(LOG_TAIL).decode("utf-8", "backslashreplace")
        return found

    def _log_files(self) -> list[Path]:
        """The text files in its log folder."""
        found = sorted((self._place / "logs").rglob("*"))
        return [path for path in found if path.suffix not in BINARY_LOGS and path.is_file()]

    def obituary(self, within_s: float) -> str:
        """One line if it is dead, or dies within a moment; empty while it lives."""
        if self._child is None or (status := self._child.wait(within_s)) is None:
            return ""
        return f"the server's process ended with status {status}"

    def last_words(self) -> str:
        """The last lines of its output, if it died."""
        if self._child is None or self._child.exit_status is None:
            return ""
        return " / ".join(line.strip() for line in self._child.output.since().splitlines()[-LAST_LINES:])

    def _values(self) -> dict[str, object]:
        return {
            "host": self._target.host,
            "port": self._address[1],
            "registry": self._place / REGISTRY_NAME,
            "firmware": self.firmware,
            "logs": self._place / "logs",
        }

    def _start(self) -> None:
        self._instances += 1
        self._place = self._folder / f"server-{self._instances}"
        self._port = ReservedPort(self._target.host)
        self._address = (self._target.host, self._port.number)
        self.firmware.mkdir(parents=True)
        (self._place / "logs").mkdir()
        provision(self._place / REGISTRY_NAME, self.firmware, self._surroundings)
        if self._target.provision is not None:
            table = self._place / TABLE_NAME
            table.write_text(json.dumps(_table(self._surroundings.devices, self.firmware), indent=2), encoding="utf-8")
            words = tuple(fill(word, self._values() | {"table": table}) for word in self._target.provision)
            run_control(words, self._target.path.resolve().parent, "provision")
        self._launch()

    def _launch(self) -> None:
        values = self._values()
        if self._target.ready.file is not None:
            # What an earlier instance left says nothing about this one.
            self._ready_file(values).unlink(missing_ok=True)
        command = tuple(fill(word, values) for word in self._target.command)
        child = Child(command, self._target.path.resolve().parent)
        if not child.wait_until(lambda: self._is_ready(child, values), self._target.timeouts.ready):
            status = child.exit_status
            child.stop(self._target.timeouts.stop)
            self._never_ready = True
            raise CouldNotTest(_never_ready(self._target, command, status, child.output.since()))
        self._child = child

    def _is_ready(self, child: Child, values: Mapping[str, object]) -> bool:
        ready = self._target.ready
        if ready.log is not None:
            return child.output.has_line(ready.log)
        if ready.file is not None:
            return self._ready_file(values).exists()
        return port_is_listening(self._address[1])

    def _ready_file(self, values: Mapping[str, object]) -> Path:
        assert self._target.ready.file is not None
        return self._target.path.resolve().parent / fill(self._target.ready.file, values)


class KnownServer:
    """A server under test that runs already; what only a process shows is not asked of it."""

    def __init__(self, target: ServerAddress) -> None:
        self._address = (target.host, target.port)
        self.last_case = ""
        """The last case that reached it: the one to look at when it is gone."""

    def address(self) -> tuple[str, int]:
        """Where it listens."""
        return self._address

    def stop(self) -> None:
        """It is not ours to stop."""

    def mark(self) -> Mark:
        """Its output is not ours to see."""
        return Mark()

    def logs(self, mark: Mark) -> dict[str, str]:
        """Nor are its logs."""
        return {}

    def obituary(self, within_s: float) -> str:
        """Nor is its end."""
        return ""

    def last_words(self) -> str:
        """Nor what it says then."""
        return ""


class DeviceRun:
    """A device under test while it plays one session."""

    def __init__(self, child: Child, timeouts: Timeouts) -> None:
        self.child = child
        self._timeouts = timeouts

    def finish(self) -> None:
        """Wait for the end of the command: only then its observations are complete."""
        if self.child.wait(self._timeouts.exit) is None:
            raise CouldNotTest(
                f"the device's command still runs {self._timeouts.exit:g} s after the connection was closed; "
                "it must play one session, write its observations, and exit"
            )

    def has_ended(self) -> bool:
        """Whether the command has ended."""
        return self.child.exit_status is not None


@contextmanager
def run_device(target: DeviceCommand, values: Mapping[str, object]) -> Iterator[DeviceRun]:
    """Start the device's command; it is stopped at the end of the `with` block, if it has not ended by then."""
    child = Child(tuple(fill(word, values) for word in target.command), target.path.resolve().parent)
    try:
        yield DeviceRun(child, target.timeouts)
    finally:
        child.stop(target.timeouts.stop)


def remove_observations(target: DeviceCommand, values: Mapping[str, object]) -> None:
    """Remove what an earlier case left behind: it must not pass for what this one does."""
    for template in (target.observe.flash, target.observe.outcome):
        if template is not None:
            observation_path(target, template, values).unlink(missing_ok=True)


def run_control(command: tuple[str, ...], folder: Path, name: str) -> None:
    """Run a command of the target file (`provision`, `reset`, …) to its end; it must succeed."""
    with Child(command, folder) as child:
        status = child.wait(PROVISION_TIMEOUT)
        if status != 0:
            how = f"still runs after {PROVISION_TIMEOUT:g} s" if status is None else f"ended with status {status}"
            output = child.output.since().strip() or "(nothing)"
            raise CouldNotTest(f"the target's {name} command {how}: {' '.join(command)}\n  output: {output}")


def provision(registry: Path, firmware: Path, surroundings: Surroundings) -> None:
    """Write the seed's registry, `MCUID,filename,version` per line, and the files that it names."""
    outside = firmware.parent / OUTSIDE
    for device in surroundings.devices:
        if device.place is Place.NOWHERE:
            continue
        folder = firmware
        if device.place is not Place.INSIDE:
            folder = outside
            outside.mkdir(exist_ok=True)
        (folder / device.file).write_bytes(device.content)
        if device.place is Place.LINK:
            (firmware / device.file).symlink_to(outside / device.file)
    own = [f"{device.mcuid},{device.entry(firmware)},{device.version}" for device in surroundings.devices]
    lines = own
    if surroundings.lines:
        rows = [_Row(line, device) for line, device in zip(own, surroundings.devices, strict=True)]
        lines = [line.format(*rows) for line in surroundings.lines]
    registry.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


class _Row:
    """A device as a registry line's template sees it."""

    def __init__(self, line: str, device: Device) -> None:
        self._line = line
        self.mcuid = device.mcuid
        self.file = device.file
        self.version = device.version

    def __str__(self) -> str:
        return self._line


def _table(devices: tuple[Device, ...], firmware: Path) -> dict[str, object]:
    """What a `provision` command reads."""
    return {
        "firmware": str(firmware),
        "devices": [
            {"mcuid": device.mcuid, "file": device.entry(firmware), "version": device.version} for device in devices
        ],
    }


def observation(target: DeviceCommand, key: Literal["flash", "outcome"]) -> str:
    """What a device declares to show, as a path with placeholders; a device that does not shows too little."""
    template: str | None = getattr(target.observe, key)
    if template is None:
        raise CouldNotTest(f"the target does not show its {key}: declare {key} under [observe] in {target.path}")
    return template


def observation_path(target: DeviceCommand, template: str, values: Mapping[str, object]) -> Path:
    """Where an observation is; relative to the target file, as the device's command runs there."""
    return target.path.resolve().parent / fill(template, values)


def read_outcome(path: Path) -> dict[str, object]:
    """The JSON object that a device writes about its update."""
    try:
        outcome = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise CouldNotTest(f"the device wrote no outcome: there is no file {path}") from error
    except (OSError, ValueError) as error:
        raise CouldNotTest(f"the device's outcome cannot be read: {path}: {error}") from error
    if not isinstance(outcome, dict):
        raise CouldNotTest(f"the device's outcome is not a JSON object: {path}")
    return outcome


def _never_ready(target: ServerCommand, command: tuple[str, ...], status: int | None, output: str) -> str:
    """Why a server is not ready, with its last words."""
    ready = target.ready
    what = "its port listening"
    if ready.log is not None:
        what = f"a line of output matching {ready.log.pattern!r}"
    elif ready.file is not None:
        what = f"the file {ready.file}"
    how = f"no sign within {target.timeouts.ready:g} s" if status is None else f"it ended with status {status}"
    last_words = "".join(f"    {line}\n" for line in output.splitlines()[-20:]) or "    (nothing)\n"
    return (
        f"the server never became ready: {how}\n  expected: {what}\n  command:  {' '.join(command)}\n"
        f"  output:\n{last_words}"
    )
