"""What Allure is told: by real pytest runs with allure-pytest, whose results are read back."""

import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from fota_conformance import reporting
from fota_conformance.errors import CouldNotTest, Nonconformance
from fota_conformance.verdicts import Verdict

RUN_TIMEOUT = 60.0

HOOKS = '''
"""Places and concludes the one case as the kit's collector does; what is particular is in the environment."""

import json
import os

import pytest

from fota_conformance import reporting
from fota_conformance.verdicts import Verdict

ABOUT = json.loads(os.environ["ABOUT"])


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item):
    try:
        return (yield)
    finally:
        reporting.describe(
            title="A claim.", epic="server", feature="Acks", story="FOTA-ACK-wrong", tags=["MUST"],
            target=ABOUT["target"], severity="critical", links=[("FOTA-ACK-wrong", "spec.html#FOTA-ACK-wrong")],
            case_id=f"test_acks.py::{item.name}",
        )


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if call.when == "teardown":
        reporting.conclude(Verdict(ABOUT["verdict"]), ABOUT["message"], exclusion=ABOUT["exclusion"])
    return report
'''

THREADS = """
import threading

import pytest

from fota_conformance import reporting
from fota_conformance.errors import CouldNotTest

def play(kept):
    with reporting.recording() as steps:
        kept.append(steps)
        with reporting.step("outer"):
            with reporting.step("inner"):
                reporting.attach("seen", b"{}", "json")
        with reporting.step("breaks"):
            raise CouldNotTest("no dump")

def test_case():
    kept = []
    def run():
        with pytest.raises(CouldNotTest):
            play(kept)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    with reporting.step("meanwhile"):
        pass
    reporting.replay(kept[0])
"""


def result_of(
    folder: Path,
    test: str = "def test_case(): pass",
    *,
    target: str = "mine",
    verdict: Verdict = Verdict.PASS,
    message: str = "",
    exclusion: str = "",
) -> dict[str, Any]:
    """Allure's result of one case in a pytest of its own."""
    folder.mkdir(exist_ok=True)
    (folder / "conftest.py").write_text(HOOKS)
    (folder / "test_file.py").write_text(test)
    about = {"target": target, "verdict": verdict.value, "message": message, "exclusion": exclusion}
    environment = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "ABOUT": json.dumps(about)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "allure_pytest", "--alluredir", "allure", "--rootdir", "."]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=RUN_TIMEOUT, check=False
    )
    assert "INTERNALERROR" not in done.stdout + done.stderr, done.stdout
    (path,) = (folder / "allure").glob("*-result.json")
    result: dict[str, Any] = json.loads(path.read_text())
    return result


def labels_of(result: dict[str, Any], name: str) -> list[str]:
    """The values of one label."""
    return [label["value"] for label in result["labels"] if label["name"] == name]


@pytest.fixture(scope="module")
def threaded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The result of a case whose steps happened in another thread."""
    return result_of(tmp_path_factory.mktemp("threads"), THREADS)


def test_steps_of_another_thread_are_replayed_where_the_case_is_open(threaded: dict[str, Any]) -> None:
    """Recorded steps keep nesting, outcome, message and attachments."""
    meanwhile, outer, breaks = threaded["steps"]
    (inner,) = outer["steps"]

    assert [step["name"] for step in (meanwhile, outer, inner, breaks)] == ["meanwhile", "outer", "inner", "breaks"]
    assert [step["status"] for step in (outer, inner, breaks)] == ["passed", "passed", "broken"]
    assert breaks["statusDetails"]["message"] == "CouldNotTest: no dump"
    assert [(one["name"], one["type"]) for one in inner["attachments"]] == [("seen", "application/json")]


def test_replayed_steps_keep_their_times(threaded: dict[str, Any]) -> None:
    """What happened first, in another thread, begins first, and the case began with it."""
    meanwhile, outer, breaks = threaded["steps"]

    assert threaded["start"] <= outer["start"] <= outer["stop"] <= breaks["start"] <= breaks["stop"]
    assert breaks["stop"] <= meanwhile["start"]


def test_case_is_placed_by_target_and_chapter(threaded: dict[str, Any]) -> None:
    """Suites, behaviours, severity, tags and links are what the catalogue says, not where the files lie."""
    assert [labels_of(threaded, name) for name in ("parentSuite", "suite", "subSuite")] == [["mine"], ["Acks"], []]
    assert labels_of(threaded, "epic") + labels_of(threaded, "feature") == ["server", "Acks"]
    assert labels_of(threaded, "severity") + labels_of(threaded, "tag") == ["critical", "MUST"]
    link = {"type": "tms", "url": "spec.html#FOTA-ACK-wrong", "name": "FOTA-ACK-wrong"}
    assert [link] == threaded["links"]
    assert threaded["fullName"] == "test_acks.py::test_case"


def test_same_case_has_one_history_and_each_target_its_own(tmp_path: Path) -> None:
    """A case is known again wherever the kit is installed; two targets are never retries of each other."""
    here, there = result_of(tmp_path / "here"), result_of(tmp_path / "there")
    other = result_of(tmp_path / "other", target="another")

    assert here["historyId"] == there["historyId"]
    assert here["historyId"] != other["historyId"]
    assert here["testCaseId"] == other["testCaseId"]


def test_variant_is_the_parameter(tmp_path: Path) -> None:
    """What pytest varied appears once, by its id, and not as Python shows the object."""
    test = "import pytest\n@pytest.mark.parametrize('x', [object()], ids=['slow device'])\ndef test_case(x): pass\n"

    result = result_of(tmp_path, test)

    expected = [{"name": "variant", "value": "slow device"}, {"name": "target", "value": "mine"}]
    assert expected == result["parameters"]
    assert result["fullName"] == "test_acks.py::test_case"


MESSAGE = "something\n  sent: @\nwire log:\n  0.1 @"


@pytest.mark.parametrize(
    ("verdict", "test", "status"),
    [
        (Verdict.FAIL, "def test_case(): assert 0", "failed"),
        (Verdict.COULD_NOT_TEST, "def test_case(): assert 0", "broken"),
        (Verdict.HARNESS_ERROR, "def test_case(nothing): pass", "broken"),
        (Verdict.NON_STRICT, "def test_case(): raise OSError", "passed"),
        (Verdict.NOT_IMPLEMENTED, "import pytest\ndef test_case(): pytest.skip('x')", "skipped"),
    ],
    ids=lambda value: value.value if isinstance(value, Verdict) else None,
)
def test_verdict_decides_status_and_category(tmp_path: Path, verdict: Verdict, test: str, status: str) -> None:
    """Whatever ended the case, Allure shows the verdict, under its word, with the head of the explanation."""
    result = result_of(tmp_path, test, verdict=verdict, message=MESSAGE)

    assert status == result["status"]
    assert f"{verdict.value}: something\n  sent: @" == result["statusDetails"]["message"]
    assert f"{verdict.value}: {MESSAGE}" == result["statusDetails"]["trace"]
    assert [f"{verdict.value}: "] == [name[: len(verdict.value) + 2] for name in categories_of(result)]


def test_departure_from_what_does_not_bind_is_tagged_and_told(tmp_path: Path) -> None:
    """A NON-STRICT case is green: its tag finds it, its attachment says what happened."""
    result = result_of(tmp_path, verdict=Verdict.NON_STRICT, message=MESSAGE)

    assert "NON-STRICT" in labels_of(result, "tag")
    (attachment,) = result["attachments"]
    assert f"NON-STRICT: {MESSAGE}" == (tmp_path / "allure" / attachment["source"]).read_text()


def test_excluded_case_is_skipped_whatever_it_came_to(tmp_path: Path) -> None:
    """An exclusion shows its reason, in a category of its own."""
    result = result_of(tmp_path, verdict=Verdict.FAIL, message=MESSAGE, exclusion="ticket 7")

    assert (result["status"], result["statusDetails"]["message"]) == ("skipped", "EXCLUDED: ticket 7")
    assert [name.partition(":")[0] for name in categories_of(result)] == ["EXCLUDED"]


def test_result_names_no_machine(tmp_path: Path) -> None:
    """Of a passed case neither the folders nor the name of the machine are told."""
    result = result_of(tmp_path)

    assert labels_of(result, "host") == ["mine"]
    assert tmp_path.name not in json.dumps(result)


def categories_of(result: dict[str, Any]) -> list[str]:
    """The categories that match a result, as Allure 2 and 3 match: by status, and by the message."""
    message = result["statusDetails"]["message"]
    return [
        category["name"]
        for category in reporting.CATEGORIES
        if result["status"] in category["matchedStatuses"] and re.fullmatch(category["messageRegex"], message)
    ]


def test_without_allure_nothing_happens() -> None:
    """Where allure-pytest is not active every call is a no-op, and a step lets its exception through."""
    reporting.describe(title="t", epic="e", feature="f", story="s", tags=[], target="x", case_id="a.py::b")
    reporting.attach("name", "text")
    reporting.replay([reporting.Step("step", 1, 2)])
    reporting.conclude(Verdict.FAIL, "message")

    with pytest.raises(CouldNotTest, match="no dump"), reporting.step("outer"), reporting.step("inner"):
        raise CouldNotTest("no dump")


def test_recordings_of_threads_do_not_mix() -> None:
    """Each thread records its own steps."""
    barrier = threading.Barrier(2, timeout=10)
    recorded: dict[str, list[str]] = {}

    def run(name: str) -> None:
        with reporting.recording() as steps:
            for number in range(3):
                barrier.wait()
                with reporting.step(f"{name}{number}"):
                    barrier.wait()
        recorded[name] = [step.title for step in steps if isinstance(step, reporting.Step)]

    threads = [threading.Thread(target=run, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)

    assert {"a": ["a0", "a1", "a2"], "b": ["b0", "b1", "b2"]} == recorded


def test_recorded_failure_is_the_targets() -> None:
    """A step that a nonconformance leaves has failed; the exception goes on."""
    error = Nonconformance("here", sent="x", came="y", accepted="z")

    with reporting.recording() as steps, pytest.raises(Nonconformance), reporting.step("a step"):
        raise error

    (step,) = steps
    assert isinstance(step, reporting.Step)
    assert (step.status, step.message) == ("failed", f"Nonconformance: {error}")


def test_environment_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Names with spaces, equals signs and backslashes survive Java's properties."""
    facts = {"a server = mine": "C:\\x = y", "plain": "", "back\\slash": "a: b"}

    reporting.write_environment(tmp_path, facts)

    assert facts == reporting.read_environment(tmp_path)


def test_side_files_are_what_allure_reads(tmp_path: Path) -> None:
    """Environment, executor and categories lie beside the results."""
    reporting.write_side_files(tmp_path / "new", {"target": "mine", "kind": "server"})

    assert {"environment.properties", "executor.json", "categories.json"} == {
        path.name for path in (tmp_path / "new").iterdir()
    }
    assert reporting.CATEGORIES == json.loads((tmp_path / "new" / "categories.json").read_text())
    assert {"target", "kind", "python", "platform"} == set(reporting.read_environment(tmp_path / "new"))
