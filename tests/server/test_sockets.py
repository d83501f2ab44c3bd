"""Listening sockets: bound first, one port for every address, and occupied or shared as was asked."""

import contextlib
import socket

import pytest

from fota_server.errors import ListenError
from fota_server.sockets import bind, claim_port, close, port_of, reserve


def connect(port: int) -> None:
    socket.create_connection(("127.0.0.1", port), 5).close()


def test_every_family_has_the_same_free_port() -> None:
    """Without a host and with port 0, IPv4 and IPv6 are heard on one port."""
    sockets = bind("", 0)
    with contextlib.closing(contextlib.ExitStack()) as stack:
        stack.callback(close, sockets)

        assert {port_of(sockets)} == {bound.getsockname()[1] for bound in sockets}
        connect(port_of(sockets))


def test_an_occupied_port_is_refused_with_the_systems_reason() -> None:
    """It does not matter whether the other one would share."""
    for shared in (False, True):
        sockets = bind("127.0.0.1", 0, shared=shared)
        with pytest.raises(ListenError, match=r"cannot listen on 127\.0\.0\.1:\d+: Address already in use"):
            bind("127.0.0.1", port_of(sockets))
        with pytest.raises(ListenError, match="in use"):
            reserve("127.0.0.1", port_of(sockets))
        close(sockets)


def test_a_port_that_is_kept_is_shared_and_heard_by_nobody_else() -> None:
    """What is kept takes no connection; those who share it do, one after the other."""
    kept = reserve("127.0.0.1", 0)
    port = port_of(kept)
    with pytest.raises(ConnectionRefusedError):
        connect(port)
    for _ in range(2):
        sockets = bind("127.0.0.1", port, shared=True)
        connect(port)
        close(sockets)
    close(kept)


def test_a_port_is_one_supervisors_also_while_nobody_listens() -> None:
    """Two of them would share it by accident."""
    kept = reserve("127.0.0.1", 0)
    (claim,) = (claim_port(bound) for bound in kept)
    again = reserve("127.0.0.1", port_of(kept))

    with pytest.raises(ListenError, match=f"cannot listen on 127.0.0.1:{port_of(kept)}: Address already in use"):
        claim_port(again[0])
    claim.close()
    claim_port(again[0]).close()
    close([*kept, *again])


def test_a_port_that_cannot_be_is_a_message() -> None:
    """Names that no name service is asked for, and numbers out of range, too."""
    for host in ("x" * 70, "a\0b", "203.0.113.1"):
        with pytest.raises(ListenError, match="cannot listen on "):
            bind(host, 0)
