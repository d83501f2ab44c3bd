"""The results of one run as JUnit XML, as Jenkins and GitLab read it.

Whoever sees only this file must not take a run for well that is not: what could not be tested is an error and never
skipped, and what the whole run lacks is an error of its own. Skipped is what the target declares to lack, and what its
exclusions excuse.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from fota_conformance.results import CaseResult, RunResult, write_whole
from fota_conformance.verdicts import Verdict

OUTCOMES: Final = {
    Verdict.NOT_IMPLEMENTED: "skipped",
    Verdict.COULD_NOT_TEST: "error",
    Verdict.HARNESS_ERROR: "error",
    Verdict.FAIL: "failure",
}
"""Verdict to the element that says so; the others are tests that pass."""
WHOLE_RUN: Final = "The run is complete, and every selected MUST was exercised."
"""The test that stands for what a run lacks."""

_NOT_XML: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write_junit(result: RunResult, path: Path) -> None:
    """Write the file, whole or not at all."""
    write_whole(path, render_junit(result))


def render_junit(result: RunResult) -> str:
    """The file's text: a suite for each chapter, a test for each case."""
    # A dot would make packages of a name.
    target = result.target.name.replace(".", "_")
    suites = [
        _suite(
            heading,
            result.started,
            [_case(case, ".".join(filter(None, (case.role, case.chapter, target)))) for case in cases],
        )
        for heading, cases in result.by_chapter().items()
    ]
    if result.shortfalls:
        whole = Element("testcase", classname=f"run.{_clean(target)}", name=WHOLE_RUN, time="0.000")
        _say(whole, "error", "INCOMPLETE", result.shortfalls[0], "\n".join(result.shortfalls))
        suites.append(_suite("the whole run", result.started, [whole]))
    root = Element("testsuites", name=_clean(f"fota conformance: {result.target.name}"))
    root.extend(suites)
    for name in ("tests", "failures", "errors", "skipped"):
        root.set(name, str(sum(int(suite.attrib[name]) for suite in suites)))
    root.set("time", f"{result.duration_s:.3f}")
    ElementTree.indent(root)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{ElementTree.tostring(root, encoding="unicode")}\n'


def _suite(name: str, started: str, cases: Sequence[Element]) -> Element:
    suite = Element("testsuite", name=_clean(name), timestamp=started, tests=str(len(cases)))
    for plural, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(plural, str(sum(case.find(tag) is not None for case in cases)))
    suite.set("time", f"{sum(float(case.attrib['time']) for case in cases):.3f}")
    suite.extend(cases)
    return suite


def _case(case: CaseResult, classname: str) -> Element:
    element = Element(
        "testcase", classname=_clean(classname), name=_clean(case.id), time=f"{max(case.duration_s, 0.0):.3f}"
    )
    facts = {"claim": case.title, "verdict": case.label, "files": case.files}
    properties = SubElement(element, "properties")
    for name, value in [("requirement", id) for id in case.requirements] + list(facts.items()):
        SubElement(properties, "property", name=name, value=_clean(value))
    said = [case.output]
    if case.counts and case.verdict in OUTCOMES:
        _say(element, OUTCOMES[case.verdict], case.verdict.value, case.summary, case.message)
    elif case.counts:
        said.insert(0, case.message)
    elif case.verdict is Verdict.PASS:
        said.insert(0, f"excluded ({case.exclusion}), but passes")
    else:
        _say(element, "skipped", case.label, f"excluded: {case.exclusion}", case.message)
    text = "\n".join(filter(None, said))
    if text:
        SubElement(element, "system-out").text = _clean(text)
    return element


def _say(element: Element, tag: str, kind: str, message: str, text: str) -> None:
    SubElement(element, tag, type=kind, message=_clean(message)).text = _clean(text)


def _clean(text: str) -> str:
    """Characters that XML cannot hold, replaced."""
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)
