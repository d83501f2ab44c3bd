"""Allure's report as its readers get it: made of real runs, opened in a real browser, clicked through.

Needs Node.js with npm for the report, Chromium and its driver (Debian: `chromium-driver`) for the browser; tests that
lack theirs are skipped. npm's `allure` is installed once, into the user's cache. The pictures in the documentation are
drawn by

    FOTA_PICTURES=docs/images python -m pytest tests/conformance/test_allure.py -k picture
"""

import base64
import json
import os
import re
import shutil
import stat
import sys
import time
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pytest

from fota_conformance import allure_html, catalogue
from fota_conformance.allure_html import AllureError, AllureMissing
from fota_conformance.ports import free_port
from fota_conformance.process import Child, port_is_listening
from fota_conformance.run import run

pytestmark = pytest.mark.filterwarnings("default:the report was loaded again")

SERVER_OPTIONS: Final = ("--host", "{host}", "--port", "{port}", "--registry", "{registry}", "--firmware", "{firmware}")
WHOLE: Final = "FOTA-UPDATE-whole"
REQUIREMENTS: Final = (WHOLE, "FOTA-ID-unknown-denied")
TARGETS: Final = {
    "good server": (),
    "broken server": ("--fault", "records-swapped"),
    "server that never starts": ("--no-such-option",),
}
BROWSER_TIMEOUT: Final = 30.0
LOADS: Final = 3
"""How often the report is loaded at most until it shows its suites.

In one of some hundred loads, on a machine that was busy with other tests, the page stayed as it came for half a minute:
its frame was there, what it fetches from itself was not. Why is not known; a reader loads it again.
"""
WINDOW: Final = (1280, 900)


@dataclass(frozen=True, slots=True)
class Report:
    """A report of several targets, and what it was made of."""

    page: Path
    results: dict[str, Path]
    history: Path

    def cases(self, target: str) -> list[dict[str, Any]]:
        """The cases as `results.json` has them."""
        cases: list[dict[str, Any]] = json.loads((self.results[target] / "results.json").read_text())["cases"]
        return cases

    @property
    def chapters(self) -> set[str]:
        """The ids of the chapters with cases."""
        return {case["chapter"] for case in self.cases("good server")}

    @property
    def failing(self) -> dict[str, Any]:
        """The case by which the broken server fails."""
        return next(
            case for case in self.cases("broken server") if case["verdict"] == "FAIL" and WHOLE in case["requirements"]
        )


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Judge a good, a broken and an absent server, and make one report of all."""
    folder = tmp_path_factory.mktemp("allure")
    results = {}
    for name, options in TARGETS.items():
        command = json.dumps([sys.executable, "-m", "fota_conformance.zoo", "server", *SERVER_OPTIONS, *options])
        target = folder / f"{name.replace(' ', '-')}.toml"
        times = "[timeouts]\nready = 15\nframe = 3\nclose = 3\n"
        target.write_text(f'name = "{name}"\nkind = "server-by-command"\nrevision = "A"\ncommand = {command}\n{times}')
        results[name] = folder / target.stem
        run(target, results[name], requirements=REQUIREMENTS)
    history = folder / "history.jsonl"
    return Report(build([*results.values()], folder / "report", history=history), results, history)


def build(results: list[Path], output: Path, history: Path | None = None) -> Path:
    """The report, if this machine can make one."""
    try:
        return allure_html.build(results, output, history=history)
    except AllureMissing as error:
        pytest.skip(str(error))


class Browser:
    """A headless Chromium, driven by the W3C's WebDriver protocol: JSON over HTTP to its driver."""

    def __init__(self, port: int) -> None:
        self._root = f"http://127.0.0.1:{port}/session"
        options = ["headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-background-networking"]
        options += [
            "disable-component-update",
            "host-resolver-rules=MAP * ~NOTFOUND",
            f"window-size={WINDOW[0]},{WINDOW[1]}",
        ]
        chrome = {"binary": browser_path(), "args": [f"--{option}" for option in options]}
        wanted = {"goog:chromeOptions": chrome, "goog:loggingPrefs": {"performance": "ALL", "browser": "ALL"}}
        self._root += f"/{self._call('POST', '', {'capabilities': {'alwaysMatch': wanted}})['sessionId']}"

    def close(self) -> None:
        """End the browser."""
        self._call("DELETE", "")

    def open(self, page: str) -> None:
        """Load a page anew, even if only its fragment differs."""
        self._call("POST", "/url", {"url": "about:blank"})
        self._call("POST", "/url", {"url": page})

    def run(self, script: str, *arguments: object) -> Any:
        """What a JavaScript function's body returns; elements are given as CSS selectors or found by it."""
        return self._call("POST", "/execute/sync", {"script": script, "args": arguments})

    def texts(self, selector: str) -> list[str]:
        """The texts of all elements, as they are shown, once there is one."""
        script = "const found = Array.from(document.querySelectorAll(arguments[0]));"
        script += "return found.length ? found.map((one) => one.innerText) : null"
        texts: list[str] = self.wait(script, selector)
        return texts

    def click(self, selector: str, text: str = "") -> None:
        """Click the first element with this text in it, as a user does who scrolls there."""
        script = (
            "const found = Array.from(document.querySelectorAll(arguments[0]))"
            ".find((one) => one.innerText.includes(arguments[1]));"
            "if (found) found.scrollIntoView({block: 'center'}); return found"
        )
        (element,) = self.wait(script, selector, text).values()
        self._call("POST", f"/element/{element}/click", {})

    def wait(self, script: str, *arguments: object) -> Any:
        """What a script returns once it returns something."""
        limit = time.monotonic() + BROWSER_TIMEOUT
        while not (found := self.run(script, *arguments)):
            assert time.monotonic() < limit, f"{script} {arguments}: {self.run('return document.body.innerText')}"
            time.sleep(0.05)
        return found

    def console(self) -> list[str]:
        """What pages complained of since this was last called."""
        return [entry["message"] for entry in self._call("POST", "/se/log", {"type": "browser"})]

    def picture(self) -> bytes:
        """What the window shows, as PNG."""
        return base64.b64decode(self._call("GET", "/screenshot"))

    def resize(self, height: int) -> None:
        """Make the window as high."""
        self._call("POST", "/window/rect", {"width": WINDOW[0], "height": height})

    def requests(self) -> set[str]:
        """The addresses that were asked for since this was last called."""
        entries = self._call("POST", "/se/log", {"type": "performance"})
        messages = [json.loads(entry["message"])["message"] for entry in entries]
        return {one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"}

    def _call(self, method: str, path: str, body: object = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._root + path, data, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=BROWSER_TIMEOUT) as answer:
            return json.load(answer)["value"]


def browser_path() -> str:
    """Chromium, or nothing."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome") or ""


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One browser for all tests; skipped where there is none."""
    driver = shutil.which("chromedriver")
    if driver is None or not browser_path():
        pytest.skip("no chromium with chromedriver on PATH")
    port = free_port("127.0.0.1")
    with Child((driver, f"--port={port}"), tmp_path_factory.mktemp("browser")) as child:
        assert child.wait_until(lambda: port_is_listening(port), BROWSER_TIMEOUT)
        browser = Browser(port)
        try:
            yield browser
        finally:
            browser.close()


@pytest.fixture
def opened(chromium: Browser, report: Report) -> Browser:
    """The browser with the report's first page."""
    chromium.open(report.page.as_uri())
    # What an earlier test folded or unfolded.
    chromium.run("localStorage.clear()")
    complaints = []
    for _ in range(LOADS):
        chromium.open(report.page.as_uri())
        try:
            chromium.texts(SECTION)
        except AssertionError as error:
            complaints.append(f"{error}; the browser said: {chromium.console()}")
            continue
        if complaints:  # it stands in the run's summary, or nobody will ever find out
            warnings.warn("\n".join(["the report was loaded again", *complaints]), stacklevel=1)
        return chromium
    pytest.fail("\n".join(complaints))


SECTION: Final = "[data-testid=tree-section]"
LEAF: Final = "[data-testid=tree-leaf]"
STEP: Final = "[data-testid=test-result-step]"
STEP_TITLE: Final = (
    "[data-testid=test-result-step-header]:has([data-testid=tree-leaf-status-%s]) [data-testid=test-result-step-title]"
)
ATTACHMENT: Final = "[data-testid=test-result-attachment] button"
CONTENT: Final = "[data-testid=code-attachment-content]"


def open_failing_case(browser: Browser, report: Report) -> None:
    """From the suites to the case that failed."""
    browser.click(f"{LEAF}:has([data-testid=tree-leaf-status-failed])", report.failing["title"])
    browser.texts(STEP)


def test_suites_are_targets_and_chapters(opened: Browser, report: Report) -> None:
    """Each target is a suite of its own, its chapters are in it; one that passed is folded until it is clicked."""
    opened.click(SECTION, "good server")

    sections = [text.split("\n")[0] for text in opened.texts(SECTION)]
    chapters = [catalogue.load().chapter(name).title for name in report.chapters]
    assert sorted([*TARGETS, *chapters * len(TARGETS)]) == sorted(sections)


def test_targets_are_no_retries_of_each_other(opened: Browser, report: Report) -> None:
    """All cases of all targets are counted."""
    everything = sum(len(report.cases(target)) for target in TARGETS)

    assert opened.texts("[data-testid=metadata-item-total]") == [f"Total\n{everything}"]
    assert not opened.run("return document.querySelector('[data-testid=metadata-item-retries]')")


def test_failing_case_shows_which_step_failed(opened: Browser, report: Report) -> None:
    """The steps before the failure are marked as passed, the one that failed as failed, with what came."""
    open_failing_case(opened, report)

    assert opened.texts(STEP_TITLE % "passed")[0].startswith("the device names itself")
    assert "each after the ack of the last" in opened.texts(STEP_TITLE % "failed")[0]
    case, step = opened.texts("[data-testid=test-result-error-message]")
    assert case.startswith("FAIL: waiting for record 2 of 86")
    assert step.startswith("Nonconformance: waiting for record 2 of 86")


def test_failing_case_says_how_bad_it_is_and_what_sort(opened: Browser, report: Report) -> None:
    """Severity and category are shown with the case."""
    open_failing_case(opened, report)

    text = opened.run("return document.body.innerText")
    assert "\nCritical\n" in text
    assert "Category: FAIL: the target departs from what binds it" in text


def test_wire_log_opens_and_has_the_bytes(opened: Browser, report: Report) -> None:
    """The attached wire log is the one that lies in the case's folder."""
    open_failing_case(opened, report)

    opened.click(ATTACHMENT, "wire.log")

    (shown,) = opened.texts(CONTENT)
    written = (report.results["broken server"] / report.failing["files"] / "wire.log").read_text()
    assert "S -> D  b'@4#" in written
    assert written.strip() == shown.strip()


def test_requirement_is_a_link_to_its_text(opened: Browser, report: Report) -> None:
    """A case's link leads, without a network, to the sentence that it judges by."""
    open_failing_case(opened, report)

    link = opened.wait("return document.querySelector('[data-testid=test-result-meta-link] a[href^=spec]')?.href")

    assert f"{report.page.with_name('spec.html').as_uri()}#{WHOLE}" == link
    opened.open(link)
    assert WHOLE in opened.texts("article:target")[0]


def test_report_asks_for_nothing_outside(opened: Browser, report: Report) -> None:
    """To read the report, its cases and its attachments no other machine is asked."""
    open_failing_case(opened, report)
    opened.click(ATTACHMENT, "wire.log")
    opened.texts(CONTENT)

    asked = opened.requests()

    assert report.page.as_uri() in asked
    assert {"file", "data", "blob", "about"} >= {urlsplit(address).scheme for address in asked}


def test_page_has_all_data_and_no_folder_of_this_machine(report: Report) -> None:
    """The data in the page name no folder of the results; beside it lies the catalogue, and nothing else."""
    page = report.page.read_text()

    data = [base64.b64decode(text).decode(errors="replace") for text in re.findall(r'"([A-Za-z0-9+/=]{40,})"', page)]
    assert any(WHOLE in text for text in data)
    assert not any(str(report.page.parent.parent) in text for text in data)
    assert {path.name for path in report.page.parent.iterdir()} == {"index.html", "spec.html"}


def test_history_grows_by_each_report(report: Report, tmp_path: Path) -> None:
    """The same cases are known again in the next report."""
    history = tmp_path / "history.jsonl"
    shutil.copyfile(report.history, history)

    build([folder / "allure-results" for folder in report.results.values()], tmp_path / "again", history)

    first, second = [json.loads(line)["testResults"] for line in history.read_text().splitlines()]
    assert set(first) == set(second)
    assert len(first) == sum(len(report.cases(target)) for target in TARGETS)


def test_pictures_for_the_documentation(opened: Browser, report: Report, tmp_path: Path) -> None:
    """The suites and a failing case can be shown as the documentation does; FOTA_PICTURES says where to."""
    folder = Path(os.environ.get("FOTA_PICTURES", tmp_path))
    opened.resize(1250)
    opened.click(SECTION, "good server")
    (folder / "allure-suites.png").write_bytes(opened.picture())

    open_failing_case(opened, report)
    opened.click(ATTACHMENT, "wire.log")
    opened.texts(CONTENT)
    (folder / "allure-failure.png").write_bytes(opened.picture())
    opened.resize(WINDOW[1])

    assert [b"\x89PNG"] * 2 == [path.read_bytes()[:4] for path in sorted(folder.glob("allure-*.png"))]


GTAG: Final = (
    '<script async src="https://www.googletagmanager.com/gtag/js?id=G-1"></script>\n<script>\n'
    "function gtag(){dataLayer.push(arguments);}\ngtag('js', new Date());\n</script>\n"
)


def test_analytics_are_removed() -> None:
    """The script that reports readers goes, with the one that feeds it; others stay."""
    page = "<body><script>own()</script>{}<script>other()</script></body>"

    assert page.format("") == allure_html.without_outside(page.format(GTAG))


@pytest.mark.parametrize(
    "element",
    [
        '<script src="https://example.org/x.js">',
        '<link rel="stylesheet" href="http://example.org/x.css">',
        "<img alt='' src='//example.org/x.png'>",
        "<IFRAME SRC=https://example.org>",
    ],
)
def test_what_else_a_page_would_fetch_is_an_error(element: str) -> None:
    """A later Allure that fetches from elsewhere is noticed when the report is made."""
    with pytest.raises(AllureError, match=r"fetches nothing, got <.*example\.org"):
        allure_html.without_outside(f"<body>{element}</body>")


def test_spec_has_a_place_for_each_requirement() -> None:
    """Every id of the catalogue, old or new, is an anchor, and no two are the same."""
    page = allure_html.render_spec(catalogue.load().chapters)

    anchors = re.findall(r'id="([^"]+)"', page)
    names = {name for one in catalogue.load().requirements for name in (one.id, *one.aliases)}
    assert names <= set(anchors)
    assert len(anchors) == len(set(anchors))
    assert allure_html.without_outside(page) == page
    assert "`" not in page


def test_folder_without_results_is_named(tmp_path: Path) -> None:
    """A wrong folder is said before anything is installed or written."""
    with pytest.raises(AllureError, match=rf"{re.escape(str(tmp_path))}: expected Allure's results"):
        allure_html.build([tmp_path], tmp_path / "report")

    assert not (tmp_path / "report").exists()


Programs = Callable[..., None]


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    """Confine PATH to programs that only print something."""
    monkeypatch.delenv("ALLURE", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "bin").mkdir()

    def make(**said: str) -> None:
        for name, text in said.items():
            path = tmp_path / "bin" / name
            path.write_text(f"#!/bin/sh\necho '{text}'\n")
            path.chmod(path.stat().st_mode | stat.S_IXUSR)

    return make


@pytest.mark.parametrize(
    ("said", "program", "reason"),
    [
        ({}, None, "there is no Node.js on PATH: install them .*nodejs and npm"),
        ({"node": "v20.1.0"}, None, "there is no npm on PATH"),
        ({"node": "v18.1.0", "npm": "9"}, None, "needs Node.js 20 or newer, got v18.1.0"),
        ({}, "nowhere/allure", "no program 'nowhere/allure'"),
        ({"allure": "2.30.0"}, "allure", "expected Allure 3, got another"),
        ({"allure": "2.30.0"}, None, "there is no Node.js on PATH"),
    ],
)
def test_missing_allure_is_explained(
    programs: Programs, said: dict[str, str], program: str | None, reason: str
) -> None:
    """Without Allure 3, and without what would install it, the message says what is missing and where to get it."""
    programs(**said)

    with pytest.raises(AllureMissing, match=reason):
        allure_html.find(program)


def test_npm_that_installs_nothing_is_explained(programs: Programs, tmp_path: Path) -> None:
    """An npm that ends well and leaves no program is no success."""
    programs(node="v22.0.0", npm="nothing to do")

    with pytest.raises(AllureMissing, match=r"allure 3.* cannot be put into"):
        allure_html.find(cache=tmp_path / "cache")


def test_allure_on_path_is_taken(programs: Programs, tmp_path: Path) -> None:
    """Who has an Allure 3 needs no npm."""
    programs(allure="3.5.1")

    assert tmp_path / "bin" / "allure" == allure_html.find()


def test_unfinished_result_is_named(programs: Programs, tmp_path: Path) -> None:
    """A result that was cut off in mid-write is no traceback."""
    programs(allure="3.5.1")
    (tmp_path / "1-result.json").write_text('{"name": ')

    with pytest.raises(AllureError, match=r"1-result\.json: expected JSON"):
        allure_html.build([tmp_path], tmp_path / "report")


def test_cache_that_cannot_be_made_is_explained(programs: Programs, tmp_path: Path) -> None:
    """Where npm's files have no place, the message names the place."""
    programs(node="v22.0.0", npm="nothing to do")
    (tmp_path / "file").touch()

    with pytest.raises(AllureMissing, match=r"cannot be put into .*file"):
        allure_html.find(cache=tmp_path / "file")
