"""The update that is cut, and everything that a clean run of it tells: its commands, its bytes, its states.

The server is played by the frames that it would send; the device is a `VirtualMcu`, with a flash controller where
commands count. Cuts have numbers from 1: three for each flash command (before, torn, after), then one for each byte on
the wire.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from fota_protocol.device import RecordCache, Result
from fota_protocol.identity import Identification
from fota_protocol.image import FirmwareImage
from fota_protocol.parts import Part
from fota_transport.clock import VirtualClock

from ..boot import BootloaderSettings, Start, at_reset
from ..errors import ScenarioError
from ..events import EventTrace
from ..flash import Flash, FlashMemory, SectorPool
from ..flash.commands import Timing
from ..flash.controller import ControlledFlash, FlashController
from ..mcu import McuShare, VirtualMcu
from ..supply import CommandCut, Cut, CutMode, Supply, WireCut

WHO: Final = Identification("0001000000000000000000000", "")
"""The device that is cut."""

_MODES: Final = tuple(CutMode)


@dataclass(frozen=True)
class Scenario:
    """An update of a device that runs `old` to `new`."""

    part: Part
    settings: BootloaderSettings
    old: FirmwareImage
    new: FirmwareImage
    seed: int = 0
    version: str = "1"

    @cached_property
    def server_frames(self) -> tuple[bytes, ...]:
        """What the server sends, in order; each has one ack for an answer."""
        return self._frames(self.new)

    @cached_property
    def base(self) -> Mapping[int, bytes]:
        """The flash before the update, sectors by index: the device runs `old`. Raises `ScenarioError`."""
        mcu = VirtualMcu(WHO, self.part, McuShare.new(), settings=self.settings)
        self._update(mcu, self.old, "the old image")
        return mcu.flash.contents()

    @cached_property
    def end(self) -> Mapping[int, bytes]:
        """The flash after the update: the device runs `new`. Raises `ScenarioError`."""
        mcu = VirtualMcu(
            WHO, self.part, McuShare.new(), flash=Flash(self.part, SectorPool(), self.base), settings=self.settings
        )
        self._update(mcu, self.new, "the image")
        return mcu.flash.contents()

    @cached_property
    def clean(self) -> "CleanRun":
        """The update without a cut. Raises `ScenarioError`."""
        typical = PoweredDevice(self, supply := Supply())
        wire_bytes = self._update(typical.mcu, self.new, "the image")
        maximum = PoweredDevice(self, Supply(), timing=Timing.MAXIMUM)
        self._update(maximum.mcu, self.new, "the image")
        return CleanRun(supply.commands, wire_bytes, typical.clock.monotonic(), maximum.clock.monotonic())

    def _update(self, mcu: VirtualMcu, image: FirmwareImage, what: str) -> int:
        """Update a device; returns the bytes on the wire. Raises `ScenarioError` unless it then runs the image."""
        session = mcu.session()
        wire_bytes = len(session.start(0.0))
        for frame in self._frames(image):
            wire_bytes += len(frame) + len(session.receive(frame, 0.0))
        outcome = session.outcome
        if outcome is None or outcome.result is not Result.UPDATED:
            why = "no outcome" if outcome is None else outcome.detail
            raise ScenarioError(
                f"{what} is not accepted ({why}), expected one that the policy {self.settings.policy.value} takes"
            )
        if at_reset(mcu.flash, self.settings.policy) is not Start.APPLICATION:
            raise ScenarioError(f"{what} is not started, expected vectors that lead to code")
        return wire_bytes

    def _frames(self, image: FirmwareImage) -> tuple[bytes, ...]:
        return (b"@4#", *image.frames, f"@{self.version}##".encode())

    def cut(self, number: int) -> Cut:
        """The cut with this number; raises `ScenarioError` where there is none."""
        commands = 3 * self.clean.commands
        if not 1 <= number <= self.cuts:
            raise ScenarioError(f"cut {number}, expected 1 to {self.cuts}")
        if number <= commands:
            return CommandCut((number + 2) // 3, _MODES[(number - 1) % 3])
        return WireCut(number - commands)

    def number(self, cut: Cut) -> int:
        """The number of a cut; raises `ScenarioError` where the update has no such moment."""
        clean = self.clean
        if isinstance(cut, CommandCut):
            if cut.number > clean.commands:
                raise ScenarioError(f"cut {cut}, expected a flash command from 1 to {clean.commands}")
            return 3 * (cut.number - 1) + _MODES.index(cut.mode) + 1
        if cut.number > clean.wire_bytes:
            raise ScenarioError(f"cut {cut}, expected a byte from 1 to {clean.wire_bytes}")
        return 3 * clean.commands + cut.number

    @property
    def cuts(self) -> int:
        """How many cuts there are."""
        return 3 * self.clean.commands + self.clean.wire_bytes


@dataclass(frozen=True, slots=True)
class CleanRun:
    """What an update without a cut takes."""

    commands: int
    """Flash commands."""
    wire_bytes: int
    """Bytes on the wire, both ways."""
    typical_s: float
    """Seconds of flash commands, by the data sheet's typical times."""
    maximum_s: float


class PoweredDevice:
    """The device of a scenario on a supply, with a controller over its flash.

    `watch` may put something between bootloader and controller. `after` is the device that it goes on from, after a
    reset: with its clock and trace.
    """

    def __init__(
        self,
        scenario: Scenario,
        supply: Supply,
        *,
        flash: Flash | None = None,
        timing: Timing = Timing.TYPICAL,
        traced: bool = False,
        cache: RecordCache | None = None,
        watch: Callable[[FlashMemory], FlashMemory] = lambda memory: memory,
        after: "PoweredDevice | None" = None,
    ) -> None:
        pool = SectorPool()
        self.clock: VirtualClock = VirtualClock() if after is None else after.clock
        self.trace: EventTrace | None = None if after is None else after.trace
        if traced:
            self.trace = EventTrace(self.clock)
        self.flash = Flash(scenario.part, pool, scenario.base) if flash is None else flash
        controller = FlashController(self.flash, self.clock, supply=supply, timing=timing, trace=self.trace)
        self.mcu = VirtualMcu(
            WHO,
            scenario.part,
            McuShare(RecordCache() if cache is None else cache, pool),
            flash=self.flash,
            memory=watch(ControlledFlash(controller)),
            settings=scenario.settings,
        )
