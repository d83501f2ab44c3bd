"""The simulated network: things on their way, in the order in which they will arrive.

It stands where a real loop has its selector.  Asked to wait, it never does: it moves the virtual
clock to the next arrival or to the end of the wait, whichever comes first.  It knows neither
transports nor asyncio.  Arrivals of the same moment keep the order in which they were sent.
"""

import heapq
from collections.abc import Callable
from itertools import count
from typing import Final, TypeAlias

from .clock import VirtualClock
from .errors import SimulationStalled

HORIZON: Final = 30 * 86_400.0
"""Virtual seconds after which a simulation counts as stuck in an endless repetition."""

Arrival: TypeAlias = tuple[Callable[..., None], object]
"""What to call at the far end, and with which argument."""


class Network:
    """A queue of arrivals on a virtual clock.

    `who_waits` describes whoever would wait for ever, for the message of `SimulationStalled`.
    """

    __slots__ = ("_arrivals", "_clock", "_horizon_s", "_order", "_who_waits")

    def __init__(self, clock: VirtualClock, who_waits: Callable[[], str], *, horizon_s: float = HORIZON) -> None:
        self._clock = clock
        self._who_waits = who_waits
        self._horizon_s = horizon_s
        self._order = count()
        self._arrivals: list[tuple[float, int, Callable[..., None], object]] = []

    def post(self, due_s: float, arrive: Callable[..., None], item: object) -> None:
        """Have `arrive(item)` called at `due_s`."""
        heapq.heappush(self._arrivals, (due_s, next(self._order), arrive, item))

    def select(self, timeout_s: float | None) -> list[Arrival]:
        """Move time on by at most `timeout_s` and return what has arrived; None waits for ever.

        Raises `SimulationStalled` where a real selector would hang.
        """
        now = self._clock.monotonic()
        arrivals = self._arrivals
        if timeout_s != 0:
            if timeout_s is None:
                if not arrivals:
                    raise SimulationStalled(
                        f"at {now:.6f} s nothing is ready, no timer runs and nothing is on the "
                        f"wire, expected one of them; waiting: {self._who_waits()}"
                    )
                now = arrivals[0][0]
            else:
                now += timeout_s
                if arrivals and arrivals[0][0] < now:
                    now = arrivals[0][0]
            if now > self._horizon_s:
                raise SimulationStalled(
                    f"virtual time would pass the horizon of {self._horizon_s:.0f} s; waiting: {self._who_waits()}"
                )
            self._clock.move_to(now)
        ready: list[Arrival] = []
        while arrivals and arrivals[0][0] <= now:
            _, _, arrive, item = heapq.heappop(arrivals)
            ready.append((arrive, item))
        return ready

    def clear(self) -> None:
        """Lose everything on its way."""
        self._arrivals.clear()
