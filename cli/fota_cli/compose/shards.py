"""A run in shards on a Dask cluster: another one's, or worker processes of our own on this machine.

The engine is used for little: to reach processes, to call a function in them (`shard_worker`), and to notice when one
is gone. Which shard runs where is decided here: an attempt of a shard is a task of its own, bound to one worker, so
that the engine never runs one again behind our back, and a lost worker is seen and told.

What goes over the wire: each image once to each worker, a few bytes a device with its shard, a sample of each shard
every half second, and the result: counts, and how long each update took. Results and samples are keyed by shard and
attempt (`fleet_shards.Ledger`); the report is made of final results alone (`shard_report.merge`).

Once a run has begun, nothing takes away what has ended: a scheduler that goes, a worker that raises, a mistake of our
own end the run before its time, and the report says why, and has the shards that had ended by then.
"""

import contextlib
import dataclasses
import logging
import queue
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any, Final

from distributed import Client, Future

from fota_protocol.device import DeviceTimings
from fota_simulator.behaviour import Arrivals, Behaviour
from fota_simulator.boot import BootloaderSettings
from fota_simulator.durations import Durations
from fota_simulator.report import Sample
from fota_simulator.swarm import SAMPLE_INTERVAL, TIMELINE_LIMIT, DevicePlan

from .. import exit_codes
from ..errors import CommandError, HarnessError
from ..fleet_shards import (
    DEVICES_TOLD,
    MAX_ATTEMPTS,
    Attempt,
    Ledger,
    OnWorkerLoss,
    Shard,
    ShardSettings,
    arrivals_of_shard,
    behaviour_of_shard,
    cut,
    sources_of_slot,
)
from ..shard_report import ShardedReport, ShardResult, merge
from .cluster import Cluster, SchedulerGone
from .local_workers import START_TIMEOUT, LocalWorkers
from .shard_worker import Orders, run_shard, stop_shards, topic_of

LOOK_INTERVAL: Final = 0.5
"""Seconds between two looks at which workers are there."""

CONNECT_TIMEOUT: Final = 10.0
"""Seconds for a scheduler to answer."""

RESULT_TIMEOUT: Final = 30.0
"""Seconds to fetch the result of a shard that has ended."""

STOP_TIMEOUT: Final = 15.0
"""Seconds for shards that are told to stop to say what they have done."""


def run_sharded(
    settings: ShardSettings,
    host: str,
    port: int,
    plans: Sequence[DevicePlan],
    *,
    timings: DeviceTimings,
    arrivals: Arrivals,
    behaviour: Behaviour,
    bootloader: BootloaderSettings,
    source_addresses: Sequence[str],
    on_progress: Callable[[Sample], None],
    tell: Callable[[str], None],
) -> tuple[ShardedReport, bool]:
    """Update all of `plans` from workers; returns the report, and whether SIGINT ended it early.

    `tell` is given what a user should know at once: which worker was lost. Raises `HarnessError` where there is no
    cluster to run on. Whatever happens after the first shard was handed out is `trouble` of the report.
    """
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("distributed."):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # of lost workers the run tells itself
    shards, contents = cut(plans, settings.size)
    done: tuple[ShardedReport, bool] | None = None
    try:
        with contextlib.ExitStack() as stack:
            interrupted = stack.enter_context(_interrupts())
            local = stack.enter_context(LocalWorkers(settings.local_workers)) if settings.scheduler is None else None
            address = local.address if local is not None else settings.scheduler
            assert address is not None
            try:
                client = stack.enter_context(Client(address, timeout=CONNECT_TIMEOUT, set_as_default=False))
            except (OSError, ValueError) as error:
                raise HarnessError(f"scheduler {address}: {str(error) or 'no answer'}") from error
            name = uuid.uuid4().hex
            largest = max(shard.count for shard in shards)
            cluster = Cluster(client, address, local, name, contents, largest, interrupted)
            wanted = min(len(shards), settings.at_once)
            slots = min(wanted, len(cluster.wait_for(min(wanted, settings.local_workers or 1))))
            orders = Orders(
                run=name,
                attempt=0,
                host=host,
                port=port,
                timings=timings,
                arrivals=arrivals_of_shard(arrivals, slots),
                behaviour=behaviour,
                settings=bootloader,
                source_addresses=tuple(source_addresses),
                devices_in_report=settings.devices_in_report or len(plans) < DEVICES_TOLD,
            )
            strangers = sum(plan.is_stranger for plan in plans)
            run = _Run(
                cluster, shards, strangers, slots, orders, settings.on_worker_loss, on_progress, tell, interrupted
            )
            done = run.run()
    except Exception:
        if done is None:
            raise
        # Parting from a cluster that is broken may fail, too; what the run came to is known.
    return done


@contextlib.contextmanager
def _interrupts() -> Iterator[threading.Event]:
    """Set by the first SIGINT, since the engine cannot be interrupted anywhere; a second one interrupts as ever."""
    interrupted = threading.Event()

    def first(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        interrupted.set()

    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return
    before = signal.signal(signal.SIGINT, first)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)


class _Run:
    """One run from its first shard to its last."""

    def __init__(
        self,
        cluster: Cluster,
        shards: Sequence[Shard],
        strangers: int,
        slots: int,
        orders: Orders,
        on_worker_loss: OnWorkerLoss,
        on_progress: Callable[[Sample], None],
        tell: Callable[[str], None],
        interrupted: threading.Event,
    ) -> None:
        self._cluster = cluster
        self._client = cluster.client
        self._shards = shards
        self._strangers = strangers
        self._slots = slots
        self._orders = orders
        self._on_worker_loss = on_worker_loss
        self._on_progress = on_progress
        self._tell = tell
        self._ledger: Ledger[ShardResult] = Ledger([shard.count for shard in shards], slots)
        self._futures: dict[Attempt, Future] = {}
        self._began: dict[Attempt, float] = {}
        self._news: queue.SimpleQueue[Attempt | dict[str, Any]] = queue.SimpleQueue()
        self._durations = Durations()
        self._timeline: list[Sample] = []
        self._timeline_every = 1
        self._ticks = 0
        self._start = time.monotonic()
        self._interrupted = interrupted
        self._trouble: str | None = None
        self._exit_code = exit_codes.OK
        self._is_cut_off = False
        self._alone_since: float | None = None

    def run(self) -> tuple[ShardedReport, bool]:
        """Run every shard; returns the report, and whether it was interrupted."""
        self._start = time.monotonic()
        try:
            with self._heeded():
                self._attend()
            is_whole = self._ledger.is_complete
            if not is_whole:
                self._stop()
        finally:
            with contextlib.suppress(Exception):  # of a broken engine; there is nothing left to say to it
                self._client.unsubscribe_topic(topic_of(self._orders.run))
                self._client.cancel(list(self._futures.values()))
        self._ledger.give_up()
        with contextlib.suppress(OSError):  # who watched has left
            self._on_progress(self._sample())
        report = merge(
            sum(shard.count for shard in self._shards),
            [
                (attempt, self._began[attempt], result)
                for attempt, result in (self._ledger.results[number] for number in sorted(self._ledger.results))
            ],
            (*self._timeline, self._sample()),
            duration_s=self._now(),
            strangers=self._strangers,
            lost=self._ledger.lost,
            trouble=self._trouble,
            exit_code=self._exit_code,
        )
        return report, self._interrupted.is_set() and not is_whole

    def _attend(self) -> None:
        """Hand out shards and hear of them until the run is over."""
        self._client.subscribe_topic(topic_of(self._orders.run), lambda event: self._news.put(event[1]))
        looked = -LOOK_INTERVAL
        workers: list[str] = []
        while not self._is_over:
            if self._now() - looked >= LOOK_INTERVAL:
                workers = self._cluster.look()
                looked = self._now()
                self._find_lost(workers)
            self._hand_out(workers)
            self._hear(SAMPLE_INTERVAL)
            self._show()

    @contextlib.contextmanager
    def _heeded(self) -> Iterator[None]:
        """What is raised here ends the run, and takes away nothing that has ended; the first such thing is told."""
        try:
            yield
        except Exception as error:
            self._is_cut_off |= isinstance(error, SchedulerGone)
            if self._trouble is None and not self._ledger.is_complete:
                self._trouble = str(error) if isinstance(error, CommandError) else f"{type(error).__name__}: {error}"
                self._exit_code = exit_codes.HARNESS

    @property
    def _is_over(self) -> bool:
        return self._ledger.is_complete or self._interrupted.is_set() or self._trouble is not None

    def _now(self) -> float:
        return time.monotonic() - self._start

    # --- shards

    def _hand_out(self, workers: Sequence[str]) -> None:
        busy = {attempt.worker for attempt in self._ledger.running}
        for worker in workers:
            if not self._ledger.wants_worker or self._is_over:
                return
            if worker not in busy:
                self._begin(worker)

    def _begin(self, worker: str) -> None:
        attempt = self._ledger.begin(worker)
        shard = self._shards[attempt.shard]
        orders = dataclasses.replace(
            self._orders,
            attempt=attempt.number,
            behaviour=behaviour_of_shard(self._orders.behaviour, shard.number),
            source_addresses=sources_of_slot(self._orders.source_addresses, attempt.slot, self._slots),
        )
        future = self._client.submit(
            run_shard,
            shard,
            orders,
            key=f"fota-{orders.run}-{shard.number}-{attempt.number}",
            workers=[worker],
            allow_other_workers=False,
            pure=False,
            retries=0,
        )
        self._futures[attempt] = future
        self._began[attempt] = self._now()
        future.add_done_callback(lambda _: self._news.put(attempt))

    def _hear(self, timeout_s: float) -> None:
        """Take in what attempts say, for so long, or until one has ended."""
        limit = time.monotonic() + timeout_s
        while (left := limit - time.monotonic()) > 0:
            try:
                news = self._news.get(timeout=left)
            except queue.Empty:
                return
            if isinstance(news, Attempt):
                self._ended(news)
                return
            self._ledger.heard(news["shard"], news["attempt"], Sample(**news["sample"]))

    def _ended(self, attempt: Attempt) -> None:
        future = self._futures.pop(attempt, None)
        if future is None:
            return
        if future.cancelled():  # not by us: the scheduler went away, or came again without it
            self._lost(attempt)
            return
        error = future.exception(timeout=RESULT_TIMEOUT) if future.status == "error" else None
        if error is not None:
            if type(error).__name__ == "KilledWorker":
                self._lost(attempt)
                return
            self._ledger.drop(attempt)
            raise HarnessError(
                f"shard {attempt.shard}, attempt {attempt.number}, on worker {attempt.worker}: "
                f"{type(error).__name__}: {error}"
            )
        try:
            result: ShardResult = future.result(timeout=RESULT_TIMEOUT)
        except Exception:  # the worker left with it
            self._lost(attempt)
            return
        counts = result.report
        last = Sample(
            time_s=counts.duration_s,
            waiting=counts.count - counts.updated - counts.refused - counts.failed,
            connected=0,
            updated=counts.updated,
            refused=counts.refused,
            failed=counts.failed,
            records=counts.records,
            failed_attempts=counts.failed_attempts,
            not_connected=counts.not_connected,
        )
        if self._ledger.finish(attempt, result, last):
            for duration in result.durations:
                self._durations.add(duration)
            p50_s, p90_s, p99_s = self._durations.percentiles((50, 90, 99))
            self._ledger.percentiles = (p50_s, p90_s, p99_s)

    # --- lost workers

    def _find_lost(self, workers: Sequence[str]) -> None:
        for attempt in self._ledger.running:
            future = self._futures.get(attempt)
            if attempt.worker not in workers and (future is None or not future.done()):
                self._lost(attempt)
        if workers or self._is_over:
            self._alone_since = None
        elif self._alone_since is None:
            self._alone_since = self._now()
        elif self._now() - self._alone_since > START_TIMEOUT:
            raise HarnessError(f"no worker for {START_TIMEOUT:g} s, expected at least 1")

    def _lost(self, attempt: Attempt) -> None:
        self._cluster.look()  # which raises if it is the scheduler that is gone: then nothing is known of workers
        future = self._futures.pop(attempt, None)
        if future is not None:
            future.cancel()
        self._ledger.lose(attempt)
        what = (
            f"worker {attempt.worker} was lost, with shard {attempt.shard} "
            f"({self._shards[attempt.shard].count} devices), attempt {attempt.number}"
        )
        if self._is_over:
            return  # nobody waits for it any more
        if self._on_worker_loss is OnWorkerLoss.INVALIDATE:
            self._trouble, self._exit_code = f"the run is invalid: a worker was lost; {what}", exit_codes.INVALID
        elif self._on_worker_loss is OnWorkerLoss.FAIL:
            self._trouble, self._exit_code = what, exit_codes.FAILED
        elif attempt.number >= MAX_ATTEMPTS:
            self._trouble, self._exit_code = f"{what} of {MAX_ATTEMPTS}", exit_codes.FAILED
        else:
            self._tell(f"{what}: it is run again")
            self._cluster.replace_dead()

    # --- the end

    def _stop(self) -> None:
        """Have shards that are under way end, and take in what they have done, as far as they can be reached."""
        if not self._is_cut_off:
            with self._heeded(), self._cluster.reached():
                self._client.run(stop_shards, self._orders.run, on_error="ignore")
        limit = time.monotonic() + STOP_TIMEOUT
        while self._ledger.running and time.monotonic() < limit and not self._is_cut_off:
            with self._heeded():
                workers = self._cluster.look()
                for attempt in self._ledger.running:
                    if attempt.worker not in workers:
                        self._ledger.lose(attempt)
                self._hear(SAMPLE_INTERVAL)

    # --- telling

    def _sample(self) -> Sample:
        return self._ledger.sample(self._now())

    def _show(self) -> None:
        """Show the run, and keep how it is for the timeline, as `run_swarm` does."""
        if self._now() < self._ticks * SAMPLE_INTERVAL:
            return
        sample = self._sample()
        if len(self._timeline) >= TIMELINE_LIMIT:
            del self._timeline[1::2]
            self._timeline_every *= 2
        if self._ticks % self._timeline_every == 0:
            self._timeline.append(sample)
        self._ticks += 1
        self._on_progress(sample)
