"""The registry and firmware files are replaced all the time while hundreds of devices update in a loop.

  python -m tests.endurance.reload --seconds 20
  python -m tests.endurance.reload --registry sqlite

Every published image says in each of its records which one it is, and its slot has a version of its own, so a mixture
would be seen. Three parts, one after the other:

  text      the registry is replaced in one step, or rewritten in place with a half-written moment
  sqlite    the registry is changed by transactions, some of which stay half done for a while
  replaced  the SQLite file is replaced by another: renamed over, or deleted and made again, half-written for a while

In all of them, firmware files are replaced in one step under their names. Each session must get exactly one published
image, whole, in its order, with the version of its slot, and one that was in force at some moment of the session (or
shortly before, where an SQLite file was replaced: the new one is opened beside the sessions). A device may be refused
as unknown only where a half-written text registry was there during its session. When the writing stops, what
was written last must be in force for everybody.
"""

import argparse
import contextlib
import random
import sqlite3
import sys
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from .engine import Device, Engine
from .report import Report, count, parser_of, run_program, say, seconds
from .rig import (
    Server,
    Site,
    claim_health,
    claim_journal_is_sound,
    new_site,
    raise_descriptor_limit,
    replace,
    require_linux,
)

SLOTS: Final = 10
"""Firmware files; the version of slot 7 is 7. One digit: a line that is cut anywhere is then no valid line."""

RECORDS: Final = 12
"""Records of an image, 16 bytes each."""

FLICKER: Final = 0.02
"""Mean seconds between two changes."""

HALF_WRITTEN: Final = 0.01
"""Mean seconds that a registry stays half-written."""

CALM_EVERY: Final = 25
"""Changes after which the writing pauses, so that what was written last can be seen to be in force."""

CALM: Final = 0.4
"""Seconds of such a pause. A session that begins in it, after the change, must see that change."""

PAUSE: Final = 0.05
"""Mean seconds between two sessions of a device."""

FOLLOWED: Final = 10.0
"""Seconds for which an SQLite file that was replaced may be in force: the new one is opened beside the sessions."""

PATIENCE: Final = 60.0
"""Seconds that a session may take. A bound, not a claim on speed."""


def image(serial: int) -> bytes:
    """The S-records of image `serial`, with it in every four bytes, and in its length."""
    lines = []
    for number in range(RECORDS + serial % 5):
        body = bytes((19, 0x40 + number // 16, number % 16 * 16)) + serial.to_bytes(4, "big") * 4
        lines.append(b"S1%s%02X" % (body.hex().upper().encode(), ~sum(body) & 0xFF))
    return b"\n".join([*lines, b"S9030000FC", b""])


def serial_of(frames: Sequence[bytes]) -> int:
    """Which image the first record says that it is."""
    return int(frames[1][8:16], 16)


def slot_name(slot: int) -> str:
    return f"slot_{slot}.s19"


class Writer(Protocol):
    """Changes the registry; a change in several steps calls `later` for the next."""

    lag_s: float
    """Seconds for which what was there before may stay in force."""

    def write(self, slots: Sequence[int], later: Callable[[float, Callable[[], None]], None]) -> None:
        """Begin to make `slots` the slots of the devices, in their order."""


class Change:
    """From when to when a state was, or may have been, in force; seconds on the engine's clock."""

    def __init__(self, began: float) -> None:
        self.began = began
        self.ended = float("inf")


class Published:
    """What was in force when: slots of devices, images of slots, and half-written moments."""

    def __init__(self) -> None:
        self.slots: list[tuple[Change, tuple[int, ...]]] = []
        self.images: dict[int, list[tuple[Change, int]]] = {slot: [] for slot in range(SLOTS)}
        self.torn: list[Change] = []

    def slots_between(self, number: int, start: float, end: float) -> set[int]:
        """Slots that device `number` had at some moment."""
        return {slots[number] for change, slots in self.slots if change.began <= end and change.ended >= start}

    def images_between(self, slot: int, start: float, end: float) -> set[int]:
        """Images that a slot had at some moment."""
        return {serial for change, serial in self.images[slot] if change.began <= end and change.ended >= start}

    def torn_between(self, start: float, end: float) -> bool:
        """Whether a registry was half-written at some moment."""
        return any(change.began <= end and change.ended >= start for change in self.torn)


class TextWriter:
    """A text registry: replaced in one step, or rewritten in place."""

    lag_s = 0.0

    def __init__(self, site: Site, mcuids: Sequence[str], published: Published, rng: random.Random, engine: Engine):
        self._site, self._mcuids, self._published, self._rng, self._engine = site, mcuids, published, rng, engine
        self.in_place = self.in_one_step = 0

    def content(self, slots: Sequence[int]) -> bytes:
        """The registry as it should be, with a comment of varying length."""
        lines = [f"{mcuid},{slot_name(slot)},{slot}" for mcuid, slot in zip(self._mcuids, slots, strict=True)]
        self._rng.shuffle(lines)
        return ("\n".join(lines) + "\n# " + "." * self._rng.randrange(40) + "\n").encode()

    def write(self, slots: Sequence[int], later: Callable[[float, Callable[[], None]], None]) -> None:
        content = self.content(slots)
        if self._rng.random() < 0.5:
            self.in_one_step += 1
            replace(self._site.registry, content)
            later(0.0, lambda: None)
            return
        self.in_place += 1
        # Without a line of another state: what is torn is only that lines are missing.
        torn = Change(time.monotonic())
        self._published.torn.append(torn)
        cut = self._rng.randrange(len(content))
        file = self._site.registry.open("r+b", buffering=0)
        file.truncate(0)
        file.write(content[:cut])

        def rest() -> None:
            file.write(content[cut:])
            file.close()
            torn.ended = time.monotonic()

        later(self._rng.expovariate(1 / HALF_WRITTEN), rest)


class SqliteWriter:
    """An SQLite registry: changed by transactions, some of which stay open for a while."""

    lag_s = 0.0

    def __init__(self, site: Site, mcuids: Sequence[str], rng: random.Random) -> None:
        self._mcuids, self._rng = mcuids, rng
        self._database = sqlite3.connect(site.folder / "devices.sqlite", timeout=10.0, isolation_level=None)
        self.in_place = self.in_one_step = 0

    def write(self, slots: Sequence[int], later: Callable[[float, Callable[[], None]], None]) -> None:
        rows = [(mcuid, slot_name(slot), str(slot)) for mcuid, slot in zip(self._mcuids, slots, strict=True)]
        cut = self._rng.randrange(len(rows)) if self._rng.random() < 0.5 else len(rows)
        self._database.execute(self._rng.choice(("BEGIN IMMEDIATE", "BEGIN EXCLUSIVE")))
        if self._rng.random() < 0.5:
            self._database.execute("DELETE FROM devices")
        question = "INSERT OR REPLACE INTO devices (mcuid, filename, version) VALUES (?, ?, ?)"
        self._database.executemany(question, rows[:cut])

        def rest() -> None:
            self._database.executemany(question, rows[cut:])
            self._database.execute("COMMIT")

        if cut == len(rows):
            self.in_one_step += 1
            rest()
            later(0.0, lambda: None)
        else:
            self.in_place += 1
            later(self._rng.expovariate(1 / HALF_WRITTEN), rest)

    def close(self) -> None:
        self._database.close()


class ReplacingWriter:
    """An SQLite registry whose file is replaced, as a back-up that comes back does it."""

    lag_s = FOLLOWED

    def __init__(self, site: Site, mcuids: Sequence[str], rng: random.Random) -> None:
        self._path, self._mcuids, self._rng = site.folder / "devices.sqlite", mcuids, rng
        self.in_place = self.in_one_step = 0

    def write(self, slots: Sequence[int], later: Callable[[float, Callable[[], None]], None]) -> None:
        new = self._path.with_name("new.sqlite")
        with contextlib.closing(sqlite3.connect(new)) as database, database:
            database.execute(
                "CREATE TABLE devices (mcuid TEXT PRIMARY KEY, filename TEXT, version TEXT, part TEXT, "
                "handshake TEXT, pack INTEGER, once INTEGER)"
            )
            rows = [(mcuid, slot_name(slot), str(slot)) for mcuid, slot in zip(self._mcuids, slots, strict=True)]
            database.executemany("INSERT INTO devices (mcuid, filename, version) VALUES (?, ?, ?)", rows)

        if self._rng.random() < 0.5:
            self.in_one_step += 1
            new.replace(self._path)
            later(0.0, lambda: None)
            return
        self.in_place += 1
        content = new.read_bytes()
        new.unlink()
        self._path.unlink()
        file = self._path.open("xb", buffering=0)
        cut = self._rng.randrange(len(content))
        file.write(content[:cut])

        def rest() -> None:
            file.write(content[cut:])
            file.close()

        later(self._rng.expovariate(1 / HALF_WRITTEN), rest)


class Scene:
    """Devices in a loop, and somebody who changes things under them."""

    def __init__(
        self,
        engine: Engine,
        address: tuple[str, int],
        site: Site,
        mcuids: Sequence[str],
        writer: Writer,
        published: Published,
        rng: random.Random,
    ) -> None:
        self.sessions = self.refused = self.calm_sessions = 0
        self.reloads = self.replaced = 0
        self.seen: set[int] = set()
        self.got: dict[int, int] = {}
        """The slot that each device got in its last session."""
        self.failures: list[str] = []
        self.changing = True
        self.open = 0
        self._engine, self._address, self._site, self._mcuids = engine, address, site, mcuids
        self._writer, self._published, self._rng = writer, published, rng
        self._serial = 0
        self._settled_at = 0.0
        """When the writing paused, infinity while it does not."""
        self._busy = False
        for slot in range(SLOTS):
            self._publish_image(slot)

    def begin(self) -> None:
        """Let all devices come, and change things from now on."""
        for number in range(len(self._mcuids)):
            self._session(number)
        self._change()

    def last_is_in_force(self) -> bool:
        """Whether every device gets what was written last, tried until it does; a bound, not a claim on speed."""
        limit = time.monotonic() + PATIENCE
        while True:
            self.got.clear()
            for number in range(len(self._mcuids)):
                self._connect(number)
            self._engine.run(lambda: self.open == 0, PATIENCE)
            if tuple(self.got.get(number) for number in range(len(self._mcuids))) == self._published.slots[-1][1]:
                return True
            if self.open or time.monotonic() > limit:
                return False

    # --- devices

    def _session(self, number: int) -> None:
        if self.changing:
            self._connect(number)

    def _connect(self, number: int) -> None:
        self.open += 1
        device = Device(self._mcuids[number], lambda device: self._ended(number, device), patience_s=PATIENCE)
        self._engine.connect(device, self._address)

    def _ended(self, number: int, device: Device) -> None:
        self.open -= 1
        self.sessions += 1
        why = device.failure or self._judge(number, device)
        if why is not None:
            self.failures.append(f"device {number}, {device.took_s:.3f} s: {why}")
        self._engine.after(self._rng.uniform(0.0, 2 * PAUSE), lambda: self._session(number))

    def _judge(self, number: int, device: Device) -> str | None:
        start, end = device.began, time.monotonic()
        self.calm_sessions += start > self._settled_at
        if device.refused:
            self.refused += 1
            return None if self._published.torn_between(start, end) else "refused, and no registry was half-written"
        serial = serial_of(device.frames)
        slot = int(device.frames[-1][1:-2], 16)
        wanted = (b"@4#", *(line for line in image(serial).split() if line[:2] == b"S1"), b"@%X##" % slot)
        if tuple(device.frames) != wanted:
            return f"a mixture: {[frame[:20] for frame in device.frames]}, expected image {serial} whole"
        self.seen.add(serial)
        self.got[number] = slot
        slots = self._published.slots_between(number, start, end)
        if slot not in slots:
            return f"slot {slot}, expected one of {sorted(slots)}"
        serials = self._published.images_between(slot, start, end)
        if serial not in serials:
            return f"image {serial} of slot {slot}, expected one of {sorted(serials)}"
        return None

    # --- changes

    def _change(self) -> None:
        if not self.changing:
            return
        self._settled_at = float("inf")
        if self._rng.random() < 0.5:
            self._publish_image(self._rng.randrange(SLOTS))
            self._changed()
        else:
            self._publish_registry()

    def _changed(self) -> None:
        if (self.reloads + self.replaced) % CALM_EVERY == 0:
            self._settled_at = time.monotonic()
            self._engine.after(CALM, self._change)
        else:
            self._engine.after(self._rng.expovariate(1 / FLICKER), self._change)

    def _publish_image(self, slot: int) -> None:
        self._serial += 1
        self.replaced += 1
        history = self._published.images[slot]
        history.append((Change(time.monotonic()), self._serial))
        replace(self._site.firmware / slot_name(slot), image(self._serial))
        if len(history) > 1:
            history[-2][0].ended = time.monotonic()

    def _publish_registry(self) -> None:
        self.reloads += 1
        slots = tuple(self._rng.randrange(SLOTS) for _ in self._mcuids)
        history = self._published.slots
        history.append((Change(time.monotonic()), slots))

        def later(delay_s: float, rest: Callable[[], None]) -> None:
            def finish() -> None:
                rest()
                history[-2][0].ended = time.monotonic() + self._writer.lag_s
                self._changed()

            self._engine.after(delay_s, finish)

        self._writer.write(slots, later)


def arguments() -> argparse.ArgumentParser:
    parser = parser_of("reload", __doc__)
    parser.add_argument("--seconds", type=seconds, default=20.0, metavar="S", help="of each part (20)")
    parser.add_argument("--devices", type=count, default=200, metavar="N", help="devices in a loop (200)")
    parser.add_argument("--registry", choices=("text", "sqlite", "replaced"), help="only this part")
    return parser


def reload(args: argparse.Namespace, server_options: Sequence[str], report: Report) -> None:
    """All parts."""
    require_linux()
    raise_descriptor_limit(2 * args.devices + 200)
    for kind in (args.registry,) if args.registry else ("text", "sqlite", "replaced"):
        folder = args.folder and args.folder.with_name(f"{args.folder.name}-{kind}")
        with new_site(folder) as site:
            part(args, kind, site, server_options, report)


def part(args: argparse.Namespace, kind: str, site: Site, server_options: Sequence[str], report: Report) -> None:
    """One kind of registry."""
    rng = random.Random(f"{args.seed}/{kind}")
    mcuids = [f"{number + 1:025d}" for number in range(args.devices)]
    published = Published()
    first = tuple(rng.randrange(SLOTS) for _ in mcuids)
    published.slots.append((Change(time.monotonic()), first))
    options = ["--handshake", "wait"]
    site.register(f"{mcuid},{slot_name(slot)},{slot}" for mcuid, slot in zip(mcuids, first, strict=True))
    if kind != "text":
        options += ["--registry", str(site.folder / "devices.sqlite")]
    with Server(site, [*options, *server_options]) as server, Engine() as engine:
        writer: TextWriter | SqliteWriter | ReplacingWriter
        if kind == "text":
            writer = TextWriter(site, mcuids, published, rng, engine)
        else:
            by_transactions = SqliteWriter(site, mcuids, rng)
            by_transactions.write(first, lambda delay, rest: rest())
            writer = by_transactions if kind == "sqlite" else ReplacingWriter(site, mcuids, rng)
        scene = Scene(engine, server.address, site, mcuids, writer, published, rng)
        scene.begin()
        engine.run(lambda: not server.runs, args.seconds)
        scene.changing = False
        engine.run(lambda: scene.open == 0, PATIENCE)
        in_force = scene.last_is_in_force()
        say(f"reload: {kind}: {scene.sessions:,} sessions, {scene.reloads + scene.replaced:,} changes")
        report.fact(
            kind,
            {
                "sessions": scene.sessions,
                "registry changes in one step": writer.in_one_step,
                "registry changes in halves": writer.in_place,
                "firmware files replaced": scene.replaced,
                "images seen": len(scene.seen),
                "sessions that began in a calm": scene.calm_sessions,
                "refused in a half-written moment": scene.refused,
            },
        )
        report.claim(
            f"{kind}: every session got one published image whole, with its version, that was in force then",
            not scene.failures and scene.sessions > 0,
            f"{scene.sessions:,} sessions, {len(scene.failures)} did not {scene.failures[:3]}",
        )
        report.claim(f"{kind}: what was written last is in force for every device", in_force)
        report.claim(f"{kind}: all sessions came to their end", scene.open == 0, f"{scene.open} are open")
        claim_health(report, server)
        claim_journal_is_sound(report, site)
        if isinstance(writer, SqliteWriter):
            writer.close()


def main(argv: Sequence[str]) -> int:
    """The program."""
    return run_program(arguments(), reload, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
