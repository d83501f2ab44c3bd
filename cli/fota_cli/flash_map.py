"""A flash sector by sector, as text for a terminal and as SVG: pure functions from what is in it.

A letter or a square is a sector. States have colours, and letters and titles too, so that nobody needs the colours.
"""

import enum
import math
import textwrap
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import Final

from rich.text import Text

from fota_protocol.image import FirmwareImage
from fota_protocol.parts import Part
from fota_simulator.flash import Flash
from fota_simulator.flash.configuration import FlashConfiguration

COLUMNS: Final = 64
"""Sectors in a row on a terminal."""

SVG_COLUMNS: Final = 32
"""Sectors in a row of a picture."""

SVG_TEXT: Final = 84
"""Characters in a line of a picture."""

ENDURANCE: Final = 10_000
"""Erases that the data sheet promises of a sector."""


class SectorState(enum.Enum):
    """What a sector is; the value is its CSS class."""

    BOOTLOADER = "boot"
    PROGRAMMED = "programmed"
    OTHER = "other"
    DIFFERS = "differs"
    BLANK = "blank"


_NAMES: Final = {
    SectorState.BOOTLOADER: "bootloader",
    SectorState.PROGRAMMED: "programmed",
    SectorState.OTHER: "not of the image",
    SectorState.DIFFERS: "differs from the image",
    SectorState.BLANK: "blank",
}
_LETTERS: Final = {
    SectorState.BOOTLOADER: "bB",
    SectorState.PROGRAMMED: "oO",
    SectorState.OTHER: "nN",
    SectorState.DIFFERS: "xX",
    SectorState.BLANK: ".:",
}
"""Not protected, protected."""

_COLOURS: Final = {
    SectorState.BOOTLOADER: "yellow",
    SectorState.PROGRAMMED: "green",
    SectorState.OTHER: "cyan",
    SectorState.DIFFERS: "bold red",
    SectorState.BLANK: "dim",
}


@dataclass(frozen=True, slots=True)
class FlashPicture:
    """A flash to be shown. Everything is by index of the sector."""

    part: Part
    states: tuple[SectorState, ...]
    protected: frozenset[int] = frozenset()
    wear: Mapping[int, int] | None = None
    """Erases; None where nobody counted."""
    of_image: frozenset[int] = frozenset()

    def title(self, index: int) -> str:
        """A sector in words."""
        size = self.part.sector_size
        text = f"[{index * size:#010x}, {(index + 1) * size:#010x}) sector {index}: {_NAMES[self.states[index]]}"
        if index in self.of_image:
            text += ", of the image"
        if index in self.protected:
            text += ", protected"
        if self.wear is not None:
            text += f", erased {times(self.wear.get(index, 0))}"
        return text

    @property
    def counts(self) -> Mapping[SectorState, int]:
        """Sectors of each state."""
        return Counter(self.states)


def picture_of(
    flash: Flash,
    *,
    configuration: FlashConfiguration | None = None,
    image: FirmwareImage | None = None,
    wear: Mapping[int, int] | None = None,
) -> FlashPicture:
    """What a flash shows: with `image`, where it differs from that; with `configuration`, what is protected.

    A sector in which the image has no bytes cannot differ: bootloaders erase no more than they need, so an older image
    may be left there.
    """
    part = flash.part
    size = part.sector_size
    sectors = range(part.flash_size // size)
    programmed = frozenset(flash.sectors)
    of_image = frozenset() if image is None else sectors_of(image, part)

    def state(index: int) -> SectorState:
        start, end = index * size, (index + 1) * size
        if image is not None and index in of_image and flash.read(start, end) != image.read(start, end):
            return SectorState.DIFFERS
        if start < part.application_start:
            return SectorState.BOOTLOADER
        if image is not None and index in programmed and index not in of_image:
            return SectorState.OTHER
        return SectorState.PROGRAMMED if index in programmed else SectorState.BLANK

    protected = frozenset(
        index
        for index in sectors
        if configuration is not None and configuration.protects(part, index * size, (index + 1) * size)
    )
    return FlashPicture(part, tuple(state(index) for index in sectors), protected, wear, of_image)


def sectors_of(image: FirmwareImage, part: Part) -> frozenset[int]:
    """Indices of the sectors in which an image has bytes."""
    size = part.sector_size
    return frozenset(
        index for segment in image.segments for index in range(segment.start // size, (segment.end - 1) // size + 1)
    )


def as_text(picture: FlashPicture) -> Text:
    """Rows of letters, a legend with counts, and rows of wear where it is known."""
    text = Text()
    size = picture.part.sector_size
    count = len(picture.states)
    for first in range(0, count, COLUMNS):
        text.append(f"  {first * size:#010x}  ", "dim")
        for index in range(first, min(first + COLUMNS, count)):
            state, protected = picture.states[index], index in picture.protected
            text.append(_LETTERS[state][protected], _COLOURS[state])
        text.append("\n")
    text.append("\n  ")
    for state in SectorState:
        if number := picture.counts.get(state):
            text.append(f"{_LETTERS[state][0]} {number} {_NAMES[state]}   ", _COLOURS[state])
    text.append(f"\n  {size:,} bytes each")
    text.append(f"; {len(picture.protected)} protected, in capitals (blank ones :)\n" if picture.protected else "\n")
    if picture.wear is not None:
        text.append(_wear(picture, picture.wear))
    return text


def _wear(picture: FlashPicture, wear: Mapping[int, int]) -> Text:
    text = Text("\n")
    size = picture.part.sector_size
    count = len(picture.states)
    for first in range(0, count, COLUMNS):
        row = range(first, min(first + COLUMNS, count))
        if any(wear.get(index) for index in row):
            text.append(f"  {first * size:#010x}  ", "dim")
            for index in row:
                letter = _wear_letter(wear.get(index, 0))
                text.append(letter, "bold red" if letter == "!" else "dim" if letter == "." else "")
            text.append("\n")
    most = max(wear.values(), default=0)
    text.append(
        f"  erases: 1 to 9, a from 10, b from 100, c from 1,000; ! from {ENDURANCE:,}, which the data sheet promises\n"
        f"  at most {most:,} of a sector, {sum(wear.values()):,} in all\n"
    )
    return text


def _wear_letter(erases: int) -> str:
    if erases >= ENDURANCE:
        return "!"
    return "." if not erases else str(erases) if erases < 10 else "abc"[len(str(erases)) - 2]


def times(number: int) -> str:
    """How often."""
    return "once" if number == 1 else f"{number:,} times"


def svg_cells(picture: FlashPicture, width: float, left: float = 92.0) -> tuple[list[str], float]:
    """The sectors as squares with titles, 32 a row, addresses at the left; and how high that is."""
    cell = (width - left) / SVG_COLUMNS
    parts = []
    for index, state in enumerate(picture.states):
        row, column = divmod(index, SVG_COLUMNS)
        style = state.value + (" protected" if index in picture.protected else "")
        parts.append(
            f'<rect class="{style}" x="{left + column * cell:.1f}" y="{row * cell:.1f}" '
            f'width="{cell - 1.5:.1f}" height="{cell - 1.5:.1f}"><title>{escape(picture.title(index))}</title></rect>'
        )
        if picture.wear and (erases := picture.wear.get(index, 0)):
            middle = cell / 2 - 0.75
            radius = min(1.2 + 1.3 * math.log10(erases), middle)
            x, y = left + column * cell + middle, row * cell + middle
            parts.append(f'<circle class="wear" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}"/>')
        if column == 0:
            address = f"{index * picture.part.sector_size:#010x}"
            parts.append(f'<text x="0.0" y="{row * cell + cell - 3.5:.1f}" text-anchor="start">{address}</text>')
    return parts, -(-len(picture.states) // SVG_COLUMNS) * cell


def aligned(facts: Mapping[str, str]) -> list[str]:
    """A line for each fact, their values under one another."""
    width = max(map(len, facts), default=0) + 2
    return [f"{name:<{width}}{value}" for name, value in facts.items()]


def as_svg(picture: FlashPicture, facts: Mapping[str, str]) -> str:
    """A file of its own, light and dark: facts, map, legend. A dot is wear, and grows with it."""
    width = 640.0
    indent = " " * (max(map(len, facts), default=0) + 2)
    shown = [part for line in aligned(facts) for part in textwrap.wrap(line, SVG_TEXT, subsequent_indent=indent)]
    cells, height = svg_cells(picture, width)
    top = 20.0 * len(shown) + 16
    lines = [
        f'<text x="0" y="{20 * number + 14}" xml:space="preserve">{escape(fact)}</text>'
        for number, fact in enumerate(shown)
    ]
    labels = [(state.value, f"{n} {_NAMES[state]}") for state in SectorState if (n := picture.counts.get(state))]
    if picture.protected:
        labels.append(("blank protected", f"{len(picture.protected)} protected"))
    if picture.wear:
        labels.append(("wear", f"erased, {times(max(picture.wear.values()))} at most"))
    legend, x, y = [], 0.0, 0.0
    for style, label in labels:
        room = 36 + 7.3 * len(label)
        if x + room > width:
            x, y = 0.0, y + 18
        shape = ' rx="6"' if style == "wear" else ""
        legend.append(f'<rect class="{style}" x="{x:.0f}" y="{y:.0f}" width="12" height="12"{shape}/>')
        legend.append(f'<text x="{x + 18:.0f}" y="{y + 11:.0f}">{escape(label)}</text>')
        x += room
    total = top + height + y + 34
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-12 -12 {width + 24:.0f} {total + 12:.0f}" role="img" '
        f'aria-label="flash of {escape(picture.part.name)} by sector"><style>{STYLE}</style>'
        f'<rect class="paper" x="-12" y="-12" width="{width + 24:.0f}" height="{total + 12:.0f}"/>'
        f'{"".join(lines)}<g transform="translate(0 {top:.0f})">{"".join(cells)}</g>'
        f'<g transform="translate(0 {top + height + 10:.0f})">{"".join(legend)}</g></svg>\n'
    )


STYLE: Final = """
svg { --paper: #fff; --ink: #1b1f24; --programmed: #2f9e5b; --boot: #8a6d3b; --blank: #e4e8ec; --differs: #d1334a;
  --other: #4a7ab5; }
@media (prefers-color-scheme: dark) { svg { --paper: #1a1e24; --ink: #e6e9ed; --programmed: #3fae6b; --boot: #a98a55;
  --blank: #2c333b; --differs: #e5566a; --other: #6d9bd3; } }
text { font: 12px ui-monospace, monospace; fill: var(--ink); }
.paper { fill: var(--paper); }
.programmed { fill: var(--programmed); } .boot { fill: var(--boot); }
.blank { fill: var(--blank); } .differs { fill: var(--differs); }
.other { fill: var(--other); } .wear { fill: var(--ink); }
.protected { stroke: var(--ink); stroke-width: 1.5; }
"""
