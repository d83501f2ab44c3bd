"""What Allure is told, where Allure is: without an active allure-pytest everything here does nothing.

Nothing else of the kit knows Allure (`allure_html` makes pages of what is written here). Steps and labels are ordinary
calls that allure-pytest turns into results. It keeps its open case by thread, so what a case does in a thread of its
own is recorded there and replayed, with the times it had, where the case is open. The three files beside the results
(environment, executor, categories) are written at the end of a session, because `--clean-alluredir` would wipe them at
its start.
"""

import contextlib
import hashlib
import importlib
import importlib.util
import json
import platform
import re
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

from fota_conformance.errors import verdict_of
from fota_conformance.verdicts import Verdict

_allure: Any = importlib.import_module("allure") if importlib.util.find_spec("allure") else None
_commons: Any = importlib.import_module("allure_commons") if importlib.util.find_spec("allure_commons") else None
_model: Any = importlib.import_module("allure_commons.model2") if _commons is not None else None

STATUSES: Final = {
    Verdict.PASS: "passed",
    Verdict.NOT_IMPLEMENTED: "skipped",
    Verdict.NON_STRICT: "passed",
    Verdict.COULD_NOT_TEST: "broken",
    Verdict.HARNESS_ERROR: "broken",
    Verdict.FAIL: "failed",
}
"""Allure's word for each verdict."""

ENVIRONMENT_NAME: Final = "environment.properties"
"""The file of facts beside Allure's results."""

EXCLUDED: Final = "EXCLUDED"
"""How the message of an excluded case begins."""


_TARGET: Final = "target"
"""The parameter that keeps targets apart."""


def _category(word: str, status: str, meaning: str) -> dict[str, Any]:
    return {"name": f"{word}: {meaning}", "matchedStatuses": [status], "messageRegex": rf"^{word}: [\s\S]*"}


CATEGORIES: Final[list[dict[str, Any]]] = [
    _category(Verdict.FAIL.value, "failed", "the target departs from what binds it"),
    _category(Verdict.COULD_NOT_TEST.value, "broken", "the target did not start, or does not show enough"),
    _category(Verdict.HARNESS_ERROR.value, "broken", "the kit's own trouble"),
    _category(Verdict.NON_STRICT.value, "passed", "the target departs from what does not bind it"),
    _category(Verdict.NOT_IMPLEMENTED.value, "skipped", "the target declares that it lacks it"),
    _category(EXCLUDED, "skipped", "the target file says why"),
]
"""Allure's categories, one for each verdict but `PASS`; the first that matches counts. Allure 2 (Java, whole matches)
reads them beside the results, Allure 3 (JavaScript) in its configuration: the expressions mean the same to both."""


@dataclass(slots=True)
class Attachment:
    """What is kept with a step or a case."""

    name: str
    content: str | bytes
    kind: str


@dataclass(slots=True)
class Step:
    """One recorded phase; times are milliseconds since the epoch, as Allure has them."""

    title: str
    start_ms: int
    stop_ms: int = 0
    status: str = "passed"
    message: str = ""
    inner: "Recording" = field(default_factory=list)


Recording: TypeAlias = list[Step | Attachment]
"""What happened, in order; a step holds what happened in it."""

_recording: ContextVar[Recording | None] = ContextVar("fota_conformance_recording", default=None)


@contextlib.contextmanager
def recording() -> Iterator[Recording]:
    """Record the steps and attachments of this thread instead of reporting them, for `replay` in the case's thread."""
    steps: Recording = []
    token = _recording.set(steps)
    try:
        yield steps
    finally:
        _recording.reset(token)


@contextlib.contextmanager
def step(title: str) -> Iterator[None]:
    """One phase of an exchange; an exception that leaves it marks it."""
    around = _recording.get()
    if around is not None:
        with _recorded(title, around):
            yield
    elif _allure is not None:
        with _allure.step(title):
            yield
    else:
        yield


def replay(steps: Iterable[Step | Attachment]) -> None:
    """Report what was recorded, in the case that is open, with the times and outcomes it had."""
    steps = list(steps)
    case = _open_case()
    if case is not None:
        # The case began when its first step did, not when pytest came to it.
        case.start = min([case.start, *(one.start_ms for one in steps if isinstance(one, Step))])
        _replay(steps)


def describe(
    *,
    title: str,
    epic: str,
    feature: str,
    story: str,
    tags: Iterable[str],
    target: str,
    severity: str = "",
    links: Iterable[tuple[str, str]] = (),
    case_id: str = "",
) -> None:
    """Place the running case in the report, in the suites by target and chapter; behind allure-pytest's own set-up.

    `severity` is Allure's word (blocker, critical, normal, minor). `links` are names and addresses of the requirements
    that the case judges. Allure tells two results apart by name and parameters. So the target is one: without it,
    several targets in one report would be retries of each other. And `case_id`, `file::function[variant]`, replaces
    name and parameters that allure-pytest has from the place of the installation and the values' representations,
    which would end a case's history on another machine.
    """
    if _allure is None:
        return
    case = _open_case()
    if case is not None and case_id:
        name, _, variant = case_id.partition("[")
        case.fullName = name
        case.testCaseId = hashlib.md5(name.encode(), usedforsecurity=False).hexdigest()
        case.titlePath = []
        case.parameters = [_model.Parameter(name="variant", value=variant.removesuffix("]"))] if variant else []
    _allure.dynamic.title(title)
    _allure.dynamic.epic(epic)
    _allure.dynamic.feature(feature)
    _allure.dynamic.story(story)
    _allure.dynamic.parent_suite(target)
    _allure.dynamic.suite(feature)
    _allure.dynamic.tag(*tags)
    if case is not None:
        case.parameters.append(_model.Parameter(name=_TARGET, value=target))
    if severity:
        _allure.dynamic.severity(severity)
    for name, url in links:
        _allure.dynamic.testcase(url, name)


def attach(name: str, content: str | bytes, kind: str = "text") -> None:
    """Keep something with the running step or case; `kind` is text, json, html, csv, svg or png."""
    around = _recording.get()
    if around is not None:
        around.append(Attachment(name, content, kind))
    elif _allure is not None:
        _allure.attach(content, name=name, attachment_type=_allure.attachment_type[kind.upper()])


def conclude(verdict: Verdict, message: str, *, exclusion: str = "") -> None:
    """Give the open case its verdict, whatever its exceptions were taken for; once, after its last phase.

    `message` is the whole explanation; its first line, with the indented ones under it, is what lists and categories
    show, behind the verdict's word. `exclusion` is the reason why the case was excluded.
    """
    case = _open_case()
    if case is None:
        return
    for label in case.labels:
        # Not the place of the installation, nor the machine: Allure's time line has a lane for each target.
        label.value = {"package": "fota_conformance", "host": _target_of(case)}.get(label.name, label.value)
    word = EXCLUDED if exclusion else verdict.value
    case.status = "skipped" if exclusion else STATUSES[verdict]
    if verdict is Verdict.PASS and not exclusion:
        case.statusDetails = None
        return
    text = exclusion or message
    text = text if text.startswith(f"{word}: ") else f"{word}: {text}"
    case.statusDetails = _model.StatusDetails(message=_head(text), trace=text)
    if verdict is Verdict.NON_STRICT and not exclusion:
        _allure.dynamic.tag(word)
        attach(word, text)


def write_side_files(folder: Path, environment: Mapping[str, str]) -> None:
    """Write what Allure reads beside the results: environment, executor and categories.

    `environment` has the key `target`, the target's name.
    """
    machine = f"{platform.system()} {platform.machine()}"
    folder.mkdir(parents=True, exist_ok=True)
    facts = {**environment, "python": platform.python_version(), "platform": machine}
    write_environment(folder, facts)
    write_executor(folder, environment[_TARGET])
    (folder / "categories.json").write_text(json.dumps(CATEGORIES, indent=2) + "\n", encoding="utf-8")


def write_environment(folder: Path, facts: Mapping[str, str]) -> None:
    """Facts about the run; Java's properties, where a backslash is doubled and a key has no space as it is."""
    lines = [f"{_escaped(key, ' =:')}={_escaped(value)}\n" for key, value in facts.items()]
    (folder / ENVIRONMENT_NAME).write_text("".join(lines), encoding="utf-8")


def read_environment(folder: Path) -> dict[str, str]:
    """What `write_environment` wrote; nothing where a run did not come so far."""
    path = folder / ENVIRONMENT_NAME
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    pairs = [re.split(r"(?<!\\)=", line, maxsplit=1) for line in lines]
    return {re.sub(r"\\(.)", r"\1", key): re.sub(r"\\(.)", r"\1", value) for key, value in pairs}


def write_executor(folder: Path, build: str) -> None:
    """Who made the results, and of what."""
    executor = {"name": "fota conformance", "type": "fota", "buildName": build}
    (folder / "executor.json").write_text(json.dumps(executor, indent=2) + "\n", encoding="utf-8")


@contextlib.contextmanager
def _recorded(title: str, around: Recording) -> Iterator[None]:
    """Record one step in `around`, and what happens meanwhile in the step."""
    one = Step(title, _now_ms())
    around.append(one)
    token = _recording.set(one.inner)
    try:
        yield
    except BaseException as error:
        one.status = STATUSES[verdict_of(error)]
        one.message = f"{type(error).__name__}: {error}"
        raise
    finally:
        _recording.reset(token)
        one.stop_ms = _now_ms()


def _replay(steps: Recording) -> None:
    reporter = _reporter()
    for one in steps:
        if isinstance(one, Attachment):
            attach(one.name, one.content, one.kind)
            continue
        key = str(uuid.uuid4())
        reporter.start_step(None, key, _model.TestStepResult(name=one.title, start=one.start_ms))
        _replay(one.inner)
        details = _model.StatusDetails(message=one.message) if one.message else None
        reporter.stop_step(key, stop=one.stop_ms, status=one.status, statusDetails=details)


def _reporter() -> Any:
    """allure-pytest's keeper of open cases, None where allure-pytest is not active."""
    plugins = _commons.plugin_manager.get_plugins() if _commons is not None else ()
    return next((plugin.allure_logger for plugin in plugins if hasattr(plugin, "allure_logger")), None)


def _open_case() -> Any:
    """allure-pytest's result of the running case, None where there is none."""
    reporter = _reporter()
    return reporter.get_test(None) if reporter is not None else None


def _target_of(case: Any) -> str:
    return next((parameter.value for parameter in case.parameters if parameter.name == _TARGET), "")


def _escaped(text: str, special: str = "") -> str:
    return re.sub(f"([{re.escape(special)}\\\\])", r"\\\1", text)


def _head(text: str) -> str:
    """The first line and the indented ones under it."""
    first, *others = text.splitlines()
    for index, line in enumerate(others):
        if not line.startswith(" "):
            return "\n".join([first, *others[:index]])
    return text


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
