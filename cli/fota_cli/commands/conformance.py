"""Judge a FOTA server or device: run the conformance cases against it over TCP.

A target file says how the target is started or where it is. Commented examples are installed with the kit; copy one:

    fota conformance examples
    fota conformance run --target our_server.toml
    fota conformance run --target my_board.toml -k flash --json verdicts.json

Exit codes: 0 every case was exercised and none failed, 1 a case failed, 2 the target file or an option is wrong,
3 something could not be tested.
"""

import argparse
import importlib
import shutil
from pathlib import Path

from ..errors import UsageError


def configure(parser: argparse.ArgumentParser) -> None:
    """`run` and `examples`."""
    actions = parser.add_subparsers(metavar="ACTION", required=True)

    run_parser = actions.add_parser("run", help="judge one target", allow_abbrev=False)
    run_parser.set_defaults(action=_run)
    run_parser.add_argument("--target", type=Path, required=True, metavar="FILE", help="the TOML file of the target")
    run_parser.add_argument(
        "--results",
        type=Path,
        metavar="DIR",
        help="folder for results.json, each case's wire log and files, and Allure's results "
        "(default: conformance-results/ and the target file's name)",
    )
    run_parser.add_argument(
        "-n", type=int, default=0, metavar="N", help="pytest workers (default: none)", dest="workers"
    )
    run_parser.add_argument(
        "-k", default="", metavar="EXPR", help="run the cases that match, as pytest -k", dest="select"
    )
    run_parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there, too")

    examples_parser = actions.add_parser("examples", help="list the example target files", allow_abbrev=False)
    examples_parser.set_defaults(action=_examples)


def run(args: argparse.Namespace) -> int:
    """Do what was asked; returns the exit code."""
    code: int = args.action(args)
    return code


def _run(args: argparse.Namespace) -> int:
    # Looked for here, so that a base install says which extra brings them; the kit starts them in another process.
    for module in ("pytest", "allure", *(["xdist"] if args.workers else [])):
        importlib.import_module(module)
    from fota_conformance.errors import TargetError
    from fota_conformance.run import run as run_cases

    if args.workers < 0:
        raise UsageError(f"-n: expected a number of workers from 0 on, got {args.workers}")
    results: Path = args.results or Path("conformance-results", args.target.stem)
    if args.json is not None and not args.json.resolve().parent.is_dir():
        raise UsageError(f"--json: there is no folder {args.json.resolve().parent}")
    try:
        code = run_cases(args.target, results, args.workers, args.select)
    except TargetError as error:
        raise UsageError(str(error)) from error
    written = results / "results.json"
    if args.json is not None and written.exists():
        shutil.copyfile(written, args.json)
    return code


def _examples(_: argparse.Namespace) -> int:
    from importlib.resources import files

    for path in sorted(Path(str(files("fota_conformance"))).glob("examples/*.toml")):
        print(path)
    return 0
