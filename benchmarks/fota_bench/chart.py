"""The ratios of a run as a picture: from rows to the text of one SVG, without a library that plots.

A group of bars for each number of connections, whiskers from the lowest to the highest round, lines for the goals. The
picture brings its own paper and picks its colours by the reader's light or dark mode, since a page that embeds it may
say nothing; its title and description say in words what it shows. Every piece of text is escaped here.
"""

import math
from collections.abc import Sequence
from html import escape
from typing import Final

from .goals import FLEET, SERVER, Goal
from .pairs import OUR_FLEET, OUR_SERVER, OURS
from .summary import Row

LEFT, RIGHT, TOP, BOTTOM = 48.0, 124.0, 76.0, 50.0
"""Margins of the plot, in units of the picture, which are about pixels on a page."""

LEAST_WIDTH: Final = 720.0
HEIGHT: Final = 380.0
"""Units of the picture: about the width of a page on GitHub."""

GROUP: Final = 137.0
"""Least width of a group of bars: their figures need it. More groups make a wider picture."""

BAR, GAP = 35.0, 4.0
"""Width of a bar, and what is between two of a group."""

ROOM_FOR_FIGURE: Final = 24.0
"""Height that a figure takes at the foot of its bar; where the whisker reaches into it, the figure is above."""

LINE_HEIGHT: Final = 15.0
"""Least distance between two labels beside the plot."""

LOWEST_TOP: Final = 1.2
"""The axis reaches at least so far: a yardstick of 1 needs a place to be seen at."""

SERIES: Final = {OUR_SERVER.name: "server", OUR_FLEET.name: "fleet", OURS.name: "both"}
"""Pair to the name of what is ours in it, which is its CSS class, too."""

LEGEND: Final = {"server": "our server, C fleet", "fleet": "C server, our fleet", "both": "our server, our fleet"}

STYLE: Final = """
svg { --paper: #fff; --ink: #1b1f24; --faint: #d8dde3; --server: #2563a8; --fleet: #b4540a; --both: #5b6b7c; }
@media (prefers-color-scheme: dark) { svg { --paper: #1a1e24; --ink: #e6e9ed; --faint: #39414a; --server: #2f74c0;
  --fleet: #c0621a; --both: #66788b; } }
text { font: 13px system-ui, sans-serif; fill: var(--ink); }
.heading { font-weight: 600; font-size: 15px; }
.figure { font-weight: 600; font-size: 12px; fill: #fff; }
.above { fill: var(--ink); stroke: var(--paper); stroke-width: 4; paint-order: stroke; }
.paper { fill: var(--paper); }
.server { fill: var(--server); } .fleet { fill: var(--fleet); } .both { fill: var(--both); }
.grid { stroke: var(--faint); }
.yardstick { stroke: var(--ink); }
.goal { stroke: var(--ink); stroke-width: 1.5; stroke-dasharray: 6 4; }
.whisker { stroke: var(--ink); stroke-width: 1.5; fill: none; }
"""


def chart(rows: Sequence[Row]) -> str:
    """The picture of `rows`, as the text of a file."""
    counts = sorted({row.connections for row in rows})
    shown = [row for row in rows if row.pair in SERIES]
    top = max([LOWEST_TOP, *(row.ratio_high for row in shown)])
    step = 0.2 if top <= 2 else 0.5 if top <= 5 else 10 ** math.floor(math.log10(top))
    ticks = [number * step for number in range(math.ceil(top / step - 1e-9) + 1)]
    plot = _Plot(counts, ticks[-1])
    parts = [_text(LEFT, 24, "Records a second, as a ratio to the C pair", "start", "heading"), *_legend()]
    parts += [plot.level(tick, "grid") + _text(LEFT - 8, plot.y(tick) + 4, f"{tick:.1f}", "end") for tick in ticks]
    for row in shown:
        parts += plot.bar(row)
    parts += [plot.level(1.0, "yardstick"), *plot.goals((SERVER, FLEET))]
    for count in counts:
        parts.append(_text(plot.middle(count), HEIGHT - BOTTOM + 19, f"{count:,}", "middle"))
    parts.append(_text((LEFT + plot.right) / 2, HEIGHT - 9, "connections", "middle"))
    body = "\n".join(parts)
    width = plot.right + RIGHT
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {HEIGHT:g}" width="{width:g}" '
        f'height="{HEIGHT:g}" role="img" aria-labelledby="title description">\n'
        f'<title id="title">Server and fleet beside C</title>\n'
        f'<desc id="description">{escape(description(rows))}</desc>\n'
        f"<style>{STYLE}</style>\n"
        f'<rect class="paper" width="{width:g}" height="{HEIGHT:g}"/>\n{body}\n</svg>\n'
    )


def description(rows: Sequence[Row]) -> str:
    """What the picture shows, in words."""
    sentences = ["Records a second as a ratio to a C server with a C fleet, medians with their ranges."]
    for count in sorted({row.connections for row in rows}):
        figures = [
            f"{SERIES[row.pair]} {row.ratio:.2f} ({row.ratio_low:.2f} to {row.ratio_high:.2f})"
            for row in rows
            if row.connections == count and row.pair in SERIES
        ]
        sentences.append(f"{count:,} connections: {', '.join(figures)}.")
    goals = (f"{goal.name} {goal.bound:g}" for goal in (SERVER, FLEET))
    places = " and ".join(f"{count:,}" for count in SERVER.connections)
    sentences.append(f"Goals at {places} connections: {', '.join(goals)}.")
    return " ".join(sentences)


class _Plot:
    """Where things are: a group for each of `counts`, ratios from 0 to `top`."""

    def __init__(self, counts: Sequence[int], top: float) -> None:
        self._counts = counts
        self._top = top
        self.right = max(LEAST_WIDTH - RIGHT, LEFT + GROUP * len(counts))
        self._group = (self.right - LEFT) / max(len(counts), 1)

    def y(self, ratio: float) -> float:
        return HEIGHT - BOTTOM - ratio / self._top * (HEIGHT - BOTTOM - TOP)

    def middle(self, count: int) -> float:
        return LEFT + (self._counts.index(count) + 0.5) * self._group

    def level(self, ratio: float, style: str) -> str:
        """A line across all groups."""
        return _line(LEFT, self.right, self.y(ratio), style)

    def bar(self, row: Row) -> list[str]:
        """A row's bar with its figure and its whisker."""
        name = SERIES[row.pair]
        place = list(SERIES).index(row.pair) - (len(SERIES) - 1) / 2
        middle = self.middle(row.connections) + place * (BAR + GAP)
        top, floor, low, high = self.y(row.ratio), self.y(0), self.y(row.ratio_low), self.y(row.ratio_high)
        told = f"{row.connections:,} connections, {name}: {row.ratio:.2f}, {row.ratio_low:.2f} to {row.ratio_high:.2f}"
        figure_at, style = (floor - 7, "figure") if floor - low >= ROOM_FOR_FIGURE else (high - 7, "figure above")
        whisker = f"M{middle - 5:.1f} {low:.1f}h10m-5 0V{high:.1f}m-5 0h10"
        return [
            f'<rect class="{name}" x="{middle - BAR / 2:.1f}" y="{top:.1f}" width="{BAR:.1f}" '
            f'height="{floor - top:.1f}"><title>{escape(told)}</title></rect>',
            f'<path class="whisker" d="{whisker}"/>',
            _text(middle, figure_at, f"{row.ratio:.2f}", "middle", style),
        ]

    def goals(self, goals: Sequence[Goal]) -> list[str]:
        """A line for each goal over the groups that it is for, and beside the plot what the lines are."""
        labels = [("C 1.00", self.y(1.0))]
        lines = []
        for goal in goals:
            at = [count for count in self._counts if count in goal.connections]
            y, half = self.y(goal.bound), self._group / 2
            lines += [_line(self.middle(count) - half, self.middle(count) + half, y, "goal") for count in at]
            if at:
                labels.append((f"goal {goal.name} {goal.bound:g}", y))
        lowest = 0.0
        for text, y in sorted(labels, key=lambda label: label[1]):
            lowest = max(y, lowest + LINE_HEIGHT)  # or labels of lines that are close would lie on one another
            lines.append(_text(self.right + 8, lowest + 4, text, "start"))
        return lines


def _legend() -> list[str]:
    parts = []
    for number, (style, name) in enumerate(LEGEND.items()):
        x = LEFT + number * 180
        parts.append(f'<rect class="{style}" x="{x:.1f}" y="40" width="13" height="13"/>')
        parts.append(_text(x + 20, 51, name, "start"))
    return parts


def _line(x1: float, x2: float, y: float, style: str) -> str:
    return f'<line class="{style}" x1="{x1:.1f}" x2="{x2:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'


def _text(x: float, y: float, text: str, anchor: str, style: str = "") -> str:
    kind = f' class="{style}"' if style else ""
    return f'<text{kind} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
