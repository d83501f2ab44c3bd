"""A relay between a pseudo terminal, at whose end the test plays the board, and a server that the test plays, too."""

import contextlib
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final, Self, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

import fota_fixtures
from fota_hil.close_signal import CloseSignal, SignalKind
from fota_hil.errors import PortError
from fota_hil.frame_watch import WATCH_LIMIT, FrameWatch
from fota_hil.identifications import Finder, Kind, Piece
from fota_hil.relay import TO_SERVER_LIMIT, Relay, RelaySettings
from fota_hil.relay_report import Ended, Outcome
from fota_hil.relay_trace import RelayTrace
from fota_hil.serial_link import SerialLink
from fota_hil.templates import Template
from fota_protocol.formats import load
from fota_transport.clock import SystemClock
from fota_transport.links import TcpLink
from fota_transport.ptys import PtyLink, open_pty
from fota_transport.trace import Direction, parse

SOON: Final = 10.0
"""Seconds for what happens at once."""

QUIET: Final = 0.3
"""Seconds in which nothing may come."""

NAME: Final = b"@0001000000000000000000000#"
OTHER: Final = b"@0001999999999999999999999#"
RECORDS: Final = tuple(load(fota_fixtures.path("blink_1.s19").read_bytes()).frames[:3])


class Bench:
    """A relay that runs in a thread, the board's end of its port, and a server that listens."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.name = folder / "port"
        self.trace_path = folder / "trace.txt"
        self.said: list[str] = []
        self.error: Exception | None = None
        self.board = self.plug()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(SOON)
        host, port = self.listener.getsockname()
        clock = SystemClock()
        self._trace = RelayTrace(self.trace_path, "bench", clock, self.said.append)
        self.relay = Relay(
            RelaySettings(**{"host": host, "port": port, **settings}),
            lambda: SerialLink.open(str(self.name), keeps_input=True),
            clock,
            self.said.append,
            self._trace,
        )
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            self.relay.run()
        except PortError as error:
            self.error = error

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.relay.stop()
        self.wait()
        self.listener.close()
        self.board.close()

    def wait(self) -> None:
        """Wait until the relay has ended by itself, or because it was told to."""
        self._thread.join(SOON)
        assert not self._thread.is_alive()
        self._trace.close()

    def plug(self) -> PtyLink:
        """Plug a board in: a new pseudo terminal under the old name."""
        master, slave = open_pty()
        self._slave = slave  # kept open until the relay has it, so that the master is never hung up
        self.name.unlink(missing_ok=True)
        self.name.symlink_to(slave.path)
        return master

    def unplug(self) -> None:
        """Pull the plug."""
        self.name.unlink()
        self._slave.close()
        self.board.close()

    def accept(self) -> TcpLink:
        """The relay's next connection."""
        connection, _ = self.listener.accept()
        return TcpLink(connection)

    def identify(self, name: bytes = NAME) -> TcpLink:
        """The board identifies itself and the server allows it."""
        self.board.write(name, SOON)
        server = self.accept()
        assert name == read(server, len(name))
        server.write(b"@4#", SOON)
        assert read(self.board, 3) == b"@4#"
        return server

    def trace(self) -> str:
        """The trace so far."""
        return self.trace_path.read_text()


def read(link: TcpLink | PtyLink, size: int) -> bytes:
    """So many bytes."""
    data = b""
    while len(data) < size:
        chunk = link.read(SOON)
        assert chunk, data
        data += chunk
    return data


def is_quiet(link: TcpLink | PtyLink) -> bool:
    """Whether nothing comes for a while."""
    with contextlib.suppress(TimeoutError):
        return link.read(QUIET) == b"nothing"
    return True


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for what must come."""
    deadline = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def reset(server: TcpLink) -> None:
    """Close as one who does not want to know: the peer gets a reset."""
    server._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    server.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    """Start benches that end with the test."""
    with contextlib.ExitStack() as stack:
        yield lambda **settings: stack.enter_context(Bench(tmp_path, **settings))


# --- where sessions begin


def fed(*chunks: bytes, ending: bool = False) -> list[tuple[Kind, bytes]]:
    """What a finder makes of chunks; with `ending`, the end frame passes behind the first."""
    finder = Finder()
    found = []
    for chunk in chunks:
        found += [(piece.kind, piece.data) for piece in finder.feed(chunk)]
        if ending:
            finder.end_frame_passed()
    return found


def test_boot_text_is_noise_and_the_session_begins_at_the_at_sign() -> None:
    """What a board says before its identification is not the server's business."""
    assert [(Kind.NOISE, b"Boot v1 me@xyz\r\n"), (Kind.BEGIN, NAME)] == fed(b"Boot v1 me@xyz\r\n" + NAME)


def test_a_late_ack_begins_no_session() -> None:
    """A lone `@` without a session is noise, with its line end, and does not spoil the identification that follows."""
    assert [(Kind.NOISE, b"@\r\n"), (Kind.NOISE, b"@"), (Kind.BEGIN, NAME)] == fed(b"@", b"\r\n", b"@", NAME)


def test_an_ack_passes_at_once() -> None:
    """In mid-session nothing waits to see what follows an `@`."""
    assert [(Kind.BEGIN, NAME), (Kind.PASS, b"@"), (Kind.PASS, b"@\r\n")] == fed(NAME, b"@", b"@\r\n")


def test_an_identification_in_mid_session_begins_anew() -> None:
    """In one chunk its `@` is not taken for an ack."""
    assert [(Kind.BEGIN, NAME), (Kind.PASS, b"@"), (Kind.BEGIN, OTHER)] == fed(NAME, b"@" + OTHER)


def test_an_at_sign_that_passed_begins_the_session_that_its_digits_show() -> None:
    """Cut behind its `@`, the old session gets one ack too many, and the new one its whole identification."""
    assert [(Kind.BEGIN, NAME), (Kind.PASS, b"@"), (Kind.BEGIN, OTHER)] == fed(NAME, OTHER[:1], OTHER[1:])


def test_an_identification_within_an_identification_begins_anew() -> None:
    """A board that is reset while it says its digits is heard from the beginning."""
    assert [(Kind.BEGIN, NAME[:9]), (Kind.BEGIN, NAME)] == fed(NAME[:9] + NAME)


@pytest.mark.parametrize("cut", range(len(NAME)))
def test_behind_the_end_frame_an_identification_is_no_ack(cut: int) -> None:
    """A board that refuses the image and begins anew does not ack the end frame, however its bytes are cut."""
    pieces = fed(NAME, OTHER[:cut], OTHER[cut:], ending=True)

    assert [(Kind.BEGIN, NAME), (Kind.BEGIN, OTHER)] == pieces


def test_behind_the_end_frame_a_banner_is_noise_and_its_ack_passes_alone() -> None:
    """An application whose text begins with digits does not swallow the ack before it, nor is it sent."""
    pieces = fed(NAME, b"@1.2 Boot", b"ing\r\n", ending=True)[1:]

    assert [(Kind.PASS, b"@"), (Kind.NOISE, b"1.2 Boot"), (Kind.NOISE, b"ing\r\n")] == pieces


def test_behind_the_end_frame_a_lone_ack_passes_when_nothing_follows() -> None:
    """The ack that makes an update a success is held back until silence says that it is one."""
    finder = Finder()
    finder.feed(NAME)
    finder.end_frame_passed()
    held = finder.feed(b"@")

    assert () == held
    assert finder.is_holding
    assert [(Kind.PASS, b"@")] == [(piece.kind, piece.data) for piece in finder.release()]
    assert not finder.is_holding


@given(st.lists(st.sampled_from([b"@", b"#", b"0", b"A", b"x", b"\r", b"\n", NAME, OTHER, b"@\r\n"])), st.randoms())
def test_every_byte_comes_out_once_and_in_order(words: list[bytes], dice: Any) -> None:
    """However a board's bytes are cut, none is lost or moved; only an `@` that had passed is said again."""
    data = b"".join(words)
    finder = Finder()
    passed: list[Piece] = []
    at = 0
    while at < len(data):
        size = dice.randint(1, 5)
        passed += finder.feed(data[at : at + size])
        at += size
        if dice.random() < 0.2:
            finder.end_frame_passed()
    passed += finder.release()
    ours = b""
    for piece in passed:
        if piece.kind is Kind.BEGIN and ours.endswith(b"@") and not data.startswith(ours + piece.data):
            ours = ours[:-1]
        ours += piece.data

    assert data == ours + data[len(ours) :]
    assert data[len(ours) :] in (b"", b"@")


# --- what bytes mean


def test_frames_are_named_when_they_are_whole() -> None:
    """A session is told in words: who, allowed, each record with its address, each ack, the end."""
    watch = FrameWatch()
    notes = [*watch.from_board(NAME), *watch.from_server(b"@4#"), *watch.from_board(b"@")]
    notes += [*watch.from_server(RECORDS[0][:10]), *watch.from_server(RECORDS[0][10:]), *watch.from_board(b"@\r\n")]
    notes += [*watch.from_server(b"@1A##"), *watch.from_board(b"@")]

    assert [
        "identification 0001000000000000000000000",
        "allowed",
        "ack of @4#",
        "part of a frame",
        "record 1: S1 at 0x00004000, 16 bytes",
        "ack of record 1",
        "end frame, version 1A",
        "ack of the end frame",
    ] == notes
    assert (1, "1A", True, False) == (watch.records, watch.version, watch.end_acked, watch.is_refused)


@pytest.mark.parametrize(
    ("said", "note"),
    [
        (b"S1130000FF", "part of a frame"),
        (RECORDS[0][:-1] + b"0", "record 1: damaged: checksum 0xb0"),
        (b"hello", "no frame: expected an S-record or an end frame, got b'hello'"),
        (b"S" + b"2" * (WATCH_LIMIT + 1), "no frame: more than 2056 bytes"),
    ],
)
def test_what_is_no_frame_is_said_and_breaks_nothing(said: bytes, note: str) -> None:
    """Damaged records and strange bytes are named; the watch goes on."""
    watch = FrameWatch()
    watch.from_server(b"@4#")
    notes = watch.from_server(said)

    assert notes[0].startswith(note)
    assert isinstance(watch.from_server(b"@"), list)


@pytest.mark.parametrize("said", [b"@0#", b"@4#@0#"])
def test_a_refusal_is_seen_before_and_after_the_verdict(said: bytes) -> None:
    """Both revisions' refusals count as one."""
    watch = FrameWatch()
    watch.from_server(said)

    assert watch.is_refused


@given(st.randoms())
def test_frames_are_understood_however_they_are_cut(dice: Any) -> None:
    """Records, versions and acks come out the same from any cuts."""
    watch = FrameWatch()
    watch.from_board(NAME)
    data = b"@4#" + b"".join(RECORDS) + b"@1A##"
    while data:
        size = dice.randint(1, 60)
        watch.from_server(data[:size])
        data = data[size:]

    assert (3, "1A") == (watch.records, watch.version)


@pytest.mark.parametrize(
    ("word", "signal"),
    [
        ("none", CloseSignal()),
        ("break", CloseSignal(SignalKind.BREAK)),
        (r"text=\r\nCLOSED\x00\\", CloseSignal(SignalKind.TEXT, b"\r\nCLOSED\0\\")),
    ],
)
def test_signals_are_read(word: str, signal: CloseSignal) -> None:
    """A text's escapes are bytes."""
    assert signal == CloseSignal.parse(word)


@pytest.mark.parametrize("word", ["", "text", "text=", r"text=\q", "text=" + 257 * "x", "shout", "none=1"])
def test_signals_that_are_none_are_refused(word: str) -> None:
    """What was expected is said."""
    with pytest.raises(ValueError, match="expected"):
        CloseSignal.parse(word)


# --- sessions


def test_a_session_is_carried_both_ways_unaltered(start: Callable[..., Bench]) -> None:
    """Identification, records and acks arrive as they were sent, line ends included; the report counts them."""
    bench = start(sessions=1)
    bench.board.write(b"U-Boot\r\n", SOON)
    server = bench.identify()
    for record in RECORDS:
        server.write(record, SOON)
        assert record == read(bench.board, len(record))
        bench.board.write(b"@\r\n", SOON)
        assert read(server, 3) == b"@\r\n"
    server.write(b"@1A##", SOON)
    read(bench.board, 5)
    bench.board.write(b"@", SOON)
    assert read(server, 1) == b"@"
    server.close()
    bench.wait()
    (report,) = bench.relay.reports

    assert (Ended.SERVER_CLOSED, Outcome.UPDATED, True) == (report.ended, report.outcome, report.ok)
    assert (3, 4, "1A") == (report.records, report.acks, report.version)
    assert (len(NAME) + 3 * 3 + 1, 3 + sum(map(len, RECORDS)) + 5) == (report.bytes_to_server, report.bytes_to_board)
    assert (NAME[1:-1].decode(), len(b"U-Boot\r\n")) == (report.identification, bench.relay.noise)


def test_the_trace_has_every_byte_and_says_what_it_means(start: Callable[..., Bench]) -> None:
    """The one trace format's reader reads it; notes name frames, noise and the session's end."""
    bench = start(sessions=1)
    bench.board.write(b"boot\r\n", SOON)
    server = bench.identify()
    server.write(RECORDS[0], SOON)
    read(bench.board, len(RECORDS[0]))
    server.close()
    bench.wait()
    text = bench.trace()
    said = b"".join(entry.data for entry in parse(text) if entry.direction is Direction.SENT)

    assert b"boot\r\n" + NAME == said
    assert b"@4#" + RECORDS[0] == b"".join(e.data for e in parse(text) if e.direction is Direction.RECEIVED)
    for note in ("noise, not sent", "identification 0001", "allowed", "record 1: S1 at 0x00004000", "server closed"):
        assert note in text


def test_line_ends_are_stripped_on_request(start: Callable[..., Bench]) -> None:
    """With the option, the server sees the bare frames."""
    bench = start(strips_line_ends=True)
    bench.board.write(NAME + b"\r\n", SOON)
    server = bench.accept()
    read(server, len(NAME))
    server.write(b"@4#", SOON)
    read(bench.board, 3)
    bench.board.write(b"@\r\n", SOON)

    assert read(server, 1) == b"@"
    assert is_quiet(server)
    server.close()


def test_an_identification_arrives_in_one_piece(start: Callable[..., Bench]) -> None:
    """A server that reads an identification by one recv, as the reference server does, gets all of it."""
    bench = start()
    for at in range(len(NAME)):
        bench.board.write(NAME[at : at + 1], SOON)
        time.sleep(0.003)
    server = bench.accept()

    assert NAME == server.read(SOON)
    server.close()


def test_an_identification_that_stops_goes_on_all_the_same(start: Callable[..., Bench]) -> None:
    """What a board has said of itself is not kept from the server for longer than a moment."""
    bench = start()
    bench.board.write(NAME[:12], SOON)
    server = bench.accept()

    assert NAME[:12] == server.read(SOON)
    server.close()


def test_the_next_identification_closes_the_old_session_and_dials_anew(start: Callable[..., Bench]) -> None:
    """A board that was reset in mid-update is a new session to the server; the old one sees the end."""
    bench = start()
    old = bench.identify()
    old.write(RECORDS[0], SOON)
    read(bench.board, len(RECORDS[0]))
    bench.board.write(b"@", SOON)
    assert read(old, 1) == b"@"
    new = bench.identify(OTHER)
    with old:
        assert old.read(SOON) == b""
    with new:
        assert [Ended.NEW_IDENTIFICATION] == [report.ended for report in bench.relay.reports]


def test_an_image_that_is_refused_at_the_end_is_not_acked_by_the_next_identification(
    start: Callable[..., Bench],
) -> None:
    """The `@` of a board that begins anew instead of acking the end frame never reaches the old session."""
    bench = start()
    old = bench.identify()
    old.write(RECORDS[0], SOON)
    read(bench.board, len(RECORDS[0]))
    bench.board.write(b"@", SOON)
    assert read(old, 1) == b"@"
    old.write(b"@16##", SOON)
    read(bench.board, 5)
    for at in range(len(OTHER)):
        bench.board.write(OTHER[at : at + 1], SOON)
        time.sleep(0.003)
    new = bench.accept()
    with old, new:
        assert OTHER == read(new, len(OTHER))
        assert old.read(SOON) == b""


def test_a_silent_session_ends(start: Callable[..., Bench]) -> None:
    """After the idle time-out the server sees the close, and the board is told."""
    bench = start(idle_s=0.3, on_close=CloseSignal.parse("text=GONE"), sessions=1)
    with bench.identify() as server:
        assert server.read(SOON) == b""
    assert read(bench.board, 4) == b"GONE"
    bench.wait()

    assert [Ended.IDLE] == [report.ended for report in bench.relay.reports]


def test_the_board_gets_the_last_bytes_and_then_the_signal(start: Callable[..., Bench]) -> None:
    """A refusal with its close arrives as such: `@0#`, then the text that stands for the close."""
    bench = start(on_close=CloseSignal.parse(r"text=\r\nCLOSED\r\n"), sessions=1)
    bench.board.write(NAME, SOON)
    with bench.accept() as server:
        read(server, len(NAME))
        server.write(b"@0#", SOON)

    assert read(bench.board, 13) == b"@0#\r\nCLOSED\r\n"
    bench.wait()
    assert [(Outcome.REFUSED, False)] == [(report.outcome, report.ok) for report in bench.relay.reports]


def test_a_command_resets_the_board(start: Callable[..., Bench], tmp_path: Path) -> None:
    """It is run with port, speed and digits in place, when the server has closed."""
    seen = tmp_path / "seen"
    code = "import sys; open(sys.argv[1], 'w').write(' '.join(sys.argv[2:]))"
    reset = Template((sys.executable, "-c", code, str(seen), "{port}", "{baud}", "{mcuid}"))
    bench = start(on_close=CloseSignal(SignalKind.RESET), reset=reset, sessions=1)
    bench.identify().close()
    bench.wait()

    assert f"{bench.name} 115200 {NAME[1:-1].decode()}" == seen.read_text()


def test_a_signal_that_the_port_cannot_give_is_said(start: Callable[..., Bench]) -> None:
    """A pseudo terminal has no DTR: the relay says so and goes on."""
    bench = start(on_close=CloseSignal(SignalKind.DTR))
    bench.identify().close()
    wait_until(lambda: any("not told" in line for line in bench.said))
    bench.identify(OTHER).close()

    assert any("it has no DTR" in line for line in bench.said)


def test_a_server_that_resets_is_a_lost_connection(start: Callable[..., Bench]) -> None:
    """An update that broke is not one that the server closed in order."""
    bench = start(sessions=1)
    server = bench.identify()
    reset(server)
    bench.wait()

    assert [Ended.SERVER_LOST] == [report.ended for report in bench.relay.reports]


def test_a_reset_behind_the_acked_end_frame_is_a_close(start: Callable[..., Bench]) -> None:
    """A server that closes over the unread line end of the last ack has ended the session well."""
    bench = start(sessions=1)
    server = bench.identify()
    server.write(RECORDS[0], SOON)
    read(bench.board, len(RECORDS[0]))
    bench.board.write(b"@", SOON)
    assert read(server, 1) == b"@"
    server.write(b"@16##", SOON)
    read(bench.board, 5)
    bench.board.write(b"@\r\n", SOON)
    assert server._socket.recv(1) == b"@"
    reset(server)
    bench.wait()

    assert [(Ended.SERVER_CLOSED, True)] == [(report.ended, report.ok) for report in bench.relay.reports]


@pytest.mark.parametrize("scheme", ["socket", "loop"])
def test_a_relay_works_over_ports_of_other_kinds(scheme: str) -> None:
    """A terminal server's socket, and a port that is no descriptor and only gives back what is written to it."""
    said: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as terminal, socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(SOON)
        url = f"socket://127.0.0.1:{terminal.getsockname()[1]}" if scheme == "socket" else "loop://"
        port = SerialLink.open(url)
        settings = RelaySettings("127.0.0.1", listener.getsockname()[1], sessions=1)
        relay = Relay(settings, lambda: port, SystemClock(), said.append)
        thread = threading.Thread(target=relay.run)
        board = TcpLink(terminal.accept()[0]) if scheme == "socket" else port
        board.write(NAME, SOON)
        thread.start()
        with TcpLink(listener.accept()[0]) as server:
            name = read(server, len(NAME))
            server.write(RECORDS[0], SOON)
            got = read(board if isinstance(board, TcpLink) else server, len(RECORDS[0]))
        thread.join(SOON)
        board.close()

    assert (NAME, RECORDS[0], 1) == (name, got, relay.ended)


# --- trouble


def test_a_server_that_comes_late_gets_what_the_board_said_meanwhile(start: Callable[..., Bench]) -> None:
    """Dialling is tried again with a pause, and nothing of the board is lost."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    bench = start(port=port)
    bench.board.write(NAME, SOON)
    wait_until(lambda: "again in 0.5 s" in bench.trace())
    with socket.create_server(("127.0.0.1", port)) as late:
        late.settimeout(SOON)
        connection, _ = late.accept()
        with TcpLink(connection) as server:
            assert NAME == read(server, len(NAME))


def test_a_server_that_never_comes_is_given_up(start: Callable[..., Bench]) -> None:
    """After so many attempts the session ends, and the board is told."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    bench = start(port=port, dial_retries=1, sessions=1, on_close=CloseSignal.parse("text=NO CARRIER"))
    bench.board.write(NAME, SOON)

    assert read(bench.board, 10) == b"NO CARRIER"
    bench.wait()
    (report,) = bench.relay.reports
    assert Ended.NOT_CONNECTED is report.ended
    assert report.detail.startswith("2 attempts to connect to ")
    assert report.detail.endswith("refused; does a server run there, on that port?")


def test_a_server_that_takes_nothing_loses_the_session(start: Callable[..., Bench]) -> None:
    """What waits for it is bounded: beyond the limit the session is dropped, and that is said."""
    bench = start(sessions=1)
    server = bench.identify()
    with contextlib.suppress(TimeoutError):
        for _ in range(2_000):
            bench.board.write(b"\r\n" * 2_048, 1.0)
            if bench.relay.reports:
                break
    with server:
        wait_until(lambda: bool(bench.relay.reports))

    assert [Ended.STALLED] == [report.ended for report in bench.relay.reports]
    assert f"more than {TO_SERVER_LIMIT} bytes" in bench.relay.reports[0].detail


def test_a_slow_board_holds_up_the_server_and_loses_nothing(start: Callable[..., Bench]) -> None:
    """While the board does not read, the server's sending stalls; once it reads, every byte arrives in order."""
    bench = start()
    server = bench.identify()
    data = b"".join(b"%07d\n" % number for number in range(2_000_000))  # more than the kernel's buffers can hold
    server._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
    server._socket.settimeout(0.0)
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while sent < len(data):
            sent += server._socket.send(data[sent : sent + 65_536])
            time.sleep(0.002)
    with server:
        assert sent < len(data)
        assert data[:sent] == read(bench.board, sent)


def test_unplugging_closes_the_session_and_replugging_is_survived(start: Callable[..., Bench]) -> None:
    """The server sees the end at once; the port is opened again by its name, and the next session works."""
    bench = start()
    server = bench.identify()
    bench.unplug()
    with server:
        assert server.read(SOON) == b""
    bench.board = bench.plug()
    wait_until(lambda: any("open again" in line for line in bench.said))
    bench.identify(OTHER).close()

    assert [Ended.UNPLUGGED] == [report.ended for report in bench.relay.reports][:1]


@pytest.mark.parametrize(("reopen_s", "advice"), [(None, "not to be opened again"), (0.3, "Is the board plugged in")])
def test_a_port_that_stays_away_ends_the_relay(
    start: Callable[..., Bench], reopen_s: float | None, advice: str
) -> None:
    """It says what is wrong after the time that it was given, or at once."""
    bench = start(reopen_s=reopen_s)
    bench.identify().close()
    bench.unplug()
    bench.wait()

    assert advice in str(bench.relay.trouble)


def test_a_port_that_is_not_there_at_the_start_is_an_error(tmp_path: Path) -> None:
    """Nobody waits for a port that may have been misspelt."""
    bench = Bench(tmp_path)
    bench.unplug()
    with bench:
        bench.wait()

    assert "there is no such port" in str(bench.error)


def test_a_relay_leaves_no_descriptor_open(tmp_path: Path) -> None:
    """Sessions, an unplugging and a stop in mid-session give everything back."""
    before = sorted(os.listdir("/proc/self/fd"))
    with Bench(tmp_path) as bench:
        bench.identify().close()
        bench.unplug()
        bench.board = bench.plug()
        wait_until(lambda: any("open again" in line for line in bench.said))
        last = bench.identify(OTHER)
    last.close()
    bench._slave.close()

    assert before == sorted(os.listdir("/proc/self/fd"))
    assert Ended.STOPPED is bench.relay.reports[-1].ended


def test_a_trace_turns_over_at_its_limit(tmp_path: Path) -> None:
    """A relay that runs for months fills no disk: the newest part is kept, and one older file."""
    path = tmp_path / "trace.txt"
    trace = RelayTrace(path, "bench", SystemClock(), print, limit=2_000)
    for number in range(200):
        trace.chunk(SystemClock().monotonic(), Direction.SENT, b"%03d" % number, ["a note"])
    trace.close()
    both = [entry.data for name in (f"{path}.1", path) for entry in parse(Path(name).read_text())]

    assert both[-1] == b"199"
    assert sorted(both) == both
    assert {"trace.txt", "trace.txt.1"} == {file.name for file in tmp_path.iterdir()}


def test_a_trace_into_what_is_no_file_of_its_own_never_turns_over(tmp_path: Path) -> None:
    """A pipe keeps its name, and so does what somebody else has opened."""
    pipe, path = tmp_path / "pipe", tmp_path / "out"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with path.open("wb", buffering=0) as opened:
        opened.write(b"before\n")
        for trace in (
            RelayTrace(pipe, "bench", SystemClock(), print, limit=200),
            RelayTrace(path, "bench", SystemClock(), print, stream=cast("BinaryIO", opened), limit=200),
        ):
            for _ in range(20):
                trace.note(SystemClock().monotonic(), "something")
            trace.close()
    through = os.read(reader, 65_536)
    os.close(reader)

    assert {"pipe", "out"} == {file.name for file in tmp_path.iterdir()}
    assert 20 == through.count(b": something\n")
    lines = path.read_text().splitlines()
    assert ("before", 22) == (lines[0], len(lines))


def test_a_trace_that_cannot_go_on_ends_and_nothing_else(tmp_path: Path) -> None:
    """The relay is told once, and goes on without a trace."""
    said: list[str] = []
    folder = tmp_path / "folder"
    folder.mkdir()
    trace = RelayTrace(folder / "trace.txt", "bench", SystemClock(), said.append, limit=200)
    (folder / "trace.txt").unlink()
    folder.rmdir()
    for _ in range(20):
        trace.note(SystemClock().monotonic(), "something")
    trace.close()

    assert [f"trace {folder}/trace.txt: No such file or directory; it ends here"] == said


def test_a_trace_that_cannot_begin_is_an_error() -> None:
    """A disk that is full from the start is found out at the start."""
    with pytest.raises(OSError, match="No space left"):
        RelayTrace(Path("/dev/full"), "bench", SystemClock(), print)


# --- how fast


def round_trips(there: TcpLink | PtyLink, back: TcpLink | PtyLink, count: int) -> float:
    """Seconds of the median round trip of a record and its ack, in two threads."""
    record = RECORDS[0]

    def acks() -> None:
        for _ in range(count):
            read(back, len(record))
            back.write(b"@", SOON)

    thread = threading.Thread(target=acks)
    thread.start()
    took = []
    for _ in range(count):
        began = time.perf_counter()
        there.write(record, SOON)
        read(there, 1)
        took.append(time.perf_counter() - began)
    thread.join()
    return sorted(took)[count // 2]


def test_a_record_and_its_ack_are_carried_in_well_below_a_millisecond(start: Callable[..., Bench]) -> None:
    """Against a direct TCP connection, the relay in the same process adds less than a millisecond a record."""
    bench = start()
    server = bench.identify()
    relayed = round_trips(server, bench.board, 500)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = TcpLink.connect("127.0.0.1", listener.getsockname()[1], SOON)
        far = TcpLink(listener.accept()[0])
    with near, far, server:
        direct = round_trips(near, far, 500)

    print(f"median round trip: direct {direct * 1e6:.0f} us, relayed {relayed * 1e6:.0f} us")
    assert relayed - direct < 0.001
