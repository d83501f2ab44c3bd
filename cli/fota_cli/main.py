"""The `fota` command: finds the command's module, and turns its errors into messages and exit codes.

Only the module of the command that runs is imported, so that `fota --help` is quick and a missing extra hurts nobody
else.
"""

import argparse
import errno
import importlib
import importlib.metadata
import os
import sys
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Final

from . import exit_codes
from .errors import CommandError
from .interrupts import Raised

COMMANDS: Final = {
    "demo": "watch a server update a fleet of virtual K60s, here and now",
    "serve": "serve firmware to devices",
    "registry": "look at who gets what, and change it",
    "sessions": "list what a server's journal says of its sessions",
    "mcu": "run one virtual K60 against a server",
    "swarm": "run thousands of virtual K60s against a server",
    "image": "check a firmware file, seal it, pack it, convert it",
    "flash": "look at a flash, compare two, convert a dump",
    "powercut": "cut a virtual K60's power at every moment of an update",
    "board": "be a virtual K60 on a pseudo terminal",
    "hil": "real boards: carry their bytes, program their flash",
    "conformance": "judge a server or a device",
    "completion": "print a completion script for your shell",
}
"""Every command and its summary, in the order of the help. The module of a command has its name."""

EXTRA_OF_MODULE: Final = {
    "pytest": "conformance",
    "xdist": "conformance",
    "allure": "conformance",
    "allure_commons": "conformance",
    "serial": "hil",
    "dask": "swarm",
    "distributed": "swarm",
}
"""Which extra brings a third-party module that the base install lacks."""

_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
"""Why output cannot be written; commands that write files have words of their own for it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `fota` with `argv` (the process's own when None); returns the exit code."""
    if sys.stdout is None:  # closed by whoever started us
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - it stays open
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = arguments[0] if arguments else ""
    try:
        module = _load(name) if name in COMMANDS else None
        parser = _parser({} if module is None else {name: module})
        try:
            args = parser.parse_args(arguments)
        finally:
            sys.stdout.flush()  # of the help; here, a reader that has left is caught below
        if module is None:
            parser.print_help()
            sys.stdout.flush()
            return exit_codes.USAGE
        with Raised():
            code: int = module.run(args)
        sys.stdout.flush()
        return code
    except CommandError as error:
        print(f"fota: {error}", file=sys.stderr)
        return error.exit_code
    except ModuleNotFoundError as error:
        extra = _extra_of(error)
        if extra is None:
            raise
        print(f'fota: {name} needs pip install "k60-fota[{extra}]"', file=sys.stderr)
        return exit_codes.USAGE
    except KeyboardInterrupt:
        print("fota: interrupted", file=sys.stderr)
        return exit_codes.INTERRUPTED
    except BrokenPipeError:  # the reader of our output left
        _drop_output()
        return exit_codes.OK
    except OSError as error:
        if error.filename is not None or error.errno not in _NO_ROOM:
            raise
        _drop_output()
        print(f"fota: cannot write standard output: {error.strerror}", file=sys.stderr)
        return exit_codes.USAGE


def _drop_output() -> None:
    """Let what cannot be written go; otherwise, Python complains of it once more at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _load(name: str) -> ModuleType:
    return importlib.import_module(f"{__package__}.commands.{name}")


def full_parser() -> argparse.ArgumentParser:
    """The parser with the options of every command; a command whose extra is not installed is there by its name."""
    modules = {}
    for name in COMMANDS:
        try:
            modules[name] = _load(name)
        except ModuleNotFoundError as error:
            if _extra_of(error) is None:
                raise
    return _parser(modules)


def _extra_of(error: ModuleNotFoundError) -> str | None:
    """The extra that would bring the module, where one would."""
    return EXTRA_OF_MODULE.get((error.name or "").partition(".")[0])


def _parser(modules: Mapping[str, ModuleType]) -> argparse.ArgumentParser:
    """The parser, with the options of those commands whose modules are given."""
    parser = argparse.ArgumentParser(
        prog="fota",
        description="Firmware over the air for NXP Kinetis K60: a server, virtual boards, and a judge of both.",
        epilog="'fota COMMAND --help' explains a command. Start with 'fota demo'.",
        allow_abbrev=False,
    )
    version = importlib.metadata.version("k60-fota")
    parser.add_argument("--version", action="version", version=f"k60-fota {version}")
    commands = parser.add_subparsers(metavar="COMMAND")
    for command, summary in COMMANDS.items():
        loaded = modules.get(command)
        sub = commands.add_parser(
            command,
            help=summary,
            description=None if loaded is None else loaded.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        if loaded is not None:
            loaded.configure(sub)
    return parser
