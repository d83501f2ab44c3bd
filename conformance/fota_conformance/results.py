"""The results of one run: as JSON for programs, as a table for people.

`results.json` is versioned: `format` and `version` name what a reader may rely on; keys are only added within one.
"""

import dataclasses
import json
import os
from collections import Counter
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from fota_conformance.target import Target
from fota_conformance.verdicts import EXIT_UNTESTED, EXIT_WELL, Verdict, exit_code

FORMAT: Final = "fota-conformance-results"
"""What the file says it is."""
VERSION: Final = 1
"""The version of its shape."""


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
        code = exit_code(case.verdict for case in self.cases)
        return EXIT_UNTESTED if code == EXIT_WELL and not self.complete else code

    def as_json(self) -> dict[str, Any]:
        """The shape of `results.json`."""
        counts = Counter(case.verdict for case in self.cases)
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
                "scale": self.target.scale,
            },
            "started": self.started,
            "duration_s": round(self.duration_s, 3),
            "complete": self.complete,
            "exit_code": self.exit_code,
            "summary": {verdict.value: counts[verdict] for verdict in Verdict},
            "cases": [
                dataclasses.asdict(case)
                | {
                    "requirements": list(case.requirements),
                    "verdict": case.verdict.value,
                    "duration_s": round(case.duration_s, 3),
                    "started_s": round(case.started_s, 3),
                }
                for case in self.cases
            ],
        }

    def table(self) -> list[str]:
        """The lines of the summary in the terminal."""
        target = self.target
        about = f"{target.name} ({target.kind.value}, revision {target.revision.value}, {target.handshake.value})"
        lines = [about, ""]
        chapter = ""
        for case in self.cases:
            if case.chapter != chapter:
                chapter = case.chapter
                lines.append(f"{case.role}: {chapter}")
            lines.append(f"  {case.verdict.value:<15} {case.title}  ({case.duration_s:.2f} s)")
        counts = Counter(case.verdict for case in self.cases)
        lines += ["", ", ".join(f"{counts[verdict]} {verdict.value}" for verdict in Verdict if counts[verdict])]
        if not self.complete:
            lines.append("the run is not complete: it was interrupted, or the kit broke down")
        return lines


def write_json(result: RunResult, path: Path) -> None:
    """Write `results.json`, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(json.dumps(result.as_json(), indent=2) + "\n", encoding="utf-8")
    draft.replace(path)
