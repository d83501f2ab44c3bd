"""The master's end of the AN2295 bootloaders' protocol, over a serial line: one request at a time, each bounded.

What the bytes are is `fota_protocol.an2295`; which of them to send is `plan` and `programmer`. Here is what to do when
a board does not answer as it should.

Theory of operation. The protocol has no marks to find a beginning by, and a board no time-outs: of a request that lost
a byte it waits for the rest for ever, and takes the next request for it; and an answer may come after we gave up on it.
So after anything but a good answer the master is *out of step*, and before it sends the next request it gets into step
again:

1. It listens until the line is quiet. That takes answers that were late, and the second answer that the stock
   bootloader sends behind a refusal where its own verification failed (`03 D1 93 FC CF 63`): the first is final.
2. It sends one `FC`. A board that waits for a request answers `FC`; one that was reset and announces itself is hooked
   by the same byte. If no `FC` comes, the board is in the middle of a request: as many `FC` follow as any request is
   long. They complete it, its CRC is wrong, so nothing is done, and the rest is answered by `FC` each. (`FC` and not
   `00`: it is the byte that no state of a board takes amiss, and an address of nothing but `FC` is in no flash.)
3. It asks for the ident. Answers come in order, so when the ident has come, and with the right CRC, whatever was asked
   before has been answered or lost; and when it is the same ident, it is the same board.

Only then is the request sent again: erasing again and writing the same again do no harm. A write is first looked for by
a read, where the board can be read, so that no cell is programmed twice because an answer was lost.

A board that an interrupted run left in its command loop announces nothing; so `connect`, where it hears nothing, knocks
by the same three steps. All waits are on the clock that is given, through the line's `read`; nothing sleeps.
"""

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from fota_protocol.an2295 import (
    FAMILIES,
    HOOK,
    MAX_BLOCKS,
    MAX_DATA,
    MAX_NAME,
    OFF_KEY_ACKS,
    Command,
    Ident,
    Request,
    read_ident,
    result,
    with_crc,
)
from fota_protocol.errors import RemoteProtocolError
from fota_transport.clock import Clock
from fota_transport.errors import LinkLost
from fota_transport.links import Link
from fota_transport.trace import Direction, Trace

from .errors import BoardError, BoardFault

BITS_PER_BYTE: Final = 10
"""Bits on the line for a byte: 8, a start bit and a stop bit, no parity (AN2295)."""

CALIBRATION_PULSES: Final = 21
"""Most breaks that are sent to a board with an RC clock (AN2295's master gives up then)."""

KNOCK_AFTER: Final = 0.8
"""Seconds without an announcement until we knock: a stock bootloader announces itself every 0.32 s."""

ANNOUNCE_WAIT: Final = 1.0
"""Seconds of listening for announcements: a stock bootloader sends three in them, the first 0.16 s from its reset."""

ANNOUNCEMENTS: Final = 2
"""As many in that time make a bootloader; one may be noise."""

FILLER: Final = 1 + 4 + 1 + MAX_DATA + 2
"""Bytes of the longest request: so many complete whatever a board waits for."""

STEP_ATTEMPTS: Final = 5
"""How often the master knocks to get into step again before it calls a board silent."""

NOISE_LIMIT: Final = 2.0
"""Seconds that a line may go on talking while we wait for it to be quiet."""

KEPT_NOISE: Final = 64
"""Newest bytes of noise that are kept for messages."""

IDENT_LIMIT: Final = 512
"""Most bytes of an ident, generously: its tables, blocks and name have fewer."""

RETRIES: Final = 3
"""How often a request is sent again before the board counts as failed."""

_KINETIS: Final = FAMILIES[0x8]
assert IDENT_LIMIT > 32 + MAX_BLOCKS * 8 + MAX_NAME


class SerialLine(Link, Protocol):
    """A link with what only serial lines have."""

    def discard_input(self) -> None:
        """Throw away what has arrived and was not read."""

    def send_break(self, seconds: float) -> None:
        """Hold the line low for so long."""


@dataclass(frozen=True, slots=True)
class MasterTimings:
    """How long a master waits, in seconds, beyond the time that the bytes themselves take on the line."""

    command: float = 5.5
    """For the answer to an erase or a write (AN2295's master; a sector takes 0.014 s, at worst 0.115 s)."""
    answer: float = 0.5
    """For any other answer, a hook's among them."""
    gap: float = 0.5
    """Between two bytes of an answer."""
    quiet: float = 0.1
    """Of silence until the line counts as quiet; less than the 0.32 s between two announcements."""

    def __post_init__(self) -> None:
        if min(self.command, self.answer, self.gap, self.quiet) <= 0:
            raise ValueError(f"{self}: times must be more than 0 s")


class QuitAnswer(enum.Enum):
    """What came of asking a board to leave its bootloader."""

    ACKNOWLEDGED = "acknowledged"
    UNHEARD = "unheard"
    """No answer, and then nobody in a command loop: it left, and its answer was lost. Only Kinetis boards answer."""


@dataclass(slots=True)
class Tally:
    """What a session was made of so far."""

    bytes_sent: int = 0
    bytes_received: int = 0
    requests: int = 0
    failures: int = 0
    """Requests that got no good answer, and were sent again or given up."""
    flash_s: float = 0.0
    """Seconds that erases and writes took beyond their bytes' time on the line: the flash's own, as waited for."""

    def minus(self, other: "Tally") -> "Tally":
        """What was added since `other`."""
        return Tally(
            self.bytes_sent - other.bytes_sent,
            self.bytes_received - other.bytes_received,
            self.requests - other.requests,
            self.failures - other.failures,
            self.flash_s - other.flash_s,
        )

    def copy(self) -> "Tally":
        """The same numbers, which stay as they are."""
        return self.minus(Tally())


class Master:
    """One board on one line. `ident` is there after `connect`. Raises `BoardError`, and `LinkLost` from the line."""

    def __init__(
        self,
        line: SerialLine,
        clock: Clock,
        *,
        baud: int,
        retries: int = RETRIES,
        timings: MasterTimings = MasterTimings(),
        trace: Trace | None = None,
    ) -> None:
        if baud <= 0 or retries < 0:
            raise ValueError(f"{baud} baud and {retries} retries, expected more than 0 and at least 0")
        self.baud = baud
        self.tally = Tally()
        self.behind = b""
        """What came behind the last good answer and at once with it: of a quit, an application's first words."""
        self._line = line
        self._clock = clock
        self._retries = retries
        self._timings = timings
        self._quiet_s = max(timings.quiet, self.line_time(4))
        self._trace = trace
        self._ident: Ident | None = None
        self._in_step = False

    @property
    def ident(self) -> Ident:
        """What the board said of itself."""
        if self._ident is None:
            raise ValueError("there is no ident before connect")
        return self._ident

    @property
    def is_connected(self) -> bool:
        """Whether a board has said who it is."""
        return self._ident is not None

    def line_time(self, size: int) -> float:
        """Seconds that so many bytes take on the line."""
        return size * BITS_PER_BYTE / self.baud

    def connect(
        self, timeout_s: float, *, calibrate: bool = False, on_silence: Callable[[], bool] | None = None
    ) -> Ident:
        """Hook the board and ask who it is; again, it must be the same board.

        `calibrate` is for boards with an RC clock: an announcement may be off key, and silence behind the hook asks for
        pulses. `on_silence` is called once, when the board did not answer the first knock: it needs a hand. If that
        could do something and returns True, the board has all its time again.
        """
        deadline = self._clock.monotonic() + timeout_s
        self._in_step = False
        heard = _Heard()
        keys = OFF_KEY_ACKS if calibrate else frozenset(HOOK)
        while (remaining := deadline - self._clock.monotonic()) > 0:
            if self._announced(min(KNOCK_AFTER, remaining), heard, keys):
                ident = self._hook(heard, calibrate)
            else:
                ident = self._knock(1, heard) or self._knock(FILLER, heard)
                if ident is None and on_silence is not None:
                    callback, on_silence = on_silence, None
                    if callback():
                        deadline = self._clock.monotonic() + timeout_s
            if ident is not None:
                return self._meet(ident)
        raise heard.error(timeout_s, self.baud)

    def erase(self, address: int) -> None:
        """Erase the sector at `address`."""
        self._ask(Request(Command.ERASE, address))

    def write(self, address: int, data: bytes) -> None:
        """Write up to 255 bytes into erased flash.

        After a failure, a board that can be read is looked at first. Raises `BoardError` with the fault WRITE where
        there is neither what was to be written nor blank flash: writing again would not help.
        """
        self._ask(Request(Command.WRITE, address, data), lambda error: self._has(address, data, error))

    def read(self, address: int, length: int) -> bytes:
        """Read up to 255 bytes, at least two: of one byte, a refusal could not be told from data."""
        if length < 2:
            raise ValueError(f"reading {length} bytes, expected at least 2")
        return self._ask(Request(Command.READ, address, length=length))

    def quit(self) -> QuitAnswer:
        """Have the board reset itself, and sample its pin."""
        request = Request(Command.QUIT)
        if self.ident.family is not _KINETIS:
            self._send(request.encode(self.ident.family, has_crc=self.ident.has_crc))
            self._in_step = False
            return QuitAnswer.UNHEARD
        for number in range(1, self._retries + 2):
            if not self._in_step:
                try:
                    # A request to quit is short; an application that runs by now is not to be shouted at.
                    self.get_into_step(FILLER if number == 1 else len(request.encode(_KINETIS, has_crc=True)))
                except BoardError as error:
                    if number == 1 or error.fault is BoardFault.OTHER_BOARD:
                        raise
                    return QuitAnswer.UNHEARD
            try:
                self._attempt(request)
            except BoardError as error:
                last = error
                continue
            self._in_step = False  # it is reset
            return QuitAnswer.ACKNOWLEDGED
        raise last

    def announces(self) -> bool:
        """Whether the board announces itself, again and again and says nothing else: it is in its bootloader."""
        heard = _Heard()
        until = self._clock.monotonic() + ANNOUNCE_WAIT
        while (remaining := until - self._clock.monotonic()) > 0:
            heard.add(self._read(remaining))
        return heard.size >= ANNOUNCEMENTS and not heard.newest.strip(HOOK)

    def get_into_step(self, filler: int = FILLER) -> None:
        """Make sure that the board waits for a request, and owes no answer; `filler` is what it may be waiting for."""
        heard = _Heard()
        self._listen(self._quiet_s, heard)
        for number in range(STEP_ATTEMPTS):
            ident = self._knock(filler if number % 2 else 1, heard)
            if ident is not None:
                self._meet(ident)
                return
        if heard.is_noisy:
            raise BoardError(
                f"the line does not get quiet{heard.sample()}: does an application talk?", fault=BoardFault.GARBLED
            )
        raise BoardError(f"the board does not answer any more{heard.sample()}", fault=BoardFault.SILENT)

    def _meet(self, ident: Ident) -> Ident:
        if self._ident is not None and ident != self._ident:
            raise BoardError(
                f"another board answers: {described(ident)}, expected {described(self._ident)}",
                fault=BoardFault.OTHER_BOARD,
            )
        self._ident = ident
        self._in_step = True
        return ident

    def _ask(self, request: Request, is_done: Callable[[BoardError], bool] = lambda _: False) -> bytes:
        """The answer to a request, in as many attempts as it may have.

        Before each but the first, `is_done` is told what went wrong, and says whether the board has done it all the
        same.
        """
        last: BoardError | None = None
        for _ in range(self._retries + 1):
            if not self._in_step:
                self.get_into_step()
            if last is not None and is_done(last):
                return b""
            try:
                return self._attempt(request)
            except BoardError as error:
                last = error
        assert last is not None
        raise BoardError(f"{last}, {self._retries + 1} times", fault=last.fault, address=last.address) from last

    def _has(self, address: int, data: bytes, error: BoardError) -> bool:
        """Whether a write that failed by `error` is in flash; raises `BoardError` if anything else is there."""
        if not self.ident.can_read:
            return False
        found = self.read(address, len(data))
        if found != data and found.strip(b"\xff"):
            raise BoardError(
                f"{error}, and there is neither what was to be written nor blank flash",
                fault=BoardFault.WRITE,
                address=address,
            ) from error
        return found == data

    def _attempt(self, request: Request) -> bytes:
        """Send a request once; returns the data of a read."""
        ident = self.ident
        message = request.encode(ident.family, has_crc=ident.has_crc)
        size = request.reply_size(has_crc=ident.has_crc)
        is_flash = request.command in (Command.ERASE, Command.WRITE)
        patience = self._timings.command if is_flash else self._timings.answer
        self._line.discard_input()
        self._in_step = False
        self.tally.requests += 1
        began = self._clock.monotonic()
        self._send(message)
        reply = self._receive(size, self.line_time(len(message)) + patience)
        if is_flash:
            beyond = self._clock.monotonic() - began - self.line_time(len(message) + size)
            self.tally.flash_s += max(0.0, beyond)
        if request.command is Command.READ:
            data = reply[: request.length]
            is_good = len(reply) >= size and (not ident.has_crc or with_crc(data) == reply[:size])
        else:
            data = b""
            is_good = reply[:size] == result(is_good=True, has_crc=ident.has_crc)
        if not is_good:
            self.tally.failures += 1
            raise self._bad_answer(request, reply, size, patience)
        self._in_step = True
        self.behind = reply[size:]
        return data

    def _bad_answer(self, request: Request, reply: bytes, size: int, patience: float) -> BoardError:
        what = f"{request.command.name.lower()}{'' if request.command is Command.QUIT else f' {request.address:#010x}'}"
        refusal = result(is_good=False, has_crc=self.ident.has_crc)
        address = None if request.command is Command.QUIT else request.address
        if not reply:
            return BoardError(f"{what}: no answer within {patience:g} s", fault=BoardFault.SILENT, address=address)
        if reply == refusal or (request.command is not Command.READ and reply.startswith(refusal)):
            return BoardError(
                f"{what}: refused by the board ({refusal.hex(' ').upper()})", fault=BoardFault.REFUSED, address=address
            )
        shown = reply[:8].hex(" ").upper() + (" …" if len(reply) > 8 else "")
        return BoardError(
            f"{what}: {len(reply)} bytes came, {shown}, expected {size} with a right CRC",
            fault=BoardFault.GARBLED,
            address=address,
        )

    def _announced(self, wait_s: float, heard: "_Heard", keys: frozenset[int]) -> bool:
        """Whether one of `keys` comes within `wait_s`."""
        until = self._clock.monotonic() + wait_s
        while (remaining := until - self._clock.monotonic()) > 0:
            data = self._read(remaining)
            heard.add(data)
            if keys.intersection(data):
                return True
        return False

    def _hook(self, heard: "_Heard", calibrate: bool) -> Ident | None:
        """Answer an announcement."""
        self._send(HOOK)
        hook = frozenset(HOOK)
        hooked = self._announced(self.line_time(2) + self._timings.answer, heard, hook)
        for _ in range(CALIBRATION_PULSES if calibrate else 0):
            if hooked:
                break
            self._line.send_break(self.line_time(1))
            hooked = self._announced(self._timings.answer, heard, hook)
        if not hooked:
            return None
        self._listen(self._quiet_s, heard)  # an announcement that was on its way
        return self._identify(heard)

    def _knock(self, count: int, heard: "_Heard") -> Ident | None:
        """Send so many `FC`; returns who answers, None for nobody."""
        self._line.discard_input()
        self._send(HOOK * count)
        tail = self._listen(self.line_time(count + 1) + self._timings.answer, heard)
        if not tail.endswith(HOOK):
            return None
        return self._identify(heard)

    def _identify(self, heard: "_Heard") -> Ident | None:
        """Ask for the ident once; returns it if it came alone."""
        self._line.discard_input()
        question = Request(Command.IDENT).encode(_KINETIS, has_crc=False)
        self._send(question)
        data = bytearray()
        wait = self.line_time(1) + self._timings.answer
        found = None
        while found is None and len(data) < IDENT_LIMIT:
            chunk = self._read(wait)
            if not chunk:
                break
            data += chunk
            wait = self._timings.gap
            try:
                found = read_ident(bytes(data))
            except RemoteProtocolError as error:
                if data == question:  # of no family is it the version
                    heard.is_echo = True
                elif not data.startswith(HOOK):  # an announcement is not the board's name
                    heard.problem = str(error)
                break
        if found is None or found[1] < len(data):
            heard.add(bytes(data))
            self._listen(self._quiet_s, heard)
            return None
        return found[0]

    def _listen(self, first_s: float, heard: "_Heard") -> bytes:
        """Take what arrives, the first byte within `first_s`, until the line is quiet; returns the newest of it."""
        tail = b""
        wait = first_s
        until = self._clock.monotonic() + first_s + self.line_time(2 * FILLER) + NOISE_LIMIT
        while data := self._read(wait):
            heard.add(data)
            tail = (tail + data)[-KEPT_NOISE:]
            wait = self._quiet_s
            if self._clock.monotonic() > until:
                heard.is_noisy = True
                return b""
        return tail

    def _receive(self, size: int, first_s: float) -> bytes:
        """An answer of `size` bytes, or as much of it as came; the first within `first_s`.

        Announcements of a board that was reset would go on for ever, so the rest has a time limit, too.
        """
        data = bytearray(self._read(first_s))
        until = self._clock.monotonic() + self.line_time(2 * size) + self._timings.gap
        while 0 < len(data) < size and (remaining := until - self._clock.monotonic()) > 0:
            chunk = self._read(min(self._timings.gap, remaining))
            if not chunk:
                break
            data += chunk
        return bytes(data)

    def _read(self, wait_s: float) -> bytes:
        """What arrives within `wait_s`; b"" for nothing."""
        try:
            data = self._line.read(max(0.0, wait_s))
        except TimeoutError:
            return b""
        if not data:
            raise LinkLost("the line has ended: unplugged, or closed at its other end")
        self.tally.bytes_received += len(data)
        if self._trace is not None:
            self._trace.record(self._clock.monotonic(), Direction.RECEIVED, data)
        return data

    def _send(self, data: bytes) -> None:
        try:
            self._line.write(data, self.line_time(2 * len(data)) + self._timings.command)
        except TimeoutError as error:
            raise LinkLost(f"the port does not take our bytes: {error}") from error
        self.tally.bytes_sent += len(data)
        if self._trace is not None:
            self._trace.record(self._clock.monotonic(), Direction.SENT, data)


class _Heard:
    """What came that was not an answer, for messages."""

    def __init__(self) -> None:
        self.size = 0
        self.newest = b""
        self.problem = ""
        self.is_echo = False
        """Whether our own question came back."""
        self.is_noisy = False
        """Whether the line did not get quiet."""

    def add(self, data: bytes) -> None:
        self.size += len(data)
        self.newest = (self.newest + data)[-KEPT_NOISE:]

    def sample(self) -> str:
        if not self.size:
            return ""
        shown = self.newest[-8:].hex(" ").upper()
        return f" ({self.size} bytes that make no sense, the last of them {shown})"

    def error(self, timeout_s: float, baud: int) -> BoardError:
        """Why nobody could be reached, and what to do."""
        noise = bytes(self.newest).strip(HOOK)
        if self.is_echo:
            return BoardError(
                f"what answers only echoes what it is sent at {baud} baud, which no bootloader does: does the "
                "application run (reset it with SW1 held), is there a loopback plug, or is the line in echo mode?",
                fault=BoardFault.GARBLED,
            )
        if self.problem:
            return BoardError(
                f"what answers at {baud} baud makes no sense ({self.problem}): "
                "another baud rate, the application is running, or a bootloader that we do not know",
                fault=BoardFault.GARBLED,
            )
        if noise:
            return BoardError(
                f"no bootloader within {timeout_s:g} s{self.sample()}: another baud rate than {baud}, "
                "or the application is running",
                fault=BoardFault.GARBLED,
            )
        if self.size:
            return BoardError(
                f"the board announces itself at {baud} baud but does not answer within {timeout_s:g} s: "
                "is our transmit line connected to its receive line?",
                fault=BoardFault.SILENT,
            )
        return BoardError(
            f"no announcement (FC) and no answer at {baud} baud within {timeout_s:g} s: is the board powered, "
            "was it reset with SW1 held, is this its port?",
            fault=BoardFault.SILENT,
        )


def described(ident: Ident) -> str:
    """A board in a few words, for messages."""
    flash = ", ".join(f"[{start:#010x}, {end:#010x})" for start, end in ident.blocks)
    return f"{ident.name or ident.family.name} (SDID {ident.sdid:04X}, flash {flash})"
