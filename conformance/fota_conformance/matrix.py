"""Requirements by targets: the results of several runs as one HTML page that needs nothing else.

A pure function from results to text, but for wire logs, which are read from the folders of the runs. Every piece of
text from outside is escaped where it enters the page, and the page's policy lets a browser run our script alone and
fetch nothing. Without scripts the cells are links to the cases, which open by themselves; with them they open a panel.
"""

import base64
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from fota_conformance import catalogue
from fota_conformance.errors import ResultsError
from fota_conformance.results import EXCLUDED, FORMAT, VERSION, write_whole
from fota_conformance.verdicts import EXIT_FAILED, EXIT_MEANINGS, EXIT_WELL, Verdict

RESULTS_NAME: Final = "results.json"
"""The results of a run, in its folder."""
SCHEMA_NAME: Final = "schemas/results-2.json"
"""What they must look like, in this package."""
WIRE_LOG_NAME: Final = "wire.log"
"""A case's wire log, in its folder."""
HEAD_LINES: Final = 40
"""Lines of a wire log's beginning that the page shows."""
TAIL_LINES: Final = 80
"""Lines of a wire log's end that the page shows."""
LINE_CHARACTERS: Final = 220
"""Characters of one line that the page shows."""
TEXT_CHARACTERS: Final = 12_000
"""Characters of one message or output that the page shows."""
LOGS_BYTES: Final = 3_500_000
"""Wire logs on one page, in all; beyond that only the files have them, of cases that pass first."""
OTHER_ROLE: Final = "\N{EN DASH}"
"""What stands in the cell of a target that has the other role."""

MEANINGS: Final = {
    Verdict.PASS: "The target did what the case demands.",
    Verdict.NOT_IMPLEMENTED: "The target declares that it lacks what the case is about.",
    Verdict.NON_STRICT: "The target departs from a requirement that does not bind it.",
    Verdict.COULD_NOT_TEST: "The target did not start, or does not show what the case must look at.",
    Verdict.HARNESS_ERROR: "The kit itself failed; nothing is known about the target.",
    Verdict.FAIL: "The target did something else than the case demands.",
}
"""What the verdicts mean, for the legend."""

_FACT: Final = re.compile(r"  (\w[\w ]{0,20}):\s+(.*)")
_REQUIREMENT: Final = re.compile(r"  FOTA-\S+ \(.*\): .*")
_CODE: Final = re.compile(r"`([^`]+)`")
_LOG_FOLLOWS: Final = "wire log ("
_FOLDER_FOLLOWS: Final = "everything of this case:"


@dataclass(frozen=True, slots=True)
class Run:
    """The results of one run, and the folder that they are in."""

    results: Mapping[str, Any]
    folder: Path

    @property
    def role(self) -> str:
        """What its target is."""
        role: str = self.results["target"]["role"]
        return role

    @property
    def style(self) -> str:
        """Its exit code as a CSS class."""
        return {EXIT_WELL: "well", EXIT_FAILED: "ill"}.get(self.results["exit_code"], "unsure")


def read_run(folder: Path) -> Run:
    """Read the results in a folder; raises `ResultsError` where there are none of this version."""
    path = folder / RESULTS_NAME
    try:
        results = json.loads(path.read_bytes())
    except OSError as error:
        raise ResultsError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise ResultsError(f"{path}: is not JSON: {error}") from error
    found = (results.get("format"), results.get("version")) if isinstance(results, dict) else (None, None)
    if found != (FORMAT, VERSION):
        raise ResultsError(f"{path}: expected {FORMAT} of version {VERSION}, got {found[0]} of version {found[1]}")
    for where, table, keys in _tables(results):
        missing = [key for key in keys if not isinstance(table, dict) or key not in table]
        if missing:
            raise ResultsError(f"{path}: {where}: expected {', '.join(missing)}, as {SCHEMA_NAME} says")
    return Run(results, folder)


def _tables(results: Mapping[str, Any]) -> Iterator[tuple[str, Any, Sequence[str]]]:
    """The tables of a results file: what each is, the table, and the keys that it must have."""
    schema = json.loads(_asset(SCHEMA_NAME))
    yield "the file", results, schema["required"]
    yield "target", results["target"], schema["properties"]["target"]["required"]
    for name in ("chapters", "requirements", "cases"):
        items = schema["properties"][name]["items"]
        keys = schema["$defs"][items["$ref"].rpartition("/")[2]]["required"] if "$ref" in items else items["required"]
        yield from ((f"{name}[{index}]", table, keys) for index, table in enumerate(results[name]))


def write_matrix(folders: Sequence[Path], path: Path) -> None:
    """Write the page about the runs in some folders, whole or not at all; raises `ResultsError`."""
    write_whole(path, render_matrix([read_run(folder) for folder in folders], path.parent))


def render_matrix(runs: Sequence[Run], beside: Path) -> str:
    """The page's text. Its links to whole wire logs are relative to the folder `beside`."""
    style, script = (_asset(name) for name in ("matrix.css", "matrix.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    headline = _headline(runs)
    styles = {run.style for run in runs}
    look = next(style for style in ("ill", "unsure", "well") if style in styles or style == "well")
    return (
        "<!DOCTYPE html>\n"
        '<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
        f"<title>FOTA conformance: {_e(headline)}</title><style>{style}</style></head>\n"
        f'<body><header class="{look}"><p>FOTA conformance</p><h1>{_e(headline)}</h1></header>\n<main>\n'
        f'<div class="cards">{"".join(_card(run) for run in runs)}</div>\n'
        f"{_controls(runs)}\n{_table(runs)}\n{_cases(runs, beside)}\n{_legend()}\n</main>\n"
        '<dialog id="panel" aria-labelledby="panel-title"><header><h2 id="panel-title"></h2>'
        '<button id="previous" type="button">previous problem</button>'
        '<button id="next" type="button">next problem</button><button id="close" type="button" autofocus>Close</button>'
        '</header><div id="panel-body"></div></dialog>\n'
        f"<script>{script}</script></body></html>\n"
    )


def _asset(name: str) -> str:
    return (resources.files("fota_conformance") / name).read_text(encoding="utf-8")


def _headline(runs: Sequence[Run]) -> str:
    """All runs in one sentence."""
    if len(runs) == 1:
        name = runs[0].results["target"]["name"]
        return {
            "well": f"{name} conforms",
            "ill": f"{name} does not conform",
            "unsure": f"{name} could not be tested in full",
        }[runs[0].style]
    styles = [run.style for run in runs]
    parts = [f"{styles.count('well')} of {len(runs)} targets conform"]
    if "ill" in styles:
        parts.append(f"{styles.count('ill')} not")
    if "unsure" in styles:
        parts.append(f"{styles.count('unsure')} could not be tested in full")
    return ", ".join(parts)


# --- targets ----------------------------------------------------------------------------------------------------------


def _card(run: Run) -> str:
    """The facts of one run."""
    results, target = run.results, run.results["target"]
    counts = {label: count for label, count in results["summary"].items() if count}
    binding = [item for item in results["requirements"] if item["binds"]]
    met = sum(item["verdict"] == Verdict.PASS.value for item in binding)
    lacks = [name for name, has in target["capabilities"].items() if not has]
    facts = {
        "target": f"{target['kind']}, revision {target['revision']}, {target['handshake']}",
        "profile": target["profile"] or "none",
        "MUSTs met": f"{met} of {len(binding)}",
        "cases": f"{len(results['cases'])} in {_seconds(results['duration_s'])}",
        "lacks": ", ".join(lacks),
        "scale": "" if target["scale"] == 1 else f"{target['scale']:g}",
        "when": results["started"].replace("T", " ").replace("+00:00", " UTC"),
        "kit": f"k60-fota {results['kit']}",
    }
    bar = "".join(f'<span class="{_class(label)}" style="flex-grow:{count}"></span>' for label, count in counts.items())
    chips = "".join(f"<li>{_chip(label, f'{count} {label}')}</li>" for label, count in counts.items())
    code = results["exit_code"]
    return (
        f'<section class="card {run.style}"><h2>{_e(target["name"])}</h2>'
        f"<p>exit code {code}: {EXIT_MEANINGS[code]}</p>"
        f'<div class="bar" aria-hidden="true">{bar}</div><ul class="counts">{chips}</ul>'
        f"<dl>{_facts(facts)}</dl>"
        f"{_list('What is missing', results['shortfalls'])}{_list('Notes', results['notes'])}</section>"
    )


def _list(title: str, lines: Sequence[str]) -> str:
    if not lines:
        return ""
    items = "".join(f"<li>{_e(line)}</li>" for line in lines)
    return f"<details><summary>{title} ({len(lines)})</summary><ul>{items}</ul></details>"


def _controls(runs: Sequence[Run]) -> str:
    roles = dict.fromkeys(run.role for run in runs)
    options = "".join(f'<option value="{_e(role)}">{_e(role)}s only</option>' for role in roles)
    return (
        '<form id="controls" hidden><input id="search" type="search" placeholder="Search requirements and cases" '
        'aria-label="Search requirements and cases"><label><input id="not-pass" type="checkbox"> '
        "only what is not PASS</label>"
        f'<select id="role" aria-label="Role"{"" if len(roles) > 1 else " hidden"}>'
        f'<option value="">servers and devices</option>{options}</select>'
        '<span id="shown" role="status"></span></form>'
    )


# --- the matrix -------------------------------------------------------------------------------------------------------


def _table(runs: Sequence[Run]) -> str:
    columns = "".join(
        f'<th scope="col"><b>{_e(run.results["target"]["name"])}</b><small>revision '
        f"{_e(run.results['target']['revision'])}, {_e(run.results['target']['handshake'])}<br>"
        f"exit code {run.results['exit_code']}</small></th>"
        for run in runs
    )
    by_run = [{item["id"]: item for item in run.results["requirements"]} for run in runs]
    labels = [{case["id"]: (number, _label(case)) for number, case in enumerate(run.results["cases"])} for run in runs]
    bodies = []
    for chapter in _chapters(runs):
        rows = []
        for id, item in _requirements(runs, chapter["id"]).items():
            cells = [
                _cell(f"t{index}", run, id, found.get(id), chapter["role"], labels[index])
                for index, (run, found) in enumerate(zip(runs, by_run, strict=True))
            ]
            found_here = [found[id] for found in by_run if id in found]
            well = ' data-well=""' if all(one["verdict"] == Verdict.PASS.value for one in found_here) else ""
            revision = f", revision {item['revision']}" if item["revision"] else ""
            rows.append(
                f'<tr id="{_e(id)}" data-role="{_e(item["role"])}"{well}><th scope="row">'
                f'<a class="id" href="#{_e(id)}">{_e(id)}</a>'
                f'<span class="basis">{_e(item["keyword"])} · {_e(item["basis"])}{_e(revision)}</span>'
                f'<p class="text">{_prose(item["text"])}</p></th>{"".join(cells)}</tr>'
            )
        shares = "".join(f"<td>{_share(run, chapter['id'])}</td>" for run in runs)
        bodies.append(
            f'<tbody><tr class="chapter"><th scope="rowgroup"><span class="role {_e(chapter["role"])}">'
            f"{_e(chapter['role'])}</span>{_e(chapter['title'])}</th>"
            f"{shares}</tr>{''.join(rows)}</tbody>"
        )
    return (
        f'<div class="wide"><table id="matrix"><thead><tr><th scope="col">Requirement</th>{columns}</tr></thead>'
        f"{''.join(bodies)}</table></div>"
        '<p id="nothing" class="hint" hidden>No requirement is like that.</p>'
    )


def _share(run: Run, chapter: str) -> str:
    """How much of a chapter is well, as text."""
    verdicts = [item["verdict"] for item in run.results["requirements"] if item["chapter"] == chapter]
    return f"{verdicts.count(Verdict.PASS.value)} of {len(verdicts)} PASS" if verdicts else ""


def _chapters(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """All chapters of all runs, in this kit's order; those that it does not know come last."""
    order = {chapter.id: index for index, chapter in enumerate(catalogue.load().chapters)}
    found = {chapter["id"]: chapter for run in runs for chapter in run.results["chapters"]}
    return sorted(found.values(), key=lambda chapter: order.get(chapter["id"], len(order)))


def _requirements(runs: Sequence[Run], chapter: str) -> dict[str, dict[str, Any]]:
    """The requirements of one chapter that any run has, by id, in this kit's order."""
    order = {requirement.id: index for index, requirement in enumerate(catalogue.load().requirements)}
    found = {
        item["id"]: item for run in reversed(runs) for item in run.results["requirements"] if item["chapter"] == chapter
    }
    return dict(sorted(found.items(), key=lambda item: order.get(item[0], len(order))))


def _cell(
    target: str, run: Run, id: str, item: Mapping[str, Any] | None, role: str, cases: Mapping[str, tuple[int, str]]
) -> str:
    if item is None or not item["cases"]:
        text = "no case" if run.role == role else f'<span title="it is a {_e(run.role)}">{OTHER_ROLE}</span>'
        return f'<td class="none">{text}</td>'
    label = item["verdict"] or EXCLUDED
    # The worst first: where there are no scripts, that is where the link goes.
    played = sorted((cases[name] for name in item["cases"] if name in cases), key=lambda case: _rank(case[1]))
    notes = [_seconds(item["duration_s"])]
    if item["excluded"] and item["verdict"]:
        notes.append(f"{item['excluded']} excluded")
    if not item["binds"]:
        notes.append("not binding")
    numbers = " ".join(f"{target}c{number}" for number, _ in played)
    return (
        f'<td class="cell {_class(label)}"><a id="{target}-{_e(id)}" href="#{numbers.partition(" ")[0]}" '
        f'data-cases="{numbers}" class="{_class(label)}"><span class="verdict">{_e(label)}</span> '
        f"<small>{_e(' · '.join(notes))}</small></a></td>"
    )


# --- cases ------------------------------------------------------------------------------------------------------------


def _cases(runs: Sequence[Run], beside: Path) -> str:
    logs = _Logs(beside)
    # Those that matter first, as long as there is room.
    jobs = [
        (_rank(_label(case)), index, number)
        for index, run in enumerate(runs)
        for number, case in enumerate(run.results["cases"])
    ]
    found = {
        (index, number): logs.excerpt(runs[index], runs[index].results["cases"][number])
        for _, index, number in sorted(jobs)
    }
    sections = []
    for index, run in enumerate(runs):
        cases = "".join(
            _case(f"t{index}c{number}", run, case, found[index, number])
            for number, case in enumerate(run.results["cases"])
        )
        sections.append(f"<section><h2>{_e(run.results['target']['name'])}</h2>{cases}</section>")
    return f'<div id="cases"><h2>All cases</h2>{"".join(sections)}</div>'


def _case(id: str, run: Run, case: Mapping[str, Any], log: str) -> str:
    label = _label(case)
    why, _ = _split(case["message"])
    links = ", ".join(f'<a href="#{_e(name)}">{_e(name)}</a>' for name in case["requirements"])
    exclusion = case["exclusion"] and f"{case['exclusion']} (the case came to {case['verdict']})"
    facts = (
        f"<dt>case</dt><dd><code>{_e(case['id'])}</code></dd><dt>cites</dt><dd>{links or 'nothing'}</dd>"
        f"<dt>began</dt><dd>{case['started_s']:.1f} s after the run</dd>{_facts({'excluded': exclusion})}"
    )
    output = f"<h3>Output of the kit</h3><pre>{_e(_cut(case['output']))}</pre>" if case["output"].strip() else ""
    well = ' data-well=""' if label == Verdict.PASS.value else ""
    return (
        f'<details class="case" data-role="{_e(run.role)}" data-id="{_e(case["id"])}"{well}><summary>'
        f'{_chip(label, label)}<span class="title">{_prose(case["title"])}</span>'
        f'<small>{_seconds(case["duration_s"])}</small></summary><div id="{id}">{_message(why)}'
        f"<dl>{facts}</dl>{log}{output}</div></details>"
    )


def _split(message: str) -> tuple[list[str], list[str]]:
    """The lines of a message, and those of the wire log that it quotes."""
    lines = [line for line in message.splitlines() if not line.startswith(_FOLDER_FOLLOWS)]
    for index, line in enumerate(lines):
        if line.startswith(_LOG_FOLLOWS):
            return lines[:index], lines[index + 1 :]
    return lines, []


def _message(lines: Sequence[str]) -> str:
    """Why a case is no PASS: its first line, what was sent and came, and whatever else there is."""
    if not lines:
        return ""
    # The page has the requirements' texts already.
    more = [line for line in lines[1:] if not _REQUIREMENT.fullmatch(line)]
    matches = [_FACT.fullmatch(line) for line in more]
    facts = "".join(f"<dt>{_e(match[1])}</dt><dd>{_e(_cut(match[2]))}</dd>" for match in matches if match)
    rest = "\n".join(line for line, match in zip(more, matches, strict=True) if not match).strip("\n")
    return (
        f'<p class="why">{_e(_cut(lines[0]))}</p>'
        + (f'<dl class="bytes">{facts}</dl>' if facts else "")
        + (f"<pre>{_e(_cut(rest))}</pre>" if rest else "")
    )


class _Logs:
    """Excerpts of wire logs, until the page has as many as it can hold."""

    def __init__(self, beside: Path) -> None:
        self._beside = beside
        self._left = LOGS_BYTES

    def excerpt(self, run: Run, case: Mapping[str, Any]) -> str:
        """A case's wire log as far as the page shows it, and where the whole of it is."""
        _, quoted = _split(case["message"])
        path = run.folder / case["files"] / WIRE_LOG_NAME
        inside = bool(case["files"]) and path.resolve().is_relative_to(run.folder.resolve())
        try:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if inside else []
        except OSError:
            lines = []
        where = ""
        if lines:
            relative = os.path.relpath(path.resolve(), self._beside.resolve())
            where = f' The whole log: <a href="{_e(quote(os.fsencode(relative)))}">{_e(relative)}</a>.'
        shown = lines or quoted
        if not shown:
            return '<p class="hint">There is no wire log.</p>'
        left_out = len(shown) - HEAD_LINES - TAIL_LINES
        if left_out > 0:
            shown = [*shown[:HEAD_LINES], f"… {left_out} lines left out", *shown[-TAIL_LINES:]]
        text = "\n".join(_line(line) for line in shown)
        if len(text) > self._left:
            return f'<h3>Wire log</h3><p class="hint">Left out, as this page would be too large.{where}</p>'
        self._left -= len(text)
        count = f"{HEAD_LINES + TAIL_LINES} of {len(lines or quoted)} lines." if left_out > 0 else ""
        hint = f'<p class="hint">{count}{where}</p>' if count or where else ""
        return f"<h3>Wire log</h3><pre>{text}</pre>{hint}"


def _line(line: str) -> str:
    """One line of a wire log, coloured by its direction."""
    text = _e(line if len(line) <= LINE_CHARACTERS else line[:LINE_CHARACTERS] + "…")
    for arrow, tag in (("  S -> D  ", "i"), ("  D -> S  ", "b")):
        if arrow in line[:24]:
            return f"<{tag}>{text}</{tag}>"
    return f"<u>{text}</u>"


# --- pieces -----------------------------------------------------------------------------------------------------------


def _legend() -> str:
    items = "".join(
        f"<dt>{_chip(verdict.value, verdict.value)}</dt><dd>{escape(text)}</dd>" for verdict, text in MEANINGS.items()
    )
    return (
        '<details id="legend" class="box"><summary>What the verdicts mean</summary><p>A requirement has the worst '
        "verdict of its cases that count. Where a case that cites several fails, those that do not bind the target are "
        f"NON-STRICT.</p><dl>{items}<dt>{_chip(EXCLUDED, EXCLUDED)}</dt><dd>The target file says why it does not count."
        f"</dd><dt>{OTHER_ROLE}</dt><dd>The target has the other role.</dd></dl></details>"
    )


def _facts(facts: Mapping[str, str]) -> str:
    return "".join(f"<dt>{_e(name)}</dt><dd>{_e(value)}</dd>" for name, value in facts.items() if value)


def _chip(label: str, text: str) -> str:
    return f'<span class="chip {_class(label)}"><span class="verdict">{_e(text)}</span></span>'


def _label(case: Mapping[str, Any]) -> str:
    """The verdict, or that it does not count."""
    label: str = EXCLUDED if case["exclusion"] else case["verdict"]
    return label


def _class(label: str) -> str:
    """A label as a CSS class; only known ones, whatever the file says."""
    known = {*(verdict.value for verdict in Verdict), EXCLUDED}
    return label.lower() if label in known else "none"


def _rank(label: str) -> int:
    """0 for the worst."""
    order = [verdict.value for verdict in reversed(Verdict)]
    return order.index(label) if label in order else len(order)


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:,.0f} s" if seconds < 600 else f"{seconds / 60:,.0f} min"


def _cut(text: str) -> str:
    if len(text) <= TEXT_CHARACTERS:
        return text
    return f"{text[:TEXT_CHARACTERS]}… and {len(text) - TEXT_CHARACTERS:,} characters more"


def _prose(text: str) -> str:
    """One sentence of ours, in which backticks mark code."""
    return _CODE.sub(r"<code>\1</code>", _e(text))


def _e(text: object) -> str:
    """Escaped, and without the characters that HTML cannot hold."""
    return escape("".join(c if c >= " " or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in str(text)))
