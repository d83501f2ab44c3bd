"""Firmware images: what is checked, what they hold, sealing and packing."""

import itertools
import zlib
from contextlib import nullcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fota_fixtures import read
from fota_protocol.errors import ImageError, ImageFault
from fota_protocol.formats import cut, load
from fota_protocol.image import MAX_SPAN, PACKED_SIZE, FirmwareImage
from fota_protocol.integrity import SEAL_OFFSET, SEAL_SIZE, check_seal, read_seal
from fota_protocol.parts import DEFAULT_PART, PARTS, part
from fota_protocol.srecord import SRecord

PART = part(DEFAULT_PART)
BASE = PART.application_start
AREA = range(BASE + SEAL_OFFSET, BASE + SEAL_OFFSET + SEAL_SIZE)
SECTOR_SIZES = sorted({known.sector_size for known in PARTS.values()})


@st.composite
def memories(draw: st.DrawFn) -> dict[int, int]:
    """A few runs of bytes, anywhere in 16 KiB."""
    runs = st.tuples(st.integers(BASE, BASE + 0x4000), st.binary(min_size=1, max_size=700))
    memory: dict[int, int] = {}
    for start, data in draw(st.lists(runs, min_size=1, max_size=6)):
        memory.update(enumerate(data, start=start))
    return memory


@st.composite
def record_lists(draw: st.DrawFn) -> list[SRecord]:
    """Records of random lengths in random order that hold some memory, with a few identical overlaps."""
    memory = draw(memories())
    records = []
    addresses = sorted(memory)
    while addresses:
        size = draw(st.integers(1, 250))
        start = addresses[0]
        data = bytearray()
        while addresses and addresses[0] == start + len(data) and len(data) < size:
            data.append(memory[addresses.pop(0)])
        records.append(SRecord(draw(st.sampled_from([1, 2, 3])), start, bytes(data)))
    repeated = draw(st.lists(st.sampled_from(records), max_size=2))
    return list(draw(st.permutations(records + repeated)))


def bytes_of(image: FirmwareImage) -> dict[int, int]:
    """What lies where."""
    return {a: b for segment in image.segments for a, b in enumerate(segment.data, start=segment.start)}


@given(record_lists())
def test_an_image_holds_the_bytes_of_its_records(records: list[SRecord]) -> None:
    """Whatever their order and overlaps; holes read as FF."""
    expected = {a: b for record in records for a, b in enumerate(record.data, start=record.address)}
    image = FirmwareImage.from_records(records)

    assert expected == bytes_of(image)
    assert (min(expected), max(expected) + 1) == (image.first, image.end)
    dense = bytes(expected.get(address, 0xFF) for address in range(image.first, image.end))
    assert dense == image.read(image.first, image.end)
    assert zlib.crc32(dense) == image.crc32
    assert image.size == len(dense)


@given(record_lists())
def test_segments_ascend_and_do_not_touch(records: list[SRecord]) -> None:
    """There is a hole between any two."""
    segments = FirmwareImage.from_records(records).segments

    assert all(low.end < high.start for low, high in itertools.pairwise(segments))


@given(record_lists())
def test_frames_are_the_records_in_their_order(records: list[SRecord]) -> None:
    """An image changes neither order nor length of what the file had."""
    assert tuple(record.encode() for record in records) == FirmwareImage.from_records(records).frames


@given(record_lists(), st.data())
def test_overlaps_that_differ_are_refused(records: list[SRecord], data: st.DataObject) -> None:
    """One wrong byte in a repeated record is enough."""
    victim = data.draw(st.sampled_from(records))
    place = data.draw(st.integers(0, len(victim.data) - 1))
    other = SRecord(3, victim.address + place, bytes([victim.data[place] ^ 0x10]))
    with pytest.raises(ImageError, match="overlaps another") as caught:
        FirmwareImage.from_records([*records, other])

    assert ImageFault.OVERLAP is caught.value.fault


def test_identical_overlaps_are_warned_about() -> None:
    """They are served as they are."""
    image = FirmwareImage.from_records([SRecord(1, 0, b"ab"), SRecord(1, 1, b"bc")])

    assert image.warnings == ("1 records overlap others with the same bytes",)
    assert len(image.frames) == 2


@pytest.mark.parametrize("records", [[], [SRecord(1, 0)]])
def test_an_image_without_a_byte_is_refused(records: list[SRecord]) -> None:
    """An update of nothing would erase nothing and change nothing."""
    with pytest.raises(ImageError) as caught:
        FirmwareImage.from_records(records)

    assert ImageFault.INCOMPLETE is caught.value.fault


def test_what_is_no_data_record_makes_no_image() -> None:
    """A caller's mistake."""
    with pytest.raises(ValueError, match="S9 is not a data record"):
        FirmwareImage.from_records([SRecord(1, 0, b"x"), SRecord(9, 0)])


def test_an_image_wider_than_the_limit_is_refused() -> None:
    """Two bytes far apart would take gigabytes."""
    records = [SRecord(3, 0, b"x"), SRecord(3, MAX_SPAN - 1, b"x")]

    assert FirmwareImage.from_records(records).size == MAX_SPAN
    with pytest.raises(ImageError) as caught:
        FirmwareImage.from_records([*records, SRecord(3, MAX_SPAN, b"x")])
    assert ImageFault.OUT_OF_RANGE is caught.value.fault


@pytest.mark.parametrize(
    ("start", "fits"),
    [
        (BASE, True),
        (BASE - 1, False),
        (0, False),
        (PART.flash_end - 2, True),
        (PART.flash_end - 1, False),
        (PART.flash_end, False),
        (PART.ram_start, False),
    ],
)
def test_an_image_fits_up_to_the_last_byte_of_flash(start: int, fits: bool) -> None:
    """Application flash is [application start, flash end)."""
    image = FirmwareImage.from_records([SRecord(3, start, b"ab")], lines=[7])
    with nullcontext() if fits else pytest.raises(ImageError, match=r"^line 7: record 1: "):
        image.check_fits(PART)


def plain(size: int = 0x800, fill: bytes = b"\xa5") -> dict[int, int]:
    """A dense memory from the vector table on, its configuration area blank."""
    return {BASE + i: 0xFF if BASE + i in AREA else fill[i % len(fill)] for i in range(size)}


def image_of(memory: dict[int, int], record_size: int = 16, kind: int = 1) -> FirmwareImage:
    """Records of up to `record_size` bytes."""
    records: list[SRecord] = []
    for address in sorted(memory):
        last = records[-1] if records else None
        if last is not None and last.end == address and len(last.data) < record_size:
            records[-1] = SRecord(kind, last.address, last.data + bytes([memory[address]]))
        else:
            records.append(SRecord(kind, address, bytes([memory[address]])))
    return FirmwareImage.from_records(records)


def assert_sealed(image: FirmwareImage, unsealed: FirmwareImage) -> None:
    """The seal covers all, is right, and is all that changed."""
    seal = read_seal(image.read, BASE)
    assert seal is not None
    assert (image.first, image.end) == (seal.start, seal.end)
    assert check_seal(image.read, PART) is None
    rest = {address: byte for address, byte in bytes_of(image).items() if address not in AREA}
    assert {address: byte for address, byte in bytes_of(unsealed).items() if address not in AREA} == rest


@given(
    size=st.integers(SEAL_OFFSET + SEAL_SIZE, 0x900),
    record_size=st.integers(1, 200),
    hole=st.tuples(st.integers(0, 60), st.integers(0, 60)),
)
def test_sealing_works_over_records_holes_and_both(size: int, record_size: int, hole: tuple[int, int]) -> None:
    """The area may lie in records, in a hole, or half in each."""
    memory = plain(size)
    for address in range(AREA.start - 30 + hole[0], min(AREA.start - 30 + hole[0] + hole[1], BASE + size - 1)):
        del memory[address]
    unsealed = image_of(memory, record_size)
    image = unsealed.seal(BASE)

    assert_sealed(image, unsealed)
    assert image.frames == image.seal(BASE).frames


def test_sealing_keeps_place_and_length_of_records() -> None:
    """Only the one record with the area differs."""
    unsealed = load(read("blink_1_unsealed.s19"))
    image = unsealed.seal(BASE)
    changed = [old.address for old, new in zip(unsealed.records, image.records, strict=True) if old != new]

    assert [AREA.start] == changed
    assert load(read("blink_1.s19")).frames == image.frames


@pytest.mark.parametrize("name", ["blink_1.s19", "demo_16k.s19", "large_300k.s19", "descending.s19", "unaligned.s19"])
def test_sealing_a_sealed_image_changes_nothing(name: str) -> None:
    """Byte for byte and record for record."""
    image = load(read(name))

    assert image.frames == image.seal(BASE).frames
    assert image.crc32 == image.seal(BASE).crc32


def test_a_seal_in_a_hole_fits_in_whatever_the_first_record_is() -> None:
    """An image may begin with S1 and reach where only S3 does."""
    base = 0xFC80
    image = FirmwareImage.from_records([SRecord(1, base, bytes(8)), SRecord(3, base + 0x400, bytes(8))]).seal(base)

    assert read_seal(image.read, base) is not None


@pytest.mark.parametrize(
    "memory",
    [
        pytest.param(plain(SEAL_OFFSET + SEAL_SIZE - 1), id="ends in the area"),
        pytest.param(dict.fromkeys(range(BASE + 4, BASE + 2048), 0), id="starts behind the vectors"),
        pytest.param(dict.fromkeys(range(BASE - 16, BASE + 2048), 255), id="starts before the vectors"),
        pytest.param({BASE + i: 0 for i in range(0x800)}, id="area in use"),
        pytest.param(plain() | {AREA.stop - 1: 0}, id="last byte of the area in use"),
    ],
)
def test_what_cannot_be_sealed_is_refused(memory: dict[int, int]) -> None:
    """A seal neither overwrites code nor covers what no device accepts."""
    with pytest.raises(ImageError) as caught:
        image_of(memory).seal(BASE)

    assert ImageFault.NOT_SEALABLE is caught.value.fault


@given(record_lists(), st.sampled_from(SECTOR_SIZES))
def test_packing_keeps_the_bytes_and_the_rules(records: list[SRecord], sector_size: int) -> None:
    """Same bytes, S3 records in ascending order, up to 248 bytes, cut at phrases, never across a hole or a sector."""
    image = FirmwareImage.from_records(records)
    packed = image.pack(sector_size)
    ends = {segment.end for segment in image.segments}

    assert bytes_of(image) == bytes_of(packed)
    assert image.crc32 == packed.crc32
    assert {3} == {record.type for record in packed.records}
    assert all(0 < len(record.data) <= PACKED_SIZE for record in packed.records)
    assert all(record.end % 8 == 0 or record.end in ends for record in packed.records)
    assert all(record.address // sector_size == (record.end - 1) // sector_size for record in packed.records)
    assert sorted(record.address for record in packed.records) == [record.address for record in packed.records]


def test_packing_takes_a_fifteenth_of_the_records() -> None:
    """The gain for 16-byte records, in whole sectors."""
    image = FirmwareImage.from_records(cut([(BASE, bytes(64 * 1024))]))

    assert (len(image.records), len(image.pack(2048).records)) == (4096, 9 * 32)


def test_packing_keeps_what_the_file_said() -> None:
    """Header, start address and warnings are those of the original."""
    image = load(read("s9_after_s2.s19"))
    packed = image.pack(2048)

    assert (image.header, image.start_address, image.warnings) == (packed.header, packed.start_address, packed.warnings)
    assert packed.warnings
