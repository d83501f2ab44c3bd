"""All cuts of an update, each state judged once.

A device that has lost its power knows its flash and nothing else, so cuts that leave the same flash, while the session
stood at the same state and record, are one *class*: one verdict is theirs. The update runs once, on the controller;
before, in and after each flash command, and at each frame, the flash is looked at. A torn command is run by a
controller of its own on a copy, with the supply of that cut, so that it is the very command that `play` would tear.

A verdict needs a second update, from the state of the cut to the end. It is cut short, too: as soon as flash,
bootloader and next record are those of the update without a cut, the rest is known. There, flashes are compared sector
by sector; classes are told apart by 128 bits of digest.
"""

import contextlib
import hashlib
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Final

from fota_protocol.device import DeviceSession, RecordCache
from fota_transport.clock import VirtualClock

from ..errors import JudgeError, PowerLost
from ..flash import Flash, FlashMemory, SectorPool
from ..flash.controller import ControlledFlash, FlashController
from ..mcu import McuShare, VirtualMcu
from ..supply import CommandCut, Cut, CutMode, Supply, WireCut
from .play import play
from .scenario import WHO, PoweredDevice, Scenario
from .verdict import Recovery, Verdict, access, first_start, is_updated

Contents = Mapping[int, bytes]

KEY_SIZE: Final = 16
"""Bytes of the digest that names a class."""


@dataclass(frozen=True, slots=True)
class Judged:
    """Cuts with consecutive numbers, of one kind, that are one class."""

    first: int
    last: int
    kind: str
    """`before`, `torn`, `after` or `wire`."""
    key: bytes
    """The class: flash digest, session state and next record."""
    verdict: Verdict

    @property
    def cuts(self) -> int:
        """How many cuts these are."""
        return self.last - self.first + 1


@dataclass(frozen=True, slots=True)
class _Checkpoint:
    """The update without a cut, after a frame in which it erased a sector."""

    contents: Contents
    bootloader: tuple[object, ...]


class Explorer:
    """Judges the cuts of a scenario. It keeps what it has judged, so one explorer is worth more than two."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self.cache = RecordCache()
        """Records that its devices parse once."""
        self._pool = SectorPool()
        self._verdicts: dict[bytes, Verdict] = {}
        self._sector_digests: dict[tuple[int, bytes], int] = {}

    def judge_commands(self, commands: range, stopped: Callable[[], bool] = lambda: False) -> list[Judged]:
        """The cuts at these flash commands, and at the bytes that pass before each of them.

        The bytes behind the last command of the update belong to it, too. Ends early, with what there is, when
        `stopped` says so.
        """
        return _ForwardRun(self, self._scenario, commands, stopped).run()

    def sample(self, cuts: Sequence[Cut], stopped: Callable[[], bool] = lambda: False) -> list[Verdict]:
        """The verdicts on these cuts, each played on its own from its beginning to its end."""
        return [play(self._scenario, cut, cache=self.cache).verdict for cut in cuts if not stopped()]

    def judge(self, flash: Flash) -> tuple[bytes, Verdict]:
        """The digest of a flash, and the verdict on a device that has it."""
        contents = flash.contents()
        digest = self._digest(contents)
        verdict = self._verdicts.get(digest)
        if verdict is None:
            verdict = self._verdicts[digest] = self._verdict(flash, contents)
        return digest, verdict

    def _verdict(self, flash: Flash, contents: Contents) -> Verdict:
        start, kept = first_start(self._scenario, flash)
        recovery = access(self._scenario, flash, start, kept)
        if recovery is not Recovery.NOT and not self._updates(contents):
            recovery = Recovery.NOT
        return Verdict(start, recovery, kept)

    def _updates(self, contents: Contents) -> bool:
        """Whether an update of a device with this flash brings the new application."""
        scenario = self._scenario
        mcu, session = self._device(contents)
        checkpoints = self._checkpoints
        for number, frame in enumerate(scenario.server_frames):
            session.receive(frame, 0.0)
            checkpoint = checkpoints.get(number)
            if (
                checkpoint is not None
                and mcu.bootloader_state == checkpoint.bootloader
                and mcu.flash.contents() == checkpoint.contents
            ):
                return True  # from here on it is the update without a cut, which brings it
        result = None if session.outcome is None else session.outcome.result
        return is_updated(scenario, mcu.flash, result, mcu.difference(scenario.new))

    @cached_property
    def _checkpoints(self) -> Mapping[int, _Checkpoint]:
        """By number of the frame, of the update over the old application."""
        mcu, session = self._device(self._scenario.base)
        found: dict[int, _Checkpoint] = {}
        erased = 0
        for number, frame in enumerate(self._scenario.server_frames):
            session.receive(frame, 0.0)
            if (now := sum(mcu.flash.erase_counts.values())) != erased:
                erased = now
                found[number] = _Checkpoint(mcu.flash.contents(), deepcopy(mcu.bootloader_state))
        result = None if session.outcome is None else session.outcome.result
        if not is_updated(self._scenario, mcu.flash, result, mcu.difference(self._scenario.new)):
            raise JudgeError("the update without a cut fails where its scenario says that it does not")
        return found

    def _device(self, contents: Contents) -> tuple[VirtualMcu, DeviceSession]:
        """A device at the start of an update, without a controller: quicker, and its flash the same."""
        scenario = self._scenario
        mcu = VirtualMcu(
            WHO,
            scenario.part,
            McuShare(self.cache, self._pool),
            flash=Flash(scenario.part, self._pool, contents),
            settings=scenario.settings,
        )
        session = mcu.session()
        session.start(0.0)
        return mcu, session

    def _digest(self, contents: Contents) -> bytes:
        """Of a whole flash: the sum of its sectors' digests, so that a sector that is the same is not read again."""
        total = 0
        known = self._sector_digests
        for index, sector in contents.items():
            digest = known.get((index, sector))
            if digest is None:
                if len(known) > 1 << 15:
                    known.clear()
                made = hashlib.blake2b(index.to_bytes(4, "big") + sector, digest_size=KEY_SIZE)
                digest = known[index, sector] = int.from_bytes(made.digest(), "big")
            total += digest
        return (total % (1 << 8 * KEY_SIZE)).to_bytes(KEY_SIZE, "big")


class _Through(Exception):
    """The range of commands is behind us."""


class _ForwardRun:
    """The update without a cut, looked at where it is at one of `commands`. It is its bootloader's `FlashMemory`."""

    def __init__(self, explorer: Explorer, scenario: Scenario, commands: range, stopped: Callable[[], bool]) -> None:
        self._explorer = explorer
        self._scenario = scenario
        self._commands = commands
        self._stopped = stopped
        self._found: list[Judged] = []
        self._done = 0  # flash commands
        self._passed = 0  # bytes on the wire
        self.part = scenario.part
        device = PoweredDevice(scenario, Supply(), cache=explorer.cache, watch=self._watch)
        self._flash = device.flash
        self._session = device.mcu.session()

    def run(self) -> list[Judged]:
        """Play it; returns what was judged."""
        with contextlib.suppress(_Through):
            self._pass(self._session.start(0.0))
            for frame in self._scenario.server_frames:
                self._pass(frame)
                self._pass(self._session.receive(frame, 0.0))
        return self._found

    def read(self, start: int, end: int) -> bytes:
        """The bytes of [start, end)."""
        return self._memory.read(start, end)

    def erase_sector(self, address: int) -> None:
        """One flash command."""
        self._command(lambda memory: memory.erase_sector(address))

    def program(self, address: int, data: bytes) -> None:
        """One flash command for each unit."""
        unit = self.part.program_unit
        for start in range(address, address + len(data), unit):
            piece = data[start - address : start - address + unit]
            self._command(partial(_program, start, piece))

    def _watch(self, memory: FlashMemory) -> FlashMemory:
        self._memory = memory
        return self

    def _command(self, run: Callable[[FlashMemory], None]) -> None:
        number = self._done + 1
        if number >= self._commands.stop or self._stopped():
            raise _Through
        if number not in self._commands:
            run(self._memory)
            self._done = number
            return
        self._judge(CommandCut(number, CutMode.BEFORE), self._flash)
        self._judge(CommandCut(number, CutMode.TORN), self._torn(number, run))
        run(self._memory)
        self._done = number
        self._judge(CommandCut(number, CutMode.AFTER), self._flash)

    def _torn(self, number: int, run: Callable[[FlashMemory], None]) -> Flash:
        """The flash after the power failed in a command: the very one, on a copy, with that supply."""
        copy = Flash(self.part, SectorPool(), self._flash.contents())
        supply = Supply(CommandCut(number, CutMode.TORN), seed=self._scenario.seed, commands=number - 1)
        with contextlib.suppress(PowerLost):
            run(ControlledFlash(FlashController(copy, VirtualClock(), supply=supply)))
        return copy

    def _pass(self, data: bytes) -> None:
        """Bytes pass on the wire, while nothing else happens: all cuts at them are one."""
        first = self._passed + 1
        self._passed += len(data)
        is_last = self._commands.stop > self._scenario.clean.commands
        if data and (self._done + 1 in self._commands or (is_last and self._done + 1 >= self._commands.stop)):
            self._judge(WireCut(first), self._flash, len(data))

    def _judge(self, cut: Cut, flash: Flash, count: int = 1) -> None:
        digest, verdict = self._explorer.judge(flash)
        session = self._session
        key = hashlib.blake2b(digest, digest_size=KEY_SIZE, person=b"class")
        key.update(f"{session.state.value} {session.records}".encode())
        kind = cut.mode.value if isinstance(cut, CommandCut) else "wire"
        number = self._scenario.number(cut)
        self._found.append(Judged(number, number + count - 1, kind, key.digest(), verdict))


def _program(address: int, data: bytes, memory: FlashMemory) -> None:
    memory.program(address, data)
