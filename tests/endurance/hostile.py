"""What hostile devices do: a plan for each session, which is data, and a peer that carries it out.

A plan depends on (seed, number) alone, so any session can be repeated. Half of the plans are random bytes, half are a
good session with one thing wrong with it. A step that waits for the server waits a short time only, and goes on
whatever came; the whole session ends when its patience does.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from .engine import Peer

MAX_SESSIONS: Final = 224 * 65_536
"""Sessions that have an address of their own in 127.16.0.0 to 127.239.255.255."""

RANDOM_LIMIT: Final = 4_096
"""Bytes of the longest random session."""

OVERSIZED_LIMIT: Final = 65_536
"""Bytes of the longest identification."""

KNOWN: Final = 64
"""Hostile devices that the registry knows."""

ANSWER_WAIT: Final = 0.5
"""Seconds that a step waits for the server."""

FIRST_ANSWER: Final = 1.5
"""Seconds that those who wait to be heard give the server for its first byte; beyond its deadlines of a second."""

HEARD: Final = 0.7
"""Share of the sessions whose patience begins with the server's first byte: a crowd waits long until it is accepted,
and those who leave before they are heard try nothing but the queue."""

USUAL_PATIENCE: Final = 0.08
"""Mean seconds of a session before its device gives up."""

LONGEST_USUAL_PATIENCE: Final = 0.5
"""Most of those seconds."""

PATIENT: Final = 0.02
"""Share of the sessions that stay beyond the server's deadlines of a second."""


@dataclass(frozen=True, slots=True)
class Send:
    """Send these bytes."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Await:
    """Wait until the server sends something, at most so many seconds."""

    at_most_s: float


@dataclass(frozen=True, slots=True)
class Pause:
    """Do nothing for so many seconds."""

    duration_s: float


@dataclass(frozen=True, slots=True)
class HalfClose:
    """Send no more."""


@dataclass(frozen=True, slots=True)
class StopReading:
    """Read no more."""


@dataclass(frozen=True, slots=True)
class Leave:
    """Close, or reset, at once."""

    reset: bool


Step = Send | Await | Pause | HalfClose | StopReading | Leave


@dataclass(frozen=True, slots=True)
class Plan:
    """One session."""

    number: int
    kind: str
    steps: tuple[Step, ...]
    patience_s: float
    """When it gives up: from the connection, or where it `waits_to_be_heard` from the server's first byte."""
    waits_to_be_heard: bool
    resets: bool
    """How: by a reset, or by a close."""
    stays: bool
    """Whether it keeps its end open when the server has closed."""


def source_of(number: int) -> str:
    """The address that session `number` comes from, by which its journal row is known."""
    return f"127.{16 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"


def number_of(peer: str) -> int | None:
    """The session of a journal's `peer`, None for others."""
    parts = peer.partition(":")[0].split(".")
    if len(parts) != 4 or parts[0] != "127" or not 16 <= int(parts[1]) < 240:
        return None
    return (int(parts[1]) - 16) << 16 | int(parts[2]) << 8 | int(parts[3])


def known_mcuid(number: int) -> str:
    """A hostile device of the registry."""
    return f"{6_660_000_000_000_000_000_000_000 + number:025d}"


def registry_lines() -> list[str]:
    """Registry lines of hostile devices: every handshake, short and long images, and files that cannot be served."""
    files = ("long_records.s19", "long_records.s19", "long_records.s19", "s3_records.s19", "blink_2.s19")
    handshakes = ("", ",handshake=wait", ",handshake=immediate", ",handshake=auto")
    lines = []
    for number in range(KNOWN):
        name = files[number % len(files)]
        fields = handshakes[number % len(handshakes)]
        if number % 8 == 5:
            name = ("bad_checksum.s19", "none.s19", "../devices2update.txt", "no_termination.s19")[number // 8 % 4]
        if number % 8 == 6:
            fields += (",pack", ",once", ",part=MK60DN512", ",pack,once")[number // 8 % 4]
        lines.append(f"{known_mcuid(number)},{name},{number % 90 + 10}{fields}")
    return lines


ACKS: Final = 10
"""Acks of a good session in a plan: a little more than the short image needs."""

_ALPHABET: Final = b"@@@###0123456789S123\r\nABCDEFabcdef ,./\x00\xff"
_TO_WIRE: Final = bytes(_ALPHABET[byte % len(_ALPHABET)] for byte in range(256))
_TO_DIGITS: Final = bytes(48 + byte % 10 for byte in range(256))
"""Tables of `translate`: random bytes as bytes of the wire; the quickest way to many of them."""

_PATHS: Final = (
    b"@../../etc/passwd#",
    b"@/etc/passwd#",
    b"@bin/blink_1.s19#",
    b"@%2e%2e%2f#",
    b"@0001100023593110965955141/../x#",
    b"@..\\..\\x#",
    b"@\x00#",
    b"@0001100023593110965955141\x00.txt#",
    b"@; DROP TABLE sessions; --#",
    b"@' OR 1=1 --#",
    "@ĀĀ#".encode(),
)


def plan_of(seed: int, number: int) -> Plan:
    """The plan of session `number` of the run with that seed."""
    rng = random.Random(f"{seed}/{number}")
    kind, make = _RANDOM[rng.randrange(len(_RANDOM))] if rng.random() < 0.5 else _MUTATED[rng.randrange(len(_MUTATED))]
    steps = tuple(make(rng))
    if rng.random() < PATIENT:
        patience = rng.uniform(1.1, 1.8)
    else:
        patience = min(rng.expovariate(1 / USUAL_PATIENCE), LONGEST_USUAL_PATIENCE)
    return Plan(
        number,
        kind,
        steps,
        patience,
        waits_to_be_heard=rng.random() < HEARD,
        resets=rng.random() < 0.3,
        stays=rng.random() < 0.05,
    )


# --- random bytes


def _size(rng: random.Random) -> int:
    return rng.choice((0, 1, rng.randrange(16), rng.randrange(256), rng.randrange(RANDOM_LIMIT + 1)))


def _cut(rng: random.Random, data: bytes) -> list[Step]:
    """The bytes in any segments, with and without pauses between them."""
    cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.choice((0, 0, 1, 2, 8))))
    steps: list[Step] = []
    for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        if start < end:
            steps.append(Send(data[start:end]))
            if rng.random() < 0.5:
                steps.append(Pause(rng.uniform(0.0, 0.005)))
    return steps


def _any_bytes(rng: random.Random) -> list[Step]:
    return _cut(rng, rng.randbytes(_size(rng)))


def _wire_bytes(rng: random.Random) -> list[Step]:
    return _cut(rng, rng.randbytes(_size(rng)).translate(_TO_WIRE))


def _digits(rng: random.Random) -> list[Step]:
    return _cut(rng, b"@" + rng.randbytes(_size(rng)).translate(_TO_DIGITS) + rng.choice((b"#", b"", b"##", b"\n")))


def _behind_identification(rng: random.Random) -> list[Step]:
    return [Send(_known(rng)), *_cut(rng, rng.randbytes(_size(rng)))]


def _behind_verdict(rng: random.Random) -> list[Step]:
    return [Send(_known(rng)), Await(ANSWER_WAIT), *_cut(rng, rng.randbytes(_size(rng)).translate(_TO_WIRE))]


_RANDOM: Final[Sequence[tuple[str, Callable[[random.Random], list[Step]]]]] = (
    ("random: any bytes", _any_bytes),
    ("random: any bytes", _any_bytes),
    ("random: bytes of the wire", _wire_bytes),
    ("random: digits", _digits),
    ("random: behind an identification", _behind_identification),
    ("random: behind @4#", _behind_verdict),
)


# --- a good session with one thing wrong


def _known(rng: random.Random) -> bytes:
    return b"@%s#" % known_mcuid(rng.randrange(KNOWN)).encode()


def _identification(rng: random.Random) -> bytes:
    what = rng.random()
    if what < 0.7:
        return _known(rng)
    if what < 0.8:
        return b"@%025d#" % rng.randrange(10**25)
    if what < 0.85:
        return rng.choice(_PATHS)
    if what < 0.9:
        return b"@%s#" % rng.randbytes(rng.randrange(1, 33)).hex().encode()
    return _known(rng)[:-1] + rng.randbytes(rng.randrange(200)).translate(_TO_DIGITS) + b"#"


def _good(rng: random.Random) -> list[Step]:
    """Identification and acks at the right moments."""
    steps: list[Step] = [Send(_identification(rng)), Await(ANSWER_WAIT)]
    for _ in range(ACKS):
        steps += [Send(b"@"), Await(ANSWER_WAIT)]
    return steps


def _place(rng: random.Random, steps: Sequence[Step]) -> int:
    """An index, early ones more often: many sessions do not live to see late ones."""
    return min(int(rng.expovariate(0.3)), len(steps))


def _at(rng: random.Random, *extra: Step) -> list[Step]:
    steps = _good(rng)
    where = _place(rng, steps)
    return [*steps[:where], *extra, *steps[where:]]


def _spoil(rng: random.Random, data: bytes) -> bytes:
    """One to three changes of the bytes."""
    spoiled = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        where = rng.randrange(len(spoiled) + 1)
        match rng.randrange(4):
            case 0 if where < len(spoiled):
                spoiled[where] ^= 1 << rng.randrange(8)
            case 1:
                spoiled[where:where] = rng.randbytes(rng.choice((1, 1, 4)))
            case 2:
                del spoiled[where : where + rng.choice((1, 1, 4))]
            case _:
                spoiled[where:where] = spoiled[where : where + 8]
    return bytes(spoiled)


def _changed_bytes(rng: random.Random) -> list[Step]:
    steps = _good(rng)
    sends = [index for index, step in enumerate(steps) if isinstance(step, Send)]
    where = sends[min(int(rng.expovariate(0.7)), len(sends) - 1)]
    step = steps[where]
    assert isinstance(step, Send)
    steps[where] = Send(_spoil(rng, step.data) or b"@")
    return steps


def _premature_acks(rng: random.Random) -> list[Step]:
    steps = _good(rng)
    return [step for step in steps if not isinstance(step, Await) or rng.random() < 0.6]


def _ack_burst(rng: random.Random) -> list[Step]:
    return _at(rng, Send(b"@" * rng.choice((2, 2, 3, 10, 1_000, 20_000))))


def _half_close(rng: random.Random) -> list[Step]:
    return _at(rng, HalfClose())


def _reset(rng: random.Random) -> list[Step]:
    return _at(rng, Leave(reset=True))


def _close(rng: random.Random) -> list[Step]:
    return _at(rng, Leave(reset=False))


def _deaf(rng: random.Random) -> list[Step]:
    steps = _at(rng, StopReading())
    return [Pause(0.002) if isinstance(step, Await) and rng.random() < 0.5 else step for step in steps]


def _silent(rng: random.Random) -> list[Step]:
    return _at(rng, Pause(3.0))


def _oversized(rng: random.Random) -> list[Step]:
    size = rng.choice((1_023, 1_024, 1_025, 2_048, 2_049, rng.randrange(OVERSIZED_LIMIT)))
    return _cut(rng, b"@" + b"7" * size + rng.choice((b"#", b"")))


def _nothing(rng: random.Random) -> list[Step]:
    return [Leave(reset=rng.random() < 0.5)] if rng.random() < 0.5 else [Pause(3.0)]


def _line_ends(rng: random.Random) -> list[Step]:
    end = rng.choice((b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"\n" * 3_000))
    return [Send(step.data + end) if isinstance(step, Send) else step for step in _good(rng)]


def _twice(rng: random.Random) -> list[Step]:
    return _at(rng, Send(_identification(rng)))


def _byte_by_byte(rng: random.Random) -> list[Step]:
    steps: list[Step] = []
    for step in _good(rng):
        steps += [Send(bytes((byte,))) for byte in step.data] if isinstance(step, Send) else [step]
    return steps


def _all_at_once(rng: random.Random) -> list[Step]:
    return [Send(b"".join(step.data for step in _good(rng) if isinstance(step, Send)))]


_MUTATED: Final[Sequence[tuple[str, Callable[[random.Random], list[Step]]]]] = (
    ("good session: as it should be", _good),
    ("good session: bytes changed", _changed_bytes),
    ("good session: bytes changed", _changed_bytes),
    ("good session: acks too early", _premature_acks),
    ("good session: burst of acks", _ack_burst),
    ("good session: half close", _half_close),
    ("good session: reset", _reset),
    ("good session: close", _close),
    ("good session: stops reading", _deaf),
    ("good session: silent", _silent),
    ("good session: oversized identification", _oversized),
    ("good session: nothing said", _nothing),
    ("good session: line ends", _line_ends),
    ("good session: second identification", _twice),
    ("good session: byte by byte", _byte_by_byte),
    ("good session: all at once", _all_at_once),
)


class Hostile(Peer):
    """Carries a plan out. `on_end` is called once, with how it ended as the client sees it."""

    __slots__ = ("_gives_up_at", "_next", "_on_end", "_server_closed", "_waits", "began", "first", "plan", "trace")

    def __init__(self, plan: Plan, on_end: Callable[["Hostile", str], None], *, trace: list[str] | None = None) -> None:
        super().__init__()
        self.plan = plan
        self.trace = trace
        self.first = b""
        """The first bytes that came."""
        self.began = 0.0
        self._on_end = on_end
        self._next = 0
        self._waits = False
        self._server_closed = False
        self._gives_up_at = 0.0

    def connected(self) -> None:
        self.began = self.engine.now
        self._gives_up_at = self.began + (FIRST_ANSWER if self.plan.waits_to_be_heard else self.plan.patience_s)
        self._go_on()

    def failed(self, why: str) -> None:
        self._end(f"no connection: {why}")

    def received(self, data: bytes) -> None:
        if self.trace is not None:
            self._note(f"got {data[:80]!r}")
        if not self.first:
            self.first = data[:3]
            if self.plan.waits_to_be_heard:
                self._gives_up_at = self.engine.now + self.plan.patience_s
                if not self._waits and self._next == len(self.plan.steps):
                    self.engine.set_alarm(self, self._gives_up_at)
        if self._waits:
            self._go_on()

    def ended(self, why: str) -> None:
        self._note(f"the server ended it: {why}")
        if self.plan.stays and self.is_open and not self._server_closed:
            self._server_closed = True
            self.engine.set_alarm(self, self._gives_up_at)
            return
        self._end("closed by the server" if why == "eof" else why)

    def rang(self) -> None:
        if self._server_closed or self.engine.now >= self._gives_up_at:
            self._note("gives up")
            self.close(reset=self.plan.resets)
            self._end("gave up")
        else:
            self._go_on()

    def _go_on(self) -> None:
        self._waits = False
        steps = self.plan.steps
        while self.is_open and not self._server_closed:
            if self._next == len(steps):
                self.engine.set_alarm(self, self._gives_up_at)
                return
            step = steps[self._next]
            self._next += 1
            if self.trace is not None:
                self._note(repr(step)[:120])
            match step:
                case Send(data):
                    self.send(data)
                case Await(at_most):
                    self._waits = True
                    self.engine.set_alarm(self, min(self._gives_up_at, self.engine.now + at_most))
                    return
                case Pause(duration):
                    self.engine.set_alarm(self, min(self._gives_up_at, self.engine.now + duration))
                    return
                case HalfClose():
                    self.half_close()
                case StopReading():
                    self.stop_reading()
                case Leave(reset):
                    self.close(reset=reset)
                    self._end("reset by us" if reset else "closed by us")

    def _end(self, how: str) -> None:
        self.close()
        if self._on_end is not _nobody:
            on_end, self._on_end = self._on_end, _nobody
            on_end(self, how)

    def _note(self, what: str) -> None:
        if self.trace is not None:
            self.trace.append(f"{(self.engine.now - self.began) * 1000:8.1f} ms  {what}")


def _nobody(hostile: Hostile, how: str) -> None:
    pass
