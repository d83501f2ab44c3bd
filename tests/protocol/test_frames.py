"""Frames, and the readers that cut them out of a byte stream."""

import itertools
from collections.abc import Callable, Iterable
from typing import TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fota_protocol.errors import RemoteProtocolError
from fota_protocol.frames import (
    EndFrame,
    ReceiveBuffer,
    RecordFrame,
    Verdict,
    count_acks,
    is_late_refusal,
    normal_version,
    read_identification,
    read_transfer,
    read_verdict,
)
from fota_protocol.identity import Identification, McuidFormat
from fota_protocol.srecord import SRecord

Frame: TypeAlias = Identification | Verdict | RecordFrame | EndFrame
Reader: TypeAlias = Callable[[ReceiveBuffer], Frame | None]


def read_decimal(buffer: ReceiveBuffer) -> Frame | None:
    return read_identification(buffer, McuidFormat.DECIMAL25)


def read_hexadecimal(buffer: ReceiveBuffer) -> Frame | None:
    return read_identification(buffer, McuidFormat.HEX)


READERS: dict[str, Reader] = {
    "decimal": read_decimal,
    "hexadecimal": read_hexadecimal,
    "verdict": read_verdict,
    "transfer": read_transfer,
}

records = st.builds(SRecord, st.sampled_from([1, 2, 3]), st.integers(0, 0xFF00), st.binary(max_size=250)).map(
    SRecord.encode
)
versions = st.text("0123456789ABCDEFabcdef", min_size=1, max_size=2)
GOOD: dict[str, st.SearchStrategy[bytes]] = {
    "decimal": st.text("0123456789", min_size=25, max_size=60).map(lambda digits: f"@{digits}#".encode()),
    "hexadecimal": st.text("0123456789abcdefABCDEF", min_size=1, max_size=64).map(lambda d: f"@{d}#".encode()),
    "verdict": st.sampled_from([b"@4#", b"@0#"]),
    "transfer": records | versions.map(lambda version: f"@{version}##".encode()),
}
"""Frames that each reader takes."""


def read_all(reader: Reader, pieces: Iterable[bytes]) -> tuple[list[Frame], bytes]:
    """All frames of a stream that comes in pieces, and what is left over."""
    buffer = ReceiveBuffer(1 << 16)
    frames = []
    for piece in pieces:
        buffer += piece
        while (frame := reader(buffer)) is not None:
            frames.append(frame)
    return frames, buffer.peek()


def outcome(reader: Reader, pieces: Iterable[bytes]) -> tuple[list[Frame], bytes] | None:
    """The same, or None when the stream is refused."""
    try:
        return read_all(reader, pieces)
    except RemoteProtocolError:
        return None


def pieces_of(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    places = [0, *sorted(cuts), len(data)]
    return [data[low:high] for low, high in itertools.pairwise(places)]


def cuts_of(stream: bytes) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, len(stream)), max_size=6)


@pytest.mark.parametrize("name", READERS)
@given(data=st.data())
def test_frames_are_the_same_however_the_stream_is_cut(name: str, data: st.DataObject) -> None:
    """Whole, byte by byte and at random cuts give as many frames as were sent, and the same ones."""
    sent = data.draw(st.lists(GOOD[name], min_size=1, max_size=4))
    stream = b"".join(sent)
    whole = read_all(READERS[name], [stream])

    assert (len(sent), b"") == (len(whole[0]), whole[1])
    assert whole == read_all(READERS[name], sent)
    assert whole == read_all(READERS[name], (bytes([byte]) for byte in stream))
    assert whole == read_all(READERS[name], pieces_of(stream, data.draw(cuts_of(stream))))


@pytest.mark.parametrize("name", READERS)
@given(data=st.data())
def test_any_stream_ends_the_same_however_it_is_cut(name: str, data: st.DataObject) -> None:
    """Good frames with trailing or leading garbage, or garbage alone: taken or refused, independently of the cuts."""
    noise = st.binary(max_size=6) | st.text("@#04S1AF\r\n", max_size=6).map(str.encode)
    stream = data.draw(noise) + b"".join(data.draw(st.lists(GOOD[name], max_size=3))) + data.draw(noise)
    whole = outcome(READERS[name], [stream])

    assert whole == outcome(READERS[name], (bytes([byte]) for byte in stream))
    assert whole == outcome(READERS[name], pieces_of(stream, data.draw(cuts_of(stream))))


@pytest.mark.parametrize("name", READERS)
@given(data=st.data())
def test_what_trails_a_frame_is_left_in_place(name: str, data: st.DataObject) -> None:
    """A reader takes one frame and not a byte more."""
    first, rest = data.draw(GOOD[name]), data.draw(st.binary(max_size=20))
    buffer = ReceiveBuffer(1 << 16)
    buffer += first + rest
    frame = READERS[name](buffer)

    assert frame is not None
    assert rest == buffer.peek()


@pytest.mark.parametrize("name", READERS)
@given(data=st.data())
def test_a_beginning_of_a_frame_is_waited_for(name: str, data: st.DataObject) -> None:
    """No beginning is taken for a frame or for garbage, and none is lost."""
    frame = data.draw(GOOD[name])
    start = frame[: data.draw(st.integers(0, len(frame) - 1))]

    assert ([], start) == read_all(READERS[name], [start])


@pytest.mark.parametrize(
    ("reader", "stream", "frames", "rest"),
    [
        (read_verdict, b"@4##", [Verdict(True)], b"#"),
        (read_verdict, b"@0#", [Verdict(False)], b""),
        (read_transfer, b"@4##", [EndFrame("4")], b""),
        (read_transfer, b"@4#", [], b"@4#"),
        (read_transfer, b"@0##", [EndFrame("0")], b""),
        (read_transfer, b"@0#", [], b"@0#"),
        (read_transfer, b"@1a##", [EndFrame("1a")], b""),
        (read_transfer, b"S1030000FC@FF##", [RecordFrame(b"S1030000FC"), EndFrame("FF")], b""),
        (read_transfer, b"S100", [RecordFrame(b"S100")], b""),
        (read_transfer, b"S10400gggggg@", [RecordFrame(b"S10400gggggg")], b"@"),
    ],
)
def test_a_frame_is_what_the_state_makes_of_it(reader: Reader, stream: bytes, frames: list[Frame], rest: bytes) -> None:
    """`@4#` is a verdict here and the beginning of an end frame there; a record's inside is nobody's business yet."""
    buffer = ReceiveBuffer(100)
    buffer += stream
    taken = [reader(buffer) for _ in frames]

    assert (frames, rest) == (taken, buffer.peek())


@pytest.mark.parametrize(
    ("reader", "stream"),
    [
        (read_verdict, b"4"),
        (read_verdict, b"@1"),
        (read_verdict, b"@4@"),
        (read_verdict, b"\r"),
        (read_transfer, b"s"),
        (read_transfer, b"SA"),
        (read_transfer, b"S1g"),
        (read_transfer, b"S10x"),
        (read_transfer, b"#"),
        (read_transfer, b"\r"),
        (read_transfer, b"@#"),
        (read_transfer, b"@G"),
        (read_transfer, b"@123"),
        (read_transfer, b"@4#S"),
        (read_transfer, b"@12#1"),
        (read_decimal, b"\r\n@"),
        (read_decimal, b"@12A"),
        (read_decimal, b"@123#"),
        (read_decimal, b"\xff"),
        (read_decimal, b"@" + b"1" * 1023),
        (read_decimal, b"@" + b"1" * 1023 + b"#"),
        (read_hexadecimal, b"@#"),
        (read_hexadecimal, b"@" + b"A" * 65),
    ],
)
def test_a_stream_that_cannot_be_right_is_refused_at_once(reader: Reader, stream: bytes) -> None:
    """No need to wait for more."""
    buffer = ReceiveBuffer(4096)
    buffer += stream

    with pytest.raises(RemoteProtocolError, match=r"expected|no b'#'"):
        reader(buffer)


def test_an_identification_may_be_as_long_as_the_limit() -> None:
    """1,024 bytes, both marks included."""
    identification = b"@" + b"1" * 1022 + b"#"

    assert len(identification) == 1024
    assert [Identification("1" * 25, "1" * 997)] == read_all(read_decimal, [identification])[0]


@given(st.lists(st.sampled_from([b"@", b"\r", b"\n"]), max_size=20))
def test_acks_are_counted_without_line_ends(pieces: list[bytes]) -> None:
    """Modem routines append CR, LF or both."""
    assert pieces.count(b"@") == count_acks(b"".join(pieces))


@given(st.binary(max_size=20))
def test_any_bytes_are_counted_or_refused(data: bytes) -> None:
    """Whatever is neither an ack nor a line end is refused."""
    try:
        acks = count_acks(data)
    except RemoteProtocolError:
        assert set(data) - set(b"@\r\n")
    else:
        assert b"@" * acks == data.replace(b"\r", b"").replace(b"\n", b"")


@pytest.mark.parametrize(
    ("data", "late"), [(b"@0#", True), (b"", False), (b"@0", False), (b"@0##", False), (b"@00#", False)]
)
def test_a_late_refusal_is_exactly_that(data: bytes, late: bool) -> None:
    """Nothing may follow it."""
    buffer = ReceiveBuffer(10)
    buffer += data

    assert late == is_late_refusal(buffer)


@given(versions)
def test_an_end_frame_is_sent_in_upper_case(version: str) -> None:
    """Devices of the field match upper case only."""
    assert f"@{version.upper()}##".encode() == EndFrame(version).encode()


@pytest.mark.parametrize("text", ["", "123", "G", " 1", "1\n", "-1", "\u0661"])
def test_what_is_no_version_is_refused(text: str) -> None:
    """One or two hexadecimal digits."""
    with pytest.raises(ValueError, match="expected 1 or 2 hexadecimal digits"):
        normal_version(text)


@given(st.lists(st.binary(max_size=12), max_size=12), st.integers(0, 60))
def test_a_buffer_holds_no_more_than_its_limit(pieces: list[bytes], limit: int) -> None:
    """It refuses what would be too much and keeps what it had."""
    buffer = ReceiveBuffer(limit)
    kept = b""
    for piece in pieces:
        if len(kept) + len(piece) <= limit:
            kept += piece
            buffer += piece
        else:
            with pytest.raises(RemoteProtocolError):
                buffer += piece

    assert (kept, len(kept)) == (buffer.peek(), len(buffer))
    assert kept[:5] == buffer.take(5)
    assert kept[5:] == buffer.peek()
