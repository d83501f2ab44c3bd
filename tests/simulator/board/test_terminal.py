"""The pseudo-terminal of a board: what a client finds, and what it leaves behind for the next one."""

import contextlib
import fcntl
import os
import select
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fota_simulator.board.errors import BoardError
from fota_simulator.board.terminal import STALE, BoardTerminal

PATIENCE_MS = 10_000
GET_EXCLUSIVE = 0x8004_5440
"""TIOCGEXCL (Linux; Python has no name for it): to root, opening the port would prove nothing."""


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[BoardTerminal]:
    """One with a link, for 9600 baud."""
    with contextlib.closing(BoardTerminal(tmp_path / "port", 9600)) as made:
        yield made


@contextlib.contextmanager
def opened(terminal: BoardTerminal) -> Iterator[int]:
    """A client's descriptor of the port, nothing set."""
    descriptor = os.open(terminal.port, os.O_RDWR | os.O_NOCTTY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def read(descriptor: int, size: int) -> bytes:
    """So many bytes."""
    out = b""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    while len(out) < size and poll.poll(PATIENCE_MS):
        out += os.read(descriptor, 1024)
    return out


def waiting(descriptor: int) -> int:
    """How many bytes could be read."""
    return int.from_bytes(fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4)), sys.byteorder)


def written(terminal: BoardTerminal, size: int) -> bytes:
    """What a client wrote."""
    out = b""
    poll = select.poll()
    poll.register(terminal.fileno(), select.POLLIN)
    while len(out) < size and poll.poll(PATIENCE_MS):
        out += terminal.read()
    return out


def test_bytes_pass_as_they_are_whatever_the_client_sets(terminal: BoardTerminal) -> None:
    """All 256 of them, both ways, without an echo: the port is raw before it is opened."""
    every = bytes(range(256))

    with opened(terminal) as client:
        terminal.write(every, 0.0)
        os.write(client, every[::-1])

        assert every == read(client, 256)
        assert every[::-1] == written(terminal, 256)
        assert not select.select([client], [], [], 0.05)[0]


def test_client_finds_the_rate_of_the_board_and_may_set_another(terminal: BoardTerminal) -> None:
    """It is a number to the kernel, and to whoever asks."""
    with opened(terminal) as client:
        attributes = termios.tcgetattr(client)
        found = attributes[5]
        attributes[4] = attributes[5] = termios.B115200
        termios.tcsetattr(client, termios.TCSANOW, attributes)

        assert (termios.B9600, 115_200) == (found, terminal.client_baud)


def test_what_a_client_wrote_before_it_closed_is_read(terminal: BoardTerminal) -> None:
    """A programmer sends Q and closes at once."""
    with opened(terminal) as client:
        os.write(client, b"Q\xab\x24")

    assert b"Q\xab\x24" == written(terminal, 3)


def test_port_can_be_opened_again_and_again(terminal: BoardTerminal) -> None:
    """It stays raw, and exclusive use ends with the client that wanted it."""
    for _ in range(3):
        with opened(terminal) as client:
            fcntl.ioctl(client, termios.TIOCEXCL)
            os.write(client, b"\r\x03\x04")

            assert b"\r\x03\x04" == written(terminal, 3)
            assert bytes(4) == fcntl.ioctl(client, GET_EXCLUSIVE, bytes(4))
            terminal.write(b"\n\x11", 0.0)
            assert b"\n\x11" == read(client, 2)


def test_what_nobody_reads_makes_room_for_what_is_newer(terminal: BoardTerminal) -> None:
    """A client that comes late finds the announcements of the last seconds, not those of an hour."""
    with opened(terminal) as watching:
        for tick in range(200):
            before = waiting(watching)
            terminal.write(b"\xfc", tick * 0.32)
            until = time.monotonic() + PATIENCE_MS / 1000
            # The kernel hands it on in its own time, also behind what was thrown away.
            while waiting(watching) in (before, 0) and time.monotonic() < until:
                time.sleep(0.0005)

        assert 1 <= waiting(watching) <= STALE / 0.32 + 2


def test_what_somebody_reads_is_never_thrown_away(terminal: BoardTerminal) -> None:
    """However long it lasts."""
    found = b""
    with opened(terminal) as client:
        for tick in range(100):
            terminal.write(b"%02d" % tick, tick * 1.0)
            found += read(client, 2)

    assert b"".join(b"%02d" % tick for tick in range(100)) == found


def test_link_is_removed_at_the_end(tmp_path: Path) -> None:
    """And only if it is still ours."""
    first, second = BoardTerminal(tmp_path / "a", 0), BoardTerminal(tmp_path / "b", 0)
    (tmp_path / "b").unlink()
    (tmp_path / "b").write_text("mine")

    first.close()
    second.close()

    assert ["b"] == [path.name for path in tmp_path.iterdir()]


def test_without_a_path_the_port_is_the_terminal_itself() -> None:
    """Its name can be opened, too."""
    with contextlib.closing(BoardTerminal(None, 0)) as terminal, opened(terminal) as client:
        assert os.ttyname(client) == terminal.port


def test_link_of_a_killed_board_is_replaced(tmp_path: Path) -> None:
    """Its terminal is gone."""
    (tmp_path / "port").symlink_to("/dev/pts/4294967295")

    with contextlib.closing(BoardTerminal(tmp_path / "port", 0)) as terminal:
        assert terminal.slave_path == os.readlink(tmp_path / "port")


def test_link_of_a_killed_board_is_replaced_when_its_terminal_has_a_new_owner(tmp_path: Path) -> None:
    """The kernel gives numbers out again: the link leads to a terminal that is younger than itself."""
    master, slave = os.openpty()
    try:
        (tmp_path / "port").symlink_to(os.ttyname(slave))
        os.utime(tmp_path / "port", (1.0, 1.0), follow_symlinks=False)

        with contextlib.closing(BoardTerminal(tmp_path / "port", 0)) as terminal:
            assert terminal.slave_path == os.readlink(tmp_path / "port")
    finally:
        os.close(slave)
        os.close(master)


def test_what_is_there_already_is_kept(tmp_path: Path, terminal: BoardTerminal) -> None:
    """A file, a link elsewhere, a folder, or the port of a board that lives."""
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to("nowhere")

    for path in (tmp_path / "file", tmp_path / "link", tmp_path, Path(terminal.port), tmp_path / "no" / "folder"):
        with pytest.raises(BoardError, match="expected a free name for a link"):
            BoardTerminal(path, 0)

    assert ("mine", "nowhere") == ((tmp_path / "file").read_text(), os.readlink(tmp_path / "link"))
    assert terminal.slave_path == os.readlink(terminal.port)
