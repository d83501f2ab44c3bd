"""The judge of the judge: it tells caught from missed, passed from failed, and says so in three forms.

Runs are real and few: the whole zoo takes minutes.
"""

import json
import tomllib
from pathlib import Path

import pytest

from fota_conformance import mutants
from fota_conformance.mutants import Control, Mutant, MutantReport, run_mutants
from fota_conformance.zoo import broken_servers as servers
from fota_conformance.zoo.faults import FAULTS, GOOD, Fault

CAUGHT = Mutant(FAULTS[0], ("test_server_transfer.py::test_own",), "the wrong image", 1.25)
MISSED = Mutant(FAULTS[-1], (), "no case for FOTA-DEV-nothing-sent was played", 1.5)
PASSED = Control(GOOD[0], {"PASS": 70}, True, "", 20.0)
FAILED = Control(GOOD[4], {"PASS": 40, "FAIL": 1}, False, "test_x.py::test_y: after the end", 20.0)


def test_faults_are_caught(tmp_path: Path) -> None:
    """A broken server and a broken device are found out by a case that cites what they break."""
    progress: list[str] = []
    report = run_mutants(2, ["no-end", "end-unacked"], tmp_path, progress.append)

    assert ["no-end", "end-unacked"] == [mutant.fault.name for mutant in report.mutants]
    assert "test_server_sanity.py::test_first_update" in report.mutants[0].caught_by
    assert "test_device_sanity.py::test_first_update" in report.mutants[1].caught_by
    assert "after the ack of the last of 86 records" in report.mutants[0].message
    assert report.ok
    assert {"caught no-end", "caught end-unacked"} == {line.partition(" (")[0] for line in progress}


def test_nothing_of_a_run_is_lost(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Each run leaves its target file, output and results in a folder of its own, and the terminal alone."""
    run_mutants(1, ["no-end"], tmp_path, lambda _: None)

    folder = tmp_path / "no-end"
    assert ("", "") == capfd.readouterr()
    assert "no-end" in tomllib.loads((folder / "target.toml").read_text())["command"]
    assert "FAIL" in (folder / "output.log").read_text()
    assert json.loads((folder / "results.json").read_text())["cases"]


def test_fault_that_no_case_notices_is_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault counts as caught by the requirement that it is said to break, and by no other."""
    harmless = Fault("unknown-dropped", servers.UnknownDropped, "FOTA-UPDATE-whole")
    monkeypatch.setattr(mutants, "FAULTS", (harmless,))
    report = run_mutants(1, ["unknown-dropped"], tmp_path, lambda _: None)

    assert () == report.mutants[0].caught_by
    assert "PASS test_server_sanity.py::test_first_update" in report.mutants[0].message
    assert not report.ok


def test_unknown_name_is_refused(tmp_path: Path) -> None:
    """A name that the zoo does not have is the caller's mistake, and nothing is run."""
    with pytest.raises(ValueError, match="the zoo has no unicorn"):
        run_mutants(1, ["unicorn"], tmp_path, lambda _: None)

    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("mutants_", "controls", "ok"),
    [((CAUGHT,), (PASSED,), True), ((CAUGHT, MISSED), (PASSED,), False), ((CAUGHT,), (PASSED, FAILED), False)],
)
def test_report_is_well_only_as_a_whole(mutants_: tuple[Mutant, ...], controls: tuple[Control, ...], ok: bool) -> None:
    """One fault that is missed, or one good target that fails, and the report is not well."""
    report = MutantReport(mutants_, controls, 60.0)

    assert ok == report.ok
    assert ok == report.as_json()["ok"]


def test_table_says_what_was_missed() -> None:
    """In a terminal what was missed or failed has its reason below it, the rest one line each."""
    lines = MutantReport((CAUGHT, MISSED), (PASSED, FAILED), 61.0).table()

    assert "passed   server-a-immediate           70 PASS" == lines[0]
    assert "         test_x.py::test_y: after the end" == lines[2]
    assert "caught   d01-first-image              FOTA-XFER-own-image" == lines[3]
    assert lines[4].startswith("MISSED   nothing-is-update")
    assert MISSED.fault.title in lines[5]
    assert "1 of 2 faults caught, 1 of 2 good targets passed, 61 s" == lines[-1]


def test_markdown_has_no_durations() -> None:
    """The documentation's table names cases and is the same text for two runs of different speed."""
    text = MutantReport((CAUGHT, MISSED), (PASSED,), 61.0).markdown()

    assert text == MutantReport((CAUGHT, MISSED), (PASSED,), 99.0).markdown()
    assert "| `d01-first-image` | Every session sends the image of the first one. | `FOTA-XFER-own-image` |" in text
    assert "**nobody**: no case for FOTA-DEV-nothing-sent was played" in text


def test_json_is_plain_data() -> None:
    """The report survives JSON."""
    report = MutantReport((CAUGHT, MISSED), (PASSED, FAILED), 61.0).as_json()

    assert report == json.loads(json.dumps(report))
    assert ["test_server_transfer.py::test_own"] == report["mutants"][0]["caught_by"]
