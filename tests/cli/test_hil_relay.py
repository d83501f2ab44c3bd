"""`fota hil relay` with real processes: virtual boards on pseudo-terminals, a real `fota serve`, the kit."""

import argparse
import contextlib
import fcntl
import itertools
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import bincopy
import pytest

import fota_fixtures
from fota_cli.commands.hil import configure
from fota_cli.compose.server_process import ServerProcess
from fota_cli.main import main
from fota_hil.close_signal import SignalKind
from fota_hil.relay_report import Ended
from fota_transport.ptys import open_pty
from fota_transport.trace import parse as parse_trace

MCUID: Final = "0001000000000000000000000"
UNSEALED_MCUID: Final = "0001000000000000000000001"
UNKNOWN_MCUID: Final = "0001999999999999999999999"
IMAGE: Final = fota_fixtures.path("blink_1.s19")
EXAMPLES: Final = Path(__file__).parents[2] / "conformance" / "fota_conformance" / "examples"
PAGE: Final = Path(__file__).parents[2] / "docs" / "bench.md"
SIGNALS: Final = "## How a board sees the close"
NO_DEFAULT: Final = "\N{EN DASH}"
PATIENCE_S: Final = 60.0
"""Seconds for whatever must come; starting Python takes most of them on a busy machine."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server that knows two boards."""
    folder = tmp_path_factory.mktemp("server")
    registry = folder / "devices.txt"
    registry.write_text(f"{MCUID},blink_1.s19,1A\n{UNSEALED_MCUID},blink_1_unsealed.s19,2\n")
    options = ["--host", "127.0.0.1", "--port", "0", "--registry", str(registry), "--grace", "0.5"]
    options += ["--firmware", str(IMAGE.parent), "--logs", str(folder / "logs")]
    with ServerProcess(options, folder) as process:
        yield f"{process.host}:{process.port}"


@pytest.fixture
def closed_port() -> str:
    """An address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


def board(folder: Path, mcuid: str, *options: str) -> str:
    """The command of a virtual board that keeps its flash in `folder`."""
    words = [sys.executable, "-m", "fota_cli", "board", "--pty", "{port}", "--kind", "fota", "--mcuid", mcuid]
    return shlex.join([*words, "--flash", str(folder / "flash.bin"), *options])


def relay(folder: Path, server: str, command: str, *options: str) -> tuple[int, dict[str, Any]]:
    """One session of that board, through a relay in a process of its own: the exit code and the summary."""
    words = [sys.executable, "-m", "fota_cli", "hil", "relay", "--serial", str(folder / "board"), "--server", server]
    words += ["--board", command, "--once", "--json", str(folder / "relay.json"), *options]
    done = subprocess.run(words, cwd=folder, timeout=PATIENCE_S, check=False)
    summary: dict[str, Any] = json.loads((folder / "relay.json").read_text())
    return done.returncode, summary


@pytest.mark.parametrize("newline", ["none", "lf", "crlf"])
@pytest.mark.parametrize("strips", [[], ["--strip-crlf"]], ids=["unaltered", "stripped"])
def test_a_board_is_updated_over_its_uart(tmp_path: Path, server: str, newline: str, strips: list[str]) -> None:
    """Every byte of the image is in the board's flash, and the relay says that the server ended an acked update."""
    said = ["--newline", newline, "--boot-text", "ROM 1.0 support@example\r\n"]
    code, summary = relay(tmp_path, server, board(tmp_path, MCUID, *said), *strips)
    (session,) = summary["sessions"]
    image = bincopy.BinFile(str(IMAGE))
    flash = (tmp_path / "flash.bin").read_bytes()

    assert (0, "updated", "server closed") == (code, summary["outcome"], session["ended"])
    assert (86, True, "1A", MCUID) == tuple(session[k] for k in ("records", "end_acked", "version", "identification"))
    assert all(flash[s.address : s.address + len(s.data)] == s.data for s in image.segments)


def test_a_trace_tells_the_whole_update(tmp_path: Path, server: str) -> None:
    """The trace is in the one trace format, has the image as it went over the line, and says what every chunk means."""
    relay(tmp_path, server, board(tmp_path, MCUID), "--trace", str(tmp_path / "relay.txt"))
    text = (tmp_path / "relay.txt").read_text()
    received = b"".join(entry.data for entry in parse_trace(text) if entry.direction.value == "<-")
    records = IMAGE.read_bytes().split()

    assert b"@4#" + b"".join(r for r in records if r[:2] in (b"S1", b"S2", b"S3")) + b"@1A##" == received
    assert [1, 1, 1] == [text.count(f"#  {note}\n") for note in ("allowed", "ack of record 86", "ack of the end frame")]


def test_a_trace_goes_on_behind_what_standard_output_has(tmp_path: Path, server: str) -> None:
    """`--trace /dev/stdout >> file` takes nothing of the file away."""
    words = [sys.executable, "-m", "fota_cli", "hil", "relay", "--serial", str(tmp_path / "board"), "--server", server]
    words += ["--board", board(tmp_path, MCUID), "--once", "--trace", "/dev/stdout"]
    (tmp_path / "out").write_text("before\n")
    with (tmp_path / "out").open("ab") as out:
        done = subprocess.run(words, cwd=tmp_path, stdout=out, timeout=PATIENCE_S, check=False)
    text = (tmp_path / "out").read_text()

    assert (0, True, 1) == (done.returncode, text.startswith("before\n# "), text.count("#  ack of the end frame\n"))


@pytest.mark.parametrize(
    ("mcuid", "outcome", "ended"),
    [(UNKNOWN_MCUID, "refused", "server closed"), (UNSEALED_MCUID, "failed", "new identification")],
)
def test_a_session_that_did_not_update_ends_with_1(
    tmp_path: Path, server: str, mcuid: str, outcome: str, ended: str
) -> None:
    """A refusal, and a board that refuses its image and begins anew, are told apart; the latter acks no end frame."""
    code, summary = relay(tmp_path, server, board(tmp_path, mcuid, "--retry", "0.2"))
    (session,) = summary["sessions"]

    assert (1, outcome, ended, False) == (code, summary["outcome"], session["ended"], session["end_acked"])


def test_a_server_that_cannot_be_reached_ends_with_3(tmp_path: Path, closed_port: str) -> None:
    """After the attempts that were asked for, the relay says so."""
    code, summary = relay(tmp_path, closed_port, board(tmp_path, MCUID), "--dial-retries", "1")

    assert (3, "not connected") == (code, summary["sessions"][0]["ended"])
    assert summary["reason"].startswith("2 attempts to connect to ")


def test_a_relay_runs_until_it_is_told_to_end(tmp_path: Path, server: str) -> None:
    """SIGTERM ends it, and its board, in order: the summary has the session that there was, the exit code is 0."""
    words = [sys.executable, "-m", "fota_cli", "hil", "relay", "--serial", "board", "--server", server]
    words += ["--board", board(tmp_path, MCUID), "--json", "relay.json"]
    with subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if "server closed" in line:
                process.send_signal(signal.SIGTERM)
        code = process.wait(PATIENCE_S)

    assert (0, 1) == (code, json.loads((tmp_path / "relay.json").read_text())["ok"])
    assert f"fota: {MCUID}: updated after 86 records, end frame 1A acked; the server closed" in "".join(lines)
    assert not (tmp_path / "board").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_reset_command_that_hangs_does_not_hold_up_the_end(tmp_path: Path, server: str, number: int) -> None:
    """It has two seconds from the signal, and is ended then; the exit code is as ever."""
    words = [sys.executable, "-m", "fota_cli", "hil", "relay", "--serial", "board", "--server", server]
    words += ["--board", board(tmp_path, UNKNOWN_MCUID), "--on-close", "reset"]
    words += ["--reset", "sh -c 'echo $$ > pid.part; mv pid.part pid; exec sleep 600'"]
    with subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + PATIENCE_S
        while not (tmp_path / "pid").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(number)
        _, said = process.communicate(timeout=PATIENCE_S)

    assert 1 == process.returncode
    assert "the board was not told: " in said
    assert "did not end within 2 s of the order to stop" in said
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_a_board_that_is_there_already_is_found_by_its_path(tmp_path: Path, server: str) -> None:
    """What a board said before the relay opened its port is not lost, and two sessions are carried in turn."""
    port = tmp_path / "board"
    words = shlex.split(board(tmp_path, UNKNOWN_MCUID, "--retry", "0.2").replace("{port}", str(port)))
    with subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.DEVNULL) as virtual:
        deadline = time.monotonic() + PATIENCE_S
        while not port.exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        code = main(["hil", "relay", "--serial", str(port), "--server", server, "--sessions", "2"])
        virtual.terminate()

    assert 1 == code


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--serial", ""], "serial port '': empty, expected its name"),
        (["--serial", "morse://x"], "protocol 'morse' not known; expected a port"),
        (["--server", "nowhere"], "server 'nowhere', expected HOST:PORT"),
        (["--baud", "0"], "0 baud, expected 1 to 4000000"),
        (["--idle", "0"], "idle 0, expected more than 0"),
        (["--idle", "nan"], "idle nan, expected more than 0"),
        (["--dial-retries", "-1"], "expected 0 to 1000"),
        (["--sessions", "0"], "expected 1 to 1000000"),
        (["--sessions", "2", "--once"], "no --once beside it"),
        (["--reopen", "soon"], "--reopen 'soon', expected 0 to 86400 s, or never"),
        (["--on-close", "shout"], "--on-close: 'shout', expected none, text=…, break, dtr, rts or reset"),
        (["--on-close", r"text=\q"], r"--on-close: escape \q, expected"),
        (["--on-close", "reset"], "--on-close reset needs --reset CMD"),
        (["--reset", "true"], "--reset is for nothing else"),
        (["--on-close", "reset", "--reset", "a 'b"], "--reset: command"),
        (["--board", "run {speed}"], "--board: command 'run {speed}': {speed}, expected one of {baud}"),
        (["--json", "/no/such/folder/x"], "cannot write /no/such/folder/x"),
        (["--trace", "/no/such/folder/x"], "cannot write /no/such/folder/x"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], options: list[str], complaint: str
) -> None:
    """Nothing is opened, and the message says what was expected."""
    words = ["hil", "relay", "--serial", "/dev/no-such-port", "--server", "127.0.0.1:4000"]

    assert 2 == main([*words, *options])
    error = capsys.readouterr().err
    assert complaint in error
    assert 1 == len([line for line in error.splitlines() if not line.startswith("fota: relay: ")])


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--serial", "/dev/no-such-port"], "there is no such port. Is the board plugged in?"),
        (["--serial", "/dev/null"], "is no serial port"),
        (["--serial", "./board", "--board", "no-such-program"], "the board's command cannot be run"),
        (["--serial", "./board", "--board", "false"], "the board's command ended with exit code 1"),
    ],
)
def test_a_port_that_cannot_be_had_is_one_line_and_exit_code_3(
    capfd: pytest.CaptureFixture[str], options: list[str], complaint: str
) -> None:
    """The message says what to do, and the summary why there was no session."""
    assert 3 == main(["hil", "relay", "--server", "127.0.0.1:4000", "--json", "-", *options])
    printed, error = capfd.readouterr()
    assert complaint in error
    assert complaint in json.loads(printed)["trouble"]
    assert 1 == len([line for line in error.splitlines() if not line.startswith("fota: relay: ")])


def test_a_relay_that_waits_for_its_board_can_be_ended(tmp_path: Path) -> None:
    """The board's command has not made its port yet, and never will."""
    begun = tmp_path / "begun"
    words = [sys.executable, "-m", "fota_cli", "hil", "relay", "--serial", str(tmp_path / "board")]
    words += ["--server", "127.0.0.1:4000", "--board", f"sh -c 'touch {begun}; exec sleep 600'"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + PATIENCE_S
        while not begun.exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=PATIENCE_S)

    assert 0 == process.returncode, said
    assert "did not make it" not in said


def test_a_port_in_use_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    """Two relays do not share a board."""
    master, slave = open_pty()
    with master, slave, contextlib.closing(os.fdopen(os.open(slave.path, os.O_RDWR | os.O_NOCTTY), "rb")) as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        code = main(["hil", "relay", "--serial", slave.path, "--server", "127.0.0.1:4000"])

    assert 3 == code
    assert "in use" in capsys.readouterr().err


def table(heading: str) -> list[list[str]]:
    """The rows of the first table under a heading of the bench's page."""
    lines = PAGE.read_text(encoding="utf-8").partition(f"\n{heading}\n")[2].splitlines()
    begin = next(at for at, line in enumerate(lines) if line.startswith("| --- "))
    rows = itertools.takewhile(lambda line: line.startswith("| "), lines[begin + 1 :])
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def keys(heading: str) -> list[str]:
    """The first column of that table."""
    return [key for row in table(heading) for key in re.findall(r"`([^`]+)`", row[0])]


def test_page_lists_every_option_with_its_default() -> None:
    """The table of options is the parser's: every name in its order, every default."""
    parser = argparse.ArgumentParser()
    configure(parser)
    (actions,) = (action.choices for action in parser._actions if isinstance(action.choices, dict))
    offered = {}
    for action in actions["relay"]._actions:
        stated = re.search(r"\(default: (.*)\)", action.help or "")
        if action.dest != "help":
            offered[f"`{action.option_strings[0]}`"] = stated[1] if stated else NO_DEFAULT

    assert offered == {row[0]: row[1] for row in table("## Options of relay")}


def test_page_lists_every_key_of_the_summary(tmp_path: Path, closed_port: str) -> None:
    """The keys of the JSON summary and of its sessions are documented, in their order."""
    _, summary = relay(tmp_path, closed_port, board(tmp_path, MCUID), "--dial-retries", "0")

    assert list(summary) == keys("## The summary")
    assert list(summary["sessions"][0]) == keys("A session has\n")


def test_page_lists_every_signal_and_every_end() -> None:
    """What --on-close takes, and what may be said of a session's end."""
    text = PAGE.read_text(encoding="utf-8")

    assert [kind.value for kind in SignalKind] == [key.removesuffix("=…") for key in keys(SIGNALS)]
    assert ", ".join(f"`{ended.value}`" for ended in Ended) in text


def test_the_kit_judges_a_board_through_the_relay(tmp_path: Path) -> None:
    """The example target works as it is: updates, a refusal, a wrong seal and power cuts of a virtual board pass."""
    cases = [
        "test_first_update",
        "test_update_byte_by_byte",
        "test_denied_device_says_refused",
        "test_power_cut_at_the_end_frame",
        "test_wrong_seal_is_not_accepted",
        "test_unanswered_device_gives_up",
    ]
    words = [sys.executable, "-m", "fota_cli", "conformance", "run", "--target", str(EXAMPLES / "board_by_relay.toml")]
    words += ["-k", " or ".join(cases), "-n", "2", "--json", str(tmp_path / "results.json")]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    found = json.loads((tmp_path / "results.json").read_text())["cases"]

    assert 0 == done.returncode, done.stdout + done.stderr
    assert {"PASS"} == {case["verdict"] for case in found}
    assert set(cases) == {case["id"].partition("::")[2].partition("[")[0] for case in found}
