"""Plays a board behind a pseudo-terminal until it is told to stop: the only loop here, and the only sleeper.

One turn: do what was ordered, look at the board, hand what came through the line to the client, take what the client
wrote. Then it sleeps until something is due or somebody has something to say. Naps of less than a millisecond, which is
what `poll` counts in, are slept through: nobody is kept waiting for so short a time.
"""

import contextlib
import os
import select
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final

from fota_transport.clock import Clock

from .board import Changed, Condition
from .control import ControlPipe, Order, Unplug
from .serial_line import INSTANT, WIRE_LIMIT
from .terminal import BoardTerminal
from .wired import WiredBoard, WiredEvent

LINGER: Final = 2.0
"""Seconds that a client has, at the end, to read the last bytes, which are gone with the terminal, and to see that the
board does not announce itself again."""

LONGEST_NAP: Final = 60.0
"""Seconds after which the loop looks at everything again."""

_POLL_TICK: Final = 0.001
"""Seconds of the smallest wait of `poll`."""


class BoardRunner:
    """`wired` behind a pseudo-terminal at `path` (None: its own), and a control pipe; raises `BoardError`.

    `on_event` hears of everything that happens, `on_complaint` of orders that are none. With `checks_baud`, a client
    at another rate than `baud` and the board do not understand one another.
    """

    def __init__(
        self,
        wired: WiredBoard,
        path: Path | None,
        clock: Clock,
        *,
        baud: int = INSTANT,
        control: Path | None = None,
        checks_baud: bool = False,
        is_once: bool = False,
        on_event: Callable[[WiredEvent], None] = lambda _: None,
        on_complaint: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.wired = wired
        self.application_started = False
        """Whether an application has."""
        self._path = path
        self._clock = clock
        self._baud = baud
        self._checks_baud = checks_baud and baud != INSTANT
        self._is_once = is_once
        self._on_event = on_event
        self._on_complaint = on_complaint
        self._orders: deque[Order | Unplug] = deque()
        self._stopping = False
        self._ends_at: float | None = None
        self._unsent = bytearray()
        with contextlib.ExitStack() as closing:
            self._control = None if control is None else closing.enter_context(contextlib.closing(ControlPipe(control)))
            self._terminal: BoardTerminal | None = BoardTerminal(path, baud)
            closing.callback(self._hang_up)
            self._waker = os.pipe()
            for descriptor in self._waker:
                os.set_blocking(descriptor, False)
                closing.callback(os.close, descriptor)
            self._closing = closing.pop_all()

    @property
    def port(self) -> str | None:
        """What a client opens; None while the plug is out."""
        return None if self._terminal is None else self._terminal.port

    def close(self) -> None:
        """Hang up and remove what was made."""
        self._closing.close()

    def __enter__(self) -> "BoardRunner":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def order(self, order: Order | Unplug) -> None:
        """Have something done to the board; from any thread, or a signal handler."""
        self._orders.append(order)
        self._wake()

    def stop(self) -> None:
        """End `run`; from any thread, or a signal handler."""
        self._stopping = True
        self._wake()

    def run(self, *, pressing: bool = False) -> None:
        """Switch the board on, SW1 pressed or not, and play it until `stop`, or until its application has started."""
        self.wired.power_on(self._clock.monotonic(), pressing=pressing)
        while not self._stopping:
            now = self._clock.monotonic()
            self._obey(now)
            if self._checks_baud and self._terminal is not None:
                self.wired.is_garbled = self._terminal.client_baud != self._baud
            self._unsent += self.wired.advance(now)
            self._look()
            self._hand_over(now)
            if self._ends_at is not None and now >= self._ends_at:
                return
            if self._is_once and self._ends_at is None and self.application_started and self.wired.is_quiet:
                self._ends_at = now + LINGER
            self._sleep()
            if self._terminal is not None and self.wired.can_take and len(self._unsent) < WIRE_LIMIT:
                self._obey(self._clock.monotonic())  # what was ordered before the client wrote
                data = self._terminal.read()
                if data:
                    self.wired.host_wrote(data, self._clock.monotonic())

    def _obey(self, now: float) -> None:
        while self._orders:
            self.wired.obey(self._orders.popleft(), now)
        for order in () if self._control is None else self._control.orders():
            if isinstance(order, ValueError):
                self._on_complaint(str(order))
            else:
                self.wired.obey(order, now)

    def _look(self) -> None:
        """Hand on what happened; pull or put in the plug, so that it is as the board's line says."""
        events, self.wired.events = self.wired.events, ()
        for event in events:
            if isinstance(event, Changed) and event.condition is Condition.APPLICATION:
                self.application_started = True
        if not self.wired.is_plugged:
            self._hang_up()
        elif self._terminal is None:
            self._terminal = BoardTerminal(self._path, self._baud)
        for event in events:
            self._on_event(event)

    def _hand_over(self, now: float) -> None:
        terminal = self._terminal
        if terminal is None:
            self._unsent.clear()
        elif self._unsent:
            del self._unsent[: terminal.write(self._unsent, now)]
            del self._unsent[: max(0, len(self._unsent) - WIRE_LIMIT)]  # an overrun; nobody reads what is announced

    def _sleep(self) -> None:
        now = self._clock.monotonic()
        nap = min(moment - now for moment in (self.wired.due, self._ends_at, now + LONGEST_NAP) if moment is not None)
        if 0.0 < nap < _POLL_TICK:
            time.sleep(nap)
            nap = 0.0
        poll = select.poll()
        poll.register(self._waker[0], select.POLLIN)
        if self._control is not None:
            poll.register(self._control.fileno(), select.POLLIN)
        if self._terminal is not None:
            takes = self.wired.can_take and len(self._unsent) < WIRE_LIMIT
            poll.register(
                self._terminal.fileno(),
                (select.POLLIN if takes else 0) | (select.POLLOUT if self._unsent else 0),
            )
        poll.poll(max(0, int(nap / _POLL_TICK)))
        with contextlib.suppress(BlockingIOError):
            os.read(self._waker[0], 4_096)

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._waker[1], b"\0")

    def _hang_up(self) -> None:
        terminal, self._terminal = self._terminal, None
        if terminal is not None:
            terminal.close()
