"""One running case: who it is, its wire log, its folder, and where to ask how the target is.

It lives from the case's first fixture to its last report, in the pytest item's stash, so that the collector can keep
what the case saw whatever becomes of it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from fota_conformance.target import DeviceCommand, ServerAddress, ServerCommand
from fota_conformance.wirelog import WireLog

TARGET: Final = pytest.StashKey[ServerCommand | ServerAddress | DeviceCommand]()
"""In the config's stash: what is judged."""


@dataclass(slots=True)
class Case:
    """What a case collects while it runs; `logs` and `obituary` are replaced by whoever starts a target for it."""

    id: str
    folder: Path
    log: WireLog
    logs: Callable[[], Mapping[str, str]] = field(default=dict)
    """What the target said during the case, by name."""
    obituary: Callable[[], str] = field(default=str)
    """One line if the target died, else empty."""


CASE: Final = pytest.StashKey[Case]()
"""In an item's stash: its running case."""


@dataclass(frozen=True, slots=True)
class About:
    """What a case says of itself: by its file's mark and its docstring."""

    id: str
    """Stable and independent of where the kit is installed: file and function, and the variant in brackets."""
    story: str
    """What it claims, whatever the variant: its docstring's first line."""
    variant: str
    """What pytest varied, empty for nothing."""
    role: str
    chapter: str
    tags: tuple[str, ...]

    @property
    def title(self) -> str:
        """What it claims, with the variant."""
        return f"{self.story} [{self.variant}]" if self.variant else self.story


def about(item: pytest.Item) -> About:
    """Read a case's file mark `fota_chapter(role, title, *tags)` and its docstring's first line."""
    mark = item.get_closest_marker("fota_chapter")
    role, chapter, *tags = mark.args if mark else ("", "")
    docstring: str = getattr(getattr(item, "function", None), "__doc__", None) or item.name
    return About(
        id=f"{item.path.name}::{item.name}",
        story=docstring.strip().splitlines()[0],
        variant=item.name.partition("[")[2].removesuffix("]"),
        role=role,
        chapter=chapter,
        tags=tuple(tags),
    )
