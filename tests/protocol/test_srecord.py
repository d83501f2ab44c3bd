"""One S-record at a time."""

import bincopy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fota_protocol.errors import FotaProtocolError, SRecordError
from fota_protocol.srecord import ADDRESS_BYTES, MAX_COUNT, MAX_RECORD_SIZE, SRecord, checksum, parse

BINCOPY_TYPES = (0, 1, 2, 3, 5, 7, 8, 9)
"""What bincopy reads too."""


@st.composite
def srecords(draw: st.DrawFn) -> SRecord:
    """Any record that can be."""
    kind = draw(st.sampled_from(sorted(ADDRESS_BYTES)))
    width = ADDRESS_BYTES[kind]
    data = draw(st.binary(max_size=MAX_COUNT - width - 1))
    return SRecord(kind, draw(st.integers(0, (1 << 8 * width) - max(1, len(data)))), data)


@given(srecords())
def test_a_record_survives_encoding_and_parsing(record: SRecord) -> None:
    """Parsing undoes encoding, for every type."""
    assert record == parse(record.encode())


@given(srecords())
def test_lower_case_means_the_same(record: SRecord) -> None:
    """Digits of either case are read."""
    text = b"S" + record.encode()[1:].lower()

    assert record == parse(text)


@given(srecords())
def test_no_record_is_longer_than_the_longest(record: SRecord) -> None:
    """The constant bounds what `encode` makes."""
    assert len(record.encode()) <= MAX_RECORD_SIZE


@given(srecords().filter(lambda record: record.type in BINCOPY_TYPES))
def test_bincopy_reads_the_same(record: SRecord) -> None:
    """Another reader sees the same type, address, count and data."""
    kind, address, size, data = bincopy.unpack_srec(record.encode().decode())

    assert (str(record.type), record.address, record.data) == (kind, address, bytes(data or b""))
    assert len(record.data) == size


@given(srecords(), st.data())
def test_every_wrong_digit_is_found(record: SRecord, data: st.DataObject) -> None:
    """The checksum finds any single digit that changed; the count finds itself."""
    text = bytearray(record.encode())
    place = data.draw(st.integers(2, len(text) - 1))
    text[place] = data.draw(st.sampled_from([digit for digit in b"0123456789ABCDEF" if digit != text[place]]))

    with pytest.raises(SRecordError):
        parse(bytes(text))


@given(srecords(), st.data())
def test_a_cut_record_is_refused(record: SRecord, data: st.DataObject) -> None:
    """No beginning of a record is a record."""
    text = record.encode()

    with pytest.raises(SRecordError):
        parse(text[: data.draw(st.integers(0, len(text) - 1))])


@given(srecords(), st.binary(min_size=1, max_size=4))
def test_a_record_with_something_behind_it_is_refused(record: SRecord, rest: bytes) -> None:
    """The count says where a record ends."""
    with pytest.raises(SRecordError):
        parse(record.encode() + rest)


@given(st.binary(max_size=40) | st.binary(max_size=40).map(lambda rest: b"S1" + rest))
def test_any_bytes_are_parsed_or_refused(text: bytes) -> None:
    """Nothing but the documented error comes out, whatever goes in."""
    try:
        record = parse(text)
    except SRecordError:
        return

    assert text.upper() == record.encode()


def test_the_checksum_is_right_for_an_example_of_others() -> None:
    """S1137AF00A0A0D0000000000000000000000000061, met in descriptions of the format."""
    assert checksum(bytes.fromhex("137AF00A0A0D") + bytes(13)) == 0x61


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "starts with b'', expected an S-record ('S')"),
        (b"s1030000FC", "starts with b's', expected an S-record ('S')"),
        (b"S4030000FC", "record type b'4', expected one of S0-S3 or S5-S9"),
        (b"Sx030000FC", "record type b'x', expected one of S0-S3 or S5-S9"),
        (b"S1", "cut after 2 characters, expected a count"),
        (b"S10", "cut after 3 characters, expected a count"),
        (b"S1030g00FC", "column 6: b'g' is not a hexadecimal digit"),
        (b"S1030000F", "7 hexadecimal digits, expected an even number"),
        (b"S1040000FC", "count 0x04 announces 8 characters, 6 follow it"),
        (b"S102FFFE", "count 0x02 is too small for an S1 (at least 3)"),
        (b"S1030000FD", "checksum 0xfd, expected 0xfc"),
        (b"S105FFFF1122C9", "data at 0x0000ffff runs past the end of the address space"),
    ],
)
def test_a_refusal_says_what_came_and_what_was_expected(text: bytes, message: str) -> None:
    """One message for each way to be wrong."""
    with pytest.raises(SRecordError) as caught:
        parse(text)

    assert message == str(caught.value)


@pytest.mark.parametrize(
    "record",
    [
        SRecord(4, 0),
        SRecord(10, 0),
        SRecord(1, 0x1_0000),
        SRecord(2, 0x100_0000),
        SRecord(3, 0x1_0000_0000),
        SRecord(3, -1),
        SRecord(1, 0xFFFF, b"12"),
        SRecord(3, 0xFFFF_FFFF, b"12"),
        SRecord(1, 0, bytes(253)),
        SRecord(2, 0, bytes(252)),
        SRecord(3, 0, bytes(251)),
    ],
)
def test_what_does_not_fit_is_not_encoded(record: SRecord) -> None:
    """An address or data too large for the type, or a type that is none, is refused and never cut."""
    with pytest.raises(FotaProtocolError):
        record.encode()
