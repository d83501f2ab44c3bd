"""TLS before a session: for boards whose modem speaks it. A session does not know.

Connections are counted before their handshake, so that peers that never finish one are bounded as all others are.
"""

import asyncio
import logging
import os
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Final

from .config import Settings
from .errors import ConfigError

LOOK_INTERVAL: Final = 60.0
"""Seconds between two looks at whether the certificate files have changed."""

ACCEPTS: Final = 16
"""Connections that are taken at a time, before others have their turn."""

ACCEPT_PAUSE: Final = 1.0
"""Seconds until the next look when there was no descriptor for a connection."""


_OUTDATED: Final = {9: "is not valid yet", 10: "has expired"}
"""By the number that OpenSSL has for it."""


class Certificates:
    """The server's certificate files and the context made of them; raises `ConfigError` when they are not as needed.

    Files that change are read again at the next `look`; sessions that are there keep what they have.
    """

    def __init__(self, cert: Path, key: Path | None, client_ca: Path | None) -> None:
        self._cert, self._key = cert, key
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._stamp, self._pem = self._load(self.context)
        self._told: str | None = None
        if client_ca is not None:
            try:
                self.context.load_verify_locations(client_ca)
            except OSError as error:  # ssl.SSLError is one
                raise ConfigError(f"tls-client-ca {client_ca}: {_reason(error)}, expected PEM certificates") from error
            self.context.verify_mode = ssl.CERT_REQUIRED

    def outdated(self) -> str | None:
        """What a device that minds the date has against the certificate in force; None if nothing.

        A handshake with itself in memory tells: Python reads no dates. The device's end looks first, so that it does
        not matter whether it would need a certificate.
        """
        near = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        near.check_hostname = False
        near.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        try:
            near.load_verify_locations(cadata=self._pem)
        except ssl.SSLError:
            return None  # a form of PEM that only a server takes
        to_far, to_near = ssl.MemoryBIO(), ssl.MemoryBIO()
        ends = near.wrap_bio(to_near, to_far), self.context.wrap_bio(to_far, to_near, server_side=True)
        for end in (*ends, *ends):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLCertVerificationError as error:
                if said := _OUTDATED.get(error.verify_code):
                    return f"tls-cert {self._cert}: {said}; a device that minds the date does not connect"
                return None
            except ssl.SSLError:
                return None
        return None

    def look(self, logger: logging.Logger, *, warns: bool = True) -> None:
        """Read the files again if they changed; what cannot be used is logged, and what was read last is in force.

        With `warns`, a certificate that is out of its time is logged as well, once.
        """
        self._read_again(logger)
        outdated = self.outdated() if warns else None
        if outdated is not None and outdated != self._told:
            logger.warning("%s", outdated)
        self._told = outdated

    def _read_again(self, logger: logging.Logger) -> None:
        try:
            if self._files() == self._stamp:
                return
            self._load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))  # half a pair must not get into the context in use
            self._stamp, self._pem = self._load(self.context)
        except (OSError, ConfigError) as error:
            logger.error("%s; what was read last is in force", error)
            return
        logger.info("tls-cert %s: read again", self._cert)

    def _load(self, context: ssl.SSLContext) -> tuple[tuple[tuple[int, int], ...], str]:
        """What the files were, and the certificates in them; raises `ConfigError`."""
        try:
            stamp = self._files()
            pem = self._cert.read_text("ascii", "ignore")
            context.load_cert_chain(self._cert, self._key, _no_password)
        except OSError as error:
            key = "" if self._key is None else f", tls-key {self._key}"
            raise ConfigError(
                f"tls-cert {self._cert}{key}: {_reason(error)}, expected a PEM certificate and its unencrypted key"
            ) from error
        return stamp, pem

    def _files(self) -> tuple[tuple[int, int], ...]:
        stats = [os.stat(path) for path in (self._cert, self._key) if path is not None]
        return tuple((status.st_mtime_ns, status.st_ino) for status in stats)


def certificates_of(settings: Settings) -> Certificates | None:
    """What TLS needs, where it is wanted; raises `ConfigError`."""
    if settings.tls_cert is None:
        return None
    return Certificates(settings.tls_cert, settings.tls_key, settings.tls_client_ca)


class TlsDoor:
    """Takes connections from a listening socket and hands each to a protocol when its handshake is done.

    `turns_away` says whether a connection may not come; it is then closed before its handshake. `failed` is told why a
    handshake failed.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listening: socket.socket,
        context: ssl.SSLContext,
        *,
        timeout_s: float,
        factory: Callable[[], asyncio.Protocol],
        turns_away: Callable[[], bool],
        failed: Callable[[str], None],
    ) -> None:
        self._loop = loop
        self._listening = listening
        self._context = context
        self._timeout_s = timeout_s
        self._factory = factory
        self._turns_away = turns_away
        self._failed = failed
        self._handshakes: dict[asyncio.Protocol, asyncio.Task[None]] = {}
        self._pause: asyncio.TimerHandle | None = None
        self._listen()

    @property
    def waiting(self) -> int:
        """Connections in mid-handshake."""
        return len(self._handshakes)

    def arrived(self, protocol: asyncio.Protocol) -> bool:
        """A handshake is done, and `protocol` has a connection of its own; whether it came through this door."""
        return self._handshakes.pop(protocol, None) is not None

    def close(self) -> None:
        """Take no more connections, and drop those in mid-handshake."""
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._listening)
        self._listening.close()
        for handshake in tuple(self._handshakes.values()):
            handshake.cancel()

    def _listen(self) -> None:
        self._loop.add_reader(self._listening, self._accept)

    def _accept(self) -> None:
        for _ in range(ACCEPTS):
            try:
                accepted, _ = self._listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:  # no descriptors left: the ones that there are go on
                self._loop.remove_reader(self._listening)
                self._pause = self._loop.call_later(ACCEPT_PAUSE, self._listen)
                return
            if self._turns_away():
                accepted.close()
                continue
            accepted.setblocking(False)
            protocol = self._factory()
            self._handshakes[protocol] = self._loop.create_task(self._shake_hands(accepted, protocol))

    async def _shake_hands(self, accepted: socket.socket, protocol: asyncio.Protocol) -> None:
        try:
            await self._loop.connect_accepted_socket(
                lambda: protocol, accepted, ssl=self._context, ssl_handshake_timeout=self._timeout_s
            )
        except OSError as error:  # no TLS, a certificate that is not taken, silence
            accepted.close()
            self._failed(_reason(error))
        finally:
            self._handshakes.pop(protocol, None)


def _no_password() -> str:
    """Instead of a question on the terminal, which would hold up every session at a renewal."""
    raise ConfigError("the TLS key is encrypted, expected an unencrypted one")


def _reason(error: OSError) -> str:
    return getattr(error, "reason", None) or error.strerror or str(error)
