"""The torture programs at a small scale: each is started as a process; its exit code and a few numbers are looked at.

Seeds are not fixed: each program draws one, so that every run of CI tries something else; a failing test prints the
seed, with which the program repeats the run. No number here is a speed: machines differ.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

ROOT: Final = Path(__file__).parents[2]

TIMEOUT: Final = 240.0
"""Seconds for one program, which needs some ten; a bound for a machine that does other things."""

TERM_TIMEOUT: Final = 60.0
"""Seconds for a program to clean up after SIGTERM."""

UNTESTABLE: Final = 3
"""Exit code of a program that cannot test here."""

if not sys.platform.startswith("linux"):
    pytest.skip("/proc, epoll and all of 127.0.0.0/8 are used", allow_module_level=True)


def result_of(program: str, *options: str) -> dict[str, Any]:
    """Run a program; returns what it found, skips where it cannot test, fails with all that it printed."""
    command = [sys.executable, "-m", f"tests.endurance.{program}", "--json", *options]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            out, err = process.communicate(timeout=TIMEOUT)
        except BaseException:
            process.terminate()  # it stops its server, and unmounts what it mounted
            try:
                process.communicate(timeout=TERM_TIMEOUT)
            finally:
                process.kill()
            raise
    if process.returncode == UNTESTABLE:
        pytest.skip(err.strip().splitlines()[-1])
    broken = [claim for claim in json.loads(out or "{}").get("claims", ()) if not claim["holds"]]
    assert process.returncode == 0, f"{' '.join(command)}: exit code {process.returncode}\n{broken}\n{err}"
    found: dict[str, Any] = json.loads(out)
    assert found["ok"]
    return found


def test_hostile_sessions_cost_no_good_device_its_update() -> None:
    """Two thousand sessions of garbage leave server, journal and good devices as they should be."""
    facts = result_of("fuzz", "--sessions", "2000")["facts"]

    assert 2_000 == facts["sessions"] == sum(facts["kinds"].values())
    assert facts["good sessions, updated"] >= 40


def test_a_hostile_session_can_be_repeated_alone() -> None:
    """The same seed and number are the same session."""
    first, second = (result_of("fuzz", "--seed", "7", "--only", "3")["facts"]["kind"] for _ in range(2))

    assert first == second


def test_shares_of_a_run_are_the_run() -> None:
    """Sessions are split over machines without one being left out."""
    shares = [result_of("fuzz", "--sessions", "101", "--seed", "5", "--share", f"{part}/2") for part in range(2)]

    assert [51, 50] == [share["facts"]["sessions"] for share in shares]


def test_idle_connections_cost_no_live_device_its_update() -> None:
    """Five hundred that do nothing, fifty that update."""
    facts = result_of("slow_loris", "--idle", "500", "--live", "50", "--deadline", "5")["facts"]

    assert facts["most descriptors"] >= 500


def test_what_was_in_the_journal_survives_a_kill() -> None:
    """Three servers are killed on one folder, and each next one serves."""
    facts = result_of("crash", "--rounds", "3")["facts"]

    assert len(facts["rounds"]) == 3
    assert facts["rows seen by the reader"] > 0


@pytest.mark.parametrize("registry", ["text", "sqlite", "replaced"])
def test_replacing_registry_and_firmware_drops_no_session(registry: str) -> None:
    """Every session gets one published image whole, with the version that belongs to it."""
    facts = result_of("reload", "--seconds", "3", "--registry", registry)["facts"][registry]

    assert facts["sessions"] > 0
    assert facts["firmware files replaced"] > 0


def test_a_bad_disk_stops_no_update_and_loses_no_row() -> None:
    """Full, refusing writes, read-only at the start."""
    facts = result_of("disk", "--seconds", "1")["facts"]

    assert facts["updates on a full disk"] > 0


def test_sessions_leave_no_descriptor_behind() -> None:
    """Five hundred of every kind."""
    before, after = result_of("descriptors", "--sessions", "500")["facts"]["descriptors before and after"]

    assert before == after


@pytest.mark.parametrize("program", ["fuzz", "slow_loris", "crash", "reload", "disk", "descriptors"])
def test_help_teaches(program: str) -> None:
    """Each program shows how it is called."""
    command = [sys.executable, "-m", f"tests.endurance.{program}", "--help"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT, check=True).stdout

    assert f"python -m tests.endurance.{program}" in shown
    assert "Exit code 0" in shown


def test_options_that_the_server_does_not_take_are_usage() -> None:
    """What stands behind `--` is the server's, and its refusal is a message and exit code 2."""
    command = [sys.executable, "-m", "tests.endurance.crash", "--rounds", "1", "--", "--frobnicate"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT, check=False)

    assert (2, "") == (ended.returncode, ended.stdout)
    assert "--frobnicate" in ended.stderr
