"""The matrix: every verdict is in its place, a browser can work with the page, and nothing strange does harm."""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any, Final

import pytest
from jsonschema import Draft202012Validator

from fota_conformance.errors import ResultsError
from fota_conformance.matrix import SCHEMA_NAME, read_run, render_matrix, write_matrix
from fota_conformance.results import CaseResult, RunResult, write_json
from fota_conformance.run import run
from fota_conformance.target_file import load_target
from fota_conformance.verdicts import Verdict

BROWSER_TIMEOUT: Final = 120.0
"""Seconds until a browser that does not answer is given up."""
PASS_ON: Final = """import fcntl, os, sys
high = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3]]
os.dup2(high[0], 3)
os.dup2(high[1], 4)
os.execvp(sys.argv[3], sys.argv[3:])
"""
"""Chromium reads commands from descriptor 3 and writes answers to descriptor 4."""
REQUEST: Final = "Network.requestWillBeSent"
"""The event of a browser that asks for something."""


class Browser:
    """A headless Chromium that shows one page, driven over a pair of pipes (the DevTools protocol)."""

    def __init__(self, program: str, profile: Path) -> None:
        commands, self._commands = os.pipe()
        self._answers, answers = os.pipe()
        quiet = ("background-networking", "component-update", "sync", "dev-shm-usage", "gpu", "quic")
        options = ["--headless", "--no-sandbox", "--no-first-run", "--remote-debugging-pipe"]
        options += [f"--user-data-dir={profile}", *(f"--disable-{name}" for name in quiet)]
        self._process = subprocess.Popen(
            [sys.executable, "-c", PASS_ON, str(commands), str(answers), program, *options],
            pass_fds=(commands, answers),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(commands)
        os.close(answers)
        self._received = b""
        self._number = 0
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []

    def begin(self) -> None:
        """Open a page and listen to what it does."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime"):
            self.call(f"{domain}.enable")
        self.call("Page.setLifecycleEventsEnabled", enabled=True)

    def call(self, method: str, **parameters: object) -> dict[str, Any]:
        """One command and its answer; what happens meanwhile goes to `events`."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._received:
            assert select.select([self._answers], [], [], BROWSER_TIMEOUT)[0], "the browser does not answer"
            data = os.read(self._answers, 1 << 20)
            assert data, "the browser is gone"
            self._received += data
        text, _, self._received = self._received.partition(b"\0")
        answer: dict[str, Any] = json.loads(text)
        return answer

    def open(self, url: str) -> None:
        """Show a page, and wait until it is there."""
        self.call("Page.navigate", url="about:blank")
        self.events.clear()
        loader = self.call("Page.navigate", url=url)["loaderId"]
        loaded = {"name": "load", "loaderId": loader}.items()
        while not any(loaded <= event["params"].items() for event in self.events if "name" in event["params"]):
            self.events.append(self._next())

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press(self, key: str, code: int) -> None:
        """One key."""
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code)

    def close(self) -> None:
        """End it, with all its processes."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(BROWSER_TIMEOUT)
        os.close(self._commands)
        os.close(self._answers)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser for all tests here; they are skipped where there is none."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no chromium on PATH")
    browser = Browser(program, tmp_path_factory.mktemp("profile"))
    try:
        browser.begin()
        yield browser
    finally:
        browser.close()


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A matrix of real runs: a good server, a broken one, one that does not start, and a good device."""
    folder = tmp_path_factory.mktemp("real")
    zoo = [sys.executable, "-m", "fota_conformance.zoo"]
    serve = [*zoo, "server", "--host", "{host}", "--port", "{port}"]
    serve += ["--registry", "{registry}", "--firmware", "{firmware}"]
    device = [*zoo, "device", "--server", "{host}:{port}", "--mcuid", "{mcuid}"]
    device += ["--flash", "{artifacts}/flash.bin", "--outcome", "{artifacts}/outcome.json"]
    observe = '[observe]\nflash = "{artifacts}/flash.bin"\noutcome = "{artifacts}/outcome.json"\n'
    commands = {
        "good": ("server", serve, ""),
        "swapped": ("server", [*serve, "--fault", "records-swapped"], ""),
        "absent": ("server", [sys.executable, "-c", "pass", "{port}"], ""),
        "mcu": ("device", device, observe),
    }
    runs = []
    for name, (role, command, more) in commands.items():
        target = folder / f"{name}.toml"
        target.write_text(
            f'kind = "{role}-by-command"\nname = "{name}"\nrevision = "A"\ncommand = {json.dumps(command)}\n'
            f"timeouts = {{ready = 3, frame = 3, close = 3}}\n{more}"
        )
        runs.append(folder / name)
        with (folder / f"{name}.txt").open("wb") as output:
            run(target, runs[-1], requirements=["FOTA-UPDATE-whole", "FOTA-DEV-update"], output=output)
    write_matrix(runs, folder / "out" / "matrix.html")
    return folder / "out" / "matrix.html"


def case(number: int, verdict: Verdict = Verdict.PASS, **facts: Any) -> CaseResult:
    """One case of a server."""
    return replace(
        CaseResult(
            id=f"test_server_acks.py::test_{number}",
            title=f"Claim {number}.",
            role="server",
            chapter="server-acks",
            requirements=("FOTA-ACK-wrong",),
            verdict=verdict,
            exclusion="",
            duration_s=1.0,
            started_s=0.0,
            message="" if verdict is Verdict.PASS else f"{verdict.value}: it is {number}",
            files=f"cases/{number}",
        ),
        **facts,
    )


def results(folder: Path, *cases: CaseResult, log: str = "", name: str = "a server", **facts: Any) -> Path:
    """A folder with the results of a run of some cases, all with the same wire log."""
    folder.mkdir(parents=True)
    target = folder / "target.toml"
    target.write_text('kind = "server-by-command"\nrevision = "A"\ncommand = "serve {port}"\n')
    made = RunResult(
        target=replace(load_target(target), name=name),
        started="2026-11-23T12:00:00+00:00",
        duration_s=60.0,
        cases=cases,
        complete=True,
        **facts,
    )
    write_json(made, folder / "results.json")
    for one in cases:
        (folder / one.files).mkdir(parents=True, exist_ok=True)
        (folder / one.files / "wire.log").write_text(log)
    return folder


def page(*folders: Path) -> str:
    """The page about some runs."""
    return render_matrix([read_run(folder) for folder in folders], folders[0].parent)


CELLS: Final = """Object.fromEntries([...document.querySelectorAll('#matrix tr[data-role]')].map(row => [row.id,
    [...row.querySelectorAll('td')].map(cell => (cell.querySelector('.verdict') ?? cell).textContent)]))"""
"""What stands in the cells, by requirement."""
SHOWN: Final = """[...document.querySelectorAll('#matrix tr[data-role]')]
    .filter(row => row.checkVisibility()).map(row => row.id)"""
"""The requirements that are to be seen."""


def test_every_verdict_is_in_its_place(browser: Browser, real: Path) -> None:
    """A row for each requirement, a column for each target: what real runs came to stands where the two meet."""
    browser.open(real.as_uri())

    dash = "\N{EN DASH}"
    cells = browser.run(CELLS)
    assert ["PASS", "FAIL", "COULD-NOT-TEST", dash] == cells["FOTA-UPDATE-whole"]
    assert [dash, dash, dash, "PASS"] == cells["FOTA-DEV-update"]
    assert ["Requirement", "good", "swapped", "absent", "mcu"] == browser.run(
        "[...document.querySelectorAll('#matrix thead th')].map(th => (th.querySelector('b') ?? th).textContent)"
    )
    assert "2 of 4 targets conform, 1 not, 1 could not be tested in full" == browser.run(
        "document.querySelector('h1').textContent"
    )


def test_real_results_are_as_their_schema_says(real: Path) -> None:
    """What runs write, whatever they come to, is valid."""
    schema = json.loads((resources.files("fota_conformance") / SCHEMA_NAME).read_text(encoding="utf-8"))

    paths = sorted(real.parent.parent.glob("*/results.json"))

    assert ["absent", "good", "mcu", "swapped"] == [path.parent.name for path in paths]
    for path in paths:
        Draft202012Validator(schema).validate(json.loads(path.read_bytes()))


def test_on_paper_there_is_what_is_not_well(browser: Browser, real: Path) -> None:
    """Cases that pass are left out, the others are open."""
    browser.open(real.as_uri())
    browser.call("Emulation.setEmulatedMedia", media="print")
    try:
        browser.run("dispatchEvent(new Event('beforeprint'))")

        shown = "[...document.querySelectorAll('#cases .case')].filter(item => item.checkVisibility())"
        assert ["FAIL", "FAIL", "COULD-NOT-TEST", "COULD-NOT-TEST"] == browser.run(
            f"{shown}.map(item => item.open && item.querySelector('.verdict').textContent)"
        )
        assert not browser.run("document.getElementById('controls').checkVisibility()")
    finally:
        browser.call("Emulation.setEmulatedMedia", media="")


def test_a_cell_opens_its_cases(browser: Browser, real: Path) -> None:
    """By keyboard alone: Enter shows claim, reason, what came and the wire log, Escape leads back."""
    browser.open(real.as_uri())
    browser.run("document.getElementById('t1-FOTA-UPDATE-whole').focus()")
    browser.press("Enter", 13)

    assert "FOTA-UPDATE-whole: swapped" == browser.run("document.querySelector('#panel[open] h2').textContent")
    text = browser.run("document.getElementById('panel-body').innerText")
    assert "FAIL: waiting for record 2 of" in text
    assert "accepted\nb'S113401" in text
    assert "#'   identification of " in text
    browser.press("Escape", 27)
    assert "t1-FOTA-UPDATE-whole" == browser.run("document.activeElement.id")
    assert not browser.run("document.getElementById('panel').open")


def test_an_address_names_a_cell(browser: Browser, real: Path) -> None:
    """A link that somebody passes on opens the page at the same panel."""
    browser.open(f"{real.as_uri()}#t2-FOTA-UPDATE-whole")

    assert "FOTA-UPDATE-whole: absent" == browser.run("document.querySelector('#panel[open] h2').textContent")
    assert "COULD-NOT-TEST" in browser.run("document.getElementById('panel-body').innerText")


def test_rows_can_be_filtered(browser: Browser, tmp_path: Path) -> None:
    """By what is not PASS, and by text in any case; a chapter without rows is not shown."""
    ill = case(2, Verdict.FAIL, requirements=("FOTA-ACK-line-end",))
    sanity = case(3, chapter="server-sanity", requirements=("FOTA-UPDATE-whole",))
    path = tmp_path / "matrix.html"
    write_matrix([results(tmp_path / "run", case(1), ill, sanity)], path)
    browser.open(path.as_uri())

    assert ["FOTA-UPDATE-whole", "FOTA-ACK-line-end", "FOTA-ACK-wrong"] == browser.run(SHOWN)
    browser.run("document.getElementById('not-pass').click()")
    assert ["FOTA-ACK-line-end"] == browser.run(SHOWN)
    assert "1 of 3 requirements" == browser.run("document.getElementById('shown').textContent")
    assert "Acks" == browser.run(
        "[...document.querySelectorAll('.chapter')].filter(row => row.checkVisibility())"
        ".map(row => row.querySelector('th').lastChild.textContent).join()"
    )
    browser.run("document.getElementById('not-pass').click()")
    browser.run("document.getElementById('search').focus()")
    browser.call("Input.insertText", text="Anything BUT")
    assert ["FOTA-ACK-wrong"] == browser.run(SHOWN)


def test_one_role_can_be_shown(browser: Browser, real: Path) -> None:
    """Who has servers and devices on one page can look at either."""
    browser.open(real.as_uri())

    browser.run(
        "{const role = document.getElementById('role'); role.value = 'device';"
        "role.dispatchEvent(new Event('input', {bubbles: true}));}"
    )

    assert ["FOTA-DEV-update"] == browser.run(SHOWN)


def test_a_cell_leads_to_its_case_without_scripts(browser: Browser, real: Path) -> None:
    """Where scripts are off, a cell is a link, and the case that it leads to opens by itself."""
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(real.as_uri())
        browser.run("document.getElementById('t1-FOTA-UPDATE-whole').focus()")
        browser.press("Enter", 13)

        assert "FAIL" == browser.run("document.querySelector('details.case[open] .verdict').textContent")
        assert not browser.run("document.getElementById('controls').checkVisibility()")
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)


def test_a_page_fetches_nothing(browser: Browser, real: Path) -> None:
    """The page is whole: a browser asks for nothing but the file itself."""
    browser.open(real.as_uri())
    browser.run("document.getElementById('t1-FOTA-UPDATE-whole').click()")

    asked = {event["params"]["request"]["url"] for event in browser.events if event["method"] == REQUEST}
    assert {real.as_uri()} == {url for url in asked if url not in ("about:blank", "data:,")}


def test_strange_text_is_text(browser: Browser, tmp_path: Path) -> None:
    """Markup and control characters in names, messages and on the wire are shown, not obeyed."""
    bad = "</script></pre><script>window.owned=1</script><img src=x onerror='window.owned=1'>\"'&\x00\x1b"
    strange = case(1, Verdict.FAIL, title=bad, message=f"FAIL: {bad}\n  came:     {bad}\n{bad}", output=bad, id=bad)
    excused = case(2, exclusion=bad)
    log = f"    0.231  S -> D  {bad}\n"
    path = tmp_path / "matrix.html"
    write_matrix([results(tmp_path / "run", strange, excused, log=log, name=bad, notes=(bad,))], path)
    browser.open(path.as_uri())
    browser.run("document.getElementById('t0-FOTA-ACK-wrong').click()")

    assert browser.run("window.owned") is None
    assert [1, 0] == browser.run("['script', 'img'].map(name => document.querySelectorAll(name).length)")
    seen = bad.replace("\x00", "\N{REPLACEMENT CHARACTER}").replace("\x1b", "\N{REPLACEMENT CHARACTER}")
    for place in (
        "#panel-title",
        "#panel-body .title",
        "#panel-body .bytes dd",
        "#panel-body i",
        "h1",
        ".card details li",
    ):
        assert seen in browser.run(f"document.querySelector({place!r}).textContent"), place


def test_a_long_wire_log_is_cut(tmp_path: Path) -> None:
    """The page shows a log's beginning and end, says how many lines are left out, and links to the whole."""
    log = "".join(f"line {number}\n" for number in range(1, 1001))

    text = page(results(tmp_path / "run", case(1), log=log))

    shown = [number for number in range(1, 1001) if f"<u>line {number}</u>" in text]
    assert [*range(1, 41), *range(921, 1001)] == shown
    assert "… 880 lines left out" in text
    assert '120 of 1000 lines. The whole log: <a href="run/cases/1/wire.log">run/cases/1/wire.log</a>.' in text


def test_a_page_stays_small(tmp_path: Path) -> None:
    """Four targets with much on the wire make less than 5 MB; what failed keeps its log."""
    log = f"    0.231  S -> D  {'A' * 300}\n" * 200
    folders = []
    for number in range(4):
        cases = [case(index, title="Claim. " * 20) for index in range(118)]
        folders.append(results(tmp_path / str(number), *cases, case(118, Verdict.FAIL), log=log))

    text = page(*folders)

    assert len(text.encode()) < 5_000_000
    assert "Left out, as this page would be too large." in text
    for target in range(4):
        assert "<pre>" in text.partition(f'id="t{target}c118"')[2].partition("</details>")[0]


def test_only_logs_of_the_run_are_read(tmp_path: Path) -> None:
    """A results file cannot make the page show files from elsewhere."""
    (tmp_path / "wire.log").write_text("a secret")
    folder = results(tmp_path / "run", case(1))
    path = folder / "results.json"
    path.write_text(path.read_text().replace("cases/1", "cases/../.."))

    assert "a secret" not in page(folder)


def test_a_card_says_what_was_judged(tmp_path: Path) -> None:
    """Facts, counts, exit code and what is missing stand above the matrix."""
    folder = results(
        tmp_path / "run", case(1), case(2, Verdict.NON_STRICT), notes=("expired",), planned=("FOTA-ACK-line-end",)
    )

    text = page(folder)

    assert "<p>exit code 3: nothing failed, but something could not be tested</p>" in text
    assert "<dt>target</dt><dd>server-by-command, revision A, immediate</dd>" in text
    assert "<dt>MUSTs met</dt><dd>0 of 2</dd>" in text
    assert "<dt>when</dt><dd>2026-11-23 12:00:00 UTC</dd>" in text
    assert "<li>expired</li>" in text
    assert "<li>MUSTs of which no case was played: FOTA-ACK-line-end</li>" in text
    assert "1 NON-STRICT</span>" in text


def test_an_excluded_requirement_says_so(tmp_path: Path) -> None:
    """Whose cases are all excluded has no verdict; the reason is with the case."""
    text = page(results(tmp_path / "run", case(1, Verdict.FAIL, exclusion="known, #12")))

    assert '<span class="verdict">EXCLUDED</span> <small>1.00 s</small>' in text
    assert "<dt>excluded</dt><dd>known, #12 (the case came to FAIL)</dd>" in text


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "cannot be read: No such file"),
        ("[", "is not JSON"),
        ("[]", "expected fota-conformance-results of version 2, got None of version None"),
        ('{"format": "fota-conformance-results", "version": 1}', "of version 2, got .* of version 1"),
        ('{"format": "fota-conformance-results", "version": 2}', "the file: expected kit, target, .*results-2.json"),
    ],
)
def test_what_are_no_results_is_refused(tmp_path: Path, content: str | None, reason: str) -> None:
    """An error says which file, what was expected and what came; no page is written."""
    if content is not None:
        (tmp_path / "results.json").write_text(content)

    with pytest.raises(ResultsError, match=f"results.json: .*{reason}"):
        write_matrix([tmp_path], tmp_path / "matrix.html")

    assert not (tmp_path / "matrix.html").exists()


def test_incomplete_results_are_refused(tmp_path: Path) -> None:
    """A case without all its keys is named."""
    folder = results(tmp_path / "run", case(1))
    content = json.loads((folder / "results.json").read_bytes())
    del content["cases"][0]["title"]
    (folder / "results.json").write_text(json.dumps(content))

    with pytest.raises(ResultsError, match=r"results.json: cases\[0\]: expected title"):
        read_run(folder)
