"""Targets as child processes: started in a process group of their own, watched, and stopped with all they started.

The end of what a child says on standard output and error is kept, up to a limit; a thread reads it so that a talkative
child never blocks on a full pipe.
"""

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Final, Self

from fota_conformance.errors import CouldNotTest

KEPT_BYTES: Final = 256 * 1024
"""Bytes of a child's output that are kept; older ones are dropped."""
POLL_INTERVAL: Final = 0.02
"""Seconds between two looks at something that cannot be waited for (a file, the socket table, a child's end)."""
DRAIN_TIMEOUT: Final = 1.0
"""Seconds that the end of a child's output may take after the child's end."""
LISTENING: Final = "0A"
"""The state of a listening socket in `/proc/net/tcp` (TCP_LISTEN in the kernel's `tcp_states.h`)."""


class Output:
    """The kept end of what a child said, and a way to wait for a line of it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._kept = bytearray()
        self._total = 0

    def append(self, data: bytes) -> None:
        """More output, from the reading thread."""
        with self._changed:
            self._kept += data
            self._total += len(data)
            del self._kept[:-KEPT_BYTES]
            self._changed.notify_all()

    def mark(self) -> int:
        """A place in the output, for `since`."""
        with self._changed:
            return self._total

    def since(self, mark: int = 0) -> str:
        """What was said since a mark, as far as it is kept."""
        with self._changed:
            dropped = self._total - len(self._kept)
            return self._kept[max(mark - dropped, 0) :].decode("utf-8", "backslashreplace")

    def has_line(self, pattern: re.Pattern[str]) -> bool:
        """Whether a line, whole or not, matches."""
        return any(pattern.search(line) for line in self.since().splitlines())


class Child:
    """One target process and everything that it starts; stopped on leaving its `with` block."""

    def __init__(self, command: tuple[str, ...], folder: Path) -> None:
        """Start it in `folder`. The kit's own interpreter's scripts are found first, as in an active environment."""
        self.command = command
        self.output = Output()
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        try:
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                env=os.environ | {"PATH": path, "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise CouldNotTest(f"the target cannot be started: {command[0]}: {error.strerror or error}") from error
        assert self._process.stdout is not None
        self._stdout: IO[bytes] = self._process.stdout
        self._finished = threading.Event()
        self._thread = threading.Thread(target=self._read_output, name=f"output of {command[0]}", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(0.0)

    @property
    def exit_status(self) -> int | None:
        """The child's exit status (negative: the signal that ended it), `None` while it runs."""
        return self._process.poll()

    @property
    def pid(self) -> int:
        """Its process, which leads a group of its own."""
        return self._process.pid

    def tell(self, number: signal.Signals) -> None:
        """Send a signal to the process alone, as a service manager does."""
        self._process.send_signal(number)

    def wait(self, within_s: float) -> int | None:
        """Wait for the child to end by itself."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(within_s)
        return self.exit_status

    def wait_until(self, condition: Callable[[], bool], within_s: float) -> bool:
        """Wait until a condition holds; False if it did not in time or the child ended first."""
        deadline = time.monotonic() + within_s
        while not condition():
            if self.exit_status is not None or time.monotonic() >= deadline:
                return condition()
            time.sleep(POLL_INTERVAL)
        return True

    def stop(self, politely_s: float) -> None:
        """Ask the group to stop, wait, then kill what is left of it."""
        if self.exit_status is None and politely_s > 0:
            self._signal(signal.SIGTERM)
            self.wait(politely_s)
        # The group may outlive its leader; its number is not given away while it has a member.
        self._signal(signal.SIGKILL)
        self._process.wait()
        self._thread.join(DRAIN_TIMEOUT)
        self._finished.set()
        self._thread.join()
        self._stdout.close()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def _read_output(self) -> None:
        """Runs in its own thread until the last writer is gone, or `stop` has waited long enough for that."""
        while not self._finished.is_set():
            if select.select([self._stdout], [], [], 0.2)[0]:
                data = os.read(self._stdout.fileno(), 65_536)
                if not data:
                    return
                self.output.append(data)


def port_is_listening(port: int, tables: tuple[Path, ...] = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))) -> bool:
    """Whether some socket listens on a port, from the kernel's table: nobody is connected to."""
    wanted = f"{port:04X}"
    for table in tables:
        if not table.exists():
            continue
        for line in table.read_text("ascii").splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            if state == LISTENING and local.rpartition(":")[2] == wanted:
                return True
    return False
