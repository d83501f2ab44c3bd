"""The requirement catalogue: what every verdict is about.

The data is `catalogue.toml`; here it is read, checked and looked up. An id is for ever: it may be cited in target
files, bug trackers and old reports, so a renamed requirement keeps its old id as an alias. Nothing here knows a case
or a target's way of being reached.
"""

import enum
import functools
import tomllib
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final

from fota_conformance.errors import CatalogueError

PROFILE: Final = "k60-fota"
"""The profile whose targets are bound by this project's own decisions, too."""
DATA_NAME: Final = "catalogue.toml"
"""The catalogue's file in this package."""


class Keyword(enum.Enum):
    """How binding a requirement is (RFC 2119)."""

    MUST = "MUST"
    SHOULD = "SHOULD"
    MAY = "MAY"


class Basis(enum.Enum):
    """Where a requirement comes from, and so whom it binds."""

    SEED = "seed"
    """The document of the first revision."""
    REV_B = "revB"
    """The second revision."""
    SAFETY = "safety"
    """Survives, right image, no effect across sessions, nothing corrupt sent or kept."""
    PROJECT = "project"
    """Decided by this project: binds targets of its profile alone."""


@dataclass(frozen=True, slots=True)
class Requirement:
    """One sentence that a target meets or does not."""

    id: str
    chapter: str
    role: str
    text: str
    keyword: Keyword
    basis: Basis
    revision: str
    """`A` or `B` where only that one is concerned, else empty."""
    handshake: tuple[str, ...]
    """The policies that are concerned; empty: all."""
    needs: tuple[str, ...]
    """What a target must offer so that anybody can see it."""
    defects: tuple[str, ...]
    """Defects of the reference server that break it."""
    see: str
    """Section of `docs/protocol.md`."""
    aliases: tuple[str, ...]
    """Ids that it had before."""

    def binds(self, profile: str | None) -> bool:
        """Whether a departure is a failure; otherwise it is NON-STRICT."""
        return self.keyword is Keyword.MUST and (self.basis is not Basis.PROJECT or profile == PROFILE)

    def concerns(self, revision: str, handshake: str) -> bool:
        """Whether it says anything about targets of this revision and handshake policy."""
        return self.revision in ("", revision) and (not self.handshake or handshake in self.handshake)

    def as_json(self) -> dict[str, Any]:
        """Plain data, keyed as in the file."""
        return {
            "id": self.id,
            "chapter": self.chapter,
            "role": self.role,
            "text": self.text,
            "keyword": self.keyword.value,
            "basis": self.basis.value,
            "revision": self.revision,
            "handshake": list(self.handshake),
            "needs": list(self.needs),
            "defects": list(self.defects),
            "see": self.see,
            "aliases": list(self.aliases),
        }


@dataclass(frozen=True, slots=True)
class Chapter:
    """Requirements that belong together; each chapter has one file of cases."""

    id: str
    """Role and subject, for instance `server-acks`."""
    role: str
    title: str
    text: str
    requirements: tuple[Requirement, ...]


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All chapters, in their order."""

    chapters: tuple[Chapter, ...]

    @property
    def requirements(self) -> tuple[Requirement, ...]:
        """All requirements, in their order."""
        return tuple(requirement for chapter in self.chapters for requirement in chapter.requirements)

    def requirement(self, name: str) -> Requirement:
        """The requirement with an id or an alias; raises `CatalogueError`."""
        for requirement in self.requirements:
            if name == requirement.id or name in requirement.aliases:
                return requirement
        raise CatalogueError(f"there is no requirement {name!r}; fota conformance list shows them")

    def chapter(self, name: str) -> Chapter:
        """The chapter with an id; raises `CatalogueError`."""
        for chapter in self.chapters:
            if name == chapter.id:
                return chapter
        raise CatalogueError(f"there is no chapter {name!r}")


@functools.cache
def load() -> Catalogue:
    """The catalogue of this kit; raises `CatalogueError` where the file contradicts itself."""
    content = tomllib.loads((resources.files("fota_conformance") / DATA_NAME).read_text(encoding="utf-8"))
    catalogue = Catalogue(tuple(_chapter(table) for table in content["chapter"]))
    taken: set[str] = set()
    for requirement in catalogue.requirements:
        for name in (requirement.id, *requirement.aliases):
            if name in taken:
                raise CatalogueError(f"{name} is there twice")
            taken.add(name)
    return catalogue


def _chapter(table: dict[str, Any]) -> Chapter:
    return Chapter(
        id=table["id"],
        role=table["role"],
        title=table["title"],
        text=table["text"],
        requirements=tuple(_requirement(item, table) for item in table["requirement"]),
    )


def _requirement(item: dict[str, Any], chapter: dict[str, Any]) -> Requirement:
    lists: dict[str, Any] = {key: tuple(item.pop(key, ())) for key in ("handshake", "needs", "defects", "aliases")}
    try:
        return Requirement(
            chapter=chapter["id"],
            role=chapter["role"],
            keyword=Keyword(item.pop("keyword")),
            basis=Basis(item.pop("basis")),
            revision=item.pop("revision", ""),
            **lists,
            **item,
        )
    except (TypeError, ValueError) as error:
        raise CatalogueError(f"{item.get('id', 'a requirement')} of {chapter['id']}: {error}") from error
