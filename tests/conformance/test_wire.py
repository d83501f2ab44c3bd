"""The kit's codec: frames are read by state, whole or in pieces, and bytes that are none are refused at once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fota_conformance.errors import WireError
from fota_conformance.wire import (
    Frame,
    Kind,
    Reader,
    Sender,
    end,
    explain,
    identification,
    read_ack,
    read_answer,
    read_identification,
    read_transfer,
)

RECORD = b"S11340100144000001440000014400000144000088"
MCUID = "0001100023593110965955141"
FRAMES: list[tuple[Reader, Frame]] = [
    (read_answer, Frame(Kind.ALLOWED, b"@4#")),
    (read_answer, Frame(Kind.DENIED, b"@0#")),
    (read_transfer, Frame(Kind.RECORD, RECORD)),
    (read_transfer, Frame(Kind.RECORD, RECORD.lower().replace(b"s", b"S"))),
    (read_transfer, Frame(Kind.RECORD, b"S20801000001020304EC")),
    (read_transfer, Frame(Kind.END, b"@4##", "4")),
    (read_transfer, Frame(Kind.END, b"@2A##", "2A")),
    (read_identification, Frame(Kind.IDENTIFICATION, b"@0001100023593110965955141#", MCUID)),
    (read_identification, Frame(Kind.IDENTIFICATION, b"@DEADBEEF#", "DEADBEEF")),
    (read_ack, Frame(Kind.ACK, b"@")),
]
NO_FRAMES: list[tuple[Reader, bytes]] = [
    (read_answer, b"@5"),
    (read_answer, b"4#"),
    (read_answer, b"@4@"),
    (read_transfer, b"\r\n"),
    (read_transfer, b"S0"),
    (read_transfer, b"S9"),
    (read_transfer, b"S1\r"),
    (read_transfer, b"S11340\n"),
    (read_transfer, b"@1a"),
    (read_transfer, b"@123"),
    (read_transfer, b"@##"),
    (read_transfer, b"@10#S"),
    (read_identification, b"12"),
    (read_identification, b"@00@"),
    (read_identification, b"@ab"),
    (read_identification, b"@" + b"0" * 1023),
    (read_ack, b"#"),
]


@pytest.mark.parametrize(("reader", "frame"), FRAMES)
def test_frame_is_read_once_it_is_whole(reader: Reader, frame: Frame) -> None:
    """Every proper beginning of a frame asks for more, the whole frame is read, and what follows is left."""
    beginnings = [reader(frame.raw[:size]) for size in range(len(frame.raw))]

    assert [None] * len(frame.raw) == beginnings
    assert frame == reader(frame.raw)
    assert frame == reader(frame.raw + b"S1@#\r\n")


@pytest.mark.parametrize(("reader", "data"), NO_FRAMES)
def test_bytes_that_are_no_frame_are_refused_at_once(reader: Reader, data: bytes) -> None:
    """A reader does not wait for more bytes once no continuation could make a frame."""
    with pytest.raises(WireError, match=r"b'"):
        reader(data)


@given(st.sampled_from([read_answer, read_transfer, read_identification, read_ack]), st.binary(max_size=80))
def test_any_bytes_are_a_frame_a_beginning_or_refused(reader: Reader, data: bytes) -> None:
    """No input makes a reader do anything else than it documents."""
    try:
        frame = reader(data)
    except WireError:
        return

    assert frame is None or data.startswith(frame.raw)


@given(st.binary(max_size=200), st.sampled_from(Sender))
def test_any_bytes_are_explained(data: bytes, sender: Sender) -> None:
    """The wire log has a meaning for everything that was seen, and is empty for nothing alone."""
    assert bool(data) == bool(explain(data, sender))


@pytest.mark.parametrize(
    ("sender", "data", "meaning"),
    [
        (Sender.SERVER, b"@4#" + RECORD, "update allowed; record S1 at 0x00004010, 16 bytes"),
        (Sender.SERVER, b"@4##", "end frame, version 4"),
        (Sender.SERVER, RECORD + b"\r\n", "record S1 at 0x00004010, 16 bytes; line ending"),
        (Sender.SERVER, b"S30D", "record S3, cut"),
        (Sender.SERVER, RECORD[:20], "record S1 at 0x00004010, 16 bytes, cut"),
        (Sender.SERVER, RECORD[:-1] + b"9", "record S1 at 0x00004010, 16 bytes, wrong checksum"),
        (Sender.SERVER, b"S1", "part of a frame"),
        (Sender.SERVER, b"@4", "part of a frame"),
        (Sender.SERVER, b"hello", "no frame of the protocol"),
        (Sender.DEVICE, identification(MCUID)[:9], "part of an identification"),
        (Sender.DEVICE, identification(MCUID)[9:], "part of an identification"),
        (Sender.DEVICE, identification(MCUID) + b"\r\n", f"identification of {MCUID}; line ending"),
        (Sender.DEVICE, b"@@@@@@", "ack; ack; ack; ack; …"),
    ],
)
def test_chunk_is_explained(sender: Sender, data: bytes, meaning: str) -> None:
    """A chunk of several frames is explained frame by frame."""
    assert meaning == explain(data, sender)


def test_end_frame_carries_the_version() -> None:
    """The end frame is the version between @ and ##."""
    assert end("2A") == b"@2A##"
