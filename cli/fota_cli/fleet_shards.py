"""A run in shards, as far as it needs no engine: the options, how a run is cut up, and who has which shard.

A shard is a part of a run's devices that one worker process runs by itself. It travels as text that compresses well,
with its images named by what is in them, so that a worker on another machine needs no file of ours; the images
themselves go to each worker once. Everything here is a function of its arguments; the engine is in `compose.shards`,
what comes of a run in `shard_report`.

A shard is run in attempts. The ledger knows the one attempt of each shard that counts: what any other says, because its
worker was lost and yet goes on, or because its words come late, is dropped. So nothing is ever counted twice.
"""

import argparse
import array
import dataclasses
import enum
import hashlib
import sys
import zlib
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from fota_protocol.formats import dump_image
from fota_protocol.image import FirmwareImage
from fota_protocol.parts import PARTS
from fota_simulator.behaviour import Arrivals, Behaviour
from fota_simulator.report import Sample
from fota_simulator.swarm import DevicePlan

from .choices import one_of
from .errors import UsageError

LOCAL: Final = "local"
"""The scheduler that is none: this process runs all devices itself, or starts workers of its own."""

SHARD_SIZE: Final = 2_500
"""Devices of a shard."""

MAX_SHARD_SIZE: Final = 5_000
"""Most devices of a shard: what a lost worker costs at most, and what one process runs well."""

CONNECTED: Final = 20_000
"""Devices that are connected at once, in all shards together."""

MAX_CONNECTED: Final = 1_000_000
"""Most devices that may be connected at once."""

MAX_DEVICES: Final = 1_000_000
"""Most devices of a run in shards."""

MAX_LOCAL_WORKERS: Final = 64
"""Most worker processes that are started here."""

MAX_ATTEMPTS: Final = 3
"""How often a shard is begun before the run gives it up."""

DEVICES_TOLD: Final = 10_000
"""A run of fewer devices has a row for each in its report without being asked."""

_KIND: Final = "H"
"""How a device's kind travels: 16 bits, more than a shard has devices."""

_R = TypeVar("_R")


class OnWorkerLoss(enum.Enum):
    """What a lost worker means for the run."""

    RETRY = "retry"
    """Its shard is run again, by another worker."""
    FAIL = "fail"
    """The run ends, and has failed."""
    INVALIDATE = "invalidate"
    """The run ends, and says nothing: what was measured is no measurement."""


@dataclass(frozen=True, slots=True)
class ShardSettings:
    """How a run is spread."""

    scheduler: str | None
    """Address of a cluster's scheduler; None: workers are started here."""
    local_workers: int
    """How many are started here; 0 with a scheduler."""
    size: int
    """Most devices of a shard."""
    connected: int
    """Most devices that are connected at once."""
    on_worker_loss: OnWorkerLoss
    devices_in_report: bool
    """Whether the report has a row for each device, however many they are: where asked for, and for CSV."""

    @property
    def at_once(self) -> int:
        """Most shards that run at the same time."""
        return self.connected // self.size


def add_shard_options(parser: argparse.ArgumentParser) -> None:
    """Add the options to `parser`."""
    add = parser.add_argument
    add(
        "--scheduler",
        type=_scheduler,
        default=LOCAL,
        metavar="local|tcp://HOST:PORT",
        help="run in shards on the workers of this Dask scheduler (default: local)",
    )
    add("--local-workers", type=int, metavar="N", help="run in shards on N worker processes, started here for this run")
    add("--shard-size", type=int, metavar="N", help=f"most devices of a shard (default: {SHARD_SIZE})")
    add("--connected", type=int, metavar="N", help=f"most devices of all shards at once (default: {CONNECTED})")
    add(
        "--on-worker-loss",
        type=one_of(OnWorkerLoss),
        metavar="retry|fail|invalidate",
        help="what becomes of the run: the shard again, exit code 1, or exit code 4 (default: retry)",
    )
    add(
        "--devices-in-report",
        action="store_true",
        help=f"a row for each device in the report of shards, also for {DEVICES_TOLD:,} devices and more",
    )


def shard_settings(args: argparse.Namespace) -> ShardSettings | None:
    """How the run is spread; None: not at all. Raises `UsageError`."""
    if args.local_workers is None and args.scheduler == LOCAL:
        for name, value in (
            ("--shard-size", args.shard_size),
            ("--connected", args.connected),
            ("--on-worker-loss", args.on_worker_loss),
            ("--devices-in-report", args.devices_in_report or None),
        ):
            if value is not None:
                raise UsageError(f"{name}: expected with --local-workers or --scheduler tcp://HOST:PORT")
        return None
    if args.local_workers is not None and args.scheduler != LOCAL:
        raise UsageError("--local-workers and --scheduler: expected one of them")
    for name, value, unwanted in (
        ("--virtual", args.virtual, "has one clock"),
        ("--devices", args.devices, "leaves files with whoever runs the devices"),
        ("--trace", args.trace, "is one file"),
        ("--storm", args.storm is not None, "is one moment for all devices"),
    ):
        if value:
            raise UsageError(f"{name}: not in shards, it {unwanted}")
    local_workers = _between("--local-workers", args.local_workers, 1, MAX_LOCAL_WORKERS, 0)
    size = _between("--shard-size", args.shard_size, 1, MAX_SHARD_SIZE, SHARD_SIZE)
    connected = _between("--connected", args.connected, 1, MAX_CONNECTED, CONNECTED)
    return ShardSettings(
        scheduler=None if args.scheduler == LOCAL else args.scheduler,
        local_workers=local_workers,
        size=min(size, connected),
        connected=connected,
        on_worker_loss=args.on_worker_loss or OnWorkerLoss.RETRY,
        devices_in_report=args.devices_in_report or args.csv is not None,
    )


def check_devices(count: int) -> None:
    """Raise `UsageError` if a run in shards may not have `count` devices."""
    if count > MAX_DEVICES:
        raise UsageError(f"{count} devices, expected at most {MAX_DEVICES}")


def _scheduler(text: str) -> str:
    kind, separator, address = text.partition("://")
    port = address.rpartition(":")[2]
    if text != LOCAL and not (
        kind in ("tcp", "tls") and separator and port.isdecimal() and ":" in address and address[0] != ":"
    ):
        raise argparse.ArgumentTypeError(f"{text!r}, expected local, or tcp://HOST:PORT of a Dask scheduler")
    return text


def _between(name: str, value: int | None, least: int, most: int, default: int) -> int:
    if value is None:
        return default
    if not least <= value <= most:
        raise UsageError(f"{name} {value}, expected {least} to {most}")
    return value


# --- cutting


@dataclass(frozen=True, slots=True)
class Kind:
    """What devices have in common."""

    image: str | None
    """Digest of the image that flashes are verified against."""
    part: str
    acks_verdict: bool
    is_stranger: bool


@dataclass(frozen=True, slots=True)
class Shard:
    """Some devices of a run, in few bytes."""

    number: int
    """Counted from 0."""
    count: int
    mcuids: bytes
    """Their MCUIDs (a comma and the suffix behind them, where there is one), a line each, compressed."""
    kinds: tuple[Kind, ...]
    kind_of: bytes
    """For each device the place of its kind in `kinds`, in 16 bits, compressed."""


def ranges(count: int, size: int) -> list[range]:
    """`count` devices in as few shards as `size` allows, as even as can be."""
    shards = -(-count // size)
    return [range(number * count // shards, (number + 1) * count // shards) for number in range(shards)]


def cut(plans: Sequence[DevicePlan], size: int) -> tuple[list[Shard], dict[str, bytes]]:
    """Shards of at most `size` devices; and all of their images, as S-records, by digest."""
    named = _Images()
    shards = [
        _packed(number, [plans[at] for at in part], named) for number, part in enumerate(ranges(len(plans), size))
    ]
    return shards, named.contents


def plans_of(shard: Shard, images: Mapping[str, FirmwareImage]) -> list[DevicePlan]:
    """The devices of a shard again; raises `KeyError` for an image that `images` lacks."""
    kind_of = array.array(_KIND)
    kind_of.frombytes(zlib.decompress(shard.kind_of))
    if sys.byteorder == "big":
        kind_of.byteswap()
    kinds = [(None if kind.image is None else images[kind.image], kind) for kind in shard.kinds]
    found = []
    for line, number in zip(zlib.decompress(shard.mcuids).decode("ascii").split("\n"), kind_of, strict=True):
        mcuid, _, suffix = line.partition(",")
        image, kind = kinds[number]
        found.append(
            DevicePlan(
                mcuid,
                image,
                PARTS[kind.part],
                suffix,
                acks_verdict=kind.acks_verdict,
                is_stranger=kind.is_stranger,
            )
        )
    return found


class _Images:
    """Images by what is in them; each is looked at once."""

    def __init__(self) -> None:
        self.contents: dict[str, bytes] = {}
        self._digests: dict[int, str] = {}

    def digest(self, image: FirmwareImage | None) -> str | None:
        if image is None:
            return None
        found = self._digests.get(id(image))
        if found is None:
            content = dump_image(image)
            found = self._digests[id(image)] = hashlib.sha256(content).hexdigest()
            self.contents[found] = content
        return found


def _packed(number: int, plans: Sequence[DevicePlan], images: _Images) -> Shard:
    kinds: dict[Kind, int] = {}
    kind_of = array.array(_KIND)
    lines = []
    for plan in plans:
        if plan.saved is not None:
            raise ValueError(f"device {plan.mcuid} has a past, expected a new one")
        kind = Kind(images.digest(plan.image), plan.part.name, plan.acks_verdict, plan.is_stranger)
        kind_of.append(kinds.setdefault(kind, len(kinds)))
        lines.append(f"{plan.mcuid},{plan.suffix}" if plan.suffix else plan.mcuid)
    if sys.byteorder == "big":
        kind_of.byteswap()
    return Shard(
        number,
        len(plans),
        zlib.compress("\n".join(lines).encode("ascii"), 9),
        tuple(kinds),
        zlib.compress(kind_of.tobytes(), 9),
    )


def arrivals_of_shard(arrivals: Arrivals, slots: int) -> Arrivals:
    """What is left for one shard, so that `slots` of them together keep to `arrivals`; raises `UsageError`."""
    if arrivals.burst is not None and arrivals.burst < slots:
        raise UsageError(f"burst of {arrivals.burst}, expected at least the number of shards at once, {slots}")
    return dataclasses.replace(
        arrivals,
        per_s=None if arrivals.per_s is None else arrivals.per_s / slots,
        burst=None if arrivals.burst is None else arrivals.burst // slots,
    )


def behaviour_of_shard(behaviour: Behaviour, shard: int) -> Behaviour:
    """The same behaviour with dice of the shard's own: it numbers its devices from 0, as all others do."""
    seed = hashlib.sha256(f"{behaviour.seed}/{shard}".encode()).digest()
    return dataclasses.replace(behaviour, seed=int.from_bytes(seed[:8]))


def sources_of_slot(sources: Sequence[str], slot: int, slots: int) -> tuple[str, ...]:
    """The source addresses of the shard that runs in `slot`: no other slot has them, as far as they go round."""
    if not sources:
        return ()
    return tuple(sources[slot::slots]) or (sources[slot % len(sources)],)


# --- who has which shard


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt of one shard: what progress and results are keyed by."""

    shard: int
    number: int
    """Counted from 1."""
    worker: str
    slot: int
    """Of those shards that run at the same time, which: two never have the same."""


class Ledger(Generic[_R]):
    """Which shards wait, which run where, and what came of them."""

    def __init__(self, counts: Sequence[int], slots: int) -> None:
        self.results: dict[int, tuple[Attempt, _R]] = {}
        """The final result of a shard, and the attempt that it is from."""
        self.lost: list[Attempt] = []
        """Attempts whose worker was lost, in the order of their loss."""
        self._counts = counts
        self._waiting = deque(range(len(counts)))
        self._running: dict[int, Attempt] = {}
        self._begun = [0] * len(counts)
        self._slots = list(range(slots))[::-1]
        self._progress: dict[int, Sample] = {}
        self.percentiles: tuple[float, float, float] = (0.0, 0.0, 0.0)
        """p50, p90 and p99 of the updates in final results."""

    @property
    def is_complete(self) -> bool:
        """Whether every shard has its result."""
        return len(self.results) == len(self._counts)

    @property
    def running(self) -> tuple[Attempt, ...]:
        """The attempts that are under way."""
        return tuple(self._running.values())

    @property
    def wants_worker(self) -> bool:
        """Whether there is a shard to run and room for it."""
        return bool(self._waiting and self._slots)

    def begin(self, worker: str) -> Attempt:
        """Give the next shard to `worker`."""
        shard = self._waiting.popleft()
        self._begun[shard] += 1
        attempt = self._running[shard] = Attempt(shard, self._begun[shard], worker, self._slots.pop())
        return attempt

    def heard(self, shard: int, number: int, sample: Sample) -> None:
        """An attempt says how far it is."""
        attempt = self._running.get(shard)
        if attempt is not None and attempt.number == number:
            self._progress[shard] = sample

    def finish(self, attempt: Attempt, result: _R, last: Sample) -> bool:
        """An attempt has its result, which counts if no other attempt took its place; returns whether it does."""
        if not self._take(attempt):
            return False
        self.results[attempt.shard] = (attempt, result)
        self._progress[attempt.shard] = last
        return True

    def lose(self, attempt: Attempt) -> None:
        """The worker of an attempt is gone, and with it all that the attempt had done; its shard is the next."""
        if self._take(attempt):
            self.lost.append(attempt)
            self._progress.pop(attempt.shard, None)
            self._waiting.appendleft(attempt.shard)

    def drop(self, attempt: Attempt) -> None:
        """An attempt is over without a result, and will not be repeated: what it has told counts no more."""
        if self._take(attempt):
            self._progress.pop(attempt.shard, None)

    def give_up(self) -> None:
        """The run is over: so is what is still under way."""
        for attempt in self.running:
            self.drop(attempt)

    def sample(self, time_s: float) -> Sample:
        """The whole run at this moment."""
        told = self._progress.values()
        failed_attempts: Counter[str] = Counter()
        not_connected: Counter[str] = Counter()
        for one in told:
            failed_attempts.update(one.failed_attempts)
            not_connected.update(one.not_connected)
        p50_s, p90_s, p99_s = self.percentiles
        updated, refused = sum(one.updated for one in told), sum(one.refused for one in told)
        failed, connected = sum(one.failed for one in told), sum(one.connected for one in told)
        return Sample(
            time_s=time_s,
            waiting=sum(self._counts) - updated - refused - failed - connected,
            connected=connected,
            updated=updated,
            refused=refused,
            failed=failed,
            records=sum(one.records for one in told),
            p50_s=p50_s,
            p90_s=p90_s,
            p99_s=p99_s,
            failed_attempts=dict(failed_attempts),
            not_connected=dict(not_connected),
        )

    def _take(self, attempt: Attempt) -> bool:
        if self._running.get(attempt.shard) != attempt:
            return False
        del self._running[attempt.shard]
        self._slots.append(attempt.slot)
        return True
