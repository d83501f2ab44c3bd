"""The disk of logs and journal fills up, refuses writes, or is read-only, while devices update.

  sudo python -m tests.endurance.disk --seconds 3

Needs root and Linux: the program mounts a small tmpfs in its temporary folder, as the log folder, and unmounts it
again; exit code 3 where that cannot be done. In turn:

  full       the disk is filled to the last byte, then freed
  refused    every write of the server fails (RLIMIT_FSIZE of 0, EFBIG), as on a disk that a fault made read-only; a
             plain remount is refused by the kernel as long as the server has files open for writing
  starting   a server starts on a read-only disk, which becomes writable; then one on a full disk, which is freed

Every device must be updated all the while, the server must say so, and not for each session, and when the disk is well
again there must be a row in the journal for every session, those of the bad time included.
"""

import argparse
import contextlib
import errno
import os
import random
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import fota_fixtures

from .engine import Engine, Lane, expecting
from .report import Report, UntestableError, count, parser_of, run_program, say, seconds
from .rig import (
    Server,
    Site,
    claim_orderly_end,
    frames_of,
    new_site,
    raise_descriptor_limit,
    require_linux,
    wait_until,
)

DEVICES: Final = 30
"""Devices that update in a loop."""

IMAGE: Final = "long_records.s19"
VERSION: Final = "31"

PAUSE: Final = 0.1
"""Mean seconds between two sessions of a device."""

MOST_COMPLAINTS: Final = 12
"""Lines about one trouble: the server log, the session logs and the journal may each say it when it comes and when it
goes, and a few more; sessions come by the hundred."""

FILLER: Final = "filler"

COMMAND_TIMEOUT: Final = 20.0
"""Seconds for `mount` and `umount`."""

LOOK_INTERVAL: Final = 0.1
"""Seconds between two looks."""

ROWS_TIMEOUT: Final = 15.0
"""Seconds from the end of a trouble until all rows are there. A bound, not a claim on speed."""


def arguments() -> argparse.ArgumentParser:
    parser = parser_of("disk", __doc__)
    parser.add_argument("--seconds", type=seconds, default=3.0, metavar="S", help="of each trouble (3)")
    parser.add_argument("--size", type=count, default=16, metavar="MIB", help="of the disk (16); a WAL takes 4 of them")
    return parser


def disk(args: argparse.Namespace, server_options: Sequence[str], report: Report) -> None:
    """All troubles."""
    require_linux()
    if os.geteuid() != 0:
        raise UntestableError("not root: a tmpfs cannot be mounted")
    raise_descriptor_limit(1_000)
    with new_site(args.folder) as site:
        site.put(IMAGE)
        site.register(f"{number + 1:025d},{IMAGE},{VERSION},handshake=wait" for number in range(DEVICES))
        site.logs.mkdir()
        with mounted(site.logs, args.size):
            running_trouble(args, site, server_options, report)
            starting_trouble(args, site, server_options, report)


# --- a disk


@contextlib.contextmanager
def mounted(folder: Path, size_mib: int) -> Iterator[None]:
    """A tmpfs at `folder`."""
    command("mount", "-t", "tmpfs", "-o", f"size={size_mib}m,mode=700", "fota-endurance", str(folder))
    try:
        yield
    finally:
        try:
            command("umount", str(folder))
        except UntestableError:
            command("umount", "--lazy", str(folder))


def command(*words: str) -> None:
    """Run it; raises `UntestableError` with what it said."""
    try:
        subprocess.run(words, capture_output=True, text=True, timeout=COMMAND_TIMEOUT, check=True)
    except FileNotFoundError:
        raise UntestableError(f"there is no command {words[0]}") from None
    except subprocess.CalledProcessError as error:
        raise UntestableError(f"{' '.join(words)}: {error.stderr.strip()}") from error


def remount(folder: Path, how: str) -> str | None:
    """Remount `ro` or `rw`; returns why not."""
    try:
        command("mount", "-o", f"remount,{how}", str(folder))
    except UntestableError as error:
        return str(error)
    return None


def fill(folder: Path) -> None:
    """Fill the disk to the last byte."""
    with (folder / FILLER).open("ab", buffering=0) as file:
        for size in (65_536, 4_096, 1):
            try:
                while file.write(b"\xff" * size):
                    pass
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise


def free(folder: Path) -> None:
    """Take away what filled it."""
    (folder / FILLER).unlink()


def let_write(server: Server, allowed: bool) -> None:
    """Let the server's processes write to files, or make every such write fail."""
    for pid in server.family():
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard if allowed else 0, hard))


# --- devices


class Watch:
    """Does something again and again, until it is over."""

    def __init__(self, engine: Engine, interval_s: float, call: Callable[[], object]) -> None:
        self.over = False
        self._call = call
        engine.every(interval_s, self._again)

    def _again(self) -> None:
        if not self.over:
            self._call()


class Fleet:
    """Devices in a loop on a server, and how many sessions they had."""

    def __init__(self, args: argparse.Namespace, server: Server, engine: Engine) -> None:
        self.site = server.site
        self._engine = engine
        judge = expecting(frames_of(fota_fixtures.read(IMAGE), VERSION))
        self.lanes = [
            Lane(engine, server.address, f"{n + 1:025d}", judge, rng=random.Random(f"{args.seed}/{n}"), pause_s=PAUSE)
            for n in range(DEVICES)
        ]
        for lane in self.lanes:
            lane.begin()

    @property
    def updated(self) -> int:
        """Updates so far."""
        return sum(lane.updated for lane in self.lanes)

    def go_on(self, duration_s: float) -> tuple[int, list[str]]:
        """Update for so long; returns updates of that time, and failures."""
        before = self.updated
        for lane in self.lanes:
            lane.failures.clear()
        self._engine.run(lambda: False, duration_s)
        return self.updated - before, [failure for lane in self.lanes for failure in lane.failures]

    def finish(self) -> None:
        """No more sessions."""
        for lane in self.lanes:
            lane.stopping = True
        self._engine.run(lambda: all(lane.idle for lane in self.lanes), 60.0)

    def resume(self) -> None:
        """Sessions again."""
        for lane in self.lanes:
            lane.stopping = False
            lane.begin()


def claim_updates(report: Report, when: str, found: tuple[int, list[str]]) -> None:
    """All devices were updated in that time."""
    updated, failures = found
    say(f"disk: {when}: {updated} updated, {len(failures)} failed")
    report.fact(f"updates {when}", updated)
    report.claim(
        f"every device was updated {when}",
        updated > 0 and not failures,
        f"{updated} updated, {len(failures)} failed {failures[:3]}",
    )


def rows(site: Site) -> int:
    """Rows of the journal; 0 where there is none."""
    try:
        return int(site.ask("SELECT count(*) FROM sessions"))
    except Exception:  # whatever SQLite makes of a disk like this: it is asked again
        return 0


def claim_rows(report: Report, when: str, fleet: Fleet, known: int = 0) -> None:
    """The journal has caught up: `known` rows of other servers, and one for each session of this one."""
    fleet.finish()
    expected = known + fleet.updated
    wait_until(lambda: rows(fleet.site) >= expected, ROWS_TIMEOUT)
    found = rows(fleet.site)
    report.claim(
        f"{when}, the journal has a row for every session, those of the bad time too",
        found == expected,
        f"{found} rows, {expected} sessions",
    )
    fleet.resume()


def complaints(site: Site) -> list[str]:
    """What the server said of a trouble, in its log and on standard error."""
    return [*site.trouble(), *(line for line in site.said().splitlines() if line.strip())]


# --- troubles


def running_trouble(args: argparse.Namespace, site: Site, server_options: Sequence[str], report: Report) -> None:
    """A server that runs while the disk goes bad."""
    with Server(site, server_options) as server, Engine() as engine:
        fleet = Fleet(args, server, engine)
        claim_updates(report, "before", fleet.go_on(1.0))
        before = len(complaints(site))

        fill(site.logs)
        keep_full = Watch(engine, LOOK_INTERVAL, lambda: fill(site.logs))  # what the server gives up
        claim_updates(report, "on a full disk", fleet.go_on(args.seconds))
        keep_full.over = True
        free(site.logs)
        claim_updates(report, "on the disk that was freed", fleet.go_on(1.0))
        claim_rows(report, "after space is free again", fleet)
        said = len(complaints(site)) - before
        report.fact("lines about the full disk", complaints(site)[before:][:MOST_COMPLAINTS])
        report.claim(
            "the server says that the disk is full, and not for each session",
            1 <= said <= MOST_COMPLAINTS,
            f"{said} lines",
        )

        before = len(complaints(site))
        let_write(server, False)
        claim_updates(report, "while writes are refused", fleet.go_on(args.seconds))
        let_write(server, True)
        claim_updates(report, "when writes are taken again", fleet.go_on(1.0))
        claim_rows(report, "after writes are taken again", fleet)
        said = len(complaints(site)) - before
        report.fact("lines about refused writes", complaints(site)[before:][:MOST_COMPLAINTS])
        report.claim("refused writes are not told for each session", said <= MOST_COMPLAINTS, f"{said} lines")

        why = remount(site.logs, "ro")
        report.fact("remounting read-only under the server", why or "was taken")
        if why is None:
            claim_updates(report, "on a read-only disk", fleet.go_on(args.seconds))
            remount(site.logs, "rw")
            claim_updates(report, "on the writable disk again", fleet.go_on(1.0))
            claim_rows(report, "after the disk is writable again", fleet)
        fleet.finish()
        claim_end(report, server, "a server whose disk went bad and well again")
    if site.journal.exists():
        found = site.ask("PRAGMA integrity_check")
        report.claim("the journal passes SQLite's integrity check", found == "ok", found)


def starting_trouble(args: argparse.Namespace, site: Site, server_options: Sequence[str], report: Report) -> None:
    """A server that starts while the disk is bad."""
    for what in ("read-only", "full"):
        known = rows(site)
        errors_before = len(site.said())
        before = len(complaints(site))
        if what == "full":
            fill(site.logs)
        elif (why := remount(site.logs, "ro")) is not None:
            report.claim("the disk can be made read-only when no server runs", False, why)
            continue
        try:
            server = Server(site, server_options)
        except Exception as error:
            report.claim(f"a server starts on a {what} disk and serves", False, str(error)[-300:])
            server = None
        if server is not None:
            with server, Engine() as engine:
                fleet = Fleet(args, server, engine)
                claim_updates(report, f"by a server that started on a {what} disk", fleet.go_on(1.0))
                report.claim(
                    f"a server that starts on a {what} disk says so",
                    len(site.said()) > errors_before,
                    site.said()[errors_before:][-300:],
                )
                if what == "full":
                    free(site.logs)
                else:
                    remount(site.logs, "rw")
                claim_updates(report, f"when the {what} disk is well again", fleet.go_on(1.0))
                claim_rows(report, f"after a start on a {what} disk, when it is well again", fleet, known)
                fleet.finish()
                claim_end(report, server, f"a server that started on a {what} disk")
                report.fact(f"lines about the start on a {what} disk", complaints(site)[before:][:MOST_COMPLAINTS])
        elif what == "full":
            free(site.logs)
        else:
            remount(site.logs, "rw")


def claim_end(report: Report, server: Server, what: str) -> None:
    """It lives, ends well, and had no traceback."""
    report.claim(f"{what} never ended", server.runs and server.said_pid == server.pid, f"pid {server.pid}")
    claim_orderly_end(report, server)
    said = server.site.said() + "".join(server.site.trouble())
    report.claim(f"{what} left no traceback", "Traceback" not in said, said[-500:] if "Traceback" in said else "")


def main(argv: Sequence[str]) -> int:
    """The program."""
    return run_program(arguments(), disk, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
