"""One running case: who it is, its wire log, its folder, and where to ask how the target is.

It lives from the case's first fixture to its last report, in the pytest item's stash, so that the collector can keep
what the case saw whatever becomes of it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from fota_conformance.target import AnyTarget
from fota_conformance.verdicts import Verdict
from fota_conformance.wirelog import WireLog

CASES_NAME: Final = "cases"
"""The folder of the cases' folders, in the results folder."""
TARGET: Final = pytest.StashKey[AnyTarget]()
"""In the config's stash: what is judged."""
VERDICT: Final = pytest.StashKey[Verdict]()
"""In an item's stash: the worst verdict of its phases so far, there once the case was called."""
STARTED: Final = pytest.StashKey[float]()
"""In an item's stash: when it began, if that was not when pytest came to it (monotonic seconds)."""


@dataclass(slots=True)
class Case:
    """What a case collects while it runs; `logs` and `obituary` are replaced by whoever starts a target for it."""

    id: str
    folder: Path
    log: WireLog
    logs: Callable[[], Mapping[str, str]] = field(default=dict)
    """What the target said during the case, by name."""
    last_words: Callable[[], str] = field(default=str)
    """What the target said of itself in the end, for a failure's message; empty for nothing."""
    obituary: Callable[[float], str] = field(default=lambda _: "")
    """One line if the target is dead, or dies within some seconds; else empty."""


CASE: Final = pytest.StashKey[Case]()
"""In an item's stash: its running case."""


@dataclass(frozen=True, slots=True)
class About:
    """What a case says of itself: by its marks and its docstring."""

    id: str
    """Stable and independent of where the kit is installed: file and function, and the variant in brackets."""
    story: str
    """What it claims, whatever the variant: its docstring's first line."""
    variant: str
    """What pytest varied, empty for nothing."""
    chapter: str
    """The id of a chapter of the catalogue; the file's name says it."""
    requirements: tuple[str, ...]
    """The ids that its mark cites."""

    @property
    def title(self) -> str:
        """What it claims, with the variant."""
        return f"{self.story} [{self.variant}]" if self.variant else self.story


def about(item: pytest.Item) -> About:
    """Read a case's file name `test_<role>_<subject>.py`, its mark `fota_requirement(*ids)` and its docstring."""
    docstring: str = getattr(getattr(item, "function", None), "__doc__", None) or item.name
    return About(
        id=f"{item.path.name}::{item.name}",
        story=docstring.strip().splitlines()[0],
        variant=item.name.partition("[")[2].removesuffix("]"),
        chapter=item.path.stem.removeprefix("test_").replace("_", "-"),
        requirements=tuple(name for mark in item.iter_markers("fota_requirement") for name in mark.args),
    )
