"""Cases that must wait, side by side.

A case marked `fota_waits` mostly waits for a deadline of its target. Each runs in a thread of its own, all at once, on
a target instance of its own where the kit can start one; pytest comes to them one after the other and takes what the
thread found. A thread touches its own case alone: bench, wire log and recorded steps. Where the target bears no more
than one session there is no room, and they wait one after the other like all others.
"""

import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final

import pytest

from fota_conformance import reporting

MAX_THREADS: Final = 16
"""Cases that wait at once; each may have a target process of its own."""


@dataclass(frozen=True, slots=True)
class Waited:
    """What a case came to in its thread."""

    error: BaseException | None
    steps: reporting.Recording
    duration_s: float


class WaitingRoom:
    """Cases that wait; `arguments` prepares what the function of one takes, and cleans up after it."""

    def __init__(
        self,
        items: Iterable[pytest.Function],
        threads: int,
        arguments: Callable[[pytest.Item], AbstractContextManager[dict[str, Any]]],
    ) -> None:
        self._arguments = arguments
        self._pool = ThreadPoolExecutor(min(threads, MAX_THREADS), thread_name_prefix="waiting")
        self._futures: dict[str, Future[Waited]] = {item.nodeid: self._pool.submit(self._run, item) for item in items}

    def __contains__(self, item: pytest.Item) -> bool:
        return item.nodeid in self._futures

    def finish(self, item: pytest.Item) -> Waited:
        """Wait for a case's end."""
        return self._futures[item.nodeid].result()

    def close(self) -> None:
        """Begin no further case; those that run end by their own deadlines."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _run(self, item: pytest.Function) -> Waited:
        began = time.monotonic()
        error: BaseException | None = None
        with reporting.recording() as steps:
            try:
                with self._arguments(item) as arguments:
                    item.obj(**arguments)
            except BaseException as raised:
                error = raised
        return Waited(error, steps, time.monotonic() - began)
