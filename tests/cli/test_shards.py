"""A fleet in shards: how a run is cut up and counted, and real worker processes that run, die and are reaped."""

import contextlib
import dataclasses
import functools
import importlib.util
import itertools
import json
import os
import pickle
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

import fota_fixtures
from fota_cli.compose.server_process import ServerProcess
from fota_cli.errors import UsageError
from fota_cli.fleet_shards import (
    Attempt,
    Ledger,
    Shard,
    arrivals_of_shard,
    behaviour_of_shard,
    cut,
    plans_of,
    ranges,
    sources_of_slot,
)
from fota_cli.main import main
from fota_cli.shard_report import ShardResult, merge
from fota_protocol.formats import load
from fota_protocol.parts import PARTS
from fota_simulator.behaviour import Arrivals, Behaviour
from fota_simulator.durations import Durations
from fota_simulator.report import McuReport, Sample, SwarmReport
from fota_simulator.swarm import DevicePlan

COUNT: Final = 40
FIRST: Final = 1000000000000000000000
IMAGE: Final = fota_fixtures.path("blink_1.s19")
PATIENCE: Final = 60.0
"""Seconds after which something that should happen counts as not happening."""
SLOW: Final = ["--think", "0.1"]
"""What makes a run last some ten seconds, long enough to be disturbed."""
ENDLESS: Final = ["--think", "2"]
"""What makes a run outlast the patience of its test, which ends it."""
THREADED: Final = """
import sys, threading
from fota_cli.main import main
codes = []
thread = threading.Thread(target=lambda: codes.append(main()))
thread.start()
thread.join()
sys.exit(codes[0])
"""
"""A program that calls `fota` in a thread of its own."""
STEADY: Final = ["--think", "0.05"]
"""What makes a shard last some four seconds, so that a line is printed between the ends of two."""

SOME_UPDATED: Final = re.compile(rf"\b(?!{COUNT}/)([1-9]\d*)/{COUNT} updated")
"""A line of a run of which a part is through."""

needs_engine = pytest.mark.skipif(
    not importlib.util.find_spec("distributed"),
    reason='the extra "swarm" is not installed',
)
needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc to find processes in")


# --- cutting and counting


@given(st.integers(0, 20_000), st.integers(1, 5_000))
def test_shards_are_all_of_a_run_and_nearly_equal(count: int, size: int) -> None:
    """Every device is in one shard, none is larger than asked for, and their sizes differ by one at most."""
    parts = ranges(count, size)

    sizes = {len(part) for part in parts}
    assert [0, *(part.stop for part in parts)] == [*(part.start for part in parts), count]
    assert max(sizes, default=0) <= size
    assert max(sizes, default=1) - min(sizes, default=1) <= 1
    assert 0 not in sizes


def test_devices_are_the_same_after_the_journey() -> None:
    """Images, parts, suffixes, strangers and habits come out as they went in, in their order."""
    images = [load(fota_fixtures.read(name)) for name in ("blink_1.s19", "blink_2.s19")]
    parts = list(PARTS.values())
    plans = [
        DevicePlan(
            f"{FIRST + number:025d}" if number % 3 else f"ABCDEF{number:X}",
            (*images, None)[number % 3],
            parts[number % len(parts)],
            "0141" if number % 5 == 1 else "",
            acks_verdict=number % 2 == 0,
            is_stranger=number % 7 == 0,
        )
        for number in range(100)
    ]

    shards, contents = cut(plans, 30)
    known = {digest: load(content) for digest, content in contents.items()}
    found = [plan for shard in shards for plan in plans_of(pickle.loads(pickle.dumps(shard)), known)]

    assert 2 == len(contents)
    assert [plan.image and plan.image.segments for plan in plans] == [
        plan.image and plan.image.segments for plan in found
    ]
    assert [dataclasses.replace(plan, image=None) for plan in plans] == [
        dataclasses.replace(plan, image=None) for plan in found
    ]


def test_shard_is_few_bytes() -> None:
    """A device costs at most six bytes of the wire, whatever its image costs."""
    image = load(fota_fixtures.read("demo_32k.s19"))
    plans = [DevicePlan(f"{FIRST + number:025d}", image, PARTS["MK60DN512"]) for number in range(2_500)]

    ((shard,), _) = cut(plans, 2_500)

    assert len(pickle.dumps(shard)) <= 6 * 2_500


def test_device_with_a_past_is_not_cut() -> None:
    """What it is lies in a file here, which a worker elsewhere could not write."""
    plan = DevicePlan("1", None, PARTS["MK60DN512"], saved=object())  # type: ignore[arg-type]

    with pytest.raises(ValueError, match="has a past"):
        cut([plan], 1)


def test_rates_of_shards_add_up_to_the_rate_of_the_run() -> None:
    """Four shards at once begin a quarter each."""
    assert Arrivals(per_s=125.0) == arrivals_of_shard(Arrivals(per_s=500.0), 4)
    assert Arrivals(burst=250, burst_every_s=30.0) == arrivals_of_shard(Arrivals(burst=1000, burst_every_s=30.0), 4)


def test_burst_smaller_than_the_shards_at_once_is_bad_input() -> None:
    """Each of them would begin one device, and all together too many."""
    with pytest.raises(UsageError, match="burst of 3, expected at least the number of shards at once, 4"):
        arrivals_of_shard(Arrivals(burst=3, burst_every_s=1.0), 4)


def test_shards_have_dice_of_their_own() -> None:
    """The first device of each shard is not the same device again and again; the same seed repeats it."""
    drawn = [behaviour_of_shard(Behaviour(seed=7), shard).dice(0, 1).random() for shard in (0, 1, 2, 0)]

    assert drawn[0] == drawn[3]
    assert 3 == len(set(drawn))


@pytest.mark.parametrize(("sources", "slots"), [(8, 8), (8, 3), (9, 4)])
def test_no_two_shards_share_a_source_address(sources: int, slots: int) -> None:
    """Where there are enough addresses, each is one slot's, and all are used."""
    addresses = [f"127.0.0.{number + 2}" for number in range(sources)]

    dealt = [address for slot in range(slots) for address in sources_of_slot(addresses, slot, slots)]

    assert sorted(addresses) == sorted(dealt)


def test_few_source_addresses_go_round() -> None:
    """Two addresses for five slots: each slot has one."""
    assert [("a",), ("b",), ("a",), ("b",), ("a",)] == [sources_of_slot(["a", "b"], slot, 5) for slot in range(5)]
    assert () == sources_of_slot([], 0, 5)


def sample(*, updated: int = 0, connected: int = 0, records: int = 0) -> Sample:
    return Sample(1.0, 0, connected, updated, 0, 0, records, failed_attempts={"timeout": 1} if connected else {})


def test_superseded_attempt_never_counts() -> None:
    """Progress and result of an attempt whose worker was given up are dropped, before and after the next has ended."""
    ledger: Ledger[str] = Ledger([10], 1)
    first = ledger.begin("a")
    ledger.heard(0, 1, sample(updated=7, connected=3, records=100))
    ledger.lose(first)
    second = ledger.begin("b")

    ledger.heard(0, 1, sample(updated=9))
    assert not ledger.finish(first, "first", sample(updated=10))
    assert 0 == ledger.sample(0.0).updated
    assert ledger.finish(second, "second", sample(updated=10))
    assert not ledger.finish(second, "again", sample(updated=10))
    ledger.heard(0, 2, sample(updated=1))
    ledger.lose(second)

    assert {0: (second, "second")} == ledger.results
    assert [first] == ledger.lost
    assert (Attempt(0, 1, "a", 0), Attempt(0, 2, "b", 0)) == (first, second)
    assert 10 == ledger.sample(0.0).updated
    assert ledger.is_complete


def test_sample_of_a_run_adds_up_its_shards() -> None:
    """Finished shards count with their result, running ones with their newest sample, others wait."""
    ledger: Ledger[str] = Ledger([10, 10, 10], 2)
    first, second = ledger.begin("a"), ledger.begin("b")
    assert not ledger.wants_worker

    ledger.finish(first, "", sample(updated=10, records=100))
    ledger.heard(1, 1, sample(updated=1, connected=4, records=30))
    found = ledger.sample(5.0)

    assert (15, 4, 11, 130) == (found.waiting, found.connected, found.updated, found.records)
    assert {"timeout": 1} == found.failed_attempts
    assert ledger.wants_worker
    assert first.slot == ledger.begin("c").slot != second.slot


def test_what_was_under_way_at_the_end_counts_no_more() -> None:
    """The last sample of a run that broke down says what its report says."""
    ledger: Ledger[str] = Ledger([10, 10], 2)
    first, second = ledger.begin("a"), ledger.begin("b")
    ledger.finish(first, "", sample(updated=10))
    ledger.heard(1, 1, sample(updated=7, connected=3))

    ledger.give_up()

    assert (10, 0, 10) == (ledger.sample(1.0).updated, ledger.sample(1.0).connected, ledger.sample(1.0).waiting)
    assert not ledger.finish(second, "late", sample(updated=10))
    assert () == ledger.running
    assert [] == ledger.lost


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shard-size", "10"], "--shard-size: expected with --local-workers"),
        (["--connected", "10"], "--connected: expected with"),
        (["--on-worker-loss", "fail"], "--on-worker-loss: expected with"),
        (["--devices-in-report"], "--devices-in-report: expected with"),
        (["--local-workers", "0"], "--local-workers 0, expected 1 to 64"),
        (["--local-workers", "2", "--shard-size", "5001"], "--shard-size 5001, expected 1 to 5000"),
        (["--local-workers", "2", "--connected", "0"], "--connected 0, expected 1 to"),
        (["--local-workers", "2", "--scheduler", "tcp://127.0.0.1:1"], "expected one of them"),
        (["--local-workers", "2", "--virtual"], "--virtual: not in shards"),
        (["--local-workers", "2", "--devices", "."], "--devices: not in shards"),
        (["--local-workers", "2", "--trace", "run.trace"], "--trace: not in shards"),
        (["--local-workers", "2", "--storm", "5"], "--storm: not in shards"),
        pytest.param(["--local-workers", "2", "--count", "1000001"], "expected at most 1000000", marks=needs_engine),
    ],
)
def test_bad_input_is_a_message_and_exit_code_2(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: list[str],
    message: str,
) -> None:
    """What came and what was expected, before any process is started."""
    monkeypatch.chdir(tmp_path)

    code = main(["swarm", "--server", "127.0.0.1:4000", "--count", "5", *arguments])

    printed = capsys.readouterr()
    assert code == 2
    assert printed.err.startswith("fota: ")
    assert message in printed.err


@pytest.mark.parametrize(
    "text", ["127.0.0.1:8786", "tcp://127.0.0.1", "tcp://:8786", "http://127.0.0.1:8786", "tcp://"]
)
def test_scheduler_that_is_no_address_is_bad_input(capsys: pytest.CaptureFixture[str], text: str) -> None:
    """The complaint shows an address that is one."""
    with pytest.raises(SystemExit) as ended:
        main(["swarm", "--server", "127.0.0.1:4000", "--count", "5", "--scheduler", text])

    assert 2 == ended.value.code
    assert "tcp://HOST:PORT" in capsys.readouterr().err


def test_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without the engine, one line says how to get it."""
    monkeypatch.delitem(sys.modules, "fota_cli.compose.shards", raising=False)
    monkeypatch.setitem(sys.modules, "distributed", None)

    code = main(["swarm", "--server", "127.0.0.1:4000", "--count", "5", "--local-workers", "2"])

    assert 2 == code
    assert 'fota: swarm needs pip install "k60-fota[swarm]"\n' == capsys.readouterr().err


# --- merging


def result_of(durations: list[float], began_s: float, worker: str) -> tuple[Attempt, float, ShardResult]:
    """A shard whose devices took so long."""
    devices = [
        McuReport(f"{worker}{number}", "updated", None, "", "01", 64, True, None, True, 0.5, duration)
        for number, duration in enumerate(durations)
    ]
    report = SwarmReport.of(
        len(devices), devices, (), duration_s=9.0, records=64 * len(devices), programmed_bytes=1, rss_bytes=1_000
    )
    return Attempt(int(began_s), 1, worker, 0), began_s, ShardResult.of(report, with_devices=True)


def test_merged_report_is_that_of_one_process() -> None:
    """Counts, buckets and percentiles are equal; devices begin when their shard did."""
    first, second = [number / 100 for number in range(1, 400)], [number / 7 for number in range(1, 300)]
    both = result_of([*first, *second], 0.0, "one")[2].report

    merged = merge(698, [result_of(first, 0.0, "a"), result_of(second, 3.0, "b")], (), duration_s=9.0)

    expected, found = both.as_json(), json.loads(json.dumps(merged.as_json()))
    expected["histogram"] = [dataclasses.asdict(bucket) for bucket in Durations([*first, *second]).buckets()]
    for name in ("rss_bytes", "devices", "bytes"):
        del expected[name]
    assert json.loads(json.dumps(expected)) == {name: found[name] for name in expected}
    assert 2_000 == merged.rss_bytes
    assert {0.5, 3.5} == {device.started_s for device in merged.devices}
    assert merged.ok
    assert 0 == merged.exit_code


def test_merged_report_of_no_shard_is_a_failed_run() -> None:
    """A run that ended before its first result has zeroes to tell, and is not ok."""
    merged = merge(10, [], (), duration_s=0.0)

    assert (10, 0, 0.0, 0.0) == (merged.count, merged.updated, merged.p99_s, merged.max_s)
    assert not merged.ok
    assert 1 == merged.exit_code


def test_records_that_do_not_count_are_in_no_sample() -> None:
    """A lost attempt takes its records away, also from before its loss: a timeline never falls."""
    told = [sample(records=number) for number in (0, 300, 700, 400, 500, 450)]

    merged = merge(10, [], told, duration_s=1.0)

    assert [0, 300, 400, 400, 450, 450] == [one.records for one in merged.timeline]


def test_result_of_a_shard_is_few_bytes() -> None:
    """Without rows, a device costs the run eight bytes of the wire."""
    attempt, began_s, whole = result_of([1.0 + number / 100 for number in range(2_500)], 0.0, "a")
    result = ShardResult.of(whole.report, with_devices=False)

    assert len(pickle.dumps((attempt, began_s, result))) <= 8 * 2_500 + 2_048


# --- real processes


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server that knows forty devices."""
    folder = tmp_path_factory.mktemp("server")
    lines = [f"{FIRST + number:025d},{IMAGE.name},1" for number in range(COUNT)]
    (folder / "devices.txt").write_text("\n".join(lines) + "\n")
    options = ["--host", "127.0.0.1", "--port", "0", "--registry", str(folder / "devices.txt")]
    options += ["--firmware", str(IMAGE.parent), "--logs", str(folder / "logs")]
    with ServerProcess(options, folder) as process:
        yield f"{process.host}:{process.port}"


class Fleet:
    """A `fota swarm` in shards of ten devices, as a process in a session of its own."""

    def __init__(self, server: str, folder: Path, *options: str) -> None:
        self.report_path = folder / "report.json"
        arguments = ["swarm", "--server", server, "--count", str(COUNT), "--image", str(IMAGE), "--shard-size", "10"]
        arguments += ["--json", str(self.report_path), "--plain", *options]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "fota_cli", *arguments],
            env=os.environ | {"TMPDIR": str(folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.folder = folder

    def __enter__(self) -> "Fleet":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def wait_until_under_way(self) -> list[int]:
        """Until devices are updating in every worker; returns the workers."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if "20 under way" in line:
                return self.workers()
        raise AssertionError("ended before devices were under way")

    def wait_until_some_are_updated(self) -> int:
        """Until the first shard has ended; returns how many devices are updated."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if (found := SOME_UPDATED.search(line)) is not None:
                return int(found[1])
        raise AssertionError("ended before some devices, and not all, were seen updated")

    def workers(self) -> list[int]:
        """Process ids of its children."""
        children = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        return [int(pid) for file in children for pid in file.read_text().split()]

    def end(self) -> tuple[int, str, str]:
        """Its exit code, and what it printed."""
        out, err = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, out, err

    @property
    def report(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.report_path.read_text())
        return found


def is_alive(pid: int) -> bool:
    """Whether there is such a process that is more than a dead one's entry."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.05)


@needs_engine
def test_two_workers_update_all_and_leave_nothing(server: str, tmp_path: Path) -> None:
    """A report as of one process, a row for each shard, and no file left behind."""
    with Fleet(server, tmp_path, "--local-workers", "2", "--source-ip", "127.0.0.2-5") as fleet:
        code, out, err = fleet.end()

    report = fleet.report
    assert (0, "") == (code, "".join(line for line in err.splitlines() if "updated" not in line))
    assert f"{COUNT} of {COUNT} updated, 0 refused, 0 failed; {COUNT} flashes verified" in out
    assert [f"{FIRST + number:025d}" for number in range(COUNT)] == [device["mcuid"] for device in report["devices"]]
    assert [(number, 1, 10, 10) for number in range(4)] == [
        (row["shard"], row["attempt"], row["devices"], row["updated"]) for row in report["shards"]
    ]
    assert 2 == len({row["worker"] for row in report["shards"]})
    assert [fleet.report_path] == list(tmp_path.iterdir())


@pytest.mark.parametrize("options", [pytest.param(["--local-workers", "1"], marks=needs_engine), []])
def test_run_in_a_thread_is_a_run(server: str, options: list[str]) -> None:
    """A program may call it beside other work, though interrupts are its main thread's."""
    arguments = ["swarm", "--server", server, "--count", str(COUNT), "--plain", *options]
    done = subprocess.run(
        [sys.executable, "-c", THREADED, *arguments], capture_output=True, text=True, check=False, timeout=PATIENCE
    )

    assert 0 == done.returncode, done.stderr
    assert f"{COUNT} of {COUNT} updated" in done.stdout


@needs_engine
def test_no_more_devices_are_connected_than_asked_for(server: str, tmp_path: Path) -> None:
    """Ten at once are one shard at once, however many workers there are."""
    options = ["--local-workers", "2", "--connected", "10", "--think", "0.01"]
    with Fleet(server, tmp_path, *options) as fleet:
        code, _, _ = fleet.end()

    rows = fleet.report["shards"]
    assert 0 == code
    assert 10 >= max(one["connected"] for one in fleet.report["timeline"])
    assert all(
        one["started_s"] + one["duration_s"] <= next_one["started_s"] for one, next_one in itertools.pairwise(rows)
    )


@needs_engine
@needs_proc
def test_lost_worker_s_shard_is_run_again(server: str, tmp_path: Path) -> None:
    """Its devices are counted once, the loss is told and reported, and another process takes its place."""
    with Fleet(server, tmp_path, "--local-workers", "2", *SLOW) as fleet:
        workers = fleet.wait_until_under_way()
        os.kill(workers[0], signal.SIGKILL)
        code, out, err = fleet.end()

    report = fleet.report
    (lost,) = report["lost"]
    assert 0 == code
    assert f"{COUNT} of {COUNT} updated" in out
    assert f"fota: worker {lost['worker']} was lost, with shard {lost['shard']} (10 devices), attempt 1" in err
    assert 2 == {row["shard"]: row["attempt"] for row in report["shards"]}[lost["shard"]]
    assert lost["worker"] not in {row["worker"] for row in report["shards"]}
    assert COUNT == len({device["mcuid"] for device in report["devices"]}) == report["updated"]


@needs_engine
@needs_proc
@pytest.mark.parametrize(
    ("choice", "code", "message"), [("fail", 1, "was lost"), ("invalidate", 4, "the run is invalid")]
)
def test_lost_worker_ends_a_run_that_will_not_have_it(
    server: str, tmp_path: Path, choice: str, code: int, message: str
) -> None:
    """The exit code says so, the message names the shard, and no process is left."""
    with Fleet(server, tmp_path, "--local-workers", "2", "--on-worker-loss", choice, *ENDLESS) as fleet:
        workers = fleet.wait_until_under_way()
        os.kill(workers[0], signal.SIGKILL)
        found, _, err = fleet.end()

    (lost,) = fleet.report["lost"]
    last = err.splitlines()[-1]
    assert code == found == fleet.report["exit_code"]
    assert last.startswith("fota: ")
    assert message in last
    assert f"with shard {lost['shard']} " in last
    assert not any(map(is_alive, workers))


@needs_engine
@needs_proc
def test_shard_that_is_lost_again_and_again_fails_the_run(server: str, tmp_path: Path) -> None:
    """Three attempts are the most; then the run has failed."""
    with Fleet(server, tmp_path, "--local-workers", "1", "--connected", "10", *ENDLESS) as fleet:
        killed: set[int] = set()
        assert fleet.process.stderr is not None
        for line in fleet.process.stderr:
            if "10 under way" in line and (new := set(fleet.workers()) - killed):
                killed |= new
                for pid in new:
                    os.kill(pid, signal.SIGKILL)
            if "of 3" in line and "was lost" in line:
                break
        code, _, _ = fleet.end()

    assert 1 == code
    assert [1, 2, 3] == [row["attempt"] for row in fleet.report["lost"]]


@needs_engine
@needs_proc
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_run_leaves_no_process_and_says_what_was_done(
    number: signal.Signals, server: str, tmp_path: Path
) -> None:
    """Ctrl-C in the terminal, or SIGTERM: a report of what was done in every shard, exit code 130, no traceback."""
    with Fleet(server, tmp_path, "--local-workers", "2", "--ramp", "1/s", "--think", "0.01") as fleet:
        told = fleet.wait_until_some_are_updated()
        workers = fleet.workers()
        os.killpg(fleet.process.pid, number)
        code, out, err = fleet.end()

    report = fleet.report
    assert 130 == code
    assert told <= report["updated"] < COUNT
    assert f"{report['updated']} of {COUNT} updated" in out
    assert f"fota: interrupted, {COUNT - report['updated']} devices had not ended" in err
    assert "Traceback" not in err
    assert 2 == len(workers)
    assert not any(map(is_alive, workers))
    assert [fleet.report_path] == list(tmp_path.iterdir())


@needs_engine
def test_run_whose_every_shard_was_under_way_is_interrupted(server: str, tmp_path: Path) -> None:
    """What shards say when they are told to stop is no whole run, though every shard has said something."""
    with Fleet(server, tmp_path, "--local-workers", "2", "--shard-size", "20", *ENDLESS) as fleet:
        assert fleet.process.stderr is not None
        assert any("40 under way" in line for line in fleet.process.stderr)
        os.killpg(fleet.process.pid, signal.SIGINT)
        code, _, err = fleet.end()

    assert 130 == code
    assert f"fota: interrupted, {COUNT} devices had not ended" in err
    assert 2 == len(fleet.report["shards"])
    records = [one["records"] for one in fleet.report["timeline"]]
    assert sorted(records) == records
    assert fleet.report["records"] == records[-1] >= max(records[:-1]) > 0


@needs_engine
@needs_proc
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_while_workers_start_leaves_nothing(number: signal.Signals, server: str, tmp_path: Path) -> None:
    """Before there is a run, there is nothing to report."""
    with Fleet(server, tmp_path, "--local-workers", "2") as fleet:
        wait_for(lambda: len(fleet.workers()) == 2)
        workers = fleet.workers()
        os.killpg(fleet.process.pid, number)
        code, _, err = fleet.end()

    assert 130 == code
    assert "Traceback" not in err
    assert not any(map(is_alive, workers))
    assert [] == list(tmp_path.iterdir())


@needs_engine
@needs_proc
def test_workers_leave_when_their_owner_is_killed(server: str, tmp_path: Path) -> None:
    """Whoever has no scheduler any more ends, also in the middle of a shard."""
    with Fleet(server, tmp_path, "--local-workers", "2", *ENDLESS) as fleet:
        workers = fleet.wait_until_under_way()
        fleet.process.kill()

    wait_for(lambda: not any(map(is_alive, workers)))


class Cluster:
    """A scheduler and workers that are nobody's but this test's."""

    def __init__(self, folder: Path, workers: int) -> None:
        ready = folder / "scheduler.json"
        common = ["--scheduler-file", str(ready), "--no-dashboard", "--dashboard-address", "127.0.0.1:0"]
        here = ["--host", "127.0.0.1"]
        worker = ["-m", "distributed.cli.dask_worker", *here, "--nthreads", "1", "--no-nanny", *common]
        with contextlib.ExitStack() as stack:
            start = functools.partial(self._started, stack, folder)
            self.scheduler = start(["-m", "distributed.cli.dask_scheduler", *here, "--port", "0", *common])
            wait_for(lambda: ready.exists() and ready.stat().st_size > 0)  # it is made first, and written then
            self.address: str = json.loads(ready.read_text())["address"]
            self.workers = [start(worker) for _ in range(workers)]
            self._stack = stack.pop_all()

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @staticmethod
    def _started(stack: contextlib.ExitStack, folder: Path, arguments: list[str]) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, *arguments], stderr=subprocess.DEVNULL, cwd=folder)
        stack.callback(process.wait, PATIENCE)
        stack.callback(process.kill)
        return process


@needs_engine
def test_cluster_of_others_is_used_and_left_alone(server: str, tmp_path: Path) -> None:
    """A scheduler and a worker that were there before are there afterwards, and may serve the next run."""
    with Cluster(tmp_path, 1) as cluster:
        codes = []
        for _ in range(2):
            with Fleet(server, tmp_path, "--scheduler", cluster.address) as fleet:
                codes.append(fleet.end()[0])
        alive = [process.poll() is None for process in (cluster.scheduler, *cluster.workers)]

    assert [0, 0] == codes
    assert [True, True] == alive
    assert COUNT == fleet.report["verified"]


@needs_engine
def test_scheduler_that_dies_takes_away_nothing_that_has_ended(server: str, tmp_path: Path) -> None:
    """Every report has the finished shards, says that it is of a part and why; exit code 3, and no traceback."""
    page, rows = tmp_path / "run.html", tmp_path / "run.csv"
    options = [*STEADY, "--html", str(page), "--csv", str(rows)]
    with (
        Cluster(tmp_path, 1) as cluster,
        Fleet(server, tmp_path, "--scheduler", cluster.address, *options) as fleet,
    ):
        updated = fleet.wait_until_some_are_updated()
        cluster.scheduler.kill()
        code, out, err = fleet.end()

    report = fleet.report
    assert (3, 3, True, False) == (code, report["exit_code"], report["partial"], report["interrupted"])
    assert updated <= report["updated"] == report["verified"] < COUNT
    assert f"the scheduler {cluster.address} is gone" in report["trouble"]
    assert report["updated"] == report["timeline"][-1]["updated"]
    records = [one["records"] for one in report["timeline"]]
    assert sorted(records) == records
    assert report["records"] == records[-1] > 0
    assert report["updated"] == len(report["devices"]) == len(rows.read_text().splitlines()) - 1
    assert f"{report['updated']} of {COUNT} updated" in out
    assert err.splitlines()[-1] == (
        f"fota: {report['trouble']}; the results are partial: {COUNT - report['updated']} of {COUNT} devices had not "
        "ended"
    )
    assert "Traceback" not in err
    assert "<h1>Partial, ended before its time: " in page.read_text()


@needs_engine
@needs_proc
def test_worker_that_raises_takes_away_nothing_that_has_ended(server: str, tmp_path: Path) -> None:
    """It may open no more files, so its next shard cannot even begin; what went before is in the report."""
    with Fleet(server, tmp_path, "--local-workers", "1", "--connected", "10", *STEADY) as fleet:
        updated = fleet.wait_until_some_are_updated()
        (worker,) = fleet.workers()
        _, hard = resource.prlimit(worker, resource.RLIMIT_NOFILE)
        resource.prlimit(worker, resource.RLIMIT_NOFILE, (3, hard))
        code, _, err = fleet.end()

    report = fleet.report
    assert (3, True) == (code, report["partial"])
    assert updated <= report["updated"] < COUNT
    assert re.search(r"fota: shard \d, attempt 1, on worker tcp://\S+: OSError: .*Too many open files; .*partial", err)
    assert "Traceback" not in err
    assert not is_alive(worker)


@needs_engine
def test_report_whose_folder_is_gone_takes_no_other_away(server: str, tmp_path: Path) -> None:
    """It is named, with exit code 3; the others are written, and the summary is printed."""
    folder = tmp_path / "gone"
    folder.mkdir()
    options = ["--local-workers", "1", "--connected", "10", *STEADY, "--html", str(folder / "run.html")]
    with Fleet(server, tmp_path, *options) as fleet:
        fleet.wait_until_some_are_updated()
        folder.rmdir()
        code, out, err = fleet.end()

    assert 3 == code
    assert err.splitlines()[-1].startswith(f"fota: cannot write {folder / 'run.html'}: ")
    assert f"{COUNT} of {COUNT} updated" in out
    assert COUNT == fleet.report["updated"]


@needs_engine
def test_scheduler_that_is_not_there_is_a_harness_error(server: str, tmp_path: Path) -> None:
    """One line, and exit code 3."""
    with Fleet(server, tmp_path, "--scheduler", "tcp://127.0.0.1:1") as fleet:
        code, _, err = fleet.end()

    assert 3 == code
    assert err.startswith("fota: scheduler tcp://127.0.0.1:1: ")
    assert 1 == len(err.splitlines())


def test_shards_are_immutable() -> None:
    """A shard that is run again is the same shard."""
    ((shard,), _) = cut([DevicePlan("1", None, PARTS["MK60DN512"])], 1)

    with pytest.raises(dataclasses.FrozenInstanceError):
        shard.count = 2  # type: ignore[misc]
    assert isinstance(shard, Shard)
