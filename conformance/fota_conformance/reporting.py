"""What Allure is told, where Allure is: without allure-pytest everything here does nothing.

Nothing else of the kit knows Allure. Steps and labels are ordinary calls that an installed and active allure-pytest
turns into results; the three files beside them (environment, executor, categories) are written at the end of a session,
because `--clean-alluredir` would wipe them at its start.
"""

import contextlib
import importlib.util
import json
import platform
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final

_allure: Any = importlib.import_module("allure") if importlib.util.find_spec("allure") else None

CATEGORIES: Final[list[dict[str, Any]]] = [
    {"name": "FAIL: the target departs from the protocol", "matchedStatuses": ["failed"]},
    {
        "name": "COULD-NOT-TEST: the target did not start, or does not show enough",
        "matchedStatuses": ["broken"],
        "messageRegex": "(?s).*(CouldNotTest|ReadingError).*",
    },
    {"name": "HARNESS-ERROR: the kit's own trouble", "matchedStatuses": ["broken"]},
]
"""Allure's defect categories; the first that matches counts. `messageRegex` sees the exception's name."""


def step(title: str) -> AbstractContextManager[Any]:
    """One phase of an exchange."""
    return _allure.step(title) if _allure is not None else contextlib.nullcontext()


def describe(*, title: str, epic: str, feature: str, story: str, tags: Iterable[str], target: str) -> None:
    """Place the running case in the report; the target's name keeps several targets in one report apart."""
    if _allure is not None:
        _allure.dynamic.title(title)
        _allure.dynamic.epic(epic)
        _allure.dynamic.feature(feature)
        _allure.dynamic.story(story)
        _allure.dynamic.tag(*tags)
        _allure.dynamic.parameter("target", target)


def attach(name: str, text: str) -> None:
    """Keep a text with the running case."""
    if _allure is not None:
        _allure.attach(text, name=name, attachment_type=_allure.attachment_type.TEXT)


def write_side_files(folder: Path, environment: Mapping[str, str]) -> None:
    """Write what Allure reads beside the results: environment, executor and categories."""
    facts = dict(environment) | {"python": platform.python_version(), "platform": platform.platform()}
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"{key}={value}\n".replace("\\", "\\\\") for key, value in facts.items()]
    (folder / "environment.properties").write_text("".join(lines), encoding="utf-8")
    executor = {"name": "fota conformance", "type": "fota", "buildName": environment["target"]}
    (folder / "executor.json").write_text(json.dumps(executor, indent=2) + "\n", encoding="utf-8")
    (folder / "categories.json").write_text(json.dumps(CATEGORIES, indent=2) + "\n", encoding="utf-8")
