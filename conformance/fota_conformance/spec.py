"""The spec as a page of text: the catalogue, and beside each requirement the cases that judge it."""

from collections import Counter
from collections.abc import Iterator
from typing import Final

from fota_conformance.catalogue import Basis, Catalogue, Chapter, Requirement
from fota_conformance.citations import Citation, citations

BASES: Final = {
    Basis.SEED: "the document of the first revision, or the firmware and clients that talked to its server",
    Basis.REV_B: "the second revision",
    Basis.SAFETY: "survives, right image, no effect across sessions, nothing corrupt sent or kept",
    Basis.PROJECT: "decided by this project",
}
"""What each basis means."""

HEAD: Final = """\
# FOTA for K60: the spec

Requirements that a server or a device meets or does not, each with an id that never changes. The protocol itself, with
its reasons, is in [protocol.md](protocol.md), to whose sections the requirements point. This page is made from the
catalogue, `conformance/fota_conformance/catalogue.toml`, by `python docs/generate.py`; `fota conformance list --json`
prints the same for programs.

**MUST** and **SHOULD** are meant as in RFC 2119. Each requirement has a basis, which says whom it binds:

"""


def render(catalogue: Catalogue) -> str:
    """The page, as Markdown."""
    cases = citations()
    lines = [HEAD + "| basis | where it comes from | binds |\n| --- | --- | --- |\n"]
    for basis, meaning in BASES.items():
        whom = "targets of the profile `k60-fota`; elsewhere a departure is `NON-STRICT`"
        lines.append(f"| {basis.value} | {meaning} | {whom if basis is Basis.PROJECT else 'everyone it concerns'} |\n")
    lines.append("\n## Coverage\n\n" + "".join(_coverage(catalogue, cases)))
    for role, title in (("server", "Servers"), ("device", "Devices")):
        lines.append(f"\n## {title}\n")
        for chapter in catalogue.chapters:
            if chapter.role == role:
                lines += _chapter(chapter, cases)
    return "".join(lines)


def _coverage(catalogue: Catalogue, cases: tuple[Citation, ...]) -> Iterator[str]:
    yield "| chapter | requirements | MUST | SHOULD | MAY | cases | without a case |\n"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: |\n"
    total: Counter[str] = Counter()
    for chapter in catalogue.chapters:
        names = {name for one in chapter.requirements for name in (one.id, *one.aliases)}
        cited = {name for one in cases for name in one.requirements}
        row = Counter(one.keyword.value for one in chapter.requirements)
        row["requirements"] = len(chapter.requirements)
        row["cases"] = sum(bool(names & set(one.requirements)) for one in cases)
        row["open"] = sum(not cited & {one.id, *one.aliases} for one in chapter.requirements)
        total += row
        yield _row(f"{chapter.role}: {chapter.title}", row)
    yield _row("all", total)


def _row(name: str, row: Counter[str]) -> str:
    numbers = [row[key] for key in ("requirements", "MUST", "SHOULD", "MAY", "cases", "open")]
    return f"| {name} | " + " | ".join(str(number) for number in numbers) + " |\n"


def _chapter(chapter: Chapter, cases: tuple[Citation, ...]) -> Iterator[str]:
    yield f"\n### {chapter.role.capitalize()}: {chapter.title}\n\n{chapter.text}\n"
    for requirement in chapter.requirements:
        yield "".join(_requirement(requirement, cases))


def _requirement(requirement: Requirement, cases: tuple[Citation, ...]) -> Iterator[str]:
    yield f'\n#### <a id="{requirement.id}"></a>{requirement.id}\n\n'
    yield f"**{requirement.keyword.value}.** {requirement.text}\n\n"
    facts = [f"basis: {requirement.basis.value}"]
    if requirement.revision:
        facts.append(f"revision {requirement.revision} only")
    if requirement.handshake:
        facts.append("handshake " + " or ".join(requirement.handshake))
    if requirement.needs:
        facts.append("needs " + ", ".join(f"`{need}`" for need in requirement.needs))
    if requirement.defects:
        facts.append("broken by the reference server: " + ", ".join(requirement.defects))
    facts.append(f"[protocol {requirement.see}](protocol.md)")
    if requirement.aliases:
        facts.append("formerly " + ", ".join(requirement.aliases))
    yield " · ".join(facts) + "\n\n"
    names = {requirement.id, *requirement.aliases}
    for one in cases:
        if names & set(one.requirements):
            yield f"- `{one.case}`: {one.claim}\n"
