"""`fota board` as a process: programmed by a master of another kin, reset, unplugged, killed, and told nonsense.

The master here is written from a description of the field's programmer, with `os` and `termios` alone. It knows nothing
of our product, and has the manners of the original: it flushes, takes 500 ms for silence, echoes what announced the
board, sends holes as 00, and closes without reading the reply to its quit.
"""

import argparse
import contextlib
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import termios
import time
import tty
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

import fota_fixtures
from fota_cli.commands import board as board_command
from fota_cli.compose.server_process import ServerProcess
from fota_cli.main import main
from fota_transport.trace import parse as parse_trace

ROOT: Final = Path(__file__).parents[2]
PATIENCE_S: Final = 30.0
"""Seconds for whatever must come; starting Python takes most of them on a busy machine."""

IMAGE: Final = fota_fixtures.path("blink_1.s19")
OTHER: Final = fota_fixtures.path("blink_2.s19")
MCUID: Final = "0001000000000000000000000"
PAGE: Final = 128


def crc16(data: bytes) -> bytes:
    """CRC-16/CCITT-FALSE."""
    crc = 0xFFFF
    for byte in data:
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1) ^ (0x1021 if crc & 0x8000 else 0)
        crc &= 0xFFFF
    return crc.to_bytes(2, "big")


def bytes_of(image: Path) -> dict[int, int]:
    """The bytes of an S-record file by their addresses."""
    found = {}
    for line in image.read_text().split():
        if line[1] in "123":
            width = 2 * (int(line[1]) + 1)
            start = int(line[4 : 4 + width], 16)
            for offset, byte in enumerate(bytes.fromhex(line[4 + width : -2])):
                found[start + offset] = byte
    return found


def crc_of(image: Path) -> str:
    """The image CRC by the manifest."""
    facts = fota_fixtures.fixture(image.name).image
    assert facts is not None
    return f"{facts.crc32:08X}"


class Programmer:
    """A master of the serial bootloader on the port at `path`; every failure is an `AssertionError`."""

    def __init__(self, path: Path, speed: int = termios.B9600) -> None:
        self.port = os.open(path, os.O_RDWR | os.O_NOCTTY)
        attributes: list[Any] = [termios.IGNBRK, 0, termios.CS8 | termios.CREAD | termios.CLOCAL, 0, speed, speed]
        controls = [b"\0"] * len(termios.tcgetattr(self.port)[6])
        controls[termios.VMIN], controls[termios.VTIME] = b"\0", b"\5"
        termios.tcsetattr(self.port, termios.TCSANOW, [*attributes, controls])
        termios.tcflush(self.port, termios.TCIOFLUSH)

    def __enter__(self) -> "Programmer":
        return self

    def __exit__(self, *exc_info: object) -> None:
        os.close(self.port)

    def read(self, size: int, patience: int = 1) -> bytes:
        """So many bytes, each read with the time-out of the port; a read may time out `patience` times."""
        out = b""
        while len(out) < size:
            piece = os.read(self.port, size - len(out))
            patience -= not piece
            if not patience:
                break
            out += piece
        return out

    def send(self, data: bytes) -> None:
        """Write it and let it go out."""
        assert len(data) == os.write(self.port, data)
        termios.tcdrain(self.port)

    def hook(self) -> None:
        """Wait for an announcement, echo it, and calibrate the board if it is silent."""
        announced = self.read(1, patience=20)
        assert announced
        assert announced[0] in (0xFF, 0xFE, 0xFC, 0xF8, 0xF0, 0xE0, 0xC0, 0x80)
        self.send(announced)
        for _ in range(21):
            answer = self.read(1)
            if answer == b"\xfc":
                return
            if not answer:
                termios.tcsendbreak(self.port, 0)
        raise AssertionError("no answer to the hook")

    def ident(self) -> tuple[int, int, int]:
        """First and last address of the flash, and the size of a sector."""
        termios.tcflush(self.port, termios.TCIOFLUSH)
        self.send(b"I")
        body = self.read(31)
        while not body.endswith(b"\0") or len(body) == 31:
            body += self.read(1)
        assert crc16(b"I" + body) == self.read(2)
        assert 0xC8 == body[0]
        assert 1 == int.from_bytes(body[3:7], "big")
        return (
            int.from_bytes(body[7:11], "big"),
            int.from_bytes(body[11:15], "big"),
            int.from_bytes(body[23:27], "big"),
        )

    def request(self, text: bytes, size: int) -> bytes:
        """Send it with its CRC; returns the reply without its CRC."""
        self.send(text + crc16(text))
        reply = self.read(1, patience=11) + self.read(size + 1)
        assert crc16(reply[:-2]) == reply[-2:]
        return reply[:-2]

    def program(self, image: Path) -> None:
        """Erase all, write and read back page by page, quit and do not wait for an answer."""
        memory = bytes_of(image)
        first, last, sector = self.ident()
        for address in range(first, last, sector):
            assert b"\xfc" == self.request(b"E" + address.to_bytes(4, "big"), 1), hex(address)
        for page in range(min(memory) // PAGE * PAGE, max(memory) + 1, PAGE):
            present = [address for address in range(page, page + PAGE) if address in memory]
            if present:
                start, end = present[0], present[-1] + 1
                data = bytes(memory.get(address, 0) for address in range(start, end))
                head = start.to_bytes(4, "big") + bytes([len(data)])
                assert b"\xfc" == self.request(b"W" + head + data, 1), hex(start)
                assert data == self.request(b"R" + head, len(data)), hex(start)
        self.send(b"Q" + crc16(b"Q"))


class Board:
    """A process that is a board, and where its port is."""

    def __init__(self, process: "subprocess.Popen[bytes]", path: Path, log: Path) -> None:
        self.process = process
        self.path = path
        self.log = log
        self.ready: dict[str, Any] = {}

    def said(self, text: str) -> str:
        """What it said on standard error, once that has the text."""
        until = time.monotonic() + PATIENCE_S
        while text not in (found := self.log.read_text()):
            assert time.monotonic() < until, f"{text!r} not in {found!r}"
            time.sleep(0.01)
        return found

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def stopped(self) -> int:
        """End it; returns its exit code."""
        self.signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_S)


@contextlib.contextmanager
def running(folder: Path, *options: str, name: str = "port") -> Iterator[Board]:
    """A board whose port is `name` in a folder."""
    path, log = folder / name, folder / f"{name}.log"
    command = [sys.executable, "-m", "fota_cli", "board", "--pty", str(path), *options]
    with log.open("wb") as errors, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors) as process:
        board = Board(process, path, log)
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, log.read_text()
            board.ready = json.loads(line)
            yield board
        finally:
            process.kill()


@contextlib.contextmanager
def opened(path: Path) -> Iterator[int]:
    """A raw descriptor of a port."""
    descriptor = os.open(path, os.O_RDWR | os.O_NOCTTY)
    try:
        tty.setraw(descriptor, termios.TCSANOW)  # what waits there is not thrown away
        yield descriptor
    finally:
        os.close(descriptor)


def read_until(descriptor: int, text: bytes) -> bytes:
    """What came, once that ends in the text."""
    out = b""
    until = time.monotonic() + PATIENCE_S
    while not out.endswith(text):
        assert time.monotonic() < until, out
        if select.select([descriptor], [], [], 0.1)[0]:
            out += os.read(descriptor, 1)
    return out


def flash_of(dump: Path, image: Path, hole: int) -> tuple[bytes, bytes]:
    """What a dump of all the flash holds where an image is, and what it should."""
    memory = bytes_of(image)
    start, end = min(memory), max(memory) + 1
    return dump.read_bytes()[start:end], bytes(memory.get(address, hole) for address in range(start, end))


@pytest.mark.parametrize("image", [IMAGE, OTHER], ids=lambda image: image.name)
def test_programmer_of_another_kin_programs_a_board(tmp_path: Path, image: Path) -> None:
    """Hook, ident, erase, write, read back, quit and close; the application starts, and the board ends as told."""
    dump = tmp_path / "flash.bin"
    with running(tmp_path, "--once", "--dump", str(dump)) as board:
        with Programmer(board.path) as programmer:
            programmer.hook()
            programmer.program(image)
        code = board.process.wait(PATIENCE_S)
        said = board.log.read_text()

    found, expected = flash_of(dump, image, 0x00)
    assert (0, expected) == (code, found)
    assert "fota: board: application" in said
    assert not board.path.is_symlink()


def test_programmer_does_not_mind_the_rate(tmp_path: Path) -> None:
    """Nor flash times, nor which of the two parts it is."""
    dump = tmp_path / "flash.bin"
    options = ["--baud", "115200", "--flash-times", "typical", "--part", "MK60FN1M0", "--dump", str(dump)]
    with running(tmp_path, *options, "--once") as board:
        with Programmer(board.path, termios.B115200) as programmer:
            programmer.hook()
            programmer.program(IMAGE)
        code = board.process.wait(PATIENCE_S)

    found, expected = flash_of(dump, IMAGE, 0x00)
    assert (0, expected) == (code, found)


def test_board_is_ready_when_it_says_so(tmp_path: Path) -> None:
    """One line of JSON with port and process; nothing else on standard output."""
    with running(tmp_path, "--pin", "held") as board:
        ready = board.ready
        with opened(board.path) as port:
            read_until(port, b"\xfc")
        code = board.stopped()
        assert board.process.stdout is not None
        rest = board.process.stdout.read()

    assert ("ready", str(board.path), board.process.pid) == (ready["event"], ready["port"], ready["pid"])
    assert ("an2295", "MK60DN512", 0) == (ready["kind"], ready["part"], ready["seed"])
    assert (0, b"") == (code, rest)
    assert not board.path.is_symlink()


def test_quit_is_answered_and_followed_by_the_banner(tmp_path: Path) -> None:
    """Whoever opens the port later still finds both."""
    with running(tmp_path, "--banner", "running {part}, {crc}\\r\\n", "--application", str(IMAGE)) as board:
        with Programmer(board.path) as programmer:
            programmer.hook()
            programmer.send(b"Q\xab\x24")
        with opened(board.path) as port:
            heard = read_until(port, b"\r\n")

    assert b"\xfc\xcf\x63running MK60DN512, %s\r\n" % crc_of(IMAGE).encode() == heard


def test_signals_press_the_button_and_pull_the_power(tmp_path: Path) -> None:
    """SIGUSR2 starts the application, SIGUSR1 its bootloader, whatever ran."""
    with running(tmp_path, "--pin", "held", "--application", str(IMAGE)) as board:
        board.said("bootloader")
        with opened(board.path) as port:
            board.signal(signal.SIGUSR2)
            read_until(port, f"{crc_of(IMAGE)}\r\n".encode())
            board.signal(signal.SIGUSR1)
            read_until(port, b"\xfc")

        said = board.log.read_text().splitlines()

    began = [line.removeprefix("fota: board: ") for line in said]
    assert ["bootloader", "power off", f"application {crc_of(IMAGE)}", "bootloader"] == began


def test_orders_come_by_echo(tmp_path: Path) -> None:
    """What was ordered before a byte was sent is done before it is heard; nonsense is a line, and no more."""
    control = tmp_path / "control"
    with running(tmp_path, "--pin", "held", "--application", str(IMAGE), "--control", str(control)) as board:
        with Programmer(board.path) as programmer:
            programmer.hook()
            subprocess.run(["sh", "-c", f"echo explode > {control}; echo pin released > {control}"], check=True)
            programmer.send(b"Q\xab\x24")
        started = board.said("application")
        subprocess.run(["sh", "-c", f"echo enter > {control}"], check=True)
        with Programmer(board.path) as programmer:
            programmer.hook()
        board.stopped()

    assert "fota: order 'explode', expected one of reset" in started
    assert not control.exists()


def test_board_that_is_unplugged_comes_back_under_the_same_name(tmp_path: Path) -> None:
    """Its client is hung up on; with the plug back, it can be programmed."""
    with running(tmp_path, "--unplug-at", "200", "--replug-after", "0.3") as board:
        with Programmer(board.path) as programmer:
            programmer.hook()
            with pytest.raises((OSError, AssertionError)):
                programmer.program(IMAGE)
        board.said("unplugged")
        board.said("plugged in")
        board.signal(signal.SIGUSR1)
        with Programmer(board.path) as programmer:
            programmer.hook()
            programmer.program(IMAGE)
        board.said("application")


def test_flash_survives_a_board_that_is_killed(tmp_path: Path) -> None:
    """The link that it leaves is replaced; what was programmed is there, in a file and on the next board."""
    flash = tmp_path / "flash.bin"
    memory = bytes_of(IMAGE)
    with running(tmp_path, "--flash", str(flash)) as board:
        with Programmer(board.path) as programmer:
            programmer.hook()
            programmer.program(IMAGE)
        board.said("application")
        board.process.kill()
        board.process.wait(PATIENCE_S)
        left = board.path.is_symlink()

    with running(tmp_path, "--flash", str(flash), "--pin", "held") as board, Programmer(board.path) as programmer:
        programmer.hook()
        found = programmer.request(b"R" + min(memory).to_bytes(4, "big") + b"\x10", 16)

    assert left
    assert bytes(memory[min(memory) + offset] for offset in range(16)) == found
    assert 512 * 1024 == flash.stat().st_size


def test_client_at_another_rate_gets_garbage_where_that_is_asked_for(tmp_path: Path) -> None:
    """And is understood at the right one."""
    with running(tmp_path, "--baud", "9600", "--strict-baud", "--seed", "3") as board:
        with Programmer(board.path, termios.B115200) as wrong:
            announced = wrong.read(8, patience=20)
        with Programmer(board.path, termios.B9600) as right:
            right.hook()
            first, *_ = right.ident()

    assert announced
    assert b"\xfc" * len(announced) != announced
    assert 0x4000 == first


def test_faults_have_a_seed_that_is_printed(tmp_path: Path) -> None:
    """And bytes that were altered are counted."""
    with running(tmp_path, "--faults", "in:drop@2", "--seed", "7", "--pin", "held") as board:
        with Programmer(board.path) as programmer:
            programmer.hook()
            programmer.send(b"\xfc")
            lost = programmer.read(1)
            programmer.send(b"\xfc")
            heard = programmer.read(1)
        board.stopped()
        said = board.log.read_text()

    assert (b"", b"\xfc") == (lost, heard)
    assert "fota: faults of the line drawn from seed 7" in said
    assert "fota: 1 bytes were altered on the line" in said


def test_transcript_and_events_tell_what_happened(tmp_path: Path) -> None:
    """Bytes with their times, and what the flash did."""
    transcript, events = tmp_path / "line.txt", tmp_path / "events.json"
    with running(tmp_path, "--transcript", str(transcript), "--events", str(events)) as board:
        with Programmer(board.path) as programmer:
            programmer.hook()
            programmer.request(b"E\x00\x00\x40\x00", 1)
        board.stopped()

    passed = [(entry.direction.value, entry.data) for entry in parse_trace(transcript.read_text())]
    kinds = [(event["kind"], event.get("command")) for event in json.loads(events.read_text())["events"]]
    assert [("<-", b"E\x00\x00\x40\x00\x2e\xff"), ("->", b"\xfc\xcf\x63")] == passed[-2:]
    assert ("flash", "erase_sector") == kinds[-1]
    assert ("reset", None) in kinds


def test_power_that_fails_in_an_erase_is_back(tmp_path: Path) -> None:
    """The board that was cut announces itself again, and can be programmed."""
    with running(tmp_path, "--cut", "command:100:torn", "--pin", "held") as board:
        with Programmer(board.path) as programmer:
            programmer.hook()
            with pytest.raises(AssertionError):
                programmer.program(IMAGE)
            programmer.hook()
            programmer.program(IMAGE)
        said = board.log.read_text()

    assert "fota: board: power off: during flash command 100" in said


@pytest.mark.parametrize(("newline", "behind"), [("none", b""), ("crlf", b"\r\n")])
def test_board_of_the_other_kind_asks_for_its_update(tmp_path: Path, newline: str, behind: bytes) -> None:
    """Boot text, identification, an ack for each frame, and the application's banner; refused, it asks again."""
    frames = [line for line in IMAGE.read_bytes().split() if line[1:2] in b"123"]
    options = ["--kind", "fota", "--newline", newline, "--boot-text", "boot\\n", "--retry", "0.1", "--once"]
    with running(tmp_path, *options) as board, opened(board.path) as port:
        asked = read_until(port, b"#" + behind)
        os.write(port, b"@0#")
        again = read_until(port, b"#" + behind)
        acks = []
        for frame in (b"@4#", *frames, b"@1A##"):
            os.write(port, frame)
            acks.append(read_until(port, b"@" + behind))
        banner = read_until(port, b"\r\n")
        code = board.process.wait(PATIENCE_S)

    assert (b"boot\n@%s#" % MCUID.encode() + behind, b"@%s#" % MCUID.encode() + behind) == (asked, again)
    assert {b"@" + behind} == set(acks)
    assert (b"MK60DN512 application %s\r\n" % crc_of(IMAGE).encode(), 0) == (banner, code)


def test_board_of_the_other_kind_is_updated_by_a_server(tmp_path: Path) -> None:
    """Its bytes carried to `fota serve` and back, nothing altered."""
    registry = tmp_path / "devices.txt"
    registry.write_text(f"{MCUID},blink_1.s19,1A\n")
    options = ["--host", "127.0.0.1", "--port", "0", "--registry", str(registry)]
    options += ["--firmware", str(IMAGE.parent), "--logs", str(tmp_path / "logs")]
    dump = tmp_path / "flash.bin"
    with (
        ServerProcess(options, tmp_path) as server,
        running(tmp_path, "--kind", "fota", "--baud", "115200", "--once", "--dump", str(dump)) as board,
        opened(board.path) as port,
        socket.create_connection((server.host, server.port), PATIENCE_S) as connection,
    ):
        until = time.monotonic() + PATIENCE_S
        while board.process.poll() is None:
            assert time.monotonic() < until
            readable, _, _ = select.select([port, connection.fileno()], [], [], 0.1)
            with contextlib.suppress(OSError):  # the board has hung up
                if port in readable:
                    connection.sendall(os.read(port, 4096))
                if connection.fileno() in readable:
                    os.write(port, connection.recv(4096))
        code = board.process.returncode

    found, expected = flash_of(dump, IMAGE, 0xFF)
    assert (0, expected) == (code, found)


def test_board_that_was_told_to_end_before_its_application_started_has_failed(tmp_path: Path) -> None:
    """With --once, there was something to wait for."""
    with running(tmp_path, "--once") as board:
        assert 1 == board.stopped()


def test_board_without_a_name_prints_that_of_its_terminal(tmp_path: Path) -> None:
    """It can be opened like any other."""
    command = [sys.executable, "-m", "fota_cli", "board"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        with Programmer(Path(json.loads(process.stdout.readline())["port"])) as programmer:
            programmer.hook()
        process.terminate()
        code = process.wait(PATIENCE_S)

    assert 0 == code


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--pty", ""], "expected the name of a file"),
        (["--pty", "no/such/folder/k60"], "pty no/such/folder/k60: No such file or directory, expected a free name"),
        (["--pty", "README"], "pty README: File exists, expected a free name"),
        (["--control", "README"], "control README: File exists, expected a free name"),
        (["--part", "MK99"], "MK60DN512"),
        (["--baud", "fast"], "expected instant, or 300 to 4000000"),
        (["--baud", "0"], "expected instant, or 300 to 4000000"),
        (["--app-baud", "1"], "--app-baud '1'"),
        (["--strict-baud"], "expected --baud N"),
        (["--faults", "in:melt:1"], "expected WAY:KIND:P"),
        (["--unplug-at", "0"], "expected the number of a byte from 1"),
        (["--replug-after", "1"], "expected both"),
        (["--unplug-at", "1", "--replug-after", "-1"], "expected 0 to 86400 s"),
        (["--cut", "byte:7"], "for bytes there is --unplug-at"),
        (["--cut", "command:0:torn"], "expected command:N:before"),
        (["--sdid", "12345"], "four hexadecimal digits"),
        (["--sdid", "K60"], "four hexadecimal digits"),
        (["--quirk", "protected", "--part", "MK60FN1M0"], "regions of 32768 bytes"),
        (["--banner", "\\x"], "escaped as in Python"),
        (["--banner", "\N{SNOWMAN}"], "--banner"),
        (["--banner", "x" * 1025], "expected at most 1024"),
        (["--mcuid", "12"], "expected it with --kind fota only"),
        (["--kind", "fota", "--pin", "held"], "expected it with --kind an2295 only"),
        (["--kind", "fota", "--mcuid", "xyz"], "MCUID"),
        (["--kind", "fota", "--retry", "0"], "--retry 0"),
        (["--kind", "fota", "--timeout", "nan"], "more than 0"),
        (["--flash", "README"], "expected a file of 524288 bytes"),
        (["--flash", "no/such/folder/flash.bin"], "no/such/folder/flash.bin: No such file or directory"),
        (["--application", "missing.s19"], "missing.s19"),
        (["--application", str(fota_fixtures.path("bad_checksum.s19"))], "line"),
        (["--application", "README", "--flash", "README"], "expected a new flash"),
        (["--dump", "flash.elf"], ".s19"),
        (["--transcript", "no/such/folder/line.txt"], "no/such/folder"),
        (["--events", "no/such/folder/events.txt"], "no/such/folder"),
    ],
)
def test_bad_input_is_a_message_and_exit_code_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    """What came and what was expected, in one line; nothing was made, and nothing is ready."""
    monkeypatch.chdir(tmp_path)
    Path("README").write_text("mine")

    code = main(["board", *arguments])

    printed = capsys.readouterr()
    assert (2, "") == (code, printed.out)
    assert printed.err.startswith("fota: ")
    assert 1 == len(printed.err.splitlines())
    assert message in printed.err
    assert {"README": "mine"} == {path.name: path.read_text() for path in tmp_path.iterdir()}


def test_page_lists_every_option_with_its_default() -> None:
    """The tables of the page are the parser's: every name, every default."""
    parser = argparse.ArgumentParser()
    board_command.configure(parser)
    offered = {}
    for action in parser._actions:
        stated = re.search(r"\(default: (.*)\)", action.help or "")
        if action.dest != "help":
            offered[action.option_strings[0]] = stated[1] if stated else "\N{EN DASH}"

    text = (ROOT / "docs" / "board.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(--[a-z0-9-]+)` \| (.*?) \|", text, flags=re.MULTILINE)

    assert offered == dict(rows)
    assert len(offered) == len(rows)
