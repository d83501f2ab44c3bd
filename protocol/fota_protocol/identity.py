"""MCUIDs: who a device says it is, in the two formats that are in the field (`protocol.md` section 2)."""

import enum
import re
from dataclasses import dataclass
from typing import Final

from .errors import RemoteProtocolError

MAX_IDENTIFICATION_SIZE: Final = 1024
"""Longest identification in bytes, `@` and `#` included (the reference server reads at most this)."""


class McuidFormat(enum.Enum):
    """Which characters an identification has between `@` and `#`."""

    DECIMAL25 = "decimal25"
    """Revision A: 25 decimal digits and any number of further ones (model, hardware and firmware version)."""
    HEX = "hex"
    """Revision B: 1 to 64 hexadecimal digits."""


@dataclass(frozen=True, slots=True)
class Identification:
    """What a device said of itself: its MCUID (hexadecimal ones in upper case) and the digits behind it."""

    mcuid: str
    suffix: str = ""

    def encode(self) -> bytes:
        """The frame that says it."""
        return b"@%s#" % (self.mcuid + self.suffix).encode("ascii")


_ALPHABET: Final = {
    McuidFormat.DECIMAL25: re.compile(rb"[0-9]*"),
    McuidFormat.HEX: re.compile(rb"[0-9A-Fa-f]*"),
}
_EXPECTED: Final = {
    McuidFormat.DECIMAL25: "25 or more decimal digits",
    McuidFormat.HEX: "1 to 64 hexadecimal digits",
}
_DECIMAL_SIZE: Final = 25
_HEX_MAX_SIZE: Final = 64
_MAX_SIZE: Final = {
    McuidFormat.DECIMAL25: MAX_IDENTIFICATION_SIZE,
    McuidFormat.HEX: _HEX_MAX_SIZE + 2,
}
"""Longest identification in bytes, `@` and `#` included."""

MIN_IDENTIFICATION_SIZE: Final = _HEX_MAX_SIZE + 2
"""Least limit in bytes that a server may set: every MCUID of either format fits, `@` and `#` included."""


def parse_mcuid(text: str, mcuid_format: McuidFormat) -> Identification:
    """Read what stands between `@` and `#`; raises `RemoteProtocolError` when it has not the format."""
    raw = text.encode("ascii", "replace")
    digits = _ALPHABET[mcuid_format].fullmatch(raw) is not None
    if mcuid_format is McuidFormat.DECIMAL25:
        if digits and len(raw) >= _DECIMAL_SIZE:
            return Identification(text[:_DECIMAL_SIZE], text[_DECIMAL_SIZE:])
    elif digits and 1 <= len(raw) <= _HEX_MAX_SIZE:
        return Identification(text.upper())
    raise RemoteProtocolError(f"MCUID {text!r}, expected {_EXPECTED[mcuid_format]}")


def cannot_be_identification(
    start: bytes, mcuid_format: McuidFormat, max_size: int = MAX_IDENTIFICATION_SIZE
) -> str | None:
    """Why no continuation makes an identification of `start`, which holds no `#`; None when one might.

    `max_size` is the longest in bytes that is taken, `@` and `#` included.
    """
    if start[:1] != b"@":
        return f"starts with {start[:1]!r}, expected b'@'"
    match = _ALPHABET[mcuid_format].match(start, 1)
    assert match is not None  # the pattern matches the empty string
    if match.end() < len(start):
        wrong = start[match.end() : match.end() + 1]
        return f"byte {match.end()} is {wrong!r}, expected {_EXPECTED[mcuid_format]} and b'#'"
    if len(start) >= (limit := min(_MAX_SIZE[mcuid_format], max_size)):
        return f"no b'#' within {limit} bytes, expected {_EXPECTED[mcuid_format]}"
    return None
