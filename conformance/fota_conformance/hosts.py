"""Bringing a target up for the cases: the registry and firmware it serves, its address, its logs, its end.

A server started by command lives through many cases: one instance per pytest worker, with a registry of all devices of
all cases, written before it starts. It is discarded after a case that did not pass, and started again for the next.
A server by address is only known. A device's command plays one session, so each case starts its own.
"""

import hashlib
import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from fota_conformance.errors import CouldNotTest
from fota_conformance.process import Child, port_is_listening
from fota_conformance.reading import Firmware
from fota_conformance.target import DeviceCommand, ServerAddress, ServerCommand, Timeouts, fill

REGISTRY_NAME: Final = "devices2update.txt"
"""The seed's name for its registry."""
MCUID_DIGITS: Final = 25
"""Decimal digits of an MCUID under revision A; valid under revision B, too."""
LOG_TAIL: Final = 64 * 1024
"""Bytes of each of a server's log files that are kept with a case."""
DYING: Final = 0.5
"""Seconds that a process whose connection broke may take to be gone, before it counts as alive."""


@dataclass(frozen=True, slots=True)
class Device:
    """A device that the server under test is to know: its identity, its image, the version in its end frame."""

    mcuid: str
    firmware: Firmware
    version: str


def make_mcuid(*parts: object) -> str:
    """An MCUID that belongs to these parts alone (case, worker, number), the same in every run."""
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
    return f"{int.from_bytes(digest) % 10**MCUID_DIGITS:0{MCUID_DIGITS}d}"


class CommandServer:
    """A server under test that the kit starts when a case needs it."""

    def __init__(self, target: ServerCommand, folder: Path, devices: tuple[Device, ...]) -> None:
        self._target = target
        self._folder = folder
        self._devices = devices
        self._instances = 0
        self._child: Child | None = None
        self._never_ready = False
        self._address = ("", 0)
        self._logs = folder

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

    def mark(self) -> int:
        """Where its output is now, for `logs`; the beginning, if the next case starts it."""
        return self._child.output.mark() if self._child is not None and self._child.exit_status is None else 0

    def logs(self, mark: int) -> dict[str, str]:
        """Its output since a mark, and the ends of its log files, by name."""
        if self._child is None:
            return {}
        found = {"output.log": self._child.output.since(mark)}
        for path in sorted(self._logs.rglob("*")):
            if path.is_file():
                with path.open("rb") as file:
                    file.seek(max(path.stat().st_size - LOG_TAIL, 0))
                    found[path.name] = file.read(LOG_TAIL).decode("utf-8", "backslashreplace")
        return found

    def obituary(self) -> str:
        """One line if it died, empty while it lives."""
        if self._child is None or (status := self._child.wait(DYING)) is None:
            return ""
        return f"the server's process ended with status {status}"

    def _start(self) -> None:
        self._instances += 1
        place = self._folder / f"server-{self._instances}"
        registry, firmware, self._logs = place / REGISTRY_NAME, place / "firmware", place / "logs"
        firmware.mkdir(parents=True)
        self._logs.mkdir()
        provision(registry, firmware, self._devices)
        self._address = (self._target.host, free_port(self._target.host))
        values = {
            "host": self._target.host,
            "port": self._address[1],
            "registry": registry,
            "firmware": firmware,
            "logs": self._logs,
        }
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
            return (self._target.path.parent / fill(ready.file, values)).exists()
        return port_is_listening(self._address[1])


class KnownServer:
    """A server under test that runs already."""

    def __init__(self, target: ServerAddress) -> None:
        self._address = (target.host, target.port)

    def address(self) -> tuple[str, int]:
        """Where it listens."""
        return self._address

    def stop(self) -> None:
        """It is not ours to stop."""

    def mark(self) -> int:
        """Its output is not ours to see."""
        return 0

    def logs(self, mark: int) -> dict[str, str]:
        """Nor are its logs."""
        return {}

    def obituary(self) -> str:
        """Nor is its end."""
        return ""


class DeviceRun:
    """A device under test while it plays its one session."""

    def __init__(self, child: Child, timeouts: Timeouts) -> None:
        self._child = child
        self._timeouts = timeouts

    def finish(self) -> None:
        """Wait for the end of the command: only then its observations are complete."""
        if self._child.wait(self._timeouts.exit) is None:
            raise CouldNotTest(
                f"the device's command still runs {self._timeouts.exit:g} s after the connection was closed; "
                "it must play one session, write its observations, and exit"
            )

    def has_ended(self) -> bool:
        """Whether the command has ended."""
        return self._child.exit_status is not None

    def logs(self) -> dict[str, str]:
        """What it said."""
        return {"output.log": self._child.output.since()}


@contextmanager
def run_device(target: DeviceCommand, values: Mapping[str, object]) -> Iterator[DeviceRun]:
    """Start the device's command; it is stopped at the end of the `with` block, if it has not ended by then.

    Observations that are left from an earlier run are removed first: they must not pass for new ones.
    """
    for template in (target.observe.flash, target.observe.outcome):
        if template is not None:
            observation_path(target, template, values).unlink(missing_ok=True)
    child = Child(tuple(fill(word, values) for word in target.command), target.path.resolve().parent)
    try:
        yield DeviceRun(child, target.timeouts)
    finally:
        child.stop(target.timeouts.stop)


def provision(registry: Path, firmware: Path, devices: tuple[Device, ...]) -> None:
    """Write the seed's registry, `MCUID,filename,version` per line, and the files that it names."""
    for device in devices:
        (firmware / device.firmware.name).write_bytes(device.firmware.content)
    lines = [f"{device.mcuid},{device.firmware.name},{device.version}\n" for device in devices]
    registry.write_text("".join(lines), encoding="ascii")


def free_port(host: str) -> int:
    """A port that nobody listens on now."""
    with socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        return int(probe.getsockname()[1])


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
