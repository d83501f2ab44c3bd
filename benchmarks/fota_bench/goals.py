"""What the numbers should reach, as data. A goal that is missed is told, and fails nothing: machines differ."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from .pairs import OUR_FLEET, OUR_SERVER
from .summary import Row

MET: Final = "✓"
MISSED: Final = "✗"
"""Marks beside a figure."""


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound for one figure of one pair at some numbers of connections."""

    name: str
    unit: str
    pair: str
    connections: tuple[int, ...]
    figure: Callable[[Row], float | None]
    bound: float
    is_minimum: bool
    """Whether the figure should be at least the bound; otherwise at most."""

    def is_met(self, figure: float) -> bool:
        """Whether `figure`, as measured and not as rounded, is on the right side of the bound."""
        return figure >= self.bound if self.is_minimum else figure <= self.bound

    def mark(self, row: Row) -> str:
        """The mark beside the figure of `row`; empty where the goal says nothing about it."""
        figure = self.figure(row)
        if figure is None or row.pair != self.pair or row.connections not in self.connections:
            return ""
        return MET if self.is_met(figure) else MISSED


@dataclass(frozen=True, slots=True)
class Verdict:
    """A goal at one number of connections that was measured."""

    goal: str
    pair: str
    connections: int
    expected: str
    measured: float
    is_met: bool


AT: Final = (1_000, 10_000)
"""Numbers of connections at which there are goals: fewer measure wake-ups as much as work."""


def _kib_per_connection(row: Row) -> float | None:
    size = row.server_bytes_per_connection
    return None if size is None else size / 1024


SERVER: Final = Goal("server", "x C", OUR_SERVER.name, AT, lambda row: row.ratio, 0.75, True)
"""Our complete server beside a C server that only serves."""

FLEET: Final = Goal("fleet", "x C", OUR_FLEET.name, AT, lambda row: row.ratio, 0.62, True)
"""Virtual K60s beside a C fleet that only acks."""

MEMORY: Final = Goal("memory", "KiB a connection", OUR_SERVER.name, AT, _kib_per_connection, 3.0, False)
"""What our server's resident memory grows by, image included, with all devices under way at the same time."""

GOALS: Final = (SERVER, FLEET, MEMORY)


def verdicts(rows: Sequence[Row]) -> list[Verdict]:
    """Every goal at every number of connections that `rows` have a figure for."""
    found = []
    for goal in GOALS:
        expected = f"{'at least' if goal.is_minimum else 'at most'} {goal.bound:g} {goal.unit}"
        for row in rows:
            figure = goal.figure(row)
            if figure is not None and goal.mark(row):
                found.append(Verdict(goal.name, row.pair, row.connections, expected, figure, goal.is_met(figure)))
    return found
