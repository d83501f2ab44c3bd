"""The server is killed with SIGKILL at random moments, again and again, on one folder; what it had written must stay.

  python -m tests.endurance.crash --rounds 20
  python -m tests.endurance.crash --rounds 200 --seed 7

Devices update all the time, and this process reads the journal as any other process would. In each round the server is
killed at a random moment: mostly while it serves, sometimes while it starts or stops. Afterwards the journal must be
sound and hold every row that the reader ever saw, unchanged; session logs must be whole lines; and the next server on
the same folder must serve. In every second round that next server is the first to open the journal, in the others the
reader is. A device that is served `once`, and whose success the reader saw, must never be updated again.
"""

import argparse
import random
import signal
import sqlite3
import sys
import time
from collections.abc import Sequence
from typing import Any, Final

import fota_fixtures

from .engine import Device, Engine, Lane, difference, expecting
from .report import Report, count, parser_of, run_program, say
from .rig import (
    Server,
    Site,
    broken_lines,
    claim_health,
    frames_of,
    new_site,
    raise_descriptor_limit,
    require_linux,
    wait_until,
)

IMAGES: Final = ("long_records.s19", "blink_1.s19")

VERSION: Final = "23"

DEVICES: Final = 30
"""Devices that update in a loop."""

ONCE: Final = 40
"""Devices that are served once, in a loop as well."""

POLL_INTERVAL: Final = 0.02
"""Seconds between two looks of the reader."""

SERVING: Final = 1.5
"""Most seconds from the readiness line to a kill while serving."""

STARTING: Final = 0.6
"""Most seconds from the start of the process to a kill while starting."""

STOPPING: Final = 0.2
"""Most seconds from SIGTERM to a kill while stopping."""

PHASES: Final = ("serving", "starting", "stopping")
WEIGHTS: Final = (7, 1, 2)
"""What a server does when it is killed, and how often."""

ROUND_TIMEOUT: Final = 60.0
"""Seconds for one update that proves that a server serves."""

Row = tuple[Any, ...]


class Reader:
    """Another process's view of the journal: every row it ever saw, by id."""

    def __init__(self, site: Site) -> None:
        self.seen: dict[int, Row] = {}
        self.troubles: list[str] = []
        self._site = site
        self._database: sqlite3.Connection | None = None

    def poll(self) -> None:
        """Take what is new."""
        try:
            if self._database is None:
                if not self._site.journal.exists():
                    return
                self._database = sqlite3.connect(f"file:{self._site.journal}?mode=ro", timeout=1.0, uri=True)
            newest = max(self.seen, default=0)
            for row in self._database.execute("SELECT * FROM sessions WHERE id > ? ORDER BY id", (newest,)):
                self.seen[row[0]] = row
        except sqlite3.OperationalError as error:
            self.close()
            if "no such table" not in str(error):  # it is being made
                self.troubles.append(str(error))

    def close(self) -> None:
        """Let go of the file; the next look opens it again."""
        if self._database is not None:
            self._database.close()
            self._database = None


def arguments() -> argparse.ArgumentParser:
    parser = parser_of("crash", __doc__)
    parser.add_argument("--rounds", type=count, default=20, metavar="N", help="kills (20)")
    parser.add_argument(
        "--devices", type=count, default=DEVICES, metavar="N", help=f"that update all the time ({DEVICES})"
    )
    return parser


def crash(args: argparse.Namespace, server_options: Sequence[str], report: Report) -> None:
    """All rounds."""
    require_linux()
    raise_descriptor_limit(1_000 + 2 * args.devices)
    rng = random.Random(args.seed)
    mcuids = [f"{number + 1:025d}" for number in range(args.devices)]
    once = [f"{10**20 + number:025d}" for number in range(ONCE)]
    with new_site(args.folder) as site:
        site.put(*IMAGES)
        reader = Reader(site)
        rounds: list[str] = []
        for number in range(args.rounds):
            lines = [f"{mcuid},{IMAGES[k % len(IMAGES)]},{VERSION},handshake=wait" for k, mcuid in enumerate(mcuids)]
            # Another version in each round: then those that are served once are served once more.
            site.register([*lines, *(f"{m},{IMAGES[0]},{number % 100:02d},once,handshake=wait" for m in once)])
            phase = rng.choices(PHASES, WEIGHTS)[0] if number else PHASES[0]  # the first fills the journal
            moment = rng.uniform(0.0, {"serving": SERVING, "starting": STARTING, "stopping": STOPPING}[phase])
            told = one_round(site, reader, rng, mcuids + once, phase, moment, server_options)
            reader.close()
            if number % 2:
                seen, found = verify(site, reader, report, number)
                again_once(site, reader, report, number, once, server_options)
            else:
                again_once(site, reader, report, number, once, server_options)
                seen, found = verify(site, reader, report, number)
            line = f"killed {moment:.2f} s into {phase}, {told}, {seen:,} rows seen, {found:,} found"
            rounds.append(line)
            say(f"crash: round {number + 1} of {args.rounds}: {line}")
        report.fact("rounds", dict(enumerate(rounds, start=1)))
        report.fact("rows seen by the reader", len(reader.seen))
        report.fact("troubles of the reader", reader.troubles[:10])
        report.claim("the reader could read all the time", not reader.troubles, reader.troubles[:3])
        report.claim("rows were seen", bool(reader.seen), len(reader.seen))
        with Server(site, server_options) as server:
            claim_health(report, server)


def one_round(
    site: Site,
    reader: Reader,
    rng: random.Random,
    mcuids: Sequence[str],
    phase: str,
    moment_s: float,
    server_options: Sequence[str],
) -> str:
    """Start a server, let devices update, kill it; tells how many were updated."""
    if phase == "starting":
        try:
            server = Server(site, server_options, ready_within_s=moment_s)
        except TimeoutError:
            return "before it was ready"
        with server:  # it was quicker
            return "just when it was ready"
    with Server(site, server_options) as server, Engine() as engine:
        lanes = [
            Lane(engine, server.address, mcuid, lambda _: None, rng=rng, pause_s=0.02, patience_s=ROUND_TIMEOUT)
            for mcuid in mcuids
        ]
        for lane in lanes:
            lane.begin()
        engine.every(POLL_INTERVAL, reader.poll)
        serving = moment_s if phase == "serving" else rng.uniform(0.1, SERVING)
        engine.run(lambda: False, serving)
        if phase == "stopping":
            server.process.send_signal(signal.SIGTERM)
            engine.run(lambda: False, moment_s)
        server.process.kill()
        server.process.wait()
        return f"{sum(lane.updated for lane in lanes)} sessions over"


def verify(site: Site, reader: Reader, report: Report, number: int) -> tuple[int, int]:
    """What is there after the kill; returns how many rows were seen, and how many are found."""
    if not site.journal.exists():
        report.claim(f"round {number + 1}: nothing was seen of a journal that is not there", not reader.seen)
        return 0, 0
    database = sqlite3.connect(site.journal, timeout=10.0)
    try:
        sound = database.execute("PRAGMA integrity_check").fetchone()[0]
        tables = database.execute("SELECT count(*) FROM sqlite_master WHERE name = 'sessions'").fetchone()[0]
        found = {row[0]: row for row in database.execute("SELECT * FROM sessions")} if tables else {}
    except sqlite3.Error as error:
        report.claim(f"round {number + 1}: the journal opens", False, error)
        return 0, 0
    finally:
        database.close()
    report.claim(f"round {number + 1}: the journal is sound", sound == "ok", sound)
    lost = [row for row in reader.seen if row not in found]
    changed = [row for row, content in reader.seen.items() if row in found and found[row] != content]
    report.claim(
        f"round {number + 1}: every row that was seen is there, unchanged",
        not lost and not changed,
        f"{len(reader.seen):,} seen, {len(found):,} found, lost {lost[:5]}, changed {changed[:5]}",
    )
    broken = broken_lines([*site.session_logs(), *site.logs.glob("otaserver.log*")])
    report.claim(f"round {number + 1}: logs are whole lines", not broken, broken[:3] or "")
    seen = len(reader.seen)
    reader.seen.update(found)
    return seen, len(found)


def again_once(
    site: Site, reader: Reader, report: Report, number: int, once: Sequence[str], server_options: Sequence[str]
) -> None:
    """The next server on the folder serves, and remembers who was served once."""
    version = f"{number % 100:02d}"
    latest = time.monotonic() + ROUND_TIMEOUT
    updated_before = set()
    for row in reader.seen.values():
        _, _, _, _, mcuid, _, _, row_version, _, _, _, _, status, _, _ = row
        if status == 0 and mcuid in once and row_version == version:
            updated_before.add(mcuid)
    with Server(site, server_options) as server, Engine() as engine:
        expected = frames_of(fota_fixtures.read(IMAGES[0]), VERSION)
        failures: list[str | None] = []
        judge = expecting(expected)
        device = Device(f"{1:025d}", lambda d: failures.append(d.failure or judge(d)), patience_s=ROUND_TIMEOUT)
        engine.connect(device, server.address)
        again: list[Device] = []
        for mcuid in updated_before:
            engine.connect(Device(mcuid, again.append, patience_s=ROUND_TIMEOUT), server.address)
        engine.run(lambda: bool(failures) and len(again) == len(updated_before), latest - time.monotonic())
        report.claim(f"round {number + 1}: the next server serves", failures == [None], failures)
        twice = [d.mcuid for d in again if d.failure or difference(d.frames, (b"@0#",))]
        report.claim(
            f"round {number + 1}: who was served once stays served",
            len(again) == len(updated_before) and not twice,
            f"{len(updated_before)} devices, {len(twice)} updated again {twice[:3]}",
        )
        wait_until(lambda: site.ask("SELECT count(*) FROM sessions") >= 1)
        reader.poll()
        reader.close()


def main(argv: Sequence[str]) -> int:
    """The program."""
    return run_program(arguments(), crash, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
