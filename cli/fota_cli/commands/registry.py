"""Look at a registry and change it: who gets what. Text files and SQLite, the server may run meanwhile.

  fota registry list --registry devices2update.txt
  fota registry show 0001100023593110965955141 --json
  fota registry add 0001100023593110965955141 blink_1.s19 16 --part TWR-K60D100M
  fota registry remove 0001100023593110965955141
  fota registry import devices2update.txt --registry devices.sqlite
  fota registry export devices2update.txt --registry devices.sqlite --plain

A registry is SQLite by its content or, where there is none yet, by a name that ends in .sqlite, .sqlite3 or .db;
otherwise it is text, one MCUID,filename,version a line. Changes are made whole or not at all, and a text file keeps its
comments. Exit code 0 when all is well; 1 when list or show finds entries that are malformed; 2 on bad input.
"""

import argparse
import contextlib
import dataclasses
import enum
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from fota_protocol.server import Handshake
from fota_server.config import Settings
from fota_server.errors import KnownDeviceError, RegistryError, UnservableError
from fota_server.registry import Problem, Registry, RegistryEntry, format_line, is_sqlite, normal_mcuid, open_registry

from .. import exit_codes
from ..choices import one_of
from ..device_options import PART_NAMES
from ..errors import UsageError
from ..files import write_file
from ..printable import printable

BUSY_TIMEOUT: Final = 30.0
"""Seconds that a change waits for another process's."""

PROBLEMS_SHOWN: Final = 20
"""Most malformed entries that are named one by one."""


def configure(parser: argparse.ArgumentParser) -> None:
    """The actions."""
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    default = Settings().registry

    def action(name: str, what: str, function: object, *examples: str) -> argparse.ArgumentParser:
        sub = actions.add_parser(
            name,
            help=what,
            description="\n".join([f"{what[0].upper()}{what[1:]}.", "", *(f"  {example}" for example in examples)]),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        sub.set_defaults(action=function)
        sub.add_argument(
            "-db", "--registry", type=Path, default=default, metavar="FILE", help=f"the registry (default: {default})"
        )
        return sub

    sub = action("list", "list the devices", _list, "fota registry list --registry devices.sqlite --json")
    sub.add_argument("--json", action="store_true", help="print a JSON object: entries, and what is malformed")

    sub = action("show", "show one device", _show, "fota registry show 0001100023593110965955141")
    sub.add_argument("mcuid", metavar="MCUID", help="which")
    sub.add_argument("--json", action="store_true", help="print a JSON object")

    sub = action(
        "add",
        "add a device; the registry is made where there is none",
        _add,
        "fota registry add 0001100023593110965955141 blink_1.s19 16",
        "fota registry add 0001100023593110965955141 blink_2.s19 17 --replace --once",
    )
    add = sub.add_argument
    add("mcuid", metavar="MCUID", help="25 decimal digits, or 1 to 64 hexadecimal ones")
    add("filename", metavar="FILENAME", help="in the firmware folder")
    add("version", metavar="VERSION", help="1 or 2 hexadecimal digits")
    add("--part", metavar="NAME", help=f"the image must fit into its flash: {PART_NAMES}")
    add("--handshake", type=one_of(Handshake), metavar="auto|wait|immediate", help="for this device")
    add("--pack", action="store_true", help="send few long records")
    add("--once", action="store_true", help="leave the device alone after one success")
    add("--replace", action="store_true", help="also when the device is there already")

    sub = action("remove", "remove devices, all or none", _remove, "fota registry remove 0001100023593110965955141")
    sub.add_argument("mcuids", nargs="+", metavar="MCUID", help="which")

    sub = action(
        "import",
        "add all devices of another registry, replacing those that are there already",
        _import,
        "fota registry import devices2update.txt --registry devices.sqlite",
    )
    sub.add_argument("source", type=Path, metavar="SOURCE", help="text or SQLite")
    sub.add_argument("--skip-malformed", action="store_true", help="import what is well-formed, and name the rest")

    sub = action(
        "export",
        "write all devices to another registry: a new one, or a text file in place of it",
        _export,
        "fota registry export devices2update.txt --registry devices.sqlite",
        "fota registry export seed.txt --plain",
    )
    sub.add_argument("target", type=Path, metavar="TARGET", help="its name says whether it is text or SQLite")
    sub.add_argument("--plain", action="store_true", help="text with three fields, for the reference server")
    sub.add_argument("--skip-malformed", action="store_true", help="export what is well-formed, and name the rest")


def run(args: argparse.Namespace) -> int:
    """Do what was asked; returns the exit code."""
    try:
        code: int = args.action(args)
    except RegistryError as error:
        raise UsageError(str(error)) from error
    return code


def _list(args: argparse.Namespace) -> int:
    with _existing(args.registry) as registry:
        problems, entries = registry.audit(), list(registry)
    if args.json:
        document = {"entries": [_facts(entry) for entry in entries], "malformed": [_place(p) for p in problems]}
        print(json.dumps(document, indent=1))
    else:
        rows = [_cells(entry) for entry in entries]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        _tell(problems, args.registry)
        print(f"{len(entries):,} devices" + (f", {len(problems):,} malformed" if problems else ""))
    return exit_codes.FAILED if problems else exit_codes.OK


def _show(args: argparse.Namespace) -> int:
    mcuid = _mcuid(args.mcuid)
    with _existing(args.registry) as registry:
        try:
            entry = registry.find(mcuid)
        except UnservableError as error:
            raise UsageError(str(error)) from error
    if entry is None:
        raise UsageError(f"registry {args.registry}: no device {mcuid}")
    if args.json:
        print(json.dumps(_facts(entry), indent=1))
    else:
        for name, value in _facts(entry).items():
            print(f"{name:<10} {'-' if value is None else printable(str(value))}")
    return exit_codes.OK


def _add(args: argparse.Namespace) -> int:
    try:
        entry = RegistryEntry(
            args.mcuid, args.filename, args.version, args.part, args.handshake, pack=args.pack, once=args.once
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
    with contextlib.closing(_writable(args.registry)) as registry:
        try:
            there = registry.put([entry], replace=args.replace)
        except KnownDeviceError as error:
            raise UsageError(f"registry {args.registry}: {error}, expected --replace or another") from error
    print(f"{args.registry}: {entry.mcuid} {'replaced' if there else 'added'}")
    return exit_codes.OK


def _remove(args: argparse.Namespace) -> int:
    mcuids = [_mcuid(mcuid) for mcuid in args.mcuids]
    _check_exists(args.registry)
    with contextlib.closing(_writable(args.registry)) as registry:
        registry.remove(mcuids, may_be_unknown=False)
    print(f"{args.registry}: {len(set(mcuids)):,} removed")
    return exit_codes.OK


def _import(args: argparse.Namespace) -> int:
    if args.registry.exists() and args.source.exists() and args.registry.samefile(args.source):
        raise UsageError(f"{args.source}: source and target are one file")
    entries = _well_formed(args.source, skip_malformed=args.skip_malformed)
    with contextlib.closing(_writable(args.registry)) as registry:
        replaced = registry.put(entries)
    print(f"{args.registry}: {len(entries) - replaced:,} added, {replaced:,} replaced")
    return exit_codes.OK


def _export(args: argparse.Namespace) -> int:
    if args.target.exists() and args.registry.exists() and args.target.samefile(args.registry):
        raise UsageError(f"{args.target}: source and target are one file")
    entries = _well_formed(args.registry, skip_malformed=args.skip_malformed)
    if is_sqlite(args.target) and args.target.exists():
        raise UsageError(f"{args.target}: is there already, expected a new name; 'fota registry import' adds to it")
    if args.plain:
        write_file(args.target, b"".join(format_line(entry, plain=True) + b"\n" for entry in entries))
        lost = sum(format_line(entry) != format_line(entry, plain=True) for entry in entries)
        left_out = f"; {lost:,} of them lost fields that the reference server has not" if lost else ""
        print(f"{args.target}: {len(entries):,} devices{left_out}")
        return exit_codes.OK
    if is_sqlite(args.target):
        with contextlib.closing(open_registry(args.target)) as registry:
            registry.put(entries)
    else:
        write_file(args.target, b"".join(format_line(entry) + b"\n" for entry in entries))
    print(f"{args.target}: {len(entries):,} devices")
    return exit_codes.OK


@contextlib.contextmanager
def _existing(path: Path) -> Iterator[Registry]:
    """The registry at `path`; looking at one makes none."""
    _check_exists(path)
    with contextlib.closing(open_registry(path, read_only=True)) as registry:
        yield registry


def _check_exists(path: Path) -> None:
    try:
        path.stat()
    except OSError as error:
        raise UsageError(f"registry {path}: {error.strerror}") from error


def _writable(path: Path) -> Registry:
    """The registry at `path`, to be changed; it is made where there is none."""
    return open_registry(path, may_be_missing=True, busy_timeout_s=BUSY_TIMEOUT)


def _well_formed(path: Path, *, skip_malformed: bool) -> list[RegistryEntry]:
    """All entries; raises `UsageError` where some are malformed and must not be."""
    with _existing(path) as registry:
        problems, entries = registry.audit(), list(registry)
    _tell(problems, path)
    if problems and not skip_malformed:
        raise UsageError(
            f"registry {path}: {len(problems):,} malformed entries; nothing is written. See --skip-malformed"
        )
    return entries


def _mcuid(text: str) -> str:
    try:
        return normal_mcuid(text)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _facts(entry: RegistryEntry) -> dict[str, Any]:
    """An entry for JSON."""
    return {
        name: value.value if isinstance(value, enum.Enum) else value
        for name, value in dataclasses.asdict(entry).items()
    }


def _place(problem: Problem) -> dict[str, Any]:
    return {"line": problem.line or None, "message": problem.message}


def _cells(entry: RegistryEntry) -> Sequence[str]:
    """An entry for a line of a table."""
    flags = [name for name in ("pack", "once") if getattr(entry, name)]
    handshake = [] if entry.handshake is None else [f"handshake={entry.handshake.value}"]
    return (entry.mcuid, printable(entry.filename), entry.version, entry.part or "-", ", ".join([*handshake, *flags]))


def _tell(problems: Iterable[Problem], path: Path) -> None:
    """Name what is malformed."""
    problems, name = list(problems), printable(str(path))
    for problem in problems[:PROBLEMS_SHOWN]:
        where = f", line {problem.line}" if problem.line else ""
        print(f"MALFORMED  {name}{where}: {printable(problem.message)}")
    if len(problems) > PROBLEMS_SHOWN:
        print(f"MALFORMED  {name}: {len(problems) - PROBLEMS_SHOWN:,} more")
