"""What an image comes to on a board: sectors, pieces, what is refused, vectors that move, what it takes."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

import fota_fixtures
from fota_hil.errors import PlanError
from fota_hil.plan import Layout, Piece, Plan, estimate, joined, make_plan, part_of
from fota_protocol.an2295 import Ident
from fota_protocol.formats import load
from fota_protocol.image import FirmwareImage
from fota_protocol.parts import PARTS
from fota_protocol.srecord import SRecord

TWR_K60 = Ident(0xC8, 0x014A, ((0x4000, 0x80000),), 0x4000, 0, 2048, 128, "K60")
VECTORS = bytes.fromhex("0000012001440000")
"""A stack pointer at the end of RAM, a reset vector at 0x4400."""


def image_of(*segments: tuple[int, bytes]) -> FirmwareImage:
    """An image of segments, which may be out of order."""
    records = [SRecord(3, start + at, data[at : at + 32]) for start, data in segments for at in range(0, len(data), 32)]
    return FirmwareImage.from_records(records)


def in_flash(plan: Plan, start: int, end: int) -> bytes:
    """What [start, end) of a board holds when the plan is done, 00 where it did not erase."""
    memory = bytearray(end - start)
    for sector in plan.erases:
        memory[sector - start : sector - start + 2048] = b"\xff" * 2048
    for piece in plan.pieces:
        memory[piece.address - start : piece.end - start] = piece.data
    return bytes(memory)


def test_only_sectors_with_bytes_are_erased_and_the_vectors_sector_first() -> None:
    """The stock master erases all 248."""
    plan = make_plan(image_of((0x8000, b"\1" * 8), (0x4000, VECTORS), (0x4400, b"\2" * 0x500)), TWR_K60)

    assert (0x4000, 0x4800, 0x8000) == plan.erases


def test_page_with_the_vectors_is_written_last() -> None:
    """Whatever ends the update before, no vectors lead into half an application."""
    plan = make_plan(image_of((0x4000, VECTORS * 40), (0x4400, b"\2" * 300)), TWR_K60)

    assert [0x4080, 0x4100, 0x4400, 0x4480, 0x4500, 0x4000] == [piece.address for piece in plan.pieces]


def test_holes_within_a_page_are_ff_and_ends_are_padded_to_longwords() -> None:
    """The stock master sends 00 for holes; an old board drops the last bytes of odd writes."""
    plan = make_plan(image_of((0x4000, VECTORS), (0x4401, b"\1\2"), (0x4409, b"\3")), TWR_K60)

    assert (Piece(0x4400, bytes.fromhex("FF0102FFFFFFFFFFFF03FFFF")),) == plan.body


def test_pieces_for_a_part_with_phrases_are_whole_phrases() -> None:
    """Its flash programs eight bytes at a time, each once."""
    ident = dataclasses.replace(TWR_K60, sdid=0x01CA, blocks=((0x4000, 0x100000),), erase_size=4096)

    plan = make_plan(image_of((0x4000, VECTORS), (0x4404, b"\1")), ident)

    assert PARTS["MK60FN1M0"] == part_of(ident)
    assert (Piece(0x4400, b"\xff\xff\xff\xff\1\xff\xff\xff"),) == plan.body


@pytest.mark.parametrize(("write_size", "sizes"), [(128, {128}), (256, {128}), (1024, {128}), (64, {64}), (250, {248})])
def test_pieces_are_no_longer_than_a_request_can_carry(write_size: int, sizes: set[int]) -> None:
    """A length is one byte, whatever write size an ident asks for."""
    ident = dataclasses.replace(TWR_K60, write_size=write_size)

    plan = make_plan(image_of((0x4000, VECTORS * 31), (0x4400, b"\1" * 64)), ident, any_vectors=True)

    assert max(sizes) == max(len(piece.data) for piece in plan.pieces)


def test_blank_pieces_are_not_written_but_their_sector_is_erased() -> None:
    """Erased flash reads FF."""
    plan = make_plan(image_of((0x4000, VECTORS), (0x4400, b"\1"), (0x4800, b"\xff" * 64)), TWR_K60)

    assert [False, True, False] == [piece.is_blank for piece in plan.pieces]
    assert 0x4800 in plan.erases


@pytest.mark.parametrize(
    ("start", "what"),
    [
        (0x0000, "over the bootloader"),
        (0x3FF0, "over the bootloader"),
        (0x7FFF8, "for another part"),
        (0x80000, "for another part"),
    ],
)
def test_image_outside_the_boards_flash_is_refused(start: int, what: str) -> None:
    """The stock master warns, erases everything, and writes into the bootloader."""
    with pytest.raises(PlanError, match=what) as refused:
        make_plan(image_of((0x4000, VECTORS), (0x4400, b"\1"), (start, b"\1" * 9)), TWR_K60)

    assert "K60 (SDID 014A, flash [0x00004000, 0x00080000))" in str(refused.value)
    assert "record 3" in str(refused.value)


def test_sector_that_reaches_into_the_bootloader_is_refused() -> None:
    """Its bytes are the board's to give away, its sector is not."""
    ident = dataclasses.replace(TWR_K60, blocks=((0x4400, 0x80000),), relocated_table=0x4400)

    with pytest.raises(PlanError, match="sectors are"):
        make_plan(image_of((0x4400, VECTORS)), ident, any_vectors=True)


def test_image_may_span_blocks_that_adjoin_but_not_a_gap() -> None:
    """Large parts announce two blocks."""
    image = image_of((0x4000, VECTORS), (0x4400, b"\1"), (0x3FFF0, b"\1" * 32))
    adjoining = dataclasses.replace(TWR_K60, blocks=((0x40000, 0x80000), (0x4000, 0x40000)))
    apart = dataclasses.replace(TWR_K60, blocks=((0x4000, 0x40000), (0x50000, 0x80000)))

    assert 0x40000 in make_plan(image, adjoining).erases
    with pytest.raises(PlanError, match="no flash"):
        make_plan(image, apart)


@pytest.mark.parametrize(
    "name", ["bad_vectors_reset.s19", "bad_vectors_stack.s19", "other_part.s19", "above_flash.s19"]
)
def test_broken_firmware_is_refused(name: str) -> None:
    """Fixtures whose bytes are right and whose place or vectors are not."""
    with pytest.raises(PlanError):
        make_plan(load(fota_fixtures.read(name)), TWR_K60)


def test_vectors_that_cannot_be_right_may_be_asked_for() -> None:
    """An application may start in its own way."""
    image = load(fota_fixtures.read("bad_vectors_stack.s19"))

    assert image.crc32 == make_plan(image, TWR_K60, any_vectors=True).image.crc32


def test_image_without_a_vector_table_is_refused() -> None:
    """Nothing of it could start."""
    with pytest.raises(PlanError, match="no vector table at 0x00004000"):
        make_plan(image_of((0x4400, b"\1" * 16)), TWR_K60)


class TestRelocation:
    """Vectors move only on request, and only from where nothing is in their new place."""

    IMAGE = image_of((0, VECTORS), (0x4400, b"\1" * 16))

    def test_vectors_at_zero_are_refused_and_the_option_is_named(self) -> None:
        """The stock master moves them without a question."""
        with pytest.raises(PlanError, match=r"over the bootloader.*--relocate moves them"):
            make_plan(self.IMAGE, TWR_K60)

    def test_table_is_moved_on_request_and_that_is_said(self) -> None:
        """All of its 1,024 bytes, FF where the image had none; nothing is left at 0."""
        plan = make_plan(self.IMAGE, TWR_K60, relocate=True)

        assert VECTORS + b"\xff" * 0x3F8 + b"\1" * 16 == in_flash(plan, 0x4000, 0x4800)[:0x410]
        assert 0x4000 == plan.image.first
        assert ("1024 bytes of vectors moved from 0x00000000 to 0x00004000",) == plan.notes

    def test_word_in_the_new_table_keeps_everything_in_its_place(self) -> None:
        """Then the bytes at 0 are out of range, and refused."""
        image = image_of((0, VECTORS), (0x40F0, b"\1" * 4), (0x4400, b"\1"))

        with pytest.raises(PlanError, match="over the bootloader"):
            make_plan(image, TWR_K60, relocate=True)

    def test_image_with_its_own_table_is_not_moved(self) -> None:
        """The request is harmless then."""
        image = image_of((0x4000, VECTORS), (0x4400, b"\1"))

        plan = make_plan(image, TWR_K60, relocate=True)

        assert image is plan.image
        assert "no vectors moved" in plan.notes[0]

    def test_configuration_field_behind_the_table_is_still_refused(self) -> None:
        """An image linked for a board without this bootloader has one at 0x400."""
        with pytest.raises(PlanError, match="over the bootloader"):
            make_plan(image_of((0, VECTORS), (0x400, b"\xff" * 16), (0x4400, b"\1")), TWR_K60, relocate=True)

    def test_nothing_to_move_is_an_error(self) -> None:
        """Whoever asked for it has another file in mind."""
        with pytest.raises(PlanError, match="no vectors at"):
            make_plan(image_of((0x4400, b"\1" * 16)), TWR_K60, relocate=True)


SEGMENTS = st.lists(st.tuples(st.integers(0x4000, 0x5FFF), st.binary(min_size=1, max_size=400)), min_size=1, max_size=6)


@given(SEGMENTS)
def test_plan_puts_exactly_the_image_into_flash(segments: list[tuple[int, bytes]]) -> None:
    """Whatever its holes and ends: its bytes, FF around them in every sector erased, and each byte written once."""
    memory: dict[int, int] = {}
    for start, data in segments:
        memory |= dict(enumerate(data, start))
    image = image_of(*((address, bytes([byte])) for address, byte in sorted(memory.items())))

    plan = make_plan(image, TWR_K60, any_vectors=True)

    flash = in_flash(plan, 0x4000, 0x6800)
    for sector in plan.erases:
        assert image.read(sector, sector + 2048) == flash[sector - 0x4000 : sector - 0x4000 + 2048]
    assert all(piece.address % 4 == 0 and 0 < len(piece.data) <= 128 for piece in plan.pieces)
    assert all(piece.address // 128 == (piece.end - 1) // 128 for piece in plan.pieces)
    assert len({piece.address for piece in plan.pieces}) == len(plan.pieces)


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 32)), max_size=40))
def test_joined_pieces_are_the_same_bytes_in_reads_that_fit(layout: list[tuple[bool, int]]) -> None:
    """Read back in few requests, and nothing that was not written."""
    pieces, at = [], 0x4000
    for has_gap, words in layout:
        at += 4 * has_gap
        pieces.append(Piece(at, bytes((at + i) % 251 for i in range(4 * words))))
        at += 4 * words

    found = list(joined(pieces))

    def content(some: list[Piece]) -> dict[int, int]:
        return {piece.address + i: byte for piece in some for i, byte in enumerate(piece.data)}

    assert content(pieces) == content(found)
    assert all(4 <= len(piece.data) <= 252 for piece in found)


def test_estimate_counts_the_bytes_of_every_request_and_answer() -> None:
    """A look (8 + 66), one sector (7 + 3), one write of 8 bytes (16 + 3) and its read (8 + 10), at 9,600 baud."""
    plan = make_plan(image_of((0x4000, VECTORS), (0x4400, b"\1" * 4)), TWR_K60)

    found = estimate(plan, 9600, verify=True)

    expected = 74 + 10 + (16 + 3) + (8 + 10) + (12 + 3) + (8 + 6)
    assert (expected, 6) == (found.line_bytes, found.round_trips)
    assert expected * 10 / 9600 == pytest.approx(found.line_s)
    assert expected - 18 - 14 == estimate(plan, 9600, verify=False).line_bytes
    assert found.total_s < estimate(plan, 9600, verify=True, at_worst=True).total_s


def test_layout_of_an_unknown_board_still_has_pages_and_sectors() -> None:
    """A ColdFire's ident names no part that we know; its vectors are not looked at."""
    ident = dataclasses.replace(TWR_K60, version=0xC4)

    layout = Layout(ident)

    assert layout.part is None
    assert not layout.is_kinetis
    assert (0x4080, 0x4100) == layout.page(0x40FF)
    assert 0x4800 == layout.sector(0x4FFF)
