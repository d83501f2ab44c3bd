"""`fota hil program` on pseudo-terminals, against `fota board` and `fota serve`: updates, and what is said otherwise.

The boards are processes, as a person would start them. Where time matters the line has 9,600 or 115,200 baud.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final, Self

import pytest

import fota_fixtures
from fota_cli.commands import hil
from fota_cli.compose.local_server import LocalServer
from fota_cli.main import COMMANDS, main
from fota_hil.serial_link import SerialLink
from fota_protocol.formats import load
from fota_transport.ptys import open_pty
from fota_transport.trace import parse as parse_trace

BLINK: Final = fota_fixtures.path("blink_1.s19")
BLINK_2: Final = fota_fixtures.path("blink_2.s19")
DEMO: Final = fota_fixtures.path("demo_16k.s19")
MCUID: Final = "0001000000000000000000000"
BAD_MCUID: Final = "0001000000000000000000001"
UNKNOWN_MCUID: Final = "0001999999999999999999999"
PATIENCE_S: Final = 60.0
"""Seconds for whatever must come; starting Python takes most of them on a busy machine."""

QUICK: Final = ["--no-input", "--plain", "--hook-timeout", "3"]


@pytest.fixture(autouse=True)
def has_hil(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command is there, whatever else is installed."""
    monkeypatch.setitem(COMMANDS, "hil", str(hil.__doc__))


class Board:
    """A `fota board` on a pseudo-terminal."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.port = str(folder / "k60")
        self.flash = folder / "flash.bin"
        self.said = ""
        command = [sys.executable, "-m", "fota_cli", "board", "--pty", self.port, "--flash", str(self.flash), *options]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        line = self._process.stdout.readline()
        self._thread = threading.Thread(target=self._listen, args=(self._process.stderr,))
        self._thread.start()
        assert json.loads(line)["event"] == "ready"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end(signal.SIGTERM)

    def end(self, number: int) -> None:
        """End it by a signal."""
        if self._process.poll() is None:
            self._process.send_signal(number)
        self._process.wait(PATIENCE_S)
        self._thread.join()
        Path(self.port).unlink(missing_ok=True)  # one that was killed has left it
        assert self._process.stdout is not None
        self._process.stdout.close()

    def application(self) -> bytes:
        """Its flash, from where applications begin."""
        return self.flash.read_bytes()[0x4000:]

    def wait_until(self, said: str) -> None:
        """Wait until it has said something."""
        until = time.monotonic() + PATIENCE_S
        while said not in self.said and time.monotonic() < until:
            time.sleep(0.02)
        assert said in self.said

    def _listen(self, stream: IO[str]) -> None:
        with stream:
            for line in stream:
                self.said += line


def content(path: Path) -> bytes:
    """An image as it is in flash behind the bootloader, FF to the end."""
    image = load(path.read_bytes())
    return image.read(0x4000, 0x80000)


def outcome_of(capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, Any], str]:
    """What `--json -` printed, and what was said beside it."""
    printed = capsys.readouterr()
    found: dict[str, Any] = json.loads(printed.out)
    return found, printed.err


def program(*words: str) -> int:
    """Run `fota hil program`, quickly and without asking anybody."""
    return main(["hil", "program", *QUICK, *words])


def test_file_is_programmed_read_back_and_started(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The banner is seen, the outcome has everything, and the flash holds the image."""
    transcript = tmp_path / "line.trace"
    with Board(tmp_path, "--banner", r"Hello {crc}\r\n") as board:
        code = program(
            *("--serial", board.port, "--image", str(BLINK), "--json", "-", "--transcript", str(transcript)),
            *("--expect", "Hello [0-9A-F]+"),
        )

    outcome, said = outcome_of(capsys)
    image = load(BLINK.read_bytes())
    timing = outcome.pop("timing")
    assert (0, content(BLINK)) == (code, board.application())
    assert {
        "version": 1,
        "outcome": "updated",
        "reason": None,
        "detail": "updated",
        "mode": "file",
        "port": board.port,
        "baud": 9600,
        "mcuid": None,
        "board": {
            "name": "K60",
            "version": "C8",
            "sdid": "014A",
            "flash": [[0x4000, 0x80000]],
            "erase_size": 2048,
            "write_size": 128,
        },
        "image": {"crc32": f"{image.crc32:08X}", "first": image.first, "end": image.end},
        "state": "programmed",
        "verified": True,
        "server": None,
        "quit": "acknowledged",
        "banner": f"Hello {image.crc32:08X}",
        "retries": 0,
        "notes": [],
    } == outcome
    assert (timing["bytes_sent"] + timing["bytes_received"]) * 10 / 9600 == pytest.approx(timing["line_s"], abs=1e-3)
    assert "programmed, read back and right" in said
    assert b"\xfc" == parse_trace(transcript.read_text())[0].data
    assert "# erase 0x00004000\n" in transcript.read_text()


@pytest.mark.parametrize(("baud", "image"), [(9_600, BLINK), (115_200, DEMO)])
def test_a_line_is_as_slow_as_its_rate(
    baud: int, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the flash's typical times no update is quicker than what is computed; `test_programmer` bounds it above.

    That needs a virtual clock: here, a machine that does other things only adds time.
    """
    size = len(content(image).rstrip(b"\xff"))
    flash_s = -(-size // 2048) * 0.014 + size / 4 * 65e-6
    with Board(tmp_path, "--baud", str(baud), "--flash-times", "typical", "--pin", "held") as board:
        code = program("--serial", board.port, "--image", str(image), "--baud", str(baud), "--json", "-")

    timing = outcome_of(capsys)[0]["timing"]
    assert 0 == code
    assert timing["elapsed_s"] > 0.95 * (timing["line_s"] + flash_s)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    """A server that has an update for one device, and one for another part for the other."""
    with LocalServer(tmp_path_factory.mktemp("server")) as running:
        running.add(MCUID, BLINK_2, "2A")
        running.add(BAD_MCUID, fota_fixtures.path("above_flash.s19"), "03")
        yield running


@pytest.mark.parametrize("mode", [[], ["--end-ack", "receipt"], ["--stream"]], ids=["after", "receipt", "stream"])
def test_update_of_a_server_is_programmed(
    mode: list[str], server: LocalServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The server counts it as done, the board has it, and the old application is gone."""
    before = len(server.sessions())
    with Board(tmp_path, "--application", str(BLINK)) as board:
        code = program(
            *("--serial", board.port, "--server", f"{server.host}:{server.port}", "--mcuid", MCUID, "--baud", "115200"),
            *("--json", "-", *mode),
        )

    outcome, _ = outcome_of(capsys)
    server.expect_sessions(before + 1 - server._expected)
    session = server.sessions()[-1]
    assert 0 == code
    assert ("updated", "2A", True) == (outcome["server"]["result"], outcome["server"]["version"], outcome["verified"])
    assert ("SUCCESSFUL", MCUID, outcome["image"]["crc32"]) == (
        session.status_name,
        session.mcuid,
        session.image_crc,
    )
    assert content(BLINK_2) == board.application()


def test_programming_may_outlast_the_longest_silence_of_the_server(
    server: LocalServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the server waits for is our ack; the time that it may be silent has passed by then."""
    before = len(server.sessions())
    with Board(tmp_path, "--baud", "9600") as board:
        code = program(
            *("--serial", board.port, "--server", f"{server.host}:{server.port}", "--mcuid", MCUID, "--json", "-"),
            *("--timeout", "1"),
        )

    outcome, _ = outcome_of(capsys)
    server.expect_sessions(before + 1 - server._expected)
    assert (0, "updated") == (code, outcome["server"]["result"])
    assert outcome["server"]["end_ack_s"] > 2.0
    assert "SUCCESSFUL" == server.sessions()[-1].status_name


def test_server_that_is_gone_before_the_ack_is_told_of(tmp_path: Path) -> None:
    """The board has its image, and that is success; that no server has counted it is said, too."""
    (tmp_path / "server").mkdir()
    with Board(tmp_path, "--baud", "9600") as board, LocalServer(tmp_path / "server") as server:
        server.add(MCUID, BLINK_2, "2A")
        words = ["--serial", board.port, "--server", f"{server.host}:{server.port}", "--mcuid", MCUID]
        with running(*words, "--json", str(tmp_path / "out.json")) as process:
            assert process.stderr is not None
            while " sectors, " not in process.stderr.readline():
                assert process.poll() is None
            server.process.stop(0.0)
            code = process.wait(PATIENCE_S)

    outcome = json.loads((tmp_path / "out.json").read_text())
    assert (0, False) == (code, outcome["server"]["end_acked"])
    assert ["the server had closed before its end frame could be acked: it counts no update"] == outcome["notes"]
    assert content(BLINK_2) == board.application()


@pytest.mark.parametrize("mode", [[], ["--stream"]], ids=["store", "stream"])
def test_refusal_of_the_server_gives_the_board_back_to_its_application(
    mode: list[str], server: LocalServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing of it was touched, so there is no reason to keep it."""
    with Board(tmp_path, "--application", str(BLINK)) as board:
        code = program(
            *("--serial", board.port, "--server", f"{server.host}:{server.port}", "--mcuid", UNKNOWN_MCUID),
            *("--json", "-", *mode),
        )
        board.wait_until("board: application")

    outcome, said = outcome_of(capsys)
    assert (1, "refused", "server", "untouched") == (code, outcome["outcome"], outcome["reason"], outcome["state"])
    assert "Its flash was not changed" in said
    assert content(BLINK) == board.application()


def test_image_for_another_part_is_refused_before_the_board_is_erased(
    server: LocalServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From a file that is bad input; the server is not told that it was taken."""
    with Board(tmp_path, "--application", str(BLINK)) as board:
        served = program(
            "--serial", board.port, "--server", f"{server.host}:{server.port}", "--mcuid", BAD_MCUID, "--json", "-"
        )
        outcome, said = outcome_of(capsys)
        board.end(signal.SIGTERM)

    assert (1, "image", "untouched") == (served, outcome["reason"], outcome["state"])
    assert "for another part" in said
    assert content(BLINK) == board.application()


@pytest.mark.parametrize("name", ["other_part.s19", "above_flash.s19", "bad_vectors_stack.s19", "no_termination.s19"])
def test_bad_file_is_a_usage_error_and_erases_nothing(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whether the file itself is bad or bad for this board."""
    with Board(tmp_path, "--application", str(BLINK)) as board:
        code = program("--serial", board.port, "--image", str(fota_fixtures.path(name)))

    assert 2 == code
    assert capsys.readouterr().err.count("\n") < 6
    assert content(BLINK) == board.application()


def test_programming_that_outlasts_the_end_ack_is_refused_before_the_board_is_erased(
    server: LocalServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The server would count a good update as failed; the ways out are named."""
    with Board(tmp_path, "--application", str(BLINK)) as board:
        code = program(
            *("--serial", board.port, "--server", f"{server.host}:{server.port}", "--mcuid", MCUID, "--baud", "9600"),
            *("--end-ack-time", "1"),
        )

    said = capsys.readouterr().err
    assert 1 == code
    assert all(way in said for way in ("--end-ack-timeout", "--end-ack receipt", "--stream"))
    assert content(BLINK) == board.application()


def test_lost_server_costs_nothing_in_store_and_the_application_in_stream(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It hangs up after a few records; the board can be programmed afterwards."""
    records = load(DEMO.read_bytes()).frames

    def serve(listener: socket.socket) -> None:
        for _ in range(2):
            connection, _ = listener.accept()
            with connection:
                connection.recv(100)
                connection.sendall(b"@4#")
                connection.recv(10)
                for record in records[:40]:
                    connection.sendall(record)
                    connection.recv(10)

    with socket.create_server(("127.0.0.1", 0)) as listener, Board(tmp_path, "--application", str(BLINK)) as board:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        words = ["--serial", board.port, "--server", f"127.0.0.1:{listener.getsockname()[1]}", "--mcuid", MCUID]
        stored = program(*words, "--json", "-")
        store, _ = outcome_of(capsys)
        os.kill(board._process.pid, signal.SIGUSR1)  # SW1, as the application runs again
        streamed = program(*words, "--json", "-", "--stream")
        stream, said = outcome_of(capsys)
        thread.join()
        again = program("--serial", board.port, "--image", str(BLINK_2))

    assert (1, "server", "untouched") == (stored, store["reason"], store["state"])
    assert (1, "server", "incomplete") == (streamed, stream["reason"], stream["state"])
    assert "Its application is gone: run this command again, with its pin (SW1) held" in said
    assert 0 == again
    assert (
        content(BLINK_2)[: len(content(BLINK_2).rstrip(b"\xff"))]
        == board.application()[: len(content(BLINK_2).rstrip(b"\xff"))]
    )


@pytest.mark.parametrize("mode", [[], ["--end-ack", "receipt"], ["--stream"]], ids=["after", "receipt", "stream"])
def test_server_that_lingers_does_not_hold_up_the_application(
    mode: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It starts while the connection is open, which stays so: a server in doubt takes a close for a missing ack."""
    seen: list[str] = []

    def serve(listener: socket.socket, board: Board) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(100)
            for frame in (b"@4#", *load(BLINK.read_bytes()).frames, b"@1##"):
                connection.sendall(frame)
                connection.recv(10)
            board.wait_until("board: application")
            connection.settimeout(0.2)
            try:
                seen.append(f"closed with {connection.recv(10)!r}")
            except TimeoutError:
                seen.append("still open")

    with socket.create_server(("127.0.0.1", 0)) as listener, Board(tmp_path) as board:
        thread = threading.Thread(target=serve, args=(listener, board))
        thread.start()
        words = ["--serial", board.port, "--server", f"127.0.0.1:{listener.getsockname()[1]}", "--mcuid", MCUID]
        code = program(*words, "--json", "-", "--timeout", "600", "--baud", "115200", *mode)
        thread.join()
    outcome, _ = outcome_of(capsys)

    assert (0, ["still open"]) == (code, seen)
    assert ("updated", "1") == (outcome["server"]["result"], outcome["server"]["version"])


@contextlib.contextmanager
def running(
    *words: str, stdin: int = subprocess.DEVNULL, asks: bool = False, before: tuple[str, ...] = ()
) -> Iterator[subprocess.Popen[str]]:
    """`fota hil program` as a process, behind the words of a command that starts it."""
    code = "import sys; from fota_cli.main import COMMANDS, main; COMMANDS.setdefault('hil', ''); sys.exit(main())"
    options = [word for word in QUICK if not asks or word != "--no-input"]
    command = [*before, sys.executable, "-c", code, "hil", "program", *options, *words]
    # Not measured: an interrupt within coverage's own code may leave its lock locked.
    environment = {name: value for name, value in os.environ.items() if name != "COVERAGE_PROCESS_CONFIG"}
    with subprocess.Popen(
        command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_person_is_asked_to_hold_the_button_and_to_let_it_go(tmp_path: Path) -> None:
    """On a terminal, where there are no commands: the board is waited for, and Enter before it is left."""
    master, slave = os.openpty()
    with (
        Board(tmp_path, "--application", str(BLINK), "--pin", "released") as board,
        running(
            *("--serial", board.port, "--image", str(BLINK_2), "--expect", "application"), stdin=slave, asks=True
        ) as process,
    ):
        assert process.stderr is not None
        said = ""
        while "hold SW1, press reset" not in said:
            said = process.stderr.readline()
        os.kill(board._process.pid, signal.SIGUSR1)
        while "SW1 must be let go now" not in said:
            said = process.stderr.readline()
        os.write(master, b"\n")
        _, rest = process.communicate(timeout=PATIENCE_S)
    os.close(master)
    os.close(slave)

    assert 0 == process.returncode, rest
    assert content(BLINK_2) == board.application()


def test_ctrl_c_leaves_a_board_that_the_same_command_updates(tmp_path: Path) -> None:
    """In mid-update, at 9,600 baud: the message says what the board is like; then it is simply started again."""
    with Board(tmp_path, "--baud", "9600") as board:
        words = ["--serial", board.port, "--image", str(BLINK), "--json", str(tmp_path / "out.json")]
        with running(*words) as process:
            assert process.stderr is not None
            while "bytes on the line" not in process.stderr.readline():
                pass
            time.sleep(0.4)
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=PATIENCE_S)
        interrupted = json.loads((tmp_path / "out.json").read_text())
        again = program(*words)

    assert 130 == process.returncode
    assert ("interrupted", "incomplete") == (interrupted["outcome"], interrupted["state"])
    assert "Its application is gone: run this command again, with its pin (SW1) held" in said
    assert 0 == again
    assert content(BLINK) == board.application()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("act", ["enter", "reset", "leave"])
def test_command_that_hangs_does_not_hold_up_the_end(tmp_path: Path, act: str, number: int) -> None:
    """It is ended with the run, also one that is run for the end: letting a board go that was not touched."""
    pid = tmp_path / "pid"
    hanging = f"sh -c 'echo $$ > {pid}.part; mv {pid}.part {pid}; exec sleep 600'"
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        Board(tmp_path, "--application", str(BLINK)) as board,
        running(
            *("--serial", board.port, "--server", f"127.0.0.1:{listener.getsockname()[1]}", "--mcuid", MCUID),
            *(f"--{act}", hanging, "--command-timeout", "600"),
        ) as process,
    ):
        if act == "leave":
            listener.settimeout(PATIENCE_S)
            listener.accept()[0].close()
        deadline = time.monotonic() + PATIENCE_S
        while not pid.exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(number)
        _, said = process.communicate(timeout=PATIENCE_S)

    assert 130 == process.returncode, said
    assert "interrupted" in said
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_sigterm_ends_a_run_whose_interrupts_are_ignored(tmp_path: Path) -> None:
    """As a script has it that starts one with `&`."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        Board(tmp_path, "--application", str(BLINK)) as board,
        running(
            *("--serial", board.port, "--server", f"127.0.0.1:{listener.getsockname()[1]}", "--mcuid", MCUID),
            before=("sh", "-c", 'trap "" INT; exec "$@"', "sh"),
        ) as process,
    ):
        listener.settimeout(PATIENCE_S)
        connection, _ = listener.accept()
        with connection:
            process.send_signal(signal.SIGTERM)
            _, said = process.communicate(timeout=PATIENCE_S)

    assert 130 == process.returncode, said


def test_interrupted_run_gives_its_last_command_little_time(tmp_path: Path) -> None:
    """The signal comes while the server is silent; then --leave hangs."""
    pid = tmp_path / "pid"
    hanging = f"sh -c 'echo $$ > {pid}.part; mv {pid}.part {pid}; exec sleep 600'"
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        Board(tmp_path, "--application", str(BLINK)) as board,
        running(
            *("--serial", board.port, "--server", f"127.0.0.1:{listener.getsockname()[1]}", "--mcuid", MCUID),
            *("--leave", hanging, "--command-timeout", "600"),
        ) as process,
    ):
        listener.settimeout(PATIENCE_S)
        connection, _ = listener.accept()
        with connection:
            connection.recv(100)
            process.send_signal(signal.SIGTERM)
            _, said = process.communicate(timeout=PATIENCE_S)

    assert 130 == process.returncode, said
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_board_that_is_unplugged_in_mid_update_can_be_updated_when_it_is_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its port is gone; its flash is as it was."""
    with Board(tmp_path, "--baud", "9600") as board:
        timer = threading.Timer(1.5, board.end, [signal.SIGKILL])
        timer.start()
        lost = program("--serial", board.port, "--image", str(DEMO), "--json", "-")
        timer.join()
    outcome, said = outcome_of(capsys)
    with Board(tmp_path) as board:
        again = program("--serial", board.port, "--image", str(DEMO))

    assert (3, "port", "incomplete") == (lost, outcome["reason"], outcome["state"])
    assert "unplugged" in said
    assert "Plug the board in again" in said
    assert 0 == again
    assert content(DEMO) == board.application()


class TestNobodyThere:
    """Ports and boards that are not as they should be: what, where, and what to do."""

    def test_empty_port_is_a_usage_error(self, capsys: pytest.CaptureFixture[str]) -> None:
        """It can name nothing."""
        assert 2 == program("--serial", "", "--image", str(BLINK))
        assert "expected its name" in capsys.readouterr().err

    def test_missing_port_cannot_be_tested(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """With its name, and the question that helps."""
        assert 3 == program("--serial", str(tmp_path / "none"), "--image", str(BLINK), "--json", "-")

        outcome, said = outcome_of(capsys)
        assert ("port", "untouched") == (outcome["reason"], outcome["state"])
        assert str(tmp_path / "none") in said
        assert "Is the board plugged in?" in said

    def test_port_that_somebody_else_has_is_said_to_be_in_use(self, capsys: pytest.CaptureFixture[str]) -> None:
        """And what to do about it."""
        master, slave = os.openpty()
        with SerialLink.open(os.ttyname(slave), 9600):
            code = program("--serial", os.ttyname(slave), "--image", str(BLINK))
        os.close(master)
        os.close(slave)

        assert 3 == code
        assert "it is in use" in capsys.readouterr().err

    def test_wrong_baud_is_suspected_when_what_comes_is_garbage(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """An announcement at another rate is some other byte."""
        with Board(tmp_path, "--baud", "115200", "--strict-baud") as board:
            code = program("--serial", board.port, "--image", str(BLINK), "--baud", "9600")

        assert 1 == code
        assert "another baud rate than 9600" in capsys.readouterr().err

    def test_running_application_is_not_a_bootloader(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Nobody held SW1; whoever may not be asked is told what to do."""
        with Board(tmp_path, "--application", str(BLINK), "--pin", "released") as board:
            code = program("--serial", board.port, "--image", str(BLINK_2))

        assert 1 == code
        assert "was it reset with SW1 held" in capsys.readouterr().err
        assert content(BLINK) == board.application()

    def test_application_that_echoes_is_not_a_bootloader(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Nor one of an unknown family, whose version byte our own question would be."""
        master, slave = open_pty()

        def echo() -> None:
            with contextlib.suppress(TimeoutError):
                while data := master.read(PATIENCE_S):
                    master.write(data, PATIENCE_S)

        thread = threading.Thread(target=echo)
        thread.start()
        code = program("--serial", slave.path, "--image", str(BLINK))
        slave.close()
        thread.join()
        master.close()

        said = capsys.readouterr().err
        assert 1 == code
        assert "what answers only echoes what it is sent at 9600 baud" in said
        assert "reset it with SW1 held" in said

    def test_no_server_is_a_failure_and_the_board_is_untouched(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """With its address."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            address = f"127.0.0.1:{listener.getsockname()[1]}"
        with Board(tmp_path) as board:
            code = program("--serial", board.port, "--server", address, "--mcuid", MCUID)

        assert 1 == code
        told = capsys.readouterr().err
        assert f"cannot connect to {address}: Connection refused; does a server run there, on that port? Its" in told


def test_commands_bring_the_board_into_its_bootloader_and_out_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They speak to the board's named pipe, as a bench's script would to a relay."""
    control = tmp_path / "control"
    order = f"sh -c 'echo \"$1\" > {control}' order"
    with Board(tmp_path, "--application", str(BLINK), "--pin", "released", "--control", str(control)) as board:
        code = program(
            *("--serial", board.port, "--image", str(BLINK_2), "--json", "-", "--expect", "application"),
            *("--enter", f"{order} 'pin held'", "--reset", f"{order} reset", "--leave", f"{order} 'pin released'"),
        )

    outcome, said = outcome_of(capsys)
    assert (0, "acknowledged", "application") == (code, outcome["quit"], outcome["banner"])
    assert [said.index("enter: "), said.index("reset: "), said.index("leave: ")] == sorted(
        said.index(act) for act in ("enter: ", "reset: ", "leave: ")
    )
    assert content(BLINK_2) == board.application()


def test_command_that_fails_ends_the_run_before_the_board_is_touched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A relay that does not answer is the bench's fault."""
    with Board(tmp_path) as board:
        code = program("--serial", board.port, "--image", str(BLINK), "--enter", "false", "--json", "-")

    outcome, said = outcome_of(capsys)
    assert (3, "hands", "untouched") == (code, outcome["reason"], outcome["state"])
    assert "--enter: false failed, exit code 1" in said


def test_board_whose_pin_stays_held_is_said_to_be_in_its_bootloader(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The image is in flash; nobody let go of SW1."""
    with Board(tmp_path, "--pin", "held") as board:
        code = program("--serial", board.port, "--image", str(BLINK), "--json", "-")

    outcome, _ = outcome_of(capsys)
    assert (0, "bootloader", "programmed") == (code, outcome["quit"], outcome["state"])
    assert "in its bootloader again" in outcome["notes"][0]


def test_application_that_does_not_say_what_it_should_is_a_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The image is whole in flash, and that is said, too."""
    with Board(tmp_path, "--banner", r"Oops\r\n") as board:
        code = program(
            *("--serial", board.port, "--image", str(BLINK), "--json", "-", "--expect", "Hello"),
            *("--expect-timeout", "0.5"),
        )

    outcome, said = outcome_of(capsys)
    assert (1, "banner", "programmed", "Oops\r\n") == (
        code,
        outcome["reason"],
        outcome["state"],
        outcome["banner"],
    )
    assert "did not say 'Hello' within 0.5 s at 9600 baud" in said


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "what is to be programmed"),
        (["--image", str(BLINK), "--server", "a:1", "--mcuid", "1"], "not both"),
        (["--server", "127.0.0.1:1"], "who is the board"),
        (["--server", "nowhere", "--mcuid", "1"], "HOST:PORT"),
        (["--server", "127.0.0.1:1", "--mcuid", "xyz"], "hexadecimal digits"),
        (["--image", str(BLINK), "--stream"], "--stream without --server"),
        (["--image", "nowhere.s19"], "firmware nowhere.s19"),
        (["--server", "127.0.0.1:1", "--mcuid", "1", "--stream", "--relocate"], "--relocate with --stream"),
        (["--image", str(BLINK), "--baud", "1"], "--baud 1, expected 300"),
        (["--image", str(BLINK), "--retries", "-1"], "--retries -1, expected 0"),
        (["--image", str(BLINK), "--expect", "x", "--expect-timeout", "nan"], "--expect-timeout nan"),
        (["--image", str(BLINK), "--expect-timeout", "2"], "--expect-timeout without --expect"),
        (["--image", str(BLINK), "--suffix", "1"], "--suffix without --server"),
        (["--image", str(BLINK), "--end-ack", "receipt"], "--end-ack without --server"),
        (["--image", str(BLINK), "--timeout", "5"], "--timeout without --server"),
        (["--server", "127.0.0.1:1", "--mcuid", "1", "--stream", "--end-ack", "receipt"], "--end-ack with --stream"),
        (["--image", str(BLINK), "--expect", "("], "--expect '('"),
        (["--image", str(BLINK), "--enter", "relay {prot}"], "{prot}, expected one of"),
        (["--image", str(BLINK), "--json", "/nowhere/out.json"], "cannot write /nowhere/out.json"),
    ],
)
def test_bad_usage_is_told_before_a_port_is_opened(
    words: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, exit code 2; the port is not there, and nobody has looked."""
    code = program("--serial", "/nowhere/port", *words)

    said = capsys.readouterr().err
    assert (2, 1) == (code, said.count("\n"))
    assert complaint in said
