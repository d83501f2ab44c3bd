"""What `fota swarm` leaves: JSON by its schema, CSV by RFC 4180, a page, service levels; and how it shows itself."""

import csv
import dataclasses
import errno
import io
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from rich.console import Console

from fota_cli import exit_codes, fleet_report
from fota_cli.compose import charts
from fota_cli.compose.fleet_page import FleetPageFigures, render
from fota_cli.fleet_report import csv_text, without_secrets
from fota_cli.fleet_shards import Attempt
from fota_cli.main import main
from fota_cli.progress import FleetProgress, Look, Pace, line, summary, view
from fota_cli.shard_report import ShardedReport, ShardResult, merge
from fota_cli.slo import MEASURES, is_good, parse
from fota_simulator.report import McuReport, Sample, SwarmReport

CHARTS: Final = {"attempts", "durations", "fleet", "outcomes", "percentiles", "rates"}
FACTS: Final = {"command": "fota swarm --virtual", "seed": "7"}
TIMEOUT: Final = 120.0
FAULTS: Final = """
[[fault]]
kind = "disconnect"
probability = 0.4
records = [1, 500]
"""


def device(number: int = 0, result: str = "updated", **changes: Any) -> McuReport:
    """One device of a report; number n took n + 1 seconds."""
    found = McuReport(
        mcuid=f"{number:025d}",
        result=result,
        reason="timeout" if result == "failed" else None,
        detail=result,
        version="01" if result == "updated" else None,
        records=1024,
        booted=True,
        image_crc="0123ABCD" if result == "updated" else None,
        verified=result == "updated",
        started_s=0.0,
        duration_s=number + 1.0,
    )
    return dataclasses.replace(found, **changes)


def report_of(*devices: McuReport, count: int | None = None, duration_s: float = 10.0) -> SwarmReport:
    """A run of these devices; with a larger `count`, others had not ended."""
    updated = sum(one.result == "updated" for one in devices)
    timeline = [
        Sample(0.0, waiting=len(devices), connected=0, updated=0, refused=0, failed=0, records=0),
        Sample(duration_s, waiting=0, connected=0, updated=updated, refused=0, failed=0, records=9000),
    ]
    return SwarmReport.of(
        len(devices) if count is None else count,
        devices,
        timeline,
        duration_s=duration_s,
        records=1024 * len(devices),
        programmed_bytes=16_384,
        rss_bytes=64 << 20,
    )


def without_rows(report: SwarmReport) -> ShardedReport:
    """The same run in one shard, whose report has no row for each device."""
    return in_shards([report], report, lost=[Attempt(0, 1, "tcp://127.0.0.1:2", 0)])


def in_shards(shards: Sequence[SwarmReport], whole: SwarmReport, **changes: Any) -> ShardedReport:
    """The run `whole` as it is told by its shards, none of whose devices has a row."""
    results = [
        (Attempt(number, 2, "tcp://127.0.0.1:1", 0), 0.0, ShardResult.of(shard, with_devices=False))
        for number, shard in enumerate(shards)
    ]
    return merge(
        whole.count,
        results,
        whole.timeline,
        duration_s=whole.duration_s,
        strangers=whole.strangers.count,
        **changes,
    )


def page_of(report: SwarmReport, *slos: str, interrupted: bool = False, facts: dict[str, str] = FACTS) -> str:
    """The page of a run."""
    judgements = [parse(text).judge(report) for text in slos]
    good, why = is_good(report, judgements), fleet_report.ended_early(report)
    return render(FleetPageFigures(report, judgements, good, interrupted, why, facts))


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    """The published schema, which is itself in order."""
    content = json.loads(fleet_report.schema())
    Draft202012Validator.check_schema(content)
    return Draft202012Validator(content, format_checker=Draft202012Validator.FORMAT_CHECKER)


@pytest.fixture
def chromium() -> str:
    """The browser; the test is skipped where there is none."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no chromium on PATH")
    return found


def rendered_by(chromium: str, path: Path) -> str:
    """The document that a headless browser makes of a page, as text."""
    done = subprocess.run(
        [
            chromium,
            *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
            *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
            *(f"--user-data-dir={path.parent / 'profile'}", "--dump-dom", path.as_uri()),
        ],
        check=True,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    return done.stdout


# --- a run with all reports


@dataclasses.dataclass(frozen=True)
class Run:
    """A real run in virtual time, and what it left."""

    code: int
    out: str
    err: str
    folder: Path
    json: dict[str, Any]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Forty devices, of which some fail and come again, with every kind of report."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "faults.toml").write_text(FAULTS)
    options = ["--virtual", "--count=40", "--unknown=0.1", "--link=lan", "--seed=7", "--retries=1", "--plain"]
    options += ["--faults=faults.toml", "--json=run.json", "--csv=run.csv", "--html=run.html"]
    options += ["--slo=failed<50%", "--slo=p50<1ms", "--slo=verified>=1%"]
    done = subprocess.run(
        [sys.executable, "-m", "fota_cli", "swarm", *options],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT,
    )
    return Run(done.returncode, done.stdout, done.stderr, folder, json.loads((folder / "run.json").read_text()))


def test_json_of_a_run_is_as_its_schema_says(run: Run, validator: Draft202012Validator) -> None:
    """With failures, attempts, strangers and service levels in it; its version comes first."""
    validator.validate(run.json)

    assert ("version", 1) == next(iter(run.json.items()))
    assert run.json["failed_attempts"]
    assert {"1", "2"} == set(run.json["devices_by_attempts"])


def test_json_of_a_run_in_shards_is_as_its_schema_says(validator: Draft202012Validator) -> None:
    """Its further keys are in the schema, too, and other keys are not."""
    report = without_rows(report_of(device(0), device(1, "failed")))
    content = json.loads(json.dumps(fleet_report.as_json(report, [], facts(), interrupted=False)))

    validator.validate(content)

    assert not validator.is_valid(content | {"surplus": 1})
    assert not validator.is_valid({key: content[key] for key in content if key != "attempts"})


def facts() -> fleet_report.RunFacts:
    """Of a run that never was."""
    return fleet_report.RunFacts(
        command="fota swarm",
        seed=0,
        link="lan",
        server="127.0.0.1:4000",
        ended_at="2024-02-29T12:00:00+00:00",
        fota_version="0.1.0",
        python="CPython 3.11.0",
        platform="Linux",
    )


def test_schema_is_printed_and_nothing_is_run(capsys: pytest.CaptureFixture[str]) -> None:
    """`--schema` needs no other option."""
    code = main(["swarm", "--schema"])

    printed = capsys.readouterr()
    path = resources.files("fota_cli") / "schemas" / "swarm-report-1.json"
    assert (exit_codes.OK, path.read_text(encoding="utf-8"), "") == (code, printed.out, printed.err)


def test_csv_of_a_run_has_a_line_for_each_device(run: Run) -> None:
    """The same as its JSON, key by key."""
    with (run.folder / "run.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))

    told = [{key: "" if value is None else value for key, value in row.items()} for row in run.json["devices"]]
    words = {True: "true", False: "false"}
    assert [
        {key: words[value] if isinstance(value, bool) else str(value) for key, value in row.items()} for row in told
    ] == rows


def test_csv_is_that_of_rfc_4180() -> None:
    """Lines end with CR LF; commas, quotes and line ends are quoted, a quote doubled; nothing stands for null."""
    text = csv_text([device(0, "failed", detail='said "no",\nand left', verified=None)])

    head, content = text.split("\r\n", 1)
    assert [field.name for field in dataclasses.fields(McuReport)] == head.split(",")
    assert content == (f'{"0" * 25},failed,timeout,"said ""no"",\nand left",,1024,true,,,0.0,1.0,1,false\r\n')


def test_a_run_prints_whether_service_levels_were_held(run: Run) -> None:
    """Each with what was measured; the JSON says the same, and a missed one is exit code 1."""
    judged = {one["slo"]: (one["met"], one["unit"]) for one in run.json["slos"]}

    assert exit_codes.FAILED == run.code
    assert {"failed<50%": (True, "%"), "p50<1ms": (False, "s"), "verified>=1%": (True, "%")} == judged
    assert re.search(r"^met     failed<50%: [\d.]+%$", run.out, flags=re.MULTILINE)
    assert re.search(r"^missed  p50<1ms: 0\.\d+ s$", run.out, flags=re.MULTILINE)


def test_a_run_says_what_was_run(run: Run) -> None:
    """Command, seed and link are in JSON and page."""
    page = (run.folder / "run.html").read_text(encoding="utf-8")

    assert run.json["run"]["command"].startswith("fota swarm --virtual --count=40 ")
    assert (7, "lan", None) == tuple(run.json["run"][key] for key in ("seed", "link", "server"))
    assert "<tr><th>seed</th><td>7</td></tr>" in page


def test_a_browser_shows_the_page_of_a_run(run: Run, chromium: str) -> None:
    """What Chromium makes of it holds the headline, every chart, service levels and reasons."""
    document = rendered_by(chromium, run.folder / "run.html")

    updated, verified = run.json["updated"], run.json["verified"]
    assert set(re.findall(r'<svg id="(\w+)"', document)) == CHARTS
    assert (
        f"<h1>{updated} of 44 devices updated, {verified} flashes verified, 1 of 3 service levels missed</h1>"
    ) in document
    assert '<td class="missed">missed</td>' in document
    for reason, number in run.json["failed_attempts"].items():
        assert f"<tr><th>{reason}</th><td>{run.json['failures'].get(reason, 0)}</td><td>{number}</td></tr>" in document


# --- the page


def test_a_page_fetches_nothing() -> None:
    """Nothing on the page points outside: it shows the same without a network and in ten years."""
    page = page_of(report_of(device(0), device(1, "failed")), "p99<60s")

    links = re.findall(r"(?:src|href)\s*=\s*[\"']([^\"']*)", page)
    assert ["data:,"] == links
    assert not re.search(r"https?:|url\(|@import|<script", page)


def test_strange_names_are_text_for_a_browser(chromium: str, tmp_path: Path) -> None:
    """Markup in a reason or a command line is shown, not obeyed."""
    bad = "<script>document.title='owned'</script>&\"'"
    path = tmp_path / "page.html"
    path.write_text(page_of(report_of(device(0, "failed", reason=bad)), facts={"command": bad}), encoding="utf-8")

    document = rendered_by(chromium, path)

    assert "<title>k60-fota: 0 of 1 devices updated</title>" in document
    assert "<script" not in document
    assert 2 == document.count("&lt;script&gt;document.title='owned'&lt;/script&gt;&amp;\"'")


def test_a_run_in_which_nothing_happened_has_a_page() -> None:
    """Charts of nothing are empty, not errors."""
    page = page_of(report_of(count=3), "p99<60s", interrupted=True)

    assert CHARTS == set(re.findall(r'<svg id="(\w+)"', page))
    assert "<h1>Interrupted: 0 of 3 devices updated, 1 of 1 service levels missed</h1>" in page
    assert "<td>nothing to measure</td>" in page
    assert "<p>No device was updated.</p>" in page


@pytest.mark.parametrize(
    ("devices", "interrupted", "style"),
    [
        ((device(0),), False, "well"),
        ((device(0), device(1, "refused", is_stranger=True)), False, "well"),
        ((device(0),), True, "ill"),
        ((device(0), device(1, "failed")), False, "ill"),
        ((device(0, verified=False),), False, "ill"),
    ],
)
def test_headline_is_green_only_where_all_was_well(
    devices: tuple[McuReport, ...], interrupted: bool, style: str
) -> None:
    """A failure, a flash that differs, or an interruption is not."""
    assert f'<header class="{style}">' in page_of(report_of(*devices), interrupted=interrupted)


def test_page_of_shards_has_the_distribution_without_a_row_for_each_device() -> None:
    """It comes from what shards say of durations."""
    report = report_of(*(device(number) for number in range(100)))

    page = page_of(without_rows(report))

    (longest,) = re.findall(r"<tr><th>100%</th><td>within ([\d.]+) s</td></tr>", page)
    updates = [int(number) for number in re.findall(r"<title>(\d+) updates took", page)]
    assert (100.0, 100) == (float(longest), sum(updates))


def rates_drawn(svg: str, name: str) -> list[float]:
    """How high a line of rates is at each of its points, in units of the chart."""
    points = re.search(rf'<polyline class="{name}" points="([^"]*)"', svg)
    floor = re.search(r'<line class="axis" x1="\S+" x2="\S+" y1="([^"]*)"', svg)
    assert points is not None
    assert floor is not None
    return [float(floor[1]) - float(point.partition(",")[2]) for point in points[1].split()]


@pytest.mark.parametrize("apart", [1, 3], ids=["at every look", "at every third"])
def test_rates_are_steady_where_the_run_is(apart: int) -> None:
    """Shards say how far they are now and then: so long the count stands still, and the line of rates does not."""
    timeline = [
        Sample(tick * 0.2, 0, 10, 0, 0, 0, records=tick // apart * apart * 200, failed_attempts={})
        for tick in range(100)
    ]

    heights = rates_drawn(charts.fleet_over_time(timeline), "rate")

    assert 0 < max(heights) <= 1.1 * min(heights)


def test_no_rate_is_below_none() -> None:
    """A lost worker takes away what it had done; the chart stays above its axis."""
    updated = [0, 100, 200, 300, 50, 100, 200, 300]
    timeline = [Sample(2.0 * number, 300 - done, 0, done, 0, 0, done) for number, done in enumerate(updated)]

    for svg, name in ((charts.fleet_over_time(timeline), "rate"), (charts.rates_over_time(timeline), "pace")):
        heights = rates_drawn(svg, name)
        assert 0 == min(heights)
        assert 0 < max(heights)


def test_page_of_a_run_that_broke_down_says_so() -> None:
    """Headline and first section name what was missing and why; nothing on it is green."""
    whole = report_of(device(0), device(1), count=5)

    page = page_of(in_shards([report_of(device(0), device(1))], whole, trouble="the scheduler is gone", exit_code=3))

    assert "<h1>Partial, ended before its time: 2 of 5 devices updated, 2 flashes verified</h1>" in page
    assert '<header class="ill">' in page
    assert "<h2>Ended before its time</h2><p>the scheduler is gone</p>" in page
    assert "3 devices had not ended" in page


def test_page_says_why_there_was_no_connection() -> None:
    """The system's words, how often, and what to do."""
    lost = [device(number, "failed", reason="connection") for number in range(3)]

    page = page_of(dataclasses.replace(report_of(*lost), not_connected={NO_PORTS: 2, "strange": 1}))

    assert f"<tr><th>{NO_PORTS}</th><td>2</td><td>ports are used up, or a --source-ip is" in page
    assert "<tr><th>strange</th><td>1</td><td></td></tr>" in page


def test_durations_that_lie_far_apart_have_a_logarithmic_axis() -> None:
    """So that fast updates are not all in one bar beside a slow one."""
    near, far = (report_of(*(device(n, duration_s=seconds) for n, seconds in enumerate(found)))
                 for found in ([1.0, 2.0, 3.0, 20.0], [0.1, 0.2, 0.4, 90.0]))  # fmt: skip

    bars = [len(re.findall(r"<title>\d+ updates took", page_of(report))) for report in (near, far)]

    assert [4, 4] == bars


def test_many_numbers_of_attempts_share_the_last_bar() -> None:
    """A fleet that hammers does not make a page of a thousand bars."""
    page = page_of(report_of(*(device(number, attempts=number + 1) for number in range(30))))

    assert ">10 attempts</text>" in page
    assert ">more than 10</text>" in page
    assert ">11 attempts</text>" not in page


# --- service levels


@pytest.mark.parametrize(
    ("text", "met", "value"),
    [
        ("p50<6s", True, "5 s"),
        ("p50<5s", False, "5 s"),
        ("p50<=5000ms", True, "5 s"),
        ("p99.9 < 1min", True, "9 s"),
        ("p0>=1s", True, "1 s"),
        ("p100=9s", True, "9 s"),
        ("max<9s", False, "9 s"),
        ("duration<=20s", True, "20 s"),
        ("failed<=5%", True, "5%"),
        ("failed<5%", False, "5%"),
        ("failed=1", True, "1"),
        ("refused=0", True, "0"),
        ("updated>=95%", True, "95%"),
        ("updated>19", False, "19"),
        ("verified=100%", False, "90%"),
        ("attempts<=1.1", True, "1.1"),
        ("updates/s>1", False, "0.95"),
        ("records/s>1000", True, "1075.2"),
    ],
)
def test_service_level_is_judged_by_what_was_measured(text: str, met: bool, value: str) -> None:
    """Twenty devices that were to be updated: one failed, one has no image; a stranger counts for nothing."""
    fleet = [device(n % 9, attempts=3 if n == 4 else 1) for n in range(18)]
    fleet += [device(4, verified=None), device(0, "failed"), device(20, "refused", is_stranger=True, attempts=50)]
    report = report_of(*fleet, duration_s=20.0)

    judged = parse(text).judge(report)

    assert (met, value) == (judged.met, judged.value)


def test_every_measure_can_be_asked_for() -> None:
    """What the messages offer is there."""
    report = report_of(device(0))

    judged = [parse(f"{measure}>=0{next(iter(units))}").judge(report) for measure, units in MEASURES.items()]

    assert all(one.met for one in judged)


def test_service_level_of_nothing_is_missed() -> None:
    """A run without an update has no percentiles, so none of them was held; nor a share of no devices."""
    nothing = report_of(count=0)

    judged = [parse(text).judge(nothing) for text in ("p99<60s", "max<60s", "failed<1%", "attempts<2")]

    assert [(False, None, "nothing to measure")] * 4 == [(one.met, one.measured, one.value) for one in judged]


def test_devices_that_had_not_ended_are_no_success() -> None:
    """A share is of all devices that were to be updated, not of those that got so far."""
    judged = parse("verified=100%").judge(report_of(device(0), count=4))

    assert (False, "25%") == (judged.met, judged.value)


@given(
    st.lists(
        st.builds(
            device,
            st.integers(0, 500),
            st.sampled_from(["updated", "refused", "failed"]),
            is_stranger=st.booleans(),
            attempts=st.integers(1, 9),
            verified=st.sampled_from([True, False, None]),
        ),
        max_size=30,
    ),
    st.integers(0, 3),
    st.lists(st.integers(0, 30), max_size=3),
)
def test_one_process_and_shards_judge_the_same_fleet_alike(
    fleet: list[McuReport], waiting: int, cuts: list[int]
) -> None:
    """Every measure, strangers and percentiles included, though no device of a shard has a row."""
    whole = report_of(*fleet, count=len(fleet) + waiting)
    edges = [0, *sorted(min(cut, len(fleet)) for cut in cuts), len(fleet)]
    shards = [report_of(*fleet[start:end]) for start, end in itertools.pairwise(edges)]
    merged = in_shards(shards, whole)

    for text in (
        *(f"{measure}<=1{unit}" for measure, units in MEASURES.items() for unit in units),
        *("p0<1s", "p50<1s", "p99.9<1s", "p100<1s"),
    ):
        slo = parse(text)
        one, many = slo.judge(whole), slo.judge(merged)
        assert one == many
        assert is_good(whole, [one]) == is_good(merged, [many])
    assert is_good(whole, []) == is_good(merged, [])
    assert (whole.p50_s, whole.p90_s, whole.p99_s) == (merged.p50_s, merged.p90_s, merged.p99_s)


def test_a_share_in_shards_is_not_of_strangers() -> None:
    """One of two known devices was refused, and both strangers were."""
    strangers = [device(number, "refused", is_stranger=True) for number in (2, 3)]
    whole = report_of(GOOD, REFUSED, *strangers)
    merged = without_rows(whole)

    assert [("50%", True)] * 2 == [
        (one.value, is_good(report, [one]))
        for report in (whole, merged)
        for one in [parse("refused<=50%").judge(report)]
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a measure"),
        ("p99", "expected a measure"),
        ("p99<", "expected a measure"),
        ("p99==60s", "expected a measure"),
        ("p99<-1s", "expected a measure"),
        ("p99<1e3s", "expected a measure"),
        ("p99<60s;", "expected a measure"),
        ("p99<\N{ARABIC-INDIC DIGIT SIX}s", "expected a measure"),
        ("p99<60", "unit none, expected ms, s, min"),
        ("p99<60%", "unit %, expected ms, s, min"),
        ("p101<60s", "measure 'p101', expected p50"),
        ("p100.5<60s", "measure 'p100.5', expected p50"),
        ("p<60s", "measure 'p', expected p50"),
        ("speed>1", "measure 'speed', expected p50"),
        ("failed<1s", "unit s, expected %, none"),
        ("updates/s>1%", "unit %, expected none"),
        ("verified=101%", "101%, expected at most 100%"),
    ],
)
def test_service_level_that_is_none_is_one_line_and_exit_code_2(
    text: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Said before anything runs, with what was expected."""
    code = main(["swarm", "--virtual", "--count", "1", "--slo", text])

    printed = capsys.readouterr()
    assert (exit_codes.USAGE, "", 1) == (code, printed.out, printed.err.count("\n"))
    assert printed.err.startswith(f"fota: slo {text!r}")
    assert message in printed.err


NO_PORTS: Final = os.strerror(errno.EADDRNOTAVAIL)
GOOD: Final = device(0)
FAILED: Final = device(1, "failed")
REFUSED: Final = device(1, "refused")
DIFFERS: Final = device(1, verified=False)


@pytest.mark.parametrize("has_rows", [True, False], ids=["rows", "shards"])
@pytest.mark.parametrize(
    ("other", "slos", "good"),
    [
        (GOOD, (), True),
        (GOOD, ("p99<60s", "verified=100%"), True),
        (GOOD, ("p99<60s", "updates/s>100"), False),
        (FAILED, (), False),
        (FAILED, ("p99<60s",), False),
        (FAILED, ("failed<=50%",), True),
        (FAILED, ("failed<50%",), False),
        (FAILED, ("verified>=50%",), True),
        (FAILED, ("refused<=50%",), False),
        (REFUSED, ("refused<=50%",), True),
        (REFUSED, ("updated>=1",), True),
        (REFUSED, ("failed<=50%",), False),
        (DIFFERS, ("verified>=50%", "failed<=50%"), False),
    ],
)
def test_a_service_level_that_judges_a_result_tells_how_many_may_have_it(
    other: McuReport, slos: tuple[str, ...], good: bool, has_rows: bool
) -> None:
    """Any other failure fails the run as ever, and a flash that differs from its image always does."""
    whole = report_of(GOOD, other)
    report = whole if has_rows else without_rows(whole)

    assert good == is_good(report, [parse(text).judge(report) for text in slos])


def test_no_service_level_excuses_a_stranger_that_was_served() -> None:
    """Nor devices that had not ended."""
    served = report_of(GOOD, device(1, is_stranger=True, verified=None))
    unfinished = report_of(GOOD, count=2)

    assert not is_good(served, [parse("updated>=1").judge(served)])
    assert not is_good(unfinished, [parse("updated>=1").judge(unfinished)])


# --- options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--html", "-"], "--html -: expected a file"),
        (["--json", "-", "--csv", "-"], "expected one of them on standard output"),
        (["--csv", "no/such/folder/run.csv"], "no/such/folder/run.csv"),
        (["--html", "no/such/folder/run.html"], "no/such/folder/run.html"),
    ],
)
def test_report_that_could_not_be_written_is_said_before_anything_runs(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line and exit code 2."""
    code = main(["swarm", "--virtual", "--count", "1", *options])

    printed = capsys.readouterr()
    assert (exit_codes.USAGE, 1) == (code, printed.err.count("\n"))
    assert message in printed.err


def test_csv_on_standard_output_is_alone_there(capsys: pytest.CaptureFixture[str]) -> None:
    """The summary is not printed, and service levels go where messages go."""
    code = main(["swarm", "--virtual", "--count", "2", "--plain", "--csv", "-", "--slo", "updated=2"])

    printed = capsys.readouterr()
    rows = list(csv.reader(io.StringIO(printed.out)))
    assert (exit_codes.OK, 3) == (code, len(rows))
    assert "met     updated=2: 2\n" in printed.err


def test_command_line_is_told_without_secrets() -> None:
    """Values of options that carry them, and those in addresses, are not in any report."""
    words = [
        "swarm",
        "--seed=7",
        "--tls-key=k.pem",
        "--auth-token",
        "abc",
        "tcp://me:pw@host:1",
        "--password",
        "--plain",
    ]

    told = without_secrets([*words, "x@y"])

    hidden = ["swarm", "--seed=7", "--tls-key=***", "--auth-token", "***", "tcp://***@host:1", "--password", "--plain"]
    assert [*hidden, "x@y"] == told


# --- while it runs

SAMPLE: Final = Sample(
    time_s=12.0,
    waiting=1_200,
    connected=1_000,
    updated=7_000,
    refused=300,
    failed=500,
    records=120_000,
    p50_s=1.1,
    p90_s=1.6,
    p99_s=59.0,
    failed_attempts={"timeout": 90, "bad record": 2, "connection lost": 400, "power lost": 8, "seal": 1},
)
BEFORE: Final = dataclasses.replace(SAMPLE, time_s=10.0, updated=6_000, waiting=2_200, records=100_000)
FIGURES: Final = (
    *("7,000 updated", "1,000 under way", "1,200 waiting", "300 refused", "500 failed"),
    *("12.0 s", "10,000 records/s", "500.0 updates/s", "78% of 10,000 ended", "1 min 28 s to go"),
    *("p50 1.10 s", "p90 1.60 s", "p99 59.00 s"),
    *("400 x connection lost", "90 x timeout", "8 x power lost", "3 x other"),
)


def pace() -> Pace:
    """A virtual run: two of its seconds took forty of the user's."""
    return Pace.of(Look(60.0, BEFORE), Look(100.0, SAMPLE), 10_000)


@pytest.mark.parametrize("width", [30, 36, 60, 80, 132])
def test_live_view_shows_every_figure_at_every_width(width: int) -> None:
    """What has no room beside the others goes below, and nothing is broken or cut off."""
    console = Console(file=io.StringIO(), width=width, force_terminal=False)

    with console.capture() as captured:
        console.print(view(SAMPLE, pace(), 10_000))

    lines = captured.get().splitlines()
    assert [] == [figure for figure in FIGURES if not any(figure in line for line in lines)]
    assert all(len(line) <= width for line in lines)


def test_plain_line_has_the_same_figures() -> None:
    """Rates are of the last moments in the run's time, what is to go in the user's; three reasons, then the rest."""
    told = line(SAMPLE, pace(), 10_000)

    assert told == (
        "  12.0 s  7000/10000 updated, 1000 under way, 1200 waiting, 300 refused, 500 failed, 10,000 records/s, "
        "500.0 updates/s, p50 1.10 s, p90 1.60 s, p99 59.00 s, 1 min 28 s to go; "
        "attempts: 400 x connection lost, 90 x timeout, 8 x power lost, 3 x other"
    )


def test_run_that_stands_still_says_no_time_to_go() -> None:
    """Nor has one that has ended; a lost worker that takes devices back makes no rate negative."""
    standing = Pace.of(Look(1.0, SAMPLE), Look(9.0, dataclasses.replace(SAMPLE, time_s=20.0)), 10_000)
    taken_back = Pace.of(Look(1.0, SAMPLE), Look(9.0, dataclasses.replace(BEFORE, time_s=20.0)), 10_000)

    assert Pace(0.0, 0.0, None) == standing == taken_back
    assert "to go" not in line(SAMPLE, standing, 10_000)
    assert "to go" not in line(SAMPLE, pace(), SAMPLE.done)


def test_the_end_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    """A run may tell several times that all have ended, and that is one line."""
    sample = dataclasses.replace(SAMPLE, waiting=0, connected=0)

    with FleetProgress(sample.done, plain=True) as progress:
        for _ in range(3):
            progress.update(sample)

    assert 1 == capsys.readouterr().err.count("\n")


def test_live_view_and_line_tell_why_there_is_no_connection() -> None:
    """In place of the bare reason; what has no cause keeps it."""
    sample = dataclasses.replace(
        SAMPLE, failed_attempts={"connection": 9, "timeout": 1}, not_connected={"Connection refused": 7}
    )
    console = Console(file=io.StringIO(), width=132, force_terminal=False)

    with console.capture() as captured:
        console.print(view(sample, pace(), 10_000))

    assert "7 x connection: Connection refused   2 x connection   1 x timeout" in captured.get()
    assert line(sample, pace(), 10_000).endswith(
        "; attempts: 7 x connection: Connection refused, 2 x connection, 1 x timeout"
    )


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.ECONNREFUSED, "is the server there? Look at host and port in --server"),
        (errno.EADDRNOTAVAIL, "--source-ip"),
        (errno.EADDRINUSE, "--source-ip"),
        (errno.EMFILE, "ulimit -n"),
        (errno.ENETUNREACH, "--server"),
        (errno.ETIMEDOUT, "--ramp"),
    ],
)
def test_summary_of_a_fleet_without_connection_says_what_to_do(code: int, advice: str) -> None:
    """By the system's own words; nothing is said of images and durations that there were none of."""
    words = os.strerror(code)
    lost = report_of(*(device(number, "failed", reason="connection", verified=None) for number in range(3)))

    told = summary(dataclasses.replace(lost, not_connected={words: 3})).splitlines()

    assert ["0 of 3 updated, 0 refused, 3 failed", "3 x connection"] == [told[0], told[-2]]
    assert told[-1].startswith(f"no connection, 3 x {words}; ")
    assert advice in told[-1]
    assert 4 == len(told)


def test_summary_tells_attempts_only_where_some_came_again() -> None:
    """A line that says the same as the first one is not printed."""
    once, twice = report_of(device(0)), report_of(device(0, attempts=2))

    assert "attempts" not in summary(once)
    assert "\n2 attempts" in summary(twice)


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to a child there")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_virtual_run_says_what_was_done(
    number: signal.Signals, tmp_path: Path, validator: Draft202012Validator
) -> None:
    """Ctrl-C or SIGTERM: every report, of the devices that were through, exit code 130, and nothing left behind."""
    (tmp_path / "temporary").mkdir()
    options = ["--virtual", "--count=3000", "--ramp=20/s", "--plain", "--json=run.json", "--html=run.html"]
    with subprocess.Popen(
        [sys.executable, "-m", "fota_cli", "swarm", *options],
        cwd=tmp_path,
        env=os.environ | {"PYTHONUNBUFFERED": "1", "TMPDIR": str(tmp_path / "temporary")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        assert "/3000 updated" in process.stderr.readline()
        process.send_signal(number)
        out, err = process.communicate(timeout=TIMEOUT)

    report = json.loads((tmp_path / "run.json").read_text())
    validator.validate(report)
    assert (exit_codes.INTERRUPTED, True) == (process.returncode, report["interrupted"])
    assert 0 < report["updated"] == len(report["devices"]) < 3000
    assert out.startswith(f"{report['updated']} of 3000 updated")
    assert err.endswith(f"fota: interrupted, {3000 - report['updated']} devices had not ended\n")
    assert "<h1>Interrupted: " in (tmp_path / "run.html").read_text(encoding="utf-8")
    assert [] == list((tmp_path / "temporary").iterdir())
