"""The heavy half of the pytest plugin: judges reports, gathers verdicts, writes results.

Registered only when a target is given. The verdict of a case is found where it runs (on an xdist worker, perhaps) and
travels to the controller in the report's `user_properties`. Only the controller writes results: `results.json`,
`junit.xml`, the summary in the terminal, Allure's side files.
"""

import dataclasses
import datetime
import time
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any, Final

import pytest

from fota_conformance import reporting
from fota_conformance.allure_html import spec_link
from fota_conformance.case import CASE, CASES_NAME, STARTED, TARGET, VERDICT, about
from fota_conformance.catalogue import Basis, Keyword, Requirement, load
from fota_conformance.errors import CatalogueError, ConformanceError, Nonconformance, TargetError, verdict_of
from fota_conformance.junit import write_junit
from fota_conformance.results import CaseResult, RunResult, write_json
from fota_conformance.target import AnyTarget, Exclusion, ServerAddress
from fota_conformance.target_file import load_target
from fota_conformance.verdicts import Verdict, worst

RESULTS_NAME: Final = "results.json"
"""The results of a run, in the results folder."""
JUNIT_NAME: Final = "junit.xml"
"""The same as JUnit XML."""
WIRE_LOG_NAME: Final = "wire.log"
"""A case's whole wire log, in its folder."""

DYING: Final = 0.5
"""Seconds that a process whose connection broke may take to be gone, before it counts as alive."""

_MESSAGE: Final = pytest.StashKey[str]()


class Collector:
    """One pytest session that judges one target."""

    def __init__(self, config: pytest.Config) -> None:
        path: Path = config.getoption("fota_target")
        try:
            self.target = _of_worker(load_target(path), config)
            self._wanted = {load().requirement(name).id for name in config.getoption("fota_requirement") or ()}
        except (TargetError, CatalogueError) as error:
            raise pytest.UsageError(str(error)) from error
        config.stash[TARGET] = self.target
        self._results: Path | None = config.getoption("fota_results")
        self._allure: str | None = config.getoption("allure_report_dir", None)
        self._verbose: bool = config.getoption("fota_verbose")
        self._is_worker = hasattr(config, "workerinput")
        self._started = datetime.datetime.now(datetime.UTC)
        self._began = time.monotonic()
        today = datetime.date.today()
        self._exclusions = tuple(one for one in self.target.exclusions if one.until >= today)
        self._expired = tuple(one for one in self.target.exclusions if one.until < today)
        self._cases: dict[str, CaseResult] = {}
        self._broken = False
        self._result: RunResult | None = None

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> Any:
        """A file of cases to one worker."""
        from fota_conformance.scheduling import ByFile

        return ByFile(config, log)

    # Outermost: Allure's own names are set before ours.
    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, None, None]:
        """Place the case in the report, whether its target starts or not."""
        try:
            return (yield)
        finally:
            this = about(item)
            requirements = _requirements(item)
            chapter = load().chapter(this.chapter)
            reporting.describe(
                title=this.title,
                epic=chapter.role,
                feature=chapter.title,
                story=", ".join(f"{one.id}: {one.text}" for one in requirements),
                tags=sorted({one.keyword.value for one in requirements} | {one.basis.value for one in requirements}),
                target=self.target.name,
                case_id=this.id,
                severity=_severity(requirements),
                links=[(one.id, spec_link(one.id)) for one in requirements],
            )

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, None, None]:
        """Keep what the case saw, while the report's case is still open; a target that died in it did not pass."""
        try:
            result = yield
            case = item.stash.get(CASE, None)
            if case is not None and (obituary := case.obituary(0.0)):
                raise Nonconformance(
                    "after the case, which found nothing else",
                    sent="what the wire log shows",
                    came=obituary,
                    accepted="a server that goes on",
                )
            return result
        finally:
            self._keep(item)

    # Innermost: others, Allure among them, see the outcome that is set here.
    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Judge one phase of a case."""
        report = yield
        exclusion = self._exclusion(item)
        verdict, message = Verdict.PASS, ""
        if call.excinfo is not None:
            verdict = Verdict.COULD_NOT_TEST if report.skipped else self._judge(item, call.excinfo.value)
            message = self._explain(item, verdict, call.excinfo.value, report)
        if report.when == "call" or verdict is not Verdict.PASS:
            item.stash[VERDICT] = worst([item.stash.get(VERDICT, Verdict.PASS), verdict])
        item.stash[_MESSAGE] = item.stash.get(_MESSAGE, "") or message
        if message:
            excused = bool(exclusion) or verdict is Verdict.NOT_IMPLEMENTED
            report.outcome = "skipped" if excused else "passed" if verdict is Verdict.NON_STRICT else "failed"
            where = (str(item.path), 0, exclusion.reason if exclusion else message)
            report.longrepr = where if excused else message if report.failed else None
        if report.when == "call" and (started := item.stash.get(STARTED, None)) is not None:
            report.duration = time.monotonic() - started
        if report.when == "teardown":
            reporting.conclude(
                item.stash.get(VERDICT, Verdict.PASS),
                item.stash[_MESSAGE],
                exclusion=exclusion.reason if exclusion else "",
            )
        this = about(item)
        report.user_properties += [
            ("id", this.id),
            ("title", this.title),
            ("role", self.target.role.value),
            ("chapter", this.chapter),
            ("requirements", " ".join(one.id for one in _requirements(item))),
            ("verdict", verdict.value),
            ("message", message),
            ("exclusion", exclusion.reason if exclusion else ""),
            ("started", time.time() - report.duration),
            ("files", item.stash[CASE].folder.name if self._results and CASE in item.stash else ""),
        ]
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Gather a judged phase; a report without a verdict is about a worker that died."""
        facts: dict[str, Any] = dict(report.user_properties)
        unjudged = Verdict.HARNESS_ERROR if report.failed else Verdict.PASS
        verdict = Verdict(facts["verdict"]) if "verdict" in facts else unjudged
        message = facts.get("message", "" if report.passed else report.longreprtext)
        before = self._cases.get(report.nodeid)
        started_s = max(facts.get("started", 0.0) - self._started.timestamp(), 0.0)
        if before is not None:
            self._cases[report.nodeid] = dataclasses.replace(
                before,
                verdict=worst([before.verdict, verdict]),
                duration_s=before.duration_s + report.duration,
                started_s=min(before.started_s, started_s) if "started" in facts else before.started_s,
                message=before.message or message,
                output=report.capstdout,
            )
            return
        self._cases[report.nodeid] = CaseResult(
            id=facts.get("id", report.nodeid.rpartition("/")[2]),
            title=facts.get("title", report.nodeid.rpartition("::")[2]),
            role=facts.get("role", self.target.role.value),
            chapter=facts.get("chapter", ""),
            requirements=tuple(facts.get("requirements", "").split()),
            verdict=verdict,
            exclusion=facts.get("exclusion", ""),
            duration_s=report.duration,
            started_s=started_s,
            message=message,
            files=f"{CASES_NAME}/{facts['files']}" if facts.get("files") else "",
            output=report.capstdout,
        )

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A file of cases that cannot be read is the kit's own trouble."""
        self._broken = self._broken or report.failed

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int | pytest.ExitCode) -> None:
        """Put the results together and write them; where no case could be selected there are none."""
        if self._is_worker or exitstatus in (pytest.ExitCode.NO_TESTS_COLLECTED, pytest.ExitCode.USAGE_ERROR):
            return
        order = [chapter.id for chapter in load().chapters]
        cases = sorted(self._cases.values(), key=lambda case: (order.index(case.chapter), case.started_s))
        self._result = RunResult(
            target=self.target,
            started=self._started.isoformat(timespec="seconds"),
            duration_s=time.monotonic() - self._began,
            cases=tuple(cases),
            complete=not (self._broken or session.shouldfail)
            and exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED),
            planned=tuple(dict.fromkeys(name for case in cases for name in case.requirements)),
            notes=tuple(self._notes()),
        )
        if self._results is not None:
            write_json(self._result, self._results / RESULTS_NAME)
            write_junit(self._result, self._results / JUNIT_NAME)
        if self._allure is not None:
            target = self.target
            environment = {
                "target": target.name,
                "kind": target.kind.value,
                "revision": target.revision.value,
                "handshake": target.handshake.value,
                "profile": target.profile or "none",
            }
            reporting.write_side_files(Path(self._allure), environment)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """The table of verdicts."""
        if self._result is not None:
            terminalreporter.section("conformance")
            for line in self._result.table(verbose=self._verbose):
                terminalreporter.write_line(line)

    def _judge(self, item: pytest.Item, error: BaseException) -> Verdict:
        """A departure from what does not bind the target is no failure."""
        verdict = verdict_of(error)
        if verdict is Verdict.FAIL and not any(one.binds(self.target.profile) for one in _requirements(item)):
            return Verdict.NON_STRICT
        return verdict

    def _exclusion(self, item: pytest.Item) -> Exclusion | None:
        names = [one.id for one in _requirements(item)]
        return next((one for one in self._exclusions if one.covers(about(item).id, names)), None)

    def _notes(self) -> Iterable[str]:
        for one in self._expired:
            yield f"the exclusion of {one.requirement or one.case} ended on {one.until}: it counts again ({one.reason})"
        cases = self._cases.values()
        for one in self._exclusions:
            if not any(one.covers(case.id, case.requirements) for case in cases):
                yield f"the exclusion of {one.requirement or one.case} covers no case of this run"

    def _keep(self, item: pytest.Item) -> None:
        """Attach and write what the case saw."""
        case = item.stash.get(CASE, None)
        if case is None:
            return
        texts = {WIRE_LOG_NAME: case.log.render()} | {f"target-{name}": text for name, text in case.logs().items()}
        for name, text in texts.items():
            reporting.attach(name, text)
            if self._results is not None:
                (case.folder / name.replace("/", "_")).write_text(text, encoding="utf-8")

    def _explain(self, item: pytest.Item, verdict: Verdict, error: BaseException, report: pytest.TestReport) -> str:
        """A failure's text: what went wrong, the target's end, what the requirement says, the wire log."""
        if not isinstance(error, ConformanceError):
            return f"{verdict.value}: {report.longreprtext}"
        parts = [f"{verdict.value}: {error}"]
        case = item.stash.get(CASE, None)
        obituary = case.obituary(DYING) if case is not None and isinstance(error, Nonconformance) else ""
        if obituary and obituary not in parts[0]:
            parts.append(f"  besides:  {obituary}")
        if case is not None and (last_words := case.last_words()):
            parts.append(f"  target:   {last_words}")
        if isinstance(error, Nonconformance):
            parts += [f"  {one.id} ({one.keyword.value}, {one.basis.value}): {one.text}" for one in _requirements(item)]
        if case is not None and case.log.entries:
            parts.append("wire log (seconds, direction between server and device, bytes, meaning):")
            parts.append(case.log.excerpt().rstrip())
        if case is not None and self._results is not None:
            parts.append(f"everything of this case: {case.folder}")
        return "\n".join(parts)


def _of_worker(target: AnyTarget, config: pytest.Config) -> AnyTarget:
    """A server by address as one of several workers may use it: its share of devices and sessions."""
    workers = config.getoption("numprocesses", None) or 0
    if not isinstance(target, ServerAddress):
        return target
    if workers > target.concurrency:
        raise TargetError(
            target.path, "concurrency", f"{workers} workers hold {workers} sessions, expected concurrency = {workers}"
        )
    worker_input: dict[str, Any] | None = getattr(config, "workerinput", None)
    if worker_input is None:
        return target
    count = int(worker_input["workercount"])
    index = int(worker_input["workerid"].removeprefix("gw"))
    return dataclasses.replace(target, concurrency=target.concurrency // count, devices=target.devices[index::count])


def _requirements(item: pytest.Item) -> list[Requirement]:
    return [load().requirement(name) for name in about(item).requirements]


def _severity(requirements: Iterable[Requirement]) -> str:
    """Allure's word for how bad a departure is."""
    found = set()
    for one in requirements:
        if one.keyword is Keyword.MUST:
            found.add("blocker" if one.basis is Basis.SAFETY else "critical")
        else:
            found.add("normal" if one.keyword is Keyword.SHOULD else "minor")
    return next((word for word in ("blocker", "critical", "normal", "minor") if word in found), "normal")
