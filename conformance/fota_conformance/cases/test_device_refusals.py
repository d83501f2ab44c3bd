"""A device that cannot take a record does not ack it, closes, stays in its bootloader, and can be updated again."""

from collections.abc import Callable
from typing import Final, TypeAlias

import pytest

from fota_conformance.device_bench import BLANK, DeviceBench, shown_differences
from fota_conformance.errors import Nonconformance
from fota_conformance.images import fixture, noise, record
from fota_conformance.reporting import step
from fota_conformance.target import Memory
from fota_conformance.wire import ACK, read_ack, show

A_FEW: Final = 3
"""Good records in front of the one that cannot be taken."""
BYTES: Final = 16
"""Data bytes of a record that goes to the wrong place."""
RAM: Final = 0x2000_0000
"""An address in the RAM of every K60 (its reference manual, memory map)."""
TOP: Final = 1 << 32
"""The end of all addresses."""

Place: TypeAlias = Callable[[Memory], int]

GOOD: Final = fixture("blink_1.s19").records[A_FEW]
"""The record that would come next."""


def changed(at: int, characters: bytes) -> bytes:
    """The record that would come next, with other characters at some place."""
    return GOOD[:at] + characters + GOOD[at + len(characters) :]


def bit_flipped(digit: int) -> bytes:
    """The same with one bit of one hex digit the other way round."""
    return changed(digit, b"%X" % (int(GOOD[digit : digit + 1], 16) ^ 1))


BAD_CHECKSUMS: Final = {
    "a bit of the checksum": bit_flipped(len(GOOD) - 1),
    "a bit of the first data byte": bit_flipped(9),
    "a bit of the last data byte": bit_flipped(len(GOOD) - 4),
    "a bit of the address": bit_flipped(7),
    "two data bytes lost": GOOD[:2] + b"%02X" % (int(GOOD[2:4], 16) - 2) + GOOD[4:-6] + GOOD[-2:],
}
"""Records whose checksum is not that of what they carry: where they differ from a good one."""
BAD_RECORDS: Final = {
    "a letter that is no hex digit": changed(12, b"G"),
    "a space": changed(12, b" "),
    "a line feed": changed(12, b"\n"),
    "a NUL": changed(12, b"\0"),
    "a byte above 7F": changed(12, b"\xb0"),
    "no hex digit in the checksum": changed(len(GOOD) - 1, b"Z"),
    "no hex digit in the count": changed(2, b"X"),
    "a count too small for the address": changed(2, b"02"),
    "a count of 0": changed(2, b"00"),
    "a count one too small": changed(2, b"%02X" % (int(GOOD[2:4], 16) - 1)),
    "a count one too large": changed(2, b"%02X" % (int(GOOD[2:4], 16) + 1)),
    "type S4, which is reserved": changed(1, b"4"),
    "type SA, which does not exist": changed(1, b"A"),
    "no S": changed(0, b"Z"),
}
"""Records that are none: what is wrong with them."""
PLACES: Final[dict[str, Place]] = {
    "above the flash": lambda memory: memory.end,
    "across the end of the flash": lambda memory: memory.end - BYTES // 2,
    "at the end of the bootloader": lambda memory: memory.start - BYTES,
    "across the end of the bootloader": lambda memory: memory.start - BYTES // 2,
    "at address 0": lambda _: 0,
    "in the RAM": lambda _: RAM,
    "at the last addresses": lambda _: TOP - BYTES,
    "across the last address": lambda _: TOP - BYTES // 2,
}
"""Where no record may go."""
REASONS: Final[dict[str, Callable[[Memory], bytes]]] = {
    "wrong checksum": lambda _: BAD_CHECKSUMS["a bit of the first data byte"],
    "wrong character": lambda _: BAD_RECORDS["a letter that is no hex digit"],
    "above the flash": lambda memory: record(memory.end, noise(1, BYTES)),
}
"""One record for each reason why a device cannot take it."""
any_reason: Final = pytest.mark.parametrize("reason", REASONS)


def refuse(device: DeviceBench, bad: bytes) -> None:
    """A session that goes as far as a record that cannot be taken; what the device does about it is not judged."""
    with device.session() as session:
        session.begin()
        session.serve(fixture("blink_1.s19").records[:A_FEW])
        with step("a record that cannot be taken"):
            session.peer.send(bad, "sending a record that cannot be taken")
            session.peer.drain(device.refusal_s)


def expect_unacked(device: DeviceBench, bad: bytes, why: str) -> None:
    """A session in which a record must not be acked."""
    with device.session() as session:
        session.begin()
        session.serve(fixture("blink_1.s19").records[:A_FEW])
        with step(f"a record that cannot be taken: {why}"):
            session.peer.send(bad, "sending a record that cannot be taken")
        session.expect_no_ack(device.refusal_s, f"after a record that cannot be taken ({why})")


@pytest.mark.fota_requirement("FOTA-DEV-bad-checksum")
@pytest.mark.parametrize("wrong", BAD_CHECKSUMS)
def test_wrong_checksum_is_not_acked(device: DeviceBench, wrong: str) -> None:
    """A record with a wrong checksum is not acked."""
    expect_unacked(device, BAD_CHECKSUMS[wrong], f"{wrong}, so that the checksum is wrong")


@pytest.mark.fota_requirement("FOTA-DEV-bad-record")
@pytest.mark.parametrize("wrong", BAD_RECORDS)
def test_malformed_record_is_not_acked(device: DeviceBench, wrong: str) -> None:
    """A record with a wrong character, count or type is not acked."""
    expect_unacked(device, BAD_RECORDS[wrong], wrong)


@pytest.mark.fota_requirement("FOTA-DEV-bad-record-not-kept")
def test_content_of_a_wrong_record_is_not_kept(device: DeviceBench) -> None:
    """What a record with a wrong checksum carried is not in flash."""
    device.update(fixture("blink_2.s19"))
    at = device.target.memory.start + 4 * device.target.memory.sector
    there = [BLANK if byte is None else byte for byte in device.flash().slice(at, BYTES)]
    # No byte of it is in flash already.
    carried = bytes(byte ^ 0x55 for byte in there)
    good = record(at, carried, kind=1)
    refuse(device, good[:-1] + b"%X" % (int(good[-1:], 16) ^ 1))

    with step("nothing of it is in flash"):
        held = device.flash().slice(at, BYTES)
        kept: list[tuple[int, int, int | None]] = [
            (at + offset, before, now)
            for offset, (before, byte, now) in enumerate(zip(there, carried, held, strict=True))
            if now == byte != BLANK
        ]
        if kept:
            raise Nonconformance(
                "reading the flash dump after a record with a wrong checksum",
                sent=f"{show(good)}, but for its last character, which is wrong",
                came=f"{len(kept)} of its {BYTES} bytes in flash: {shown_differences(kept, 'before')}",
                accepted="what was there before, or FF",
            )


@pytest.mark.fota_requirement("FOTA-DEV-outside")
@pytest.mark.parametrize("place", PLACES)
def test_record_outside_is_not_acked(device: DeviceBench, place: str) -> None:
    """A record that is not wholly inside the application flash is not acked."""
    memory = device.target.memory
    address = PLACES[place](memory)
    inside = f"the application flash is [{memory.start:#010x}, {memory.end:#010x})"
    expect_unacked(device, record(address, noise(2, BYTES)), f"{address:#010x}, {place}; {inside}")


@pytest.mark.fota_requirement("FOTA-DEV-bootloader-kept")
@pytest.mark.parametrize("place", ["at address 0", "at the end of the bootloader", "across the end of the bootloader"])
def test_bootloader_is_kept(device: DeviceBench, place: str) -> None:
    """A record for the bootloader's flash changes nothing there."""
    device.update(fixture("blink_1.s19"))
    before = device.flash()
    memory = device.target.memory
    refuse(device, record(PLACES[place](memory), noise(3, BYTES)))

    device.expect_unchanged(before, 0, memory.start, f"after a record {place}")


@pytest.mark.fota_requirement("FOTA-DEV-refusal-closed")
@any_reason
def test_device_that_cannot_take_a_record_closes(device: DeviceBench, reason: str) -> None:
    """A device that cannot take a record closes the connection."""
    bad = REASONS[reason](device.target.memory)
    with device.session() as session:
        session.begin()
        session.serve(fixture("blink_1.s19").records[:A_FEW])
        within_s = device.target.timeouts.close
        situation = f"after a record that cannot be taken ({reason})"
        accepted = f"a close within {within_s:g} s"
        with step(f"a record that cannot be taken, and the device closes: {reason}"):
            session.peer.send(bad, "sending a record that cannot be taken")
            # One that acks it can take it, after all; whether it may is another case's business.
            acked = session.peer.try_read(read_ack, within_s, situation, f"{accepted} (or {show(ACK)})")
            if not acked and not session.peer.ended:
                raise session.peer.failure(situation, came=f"nothing for {within_s:g} s, still open", accepted=accepted)


@pytest.mark.fota_requirement("FOTA-DEV-refusal-told")
@any_reason
def test_refused_update_is_no_update(device: DeviceBench, reason: str) -> None:
    """A device that could not take a record does not say that it is updated, nor boots what it holds."""
    earlier = fixture("blink_2.s19")
    device.update(earlier)
    refuse(device, REASONS[reason](device.target.memory))

    situation = f"after a record that cannot be taken ({reason})"
    device.expect_not_updated(situation)
    device.expect_not_booted(situation, earlier)


@pytest.mark.fota_requirement("FOTA-DEV-refusal-recovers")
@any_reason
def test_update_after_a_refused_record(device: DeviceBench, reason: str) -> None:
    """After a record that it could not take, a device can be updated."""
    refuse(device, REASONS[reason](device.target.memory))

    device.expect_recovery(fixture("blink_2.s19"), f"a record that it could not take ({reason})")
