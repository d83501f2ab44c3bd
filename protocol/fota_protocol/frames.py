"""Frames (`protocol.md` section 1), and the readers that cut a byte stream into them.

Framing is a byte stream: TCP may split or join frames anywhere. Which frame a byte belongs to depends on the state of
the session: `@4#` is a verdict, and a prefix of the end frame `@4##`. So there is one reader per state, each a function
that takes what it understands from the front of a `ReceiveBuffer`, returns None when it needs more bytes, and raises
`RemoteProtocolError` as soon as no continuation can be right. Sessions choose the reader by their state.
"""

import re
from dataclasses import dataclass
from typing import Final

from .errors import RemoteProtocolError
from .identity import (
    MAX_IDENTIFICATION_SIZE,
    Identification,
    McuidFormat,
    cannot_be_identification,
    parse_mcuid,
)

ALLOW: Final = b"@4#"
"""Server to device: the update begins."""
DENY: Final = b"@0#"
"""Server to device: refused; the server closes behind it."""
ACK: Final = b"@"
"""Device to server: the last frame was taken."""

_VERSION: Final = re.compile(r"[0-9A-Fa-f]{1,2}")
_LINE_ENDS: Final = b"\r\n"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The server's answer to an identification."""

    allowed: bool


@dataclass(frozen=True, slots=True)
class RecordFrame:
    """One S-record as it came; its inside is not yet checked."""

    text: bytes


@dataclass(frozen=True, slots=True)
class EndFrame:
    """The image is complete; `version` is one or two hexadecimal digits."""

    version: str

    def encode(self) -> bytes:
        """The frame, in upper case."""
        return b"@%s##" % normal_version(self.version).encode("ascii")


def normal_version(text: str) -> str:
    """A version in the form that is sent: 1 or 2 upper-case hexadecimal digits; raises `ValueError`."""
    if not _VERSION.fullmatch(text):
        raise ValueError(f"version {text!r}, expected 1 or 2 hexadecimal digits")
    return text.upper()


class ReceiveBuffer:
    """Bytes received and not yet understood, at most `limit` of them."""

    __slots__ = ("_data", "_limit")

    def __init__(self, limit: int) -> None:
        self._data = bytearray()
        self._limit = limit

    def __len__(self) -> int:
        return len(self._data)

    def __iadd__(self, data: bytes) -> "ReceiveBuffer":
        if len(self._data) + len(data) > self._limit:
            raise RemoteProtocolError(f"more than {self._limit} bytes without being asked for them")
        self._data += data
        return self

    def peek(self) -> bytes:
        """All of it, left in place."""
        return bytes(self._data)

    def take(self, size: int) -> bytes:
        """Remove and return the first `size` bytes."""
        taken = bytes(self._data[:size])
        del self._data[:size]
        return taken


def read_identification(
    buffer: ReceiveBuffer, mcuid_format: McuidFormat, max_size: int = MAX_IDENTIFICATION_SIZE
) -> Identification | None:
    """Server, before a verdict: `@`, an MCUID and what follows it, `#`; at most `max_size` bytes."""
    data = buffer.peek()
    end = data.find(b"#", 0, max_size)
    wrong = cannot_be_identification(data[: end if end >= 0 else None], mcuid_format, max_size) if data else None
    if wrong is not None:
        raise RemoteProtocolError(f"identification: {wrong}")
    if end < 0:
        return None
    text = buffer.take(end + 1)[1:-1].decode("ascii")
    return parse_mcuid(text, mcuid_format)


def count_acks(data: bytes) -> int:
    """Server, after `@4#`: how many acks `data` is. The line ends that modem routines append are ignored."""
    acks = data.translate(None, _LINE_ENDS)
    if acks.strip(ACK):
        raise RemoteProtocolError(f"expected an ack (b'@'), got {data[:40]!r}")
    return len(acks)


def read_verdict(buffer: ReceiveBuffer) -> Verdict | None:
    """Device, after its identification: `@4#` or `@0#`."""
    start = buffer.peek()[:3]
    if start in (ALLOW, DENY):
        return Verdict(allowed=buffer.take(3) == ALLOW)
    if not (ALLOW.startswith(start) or DENY.startswith(start)):
        raise RemoteProtocolError(f"expected b'@4#' or b'@0#', got {start!r}")
    return None


def read_transfer(buffer: ReceiveBuffer) -> RecordFrame | EndFrame | None:
    """Device, after `@4#`: a record, whose length its count field gives, or the end frame.

    A late refusal, `@0#`, is not returned: only what follows it (nothing) tells it from the end frame `@0##`. It stays
    in the buffer, where `is_late_refusal` finds it.
    """
    data = buffer.peek()
    if data[:1] == b"S":
        count = data[2:4]
        if not _is_prefix(rb"S([0-9][0-9A-Fa-f]{0,2})?", data[:4]):
            raise RemoteProtocolError(f"expected an S-record, got {data[:4]!r}")
        if len(count) < 2 or len(data) < (size := 4 + 2 * int(count, 16)):
            return None
        return RecordFrame(buffer.take(size))
    head = data[:5]
    if match := re.match(rb"@([0-9A-Fa-f]{1,2})##", head):
        buffer.take(match.end())
        return EndFrame(match[1].decode("ascii"))
    if head and not _is_prefix(rb"@([0-9A-Fa-f]{0,2}|[0-9A-Fa-f]{1,2}#)", head):
        raise RemoteProtocolError(f"expected an S-record or an end frame, got {head!r}")
    return None


def is_late_refusal(buffer: ReceiveBuffer) -> bool:
    """Whether all that is left is `@0#`: with silence or a close behind it, a refusal (revision B)."""
    return buffer.peek() == DENY


def _is_prefix(pattern: bytes, data: bytes) -> bool:
    return re.fullmatch(pattern, data) is not None
