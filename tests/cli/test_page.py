"""The demo's page: the figures are there, strange names do no harm, and a browser fetches nothing for it."""

import dataclasses
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Final

import pytest

from fota_cli.compose.charts import nice_ticks
from fota_cli.compose.page import FlashFigures, ImageFigures, JournalFigures, PageFigures, render
from fota_protocol.parts import PARTS
from fota_simulator.report import McuReport, Sample, SwarmReport

PART: Final = PARTS["MK60DN512"]
IMAGE: Final = ImageFigures("demo_16k.s19", 0x0123ABCD, 0x4000, 0x8000, records=1024, devices=40)
CHARTS: Final = {"fleet", "outcomes", "durations", "flash"}
BROWSER_TIMEOUT: Final = 120.0


def figures(*, updated: int = 40, failed: int = 0, reason: str = "timeout", image: ImageFigures = IMAGE) -> PageFigures:
    """A run of `updated + failed` devices."""
    devices = [
        McuReport(
            mcuid=f"{number:025d}",
            result="updated" if number < updated else "failed",
            reason=None if number < updated else reason,
            detail="",
            version="01",
            records=1024,
            booted=True,
            image_crc="0123ABCD",
            verified=number < updated,
            started_s=0.01 * number,
            duration_s=1.0 + 0.05 * number,
        )
        for number in range(updated + failed)
    ]
    timeline = [
        Sample(0.0, waiting=updated + failed, connected=0, updated=0, refused=0, failed=0, records=0),
        Sample(1.0, waiting=0, connected=updated + failed, updated=0, refused=0, failed=0, records=9000),
        Sample(3.5, waiting=0, connected=0, updated=updated, refused=0, failed=failed, records=40960),
    ]
    report = SwarmReport.of(
        updated + failed,
        devices,
        timeline,
        duration_s=3.5,
        records=sum(device.records for device in devices),
        programmed_bytes=40 * 16384,
        rss_bytes=64 << 20,
    )
    return PageFigures(
        report=report,
        images=(image,),
        journal=JournalFigures(rows=updated + failed, successful=updated, disagreements=()),
        server_bytes=48 << 20,
        flash=FlashFigures(devices[0], PART, image, frozenset(range(8, 16))) if devices else None,
        environment={"k60-fota": "0.1.0", "seed": "60"},
    )


@pytest.fixture
def chromium() -> str:
    """The browser; the test is skipped where there is none."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no chromium on PATH")
    return found


def rendered_by(chromium: str, page: str, folder: Path) -> str:
    """The document that a headless browser makes of a page, as text."""
    path = folder / "page.html"
    path.write_text(page, encoding="utf-8")
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run")
    quiet = (
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-dev-shm-usage",
    )
    done = subprocess.run(
        [chromium, *options, *quiet, f"--user-data-dir={folder / 'profile'}", "--dump-dom", path.as_uri()],
        check=True,
        capture_output=True,
        text=True,
        timeout=BROWSER_TIMEOUT,
    )
    return done.stdout


def test_a_browser_shows_every_figure_and_every_chart(chromium: str, tmp_path: Path) -> None:
    """What Chromium makes of the page holds the verdict, the figures and all charts."""
    document = rendered_by(chromium, render(figures()), tmp_path)

    assert set(re.findall(r'<svg id="(\w+)"', document)) == CHARTS
    assert "<h1>40 of 40 devices updated, every flash verified</h1>" in document
    assert "<td>40 SUCCESSFUL of 40 sessions</td>" in document
    assert "<td>48 MiB at most</td>" in document
    assert "0123ABCD" in document


def test_a_page_fetches_nothing() -> None:
    """Nothing on the page points outside: it shows the same without a network and in ten years."""
    page = render(figures(failed=3))

    links = re.findall(r"(?:src|href)\s*=\s*[\"']([^\"']*)", page)
    assert links == ["data:,"]
    assert not re.search(r"https?:|url\(|@import|<script", page)


def test_strange_names_are_text_for_a_browser(chromium: str, tmp_path: Path) -> None:
    """Markup in a file name, a reason or a version is shown, not obeyed."""
    bad = "<script>document.title='owned'</script>&\"'"
    strange = dataclasses.replace(
        figures(failed=1, reason=bad, image=dataclasses.replace(IMAGE, name=bad)), environment={bad: bad}
    )

    document = rendered_by(chromium, render(strange), tmp_path)

    assert "<title>k60-fota: 40 of 41 devices updated and verified</title>" in document
    assert "<script" not in document
    assert "&lt;script&gt;document.title='owned'&lt;/script&gt;&amp;\"'" in document


def test_failures_are_listed_by_reason() -> None:
    """A run that went ill says so in its headline and why further down."""
    page = render(figures(updated=38, failed=2, reason="connection lost"))

    assert '<header class="ill">' in page
    assert "<tr><th>connection lost</th><td>2</td></tr>" in page


def test_a_journal_that_disagrees_is_not_all_well() -> None:
    """Devices alone do not make a good run: the server's journal must say the same."""
    run = figures()
    journal = JournalFigures(rows=40, successful=39, disagreements=("00: the journal says TIMEOUT_CONNECTION",))

    page = render(dataclasses.replace(run, journal=journal))

    assert "40 devices updated and verified, but the server&#x27;s journal disagrees</h1>" in page
    assert "<li>00: the journal says TIMEOUT_CONNECTION</li>" in page


def test_a_run_in_which_nothing_happened_has_a_page() -> None:
    """Charts of nothing are empty, not errors."""
    page = render(figures(updated=0))

    assert "<p>No device's flash was kept.</p>" in page
    assert set(re.findall(r'<svg id="(\w+)"', page)) == CHARTS - {"flash"}


def test_every_sector_is_on_the_map_once() -> None:
    """The flash map has a square for each sector: bootloader, programmed or blank."""
    page = render(figures())

    squares = re.findall(r'<rect class="(boot|programmed|blank)"', page)
    assert Counter(boot=8, programmed=8, blank=240) == Counter(squares)
    assert "<title>[0x00004000, 0x00004800) sector 8: programmed, of the image</title>" in page


@pytest.mark.parametrize(
    ("highest", "expected"),
    [(1000.0, [0, 200, 400, 600, 800, 1000]), (0.0, [0, 0.2, 0.4, 0.6, 0.8, 1]), (7.0, [0, 2, 4, 6, 8])],
)
def test_ticks_are_round_and_reach_the_highest_value(highest: float, expected: list[float]) -> None:
    """Axes are labelled with round numbers, from 0 to at least the highest value."""
    ticks = nice_ticks(highest)

    assert expected == pytest.approx(ticks)
