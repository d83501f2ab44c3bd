"""The chart of ratios: well-formed, complete, and readable by those who do not see it."""

import xml.etree.ElementTree as ET

import pytest
from benchmarks.fota_bench.chart import SERIES, chart, description
from benchmarks.fota_bench.pairs import C_PAIR, PAIRS
from benchmarks.fota_bench.summary import Row

SVG = "{http://www.w3.org/2000/svg}"


def rows(*connections: int, ratio: float = 0.5) -> list[Row]:
    """Every pair at some numbers of connections; the C pair has a ratio of 1, the others their own."""
    return [
        Row(
            connections=count,
            pair=pair.name,
            records_per_s=1.0,
            ratio=1.0 if pair is C_PAIR else ratio + number / 100,
            ratio_low=1.0 if pair is C_PAIR else ratio / 2,
            ratio_high=1.0 if pair is C_PAIR else ratio * 1.2,
            at_once=count,
            server_cpu_us=1.0,
            fleet_cpu_us=1.0,
            server_bytes_per_connection=None,
            fleet_bytes_per_device=None,
        )
        for count in connections
        for number, pair in enumerate(PAIRS)
    ]


def drawn(picture: str) -> ET.Element:
    """The picture as a tree; raises if it is not well-formed."""
    return ET.fromstring(picture)


def texts(picture: str, style: str = "") -> list[str]:
    """The pieces of text of a class."""
    found = [text for text in drawn(picture).iter(f"{SVG}text") if not style or style in text.get("class", "").split()]
    return ["".join(text.itertext()) for text in found]


@pytest.mark.parametrize("connections", [(), (1,), (1_000, 1), (1, 100, 1_000, 10_000), (1, 2, 3, 4, 5, 6, 7, 8)])
def test_chart_has_a_bar_and_a_figure_for_every_row(connections: tuple[int, ...]) -> None:
    """All pairs but the yardstick are shown, however many groups there are."""
    picture = chart(rows(*connections))

    bars = [bar for bar in drawn(picture).iter(f"{SVG}rect") if bar.find(f"{SVG}title") is not None]
    assert len(SERIES) * len(connections) == len(bars)
    assert sorted(["0.51", "0.52", "0.53"] * len(connections)) == sorted(texts(picture, "figure"))
    assert set(map("{:,}".format, connections)) <= set(texts(picture))


@pytest.mark.parametrize("ratio", [0.01, 0.5, 1.9, 4.0, 30.0])
def test_everything_is_within_the_picture(ratio: float) -> None:
    """Bars and text stay on the paper, also for ratios that nobody expects."""
    picture = drawn(chart(rows(1, 100, 1_000, 10_000, 20_000, ratio=ratio)))

    _, _, width, height = map(float, picture.attrib["viewBox"].split())
    for thing in (*picture.iter(f"{SVG}rect"), *picture.iter(f"{SVG}text")):
        x, y = float(thing.get("x", 0)), float(thing.get("y", 0))
        assert 0 <= x <= x + float(thing.get("width", 0)) <= width
        assert 0 <= y <= y + float(thing.get("height", 0)) <= height


@pytest.mark.parametrize(("connections", "lines"), [((1, 100), 0), ((1, 1_000), 2), ((1, 1_000, 10_000), 4)])
def test_goals_have_lines_where_they_are_for(connections: tuple[int, ...], lines: int) -> None:
    """The two goals cross the groups of 1,000 and of 10,000 connections."""
    picture = chart(rows(*connections))

    assert lines == sum(line.get("class") == "goal" for line in drawn(picture).iter(f"{SVG}line"))
    assert (["goal server 0.75", "goal fleet 0.62"] if lines else []) == [
        text for text in texts(picture) if text.startswith("goal")
    ]


def test_chart_says_in_words_what_it_shows() -> None:
    """Title and description are named as the picture's label, and have every figure."""
    shown = rows(1_000)
    picture = drawn(chart(shown))

    label = [picture.find(f"{SVG}{name}") for name in ("title", "desc")]
    assert picture.attrib["aria-labelledby"].split() == [
        element.attrib["id"] for element in label if element is not None
    ]
    assert "1,000 connections: server 0.51 (0.25 to 0.60), fleet 0.52 (0.25 to 0.60), both 0.53" in description(shown)
    assert label[1] is not None
    assert description(shown) == label[1].text


def test_chart_follows_light_and_dark_mode() -> None:
    """The picture brings its paper, and other colours for readers in the dark."""
    picture = chart(rows(1))

    assert "prefers-color-scheme: dark" in picture
    assert 'class="paper"' in picture
