"""How long an update takes, by record length, round trip and handshake: measured in virtual time, so always the same.

`table()` makes the section of `update-times.md`, `chart()` its picture; `generate.py` writes both. Every figure is a
run of the real server and a real device on a simulated clock.
"""

import tempfile
from html import escape
from pathlib import Path
from typing import Final

import fota_fixtures
from fota_cli.compose.virtual_fleet import Served, run_virtual
from fota_protocol.formats import dump_image, load
from fota_protocol.image import FirmwareImage
from fota_protocol.parts import DEFAULT_PART, PARTS
from fota_protocol.server import Handshake
from fota_protocol.srecord import SRecord
from fota_simulator.swarm import DevicePlan
from fota_transport.profiles import LinkProfile

IMAGE: Final = "demo_16k.s19"
"""16 KiB, sealed."""

RECORD_BYTES: Final = (16, 32, 64, 128, 248)
"""Data bytes of a record: what linkers write, up to what field devices take."""

ROUND_TRIPS_S: Final = (0.005, 0.05, 0.2, 0.6, 1.6)
"""Seconds from a record to its ack, without the time that its bytes take."""

BYTES_PER_SECOND: Final = 1_920.0
"""A modem at 19,200 baud, 10 bits a byte."""

HANDSHAKES: Final = {
    "wait, device acks `@4#`": (Handshake.WAIT, True),
    "auto, device acks `@4#`": (Handshake.AUTO, True),
    "auto, device does not": (Handshake.AUTO, False),
    "immediate, device does not": (Handshake.IMMEDIATE, False),
}
"""What the server does between `@4#` and the first record, and what the device does."""

MCUID: Final = "0001100023593110965955141"


def recut(size: int) -> FirmwareImage:
    """The image in records of `size` data bytes."""
    image = load(fota_fixtures.read(IMAGE))
    starts = range(image.first, image.end, size)
    return FirmwareImage.from_records(
        SRecord(2, start, image.read(start, min(start + size, image.end))) for start in starts
    )


def seconds(image: FirmwareImage, round_trip_s: float, handshake: Handshake, *, acks_verdict: bool) -> float:
    """How long one device takes; raises `AssertionError` when its flash is not the image."""
    link = LinkProfile("table", latency_s=round_trip_s / 2, bytes_per_second=BYTES_PER_SECOND)
    plan = DevicePlan(MCUID, image, PARTS[DEFAULT_PART], acks_verdict=acks_verdict)
    with tempfile.TemporaryDirectory() as folder:
        done = run_virtual(
            Path(folder), [plan], [Served("image.s19", dump_image(image), "1")], link=link, seed=1, handshake=handshake
        )
    (device,) = done.report.devices
    assert device.verified, device
    return device.duration_s


def measure() -> tuple[list[list[float]], dict[str, list[float]]]:
    """Seconds by record length and round trip (handshake `wait`), and by handshake and round trip (32 bytes)."""
    lengths = [
        [seconds(recut(size), trip, Handshake.WAIT, acks_verdict=True) for trip in ROUND_TRIPS_S]
        for size in RECORD_BYTES
    ]
    image = recut(32)
    handshakes = {
        name: [seconds(image, trip, handshake, acks_verdict=acks) for trip in ROUND_TRIPS_S]
        for name, (handshake, acks) in HANDSHAKES.items()
    }
    return lengths, handshakes


def table(lengths: list[list[float]], handshakes: dict[str, list[float]]) -> str:
    """The two tables as Markdown."""
    trips = " | ".join(f"{trip:g} s" for trip in ROUND_TRIPS_S)
    rule = " | ".join("---:" for _ in ROUND_TRIPS_S)
    lines = [f"| data bytes of a record | records | {trips} |", f"| ---: | ---: | {rule} |"]
    for size, row in zip(RECORD_BYTES, lengths, strict=True):
        lines.append(f"| {size} | {len(recut(size).records):,} | {' | '.join(map(duration, row))} |")
    lines += ["", f"| handshake, 32 bytes a record | {trips} |", f"| --- | {rule} |"]
    for name, row in handshakes.items():
        lines.append(f"| {name} | {' | '.join(map(duration, row))} |")
    return "\n".join(lines) + "\n"


def duration(value: float) -> str:
    """Seconds, or minutes where they are many."""
    return f"{value:.1f} s" if value < 120 else f"{value / 60:.1f} min"


WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 64, 120, 34, 52
COLOURS: Final = ("#b3243a", "#d98e04", "#2f9e5b", "#4a8fe0", "#7a2fb5")


def chart(lengths: list[list[float]]) -> str:
    """The first table as curves: minutes over the round trip, a line for each record length."""
    top_min = max(max(row) for row in lengths) / 60
    step = next(step for step in (1, 2, 5, 10, 20) if top_min / step <= 6)
    highest = step * -(-top_min // step)

    def x(trip: float) -> float:
        return LEFT + trip / ROUND_TRIPS_S[-1] * (WIDTH - LEFT - RIGHT)

    def y(minutes: float) -> float:
        return HEIGHT - BOTTOM - minutes / highest * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="t d">',
        '<title id="t">Update time over the round trip, by record length</title>',
        f'<desc id="d">{escape(description(lengths))}</desc>',
        "<style>text { font: 13px system-ui, sans-serif; fill: #59636e; } .grid { stroke: #8a949e; opacity: .3; }"
        " @media (prefers-color-scheme: dark) { text { fill: #b6c0ca; } }</style>",
        f'<text x="{LEFT}" y="18">minutes for 16 KiB at 19,200 baud</text>',
    ]
    for number in range(int(highest / step) + 1):
        level = y(number * step)
        parts.append(f'<line class="grid" x1="{LEFT}" y1="{level:.1f}" x2="{WIDTH - RIGHT}" y2="{level:.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{level + 4:.1f}" text-anchor="end">{number * step}</text>')
    for trip in (0.0, 0.4, 0.8, 1.2, 1.6):
        parts.append(f'<text x="{x(trip):.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{trip:g}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle:.0f}" y="{HEIGHT - 10}" text-anchor="middle">seconds of round trip</text>')
    below = float("inf")
    for size, row, colour in sorted(zip(RECORD_BYTES, lengths, COLOURS, strict=True), reverse=True):
        points = " ".join(f"{x(trip):.1f},{y(value / 60):.1f}" for trip, value in zip(ROUND_TRIPS_S, row, strict=True))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        label = min(y(row[-1] / 60) + 4, below - 15)  # labels of short records' lines do not overlap
        below = label
        parts.append(f'<text x="{WIDTH - RIGHT + 8}" y="{label:.1f}" style="fill: {colour}">{size} bytes</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def description(lengths: list[list[float]]) -> str:
    """The chart in a sentence, for those who do not see it."""
    ends = ", ".join(f"{size} bytes {duration(row[-1])}" for size, row in zip(RECORD_BYTES, lengths, strict=True))
    return f"Straight lines that rise with the round trip. At {ROUND_TRIPS_S[-1]:g} s: {ends}."
