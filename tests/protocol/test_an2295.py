"""The AN2295 bootloaders' protocol, byte for byte: a recorded session, every cut, and what is refused."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fota_protocol.an2295 import (
    FAMILIES,
    MAX_DATA,
    Command,
    Ident,
    Received,
    Request,
    crc16,
    read_ident,
    read_request,
    result,
)
from fota_protocol.errors import RemoteProtocolError

KINETIS = FAMILIES[0x8]

TWR_K60 = Ident(
    version=0xC8,
    sdid=0x014A,
    blocks=((0x4000, 0x80000),),
    relocated_table=0x4000,
    original_table=0,
    erase_size=2048,
    write_size=128,
    name="K60",
)
TWR_K60_BYTES = bytes.fromhex(
    "C8 01 4A 00 00 00 01 00 00 40 00 00 07 FF FF 00 00 40 00 00 00 00 00 00 00 08 00 00 00 00 80 4B 36 30 00 5A B1"
)


def test_the_crc_is_the_fields() -> None:
    """The check value of CRC-16/CCITT-FALSE, and AN2295's own example."""
    assert 0x29B1 == crc16(b"123456789")
    assert 0x2907 == crc16(bytes.fromhex("45 12 34"))


def test_the_ident_of_the_tower_board_is_byte_exact_in_both_directions() -> None:
    """What the board sends is read, and what is written is what the board sends."""
    assert TWR_K60_BYTES == TWR_K60.encode()
    assert (TWR_K60, 37) == read_ident(TWR_K60_BYTES)


@pytest.mark.parametrize(("sdid", "crc"), [(0x014B, "D76D"), (0x0148, "5128"), (0xA14A, "47C9"), (0xC14A, "BCFE")])
def test_the_crc_of_other_boards(sdid: int, crc: str) -> None:
    """Values that were computed elsewhere."""
    ident = Ident(0xC8, sdid, TWR_K60.blocks, 0x4000, 0, 2048, 128, "K60")

    assert bytes.fromhex(crc) == ident.encode()[-2:]


SESSION = [
    (Request(Command.IDENT), "49"),
    (Request(Command.ERASE, 0x4000), "45 00 00 40 00 2E FF"),
    (Request(Command.ERASE, 0x4800), "45 00 00 48 00 A7 56"),
    (Request(Command.ERASE, 0x7F800), "45 00 07 F8 00 3C CB"),
    (Request(Command.WRITE, 0x4000, bytes.fromhex("F8FF00208D560000")), "57 00 00 40 00 08 F8FF00208D560000 AF4C"),
    (Request(Command.WRITE, 0x4010, bytes.fromhex("1122334455")), "57 00 00 40 10 05 11 22 33 44 55 4D 70"),
    (Request(Command.READ, 0x4000, length=128), "52 00 00 40 00 80 79 E1"),
    (Request(Command.READ, 0x5D80, length=0x78), "52 00 00 5D 80 78 0D 5C"),
    (Request(Command.READ, 0x4000), "52 00 00 40 00 00 E8 69"),
    (Request(Command.QUIT), "51 AB 24"),
]
"""Requests of a recorded session with a TWR-K60's bootloader."""


@pytest.mark.parametrize(("request_", "text"), SESSION)
def test_requests_of_a_recorded_session_are_byte_exact_in_both_directions(request_: Request, text: str) -> None:
    """What the field's master sent is what ours sends, and what our board reads."""
    sent = bytes.fromhex(text)

    assert sent == request_.encode(KINETIS, has_crc=True)
    assert Received(request_, len(sent), is_whole=True) == read_request(sent + b"\xfc", KINETIS, has_crc=True)


@pytest.mark.parametrize(("request_", "text"), SESSION)
def test_a_request_is_not_read_before_its_last_byte(request_: Request, text: str) -> None:
    """However it arrives, a board waits for all of it."""
    sent = bytes.fromhex(text)

    assert [None] * len(sent) == [read_request(sent[:cut], KINETIS, has_crc=True) for cut in range(len(sent))]


def test_results_are_byte_exact() -> None:
    """The two constants of the board, and the same without CRC."""
    assert bytes.fromhex("FC CF 63") == result(is_good=True, has_crc=True)
    assert bytes.fromhex("03 D1 93") == result(is_good=False, has_crc=True)
    assert (b"\xfc", b"\x03") == (result(is_good=True, has_crc=False), result(is_good=False, has_crc=False))


@pytest.mark.parametrize("text", ["45 00 00 40 00 2E FE", "51 AB 25", "52 00 00 40 00 04 A8 EC"])
def test_a_wrong_crc_is_seen_and_the_request_consumed(text: str) -> None:
    """A board refuses it and goes on behind it."""
    received = read_request(bytes.fromhex(text), KINETIS, has_crc=True)

    assert received is not None
    assert (False, len(bytes.fromhex(text))) == (received.is_whole, received.size)


@pytest.mark.parametrize("byte", [0x00, 0x58, 0x69, 0xFF])
def test_what_is_no_command_is_said(byte: int) -> None:
    """Lower-case letters are none either."""
    with pytest.raises(RemoteProtocolError, match="is no command"):
        read_request(bytes([byte, 0, 0]), KINETIS, has_crc=True)


def test_requests_without_crc_have_none() -> None:
    """For boards whose version byte says so."""
    request = Request(Command.WRITE, 0x4000, b"\1\2\3\4")
    sent = request.encode(KINETIS, has_crc=False)

    assert bytes.fromhex("57 00 00 40 00 04 01 02 03 04") == sent
    assert Received(request, len(sent), is_whole=True) == read_request(sent, KINETIS, has_crc=False)


def test_the_sizes_of_good_replies() -> None:
    """A result has one byte, a read its data, and both the CRC where there is one."""
    erase, read = Request(Command.ERASE, 0x4000), Request(Command.READ, 0x4000, length=128)

    assert (3, 130) == (erase.reply_size(has_crc=True), read.reply_size(has_crc=True))
    assert (1, 128) == (erase.reply_size(has_crc=False), read.reply_size(has_crc=False))


@pytest.mark.parametrize(
    "request_",
    [
        Request(Command.WRITE, 0x4000, bytes(MAX_DATA + 1)),
        Request(Command.READ, 0x4000, length=MAX_DATA + 1),
        Request(Command.ERASE, 1 << 32),
        Request(Command.ERASE, -1),
    ],
)
def test_what_a_request_cannot_carry_is_not_encoded(request_: Request) -> None:
    """Instead of being cut."""
    with pytest.raises(ValueError, match="expected"):
        request_.encode(KINETIS, has_crc=True)


@pytest.mark.parametrize("nibble", FAMILIES)
@pytest.mark.parametrize("flags", [0x00, 0x40, 0x80, 0xD0])
def test_idents_of_every_family_come_back_from_any_cut(nibble: int, flags: int) -> None:
    """Whatever its widths, and with reserved bits set; not before its last byte, and not a byte more."""
    family = FAMILIES[nibble]
    blocks = ((0x40, 0x80), (0x100, 0x200)) if family.block_count else ((0x40, 0x80),)
    sdid = 0x1234 if family.sdid else 0
    ident = Ident(flags | nibble, sdid, blocks, 0x40, 0xFFC0, 64, 32, "a board")
    sent = ident.encode()

    assert (ident, len(sent)) == read_ident(sent + b"\xfc")
    assert [None] * len(sent) == [read_ident(sent[:cut]) for cut in range(len(sent))]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("C5", "version byte 0xc5, expected a family of 1 \\(HC08\\)"),
        ("C8 01 4A 00 00 00 00", "0 flash blocks, expected 1 to 16"),
        ("C8 01 4A 00 00 00 11", "17 flash blocks, expected 1 to 16"),
        (TWR_K60_BYTES[:-1].hex() + "B2", "ident with CRC 5AB2, expected 5AB1"),
        (TWR_K60_BYTES[:31].hex() + "41" * 40, "a name without an end within 40 bytes"),
    ],
)
def test_an_ident_that_cannot_be_right_is_refused(text: str, message: str) -> None:
    """As soon as it shows."""
    with pytest.raises(RemoteProtocolError, match=message):
        read_ident(bytes.fromhex(text))


@pytest.mark.parametrize(
    "ident",
    [
        Ident(0xC8, 0, ((0x4000, 0x80000),), 0x4000, 0, 0, 128, ""),
        Ident(0xC8, 0, ((0x4000, 0x80000),), 0x4000, 0, 2048, 0, ""),
        Ident(0xC8, 0, ((0x4000, 0x4000),), 0x4000, 0, 2048, 128, ""),
    ],
)
def test_an_ident_that_nobody_could_program_by_is_refused(ident: Ident) -> None:
    """Sizes of nothing, and blocks of nothing."""
    with pytest.raises(RemoteProtocolError, match="expected"):
        read_ident(ident.encode())


@given(st.binary(max_size=80))
def test_no_bytes_break_the_readers(data: bytes) -> None:
    """They return something or say what is wrong."""
    for read in (read_ident, lambda data: read_request(data, KINETIS, has_crc=True)):
        with contextlib.suppress(RemoteProtocolError):
            read(data)
