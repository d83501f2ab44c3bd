"""TLS: a device that speaks it is served as any other, and one that does not disturbs nobody."""

import contextlib
import datetime
import logging
import shutil
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import trustme
from tests.server.conftest import MCUID, PATIENCE, Peer, RunningServer, Site, Update, blink, identification, statuses

from fota_server.errors import ConfigError
from fota_server.preflight import check
from fota_server.tls import Certificates


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def write_certificate(authority: trustme.CA, path: Path) -> dict[str, Path]:
    """The server's files; returns them as settings."""
    issued = authority.issue_cert("127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(path / "cert.pem")
    issued.private_key_pem.write_to_path(path / "key.pem")
    return {"tls_cert": path / "cert.pem", "tls_key": path / "key.pem"}


@pytest.fixture
def tls(site: Site, authority: trustme.CA) -> dict[str, Any]:
    """Settings of a server that speaks TLS on a free port."""
    return {"tls_port": 0, **write_certificate(authority, site.folder)}


class TlsPeer(Peer):
    """A device that speaks TLS."""

    def __init__(self, server: RunningServer, context: ssl.SSLContext) -> None:
        assert server.ready.tls_port is not None
        raw = socket.create_connection(("127.0.0.1", server.ready.tls_port), PATIENCE)
        self.socket = context.wrap_socket(raw, server_hostname="127.0.0.1")


def client_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def plain(server: RunningServer) -> socket.socket:
    """A connection to the TLS port without TLS."""
    assert server.ready.tls_port is not None
    return socket.create_connection(("127.0.0.1", server.ready.tls_port), PATIENCE)


def test_a_device_is_updated_over_tls(site: Site, authority: trustme.CA, tls: dict[str, Any]) -> None:
    """Every byte is the same as over the plain port, which stays as it was."""
    with site.serve(**tls) as server:
        with TlsPeer(server, client_context(authority)) as peer:
            assert blink(1) == peer.update()
        assert blink(1) == server.update()

    assert f"and with TLS on port {server.ready.tls_port}" in site.log()


def test_an_identification_right_behind_the_handshake_is_not_lost(
    site: Site, authority: trustme.CA, tls: dict[str, Any]
) -> None:
    """However the session's beginning and the handshake's end meet."""
    with site.serve(**tls) as server:
        for _ in range(20):
            with TlsPeer(server, client_context(authority)) as peer:
                peer.send(identification(MCUID))
                assert b"@4#" == peer.take(3)


def test_a_refusal_arrives_over_tls(site: Site, authority: trustme.CA, tls: dict[str, Any]) -> None:
    """A stranger reads `@0#` and an orderly end, also when it sends on."""
    with site.serve(**tls) as server, TlsPeer(server, client_context(authority)) as peer:
        peer.send(identification("9" * 25) + b"\r\n")

        assert Update(b"@0#") == Update(peer.take(3), rest=peer.rest())


def test_peers_without_tls_are_closed_and_disturb_nobody(
    site: Site, authority: trustme.CA, tls: dict[str, Any]
) -> None:
    """Plain bytes, garbage, silence, a close in the middle: others are served meanwhile."""
    with site.serve(**tls) as server, plain(server) as plainly, plain(server), plain(server) as gone:
        plainly.sendall(identification(MCUID) + bytes(100))
        gone.sendall(b"\x16\x03\x01")
        gone.close()
        with TlsPeer(server, client_context(authority)) as peer:
            assert blink(1) == peer.update()
        with contextlib.suppress(ConnectionError):
            while plainly.recv(1024):
                pass
    assert ["SUCCESSFUL"] == statuses(server.rows(1))


def test_a_silent_peer_is_closed_at_the_deadline(site: Site, tls: dict[str, Any]) -> None:
    """A handshake that never begins ends when an identification would."""
    with (
        site.serve(**tls, identification_timeout=0.1) as server,
        plain(server) as silent,
        contextlib.suppress(ConnectionError),
    ):
        assert b"" == silent.recv(1024)


def test_handshakes_count_as_connections(site: Site, authority: trustme.CA, tls: dict[str, Any]) -> None:
    """Peers that never finish one are bounded as all others are."""
    with site.serve(**tls, limit=3) as server:
        shaking = [plain(server) for _ in range(3)]
        wait_until(lambda: server.listener.handshakes == 3)
        with server.connect() as turned_away:
            assert b"" == turned_away.rest()
        for one in shaking:
            one.close()
        wait_until(lambda: not server.listener.handshakes)

        assert blink(1) == server.update()


def test_as_many_devices_as_the_limit_says_are_served_over_tls(
    site: Site, authority: trustme.CA, tls: dict[str, Any]
) -> None:
    """A connection does not count twice; one more than allowed is turned away, and said."""
    with site.serve(**tls, limit=2) as server, contextlib.ExitStack() as stack:
        for _ in range(2):
            peer = stack.enter_context(TlsPeer(server, client_context(authority)))
            peer.send(identification("9" * 25)[:-1])
        with pytest.raises((ssl.SSLError, ConnectionError)):
            TlsPeer(server, client_context(authority))
    assert "Limit reached: 2 connections are open; 1 turned away" in site.log()


def test_failed_handshakes_are_said(site: Site, tls: dict[str, Any]) -> None:
    """Who sets TLS up has something to look at."""
    with site.serve(**tls) as server:
        with plain(server) as peer:
            peer.sendall(b"GET / HTTP/1.1\r\n\r\n")
            with contextlib.suppress(ConnectionError):
                peer.recv(1024)
        wait_until(lambda: "TLS handshake failed" in site.log())


def test_an_encrypted_key_is_refused_without_a_question(site: Site, tls: dict[str, Any]) -> None:
    """Nobody sits at the terminal of a server."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to encrypt a key with")
    command = [
        "openssl",
        "pkcs8",
        "-topk8",
        "-v2",
        "aes256",
        "-passout",
        "pass:secret",
        "-in",
        tls["tls_key"],
        "-out",
        "enc.pem",
    ]
    subprocess.run(command, cwd=site.folder, check=True, capture_output=True)

    with pytest.raises(ConfigError, match="encrypted, expected an unencrypted one"):
        Certificates(tls["tls_cert"], site.folder / "enc.pem", None)


def wait_until(condition: Any) -> None:
    limit = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.01)


def test_stopping_ends_handshakes(site: Site, tls: dict[str, Any]) -> None:
    """A peer in mid-handshake holds nobody up."""
    with site.serve(**tls) as server:
        shaking = plain(server)
        wait_until(lambda: server.listener.handshakes == 1)
    with shaking, contextlib.suppress(ConnectionError):
        assert b"" == shaking.recv(1)


def test_devices_need_a_certificate_where_one_is_asked_for(
    site: Site, authority: trustme.CA, tls: dict[str, Any]
) -> None:
    """One of the right authority is served; none, and one of another's, are not."""
    authority.cert_pem.write_to_path(site.folder / "ca.pem")
    mine, others = client_context(authority), client_context(authority)
    authority.issue_cert("device@example.org").configure_cert(mine)
    trustme.CA().issue_cert("device@example.org").configure_cert(others)
    with site.serve(**tls, tls_client_ca=site.folder / "ca.pem") as server:
        for context in (client_context(authority), others):
            # A client of TLS 1.3 has finished its handshake before the server looks at its certificate.
            with contextlib.suppress(ssl.SSLError, ConnectionError), TlsPeer(server, context) as peer:
                peer.send(identification(MCUID))
                assert b"" == peer.take(1)
        with TlsPeer(server, mine) as peer:
            assert blink(1) == peer.update()


def test_a_renewed_certificate_is_in_force_at_the_next_look(
    site: Site, authority: trustme.CA, tls: dict[str, Any]
) -> None:
    """New files are used, a half-replaced pair is not, and what was read last stays in force."""
    messages: list[str] = []
    logger = logging.Logger("tls")
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    certificates = Certificates(tls["tls_cert"], tls["tls_key"], None)
    certificates.look(logger)
    (site.folder / "key.pem").write_bytes(trustme.CA().issue_cert("127.0.0.1").private_key_pem.bytes())
    certificates.look(logger)
    write_certificate(trustme.CA(), site.folder)
    certificates.look(logger)
    tls["tls_cert"].unlink()
    certificates.look(logger)

    half, whole, missing = messages
    assert "; what was read last is in force" in half
    assert whole.endswith("cert.pem: read again")
    assert "No such file" in missing


@pytest.mark.parametrize(
    ("since", "until", "said"),
    [(-2, -1, "has expired"), (1, 2, "is not valid yet"), (-1, 1, None)],
)
def test_a_certificate_out_of_its_time_is_told(
    site: Site, tls: dict[str, Any], since: int, until: int, said: str | None
) -> None:
    """In the log, once, and by a look before serving; the server starts all the same, since boards have no clock."""
    now = datetime.datetime.now(datetime.UTC)
    since_when, until_when = now + datetime.timedelta(days=since), now + datetime.timedelta(days=until)
    issued = trustme.CA().issue_cert("127.0.0.1", not_before=since_when, not_after=until_when)
    issued.cert_chain_pems[0].write_to_path(tls["tls_cert"])
    issued.private_key_pem.write_to_path(tls["tls_key"])
    with site.serve(**tls) as server:
        assert blink(1) == server.update()

    expected = [] if said is None else [f"tls-cert {tls['tls_cert']}: {said}; a device that minds the date"]
    warnings = [line for line in site.log().splitlines() if "tls-cert" in line]
    assert len(expected) == len(warnings)
    assert all(one in line for one, line in zip(expected, warnings, strict=True))
    found = check(site.settings(**tls)).findings
    assert len(expected) == len(found)
    assert all(one in finding.message for one, finding in zip(expected, found, strict=True))


def test_the_certificate_in_force_is_judged_and_not_the_files(
    site: Site, authority: trustme.CA, tls: dict[str, Any]
) -> None:
    """A renewal that cannot be used does not hide that the old one has expired; one that can ends it."""
    now = datetime.datetime.now(datetime.UTC)
    expired = trustme.CA().issue_cert(
        "127.0.0.1", not_before=now - datetime.timedelta(days=2), not_after=now - datetime.timedelta(days=1)
    )
    both = site.folder / "both.pem"
    both.write_bytes(expired.private_key_pem.bytes() + b"# caf\xe9\n" + expired.cert_chain_pems[0].bytes())
    authority.cert_pem.write_to_path(site.folder / "ca.pem")
    certificates = Certificates(both, None, site.folder / "ca.pem")
    at_first = certificates.outdated()
    messages: list[str] = []
    logger = logging.Logger("tls")
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    both.write_text("no certificate")
    certificates.look(logger, warns=False)
    quiet = len(messages)
    certificates.look(logger)
    both.write_bytes(tls["tls_key"].read_bytes() + tls["tls_cert"].read_bytes())
    certificates.look(logger)

    assert at_first == f"tls-cert {both}: has expired; a device that minds the date does not connect"
    assert 1 == quiet
    assert [at_first] == [message for message in messages if "expired" in message]
    assert certificates.outdated() is None


def test_several_workers_warn_of_a_certificate_once(site: Site, tls: dict[str, Any]) -> None:
    """They have one log and one certificate."""
    long_ago = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    issued = trustme.CA().issue_cert("127.0.0.1", not_before=long_ago, not_after=long_ago + datetime.timedelta(days=1))
    issued.cert_chain_pems[0].write_to_path(tls["tls_cert"])
    issued.private_key_pem.write_to_path(tls["tls_key"])
    options = {
        "host": "127.0.0.1",
        "port": 0,
        "registry": site.registry,
        "firmware": site.firmware,
        "logs": site.logs,
        "workers": 2,
        **tls,
    }
    command = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    with subprocess.Popen(
        [sys.executable, "-m", "fota_cli", "serve", "--quiet", *command], stdout=subprocess.PIPE
    ) as server:
        assert server.stdout is not None
        assert b'"ready"' in server.stdout.readline()
        server.terminate()

    assert 0 == server.returncode
    assert 1 == site.log().count("has expired")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tls_cert", r"tls-cert .*none\.pem, tls-key .*: No such file or directory, expected a PEM certificate"),
        ("tls_key", r"tls-cert .*, tls-key .*none\.pem: No such file or directory, expected"),
        ("tls_client_ca", r"tls-client-ca .*none\.pem: No such file or directory, expected PEM"),
    ],
)
def test_files_that_are_not_as_needed_are_told(site: Site, tls: dict[str, Any], name: str, message: str) -> None:
    """A server does not start without the TLS that it was asked for."""
    with pytest.raises(ConfigError, match=message), site.serve(**tls | {name: site.folder / "none.pem"}):
        pytest.fail("it started")

    (site.folder / "none.pem").write_text("no certificate")
    with pytest.raises(ConfigError, match="expected"), site.serve(**tls | {name: site.folder / "none.pem"}):
        pytest.fail("it started")
