"""What the reference server does wrong, done right: defects D1 to D20, in raw bytes over real sockets."""

import os
import socket
import time
from pathlib import Path

import pytest
from tests.server.conftest import (
    MCUID,
    OTHER_MCUID,
    PATIENCE,
    RunningServer,
    Site,
    Update,
    blink,
    identification,
    records_of,
    statuses,
)

import fota_fixtures


def test_d01_every_device_gets_its_own_image(server: RunningServer) -> None:
    """The second board gets the image that the registry names for it, not the first board's."""
    first, second = server.update(MCUID), server.update(OTHER_MCUID)

    assert blink(1) == first
    assert blink(2) == second


def test_d02_silent_clients_hold_nobody_up(server: RunningServer) -> None:
    """While others are connected and say nothing, or half of it, a device is updated."""
    with server.connect(), server.connect() as half, server.connect() as waiting:
        half.send(identification(OTHER_MCUID)[:12])
        assert waiting.identify(OTHER_MCUID, acks_verdict=False) == b"@4#"

        assert blink(1) == server.update(MCUID)


def test_d02_a_silent_client_is_closed_at_its_deadline(site: Site) -> None:
    """A client that never says who it is is let go, without a frame."""
    with site.serve(identification_timeout=0.2) as server, server.connect() as peer:
        assert peer.rest() == b""
        assert statuses(server.rows(1)) == ["TIMEOUT_CONNECTION"]


def test_d03_a_file_without_s0_keeps_its_first_record(site: Site) -> None:
    """The first line of a file is dropped only where it is an S0."""
    site.put("no_s0.s19")
    site.register(f"{MCUID},no_s0.s19,11")
    with site.serve() as server:
        assert blink(1) == server.update()


def test_d04_a_missing_file_is_refused_before_the_verdict(site: Site) -> None:
    """The device sees `@0#` alone, and the next one is served."""
    site.register(f"{MCUID},missing.s19,11", f"{OTHER_MCUID},blink_2.s19,12")
    with site.serve() as server:
        refused = server.update(MCUID)
        served = server.update(OTHER_MCUID)

        assert Update(b"@0#") == refused
        assert blink(2) == served
        assert statuses(server.rows(2)) == ["MISSED_FILENAME", "SUCCESSFUL"]


def test_d04_a_long_file_is_served_whole(site: Site) -> None:
    """A file far beyond 300 lines arrives to its last record."""
    site.put("demo_16k.s19")
    site.register(f"{MCUID},demo_16k.s19,11")
    with site.serve() as server:
        assert Update(b"@4#", records_of("demo_16k.s19"), b"@11##") == server.update()


@pytest.mark.parametrize("handshake", ["wait", "auto"])
def test_d05_the_verdict_comes_alone(site: Site, handshake: str) -> None:
    """Nothing follows `@4#` until the device acks it, so that one read may be compared with it."""
    site.register(f"{MCUID},blink_1.s19,11,handshake={handshake}")
    with site.serve(grace=PATIENCE) as server, server.connect() as peer:
        peer.send(identification(MCUID))
        verdict = peer.take(3)
        peer.socket.settimeout(0.1)
        with pytest.raises(TimeoutError):
            peer.socket.recv(1)
        peer.socket.settimeout(PATIENCE)
        peer.send(b"@")
        records, end, rest = peer.finish()

        assert blink(1) == Update(verdict, records, end, rest)


@pytest.mark.parametrize("ack", [b"x", b"#", b"@0#", b"\x00", b"\xff\xfe", b"@@", b"@4#"])
def test_d06_a_wrong_ack_ends_its_session_alone(server: RunningServer, ack: bytes) -> None:
    """What is no ack closes that session; another one and the process do not notice."""
    with server.connect() as other, server.connect() as peer:
        assert other.identify(OTHER_MCUID) == b"@4#"
        assert peer.identify(MCUID) == b"@4#"
        first = peer.frame()
        peer.send(ack + b"@@")

        assert records_of("blink_1.s19")[0] == first
        assert peer.rest() == b""
        assert blink(2) == Update(b"@4#", *other.finish())
        assert statuses(server.rows(2)) == ["UNEXPECTED_ACK", "SUCCESSFUL"]


def test_d07_a_lost_connection_ends_the_update(server: RunningServer) -> None:
    """After a reset in mid-update nothing is sent on; the next session begins with the first record."""
    with server.connect() as peer:
        peer.identify()
        for _ in range(5):
            peer.frame()
            peer.send(b"@")
        peer.frame()
        peer.reset()
    lost = server.rows(1)[0]

    assert (lost.status_name, lost.records_acked) == ("CONNECTION_LOST", 5)
    assert blink(1) == server.update()


@pytest.mark.parametrize("text", [b"@\xff\xfe\xfd#", b"\xc3\x28#", b"@00011000235931109659551\xe9#", bytes(range(256))])
def test_d08_an_identification_that_is_not_utf8_is_refused(server: RunningServer, text: bytes) -> None:
    """Arbitrary bytes are a malformed identification and nothing more."""
    with server.connect() as peer:
        peer.send(text)

        assert peer.rest() == b"@0#"
    assert blink(1) == server.update()
    assert statuses(server.rows(2)) == ["UNFORMATTED_MCUID", "SUCCESSFUL"]


@pytest.mark.parametrize("name", ["bad_checksum.s19", "bad_digit.s19", "short_count.s19", "trailing_characters.s19"])
def test_d09_a_corrupt_file_is_refused_whole(site: Site, name: str) -> None:
    """One bad record in a file, and not one of its records is sent; log and journal name the line."""
    site.put(name)
    site.register(f"{MCUID},{name},11")
    with site.serve() as server:
        assert Update(b"@0#") == server.update()
        row = server.rows(1)[0]

    assert (row.status_name, row.status, row.bytes_sent) == ("INVALID_CODE_CHUNK", 8, 0)
    assert f"{name}: line 18" in row.detail
    assert f"{name}: line 18" in site.log()


@pytest.mark.parametrize("name", ["../secret.s19", "sub/../../secret.s19", "{outside}/secret.s19", "link.s19", "."])
def test_d10_nothing_outside_the_firmware_folder_is_served(site: Site, tmp_path: Path, name: str) -> None:
    """No file name of the registry leads out of the folder, by any road."""
    (tmp_path / "secret.s19").write_bytes(fota_fixtures.read("blink_1.s19"))
    (site.firmware / "link.s19").symlink_to(tmp_path / "secret.s19")
    site.register(f"{MCUID},{name.format(outside=tmp_path)},11")
    with site.serve() as server:
        assert Update(b"@0#") == server.update()


def test_d11_white_space_in_the_registry_means_nothing(site: Site) -> None:
    """A space behind a comma, or anywhere around a field, does not hide the file."""
    site.register(f"  {MCUID} ,  blink_1.s19\t, 11  ")
    with site.serve() as server:
        assert blink(1) == server.update()


def test_d12_lower_case_records_are_sent_in_upper_case(site: Site) -> None:
    """A file in lower case loses nothing and leaves in upper case."""
    site.put("lower_case.s19")
    site.register(f"{MCUID},lower_case.s19,11")
    with site.serve() as server:
        assert blink(1) == server.update()


@pytest.mark.parametrize(
    ("version", "end"), [("16", b"@16##"), ("1a", b"@1A##"), ("ff", b"@FF##"), ("7", b"@7##"), ("0", b"@0##")]
)
def test_d13_every_version_reaches_the_device(site: Site, version: str, end: bytes) -> None:
    """One or two hexadecimal digits in either case come in the end frame, in upper case."""
    site.register(f"{MCUID},blink_1.s19,{version}")
    with site.serve() as server:
        assert end == server.update().end


def test_d13_a_version_that_cannot_be_sent_is_refused_before_the_verdict(site: Site) -> None:
    """Three digits make the line malformed, so its device is unknown, and the log says why."""
    site.register(f"{MCUID},blink_1.s19,100")
    with site.serve() as server:
        assert Update(b"@0#") == server.update()

    assert "line 1: version '100', expected 1 or 2 hexadecimal digits" in site.log()


def test_d14_the_newest_session_of_a_device_wins(server: RunningServer) -> None:
    """A device that comes again closes its old session without a frame, and gets a whole update."""
    with server.connect() as old:
        old.identify()
        old.frame()
        update = server.update()

        assert blink(1) == update
        assert old.rest() == b""
        assert statuses(server.rows(2)) == ["SUPERSEDED", "SUCCESSFUL"]


@pytest.mark.parametrize("cut", range(1, len(identification(MCUID))))
def test_d15_an_identification_may_come_in_two_segments(server: RunningServer, cut: int) -> None:
    """Where TCP cuts an identification is of no account."""
    whole = identification(MCUID)
    with server.connect() as peer:
        peer.send(whole[:cut])
        time.sleep(0.005)
        peer.send(whole[cut:])

        assert peer.take(3) == b"@4#"


def test_d15_an_identification_may_come_byte_by_byte(server: RunningServer) -> None:
    """So is a modem that sends every byte alone, line end and all."""
    with server.connect() as peer:
        for byte in identification(MCUID) + b"\r\n":
            peer.send(bytes([byte]))
        assert peer.take(3) == b"@4#"
        peer.send(b"@")

        assert blink(1) == Update(b"@4#", *peer.finish())


def test_d16_a_malformed_line_hides_nobody(site: Site) -> None:
    """Devices behind a malformed line are served, and the line is reported by its number."""
    site.registry.write_bytes(fota_fixtures.read("malformed.txt"))
    with site.serve() as server:
        update = server.update("0011000235931109659550014")

        assert records_of("blink_2.s19") == update.records
    assert all(f"line {number}: " in site.log() for number in range(2, 14))


@pytest.mark.parametrize("line_end", [b"\r\n", b"\n", b"\r"])
def test_d17_line_ends_behind_frames_are_ignored(server: RunningServer, line_end: bytes) -> None:
    """A modem routine may end each of its lines, in the same segment or in one of its own."""
    with server.connect() as peer:
        peer.send(identification(MCUID) + line_end)
        assert peer.take(3) == b"@4#"
        peer.send(b"@" + line_end)
        first = peer.frame()
        peer.send(b"@")
        peer.send(line_end)
        records, end, rest = peer.finish(ack=b"@" + line_end)

        assert blink(1) == Update(b"@4#", (first, *records), end, rest)


def test_d17_a_refusal_arrives_though_a_line_end_follows_late(server: RunningServer) -> None:
    """A line end that meets a closed connection must not become a reset, which could take `@0#` with it."""
    with server.connect() as peer:
        peer.send(identification("9" * 25))
        peer.socket.recv(1, socket.MSG_PEEK)
        time.sleep(0.02)
        peer.send(b"\r\n")
        time.sleep(0.02)

        assert peer.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
        assert peer.rest() == b"@0#"


def test_d18_an_orderly_close_in_mid_update_ends_its_session_alone(server: RunningServer) -> None:
    """A device may leave at any time."""
    with server.connect() as peer:
        peer.identify()
        peer.frame()
    rows = server.rows(1)

    assert statuses(rows) == ["CONNECTION_LOST"]
    assert blink(1) == server.update()


@pytest.mark.parametrize("handshake", ["wait", "auto", "immediate"])
def test_d19_no_refusal_follows_a_verdict(site: Site, handshake: str) -> None:
    """What cannot be served is known before `@4#`, whatever the handshake."""
    site.put("no_termination.s19")
    site.register(f"{MCUID},no_termination.s19,11,handshake={handshake}")
    with site.serve() as server:
        assert Update(b"@0#") == server.update()
        assert statuses(server.rows(1)) == ["BUFFERING_CODE_INCOMPLETE"]


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts descriptors by /proc")
def test_d20_two_thousand_sessions_leave_no_descriptor_behind(site: Site) -> None:
    """Sessions of every ending leave nothing open: no socket, no log."""
    (site.firmware / "tiny.s19").write_bytes(b"S1094000000102030405A7\nS9030000FC\n")
    site.register(f"{MCUID},tiny.s19,11")
    with site.serve() as server:
        server.update()
        server.rows(1)
        before = descriptors()
        for number in range(2_000):
            with server.connect() as peer:
                match number % 4:
                    case 0:
                        assert peer.update().end == b"@11##"
                    case 1:
                        assert peer.update(OTHER_MCUID).verdict == b"@0#"
                    case 2:
                        peer.send(b"?")
                        assert peer.rest() == b"@0#"
                    case 3:
                        peer.identify()
                        peer.reset()
        server.rows(2_001)
        limit = time.monotonic() + PATIENCE
        while descriptors() > before and time.monotonic() < limit:
            time.sleep(0.01)

        assert descriptors() <= before
