"""Records into flash, and acks for what is there.

The images are programs that run: a board that boots what it was updated with comes to no harm.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeAlias

import pytest

from fota_conformance.device_bench import BLANK, DeviceBench, shown_differences
from fota_conformance.errors import Nonconformance
from fota_conformance.images import extended, firmware_of, fixture, noise, record, records_of
from fota_conformance.reading import Firmware, Memory
from fota_conformance.reporting import step
from fota_conformance.wire import ACK, end, show

A_FEW: Final = 3
"""Records that show that a transfer has begun."""
DRIP_PAUSE: Final = 0.0001
"""Seconds between two bytes that come one by one."""
LONG: Final = 248
"""Data bytes of the longest record (docs/protocol.md, record packing)."""
PIECE: Final = 32
"""Bytes that an image has in a sector of which nothing else is of interest."""

Order: TypeAlias = Callable[[Sequence[bytes]], Iterable[bytes]]


def blink() -> Memory:
    """The bytes of a small program."""
    return fixture("blink_1.s19").memory


def behind(memory: Memory, sector: int) -> int:
    """The first sector behind some bytes."""
    start, data = memory.segments[-1]
    return -(-(start + len(data)) // sector) * sector


def several_sectors(device: DeviceBench) -> Firmware:
    """A program with noise behind it, which ends in its third sector."""
    size = device.target.memory.sector
    start, code = blink().segments[0]
    free = start + len(code)
    return extended(fixture("blink_1.s19"), (free, noise(1, behind(blink(), size) + size + PIECE - free)))


@pytest.mark.fota_requirement("FOTA-DEV-ack-once")
def test_record_is_acked_once(device: DeviceBench) -> None:
    """Every record is acked exactly once: no second ack follows while the next record is awaited."""
    with device.session() as session:
        session.begin()
        for index, one in enumerate(fixture("blink_1.s19").records[:A_FEW], start=1):
            session.serve([one])
            situation = f"after record {index} of {A_FEW} and its ack"
            session.expect_no_more_acks(device.settle_s, situation)


@pytest.mark.fota_requirement("FOTA-DEV-ack-once")
def test_record_at_the_end_of_flash_is_acked(device: DeviceBench) -> None:
    """A record whose last byte is the application flash's last one is acked, too."""
    with device.session() as session:
        session.begin()
        session.serve([record(device.target.memory.end - PIECE, noise(2, PIECE))])


@pytest.mark.fota_requirement("FOTA-DEV-ack-not-early")
@pytest.mark.parametrize("position", [0, A_FEW], ids=["first record", "later record"])
def test_record_is_not_acked_early(device: DeviceBench, position: int) -> None:
    """A record is not acked before its last character came."""
    records = fixture("blink_1.s19").records
    with device.session() as session:
        session.begin()
        session.serve(records[:position])
        with step("a record without its last character"):
            session.peer.send(records[position][:-1], "sending a record without its last character")
        session.expect_no_ack(device.settle_s, f"while the last character of {show(records[position])} is missing")


@pytest.mark.fota_requirement("FOTA-DEV-flash")
@pytest.mark.parametrize(
    "image",
    [lambda _: fixture("blink_1.s19"), several_sectors],
    ids=["one sector", "several sectors"],
)
def test_image_is_in_flash(device: DeviceBench, image: Callable[[DeviceBench], Firmware]) -> None:
    """After an update every byte of the image is in flash at its address."""
    firmware = image(device)
    device.update(firmware)

    device.expect_flash_holds(firmware, "after the update")


@pytest.mark.fota_requirement("FOTA-DEV-flash-rest")
def test_rest_of_touched_sectors_is_blank(device: DeviceBench) -> None:
    """In every sector that the image touches, what the image leaves out reads FF, whatever was there before."""
    next_sector = behind(blink(), device.target.memory.sector)
    firmware = extended(fixture("blink_2.s19"), (next_sector + PIECE, noise(9, PIECE)))
    device.update(several_sectors(device))
    device.update(firmware)

    device.expect_rest_blank(firmware, "after an update over a longer image")


@pytest.mark.fota_requirement("FOTA-DEV-split")
def test_update_byte_by_byte(device: DeviceBench) -> None:
    """An update of which every byte comes for itself is as good as any."""
    records = records_of(blink(), PIECE, kind=1)
    with device.session() as session:
        session.begin()
        with step(f"{len(records)} records and the end frame, byte by byte"):
            for index, frame in enumerate((*records, end("16")), start=1):
                situation = f"sending frame {index} of {len(records) + 1}, {show(frame)}, byte by byte"
                session.peer.send_pieces((frame[at : at + 1] for at in range(len(frame))), DRIP_PAUSE, situation)
                session.expect_ack(situation)


@pytest.mark.fota_requirement("FOTA-DEV-split")
@pytest.mark.parametrize("at", [1, 2, 4, 8, 41], ids=lambda at: f"cut behind character {at}")
def test_record_in_two_segments(device: DeviceBench, at: int) -> None:
    """A record that comes in two segments, wherever it is cut, is acked."""
    with device.session() as session:
        session.begin()
        for one in fixture("blink_1.s19").records[:A_FEW]:
            session.peer.send_cut(one, [at], f"sending {show(one)} in two segments")
            session.expect_ack(f"after {show(one)}, cut behind character {at}")


@pytest.mark.fota_requirement("FOTA-DEV-types")
@pytest.mark.parametrize(
    ("kinds", "size"),
    [
        ((1,), 16),
        ((2,), 16),
        ((3,), 16),
        ((3, 1, 2), 16),
        ((1,), LONG),
        ((2,), LONG),
        ((3,), LONG),
    ],
    ids=["S1", "S2", "S3", "mixed", "S1 of 248 bytes", "S2 of 248 bytes", "S3 of 248 bytes"],
)
def test_record_types(device: DeviceBench, kinds: tuple[int, ...], size: int) -> None:
    """S1, S2 and S3 records are taken, also mixed, and of up to 248 data bytes."""
    every = [records_of(blink(), size, kind) for kind in kinds]
    firmware = firmware_of(
        "blink_1, cut anew", [one[at % len(kinds)] for at, one in enumerate(zip(*every, strict=True))]
    )
    device.update(firmware)

    device.expect_flash_holds(firmware, "after the update")


def as_they_are(records: Sequence[bytes]) -> Iterable[bytes]:
    """Ascending."""
    return records


def backwards(records: Sequence[bytes]) -> Iterable[bytes]:
    """Descending."""
    return reversed(records)


def pairs_swapped(records: Sequence[bytes]) -> Iterable[bytes]:
    """The second before the first, the fourth before the third."""
    return (one for at in range(0, len(records), 2) for one in reversed(records[at : at + 2]))


@pytest.mark.fota_requirement("FOTA-DEV-split-units")
@pytest.mark.parametrize("order", [as_they_are, pairs_swapped], ids=["ascending", "second half first"])
@pytest.mark.parametrize("size", [4, 7, 12], ids=lambda size: f"{size} bytes a record")
def test_units_split_between_records(device: DeviceBench, size: int, order: Order) -> None:
    """Program units that two or more records complete are whole in flash."""
    firmware = firmware_of(f"blink_1, {size} bytes a record", order(records_of(blink(), size, kind=1)))
    device.update(firmware)

    device.expect_flash_holds(firmware, "after the update")


@pytest.mark.fota_requirement("FOTA-DEV-split-units")
def test_units_completed_late(device: DeviceBench) -> None:
    """Program units whose other half comes much later are whole in flash, or the late half is not acked."""
    records = records_of(blink(), 7, kind=1)
    firmware = firmware_of("blink_1, every other 7 bytes first", [*records[::2], *records[1::2]])
    with device.session() as session:
        session.begin()
        if not session.serve_while_acked(firmware.records):
            return
        session.end("16")

    device.expect_flash_holds(firmware, "after an update whose every record was acked")


@pytest.mark.fota_requirement("FOTA-DEV-descending")
@pytest.mark.parametrize("size", [16, 7], ids=["16 bytes a record", "7 bytes a record"])
def test_descending_records(device: DeviceBench, size: int) -> None:
    """Records in descending order, also such as share a program unit, are all in flash."""
    firmware = firmware_of(f"blink_1, descending, {size} bytes a record", backwards(records_of(blink(), size, kind=1)))
    device.update(firmware)

    device.expect_flash_holds(firmware, "after the update")


@pytest.mark.fota_requirement("FOTA-DEV-descending")
def test_descending_sectors(device: DeviceBench) -> None:
    """An image of several sectors, the highest first, is in flash."""
    image = several_sectors(device)
    firmware = firmware_of(f"{image.name}, descending", backwards(image.records))
    device.update(firmware)

    device.expect_flash_holds(firmware, "after the update")


@pytest.mark.fota_requirement("FOTA-DEV-overlap")
@pytest.mark.parametrize("first", ["same bytes", "other bytes", "other bytes, one record over two"])
def test_overlapping_records(device: DeviceBench, first: str) -> None:
    """Where records overlap, what was acked last is in flash; or the device does not ack them."""
    sector = device.target.memory.sector
    twice, after = behind(blink(), sector), behind(blink(), sector) + sector
    right = noise(3, 2 * PIECE)
    wrong = right if first == "same bytes" else noise(4, 2 * PIECE)
    # The bytes in question are followed by another sector's, so that no buffer of one sector holds them any longer.
    firmware = extended(fixture("blink_1.s19"), (twice, right), (after, noise(5, PIECE)))
    overlapping = records_of(Memory(((twice, wrong),)), 2 * PIECE if "two" in first else PIECE, kind=1)
    with device.session() as session:
        session.begin()
        if not session.serve_while_acked([*overlapping, *firmware.records]):
            return
        session.peer.send(end("16"), "sending the end frame")
        updated = session.acks("after the end frame")

    if updated:
        device.expect_flash_holds(firmware, f"after an update with overlapping records ({first}), all acked")
        return
    with step("what was acked last is in flash, or nothing is"):
        there = device.flash().slice(twice, len(right))
        stale: list[tuple[int, int, int | None]] = [
            (twice + at, byte, found)
            for at, (byte, found) in enumerate(zip(right, there, strict=True))
            if found not in (byte, None, BLANK)
        ]
        if stale:
            raise Nonconformance(
                f"reading the flash dump after overlapping records ({first}), all acked, and an end frame, not acked",
                sent=f"records for [{twice:#010x}, {twice + len(right):#010x}), and then others for the same bytes",
                came=f"{len(stale)} bytes that are not what was acked last: {shown_differences(stale)}",
                accepted=f"no {show(ACK)} for the later ones; or what they carry in flash; or the sector blank",
            )


@pytest.mark.fota_requirement("FOTA-DEV-holes")
def test_holes_leave_other_sectors_alone(device: DeviceBench) -> None:
    """An image with holes leaves other sectors alone, those in its hole and those behind it; its bytes are in flash."""
    size = device.target.memory.sector
    hole = behind(blink(), size)
    # The first image leaves FF in what is to be the hole: a seal over the second one says so.
    blank, other = (hole, b"\xff" * PIECE), (hole + 2 * size, noise(7, PIECE))
    first = extended(fixture("blink_1.s19"), blank, (hole + size, noise(6, PIECE)), other)
    second = extended(fixture("blink_2.s19"), (hole + size, noise(8, PIECE)))
    device.update(first)
    before = device.flash()
    device.update(second)

    situation = "after an update that leaves these sectors out"
    device.expect_unchanged(before, hole, hole + size, situation)
    device.expect_unchanged(before, hole + 2 * size, device.target.memory.end, situation)
    device.expect_flash_holds(second, "after the update")


@pytest.mark.fota_requirement("FOTA-DEV-replaces")
def test_second_update_replaces_the_first(device: DeviceBench) -> None:
    """A second update replaces the first image, whole."""
    device.update(fixture("blink_1.s19"))
    device.update(fixture("blink_2.s19"))

    device.expect_flash_holds(fixture("blink_2.s19"), "after a second update", fixture("blink_1.s19"))


@pytest.mark.fota_requirement("FOTA-DEV-outcome")
def test_updated_device_says_so(device: DeviceBench) -> None:
    """A device that was updated tells the outcome updated, and names the image by its CRC if it names it."""
    firmware = fixture("blink_1.s19")
    device.update(firmware)

    device.expect_outcome("updated", "after the update")
    device.expect_image_named(firmware, "after the update")
