"""Charts as inline SVG: from figures to text, colours by CSS class so that the page decides on light and dark.

All are 520 units wide, which is about their width in pixels beside one another on a desk and leaves 13-unit text
readable on a phone. Every piece of text is escaped here.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from statistics import linear_regression
from typing import Final

from fota_simulator.report import Sample, percentile

from ..flash_map import FlashPicture, svg_cells

WIDTH: Final = 520.0
HEIGHT: Final = 270.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 58.0, 64.0, 14.0, 44.0

STATES: Final[Mapping[str, tuple[str, Callable[[Sample], int]]]] = {
    "updated": ("updated", lambda sample: sample.updated),
    "refused": ("refused", lambda sample: sample.refused),
    "failed": ("failed", lambda sample: sample.failed),
    "connected": ("under way", lambda sample: sample.connected),
    "waiting": ("waiting", lambda sample: sample.waiting),
}
"""States of a device from the bottom of the stack to its top: CSS class to name and count."""

SHORTEST_STEP_S: Final = 0.05
"""Samples that are closer give no rate: the quotient would be noise."""

RATES: Final = 120
"""About how many points the line of rates has; more would be a scribble."""

RATE_WINDOW: Final = 2.0
"""Seconds that a rate is of, so that they hold several samples of each shard; of a shorter run it is of the whole."""

BINS: Final = 24
"""Bars of a histogram."""

WIDE: Final = 30.0
"""How many times the smallest duration the longest is where an axis becomes logarithmic."""

CURVE_POINTS: Final = 200
"""Points of a percentile curve."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One line of `bars`: a label, how many, and the CSS class of its colour."""

    label: str
    count: int
    style: str


def nice_ticks(highest: float, wanted: int = 5, lowest: float = 0.0) -> list[float]:
    """About `wanted` round values from at most `lowest` to at least `highest`."""
    if not highest > lowest:
        highest = lowest + (abs(lowest) or 1.0)
    rough = (highest - lowest) / wanted
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * magnitude for factor in (1, 2, 2.5, 5, 10) if factor * magnitude >= rough * 0.999)
    first = math.floor(lowest / step)
    last = max(first + 1, math.ceil(highest / step - 1e-9))
    return [round(number * step, 12) for number in range(first, last + 1)]


def fleet_over_time(timeline: Sequence[Sample]) -> str:
    """Devices by state as stacked areas, and the records per second as a line on an axis of its own."""
    rates = _rates(timeline, lambda sample: sample.records)
    total = max((sum(count(sample) for _, count in STATES.values()) for sample in timeline), default=0)
    times = nice_ticks(max((sample.time_s for sample in timeline), default=0.0))
    devices = nice_ticks(max(total, 1))
    speeds = nice_ticks(max((rate for _, rate in rates), default=1.0))
    end_s = max((sample.time_s for sample in timeline), default=0.0) or times[-1]
    x = _scale(0.0, end_s, _LEFT, WIDTH - _RIGHT)
    y = _scale(0.0, max(total, 1), HEIGHT - _BOTTOM, _TOP)
    fast = _scale(0.0, speeds[-1], HEIGHT - _BOTTOM, _TOP)
    parts = []
    below = [0] * len(timeline)
    for style, (name, count) in STATES.items():
        above = [low + count(sample) for low, sample in zip(below, timeline, strict=True)]
        if above != below:
            edge = [(x(sample.time_s), y(top)) for sample, top in zip(timeline, above, strict=True)]
            back = [(x(sample.time_s), y(low)) for sample, low in zip(timeline, below, strict=True)]
            parts.append(f'<polygon class="{style}" points="{_points(edge + back[::-1])}">{_title(name)}</polygon>')
        below = above
    parts.append(_axes(x, [t for t in times if t <= end_s], "time, s"))
    parts.append(_left_axis(y, [t for t in devices if t <= total], "devices"))
    line = [(x(time_s), fast(rate)) for time_s, rate in rates]
    parts.append(f'<polyline class="rate" points="{_points(line)}">{_title("records/s")}</polyline>')
    right = WIDTH - _RIGHT
    parts += [_text(right + 6, fast(value) + 4, _short(value), "start") for value in speeds]
    parts.append(_turned(WIDTH - 8, (HEIGHT - _BOTTOM + _TOP) / 2, "records/s"))
    return _svg("fleet", HEIGHT, "devices by state and records per second over time", parts)


def rates_over_time(timeline: Sequence[Sample]) -> str:
    """Updates per second, and attempts that failed per second, as lines."""
    lines = {
        "pace": ("updates/s", _rates(timeline, lambda sample: sample.updated)),
        "trouble": ("failed attempts/s", _rates(timeline, lambda sample: sum(sample.failed_attempts.values()))),
    }
    times = nice_ticks(max((sample.time_s for sample in timeline), default=0.0))
    end_s = max((sample.time_s for sample in timeline), default=0.0) or times[-1]
    heights = nice_ticks(max((rate for _, line in lines.values() for _, rate in line), default=1.0))
    x = _scale(0.0, end_s, _LEFT, WIDTH - 20)
    y = _scale(0.0, heights[-1], HEIGHT - _BOTTOM, _TOP)
    parts = [
        _axes(x, [t for t in times if t <= end_s], "time, s", WIDTH - 20),
        _left_axis(y, heights, "per second", WIDTH - 20),
    ]
    parts += [
        f'<polyline class="{style}" points="{_points([(x(time_s), y(rate)) for time_s, rate in line])}">'
        f"{_title(name)}</polyline>"
        for style, (name, line) in lines.items()
    ]
    return _svg("rates", HEIGHT, "updates and failed attempts per second over time", parts)


def percentile_curve(values: Sequence[float]) -> str:
    """Which duration in seconds how many updates did not exceed; the nearer to all, the more room they have."""
    ascending = sorted(values)
    low, high = (ascending[0], ascending[-1]) if ascending else (0.0, 1.0)
    warp, ticks = _duration_axis(low, high, lowest=0.0)
    nines = max(1.0, math.log10(2 * max(1, len(ascending))))  # 1 is 90 %, 2 is 99 %; so far that the longest is shown
    x = _scale(0.0, nines, _LEFT, WIDTH - 20)
    y = _scale(warp(ticks[0]), warp(ticks[-1]), HEIGHT - _BOTTOM, _TOP)
    parts = [
        _axes(x, [], "updates that took no longer", WIDTH - 20),
        _left_axis(lambda tick: y(warp(tick)), ticks, "duration, s", WIDTH - 20),
    ]
    floor = HEIGHT - _BOTTOM
    for percent in (0.0, 50.0, 90.0, 99.0, 99.9, 99.99, 99.999):
        at = x(-math.log10(1.0 - percent / 100.0))
        if at <= WIDTH - 20:
            parts.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" y2="{floor}"/>')
            parts.append(_text(at, floor + 20, f"{percent:g}%", "middle"))
    if ascending:
        steps = [number * nines / CURVE_POINTS for number in range(CURVE_POINTS + 1)]
        line = [(x(step), y(warp(percentile(ascending, 100.0 * (1.0 - 10.0**-step))))) for step in steps]
        parts.append(f'<polyline class="rate" points="{_points(line)}">{_title("duration by percentile")}</polyline>')
    return _svg("percentiles", HEIGHT, "duration of updates by percentile", parts)


def histogram(values: Sequence[float], marks: Mapping[str, float]) -> str:
    """How often which duration in seconds occurred, with `marks` (a percentile's name to its value) as lines."""
    smallest = min(values, default=0.0)
    warp, ticks = _duration_axis(smallest, max(values, default=1.0), lowest=smallest)
    low, high = warp(ticks[0]), warp(ticks[-1])
    edges = _edges(ticks, BINS, warp)
    counts = [0] * BINS
    for value in values:
        counts[max(0, min(BINS - 1, int((warp(value) - low) / (high - low) * BINS)))] += 1
    heights = nice_ticks(max(max(counts), 1))
    scale = _scale(low, high, _LEFT, WIDTH - 20)
    y = _scale(0.0, heights[-1], HEIGHT - _BOTTOM, _TOP + 16)
    parts = []

    def x(value: float) -> float:
        return scale(warp(value))

    for (start, end), count in zip(pairwise(edges), counts, strict=True):
        if count:
            parts.append(
                f'<rect class="connected" x="{x(start):.1f}" y="{y(count):.1f}" '
                f'width="{x(end) - x(start) - 1:.1f}" height="{y(0) - y(count):.1f}">'
                f"{_title(f'{count} updates took {start:.2f} s to {end:.2f} s')}</rect>"
            )
    placed = -math.inf
    row = 0
    for name, value in sorted(marks.items(), key=lambda mark: mark[1]):
        row = 1 - row if x(value) - placed < 34 else 0
        placed = x(value)
        parts.append(
            f'<line class="mark" x1="{placed:.1f}" x2="{placed:.1f}" y1="{_TOP + 16:.1f}" y2="{y(0):.1f}">'
            f"{_title(f'{name} {value:.2f} s')}</line>"
        )
        parts.append(_text(placed, _TOP + 12 - 13 * row, name, "middle"))
    parts.append(_axes(x, ticks, "duration of an update, s", WIDTH - 20))
    parts.append(_left_axis(y, [t for t in heights if t == int(t)], "updates", WIDTH - 20))
    return _svg("durations", HEIGHT, "distribution of update durations", parts)


def bars(rows: Sequence[Bar], name: str = "outcomes", label: str = "devices by outcome") -> str:
    """One horizontal bar a row, to scale, with its label above and its number behind."""
    highest = max((row.count for row in rows), default=0) or 1
    x = _scale(0, highest, 0.0, WIDTH - 90)
    parts = []
    for position, row in enumerate(rows):
        top = position * 44.0
        width = x(row.count)
        parts.append(_text(0, top + 14, row.label, "start"))
        if row.count:
            parts.append(f'<rect class="{row.style}" x="0" y="{top + 20:.1f}" width="{width:.1f}" height="14"/>')
        parts.append(_text(width + 8 if row.count else 0, top + 32, f"{row.count:,}", "start"))
    return _svg(name, max(44.0 * len(rows), 44.0), label, parts)


def flash_map(picture: FlashPicture) -> str:
    """Every sector of a part's flash as a square."""
    cells, height = svg_cells(picture, WIDTH)
    return _svg("flash", height, f"flash of {picture.part.name} by sector", cells)


def legend(entries: Mapping[str, str]) -> str:
    """CSS class to name, as a line of coloured squares."""
    items = "".join(f'<li><span class="key {style}"></span>{escape(name)}</li>' for style, name in entries.items())
    return f'<ul class="legend">{items}</ul>'


Scale = Callable[[float], float]


def _rates(timeline: Sequence[Sample], count: Callable[[Sample], int]) -> list[tuple[float, float]]:
    """Moments, and how much of something there was per second around them; where it became less, none.

    It is the slope of the line that fits the counts best: two of them alone would show the rhythm of the samples.
    """
    times, counts = [sample.time_s for sample in timeline], [count(sample) for sample in timeline]
    step = max(1, len(times) // RATES)
    found = []
    for at in range(0, len(times), step):
        start_s = max(times[0], min(times[at] - RATE_WINDOW / 2, times[-1] - RATE_WINDOW))
        first = min(bisect_right(times, start_s) - 1, max(0, at - step))
        end = max(bisect_left(times, start_s + RATE_WINDOW), at + step) + 1
        if times[first:end][-1] - times[first] >= SHORTEST_STEP_S:
            found.append((times[at], max(0.0, linear_regression(times[first:end], counts[first:end]).slope)))
    return found


def _duration_axis(smallest: float, longest: float, *, lowest: float) -> tuple[Scale, list[float]]:
    """How an axis of durations bends, and its ticks: logarithmic where they lie far apart, else from `lowest` on."""
    if not 0.0 < smallest * WIDE <= longest:
        return float, nice_ticks(longest, lowest=lowest)
    first, last = math.floor(math.log10(smallest)), math.ceil(math.log10(longest))
    factors = (1, 2, 5) if last - first <= 2 else (1,)
    ticks = [round(factor * 10.0**power, 12) for power in range(first, last + 1) for factor in factors]
    start = max(tick for tick in ticks if tick <= smallest)
    end = min(tick for tick in ticks if tick >= longest)
    return math.log10, [tick for tick in ticks if start <= tick <= end]


def _edges(ticks: Sequence[float], bins: int, warp: Scale) -> list[float]:
    """Where bins begin and end that are equally wide on an axis."""
    low, high = warp(ticks[0]), warp(ticks[-1])
    places = [low + number * (high - low) / bins for number in range(bins + 1)]
    return [10.0**place for place in places] if warp is math.log10 else places


def _scale(low: float, high: float, start: float, end: float) -> Scale:
    return lambda value: start + (value - low) / (high - low) * (end - start)


def _svg(name: str, height: float, label: str, parts: Sequence[str]) -> str:
    return (
        f'<svg id="{name}" viewBox="0 0 {WIDTH:.0f} {height:.0f}" role="img" aria-label="{escape(label)}">'
        f"{''.join(parts)}</svg>"
    )


def _axes(x: Scale, ticks: Sequence[float], label: str, right: float = WIDTH - _RIGHT) -> str:
    floor = HEIGHT - _BOTTOM
    drawn = [f'<line class="axis" x1="{_LEFT}" x2="{right}" y1="{floor}" y2="{floor}"/>']
    drawn += [_text(x(tick), floor + 20, f"{tick:g}", "middle") for tick in ticks]
    drawn.append(_text((_LEFT + right) / 2, HEIGHT - 6, label, "middle"))
    return "".join(drawn)


def _left_axis(y: Scale, ticks: Sequence[float], label: str, right: float = WIDTH - _RIGHT) -> str:
    drawn = []
    for tick in ticks:
        drawn.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        drawn.append(_text(_LEFT - 6, y(tick) + 4, _short(tick), "end"))
    drawn.append(_turned(13, (HEIGHT - _BOTTOM + _TOP) / 2, label))
    return "".join(drawn)


def _short(value: float) -> str:
    """1,500 as 1.5k: axis labels have little room."""
    return f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{value:,g}"


def _points(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _turned(x: float, y: float, text: str) -> str:
    return f'<text transform="translate({x:.1f} {y:.1f}) rotate(-90)" text-anchor="middle">{escape(text)}</text>'


def _title(text: str) -> str:
    return f"<title>{escape(text)}</title>"
