"""`fota serve --workers` as processes of their own: one port, one answer to who has a device, and nobody missed."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

import fota_fixtures
from fota_server.journal import JournalRow, read_journal

MCUID: Final = "0001100023593110965955141"
PATIENCE: Final = 20.0
"""Seconds after which something that should happen counts as not happening."""

RECORDS: Final = tuple(line for line in fota_fixtures.read("blink_1.s19").split() if line[:2] in (b"S1", b"S2", b"S3"))

pytestmark = pytest.mark.skipif(not hasattr(socket, "SO_REUSEPORT"), reason="processes cannot share a port here")


class Site:
    """A folder to serve from; every device of `lines` is to have blink_1.s19."""

    def __init__(self, folder: Path) -> None:
        self.registry = folder / "devices2update.txt"
        self.firmware = folder / "bin"
        self.logs = folder / "logs"
        self.firmware.mkdir()
        (self.firmware / "blink_1.s19").write_bytes(fota_fixtures.read("blink_1.s19"))
        self.registry.write_text(f"{MCUID},blink_1.s19,16\n")

    def command(self, *options: str) -> list[str]:
        own = ["-db", str(self.registry), "-pbf", str(self.firmware), "-lp", str(self.logs), "-ho", "127.0.0.1"]
        return [sys.executable, "-m", "fota_cli", "serve", *own, "-p", "0", "--workers", "2", *options]

    def log(self) -> str:
        return (self.logs / "otaserver.log").read_text()

    def rows(self, count: int) -> list[JournalRow]:
        """The journal as soon as it has so many rows."""
        wait_for(lambda: len(read_journal(self.logs / "journal.sqlite")) >= count)
        return read_journal(self.logs / "journal.sqlite")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def wait_for(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.02)


class Server:
    """A supervisor whose workers accept connections."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        self.process = process
        line = process.stdout.readline()
        assert line, process.communicate(timeout=PATIENCE)[1]
        ready = json.loads(line)
        self.port: int = ready["port"]
        self.workers: list[int] = ready["workers"]

    def stop(self, *, signals: int = 1) -> int:
        for _ in range(signals):
            self.process.send_signal(signal.SIGTERM)
            time.sleep(0.2)
        return self.process.wait(PATIENCE)


@contextlib.contextmanager
def serving(site: Site, *options: str) -> Iterator[Server]:
    with subprocess.Popen(site.command(*options), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield Server(process)
        finally:
            process.kill()
            _, errors = process.communicate()
            assert "Traceback" not in errors


class Device:
    """A device's end of a session in raw bytes."""

    def __init__(self, server: Server) -> None:
        self.socket = socket.create_connection(("127.0.0.1", server.port), PATIENCE)
        self.stream = self.socket.makefile("rb")

    def begin(self, mcuid: str = MCUID) -> bytes:
        """Identify; returns the answer."""
        self.socket.sendall(b"@%s#" % mcuid.encode())
        return self.stream.read(3)

    def finish(self) -> tuple[tuple[bytes, ...], bytes, bytes]:
        """Ack everything; returns the records, the end frame, and what came behind it."""
        records = []
        for record in RECORDS:
            self.socket.sendall(b"@")
            records.append(self.stream.read(len(record)))
        self.socket.sendall(b"@")
        end = self.stream.read(5)
        self.socket.sendall(b"@")
        return tuple(records), end, self.stream.read()

    def is_closed(self) -> bool:
        self.socket.settimeout(PATIENCE)
        with contextlib.suppress(ConnectionError):
            return self.stream.read(1) == b""
        return True

    def close(self) -> None:
        self.stream.close()
        self.socket.close()


WHOLE: Final = (RECORDS, b"@16##", b"")


def update(server: Server, mcuid: str = MCUID) -> object:
    """One whole session: what a device got, or the refusal."""
    with contextlib.closing(Device(server)) as device:
        verdict = device.begin(mcuid)
        return device.finish() if verdict == b"@4#" else verdict


def alive(pid: int) -> bool:
    """Whether the process is there, and no corpse."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_workers_share_the_port_the_journal_and_the_log(site: Site) -> None:
    """Sessions on either side are served whole; every one is a row, a line and a file."""
    mcuids = [f"{number:025d}" for number in range(40)]
    site.registry.write_text("".join(f"{mcuid},blink_1.s19,16\n" for mcuid in mcuids) + "bad line\n")
    with serving(site) as server:
        assert 2 == len(set(server.workers))
        assert [WHOLE] * 40 == [update(server, mcuid) for mcuid in mcuids]
        rows = site.rows(40)
        assert 0 == server.stop()

    log = site.log()
    assert set(mcuids) == {row.mcuid for row in rows if row.status_name == "SUCCESSFUL"}
    assert 40 == log.count("ended: SUCCESSFUL (0)") == len(list(site.logs.glob("0*.txt")))
    assert 1 == log.count("bad line")
    assert "40 devices in" in log
    assert "2 workers" in log
    assert log.endswith("Stopped\n")


def test_the_newest_session_of_a_device_wins_across_workers(site: Site) -> None:
    """Of many sessions of one device, wherever the kernel put them, the last one is left and finishes."""
    with serving(site) as server:
        devices = []
        for _ in range(16):  # that all are with one worker happens once in 32,768 times
            devices.append(Device(server))
            assert b"@4#" == devices[-1].begin()
        *older, newest = devices
        assert all(device.is_closed() for device in older)
        assert WHOLE == newest.finish()
        rows = site.rows(16)
        for device in devices:
            device.close()

    assert ["SUPERSEDED"] * 15 + ["SUCCESSFUL"] == sorted((row.status_name for row in rows), reverse=True)


def test_once_counts_across_workers(site: Site) -> None:
    """After a success with one worker the device is left alone by all."""
    site.registry.write_text(f"{MCUID},blink_1.s19,16,once\n")
    with serving(site) as server:
        first = update(server)
        later = [update(server) for _ in range(16)]

    assert WHOLE == first
    assert [b"@0#"] * 16 == later


def test_a_worker_that_dies_is_started_again_and_the_others_go_on(site: Site) -> None:
    """Its sessions are lost, nobody else's; the log says so, and the next device is served."""
    mcuids = [f"{number:025d}" for number in range(16)]
    site.registry.write_text("".join(f"{mcuid},blink_1.s19,16\n" for mcuid in mcuids))
    with serving(site) as server:
        devices = [Device(server) for _ in mcuids]
        for device, mcuid in zip(devices, mcuids, strict=True):
            assert b"@4#" == device.begin(mcuid)
        os.kill(server.workers[0], signal.SIGKILL)
        wait_for(lambda: "worker 1" in site.log() and "serves" in site.log())
        results: list[object] = []
        for device in devices:
            try:
                results.append(device.finish())
            except ConnectionError:
                results.append(None)
            device.close()
        after = [update(server, mcuid) for mcuid in mcuids]
        assert 0 == server.stop()

    assert results.count(WHOLE) in range(1, 16)
    assert [WHOLE] * 16 == after
    assert f"worker 1 (pid {server.workers[0]}) ended with exit code -9; started again in 0.1 s" in site.log()


def test_stopping_lets_live_updates_finish_in_every_worker(site: Site) -> None:
    """SIGTERM to the supervisor is SIGTERM to all of them."""
    mcuids = [f"{number:025d}" for number in range(8)]
    site.registry.write_text("".join(f"{mcuid},blink_1.s19,16\n" for mcuid in mcuids))
    with serving(site) as server:
        devices = [Device(server) for _ in mcuids]
        for device, mcuid in zip(devices, mcuids, strict=True):
            device.begin(mcuid)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        finished = [device.finish() for device in devices]

        assert 0 == server.process.wait(PATIENCE)
        for device in devices:
            device.close()
    assert [WHOLE] * 8 == finished
    assert ["SUCCESSFUL"] * 8 == [row.status_name for row in site.rows(8)]


def test_a_second_signal_cuts_every_worker(site: Site) -> None:
    """Who is in a hurry does not wait for updates."""
    with serving(site) as server, contextlib.closing(Device(server)) as device:
        device.begin()

        assert 0 == server.stop(signals=2)
    assert ["SERVER_STOPPED"] == [row.status_name for row in site.rows(1)]


def test_workers_end_when_their_supervisor_is_gone(site: Site) -> None:
    """Nothing is left on the port that nobody could stop."""
    with serving(site) as server:
        server.process.kill()
        server.process.wait()
        wait_for(lambda: not any(alive(pid) for pid in server.workers))

        with pytest.raises(ConnectionRefusedError):
            Device(server)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-db", "{0}/none.txt"], "fota: registry {0}/none.txt: No such file or directory"),
        (["-pbf", "{0}/none"], "fota: firmware folder {0}/none: no such folder"),
        (["--journal", "{0}/none/j.sqlite"], "fota: journal {0}/none/j.sqlite: unable to open"),
        (["--limit", "100000000"], "fota: limit 100000000, expected at most"),
        (["--tls-port", "0", "--tls-cert", "{0}/none.pem"], "fota: tls-cert {0}/none.pem: No such file"),
    ],
)
def test_what_keeps_workers_from_serving_is_one_message(
    site: Site, tmp_path: Path, options: list[str], message: str
) -> None:
    """Said once, by the command, with exit code 2 and without a traceback."""
    command = site.command(*(option.format(tmp_path) for option in options))
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)

    assert (2, "") == (done.returncode, done.stdout)
    assert 1 == done.stderr.count(message.format(tmp_path))
    assert "Traceback" not in done.stderr


def test_two_servers_do_not_share_a_port_by_accident(site: Site) -> None:
    """A second server with workers on the same port is refused, though the system would let it."""
    with serving(site) as server:
        done = subprocess.run(
            [*site.command(), "-p", str(server.port)], capture_output=True, text=True, timeout=PATIENCE, check=False
        )

    assert 2 == done.returncode
    assert f"fota: cannot listen on 127.0.0.1:{server.port}: Address already in use" in done.stderr


def test_limits_are_shared_out(site: Site) -> None:
    """The log says the whole; each worker takes its half."""
    with serving(site, "--limit", "10", "--sessions-per-second", "100", "--identification-size", "66"):
        pass

    assert "at most 10 connections and 100 new ones a second" in site.log()
