"""Judge FOTA servers and devices: run the conformance cases against them over TCP.

A target file says how the target is started or where it is. Commented examples are installed with the kit; copy one:

  fota conformance examples
  fota conformance run --target our_server.toml
  fota conformance run --target staging.toml --target seed.toml -n 2
  fota conformance run --target my_board.toml --requirement FOTA-DEV-flash -v
  fota conformance list --uncovered

Several targets are judged one after the other, and one page compares them.

Exit codes: 0 every selected MUST was exercised and passed, 1 a case failed, 2 the target file or an option is wrong,
3 something could not be tested.
"""

import argparse
import importlib
import json
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from .. import exit_codes
from ..errors import HarnessError, UsageError
from ..files import check_writable, write_file

MATRIX_NAME: Final = "matrix.html"
"""The page of a run, in its results folder."""
DEFAULT_RESULTS: Final = "conformance-results"
"""Where results go, unless told otherwise."""
MAX_WORKERS: Final = 64
"""Processes that judge at once: pytest workers, or runs of broken targets."""
SCHEMAS: Final = {"results": "results-2.json", "target": "target-1.json", "outcome": "outcome-1.json"}
"""JSON schemas of the kit, by what they describe."""


def configure(parser: argparse.ArgumentParser) -> None:
    """The actions."""
    actions = parser.add_subparsers(metavar="ACTION", required=True)

    def action(name: str, what: str, function: object, *examples: str) -> argparse.ArgumentParser:
        sub = actions.add_parser(
            name,
            help=what,
            description="\n".join([f"{what[0].upper()}{what[1:]}.", "", *(f"  {example}" for example in examples)]),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        sub.set_defaults(action=function)
        return sub

    add = action(
        "run",
        "judge one target, or several one after the other",
        _run,
        "fota conformance run --target our_server.toml -n 2",
        "fota conformance run --target staging.toml --target seed.toml --results judged",
        "fota conformance run --target my_board.toml --requirement FOTA-DEV-flash -v",
    ).add_argument
    add(
        "--target",
        type=Path,
        required=True,
        action="append",
        metavar="FILE",
        dest="targets",
        help="the TOML file of a target (repeatable: one page compares them)",
    )
    add(
        "--results",
        type=Path,
        metavar="DIR",
        help="folder for results.json, junit.xml, matrix.html, each case's files, and Allure's results; with several "
        f"targets, a folder in it for each (default: {DEFAULT_RESULTS}/ and the target file's name)",
    )
    add("-n", type=int, default=0, metavar="N", help="pytest workers (default: none)", dest="workers")
    add("-k", default="", metavar="EXPR", help="run the cases that match, as pytest -k", dest="select")
    add(
        "--requirement",
        action="append",
        default=[],
        metavar="ID",
        dest="requirements",
        help="run the cases of this requirement (repeatable)",
    )
    add("--exhaustive", action="store_true", help="interrupt a device's updates at every record, not at a few")
    add("-x", "--exit-first", action="store_true", help="end the run with the first failure")
    add("--strict", action="store_true", help="count NON-STRICT as a failure")
    add("-v", "--verbose", action="store_true", help="list every case, not only what did not pass")
    add("--json", type=Path, metavar="FILE", help="write the results there, too (with one target)")
    add("--junit", type=Path, metavar="FILE", help="write them there as JUnit XML, too (with one target)")

    add = action(
        "matrix",
        "compare the results of several runs on one page",
        _matrix,
        "fota conformance matrix judged/staging judged/seed --output compared.html",
    ).add_argument
    add("results", type=Path, nargs="+", metavar="DIR", help="results folder of a run")
    add("--output", type=Path, default=Path(MATRIX_NAME), metavar="FILE", help=f"the page (default: {MATRIX_NAME})")

    add = action(
        "allure",
        "make an Allure report of one or several runs, offline",
        _allure,
        "fota conformance allure conformance-results/our_server",
        "fota conformance allure conformance-results/our_server --output report --history history.jsonl",
    ).add_argument
    add("results", type=Path, nargs="+", metavar="DIR", help="results folder of a run")
    add("--output", type=Path, default=Path("allure-report"), metavar="DIR", help="the report (default: allure-report)")
    add(
        "--history", type=Path, metavar="FILE", help="file that grows by each report: trends, and what became of a case"
    )
    add("--allure", metavar="PROGRAM", help="Allure 3 (default: allure on PATH, else npm's, put into --cache)")
    add("--cache", type=Path, metavar="DIR", help="where npm's Allure is kept (default: the user's cache)")
    add("--skip-missing", action="store_true", help="exit 0, with the reason, where Node or Allure is missing")

    add = action(
        "mutants",
        "judge the judge: every broken target of the zoo must be caught",
        _mutants,
        "fota conformance mutants -n 4",
        "fota conformance mutants two-per-ack line-ends --results kept",
    ).add_argument
    add("names", nargs="*", metavar="NAME", help="only these (default: all, and the good ones)")
    add("--results", type=Path, metavar="DIR", help="keep the results of each run there")
    add("-n", type=int, default=2, metavar="N", help="runs side by side (default: 2)", dest="workers")
    add("--json", type=Path, metavar="FILE", help="write the kill table as JSON")
    add("--markdown", type=Path, metavar="FILE", help="write the kill table as Markdown")

    add = action(
        "list",
        "list the requirements, and the cases that judge them",
        _list,
        "fota conformance list --role device",
        "fota conformance list --json | jq -r '.[].id'",
    ).add_argument
    add("--uncovered", action="store_true", help="only MUSTs and SHOULDs that no case judges; exit 1 if there are any")
    add("--role", choices=("server", "device"), help="only this role's")
    add("--json", action="store_true", help="print JSON")

    add = action(
        "schema",
        "print a JSON schema: of results.json, of target files, of a device's outcome",
        _schema,
        "fota conformance schema target > target.schema.json",
    ).add_argument
    add("name", choices=sorted(SCHEMAS), help="what it describes")

    action("examples", "list the example target files", _examples, "fota conformance examples")


def run(args: argparse.Namespace) -> int:
    """Do what was asked; returns the exit code. SIGTERM, as a CI server sends it, is taken for Ctrl-C."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        code: int = args.action(args)
        return code
    finally:
        signal.signal(signal.SIGTERM, before)


def _run(args: argparse.Namespace) -> int:
    # Looked for here, so that a base install says which extra brings them; the kit starts them in another process.
    for module in ("pytest", "allure", *(["xdist"] if args.workers else [])):
        importlib.import_module(module)
    from fota_conformance.errors import CatalogueError, TargetError
    from fota_conformance.matrix import write_matrix
    from fota_conformance.run import run as run_cases
    from fota_conformance.target_file import load_target

    targets: list[Path] = args.targets
    if not 0 <= args.workers <= MAX_WORKERS:
        raise UsageError(f"-n: expected a number of workers, 0 to {MAX_WORKERS}, got {args.workers}")
    copies = {"results.json": args.json, "junit.xml": args.junit}
    for path in copies.values():
        if path is not None and len(targets) > 1:
            raise UsageError(
                f"{path}: expected one target, got {len(targets)}; each has a file of its own in the results"
            )
        check_writable(path)
    folders = _folders(targets, args.results)
    codes = []
    try:
        for target in targets:
            load_target(target)
        for target, folder in zip(targets, folders, strict=True):
            if len(targets) > 1:
                print(f"\n{target}", flush=True)
            code = run_cases(
                target,
                folder,
                args.workers,
                args.select,
                args.requirements,
                exhaustive=args.exhaustive,
                verbose=args.verbose,
                exit_first=args.exit_first,
            )
            codes.append(_strict(folder) if args.strict and code == exit_codes.OK else code)
    except (TargetError, CatalogueError) as error:
        raise UsageError(str(error)) from error
    except OSError as error:
        raise UsageError(f"results cannot be written to {error.filename or folders[0]}: {error.strerror}") from error
    judged = [folder for folder in folders if (folder / "results.json").exists()]
    for name, path in copies.items():
        if path is not None and judged:
            shutil.copyfile(judged[0] / name, path)
    if judged:
        page = (folders[0] if len(targets) == 1 else folders[0].parent) / MATRIX_NAME
        write_matrix(judged, page)
        print(f"page: {page.resolve()}")
    return _worst(codes)


def _folders(targets: Sequence[Path], results: Path | None) -> list[Path]:
    """A results folder for each target; those of one name get numbers."""
    if len(targets) == 1:
        return [results or Path(DEFAULT_RESULTS, targets[0].stem)]
    names: list[str] = []
    for target in targets:
        same = sum(name == target.stem or name.startswith(f"{target.stem}-") for name in names)
        names.append(f"{target.stem}-{same + 1}" if same else target.stem)
    return [(results or Path(DEFAULT_RESULTS)) / name for name in names]


def _strict(folder: Path) -> int:
    """The exit code of a run that would be well, where departures from what does not bind count, too."""
    summary = json.loads((folder / "results.json").read_bytes())["summary"]
    if not summary["NON-STRICT"]:
        return exit_codes.OK
    print(f"--strict: {summary['NON-STRICT']} NON-STRICT count as failures")
    return exit_codes.FAILED


def _worst(codes: Sequence[int]) -> int:
    """The exit code of several runs: a usage error, a failure, what nobody knows."""
    order = (exit_codes.OK, exit_codes.HARNESS, exit_codes.FAILED, exit_codes.USAGE)
    return max(codes, key=order.index)


def _matrix(args: argparse.Namespace) -> int:
    from fota_conformance.errors import ResultsError
    from fota_conformance.matrix import write_matrix

    check_writable(args.output)
    try:
        write_matrix(args.results, args.output)
    except ResultsError as error:
        raise UsageError(str(error)) from error
    print(f"page: {args.output.resolve()}")
    return exit_codes.OK


def _allure(args: argparse.Namespace) -> int:
    from fota_conformance.allure_html import AllureError, AllureMissing, build

    try:
        page = build(args.results, args.output, history=args.history, program=args.allure, cache=args.cache)
    except AllureMissing as error:
        if args.skip_missing:
            print(f"skipped: {error}")
            return exit_codes.OK
        raise HarnessError(str(error)) from error
    except AllureError as error:
        raise UsageError(str(error)) from error
    print(f"Allure report: {page.resolve()}")
    return exit_codes.OK


def _mutants(args: argparse.Namespace) -> int:
    for module in ("pytest", "allure"):
        importlib.import_module(module)
    from fota_conformance.mutants import run_mutants

    for path in (args.json, args.markdown):
        check_writable(path)
    if not 1 <= args.workers <= MAX_WORKERS:
        raise UsageError(f"-n: expected a number of runs, 1 to {MAX_WORKERS}, got {args.workers}")
    with ExitStack() as stack:
        results = args.results or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fota-mutants-")))
        try:
            report = run_mutants(
                args.workers, args.names, results, lambda line: print(line, file=sys.stderr, flush=True)
            )
        except ValueError as error:
            raise UsageError(str(error)) from error
    for line in report.table():
        print(line)
    if args.json is not None:
        write_file(args.json, (json.dumps(report.as_json(), indent=2) + "\n").encode())
    if args.markdown is not None:
        write_file(args.markdown, report.markdown().encode())
    return exit_codes.OK if report.ok else exit_codes.FAILED


def _list(args: argparse.Namespace) -> int:
    importlib.import_module("pytest")
    from fota_conformance.catalogue import load
    from fota_conformance.citations import cases_of, uncovered

    catalogue = load()
    missing = uncovered(catalogue)
    chosen = [
        one
        for one in catalogue.requirements
        if args.role in (None, one.role) and (one in missing or not args.uncovered)
    ]
    if args.json:
        listed = [one.as_json() | {"cases": [case.case for case in cases_of(one)]} for one in chosen]
        print(json.dumps(listed, indent=2))
    else:
        chapter = ""
        for one in chosen:
            if one.chapter != chapter:
                chapter = one.chapter
                print(f"\n{one.role}: {catalogue.chapter(chapter).title}")
            revision = f", revision {one.revision}" if one.revision else ""
            print(f"  {one.id}  ({one.keyword.value}, {one.basis.value}{revision}; {len(cases_of(one))} cases)")
            print(f"      {one.text}")
        print(f"\n{len(chosen)} of {len(catalogue.requirements)} requirements; {len(missing)} without a case")
    return exit_codes.FAILED if args.uncovered and chosen else exit_codes.OK


def _schema(args: argparse.Namespace) -> int:
    from importlib.resources import files

    print((files("fota_conformance") / "schemas" / SCHEMAS[args.name]).read_text(encoding="utf-8"), end="")
    return exit_codes.OK


def _examples(_: argparse.Namespace) -> int:
    from importlib.resources import files

    for path in sorted(Path(str(files("fota_conformance"))).glob("examples/*.toml")):
        print(path)
    return exit_codes.OK
