"""Every command and sub-command explains itself: an example that is right, and every default."""

import argparse
import contextlib
import enum
import io
import re
import shlex
from collections.abc import Iterator
from typing import Any, Final

import pytest

from fota_cli import exit_codes
from fota_cli.main import full_parser, main

SHELL: Final = frozenset({"|", "||", ">", ">>", "<", "&", "&&", ";"})
"""Words that end a command's own words in a line of shell."""

WIDTH: Final = 120


def commands(parser: argparse.ArgumentParser, *path: str) -> Iterator[tuple[tuple[str, ...], argparse.ArgumentParser]]:
    """Every command and sub-command, with the words that call it."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, sub in action.choices.items():
                yield (*path, name), sub
                yield from commands(sub, *path, name)


def options(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Options and arguments, without what is no setting."""
    for action in parser._actions:
        if not isinstance(action, argparse._SubParsersAction | argparse._HelpAction | argparse._VersionAction):
            yield action


def examples(parser: argparse.ArgumentParser) -> list[str]:
    """The example lines of a help: what stands indented and begins with `fota`."""
    text = f"{parser.description or ''}\n{parser.epilog or ''}"
    return [line.strip() for line in text.splitlines() if re.match(r" +fota ", line)]


def words(example: str) -> list[str]:
    """What a shell hands to `fota`: without comments, pipes and redirections."""
    found = shlex.split(example, comments=True)
    ends = [at for at, word in enumerate(found) if word in SHELL]
    return found[1 : min(ends, default=len(found))]


def stated(default: Any) -> str:
    """A default as a help states it."""
    if isinstance(default, list):
        return ",".join(map(stated, default))
    if isinstance(default, enum.Enum):
        return str(default.value)
    return f"{default:g}" if isinstance(default, float) else str(default)


COMMANDS: Final = dict(commands(full_parser()))
NAMES: Final = [pytest.param(path, id=" ".join(path)) for path in COMMANDS]
EXAMPLES: Final = sorted({example for parser in COMMANDS.values() for example in examples(parser)})


@pytest.mark.parametrize("path", NAMES)
def test_help_of_a_command_has_an_example_of_it(path: tuple[str, ...]) -> None:
    """`fota flash show --help` shows a line that begins with `fota flash show`."""
    with contextlib.redirect_stdout(io.StringIO()) as printed, pytest.raises(SystemExit) as ended:
        main([*path, "--help"])

    shown = [line.split()[: len(path) + 1] for line in printed.getvalue().splitlines() if line.startswith("  fota ")]
    assert exit_codes.OK == ended.value.code
    assert ["fota", *path] in shown


@pytest.mark.parametrize("example", EXAMPLES)
def test_example_of_a_help_is_a_command_line(example: str) -> None:
    """The parser takes every example: commands, options and choices are there, and nothing that is required lacks."""
    complaint = io.StringIO()

    with contextlib.redirect_stderr(complaint), contextlib.suppress(SystemExit):
        full_parser().parse_args(words(example))

    assert "" == complaint.getvalue()


@pytest.mark.parametrize("path", NAMES)
def test_help_says_what_every_option_does(path: tuple[str, ...]) -> None:
    """No option and no argument stands there with its name alone."""
    assert [] == [action.dest for action in options(COMMANDS[path]) if not action.help]


@pytest.mark.parametrize("path", NAMES)
def test_help_states_every_default(path: tuple[str, ...]) -> None:
    """Whoever leaves an option out can read what is taken; 0 may be called none."""
    nothing: tuple[Any, ...] = (None, False, "", [], argparse.SUPPRESS)
    expected, actual = {}, {}
    for action in options(COMMANDS[path]):
        if action.default not in nothing or (action.default == 0 and action.type is not None):
            found = re.search(r"\(default: (.*)\)", action.help or "")
            expected[action.dest] = stated(action.default)
            actual[action.dest] = found[1] if found else ""
            if (expected[action.dest], actual[action.dest]) == ("0", "none"):
                actual[action.dest] = "0"

    assert expected == actual


@pytest.mark.parametrize("path", NAMES)
def test_help_fits_a_wide_terminal(path: tuple[str, ...]) -> None:
    """Lines that argparse does not break are short enough."""
    parser = COMMANDS[path]

    assert [] == [line for line in (parser.description or "").splitlines() if len(line) > WIDTH]


def test_words_of_a_line_end_where_the_shell_takes_over() -> None:
    """What this file makes of an example: quotes are the shell's, and so are pipes, redirections and comments."""
    line = "fota mcu --mcuid '12 3' --json - | jq . > out  # a comment"

    assert ["mcu", "--mcuid", "12 3", "--json", "-"] == words(line)
