"""How devices of a fleet behave, as data: when they come, what they do after a failure, what goes wrong with them.

Nothing here rolls dice by itself: whoever draws brings a `Random`, one for each attempt of each device, made of the
run's seed, so that a device does the same whatever the others do.
"""

import enum
import math
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Final

from fota_transport.profiles import LOOPBACK, LinkProfile

from .errors import BehaviourError

MAX_FAULTS: Final = 100
"""Most kinds of fault in one file."""


@dataclass(frozen=True, slots=True)
class Arrivals:
    """When devices begin. Times are seconds since the start of the run."""

    per_s: float | None = None
    """At most so many a second; None: as fast as connections can be made."""
    burst: int | None = None
    """So many at once, every `burst_every_s`."""
    burst_every_s: float = 0.0
    storm_at_s: float | None = None
    """When every device loses its connection at once, and comes again at once."""

    def moments(self, count: int) -> Iterator[float]:
        """When each of `count` devices begins, ascending."""
        for number in range(count):
            if self.burst is not None:
                yield number // self.burst * self.burst_every_s
            elif self.per_s is not None:
                yield number / self.per_s
            else:
                yield 0.0


class RetryOn(enum.Enum):
    """After which ends a device tries again."""

    FAILED = "failed"
    """What may be better the next time; `@0#` is for good."""
    ANY = "any"
    """Whatever is no update: a device that does not take no for an answer."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """What a device does after an attempt that was no update."""

    retries: int = 0
    """Most attempts after the first."""
    pause_s: float = 5.0
    """Before the second attempt; doubled for each further one. 0 hammers."""
    longest_pause_s: float = 300.0
    jitter: float = 0.5
    """Share of a pause that chance takes away or adds: without it, a fleet comes back all at once."""
    on: RetryOn = RetryOn.FAILED

    def pause(self, attempts: int, dice: Random) -> float:
        """Seconds to wait after so many attempts."""
        pause = min(self.longest_pause_s, self.pause_s * 2.0 ** min(attempts - 1, 60))
        return pause * (1.0 + self.jitter * (2.0 * dice.random() - 1.0))


class FaultKind(enum.Enum):
    """What goes wrong with one attempt."""

    DISCONNECT = "disconnect"
    """The connection is reset."""
    POWER_CUT = "power-cut"
    """The device falls silent, its memory is lost, its flash is not; it begins again after `seconds`."""
    HALF_OPEN = "half-open"
    """The device hears and says nothing more, and the server sees no end of the connection."""
    STALL = "stall"
    """The device pauses for `seconds` before its ack, and goes on."""
    CORRUPT_RECORD = "corrupt-record"
    """A bit of the record flips on its way."""
    CORRUPT_ACK = "corrupt-ack"
    """A bit of the ack does."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong: what, and at which record (counted from 1)."""

    kind: FaultKind
    record: int
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class FaultRule:
    """How often something goes wrong: with the share `probability` of attempts, at a record of [first, last]."""

    kind: FaultKind
    probability: float
    first: int = 1
    last: int = 100
    seconds: float = 5.0


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What every device of a run is like."""

    retry: RetryPolicy = RetryPolicy()
    think_s: float = 0.0
    """Seconds before each ack, on the mean: what programming and a slow core take."""
    link: LinkProfile = LOOPBACK
    """Put between real sockets and the device. A simulated loop has a link of its own."""
    faults: tuple[FaultRule, ...] = ()
    seed: int = 0

    @property
    def is_plain(self) -> bool:
        """Whether devices do nothing but update as fast as they can."""
        return not self.think_s and self.link == LOOPBACK and not self.faults

    def dice(self, number: int, attempt: int) -> Random:
        """What decides for one attempt of one device."""
        return Random(f"{self.seed}/{number}/{attempt}")

    def draw_fault(self, dice: Random) -> Fault | None:
        """What goes wrong with an attempt: the first rule that strikes."""
        for rule in self.faults:
            if dice.random() < rule.probability:
                return Fault(rule.kind, dice.randint(rule.first, rule.last), rule.seconds)
        return None


ALL_AT_ONCE: Final = Arrivals()
"""Devices that begin as fast as connections can be made."""

PLAIN: Final = Behaviour()
"""Devices that update as fast as they can, once."""


def load_faults(path: Path) -> tuple[FaultRule, ...]:
    """Read a TOML file of `[[fault]]` tables: `kind`, `probability`, `records = [first, last]`, `seconds`.

    Raises `BehaviourError` with what was expected.
    """
    try:
        table = tomllib.loads(path.read_bytes().decode("utf-8"))
    except OSError as error:
        raise BehaviourError(f"faults {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BehaviourError(f"faults {path}: {error}") from error
    rules = table.get("fault")
    if set(table) != {"fault"} or not isinstance(rules, list) or not 0 < len(rules) <= MAX_FAULTS:
        raise BehaviourError(f"faults {path}: expected 1 to {MAX_FAULTS} tables [[fault]] and nothing else")
    try:
        return tuple(map(_rule, rules))
    except ValueError as error:
        raise BehaviourError(f"faults {path}: {error}") from None


def _rule(table: Any) -> FaultRule:
    """A rule from its table; raises `ValueError`."""
    if not isinstance(table, dict) or "kind" not in table or "probability" not in table:
        raise ValueError("a fault without kind or probability")
    unknown = set(table) - {"kind", "probability", "records", "seconds"}
    if unknown:
        raise ValueError(f"unknown key {min(unknown)!r}, expected kind, probability, records or seconds")
    kinds = {kind.value: kind for kind in FaultKind}
    if table["kind"] not in kinds:
        raise ValueError(f"kind {table['kind']!r}, expected one of {', '.join(kinds)}")
    probability = _number(table, "probability", 1.0, at_most=1.0)
    records: Sequence[Any] = table.get("records", [1, 100])
    if (
        not isinstance(records, list)
        or len(records) != 2
        or not all(isinstance(record, int) and not isinstance(record, bool) for record in records)
        or not 1 <= records[0] <= records[1]
    ):
        raise ValueError(f"records {records!r}, expected [first, last], counted from 1")
    return FaultRule(
        kinds[table["kind"]], probability, records[0], records[1], _number(table, "seconds", 5.0, at_most=86_400.0)
    )


def _number(table: dict[str, Any], name: str, default: float, *, at_most: float) -> float:
    value = table.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= at_most or math.isnan(value):
        raise ValueError(f"{name} {value!r}, expected 0 to {at_most:g}")
    return float(value)
