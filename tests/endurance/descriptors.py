"""Twenty thousand sessions, good ones and refused ones, leave no descriptor behind, and a log for each that is due one.

  python -m tests.endurance.descriptors --sessions 20000

Every kind of end that a device can cause by itself takes its turn: updated, unknown, no file, a broken file, malformed,
closed in the middle, reset in the middle. Descriptors are counted in /proc before and after; every session of a device
that the registry knows must stand in that device's log of its minute.
"""

import argparse
import collections
import random
import sys
import time
from collections.abc import Callable, Sequence
from typing import Final

import fota_fixtures

from .engine import Device, Engine, Peer, difference
from .report import Report, count, parser_of, run_program, say
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

AT_ONCE: Final = 50
"""Sessions at once."""

DEVICES: Final = 200
"""Devices of each kind, each of which comes again and again, one session after the other."""

IMAGE: Final = "long_records.s19"
"""The shortest way to a whole update: six records."""

VERSION: Final = "17"

SLOWEST_RATE: Final = 25
"""Sessions a second that the overall deadline reckons with. No claim: machines differ."""

KINDS: Final = ("updated", "unknown", "no file", "broken file", "malformed", "closed", "reset")

STATUS: Final = {
    "updated": "SUCCESSFUL",
    "unknown": "CLIENT_UNVERIFIED",
    "no file": "MISSED_FILENAME",
    "broken file": "INVALID_CODE_CHUNK",
    "malformed": "UNFORMATTED_MCUID",
    "closed": "CONNECTION_LOST",
    "reset": "CONNECTION_LOST",
}
"""How the journal calls each kind."""

_FILES: Final = {
    "updated": IMAGE,
    "closed": IMAGE,
    "reset": IMAGE,
    "no file": "none.s19",
    "broken file": "bad_checksum.s19",
}
"""What the registry names for those that it knows."""


class Quitter(Peer):
    """Says who it is, takes two frames, and leaves."""

    __slots__ = ("_got", "_mcuid", "_on_end", "_resets")

    def __init__(self, mcuid: str, resets: bool, on_end: Callable[[str | None], None]) -> None:
        super().__init__()
        self._mcuid = mcuid
        self._resets = resets
        self._on_end = on_end
        self._got = b""

    def connected(self) -> None:
        self.set_alarm(30.0)
        self.send(b"@%s#" % self._mcuid.encode())

    def received(self, data: bytes) -> None:
        self._got += data
        if self._got == b"@4#":
            self.send(b"@")
        elif len(self._got) > 7:
            self.close(reset=self._resets)
            self._on_end(None)

    def failed(self, why: str) -> None:
        self._on_end(f"no connection: {why}")

    def ended(self, why: str) -> None:
        self.close()
        self._on_end(f"{why} after {self._got!r}")

    def rang(self) -> None:
        self.ended("nothing for 30 s")


def arguments() -> argparse.ArgumentParser:
    parser = parser_of("descriptors", __doc__)
    parser.add_argument("--sessions", type=count, default=20_000, metavar="N", help="sessions (20,000)")
    return parser


def descriptors(args: argparse.Namespace, server_options: Sequence[str], report: Report) -> None:
    """The whole run."""
    require_linux()
    raise_descriptor_limit(2 * AT_ONCE + 200)
    with new_site(args.folder) as site:
        site.put(IMAGE, "bad_checksum.s19")
        site.register(
            f"{_mcuid(kind, number)},{name},{VERSION},handshake=wait"
            for kind, name in _FILES.items()
            for number in range(DEVICES)
        )
        with Server(site, server_options) as server, Engine() as engine:
            crowd = Crowd(engine, server.address, args.seed)
            for kind in KINDS:  # each once first: what a server opens once is open then
                crowd.begin(kind, DEVICES - 1)
            engine.run(lambda: crowd.ended == len(KINDS), 60.0)
            wait_until(lambda: _rows(site) == len(KINDS))
            time.sleep(0.5)  # the last of them may still linger
            start = server.descriptors()
            began = time.monotonic()
            crowd.keep_on(args.sessions + len(KINDS))
            limit = 120 + args.sessions / SLOWEST_RATE
            engine.run(lambda: crowd.ended == crowd.wanted or not server.runs, limit)
            say(f"descriptors: {crowd.ended:,} sessions")
            report.fact("sessions", crowd.ended)
            report.fact("rate, sessions a second", round(args.sessions / (time.monotonic() - began)))
            report.fact("kinds", dict(crowd.kinds))
            report.claim(
                "every session went as it should",
                crowd.ended == crowd.wanted and not crowd.failures,
                f"{crowd.ended:,} of {crowd.wanted:,}, {len(crowd.failures)} went otherwise {crowd.failures[:3]}",
            )
            same = wait_until(lambda: server.descriptors() == start)
            after = start if same else server.descriptors()
            report.fact("descriptors before and after", [start, after])
            report.claim("the server has as many descriptors as before", same, f"{start}, {after}")
            wait_until(lambda: _rows(site) >= crowd.wanted)
            claim_health(report, server)
            claim_journal_is_sound(report, site)
            claim_statuses(report, site, crowd)
            claim_session_logs(report, site)


class Crowd:
    """Sessions of all kinds, in random order."""

    def __init__(self, engine: Engine, address: tuple[str, int], seed: int) -> None:
        self.kinds: collections.Counter[str] = collections.Counter()
        self.failures: list[str] = []
        self.ended = self.begun = self.wanted = 0
        self._engine, self._address = engine, address
        self._rng = random.Random(seed)
        self._expected = frames_of(fota_fixtures.read(IMAGE), VERSION)

    def keep_on(self, until: int) -> None:
        """Some at once, until there were so many."""
        self.wanted = until
        for _ in range(AT_ONCE):
            self._next()

    def begin(self, kind: str, number: int) -> None:
        """One session."""
        self.begun += 1
        self.kinds[kind] += 1
        mcuid = _mcuid(kind, number)
        if kind in ("closed", "reset"):
            quitter = Quitter(mcuid, kind == "reset", lambda why: self._over(kind, number, why))
            self._engine.connect(quitter, self._address)
            return

        def ended(device: Device) -> None:
            wanted = self._expected if kind == "updated" else (b"@0#",)
            self._over(kind, number, device.failure or difference(device.frames, wanted))

        self._engine.connect(Device("x" if kind == "malformed" else mcuid, ended), self._address)

    def _over(self, kind: str, number: int, failure: str | None) -> None:
        self.ended += 1
        if failure is not None:
            self.failures.append(f"{kind} {number}: {failure}")
        self._next()

    def _next(self) -> None:
        if self.begun >= self.wanted:
            return
        kind = self._rng.choice(KINDS)
        self.begin(kind, self.kinds[kind] % DEVICES)  # in turn: two sessions of one device at once are another test


def claim_statuses(report: Report, site: Site, crowd: Crowd) -> None:
    """As many rows of each status as sessions of that kind."""
    wanted: collections.Counter[str] = collections.Counter()
    for kind, number in crowd.kinds.items():
        wanted[STATUS[kind]] += number
    report.claim("the journal has a row for each session, with its status", site.statuses() == wanted, site.statuses())


def claim_session_logs(report: Report, site: Site) -> None:
    """One file for each session of a known device, named after device and minute, numbered within the minute."""
    with site.reading() as database:
        rows = database.execute("SELECT mcuid, started_at FROM sessions WHERE filename IS NOT NULL").fetchall()
    wanted: collections.Counter[str] = collections.Counter()
    for mcuid, started_at in rows:
        name = f"{mcuid}-{time.strftime('%d-%m-%y_%H-%M', time.localtime(started_at))}"
        wanted[name] += 1
    names = [f"{name}_{k}.txt" if k > 1 else f"{name}.txt" for name, n in wanted.items() for k in range(1, n + 1)]
    found = {path.name: path.read_bytes().count(b" ended: ") for path in site.session_logs()}
    wrong = sorted(found.keys() ^ set(names)) + [name for name, ends in found.items() if ends != 1]
    report.fact("session logs", len(found))
    report.claim(
        "each session of a known device has its log, with its end in it, and there is no other log",
        not wrong,
        f"{len(found):,} logs, {sum(found.values()):,} ends, {len(rows):,} sessions {wrong[:3]}",
    )


def _mcuid(kind: str, number: int) -> str:
    return f"{(KINDS.index(kind) + 1) * 10**20 + number:025d}"


def _rows(site: Site) -> int:
    return int(site.ask("SELECT count(*) FROM sessions"))


def main(argv: Sequence[str]) -> int:
    """The program."""
    return run_program(arguments(), descriptors, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
