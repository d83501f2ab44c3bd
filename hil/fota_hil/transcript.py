"""What passed on a programmer's serial line, as text: the trace's own lines, and above each request what it asks.

Comments begin with `#`, which the reader of traces skips; so a transcript is a trace. A master sends each request in
one piece, so each piece that was sent can be read by itself.
"""

from collections.abc import Iterator
from typing import Final

from fota_protocol.an2295 import HOOK, Command, Ident, read_request, result
from fota_protocol.errors import RemoteProtocolError
from fota_transport.trace import Direction, Trace

TRANSCRIPT_LIMIT: Final = 67_108_864
"""Bytes of a transcript that are kept (64 MiB); the oldest go first. An update of 512 KiB has some 6 MiB."""


def render_transcript(trace: Trace, ident: Ident | None) -> str:
    """The text; without an ident, only what needs none is decoded."""
    return "".join(f"{line}\n" for line in _lines(trace, ident))


def _lines(trace: Trace, ident: Ident | None) -> Iterator[str]:
    if trace.dropped_entries:
        yield f"# {trace.dropped_entries} chunks ({trace.dropped_bytes} bytes) dropped"
    for entry in trace:
        said = _sent(entry.data, ident) if entry.direction is Direction.SENT else _received(entry.data, ident)
        if said:
            yield f"# {said}"
        yield str(entry)


def _sent(data: bytes, ident: Ident | None) -> str:
    if not data.strip(HOOK):
        return "hook" if len(data) == 1 else f"hook, {len(data)} times: completes what the board may be waiting for"
    if data == bytes([Command.IDENT]):
        return "ident"
    if ident is None:
        return ""
    try:
        received = read_request(data, ident.family, has_crc=ident.has_crc)
    except RemoteProtocolError:
        return ""
    if received is None:
        return ""
    request = received.request
    name = request.command.name.lower()
    match request.command:
        case Command.ERASE:
            return f"{name} {request.address:#010x}"
        case Command.WRITE:
            return f"{name} {request.address:#010x}, {len(request.data)} bytes"
        case Command.READ:
            return f"{name} {request.address:#010x}, {request.length} bytes"
    return name


def _received(data: bytes, ident: Ident | None) -> str:
    if not data.strip(HOOK):
        return "announcement, or answer to a hook"
    if ident is None or not ident.has_crc:
        return ""
    if data == result(is_good=True, has_crc=True):
        return "done"
    return "refused" if data.startswith(result(is_good=False, has_crc=True)) else ""
