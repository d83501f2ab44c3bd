"""`fota serve` as a child process: started, watched until it is ready, and stopped whatever happens.

The child gets a session of its own, so that a Ctrl-C in the terminal reaches its owner alone, who then stops it in
order. A thread reads what it prints, so that it never blocks on a full pipe; the newest lines are kept.
"""

import json
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

from ..errors import HarnessError

READY_TIMEOUT: Final = 30.0
"""Seconds from the start to the readiness line; starting Python takes most of them on a busy machine."""

STOP_TIMEOUT: Final = 35.0
"""Seconds from SIGTERM to SIGKILL: a little more than live updates get by default (`--stop-timeout`, 30)."""

KEPT_LINES: Final = 1_000
"""Newest lines of the child's output that are kept."""

LINE_LIMIT: Final = 4_096
"""Most bytes taken as one line."""

TOLD_LINES: Final = 20
"""Lines of the child's output in the message about its death."""

READER_TIMEOUT: Final = 5.0
"""Seconds for the rest of the output after the child's end."""


class ServerProcess:
    """A running server; a context manager that stops it."""

    def __init__(self, options: Sequence[str], folder: Path, *, ready_timeout_s: float = READY_TIMEOUT) -> None:
        """Start `fota serve` with `options` in `folder` and wait for it; raises `HarnessError` with what it printed."""
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._ready: dict[str, Any] | None = None
        self._ready_or_ended = threading.Event()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "fota_cli", "serve", *options],
            cwd=folder,
            env=os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONSAFEPATH": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        self._reader = threading.Thread(target=self._read, args=(self._process.stdout,), name="server-output")
        self._reader.start()
        try:
            self._ready_or_ended.wait(ready_timeout_s)
            if self._ready is None:
                raise self._trouble(ready_timeout_s)
            self.host: str = self._ready["host"]
            """The address it listens on."""
            self.port: int = self._ready["port"]
            """The port, a free one where 0 was asked for."""
        except BaseException:
            self.stop(0.0)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative: the number of the signal that ended it."""
        return self._process.poll()

    @property
    def output(self) -> str:
        """The newest lines that it printed."""
        return "\n".join(tuple(self._lines))

    def peak_memory(self) -> int:
        """Most bytes of memory that it held so far; 0 where the system does not say."""
        try:
            status = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii", errors="replace")
        except OSError:
            return 0
        return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:")), 0)

    def stop(self, timeout_s: float = STOP_TIMEOUT) -> int:
        """Send SIGTERM, wait, then kill; returns the exit code. May be called again."""
        try:
            if self._process.poll() is None and timeout_s > 0:
                self._process.terminate()
                self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._lines.append(f"killed: it went on for {timeout_s:g} s after SIGTERM")
        finally:
            if self._process.poll() is None:
                self._process.kill()
            self._process.wait()
            self._reader.join(READER_TIMEOUT)
        return self._process.returncode

    def _read(self, stream: IO[bytes]) -> None:
        with stream:
            while line := stream.readline(LINE_LIMIT):
                text = line.decode("utf-8", "backslashreplace").rstrip("\r\n")
                if self._ready is None and (ready := _readiness(text)) is not None:
                    self._ready = ready
                    self._ready_or_ended.set()
                else:
                    self._lines.append(text)
        self._ready_or_ended.set()

    def _trouble(self, ready_timeout_s: float) -> HarnessError:
        if self._process.poll() is None and self._reader.is_alive():
            what = f"was not ready within {ready_timeout_s:g} s"
        else:
            what = f"did not start: exit code {self._process.wait(READER_TIMEOUT)}"
        told = list(self._lines)[-TOLD_LINES:] or ["nothing"]
        return HarnessError(f"the server {what}; it printed:\n" + "\n".join(f"  {line}" for line in told))


def _readiness(text: str) -> dict[str, Any] | None:
    """The readiness line's content; None if `text` is another line."""
    if not text.startswith("{"):
        return None
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) and found.get("event") == "ready" else None
