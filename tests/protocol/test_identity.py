"""MCUIDs in both formats."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fota_protocol.errors import RemoteProtocolError
from fota_protocol.identity import (
    MAX_IDENTIFICATION_SIZE,
    Identification,
    McuidFormat,
    cannot_be_identification,
    parse_mcuid,
)

SEED_MCUID = "0001100023593110965955141"

decimal = st.text("0123456789", min_size=25, max_size=60)
hexadecimal = st.text("0123456789ABCDEFabcdef", min_size=1, max_size=64)


@given(decimal)
def test_decimal_digits_behind_the_25th_are_kept_apart(digits: str) -> None:
    """They are model and versions, and no part of who the device is."""
    assert Identification(digits[:25], digits[25:]) == parse_mcuid(digits, McuidFormat.DECIMAL25)


@given(hexadecimal)
def test_a_hexadecimal_mcuid_is_one_device_in_either_case(digits: str) -> None:
    """Two spellings of a number are one device."""
    assert Identification(digits.upper()) == parse_mcuid(digits, McuidFormat.HEX)


@given(decimal)
def test_an_identification_survives_encoding_and_parsing(digits: str) -> None:
    """What is sent is what was said, suffix included."""
    identification = parse_mcuid(digits, McuidFormat.DECIMAL25)

    assert f"@{digits}#".encode() == identification.encode()


@pytest.mark.parametrize(
    ("text", "mcuid_format"),
    [
        ("", McuidFormat.DECIMAL25),
        (SEED_MCUID[:24], McuidFormat.DECIMAL25),
        (SEED_MCUID[:24] + "A", McuidFormat.DECIMAL25),
        (SEED_MCUID + "x", McuidFormat.DECIMAL25),
        (SEED_MCUID + "\n", McuidFormat.DECIMAL25),
        ("\u0661" * 25, McuidFormat.DECIMAL25),  # ARABIC-INDIC DIGIT ONE
        ("", McuidFormat.HEX),
        ("G", McuidFormat.HEX),
        ("A" * 65, McuidFormat.HEX),
        ("\uff21", McuidFormat.HEX),  # FULLWIDTH LATIN CAPITAL LETTER A
    ],
)
def test_what_has_not_the_format_is_refused(text: str, mcuid_format: McuidFormat) -> None:
    """Only ASCII digits, and as many as the format has."""
    with pytest.raises(RemoteProtocolError, match="expected"):
        parse_mcuid(text, mcuid_format)


@given(st.text(max_size=70), st.sampled_from(McuidFormat))
def test_any_text_is_parsed_or_refused(text: str, mcuid_format: McuidFormat) -> None:
    """Nothing but the documented error comes out."""
    try:
        identification = parse_mcuid(text, mcuid_format)
    except RemoteProtocolError:
        return

    assert text.upper() == identification.mcuid + identification.suffix


@pytest.mark.parametrize(
    ("mcuid_format", "size"), [(McuidFormat.DECIMAL25, MAX_IDENTIFICATION_SIZE), (McuidFormat.HEX, 66)]
)
def test_too_long_is_known_at_the_byte_that_makes_it_so(mcuid_format: McuidFormat, size: int) -> None:
    """One byte earlier the next could still be the `#`."""
    start = b"@" + b"1" * (size - 1)

    assert cannot_be_identification(start[:-1], mcuid_format) is None
    assert cannot_be_identification(start, mcuid_format) is not None


@pytest.mark.parametrize("start", [b"1", b"\r\n@", b"\xff", b"@ ", b"@@", b"@123\r", b"@12\xc3\xa9"])
@pytest.mark.parametrize("mcuid_format", McuidFormat)
def test_a_wrong_byte_is_known_at_once(start: bytes, mcuid_format: McuidFormat) -> None:
    """No need to wait for the `#`."""
    assert cannot_be_identification(start, mcuid_format) is not None
