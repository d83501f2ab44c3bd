"""The demo's report as one HTML page: no scripts, nothing fetched, light and dark, readable on a phone.

A pure function from figures to text. Whatever comes from outside (names, reasons, versions) is escaped.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape
from typing import Final

from fota_protocol.parts import Part
from fota_simulator.report import McuReport, SwarmReport

from ..flash_map import FlashPicture, SectorState
from .charts import STATES, Bar, bars, flash_map, fleet_over_time, histogram, legend

MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class ImageFigures:
    """A firmware image that was served. `size` is in bytes, holes included."""

    name: str
    crc32: int
    first: int
    end: int
    records: int
    devices: int
    """How many devices were to have it."""

    @property
    def size(self) -> int:
        """Bytes in [first, end)."""
        return self.end - self.first


@dataclass(frozen=True, slots=True)
class FlashFigures:
    """What is in the flash of one device."""

    device: McuReport
    part: Part
    image: ImageFigures
    programmed: frozenset[int]
    """Indices of application sectors that are not blank."""


@dataclass(frozen=True, slots=True)
class JournalFigures:
    """What the server's journal says, held against what the devices say."""

    rows: int
    successful: int
    disagreements: tuple[str, ...]
    """Devices of which the journal says otherwise, in words."""


@dataclass(frozen=True, slots=True)
class PageFigures:
    """Everything that the page shows."""

    report: SwarmReport
    images: tuple[ImageFigures, ...]
    journal: JournalFigures
    server_bytes: int
    """Most memory that the server held; 0 where the system does not say."""
    flash: FlashFigures | None
    """None where no device is left to show."""
    environment: Mapping[str, str]
    """Versions, platform, seed: name to value, in the order of the page."""

    @property
    def ok(self) -> bool:
        """Every device updated and verified, and the journal agrees."""
        report, journal = self.report, self.journal
        return (
            report.updated == report.verified == report.count == journal.successful == journal.rows
            and not journal.disagreements
        )

    @property
    def verdict(self) -> str:
        """The run in one sentence."""
        report = self.report
        if self.ok:
            return f"{report.count:,} of {report.count:,} devices updated, every flash verified"
        if report.verified < report.count:
            return f"{report.verified:,} of {report.count:,} devices updated and verified"
        return f"{report.count:,} devices updated and verified, but the server's journal disagrees"


def render(figures: PageFigures) -> str:
    """The page as HTML text."""
    report = figures.report
    durations = [device.duration_s for device in report.devices if device.result == "updated"]
    marks = {"p50": report.p50_s, "p90": report.p90_s, "p99": report.p99_s} if durations else {}
    states = {style: name for style, (name, _) in STATES.items()} | {"rate": "records/s (right axis)"}
    sections = [
        _section("Figures", _table(_figures(figures))),
        _section("Fleet over time", fleet_over_time(report.timeline) + legend(states)),
        _section("Outcomes", _outcomes(figures)),
        _section("How long updates took", histogram(durations, marks)),
        _section("Flash of one device", _flash(figures.flash)),
        _section("What was served, and where", _images(figures.images) + _table(figures.environment.items())),
    ]
    style = "well" if figures.ok else "ill"
    return (
        "<!DOCTYPE html>\n"
        '<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
        f"<title>k60-fota: {escape(figures.verdict)}</title><style>{STYLE}</style></head>\n"
        f'<body><header class="{style}"><p>k60-fota</p><h1>{escape(figures.verdict)}</h1></header>\n'
        f"<main>\n{chr(10).join(sections)}\n</main></body></html>\n"
    )


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>"


def _table(rows: Iterable[tuple[str, str]]) -> str:
    lines = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in rows)
    return f"<table>{lines}</table>"


def _figures(figures: PageFigures) -> list[tuple[str, str]]:
    report, journal = figures.report, figures.journal
    return [
        ("updated", f"{report.updated:,} of {report.count:,}"),
        ("flashes verified", f"{report.verified:,} of {report.count:,}"),
        ("server's journal", f"{journal.successful:,} SUCCESSFUL of {journal.rows:,} sessions"),
        ("duration", f"{report.duration_s:.1f} s"),
        ("updates", f"{report.updates_per_s:,.1f} /s"),
        ("records", f"{report.records:,}, {report.records_per_s:,.0f} /s"),
        ("programmed", f"{report.bytes / MIB:,.1f} MiB"),
        ("update p50, p90", f"{report.p50_s:.2f} s, {report.p90_s:.2f} s"),
        ("update p99, longest", f"{report.p99_s:.2f} s, {report.max_s:.2f} s"),
        ("server's memory", _memory(figures.server_bytes)),
        ("fleet's memory", _memory(report.rss_bytes)),
    ]


def _memory(size: int) -> str:
    return f"{size / MIB:,.0f} MiB at most" if size else "not known on this system"


def _outcomes(figures: PageFigures) -> str:
    report = figures.report
    rows = [
        Bar("updated, flash verified", report.verified, "updated"),
        Bar("updated, flash differs", report.not_verified, "failed"),
        Bar("refused", report.refused, "refused"),
        Bar("failed", report.failed, "failed"),
    ]
    text = bars(rows)
    if report.failures:
        text += "<h3>Failures by reason</h3>" + _table((why, f"{n:,}") for why, n in report.failures.items())
    if figures.journal.disagreements:
        items = "".join(f"<li>{escape(line)}</li>" for line in figures.journal.disagreements)
        text += f"<h3>The journal says otherwise</h3><ul>{items}</ul>"
    return text


def _flash(flash: FlashFigures | None) -> str:
    if flash is None:
        return "<p>No device's flash was kept.</p>"
    part, image, device = flash.part, flash.image, flash.device
    verified = {True: "verified", False: "NOT as the image", None: "not compared"}[device.verified]
    facts = _table(
        [
            ("device", f"{device.mcuid}, {part.name}"),
            ("image", f"{image.name}, [{image.first:#010x}, {image.end:#010x})"),
            ("image CRC", f"{image.crc32:08X}, in flash {device.image_crc or 'nothing'}: {verified}"),
            ("sectors", f"{len(flash.programmed)} programmed of {part.flash_size // part.sector_size}, "
                        f"{part.sector_size:,} bytes each"),
        ]
    )  # fmt: skip
    key = legend({"boot": "bootloader", "programmed": "programmed", "blank": "blank"})
    return facts + flash_map(_picture(flash)) + key


def _picture(flash: FlashFigures) -> FlashPicture:
    part, size = flash.part, flash.part.sector_size
    states = tuple(
        SectorState.BOOTLOADER
        if index * size < part.application_start
        else SectorState.PROGRAMMED
        if index in flash.programmed
        else SectorState.BLANK
        for index in range(part.flash_size // size)
    )
    of_image = frozenset(range(flash.image.first // size, (flash.image.end - 1) // size + 1))
    return FlashPicture(part, states, of_image=of_image)


def _images(images: Iterable[ImageFigures]) -> str:
    return _table(
        (
            image.name,
            f"{image.size:,} bytes at {image.first:#010x}, {image.records:,} records, CRC {image.crc32:08X}, "
            f"for {image.devices:,} devices",
        )
        for image in images
    )


STYLE: Final = """
:root { --paper: #fff; --ground: #f3f4f6; --ink: #1b1f24; --faint: #59636e; --line: #d5dae0;
  --updated: #2f9e5b; --refused: #d98e04; --failed: #d1334a; --connected: #4a8fe0; --waiting: #cfd5dc;
  --rate: #7a2fb5; --boot: #8a6d3b; --blank: #e4e8ec; --well: #1d7a43; --ill: #b3243a; }
@media (prefers-color-scheme: dark) { :root { --paper: #1a1e24; --ground: #101317; --ink: #e6e9ed; --faint: #9aa5b1;
  --line: #353c45; --updated: #3fae6b; --refused: #e0a030; --failed: #e5566a; --connected: #4a86cc;
  --waiting: #48515c; --rate: #d59bff; --boot: #a98a55; --blank: #2c333b; --well: #17663a; --ill: #96203a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 15px/1.45 system-ui, sans-serif; }
header { padding: 1.2rem max(1rem, calc((100% - 1120px) / 2)); color: #fff; }
header.well { background: var(--well); }
header.ill { background: var(--ill); }
header p { margin: 0; opacity: .85; }
h1 { margin: .1rem 0 0; font-size: clamp(1.25rem, 4.5vw, 1.9rem); line-height: 1.2; }
h2 { margin: 0 0 .7rem; font-size: 1.05rem; }
h3 { margin: 1rem 0 .3rem; font-size: .95rem; }
main { max-width: 1152px; margin: 0 auto; padding: 1rem; display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 460px), 1fr)); }
section { min-width: 0; padding: 1rem; background: var(--paper); border: 1px solid var(--line); border-radius: 8px; }
table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { padding-right: 1rem; font-weight: normal; color: var(--faint); white-space: nowrap; }
td { overflow-wrap: anywhere; }
tr:last-child > * { border-bottom: 0; }
table + table { margin-top: 1rem; }
svg { display: block; width: 100%; height: auto; margin-top: .3rem; }
svg text { font-size: 13px; fill: var(--faint); }
@media (max-width: 560px) { svg text { font-size: 16px; } }
#flash { margin-top: .8rem; }
#flash text { font: 12px ui-monospace, monospace; }
.axis { stroke: var(--faint); }
.grid { stroke: var(--ink); opacity: .13; }
.mark { stroke: var(--rate); stroke-width: 1.5; stroke-dasharray: 4 3; }
.updated, .programmed { fill: var(--updated); background: var(--updated); }
.refused { fill: var(--refused); background: var(--refused); }
.failed { fill: var(--failed); background: var(--failed); }
.connected { fill: var(--connected); background: var(--connected); }
.waiting { fill: var(--waiting); background: var(--waiting); }
.boot { fill: var(--boot); background: var(--boot); }
.blank { fill: var(--blank); background: var(--blank); }
.rate { stroke: var(--rate); background: var(--rate); fill: none; stroke-width: 2; stroke-linejoin: round; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1rem; margin: .6rem 0 0; padding: 0; list-style: none;
  color: var(--faint); font-size: .9rem; }
.key { display: inline-block; width: .75em; height: .75em; margin-right: .4em; border-radius: 2px; }
.key.rate { height: 3px; vertical-align: middle; }
"""
"""Colours by what they mean; both schemes keep text above a contrast of 4.5."""
