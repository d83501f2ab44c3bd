"""The contract of `fota_transport.links`, over every link there is."""

import re
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

from fota_transport.errors import LinkClosed, LinkLost
from fota_transport.links import Link, TcpLink, memory_pair
from fota_transport.ptys import PtyLink, open_pty

Pair: TypeAlias = tuple[Link, Link]

SOON = 5.0
"""Seconds for what happens at once."""


def tcp_pair() -> Pair:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host, port = listener.getsockname()
        near = TcpLink.connect(host, port, SOON)
        far, _ = listener.accept()
    return near, TcpLink(far)


def slave_and_master() -> Pair:
    master, slave = open_pty()
    return slave, master


@pytest.fixture(params=[tcp_pair, slave_and_master, memory_pair])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """Two ends of one link; the first is the one whose last bytes survive its close."""
    make: Callable[[], Pair] = request.param
    near, far = make()
    with near, far:
        yield near, far


def read_all(link: Link, size: int) -> bytes:
    data = b""
    while len(data) < size:
        chunk = link.read(SOON)
        assert chunk
        data += chunk
    return data


@pytest.mark.parametrize("sender", [0, 1])
def test_every_byte_value_arrives_unchanged(pair: Pair, sender: int) -> None:
    """A link carries all 256 byte values, either way, without translating any."""
    pair[sender].write(bytes(range(256)), SOON)

    assert bytes(range(256)) == read_all(pair[1 - sender], 256)


def test_large_writes_arrive_whole_and_in_order(pair: Pair) -> None:
    """A write larger than every buffer waits for the reader and loses nothing."""
    near, far = pair
    data = b"".join(b"%07d\n" % number for number in range(40_000))
    writer = threading.Thread(target=near.write, args=(data, 60.0))
    writer.start()
    received = read_all(far, len(data))
    writer.join()

    assert data == received


def test_reading_nothing_times_out(pair: Pair) -> None:
    """A read ends at its time-out if nothing arrives."""
    with pytest.raises(TimeoutError):
        pair[0].read(0.01)


def test_a_read_without_patience_only_looks(pair: Pair) -> None:
    """A time-out of zero, or one that has passed already, means not to wait."""
    for timeout_s in (0.0, -1.0):
        with pytest.raises(TimeoutError):
            pair[0].read(timeout_s)


def test_writing_to_a_peer_that_does_not_read_times_out(pair: Pair) -> None:
    """A write ends at its deadline though the peer never reads."""
    with pytest.raises(TimeoutError, match="take"):
        pair[0].write(bytes(16 * 1_048_576), 0.05)


def test_a_write_without_patience_takes_what_fits(pair: Pair) -> None:
    """A time-out of zero sends a small write and refuses a huge one."""
    near, far = pair
    near.write(b"@", 0.0)

    assert far.read(SOON) == b"@"
    with pytest.raises(TimeoutError):
        near.write(bytes(16 * 1_048_576), 0.0)


def test_bytes_before_a_close_arrive_before_the_end_of_stream(pair: Pair) -> None:
    """The peer of a closed end reads all that was sent, then the end, as often as it asks."""
    near, far = pair
    near.write(b"last words", SOON)
    near.close()

    assert read_all(far, len(b"last words")) == b"last words"
    assert [far.read(SOON), far.read(SOON)] == [b"", b""]


def test_writing_to_a_closed_peer_loses_the_link(pair: Pair) -> None:
    """A write fails with LinkLost, at the latest when the wire has told of the close."""
    near, far = pair
    far.close()

    def talk() -> None:
        for _ in range(1_000):
            near.write(b"anybody there?", SOON)

    with pytest.raises(LinkLost):
        talk()


def test_a_closed_end_refuses_to_work(pair: Pair) -> None:
    """Reading from and writing to an end after its own close is our misuse."""
    near, _ = pair
    near.close()

    with pytest.raises(LinkClosed):
        near.read(0.0)
    with pytest.raises(LinkClosed):
        near.write(b"@", 0.0)


def test_closing_twice_is_allowed(pair: Pair) -> None:
    """Close may be called again, and again by leaving the block."""
    near, far = pair
    near.close()
    near.close()

    assert far.read(SOON) == b""


def test_a_reset_is_a_lost_link() -> None:
    """A TCP reset raises LinkLost from a read."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host, port = listener.getsockname()
        link = TcpLink.connect(host, port, SOON)
        far, _ = listener.accept()
    with link:
        link.write(b"unread bytes make the kernel reset the connection", SOON)
        far.recv(1)
        far.close()

        with pytest.raises(LinkLost, match="while reading"):
            link.read(SOON)


def test_a_refused_connection_is_a_lost_link() -> None:
    """Connecting where nobody listens raises LinkLost, names the place, and says what to look at."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host, port = listener.getsockname()

    told = f"cannot connect to {host}:{port}: Connection refused; does a server run there, on that port?"
    with pytest.raises(LinkLost, match=re.escape(told)):
        TcpLink.connect(host, port, timeout_s=SOON)


def test_another_program_can_open_the_slave_by_its_path() -> None:
    """What is written to the path of a pseudo-terminal arrives at its master."""
    master, slave = open_pty()
    with master, slave, PtyLink.open(slave.path) as other:
        other.write(b"@", SOON)

        assert master.read(SOON) == b"@"


def test_a_path_that_is_no_terminal_is_refused(tmp_path: Path) -> None:
    """Opening a missing path or a plain file says what is wrong with it."""
    plain = tmp_path / "plain"
    plain.touch()

    with pytest.raises(LinkLost, match="No such file"):
        PtyLink.open(str(tmp_path / "missing"))
    with pytest.raises(LinkLost, match="is no terminal"):
        PtyLink.open(str(plain))
