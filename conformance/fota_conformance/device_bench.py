"""What a case does with the device under test: run it for a session, cut its power, look at its flash and outcome.

`DeviceBench` is the fixture `device`. It belongs to one case, knows the case's wire log and folder, and may be used
from a thread of its own (see `waiting`). It demands only what any case may rely on; what a case is about, the case
says. The server's is `server_bench`.
"""

import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from fota_conformance.case import Case
from fota_conformance.errors import CouldNotTest, Nonconformance, NotConnected, put_down_to
from fota_conformance.exchange import PlayedServer
from fota_conformance.hosts import (
    make_mcuid,
    observation,
    observation_path,
    read_outcome,
    remove_observations,
    run_control,
    run_device,
)
from fota_conformance.pace import REFUSAL_TIME, SETTLE_TIME, Pace
from fota_conformance.peer import Listener, listen
from fota_conformance.reading import Firmware, Memory, memory_of, read_dump
from fota_conformance.reporting import step
from fota_conformance.target import DeviceCommand, fill

BLANK: Final = 0xFF
"""A byte of erased flash."""
TOLD: Final = ("outcome", "reason", "detail", "booted")
"""Keys of a device's outcome that a failure's message shows."""
SHOWN_DIFFERENCES: Final = 8
"""Differing bytes of a flash dump that a message lists."""


@dataclass(slots=True)
class Wear:
    """What a run has put a device through."""

    began: float = field(default_factory=time.monotonic)
    erases: Counter[int] = field(default_factory=Counter)
    """How often each sector was erased at most, by its address: once in each session that wrote to it."""


class DeviceBench:
    """The device under test, for one case; its flash survives from session to session if it is that sort of device."""

    def __init__(self, target: DeviceCommand, case: Case, worker: str, wear: Wear, pace: Pace) -> None:
        self.target = target
        self._pace = pace
        self.mcuid = target.mcuid or make_mcuid(case.id, worker)
        self._case = case
        self._wear = wear
        self._values: dict[str, object] = {"host": target.host, "port": target.port, "mcuid": self.mcuid}
        self._values["artifacts"] = case.folder
        case.last_words = self._told
        remove_observations(target, self._values)

    @property
    def settle_s(self) -> float:
        """Seconds in which a device that must not send something would send it."""
        return self._pace.wait(SETTLE_TIME * self.target.scale)

    @property
    def refusal_s(self) -> float:
        """Seconds in which a device that should refuse something would ack it."""
        return self._pace.wait(REFUSAL_TIME * self.target.scale)

    @contextmanager
    def session(self, *, finish: bool = True) -> Iterator[PlayedServer]:
        """The device in one session: connected, nothing read or sent yet.

        On leaving, our end is closed and the command has ended by itself; without `finish` it may be stopped.
        """
        with self.waiting() as (listener, has_ended, _):
            with step("the device connects"):
                peer = listener.accept(self.target.timeouts.ready, has_ended)
            with PlayedServer(peer, self.target, self.mcuid, self._pace) as played:
                try:
                    yield played
                finally:
                    self._count(played.served)
            if finish:
                with step("the device's command ends"):
                    self._run.finish()

    @contextmanager
    def waiting(self) -> Iterator[tuple[Listener, Callable[[], bool], int]]:
        """The device's command, started, and the place where it will connect; for cases that do not simply accept."""
        self._check_limits()
        self._forget_outcome()
        with listen(self.target.host, self.target.port, self._case.log, time.monotonic) as listener:
            self._values["port"] = listener.port
            self._control("reset", self.target.reset)
            with run_device(self.target, self._values) as run:
                self._run = run
                self._values["pid"] = run.child.pid
                before = dict(self._case.logs())
                number = sum(name.startswith("output") for name in before) + 1
                name = "output.log" if number == 1 else f"output-{number}.log"
                self._case.logs = lambda: before | {name: run.child.output.since()}
                yield listener, run.has_ended, run.child.pid

    def update(self, firmware: Firmware, version: str = "16") -> None:
        """One whole update, the command's end included."""
        with self.session() as session:
            session.update(firmware, version)

    @contextmanager
    def surviving(self, after: str) -> Iterator[None]:
        """What the device does after something that it had to survive; not to connect any more is a fault, too."""
        try:
            yield
        except NotConnected as error:
            raise Nonconformance(
                f"after {after}, starting the device again",
                sent="nothing yet",
                came=str(error) + self._last_words(),
                accepted="its connection, and a session",
            ) from error
        except Nonconformance as error:
            raise put_down_to(f"after {after}", error) from error

    def _last_words(self) -> str:
        """How a command has ended that should have gone on, and the last line of what it said."""
        status = self._run.child.exit_status
        lines = self._run.child.output.since().strip().splitlines()
        by_itself = status not in (None, -signal.SIGKILL)
        return (f", with status {status}" if by_itself else "") + (f"; it said {lines[-1]!r}" if lines else "")

    def _told(self) -> str:
        """What the device tells of its last session, if it tells."""
        try:
            return ", ".join(f"{key} {value!r}" for key, value in self.outcome().items() if key in TOLD)
        except CouldNotTest:
            return ""

    def expect_recovery(self, firmware: Firmware, after: str) -> None:
        """Demand one whole update, its bytes in flash, after something that the device had to survive."""
        with step(f"after {after}, the device takes an update"), self.surviving(after):
            self.update(firmware)
            self.expect_flash_holds(firmware, "after the update")

    def deny(self) -> None:
        """One whole session in which it is denied."""
        with self.session() as session:
            session.expect_identification()
            session.deny()
            session.expect_no_ack(self.settle_s, "after the denial", "nothing, or a close")

    def expect_end(self, situation: str) -> None:
        """Demand that the device's command ends by itself; in a session without `finish`, once our end is closed."""
        within_s = self.target.timeouts.exit
        with step("the device ends"):
            if self._run.child.wait(within_s) is None:
                raise Nonconformance(
                    situation,
                    sent="what the wire log shows, and a close",
                    came=f"its command still runs {within_s:g} s later",
                    accepted="its end: one session, and it is over",
                )

    def power_off(self) -> None:
        """Cut its power."""
        assert self.target.power_off is not None, "the requirement must name what the case needs"
        self._control("power_off", self.target.power_off)

    def power_on(self) -> None:
        """Give it power again, if the target needs to be told."""
        self._control("power_on", self.target.power_on)

    def flash(self) -> Memory:
        """What its flash holds now, as bincopy reads the dump; bytes that are FF may be left out of it."""
        template = observation(self.target, "flash")
        return read_dump(observation_path(self.target, template, self._values), self.target.observe.flash_address)

    def outcome(self) -> dict[str, object]:
        """What it says of its last session."""
        return read_outcome(observation_path(self.target, observation(self.target, "outcome"), self._values))

    def expect_flash_holds(self, firmware: Firmware, situation: str, earlier: Firmware | None = None) -> None:
        """Demand every byte of an image in flash; an `earlier` image may explain what is there instead."""
        with step(f"the flash holds {firmware.name}, as bincopy reads both"):
            found = differences(firmware, self.flash())
            if found:
                raise Nonconformance(
                    f"reading the flash dump {situation}",
                    sent=f"{firmware.name}, {len(firmware.records)} records, {firmware.memory.size} bytes",
                    came=f"{len(found)} bytes that differ: {shown_differences(found)}{_leftovers(found, earlier)}",
                    accepted=f"every byte of the image (CRC {firmware.memory.crc:08X}) at its address",
                )

    def expect_rest_blank(self, firmware: Firmware, situation: str) -> None:
        """Demand FF in the sectors of an image wherever the image leaves bytes out."""
        with step("the rest of every sector of the image is blank"):
            flash, size = self.flash(), self.target.memory.sector
            left: list[tuple[int, int, int | None]] = []
            for sector in sectors_of(firmware.memory, size):
                cells = zip(firmware.memory.slice(sector, size), flash.slice(sector, size), strict=True)
                left += [
                    (sector + at, BLANK, there)
                    for at, (byte, there) in enumerate(cells)
                    if byte is None and there not in (None, BLANK)
                ]
            if left:
                raise Nonconformance(
                    f"reading the flash dump {situation}",
                    sent=f"{firmware.name}, {firmware.memory.size} bytes",
                    came=f"{len(left)} bytes beside the image that are not blank: {shown_differences(left)}",
                    accepted=f"FF in the rest of every sector of {size} bytes that the image touches",
                )

    def expect_unchanged(self, before: Memory, start: int, end: int, situation: str) -> None:
        """Demand that [start, end) of the flash reads as in an earlier dump."""
        with step(f"the flash at [{start:#010x}, {end:#010x}) is as it was"):
            pairs = zip(before.slice(start, end - start), self.flash().slice(start, end - start), strict=True)
            changed = [
                (at, BLANK if was is None else was, there)
                for at, (was, there) in enumerate(pairs, start=start)
                if (BLANK if was is None else was) != (BLANK if there is None else there)
            ]
            if changed:
                raise Nonconformance(
                    f"comparing the flash dumps before and {situation}",
                    sent="what the wire log shows",
                    came=f"{len(changed)} bytes that changed: {shown_differences(changed, 'before')}",
                    accepted=f"no change in [{start:#010x}, {end:#010x})",
                )

    def expect_outcome(self, wanted: str, situation: str) -> None:
        """Demand what the device says of its last session."""
        with step(f"the device says {wanted!r}"):
            outcome = self.outcome()
            if outcome.get("outcome") != wanted:
                raise Nonconformance(
                    f"reading the outcome {situation}",
                    sent="what the wire log shows",
                    came=str(outcome),
                    accepted=f"outcome {wanted!r}",
                )

    def expect_image_named(self, firmware: Firmware, situation: str) -> None:
        """Demand the CRC of an image in the outcome, if it names any."""
        with step("the device names the image by its CRC, if at all"):
            named, wanted = self.outcome().get("image_crc"), f"{firmware.memory.crc:08X}"
            if named is not None and str(named).upper() != wanted:
                raise Nonconformance(
                    f"reading the outcome {situation}",
                    sent=f"{firmware.name}, {len(firmware.records)} records",
                    came=f"image_crc {named!r}",
                    accepted=f"image_crc {wanted!r} (CRC-32 of the image, holes as FF), or null, or none at all",
                )

    def expect_not_updated(self, situation: str) -> None:
        """Demand that the device, if it tells its outcome, does not say that it is updated."""
        if "outcome" not in self.target.offers:
            return
        with step("the device does not say that it is updated"):
            outcome = self.outcome()
            if outcome.get("outcome") == "updated":
                raise Nonconformance(
                    f"reading the outcome {situation}",
                    sent="what the wire log shows",
                    came=str(outcome),
                    accepted="outcome 'failed' or 'refused'",
                )

    def expect_not_booted(self, situation: str, *whole: Firmware) -> None:
        """Demand that it boots nothing but one of some images, if that is whole in flash (as the one before may be)."""
        with step("the device does not boot what is no image"):
            outcome = self.outcome()
            if not outcome.get("booted"):
                return
            roles = ("the image before", "the new image")
            names = " or ".join(f"{one.name} ({role})" for one, role in zip(whole, roles, strict=False))
            if "flash" not in self.target.offers:
                raise CouldNotTest(
                    f"{situation} the device boots, and shows no flash: nobody sees whether it holds {names}, whole; "
                    f"declare flash under [observe] in {self.target.path}"
                )
            flash = self.flash()
            lost = {firmware.name: differences(firmware, flash) for firmware in whole}
            if all(lost.values()):
                raise Nonconformance(
                    f"reading outcome and flash dump {situation}",
                    sent="what the wire log shows",
                    came=f"{outcome}; "
                    + "; ".join(f"{len(some)} bytes in flash are not those of {name}" for name, some in lost.items()),
                    accepted=f"booted false; or whole in flash {names}",
                )

    @property
    def artifacts(self) -> Path:
        """The case's folder."""
        return self._case.folder

    def _control(self, name: str, command: tuple[str, ...] | None) -> None:
        if command is not None:
            with step(name.replace("_", " ")):
                self._case.log.event(f"{name}")
                words = tuple(fill(word, self._values) for word in command)
                run_control(words, self.target.path.resolve().parent, name)

    def _forget_outcome(self) -> None:
        """Remove what it told of the session before: a device that is cut off must not be judged by that."""
        if self.target.observe.outcome is not None:
            observation_path(self.target, self.target.observe.outcome, self._values).unlink(missing_ok=True)

    def _count(self, records: list[bytes]) -> None:
        """Note that a session has written records: their sectors were erased once more."""
        if records:
            self._wear.erases.update(sectors_of(memory_of(records), self.target.memory.sector))

    def _check_limits(self) -> None:
        limits = self.target.limits
        minutes = (time.monotonic() - self._wear.began) / 60
        if limits.max_minutes and minutes >= limits.max_minutes:
            raise CouldNotTest(f"the run has taken its max_minutes = {limits.max_minutes:g}")
        worst = max(self._wear.erases.values(), default=0)
        if limits.max_erases_per_sector and worst >= limits.max_erases_per_sector:
            raise CouldNotTest(f"a sector was erased {worst} times: max_erases_per_sector is reached")


def sectors_of(memory: Memory, size: int) -> list[int]:
    """The addresses of the sectors of `size` bytes that some bytes lie in, ascending."""
    return sorted(
        {
            sector * size
            for start, data in memory.segments
            for sector in range(start // size, (start + len(data) - 1) // size + 1)
        }
    )


def differences(firmware: Firmware, flash: Memory) -> list[tuple[int, int, int | None]]:
    """Where a flash does not hold an image; a dump may leave blank bytes out."""
    found = firmware.memory.differences(flash)
    return [(at, byte, there) for at, byte, there in found if (byte, there) != (BLANK, None)]


def shown_differences(differences: list[tuple[int, int, int | None]], wanted: str = "image") -> str:
    """The first differences between what is wanted and what is in a flash, for a message."""
    shown = ", ".join(
        f"{address:#010x}: " + ("nothing" if there is None else f"{there:02X}") + f" ({wanted}: {byte:02X})"
        for address, byte, there in differences[:SHOWN_DIFFERENCES]
    )
    return shown + f", … up to {differences[-1][0]:#010x}" * (len(differences) > SHOWN_DIFFERENCES)


def _leftovers(differences: list[tuple[int, int, int | None]], earlier: Firmware | None) -> str:
    """How differing bytes come from an earlier image, if all of them do."""
    if earlier is None:
        return ""
    cells = [(earlier.memory.slice(at, 1)[0], byte, there) for at, byte, there in differences]
    if all(there == was for was, _, there in cells):
        return f"; these are the bytes of {earlier.name}, the image before"
    if all(was is not None and there == was & byte for was, byte, there in cells):
        return f"; these are both images ANDed, as programming leaves it over {earlier.name} that was not erased"
    return ""
