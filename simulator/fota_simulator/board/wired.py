"""A board on a serial line: bytes of a host in, bytes for it out, in anybody's time. No I/O, no clock.

`advance` lets everything happen that is due by now, each thing at its own moment, and returns what has come through the
line to the host meanwhile; `due` is when to call it again. Nothing that is late makes anything else late: what the host
writes after it was handed bytes late is taken to begin as much earlier, and so is the moment that two processes take to
wake one another. So a session takes the line's time, and not also that of every nap of those who play it.
"""

from dataclasses import dataclass
from typing import Final

from fota_transport.trace import Direction, Trace

from .board import Changed, Condition, VirtualBoard
from .control import Order, Unplug
from .serial_line import INSTANT, WIRE_LIMIT, FaultyBytes, LineFault, UnplugPlan, Way, Wire

HOST_LIMIT: Final = 4_096
"""Bytes of a host on their way to the board at which it has to wait: what a serial driver keeps."""

TURNAROUND: Final = 0.002
"""Seconds from handing bytes to the host to its answer that do not count: waking two processes takes them."""

MOST_LATE: Final = 0.1
"""Seconds of lateness that an answer is credited with at most: a nap, and not a process that was stopped."""


@dataclass(frozen=True, slots=True)
class LineSettings:
    """How a line is. Rates in bits a second, `INSTANT` for one that takes no time."""

    baud: int = INSTANT
    """Of the bootloader."""
    app_baud: int = INSTANT
    """Of the application."""
    is_usb_powered: bool = False
    """Whether the board has its power from the plug."""
    faults: tuple[LineFault, ...] = ()
    unplug: UnplugPlan | None = None
    seed: int = 0
    """Which bytes are faulty, which bit flips."""


@dataclass(frozen=True, slots=True)
class Plugged:
    """The plug was pulled, or is back."""

    is_in: bool


WiredEvent = Changed | Plugged


class WiredBoard:
    """`board` on a line. `trace` has what the host wrote and was handed, as it was on the host's end."""

    def __init__(self, board: VirtualBoard, settings: LineSettings, trace: Trace | None = None) -> None:
        self.board = board
        self.is_plugged = True
        self.passed = 0
        """Bytes that passed the host's end, either way."""
        self.is_garbled = False
        """Whether the host's rate is another than the board's."""
        self.events: tuple[WiredEvent, ...] = ()
        """What happened, since the owner last set this to `()`."""
        self._settings = settings
        self._plan = settings.unplug
        self._trace = trace
        self._in, self._out = Wire(), Wire()
        self._altered = {way: FaultyBytes(way, settings.faults, settings.seed) for way in Way}
        self._plug_at: float | None = None
        self._handed: tuple[float, float] | None = None
        """When the host was handed its last bytes, and how late; None once it has answered."""

    @property
    def faults(self) -> int:
        """Bytes that the line altered."""
        return sum(altered.faults for altered in self._altered.values())

    @property
    def can_take(self) -> bool:
        """Whether the host may write; where not, it waits."""
        return self._in.size < HOST_LIMIT and self._out.size < WIRE_LIMIT

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is under way to the host."""
        return not self._out.size

    @property
    def due(self) -> float | None:
        """When to call `advance`; None when nothing will happen by itself."""
        board = self.board
        incoming = self._in.due if self._out.size < WIRE_LIMIT else None
        moments = (board.deadline, incoming, self._out.due, self._plug_at)
        return min((moment for moment in moments if moment is not None), default=None)

    def power_on(self, now: float, *, pressing: bool = False) -> None:
        """Switch it on, SW1 pressed or not."""
        self._say(self.board.power_on(now, pressing=pressing), now)
        self._collect()

    def host_wrote(self, data: bytes, now: float) -> None:
        """The host has written `data`."""
        if not self.is_plugged:
            return
        passing = self._passing(data)
        start = now
        if self._handed is not None:
            at, late = self._handed
            start -= late + min(TURNAROUND, now - at)
            self._handed = None
        if self._trace is not None and passing:
            self._trace.record(now, Direction.RECEIVED, passing)
        heard = self._altered[Way.IN].garbled(passing) if self.is_garbled else passing
        self._in.push(self._altered[Way.IN](heard), start, self._settings.baud)
        self._pull_as_planned(data, passing, now)

    def advance(self, now: float) -> bytes:
        """Let happen what is due by `now`; returns the bytes that the host is handed."""
        if self._plug_at is not None and now >= self._plug_at:
            self._plug(now)
        self._play(now)
        due = self._out.due
        out, at = self._out.pop(now) if due is not None and due <= now else (b"", now)
        if out:
            self._handed = now, min(now - at, MOST_LATE)
            passing = self._passing(out)
            if self._trace is not None and passing:
                self._trace.record(now, Direction.SENT, passing)
            self._pull_as_planned(out, passing, now)
            out = passing
        return out

    def obey(self, order: Order | Unplug, now: float) -> None:
        """Do what whoever stands beside the board does."""
        board = self.board
        match order:
            case Order.RESET:
                self._out.cut(now)
                self._say(board.reset(now), now)
            case Order.ENTER:
                self._out.cut(now)
                self._say(board.reset(now, pressing=True), now)
            case Order.HOLD:
                self._say(board.hold(now), now)
            case Order.RELEASE:
                board.release()
            case Order.POWER_OFF:
                self._lose_power(now)
            case Order.POWER_ON:
                self._say(board.power_on(now), now)
            case Order.POWER_CYCLE:
                self._lose_power(now)
                self._say(board.power_on(now), now)
            case Order.RESTART:
                self._lose_power(now)
                board.release()
                self._say(board.power_on(now), now)
            case Order.PLUG:
                self._plug(now)
            case Unplug(seconds):
                self._unplug(now, seconds)
        self._collect()

    def _say(self, data: bytes, at: float) -> None:
        """Let `data` of the board begin to leave it."""
        board, settings = self.board, self._settings
        if not data or not self.is_plugged:
            return
        if self.is_garbled:
            data = self._altered[Way.OUT].garbled(data)
        baud = settings.app_baud if board.condition is Condition.APPLICATION else settings.baud
        self._out.push(self._altered[Way.OUT](data), max(at, board.ready_at), baud)

    def _play(self, now: float) -> None:
        """Let the board hear what is through by `now`, and do what is due by then."""
        while True:
            incoming = self._in.due if self._out.size < WIRE_LIMIT else None
            deadline = self.board.deadline
            if incoming is not None and incoming <= now and (deadline is None or incoming <= deadline):
                data, at = self._in.pop(incoming)
                self._say(self.board.receive(data, at), at)
            elif deadline is not None and deadline <= now:
                self._say(self.board.timeout(now), deadline)
            else:
                break
            self._collect()

    def _passing(self, data: bytes) -> bytes:
        """Count bytes at the host's end; returns those that pass before the plug is pulled."""
        if self._plan is not None:
            data = data[: max(0, self._plan.byte - 1 - self.passed)]
        self.passed += len(data)
        return data

    def _pull_as_planned(self, data: bytes, passing: bytes, now: float) -> None:
        """Pull the plug where not all of `data` passed."""
        if self._plan is not None and len(passing) < len(data):
            plan, self._plan = self._plan, None
            self._play(now)
            self._unplug(now, plan.replug_after_s)

    def _unplug(self, now: float, seconds: float | None) -> None:
        self._plug_at = None if seconds is None else now + seconds
        if not self.is_plugged:
            return
        self.is_plugged = False
        self.events += (Plugged(False),)
        self._in.cut(now)
        self._out.cut(now)
        if self._settings.is_usb_powered:
            self._lose_power(now)

    def _plug(self, now: float) -> None:
        self._plug_at = None
        if self.is_plugged:
            return
        self.is_plugged = True
        self.events += (Plugged(True),)
        if self._settings.is_usb_powered:
            self._say(self.board.power_on(now), now)
        self._collect()

    def _lose_power(self, now: float) -> None:
        self.board.power_off(now)
        self._out.cut(now)

    def _collect(self) -> None:
        self.events += self.board.events
        self.board.events = ()
