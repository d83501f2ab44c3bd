"""`fota powercut`: the table, its figures, one cut alone, exit codes, and Ctrl-C in a real process."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

import pytest

import fota_fixtures
from fota_cli.main import main
from fota_simulator import device_file
from fota_simulator.boot import BootPolicy, ProgrammingOrder, would_start
from fota_simulator.flash import SectorPool

NEW: Final = str(fota_fixtures.path("blink_1.s19"))
OLD: Final = str(fota_fixtures.path("blink_2.s19"))
SMALL: Final = [NEW, "--old", OLD]
PATIENCE_S: Final = 60.0


def figures(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """What `--json -` printed."""
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_sealed_device_survives_every_cut(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 0, every cut counted by its kind, every promise kept, the sample agrees."""
    code = main(["powercut", *SMALL, "--sample", "30", "--json", "-"])

    report = figures(capsys)
    (run,) = report["runs"]
    commands, wire = run["flash_commands"], run["wire_bytes"]
    assert (code, report["version"]) == (0, 1)
    assert 3 * commands + wire == run["cuts"]
    assert run["classes"] < commands * 3
    assert {kind: sum(of.values()) for kind, of in run["starts"].items()} == {
        "before": commands,
        "torn": commands,
        "after": commands,
        "wire": wire,
    }
    assert run["recoveries"]["torn"] == {"recovered": commands, "by hand": 0, "not recovered": 0}
    assert [promise["broken_by"] for promise in run["promises"]] == [0, 0, 0]
    assert (run["sampled"], run["disagreements"]) == (30, [])


def test_page_has_the_table_of_every_bootloader(capsys: pytest.CaptureFixture[str]) -> None:
    """As the command prints them. Those that lose devices never said that they would not: exit code 0."""
    page = (Path(__file__).parents[2] / "docs/powercut.md").read_text(encoding="utf-8")

    code = main(["powercut", *SMALL, "--policy", "all", "--order", "all", "--sample", "20", "--markdown"])

    printed = capsys.readouterr().out
    assert code == 0
    assert printed.strip() == page.split("<!-- tables -->\n")[1].split("<!-- end of tables -->")[0].strip()
    assert len(BootPolicy) * len(ProgrammingOrder) == printed.count("| the power fails |")
    assert "promises nothing" in printed


def test_part_by_its_board_and_markdown(capsys: pytest.CaptureFixture[str]) -> None:
    """Phrases, and sectors of 4 KiB; a table that a page can hold."""
    code = main(["powercut", *SMALL, "--part", "twr-k60f120m", "--sample", "5", "--markdown"])

    printed = capsys.readouterr().out
    assert code == 0
    assert printed.startswith("### `sealed`, `vectors-last`\n\nMK60FN1M0, blink_2.s19 to blink_1.s19: ")
    assert "| the power fails | still in bootloader | old application |" in printed


def test_broken_promise_is_exit_code_1(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A policy that promises what it does not keep; the first cut that shows it is named."""
    from fota_simulator.powercut import promises

    monkeypatch.setattr(
        promises, "PROMISES", {**promises.PROMISES, BootPolicy.VECTORS: frozenset({promises.Promise.WHOLE_IMAGES})}
    )
    monkeypatch.setattr("fota_cli.cut_tables.PROMISES", promises.PROMISES)

    code = main(["powercut", *SMALL, "--policy", "vectors", "--order", "file", "--sample", "0"])

    printed = capsys.readouterr().out
    assert code == 1
    assert "PROMISE BROKEN by " in printed
    assert "the first is --cut " in printed


@pytest.mark.parametrize("cut", ["command:20:torn", "59", "byte:500"])
def test_one_cut_is_played_with_its_story_and_its_device(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], cut: str
) -> None:
    """By name or by number; the events as JSON, and the device as it was when its power was gone."""
    events, device = tmp_path / "events.json", tmp_path / "after.k60"

    code = main(["powercut", *SMALL, "--cut", cut, "--events", str(events), "--device", str(device), "--json", "-"])

    story = figures(capsys)
    kinds = [event["kind"] for event in json.loads(events.read_text())["events"]]
    saved = device_file.load(device)
    assert code == 0
    assert (story["start"], story["recovery"]) == ("still in bootloader", "recovered")
    assert cut in (story["at"], str(story["cut"]))
    assert "power lost" in kinds
    assert kinds[-1] == "second update"
    assert not would_start(saved.flash(SectorPool()), saved.settings.policy)


def test_events_are_readable_text(capsys: pytest.CaptureFixture[str]) -> None:
    """A line each: time, kind, facts."""
    code = main(["powercut", *SMALL, "--cut", "command:3:before", "--events", "-"])

    lines = capsys.readouterr().out.splitlines()
    assert code == 0
    assert "reset          fprot=FFFFFFFF fsec=FE debug=open" in lines[0]
    assert any("flash          command=erase_sector address=0x00004000" in line for line in lines)
    assert lines[-1].endswith("second update  outcome=updated verified=True")


def test_lost_device_is_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    """Half an application runs, and nobody will ask it for an update."""
    code = main(["powercut", *SMALL, "--policy", "vectors", "--order", "file", "--cut", "byte:3000"])

    assert code == 1
    assert "not recovered" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.s19"], "missing.s19: No such file"),
        ([str(fota_fixtures.path("bad_checksum.s19"))], "line"),
        (
            [str(fota_fixtures.path("blink_1_unsealed.s19"))],
            "no seal at 0x000043c0), expected one that the policy sealed",
        ),
        ([str(fota_fixtures.path("other_part.s19"))], "expected bytes in the application flash of MK60DN512"),
        ([NEW, "--old", str(fota_fixtures.path("bad_seal.s19"))], "the old image is not accepted"),
        ([NEW, "--part", "MK99"], "unknown part"),
        ([NEW, "--sample", "-1"], "expected 0 or more"),
        ([NEW, "--jobs", "0"], "expected 1 to 256"),
        ([NEW, "--cut", "0"], "expected 1 to"),
        ([NEW, "--cut", "99999999"], "expected 1 to"),
        ([NEW, "--cut", "command:1:burnt"], "expected command:N:before"),
        ([NEW, "--cut", "command:99999:torn"], "expected a flash command from 1 to"),
        ([NEW, "--cut", "1", "--policy", "all"], "expected no 'all'"),
        ([NEW, "--events", "events.txt"], "go with --cut"),
        ([NEW, "--cut", "9" * 5000], "expected command:N:before"),
        ([NEW, "--cut", "1", "--device", "-"], "expected a name"),
        ([NEW, "--cut", "1", "--events", "-", "--json", "-"], "expected a file for one of them"),
        ([NEW, "--cut", "1", "--device", "no/such/folder/after.k60"], "no/such/folder"),
        ([NEW, "--json", "no/such/folder/figures.json"], "no/such/folder"),
    ],
)
def test_bad_input_is_a_message_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    """What came, and what was expected; no table."""
    code = main(["powercut", *arguments])

    printed = capsys.readouterr()
    assert code == 2
    assert printed.err.startswith("fota: ")
    assert message in printed.err
    assert printed.out == ""


def processes_of(group: int) -> list[str]:
    """The processes of a group that are still there, by the system's own list."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[2]) == group and fields[0] != "Z":
                found.append(folder.name)
    return found


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_no_process_is_left_behind(sent: signal.Signals, code: int) -> None:
    """Interrupted from the keyboard, or killed: the workers end, too."""
    with subprocess.Popen(
        [sys.executable, "-m", "fota_cli", "powercut", "--plain", "--jobs", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as child:
        assert child.stderr is not None
        assert "cuts" in child.stderr.readline()
        if sent is signal.SIGINT:
            os.killpg(child.pid, sent)  # as a terminal does
        else:
            child.kill()
        ended = child.wait(PATIENCE_S)
        limit = time.monotonic() + PATIENCE_S
        while processes_of(child.pid) and time.monotonic() < limit:
            time.sleep(0.05)

        assert (code, []) == (ended, processes_of(child.pid))
        assert "Traceback" not in child.stderr.read()
