"""Where sessions begin in what a board says: identifications told from acks and from noise, without delaying an ack.

A serial line has no connections. A session begins where the board identifies itself: `@` and a digit. What it says
before that (boot texts, banners, an ack that comes late) is noise, which no server gets to see.

Theory of operation. A `Finder` is fed what the board says and returns it in pieces, every byte exactly once and in
order, but for one: in mid-session a lone `@` is an ack and passes at once, since an update takes as long as its acks.
If a digit follows, the board was reset and begins anew, and that `@` was its first byte: then the new session begins
with an `@` of its own, and the old one, which is closed at that, has had one ack too many.

One ack must not be too many: that of the end frame, which makes an update a success. Once the end frame has passed
(`end_frame_passed`), an `@` is held back until what follows tells what it is, or until nothing follows (`release`).
There the board may go on to its application, whose text can begin with digits, too; so there only a whole
identification counts as one, and what else comes is noise.
"""

import enum
import re
from dataclasses import dataclass
from typing import Final

from fota_protocol.identity import MAX_IDENTIFICATION_SIZE

_DIGITS: Final = frozenset(b"0123456789ABCDEFabcdef")
"""What an MCUID is made of, in either revision."""

_WHOLE: Final = re.compile(rb"@[0-9A-Fa-f]+#")
_BEGUN: Final = re.compile(rb"@[0-9A-Fa-f]*")
_MARKS: Final = re.compile(rb"[@#]")


class Kind(enum.Enum):
    """What a piece of the board's bytes is."""

    NOISE = "noise"
    """For the trace only."""
    BEGIN = "begin"
    """A session begins with these bytes; one that is under way is over."""
    PASS = "pass"
    """For the server of the session that is under way."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes of one kind."""

    kind: Kind
    data: bytes


class _Phase(enum.Enum):
    OUTSIDE = "no session"
    NAMING = "within an identification"
    SESSION = "behind an identification"
    ENDING = "behind the end frame"


_ACKS: Final = (Piece(Kind.PASS, b"@"),)


class Finder:
    """Cuts one board's bytes into pieces."""

    def __init__(self) -> None:
        self._phase = _Phase.OUTSIDE
        self._held = b""
        self._has_passed_at = False
        """Whether the last byte that passed was an `@`, so that a digit would make it the beginning of a session."""
        self._pieces: list[Piece] = []

    @property
    def is_naming(self) -> bool:
        """Whether an identification has begun and is not yet whole."""
        return self._phase is _Phase.NAMING

    @property
    def is_holding(self) -> bool:
        """Whether bytes of the session are held back: call `release` if nothing follows for a while."""
        return bool(self._held) and self._phase is not _Phase.OUTSIDE

    def feed(self, data: bytes) -> tuple[Piece, ...]:
        """Take what the board says."""
        if data == b"@" and self._phase is _Phase.SESSION and not self._held:
            self._has_passed_at = True
            return _ACKS
        rest = self._held + data
        self._held = b""
        while rest:
            match self._phase:
                case _Phase.OUTSIDE:
                    rest = self._outside(rest)
                case _Phase.NAMING:
                    rest = self._naming(rest)
                case _Phase.SESSION:
                    rest = self._session(rest)
                case _Phase.ENDING:
                    rest = self._ending(rest)
        return self._taken()

    def release(self) -> tuple[Piece, ...]:
        """Nothing followed what is held back: its `@` was an ack, and digits behind that are noise."""
        if self.is_holding:
            held, self._held = self._held, b""
            self._put(Kind.PASS, held[:1])
            self._put(Kind.NOISE if self._phase is _Phase.ENDING else Kind.PASS, held[1:])
            self._has_passed_at = len(held) == 1
        return self._taken()

    def end_frame_passed(self) -> None:
        """The server's end frame went to the board."""
        if self._phase is _Phase.SESSION:
            self._phase = _Phase.ENDING

    def session_ended(self) -> None:
        """The session is over: the board's next one begins with an identification. What is held may be its first."""
        self._phase = _Phase.OUTSIDE
        self._has_passed_at = False

    def line_lost(self) -> None:
        """The board was unplugged: nothing goes on where it stopped."""
        self.session_ended()
        self._held = b""

    def _outside(self, data: bytes) -> bytes:
        at = data.find(b"@")
        if at < 0:
            self._put(Kind.NOISE, data)
            return b""
        self._put(Kind.NOISE, data[:at])
        data = data[at:]
        if len(data) == 1:
            self._held = data
            return b""
        if data[1] in _DIGITS or data[1:2] == b"#":
            return self._begin(data)
        self._put(Kind.NOISE, data[:1])
        return data[1:]

    def _naming(self, data: bytes) -> bytes:
        mark = _MARKS.search(data)
        if mark is None:
            self._put(Kind.PASS, data)
            return b""
        if mark[0] == b"#":
            self._put(Kind.PASS, data[: mark.end()])
            self._phase = _Phase.SESSION
            self._has_passed_at = False
            return data[mark.end() :]
        self._put(Kind.PASS, data[: mark.start()])
        data = data[mark.start() :]
        if len(data) == 1:
            self._held = data
            return b""
        if data[1] in _DIGITS:
            return self._begin(data)
        self._put(Kind.PASS, data[:1])
        return data[1:]

    def _session(self, data: bytes) -> bytes:
        if self._has_passed_at:
            self._has_passed_at = False
            if data[0] in _DIGITS:
                return self._begin(b"@" + data)
        at = data.find(b"@")
        if at < 0:
            self._put(Kind.PASS, data)
            return b""
        if len(data) > at + 1 and data[at + 1] in _DIGITS:
            self._put(Kind.PASS, data[:at])
            return self._begin(data[at:])
        self._put(Kind.PASS, data[: at + 1])
        self._has_passed_at = len(data) == at + 1
        return data[at + 1 :]

    def _ending(self, data: bytes) -> bytes:
        if data[:1] != b"@":
            end = data.find(b"@")
            other, rest = (data, b"") if end < 0 else (data[:end], data[end:])
            ends = len(other) - len(other.lstrip(b"\r\n"))
            self._put(Kind.PASS, other[:ends])
            self._put(Kind.NOISE, other[ends:])
            return rest
        if _WHOLE.match(data):
            return self._begin(data)
        if _BEGUN.fullmatch(data) and len(data) <= MAX_IDENTIFICATION_SIZE:
            self._held = data
            return b""
        self._put(Kind.PASS, data[:1])
        return data[1:]

    def _begin(self, data: bytes) -> bytes:
        """A session begins here; returns what is behind its first two bytes' `@`."""
        self._phase = _Phase.NAMING
        self._has_passed_at = False
        self._pieces.append(Piece(Kind.BEGIN, data[:1]))
        return data[1:]

    def _put(self, kind: Kind, data: bytes) -> None:
        if not data:
            return
        if self._pieces:
            last = self._pieces[-1]
            if last.kind is kind or (last.kind is Kind.BEGIN and kind is Kind.PASS):
                self._pieces[-1] = Piece(last.kind, last.data + data)
                return
        self._pieces.append(Piece(kind, data))

    def _taken(self) -> tuple[Piece, ...]:
        pieces, self._pieces = tuple(self._pieces), []
        return pieces
