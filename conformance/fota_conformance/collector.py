"""The heavy half of the pytest plugin: judges reports, gathers verdicts, writes results.

Registered only when a target is given. The verdict of a case is found where it runs (on an xdist worker, perhaps) and
travels to the controller in the report's `user_properties`, where JUnit shows it, too. Only the controller writes
results: `results.json`, the summary in the terminal, Allure's side files.
"""

import datetime
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any, Final

import pytest

from fota_conformance import reporting
from fota_conformance.case import CASE, TARGET, about
from fota_conformance.errors import ConformanceError, Nonconformance, TargetError, verdict_of
from fota_conformance.results import CaseResult, RunResult, write_json
from fota_conformance.target import ServerAddress, load_target
from fota_conformance.verdicts import Verdict, worst

RESULTS_NAME: Final = "results.json"
"""The results of a run, in the results folder."""
CASES_NAME: Final = "cases"
"""The folder of the cases' folders, in the results folder."""
WIRE_LOG_NAME: Final = "wire.log"
"""A case's whole wire log, in its folder."""

_SO_FAR: Final = pytest.StashKey[Verdict]()


class Collector:
    """One pytest session that judges one target."""

    def __init__(self, config: pytest.Config) -> None:
        path: Path = config.getoption("fota_target")
        try:
            self.target = load_target(path)
        except TargetError as error:
            raise pytest.UsageError(str(error)) from error
        if isinstance(self.target, ServerAddress) and (config.getoption("numprocesses", None) or 0) > 1:
            raise pytest.UsageError(f"{path}: a server by address is judged by one worker, leave out -n")
        config.stash[TARGET] = self.target
        self._results: Path | None = config.getoption("fota_results")
        self._allure: str | None = config.getoption("allure_report_dir", None)
        self._is_worker = hasattr(config, "workerinput")
        self._started = datetime.datetime.now(datetime.UTC)
        self._began = time.monotonic()
        self._cases: dict[str, CaseResult] = {}
        self._broken = False
        self._result: RunResult | None = None

    # Outermost: Allure's own names are set before ours.
    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, None, None]:
        """Place the case in the report, whether its target starts or not."""
        try:
            return (yield)
        finally:
            this = about(item)
            reporting.describe(
                title=this.title,
                epic=this.role,
                feature=this.chapter,
                story=this.story,
                tags=this.tags,
                target=self.target.name,
            )

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, None, None]:
        """Keep what the case saw, while the report's case is still open."""
        try:
            return (yield)
        finally:
            case = item.stash.get(CASE, None)
            if case is not None:
                texts = {WIRE_LOG_NAME: case.log.render()} | {
                    f"target-{name}": text for name, text in case.logs().items()
                }
                for name, text in texts.items():
                    reporting.attach(name, text)
                    if self._results is not None:
                        (case.folder / name.replace("/", "_")).write_text(text, encoding="utf-8")

    # Innermost: others, Allure among them, see the text that is set here.
    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Judge one phase of a case."""
        report = yield
        verdict = Verdict.PASS
        if call.excinfo is not None:
            error = call.excinfo.value
            verdict = Verdict.COULD_NOT_TEST if report.skipped else verdict_of(error)
            if isinstance(error, ConformanceError):
                report.longrepr = self._explain(item, error)
        item.stash[_SO_FAR] = worst([item.stash.get(_SO_FAR, Verdict.PASS), verdict])
        this = about(item)
        report.user_properties += [
            ("id", this.id),
            ("title", this.title),
            ("role", this.role),
            ("chapter", this.chapter),
            ("tags", " ".join(this.tags)),
            ("verdict", item.stash[_SO_FAR].value),
            ("files", item.stash[CASE].folder.name if self._results and CASE in item.stash else ""),
        ]
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Gather a judged phase; a report without a verdict is about a worker that died."""
        facts: dict[str, Any] = dict(report.user_properties)
        unjudged = Verdict.HARNESS_ERROR if report.failed else Verdict.PASS
        verdict = Verdict(facts["verdict"]) if "verdict" in facts else unjudged
        before = self._cases.get(report.nodeid)
        self._cases[report.nodeid] = CaseResult(
            id=facts.get("id", report.nodeid.rpartition("/")[2]),
            title=facts.get("title", report.nodeid.rpartition("::")[2]),
            role=facts.get("role", ""),
            chapter=facts.get("chapter", ""),
            tags=tuple(facts.get("tags", "").split()),
            verdict=verdict if before is None else worst([before.verdict, verdict]),
            duration_s=report.duration + (before.duration_s if before else 0.0),
            message=(before.message if before else "") or (report.longreprtext if not report.passed else ""),
            files=f"{CASES_NAME}/{facts['files']}" if facts.get("files") else "",
        )

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A file of cases that cannot be read is the kit's own trouble."""
        self._broken = self._broken or report.failed

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, exitstatus: int | pytest.ExitCode) -> None:
        """Put the results together and write them; where no case could be selected there are none."""
        if self._is_worker or exitstatus in (pytest.ExitCode.NO_TESTS_COLLECTED, pytest.ExitCode.USAGE_ERROR):
            return
        self._result = RunResult(
            target=self.target,
            started=self._started.isoformat(timespec="seconds"),
            duration_s=time.monotonic() - self._began,
            cases=tuple(sorted(self._cases.values(), key=lambda case: (case.role, case.chapter, case.id))),
            complete=not self._broken and exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED),
        )
        if self._results is not None:
            write_json(self._result, self._results / RESULTS_NAME)
        if self._allure is not None:
            target = self.target
            environment = {
                "target": target.name,
                "kind": target.kind.value,
                "revision": target.revision.value,
                "handshake": target.handshake.value,
            }
            reporting.write_side_files(Path(self._allure), environment)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """The table of verdicts."""
        if self._result is not None:
            terminalreporter.section("conformance")
            for line in self._result.table():
                terminalreporter.write_line(line)

    def _explain(self, item: pytest.Item, error: ConformanceError) -> str:
        """A failure's text: what went wrong, the target's end, the wire log."""
        parts = [f"{verdict_of(error).value}: {error}"]
        case = item.stash.get(CASE, None)
        if case is None:
            return parts[0]
        obituary = case.obituary()
        if isinstance(error, Nonconformance) and obituary:
            parts.append(f"  besides:  {obituary}")
        if case.log.entries:
            parts.append("wire log (seconds, direction between server and device, bytes, meaning):")
            parts.append(case.log.excerpt().rstrip())
        if self._results is not None:
            parts.append(f"everything of this case: {case.folder}")
        return "\n".join(parts)
