"""One change at a time: a lock on the folder that registries lie in, for the processes of this program."""

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
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Keep other processes from changing registries of `folder` meanwhile, where that can be said.

    Raises `RegistryError` when another one does not come to its end, and `OSError` when there is no such folder.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        limit = time.monotonic() + LOCK_TIMEOUT
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > limit:
                    raise RegistryError(f"{folder}: locked by another process for {LOCK_TIMEOUT:g} s") from None
                time.sleep(_POLL)
        yield
    finally:
        os.close(descriptor)
