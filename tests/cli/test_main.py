"""The frame of the `fota` command: help, version, lazy loading, messages and exit codes."""

import importlib.metadata
import os
import subprocess
import sys
from typing import Final

import pytest

from fota_cli import exit_codes
from fota_cli.main import COMMANDS, main

TIMEOUT: Final = 60.0

LOADED: Final = """
import sys
from fota_cli.main import main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
print("loaded:", *sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr)
"""
"""Runs `fota` with the arguments and prints which top-level packages that loaded."""

HEAVY: Final = {"asyncio", "uvloop", "rich", "pytest", "sqlite3", "bincopy", "intelhex", "allure", "serial"}
"""What `fota --help` must do without."""


def loaded_by(*arguments: str) -> set[str]:
    """Top-level packages that a run of `fota` loads, without what measuring its coverage would."""
    child = subprocess.run(
        [sys.executable, "-c", LOADED, *arguments],
        check=True,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        env={name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")},
    )
    return set(child.stderr.splitlines()[-1].removeprefix("loaded: ").split())


@pytest.mark.parametrize("argument", ["--help", "--version"])
def test_help_loads_no_command(argument: str) -> None:
    """Help and version are quick: no event loop, no library, none of our applications."""
    loaded = loaded_by(argument)

    assert set() == loaded & HEAVY
    assert {"fota_cli"} == {name for name in loaded if name.startswith("fota_")}


def test_help_of_a_command_loads_that_command_alone() -> None:
    """`fota serve --help` needs no simulator, and no pytest."""
    loaded = loaded_by("serve", "--help")

    assert "fota_server" in loaded
    assert set() == loaded & {"fota_simulator", "fota_conformance", "pytest"}


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    """`fota --help` lists the commands with their summaries, and ends well."""
    with pytest.raises(SystemExit) as ended:
        main(["--help"])

    printed = " ".join(capsys.readouterr().out.split())
    assert exit_codes.OK == ended.value.code
    assert all(f"{name} {summary}" in printed for name, summary in COMMANDS.items())


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`fota COMMAND --help` prints the first line of the module's docstring and an example."""
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])

    printed = capsys.readouterr().out
    assert exit_codes.OK == ended.value.code
    assert f"  fota {command}" in printed


def test_version_is_that_of_the_distribution(capsys: pytest.CaptureFixture[str]) -> None:
    """`fota --version` says what is installed."""
    with pytest.raises(SystemExit) as ended:
        main(["--version"])

    assert exit_codes.OK == ended.value.code
    assert f"k60-fota {importlib.metadata.version('k60-fota')}\n" == capsys.readouterr().out


def test_an_unknown_command_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    """A typing error gets a message that lists the commands, and exit code 2."""
    with pytest.raises(SystemExit) as ended:
        main(["sevre"])

    printed = capsys.readouterr().err
    assert exit_codes.USAGE == ended.value.code
    assert "sevre" in printed
    assert "serve" in printed


def test_no_command_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    """`fota` alone prints the help and fails, so that a script notices."""
    code = main([])

    assert exit_codes.USAGE == code
    assert "Start with 'fota demo'" in capsys.readouterr().out


def test_bad_input_is_a_message_and_not_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    """What a user got wrong is said in one line."""
    code = main(["demo", "--count", "0"])

    printed = capsys.readouterr().err
    assert exit_codes.USAGE == code
    assert printed.startswith("fota: --count 0, expected 1 to ")
    assert 1 == printed.count("\n")


def test_a_missing_extra_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A command whose libraries are not installed names the extra that brings them."""
    monkeypatch.setitem(sys.modules, "allure", None)

    code = main(["conformance", "run", "--target", "target.toml"])

    assert exit_codes.USAGE == code
    assert 'fota: conformance needs pip install "k60-fota[conformance]"\n' == capsys.readouterr().err


def test_a_reader_that_leaves_is_no_error() -> None:
    """`fota --help | head -1` ends quietly."""
    child = subprocess.Popen(
        [sys.executable, "-m", "fota_cli"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    child.stdout.close()

    _, printed = child.communicate(timeout=TIMEOUT)

    assert "" == printed
