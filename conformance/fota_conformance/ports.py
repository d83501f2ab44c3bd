"""Ports for servers under test, which are told where to listen and must find the port free when they do.

A port from the kernel's ephemeral range may be taken by any outgoing connection between the kit's look and the server's
bind, and two kits that run side by side may look at the same one. So ports come from below that range, and each is
reserved among all kits of the machine while its server lives: by the UDP socket of the same number, which the kernel
gives to one process and takes back when that ends.
"""

import contextlib
import secrets
import socket
from pathlib import Path
from typing import Final, Self

from fota_conformance.errors import HarnessError

LOWEST: Final = 10_000
"""Below it are ports that people know."""
EPHEMERAL: Final = 32_768
"""Where outgoing connections get their ports from, if the kernel does not say."""
RANGE_FILE: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
"""Where the kernel says it (Linux)."""
TRIES: Final = 200
"""Ports that are looked at before the kit gives up."""


class ReservedPort:
    """A TCP port that nobody listens on, kept from other kits until it is released."""

    def __init__(self, host: str) -> None:
        """Find one at an address; raises `HarnessError`."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        for _ in range(TRIES):
            self.number = LOWEST + secrets.randbelow(_ephemeral() - LOWEST)
            self._claim = socket.socket(family, socket.SOCK_DGRAM)
            try:
                self._claim.bind((host, self.number))
                with socket.socket(family) as probe:
                    probe.bind((host, self.number))
                return
            except OSError as error:
                reason = error
                self._claim.close()
        raise HarnessError(f"no free port at {host}: {reason.strerror or reason}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Let others have it."""
        self._claim.close()


def free_port(host: str) -> int:
    """A port that nobody listens on now, and nobody keeps."""
    with ReservedPort(host) as port:
        return port.number


def _ephemeral() -> int:
    """The first port of the kernel's own range."""
    with contextlib.suppress(OSError, ValueError):
        return max(int(RANGE_FILE.read_text("ascii").split()[0]), LOWEST + 1_000)
    return EPHEMERAL
