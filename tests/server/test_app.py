"""The server as a whole: it opens everything or nothing, and closes everything."""

import asyncio
import dataclasses
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from tests.server.conftest import MCUID, Site, blink, statuses

from fota_server.app import Ready, readiness, running, write_ready_file
from fota_server.errors import ConfigError, JournalError, ListenError, RegistryError, ServerError
from fota_server.journal import read_journal
from fota_server.listener import Limits
from fota_transport.loops import run


@pytest.fixture(autouse=True, scope="module")
def first_loop() -> None:
    """What the first loop of a process opens for all that follow is nobody's leak."""
    run(asyncio.sleep(0))


def open_things() -> tuple[int, int]:
    return threading.active_count(), len(os.listdir("/proc/self/fd"))


needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts descriptors by /proc")


@needs_proc
@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"registry": "none.txt"}, RegistryError, r"registry .*none\.txt: No such file or directory"),
        ({"registry": "foreign.sqlite"}, RegistryError, r"foreign\.sqlite: file is not a database"),
        ({"firmware": "none"}, ConfigError, r"firmware folder .*none: no such folder"),
        ({"firmware": "devices2update.txt"}, ConfigError, r"firmware folder .*: no such folder"),
        ({"logs": "devices2update.txt"}, ConfigError, r"log folder .*: File exists"),
        ({"journal": "none/journal.sqlite"}, JournalError, r"journal .*: unable to open database file"),
        ({"journal": "foreign.sqlite"}, JournalError, r"journal .*: file is not a database"),
        ({"host": "203.0.113.1"}, ListenError, r"cannot listen on 203\.0\.113\.1:0: "),
        ({"host": "x" * 70}, ListenError, r"cannot listen on x{70}:0: "),
        ({"host": "a\0b"}, ListenError, r"cannot listen on a"),
    ],
)
def test_what_cannot_be_opened_is_told_and_nothing_stays_open(
    site: Site, changes: dict[str, Any], kind: type[ServerError], message: str
) -> None:
    """A server that cannot start says why, and leaves no descriptor and no thread."""
    (site.folder / "foreign.sqlite").write_bytes(b"SQLite format 3\x00 and then not" * 40)
    for name in ("registry", "firmware", "logs", "journal"):
        if name in changes:
            changes = changes | {name: site.folder / changes[name]}
    before = open_things()

    with pytest.raises(kind, match=message), site.serve(**changes):
        pytest.fail("it started")
    assert before == open_things()


@needs_proc
def test_an_occupied_port_is_told_and_nothing_stays_open(site: Site) -> None:
    """The message has the address and the system's reason; the other server is not disturbed."""
    with site.serve() as server:
        before = open_things()
        with (
            pytest.raises(ListenError, match=rf"cannot listen on 127\.0\.0\.1:{server.address[1]}: .*in use"),
            site.serve(port=server.address[1], logs=site.folder / "others"),
        ):
            pytest.fail("it started")

        assert before == open_things()
        assert not (site.folder / "others").exists()
        assert blink(1) == server.update()


@needs_proc
def test_a_stopped_server_leaves_nothing_open(site: Site) -> None:
    """After the end there are no threads, no descriptors, and every row is in the journal."""
    before = open_things()
    with site.serve() as server:
        server.update()

    assert before == open_things()
    assert statuses(read_journal(site.logs / "journal.sqlite")) == ["SUCCESSFUL"]


def test_a_server_listens_on_every_interface_when_none_is_named(site: Site) -> None:
    """An empty host is announced as one that IPv4 understands, with IPv4's port."""
    with site.serve(host="") as server:
        assert server.address[0] == "0.0.0.0"
        server.address = ("127.0.0.1", server.address[1])
        assert blink(1) == server.update()


def test_stopping_finishes_the_live_and_refuses_the_new(site: Site) -> None:
    """Over real sockets too: the listening socket is closed first, the update goes on to its end."""
    with site.serve() as server, server.connect() as live:
        live.identify()
        first = live.frame()
        server.ask_to_stop()
        limit = time.monotonic() + 10
        while True:
            try:
                server.connect().socket.close()
            except ConnectionRefusedError:
                break
            except ConnectionResetError:
                pass  # the listening socket was closed between this connection's first packet and its last
            assert time.monotonic() < limit
            time.sleep(0.01)
        live.send(b"@")
        records, end, _ = live.finish()

        assert blink(1).records == (first, *records)
        assert end == b"@11##"
    assert "SUCCESSFUL" in statuses(read_journal(site.logs / "journal.sqlite"))
    assert "Stopping: 1 updates may go on for 10 s" in site.log()


def test_two_servers_share_one_process(site: Site, tmp_path: Path) -> None:
    """Nothing of a server is global."""
    (tmp_path / "other").mkdir()
    other = Site(tmp_path / "other")
    other.put("blink_2.s19")
    other.register(f"{MCUID},blink_2.s19,12")
    with site.serve() as one, other.serve() as two:
        assert blink(1) == one.update()
        assert blink(2) == two.update()


def test_readiness_is_one_json_object() -> None:
    """It has the event, the address and the process; TLS and workers where there are any."""
    ready = Ready("127.0.0.1", 40_001, None, devices=1, problems=0, limits=Limits(100))
    more = dataclasses.replace(ready, tls_port=40_002, workers=(7, 8))

    said = {"event": "ready", "host": "127.0.0.1", "port": 40_001, "pid": os.getpid()}
    assert said == json.loads(readiness(ready))
    assert said | {"tls_port": 40_002, "workers": [7, 8]} == json.loads(readiness(more))


def test_the_ready_file_appears_in_one_step(tmp_path: Path) -> None:
    """It holds the line, replaces what was there, and leaves nothing else behind."""
    path = tmp_path / "ready"
    path.write_text("old")
    write_ready_file(path, "line")

    assert path.read_text() == "line\n"
    assert [path] == list(tmp_path.iterdir())


def test_a_ready_file_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    """A missing folder is an error by name; a folder in the file's place leaves nothing half-written."""
    with pytest.raises(ConfigError, match=r"ready file .*none/ready: No such file or directory"):
        write_ready_file(tmp_path / "none" / "ready", "line")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError, match="Is a directory"):
        write_ready_file(tmp_path / "folder", "line")

    assert [tmp_path / "folder"] == list(tmp_path.iterdir())


def test_the_log_tells_of_a_session_from_end_to_end(site: Site) -> None:
    """The server's log has one line of it, the session's own log has its story."""
    with site.serve() as server:
        server.update(MCUID + "15")
    (session_log,) = site.logs.glob(f"{MCUID}-*.txt")
    story = session_log.read_text()

    assert f"Session of {MCUID} ended: SUCCESSFUL (0), updated after 86 of 86 records" in site.log()
    for line in ("Accepted connection from 127.0.0.1:", f"MCUID {MCUID} 15", "Image 0EC74532: 86 records, 1369 bytes"):
        assert line in story


def test_a_limit_beyond_the_descriptors_is_refused(site: Site) -> None:
    """More connections than the process may have descriptors would end in the middle of updates."""

    async def start() -> None:
        async with running(site.settings(limit=100_000_000)):
            pass

    with pytest.raises(ConfigError, match=r"limit 100000000, expected at most \d+"):
        run(start())
