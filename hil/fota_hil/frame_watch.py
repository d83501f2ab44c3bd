"""What the bytes that a relay carries mean: for the eyes of people and for its report; it never touches a byte.

Theory of operation. A `FrameWatch` is told what has passed either way in one session, in the order in which it passed,
however it was cut. It decodes with the readers of `fota_protocol`, and says in words what became whole with a chunk.
Once a side has said what is no frame, that side's bytes are no longer understood, and nothing depends on them.

Whether the board acks `@4#` is seen from whether an ack came before the first record. Where the server does not wait
for that ack, it may come behind the record and is taken for the record's; then the ack of the last record is taken for
that of the end frame. The server's own session knows of the same doubt and calls it `UNCONFIRMED`.
"""

from typing import Final

from fota_protocol.errors import RemoteProtocolError, SRecordError
from fota_protocol.frames import EndFrame, ReceiveBuffer, RecordFrame, is_late_refusal, read_transfer, read_verdict
from fota_protocol.identity import MAX_IDENTIFICATION_SIZE, McuidFormat, parse_mcuid
from fota_protocol.srecord import MAX_RECORD_SIZE, parse

WATCH_LIMIT: Final = 4 * MAX_RECORD_SIZE
"""Bytes of a frame that is not yet whole; a side that sends more without one is no longer understood."""

SHOWN: Final = 40
"""Bytes of what is no frame that are shown."""


class FrameWatch:
    """Decodes one session, both ways."""

    def __init__(self) -> None:
        self.identification: str | None = None
        """The digits of it, once it is whole."""
        self.allowed: bool | None = None
        """What the server answered, once it has."""
        self.records = 0
        """Records that passed to the board."""
        self.acks = 0
        """Acks of the board, that of `@4#` among them."""
        self.version: str | None = None
        """That of the end frame, once it has passed."""
        self.end_acked = False
        """Whether the board acked the end frame."""
        self._acked_verdict = False
        self._naming: bytearray | None = bytearray()
        self._from_server: ReceiveBuffer | None = ReceiveBuffer(WATCH_LIMIT)

    @property
    def is_refused(self) -> bool:
        """Whether the server refused: at once, or by `@0#` with nothing behind it."""
        late = self._from_server is not None and is_late_refusal(self._from_server)
        return self.allowed is False or (self.allowed is True and late)

    def from_board(self, data: bytes) -> list[str]:
        """The board said this."""
        notes: list[str] = []
        if self._naming is not None:
            self._naming += data
            text, end, rest = self._naming.partition(b"#")
            if not end:
                if len(self._naming) > MAX_IDENTIFICATION_SIZE:
                    self._naming = None
                    return [f"an identification of more than {MAX_IDENTIFICATION_SIZE} bytes"]
                return ["part of an identification"]
            self._naming = None
            self.identification = bytes(text).removeprefix(b"@").decode("ascii", "backslashreplace")
            notes.append(f"identification {_named(self.identification)}")
            data = bytes(rest)
        for byte in data:
            if byte == 0x40:
                self.acks += 1
                notes.append(self._ack())
            elif byte not in b"\r\n":
                return [*notes, f"no ack: {data[:SHOWN]!r}"]
        return notes or ["a line end"]

    def from_server(self, data: bytes) -> list[str]:
        """The server said this."""
        if self._from_server is None:
            return ["not understood"]
        notes: list[str] = []
        try:
            self._from_server += data
            while note := self._frame(self._from_server):
                notes.append(note)
        except RemoteProtocolError as error:
            self._from_server = None
            return [*notes, f"no frame: {error}"]
        return notes or ["part of a frame"]

    def _frame(self, buffer: ReceiveBuffer) -> str | None:
        """Take one frame; what it says, None if there is no whole one."""
        if self.allowed is None:
            verdict = read_verdict(buffer)
            if verdict is None:
                return None
            self.allowed = verdict.allowed
            return "allowed" if self.allowed else "refused"
        if self.allowed is False:
            return None
        match read_transfer(buffer):
            case RecordFrame(text):
                self.records += 1
                return f"record {self.records}: {_record(text)}"
            case EndFrame(version):
                self.version = version.upper()
                return f"end frame, version {self.version}"
        return None

    def _ack(self) -> str:
        if self.allowed is None:
            return "an ack of nothing"
        if not self.records and self.version is None:
            self._acked_verdict = True
            return "ack of @4#"
        number = self.acks - self._acked_verdict
        if number <= self.records:
            return f"ack of record {number}"
        if self.version is None or self.end_acked:
            return "an ack too many"
        self.end_acked = True
        return "ack of the end frame"


def _named(digits: str) -> str:
    try:
        found = parse_mcuid(digits, McuidFormat.DECIMAL25)
    except RemoteProtocolError:
        return digits
    return f"{found.mcuid}, suffix {found.suffix}" if found.suffix else found.mcuid


def _record(text: bytes) -> str:
    try:
        record = parse(text)
    except SRecordError as error:
        return f"damaged: {error}"
    return f"S{record.type} at {record.address:#010x}, {len(record.data)} bytes"
