"""Print a script that lets a shell complete commands, options, choices, files and folders of fota.

The script is static: it holds the commands and options of this version, and starts no Python when you press Tab. Print
it again after an upgrade.

bash, with the package bash-completion, in the next shell:

  mkdir -p ~/.local/share/bash-completion/completions
  fota completion bash > ~/.local/share/bash-completion/completions/fota

or in this one only: source <(fota completion bash)

zsh, in a folder that .zshrc names before compinit (fpath=(~/.zfunc $fpath); autoload -U compinit; compinit):

  fota completion zsh > ~/.zfunc/_fota

tcsh, in a file that .tcshrc reads (source ~/.fota.tcsh):

  fota completion tcsh > ~/.fota.tcsh

Exit code 0.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import shtab

from .. import exit_codes
from ..main import full_parser

SHELLS: Final = ("bash", "zsh", "tcsh")

FOLDER: Final = "DIR"
"""What the help calls an argument that is a folder."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Which shell."""
    parser.add_argument("shell", choices=SHELLS, help="whose script")


def run(args: argparse.Namespace) -> int:
    """Print the script; returns the exit code."""
    parser = full_parser()
    for action in _actions(parser):
        _say_what_completes(action)
    print(shtab.complete(parser, args.shell))
    return exit_codes.OK


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """The options and arguments of a parser, and of all its commands."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)
        else:
            yield action


def _say_what_completes(action: argparse.Action) -> None:
    """Let paths be completed as such, and words as the help lists them: `auto|wait|immediate`."""
    called = action.metavar if isinstance(action.metavar, str) else ""
    if action.type is Path:
        action.complete = shtab.DIRECTORY if called == FOLDER else shtab.FILE  # type: ignore[attr-defined]
    elif action.choices is None and "|" in called:
        action.choices = called.split("|")
