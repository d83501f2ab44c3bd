"""Firmware files of every format."""

import struct
from collections.abc import Callable
from contextlib import nullcontext

import bincopy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fota_fixtures import Fixture, Stage, Verdict, fixture, manifest, read
from fota_protocol.errors import ImageError, ImageFault
from fota_protocol.formats import (
    MAX_FILE_SIZE,
    FileFormat,
    cut,
    detect_format,
    dump_srec,
    load,
    load_elf,
    load_ihex,
    load_srec,
)
from fota_protocol.image import MAX_SPAN, FirmwareImage
from fota_protocol.parts import DEFAULT_PART, part
from fota_protocol.srecord import SRecord

PART = part(DEFAULT_PART)
FILES = [entry for entry in manifest() if entry.folder in ("firmware", "odd", "broken")]
READABLE = [entry for entry in FILES if entry.image is not None]
SERVED = [entry for entry in FILES if entry.expect is not Verdict.REFUSED]
UNREADABLE = [entry for entry in FILES if entry.expect is Verdict.REFUSED and entry.findings[0].stage is Stage.READING]
OUT_OF_PART = [entry for entry in FILES if any(finding.stage is Stage.PART for finding in entry.findings)]
SRECORD_FILES = [entry for entry in READABLE if entry.name.endswith(".s19")]

FAULTS = {
    "checksum": {ImageFault.BAD_RECORD, ImageFault.UNREADABLE},
    "syntax": {ImageFault.BAD_RECORD},
    "length": {ImageFault.BAD_RECORD, ImageFault.INCOMPLETE},
    "termination": {ImageFault.INCOMPLETE, ImageFault.BAD_RECORD},
    "overlap": {ImageFault.OVERLAP},
    "count": {ImageFault.INCOMPLETE},
    "empty": {ImageFault.INCOMPLETE},
}
"""What the manifest's reasons are called here."""

Loader = Callable[[bytes], FirmwareImage]


def name_of(entry: Fixture) -> str:
    return entry.name


def srec(*records: SRecord) -> bytes:
    """A file of these records."""
    return b"".join(record.encode() + b"\n" for record in records)


@pytest.mark.parametrize("entry", READABLE, ids=name_of)
def test_a_readable_fixture_is_what_the_manifest_says(entry: Fixture) -> None:
    """CRC, range and number of records, in every format."""
    image = load(read(entry.name))

    assert entry.image is not None
    assert (entry.image.crc32, entry.image.first, entry.image.end) == (image.crc32, image.first, image.end)
    assert entry.image.records in (None, len(image.records))


@pytest.mark.parametrize("entry", SERVED, ids=name_of)
def test_a_fixture_is_accepted_or_warned_about_as_the_manifest_says(entry: Fixture) -> None:
    """Warnings come where the manifest has some, and only there."""
    image = load(read(entry.name))
    image.check_fits(PART)

    assert (entry.expect is Verdict.WARNED) == bool(image.warnings)


@pytest.mark.parametrize("entry", UNREADABLE, ids=name_of)
def test_a_broken_fixture_is_refused_with_its_line(entry: Fixture) -> None:
    """The first reason and the line that the manifest names."""
    file_format = FileFormat.SREC if entry.name.endswith(".s19") else None
    with pytest.raises(ImageError) as caught:
        load(read(entry.name), file_format=file_format)

    assert entry.findings[0].line == caught.value.line
    assert caught.value.fault in FAULTS[entry.findings[0].reason]


@pytest.mark.parametrize("entry", UNREADABLE, ids=name_of)
def test_a_broken_fixture_is_refused_whatever_format_it_seems_to_have(entry: Fixture) -> None:
    """Detection opens no way around the readers: without an address nothing becomes raw binary."""
    with pytest.raises(ImageError):
        load(read(entry.name))


@pytest.mark.parametrize("entry", OUT_OF_PART, ids=name_of)
def test_a_fixture_for_another_part_is_refused_with_its_line(entry: Fixture) -> None:
    """It can be read, but not served to an MK60DN512."""
    image = load(read(entry.name))
    with pytest.raises(ImageError) as caught:
        image.check_fits(PART)

    assert ImageFault.OUT_OF_RANGE is caught.value.fault
    assert entry.findings[0].line == caught.value.line


@pytest.mark.parametrize("entry", SRECORD_FILES, ids=name_of)
def test_bincopy_reads_the_same_bytes(entry: Fixture) -> None:
    """Another reader of S-records finds the same bytes at the same addresses."""
    theirs = bincopy.BinFile()
    theirs.add_srec(read(entry.name).decode(), overwrite=True)
    ours = load(read(entry.name))

    assert [(s.address, bytes(s.data)) for s in theirs.segments] == [(s.start, s.data) for s in ours.segments]


@pytest.mark.parametrize("entry", SRECORD_FILES, ids=name_of)
def test_records_keep_the_order_and_the_lines_of_their_file(entry: Fixture) -> None:
    """What is sent is what the file has, line by line, in upper case."""
    lines = read(entry.name).splitlines()
    image = load(read(entry.name))

    assert [lines[number - 1].strip().upper() for number in image.lines] == list(image.frames)
    assert [line.strip().upper() for line in lines if line[1:2] in (b"1", b"2", b"3")] == list(image.frames)


@pytest.mark.parametrize("name", ["blink_1", "blink_2"])
def test_one_program_is_the_same_in_every_format(name: str) -> None:
    """ELF, Intel HEX, S-records and raw bytes of one build have one CRC."""
    image = load(read(f"{name}.s19"))
    binary = image.read(image.first, image.end)

    assert image.crc32 == load(read(f"{name}.hex")).crc32
    assert image.crc32 == load(read(f"{name}.elf")).crc32
    assert image.crc32 == load(binary, address=0x4000).crc32


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (b"\x7fELF", FileFormat.ELF),
        (b"S0", FileFormat.SREC),
        (b"\r\n  S1", FileFormat.SREC),
        (b":10", FileFormat.IHEX),
        (b"\n:", FileFormat.IHEX),
        (b"", FileFormat.BINARY),
        (b"S", FileFormat.BINARY),
        (b"Sx", FileFormat.BINARY),
        (b"\x00\x00\x01\x20", FileFormat.BINARY),
    ],
)
def test_a_format_shows_in_its_first_bytes(start: bytes, expected: FileFormat) -> None:
    """Names of files are not asked."""
    assert expected is detect_format(start)


def test_frames_are_what_the_records_encode_to() -> None:
    """Whatever the case, order and spacing of the file, each frame is its record's one encoding."""
    records = [SRecord(kind, 0x4000 + 256 * kind, bytes(range(kind * 40))) for kind in (2, 1, 3)]
    text = b"\r\n".join(b"  " + record.encode().lower().replace(b"s", b"S") + b"\t" for record in records)

    assert tuple(record.encode() for record in records) == load(text + b"\nS70500000000FA").frames


def test_a_raw_binary_needs_an_address() -> None:
    """Where it goes is nowhere in it."""
    with pytest.raises(ImageError, match="needs an address"):
        load(b"\0\1")


@pytest.mark.parametrize("address", [-1, 0xFFFF_FFFF, 1 << 40])
def test_a_raw_binary_outside_the_address_space_is_refused(address: int) -> None:
    """There are 32 bits of addresses."""
    with pytest.raises(ImageError) as caught:
        load(b"\0\1", address=address)

    assert ImageFault.OUT_OF_RANGE is caught.value.fault


@pytest.mark.parametrize("size", [MAX_SPAN + 1, MAX_FILE_SIZE + 1])
def test_a_file_beyond_the_limits_is_refused(size: int) -> None:
    """Before it is cut into a million records."""
    with pytest.raises(ImageError):
        load(bytes(size), address=0)


def test_a_file_without_a_termination_is_accepted_on_demand_only() -> None:
    """The override warns."""
    image = load(read("no_termination.s19"), allow_unterminated=True)

    assert image.warnings == ("no termination record",)


def test_header_and_start_address_are_kept() -> None:
    """What S0 and the termination say; blank lines mean nothing."""
    image = load_srec(srec(SRecord(0, 0, b"hello")) + b"\r\n \n" + srec(SRecord(1, 8, b"x"), SRecord(9, 0x4401)))

    assert (image.header, image.start_address, image.lines) == (b"hello", 0x4401, (4,))


@pytest.mark.parametrize(("count", "good"), [(1, True), (0, False), (2, False)])
@pytest.mark.parametrize("kind", [5, 6])
def test_a_count_record_counts_what_precedes_it(kind: int, count: int, good: bool) -> None:
    """S5 and S6 alike."""
    text = srec(SRecord(1, 8, b"x"), SRecord(kind, count), SRecord(9, 0))
    with nullcontext() if good else pytest.raises(ImageError, match=r"^line 2: S. counts"):
        load_srec(text)


@pytest.mark.parametrize("behind", [SRecord(1, 9, b"x"), SRecord(0, 0), SRecord(5, 1), SRecord(9, 0)])
def test_nothing_follows_the_termination(behind: SRecord) -> None:
    """Two files in one, or one that was put together wrongly."""
    with pytest.raises(ImageError, match=r"line 3: an S. behind the termination record"):
        load_srec(srec(SRecord(1, 8, b"x"), SRecord(9, 0), behind))


def test_a_bad_record_of_intel_hex_is_refused_with_its_line() -> None:
    """The library knows it; the message has it in the same place as for S-records."""
    with pytest.raises(ImageError, match=r"^line 18: ") as caught:
        load_ihex(read("bad_checksum.hex"))

    assert caught.value.line == 18


def test_intel_hex_without_its_end_is_refused() -> None:
    """A file cut between two lines would load."""
    whole = read("blink_1.hex").splitlines(keepends=True)
    with pytest.raises(ImageError, match="no end-of-file record"):
        load_ihex(b"".join(whole[:-1]))


@pytest.mark.parametrize("behind", [b":0100000001FE\n", b"junk\n", b":00000001FF\n"])
def test_intel_hex_with_something_behind_its_end_is_refused(behind: bytes) -> None:
    """The library stops at the end; what follows would be missing from the image."""
    whole = read("blink_1.hex")
    with pytest.raises(ImageError, match="behind the end-of-file record") as caught:
        load_ihex(whole + behind)

    assert len(whole.splitlines()) + 1 == caught.value.line


def test_every_cut_of_an_elf_file_is_refused() -> None:
    """No part of an ELF file is served as if it were the whole."""
    whole = read("blink_1.elf")
    for size in range(0, len(whole), 7):
        with pytest.raises(ImageError):
            load_elf(whole[:size])


ELF_HEADER_PATCHES = {
    "64 bits": (4, b"\x02"),
    "big-endian": (5, b"\x02"),
    "x86": (18, struct.pack("<H", 3)),
    "segment size 0": (42, struct.pack("<H", 0)),
    "no segments": (44, struct.pack("<H", 0)),
    "too many segments": (44, struct.pack("<H", 0xFFFF)),
    "section size 0": (46, struct.pack("<H", 0)),
    "no sections": (48, struct.pack("<H", 0)),
    "too many sections": (48, struct.pack("<H", 0xFFFF)),
    "segments behind the file": (28, struct.pack("<I", 0xFFFF_FFF0)),
    "sections behind the file": (32, struct.pack("<I", 0xFFFF_FFF0)),
}


@pytest.mark.parametrize(("offset", "patch"), ELF_HEADER_PATCHES.values(), ids=ELF_HEADER_PATCHES)
def test_an_elf_header_that_cannot_be_ours_is_refused(offset: int, patch: bytes) -> None:
    """Another machine, or tables that are not all there."""
    data = bytearray(read("blink_1.elf"))
    data[offset : offset + len(patch)] = patch
    with pytest.raises(ImageError, match="ELF"):
        load_elf(bytes(data))


def test_an_elf_section_that_ends_behind_the_file_is_refused() -> None:
    """It used to load with whatever bytes the file still had."""
    data = bytearray(read("blink_1.elf"))
    (sections_at,) = struct.unpack_from("<I", data, 32)
    struct.pack_into("<I", data, sections_at + 40 + 20, 100_000)
    with pytest.raises(ImageError, match="section 1 ends at byte 100084 of the 2620"):
        load_elf(bytes(data))


def test_an_elf_segment_that_ends_behind_the_file_is_refused() -> None:
    """Its sections alone may all be there."""
    data = bytearray(read("blink_1.elf"))
    struct.pack_into("<I", data, 52 + 16, 100_000)
    with pytest.raises(ImageError, match="segment 0 ends at byte 100084 of the 2620"):
        load_elf(bytes(data))


def test_elf_sections_that_overlap_are_refused() -> None:
    """Which of the two would be right, nobody knows."""
    data = bytearray(read("blink_1.elf"))
    (sections_at,) = struct.unpack_from("<I", data, 32)
    struct.pack_into("<I", data, sections_at + 40 + 20, 1100)
    with pytest.raises(ImageError, match="ELF"):
        load_elf(bytes(data))


@given(st.dictionaries(st.integers(0, 3000), st.binary(min_size=1, max_size=80), min_size=1, max_size=6))
def test_dumped_s_records_load_as_the_same_image(pieces: dict[int, bytes]) -> None:
    """Writing and reading are inverse for any memory."""
    memory: dict[int, int] = {}
    for start, data in pieces.items():
        memory.update(dict(enumerate(data, start=start)))
    segments = runs_of(memory)
    image = load(dump_srec(segments, header=b"test", start_address=0x12))

    assert segments == [(segment.start, segment.data) for segment in image.segments]
    assert (image.header, image.start_address, image.warnings) == (b"test", 0x12, ())


def runs_of(memory: dict[int, int]) -> list[tuple[int, bytes]]:
    """Consecutive bytes, together."""
    runs: list[tuple[int, bytearray]] = []
    for address in sorted(memory):
        if not runs or runs[-1][0] + len(runs[-1][1]) != address:
            runs.append((address, bytearray()))
        runs[-1][1].append(memory[address])
    return [(start, bytes(data)) for start, data in runs]


@pytest.mark.parametrize(
    ("end", "kind"), [(0x1_0000, 1), (0x1_0001, 2), (0x100_0000, 2), (0x100_0001, 3), (1 << 32, 3)]
)
def test_records_are_of_the_smallest_type_that_reaches(end: int, kind: int) -> None:
    """Up to and including the last address of each type."""
    records = cut([(end - 20, bytes(20))])

    assert [(kind, end - 20, 16), (kind, end - 4, 4)] == [(r.type, r.address, len(r.data)) for r in records]


LOADERS: dict[str, Loader] = {"srec": load_srec, "ihex": load_ihex, "elf": load_elf, "any": load}
SOURCES = {
    "srec": ["empty_s0.s19", "long_records.s19", "counted.s19", "overlapping_identical.s19"],
    "ihex": ["blink_1.hex"],
    "elf": ["blink_1.elf", "blink_2.elf"],
    "any": ["crlf.s19", "s3_records.s19", "blink_2.hex", "blink_2.elf"],
}


@st.composite
def mutations(draw: st.DrawFn, names: list[str]) -> bytes:
    """A real file with a few bytes changed, removed, repeated or put in."""
    data = bytearray(read(draw(st.sampled_from(names))))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(data)))
        size = draw(st.integers(0, 40))
        match draw(st.sampled_from(["put", "remove", "repeat", "cut"])):
            case "put":
                new = draw(st.binary(min_size=1, max_size=4))
                data[place : place + len(new)] = new
            case "remove":
                del data[place : place + size]
            case "repeat":
                data[place:place] = data[place : place + size]
            case "cut":
                del data[max(place, 1) :]
    return bytes(data)


@pytest.mark.parametrize("name", LOADERS)
@given(data=st.data())
def test_a_mutated_file_is_loaded_or_refused(name: str, data: st.DataObject) -> None:
    """Whatever happened to a real file, a reader makes a sound image of it or raises `ImageError`."""
    try:
        image = LOADERS[name](data.draw(mutations(SOURCES[name])))
    except ImageError:
        return

    assert image.size == len(image.read(image.first, image.end))
    assert len(image.records) == len(image.frames)


@given(data=st.data())
def test_a_mutated_elf_header_is_loaded_or_refused(data: st.DataObject) -> None:
    """The fields that decide how long a reader walks, each with any value."""
    content = bytearray(read("blink_1.elf"))
    (sections_at,) = struct.unpack_from("<I", content, 32)
    fields = [*range(16, 52, 2), *range(52, 84, 4), *range(sections_at, sections_at + 160, 4)]
    for offset in data.draw(st.lists(st.sampled_from(fields), min_size=1, max_size=3)):
        struct.pack_into("<H", content, offset, data.draw(st.integers(0, 0xFFFF)))
    try:
        image = load_elf(bytes(content))
    except ImageError:
        return

    assert image.size <= MAX_SPAN


@pytest.mark.parametrize("loader", [load, load_srec, load_ihex, load_elf])
@given(data=st.binary(max_size=200), start=st.sampled_from([b"", b"S1", b"S0030000FC\n", b":", b"\x7fELF\x01\x01\x01"]))
def test_any_bytes_are_loaded_or_refused(loader: Loader, data: bytes, start: bytes) -> None:
    """Nothing but `ImageError` comes out of a reader."""
    try:
        image = loader(start + data)
    except ImageError:
        return

    assert image.records


def test_the_manifest_has_files_of_every_kind() -> None:
    """Or the tests above would test nothing."""
    assert fixture("cut.elf") in UNREADABLE
    assert min(map(len, (SERVED, UNREADABLE, OUT_OF_PART, SRECORD_FILES))) >= 2
