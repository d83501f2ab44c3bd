"""The kit's own codec for the bytes on the wire, in both roles.

Pure: bytes in, frames out. Which reader applies depends on the state of the session and is the caller's choice,
because `@4#` is an answer in one state and the beginning of an end frame in another. A reader takes all bytes received
and not yet used, and gives a frame, or `None` while more bytes are needed; it raises `WireError` as soon as no
continuation could make a frame. `Frame.raw` is exactly what came, so that a case can compare bytes; what a reader
tolerates (lower-case hex in a record) is left for the case to judge.
"""

import enum
import re
from dataclasses import dataclass
from typing import Final, Protocol

from fota_conformance.errors import WireError

ALLOWED: Final = b"@4#"
"""The server's answer to a device that it will update."""
DENIED: Final = b"@0#"
"""The server's answer to a device that it will not update."""
ACK: Final = b"@"
"""The device's acknowledgement of one frame."""
LINE_ENDINGS: Final = b"\r\n"
"""Bytes that may follow any frame of a device: some modem routines append them."""
IDENTIFICATION_LIMIT: Final = 1024
"""Bytes of the longest identification, `@` and `#` included (the seed reads it with one `recv(1024)`)."""
SHOWN_BYTES: Final = 96
"""Bytes of one chunk that a message shows before it cuts."""

_MCUID: Final = re.compile(rb"@([0-9A-F]*)#")
_END: Final = re.compile(rb"@([0-9A-F]{1,2})##")
_END_BEGUN: Final = re.compile(rb"@(?:[0-9A-F]{0,2}|[0-9A-F]{1,2}#)")
_RECORD_HEADER: Final = re.compile(rb"S[123][0-9A-Fa-f]{2}")
_RECORD_HEADER_BEGUN: Final = re.compile(rb"S(?:[123][0-9A-Fa-f]?)?")
_HEX: Final = re.compile(rb"[0-9A-Fa-f]*")
_ANY_RECORD: Final = re.compile(rb"S([123])([0-9A-Fa-f]{2})([0-9A-Fa-f]*)")
_ADDRESS_DIGITS: Final = {b"1": 4, b"2": 6, b"3": 8}


class Sender(enum.Enum):
    """Who sent a chunk."""

    SERVER = "server"
    DEVICE = "device"


class Kind(enum.Enum):
    """The frames of the protocol."""

    IDENTIFICATION = "identification"
    ALLOWED = "update allowed"
    DENIED = "update denied"
    RECORD = "record"
    END = "end frame"
    ACK = "ack"


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame: its bytes as they came, and the text that matters in it (MCUID or version, else empty)."""

    kind: Kind
    raw: bytes
    value: str = ""


class Reader(Protocol):
    """Reads the first frame of some bytes; `None` while more are needed."""

    def __call__(self, data: bytes, /) -> Frame | None: ...


def identification(mcuid: str) -> bytes:
    """The frame by which a device names itself."""
    return b"@" + mcuid.encode("ascii") + b"#"


def end(version: str) -> bytes:
    """The frame by which a server ends a transfer; `version` is one or two upper-case hex digits."""
    return b"@" + version.encode("ascii") + b"##"


def read_answer(data: bytes, /) -> Frame | None:
    """A server's answer to an identification."""
    for raw, kind in ((ALLOWED, Kind.ALLOWED), (DENIED, Kind.DENIED)):
        if data.startswith(raw):
            return Frame(kind, raw)
        if raw.startswith(data):
            return None
    raise WireError(f"{show(data)} is neither {show(ALLOWED)} nor {show(DENIED)}")


def read_transfer(data: bytes, /) -> Frame | None:
    """A server's record, as long as its count field says, or its end frame."""
    if not data:
        return None
    if data.startswith(b"@"):
        if found := _END.match(data):
            return Frame(Kind.END, found[0], found[1].decode("ascii"))
        if _END_BEGUN.fullmatch(data):
            return None
        raise WireError(f"{show(data)} is no end frame (@, one or two upper-case hex digits, ##)")
    if header := _RECORD_HEADER.match(data):
        size = len(header[0]) + 2 * int(header[0][2:], 16)
        digits = _HEX.match(data[:size], len(header[0]))
        assert digits is not None
        if digits.end() < min(size, len(data)):
            raise WireError(f"{show(data)} stops being a record at character {digits.end() + 1} of {size}")
        return Frame(Kind.RECORD, data[:size]) if len(data) >= size else None
    if _RECORD_HEADER_BEGUN.fullmatch(data):
        return None
    raise WireError(f"{show(data)} begins neither a record (S1, S2, S3) nor an end frame")


def read_identification(data: bytes, /) -> Frame | None:
    """A device's identification: `@`, decimal or upper-case hex digits, `#`."""
    if found := _MCUID.match(data):
        return Frame(Kind.IDENTIFICATION, found[0], found[1].decode("ascii"))
    if len(data) >= IDENTIFICATION_LIMIT or not re.fullmatch(rb"(?:@[0-9A-F]*)?", data):
        raise WireError(f"{show(data)} is no identification (@, decimal or upper-case hex digits, #)")
    return None


def read_ack(data: bytes, /) -> Frame | None:
    """A device's ack."""
    if not data:
        return None
    if data.startswith(ACK):
        return Frame(Kind.ACK, ACK)
    raise WireError(f"{show(data)} is no ack ({show(ACK)})")


def show(data: bytes) -> str:
    """Bytes for a message: as Python writes them, cut where nobody would read on."""
    if len(data) <= SHOWN_BYTES:
        return repr(data)
    return f"{data[:SHOWN_BYTES]!r}… ({len(data)} bytes)"


def explain(data: bytes, sender: Sender) -> str:
    """What one chunk means at first sight, for the annotated wire log; the session's state is not known here."""
    meanings: list[str] = []
    rest = data
    while rest and len(meanings) < 4:
        meaning, used = _first_meaning(rest, sender)
        meanings.append(meaning)
        rest = rest[used:]
    return "; ".join(meanings) + ("; …" if rest else "")


def _first_meaning(data: bytes, sender: Sender) -> tuple[str, int]:
    """What the chunk begins with, and how many bytes that takes."""
    endings = len(data) - len(data.lstrip(LINE_ENDINGS))
    if endings:
        return "line ending", endings
    if sender is Sender.DEVICE:
        if found := re.match(rb"@([0-9A-F]+)#", data):
            return f"identification of {found[1].decode('ascii')}", found.end()
        if found := re.match(rb"@?[0-9A-F]+#?", data):
            return "part of an identification", found.end()
        return ("ack", 1) if data.startswith(ACK) else ("no frame of the protocol", len(data))
    if found := _END.match(data):
        return f"end frame, version {found[1].decode('ascii')}", found.end()
    for raw, kind in ((ALLOWED, Kind.ALLOWED), (DENIED, Kind.DENIED)):
        if data.startswith(raw):
            return kind.value, len(raw)
    if found := _ANY_RECORD.match(data):
        return _record_meaning(found), min(found.end(), 4 + 2 * int(found[2], 16))
    if _RECORD_HEADER_BEGUN.fullmatch(data) or _END_BEGUN.fullmatch(data):
        return "part of a frame", len(data)
    return "no frame of the protocol", len(data)


def _record_meaning(found: re.Match[bytes]) -> str:
    """A record's type, address and size, as far as they came."""
    name = f"record S{found[1].decode('ascii')}"
    digits = _ADDRESS_DIGITS[found[1]]
    if len(found[3]) < digits:
        return f"{name}, cut"
    count = int(found[2], 16)
    body = bytes.fromhex((found[2] + found[3][: 2 * count])[: 2 + len(found[3]) // 2 * 2].decode("ascii"))
    place = f"{name} at {int(found[3][:digits], 16):#010x}, {count - digits // 2 - 1} bytes"
    if len(body) <= count:
        return f"{place}, cut"
    return place if sum(body) % 256 == 0xFF else f"{place}, wrong checksum"
