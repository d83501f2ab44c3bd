"""One whole update over raw bytes, in either role, phase by phase.

The server's side of the wire is compared byte for byte with the file; every demand that fails says where in the update
it failed. Each phase is a step in the report. Nothing here starts or stops a target.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Final, TypeAlias

from fota_conformance.errors import Nonconformance
from fota_conformance.hosts import Device
from fota_conformance.peer import Peer
from fota_conformance.reading import Firmware, memory_of
from fota_conformance.reporting import step
from fota_conformance.target import Handshake, Revision, Target
from fota_conformance.wire import (
    ACK,
    ALLOWED,
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

SETTLE_TIME: Final = 0.25
"""Seconds (before `scale`) in which a target that must wait would show that it does not. Long enough for loopback and a
LAN; a target that is slower to misbehave passes, never the other way round."""
MCUID_DIGITS: Final = 25
"""Digits of an identification that name the device under revision A; the rest is model and versions."""


PlayUpdate: TypeAlias = Callable[[Firmware, str], Mapping[str, object]]
"""Serve an image and a version to the device under test, in one whole update of its own; gives the values of the
placeholders in its target file."""


def update_from_server(
    peer: Peer, target: Target, device: Device, *, acks_permission: bool, others: Iterable[Firmware] = ()
) -> None:
    """Play `device` through one whole update from the server under test.

    `acks_permission` is the sort of device: one that acks `@4#` (revision B) or one that waits for the first record.
    `others` are all images that the server has, to say where a wrong record comes from.
    """
    records = device.firmware.records
    settle_s = SETTLE_TIME * target.scale
    with step(f"the device names itself, {device.mcuid}, and is allowed to update"):
        situation = f"after the identification of device {device.mcuid}, which the registry knows"
        peer.send(identification(device.mcuid), situation)
        answer = peer.read(read_answer, target.timeouts.answer, situation, f"{show(ALLOWED)} (update allowed)")
        if answer.kind is not Kind.ALLOWED:
            came = f"{show(answer.raw)} ({answer.kind.value})"
            raise peer.failure(situation, came=came, accepted=f"{show(ALLOWED)} (update allowed)")
    if acks_permission:
        with step("the server waits for the ack of its permission"):
            situation = f"after {show(ALLOWED)}, before the device acked it"
            peer.stay_quiet(settle_s, situation, "nothing yet: this server declares that it waits for the ack")
            peer.send(ACK, situation)
    with step(f"the server sends {len(records)} records of {device.firmware.name}, each after the ack of the last"):
        received = []
        for index, expected in enumerate(records):
            frame = peer.read(
                read_transfer,
                target.timeouts.frame,
                f"waiting for record {index + 1} of {len(records)} of {device.firmware.name}",
                show(expected),
            )
            if frame.raw != expected:
                raise _wrong_record(peer, frame, device.firmware, index, others)
            situation = f"after record {index + 1} of {len(records)}, before the device acked it"
            nothing = "nothing: a record has no line ending, and the next frame waits for the ack"
            if index == 0:
                peer.stay_quiet(settle_s, situation, nothing)
            peer.expect_nothing_pending(situation, nothing)
            received.append(frame.raw)
            peer.send(ACK, situation)
    with step("the server ends the transfer"):
        situation = f"after the ack of the last of {len(records)} records"
        accepted = f"{show(end(device.version))} (end frame, version {device.version})"
        last = peer.read(read_transfer, target.timeouts.frame, situation, accepted)
        if last.raw != end(device.version):
            raise peer.failure(situation, came=f"{show(last.raw)} ({last.kind.value})", accepted=accepted)
        peer.send(ACK, situation)
    with step("the server closes the connection"):
        peer.expect_close(target.timeouts.close, "after the ack of the end frame")
    with step("what came is the image, as bincopy reads the file"):
        if memory_of(received) != device.firmware.memory:
            raise peer.failure(
                "comparing the bytes in all records with the file",
                came=f"CRC {memory_of(received).crc:08X}",
                accepted=f"CRC {device.firmware.memory.crc:08X}",
            )


def update_device(peer: Peer, target: Target, mcuid: str, firmware: Firmware, version: str) -> None:
    """Play the server for one whole update of the device under test."""
    times = target.timeouts
    with step("the device names itself"):
        situation = "after the device connected"
        accepted = f"{show(identification(mcuid))} (identification)"
        if target.revision is Revision.A:
            accepted += ", with further digits before the # if it likes"
        frame = peer.read(read_identification, times.answer, situation, accepted)
        if _named(frame.value, target.revision) != mcuid:
            raise peer.failure(situation, came=show(frame.raw), accepted=accepted)
    with step("the server allows the update"):
        peer.send(ALLOWED, "answering the identification")
        spare_acks = _read_permission_ack(peer, target)
    with step(f"the device acks each of {len(firmware.records)} records of {firmware.name}"):
        for index, record in enumerate(firmware.records):
            name = f"record {index + 1} of {len(firmware.records)}"
            peer.send(record, f"sending {name}")
            spare_acks = _read_one_ack(peer, times.frame, f"after {name}", spare_acks)
    with step("the device acks the end frame"):
        peer.send(end(version), "sending the end frame")
        situation = f"after the end frame, version {version}"
        spare_acks = _read_one_ack(peer, times.frame, situation, spare_acks)
        accepted = "nothing more, or a close: one frame, one ack"
        if peer.try_read(read_ack, SETTLE_TIME * target.scale, situation, accepted) and not spare_acks:
            raise peer.failure(f"{situation} and its ack", came=show(ACK), accepted=accepted)


def _read_permission_ack(peer: Peer, target: Target) -> int:
    """Hear out a device about `@4#`; how many acks it may still be ahead of us."""
    situation = f"after {show(ALLOWED)}, before the first record"
    if target.handshake is Handshake.IMMEDIATE:
        return 0
    if target.handshake is Handshake.WAIT:
        accepted = f"{show(ACK)} (this device declares that it acks the permission)"
        peer.read(read_ack, target.timeouts.frame, situation, accepted)
        return 0
    accepted = f"{show(ACK)}, or nothing"
    return 0 if peer.try_read(read_ack, target.timeouts.grace, situation, accepted) else 1


def _read_one_ack(peer: Peer, within_s: float, situation: str, spare: int) -> int:
    """Demand one ack and no more than the spare ones; how many are still spare."""
    peer.read(read_ack, within_s, situation, f"{show(ACK)} (one ack)")
    if peer.pending and spare:
        peer.read(read_ack, within_s, situation, f"{show(ACK)} (the late ack of {show(ALLOWED)})")
        spare -= 1
    peer.expect_nothing_pending(f"{situation} and its ack", "nothing: one frame, one ack")
    return spare


def _named(digits: str, revision: Revision) -> str:
    """The part of an identification that names the device."""
    return digits[:MCUID_DIGITS] if revision is Revision.A else digits


def _wrong_record(
    peer: Peer, frame: Frame, firmware: Firmware, index: int, others: Iterable[Firmware]
) -> Nonconformance:
    """Say where the frame that came instead of a record belongs."""
    expected = firmware.records[index]
    return peer.failure(
        f"waiting for record {index + 1} of {len(firmware.records)} of {firmware.name}",
        came=f"{show(frame.raw)}, {_origin(frame, firmware, expected, others)}",
        accepted=show(expected),
    )


def _origin(frame: Frame, firmware: Firmware, expected: bytes, others: Iterable[Firmware]) -> str:
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
