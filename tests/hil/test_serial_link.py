"""A serial port is a link: the contract of `fota_transport.links` over pseudo terminals, sockets and RFC 2217.

The contract is the one test of `tests/transport/test_links.py`, taken from there and run over pairs whose near end is a
`SerialLink`. What is a serial port's own is below: that it is lost and never ends, its errors, its speed.
"""

import contextlib
import importlib.util
import inspect
import os
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Final, TypeAlias

import pytest
import serial.rfc2217

from fota_hil.errors import PortError, PortNameError
from fota_hil.serial_link import MAX_BAUD, SerialLink
from fota_transport.errors import LinkClosed, LinkLost
from fota_transport.links import ClosingLink, Link, TcpLink
from fota_transport.ptys import open_pty

Pair: TypeAlias = tuple[SerialLink, Link]

SOON: Final = 5.0
"""Seconds for what happens at once."""


PYSERIAL_WARNS: Final = pytest.mark.filterwarnings(r"ignore:set\w+\(\) is deprecated:DeprecationWarning")
"""pyserial 3.5 starts the thread of RFC 2217 in an old way."""


def over_a_pty() -> Pair:
    """A port on the slave; the master is the board. Nobody else keeps the slave open, so that a close is seen."""
    master, slave = open_pty()
    port = SerialLink.open(slave.path)
    slave.close()
    return port, master


def over_a_spied_pty() -> Pair:
    """The same through pyserial's spy, which writes what passes to a file."""
    master, slave = open_pty()
    port = SerialLink.open(f"spy://{slave.path}?file={os.devnull}")
    slave.close()
    return port, master


def over_a_socket() -> Pair:
    """A port on a terminal server that hands on raw bytes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = SerialLink.open(f"socket://127.0.0.1:{listener.getsockname()[1]}")
        far, _ = listener.accept()
    return port, TcpLink(far)


def contract() -> ModuleType:
    """The module that holds the contract of all links."""
    path = Path(__file__).parents[1] / "transport" / "test_links.py"
    spec = importlib.util.spec_from_file_location("contract_of_links", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CLAIMS: Final = {
    name: claim
    for name, claim in vars(contract()).items()
    if name.startswith("test_") and "pair" in inspect.signature(claim).parameters
}
"""What any pair of links must do."""

globals().update(CLAIMS)


@pytest.fixture(params=[over_a_pty, over_a_spied_pty, over_a_socket])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """A serial port, and what is at its other end."""
    make: Callable[[], Pair] = request.param
    near, far = make()
    with near, far:
        yield near, far


class PortWithLines(serial.Serial):
    """A pseudo terminal as a terminal server's port: the modem lines that it lacks are all on."""

    cts = dsr = ri = cd = True

    def _update_dtr_state(self) -> None:
        """There is none."""

    def _update_rts_state(self) -> None:
        """There is none."""


class Rfc2217Board(ClosingLink):
    """A terminal server of RFC 2217 whose board is a pseudo terminal's master, with pyserial's own protocol manager."""

    def __init__(self) -> None:
        self.board, self._slave = open_pty()
        self._port = PortWithLines(self._slave.path, timeout=0.05)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"rfc2217://127.0.0.1:{self._listener.getsockname()[1]}"
        self._connection: socket.socket | None = None
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def write(self, data: bytes) -> None:
        """What the manager sends to its client."""
        assert self._connection is not None
        self._connection.sendall(data)

    def hang_up(self) -> None:
        """The server dies."""
        assert self._connection is not None
        self._connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        if self._connection is None:  # nobody came
            socket.create_connection(self._listener.getsockname()[:2]).close()
        else:
            with contextlib.suppress(OSError):
                self.hang_up()
        self._thread.join()
        self._listener.close()
        self._port.close()
        self.board.close()
        self._slave.close()

    def _serve(self) -> None:
        self._connection, _ = self._listener.accept()
        kind: Any = serial.rfc2217.PortManager  # its types ask for less than it takes
        manager = kind(self._port, self)
        carrier = threading.Thread(target=self._carry_back, args=(manager, self._connection))
        carrier.start()
        with contextlib.suppress(OSError):
            while data := self._connection.recv(1024):
                self._port.write(b"".join(manager.filter(data)))
        self._gone = True
        carrier.join()
        self._connection.close()

    _gone = False

    def _carry_back(self, manager: Any, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while not self._gone:
                if data := self._port.read(1):
                    connection.sendall(b"".join(manager.escape(data)))


def descriptors() -> int:
    """How many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))


def read_until_lost(port: SerialLink) -> None:
    """Read what is still there, until the port is lost."""
    while True:
        port.read(SOON)


def write_until_lost(port: SerialLink) -> None:
    """Write until the port is found out to be lost."""
    for _ in range(1_000):
        port.write(b"anybody there?", SOON)
        time.sleep(0.01)


def test_the_contract_has_claims() -> None:
    """The contract was found where it is kept: this file cannot pass by running nothing."""
    assert {"test_every_byte_value_arrives_unchanged", "test_closing_twice_is_allowed"} <= set(CLAIMS)


def test_a_port_whose_other_end_closes_is_lost(pair: Pair) -> None:
    """Pulling the plug is no end of a stream: reading raises LinkLost, again and again."""
    near, far = pair
    far.close()

    for _ in range(2):
        with pytest.raises(LinkLost, match="unplugged, or closed"):
            near.read(SOON)


def test_a_read_returns_as_soon_as_a_byte_is_there(pair: Pair) -> None:
    """A reader does not wait for more than the first byte, however long it would."""
    near, far = pair
    threading.Timer(0.1, far.write, (b"@", SOON)).start()
    began = time.monotonic()

    assert near.read(60.0) == b"@"
    assert time.monotonic() - began < SOON


def test_waiting_costs_no_processor_time(pair: Pair) -> None:
    """A read of nothing sleeps: half a second of waiting takes less than a twentieth of processor time."""
    before = resource.getrusage(resource.RUSAGE_THREAD)
    with pytest.raises(TimeoutError):
        pair[0].read(0.5)
    after = resource.getrusage(resource.RUSAGE_THREAD)

    assert (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime) < 0.025


def test_bytes_before_an_unplugging_of_a_socket_arrive() -> None:
    """What a terminal server sent before it closed is read before the loss."""
    near, far = over_a_socket()
    with near, far:
        far.write(b"last words", SOON)
        far.close()

        assert near.read(SOON) == b"last words"
        with pytest.raises(LinkLost):
            near.read(SOON)


def test_discarded_input_is_not_read(pair: Pair) -> None:
    """What had arrived before `discard_input` is gone, what comes after it is read."""
    near, far = pair
    far.write(b"noise", SOON)
    deadline = time.monotonic() + SOON
    while near.fileno() >= 0 and not near._open().wait(False, 0.05):
        assert time.monotonic() < deadline
    near.discard_input()
    far.write(b"@", SOON)

    assert near.read(SOON) == b"@"


def test_ready_bytes_are_taken_without_waiting(pair: Pair) -> None:
    """`receive_now` returns nothing when nothing is there, `send_now` how much was taken."""
    near, far = pair

    assert near.receive_now() == b""
    assert near.send_now(b"@") == 1
    assert far.read(SOON) == b"@"


def test_loop_carries_what_is_written() -> None:
    """A port without a descriptor works as the others do: bytes, time-outs, discarding, close."""
    with SerialLink.open("loop://") as link:
        link.write(bytes(range(256)), SOON)
        received = b""
        while len(received) < 256:
            received += link.read(SOON)
        link.write(b"noise", SOON)
        time.sleep(0.1)
        link.discard_input()
        with pytest.raises(TimeoutError):
            link.read(0.05)
        link.close()

        assert bytes(range(256)) == received
        with pytest.raises(LinkClosed):
            link.read(0.0)


@PYSERIAL_WARNS
def test_rfc2217_carries_every_byte_both_ways() -> None:
    """Telnet's own bytes are not lost, and the speed reaches the far port."""
    with Rfc2217Board() as server, SerialLink.open(server.url, 9_600) as link:
        link.write(bytes(range(256)), SOON)
        there = b""
        while len(there) < 256:
            there += server.board.read(SOON)
        server.board.write(bytes(range(256)), SOON)
        back = b""
        while len(back) < 256:
            back += link.read(SOON)
        link.set_baud(19_200)

        assert bytes(range(256)) == there == back
        assert (19_200, 19_200) == (link.baud, server._port.baudrate)


@PYSERIAL_WARNS
def test_rfc2217_server_that_is_gone_loses_the_port() -> None:
    """When the terminal server dies, reads raise LinkLost and so do writes."""
    with Rfc2217Board() as server, SerialLink.open(server.url) as link:
        server.hang_up()

        with pytest.raises(LinkLost):
            read_until_lost(link)
        with pytest.raises(LinkLost):
            write_until_lost(link)


def test_open_sets_speed_and_line() -> None:
    """The port has the speed that was asked for, also one that no table has, and it can be changed."""
    master, slave = open_pty()
    with master, slave, SerialLink.open(slave.path, 9_600) as link:
        before = link.baud
        link.set_baud(123_456)

        assert (9_600, 123_456) == (before, link.baud)
        with pytest.raises(PortError, match="expected 1 to"):
            link.set_baud(MAX_BAUD + 1)


def test_a_pseudo_terminal_says_that_it_has_no_lines() -> None:
    """A pulse that nobody would see is an error, not a silence; the port stays usable."""
    master, slave = open_pty()
    with master, slave, SerialLink.open(slave.path) as link:
        with pytest.raises(PortError, match="no DTR"):
            link.pulse("dtr", 0.0)
        link.write(b"@", SOON)

        assert master.read(SOON) == b"@"


def test_a_socket_says_that_it_carries_no_break() -> None:
    """Bytes over TCP have no break."""
    near, far = over_a_socket()
    with near, far:
        with pytest.raises(PortError, match="carries no break"):
            near.send_break(0.0)
        with pytest.raises(PortError, match="no RTS"):
            near.pulse("rts", 0.0)


def test_a_port_is_ours_alone() -> None:
    """A second relay on the same port is refused, and told that it is in use."""
    master, slave = open_pty()
    with master, slave, SerialLink.open(slave.path), pytest.raises(PortError, match="in use"):
        SerialLink.open(slave.path)


@pytest.mark.parametrize("url", ["", "  ", "morse:///dev/ttyUSB0", "hwgrep://(", "spy:///dev/null?loud"])
def test_a_name_that_can_name_no_port_is_bad_input(url: str) -> None:
    """It is refused as a name, before anything is opened, with what was expected."""
    with pytest.raises(PortNameError, match="expected"):
        SerialLink.open(url)


@pytest.mark.parametrize(
    ("url", "advice"),
    [
        ("/dev/no-such-port", "there is no such port. Is the board plugged in"),
        ("/dev/null", "is no serial port, expected"),
        ("/", "is no serial port, expected"),
        ("hwgrep://no such board", "no port matches"),
        ("socket://127.0.0.1:{closed}", "refused. Does its server run"),
        ("rfc2217://127.0.0.1:{closed}", "refused. Does its server run"),
    ],
)
def test_a_port_that_cannot_be_opened_says_what_to_do(url: str, advice: str) -> None:
    """The message has the port's name, what is wrong and what to do, and no descriptor is left open."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        name = url.format(closed=listener.getsockname()[1])
    before = descriptors()
    with pytest.raises(PortError, match=advice) as caught:
        SerialLink.open(name)

    assert name == caught.value.port
    assert name in str(caught.value)
    assert before == descriptors()


def test_no_permission_names_the_group_to_join(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who may not open a port is told of the group that may. The refusal is played: root is refused nothing."""

    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("serial.serialposix.os.open", refuse)
    with pytest.raises(PortError, match=r"no permission. Join its group, \w+"):
        SerialLink.open("/dev/ttyUSB0")


def test_closing_leaves_no_descriptor_open(pair: Pair) -> None:
    """A port that was opened, lost and closed has given everything back."""
    near, far = pair
    far.close()
    with pytest.raises(LinkLost):
        read_until_lost(near)
    near.close()
    before = descriptors()
    again, other = over_a_socket()
    other.close()
    with pytest.raises(LinkLost):
        read_until_lost(again)
    again.close()

    assert before == descriptors()
