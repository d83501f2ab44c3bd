"""The demo as users run it: a process that starts another, updates a fleet, and leaves nothing but its page."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest

from fota_cli import exit_codes
from fota_cli.compose import demo
from fota_cli.compose.local_server import LocalServer
from fota_cli.compose.server_process import ServerProcess
from fota_cli.errors import HarnessError
from fota_protocol.status import Status
from fota_server.journal import JournalRow, read_journal
from fota_simulator.report import McuReport, SwarmReport

COUNT: Final = 20
TIMEOUT: Final = 120.0


def run_demo(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a small demo in `folder`, its temporary folder below it."""
    return subprocess.run(
        [sys.executable, "-m", "fota_cli", "demo", f"--count={COUNT}", *options],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )


def environment(folder: Path) -> Mapping[str, str]:
    """The process's own, with temporary folders in `folder`/temporary."""
    (folder / "temporary").mkdir(exist_ok=True)
    return os.environ | {"TMPDIR": str(folder / "temporary")}


def is_alive(pid: int) -> bool:
    """Whether there is a process of that id."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def demo_in_mid_update(folder: Path) -> tuple[subprocess.Popen[str], int]:
    """A demo that has said how far it is, and the process id of its server."""
    child = subprocess.Popen(
        [sys.executable, "-m", "fota_cli", "demo", "--count=800"],
        cwd=folder,
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stderr is not None
    server = int(child.stderr.readline().partition("(pid ")[2].partition(")")[0])
    assert "/800 updated" in child.stderr.readline()
    return child, server


def test_demo_updates_and_verifies_every_device(tmp_path: Path) -> None:
    """Without more options than a count it ends well, says so, and leaves a page and nothing else."""
    done = run_demo(tmp_path)

    assert exit_codes.OK == done.returncode, done.stderr
    assert done.stdout.startswith(f"{COUNT} of {COUNT} devices updated, every flash verified\n")
    assert f"{COUNT} of {COUNT} sessions SUCCESSFUL, as the devices say" in done.stdout
    assert {"fota-demo.html", "temporary"} == {path.name for path in tmp_path.iterdir()}
    assert [] == list((tmp_path / "temporary").iterdir())
    assert f"{COUNT} of {COUNT} devices updated" in (tmp_path / "fota-demo.html").read_text(encoding="utf-8")


def test_demo_serves_two_images_to_half_of_the_devices_each(tmp_path: Path) -> None:
    """The JSON on standard output and the journal that was kept tell the same, device by device."""
    done = run_demo(tmp_path, "--json=-", "--keep=kept", "--report=page.html")

    figures = json.loads(done.stdout)
    devices = {device["mcuid"]: device["image_crc"] for device in figures["fleet"]["devices"]}
    journal = {row.mcuid: row.image_crc for row in read_journal(tmp_path / "kept" / "journal.sqlite")}
    assert [COUNT // 2, COUNT // 2] == [image["devices"] for image in figures["images"]]
    assert {image["crc32"] for image in figures["images"]} == set(devices.values())
    assert devices == journal
    assert (tmp_path / "page.html").exists()


def test_demo_draws_its_devices_from_the_seed() -> None:
    """The same seed gives the same devices, another one others."""
    first, again, other = (demo.draw_fleet(4, seed).plans for seed in (1, 1, 2))

    assert [plan.mcuid for plan in first] == [plan.mcuid for plan in again]
    assert {plan.mcuid for plan in first}.isdisjoint(plan.mcuid for plan in other)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing_behind(number: signal.Signals, tmp_path: Path) -> None:
    """Ctrl-C, or SIGTERM, in mid-update stops the server and removes its folder."""
    child, server = demo_in_mid_update(tmp_path)

    child.send_signal(number)
    _, printed = child.communicate(timeout=TIMEOUT)

    assert exit_codes.INTERRUPTED == child.returncode, printed
    assert printed.endswith("fota: interrupted\n")
    assert not is_alive(server)
    assert [] == list((tmp_path / "temporary").iterdir())
    assert not (tmp_path / "fota-demo.html").exists()


def test_a_demo_that_went_ill_says_so(tmp_path: Path) -> None:
    """When the server dies under its devices, the exit code is 1, and page and summary tell what came of them."""
    child, server = demo_in_mid_update(tmp_path)

    os.kill(server, signal.SIGKILL)
    printed, _ = child.communicate(timeout=TIMEOUT)

    assert exit_codes.FAILED == child.returncode
    assert "x connection lost" in printed
    assert '<header class="ill">' in (tmp_path / "fota-demo.html").read_text(encoding="utf-8")
    assert [] == list((tmp_path / "temporary").iterdir())


def test_a_demo_whose_server_does_not_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last lines of the server are in the message, and the exit code is that of a harness error."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\nif 'serve' in sys.orig_argv:\n    os.write(2, b'no server today\\n')\n    os._exit(7)\n",
        encoding="utf-8",
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    done = run_demo(tmp_path)

    assert exit_codes.HARNESS == done.returncode
    assert "the server did not start: exit code 7; it printed:\n  no server today" in done.stderr
    assert [] == list((tmp_path / "temporary").iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--count=0"], "--count 0, expected 1 to"),
        (["--report=no/such/folder/page.html"], "no/such/folder/page.html"),
        (["--keep=."], "--keep .: it exists already"),
    ],
    ids=["count", "report", "keep"],
)
def test_bad_options_are_refused_before_anything_starts(options: list[str], message: str, tmp_path: Path) -> None:
    """Nothing is run whose result could not be kept."""
    done = run_demo(tmp_path, *options)

    assert exit_codes.USAGE == done.returncode
    assert message in done.stderr
    assert 1 == done.stderr.count("\n")


DEVICE: Final = McuReport(
    mcuid="0" * 25,
    result="updated",
    reason=None,
    detail="updated",
    version="16",
    records=1024,
    booted=True,
    image_crc="0123ABCD",
    verified=True,
    started_s=0.0,
    duration_s=1.0,
)
ROW: Final = JournalRow(
    started_at=0.0,
    duration_s=1.0,
    peer="127.0.0.1:1",
    mcuid=DEVICE.mcuid,
    suffix="",
    filename="demo_16k.s19",
    version="16",
    image_crc="0123ABCD",
    records=1024,
    records_acked=1024,
    bytes_sent=43_000,
    status=Status.SUCCESSFUL,
    status_name="SUCCESSFUL",
    detail="",
)


@pytest.mark.parametrize(
    ("rows", "disagreement"),
    [
        ([ROW], None),
        ([], "0 rows in the journal, expected 1"),
        ([ROW, ROW], "2 rows in the journal, expected 1"),
        (
            [dataclasses.replace(ROW, status=7, status_name="TIMEOUT_CONNECTION")],
            "updated, and the journal says TIMEOUT_CONNECTION",
        ),
        (
            [dataclasses.replace(ROW, image_crc="00000000")],
            "image CRC 0123ABCD in flash, and the journal says 00000000",
        ),
    ],
    ids=["agrees", "no row", "two rows", "not successful", "another image"],
)
def test_journal_is_held_against_the_devices(rows: list[JournalRow], disagreement: str | None) -> None:
    """A device and its row must agree on success and image."""
    report = SwarmReport.of(1, [DEVICE], [], duration_s=1.0, records=1_024, programmed_bytes=16_384, rss_bytes=0)

    figures = demo.compare_journal(rows, report)

    assert (() if disagreement is None else (f"{DEVICE.mcuid}: {disagreement}",)) == figures.disagreements


def test_a_server_that_is_not_ready_in_time_is_killed(tmp_path: Path) -> None:
    """The deadline for the readiness line holds, and the process does not outlive it."""
    with pytest.raises(HarnessError, match=r"^the server was not ready within 0\.001 s"):
        ServerProcess(["--port=0", "--host=127.0.0.1"], tmp_path, ready_timeout_s=0.001)


def test_a_server_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    """Stopping has a deadline: a stopped process, which cannot even take the signal, is killed."""
    with LocalServer(tmp_path) as server:
        os.kill(server.process.pid, signal.SIGSTOP)

        code = server.stop(0.2)

        assert -signal.SIGKILL == code
        assert "killed: it went on for 0.2 s after SIGTERM" in server.process.output
