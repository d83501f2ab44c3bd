"""The workers of a Dask cluster, as a run in shards sees them: who is there, knows the images and has room."""

import contextlib
import importlib.metadata
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from distributed import Client

from ..errors import HarnessError, UsageError
from .local_workers import START_TIMEOUT, LocalWorkers
from .shard_worker import WorkerFacts, greet


class SchedulerGone(HarnessError):
    """Nobody tells any more what workers do."""


class Cluster:
    """Workers that are there and know the images."""

    def __init__(
        self,
        client: Client,
        address: str,
        local: LocalWorkers | None,
        run: str,
        contents: Mapping[str, bytes],
        largest_shard: int,
        interrupted: threading.Event,
    ) -> None:
        self.client = client
        self._address = address
        self._interrupted = interrupted
        self._local = local
        self._run = run
        self._contents = contents
        self._largest_shard = largest_shard
        self._ready: dict[str, None] = {}

    def wait_for(self, count: int) -> list[str]:
        """At least `count` workers; raises `HarnessError` where they do not come, and `KeyboardInterrupt`."""
        limit = time.monotonic() + START_TIMEOUT
        while len(found := self.look()) < count:
            if self._interrupted.is_set():
                raise KeyboardInterrupt
            if self._local is not None:
                self._local.check()
            if time.monotonic() > limit:
                raise HarnessError(f"{len(found)} workers after {START_TIMEOUT:g} s, expected {count}")
            time.sleep(0.1)
        return found

    def look(self) -> list[str]:
        """Workers that can be given a shard, by address; a new one is greeted first. Raises `SchedulerGone`."""
        with self.reached():
            there = set(self.client.nthreads())
        for gone in set(self._ready) - there:
            del self._ready[gone]
        if new := sorted(there - set(self._ready)):
            self._greet(new)
        return list(self._ready)

    @contextlib.contextmanager
    def reached(self) -> Iterator[None]:
        """Raises `SchedulerGone` for whatever the engine raises where its scheduler does not answer."""
        try:
            yield
        except Exception as error:
            why: BaseException = error
            while why.__cause__ is not None:  # the engine wraps it in words of its own
                why = why.__cause__
            told = getattr(why, "strerror", None) or str(why) or type(why).__name__
            raise SchedulerGone(f"the scheduler {self._address} is gone: {told}") from error

    def replace_dead(self) -> None:
        """Start a worker of our own for each that is gone."""
        if self._local is not None:
            self._local.replace_dead()

    def _greet(self, workers: list[str]) -> None:
        own = importlib.metadata.version("k60-fota")
        # The deadline is the engine's: the scheduler gives up on workers that are silent.
        with self.reached():
            answers: dict[str, Any] = self.client.run(
                greet, self._run, self._contents, workers=workers, on_error="return"
            )
        for worker, facts in answers.items():
            if isinstance(facts, OSError):
                continue  # it left meanwhile
            if not isinstance(facts, WorkerFacts):
                raise HarnessError(f"worker {worker} cannot run devices: {type(facts).__name__}: {facts}")
            if facts.version != own:
                raise HarnessError(f"worker {worker} has k60-fota {facts.version}, expected {own}")
            if facts.room < self._largest_shard:
                raise UsageError(
                    f"shard of {self._largest_shard} devices, expected at most {facts.room}: worker {worker} may not "
                    "open more connections; lower --shard-size, or raise its ulimit -Hn"
                )
            self._ready[worker] = None
