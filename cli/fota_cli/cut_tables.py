"""What came of power cuts, as text for a terminal, as Markdown and as JSON: pure functions from figures."""

from collections.abc import Iterable, Iterator
from typing import Any, Final

from fota_simulator.powercut.promises import KINDS, PROMISES, Broken
from fota_simulator.powercut.run import CutReport
from fota_simulator.powercut.scenario import Scenario
from fota_simulator.powercut.verdict import FirstStart, Recovery

ROWS: Final = {
    "before": "before a command",
    "torn": "within a command",
    "after": "after a command",
    "wire": "at a byte on the wire",
}
"""Kinds of cuts, in words."""

_COLUMNS: Final = (*FirstStart, *Recovery)

_HEADS: Final = ("bootloader", "old", "new", "other", "bricked", "recovered", "by hand", "lost")
"""The columns, short enough for a terminal."""


def as_text(scenario: Scenario, images: str, report: CutReport, duration_s: float) -> str:
    """For a terminal."""
    clean, tally, settings = scenario.clean, report.tally, scenario.settings
    lines = [
        f"power cuts in an update of {scenario.part.name}, {images}: policy {settings.policy.value}, order "
        f"{settings.order.value}",
        f"  clean update  {clean.commands:,} flash commands, {clean.typical_s:.2f} s of them "
        f"({clean.maximum_s:.2f} s at most); {clean.wire_bytes:,} bytes on the wire",
        f"  cuts          {tally.cuts:,} in {tally.classes:,} classes, {duration_s:.1f} s",
        "",
        f"  {'the power fails':<24}{'first start':<58}next update",
        _line("", _HEADS),
    ]
    lines += [_line(name, (f"{n:,}" if n else "-" for n in numbers)) for name, numbers in _rows(report)]
    lines.append("")
    lines += [
        f"  first cut with {start.value!r}: {number} ({scenario.cut(number)})" for start, number in _firsts(report)
    ]
    lines += ["", *(f"  {line}" for line in _judgement(scenario, report))]
    return "\n".join(lines) + "\n"


def as_markdown(scenario: Scenario, images: str, report: CutReport, duration_s: float) -> str:
    """A section of a page."""
    del duration_s  # not the same twice
    clean, tally, settings = scenario.clean, report.tally, scenario.settings
    lines = [
        f"### `{settings.policy.value}`, `{settings.order.value}`",
        "",
        f"{scenario.part.name}, {images}: {clean.commands:,} flash commands and {clean.wire_bytes:,} bytes on the "
        f"wire, {tally.cuts:,} cuts in {tally.classes:,} classes.",
        "",
        "| the power fails | " + " | ".join(column.value for column in _COLUMNS) + " |",
        "| --- |" + " ---: |" * len(_COLUMNS),
    ]
    lines += [f"| {name} | " + " | ".join(f"{n:,}" if n else "-" for n in ns) + " |" for name, ns in _rows(report)]
    return "\n".join([*lines, "", *(f"- {line}" for line in _judgement(scenario, report)), ""])


def as_json(scenario: Scenario, images: str, report: CutReport, duration_s: float) -> dict[str, Any]:
    """An object; every number is a count of cuts unless its name says otherwise."""
    clean, tally, settings = scenario.clean, report.tally, scenario.settings
    return {
        "part": scenario.part.name,
        "images": images,
        "policy": settings.policy.value,
        "order": settings.order.value,
        "seed": scenario.seed,
        "flash_commands": clean.commands,
        "wire_bytes": clean.wire_bytes,
        "typical_s": round(clean.typical_s, 6),
        "maximum_s": round(clean.maximum_s, 6),
        "cuts": tally.cuts,
        "classes": tally.classes,
        "duration_s": round(duration_s, 3),
        "starts": {k: {start.value: tally.starts[k].get(start, 0) for start in FirstStart} for k in KINDS},
        "recoveries": {k: {how.value: tally.recoveries[k].get(how, 0) for how in Recovery} for k in KINDS},
        "first_cut": {start.value: number for start, number in _firsts(report)},
        "promises": [
            {"promise": promise.value, "broken_by": by, "first_cut": first}
            for promise, by, first in _promises(scenario, report)
        ],
        "sampled": report.sampled,
        "disagreements": [
            {"cut": d.cut, "merged": d.merged.start.value, "played": d.played.start.value} for d in report.disagreements
        ],
    }


def _rows(report: CutReport) -> Iterator[tuple[str, list[int]]]:
    """Each kind of cut and its numbers, then all of them."""
    tally = report.tally
    table = {
        kind: [tally.starts[kind].get(start, 0) for start in FirstStart]
        + [tally.recoveries[kind].get(how, 0) for how in Recovery]
        for kind in KINDS
    }
    for kind, numbers in table.items():
        yield ROWS[kind], numbers
    yield "all", [sum(column) for column in zip(*table.values(), strict=True)]


def _firsts(report: CutReport) -> list[tuple[FirstStart, int]]:
    return [(start, report.tally.first_of[start]) for start in FirstStart if start in report.tally.first_of]


def _promises(scenario: Scenario, report: CutReport) -> Iterator[tuple[Any, int, int | None]]:
    """Each promise of the policy, how many cuts broke it, and the first that did."""
    broken: dict[Any, Broken] = {found.promise: found for found in report.tally.broken}
    for promise in sorted(PROMISES[scenario.settings.policy], key=lambda promise: promise.value):
        found = broken.get(promise)
        yield promise, 0 if found is None else found.cuts, None if found is None else found.first


def _judgement(scenario: Scenario, report: CutReport) -> Iterator[str]:
    """What was promised and kept, and whether the sample agrees."""
    promises = list(_promises(scenario, report))
    if not promises:
        yield f"policy {scenario.settings.policy.value} promises nothing"
    for promise, by, first in promises:
        if first is None:
            yield f"promise kept: {promise.value}"
        else:
            yield f"PROMISE BROKEN by {by:,} cuts, the first is --cut {first} ({scenario.cut(first)}): {promise.value}"
    if report.disagreements:
        first = report.disagreements[0].cut
        yield (
            f"THE JUDGE IS WRONG: {len(report.disagreements)} of {report.sampled} cuts played one by one "
            f"disagree, the first is --cut {first} --seed {scenario.seed}"
        )
    else:
        yield f"sample: {report.sampled} cuts played one by one, all agree (seed {scenario.seed})"


def _line(name: str, cells: Iterable[str]) -> str:
    return f"  {name:<22}" + "".join(
        f"{cell:>{max(len(head), 8) + 2}}" for cell, head in zip(cells, _HEADS, strict=True)
    )
