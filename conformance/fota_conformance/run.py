"""The cases in a pytest of their own, as `fota conformance run` has them.

A subprocess in an empty folder, with our plugins and no others: no configuration file, conftest or plugin of the
caller's surroundings takes part, so a verdict does not depend on where it was found.
"""

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Final

from fota_conformance.catalogue import load
from fota_conformance.citations import cases_of
from fota_conformance.target import Role
from fota_conformance.target_file import load_target
from fota_conformance.verdicts import EXIT_UNTESTED, EXIT_USAGE

CASES: Final = "fota_conformance.cases"
"""The package of the cases."""
ALLURE_RESULTS: Final = "allure-results"
"""Where allure-pytest puts its results, in the results folder."""
INTERRUPT_TIMEOUT: Final = 30.0
"""Seconds that an interrupted pytest has to stop its targets."""
PYTEST_USAGE_ERROR: Final = 4
"""pytest's exit code for an option that it refuses (`pytest.ExitCode`; pytest itself is not imported here)."""
PYTEST_NOTHING_SELECTED: Final = 5
"""pytest's exit code where no case was selected."""


def run(
    target_path: Path,
    results_dir: Path,
    xdist: int = 0,
    select: str = "",
    requirements: Sequence[str] = (),
    *,
    exhaustive: bool = False,
    verbose: bool = False,
    exit_first: bool = False,
    allure: bool = True,
    output: IO[bytes] | None = None,
) -> int:
    """Judge one target; results go to `results_dir`, verdicts to standard output or `output`. Returns the exit code.

    `xdist` is the number of pytest workers (0: none), `select` a pytest `-k` expression, `requirements` are ids to
    confine the cases to. `exhaustive` interrupts updates at every record, `exit_first` ends the run with the first
    failure. Without `allure` nothing is written for Allure, which takes time. Raises `TargetError`, `CatalogueError`.
    """
    target = load_target(target_path)
    results_dir = results_dir.resolve()
    modules = _cases(requirements, target.role)
    if not modules:
        print(f"{', '.join(requirements)}: of no {target.role.value}, as {target.name} is", file=sys.stderr)
        return EXIT_USAGE
    _clear(results_dir)
    with tempfile.TemporaryDirectory(prefix="fota-conformance-") as folder:
        work = Path(folder)
        (work / "pytest.ini").write_text("[pytest]\n", encoding="ascii")
        plugins = ["fota_conformance"]
        options = ["-q", "-rN", "--no-header", "--tb=short", "--basetemp", str(work / "tmp")]
        options += ["--fota-target", str(target_path.resolve()), "--fota-results", str(results_dir)]
        options += [word for name in requirements for word in ("--fota-requirement", load().requirement(name).id)]
        options += ["--fota-exhaustive"] * exhaustive + ["--fota-verbose"] * verbose
        options += ["-x"] * exit_first
        if select:
            options += ["-k", select]
        if xdist > 0:
            plugins.append("xdist")
            options += ["-n", str(xdist)]
        if allure and importlib.util.find_spec("allure_pytest") is not None:
            plugins.append("allure_pytest")
            options += ["--alluredir", str(results_dir / ALLURE_RESULTS), "--clean-alluredir"]
        loaded = [word for plugin in plugins for word in ("-p", plugin)]
        # Cases raise what they find; no assertion of theirs is to be rewritten, which takes time as well.
        fixed = ["--pyargs", "--assert=plain", "-p", "no:cacheprovider"]
        command = [sys.executable, "-m", "pytest", *modules, *fixed, *loaded, *options]
        status = _run_interruptibly(command, work, output)
    if status == PYTEST_NOTHING_SELECTED:
        asked = [f"-k {select!r}"] * bool(select) + [f"requirement {name}" for name in requirements]
        print(f"no case for {target.name} matches {' and '.join(asked)}", file=sys.stderr)
    if status in (PYTEST_USAGE_ERROR, PYTEST_NOTHING_SELECTED):
        return EXIT_USAGE
    try:
        code: int = json.loads((results_dir / "results.json").read_bytes())["exit_code"]
    except FileNotFoundError:
        return EXIT_UNTESTED
    if output is None:
        print(f"results: {results_dir}")
    return code


def _cases(requirements: Sequence[str], role: Role) -> list[str]:
    """The modules to collect: all, or those with cases of some requirements."""
    if not requirements:
        return [CASES]
    wanted = [one for one in map(load().requirement, requirements) if one.role == role.value]
    files = {case.case.partition(".")[0] for one in wanted for case in cases_of(one)}
    return [f"{CASES}.{file}" for file in sorted(files)]


def _clear(results_dir: Path) -> None:
    """Remove what an earlier run left; nothing else that may be in the folder."""
    for name in ("results.json", "junit.xml"):
        (results_dir / name).unlink(missing_ok=True)
    shutil.rmtree(results_dir / "cases", ignore_errors=True)
    results_dir.mkdir(parents=True, exist_ok=True)


def _run_interruptibly(command: list[str], folder: Path, output: IO[bytes] | None) -> int:
    """Run to the end. Interrupted, pytest and its workers are interrupted, too, and get time to stop their targets.

    They are a process group of their own, so that each gets the interrupt once, whoever was sent it.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "ALLURE_"))}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=None if output is None else subprocess.STDOUT,
        process_group=0,
    )
    _RUNNING.add(process.pid)
    try:
        return process.wait()
    except BaseException:
        _signal(process.pid, signal.SIGINT)
        try:
            process.wait(INTERRUPT_TIMEOUT)
        except subprocess.TimeoutExpired:
            _signal(process.pid, signal.SIGKILL)
            process.wait()
        raise
    finally:
        _RUNNING.discard(process.pid)


def interrupt_all() -> None:
    """Interrupt the runs of other threads, which then end by themselves."""
    for group in list(_RUNNING):
        _signal(group, signal.SIGINT)


def _signal(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


_RUNNING: Final[set[int]] = set()
"""Process groups of the runs of this process."""
