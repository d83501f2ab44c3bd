"""`fota serve` as a process of its own: options, readiness, signals, and what it says of bad input."""

import contextlib
import json
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

import fota_fixtures
from fota_cli.main import main
from fota_server.journal import read_journal

MCUID: Final = "0001100023593110965955141"
OTHER_MCUID: Final = "0011000235931109659550002"
PATIENCE: Final = 15.0
"""Seconds after which something that should happen counts as not happening."""


class Site:
    """A folder to serve from: one device, one file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.registry = folder / "devices2update.txt"
        self.firmware = folder / "bin"
        self.logs = folder / "logs"
        self.firmware.mkdir()
        (self.firmware / "blink_1.s19").write_bytes(fota_fixtures.read("blink_1.s19"))
        self.registry.write_text(f"{MCUID},blink_1.s19,16\n")

    @property
    def options(self) -> list[str]:
        """The seed's options, on a free port of loopback."""
        return [
            *("-db", str(self.registry), "-pbf", str(self.firmware), "-lp", str(self.logs)),
            *("-ho", "127.0.0.1", "-p", "0"),
        ]

    def log(self) -> str:
        return (self.logs / "otaserver.log").read_text()


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def command(*options: str) -> list[str]:
    return [sys.executable, "-m", "fota_cli", "serve", *options]


class Server:
    """A server that accepts connections."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        self.process = process
        self.line = process.stdout.readline()
        assert self.line, process.communicate(timeout=PATIENCE)[1]
        self.ready: dict[str, Any] = json.loads(self.line)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.ready["port"]), PATIENCE)

    def identify(self, mcuid: str = MCUID) -> bytes:
        """The answer that a device gets."""
        with self.connect() as device:
            device.sendall(b"@%s#" % mcuid.encode())
            return take(device, 3)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str, str]:
        """Exit code, the rest of standard output, and standard error."""
        self.process.send_signal(number)
        return self.end()

    def end(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, out, err


@contextlib.contextmanager
def serving(*options: str, cwd: Path | None = None) -> Iterator[Server]:
    with subprocess.Popen(
        command(*options), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd
    ) as process:
        try:
            yield Server(process)
        finally:
            process.kill()
            process.communicate()


def fail(*options: str) -> str:
    """What a server says that does not start; exit code 2, no traceback, nothing on standard output."""
    done = subprocess.run(command(*options), capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
    return done.stderr


def take(device: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := device.recv(size - len(data))):
        data += more
    return data


def begin(device: socket.socket) -> bytes:
    """Identify and ack the verdict; returns the first record."""
    device.sendall(b"@%s#" % MCUID.encode())
    assert take(device, 3) == b"@4#"
    device.sendall(b"@")
    return frame(device)


def frame(device: socket.socket) -> bytes:
    head = take(device, 4)
    if head[:1] == b"S":
        return head + take(device, 2 * int(head[2:4], 16))
    return head + take(device, 1)


def finish(device: socket.socket) -> tuple[int, bytes]:
    """Ack from the first record on to the end; returns how many records followed, and the end frame."""
    count = 0
    while True:
        device.sendall(b"@")
        received = frame(device)
        if not received.startswith(b"S"):
            device.sendall(b"@")
            assert device.recv(1) == b""
            return count, received
        count += 1


def wait_for(path: Path, text: str) -> str:
    """The content of `path` as soon as `text` is in it."""
    limit = time.monotonic() + PATIENCE
    while True:
        content = path.read_text() if path.exists() else ""
        if text in content:
            return content
        assert time.monotonic() < limit, f"{text!r} is not in {content!r}"
        time.sleep(0.02)


# --- readiness and options


def test_readiness_is_one_json_line_with_the_port_that_0_became(site: Site) -> None:
    """The first line of standard output names address and process, and connections are accepted by then."""
    with serving(*site.options) as server:
        assert {"event": "ready", "host": "127.0.0.1", "port": server.ready["port"], "pid": server.process.pid} == (
            server.ready
        )
        assert server.identify() == b"@4#"
        assert server.stop()[:2] == (0, "")


def test_the_ready_file_has_the_same_line(site: Site, tmp_path: Path) -> None:
    """`--ready-file` appears whole, with what standard output says."""
    with serving(*site.options, "--ready-file", str(tmp_path / "ready.json")) as server:
        assert server.line == (tmp_path / "ready.json").read_text()


def test_the_reference_servers_long_options_work(site: Site) -> None:
    """`--dbname`, `--pathbinaryfiles` and `--logpath` mean what they meant."""
    with serving(
        *("--dbname", str(site.registry), "--pathbinaryfiles", str(site.firmware), "--logpath", str(site.logs)),
        *("--host", "127.0.0.1", "--port", "0"),
    ) as server:
        assert server.identify() == b"@4#"
    assert "Listening on 127.0.0.1:" in site.log()


def test_a_whole_update_leaves_a_row_and_two_logs(site: Site) -> None:
    """What the operator finds afterwards: journal, server log, session log."""
    with serving(*site.options) as server:
        with server.connect() as device:
            begin(device)
            assert finish(device) == (85, b"@16##")
        assert server.stop()[0] == 0
    (row,) = read_journal(site.logs / "journal.sqlite")

    assert (MCUID, "SUCCESSFUL", 86, 86) == (row.mcuid, row.status_name, row.records, row.records_acked)
    assert f"Session of {MCUID} ended: SUCCESSFUL (0)" in site.log()
    assert len(list(site.logs.glob(f"{MCUID}-*.txt"))) == 1


def test_options_reach_the_sessions(site: Site) -> None:
    """Format, handshake, times and limit of the command line are in force."""
    site.registry.write_text("00AB,blink_1.s19,16\n")
    options = ("--mcuid-format", "hex", "--handshake", "immediate", "--identification-timeout", "0.2", "--limit", "1")
    with serving(*site.options, *options) as server:
        with server.connect() as device:
            assert device.recv(1) == b""
        with server.connect() as device, server.connect() as turned_away:
            device.sendall(b"@00ab#")
            assert take(device, 3) + frame(device)[:2] == b"@4#S1"
            assert turned_away.recv(1) == b""


def test_files_that_may_be_cut_are_served_on_request(site: Site) -> None:
    """`--allow-unterminated` is off by default."""
    (site.firmware / "blink_1.s19").write_bytes(fota_fixtures.read("no_termination.s19"))
    with serving(*site.options) as server:
        assert server.identify() == b"@0#"
    with serving(*site.options, "--allow-unterminated") as server:
        assert server.identify() == b"@4#"


def test_an_sqlite_registry_is_served(site: Site, tmp_path: Path) -> None:
    """A registry is what its content says, and a new one may be made while the server runs."""
    path = tmp_path / "devices.sqlite"
    with serving(*site.options, "--registry", str(path)) as server:
        before = server.identify()
        with contextlib.closing(sqlite3.connect(path)) as database, database:
            database.execute(f"INSERT INTO devices (mcuid, filename, version) VALUES ('{MCUID}', 'blink_1.s19', '16')")

        assert (b"@0#", b"@4#") == (before, server.identify())


# --- configuration


def test_the_command_line_wins_over_the_file(site: Site, tmp_path: Path) -> None:
    """The file says everything, its paths beside itself; one option says otherwise."""
    config = tmp_path / "fota.toml"
    config.write_text(
        'host = "127.0.0.1"\nport = 1\nregistry = "devices2update.txt"\nfirmware = "bin"\nlogs = "logs"\n'
        'journal = "rows.sqlite"\nhandshake = "immediate"\n'
    )
    with serving("--config", str(config), "--port", "0", "--handshake", "wait") as server:
        with server.connect() as device:
            device.sendall(b"@%s#" % MCUID.encode())
            assert take(device, 3) == b"@4#"
            device.settimeout(0.2)
            with pytest.raises(TimeoutError):
                device.recv(1)
        assert server.stop()[0] == 0

    assert [row.mcuid for row in read_journal(tmp_path / "rows.sqlite")] == [MCUID]
    assert site.log()


def test_defaults_are_relative_to_the_working_folder(site: Site) -> None:
    """Where nothing is said the registry is `devices2update.txt`, the firmware in `bin`, the logs in `logs`."""
    with serving("-ho", "127.0.0.1", "-p", "0", cwd=site.folder) as server:
        assert server.identify() == b"@4#"
    assert site.log()


# --- logs


def test_the_log_goes_to_standard_error_too_unless_quiet(site: Site) -> None:
    """Standard error has the lines of the log; with `--quiet` it is empty."""
    with serving(*site.options) as server:
        code, _, err = server.stop()
        assert (code, site.log()) == (0, err)
    with serving(*site.options, "--quiet") as server:
        assert server.stop() == (0, "", "")


def test_a_json_log_parses_line_by_line(site: Site) -> None:
    """`--log-format json` makes every line of the log and of standard error an object."""
    with serving(*site.options, "--log-format", "json") as server:
        server.identify("9" * 25)
        _, _, err = server.stop()
    lines = [json.loads(line) for line in site.log().splitlines()]

    assert err == site.log()
    assert all({"time", "level", "message"} == set(line) for line in lines)
    assert any("CLIENT_UNVERIFIED" in line["message"] for line in lines)


# --- changes while it runs


def test_a_new_device_is_served_and_a_bad_line_reported_without_a_restart(site: Site) -> None:
    """The registry is read again when it changes; the log has the number of the line that is wrong."""
    with serving(*site.options) as server:
        before = server.identify(OTHER_MCUID)
        site.registry.write_text(f"{MCUID},blink_1.s19,16\nthis is no line\n{OTHER_MCUID},blink_1.s19,17\n")

        assert (b"@0#", b"@4#") == (before, server.identify(OTHER_MCUID))
        wait_for(site.logs / "otaserver.log", "line 2: 'this is no line', expected MCUID,filename,version")


def test_a_registry_that_vanishes_stops_nothing(site: Site) -> None:
    """Devices that were known are served on, and the log says once what is wrong."""
    with serving(*site.options) as server:
        site.registry.unlink()

        assert [b"@4#", b"@4#"] == [server.identify(), server.identify()]
    assert site.log().count("cannot be read again (No such file or directory)") == 1


# --- signals


def test_sigterm_lets_a_live_update_finish(site: Site) -> None:
    """No new connections, the live session to its end, exit code 0."""
    with serving(*site.options) as server, server.connect() as device:
        begin(device)
        server.process.send_signal(signal.SIGTERM)
        wait_for(site.logs / "otaserver.log", "Stopping: 1 updates may go on")
        with pytest.raises(ConnectionRefusedError):
            server.connect()
        finished = finish(device)

        assert finished == (85, b"@16##")
        assert server.end()[0] == 0
    assert [row.status_name for row in read_journal(site.logs / "journal.sqlite")] == ["SUCCESSFUL"]
    assert "Traceback" not in site.log()


def test_sigterm_cuts_at_the_deadline(site: Site) -> None:
    """An update that does not go on is cut when `--stop-timeout` is over, and the exit code is 0 all the same."""
    with serving(*site.options, "--stop-timeout", "0.3") as server, server.connect() as device:
        begin(device)
        code, _, _ = server.stop()

        assert code == 0
        assert device.recv(1) == b""
    assert [row.status_name for row in read_journal(site.logs / "journal.sqlite")] == ["SERVER_STOPPED"]
    assert "Stopping: 1 updates are cut" in site.log()


def test_a_second_signal_cuts_at_once(site: Site) -> None:
    """Who asks twice does not want to wait."""
    with serving(*site.options, "--stop-timeout", "600") as server, server.connect() as device:
        begin(device)
        server.process.send_signal(signal.SIGTERM)
        wait_for(site.logs / "otaserver.log", "Stopping: 1 updates may go on")
        code, _, _ = server.stop(signal.SIGINT)

        assert code == 0
        assert device.recv(1) == b""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_other_signals_stop_as_sigterm_does(site: Site, number: signal.Signals) -> None:
    """Ctrl-C, and a terminal that is closed, are an orderly end without a traceback."""
    with serving(*site.options) as server:
        code, out, err = server.stop(number)

    assert (code, out) == (0, "")
    assert "Traceback" not in err
    assert err.endswith("Stopped\n")


def test_a_killed_server_starts_again_on_what_it_left(site: Site) -> None:
    """After SIGKILL the journal opens, with the rows that it had."""
    with serving(*site.options) as server:
        assert server.identify("9" * 25) == b"@0#"
        limit = time.monotonic() + PATIENCE
        while not read_journal(site.logs / "journal.sqlite"):
            assert time.monotonic() < limit
        server.process.kill()
    with serving(*site.options) as server:
        assert server.identify() == b"@4#"
        assert server.stop()[0] == 0

    assert next(row.status for row in read_journal(site.logs / "journal.sqlite")) == 1


# --- bad input


def test_an_occupied_port_is_a_message(site: Site) -> None:
    """Another server's port is told by address and reason."""
    with socket.create_server(("127.0.0.1", 0)) as occupied:
        port = occupied.getsockname()[1]
        message = fail(*site.options, "-p", str(port))

    assert re.search(rf"^fota: cannot listen on 127\.0\.0\.1:{port}: .*in use", message, re.MULTILINE)


NOWHERE: Final = "x" * 70
"""A host that nobody can listen on."""

BAD_INPUT: Final = [
    (["-db", "{0}/none.txt"], "fota: registry {0}/none.txt: No such file or directory, expected a text file with"),
    (["-db", "{0}"], "fota: registry {0}: Is a directory"),
    (["-pbf", "{0}/none"], "fota: firmware folder {0}/none: no such folder"),
    (["-lp", "{0}/devices2update.txt"], "fota: log folder {0}/devices2update.txt: File exists"),
    (["--journal", "{0}/none/j.sqlite"], "fota: journal {0}/none/j.sqlite: unable to open database file"),
    (["--journal", "{0}/bin/blink_1.s19"], "fota: journal {0}/bin/blink_1.s19: file is not a database, expected"),
    (["--config", "{0}/none.toml"], "fota: configuration {0}/none.toml: No such file or directory"),
    (["--config", "{0}/bad.toml"], "fota: configuration {0}/bad.toml: unknown setting 'prot', expected one of"),
    (["--host", NOWHERE], f"fota: cannot listen on {NOWHERE}:0: "),
    (["--sessions-per-second", "0"], "fota: sessions-per-second 0, expected more than 0 and at most 1000000"),
    (["--identification-size", "2000"], "fota: identification-size 2000, expected 66 to 1024"),
    (["--workers", "0"], "fota: workers 0, expected 1 to 64"),
    (["--tls-port", "0"], "fota: tls-port and tls-cert: expected both or neither"),
    (["--tls-port", "0", "--tls-cert", "{0}/none.pem"], "fota: tls-cert {0}/none.pem: No such file or directory"),
    (["--json"], "fota: --json: expected with --check"),
    (["--port", "70000"], "fota: port 70000, expected 0 to 65535"),
    (["--port", "-1"], "fota: port -1, expected 0 to 65535"),
    (["--port", "http"], "argument -p/--port: invalid int value: 'http'"),
    (["--limit", "0"], "fota: limit 0, expected at least 1"),
    (["--ack-timeout", "0"], "fota: ack-timeout 0, expected more than 0 and at most 86400 s"),
    (["--grace", "nan"], "fota: grace nan, expected more than 0"),
    (["--stop-timeout", "long"], "argument --stop-timeout: invalid float value: 'long'"),
    (["--handshake", "maybe"], "argument --handshake: 'maybe', expected one of wait, immediate, auto"),
    (["--log-format", "xml"], "argument --log-format: 'xml', expected one of text, json"),
    (["--mcuid-format", "dec"], "argument --mcuid-format: 'dec', expected one of decimal25, hex"),
    (["--frobnicate"], "unrecognized arguments: --frobnicate"),
    (["--reg", "x"], "unrecognized arguments: --reg x"),
]


@pytest.mark.parametrize(("options", "message"), BAD_INPUT)
def test_bad_input_is_a_message_and_exit_code_2(
    site: Site, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    """What is wrong, where, and what was expected; nothing is served and nothing is printed as ready."""
    (site.folder / "bad.toml").write_text("prot = 1\n")
    # A server that started all the same would end at its ready file.
    trap = ["--ready-file", str(site.folder / "none" / "ready")]
    try:
        code = main(["serve", *site.options, *trap, *(option.format(site.folder) for option in options)])
    except SystemExit as error:  # argparse's own way out
        code = int(str(error.code))
    out, err = capsys.readouterr()

    assert (code, out) == (2, "")
    assert message.format(site.folder) in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-db", "{0}/none.txt"], "fota: registry {0}/none.txt: No such file or directory"),
        (["--port", "70000"], "fota: port 70000, expected 0 to 65535"),
        (["--ready-file", "{0}/none/ready"], "fota: ready file {0}/none/ready: No such file or directory"),
    ],
)
def test_a_process_that_cannot_start_ends_without_a_traceback(site: Site, options: list[str], message: str) -> None:
    """So it is for the whole process, before it listens and afterwards."""
    assert message.format(site.folder) in fail(*site.options, *(option.format(site.folder) for option in options))


def test_a_registry_with_bad_lines_is_served_and_reported(site: Site) -> None:
    """A malformed line does not keep the server from starting."""
    site.registry.write_text(f"nonsense\n{MCUID},blink_1.s19,16\n12345,blink_1.s19,16\n")
    with serving(*site.options) as server:
        assert server.identify() == b"@4#"
    log = site.log()

    assert "line 1: 'nonsense', expected MCUID,filename,version" in log
    assert "line 3: MCUID '12345', expected 25 or more decimal digits" in log


def test_help_tells_of_every_option_and_shows_an_example() -> None:
    """`fota serve --help` is complete enough to start from."""
    shown = subprocess.run(command("--help"), capture_output=True, text=True, timeout=PATIENCE, check=True).stdout

    for text in (
        "-db",
        "-pbf",
        "-ho",
        "-p",
        "-lp",
        "--config",
        "--ready-file",
        "fota serve --registry devices2update.txt",
    ):
        assert text in shown


def test_check_says_what_would_be_refused_and_serves_nobody(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    """Lines, devices and files, each with the reason; no log, no journal; exit code 2."""
    good = site.registry.read_text()
    (site.firmware / "broken.s19").write_bytes(fota_fixtures.read("bad_checksum.s19"))
    (site.firmware / "odd.s19").write_bytes(fota_fixtures.read("s9_after_s2.s19"))
    lines = [
        "nonsense",
        *(f"{10**21 + i:025d},{name},1" for i, name in enumerate(("gone.s19", "broken.s19", "odd.s19"))),
    ]
    before = sorted(site.folder.rglob("*"))
    capsys.readouterr()

    site.registry.write_text(good)
    well = main(["serve", *site.options, "--host", NOWHERE, "--check"])
    fine = capsys.readouterr().out
    site.registry.write_text(good + "\n".join(lines) + "\n")
    ill = main(["serve", *site.options, "--host", NOWHERE, "--check"])
    printed = capsys.readouterr().out

    assert (well, ill) == (0, 2)
    assert "0 would be refused" in fine
    assert "'nonsense', expected MCUID,filename,version" in printed
    assert "REFUSED  0001000000000000000000000: firmware gone.s19: No such file" in printed
    assert "REFUSED  0001000000000000000000001: firmware broken.s19: line 18: checksum" in printed
    assert "warning  firmware odd.s19: terminated by S9" in printed
    assert "3 would be refused" in printed
    assert before == sorted(site.folder.rglob("*"))


def test_check_as_json_has_the_same_findings(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    """Programs read what would be refused, and the exit code is the same."""
    site.registry.write_text(f"{MCUID},blink_1.s19,16\n{OTHER_MCUID},gone.s19,16\nbad\n")
    code = main(["serve", *site.options, "--check", "--json"])
    found = json.loads(capsys.readouterr().out)

    assert (2, False, 2, 1, 2) == (code, found["ok"], found["devices"], found["images"], found["refused"])
    assert [{"where", "message", "refused"}] * 2 == [set(finding) for finding in found["findings"]]


@pytest.mark.parametrize(("option", "message"), [("--registry", "no such file"), ("--firmware", "no such folder")])
def test_check_of_what_is_not_there_is_a_message(
    site: Site, capsys: pytest.CaptureFixture[str], option: str, message: str
) -> None:
    """As for a server; an SQLite registry is not made."""
    path = site.folder / "gone.sqlite"

    code = main(["serve", *site.options, option, str(path), "--check"])

    assert code == 2
    assert f"{path}: {message}" in capsys.readouterr().err
    assert not path.exists()
