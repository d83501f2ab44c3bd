"""The soak's way `relay`: real processes, sockets and pseudo-terminals between a board and its server.

A virtual board of kind `fota` behind a pseudo-terminal, `fota hil relay` as a process, a proxy that loses connections
when it is told to, and `fota serve` as a process. Time is real, the line takes none. The seed decides what goes wrong
and at which byte; what that does to a session is up to the machine.

The board asks again by itself, as a board in the field does. An update is over when the board has come to an answer:
updated, refused, failed. If it was not updated, all trouble ends, and the same board must get its image.
"""

import contextlib
import dataclasses
import enum
import queue
import random
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final, Self

import fota_fixtures
from fota_cli.compose.local_server import LocalServer
from fota_protocol.device import DeviceTimings, Outcome, Result
from fota_protocol.formats import load
from fota_protocol.identity import Identification
from fota_protocol.parts import DEFAULT_PART, PARTS
from fota_simulator.board.board import VirtualBoard
from fota_simulator.board.fota_device import FotaDevice, Newline
from fota_simulator.board.runner import BoardRunner
from fota_simulator.board.serial_line import FaultKind, LineFault, UnplugPlan, Way
from fota_simulator.board.wired import LineSettings, WiredBoard
from fota_simulator.boot import BootPolicy
from fota_simulator.bootloader import bootloader_sectors
from fota_simulator.flash import Flash
from fota_simulator.flash.controller import ControlledFlash, FlashController
from fota_simulator.mcu import McuShare, VirtualMcu
from fota_simulator.supply import CommandCut, CutMode, Supply
from fota_simulator.verify import first_difference
from fota_transport.clock import SystemClock, VirtualClock

PART: Final = PARTS[DEFAULT_PART]
IMAGES: Final = ("blink_1.s19", "blink_2.s19", "demo_16k.s19")
"""Firmware of the fixtures; each update takes another."""

UNSEALED: Final = "blink_1_unsealed.s19"
"""An image that the board refuses at its end."""

SERVER_OPTIONS: Final = {
    "identification-timeout": 2,
    "ack-timeout": 2,
    "end-ack-timeout": 10,
    "grace": 0.2,
    "stop-timeout": 1,
}
"""A server that gives up soon: most of the soak's time is waiting for that. An ack that is held back gets longer."""

DEVICE_TIMINGS: Final = DeviceTimings(verdict=3.0, frame=3.0, refusal=0.5)
"""A board that waits longer than its server."""

RETRY: Final = 0.2
"""Seconds until the board asks again, the first time."""

PATIENCE: Final = 120.0
"""Seconds for what must come: an answer to a board, a relay's start, an update when nothing goes wrong any more."""

SIGNALS: Final = ("none", r"text=\r\nCLOSED\r\n", "break", "reset")
"""What the relay gives a board at a close; each relay process another."""


IN_VAIN: Final = "sessions in vain that nothing was to blame for"
"""Counted: behind trouble, a board gets its image in its first session, but for a machine that is too slow."""

MOST_IN_VAIN: Final = 5
"""Of one update: no machine is that slow."""


class Loss(enum.Enum):
    """How a connection ends in mid-update."""

    CLOSE = "closed"
    RESET = "reset"
    HANG = "hangs"
    """Nothing passes any more, and nobody says so."""
    KILL = "relay killed"
    STOP = "relay stopped"


@dataclasses.dataclass(frozen=True, slots=True)
class RelayTrouble:
    """What goes wrong in one update."""

    faults: tuple[LineFault, ...] = ()
    unplug: UnplugPlan | None = None
    cut: CommandCut | None = None
    loss: tuple[int, Loss] | None = None
    """What happens when so many bytes have passed between relay and server."""
    is_unknown: bool = False
    """Whether the server does not know the board."""
    is_unsealed: bool = False
    """Whether the board has to refuse its image."""

    def __str__(self) -> str:
        named = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        named["faults"] = f"{self.faults[0].probability:.5f}" if self.faults else None
        return ", ".join(f"{name} {value}" for name, value in named.items() if value) or "none"


def draw(dice: random.Random, size: int) -> RelayTrouble:
    """Trouble for an update of about `size` bytes on the line: of one kind, of several, now and then none."""

    def maybe(probability: float) -> bool:
        return dice.random() < probability

    rate = 10 ** dice.uniform(-5, -3)
    unplug = UnplugPlan(dice.randrange(1, size), dice.uniform(0.05, 1.0)) if maybe(0.2) else None
    losses = list(Loss) if unplug is None else [Loss.CLOSE, Loss.RESET, Loss.HANG]  # a relay begins with a port
    which = dice.random()
    return RelayTrouble(
        faults=tuple(LineFault(one, kind, rate / 3) for one in Way for kind in FaultKind) if maybe(0.5) else (),
        unplug=unplug,
        cut=CommandCut(dice.randrange(1, size // 10), dice.choice(list(CutMode))) if maybe(0.15) else None,
        loss=(dice.randrange(1, size), dice.choice(losses)) if maybe(0.5) else None,
        is_unknown=which < 0.05,
        is_unsealed=0.05 <= which < 0.1,
    )


class Proxy:
    """Carries bytes between a relay and the server; `trap` is called once, when so many bytes have passed."""

    def __init__(self, host: str, port: int) -> None:
        self._server = host, port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._trap: tuple[int, Callable[[], Loss]] | None = None
        self.live = 0
        """Connections that are open now."""
        self.ended = 0
        self.port: int = self._listener.getsockname()[1]
        self._acceptor = threading.Thread(target=self._accept)
        self._acceptor.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in (self._acceptor, *self._threads):
            thread.join()
        self._listener.close()

    def set_trap(self, after: int, act: Callable[[], Loss]) -> None:
        """Have `act` called, which says what becomes of the connection."""
        with self._lock:
            self._trap = after, act

    def clear_trap(self) -> None:
        """Lose nothing any more."""
        with self._lock:
            self._trap = None

    def _accept(self) -> None:
        while not self._stopping.is_set():
            if select.select([self._listener], [], [], 0.1)[0]:
                ours, _ = self._listener.accept()
                with self._lock:
                    self.live += 1
                self._threads = [thread for thread in self._threads if thread.is_alive()]
                self._threads.append(threading.Thread(target=self._serve, args=(ours,)))
                self._threads[-1].start()

    def _serve(self, ours: socket.socket) -> None:
        with ours, contextlib.suppress(OSError), socket.create_connection(self._server) as theirs:
            self._carry(ours, theirs)
        with self._lock:
            self.live -= 1
            self.ended += 1

    def _carry(self, ours: socket.socket, theirs: socket.socket) -> None:
        is_hanging = False
        while not self._stopping.is_set():
            for one in select.select([ours] if is_hanging else [ours, theirs], [], [], 0.1)[0]:
                data = one.recv(4_096)
                if not data:
                    return
                if is_hanging:
                    continue
                lost = self._sprung(len(data))
                if lost is Loss.RESET:
                    ours.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                if lost in (Loss.RESET, Loss.CLOSE):
                    return
                is_hanging = lost is Loss.HANG
                if not is_hanging:
                    (theirs if one is ours else ours).sendall(data)

    def _sprung(self, size: int) -> Loss | None:
        with self._lock:
            if self._trap is None:
                return None
            left, act = self._trap[0] - size, self._trap[1]
            self._trap = (left, act) if left > 0 else None
        return act() if left <= 0 else None


class RelayProcess:
    """`fota hil relay`, again and again, with other options each time."""

    def __init__(self, folder: Path, server_port: int, dice: random.Random) -> None:
        self.failures: list[str] = []
        """What no relay may do."""
        self.starts = 0
        self.said = folder / "relay.log"
        """What all of them said."""
        self._trace = folder / "relay.txt"
        self._folder = folder
        self._server = f"127.0.0.1:{server_port}"
        self._dice = dice
        self._process: subprocess.Popen[bytes] | None = None
        self._signal: signal.Signals | None = None
        """What it was sent, if anything."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self.end(signal.SIGTERM)
        self._collect()
        if b"Traceback" in self.said.read_bytes():
            self.failures.append(f"a relay ended with a traceback:\n{self.said.read_text()[-4000:]}")

    def ensure(self) -> None:
        """Have one that runs, and has the port open; the board has to be there."""
        if self._process is not None and self._process.poll() is None:
            return
        self._collect()
        self._trace.unlink(missing_ok=True)
        on_close = self._dice.choice(SIGNALS)
        words = [sys.executable, "-m", "fota_cli", "hil", "relay", "--serial", str(self._folder / "board")]
        words += ["--server", self._server, "--on-close", on_close, "--idle", "10", "--trace", str(self._trace)]
        if on_close == "reset":
            # Not by `>`: where the board has just gone, that would make a file of its pipe's name.
            order = f"echo reset | dd of={self._folder / 'control'} conv=nocreat status=none"
            words += ["--reset", f'sh -c "{order}"']
        words += ["--strip-crlf"] if self._dice.random() < 0.5 else []
        self._signal = None
        self.starts += 1
        with self.said.open("ab") as output:
            self._process = subprocess.Popen(words, cwd=self._folder, stderr=output)
        until = time.monotonic() + PATIENCE
        while self._process.poll() is None and time.monotonic() < until:
            if self._trace.exists() and " open at " in self._trace.read_text(errors="replace"):
                return
            time.sleep(0.01)
        self.failures.append(f"a relay did not start: {self.said.read_text()[-1000:]}")

    def end(self, number: signal.Signals) -> None:
        """End it so; the next `ensure` starts another. From any thread."""
        assert self._process is not None
        self._signal = number
        self._process.send_signal(number)

    def _collect(self) -> None:
        """See how one ended."""
        if self._process is None:
            return
        try:
            code = self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        allowed = {signal.SIGTERM: (0, 1), signal.SIGKILL: (-9,)}.get(self._signal, ()) if self._signal else ()
        if code not in allowed:
            self.failures.append(f"a relay that was sent {self._signal} ended with exit code {code}")
        self._process = None


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """What a board came to."""

    outcome: Outcome
    difference: str | None
    """What kept its flash from holding the image at that moment."""


class RelaySoak:
    """A board, a relay, a proxy, and what came of the updates. A context manager that ends what it started."""

    def __init__(self, seed: int, server: LocalServer, folder: Path) -> None:
        self.counts: Counter[str] = Counter()
        self.failures: list[str] = []
        """Claims that did not hold."""
        self._seed = seed
        self._folder = folder
        self._flash = Flash(PART, McuShare.new().pool, bootloader_sectors(PART))
        self._images = {name: load(fota_fixtures.read(name)) for name in (*IMAGES, UNSEALED)}
        for name in self._images:
            server.add(self._mcuid(name), fota_fixtures.path(name))
        with contextlib.ExitStack() as closing:
            self._proxy = closing.enter_context(Proxy(server.host, server.port))
            dice = random.Random(f"{seed}:relays")
            self._relay = closing.enter_context(RelayProcess(folder, self._proxy.port, dice))
            self._closing = closing.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()
        self.failures += self._relay.failures
        self.counts["relays started"] = self._relay.starts

    def run(self, updates: int) -> None:
        """So many updates, each into the state that the one before has left."""
        for number in range(updates):
            dice = random.Random(f"{self._seed}:relay:{number}")
            name = dice.choice(IMAGES)
            trouble = draw(dice, 3 * self._images[name].size)
            where = f"relay update {number} of seed {self._seed}, {name}, trouble: {trouble}"
            ended = self._update(name, trouble, where, dice)
            self.counts[f"relay: {ended}"] += 1
            if ended != "updated":
                self._claim(self._bootloader_difference, where)
                again = self._update(name, RelayTrouble(), where, dice)
                self._claim(None if again == "updated" else f"the next update: {again}", where)

    def _claim(self, wrong: str | None, where: str) -> None:
        if wrong is not None:
            self.failures.append(f"{where}: {wrong}")

    def _update(self, name: str, trouble: RelayTrouble, where: str, dice: random.Random) -> str:
        """One update; returns `updated`, or why not, in a word or two. Without trouble the board may ask again."""
        said = self._relay.said.stat().st_size if self._relay.said.exists() else 0
        answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        is_good = trouble == RelayTrouble()
        if trouble.is_unknown:
            mcuid = self._mcuid(name)[::-1]
        else:
            mcuid = self._mcuid(UNSEALED if trouble.is_unsealed else name)
        ended = "nothing heard"
        vain = 0
        with self._board(name, mcuid, trouble, dice, answers) as runner:
            playing = threading.Thread(target=runner.run)
            playing.start()
            try:
                self._relay.ensure()
                if trouble.loss is not None:
                    after, how = trouble.loss
                    self._proxy.set_trap(after, lambda: self._lose(how))
                until = time.monotonic() + PATIENCE
                while time.monotonic() < until:
                    with contextlib.suppress(queue.Empty):
                        answer = answers.get(timeout=0.05)
                        ended = answer.outcome.result.value
                        if answer.outcome.result is Result.UPDATED:
                            self._claim(answer.difference, where)
                            self._wait_for_the_end(mcuid, said, is_good, where)
                        if answer.outcome.result is Result.UPDATED or not is_good:
                            break
                        self.counts[IN_VAIN] += 1
                        vain += 1
                        if vain > MOST_IN_VAIN:
                            self._claim(f"{vain} sessions in vain, though nothing goes wrong any more", where)
                            break
                    self._relay.ensure()
            finally:
                self._proxy.clear_trap()
                runner.stop()
                playing.join()
        return ended

    def _lose(self, how: Loss) -> Loss:
        """Runs in a thread of the proxy."""
        if how in (Loss.KILL, Loss.STOP):
            self._relay.end(signal.SIGKILL if how is Loss.KILL else signal.SIGTERM)
        return how

    def _wait_for_the_end(self, mcuid: str, said: int, is_good: bool, where: str) -> None:
        """Give the last ack its time; where nothing goes wrong, the relay has to say that the board was updated."""
        ended = self._proxy.ended
        words = f"{mcuid}: updated after".encode()
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            if is_good:
                if words in self._relay.said.read_bytes()[said:]:
                    return
            elif not self._proxy.live or self._proxy.ended != ended:
                return
            time.sleep(0.01)
        self._claim("the board is updated, and the session did not end so", where)

    def _board(
        self, name: str, mcuid: str, trouble: RelayTrouble, dice: random.Random, answers: "queue.SimpleQueue[Answer]"
    ) -> BoardRunner:
        """The board, switched off, with the flash that the last one left."""
        flash_clock = VirtualClock()
        controller = FlashController(self._flash, flash_clock, supply=Supply(trouble.cut, seed=dice.randrange(1 << 30)))
        mcu = VirtualMcu(
            Identification(mcuid),
            PART,
            McuShare.new(),
            flash=controller.array,
            memory=ControlledFlash(controller),
            timings=DEVICE_TIMINGS,
        )
        firmware = FotaDevice(
            mcu,
            boot_text=dice.choice([b"", b"ROM 1.0 support@example\r\n"]),
            newline=dice.choice(list(Newline)),
            retry_s=RETRY,
            on_outcome=lambda outcome: answers.put(Answer(outcome, self._difference(name))),
        )
        board = VirtualBoard(firmware, controller, flash_clock, policy=BootPolicy.SEALED, banner=lambda _: b"runs\r\n")
        settings = LineSettings(faults=trouble.faults, unplug=trouble.unplug, seed=dice.randrange(1 << 30))
        return BoardRunner(
            WiredBoard(board, settings),
            self._folder / "board",
            SystemClock(),
            control=self._folder / "control",
        )

    def _difference(self, name: str) -> str | None:
        """What keeps the flash from holding the image, the rest of its sectors being FF, the bootloader whole."""
        image = self._images[name]
        size = PART.sector_size
        return first_difference(self._flash, image, range(image.first // size, -(-image.end // size)))

    @property
    def _bootloader_difference(self) -> str | None:
        """What of the bootloader has changed."""
        size = PART.sector_size
        changed = (
            index * size
            for index, content in bootloader_sectors(PART).items()
            if self._flash.read(index * size, (index + 1) * size) != content
        )
        return next((f"the bootloader's sector at {start:#010x} has changed" for start in changed), None)

    def _mcuid(self, name: str) -> str:
        return f"{1:024}{(*IMAGES, UNSEALED).index(name)}"
