"""What a worker process of a Dask cluster does of a run in shards: it takes the images, runs a shard, and stops.

Each function here is called in a worker, by the run (`shards`), through the engine. A worker runs one shard at a time,
whatever its threads: `run_swarm` on a loop of its own, in the worker's task thread.
"""

import asyncio
import dataclasses
import functools
import importlib.metadata
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from distributed import Worker, get_worker

from fota_protocol.device import DeviceTimings
from fota_protocol.formats import load
from fota_protocol.image import FirmwareImage
from fota_simulator.behaviour import Arrivals, Behaviour
from fota_simulator.boot import BootloaderSettings
from fota_simulator.report import Sample, SwarmReport
from fota_simulator.swarm import DevicePlan, run_swarm
from fota_transport.loops import raise_descriptor_limit
from fota_transport.loops import run as run_loop

from ..fleet_shards import Shard, plans_of
from ..shard_report import ShardResult

SAMPLES_APART: Final = 0.5
"""Seconds between two samples that a shard sends."""

RESERVED_DESCRIPTORS: Final = 96
"""Descriptors that a worker needs beside its connections."""

RUNS_WITH_IMAGES: Final = 4
"""Runs whose images a worker keeps: so many may share a cluster."""

STOPPED_RUNS: Final = 100
"""Runs of which a worker remembers that they were stopped."""


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
    return ShardResult.of(report, with_devices=orders.devices_in_report)


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
