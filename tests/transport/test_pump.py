"""One session over one blocking link."""

import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import pytest

from fota_transport.clock import SystemClock
from fota_transport.links import Link, TcpLink, memory_pair
from fota_transport.ptys import open_pty
from fota_transport.pump import pump
from fota_transport.trace import Direction, Trace

Pair: TypeAlias = tuple[Link, Link]

SOON = 5.0
"""Seconds for what happens at once."""


@dataclass(frozen=True, slots=True)
class Line:
    """A whole line came in."""

    text: bytes


@dataclass(frozen=True, slots=True)
class Over:
    """The session is over, and why."""

    reason: str


class LineSession:
    """Acks every line with `@`; over after `last` lines, on a time-out (`!`) or without a peer."""

    def __init__(self, now: float, *, last: int = 3, timeout_s: float = SOON) -> None:
        self.events: tuple[Line | Over, ...] = ()
        self.deadline: float | None = now + timeout_s
        self._left = last
        self._pending = b""

    def receive(self, data: bytes, now: float) -> bytes:
        *lines, self._pending = (self._pending + data).split(b"\n")
        self.events += tuple(Line(line) for line in lines)
        self._left -= len(lines)
        if self._left <= 0:
            self._end("complete")
        return b"@" * len(lines)

    def timeout(self, now: float) -> bytes:
        self._end("time-out")
        return b"!"

    def peer_closed(self, now: float) -> None:
        self._end("peer closed")

    def _end(self, reason: str) -> None:
        self.deadline = None
        self.events += (Over(reason),)


def tcp_pair() -> Pair:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host, port = listener.getsockname()
        near = TcpLink.connect(host, port, SOON)
        far, _ = listener.accept()
    return near, TcpLink(far)


@pytest.fixture(params=[tcp_pair, open_pty, memory_pair])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """Our end of a link and the peer's."""
    make: Callable[[], Pair] = request.param
    ours, theirs = make()
    with ours, theirs:
        yield ours, theirs


def pump_and_note(session: LineSession, link: Link, *, first: bytes = b"", trace: Trace | None = None) -> list[object]:
    """Pump to the end; echo each line in capitals; return the events."""
    seen: list[object] = []

    def on_event(event: object) -> bytes:
        seen.append(event)
        return event.text.upper() if isinstance(event, Line) else b""

    pump(session, link, SystemClock(), on_event, first, trace)
    return seen


def read_all(link: Link, size: int) -> bytes:
    data = b""
    while len(data) < size:
        chunk = link.read(SOON)
        assert chunk
        data += chunk
    return data


def test_a_session_runs_to_its_end(pair: Pair) -> None:
    """First bytes, answers and what the owner adds for an event are sent in that order."""
    ours, theirs = pair
    theirs.write(b"a\nb\nc\n", SOON)
    seen = pump_and_note(LineSession(SystemClock().monotonic()), ours, first=b"hello ")

    assert [Line(b"a"), Line(b"b"), Line(b"c"), Over("complete")] == seen
    assert read_all(theirs, 12) == b"hello @@@ABC"


def test_a_conversation_needs_no_thread_on_our_side(pair: Pair) -> None:
    """The pump waits for each next line and answers before it waits again."""
    ours, theirs = pair
    answers: list[bytes] = []

    def peer() -> None:
        for line in (b"a", b"b", b"c"):
            theirs.write(line + b"\n", SOON)
            answers.append(read_all(theirs, 2))

    thread = threading.Thread(target=peer)
    thread.start()
    pump_and_note(LineSession(SystemClock().monotonic()), ours)
    thread.join()

    assert answers == [b"@A", b"@B", b"@C"]


def test_a_silent_peer_times_out(pair: Pair) -> None:
    """At its deadline the session is asked what to do, and what it says is sent."""
    ours, theirs = pair
    seen = pump_and_note(LineSession(SystemClock().monotonic(), timeout_s=0.01), ours)

    assert [Over("time-out")] == seen
    assert theirs.read(SOON) == b"!"


def test_a_peer_that_does_not_read_is_gone_at_the_deadline() -> None:
    """Bytes that nobody takes before the deadline end the session as a lost peer."""
    ours, theirs = memory_pair()
    with ours, theirs:
        session = LineSession(SystemClock().monotonic(), timeout_s=0.05)
        seen = pump_and_note(session, ours, first=bytes(1_048_576))

    assert [Over("peer closed")] == seen


@pytest.mark.parametrize("make", [tcp_pair, memory_pair])
def test_the_end_of_the_stream_ends_the_session(make: Callable[[], Pair]) -> None:
    """A peer that closes in the middle is told to the session, after its last bytes."""
    ours, theirs = make()
    with ours:
        with theirs:
            theirs.write(b"a\nb", SOON)
        seen = pump_and_note(LineSession(SystemClock().monotonic()), ours)

    assert [Line(b"a"), Over("peer closed")] == seen


def test_a_peer_that_hangs_up_before_the_first_bytes_ends_the_session() -> None:
    """A link that breaks while writing is a lost peer, not an exception."""
    ours, theirs = memory_pair()
    with ours:
        theirs.close()
        seen = pump_and_note(LineSession(SystemClock().monotonic()), ours, first=b"hello")

    assert [Over("peer closed")] == seen


@pytest.mark.parametrize("first", [b"", b"hello"])
def test_a_reset_ends_the_session(first: bytes) -> None:
    """A TCP reset, met while reading or while writing, is told as a lost peer."""
    ours, theirs = tcp_pair()
    with ours:
        ours.write(b"never read" * 1_000, SOON)
        theirs.read(SOON)
        theirs.close()
        seen = pump_and_note(LineSession(SystemClock().monotonic()), ours, first=first)

    assert [Over("peer closed")] == seen


def test_an_over_session_only_hands_on_its_events() -> None:
    """A session that is over before the pump starts still reports and sends, and waits for none."""
    ours, theirs = memory_pair()
    with ours, theirs:
        session = LineSession(SystemClock().monotonic())
        out = session.timeout(0.0)
        seen = pump_and_note(session, ours, first=out)

        assert [Over("time-out")] == seen
        assert theirs.read(SOON) == b"!"


def test_the_trace_has_both_directions_in_order() -> None:
    """Every chunk that passed is in the trace, from our point of view."""
    ours, theirs = memory_pair()
    with ours, theirs:
        theirs.write(b"a\n", SOON)
        clock = SystemClock()
        trace = Trace(clock.monotonic())
        pump_and_note(LineSession(clock.monotonic(), last=1), ours, first=b"?", trace=trace)

    assert [(entry.direction, entry.data) for entry in trace] == [
        (Direction.SENT, b"?"),
        (Direction.RECEIVED, b"a\n"),
        (Direction.SENT, b"@"),
        (Direction.SENT, b"A"),
    ]
