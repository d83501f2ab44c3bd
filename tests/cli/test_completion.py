"""`fota completion`: what the scripts offer in a real shell, and that no missing extra breaks them."""

import argparse
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Final

import pytest

import fota_cli.main
from fota_cli import exit_codes
from fota_cli.commands.completion import SHELLS
from fota_cli.main import COMMANDS, EXTRA_OF_MODULE, full_parser, main

TIMEOUT: Final = 60.0

COMPLETE: Final = """
source "$1"; shift
registered=$(complete -p fota); [[ $registered =~ -F\\ ([^ ]+)\\ fota$ ]] || exit 3
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
"${BASH_REMATCH[1]}"
[[ ${#COMPREPLY[@]} -eq 0 ]] || printf '%s\\n' "${COMPREPLY[@]}"
"""
"""Completes the last of the words, as bash does when Tab is pressed; the first one is the script."""

WITHOUT: Final = f"""
import sys
sys.modules.update(dict.fromkeys({sorted(EXTRA_OF_MODULE)}))
from fota_cli.main import main
sys.exit(main(["completion", "bash"]))
"""
"""Prints the script where no extra is installed: importing what one brings fails."""

needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a script for each shell, by the shell's name."""
    folder = tmp_path_factory.mktemp("scripts")
    for shell in SHELLS:
        with (folder / shell).open("wb") as file:
            subprocess.run(
                [sys.executable, "-m", "fota_cli", "completion", shell], check=True, stdout=file, timeout=TIMEOUT
            )
    return folder


def completed(script: Path, *words: str, folder: Path | None = None) -> set[str]:
    """What bash offers for the last of the words behind `fota`."""
    child = subprocess.run(
        ["bash", "--norc", "-c", COMPLETE, "bash", str(script), "fota", *words],
        check=True,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        cwd=folder,
    )
    assert "" == child.stderr
    return set(child.stdout.splitlines())


def commands(parser: argparse.ArgumentParser, *path: str) -> Iterator[tuple[tuple[str, ...], argparse.ArgumentParser]]:
    """Every command and sub-command, with the words that call it."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, sub in action.choices.items():
                yield (*path, name), sub
                yield from commands(sub, *path, name)


@needs_bash
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ([""], set(COMMANDS)),
        (["fl"], {"flash"}),
        (["flash", ""], {"show", "diff", "dump"}),
        (["serve", "--hand"], {"--handshake"}),
        (["serve", "--handshake", ""], {"auto", "wait", "immediate"}),
        (["serve", "--handshake", "w"], {"wait"}),
        (["serve", "--check", "--handshake", "i"], {"immediate"}),
        (["conformance", "schema", "re"], {"results"}),
        (["completion", ""], set(SHELLS)),
    ],
)
def test_bash_completes_words(scripts: Path, words: list[str], offered: set[str]) -> None:
    """Commands, sub-commands, options and choices, also those that a converter checks."""
    assert offered == completed(scripts / "bash", *words)


@needs_bash
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["flash", "show", ""], {"app.s19", "bin"}),
        (["flash", "diff", "app.s19", "a"], {"app.s19"}),
        (["flash", "show", "app.s19", "--svg", ""], {"app.s19", "bin"}),
        (["image", "convert", "app.s19", "b"], {"bin"}),
        (["conformance", "run", "--target", "a"], {"app.s19"}),
        (["serve", "--firmware", ""], {"bin"}),
        (["serve", "-pbf", ""], {"bin"}),
        (["conformance", "matrix", ""], {"bin"}),
        (["conformance", "matrix", "bin", ""], {"bin"}),
    ],
)
def test_bash_completes_files_and_folders(scripts: Path, tmp_path: Path, words: list[str], offered: set[str]) -> None:
    """Where a file may be named, files and the folders that lead to them; where a folder must be, only folders."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "app.s19").touch()

    assert offered == completed(scripts / "bash", *words, folder=tmp_path)


@needs_bash
@pytest.mark.parametrize("path", [path for path, _ in commands(full_parser())], ids=" ".join)
def test_bash_offers_every_option_of_every_command(scripts: Path, path: tuple[str, ...]) -> None:
    """Nothing of the command's help is missing."""
    parser = dict(commands(full_parser()))[path]

    offered = completed(scripts / "bash", *path, "-")

    assert {name for action in parser._actions for name in action.option_strings} == offered


@pytest.mark.parametrize(
    ("shell", "check"),
    [
        ("bash", ["bash", "-n"]),
        ("zsh", ["zsh", "-n"]),
        ("tcsh", ["tcsh", "-f"]),
    ],
)
def test_shell_takes_its_script(scripts: Path, shell: str, check: list[str]) -> None:
    """No shell finds fault with its script (tcsh reads it, the others only check it)."""
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")

    child = subprocess.run([*check, scripts / shell], check=False, capture_output=True, text=True, timeout=TIMEOUT)

    assert (0, "", "") == (child.returncode, child.stdout, child.stderr)


def test_script_of_zsh_is_one_for_its_fpath(scripts: Path) -> None:
    """zsh finds out by the first line what a file in its fpath completes."""
    first, *_ = (scripts / "zsh").read_text(encoding="utf-8").splitlines()

    assert "#compdef fota" == first


@needs_bash
def test_no_extra_is_needed(tmp_path: Path) -> None:
    """A base install completes every command."""
    child = subprocess.run([sys.executable, "-c", WITHOUT], check=True, capture_output=True, timeout=TIMEOUT)
    (tmp_path / "script").write_bytes(child.stdout)

    assert set(COMMANDS) == completed(tmp_path / "script", "")


@needs_bash
def test_command_that_cannot_be_loaded_is_completed_by_its_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A command whose module asks for a missing extra is still there, and so are all the others with their options."""
    load = fota_cli.main._load

    def load_some(name: str) -> ModuleType:
        if name == "conformance":
            raise ModuleNotFoundError("No module named 'pytest'", name="pytest")
        return load(name)

    monkeypatch.setattr(fota_cli.main, "_load", load_some)

    code = main(["completion", "bash"])

    (tmp_path / "script").write_text(capsys.readouterr().out, encoding="utf-8")
    assert exit_codes.OK == code
    assert {"conformance"} == completed(tmp_path / "script", "conf")
    assert {"-h", "--help"} == completed(tmp_path / "script", "conformance", "-")
    assert {"show", "diff", "dump"} == completed(tmp_path / "script", "flash", "")


def test_module_that_no_extra_brings_is_missed_aloud(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of our own is not taken for a missing extra."""

    def load_nothing(name: str) -> ModuleType:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(fota_cli.main, "_load", load_nothing)

    with pytest.raises(ModuleNotFoundError):
        full_parser()


def test_unknown_shell_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    """The message names the shells."""
    with pytest.raises(SystemExit) as ended:
        main(["completion", "cmd.exe"])

    printed = capsys.readouterr().err
    assert exit_codes.USAGE == ended.value.code
    assert all(shell in printed for shell in SHELLS)
