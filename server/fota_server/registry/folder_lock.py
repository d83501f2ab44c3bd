"""One change at a time: a lock on the folder that a registry lies in, for the processes of this program."""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ..errors import RegistryError

LOCK_TIMEOUT: Final = 30.0
"""Seconds that a change waits for another process's change of a registry in the same folder."""

_POLL: Final = 0.02


@contextlib.contextmanager
def one_at_a_time(registry: Path, timeout_s: float = LOCK_TIMEOUT) -> Iterator[None]:
    """Keep other processes from changing registries of its folder meanwhile, where that can be said.

    The folder is that of the file which a link leads to. Raises `RegistryError` when another one does not come to its
    end, and `OSError` when there is no such folder.
    """
    folder = os.path.dirname(os.path.realpath(registry))
    try:
        import fcntl
    except ImportError:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        limit = time.monotonic() + timeout_s
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > limit:
                    raise RegistryError(f"{folder}: locked by another process for {timeout_s:g} s") from None
                time.sleep(_POLL)
        yield
    finally:
        os.close(descriptor)
