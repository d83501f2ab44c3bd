"""What to do about devices that find no connection, by what the system said of it."""

import errno
import os
from collections.abc import Mapping
from typing import Final

from fota_simulator.report import NOT_CONNECTED
from fota_simulator.swarm import NO_ADDRESS

_ADVICE: Final[Mapping[str, str]] = {
    NO_ADDRESS: "look at the host's name in --server",
    "no answer": "the server takes no more connections, or a firewall is between: try --ramp",
} | {
    os.strerror(code): advice
    for code, advice in {
        errno.ECONNREFUSED: "is the server there? Look at host and port in --server",
        errno.EHOSTUNREACH: "no way to that host: look at the host in --server, and at the network",
        errno.ENETUNREACH: "no way to that network: look at the host in --server, and at the network",
        errno.ETIMEDOUT: "the server takes no more connections, or a firewall is between: try --ramp",
        errno.ECONNRESET: "the server, or what is before it, takes no more connections: try --ramp",
        errno.EADDRNOTAVAIL: "ports are used up, or a --source-ip is not of this machine: give more, or others",
        errno.EADDRINUSE: "ports are used up: give more addresses with --source-ip",
        errno.EMFILE: "this process may not open more files: raise ulimit -n, or run fewer devices at once",
        errno.ENFILE: "the system may not open more files: raise fs.file-max, or run fewer devices at once",
        errno.ENOBUFS: "the system has no memory for connections: run fewer devices at once",
        errno.EACCES: "a firewall, or the system, forbids it",
        errno.EPERM: "a firewall, or the system, forbids it",
    }.items()
}
"""By a part of the cause: a host with several addresses has several."""


def advice_on(cause: str) -> str | None:
    """What to do about attempts that found no connection for that cause; None where nobody knows."""
    return next((advice for part, advice in _ADVICE.items() if part in cause), None)


def with_causes(reasons: Mapping[str, int], not_connected: Mapping[str, int]) -> dict[str, int]:
    """Reasons of attempts, in which those that found no connection are told apart by their cause."""
    found = {reason: number for reason, number in reasons.items() if reason != NOT_CONNECTED}
    found |= {f"{NOT_CONNECTED}: {cause}": number for cause, number in not_connected.items()}
    rest = reasons.get(NOT_CONNECTED, 0) - sum(not_connected.values())
    return found | ({NOT_CONNECTED: rest} if rest > 0 else {})
