"""What every program here says, and how it ends: facts, claims, an exit code, and one way to be called.

A program collects facts (numbers that were measured) and claims (sentences that held or not). They go to standard
output as text, or as one JSON object with `--json`; progress goes to standard error. Exit codes: 0 all claims held,
1 one did not, 2 usage, 3 something could not be tested here, 130 interrupted.
"""

import argparse
import json
import random
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Final, NoReturn

WELL: Final = 0
BROKEN: Final = 1
USAGE: Final = 2
UNTESTABLE: Final = 3
INTERRUPTED: Final = 130
TERMINATED: Final = 143

SEED_BITS: Final = 32
"""Size of a drawn seed; small enough to be typed."""

CommonOptions = argparse.Namespace


class UntestableError(Exception):
    """This machine, user or system cannot run the test; the text says why."""


class UsageError(Exception):
    """What was asked for makes no sense; the text says what was expected."""


class Report:
    """Facts and claims of one run."""

    def __init__(self, program: str, seed: int) -> None:
        self.program = program
        self.seed = seed
        self.facts: dict[str, Any] = {}
        self.claims: list[dict[str, Any]] = []
        self._began = time.monotonic()

    def fact(self, name: str, value: Any) -> None:
        """Keep a number, a text, or a table of them."""
        self.facts[name] = value

    def claim(self, text: str, holds: bool, detail: object = "") -> None:
        """Keep a sentence, whether it held, and what was found."""
        self.claims.append({"claim": text, "holds": bool(holds), "detail": str(detail)})
        if not holds:
            say(f"BROKEN: {text}: {detail}")

    @property
    def ok(self) -> bool:
        """Whether all claims held; a run without a claim is not well."""
        return bool(self.claims) and all(claim["holds"] for claim in self.claims)

    def print(self, *, as_json: bool) -> int:
        """Print everything to standard output; returns the exit code."""
        seconds = round(time.monotonic() - self._began, 1)
        if as_json:
            head = {"program": self.program, "ok": self.ok, "seed": self.seed, "seconds": seconds}
            print(json.dumps({**head, "facts": self.facts, "claims": self.claims}))
        else:
            print(f"{self.program}: {'well' if self.ok else 'NOT WELL'}, seed {self.seed}, {seconds:g} s")
            for name, value in self.facts.items():
                _print_fact(name, value)
            for claim in self.claims:
                word = "holds " if claim["holds"] else "BROKEN"
                print(f"  {word}  {claim['claim']}" + (f": {claim['detail']}" if claim["detail"] else ""))
        return WELL if self.ok else BROKEN


def say(message: str) -> None:
    """Progress, for whoever watches."""
    print(message, file=sys.stderr, flush=True)


def parser_of(program: str, doc: str | None, *, seeded: bool = True) -> argparse.ArgumentParser:
    """A parser with the options that all programs have; `doc` is the program's module docstring."""
    parser = argparse.ArgumentParser(
        prog=f"python -m tests.endurance.{program}",
        usage="%(prog)s [options] [-- options of fota serve]",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Exit code 0: every claim held; 1: one did not; 2: usage; 3: cannot be tested here.",
        allow_abbrev=False,
    )
    if seeded:
        parser.add_argument("--seed", type=int, help="of everything random; drawn and printed where it is left out")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    parser.add_argument(
        "--folder",
        type=Path,
        metavar="DIR",
        help="work in this folder, which must be new, and leave it there (default: a temporary one, removed)",
    )
    return parser


def count(text: str) -> int:
    """An argument that is a whole number from 1 on."""
    number = int(text.replace("_", "").replace(",", ""))
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}, expected at least 1")
    return number


def seconds(text: str) -> float:
    """An argument that is a number of seconds."""
    number = float(text)
    if not 0 < number <= 86_400:
        raise argparse.ArgumentTypeError(f"{text}, expected more than 0 and at most 86400 s")
    return number


def run_program(
    parser: argparse.ArgumentParser,
    body: Callable[[argparse.Namespace, Sequence[str], Report], None],
    argv: Sequence[str],
) -> int:
    """Parse, run `body(arguments, server options, report)`, print; returns the exit code."""
    ours, server_options = split_at_dashes(argv)
    args = parser.parse_args(ours)
    if getattr(args, "seed", None) is None:
        args.seed = random.SystemRandom().getrandbits(SEED_BITS)
    program = parser.prog.rpartition(".")[2]
    say(f"{program}: seed {args.seed}")
    report = Report(program, args.seed)
    previous = signal.signal(signal.SIGTERM, _terminate)  # so that servers and mounts are cleaned up
    try:
        body(args, server_options, report)
    except UsageError as error:
        say(f"{program}: {error}")
        return USAGE
    except (UntestableError, TimeoutError) as error:
        say(f"{program}: cannot be tested here: {error}")
        return UNTESTABLE
    except KeyboardInterrupt:
        say(f"{program}: interrupted")
        return INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, previous)
    return report.print(as_json=args.json)


def split_at_dashes(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """What stands before `--`, and what behind it."""
    if "--" not in argv:
        return list(argv), []
    where = list(argv).index("--")
    return list(argv[:where]), list(argv[where + 1 :])


def megabytes(size: int) -> float:
    """Bytes as MiB, to read."""
    return round(size / 2**20, 1)


def _print_fact(name: str, value: object) -> None:
    if isinstance(value, Mapping):
        print(f"  {name}")
        width = max((len(str(key)) for key in value), default=0)
        for key, number in value.items():
            print(f"    {key!s:<{width}}  {_readable(number)}")
    else:
        print(f"  {name:<34}  {_readable(value)}")


def _readable(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | list | tuple):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else " ".join(map(str, value))


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(TERMINATED)
