"""One session over raw bytes, in either role, in phases that a case puts together.

`PlayedDevice` is the kit's device in a session with a server under test, `PlayedServer` the kit's server in a session
with a device under test. The happy path is `update()`; a case that is about something else plays part of it, does what
it is about on `peer`, and says what must follow. Every phase compares bytes, is a step in the report, and says where in
the session it failed. Nothing here starts or stops a target.
"""

import contextlib
import enum
import time
from collections.abc import Iterable
from typing import Final, Self

from fota_conformance.errors import Nonconformance
from fota_conformance.hosts import Device
from fota_conformance.images import is_valid
from fota_conformance.pace import SETTLE_TIME, Pace
from fota_conformance.peer import Peer
from fota_conformance.reading import Firmware, memory_of
from fota_conformance.reporting import step
from fota_conformance.target import DeviceCommand, Handshake, Revision, ServerAddress, ServerCommand
from fota_conformance.wire import (
    ACK,
    ALLOWED,
    DENIED,
    Frame,
    Kind,
    end,
    identification,
    read_ack,
    read_answer,
    read_identification,
    read_transfer,
    show,
)

MCUID_DIGITS: Final = 25
"""Digits of an identification that name the device under revision A; the rest is model and versions."""
ONE_FRAME: Final = "nothing: a record has no line ending, and the next frame waits for the ack"
"""What may follow a record before it is acked."""


class Refusal(enum.Enum):
    """How a server turned a device away."""

    DENIED = "@0# in the place of @4#"
    LATE = "@0# behind @4#"
    CLOSED = "a close"


class PlayedDevice:
    """The kit's device in one session with the server under test; closed on leaving its `with` block.

    `acks_permission` is the sort of device: one that acks `@4#` (revision B), or one that waits for the first record.
    `others` are all images that the server has, to say where a wrong record comes from. A `hurried` one looks neither
    whether the server waits for an ack nor how it ends: for updates that a case is not about.
    """

    def __init__(
        self,
        peer: Peer,
        target: ServerCommand | ServerAddress,
        device: Device,
        *,
        acks_permission: bool,
        pace: Pace,
        others: Iterable[Firmware] = (),
        hurried: bool = False,
    ) -> None:
        self.peer = peer
        self.target = target
        self.device = device
        self.acks_permission = acks_permission
        self.received: list[bytes] = []
        """The records that came and were right, in order."""
        self._others = tuple(others)
        self._hurried = hurried
        self._pace = pace

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.peer.close()

    @property
    def _settle_s(self) -> float:
        """Seconds in which a server that must wait would show that it does not."""
        return 0.0 if self._hurried else self._pace.wait(SETTLE_TIME * self.target.scale)

    @property
    def firmware(self) -> Firmware:
        """The image that the device is to get."""
        assert self.device.firmware is not None, "a device whose file cannot be read is never served"
        return self.device.firmware

    def update(self) -> None:
        """One whole update, from the identification to the close."""
        self.begin()
        self.take_rest()
        self.finish()

    def begin(self) -> None:
        """Up to the first record: identification, permission, and the ack of it where this device acks it."""
        self.identify()
        self.expect_allowed()
        self.ack_permission()

    def identify(self) -> None:
        """Name itself."""
        with step(f"the device names itself, {self.device.mcuid}"):
            self.peer.send(identification(self.device.mcuid), "naming itself")

    def expect_allowed(self, situation: str = "") -> None:
        """Demand `@4#`."""
        known = f"which the registry knows (file {self.device.file}, version {self.device.version})"
        situation = situation or f"after the identification of device {self.device.mcuid}, {known}"
        accepted = f"{show(ALLOWED)} (update allowed)"
        with step("the server allows the update"):
            answer = self.peer.read(read_answer, self.target.timeouts.answer, situation, accepted)
            if answer.kind is not Kind.ALLOWED:
                raise self.peer.failure(situation, came=f"{show(answer.raw)} ({answer.kind.value})", accepted=accepted)

    def expect_denied(self, situation: str) -> None:
        """Demand `@0#`, then a close."""
        accepted = f"{show(DENIED)} (update denied), then a close"
        with step("the server denies the update and closes"):
            answer = self.peer.read(read_answer, self.target.timeouts.answer, situation, accepted)
            if answer.kind is not Kind.DENIED:
                raise self.peer.failure(situation, came=f"{show(answer.raw)} ({answer.kind.value})", accepted=accepted)
            self.peer.expect_close(self.target.timeouts.close, f"{situation}, after {show(DENIED)}")

    def ack_permission(self) -> None:
        """Ack `@4#`, if this sort of device does; under `wait` nothing may have come before."""
        if not self.acks_permission:
            return
        with step("the device acks its permission"):
            situation = f"after {show(ALLOWED)}, before the device acked it"
            if self.target.handshake is Handshake.WAIT:
                accepted = "nothing yet: this server declares that it waits for the ack"
                self.peer.stay_quiet(self._settle_s, situation, accepted)
            if self.target.handshake is Handshake.AUTO and self.peer.poll():
                # The kit came too late (a busy machine): to this server the device is one that does not ack.
                self.peer.log.event("the server went on without the ack of its permission: it is not sent any more")
                return
            self.peer.send(ACK, situation)

    def take_record(self) -> None:
        """Demand the next record, byte for byte, and nothing behind it; it is not acked yet."""
        records, index = self.firmware.records, len(self.received)
        situation = f"waiting for record {index + 1} of {len(records)} of {self.firmware.name}"
        began = time.monotonic()
        frame = self.peer.read(read_transfer, self.target.timeouts.frame, situation, show(records[index]))
        if index:
            self._pace.saw(time.monotonic() - began)
        if frame.raw != records[index]:
            came = f"{show(frame.raw)}, {_origin(frame, self.firmware, records[index], self._others)}"
            raise self.peer.failure(situation, came=came, accepted=show(records[index]))
        self.received.append(frame.raw)
        unacked = f"after record {index + 1} of {len(records)}, before the device acked it"
        if index == 0:
            self.peer.stay_quiet(self._settle_s, unacked, ONE_FRAME)
        self.peer.expect_nothing_pending(unacked, ONE_FRAME)

    def ack(self, raw: bytes = ACK) -> None:
        """Ack what came last, or send something else in the ack's place."""
        self.peer.send(raw, f"acking record {len(self.received)} of {len(self.firmware.records)}")

    def take(self, count: int) -> None:
        """Take some records and ack each."""
        with step(f"the server sends {count} records of {self.firmware.name}, each after the ack of the last"):
            for _ in range(count):
                self.take_record()
                self.ack()

    def take_rest(self) -> None:
        """Take all records that are left, and ack each."""
        self.take(len(self.firmware.records) - len(self.received))

    def expect_end_frame(self) -> None:
        """Demand the end frame, with the version of the registry."""
        with step("the server ends the transfer"):
            situation = f"after the ack of the last of {len(self.received)} records"
            frame = end(self.device.version.upper())
            accepted = f"{show(frame)} (end frame, version {self.device.version.upper()})"
            last = self.peer.read(read_transfer, self.target.timeouts.frame, situation, accepted)
            if last.raw != frame:
                raise self.peer.failure(situation, came=f"{show(last.raw)} ({last.kind.value})", accepted=accepted)

    def finish(self) -> None:
        """Take and ack the end frame; demand the close, and that the records were the whole image."""
        self.expect_end_frame()
        self.ack_end_frame()

    def ack_end_frame(self) -> None:
        """Ack the end frame; demand the close, and that the records were the whole image."""
        self.peer.send(ACK, "acking the end frame")
        if not self._hurried:
            with step("the server closes the connection"):
                # A server that went on without the ack of @4# may linger for one that is missing.
                within_s = self.target.timeouts.close + self.target.deadlines.grace
                self.peer.expect_close(within_s, "after the ack of the end frame")
        with step("what came is the image, as bincopy reads the file"):
            if memory_of(self.received) != self.firmware.memory:
                raise self.peer.failure(
                    "comparing the bytes in all records with the file",
                    came=f"CRC {memory_of(self.received).crc:08X}",
                    accepted=f"CRC {self.firmware.memory.crc:08X}",
                )

    def expect_any_end_frame(self) -> None:
        """Demand an end frame, whatever its version, and not one more record; it is not acked yet."""
        situation = f"after the ack of the last of {len(self.received)} records"
        accepted = "an end frame (@, one or two upper-case hex digits, ##)"
        with step("the server ends the transfer"):
            last = self.peer.read(read_transfer, self.target.timeouts.frame, situation, accepted)
            if last.kind is not Kind.END:
                raise self.peer.failure(situation, came=f"{show(last.raw)} ({last.kind.value})", accepted=accepted)

    def leave(self) -> None:
        """Ack what came last and all that follows, and judge none of it: what a case is about has been seen."""
        with step("the rest of the update, which is not judged"), contextlib.suppress(Nonconformance):
            if self.received or self.acks_permission:
                self.peer.send(ACK, "acking what came last")
            while frame := self.peer.try_read(read_transfer, self.target.timeouts.frame, "leaving", "any frame"):
                self.peer.send(ACK, "acking what came last")
                if frame.kind is Kind.END:
                    return

    def hear_refusal(self, situation: str, *, records: int = 0) -> Refusal:
        """Name itself; demand that the server turns it away, in whatever way, and say how.

        A server may find out while it sends: up to so many `records` are acked, each of which must be valid. An end
        frame never is, nor what is no frame.
        """
        accepted = f"a refusal: {show(DENIED)}, {show(ALLOWED + DENIED)}, or a close"
        accepted += ", at the latest in the place of the end frame" if records else ", without a record"
        self.identify()
        with step("the server refuses the device"):
            answer = self.peer.try_read(read_answer, self.target.timeouts.answer, situation, accepted)
            if answer is None or answer.kind is Kind.DENIED:
                self._demand_end(answer, situation, accepted)
                return Refusal.CLOSED if answer is None else Refusal.DENIED
            frame = None
            if self.acks_permission:
                # One that refuses behind @4# may or may not wait for its ack.
                frame = self.peer.try_read(read_transfer, self._settle_s, situation, accepted)
                if frame is None and not self.peer.pending:
                    self._ack_if_open(situation)
            for number in range(1, records + 2):
                frame = frame or self.peer.try_read(read_transfer, self.target.timeouts.frame, situation, accepted)
                if frame is None:
                    break
                if frame.kind is not Kind.RECORD or not is_valid(frame.raw) or number > records:
                    which = f", after {number - 1} valid records" if number > 1 else f", right behind {show(ALLOWED)}"
                    is_flawed = frame.kind is Kind.RECORD and not is_valid(frame.raw)
                    flaw = " with a wrong checksum or count" if is_flawed else ""
                    came = f"{show(frame.raw)} ({frame.kind.value}{flaw}){which}"
                    raise self.peer.failure(situation, came=came, accepted=accepted)
                frame = None
                self._ack_if_open(situation)
            if self.peer.pending == DENIED:
                return Refusal.LATE
            self._demand_end(None, situation, accepted)
            return Refusal.CLOSED

    def _ack_if_open(self, situation: str) -> None:
        """Ack what came last; a server that refuses may have closed meanwhile."""
        with contextlib.suppress(Nonconformance):
            self.peer.send(ACK, situation)

    def _demand_end(self, answer: Frame | None, situation: str, accepted: str) -> None:
        """Demand nothing more behind a denial, and without one a close."""
        came = self.peer.pending or (self.peer.drain(self._settle_s) if answer is not None else b"")
        if came or (answer is None and not self.peer.ended):
            shown = show(came) if came else "nothing, still open"
            raise self.peer.failure(situation, came=shown, accepted=accepted)

    def expect_cut_off(self, situation: str) -> None:
        """Demand that the server ends the session: no further frame, and a close."""
        with step("the server ends the session"):
            self.peer.expect_close(self.target.timeouts.close, situation)


class PlayedServer:
    """The kit's server in one session with the device under test; closed on leaving its `with` block."""

    def __init__(self, peer: Peer, target: DeviceCommand, mcuid: str, pace: Pace) -> None:
        self.peer = peer
        self.target = target
        self.mcuid = mcuid
        self.served: list[bytes] = []
        """The records that were sent by `serve`."""
        self._spare_acks = 0
        self._pace = pace

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.peer.close()

    def update(self, firmware: Firmware, version: str) -> None:
        """One whole update, from the identification to the ack of the end frame."""
        self.begin()
        self.serve(firmware.records)
        self.end(version)

    def begin(self) -> None:
        """Up to the first record: identification, permission, and the device's ack of it."""
        self.expect_identification()
        self.allow()

    def expect_identification(self) -> None:
        """Demand that the device names itself."""
        with step("the device names itself"):
            situation = "after the device connected"
            accepted = f"{show(identification(self.mcuid))} (identification)"
            if self.target.revision is Revision.A:
                accepted += ", with further digits before the # if it likes"
            frame = self.peer.read(read_identification, self.target.timeouts.answer, situation, accepted)
            if _named(frame.value, self.target.revision) != self.mcuid:
                raise self.peer.failure(situation, came=show(frame.raw), accepted=accepted)

    def allow(self, raw: bytes = ALLOWED) -> None:
        """Send `@4#` (or, whole, the bytes that a case wants instead) and hear what the device says to it."""
        with step("the server allows the update"):
            self.peer.send(raw, "answering the identification")
            self.hear_permission_ack()

    def allow_with(self, record: bytes) -> None:
        """Send `@4#` and the first record in one segment, and hear as many acks as this sort of device sends."""
        with step("the server allows the update, and sends the first record in the same segment"):
            self.served.append(record)
            self.peer.send(ALLOWED + record, "answering the identification")
            situation = f"after {show(ALLOWED)} and the first record in one segment"
            if self.target.handshake is Handshake.AUTO:
                within_s = self.target.timeouts.frame
                self.peer.read(read_ack, within_s, situation, f"{show(ACK)} (one ack), or one for each of the two")
                second = self.peer.try_read(read_ack, self.target.timeouts.grace, situation, f"{show(ACK)}, or nothing")
                self._spare_acks = 0 if second else 1
            else:
                self.hear_permission_ack()
                self.expect_ack(situation)

    def deny(self) -> None:
        """Send `@0#`."""
        with step("the server denies the update"):
            self.peer.send(DENIED, "answering the identification")

    def hear_permission_ack(self) -> None:
        """Take the ack of `@4#` of a device that sends it; under `auto`, find out."""
        situation = f"after {show(ALLOWED)}, before the first record"
        if self.target.handshake is Handshake.WAIT:
            accepted = f"{show(ACK)} (this device declares that it acks the permission)"
            self.peer.read(read_ack, self.target.timeouts.frame, situation, accepted)
        elif self.target.handshake is Handshake.AUTO:
            accepted = f"{show(ACK)}, or nothing"
            acked = self.peer.try_read(read_ack, self.target.timeouts.grace, situation, accepted)
            self._spare_acks = 0 if acked else 1

    def serve(self, records: Iterable[bytes]) -> None:
        """Send records, each after the ack of the last."""
        records = tuple(records)
        with step(f"the device acks each of {len(records)} records"):
            for index, record in enumerate(records):
                name = f"record {index + 1} of {len(records)}"
                self.served.append(record)
                self.peer.send(record, f"sending {name}")
                self.expect_ack(f"after {name}")

    def serve_while_acked(self, records: Iterable[bytes]) -> bool:
        """Send records until one is not acked, which is no fault here; whether all were."""
        records = tuple(records)
        with step(f"up to {len(records)} records, as long as the device acks them"):
            for index, record in enumerate(records):
                situation = f"after record {index + 1} of {len(records)}"
                self.served.append(record)
                try:
                    self.peer.send(record, situation)
                except Nonconformance:
                    return False
                if not self.acks(situation):
                    return False
        return True

    def acks(self, situation: str) -> bool:
        """Whether the device acks what was sent last; it may close, or stay silent as long as an ack may take."""
        accepted = f"{show(ACK)}, or silence, or a close"
        return self.peer.try_read(read_ack, self.target.timeouts.frame, situation, accepted) is not None

    def expect_ack(self, situation: str) -> None:
        """Demand one ack, and no other."""
        within_s = self.target.timeouts.frame
        began = time.monotonic()
        self.peer.read(read_ack, within_s, situation, f"{show(ACK)} (one ack)")
        self._pace.saw(time.monotonic() - began)
        if self.peer.pending and self._spare_acks:
            self.peer.read(read_ack, within_s, situation, f"{show(ACK)} (the late ack of {show(ALLOWED)})")
            self._spare_acks -= 1
        self.peer.expect_nothing_pending(f"{situation} and its ack", "nothing: one frame, one ack")

    def end(self, version: str) -> None:
        """Send the end frame and demand its one ack."""
        with step("the device acks the end frame"):
            self.peer.send(end(version), "sending the end frame")
            situation = f"after the end frame, version {version}"
            self.expect_ack(situation)
            accepted = "nothing more, or a close: one frame, one ack"
            if (
                self.peer.try_read(read_ack, self._pace.wait(SETTLE_TIME * self.target.scale), situation, accepted)
                and not self._spare_acks
            ):
                raise self.peer.failure(f"{situation} and its ack", came=show(ACK), accepted=accepted)

    def expect_no_ack(self, within_s: float, situation: str, accepted: str = "no ack: silence, or a close") -> None:
        """Demand that no byte comes for a while; a close is fine and ends the wait."""
        with step("the device does not ack"):
            came = self.peer.pending or self.peer.drain(within_s).strip(b"\r\n")
            if came:
                raise self.peer.failure(situation, came=show(came), accepted=accepted)

    def expect_no_more_acks(self, within_s: float, situation: str) -> None:
        """Demand that an ack stays the only one for a while; a late ack of `@4#` may be among it."""
        accepted = "nothing: one frame, one ack"
        if self._spare_acks and self.peer.try_read(read_ack, within_s, situation, accepted):
            self._spare_acks -= 1
        self.expect_no_ack(within_s, situation, accepted)

    def expect_close(self, within_s: float, situation: str) -> None:
        """Demand that the device closes, without another byte."""
        with step("the device closes the connection"):
            self.peer.expect_close(within_s, situation)


def _named(digits: str, revision: Revision) -> str:
    """The part of an identification that names the device."""
    return digits[:MCUID_DIGITS] if revision is Revision.A else digits


def _origin(frame: Frame, firmware: Firmware, expected: bytes, others: Iterable[Firmware]) -> str:
    """Where the frame that came instead of a record belongs."""
    if frame.kind is not Kind.RECORD:
        return f"which is an {frame.kind.value}: the rest of the image is missing"
    if frame.raw.upper() == expected:
        return "which is the right record in lower case"
    for image in (firmware, *(other for other in others if other.name != firmware.name)):
        if frame.raw in image.records:
            owner = "the same file" if image is firmware else f"{image.name}, the image of another device"
            return f"which is record {image.records.index(frame.raw) + 1} of {owner}"
    pairs = enumerate(zip(frame.raw, expected, strict=False), start=1)
    first = next((at for at, (came, wanted) in pairs if came != wanted), min(len(frame.raw), len(expected)) + 1)
    return f"which differs from character {first} on"
