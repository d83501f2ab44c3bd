"""Ports for servers under test: free, out of the kernel's way, and never given to two kits at once."""

import socket

import pytest

from fota_conformance import ports
from fota_conformance.errors import HarnessError
from fota_conformance.ports import ReservedPort


def test_port_is_free_and_not_ephemeral() -> None:
    """A server can listen there, and no outgoing connection gets it."""
    with ReservedPort("127.0.0.1") as port, socket.create_server(("127.0.0.1", port.number)):
        lowest_ephemeral = int(ports.RANGE_FILE.read_text().split()[0]) if ports.RANGE_FILE.exists() else 32_768

        assert ports.LOWEST <= port.number < lowest_ephemeral


def test_port_is_nobody_elses_until_it_is_released(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where only one port could be had, the second kit gets none, and gets it after the first."""
    with ReservedPort("127.0.0.1") as first:
        monkeypatch.setattr("secrets.randbelow", lambda _: first.number - ports.LOWEST)
        with pytest.raises(HarnessError, match=r"no free port at 127\.0\.0\.1: Address already in use"):
            ReservedPort("127.0.0.1")

    with ReservedPort("127.0.0.1") as second:
        assert first.number == second.number


def test_port_with_a_listener_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A port on which somebody listens is no free one, reserved or not."""
    with ReservedPort("127.0.0.1") as port:
        number = port.number
    monkeypatch.setattr("secrets.randbelow", lambda _: number - ports.LOWEST)

    with socket.create_server(("127.0.0.1", number)), pytest.raises(HarnessError):
        ReservedPort("127.0.0.1")


def test_address_of_somebody_else_is_an_error() -> None:
    """An address that this machine does not have is named."""
    with pytest.raises(HarnessError, match=r"no free port at 192\.0\.2\.1"):
        ReservedPort("192.0.2.1")
