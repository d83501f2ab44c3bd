"""Listening sockets: bound before anything else is opened, so that an occupied port leaves nothing behind."""

import contextlib
import socket
import sys
from collections.abc import Iterable
from typing import Any, Final

from .errors import ListenError

BACKLOG: Final = 65_535
"""Connections that the kernel may hold for us; it cuts this to its own limit."""


def bind(host: str, port: int, *, shared: bool = False, listening: bool = True) -> list[socket.socket]:
    """Sockets bound to every address of `host` (empty: every interface); raises `ListenError`.

    Where `port` is 0, all have the same free one. `shared` lets processes of this user bind the same port, if they say
    so too; without it, a port that any of them has is occupied. What is not `listening` only keeps the port.
    """
    sockets: list[socket.socket] = []
    try:
        with contextlib.ExitStack() as stack:
            stack.callback(close, sockets)
            for family, address in _addresses(host, port):
                try:
                    bound = socket.socket(family, socket.SOCK_STREAM)
                except OSError:  # a kernel without IPv6 is no reason not to serve
                    if sockets:
                        continue
                    raise
                sockets.append(bound)
                _bind(bound, (address[0], address[1] or port_of(sockets), *address[2:]), shared=shared)
                if listening:
                    bound.listen(BACKLOG)
            stack.pop_all()
    except (OSError, OverflowError, ValueError) as error:  # ValueError: a host that no name service is asked for
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ListenError(f"cannot listen on {host or '*'}:{port}: {reason}") from error
    return sockets


def close(sockets: Iterable[socket.socket]) -> None:
    """Close them; those that are closed stay so."""
    for bound in sockets:
        bound.close()


def port_of(sockets: Iterable[socket.socket]) -> int:
    """The port that they are bound to; 0 where none is yet."""
    return next((port for bound in sockets if (port := bound.getsockname()[1])), 0)


def claim_port(bound: socket.socket) -> socket.socket:
    """Keep other supervisors from the address and port of `bound`, also while nobody listens there.

    Returns a socket that holds the claim until it is closed, or the machine's loss of the process. Raises
    `ListenError`. On systems without abstract Unix sockets there is no such claim.
    """
    holder = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    host, port = bound.getsockname()[:2]
    if sys.platform == "linux":
        try:
            holder.bind(f"\0k60-fota port {host} {port}")
        except OSError as error:
            holder.close()
            raise ListenError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    return holder


def reserve(host: str, port: int) -> list[socket.socket]:
    """Keep a port for processes of this user that share it; raises `ListenError`, also when one has it already."""
    close(bind(host, port) if port else ())
    return bind(host, port, shared=True, listening=False)


def _addresses(host: str, port: int) -> list[tuple[socket.AddressFamily, tuple[Any, ...]]]:
    """IPv4 first: of the families, it is the one whose port is told."""
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    unique = dict.fromkeys((family, tuple[Any, ...](address)) for family, _, _, _, address in found)
    return sorted(unique, key=lambda one: one[0] != socket.AF_INET)


def _bind(bound: socket.socket, address: tuple[Any, ...], *, shared: bool) -> None:
    bound.setblocking(False)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if bound.family == socket.AF_INET6:
        bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    bound.bind(address)
