"""JUnit XML: what a pipeline sees is as bad as the run was, and can always be read."""

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import pytest

from fota_conformance.junit import WHOLE_RUN, write_junit
from fota_conformance.results import CaseResult, RunResult
from fota_conformance.target_file import load_target
from fota_conformance.verdicts import Verdict

CASE = CaseResult(
    id="test_server_acks.py::test_wrong_ack[A]",
    title="A wrong ack ends the session. [A]",
    role="server",
    chapter="server-acks",
    requirements=("FOTA-ACK-wrong", "FOTA-ACK-wrong-survived"),
    verdict=Verdict.PASS,
    exclusion="",
    duration_s=1.25,
    started_s=0.0,
    message="",
    files="cases/wrong",
)


def junit(tmp_path: Path, *cases: CaseResult, name: str = "server 1.2", complete: bool = True) -> Element:
    """The root of what is written for a run of some cases."""
    target = tmp_path / "target.toml"
    target.write_text('kind = "server-by-command"\nrevision = "A"\ncommand = "serve {port}"\n')
    result = RunResult(
        target=replace(load_target(target), name=name),
        started="2026-11-23T12:00:00+00:00",
        duration_s=2.0,
        cases=cases,
        complete=complete,
    )
    path = tmp_path / "reports" / "junit.xml"

    write_junit(result, path)

    assert [path] == list(path.parent.iterdir())
    return ElementTree.parse(path).getroot()


def counts(element: Element) -> dict[str, int]:
    """How many tests of which sort an element has counted."""
    return {name: int(element.attrib[name]) for name in ("tests", "failures", "errors", "skipped")}


@pytest.mark.parametrize(
    ("verdict", "tag"),
    [
        (Verdict.FAIL, "failure"),
        (Verdict.COULD_NOT_TEST, "error"),
        (Verdict.HARNESS_ERROR, "error"),
        (Verdict.NOT_IMPLEMENTED, "skipped"),
        (Verdict.NON_STRICT, "system-out"),
    ],
)
def test_a_verdict_is_an_element(tmp_path: Path, verdict: Verdict, tag: str) -> None:
    """A pipeline sees failures and errors; what could not be tested is never skipped."""
    message = f"{verdict.value}: it went ill\n  came:     b'?'"

    root = junit(tmp_path, CASE, replace(CASE, id="other", verdict=verdict, message=message))

    other = root.findall("testsuite/testcase")[1]
    assert ["properties", tag] == [child.tag for child in other]
    assert message == other.findtext(tag)
    expected = {"tests": 2, "failures": 0, "errors": 0, "skipped": 0}
    plural = {"failure": "failures", "error": "errors", "skipped": "skipped"}
    assert expected | ({plural[tag]: 1} if tag in plural else {}) == counts(root)


def test_a_case_says_what_it_is_about(tmp_path: Path) -> None:
    """Role, chapter and target place a test; its requirements are properties; a dot in a name makes no package."""
    root = junit(tmp_path, CASE)

    case = root.find("testsuite/testcase")
    assert case is not None
    assert {
        "classname": "server.server-acks.server 1_2",
        "name": "test_server_acks.py::test_wrong_ack[A]",
        "time": "1.250",
    } == case.attrib
    assert [
        ("requirement", "FOTA-ACK-wrong"),
        ("requirement", "FOTA-ACK-wrong-survived"),
        ("claim", "A wrong ack ends the session. [A]"),
        ("verdict", "PASS"),
        ("files", "cases/wrong"),
    ] == [(item.attrib["name"], item.attrib["value"]) for item in case.iterfind("properties/property")]


def test_a_chapter_is_a_suite(tmp_path: Path) -> None:
    """Suites are chapters, with counts and time of their own."""
    failed = replace(CASE, id="b", verdict=Verdict.FAIL, message="FAIL: x")
    sanity = replace(CASE, id="c", chapter="server-sanity")

    root = junit(tmp_path, CASE, failed, sanity)

    assert ["server: Sanity", "server: Acks"] == [suite.attrib["name"] for suite in root]
    assert [1, 2] == [counts(suite)["tests"] for suite in root]
    assert [0, 1] == [counts(suite)["failures"] for suite in root]
    assert ["1.250", "2.500"] == [suite.attrib["time"] for suite in root]
    assert "2.000" == root.attrib["time"]


def test_an_excluded_case_is_skipped_unless_it_passes(tmp_path: Path) -> None:
    """A pipeline is not stopped by what is excused, and reads why."""
    excused = replace(CASE, id="b", verdict=Verdict.FAIL, message="FAIL: x", exclusion="known, #12")
    passing = replace(CASE, id="c", exclusion="known, #13")

    root = junit(tmp_path, CASE, excused, passing)

    skipped = root.findall("testsuite/testcase/skipped")
    assert ["excluded: known, #12"] == [item.attrib["message"] for item in skipped]
    assert "excluded (known, #13), but passes" == root.findtext("testsuite/testcase/system-out")
    assert {"tests": 3, "failures": 0, "errors": 0, "skipped": 1} == counts(root)


def test_a_run_that_lacks_something_is_an_error(tmp_path: Path) -> None:
    """An interrupted run is not green, though every case that it played passed."""
    root = junit(tmp_path, CASE, complete=False)

    assert 1 == counts(root)["errors"]
    assert WHOLE_RUN == root[-1][0].attrib["name"]
    assert "the run is not complete" in root[-1][0][0].attrib["message"]


def test_what_xml_cannot_hold_is_replaced(tmp_path: Path) -> None:
    """Control characters, half surrogates and markup from outside leave a file that any reader reads."""
    bad = "\x00\x1b[31m \ud800 \ufffe ]]> <b>&\"'"
    broken = replace(CASE, id=bad, title=bad, verdict=Verdict.FAIL, message=bad, output=bad)

    root = junit(tmp_path, broken, name=bad)

    good = "\ufffd\ufffd[31m \ufffd \ufffd ]]> <b>&\"'"
    case = root.find("testsuite/testcase")
    assert case is not None
    assert (good, good, good) == (case.attrib["name"], case.findtext("failure"), case.findtext("system-out"))
    assert f"server.server-acks.{good}" == case.attrib["classname"]
