"""The results of one run: as JSON for programs, as a table for people.

A run is judged twice over: case by case, and requirement by requirement, where a requirement has the worst verdict of
its cases that count. `results.json` is versioned: `format` and `version` name what a reader may rely on, and
`schemas/results-2.json` says it in full; keys are only added within one version.
"""

import dataclasses
import json
import os
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from fota_conformance import catalogue
from fota_conformance.catalogue import Requirement
from fota_conformance.target import DEVICE_CAPABILITIES, OPTIONAL, SERVER_CAPABILITIES, Role, Target
from fota_conformance.verdicts import EXIT_MEANINGS, Verdict, exit_code, worst

FORMAT: Final = "fota-conformance-results"
"""What the file says it is."""
VERSION: Final = 2
"""The version of its shape."""
EXCLUDED: Final = "EXCLUDED"
"""What stands in the place of a verdict where a case does not count."""
TABLE_WIDTH: Final = 110
"""Columns that long lines of the table are broken at."""

_UNKNOWN: Final = (Verdict.COULD_NOT_TEST, Verdict.HARNESS_ERROR)


SHOWN_ENTRIES: Final = 3
"""Cases of one requirement that the summary in the terminal tells about."""


@dataclass(frozen=True, slots=True)
class CaseResult:
    """One case: which, what it came to, why, and where its files are."""

    id: str
    """Stable: file, function, and the variant in brackets."""
    title: str
    """What it claims, with the variant."""
    role: str
    """Whose case it is: `server` or `device`."""
    chapter: str
    """The id of its chapter in the catalogue."""
    requirements: tuple[str, ...]
    """The ids of the requirements that it cites."""
    verdict: Verdict
    exclusion: str
    """Why the target file excludes it; empty for a case that counts."""
    duration_s: float
    started_s: float
    """Seconds from the run's begin to the case's."""
    message: str
    """Why it is not a PASS, of several lines; empty for a PASS."""
    files: str
    """Its folder, relative to the results; empty for none."""
    output: str = ""
    """What the kit's own code printed during the case."""

    @property
    def counts(self) -> bool:
        """Whether the run is judged by it."""
        return not self.exclusion

    @property
    def label(self) -> str:
        """The verdict in one word, or that there is none that counts."""
        return self.verdict.value if self.counts else EXCLUDED

    @property
    def summary(self) -> str:
        """The first line of the message."""
        return self.message.strip().partition("\n")[0].strip()

    def as_json(self) -> dict[str, Any]:
        """The shape of a case in `results.json`."""
        return dataclasses.asdict(self) | {
            "requirements": list(self.requirements),
            "verdict": self.verdict.value,
            "duration_s": round(self.duration_s, 3),
            "started_s": round(self.started_s, 3),
        }


@dataclass(frozen=True, slots=True)
class RequirementResult:
    """What one requirement came to in one run."""

    requirement: Requirement
    binds: bool
    """Whether the target must meet it."""
    cases: tuple[CaseResult, ...]
    """All cases that cite it, those that do not count among them."""

    @property
    def verdict(self) -> Verdict | None:
        """The worst of the cases that count; `None` if there are none.

        A case may cite several requirements. Where it fails, one that does not bind the target is NON-STRICT.
        """
        verdicts = [case.verdict for case in self.cases if case.counts]
        if not verdicts:
            return None
        found = worst(verdicts)
        return Verdict.NON_STRICT if found is Verdict.FAIL and not self.binds else found

    @property
    def excluded(self) -> int:
        """How many cases do not count."""
        return sum(not case.counts for case in self.cases)

    @property
    def duration_s(self) -> float:
        """Seconds of all its cases together."""
        return sum(case.duration_s for case in self.cases)

    @property
    def only_not_implemented(self) -> bool:
        """Whether no case that counts looked at it."""
        verdicts = {case.verdict for case in self.cases if case.counts}
        return verdicts == {Verdict.NOT_IMPLEMENTED}

    def as_json(self) -> dict[str, Any]:
        """The shape of a requirement in `results.json`."""
        requirement = self.requirement
        return {
            "id": requirement.id,
            "chapter": requirement.chapter,
            "role": requirement.role,
            "text": requirement.text,
            "keyword": requirement.keyword.value,
            "basis": requirement.basis.value,
            "revision": requirement.revision,
            "binds": self.binds,
            "verdict": self.verdict.value if self.verdict else None,
            "cases": [case.id for case in self.cases],
            "excluded": self.excluded,
            "duration_s": round(self.duration_s, 3),
        }


@dataclass(frozen=True, slots=True)
class RunResult:
    """All cases of one run against one target; `complete` unless the run was cut short or the kit broke down."""

    target: Target
    started: str
    """Date and time, ISO 8601, UTC."""
    duration_s: float
    cases: tuple[CaseResult, ...]
    complete: bool
    planned: tuple[str, ...] = ()
    """The ids of the requirements that were selected; a run that is cut short has cases of fewer."""
    notes: tuple[str, ...] = ()
    """What a reader of the results must know besides: an exclusion that has expired, for one."""

    @property
    def exit_code(self) -> int:
        """The exit code of the whole run."""
        return exit_code((case.verdict for case in self.cases if case.counts), whole=not self.shortfalls)

    def requirement_results(self) -> tuple[RequirementResult, ...]:
        """Every requirement that was selected or has a case, in the catalogue's order."""
        known = catalogue.load()
        cases: dict[str, list[CaseResult]] = {known.requirement(name).id: [] for name in self.planned}
        for case in self.cases:
            for id in {known.requirement(name).id: None for name in case.requirements}:
                cases.setdefault(id, []).append(case)
        return tuple(
            RequirementResult(requirement, requirement.binds(self.target.profile), tuple(cases[requirement.id]))
            for requirement in known.requirements
            if requirement.id in cases
        )

    @property
    def shortfalls(self) -> tuple[str, ...]:
        """What was not exercised, whatever the cases came to: a run with a shortfall is not well."""
        found = []
        if not self.complete:
            found.append(
                "the run is not complete: it was ended by its first failure (-x), interrupted, or the kit broke down"
            )
        if all(case.verdict is Verdict.NOT_IMPLEMENTED for case in self.cases if case.counts):
            found.append("nothing was judged")
        binding = [result for result in self.requirement_results() if result.binds]
        absent = [result.requirement.id for result in binding if not result.cases]
        if absent:
            found.append(f"MUSTs of which no case was played: {', '.join(absent)}")
        # What only some devices do at all, a device may lack: nothing binds it then.
        lacking = [
            result.requirement.id
            for result in binding
            if result.only_not_implemented and not OPTIONAL & self.target.lacks & {*result.requirement.needs}
        ]
        if lacking:
            found.append(f"MUSTs that came only to {Verdict.NOT_IMPLEMENTED.value}: {', '.join(lacking)}")
        return tuple(found)

    @property
    def remarks(self) -> tuple[str, ...]:
        """The notes of the run, and every excluded case that passes."""
        missed = {case.exclusion for case in self.cases if case.verdict is not Verdict.PASS}
        return self.notes + tuple(
            f"{case.id}: excluded ({case.exclusion}), but passes: "
            f"{'narrow' if case.exclusion in missed else 'drop'} the exclusion"
            for case in self.cases
            if not case.counts and case.verdict is Verdict.PASS
        )

    def by_chapter(self) -> dict[str, list[CaseResult]]:
        """The cases by role and title of their chapter, in the catalogue's order."""
        known = {chapter.id: chapter for chapter in catalogue.load().chapters}
        order = list(known)
        found: dict[str, list[CaseResult]] = {}
        for case in sorted(self.cases, key=lambda case: order.index(case.chapter) if case.chapter in known else -1):
            title = known[case.chapter].title if case.chapter in known else case.chapter
            found.setdefault(f"{case.role}: {title}" if case.chapter else "of no chapter", []).append(case)
        return found

    def as_json(self) -> dict[str, Any]:
        """The shape of `results.json`."""
        results = self.requirement_results()
        capabilities = DEVICE_CAPABILITIES if self.target.role is Role.DEVICE else SERVER_CAPABILITIES
        return {
            "format": FORMAT,
            "version": VERSION,
            "kit": metadata.version("k60-fota"),
            "target": {
                "name": self.target.name,
                "file": str(self.target.path),
                "kind": self.target.kind.value,
                "role": self.target.role.value,
                "revision": self.target.revision.value,
                "handshake": self.target.handshake.value,
                "profile": self.target.profile,
                "scale": self.target.scale,
                "capabilities": {name: name in self.target.offers for name in capabilities},
            },
            "started": self.started,
            "duration_s": round(self.duration_s, 3),
            "complete": self.complete,
            "exit_code": self.exit_code,
            "summary": _count(self.cases),
            "shortfalls": list(self.shortfalls),
            "notes": list(self.remarks),
            "chapters": [
                {"id": chapter.id, "role": chapter.role, "title": chapter.title}
                for chapter in catalogue.load().chapters
                if any(result.requirement.chapter == chapter.id for result in results)
            ],
            "requirements": [result.as_json() for result in results],
            "cases": [case.as_json() for case in self.cases],
        }

    def table(self, verbose: bool = False) -> list[str]:
        """The lines of the summary in the terminal: counts by chapter, what is no plain PASS, what follows from it.

        `verbose` shows every case.
        """
        target = self.target
        profile = f", profile {target.profile}" if target.profile else ""
        about = f"{target.kind.value}, revision {target.revision.value}, {target.handshake.value}{profile}"
        lines = [f"{target.name} ({about})", ""]
        for heading, cases in self.by_chapter().items():
            seconds = sum(case.duration_s for case in cases)
            lines.append(f"{heading:<38} {_counts(cases)}  ({seconds:.1f} s)")
            for case in cases:
                if verbose or case.label != Verdict.PASS.value:
                    lines.append(f"  {case.label:<15} {case.title}  ({case.duration_s:.2f} s)")
        counted = [case for case in self.cases if case.counts]
        lines += _section("what failed", (case for case in counted if case.verdict is Verdict.FAIL))
        lines += _section("what could not be tested", (case for case in counted if case.verdict in _UNKNOWN))
        lines += _section("what is not strict", (case for case in counted if case.verdict is Verdict.NON_STRICT))
        for title, texts in (("what is missing", self.shortfalls), ("notes", self.remarks)):
            if texts:
                lines += ["", f"{title}:", *(line for text in texts for line in _wrapped(text))]
        return [*lines, "", _counts(self.cases), f"exit code {self.exit_code}: {EXIT_MEANINGS[self.exit_code]}"]


def write_json(result: RunResult, path: Path) -> None:
    """Write `results.json`, whole or not at all."""
    write_whole(path, json.dumps(result.as_json(), indent=2) + "\n")


def write_whole(path: Path, text: str) -> None:
    """Write a text file, whole or not at all; what UTF-8 cannot hold becomes a question mark."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text(text, encoding="utf-8", errors="replace")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _count(cases: Iterable[CaseResult]) -> dict[str, int]:
    """How many cases have which label; all labels are there."""
    counts = Counter(case.label for case in cases)
    return {label: counts[label] for label in (*(verdict.value for verdict in Verdict), EXCLUDED)}


def _counts(cases: Iterable[CaseResult]) -> str:
    return ", ".join(f"{count} {label}" for label, count in _count(cases).items() if count) or "no cases"


def _section(title: str, cases: Iterable[CaseResult]) -> Iterator[str]:
    """Cases by requirement, with why; those that have the same to say share an entry."""
    groups: dict[tuple[str, ...], dict[str, list[CaseResult]]] = {}
    for case in cases:
        groups.setdefault(case.requirements, {}).setdefault(case.summary, []).append(case)
    if groups:
        yield from ("", f"{title}:")
    for requirements, by_summary in groups.items():
        yield from _wrapped(" ".join(requirements) or "no requirement")
        entries = list(by_summary.items())
        for summary, alike in entries[:SHOWN_ENTRIES]:
            others = f" and {len(alike) - 1} more" if len(alike) > 1 else ""
            yield f"    {alike[0].id}{others}"
            yield f"      {summary}"
            came = next((line.strip() for line in alike[0].message.splitlines() if line.startswith("  came: ")), "")
            yield from _wrapped(came, "      ")
        if len(entries) > SHOWN_ENTRIES:
            left_out = sum(len(alike) for _, alike in entries[SHOWN_ENTRIES:])
            yield f"    … and {left_out} more, see the results"


def _wrapped(text: str, indent: str = "  ") -> list[str]:
    return textwrap.wrap(
        text, TABLE_WIDTH, initial_indent=indent, subsequent_indent=indent + "  ", break_long_words=False
    )
