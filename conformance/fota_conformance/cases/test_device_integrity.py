"""A device that checks images takes only one that is whole: its own seal says so."""

from collections.abc import Callable, Iterable
from typing import Final

import pytest

from fota_conformance.device_bench import DeviceBench
from fota_conformance.exchange import PlayedServer
from fota_conformance.images import BASE, STACK_TOP, extended, firmware_of, fixture, noise, records_of, sealed
from fota_conformance.reading import Firmware, Memory
from fota_conformance.reporting import step
from fota_conformance.wire import end

IMAGE: Final = fixture("blink_1.s19")
MIDDLE: Final = len(IMAGE.records) // 2
RESET: Final = BASE + 0x411
"""A reset vector that is sane: odd, and inside every image here."""
HALVES: Final = {
    "first half": IMAGE.records[:MIDDLE],
    "second half": IMAGE.records[MIDDLE:],
    "all but the last record": IMAGE.records[:-1],
    "all but the first record": IMAGE.records[1:],
}
"""What is left of a sealed image."""


def with_vectors(stack: int, reset: int) -> Firmware:
    """A sealed image with such vectors."""
    ((start, code),) = IMAGE.memory.segments
    content = sealed(start, stack.to_bytes(4, "little") + reset.to_bytes(4, "little") + code[8:])
    name = f"blink_1 with stack pointer {stack:#010x} and reset vector {reset:#010x}"
    return firmware_of(name, records_of(Memory(((start, content),)), kind=1))


VECTORS: Final[dict[str, Callable[[], Firmware]]] = {
    "stack pointer behind the RAM": lambda: fixture("bad_vectors_stack.s19"),
    "stack pointer no multiple of 4": lambda: with_vectors(STACK_TOP + 2, RESET),
    "stack pointer 0": lambda: with_vectors(0, RESET),
    "stack pointer blank": lambda: with_vectors(0xFFFF_FFFF, RESET),
    "reset vector even": lambda: fixture("bad_vectors_reset.s19"),
    "reset vector in the bootloader": lambda: with_vectors(STACK_TOP, 0x411),
    "reset vector behind the image": lambda: with_vectors(STACK_TOP, BASE + 2 * IMAGE.memory.size | 1),
}
"""Sealed images that cannot be started: why."""
UNACCEPTABLE: Final = {
    "wrong seal": fixture("bad_seal.s19").records,
    "no seal": fixture("blink_1_unsealed.s19").records,
    "half of it": HALVES["first half"],
    "all but the last record": HALVES["all but the last record"],
}
"""What a device that checks seals does not accept."""


def offer(session: PlayedServer, records: Iterable[bytes]) -> bool:
    """Records and the end frame, as far as the device takes them; whether it comes to the end frame."""
    session.begin()
    if not session.serve_while_acked(records):
        return False
    session.peer.send(end("16"), "sending the end frame")
    return True


@pytest.mark.fota_requirement("FOTA-DEV-seal-checked")
def test_wrong_seal_is_not_accepted(device: DeviceBench) -> None:
    """A sealed image whose CRC is wrong is not accepted: the end frame is not acked, and the device closes."""
    with device.session() as session:
        if offer(session, fixture("bad_seal.s19").records):
            session.expect_close(device.target.timeouts.close, "after the end frame of an image whose seal is wrong")


@pytest.mark.fota_requirement("FOTA-DEV-seal-half")
@pytest.mark.parametrize("half", HALVES)
def test_half_image_is_not_accepted(device: DeviceBench, half: str) -> None:
    """An end frame behind half of a sealed image is not acked."""
    with device.session() as session:
        if offer(session, HALVES[half]):
            session.expect_no_ack(device.refusal_s, f"after the end frame behind the {half} of a sealed image")


@pytest.mark.fota_requirement("FOTA-DEV-seal-half")
def test_old_image_does_not_complete_a_half(device: DeviceBench) -> None:
    """An end frame behind half of a sealed image is not acked, though an earlier update left the other half."""
    sector = device.target.memory.sector
    start, code = IMAGE.memory.segments[0]
    split = -(-(start + len(code)) // sector) * sector
    firmware = extended(IMAGE, (split, noise(1, 64)))
    device.update(firmware)

    with device.session() as session:
        second_half = [one for one in firmware.records if int(one[4:8], 16) >= split]
        if offer(session, second_half):
            situation = "after the end frame behind the second half of an image that was in flash, whole, before"
            session.expect_no_ack(device.refusal_s, situation)


@pytest.mark.fota_requirement("FOTA-DEV-vectors-checked")
@pytest.mark.parametrize("why", VECTORS)
def test_image_with_bad_vectors_is_not_accepted(device: DeviceBench, why: str) -> None:
    """An image whose stack pointer or reset vector is not sane is not accepted, though its seal is right."""
    firmware = VECTORS[why]()
    with device.session() as session:
        if offer(session, firmware.records):
            session.expect_no_ack(device.refusal_s, f"after the end frame of {firmware.name} ({why})")


@pytest.mark.fota_requirement("FOTA-DEV-bad-not-booted")
@pytest.mark.parametrize("why", UNACCEPTABLE)
def test_unaccepted_image_is_not_booted(device: DeviceBench, why: str) -> None:
    """A device boots no image that it did not accept."""
    earlier = fixture("blink_2.s19")
    device.update(earlier)
    situation = f"after an image that it need not accept ({why})"
    with device.session() as session:
        if offer(session, UNACCEPTABLE[why]) and session.acks(situation):
            return

    device.expect_not_booted(situation, earlier)


@pytest.mark.fota_requirement("FOTA-DEV-nothing-sent")
def test_nothing_is_no_update(device: DeviceBench) -> None:
    """An end frame without any record is no update: the device does not say that it is updated by nothing."""
    with device.session() as session:
        session.begin()
        with step("an end frame, and no record before it"):
            session.peer.send(end("16"), "sending the end frame")
            session.peer.drain(device.settle_s)

    device.expect_not_updated("after an end frame without any record")
