"""The demo's report as one HTML page, a pure function from figures to text.

Whatever comes from outside (names, reasons, versions) is escaped.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape

from fota_protocol.parts import Part
from fota_simulator.report import McuReport, SwarmReport

from ..flash_map import FlashPicture, SectorState
from .charts import STATES, Bar, bars, flash_map, fleet_over_time, histogram, legend
from .document import document, memory, mib, section, table


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
        section("Figures", table(_figures(figures))),
        section("Fleet over time", fleet_over_time(report.timeline) + legend(states)),
        section("Outcomes", _outcomes(figures)),
        section("How long updates took", histogram(durations, marks)),
        section("Flash of one device", _flash(figures.flash)),
        section("What was served, and where", _images(figures.images) + table(figures.environment.items())),
    ]
    return document(figures.verdict, sections, well=figures.ok)


def _figures(figures: PageFigures) -> list[tuple[str, str]]:
    report, journal = figures.report, figures.journal
    return [
        ("updated", f"{report.updated:,} of {report.count:,}"),
        ("flashes verified", f"{report.verified:,} of {report.count:,}"),
        ("server's journal", f"{journal.successful:,} SUCCESSFUL of {journal.rows:,} sessions"),
        ("duration", f"{report.duration_s:.1f} s"),
        ("updates", f"{report.updates_per_s:,.1f} /s"),
        ("records", f"{report.records:,}, {report.records_per_s:,.0f} /s"),
        ("programmed", mib(report.bytes)),
        ("update p50, p90", f"{report.p50_s:.2f} s, {report.p90_s:.2f} s"),
        ("update p99, longest", f"{report.p99_s:.2f} s, {report.max_s:.2f} s"),
        ("server's memory", memory(figures.server_bytes)),
        ("fleet's memory", memory(report.rss_bytes)),
    ]


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
        text += "<h3>Failures by reason</h3>" + table((why, f"{n:,}") for why, n in report.failures.items())
    if figures.journal.disagreements:
        items = "".join(f"<li>{escape(line)}</li>" for line in figures.journal.disagreements)
        text += f"<h3>The journal says otherwise</h3><ul>{items}</ul>"
    return text


def _flash(flash: FlashFigures | None) -> str:
    if flash is None:
        return "<p>No device's flash was kept.</p>"
    part, image, device = flash.part, flash.image, flash.device
    verified = {True: "verified", False: "NOT as the image", None: "not compared"}[device.verified]
    facts = table(
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
    return table(
        (
            image.name,
            f"{image.size:,} bytes at {image.first:#010x}, {image.records:,} records, CRC {image.crc32:08X}, "
            f"for {image.devices:,} devices",
        )
        for image in images
    )
