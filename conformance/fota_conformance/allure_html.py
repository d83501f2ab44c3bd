"""Allure's report as one page that needs no network, from the results of one run or of several.

The page is made by npm's `allure` (Allure 3). It is handed a tidied copy of the results: pytest's fixtures and
tracebacks say nothing about a target, and the folders of this machine are nobody's business. What comes out is freed of
the script that would report its readers, checked for anything else that a browser would fetch, and accompanied by
`spec.html`, the catalogue, to which the cases' links point. The results themselves are only read.
"""

import html
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from fota_conformance import catalogue, errors
from fota_conformance.catalogue import Chapter, Requirement
from fota_conformance.errors import ConformanceError
from fota_conformance.reporting import CATEGORIES, read_environment, write_environment, write_executor
from fota_conformance.run import ALLURE_RESULTS

ALLURE_VERSION: Final = "3.18.0"
"""The version of npm's `allure` that is installed where there is none."""
NODE_MAJOR: Final = 20
"""The oldest Node.js that this version was seen to run on."""
INSTALL_TIMEOUT: Final = 600.0
"""Seconds for npm to install `allure`: 160 packages, 53 MB."""
GENERATE_TIMEOUT: Final = 600.0
"""Seconds for the report; a thousand cases take a few."""
HISTORY_LIMIT: Final = 50
"""Runs that a history keeps."""
SPEC_NAME: Final = "spec.html"
"""The catalogue, beside the report; the address of a requirement is `spec.html#FOTA-…`."""
HIDDEN_LABELS: Final = ("framework", "host", "language", "package", "thread")
"""Labels about how the cases ran, and not about what they say."""

_ANALYTICS: Final = re.compile(
    r"<script[^>]*\bsrc=\"https://www\.googletagmanager\.com/[^>]*>\s*</script>\s*"
    r"(?:<script>(?:(?!</script>).)*\bgtag\((?:(?!</script>).)*</script>\s*)?",
    re.DOTALL,
)
_OUTSIDE: Final = re.compile(
    r"<(?:script|link|img|iframe|object|embed)\b[^>]*?\b(?:src|href|data)=[\"']?(?:https?:)?//[^>]*", re.IGNORECASE
)
_NOWHERE: Final = "https://requirements.invalid/"
"""Stands before the addresses of requirements while Allure has them: it shows those of the web alone."""
_LOCAL_LINKS: Final = f"""<script>
new MutationObserver(() => {{
  for (const link of document.querySelectorAll('a[href^="{_NOWHERE}"]'))
    link.setAttribute("href", link.getAttribute("href").slice({len(_NOWHERE)}));
}}).observe(document, {{ childList: true, subtree: true, attributeFilter: ["href"] }});
</script>
"""
"""Makes them links to the page beside the report again."""
_INSTALLED: Final = re.compile(r"[^\s\"'\\]*/(?:site-packages/|(?=fota_conformance/))")
"""The way to an installed package, in a path."""


class AllureError(ConformanceError):
    """The report cannot be made; the message says why."""


class AllureMissing(AllureError):
    """Allure or what it needs is not there; the message says where to get it."""


def spec_link(requirement: str) -> str:
    """The address of a requirement, from a report that `build` makes."""
    return f"{SPEC_NAME}#{requirement}"


def build(
    results_dirs: Sequence[Path],
    output: Path,
    *,
    history: Path | None = None,
    program: str | None = None,
    cache: Path | None = None,
) -> Path:
    """Make one report of all results; returns its page, `output/index.html`, with `spec.html` beside it.

    `results_dirs` are folders of runs, or the `allure-results` in them. `history` is a file that grows by each report:
    trends, and what became of a case. `program` and `cache` are as for `find`. Raises `AllureError`.
    """
    sources = [_allure_results(folder) for folder in results_dirs]
    if not sources:
        raise AllureError("expected at least one folder of results, got none")
    allure = find(program, cache)
    with tempfile.TemporaryDirectory(prefix="fota-allure-") as folder:
        work = Path(folder)
        results, report = work / ALLURE_RESULTS, work / "report"
        results.mkdir()
        for source in sources:
            _copy_tidied(source, results)
        targets = _merge_environments(sources, results)
        name = "FOTA conformance" if len(targets) > 1 else f"FOTA conformance of {targets[0]}"
        config = work / "allurerc.json"
        config.write_text(json.dumps(_config(name, history)), encoding="utf-8")
        _run([allure, "generate", "--config", config, "--output", report, results], work, GENERATE_TIMEOUT)
        try:
            page = (report / "index.html").read_text(encoding="utf-8")
        except FileNotFoundError as error:
            raise AllureError(f"{allure} made no index.html") from error
    page = without_outside(page).replace("</head>", f"{_LOCAL_LINKS}</head>", 1)
    index = output / "index.html"
    try:
        output.mkdir(parents=True, exist_ok=True)
        index.write_text(page, encoding="utf-8")
        (output / SPEC_NAME).write_text(render_spec(catalogue.load().chapters), encoding="utf-8")
    except OSError as error:
        raise AllureError(f"{output}: the report cannot be written: {error}") from error
    return index


def find(program: str | None = None, cache: Path | None = None) -> Path:
    """Allure 3: `program`, else what the variable ALLURE names, else `allure` on PATH, else npm's, put into `cache`.

    The cache is the user's if it is not given. Raises `AllureMissing`.
    """
    wanted = program or os.environ.get("ALLURE")
    if wanted:
        found = shutil.which(wanted)
        if found is None:
            raise AllureMissing(f"there is no program {wanted!r}, which was to be Allure")
        if not _is_allure_3(found):
            raise AllureMissing(f"expected Allure 3, got another program or version: {wanted}")
        return Path(found).absolute()
    found = shutil.which("allure")
    if found is not None and _is_allure_3(found):
        return Path(found).absolute()
    return _installed(cache or user_cache())


def user_cache() -> Path:
    """Where programs keep what they can fetch again (XDG Base Directory Specification)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fota"


def without_outside(page: str) -> str:
    """The page without the script that reports its readers; raises `AllureError` where it fetches anything else."""
    page = _ANALYTICS.sub("", page)
    found = _OUTSIDE.search(page)
    if found is not None:
        raise AllureError(f"expected a report that fetches nothing, got {found[0][:200]}")
    return page


def render_spec(chapters: Iterable[Chapter]) -> str:
    """The catalogue as one self-contained page with an anchor for each requirement, each chapter and each old id."""
    return _SPEC_PAGE.replace("{{chapters}}", "\n".join(_chapter(chapter) for chapter in chapters))


def _allure_results(folder: Path) -> Path:
    """Allure's results in the folder of a run, or the folder itself."""
    for candidate in (folder / ALLURE_RESULTS, folder):
        if any(candidate.glob("*-result.json")):
            return candidate.resolve()
    raise AllureError(f"{folder}: expected Allure's results (*-result.json) there or in its {ALLURE_RESULTS}")


def _copy_tidied(source: Path, results: Path) -> None:
    """Copy what cases left; names are unique among all runs."""
    above = f"{source.parent.parent}{os.sep}"
    for path in source.iterdir():
        if path.name.endswith(("-result.json", "-container.json")):
            text = _INSTALLED.sub("", path.read_text(encoding="utf-8").replace(above, ""))
            try:
                document = _tidied(json.loads(text))
            except ValueError as error:
                raise AllureError(f"{path}: expected JSON of a finished run, got {error}") from error
            if path.name.endswith("-result.json") or document["befores"] or document["afters"]:
                (results / path.name).write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
        elif "-attachment" in path.name:
            shutil.copyfile(path, results / path.name)


def _tidied(document: dict[str, Any]) -> dict[str, Any]:
    """A result or a container without fixtures that went well, and without the tracebacks of steps and fixtures."""
    for link in document.get("links", []):
        if link["url"].startswith(SPEC_NAME):
            link["url"] = _NOWHERE + link["url"]
    for key in ("befores", "afters"):
        fixtures = document.get(key, [])
        document[key] = [fixture for fixture in fixtures if fixture.get("status") in ("failed", "broken")]
    pending = [*document["befores"], *document["afters"], *document.get("steps", [])]
    while pending:
        item = pending.pop()
        details = item.get("statusDetails", {})
        details.pop("trace", None)
        details["message"] = details.get("message", "").removeprefix(f"{errors.__name__}.")
        pending += item.get("steps", [])
    return document


def _merge_environments(sources: Sequence[Path], results: Path) -> list[str]:
    """Write one environment and one executor; returns the names of the targets."""
    environments = [read_environment(source) for source in sources]
    targets = [facts.pop("target", source.parent.name) for facts, source in zip(environments, sources, strict=True)]
    if len(environments) == 1:
        merged = {"target": targets[0], **environments[0]}
    else:
        common = set.intersection(*(set(facts.items()) for facts in environments))
        own = (", ".join(f"{key} {value}" for key, value in sorted(facts.items() - common)) for facts in environments)
        merged = {target: text for target, text in zip(targets, own, strict=True) if text} | dict(sorted(common))
    write_environment(results, merged)
    write_executor(results, ", ".join(dict.fromkeys(targets)))
    return list(dict.fromkeys(targets))


def _config(name: str, history: Path | None) -> Mapping[str, Any]:
    """Allure 3's configuration."""
    options = {"reportName": name, "singleFile": True, "groupBy": ["parentSuite", "suite"], "reportLanguage": "en"}
    config = {
        "name": name,
        "categories": CATEGORIES,
        "hideLabels": HIDDEN_LABELS,
        "plugins": {"awesome": {"options": options}},
    }
    return (
        config if history is None else config | {"historyPath": str(history.resolve()), "historyLimit": HISTORY_LIMIT}
    )


def _is_allure_3(program: str) -> bool:
    """Whether it is Allure 3: Allure 2 goes by the same name, has other options and needs Java."""
    try:
        answer = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return answer.stdout.strip().startswith("3.")


def _installed(cache: Path) -> Path:
    """npm's `allure` in the cache, put there if need be; another process may do the same meanwhile."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        missing = "Node.js" if node is None else "npm"
        raise AllureMissing(
            f"Allure's report needs Node.js {NODE_MAJOR} or newer with npm, and there is no {missing} on PATH: install "
            "them (https://nodejs.org, or Debian's packages nodejs and npm), or name an Allure 3 by --allure or ALLURE"
        )
    version = _run([node, "--version"], Path.cwd(), 60.0).strip()
    if int(version.removeprefix("v").partition(".")[0]) < NODE_MAJOR:
        raise AllureMissing(f"Allure's report needs Node.js {NODE_MAJOR} or newer, got {version} ({node})")
    home = cache.resolve() / f"allure-{ALLURE_VERSION}"
    allure = home / "node_modules" / ".bin" / "allure"
    if not allure.exists():
        try:
            cache.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix="allure-", dir=cache) as folder:
                options = ["--no-audit", "--no-fund", "--ignore-scripts", "--prefix", folder]
                _run([npm, "install", *options, f"allure@{ALLURE_VERSION}"], Path(folder), INSTALL_TIMEOUT)
                home.mkdir(exist_ok=True)
                Path(folder, "node_modules").rename(home / "node_modules")
        except AllureError as error:
            raise AllureMissing(f"allure {ALLURE_VERSION} cannot be installed: {error}") from error
        except OSError as error:
            if not allure.exists():
                raise AllureMissing(f"allure {ALLURE_VERSION} cannot be put into {home}: {error}") from error
    return allure


def _run(command: Sequence[str | Path], folder: Path, timeout_s: float) -> str:
    """Run to the end; returns standard output. Raises `AllureError` with the last lines where it fails."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ALLURE_")}
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except OSError as error:
        raise AllureError(f"{command[0]} cannot be started: {error}") from error
    except subprocess.TimeoutExpired as error:
        raise AllureError(f"{command[0]} did not end within {timeout_s:g} s") from error
    if done.returncode:
        last = "\n".join((done.stdout + done.stderr).strip().splitlines()[-20:])
        raise AllureError(f"{command[0]} ended with status {done.returncode}:\n{last}")
    return done.stdout


def _chapter(chapter: Chapter) -> str:
    articles = "\n".join(_requirement(requirement) for requirement in chapter.requirements)
    return (
        f'<section id="{html.escape(chapter.id)}"><h2>{html.escape(chapter.role.capitalize())}: '
        f"{html.escape(chapter.title)}</h2>\n<p>{_prose(chapter.text)}</p>\n{articles}\n</section>"
    )


def _requirement(requirement: Requirement) -> str:
    old = "".join(f'<a id="{html.escape(alias)}"></a>' for alias in requirement.aliases)
    facts = {
        "revision": requirement.revision,
        "handshake": ", ".join(requirement.handshake),
        "needs": ", ".join(requirement.needs),
        "defects of the reference server": ", ".join(requirement.defects),
        "docs/protocol.md, section": requirement.see,
    }
    known = " · ".join(f"{html.escape(key)} {html.escape(value)}" for key, value in facts.items() if value)
    keyword, basis = requirement.keyword.value, requirement.basis.value
    return (
        f'<article id="{html.escape(requirement.id)}">{old}<h3><a href="#{html.escape(requirement.id)}">'
        f'{html.escape(requirement.id)}</a> <b class="{keyword.lower()}">{keyword}</b> <i>{html.escape(basis)}</i></h3>'
        f"<p>{_prose(requirement.text)}</p><small>{known}</small></article>"
    )


def _prose(text: str) -> str:
    """The catalogue's text, with what stands in backticks as code."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", html.escape(text))


_SPEC_PAGE: Final = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>FOTA requirements</title>
<style>
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 52rem; margin: 2rem auto; padding: 0 1rem; }
article { border-left: 4px solid #8888; padding: 0.1rem 1rem; margin: 1rem 0; scroll-margin-top: 1rem; }
article:target { border-color: #7e22ce; background: #7e22ce1a; }
h3 { font-size: 1rem; margin: 0.3rem 0; }
h3 a { color: inherit; }
b, i { font-size: 0.75rem; font-style: normal; border-radius: 0.3rem; padding: 0.1rem 0.4rem; background: #8883; }
.must { background: #dc262633; }
.should { background: #d9770633; }
p { margin: 0.3rem 0; }
code { background: #8882; border-radius: 0.2rem; padding: 0 0.2rem; }
small { opacity: 0.75; }
</style>
</head>
<body>
<h1>FOTA requirements</h1>
<p>What the conformance kit judges by. An id is for ever. MUST fails a target that it binds; what does not bind it is
NON-STRICT.</p>
{{chapters}}
</body>
</html>
"""
