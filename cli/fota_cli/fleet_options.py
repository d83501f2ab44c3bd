"""Options that say how a fleet behaves, and what they mean."""

import argparse
import ipaddress
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from fota_simulator.behaviour import Arrivals, Behaviour, RetryOn, RetryPolicy, load_faults
from fota_simulator.errors import BehaviourError
from fota_transport.profiles import LOOPBACK, PROFILES, LinkProfile

from .choices import one_of
from .errors import UsageError

MAX_SOURCES: Final = 4096
"""Most source addresses of one run."""


def add_fleet_options(parser: argparse.ArgumentParser) -> None:
    """Add the options to `parser`."""
    retry = RetryPolicy()
    add = parser.add_argument
    add("--ramp", type=_rate, metavar="N/s", help="begin at most so many updates a second (default: all at once)")
    add("--burst", type=_burst, metavar="N/S", help="begin so many at once, every S seconds, for instance 1000/30")
    add("--storm", type=_seconds, metavar="S", help="after S seconds all lose their connection, and come again at once")
    add("--think", type=_seconds, default=0.0, metavar="S", help="seconds before each ack, on the mean (default: 0)")
    add("--retries", type=int, default=0, metavar="N", help="attempts after a failed one (default: 0)")
    add(
        "--retry-pause",
        type=_seconds,
        default=retry.pause_s,
        metavar="S",
        help=f"before the second attempt, doubled for each further one; 0 hammers (default: {retry.pause_s:g})",
    )
    add(
        "--retry-on",
        type=one_of(RetryOn),
        default=retry.on,
        metavar="failed|any",
        help="whether a refusal is retried, too (default: failed)",
    )
    add(
        "--link",
        type=_link,
        default=LOOPBACK.name,
        metavar="NAME",
        help=f"what lies between server and devices: {', '.join(PROFILES)} (default: loopback)",
    )
    add("--faults", type=Path, metavar="TOML", help="what goes wrong, and how often")
    add("--seed", type=int, default=0, metavar="N", help="of everything that is left to chance (default: 0)")
    add(
        "--source-ip",
        type=_sources,
        metavar="A[-B]",
        help="connect from these addresses in turn, for instance 127.0.0.2-9: each has some 28,000 ports",
    )


def behaviour(args: argparse.Namespace) -> Behaviour:
    """What devices are like; raises `UsageError`."""
    if not 0 <= args.retries <= 1_000_000:
        raise UsageError(f"retries {args.retries}, expected 0 to 1000000")
    try:
        faults = load_faults(args.faults) if args.faults is not None else ()
    except BehaviourError as error:
        raise UsageError(str(error)) from error
    return Behaviour(
        retry=RetryPolicy(args.retries, args.retry_pause, on=args.retry_on),
        think_s=args.think,
        link=args.link,
        faults=faults,
        seed=args.seed,
    )


def arrivals(args: argparse.Namespace) -> Arrivals:
    """When devices begin; raises `UsageError`."""
    if args.ramp is not None and args.burst is not None:
        raise UsageError("--ramp and --burst: expected one of them")
    burst, every_s = args.burst or (None, 0.0)
    return Arrivals(args.ramp, burst, every_s, args.storm)


def _rate(text: str) -> float:
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(?:/s)?", text)
    if found is None or not 0 < float(found[1]) <= 1_000_000:
        raise argparse.ArgumentTypeError(f"{text!r}, expected updates a second, for instance 500/s")
    return float(found[1])


def _burst(text: str) -> tuple[int, float]:
    found = re.fullmatch(r"([0-9]{1,9})/([0-9]+(?:\.[0-9]+)?)s?", text)
    if found is None or int(found[1]) < 1 or not 0 < float(found[2]) <= 86_400:
        raise argparse.ArgumentTypeError(f"{text!r}, expected devices and seconds, for instance 1000/30")
    return int(found[1]), float(found[2])


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 86_400:
        raise argparse.ArgumentTypeError(f"{text!r}, expected 0 to 86400 seconds")
    return seconds


def _link(text: str) -> LinkProfile:
    if text not in PROFILES:
        raise argparse.ArgumentTypeError(f"{text!r}, expected one of {', '.join(PROFILES)}")
    return PROFILES[text]


def _sources(text: str) -> Sequence[str]:
    """`127.0.0.2`, `127.0.0.2-9` or `127.0.0.2-127.0.1.9`."""
    first, dash, last = text.partition("-")
    try:
        start = ipaddress.ip_address(first)
        if dash and last.isdecimal():
            last = f"{first.rpartition('.')[0]}.{last}"
        end = ipaddress.ip_address(last) if dash else start
        count = int(end) - int(start) + 1
    except ValueError:
        count = 0
    if not 0 < count <= MAX_SOURCES:
        raise argparse.ArgumentTypeError(
            f"{text!r}, expected an address or a range of at most {MAX_SOURCES}, for instance 127.0.0.2-9"
        )
    return [str(start + number) for number in range(count)]
