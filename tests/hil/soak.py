"""Update a virtual board over and over while everything goes wrong, and see that it can always be updated again.

    python -m tests.hil.soak --updates 200 --seed 1
    python -m tests.hil.soak --updates 200 --seed 1 --way relay
    python -m tests.hil.soak --updates 200 --seed 1 --way file --way store --way stream --pty

Four ways, each so many updates: from a file, stored from a real `fota serve`, streamed from it, and through `fota hil
relay`, which is `soak_relay`. For the first three the board, its line and its faults are in virtual time, so an update
takes milliseconds; with `--pty` they are behind a pseudo-terminal that pyserial opens, in real time. The server is a
process, over TCP. Faults are drawn from one seed, which is printed: bytes flipped, dropped and doubled both ways, plugs
pulled in mid-update, boards reset by somebody, power that fails at a flash command, servers that are lost. The boards
are five, one for each quirk.

A board that does not answer is reset with SW1 held, as a person would. After each update that did not come to its end
the same is tried once more on a good line, and must succeed. Whenever an update succeeded the flash is compared: the
image's bytes, FF around them in every sector of it, the bootloader as it was. What the run claims: every update ends
with a board that has the image, or with a message and a board that can be updated.
"""

import argparse
import contextlib
import dataclasses
import enum
import json
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Final, Protocol

import fota_fixtures
from fota_cli.compose.local_server import LocalServer
from fota_hil.an2295_master import Master, MasterTimings
from fota_hil.errors import BoardError, ServerError
from fota_hil.plan import Layout, make_plan
from fota_hil.programmer import BoardState, Programmer
from fota_hil.serial_link import SerialLink
from fota_hil.update import StoreTarget, StreamTarget, play
from fota_protocol.device import DeviceTimings, Result, Target
from fota_protocol.formats import load
from fota_protocol.identity import Identification
from fota_protocol.image import FirmwareImage
from fota_protocol.parts import DEFAULT_PART, PARTS
from fota_simulator.board.an2295 import SDIDS, An2295Slave, Quirk, ident_of
from fota_simulator.board.board import VirtualBoard
from fota_simulator.board.control import Order
from fota_simulator.board.memory import BoardMemory
from fota_simulator.board.runner import BoardRunner
from fota_simulator.board.serial_line import FaultKind, LineFault, UnplugPlan, Way
from fota_simulator.board.wired import LineSettings, WiredBoard
from fota_simulator.boot import BootPolicy
from fota_simulator.bootloader import bootloader_sectors
from fota_simulator.flash import Flash, SectorPool
from fota_simulator.flash.controller import ControlledFlash, FlashController
from fota_simulator.flash.faults import FlashFaults
from fota_simulator.supply import CommandCut, CutMode, Supply
from fota_simulator.verify import first_difference
from fota_transport.clock import Clock, SystemClock, VirtualClock
from fota_transport.errors import LinkLost
from fota_transport.links import ClosingLink, Link, TcpLink

from .soak_relay import SERVER_OPTIONS, RelaySoak

PART: Final = PARTS[DEFAULT_PART]
MCUID: Final = "0001000000000000000000000"
IMAGES: Final = ("blink_1.s19", "blink_2.s19", "demo_16k.s19")
"""Firmware of the fixtures; each round takes another."""

HOOK_TIMEOUT: Final = 30.0
"""Seconds to reach the board."""

BAUD: Final = 115_200
"""What the master is told; the line is instant."""

PTY_TIMINGS: Final = MasterTimings(command=1.0, answer=0.3, gap=0.3)
"""Where bytes are lost in real time: a virtual flash takes none, and most of a soak is waiting for answers."""

RELAY: Final = "relay"
"""The way that is not the programmer's."""


class Bench:
    """A board that outlives its lines."""

    def __init__(self, *, quirks: tuple[Quirk, ...] = (), has_flash_times: bool = False, is_held: bool = True) -> None:
        self.clock = VirtualClock()
        self.flash = Flash(PART, SectorPool(), bootloader_sectors(PART))
        self._quirks = quirks
        self._has_flash_times = has_flash_times
        self._is_held = is_held
        self.renew()

    def renew(self, supply: Supply | None = None, faults: FlashFaults = FlashFaults()) -> None:  # noqa: B008 - frozen
        """A board that was switched off, with the same flash; its power is `supply`'s."""
        flash_clock = VirtualClock()
        controller = FlashController(self.flash, flash_clock, supply=supply, faults=faults)
        sdid = SDIDS[PART.flash_module]
        self.board = VirtualBoard(
            An2295Slave(
                BoardMemory(controller, sdid), ControlledFlash(controller), ident_of(PART, sdid), quirks=self._quirks
            ),
            controller,
            flash_clock,
            policy=BootPolicy.AN2295,
            is_held=self._is_held,
            banner=lambda crc: b"application " + crc.encode() + b"\r\n",
            has_flash_times=self._has_flash_times,
        )

    def line(self, settings: LineSettings | None = None) -> "VirtualLine":
        """A new line to the board, which is switched on."""
        wired = WiredBoard(self.board, settings or LineSettings())
        wired.power_on(self.clock.monotonic())
        return VirtualLine(wired, self.clock)

    def difference(self, image: FirmwareImage) -> str | None:
        """What keeps the flash from holding the image, the rest of its sectors being FF, the bootloader whole."""
        size = PART.sector_size
        touched = set(range(image.first // size, -(-image.end // size)))
        return first_difference(self.flash, image, touched)

    @property
    def bootloader_difference(self) -> str | None:
        """What of the bootloader has changed."""
        size = PART.sector_size
        for index, content in bootloader_sectors(PART).items():
            if self.flash.read(index * size, (index + 1) * size) != content:
                return f"the bootloader's sector at {index * size:#010x} has changed"
        return None


class VirtualLine(ClosingLink):
    """A serial line to a board, in virtual time: whoever waits moves the clock on."""

    def __init__(self, wired: WiredBoard, clock: VirtualClock) -> None:
        self.wired = wired
        self.plan: tuple[int, Order] | None = None
        """What happens at the board, before which write."""
        self._clock = clock
        self._writes = 0

    def read(self, timeout_s: float | None) -> bytes:
        assert timeout_s is not None
        until = self._clock.monotonic() + timeout_s
        while True:
            self._check()
            data = self.wired.advance(self._clock.monotonic())
            if data:
                return data
            due = self.wired.due
            if due is None or due > until:
                self._clock.move_to(until)
                raise TimeoutError("nothing to read")
            self._clock.move_to(max(due, self._clock.monotonic()))

    def write(self, data: bytes, timeout_s: float) -> None:
        self._check()
        self._writes += 1
        if self.plan is not None and self._writes == self.plan[0]:
            self.order(self.plan[1])
        self.wired.host_wrote(data, self._clock.monotonic())

    def discard_input(self) -> None:
        self._check()
        self.wired.advance(self._clock.monotonic())

    def send_break(self, seconds: float) -> None:
        self._clock.advance(seconds)

    def order(self, order: Order) -> None:
        """Have somebody do something at the board."""
        self.wired.obey(order, self._clock.monotonic())

    def press(self) -> bool:
        """Have somebody reset the board with SW1 held."""
        self.order(Order.ENTER)
        return True

    def leave(self) -> None:
        """Wait until plug and power are back."""
        self._clock.advance(1.0)
        self.wired.advance(self._clock.monotonic())

    def close(self) -> None:
        """Nothing: the board goes on."""

    def _check(self) -> None:
        if not self.wired.is_plugged:
            raise LinkLost("unplugged")


class PtyLine(ClosingLink):
    """A serial line to a board behind a pseudo-terminal, which a thread plays, in real time."""

    def __init__(self, wired: WiredBoard, path: Path, clock: Clock) -> None:
        self.plan: tuple[int, Order] | None = None
        """What happens at the board, before which write."""
        self._writes = 0
        self._runner = BoardRunner(wired, path, clock)
        self._playing = threading.Thread(target=self._runner.run)
        self._playing.start()
        self._link = SerialLink.open(str(path), BAUD)

    def read(self, timeout_s: float | None) -> bytes:
        return self._link.read(timeout_s)

    def write(self, data: bytes, timeout_s: float) -> None:
        self._writes += 1
        if self.plan is not None and self._writes == self.plan[0]:
            self._runner.order(self.plan[1])
        self._link.write(data, timeout_s)

    def discard_input(self) -> None:
        self._link.discard_input()

    def send_break(self, seconds: float) -> None:
        self._link.send_break(seconds)

    def press(self) -> bool:
        """Have somebody reset the board with SW1 held."""
        self._runner.order(Order.ENTER)
        return True

    def leave(self) -> None:
        """Hang up; the board stays as it is."""
        self.close()

    def close(self) -> None:
        self._link.close()
        self._runner.stop()
        self._playing.join()
        self._runner.close()


class LostLink(ClosingLink):
    """A connection that is lost before read number `reads`."""

    def __init__(self, link: Link, reads: int) -> None:
        self._link = link
        self._left = reads

    def read(self, timeout_s: float | None) -> bytes:
        self._left -= 1
        if self._left <= 0:
            raise LinkLost("lost, as planned")
        return self._link.read(timeout_s)

    def write(self, data: bytes, timeout_s: float) -> None:
        self._link.write(data, timeout_s)

    def close(self) -> None:
        self._link.close()


class Source(enum.Enum):
    """Where an update comes from."""

    FILE = "file"
    STORE = "store"
    STREAM = "stream"


@dataclasses.dataclass(frozen=True, slots=True)
class Trouble:
    """What goes wrong in one update; most of it at random."""

    faults: tuple[LineFault, ...] = ()
    unplug_at: int | None = None
    cut: CommandCut | None = None
    order: tuple[int, Order] | None = None
    """What happens at the board, before which write of ours."""
    lost_at: int | None = None
    """The read of the server's connection that finds it lost."""
    quirks: tuple[Quirk, ...] = ()

    def __str__(self) -> str:
        named = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        named["faults"] = f"{self.faults[0].probability:.5f}" if self.faults else None
        return ", ".join(f"{name} {value}" for name, value in named.items() if value) or "none"


def draw(dice: random.Random, way: Source, size: int) -> Trouble:
    """Trouble for an update of about `size` bytes on the line: of one kind, of several, now and then none."""

    def maybe(probability: float) -> bool:
        return dice.random() < probability

    rate = 10 ** dice.uniform(-5, -3)
    return Trouble(
        faults=tuple(LineFault(one, kind, rate / 3) for one in Way for kind in FaultKind) if maybe(0.7) else (),
        unplug_at=dice.randrange(1, size) if maybe(0.15) else None,
        cut=CommandCut(dice.randrange(1, size // 10), dice.choice(list(CutMode))) if maybe(0.15) else None,
        order=(dice.randrange(1, size // 100), dice.choice([Order.RESET, Order.POWER_CYCLE])) if maybe(0.15) else None,
        lost_at=dice.randrange(1, size // 50) if way is not Source.FILE and maybe(0.15) else None,
    )


class Soak:
    """A board, a server, and what came of the updates; with `folder`, its lines are pseudo-terminals there."""

    def __init__(self, seed: int, server: LocalServer | None, folder: Path | None = None) -> None:
        self.counts: Counter[str] = Counter()
        self.failures: list[str] = []
        """Claims that did not hold."""
        self._seed = seed
        self._server = server
        self._folder = folder
        self._images = {name: load(fota_fixtures.read(name)) for name in IMAGES}
        quirks = (), (Quirk.DROP_ODD,), (Quirk.NACK_THEN_ACK,), (Quirk.RESET_ON_JUNK,), (Quirk.PROTECTED,)
        self._benches = [Bench(quirks=some) for some in quirks]
        if server is not None:
            for name in IMAGES:
                server.add(self._mcuid(name), fota_fixtures.path(name))

    def run(self, way: Source, updates: int) -> None:
        """So many updates, each into the state that the one before has left."""
        for number in range(updates):
            dice = random.Random(f"{self._seed}:{way.value}:{number}")
            bench = self._benches[number % len(self._benches)]
            name = dice.choice(IMAGES)
            image = self._images[name]
            trouble = draw(dice, way, 3 * image.size)
            where = f"{way.value} update {number} of seed {self._seed}, {name}, trouble: {trouble}"
            if trouble.cut is not None:
                bench.renew(Supply(trouble.cut, seed=self._seed))
            ended = self._update(bench, way, name, trouble, seed=dice.randrange(1 << 30))
            self.counts[f"{way.value}: {ended}"] += 1
            if ended == "updated":
                self._claim(bench.difference(image), where)
            else:
                self._claim(bench.bootloader_difference, where)
                again = self._update(bench, way, name, Trouble(), seed=0)
                self._claim(None if again == "updated" else f"the next update: {again}", where)
                self._claim(bench.difference(image), where)

    def _claim(self, wrong: str | None, where: str) -> None:
        if wrong is not None:
            self.failures.append(f"{where}: {wrong}")

    def _update(self, bench: Bench, way: Source, name: str, trouble: Trouble, *, seed: int) -> str:
        """One update; returns `updated`, or why not, in a word or two."""
        unplug = None if trouble.unplug_at is None else UnplugPlan(trouble.unplug_at, 0.5)
        settings = LineSettings(faults=trouble.faults, unplug=unplug, seed=seed)
        line: VirtualLine | PtyLine
        if self._folder is None:
            line = bench.line(settings)
            master = Master(line, bench.clock, baud=BAUD)
        else:
            clock = SystemClock()
            line = PtyLine(WiredBoard(bench.board, settings), self._folder / "board", clock)
            master = Master(line, clock, baud=BAUD, timings=MasterTimings() if trouble == Trouble() else PTY_TIMINGS)
        line.plan = trouble.order
        try:
            ident = master.connect(HOOK_TIMEOUT, on_silence=line.press)
            programmer = Programmer(master, Layout(ident))
            match way:
                case Source.FILE:
                    programmer.program(make_plan(self._images[name], ident))
                case Source.STORE:
                    target = StoreTarget(lambda image, _: programmer.program(make_plan(image, ident)))
                    self._play(target, name, trouble)
                case Source.STREAM:
                    self._play(StreamTarget(programmer, Layout(ident)), name, trouble)
            if programmer.state is not BoardState.PROGRAMMED:
                return f"ended with a board that is {programmer.state.value}"
            with contextlib.suppress(BoardError, LinkLost):
                master.quit()  # or not: it is in flash
        except BoardError as error:
            return error.fault.value
        except ServerError:
            return "server lost"
        except LinkLost:
            return "unplugged"
        finally:
            line.leave()
        return "updated"

    def _play(self, target: Target, name: str, trouble: Trouble) -> None:
        assert self._server is not None
        with TcpLink.connect(self._server.host, self._server.port, 10.0) as link:
            over: Link = link if trouble.lost_at is None else LostLink(link, trouble.lost_at)
            outcome, _ = play(
                Identification(self._mcuid(name)), target, over, SystemClock(), timings=DeviceTimings(10.0, 10.0)
            )
        if outcome.result is not Result.UPDATED:
            raise ServerError(outcome.detail)

    def _mcuid(self, name: str) -> str:
        return f"{MCUID[:-1]}{IMAGES.index(name)}"


class Soaked(Protocol):
    """What a way leaves to be reported."""

    counts: Counter[str]
    failures: list[str]


def soak(way: str, updates: int, seed: int, *, has_pty: bool) -> Soaked:
    """One way of it, with a server of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "bench").mkdir()
        (folder / "server").mkdir()
        if way == RELAY:
            with LocalServer(folder / "server", SERVER_OPTIONS) as server:
                relayed = RelaySoak(seed, server, folder / "bench")
                with relayed:
                    relayed.run(updates)
                return relayed
        with LocalServer(folder / "server") as server:
            programmed = Soak(seed, server, folder / "bench" if has_pty else None)
            programmed.run(Source(way), updates)
            return programmed


def main() -> int:
    """Run it; exit code 0 when every claim held, 1 when not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ways = [*(source.value for source in Source), RELAY]
    parser.add_argument("--way", action="append", choices=ways, help="one way; may come more than once (default: all)")
    parser.add_argument("--updates", type=int, default=200, help="of each way (default: 200)")
    parser.add_argument("--seed", type=int, help="of all that goes wrong (default: drawn, and printed)")
    parser.add_argument("--pty", action="store_true", help="boards behind pseudo-terminals for all ways, in real time")
    parser.add_argument("--json", action="store_true", help="print what was found as JSON")
    args = parser.parse_args()
    seed = random.SystemRandom().randrange(1_000_000) if args.seed is None else args.seed
    print(f"seed {seed}", file=sys.stderr, flush=True)
    counts: Counter[str] = Counter()
    failures: list[str] = []
    began = time.monotonic()
    for way in args.way or ways:
        found = soak(way, args.updates, seed, has_pty=args.pty)
        counts.update(found.counts)
        failures += found.failures
    took = time.monotonic() - began
    for failure in failures:
        print(failure, file=sys.stderr)
    if args.json:
        print(json.dumps({"seed": seed, "counts": dict(counts), "failures": failures, "took_s": took}))
    else:
        updates = args.updates * len(args.way or ways)
        print(f"{updates} updates in {took:.1f} s, each that failed followed by one that must not")
        for ended, count in sorted(counts.items()):
            print(f"{count:6} {ended}")
        print(f"{len(failures)} claims did not hold")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
