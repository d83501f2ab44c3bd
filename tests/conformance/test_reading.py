"""Firmware and dumps as the kit reads them: records in the file's order, bytes by address."""

import zlib
from pathlib import Path

import pytest

import fota_fixtures
from fota_conformance.errors import ReadingError
from fota_conformance.reading import Memory, memory_of, read_dump, read_firmware


def test_records_keep_the_order_of_the_file(tmp_path: Path) -> None:
    """Data records come in file order and upper case, without S0, S9 and line endings."""
    path = tmp_path / "odd.s19"
    path.write_text("S0030000FC\r\nS10500101122B7\r\nS10500000a0bE5\r\nS9030000FC\r\n")

    firmware = read_firmware(path)

    assert firmware.records == (b"S10500101122B7", b"S10500000A0BE5")
    assert firmware.memory == Memory(((0x0, b"\x0a\x0b"), (0x10, b"\x11\x22")))


def test_crc_counts_holes_as_ff() -> None:
    """An image is named by the CRC-32 over its whole range, holes as FF."""
    memory = Memory(((0x0, b"\x0a\x0b"), (0x10, b"\x11\x22")))

    assert zlib.crc32(b"\x0a\x0b" + b"\xff" * 14 + b"\x11\x22") == memory.crc


@pytest.mark.parametrize("name", ["blink_1.s19", "blink_2.s19", "demo_16k.s19"])
def test_images_of_the_cases_are_what_the_manifest_says(name: str) -> None:
    """bincopy and the manifest of the fixtures agree about the images that the cases use."""
    firmware = read_firmware(fota_fixtures.path(name))

    facts = fota_fixtures.fixture(name).image
    assert facts is not None
    assert (facts.crc32, facts.records) == (firmware.memory.crc, len(firmware.records))


def test_differences_name_wrong_and_missing_bytes() -> None:
    """A dump is compared over the image's bytes alone: what else it holds does not matter."""
    image = Memory(((0x10, b"\x01\x02\x03"),))
    held = Memory(((0x00, b"\xff" * 8), (0x10, b"\x01\xff")))

    assert image.differences(held) == [(0x11, 0x02, 0xFF), (0x12, 0x03, None)]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("dump.s19", b"S1050010112 2B7".replace(b" ", b"") + b"\n"),
        ("dump.hex", b":020010001122BB\n:00000001FF\n"),
        ("dump.bin", b"\x11\x22"),
    ],
)
def test_dump_is_read_in_three_formats(tmp_path: Path, name: str, content: bytes) -> None:
    """A flash dump may be S-records, Intel HEX, or raw bytes with an address."""
    path = tmp_path / name
    path.write_bytes(content)

    assert Memory(((0x10, b"\x11\x22"),)) == read_dump(path, 0x10)


@pytest.mark.parametrize("content", [b"", b"hello\n", b"\xff\xfe", b"S10500101122B8\n"])
def test_unreadable_dump_is_refused(tmp_path: Path, content: bytes) -> None:
    """A dump in no known format, or with a wrong checksum, is named with its path."""
    path = tmp_path / "dump.s19"
    path.write_bytes(content)

    with pytest.raises(ReadingError, match=r"dump\.s19: neither S-records nor Intel HEX"):
        read_dump(path, 0)


def test_firmware_without_data_is_refused(tmp_path: Path) -> None:
    """A file with a header and a termination alone is no firmware."""
    path = tmp_path / "empty.s19"
    path.write_text("S0030000FC\nS9030000FC\n")

    with pytest.raises(ReadingError, match="no data record"):
        read_firmware(path)


def test_later_records_win() -> None:
    """Records that write an address twice amount to the later bytes."""
    assert Memory(((0x10, b"\x33\x44"),)) == memory_of([b"S10500101122B7", b"S1050010334473"])
