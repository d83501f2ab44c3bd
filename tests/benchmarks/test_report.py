"""What a run of benchmarks tells: medians, ratios within a round, goals, tables, JSON, the section of a page."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from benchmarks.fota_bench.goals import FLEET, GOALS, MEMORY, MET, MISSED, SERVER, verdicts
from benchmarks.fota_bench.ingest import READERS, Reading
from benchmarks.fota_bench.pairs import C_PAIR, OUR_FLEET, OUR_SERVER, OURS, PAIRS, Measurement, Pair
from benchmarks.fota_bench.report import (
    BEGIN,
    CHART,
    END,
    INGEST_HEADINGS,
    PAIR_HEADINGS,
    Run,
    document,
    markdown,
    notes,
    pair_cells,
    replace_section,
    terminal_tables,
)
from benchmarks.fota_bench.scale import Scaled
from benchmarks.fota_bench.summary import Row, summarize
from rich.console import Console

FACTS = {
    "date": "2026-01-02",
    "seconds": 240.0,
    "rounds": 1,
    "readings": 1,
    "quick": False,
    "cores": 2,
    "processor": "a processor",
    "kernel": "6.1",
    "python": "3.11",
    "uvloop": "0.2",
    "bincopy": "20",
    "intelhex": "2",
    "cc": "cc 12",
    "srec_info": None,
    "others_share": 0.25,
    "stolen_share": 0.0,
}

ROW = Row(
    connections=1_000,
    pair=OUR_SERVER.name,
    records_per_s=50_000.0,
    ratio=0.75,
    ratio_low=0.7,
    ratio_high=0.8,
    at_once=1_000,
    server_cpu_us=10.0,
    fleet_cpu_us=5.0,
    server_bytes_per_connection=3 * 1024.0,
    fleet_bytes_per_device=None,
)


def measured(
    pair: Pair, seconds: float, *, number: int = 1, connections: int = 1_000, connect_s: float = 0.0
) -> Measurement:
    """A measurement of 1,000 records in `seconds`."""
    return Measurement(
        pair=pair.name,
        connections=connections,
        round=number,
        records=1_000,
        seconds=seconds,
        connect_seconds=connect_s,
        at_once=max(1, connections // 2) if pair.our_fleet else connections,
        server_cpu_s=0.01,
        fleet_cpu_s=0.02,
        server_rss_bytes=4_096 * connections if pair.our_server else None,
        fleet_rss_bytes=1_024 * connections if pair.our_fleet else None,
    )


SCALED = (Scaled("devices that wait", 10_000, 8.0, "2.50 KiB a device"),)
"""A run at scale."""


def a_run(*connections: int, skipped: dict[str, str] | None = None) -> Run:
    """A run of one round in which everything that is ours takes twice as long."""
    measurements = [
        measured(pair, 1.0 if pair is C_PAIR else 2.0, connections=count) for count in connections for pair in PAIRS
    ]
    readings = [Reading(kind, 16, reader.name, 1, 1_000_000, 0.1) for kind in READERS for reader in READERS[kind]]
    return Run(FACTS, measurements, readings, SCALED, skipped or {})


def test_ratio_is_to_the_c_pair_of_the_same_round() -> None:
    """A machine that slows down between two rounds changes no ratio."""
    drifting = [measured(pair, seconds, number=number) for pair, seconds, number in (
        (C_PAIR, 1.0, 1), (OUR_SERVER, 2.0, 1), (OUR_FLEET, 4.0, 1), (OURS, 5.0, 1),
        (C_PAIR, 10.0, 2), (OUR_SERVER, 20.0, 2), (OUR_FLEET, 40.0, 2), (OURS, 50.0, 2),
    )]  # fmt: skip

    rows = summarize(drifting)

    assert [(1.0, 1.0, 1.0), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), (0.2, 0.2, 0.2)] == [
        (row.ratio, row.ratio_low, row.ratio_high) for row in rows
    ]


def test_median_is_over_rounds_and_range_has_the_outliers() -> None:
    """One bad round moves the end of the range and not the ratio."""
    rounds = [(1, 2.0), (2, 2.0), (3, 10.0)]
    measurements = [measured(pair, 1.0, number=number) for number, _ in rounds for pair in (C_PAIR, OUR_FLEET, OURS)]
    measurements += [measured(OUR_SERVER, seconds, number=number) for number, seconds in rounds]

    row = next(row for row in summarize(measurements) if row.pair == OUR_SERVER.name)

    assert (0.5, 0.1, 0.5) == (row.ratio, row.ratio_low, row.ratio_high)


def test_connecting_counts_where_the_fleet_is_ours() -> None:
    """Our fleet begins as soon as it connects, so the C pair's connecting is in its ratio; a C fleet's is in none."""
    reference = measured(C_PAIR, 1.0, connect_s=1.0)

    ratios = {row.pair: row.ratio for row in summarize([reference, *(measured(pair, 2.0) for pair in PAIRS[1:])])}

    assert {C_PAIR.name: 1.0, OUR_SERVER.name: 0.5, OUR_FLEET.name: 1.0, OURS.name: 1.0} == ratios


def test_memory_is_by_devices_under_way_at_once() -> None:
    """Devices that are through before others begin share no memory with them."""
    sizes = {row.pair: (row.server_bytes_per_connection, row.fleet_bytes_per_device) for row in a_run(1_000).rows}

    assert {
        C_PAIR.name: (None, None),
        OUR_SERVER.name: (4_096, None),
        OUR_FLEET.name: (None, 2_048),
        OURS.name: (8_192, 2_048),
    } == sizes


@pytest.mark.parametrize(("ratio", "mark"), [(0.75, MET), (0.9, MET), (0.7499, MISSED)])
def test_goal_of_the_server_is_a_minimum(ratio: float, mark: str) -> None:
    """What is rounded up to the goal has not met it."""
    assert mark == SERVER.mark(replace(ROW, ratio=ratio))


@pytest.mark.parametrize(("kib", "mark"), [(3.0, MET), (0.5, MET), (3.01, MISSED)])
def test_goal_of_memory_is_a_maximum(kib: float, mark: str) -> None:
    """A server that needs more for a connection has missed it."""
    assert mark == MEMORY.mark(replace(ROW, server_bytes_per_connection=kib * 1024))


@pytest.mark.parametrize("row", [replace(ROW, connections=100), replace(ROW, pair=OURS.name)])
def test_goal_says_nothing_of_other_rows(row: Row) -> None:
    """Goals are for their own pair, at their own numbers of connections."""
    assert [""] * len(GOALS) == [goal.mark(row) for goal in GOALS]


def test_verdicts_are_of_what_was_measured() -> None:
    """Every goal has a verdict at each of its numbers of connections that ran, and no other."""
    found = verdicts(a_run(100, 10_000).rows)

    assert [
        ("server", OUR_SERVER.name, 10_000, 0.5, False),
        ("fleet", OUR_FLEET.name, 10_000, 0.5, False),
        ("memory", OUR_SERVER.name, 10_000, 4.0, False),
    ] == [(v.goal, v.pair, v.connections, v.measured, v.is_met) for v in found]


def test_marks_stand_beside_their_figures() -> None:
    """The ratio and the memory of a row with goals each have their mark."""
    cells = dict(
        zip(PAIR_HEADINGS, pair_cells(replace(ROW, ratio=0.8, server_bytes_per_connection=4_096)), strict=True)
    )

    assert (f"0.80 {MET}", f"4.0 {MISSED}") == (cells["x C"], cells["KiB/ conn"])


def test_memory_of_a_few_connections_is_not_told() -> None:
    """What a server allocates once would be taken for what a connection costs."""
    cells = dict(zip(PAIR_HEADINGS, pair_cells(replace(ROW, connections=5, at_once=5)), strict=True))

    assert "-" == cells["KiB/ conn"]


def test_markdown_has_chart_tables_and_goals() -> None:
    """Every row of pairs, goals, readers and runs at scale is in the section, and the chart is shown."""
    lines = markdown(a_run(1, 1_000)).splitlines()

    rows = [line for line in lines if line.startswith("| ") and not line.startswith("| ---")]
    assert 4 + 2 * len(PAIRS) + len(GOALS) + sum(map(len, READERS.values())) + len(SCALED) == len(rows)
    assert f"| 1,000 | ours, C | 500 | 0.50 {MISSED} |" in "\n".join(rows)
    assert f"| fleet | C, ours | 1,000 | at least {FLEET.bound:g} x C | 0.500 | {MISSED} missed |" in rows
    assert any(f"]({CHART})" in line for line in lines)
    assert not [line for line in lines if len(line) > 120]


def test_table_of_a_page_has_as_many_cells_in_every_line() -> None:
    """A line with another number of cells than its heading would break the table."""
    for block in markdown(a_run(1_000)).split("\n\n"):
        lines = [line for line in block.splitlines() if line.startswith("|")]

        assert len({line.count("|") for line in lines}) <= 1


def test_terminal_tables_fit_80_columns() -> None:
    """The widest figures are not cut."""
    run = a_run(1, 10_000)
    slow = [replace(m, records=900_000, server_cpu_s=89.9, fleet_cpu_s=89.9) for m in run.measurements]
    console = Console(width=80, color_system=None)

    with console.capture() as capture:
        for table in terminal_tables(replace(run, measurements=slow)):
            console.print(table)

    assert "…" not in capture.get()
    assert "10,000  ours, ours  450,000" in capture.get()


def test_quick_run_says_that_it_is_one() -> None:
    """Nobody takes the figures of a quick run for a measurement."""
    section = markdown(replace(a_run(1), facts={**FACTS, "quick": True}))

    assert "--quick" in section
    assert "--quick" not in markdown(a_run(1))


def test_what_was_skipped_is_told_with_its_reason() -> None:
    """Nothing is left out in silence, neither on the page nor in JSON."""
    run = a_run(1, skipped={"10,000 connections": "10,064 open files a process, 1,024 allowed"})

    assert "Not measured: 10,000 connections: 10,064 open files a process, 1,024 allowed." == notes(run)[1]
    assert run.skipped == json.loads(document(run))["skipped"]


def test_missing_reader_has_a_row_of_dashes() -> None:
    """A reader that is not installed keeps its place in the table."""
    run = a_run(1)
    run = replace(run, readings=[reading for reading in run.readings if reading.reader != "srec_info"])

    assert "| S-records | 16 B | srec_info | - | - | - |" in markdown(run).splitlines()


def test_json_has_every_measurement_and_what_follows_from_them() -> None:
    """Who reads the document needs no other run: facts, measurements, rows, goals, readings."""
    run = a_run(1, 1_000)

    found = json.loads(document(run))

    assert {"facts", "skipped", "rows", "goals", "ingest", "measurements", "readings", "scale"} == set(found)
    assert (len(run.measurements), len(run.rows)) == (len(found["measurements"]), len(found["rows"]))
    assert [False, False, False] == [goal["is_met"] for goal in found["goals"]]


def test_section_is_replaced_and_the_rest_of_the_page_kept(tmp_path: Path) -> None:
    """Writing twice is as good as writing once."""
    page = tmp_path / "page.md"
    page.write_text(f"above\n{BEGIN}\nold\n{END}\nbelow\n", encoding="utf-8")

    for _ in range(2):
        replace_section(page, "new")

    assert f"above\n{BEGIN}\nnew\n{END}\nbelow\n" == page.read_text(encoding="utf-8")


@pytest.mark.parametrize("text", ["", BEGIN, END, f"{END}{BEGIN}"])
def test_page_without_markers_stays_as_it_is(text: str, tmp_path: Path) -> None:
    """A section that is not marked is nowhere, and nothing is guessed."""
    page = tmp_path / "page.md"
    page.write_text(text, encoding="utf-8")

    with pytest.raises(ValueError, match="expected the markers"):
        replace_section(page, "new")

    assert text == page.read_text(encoding="utf-8")


def test_headings_of_readers_name_what_ratios_are_to() -> None:
    """Ratios of readers are to the library, which has 1.00."""
    assert "x library" in INGEST_HEADINGS
    assert {"bincopy", "intelhex"} == {READERS[kind][0].name for kind in READERS}
