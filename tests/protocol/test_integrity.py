"""CRCs, the seal and the vectors."""

import struct
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fota_fixtures import Fixture, Stage, manifest, read
from fota_protocol.formats import load
from fota_protocol.image import FirmwareImage
from fota_protocol.integrity import (
    SEAL_OFFSET,
    SEAL_SIZE,
    Seal,
    check_seal,
    check_vectors,
    crc32_mpeg2,
    image_crc32,
    read_seal,
    sealed_crc,
)
from fota_protocol.parts import DEFAULT_PART, part

PART = part(DEFAULT_PART)
BASE = PART.application_start
IMAGES = [fixture for fixture in manifest() if fixture.image is not None]


def bitwise_crc32_mpeg2(data: bytes) -> int:
    """The definition, a bit at a time: shift left, subtract the polynomial when a one falls out."""
    crc = 0xFFFF_FFFF
    for byte in data:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1) ^ (0x04C1_1DB7 if crc & 0x8000_0000 else 0)
            crc &= 0xFFFF_FFFF
    return crc


def memory(data: bytes) -> Callable[[int, int], bytes]:
    """A reader of `data` at the start of the application, FF elsewhere."""

    def at(start: int, end: int) -> bytes:
        return bytes(data[a - BASE] if 0 <= a - BASE < len(data) else 0xFF for a in range(start, end))

    return at


def test_the_crc_has_the_check_value_of_its_catalogue_entry() -> None:
    """CRC-32/MPEG-2 of the nine digits."""
    assert crc32_mpeg2(b"123456789") == 0x0376E6E7


@given(st.binary(max_size=300))
def test_the_fast_crc_is_the_bitwise_one(data: bytes) -> None:
    """Reading zlib's backwards is right for every input."""
    assert bitwise_crc32_mpeg2(data) == crc32_mpeg2(data)


@given(st.binary(max_size=100))
def test_an_image_crc_is_that_of_zlib(data: bytes) -> None:
    """The name that other tools compute too."""
    assert zlib.crc32(data) == image_crc32(data)


@given(st.integers(0, 0xFFFF_FFFF), st.integers(0, 0xFFFF_FFFF), st.integers(0, 0xFFFF_FFFF))
def test_a_seal_survives_encoding_and_reading(start: int, count: int, expected: int) -> None:
    """Tag and three little-endian words, where the configuration area is."""
    seal = Seal(start, count, expected)
    flash = memory(bytes(SEAL_OFFSET) + seal.encode())

    assert seal == read_seal(flash, BASE)
    assert b"kcfg" + struct.pack("<III", start, count, expected) == flash(BASE + SEAL_OFFSET, BASE + 0x3D0)


@given(st.binary(min_size=SEAL_OFFSET + SEAL_SIZE, max_size=SEAL_OFFSET + SEAL_SIZE + 9))
def test_the_sealed_crc_leaves_out_its_own_place_and_pads_with_zeroes(data: bytes) -> None:
    """Four bytes are not covered; the rest counts in whole longwords."""
    covered = data[:0x3CC] + data[0x3D0:]
    padded = covered + bytes(-len(covered) % 4)

    assert bitwise_crc32_mpeg2(padded) == sealed_crc(memory(data), BASE, BASE, BASE + len(data))


@pytest.mark.parametrize("fixture", IMAGES, ids=lambda fixture: fixture.name)
def test_the_seal_of_a_fixture_is_judged_as_the_manifest_does(fixture: Fixture) -> None:
    """Sealed means: over all of the image, and with the right CRC."""
    assert fixture.image is not None
    image = load(read(fixture.name))
    seal = read_seal(image.read, fixture.image.first)

    sealed = (
        seal is not None
        and (seal.start, seal.end) == (image.first, image.end)
        and seal.expected == sealed_crc(image.read, image.first, seal.start, seal.end)
    )

    assert fixture.image.sealed == sealed


def test_a_device_finds_a_wrong_seal_and_wrong_vectors() -> None:
    """What the manifest says is found before the start is found by these two checks, and nothing else is."""
    found = {}
    for fixture in IMAGES:
        if any(finding.stage is Stage.PART for finding in fixture.findings) or fixture.name == "blink_1_unsealed.s19":
            continue
        image = load(read(fixture.name))
        wrong = {
            "seal": check_seal(image.read, PART),
            "vectors": check_vectors(image.read, PART, image.end),
        }
        found[fixture.name] = {reason for reason, message in wrong.items() if message is not None}

    expected = {
        fixture.name: {finding.reason for finding in fixture.findings if finding.stage is Stage.START}
        for fixture in IMAGES
        if fixture.name in found
    }
    assert expected == found
    assert {"seal"} == found["bad_seal.s19"]


@pytest.mark.parametrize(
    ("seal", "message"),
    [
        (None, "no seal"),
        (Seal(BASE + 4, 0x400, 0), "expected a range from"),
        (Seal(BASE, SEAL_OFFSET + SEAL_SIZE - 1, 0), "expected a range from"),
        (Seal(BASE, PART.flash_end - BASE + 1, 0), "expected a range from"),
        (Seal(0, 0xFFFF_FFFF, 0), "expected a range from"),
        (Seal(BASE, 0x400, 0xDEAD_BEEF), "the seal expects DEADBEEF"),
    ],
)
def test_a_seal_that_is_absent_or_impossible_is_named(seal: Seal | None, message: str) -> None:
    """A device never reads outside its flash on a seal's word."""
    data = bytearray(0x400)
    if seal is not None:
        data[SEAL_OFFSET : SEAL_OFFSET + SEAL_SIZE] = seal.encode()

    assert message in str(check_seal(memory(bytes(data)), PART))


@pytest.fixture(scope="module")
def sealed() -> FirmwareImage:
    """A small program with a good seal."""
    return load(read("blink_1.s19"))


@given(bit=st.integers(0, 8 * 0x559 - 1))
def test_every_flipped_bit_is_found(sealed: FirmwareImage, bit: int) -> None:
    """Anywhere in the image, the seal itself included."""
    data = bytearray(sealed.read(sealed.first, sealed.end))
    data[bit // 8] ^= 1 << bit % 8

    assert check_seal(sealed.read, PART) is None
    assert check_seal(memory(bytes(data)), PART) is not None


@pytest.mark.parametrize(
    ("stack", "reset", "sane"),
    [
        (PART.ram_end, BASE + 0x401, True),
        (PART.ram_start + 4, BASE + 1, True),
        (PART.ram_end, BASE + 0x7FF, True),
        (PART.ram_start, BASE + 0x401, False),
        (PART.ram_end + 4, BASE + 0x401, False),
        (PART.ram_end - 2, BASE + 0x401, False),
        (0xFFFF_FFFF, 0xFFFF_FFFF, False),
        (PART.ram_end, BASE + 0x400, False),
        (PART.ram_end, BASE - 1, False),
        (PART.ram_end, BASE + 0x801, False),
    ],
)
def test_vectors_are_sane_up_to_their_bounds(stack: int, reset: int, sane: bool) -> None:
    """Stack in (RAM start, RAM end] and a multiple of 4; reset odd and inside the image of 0x800 bytes."""
    wrong = check_vectors(memory(struct.pack("<II", stack, reset)), PART, BASE + 0x800)

    assert sane == (wrong is None)
