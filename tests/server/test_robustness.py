"""Nothing a peer sends ends another session or the process: crowds, floods, resets and garbage, over real sockets."""

import random
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.server.conftest import (
    MCUID,
    OTHER_MCUID,
    Peer,
    RunningServer,
    Site,
    Update,
    blink,
    identification,
    records_of,
    statuses,
)

from fota_protocol.formats import dump_srec

FUZZ_SESSIONS = 300
SEED = 20_260_309


def test_fifty_devices_at_once_each_get_their_own_image(site: Site) -> None:
    """With fifty sessions side by side no record strays into another's image."""
    mcuids = [f"{number:025d}" for number in range(50)]
    expected = {}
    for number, mcuid in enumerate(mcuids):
        text = dump_srec([(0x4000, bytes([number, 0xA5]) * 200)])
        (site.firmware / f"{number}.s19").write_bytes(text)
        records = tuple(line for line in text.split() if line.startswith(b"S1"))
        expected[mcuid] = Update(b"@4#", records, b"@%X##" % number)
    site.register(*(f"{mcuid},{number}.s19,{number:X}" for number, mcuid in enumerate(mcuids)))
    with site.serve(grace=5.0) as server, ThreadPoolExecutor(len(mcuids)) as threads:
        received = dict(zip(mcuids, threads.map(server.update, mcuids), strict=True))
        rows = server.rows(50)

    assert expected == received
    assert {mcuid: f"{number}.s19" for number, mcuid in enumerate(mcuids)} == {row.mcuid: row.filename for row in rows}
    assert statuses(rows) == ["SUCCESSFUL"] * 50


def identifying(peer: Peer) -> None:
    peer.send(identification(MCUID)[:7])


def offered(peer: Peer) -> None:
    peer.identify(acks_verdict=False)


def sending(peer: Peer) -> None:
    peer.identify()
    peer.frame()


def ending(peer: Peer) -> None:
    peer.identify()
    while (frame := peer.frame()).startswith(b"S"):
        peer.send(b"@")
    assert frame == b"@11##"


State = Callable[[Peer], None]


@pytest.mark.parametrize("end", [Peer.reset, lambda peer: peer.socket.close()], ids=["reset", "close"])
@pytest.mark.parametrize("state", [identifying, offered, sending, ending])
def test_a_device_may_vanish_in_any_state(site: Site, state: State, end: State) -> None:
    """A reset or a close ends that session, is journaled as a lost connection, and the next one is served."""
    with site.serve(grace=5.0) as server:
        with server.connect() as peer:
            state(peer)
            end(peer)
        rows = server.rows(1)

        assert statuses(rows) == ["CONNECTION_LOST"]
        assert rows[0].detail == f"the device closed while {state.__name__}"
        assert blink(1) == server.update()


def test_a_device_may_close_its_sending_half(server: RunningServer) -> None:
    """Who says that it will send no more cannot ack, so its session is over."""
    with server.connect() as peer:
        sending(peer)
        peer.socket.shutdown(socket.SHUT_WR)

        assert peer.rest() == b""
        assert statuses(server.rows(1)) == ["CONNECTION_LOST"]


def test_a_device_that_reads_nothing_holds_nobody_up(server: RunningServer) -> None:
    """Acks without reading are answered one frame each, and others are served meanwhile."""
    with server.connect() as peer:
        peer.send(identification(MCUID))
        time.sleep(0.05)
        peer.send(b"@")

        assert blink(2) == server.update(OTHER_MCUID)


def send_line_ends_for_ever(peer: Peer) -> None:
    while True:
        peer.send(b"\r\n" * 10_000)


def test_line_ends_for_ever_are_bounded_by_the_deadline(site: Site) -> None:
    """A peer that floods CR LF is closed when its ack is due, and costs nobody else anything."""
    with site.serve(ack_timeout=0.4) as server, server.connect() as peer:
        sending(peer)
        assert blink(2) == server.update(OTHER_MCUID)

        with pytest.raises(OSError, match=r"reset|Broken pipe"):
            send_line_ends_for_ever(peer)
        assert sorted(statuses(server.rows(2))) == ["SUCCESSFUL", "TIMEOUT_CONNECTION"]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"@" + b"1" * 1_023 + b"#", id="too long by one"),
        pytest.param(b"@" + b"1" * 100_000, id="far too long"),
        pytest.param(b"@#", id="nothing in it"),
        pytest.param(b"@" + b"1" * 24 + b"#", id="a digit short"),
        pytest.param(b"@" + b"A" * 25 + b"#", id="letters"),
        pytest.param(b" " + identification(MCUID), id="white space first"),
        pytest.param(b"\r\n" + identification(MCUID), id="a line end first"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: fota\r\n\r\n", id="a browser"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", id="a TLS client"),
    ],
)
def test_a_malformed_identification_is_refused_at_once(server: RunningServer, data: bytes) -> None:
    """It is answered by `@0#` and a close, and journaled without a device."""
    with server.connect() as peer:
        peer.send(data)

        assert peer.rest() == b"@0#"
    (row,) = server.rows(1)
    assert (row.status, row.mcuid) == (3, None)


@pytest.mark.parametrize("suffix", ["1", "15111415", "1" * 997])
def test_the_longest_identification_is_understood(server: RunningServer, suffix: str) -> None:
    """Digits behind the MCUID, up to 1,024 bytes in all, are kept and change nothing."""
    assert blink(1) == server.update(MCUID + suffix)
    assert [suffix] == [row.suffix for row in server.rows(1)]


def test_acks_before_the_verdict_end_the_session(server: RunningServer) -> None:
    """Nothing is due from the device between its identification and the answer."""
    with server.connect() as peer:
        peer.send(identification(MCUID) + b"@@@")

        assert peer.rest() == b""
        assert statuses(server.rows(1)) == ["UNEXPECTED_ACK"]


def garbage(dice: random.Random) -> bytes:
    """One session's worth of bytes: noise, or a good session of another device with mistakes in it."""
    if dice.random() < 0.3:
        return dice.randbytes(dice.choice((1, 10, 100, 3_000)))
    text = bytearray(identification(OTHER_MCUID) + b"@" * dice.randrange(8) + dice.choice((b"", b"\r\n", b"#")))
    for _ in range(dice.randrange(4)):
        place = dice.randrange(len(text))
        match dice.randrange(3):
            case 0:
                text[place] = dice.randrange(256)
            case 1:
                del text[place]
            case _:
                text[place:place] = dice.randbytes(dice.randrange(1, 5))
        text += b"@"
    return bytes(text)


def play(peer: Peer, data: bytes, dice: random.Random) -> None:
    """Send `data` in pieces, reading now and then, and leave in one of three ways."""
    try:
        while data:
            size = dice.randrange(1, len(data) + 1)
            peer.send(data[:size])
            data = data[size:]
            if dice.random() < 0.3:
                peer.socket.settimeout(0.002)
                peer.socket.recv(1_000)
        match dice.randrange(3):
            case 0:
                peer.reset()
            case 1:
                peer.socket.shutdown(socket.SHUT_WR)
    except OSError:  # the server closed or reset, or sent nothing: all of it is its right
        pass


def test_garbage_harms_no_session_beside_it(site: Site) -> None:
    """Three hundred sessions of noise and mutated frames pass by one that is under way and finishes unharmed."""
    dice = random.Random(SEED)
    with site.serve(grace=0.05) as server:
        with server.connect() as good:
            verdict = good.identify()
            records = []
            for number in range(FUZZ_SESSIONS):
                with server.connect() as peer:
                    play(peer, garbage(dice), dice)
                if number % 4 == 0:
                    records.append(good.frame())
                    good.send(b"@")
            more, end, rest = good.finish()
        rows = server.rows(FUZZ_SESSIONS + 1)

        assert blink(1) == Update(verdict, (*records, *more), end, rest)
        assert ["SUCCESSFUL"] == [row.status_name for row in rows if row.mcuid == MCUID]
        assert not [row for row in rows if row.mcuid == OTHER_MCUID and row.status == 0]
        assert blink(2) == server.update(OTHER_MCUID)
    assert "Traceback" not in site.log()


def test_garbage_is_neither_logged_raw_nor_a_log_of_its_own(site: Site) -> None:
    """Control characters of a peer do not reach the log, and strangers get no file."""
    with site.serve() as server:
        for data in (b"\x1b[31m\n2026-01-01 FAKE LINE\n", b"@../../etc/passwd#", identification("9" * 25)):
            with server.connect() as peer:
                peer.send(data)
                peer.rest()
        server.rows(3)
    log = site.log()

    assert all(character.isprintable() or character == "\n" for character in log)
    assert not any(line.startswith("2026-01-01 FAKE") for line in log.splitlines())
    assert ["journal.sqlite", "otaserver.log"] == sorted(path.name for path in site.logs.iterdir())


def test_a_file_replaced_in_mid_update_changes_nothing_for_its_session(site: Site) -> None:
    """A session keeps the image that it began with; the next one gets the new."""
    with site.serve() as server, server.connect() as peer:
        peer.identify()
        first = peer.frame()
        peer.send(b"@")
        (site.firmware / "new").write_bytes((site.firmware / "blink_2.s19").read_bytes())
        (site.firmware / "new").replace(site.firmware / "blink_1.s19")
        records, end, rest = peer.finish()

        assert blink(1) == Update(b"@4#", (first, *records), end, rest)
        assert records_of("blink_2.s19") == server.update().records
