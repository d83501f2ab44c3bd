"""A run in shards on a Dask cluster: another one's, or worker processes of our own on this machine.

The engine is used for little: to reach processes, to call a function in them, and to notice when one is gone. Which
shard runs where is decided here: an attempt of a shard is a task of its own, bound to one worker, so that the engine
never runs one again behind our back, and a lost worker is seen and told. A worker runs one shard at a time, whatever
its threads: `run_swarm` on a loop of its own, in the worker's task thread.

What goes over the wire: each image once to each worker, a few bytes a device with its shard, a sample of each shard
every half second, and the result: counts, and durations as an HdrHistogram. Results and samples are keyed by shard and
attempt (`fleet_shards.Ledger`); the report is made of final results alone.

Workers that are started here belong to this process. They have a session of their own, so that a Ctrl-C in the
terminal reaches this process alone, which then asks every shard for what it has done, and ends them. Whatever else ends
this process ends the scheduler in it, and workers whose scheduler is gone leave.
"""

import asyncio
import contextlib
import dataclasses
import functools
import importlib.metadata
import logging
import math
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Final, Self

import dask
from distributed import Client, Future, LocalCluster, Worker, get_worker
from hdrh.histogram import HdrHistogram

from fota_protocol.device import DeviceTimings, Result
from fota_protocol.formats import load
from fota_protocol.image import FirmwareImage
from fota_simulator.behaviour import Arrivals, Behaviour
from fota_simulator.boot import BootloaderSettings
from fota_simulator.durations import Bucket
from fota_simulator.report import McuReport, Sample, SwarmReport
from fota_simulator.swarm import SAMPLE_INTERVAL, TIMELINE_LIMIT, DevicePlan, run_swarm
from fota_transport.loops import raise_descriptor_limit
from fota_transport.loops import run as run_loop

from .. import exit_codes
from ..errors import HarnessError, UsageError
from ..fleet_shards import (
    DEVICES_TOLD,
    MAX_ATTEMPTS,
    Attempt,
    Ledger,
    LostRow,
    OnWorkerLoss,
    Shard,
    ShardedReport,
    ShardRow,
    ShardSettings,
    arrivals_of_shard,
    behaviour_of_shard,
    cut,
    plans_of,
    sources_of_slot,
)

TICKS_PER_S: Final = 10_000
"""Durations are recorded in ticks of 0.1 ms."""

LONGEST_TICKS: Final = 30 * 86_400 * TICKS_PER_S
"""The longest duration that a histogram tells from longer ones (30 days)."""

SIGNIFICANT_DIGITS: Final = 3
"""Decimal digits of a duration that a histogram keeps: percentiles are exact to 0.1 %."""

SAMPLES_APART: Final = 0.5
"""Seconds between two samples that a shard sends."""

LOOK_INTERVAL: Final = 0.5
"""Seconds between two looks at which workers are there."""

CONNECT_TIMEOUT: Final = 10.0
"""Seconds for a scheduler to answer."""

START_TIMEOUT: Final = 120.0
"""Seconds until workers are there: starting Python takes most of them, many at once on few cores."""

RESULT_TIMEOUT: Final = 30.0
"""Seconds to fetch the result of a shard that has ended."""

STOP_TIMEOUT: Final = 15.0
"""Seconds for shards that are told to stop to say what they have done."""

END_TIMEOUT: Final = 5.0
"""Seconds from SIGTERM to SIGKILL of a worker that was started here."""

RESERVED_DESCRIPTORS: Final = 96
"""Descriptors that a worker needs beside its connections."""

TOLD_LINES: Final = 10
"""Lines of a worker's output in the message about its death."""

RUNS_WITH_IMAGES: Final = 4
"""Runs whose images a worker keeps: so many may share a cluster."""

STOPPED_RUNS: Final = 100
"""Runs of which a worker remembers that they were stopped."""

_WORKER_SETTINGS: Final = {
    "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False",  # it looks at every stack a hundred times a second
    "DASK_DISTRIBUTED__WORKER__HTTP__ROUTES": "[]",
    "PYTHONSAFEPATH": "1",
}


# --- on a worker


@dataclass(frozen=True, slots=True)
class Orders:
    """What a shard is run with, beside its devices."""

    run: str
    """Which run it is of: workers may serve several."""
    attempt: int
    host: str
    port: int
    timings: DeviceTimings
    arrivals: Arrivals
    behaviour: Behaviour
    settings: BootloaderSettings
    source_addresses: tuple[str, ...]
    devices_in_report: bool


@dataclass(frozen=True, slots=True)
class ShardResult:
    """What came of one attempt of a shard."""

    report: SwarmReport
    """Without a timeline; with devices only if they were ordered."""
    ok: int
    """Devices that ended as they should."""
    histogram: bytes
    """Durations of successful updates as an HdrHistogram, encoded."""


@dataclass(frozen=True, slots=True)
class WorkerFacts:
    """What a worker says when it is greeted."""

    version: str
    room: int
    """Connections that its process may open."""


_images: Final[dict[str, dict[str, FirmwareImage]]] = {}
"""Images of the newest runs, by run and digest."""
_stops: Final[dict[tuple[str, int, int], Callable[[], None]]] = {}
_stopped: Final[dict[str, None]] = {}
_lock: Final = threading.Lock()
"""Holds `_stops` and `_stopped` together: shards run in one thread, orders come in another."""


def greet(run: str, contents: Mapping[str, bytes]) -> WorkerFacts:
    """Called in a worker: take the images of a run, by digest."""
    _images[run] = {digest: load(content) for digest, content in contents.items()}
    while len(_images) > RUNS_WITH_IMAGES:
        del _images[next(iter(_images))]
    room = raise_descriptor_limit() - RESERVED_DESCRIPTORS
    return WorkerFacts(importlib.metadata.version("k60-fota"), room)


def stop_shards(run: str) -> None:
    """Called in a worker: end what it runs of `run`, and begin no more of it."""
    with _lock:
        _stopped[run] = None
        while len(_stopped) > STOPPED_RUNS:
            del _stopped[next(iter(_stopped))]
        stops = [stop for (of, _, _), stop in _stops.items() if of == run]
    for stop in stops:
        stop()


def run_shard(shard: Shard, orders: Orders) -> ShardResult:
    """Called in a worker: run the devices of a shard to their ends, or until `stop_shards`."""
    plans = plans_of(shard, _images[orders.run])
    report = run_loop(_run_shard(plans, shard, orders, get_worker()))
    return ShardResult(
        dataclasses.replace(report, timeline=(), devices=report.devices if orders.devices_in_report else ()),
        sum(device.ok for device in report.devices),
        histogram_of(device.duration_s for device in report.devices if device.result == Result.UPDATED.value).encode(),
    )


async def _run_shard(plans: Sequence[DevicePlan], shard: Shard, orders: Orders, worker: Worker) -> SwarmReport:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    last = -SAMPLES_APART

    def tell(sample: Sample) -> None:
        nonlocal last
        if sample.time_s - last >= SAMPLES_APART:
            last = sample.time_s
            message = {"shard": shard.number, "attempt": orders.attempt, "sample": dataclasses.asdict(sample)}
            worker.log_event(topic_of(orders.run), message)

    key = (orders.run, shard.number, orders.attempt)
    with _lock:
        _stops[key] = functools.partial(_call_in, loop, stop.set)
        if orders.run in _stopped:
            stop.set()
    try:
        report, _ = await run_swarm(
            loop,
            orders.host,
            orders.port,
            plans,
            timings=orders.timings,
            arrivals=orders.arrivals,
            behaviour=orders.behaviour,
            settings=orders.settings,
            source_addresses=orders.source_addresses,
            on_progress=tell,
            stop=stop,
        )
    finally:
        with _lock:
            del _stops[key]
    return report


def _call_in(loop: asyncio.AbstractEventLoop, call: Callable[[], object]) -> None:
    loop.call_soon_threadsafe(call)


def topic_of(run: str) -> str:
    """The engine's topic that samples of a run are sent under."""
    return f"fota-{run}"


# --- results


def histogram_of(durations_s: Iterator[float] | Sequence[float] = ()) -> HdrHistogram:
    """A histogram of durations; all of them are of one shape, so that any two can be added."""
    histogram = HdrHistogram(1, LONGEST_TICKS, SIGNIFICANT_DIGITS)
    for duration in durations_s:
        histogram.record_value(min(LONGEST_TICKS, max(1, round(duration * TICKS_PER_S))))
    return histogram


def percentile_of(histogram: HdrHistogram, percent: float) -> float:
    """Seconds that `percent` of the durations do not exceed (nearest rank), but for 0.1 %; 0 of none."""
    total = histogram.get_total_count()
    if not total:
        return 0.0
    rank = max(1, math.ceil(total * percent / 100))  # the library rounds to the nearest count
    return float(histogram.get_value_at_percentile(100.0 * rank / total)) / TICKS_PER_S


def merge(
    count: int,
    results: Sequence[tuple[Attempt, float, ShardResult]],
    timeline: Sequence[Sample],
    *,
    duration_s: float,
    lost: Sequence[Attempt] = (),
    trouble: str | None = None,
    exit_code: int = exit_codes.OK,
) -> ShardedReport:
    """Add up final results, each with its attempt and the second at which that began, in the order of shards."""
    reports = [result.report for _, _, result in results]
    histogram = histogram_of()
    for _, _, result in results:
        histogram.decode_and_add(result.histogram)
    longest = max((report.max_s for report in reports), default=0.0)
    p50_s, p90_s, p99_s = (min(longest, percentile_of(histogram, percent)) for percent in (50, 90, 99))
    memory: dict[str, int] = {}
    for attempt, _, result in results:
        memory[attempt.worker] = max(memory.get(attempt.worker, 0), result.report.rss_bytes)
    updated = sum(report.updated for report in reports)
    records = sum(report.records for report in reports)
    found = ShardedReport(
        count=count,
        updated=updated,
        refused=sum(report.refused for report in reports),
        failed=sum(report.failed for report in reports),
        verified=sum(report.verified for report in reports),
        not_verified=sum(report.not_verified for report in reports),
        duration_s=duration_s,
        records=records,
        bytes=sum(report.bytes for report in reports),
        updates_per_s=updated / duration_s if duration_s else 0.0,
        records_per_s=records / duration_s if duration_s else 0.0,
        p50_s=p50_s,
        p90_s=p90_s,
        p99_s=p99_s,
        max_s=longest,
        rss_bytes=sum(memory.values()),
        timeline=tuple(timeline),
        failures=dict(_added(report.failures for report in reports).most_common()),
        attempts=sum(report.attempts for report in reports),
        devices_by_attempts=dict(sorted(_added(report.devices_by_attempts for report in reports).items())),
        failed_attempts=dict(_added(report.failed_attempts for report in reports).most_common()),
        histogram=_added_buckets(bucket for report in reports for bucket in report.histogram),
        devices=tuple(_later(device, began_s) for _, began_s, result in results for device in result.report.devices),
        ok_devices=sum(result.ok for _, _, result in results),
        shards=tuple(
            ShardRow(
                attempt.shard,
                attempt.number,
                attempt.worker,
                result.report.count,
                result.report.updated,
                began_s,
                result.report.duration_s,
                result.report.rss_bytes,
            )
            for attempt, began_s, result in results
        ),
        lost=tuple(LostRow(attempt.shard, attempt.number, attempt.worker) for attempt in lost),
        trouble=trouble,
        exit_code=exit_code,
    )
    return found if found.ok or found.exit_code else dataclasses.replace(found, exit_code=exit_codes.FAILED)


def _added(counts: Iterator[Mapping[Any, int]]) -> Counter[Any]:
    total: Counter[Any] = Counter()
    for one in counts:
        total.update(one)
    return total


def _added_buckets(buckets: Iterator[Bucket]) -> tuple[Bucket, ...]:
    found: dict[float, Bucket] = {}
    for bucket in buckets:
        known = found.get(bucket.from_s)
        found[bucket.from_s] = (
            bucket if known is None else dataclasses.replace(bucket, count=known.count + bucket.count)
        )
    return tuple(found[start] for start in sorted(found))


def _later(device: McuReport, seconds: float) -> McuReport:
    return dataclasses.replace(device, started_s=device.started_s + seconds)


# --- worker processes of our own


class LocalWorkers:
    """A scheduler in this process, on the loopback, and worker processes; a context manager that ends them all."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._number = 0
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fota-workers-")))
            stack.enter_context(
                dask.config.set({"distributed.scheduler.http.routes": [], "temporary-directory": str(self._folder)})
            )
            cluster = stack.enter_context(
                LocalCluster(
                    n_workers=0,
                    host="127.0.0.1",
                    scheduler_port=0,
                    dashboard_address="127.0.0.1:0",
                    scheduler_kwargs={"dashboard": False},
                    silence_logs=logging.CRITICAL,
                )
            )
            self.address: str = cluster.scheduler_address
            """Where the scheduler is."""
            stack.callback(self._end_all)
            for _ in range(self._count):
                self._start()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def replace_dead(self) -> None:
        """Start a worker for each that is gone."""
        for process in self._dead():
            self._processes.remove(process)
            self._start()

    def check(self) -> None:
        """Raise `HarnessError` with what it printed if a worker is gone."""
        for process in self._dead():
            told = self._output(process).read_text(encoding="utf-8", errors="replace").splitlines()[-TOLD_LINES:]
            raise HarnessError(
                f"a worker did not start: exit code {process.returncode}; it printed:\n"
                + "\n".join(f"  {line}" for line in told or ["nothing"])
            )

    def _dead(self) -> list[subprocess.Popen[bytes]]:
        return [process for process in self._processes if process.poll() is not None]

    def _start(self) -> None:
        self._number += 1
        options = ["--no-nanny", "--nthreads", "1", "--memory-limit", "0", "--no-dashboard", "--host", "127.0.0.1"]
        options += ["--dashboard-address", "127.0.0.1:0", "--name", f"fota-{self._number}"]
        options += ["--local-directory", str(self._folder), "--death-timeout", f"{START_TIMEOUT:g}"]
        output = self._folder / f"starting-{self._number}"
        with output.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "distributed.cli.dask_worker", self.address, *options],
                env=os.environ | _WORKER_SETTINGS,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._processes.append(process)
        output.rename(self._output(process))

    def _output(self, process: subprocess.Popen[bytes]) -> Path:
        return self._folder / f"{process.pid}.log"

    def _end_all(self) -> None:
        for process in self._processes:
            process.terminate()
        limit = time.monotonic() + END_TIMEOUT
        try:
            for process in self._processes:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, limit - time.monotonic()))
        finally:
            for process in self._processes:
                process.kill()
                process.wait()


# --- the run


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
    cluster to run on.
    """
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("distributed."):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # of lost workers the run tells itself
    shards, contents = cut(plans, settings.size)
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
        cluster = _Cluster(client, local, name, contents, settings.size, interrupted)
        wanted = min(len(shards), settings.at_once)
        slots = min(wanted, len(cluster.wait_for(min(wanted, settings.local_workers or 1))))
        run = _Run(
            cluster,
            shards,
            slots,
            Orders(
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
            ),
            settings.on_worker_loss,
            on_progress,
            tell,
            interrupted,
        )
        return run.run()


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


class _Cluster:
    """Workers that are there and know the images."""

    def __init__(
        self,
        client: Client,
        local: LocalWorkers | None,
        run: str,
        contents: Mapping[str, bytes],
        shard_size: int,
        interrupted: threading.Event,
    ) -> None:
        self.client = client
        self._interrupted = interrupted
        self._local = local
        self._run = run
        self._contents = contents
        self._shard_size = shard_size
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
        """Workers that can be given a shard, by address; a new one is greeted first."""
        try:
            there = set(self.client.nthreads())
        except Exception as error:  # whatever the engine's transport raises
            raise HarnessError(f"the scheduler is gone: {error}") from error
        for gone in set(self._ready) - there:
            del self._ready[gone]
        if new := sorted(there - set(self._ready)):
            self._greet(new)
        return list(self._ready)

    def replace_dead(self) -> None:
        """Start a worker of our own for each that is gone."""
        if self._local is not None:
            self._local.replace_dead()

    def _greet(self, workers: list[str]) -> None:
        own = importlib.metadata.version("k60-fota")
        # The deadline is the engine's: the scheduler gives up on workers that are silent.
        answers: dict[str, Any] = self.client.run(greet, self._run, self._contents, workers=workers, on_error="return")
        for worker, facts in answers.items():
            if isinstance(facts, OSError):
                continue  # it left meanwhile
            if not isinstance(facts, WorkerFacts):
                raise HarnessError(f"worker {worker} cannot run devices: {type(facts).__name__}: {facts}")
            if facts.version != own:
                raise HarnessError(f"worker {worker} has k60-fota {facts.version}, expected {own}")
            if facts.room < self._shard_size:
                raise UsageError(
                    f"shard of {self._shard_size} devices, expected at most {facts.room}: worker {worker} may not "
                    "open more connections"
                )
            self._ready[worker] = None


class _Run:
    """One run from its first shard to its last."""

    def __init__(
        self,
        cluster: _Cluster,
        shards: Sequence[Shard],
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
        self._slots = slots
        self._orders = orders
        self._on_worker_loss = on_worker_loss
        self._on_progress = on_progress
        self._tell = tell
        self._ledger: Ledger[ShardResult] = Ledger([shard.count for shard in shards], slots)
        self._futures: dict[Attempt, Future] = {}
        self._began: dict[Attempt, float] = {}
        self._news: queue.SimpleQueue[Attempt | dict[str, Any]] = queue.SimpleQueue()
        self._histogram = histogram_of()
        self._timeline: list[Sample] = []
        self._timeline_every = 1
        self._ticks = 0
        self._start = time.monotonic()
        self._interrupted = interrupted
        self._trouble: str | None = None
        self._exit_code = exit_codes.OK
        self._alone_since: float | None = None

    def run(self) -> tuple[ShardedReport, bool]:
        """Run every shard; returns the report, and whether it was interrupted."""
        self._client.subscribe_topic(topic_of(self._orders.run), lambda event: self._news.put(event[1]))
        self._start = time.monotonic()
        looked = -LOOK_INTERVAL
        workers: list[str] = []
        try:
            while not self._is_over:
                if self._now() - looked >= LOOK_INTERVAL:
                    workers = self._cluster.look()
                    looked = self._now()
                    self._find_lost(workers)
                self._hand_out(workers)
                self._hear(SAMPLE_INTERVAL)
                self._show()
            is_whole = self._ledger.is_complete
            if not is_whole:
                self._stop()
        finally:
            self._client.unsubscribe_topic(topic_of(self._orders.run))
            self._client.cancel(list(self._futures.values()))
        report = merge(
            sum(shard.count for shard in self._shards),
            [
                (attempt, self._began[attempt], result)
                for attempt, result in (self._ledger.results[number] for number in sorted(self._ledger.results))
            ],
            (*self._timeline, self._sample()),
            duration_s=self._now(),
            lost=self._ledger.lost,
            trouble=self._trouble,
            exit_code=self._exit_code,
        )
        self._on_progress(self._sample())
        return report, self._interrupted.is_set() and not is_whole

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
        )
        if self._ledger.finish(attempt, result, last):
            self._histogram.decode_and_add(result.histogram)
            p50_s, p90_s, p99_s = (percentile_of(self._histogram, percent) for percent in (50, 90, 99))
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
        future = self._futures.pop(attempt, None)
        if future is not None:
            future.cancel()
        self._ledger.lose(attempt)
        what = (
            f"worker {attempt.worker} was lost, with shard {attempt.shard} "
            f"({self._shards[attempt.shard].count} devices), attempt {attempt.number}"
        )
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
        """Have shards that are under way end, and take in what they have done."""
        try:
            self._client.run(stop_shards, self._orders.run, on_error="ignore")
        except OSError as error:
            raise HarnessError(f"the scheduler is gone: {error}") from error
        limit = time.monotonic() + STOP_TIMEOUT
        while self._ledger.running and time.monotonic() < limit:
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
