"""Ten thousand connections that do nothing, and a thousand devices that update all at once beside them.

Idle connections are of three kinds: silent ones; ones that send a digit of an identification every few seconds; ones
that said who they are, got `@4#`, and stopped there. None of them may cost a live device its update, and each is ended
by the server when its deadline is over, not before.

  python -m tests.endurance.slow_loris --idle 10000 --live 1000
  python -m tests.endurance.slow_loris --idle 10000 --live 1000 --image demo_16k.s19 -- --workers 2

Each live device has an MCUID of its own. Times are printed and never judged: machines differ.
"""

import argparse
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Final

import fota_fixtures

from .engine import Device, Engine, Peer, difference
from .report import Report, count, megabytes, parser_of, run_program, say, seconds
from .rig import (
    Server,
    Site,
    claim_health,
    claim_journal_is_sound,
    frames_of,
    new_site,
    raise_descriptor_limit,
    require_linux,
    wait_until,
)

VERSION: Final = "42"

DRIP: Final = 2.0
"""Mean seconds between two bytes of a slow identification."""

EARLY: Final = 0.5
"""Seconds by which a deadline may seem short: a loop's clock stands still during one of its rounds."""

PATIENCE: Final = 300.0
"""Seconds for all live devices, and for one of them. A bound, not a claim on speed."""

ENDS_WITHIN: Final = 120.0
"""Seconds beyond its deadline in which the server must have ended every idle connection. A bound as well."""


class Idle(Peer):
    """One of the three kinds: `silent`, `drips`, `offered`."""

    __slots__ = ("_next", "_on_end", "_rng", "got", "kind", "mcuid", "since", "text")

    def __init__(self, kind: str, mcuid: str, rng: random.Random, on_end: Callable[["Idle", str], None]) -> None:
        super().__init__()
        self.kind = kind
        self.mcuid = mcuid
        self.text = b"@" + mcuid.encode()
        self.got = b""
        self.since = 0.0
        """When it was connected: no later than its deadline began."""
        self._rng = rng
        self._on_end = on_end
        self._next = 0

    def connected(self) -> None:
        self.since = self.engine.now
        if self.kind == "offered":
            self.send(self.text + b"#")
        elif self.kind == "drips":
            self.rang()

    def rang(self) -> None:
        self.send(self.text[self._next : self._next + 1])
        self._next += 1
        if self._next < len(self.text) and self.is_open:
            self.set_alarm(self._rng.uniform(0.5, 1.5) * DRIP)

    def received(self, data: bytes) -> None:
        self.got += data

    def failed(self, why: str) -> None:
        self._on_end(self, why)

    def ended(self, why: str) -> None:
        self.close()
        self._on_end(self, why)


def arguments() -> argparse.ArgumentParser:
    parser = parser_of("slow_loris", __doc__)
    parser.add_argument("--idle", type=count, default=10_000, metavar="N", help="idle connections (10,000)")
    parser.add_argument("--live", type=count, default=1_000, metavar="N", help="devices that update at once (1,000)")
    parser.add_argument("--image", default="blink_1.s19", help="fixture that they get (blink_1.s19)")
    parser.add_argument("--deadline", type=seconds, default=60.0, metavar="S", help="the server's timeouts (60)")
    return parser


def slow_loris(args: argparse.Namespace, server_options: Sequence[str], report: Report) -> None:
    """The whole run."""
    require_linux()
    raise_descriptor_limit(args.idle + args.live + 200)
    rng = random.Random(args.seed)
    kinds = [("silent", "drips", "offered")[number % 3] for number in range(args.idle)]
    idle_mcuids = [f"{number + 1:025d}" for number in range(args.idle)]
    live_mcuids = [f"{10**20 + number:025d}" for number in range(args.live)]
    options = [f"--{name}" for name in ("identification-timeout", "ack-timeout", "end-ack-timeout")]
    options = [word for option in options for word in (option, f"{args.deadline:g}")]
    with new_site(args.folder) as site:
        site.put(args.image)
        site.register(
            f"{mcuid},{args.image},{VERSION},handshake=wait"
            for mcuid in [*live_mcuids, *(m for m, kind in zip(idle_mcuids, kinds, strict=True) if kind == "offered")]
        )
        with Server(site, ["--handshake", "wait", *options, *server_options]) as server, Engine() as engine:
            report.fact("memory at the start, MiB", megabytes(server.resident()))
            start = server.descriptors()
            report.fact("descriptors at the start", start)
            gone: list[tuple[str, float]] = []  # why, seconds after it was connected

            def left(peer: Idle, why: str) -> None:
                gone.append((why, engine.now - peer.since))

            idle = [Idle(kind, mcuid, rng, left) for kind, mcuid in zip(kinds, idle_mcuids, strict=True)]
            run(args, report, server, engine, idle, gone, live_mcuids)
            settled = wait_until(lambda: server.descriptors() <= start + 8)
            report.claim("descriptors are back", settled, f"{start} before, {server.descriptors()} after")
            claim_rows(report, site, args)
            claim_health(report, server)
            claim_journal_is_sound(report, site)


def run(
    args: argparse.Namespace,
    report: Report,
    server: Server,
    engine: Engine,
    idle: Sequence[Idle],
    gone: Sequence[tuple[str, float]],
    mcuids: Sequence[str],
) -> None:
    """Idle ones, then live ones, then the end of the idle ones."""
    began = time.monotonic()
    for peer in idle:
        engine.connect(peer, server.address)
    ready = engine.run(lambda: all(peer.since and (peer.kind != "offered" or peer.got) for peer in idle), PATIENCE)
    report.fact("seconds to make the idle connections", round(time.monotonic() - began, 2))
    report.claim(
        "every idle connection was made, and @4# came to those that asked",
        ready and all(peer.got == (b"@4#" if peer.kind == "offered" else b"") for peer in idle),
        f"{sum(bool(peer.since) for peer in idle):,} of {len(idle):,}",
    )
    say(f"slow_loris: {len(idle):,} idle, server {megabytes(server.resident())} MiB")
    report.fact("idle connections when the live ones begin", len(idle) - len(gone))
    report.fact("memory with the idle ones, MiB", megabytes(server.resident()))

    expected = frames_of(fota_fixtures.read(args.image), VERSION)
    devices: list[Device] = []
    began = time.monotonic()
    for mcuid in mcuids:
        engine.connect(Device(mcuid, devices.append, patience_s=PATIENCE), server.address)
    most = [0, 0]

    def look() -> None:
        most[:] = max(most[0], server.resident()), max(most[1], server.descriptors())

    engine.every(0.25, look)
    engine.run(lambda: len(devices) == len(mcuids) or not server.runs, PATIENCE)
    wrong = [f"{d.mcuid}: {why}" for d in devices if (why := d.failure or difference(d.frames, expected))]
    times = [device.took_s for device in devices] or [0.0]
    say(f"slow_loris: {len(devices):,} live updates, worst {max(times):.2f} s")
    report.fact("seconds for all live updates", round(time.monotonic() - began, 2))
    report.fact("median update, s", round(statistics.median(times), 2))
    report.fact("worst update, s", round(max(times), 2))
    report.fact("most memory, MiB", megabytes(most[0]))
    report.fact("most descriptors", most[1])
    report.fact("idle connections left then", len(idle) - len(gone))
    report.claim(
        "every live device was updated byte for byte",
        len(devices) == len(mcuids) and not wrong,
        f"{len(devices) - len(wrong):,} of {len(mcuids):,} {wrong[:3]}",
    )
    ended = engine.run(lambda: len(gone) == len(idle) or not server.runs, args.deadline + ENDS_WITHIN)
    report.claim("the server ended every idle connection", ended, f"{len(gone):,} of {len(idle):,}")
    lives = [length for _, length in gone] or [0.0]
    report.fact("shortest and longest idle life, s", [round(min(lives), 2), round(max(lives), 2)])
    report.claim(
        "none of them before its deadline",
        min(lives) >= args.deadline - EARLY,
        f"deadline {args.deadline:g} s, the shortest lived {min(lives):.2f} s",
    )


def claim_rows(report: Report, site: Site, args: argparse.Namespace) -> None:
    """The journal tells both kinds apart."""
    wanted = {"SUCCESSFUL": args.live, "TIMEOUT_CONNECTION": args.idle}
    wait_until(lambda: site.statuses() == wanted)
    found = site.statuses()
    report.claim("the journal has each as what it was", found == wanted, found)


def main(argv: Sequence[str]) -> int:
    """The program."""
    return run_program(arguments(), slow_loris, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
