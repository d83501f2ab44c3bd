"""A board that is a command: `fota board` or any other simulator, started before its port is opened and stopped behind.

It stays in our process group, so that whoever kills that, as the conformance kit cuts a device's power, kills the board
too. What it prints goes to our standard error.
"""

import contextlib
import os
import shlex
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Self

from .errors import PortError
from .templates import Template

PORT_TIMEOUT: Final = 30.0
"""Seconds from the start of a board's command to its port; starting Python takes most of them on a busy machine."""

BOARD_STOP_TIMEOUT: Final = 10.0
"""Seconds from SIGTERM to SIGKILL for it: it may have a flash to save."""

_STANDARD_ERROR: Final = 2

_LOOK_INTERVAL: Final = 0.02
"""Seconds between two looks whether the port is there."""


class BoardProcess:
    """A running board whose port is there; a context manager that stops it."""

    def __init__(
        self,
        template: Template,
        values: Mapping[str, str],
        port: str,
        is_stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        """Start it and wait for `port`, where that is a path, or until `is_stopping`; raises `PortError`."""
        words = template.filled(values)
        path = Path(port)
        if "://" not in port and path.is_symlink() and path.readlink().parent == Path("/dev/pts"):
            path.unlink()  # a board that was killed left it; by now the pseudo terminal may be somebody else's
        try:
            self._process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=_STANDARD_ERROR)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise PortError(port, f"the board's command cannot be run: {shlex.join(words)}: {reason}") from error
        try:
            self._wait_for(port, is_stopping)
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Ask it to end, and end it."""
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            self._process.wait(BOARD_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _wait_for(self, port: str, is_stopping: Callable[[], bool]) -> None:
        if "://" in port:
            return
        until = time.monotonic() + PORT_TIMEOUT
        while not os.path.exists(port) and not is_stopping():
            if self._process.poll() is not None:
                raise PortError(port, f"the board's command ended with exit code {self._process.returncode}")
            if time.monotonic() >= until:
                raise PortError(port, f"the board's command did not make it within {PORT_TIMEOUT:g} s")
            time.sleep(_LOOK_INTERVAL)
